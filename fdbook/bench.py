"""`fdbook bench`: how fast this machine runs the book, each number beside what it is compared with in the same run.

Speeds differ from machine to machine, and on a shared one from minute to minute: compare the numbers of one run.
"""

import contextlib
import importlib.metadata
import os
import pkgutil
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fdbook.checks import unknown
from fdbook.report import numbers


__all__ = ["BENCHMARKS", "Row", "run"]

OBSERVATION_DIM, ACTION_DIM = 28, 5
WIDTH, DEPTH, BATCH = 512, 3, 1024
UPDATES = 20
ROUNDS = 7
ROWS = 1_001_000
PRODUCTS = ((2560, 512, 512), (1024, 512, 512))


@dataclass(frozen=True)
class Row:
    """One measurement: what, its value and unit, and the bound it is held to, if there is one."""

    what: str
    value: int | float
    unit: str
    bound: str = ""


def _import_time(modules: str) -> float:
    """Seconds that a new Python takes to import the modules, its own start left out."""
    code = f"import time; start = time.perf_counter(); import {modules}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def measure_import() -> list[Row]:
    """What importing fdbook adds to importing the libraries below it (medians of new processes, in turns)."""
    from fdbook import geometry

    inside = [f"fdbook.geometry.{module.name}" for module in pkgutil.iter_modules(geometry.__path__)]
    libraries = "jax, equinox, diffrax"
    everything = ", ".join([libraries, "fdbook", *inside])
    for modules in (libraries, everything):  # once for the disk
        _import_time(modules)
    turns = [(_import_time(libraries), _import_time(everything)) for _ in range(ROUNDS)]
    below, whole = (statistics.median(column) for column in zip(*turns, strict=True))
    return [
        Row(f"import {libraries}", below, "s"),
        Row("the same, and fdbook with all of fdbook.geometry", whole, "s"),
        Row("added by fdbook", whole - below, "s", "at most 0.5"),
    ]


def _seconds(work: Callable) -> float:
    """How long `work` takes, until its result is there."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def _training():
    """A flow on a robot's dimensions, its data, and the update and state of its training."""
    import jax.numpy as jnp
    import jax.random as jr

    from fdbook.geometry import flow

    field_key, observation_key, action_key = jr.split(jr.key(0), 3)
    field = flow.VelocityField(OBSERVATION_DIM, ACTION_DIM, WIDTH, DEPTH, key=field_key)
    observations = jr.normal(observation_key, (20_000, OBSERVATION_DIM), jnp.float32)
    actions = jr.uniform(action_key, (20_000, ACTION_DIM), jnp.float32, minval=-1.0, maxval=1.0)
    update, state = flow.training(field, steps=UPDATES, batch_size=BATCH, learning_rate=1e-3, decay=0.998)
    return update, state, (observations, actions)


def _update_flops(update, state, data) -> float:
    """Floating-point operations of one update, as XLA counts them (in a loop it would count the body once)."""
    import equinox as eqx
    import jax.random as jr

    compiled = eqx.filter_jit(update).lower(state, data, key=jr.key(0)).compile().compiled
    cost = compiled.cost_analysis()
    return float((cost[0] if isinstance(cost, list) else cost)["flops"])


def _products(shape: tuple[int, int, int], flops: float) -> tuple[Callable, float]:
    """About as many float32 matrix products of the given shape as make up `flops`, one by one, and what they make up."""
    import jax
    import jax.numpy as jnp

    rows, inner, columns = shape
    left, right = jnp.ones((rows, inner), jnp.float32), jnp.ones((inner, columns), jnp.float32)
    multiply, each = jax.jit(jnp.matmul), 2.0 * rows * inner * columns
    times = max(1, round(flops / each))
    return lambda: [jax.block_until_ready(multiply(left, right)) for _ in range(times)], times * each


def measure_flow() -> list[Row]:
    """The rate of flow training, by the loop of `flow.fit`, against as much work in matrix products (best, in turns)."""
    import jax.random as jr

    from fdbook.geometry import loop

    update, state, data = _training()
    flops = _update_flops(update, state, data) * UPDATES

    def train():
        return loop.run(update, state, data, key=jr.key(1), steps=UPDATES, chunk=UPDATES, progress=False)[0]

    works = {"flow": (train, flops)} | {"x".join(map(str, shape)): _products(shape, flops) for shape in PRODUCTS}
    for work, _ in works.values():  # once to compile
        _seconds(work)
    wall, busy = time.perf_counter(), time.process_time()
    turns = [{name: done / _seconds(work) / 1e9 for name, (work, done) in works.items()} for _ in range(ROUNDS)]
    cores = (time.process_time() - busy) / (time.perf_counter() - wall)
    rates = {name: max(turn[name] for turn in turns) for name in works}
    trained = rates.pop("flow")
    return [
        *(Row(f"float32 matrix product {name}", rate, "GFLOP/s") for name, rate in rates.items()),
        Row(f"flow training, width {WIDTH}, depth {DEPTH}, batch {BATCH}", trained, "GFLOP/s"),
        Row("the same, an update", flops / UPDATES / trained / 1e6, "ms"),
        Row("flow training over the faster product", trained / max(rates.values()), "", "at least 0.6"),
        Row("cores that this process was given meanwhile", cores, f"of {os.cpu_count()}"),
    ]


@contextlib.contextmanager
def _compilations():
    """A list that gets one entry for every program that XLA compiles inside the `with` block."""
    import jax

    found, open_ = [], [True]

    def listen(event, duration, **details):
        if open_ and event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        open_.clear()


def measure_compile() -> list[Row]:
    """How many programs are compiled in the first chunk of a training, and after it, a shorter last chunk included."""
    import jax.random as jr

    from fdbook.geometry import loop

    update, state, data = _training()
    chunk, counts = 2, []  # no other measurement has compiled a chunk of this size
    for steps in (chunk, 2 * chunk + 1):
        with _compilations() as found:
            loop.run(update, state, data, key=jr.key(1), steps=steps, chunk=chunk, progress=False)
        counts.append(len(found))
    return [
        Row("programs compiled in the first chunk of a training", counts[0], ""),
        Row("programs compiled after it, a shorter last chunk included", counts[1], "", "0"),
    ]


def _fql():
    """The state and the update of Flow Q-Learning (E16, E17) at width 256 and depth 3, written for its cost alone."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    import optax

    from fdbook.geometry import loop

    keys = jr.split(jr.key(0), 4)
    width = OBSERVATION_DIM + ACTION_DIM
    net = lambda inputs, outputs, key: eqx.nn.MLP(inputs, outputs, 256, 3, jax.nn.gelu, key=key)  # noqa: E731
    critics = eqx.filter_vmap(lambda key: net(width, "scalar", key))(jr.split(keys[2], 2))
    models = (net(width + 1, ACTION_DIM, keys[0]), net(width, ACTION_DIM, keys[1]), critics)
    optimiser = optax.adam(3e-4)

    def value(critics, observations, actions):
        pairs = jnp.concatenate([observations, actions], axis=1)
        return eqx.filter_vmap(lambda critic: jax.vmap(critic)(pairs), in_axes=eqx.if_array(0))(critics)

    def loss(models, target, batch, key):
        flow, actor, critics = models
        z, t, follow = jr.normal(key, batch.actions.shape), jr.uniform(key, (len(batch.rewards), 1)), jr.fold_in(key, 1)

        def velocity(x, t):
            return jax.vmap(flow)(jnp.concatenate([batch.observations, x, t], axis=1))

        flow_loss = jnp.mean((velocity((1 - t) * z + t * batch.actions, t) - (batch.actions - z)) ** 2)
        x = z
        for step in range(10):
            x = x + velocity(x, jnp.full_like(t, step / 10)) / 10
        moved = jax.vmap(actor)(jnp.concatenate([batch.observations, z], axis=1))
        frozen = jax.lax.stop_gradient(eqx.filter(critics, eqx.is_array))
        judged = value(eqx.combine(frozen, critics), batch.observations, moved)
        actor_loss = jnp.mean((moved - jax.lax.stop_gradient(x)) ** 2) - jnp.mean(judged)
        noise = jr.normal(follow, batch.actions.shape)
        after = jax.vmap(actor)(jnp.concatenate([batch.next_observations, noise], axis=1))
        bound = batch.rewards + 0.99 * batch.masks * jnp.mean(value(target, batch.next_observations, after), axis=0)
        errors = value(critics, batch.observations, batch.actions) - jax.lax.stop_gradient(bound)[None]
        return flow_loss + actor_loss + jnp.mean(errors**2)

    def update(state, batch, *, key):
        models, target, moments = state
        loss_, gradient = eqx.filter_value_and_grad(loss)(models, target, batch, key)
        models, moments = loop.descend(optimiser, gradient, moments, models)
        target = jax.tree.map(
            lambda old, new: 0.995 * old + 0.005 * new if eqx.is_array(old) else old, target, models[2]
        )
        return (models, target, moments), {"loss": loss_}

    return update, (models, critics, optimiser.init(eqx.filter(models, eqx.is_inexact_array)))


def measure_data() -> list[Row]:
    """Drawing a batch from a million transitions inside jit, against an update of FQL on that batch (best, in turns)."""
    import jax
    import jax.random as jr
    import numpy as np

    from fdbook.geometry import loop
    from fdbook.rl.transitions import Transitions

    rng, ends = np.random.default_rng(0), np.arange(ROWS) % 1001 == 1000
    ends[-1] = True
    observations = rng.normal(size=(ROWS, OBSERVATION_DIM)).astype(np.float32)
    actions = rng.uniform(-1, 1, (ROWS, ACTION_DIM)).astype(np.float32)
    rewards = np.zeros(ROWS, np.float32)
    data = Transitions.of(observations, actions, rewards, rewards + 1, ends)
    update, state = _fql()
    batch = data.sample(256, key=jr.key(0))

    def draw(total, data, *, key):
        drawn = data.sample(256, key=key)
        return total + sum(leaf.sum() for leaf in jax.tree.leaves(drawn)), {"none": total}

    run = lambda update, state, data, steps: loop.run(  # noqa: E731
        update, state, data, key=jr.key(1), steps=steps, chunk=steps, progress=False
    )[0]
    draws, updates = 50 * UPDATES, UPDATES
    works = {
        "draw": (lambda: run(draw, jax.numpy.float32(0), data, draws), draws),
        "update": (lambda: run(update, state, batch, updates), updates),
    }
    for work, _ in works.values():  # once to compile
        _seconds(work)
    turns = [{name: _seconds(work) / count for name, (work, count) in works.items()} for _ in range(ROUNDS)]
    best = {name: 1e3 * min(turn[name] for turn in turns) for name in works}
    return [
        Row(f"drawing 256 of {data.size:,} transitions, inside jit", best["draw"], "ms"),
        Row("an FQL update on them, width 256, depth 3", best["update"], "ms"),
        Row("drawing over updating", best["draw"] / best["update"], "", "at most 0.03"),
    ]


BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "import": measure_import,
    "flow": measure_flow,
    "compile": measure_compile,
    "data": measure_data,
}


def _about() -> dict:
    import jax

    versions = {package: importlib.metadata.version(package) for package in ("fdbook", "jax", "jaxlib")}
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {"versions": versions, "system": system, "cores": os.cpu_count(), "device": jax.devices()[0].device_kind}


def run(names: Iterable[str] = (), *, json: str | Path | None = None) -> dict[str, list[Row]]:
    """Runs the named benchmarks (all by default), prints a table, and writes it to `json` if that is given.

    Raises ValueError for an unknown name, and OSError, before anything is measured, for a file that cannot be written.
    """
    names = list(dict.fromkeys(names)) or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            raise ValueError(unknown("measurement", name, BENCHMARKS))
    if json is not None:
        numbers.check_writable(Path(json).parent)
    measured = {}
    for name in names:
        measured[name] = BENCHMARKS[name]()
        for row in measured[name]:
            bound = f"  ({row.bound})" if row.bound else ""
            print(f"{name:<8} {row.what:<62} {row.value:>9.4g} {row.unit}{bound}".rstrip(), flush=True)
    if json is not None:
        tree = {"about": _about(), **{name: [asdict(row) for row in rows] for name, rows in measured.items()}}
        numbers.write_whole({Path(json): (numbers.layout(numbers.encode(tree)) + "\n").encode()})
    return measured

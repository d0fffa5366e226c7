"""`fdbook bench`: how fast this machine runs the book, each number beside what it is compared with in the same run.

Speeds differ from machine to machine, and on a shared one from minute to minute: compare the numbers of one run.
"""

import contextlib
import os
import pkgutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fdbook.checks import unknown
from fdbook.report import numbers
from fdbook.rl import records
from fdbook.rl.operations import update_products


__all__ = ["BENCHMARKS", "Row", "run"]

OBSERVATION_DIM, ACTION_DIM = 28, 5
WIDTH, DEPTH, BATCH = 512, 3, 1024
UPDATES = 20
ROUNDS = 7
ROWS = 1_001_000
PAPER, SMALL = (512, 4), (128, 2)
AGENT_UPDATES, LOOP_UPDATES, EVALUATED = 10, 100, 50
PRODUCTS = ((2560, 512, 512), (1024, 512, 512))
METRICS = ("scale", "local", "deblurred")


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

    jitted: Any = eqx.filter_jit(update)
    compiled = jitted.lower(state, data, key=jr.key(0)).compile().compiled
    cost = compiled.cost_analysis()
    return float((cost[0] if isinstance(cost, list) else cost)["flops"])


def _products(shape: tuple[int, int, int], flops: float) -> tuple[Callable, float]:
    """About as many float32 matrix products of the given shape as make up `flops`, one by one, and what they make up."""
    import jax
    import jax.numpy as jnp

    rows, inner, columns = shape
    left, right = jnp.ones((rows, inner), jnp.float32), jnp.ones((inner, columns), jnp.float32)
    multiply, item = jax.jit(jnp.matmul), 2.0 * rows * inner * columns
    times = max(1, round(flops / item))
    return lambda: [jax.block_until_ready(multiply(left, right)) for _ in range(times)], times * item


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

    result, open_ = [], [True]

    def listen(event, duration, **details):
        if open_ and event == "/jax/core/compile/backend_compile_duration":
            result.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield result
    finally:
        open_.clear()


def measure_compile() -> list[Row]:
    """How many programs are compiled in the first chunk of a training, and after it, a shorter last chunk included."""
    import jax.random as jr

    from fdbook.geometry import loop

    update, state, data = _training()
    chunk, counts = 2, []  # no other measurement has compiled a chunk of this size
    for steps in (chunk, 2 * chunk + 1):
        with _compilations() as result:
            loop.run(update, state, data, key=jr.key(1), steps=steps, chunk=chunk, progress=False)
        counts.append(len(result))
    return [
        Row("programs compiled in the first chunk of a training", counts[0], ""),
        Row("programs compiled after it, a shorter last chunk included", counts[1], "", "0"),
    ]


def _rows(size: int):
    """Random transitions with a robot's dimensions."""
    import numpy as np

    from fdbook.rl.transitions import Transitions

    rng, ends = np.random.default_rng(0), np.arange(size) % 1001 == 1000
    ends[-1] = True
    observations = rng.normal(size=(size, OBSERVATION_DIM)).astype(np.float32)
    actions = rng.uniform(-1, 1, (size, ACTION_DIM)).astype(np.float32)
    rewards = np.zeros(size, np.float32)
    return Transitions.of(observations, actions, rewards, rewards + 1, ends)


def _agents(name: str, seeds: int = 1, **settings):
    """An agent's update, and its first state, as `fdbook.rl.train` runs them."""
    import jax.numpy as jnp

    from fdbook.rl import agents, train

    made = train.init(agents.make(name), (OBSERVATION_DIM,), ACTION_DIM, range(seeds), **settings)
    return train.Update(jnp.arange(seeds)), made


def _work(update, state, data, count: int, chunk: int | None = None) -> Callable:
    """`count` updates in dispatches of `chunk`, from a copy of the state, as something to be timed."""
    import jax.random as jr

    from fdbook.geometry import loop

    chunk, key = chunk or count, jr.key(1)

    def work():
        current, metrics = loop.copy(state), {}
        for first in range(0, count, chunk):
            current, metrics = loop.advance(update, current, data, key=key, first=first, count=chunk, chunk=chunk)
        return metrics

    return work


def _best(works: dict[str, Callable], rounds: int) -> dict[str, float]:
    """The shortest time of each work, in turns, after one turn to compile."""
    for work in works.values():
        _seconds(work)
    turns = [{name: _seconds(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: min(turn[name] for turn in turns) for name in works}


def measure_data() -> list[Row]:
    """Drawing a batch from a million transitions inside jit, against an update of FQL at width 256 (best, in turns)."""
    import jax

    data = _rows(ROWS)

    def draw(total, data, *, key):
        drawn = data.sample(256, key=key)
        return total + sum(leaf.sum() for leaf in jax.tree.leaves(drawn)), {"none": total}

    update, state = _agents("fql", width=256, depth=3)
    works = {
        "draw": _work(draw, jax.numpy.float32(0), data, 50 * UPDATES),
        "update": _work(update, state, data, UPDATES),
    }
    best = _best(works, ROUNDS)
    draw_, update_ = 1e3 * best["draw"] / (50 * UPDATES), 1e3 * best["update"] / UPDATES
    return [
        Row(f"drawing 256 of {data.size:,} transitions, inside jit", draw_, "ms"),
        Row("an FQL update on them, width 256, depth 3", update_, "ms"),
        Row("drawing over updating", draw_ / update_, "", "at most 0.03"),
    ]


def measure_agents() -> list[Row]:
    """Updates at the papers' size, FiDec against FQL, both against the rate of matrix products (best, in turns)."""
    from fdbook.geometry import metrics

    data, (width, depth) = _rows(20_020), PAPER
    names = {
        "fql": "an FQL update",
        "fidec": "a FiDec update, 4 actions a state",
        "deflow on next states": "a DeFlow update, its actor on next states",
    }
    sizes = {"width": width, "depth": depth}
    made = {name: _agents(name, **sizes) for name in ("fql", "fidec")}
    made["deflow on next states"] = _agents("deflow", **sizes, actor_states="next")
    made |= {name: _agents("fidec", **sizes, metric=metrics.make(name)) for name in METRICS}
    works: dict[Any, Callable] = {name: _work(*made[name], data, AGENT_UPDATES) for name in made}
    flops: dict[Any, float] = {
        name: AGENT_UPDATES * update_products(name, OBSERVATION_DIM, ACTION_DIM, width, depth) for name in names
    }
    for shape in PRODUCTS:
        works[shape], flops[shape] = _products(shape, flops["fidec"])
    best = _best(works, ROUNDS)
    rates = {name: flops[name] / best[name] / 1e9 for name in flops}
    fastest = max(rates[shape] for shape in PRODUCTS)
    rows = [Row("float32 matrix products, the faster shape", fastest, "GFLOP/s")]
    for name, what in names.items():
        rows.append(Row(f"{what}, width {width}, depth {depth}", 1e3 * best[name] / AGENT_UPDATES, "ms"))
        rows.append(Row("its matrix products over that rate", rates[name] / fastest, "", "at least 0.7"))
    plainly = _update_flops(*made["fidec"], data)
    for name in METRICS:
        rows.append(Row(f"a FiDec update with the metric {name}", 1e3 * best[name] / AGENT_UPDATES, "ms"))
        added = _update_flops(*made[name], data) - plainly
        rows.append(Row("what it computes beyond that with exact scores (E21)", added / 1e9, "GFLOP"))
    rows.append(Row("a FiDec update over an FQL update", best["fidec"] / best["fql"], "", "at most 1.3"))
    light = best["deflow on next states"]
    rows.append(Row("one on next states over an FQL update", light / best["fql"], "", "at most 1.05"))
    return rows


def measure_loop() -> list[Row]:
    """What the scanned loop saves for a heavy update (FiDec) and a light one (BC); what stacked seeds save (best, in turns)."""
    data, width, depth = _rows(20_020), *SMALL
    sizes = {"width": width, "depth": depth}
    single, four, light = (_agents(name, n, **sizes) for name, n in (("fidec", 1), ("fidec", 4), ("bc", 1)))
    works = {
        "fql": _work(*_agents("fql", **sizes), data, LOOP_UPDATES),
        "scanned": _work(*single, data, LOOP_UPDATES),
        "dispatched": _work(*single, data, LOOP_UPDATES, chunk=1),
        "light scanned": _work(*light, data, LOOP_UPDATES),
        "light dispatched": _work(*light, data, LOOP_UPDATES, chunk=1),
        "four": _work(*four, data, LOOP_UPDATES),
    }
    best = {name: 1e3 * seconds / LOOP_UPDATES for name, seconds in _best(works, ROUNDS).items()}
    rows = []
    for what, kind, bound in (("a FiDec update", "", "at least 2"), ("a BC update", "light ", "")):
        scanned, dispatched = best[f"{kind}scanned"], best[f"{kind}dispatched"]
        rows += [
            Row(f"{what}, width {width}, depth {depth}, one of {LOOP_UPDATES} in a dispatch", scanned, "ms"),
            Row("the same, a dispatch each", dispatched, "ms"),
            Row("a dispatch each over one for all", dispatched / scanned, "", bound),
        ]
    return [
        *rows,
        Row("four seeds of FiDec together", best["four"], "ms"),
        Row("four seeds over one", best["four"] / best["scanned"], "", "at most 4.2"),
        Row("a FiDec update over an FQL update, at this size", best["scanned"] / best["fql"], "", "at most 1.3"),
    ]


def measure_evaluation() -> list[Row]:
    """50 episodes of cube-single with a policy of the laptop's size, against as many bare steps of its environment."""
    import numpy as np

    from fdbook import experiment
    from fdbook.data.tasks import find_task
    from fdbook.rl.environments import cores
    from fdbook.rl.evaluate import evaluate

    task = find_task("cube-single-play-singletask")
    agents = _agents("fidec", width=256, depth=3)[1]
    with experiment.environments(task, 1, EVALUATED, workers=0) as get:
        environments = get()
        evaluate(agents, environments, [0], episodes=len(environments))  # once to compile
        start = time.perf_counter()
        result = evaluate(agents, environments, [0], episodes=EVALUATED)
        assert result is not None
        whole = time.perf_counter() - start
        steps, rng = int(result.lengths.sum()), np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32)
        start, over = time.perf_counter(), True
        for action in actions:
            if over:
                environments.reset({0: 0})
            over = environments.step({0: action})[0].over
        bare = time.perf_counter() - start
    workers = max(2, cores() - 2)
    with experiment.environments(task, 1, EVALUATED, workers=workers) as get:
        evaluate(agents, get(), [0], episodes=len(environments))
        start = time.perf_counter()
        again = evaluate(agents, get(), [0], episodes=EVALUATED)
        shared = time.perf_counter() - start
    assert again is not None
    assert np.array_equal(again.returns, result.returns)
    return [
        Row(f"evaluating {EVALUATED} episodes of cube-single, {steps:,} steps", whole, "s"),
        Row("as many bare steps of one environment", bare, "s"),
        Row("evaluating over bare steps", whole / bare, "", "at most 1.5"),
        Row(f"the same evaluation by {workers} processes", shared, "s"),
        Row("that over the one in line", shared / whole, ""),
    ]


BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "import": measure_import,
    "flow": measure_flow,
    "compile": measure_compile,
    "data": measure_data,
    "agents": measure_agents,
    "loop": measure_loop,
    "evaluation": measure_evaluation,
}


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
        tree = {"about": records.about(), **{name: [asdict(row) for row in rows] for name, rows in measured.items()}}
        numbers.write_whole({Path(json): (numbers.layout(numbers.encode(tree)) + "\n").encode()})
    return measured

"""Importing the package, training a flow, and what is compiled meanwhile."""

import os
import pkgutil
import statistics
import subprocess
import sys
import time

from fdbook.bench import timing
from fdbook.bench.timing import ACTION_DIM, OBSERVATION_DIM, Row


__all__ = ["measure_compile", "measure_flow", "measure_import"]

WIDTH, DEPTH, BATCH, UPDATES = 512, 3, 1024, 20


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
    turns = [(_import_time(libraries), _import_time(everything)) for _ in range(timing.ROUNDS)]
    below, whole = (statistics.median(column) for column in zip(*turns, strict=True))
    return [
        Row(f"import {libraries}", below, "s"),
        Row("the same, and fdbook with all of fdbook.geometry", whole, "s"),
        Row("added by fdbook", whole - below, "s", "at most 0.5"),
    ]


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


def measure_flow() -> list[Row]:
    """The rate of flow training, by the loop of `flow.fit`, against as much work in matrix products (best, in turns)."""
    import jax.random as jr

    from fdbook.geometry import loop

    update, state, data = _training()
    flops = timing.update_flops(update, state, data) * UPDATES

    def train():
        return loop.run(update, state, data, key=jr.key(1), steps=UPDATES, chunk=UPDATES, progress=False)[0]

    works = {"flow": (train, flops)} | {
        "x".join(map(str, shape)): timing.products(shape, flops) for shape in timing.PRODUCTS
    }
    for work, _ in works.values():  # once to compile
        timing.seconds(work)
    wall, busy = time.perf_counter(), time.process_time()
    turns = [
        {name: done / timing.seconds(work) / 1e9 for name, (work, done) in works.items()} for _ in range(timing.ROUNDS)
    ]
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


def measure_compile() -> list[Row]:
    """How many programs are compiled in the first chunk of a training, and after it, a shorter last chunk included."""
    import jax.random as jr

    from fdbook.geometry import loop

    update, state, data = _training()
    chunk, counts = 2, []  # no other measurement has compiled a chunk of this size
    for steps in (chunk, 2 * chunk + 1):
        with timing.compilations() as result:
            loop.run(update, state, data, key=jr.key(1), steps=steps, chunk=chunk, progress=False)
        counts.append(len(result))
    return [
        Row("programs compiled in the first chunk of a training", counts[0], ""),
        Row("programs compiled after it, a shorter last chunk included", counts[1], "", "at most 0"),
    ]

"""Seeds side by side, in each precision of matrix products: what an accelerator makes of more of the same work."""

import itertools
import time
from collections.abc import Iterator

from fdbook.bench import timing
from fdbook.bench.agents import LAPTOP, PAPER, SMALL, random_rows, stacked_agents
from fdbook.bench.timing import ACTION_DIM, OBSERVATION_DIM, Row
from fdbook.checks import count as plural
from fdbook.rl.operations import agent_products


__all__ = ["measure_seeds"]

SIZES = {"cpu": (SMALL,), "gpu": (LAPTOP, PAPER)}
"""Width and depth of networks, by JAX's name of the device; another accelerator is taken for a GPU."""
COUNTS = {"cpu": (1, 4), "gpu": (1, 4, 8, 16)}
"""How many seeds are trained side by side."""
AGENTS = ("fql", "fidec")
GOAL = {"cpu": "", "gpu": "at most 1.1"}
UPDATES = {"cpu": 10, "gpu": 250}
"""Updates of a dispatch."""
PRODUCT, REPEATS = {"cpu": 512, "gpu": 8192}, 10
"""Rows of the square matrices whose products stand for the device's rate, and how many are timed together."""


def measure_seeds() -> Iterator[Row]:
    """Updates of FQL and FiDec for several seeds at once, in every precision: time, memory, compilation (best, in turns)."""
    import jax

    from fdbook.rl.precision import PRECISIONS

    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    rates = {precision: _product_rate(precision, PRODUCT[device]) for precision in PRECISIONS}
    yield from (Row(f"matrix products in {name}", rate / 1e9, "GFLOP/s") for name, rate in rates.items())
    for (width, depth), precision, count in itertools.product(SIZES[device], PRECISIONS, COUNTS[device]):
        times, where = {}, f"{plural(count, 'seed')}, {width}x{depth}, {precision}"
        for name in AGENTS:
            measured = _measure(name, count, width, depth, precision, UPDATES[device])
            times[name], compiling, memory, flops = measured
            yield Row(f"{name}, {where}: an update of all", 1e3 * times[name], "ms")
            yield Row(f"{name}, {where}: share of that rate", flops / times[name] / rates[precision], "")
            yield Row(f"{name}, {where}: compiling", compiling, "s")
            yield Row(f"{name}, {where}: memory", memory / 2**20, "MiB")
        yield Row(f"fidec over fql, {where}", times["fidec"] / times["fql"], "", GOAL[device])


def _measure(name: str, count: int, width: int, depth: int, precision: str, updates: int):
    """Seconds of an update of all seeds, seconds of compiling, bytes of the program, operations in its products."""
    import jax.numpy as jnp
    import jax.random as jr

    from fdbook.geometry import loop
    from fdbook.rl import train

    data, (_, state) = random_rows(20_020), stacked_agents(name, count, width=width, depth=depth)
    update = train.Update(jnp.arange(count), precision)
    start = time.perf_counter()
    program = loop.Program(update, state, data, key=jr.key(1), chunk=updates)
    compiling = time.perf_counter() - start

    def work():
        return program(loop.copy(state), 0, updates)

    flops = count * agent_products(*_one(name, width, depth))
    return timing.best({"update": work}, timing.ROUNDS)["update"] / updates, compiling, program.bytes, flops


def _one(name, width, depth):
    """One agent, and a batch of its size, for counting."""
    import jax.numpy as jnp
    import jax.random as jr

    from fdbook.rl import agents
    from fdbook.rl.transitions import Batch

    agent = agents.make(name)((OBSERVATION_DIM,), ACTION_DIM, key=jr.key(0), width=width, depth=depth)
    size = agent.config.batch_size
    seen, actions, scalars = jnp.ones((size, OBSERVATION_DIM)), jnp.ones((size, ACTION_DIM)), jnp.ones(size)
    return agent, Batch(seen, actions, seen, scalars, scalars, actions)


def _product_rate(precision: str, rows: int) -> float:
    """Operations a second of products of square matrices, one after the other in one program."""
    import jax
    import jax.numpy as jnp

    from fdbook.rl.precision import with_matmul_precision

    @jax.jit
    def work(x):
        multiplied = with_matmul_precision(lambda x: jnp.matmul(x, x) / rows, precision)
        return jax.lax.fori_loop(0, REPEATS, lambda i, x: multiplied(x), x)

    x = jnp.ones((rows, rows), jnp.float32)
    return REPEATS * 2.0 * rows**3 / timing.best({"products": lambda: work(x)}, timing.ROUNDS)["products"]

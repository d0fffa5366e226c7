"""How times are taken: rows of a table, the best of turns, operations counted by XLA, and what matrix products take."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import PyTree


__all__ = [
    "ACTION_DIM",
    "OBSERVATION_DIM",
    "PRODUCTS",
    "ROUNDS",
    "Row",
    "best",
    "compilations",
    "products",
    "seconds",
    "update_flops",
]

OBSERVATION_DIM, ACTION_DIM = 28, 5
"""The robot arm's."""
PRODUCTS = ((2560, 512, 512), (1024, 512, 512))
"""Shapes (rows, inner, columns) of the matrix products that rates are compared with."""
ROUNDS = 7
"""Turns of which the best counts."""


@dataclass(frozen=True)
class Row:
    """One measurement: what, its value and unit, and the bound it is held to, as "at most 2" or "at least 2", if there is one."""

    what: str
    value: int | float
    unit: str
    bound: str = ""

    @property
    def missed(self) -> bool:
        """Whether the value lies beyond the bound."""
        if not self.bound:
            return False
        side, _, number = self.bound.rpartition(" ")
        return self.value < float(number) if side == "at least" else self.value > float(number)


def seconds(work: Callable) -> float:
    """How long `work` takes, until its result is there."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def update_flops(update: Callable, state: PyTree, data: PyTree) -> float:
    """Floating-point operations of one update, as XLA counts them (in a loop it would count the body once)."""
    import equinox as eqx
    import jax.random as jr

    jitted: Any = eqx.filter_jit(update)
    compiled = jitted.lower(state, data, key=jr.key(0)).compile().compiled
    cost = compiled.cost_analysis()
    return float((cost[0] if isinstance(cost, list) else cost)["flops"])


def products(shape: tuple[int, int, int], flops: float) -> tuple[Callable, float]:
    """About as many float32 matrix products of the given shape as make up `flops`, one by one, and what they make up."""
    import jax
    import jax.numpy as jnp

    rows, inner, columns = shape
    left, right = jnp.ones((rows, inner), jnp.float32), jnp.ones((inner, columns), jnp.float32)
    multiply, item = jax.jit(jnp.matmul), 2.0 * rows * inner * columns
    times = max(1, round(flops / item))
    return lambda: [jax.block_until_ready(multiply(left, right)) for _ in range(times)], times * item


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
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


def best(works: dict[str, Callable], rounds: int) -> dict[str, float]:
    """The shortest time of each work, in turns, after one turn to compile."""
    for work in works.values():
        seconds(work)
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: min(turn[name] for turn in turns) for name in works}

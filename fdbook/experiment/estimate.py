"""What a run will take, before it is begun: operations that are counted, bytes that are added up, and a rate that is measured."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from fdbook.data.tasks import Task
from fdbook.experiment.spec import RunSpec
from fdbook.geometry import loop
from fdbook.rl import agents, operations
from fdbook.rl import train as engine
from fdbook.rl.transitions import Batch, Transitions


__all__ = ["Estimate", "estimate", "measured_rates"]

ROWS = 2_000
"""Transitions on which a rate is measured."""
PATIENCE = 2.0
"""Seconds for which updates are timed, about."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    operations: float
    """Floating-point operations in the matrix products of all its updates, all seeds together. Evaluations are not counted."""
    agents: int
    """Bytes of networks, target networks and the optimizer's state, all seeds together."""
    data: int | None
    """Bytes of its transitions, and of what an online phase collects, on the device; None where their number is not known."""

    def seconds(self, rate: float) -> float:
        """How long its updates take at a rate in operations a second."""
        return self.operations / rate


def estimate(spec: RunSpec) -> Estimate:
    """Counts what a run will take. Nothing is trained or loaded.

    >>> one, eight = (experiment.RunSpec("cube-single", "bc", seeds=n, config={"width": 64}) for n in (1, 8))
    >>> estimate.estimate(eight).operations / estimate.estimate(one).operations
    8.0
    """
    seeds, shape = len(spec.seeds), _observation(spec)
    fields = {field.name: getattr(spec.config, field.name) for field in dataclasses.fields(spec.config)}
    sizes = tuple((name, value) for name, value in fields.items() if not isinstance(value, float))
    count, held = _of_one_seed(spec.agent, sizes, shape, spec.task.dataset.action)
    return Estimate(spec.total_updates * seeds * count, seeds * held, _data_bytes(spec, shape))


@functools.cache
def _of_one_seed(name: str, sizes: tuple, shape: tuple[int, ...], action: int) -> tuple[float, int]:
    """Operations of an update, and bytes of the agent; numbers that are no sizes, as learning rates, are left as they are."""
    make = agents.make(name)
    agent = eqx.filter_eval_shape(lambda key: make(shape, action, key=key, **dict(sizes)), jr.key(0))
    count = operations.agent_products(agent, _batch(agent.config.batch_size, shape, action))
    arrays = [leaf for leaf in jax.tree.leaves(agent) if isinstance(leaf, jax.ShapeDtypeStruct)]
    return count, sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)


def _observation(spec: RunSpec) -> tuple[int, ...]:
    """The shape of what an agent sees of a task's observations."""
    *picture, last = spec.task.dataset.observation
    return (*picture, last * spec.task.frame_stack) if picture else (last * (1 + 2 * len(spec.wavelengths)),)


def _batch(size: int, shape: tuple[int, ...], action: int) -> Batch:
    seen = jax.ShapeDtypeStruct((size, *shape), jnp.uint8 if len(shape) == 3 else jnp.float32)
    actions, numbers = (jax.ShapeDtypeStruct(dims, jnp.float32) for dims in ((size, action), (size,)))
    return Batch(seen, actions, seen, numbers, numbers, actions)


def _data_bytes(spec: RunSpec, shape: tuple[int, ...]) -> int | None:
    task = spec.task
    episodes = task.dataset.episodes if spec.data.episodes is None else spec.data.episodes
    if episodes is None:
        return None
    seen = int(np.prod(task.dataset.observation)) if task.dataset.pixels else 4 * shape[0]
    others = 4 * task.dataset.action + 4 + 4 + 1  # actions, rewards, masks, ends
    logged = episodes * task.dataset.steps * (seen + others + (8 if task.frame_stack > 1 else 4))  # and numbers of rows
    return logged + len(spec.seeds) * spec.online * (2 * seen + others)


def measured_rates(specs: Sequence[RunSpec]) -> list[float]:
    """For each specification the operations a second of its updates on this device.

    They are measured on random data, once for each width and depth of networks: with the specification whose updates are the
    cheapest.
    """
    costs = [estimate(spec).operations / spec.total_updates for spec in specs]
    sizes = [(spec.config.width, spec.config.depth) for spec in specs]
    rates = {}
    for size in dict.fromkeys(sizes):
        cost, place = min((cost, place) for place, cost in enumerate(costs) if sizes[place] == size)
        rates[size] = cost / _seconds_of_an_update(specs[place])
    return [rates[size] for size in sizes]


def _seconds_of_an_update(spec: RunSpec) -> float:
    shape, task = _observation(spec), spec.task
    config = {field.name: getattr(spec.config, field.name) for field in dataclasses.fields(spec.config)}
    made = engine.init(agents.make(spec.agent), shape, task.dataset.action, spec.seeds, **config)
    data, update = _some_data(task, shape), engine.Update(jnp.asarray(spec.seeds), spec.matmul_precision)
    state, done, options = loop.copy(made), 0, {"key": jr.key(1), "chunk": 10}
    state, _ = loop.advance(update, state, data, first=0, count=1, **options)  # compiles
    start = time.perf_counter()
    while done == 0 or time.perf_counter() - start < PATIENCE:
        state, _ = loop.advance(update, state, data, first=done, count=10, **options)
        done += 10
    return (time.perf_counter() - start) / done


def _some_data(task: Task, shape: tuple[int, ...]) -> Transitions:
    rng, ends = np.random.default_rng(0), np.arange(ROWS) % 100 == 99
    if len(shape) == 3:
        seen: Any = rng.integers(0, 256, (ROWS, *task.dataset.observation), np.uint8)
    else:
        seen = rng.normal(size=(ROWS, *shape)).astype(np.float32)
    actions, zeros = rng.uniform(-1, 1, (ROWS, task.dataset.action)).astype(np.float32), np.zeros(ROWS, np.float32)
    return Transitions.of(seen, actions, zeros, zeros + 1, ends, frame_stack=task.frame_stack)

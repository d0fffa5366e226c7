"""Floating-point operations of an update: what a machine that only multiplies matrices would need for it.

By hand for some agents (`update_products`), and for all of them from the program that JAX traces (`agent_products`).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.random as jr


__all__ = ["FLOW_PASSES", "agent_products", "count_products", "update_products"]

FLOW_PASSES = {"fql": 1, "fidec": 2, "deflow on next states": 1}
"""Batches that an update takes through the flow's Euler steps: for FQL's imitation; for the actor and the target of E16; for
both at once."""


def update_products(
    name: str,
    observation_dim: int,
    action_dim: int,
    width: int,
    depth: int,
    *,
    batch: int = 256,
    steps: int = 10,
    critics: int = 2,
) -> float:
    """Floating-point operations in the matrix products of one update of "fql", of "fidec", or of "deflow" whose actor
    learns on next states, counted by hand.

    A network costs 2 operations for each weight and row: forward, once more for the gradient of the weights, and once more,
    its first layer left out, for the gradient of the layers' inputs.
    """

    def net(inputs, outputs):
        sizes = [inputs, *[width] * depth, outputs]
        return [2.0 * a * b for a, b in itertools.pairwise(sizes)]

    def forward(layers):
        return batch * sum(layers)

    def training(layers):
        return batch * (3 * sum(layers) - layers[0])

    s, a = observation_dim, action_dim
    field, policy, critic = net(s + a + 1, a), net(s + a, a), net(s + a, 1)
    judging = forward(critic) + batch * sum(critic)  # forward, and back to the action
    shared = (
        training(field) + critics * (judging + forward(critic) + training(critic)) + training(policy) + forward(policy)
    )
    return shared + FLOW_PASSES[name] * steps * forward(field)


def agent_products(agent: Any, batch: Any) -> float:
    """Floating-point operations in the matrix products and convolutions of one update of any agent, traced and not run.

    Arrays of the agent and of the batch may be shapes alone (`jax.ShapeDtypeStruct`). The one loop in an update is that of the
    flow's Euler steps but the last.
    """
    arrays, rest = eqx.partition(agent, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct))

    def update(arrays, batch, key):
        after, _ = eqx.combine(arrays, rest).update(batch, key=key)
        return eqx.filter(after, eqx.is_array)

    return count_products(update, arrays, batch, jr.key(0), loops=agent.config.flow_steps - 1)


def count_products(function: Callable, *arguments: Any, loops: int) -> float:
    """Floating-point operations in all matrix products and convolutions of a function, of arrays or shapes; nothing is run.

    `loops` is how often the body of a loop is run whose length the program does not say. What no result needs is not counted;
    what the program computes twice is counted twice, where a compiler may see that it is the same.
    """
    from jax.interpreters import partial_eval

    closed = jax.make_jaxpr(function)(*arguments)
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _count(needed, loops)


def _count(program, loops: int) -> float:
    total = 0.0
    for step in program.eqns:
        name, given = step.primitive.name, step.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            inner = math.prod(step.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * step.outvars[0].aval.size * inner
        elif name == "conv_general_dilated":
            kernel, axes = step.invars[1].aval, given["dimension_numbers"].rhs_spec
            total += 2.0 * step.outvars[0].aval.size * kernel.size / kernel.shape[axes[0]]
        elif name == "cond":
            total += max(_count(branch.jaxpr, loops) for branch in given["branches"])
        else:
            times = loops if name == "while" else given["length"] if name == "scan" else 1
            total += times * sum(_count(inner, loops) for inner in _inside(given) if inner is not _condition(given))
    return total


def _condition(given):
    """The program that decides whether a loop goes on."""
    return getattr(given.get("cond_jaxpr"), "jaxpr", None)


def _inside(given) -> Iterator[Any]:
    """The programs inside a step."""
    for value in given.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner

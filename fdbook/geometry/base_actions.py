"""The batch that an actor loss takes: states, base actions of each, and what a metric reads there."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array
from fdbook.geometry import flow
from fdbook.geometry.densities import Density
from fdbook.geometry.metrics import Metric
from fdbook.geometry.paths import Velocity


__all__ = ["BaseActions", "base_from_density", "base_from_flow"]


class BaseActions(NamedTuple):
    """A batch for an actor loss: b states, K base actions of each (b, K, d), and what the metric reads there (b, K, ...).

    States are an array (b, n) or a pytree of such arrays. A pooled metric may have readings of other actions of those states, and
    of another number of them. A metric that reads nothing has None.

    >>> transport.BaseActions(jnp.zeros((5, 3)), jnp.zeros((5, 4, 2)), None).actions.shape  # 4 actions in each of 5 states
    (5, 4, 2)
    """

    observations: PyTree
    actions: Float[Array, "b k d"]
    readings: PyTree


def base_from_density(density: Density, n: int, *, key: PRNGKeyArray) -> BaseActions:
    """n actions of a toy policy with their exact scores, as one state.

    >>> base = transport.base_from_density(densities.gaussian(jnp.zeros(2), jnp.eye(2)), 64, key=jr.key(0))
    >>> base.actions.shape, bool(jnp.allclose(base.readings, -base.actions, atol=1e-5))  # the score of N(0, I) is -a
    ((1, 64, 2), True)
    """
    actions = density.sample(n, key=key)
    return BaseActions(jnp.zeros((1, 0), actions.dtype), actions[None], jax.vmap(density.score)(actions)[None])


def base_from_flow(
    field: Velocity, metric: Metric, observations: Float[Array, "b n"], k: int, *, key: PRNGKeyArray, **options: Any
) -> BaseActions:
    """K actions of each state sampled from a flow (E3, `options` as in `flow.sample`) with what the metric reads there.

    >>> field, l2 = flow.VelocityField(3, 2, width=8, depth=1, key=jr.key(0)), metrics.make("l2")
    >>> base = transport.base_from_flow(field, l2, jnp.ones((5, 3)), 4, key=jr.key(1))
    >>> base.actions.shape, base.readings  # 4 actions in each of 5 states; L2 reads nothing
    ((5, 4, 2), None)
    """
    noise_key, score_key = jr.split(key)
    states = observations.shape[0]
    noises = jr.normal(noise_key, (states, k, field.action_dim), jnp.float32)
    draw = jax.vmap(lambda s, z: flow.sample(field, s, z, **options), in_axes=(None, 0))
    actions = jax.vmap(draw)(observations, noises)
    readings = jax.vmap(lambda s, a, subkey: metric.perturbed(field, s, a, key=subkey))(
        observations, actions, jr.split(score_key, states)
    )
    return BaseActions(observations, actions, readings)

"""One-step policies, as Flow Q-Learning learns them: mu(s, z) imitates a flow's whole trajectory, and climbs the value.

Unlike a decorated flow, a one-step policy replaces the flow: what the distillation misses is lost, and what the value asks for
is paid for in L2 distance from the action that the flow makes of the same noise. Its cost in KL is E9's for the map that
carries the flow's action to the policy's, T = mu after the inverse of the flow; the flow itself cancels.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_finite, check_range, check_shape
from fdbook.geometry import flow, loop, paths
from fdbook.geometry.densities import Density, Nodes


__all__ = ["OneStep", "actor_loss", "fit", "kl_exact", "taught_by_flow"]


FINAL_RATE = 0.05
"""What is left of the learning rate at the end."""


class OneStep(eqx.Module):
    """A multilayer perceptron mu(s, z) with GELU: one action (d,) for one observation (n,) and one noise (d,).

    >>> policy = distillation.OneStep(0, 2, width=8, depth=1, key=jr.key(0))
    >>> policy(flow.EMPTY, jnp.zeros(2)).shape
    (2,)
    """

    mlp: eqx.nn.MLP

    def __init__(self, observation_dim: int, action_dim: int, width: int = 128, depth: int = 3, *, key: PRNGKeyArray):
        self.mlp = eqx.nn.MLP(
            observation_dim + action_dim, action_dim, width, depth, jax.nn.gelu, dtype=jnp.float32, key=key
        )

    def __call__(self, observation: Float[Array, " n"], noise: Float[Array, " d"]) -> Float[Array, " d"]:
        """mu(s, z) of shape (d,), computed in the weights' precision."""
        dtype = self.mlp.layers[0].weight.dtype
        inputs = jnp.concatenate([jnp.asarray(observation, dtype), jnp.asarray(noise, dtype)])
        return self.mlp(inputs).astype(noise.dtype)

    def determinant(self, observation: Float[Array, " n"], noise: Float[Array, " d"]) -> Float[Array, ""]:
        """det(d mu / d z) at one noise: near 0 where the policy crowds noises together, of another sign beyond a fold."""
        axes = jnp.eye(noise.shape[0], dtype=noise.dtype)
        columns = [jax.jvp(lambda z: self(observation, z), (noise,), (axis,))[1] for axis in axes]
        return jnp.linalg.det(jnp.stack(columns, axis=1))


def actor_loss(
    actions: Float[Array, "b d"],
    taught: Float[Array, "b d"],
    values: Float[Array, " b"],
    alpha: float | Float[Array, ""],
    *,
    normalize_q: bool = False,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """E17: alpha * mean |mu(s, z) - flow(s, z)|^2 / d - mean value, and a dict with the distance and the mean value.

    `actions` are the policy's, `taught` the flow's for the same noises, and `values` judge the policy's actions. With
    `normalize_q` the value is divided by its mean absolute value, held constant. No gradient reaches the flow's actions.

    >>> loss, info = distillation.actor_loss(jnp.array([[1.0, 0.0]]), jnp.zeros((1, 2)), jnp.array([3.0]), 2.0)
    >>> float(loss), float(info["distance"])  # 2 * 1/2 - 3
    (-2.0, 0.5)
    """
    distance = jnp.mean((actions - jax.lax.stop_gradient(taught)) ** 2)
    scale = jax.lax.stop_gradient(1 / jnp.maximum(jnp.mean(jnp.abs(values)), 1e-8)) if normalize_q else 1.0
    return alpha * distance - scale * jnp.mean(values), {"distance": distance, "value": jnp.mean(values)}


def taught_by_flow(
    field: paths.Velocity, observation: Float[Array, " m"], n: int, *, key: PRNGKeyArray, **options: Any
) -> tuple[Float[Array, "k d"], Float[Array, "k d"]]:
    """n noises (n, d) and the actions (n, d) that a flow makes of them in one state (E3, `options` as in `flow.sample`).

    >>> field = flow.ExactVelocity(densities.gaussian(jnp.ones(2), jnp.eye(2)))
    >>> noises, actions = distillation.taught_by_flow(field, flow.EMPTY, 3, key=jr.key(0), steps=100)
    >>> bool(jnp.allclose(actions, noises + 1, atol=0.05))  # from N(0, I) to N(1, I)
    True
    """
    noises = flow.noise(field, n, key=key)
    return noises, jax.vmap(lambda z: flow.sample(field, observation, z, **options))(noises)


def kl_exact(
    policy: OneStep, density: Density, noises: Float[Array, "n d"], observation: Float[Array, " m"] = flow.EMPTY
) -> Float[Array, ""]:
    """E9 of a one-step policy: KL(law of mu(s, z) | pi) = E_z[log N(z; 0, I) - log |det(d mu / d z)| - log pi(mu(s, z))] in nats.

    The mean is taken over `noises`, samples of N(0, I). NaN where the policy folds among them, so that the determinant is not
    of one sign: then E9 does not hold. A policy that mirrors all noises has a negative determinant at each, and a KL.
    """

    def loss(z, determinant):
        normal = -0.5 * z @ z - 0.5 * z.shape[0] * np.log(2 * np.pi).item()
        return normal - jnp.log(determinant) - density.log_prob(policy(observation, z))

    determinants = jax.vmap(lambda z: policy.determinant(observation, z))(noises)
    largest = determinants[jnp.argmax(jnp.abs(determinants))]
    determinants = determinants * jnp.sign(largest)  # those beyond a fold are negative now, and their logarithms NaN
    losses = jax.vmap(loss)(noises, determinants)
    return Nodes(noises, jnp.full(noises.shape[:1], 1 / noises.shape[0], noises.dtype)).mean(losses)


def _nothing(observation, action):
    return jnp.zeros((), action.dtype)


class _Loss(eqx.Module):
    """E17 on a batch of the noises of one state, for `loop.fit`."""

    value: Callable
    alpha: Float[Array, ""]
    observation: Float[Array, " n"]
    batch_size: int = eqx.field(static=True)

    def __call__(self, policy, data, *, key):
        index = jr.randint(key, (self.batch_size,), 0, data[0].shape[0])
        noises, taught = (array[index] for array in data)
        actions = jax.vmap(lambda z: policy(self.observation, z))(noises)
        values = jax.vmap(lambda a: self.value(self.observation, a))(actions)
        return actor_loss(actions, taught, values, self.alpha)


def fit(
    policy: OneStep,
    value: Callable | None,
    noises: Float[Array, "n d"],
    taught: Float[Array, "k d"],
    *,
    key: PRNGKeyArray,
    alpha: float = 1.0,
    observation: Float[Array, " m"] = flow.EMPTY,
    steps: int = 2000,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    chunk: int = 500,
    progress: bool = True,
) -> tuple[OneStep, dict[str, np.ndarray]]:
    """Trains a one-step policy in one state by E17; returns it and the history of distance and value.

    `taught` are the flow's actions for the `noises`. `value(s, a)` is a scalar function; with None the policy only imitates.
    Raises ValueError for an alpha that is not positive, for wrong shapes and for NaN among noises or actions.

    >>> noises, options = jr.normal(jr.key(0), (64, 2)), {"steps": 100, "learning_rate": 1e-2, "progress": False}
    >>> policy = distillation.OneStep(0, 2, width=16, depth=1, key=jr.key(1))
    >>> policy, history = distillation.fit(policy, None, noises, noises + 1, key=jr.key(2), **options)
    >>> bool(history["distance"][-1] < history["distance"][0] / 2)
    True
    """
    check_range(alpha, "alpha", "distillation.fit", open_low=True)
    check_range(min(steps, batch_size), "steps and a batch size", "distillation.fit", low=1.0)
    check_shape(noises, (None, None), "noises", "distillation.fit")
    check_shape(taught, np.shape(noises), "taught actions", "distillation.fit")
    check_finite(noises, "noises", "distillation.fit")
    check_finite(taught, "taught actions", "distillation.fit")
    dtype = taught.dtype
    value = _nothing if value is None else value
    loss = _Loss(value, jnp.asarray(alpha, dtype), jnp.asarray(observation, dtype), batch_size)
    options = {"steps": steps, "chunk": chunk, "progress": progress, "label": "one-step policy", "key": key}
    return loop.fit(loss, policy, (noises, taught), loop.Adam(learning_rate, steps, FINAL_RATE), **options)

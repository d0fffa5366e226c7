"""Worked solutions of chapter 02, and typical mistakes with a piece of what the checker says about them."""

import jax
import jax.numpy as jnp
from scipy.optimize import linear_sum_assignment


def loss(velocity, t, z, a):
    x = (1 - t)[:, None] * z + t[:, None] * a
    return jnp.mean((jax.vmap(velocity)(t, x) - (a - z)) ** 2)


def floor(t, std):
    # The variance of a - z, less what its regression on x explains, comes out as short as this.
    return std**2 / (t**2 * std**2 + (1 - t) ** 2)


def _weights(t, x, actions):
    # Action i explains x by the noise (x - t a_i) / (1 - t), which is standard normal.
    return jax.nn.softmax(-0.5 * jnp.sum((x[None] - t * actions) ** 2, axis=-1) / (1 - t) ** 2)


def best_velocity(t, x, actions):
    return (_weights(t, x, actions) @ actions - x) / (1 - t)


def pairing(z, actions):
    # The assignment problem, solved exactly: its cost is n^3, which a batch can bear.
    costs = jnp.sum((actions[None] - z[:, None]) ** 2, axis=-1)
    return actions[linear_sum_assignment(costs)[1]]


def _along(z, actions, direction):
    order = jnp.zeros(len(z), int).at[jnp.argsort(z @ direction)].set(jnp.argsort(actions @ direction))
    return actions[order]


def _nearest(z, actions):
    return actions[jnp.argmin(jnp.sum((actions[None] - z[:, None]) ** 2, axis=-1), axis=1)]


answers = {"02.1": loss, "02.2": floor, "02.3": best_velocity, "02.4": pairing}

mistakes = {
    "02.1": [
        (
            lambda velocity, t, z, a: loss(lambda s, x: -velocity(s, x), t, z, a),
            "points from the action to the noise",
        ),
        (lambda velocity, t, z, a: loss(velocity, t, a, z), "it should be the noise"),
        (lambda velocity, t, z, a: loss(lambda s, x: -velocity(s, x), t, a, z), "it should be the noise"),
        (lambda velocity, t, z, a: loss(lambda s, x: velocity(jnp.ones_like(s), x), t, z, a), "the loss is off"),
        (
            lambda velocity, t, z, a: jnp.mean((jax.vmap(velocity)(t, (1 - t)[:, None] * z + t[:, None] * a) - a) ** 2),
            "less far to go",
        ),
        (
            lambda velocity, t, z, a: jnp.mean((jax.vmap(velocity)(t, a) - (a - z)) ** 2),
            "never sees a point on the way",
        ),
        (lambda velocity, t, z, a: 2 * loss(velocity, t, z, a), "the mean runs over coordinates"),
        (lambda velocity, t, z, a: 16 * loss(velocity, t, z, a), "should not grow with the batch"),
    ],
    "02.2": [
        (lambda t, std: std**2 + 1, "before x_t is seen"),
        (lambda t, std: std**2 + 1 - floor(t, std), "the part that x_t explains"),
        (lambda t, std: floor(t, std) ** 0.5, "this is a length"),
        (lambda t, std: floor(t, std**0.5), "right for std = 1"),
        (lambda t, std: 2 * floor(t, std), "sum over two coordinates"),
        (lambda t, std: 1.0 + 0 * t, "off at t = 0"),
        (lambda t, std: std**2, "off at t = 1"),
        (lambda t, std: (1 - t) * std**2 + t, "right at both ends"),
    ],
    "02.3": [
        (lambda t, x, actions: -best_velocity(t, x, actions), "wrong way"),
        (lambda t, x, actions: (actions.mean(axis=0) - x) / (1 - t), "every action pulls alike"),
        (lambda t, x, actions: _weights(t, x, actions) @ actions, "the mean action"),
        (lambda t, x, actions: _weights(t, x, actions) @ actions - x, "its length is off"),
        (lambda t, x, actions: (_weights(t, x, actions / t) @ actions - x) / (1 - t), "only part of the way"),
        (
            lambda t, x, actions: (
                jnp.exp(-0.5 * jnp.sum((x[None] - t * actions) ** 2, axis=-1) / (1 - t) ** 2)
                @ (actions - x[None])
                / (1 - t)
            ),
            "do not sum to one",
        ),
        (
            lambda t, x, actions: (
                (jax.nn.softmax(-0.5 * jnp.sum((x[None] - t * actions) ** 2, axis=-1) / (1 - t)) @ actions - x)
                / (1 - t)
            ),
            "the width of your weights",
        ),
        (lambda t, x, actions: x, "the mean velocity is off"),
    ],
    "02.4": [
        (lambda z, actions: actions, "not shorter than those of blind pairs"),
        (lambda z, actions: actions[::-1], "not shorter than those of blind pairs"),
        (_nearest, "some actions occur twice"),
        (lambda z, actions: z, "are not actions of the batch"),
        (lambda z, actions: jnp.sort(actions, axis=0), "are not actions of the batch"),
        (lambda z, actions: _along(z, actions, jnp.eye(z.shape[1])[0]), "of what the best pairing saves"),
        (lambda z, actions: actions[:-1], "shape (64, 1)"),
    ],
}

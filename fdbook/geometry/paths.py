"""The straight path of flow matching, and what its velocity knows: endpoint, noise and score.

Along E1 a point x_t lies between noise z ~ N(0, I) at t = 0 and an action a at t = 1. The velocity v(t, x) is the mean of
a - z given x_t = x, so the mean action and the mean noise are both linear in v and x, and the score of the density p_t of x_t
is the mean noise over -(1 - t).

Every function works on single points (d,) and, elementwise, on any batch whose t broadcasts against it.
"""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from fdbook.checks import Array, check_time


__all__ = [
    "Velocity",
    "endpoint_from_velocity",
    "interpolate",
    "noise_from_velocity",
    "released_score",
    "score_from_velocity",
    "target_velocity",
    "velocity_from_endpoint",
    "velocity_from_score",
]


@runtime_checkable
class Velocity(Protocol):
    """What every velocity is, learned or in closed form: v(t, observation (n,), x (d,)) (d,), which knows its d."""

    @property
    def action_dim(self) -> int:
        """The dimension d of its points."""
        ...

    def __call__(self, t: ArrayLike, observation: Array, x: Array) -> Array: ...


Time = Float[Array, "*#batch"] | float
Point = Float[Array, "*#batch d"]


def _column(t):
    """t with a trailing axis, so that it broadcasts against points."""
    return jnp.expand_dims(jnp.asarray(t), -1) if jnp.ndim(t) else t


def interpolate(t: Time, noise: Point, action: Point) -> Float[Array, "*batch d"]:
    """E1: x_t = (1 - t) noise + t action; t in [0, 1].

    >>> paths.interpolate(0.25, jnp.array([0.0, 4.0]), jnp.array([8.0, 0.0])).tolist()
    [2.0, 3.0]
    """
    t = _column(check_time(t, "interpolate"))
    return (1 - t) * noise + t * action


def target_velocity(noise: Point, action: Point) -> Float[Array, "*batch d"]:
    """E1: u = action - noise, what flow matching regresses on.

    >>> paths.target_velocity(jnp.array([1.0, 0.0]), jnp.array([3.0, 2.0])).tolist()
    [2.0, 2.0]
    """
    return action - noise


def endpoint_from_velocity(t: Time, x: Point, velocity: Point) -> Float[Array, "*batch d"]:
    """The mean action given x_t = x: E[a | x] = x + (1 - t) v; t in [0, 1]."""
    t = _column(check_time(t, "endpoint_from_velocity"))
    return x + (1 - t) * velocity


def velocity_from_endpoint(t: Time, x: Point, endpoint: Point) -> Float[Array, "*batch d"]:
    """The velocity whose mean action is `endpoint`: v = (endpoint - x) / (1 - t); t in [0, 1)."""
    t = _column(check_time(t, "velocity_from_endpoint", open_high=True))
    return (endpoint - x) / (1 - t)


def noise_from_velocity(t: Time, x: Point, velocity: Point) -> Float[Array, "*batch d"]:
    """The mean noise given x_t = x: E[z | x] = x - t v; t in [0, 1]."""
    t = _column(check_time(t, "noise_from_velocity"))
    return x - t * velocity


def score_from_velocity(t: Time, x: Point, velocity: Point) -> Float[Array, "*batch d"]:
    """E5: grad log p_t(x) = (t v - x) / (1 - t); t in [0, 1).

    It is the score of the noised density p_t, which blurs the density of actions by (1 - t) / t after rescaling by 1 / t.
    An error e of the velocity becomes an error t e / (1 - t) of the score (E6): this is why t stays away from 1.

    >>> x, velocity = jnp.array([1.0, -3.0]), jnp.zeros(2)  # of actions N(0, I) at t = 1/2, where p_t is N(0, I / 2)
    >>> paths.score_from_velocity(0.5, x, velocity).tolist()
    [-2.0, 6.0]
    """
    t = _column(check_time(t, "score_from_velocity", open_high=True))
    return (t * velocity - x) / (1 - t)


def velocity_from_score(t: Time, x: Point, score: Point) -> Float[Array, "*batch d"]:
    """E5 solved for the velocity: v = ((1 - t) score + x) / t; t in (0, 1]."""
    t = _column(check_time(t, "velocity_from_score", open_low=True))
    return ((1 - t) * score + x) / t


def released_score(t: Time, velocity: Point) -> Float[Array, "*batch d"]:
    """E7: v / (1 - t), which the released code uses where E5 has the score; t in [0, 1).

    It equals score / t + x / (t (1 - t)): the second term does not vanish, and pulls a metric that is built from it towards
    the direction of the mean action.

    >>> velocity = jnp.zeros(2)  # of actions N(0, I) at t = 1/2 and any x, where the score is -2 x
    >>> paths.released_score(0.5, velocity).tolist()
    [0.0, 0.0]
    """
    t = _column(check_time(t, "released_score", open_high=True))
    return velocity / (1 - t)

"""Metrics that read scores: the Fisher quadratic form, the Fisher-Rao norm, and the scale of the Fisher matrix alone."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_shape, unknown
from fdbook.geometry import paths
from fdbook.geometry.metrics.base import Metric, ReadAt, Times, check_times, perturb


__all__ = ["Fisher", "FisherRao", "FisherScale", "ScoreMetric", "fisher_matrix", "perturbed_scores"]


def _check_score(kind):
    if kind not in ("exact", "released"):
        raise ValueError(unknown("score", kind, ("exact", "released")))


def _read_score(kind, t, points, velocities):
    if kind == "released":
        return paths.released_score(t, velocities)
    return paths.score_from_velocity(t, points, velocities)


def perturbed_scores(
    field: paths.Velocity,
    observation: Float[Array, " n"],
    actions: Float[Array, "k d"],
    *,
    key: PRNGKeyArray,
    t: Times = (0.85, 0.90),
    kind: str = "exact",
) -> Float[Array, "k d"]:
    """The score of one state's noised actions as a flow knows it, one for each action (k, d).

    Each action is noised to x_t (E1) with a fresh z and a time t, fixed or uniform in an interval inside (0, 1) (E6). `kind`
    is "exact" for E5 or "released" for E7. Raises ValueError for another kind, a time outside (0, 1) or a wrong shape.
    >>> field = flow.ExactVelocity(densities.gaussian(jnp.zeros(2), jnp.eye(2)))  # its velocity at t = 1/2 is 0
    >>> bool(jnp.any(metrics.perturbed_scores(field, flow.EMPTY, jnp.eye(2), key=jr.key(0), t=0.5, kind="released")))
    False
    """
    check_shape(actions, (None, field.action_dim), "actions", "perturbed_scores")
    _check_score(kind)
    check_times(t, "perturbed_scores")
    times, points = perturb(actions, t, key=key)
    velocities = jax.vmap(field, in_axes=(0, None, 0))(times, observation, points)
    return _read_score(kind, times, points, velocities)


def fisher_matrix(scores: Float[Array, "k d"]) -> Float[Array, "d d"]:
    """The mean of score score^T over k samples, shape (d, d): symmetric, positive semi-definite, of rank min(k, d) at most.
    >>> metrics.fisher_matrix(jnp.array([[2.0, 0.0], [0.0, 1.0]])).tolist()
    [[2.0, 0.0], [0.0, 0.5]]
    """
    return scores.T @ scores / scores.shape[0]


class ScoreMetric(Metric):
    """A metric that reads one score for each action, (k, d), at no cost: "exact" (E5) or "released" (E7), as its `score` says."""

    reads: ClassVar[str] = "scores"
    score: eqx.AbstractVar[str]

    def __check_init__(self):
        _check_score(self.score)

    def readings(
        self,
        field: paths.Velocity,
        observation: Float[Array, " n"],
        t: ReadAt,
        points: Float[Array, "k d"],
        velocities: Float[Array, "k d"],
    ) -> Float[Array, "k d"]:
        """The scores (k, d), from the velocities alone."""
        return _read_score(self.score, t, points, velocities)

    def level(self, readings: Float[Array, "k d"]) -> Float[Array, ""]:
        """tr F / d, F the mean outer product of the scores, before damping."""
        return jnp.mean(readings**2)


class Fisher(ScoreMetric):
    """The Fisher quadratic form. With `pooled`, one matrix for each state (E20, E21); without, one for each action (E11, E19).

    `score` is "exact" (E5) or "released" (E7), `t` the perturbed time (E6), a number or an interval inside (0, 1).
    """

    needs_divergence: ClassVar[bool] = False
    score: str = eqx.field(default="exact", static=True)
    pooled: bool = eqx.field(default=True, static=True)
    t: Times = eqx.field(default=(0.85, 0.90), static=True)
    damping: float = eqx.field(default=1e-3, static=True)
    trace_normalized: bool = eqx.field(default=True, static=True)

    def matrices(self, readings: Float[Array, "k d"]) -> Float[Array, "k d d"]:
        """The quadratic form that each action is charged with, damped and normalized as asked, shape (k, d, d)."""
        k, d = readings.shape
        per_action = jax.vmap(jnp.outer)(readings, readings)
        forms = jnp.broadcast_to(jnp.mean(per_action, axis=0)[None], (k, d, d)) if self.pooled else per_action
        return (forms + self.damping * jnp.eye(d, dtype=readings.dtype)[None]) / self.scale(readings)

    def raw_cost(
        self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: Float[Array, "m d"]
    ) -> Float[Array, " k"]:
        """delta^T F delta with the state's matrix (E20, E21), or (score . delta)^2 (E11, E19), before damping; shape (k,)."""
        if self.pooled:
            return jnp.einsum("ki,ij,kj->k", delta, fisher_matrix(readings), delta)
        return jnp.sum(readings * delta, axis=-1) ** 2


class FisherRao(ScoreMetric):
    """E22: the Fisher-Rao norm of the change of density, E10, which also sees how the displacement spreads the actions."""

    needs_divergence: ClassVar[bool] = True
    pooled: ClassVar[bool] = False
    score: str = eqx.field(default="exact", static=True)
    t: Times = eqx.field(default=(0.85, 0.90), static=True)
    damping: float = eqx.field(default=1e-3, static=True)
    trace_normalized: bool = eqx.field(default=True, static=True)

    def raw_cost(
        self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: Float[Array, "k d"]
    ) -> Float[Array, " k"]:
        """E22: (score . delta + div delta)^2 at each action, shape (k,)."""
        return (jnp.sum(readings * delta, axis=-1) + divergence) ** 2


class FisherScale(ScoreMetric):
    """The size of the Fisher matrix without its directions: |delta|^2 times tr F / d of the state, F as in E21.

    It tells states apart, and no direction in them; trace normalization would make it L2.
    """

    needs_divergence: ClassVar[bool] = False
    pooled: ClassVar[bool] = True
    score: str = eqx.field(default="exact", static=True)
    t: Times = eqx.field(default=(0.85, 0.90), static=True)
    damping: float = eqx.field(default=1e-3, static=True)
    trace_normalized: bool = eqx.field(default=False, static=True)

    def raw_cost(
        self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: Float[Array, "m d"]
    ) -> Float[Array, " k"]:
        """tr F / d |delta|^2, shape (k,)."""
        return self.level(readings) * jnp.sum(delta**2, axis=-1)

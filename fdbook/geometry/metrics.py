"""Metrics as values: what a displacement of the behaviour's actions costs.

A metric looks at the K base actions of one state, at the scores read off there, and at a displacement delta of each action, and
charges each action a quadratic cost. The penalty of an actor loss is the mean cost over d (E18, E20); half the mean cost, with
neither damping nor normalisation, is what the metric takes the KL divergence to be (E10, E11).

| name              | class                                    | cost of one action                              | equation |
|-------------------|------------------------------------------|-------------------------------------------------|----------|
| `l2`              | `L2()`                                   | abs(delta)^2                                    | E18      |
| `fisher-paper`    | `Fisher(score="exact", pooled=False)`    | (score . delta)^2, at the action itself         | E11, E19 |
| `fisher-released` | `Fisher(score="released")`               | delta^T F delta, F from v / (1 - t), per state  | E20, E7  |
| `fisher-exact`    | `Fisher(score="exact")`                  | delta^T F delta, F from the exact score         | E21, E5  |
| `fisher-rao`      | `FisherRao()`                            | (score . delta + div delta)^2                   | E22, E10 |
"""

import abc
import numbers
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_shape, known, unknown
from fdbook.geometry import paths


__all__ = [
    "L2",
    "NAMES",
    "Fisher",
    "FisherRao",
    "Metric",
    "alignment",
    "check_metric",
    "condition_number",
    "ellipse",
    "fisher_matrix",
    "make",
    "normalise_trace",
    "perturbed_scores",
    "spectrum",
]


def _check_score(kind, t, where):
    if kind not in ("exact", "released"):
        raise ValueError(unknown("score", kind, ("exact", "released")))
    ends = t if isinstance(t, tuple) else (t, t)
    if len(ends) != 2 or not all(isinstance(end, numbers.Real) for end in ends) or not 0 < ends[0] <= ends[1] < 1:
        raise ValueError(f"{where} takes a perturbed time in (0, 1), or an interval of such times; got {t}.")


def perturbed_scores(
    field,
    observation: Float[Array, " n"],
    actions: Float[Array, "k d"],
    *,
    key: PRNGKeyArray,
    t: float | tuple[float, float] = (0.85, 0.90),
    kind: str = "exact",
) -> Float[Array, "k d"]:
    """The score of one state's noised actions as a flow knows it, one for each action (k, d).

    Each action is noised to x_t (E1) with a fresh z and a time t, fixed or uniform in an interval inside (0, 1) (E6). `kind`
    is "exact" for E5 or "released" for E7. Raises ValueError for another kind, a time outside (0, 1) or a wrong shape.
    """
    check_shape(actions, (None, field.action_dim), "actions", "perturbed_scores")
    _check_score(kind, t, "perturbed_scores")
    low, high = t if isinstance(t, tuple) else (t, t)
    time_key, noise_key = jr.split(key)
    times = jr.uniform(time_key, actions.shape[:1], actions.dtype, low, high) if low < high else None
    times = jnp.full(actions.shape[:1], low, actions.dtype) if times is None else times
    points = paths.interpolate(times, jr.normal(noise_key, actions.shape, actions.dtype), actions)
    velocities = jax.vmap(field, in_axes=(0, None, 0))(times, observation, points)
    if kind == "released":
        return paths.released_score(times, velocities)
    return paths.score_from_velocity(times, points, velocities)


def fisher_matrix(scores: Float[Array, "k d"]) -> Float[Array, "d d"]:
    """The mean of score score^T over k samples, shape (d, d): symmetric, positive semi-definite, of rank min(k, d) at most."""
    return scores.T @ scores / scores.shape[0]


def normalise_trace(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """E24: F d / tr F, which makes an isotropic F the identity. The zero matrix stays zero."""
    trace = jnp.trace(matrix)
    return matrix * jnp.where(trace > 0, matrix.shape[0] / jnp.where(trace > 0, trace, 1.0), 0.0)


class Metric(eqx.Module):
    """What a displacement costs. `damping` >= 0 adds damping * |delta|^2; `trace_normalised` applies E24 to each state.

    The scale of E24 is tr F / d with F the mean score score^T of the state's actions plus the damping; metrics that keep one
    matrix for each action divide all of them by that same scale, so that the state's mean cost keeps its meaning.
    """

    needs_scores: ClassVar[bool] = True
    needs_divergence: ClassVar[bool] = False
    damping: eqx.AbstractVar[float]
    trace_normalised: eqx.AbstractVar[bool]

    def __check_init__(self):
        if not self.damping >= 0:
            raise ValueError(f"{type(self).__name__} takes a damping of at least 0; got {self.damping}.")

    def scores(
        self, field, observation: Float[Array, " n"], actions: Float[Array, "k d"], *, key
    ) -> Float[Array, "k d"]:
        """The scores (k, d) that this metric reads off a flow at one state's actions (k, d)."""
        return perturbed_scores(field, observation, actions, key=key, t=self.t, kind=self.score)

    def scale(self, scores: Float[Array, "k d"]) -> Float[Array, ""]:
        """What E24 divides by: the mean squared score over d, plus the damping; 1 when not normalised."""
        return jnp.mean(scores**2) + self.damping if self.trace_normalised else jnp.ones((), scores.dtype)

    @abc.abstractmethod
    def raw_cost(self, delta, divergence, scores):
        """The cost (k,) before damping and normalisation."""

    def cost(
        self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], scores: Float[Array, "m d"]
    ) -> Float[Array, " k"]:
        """The cost (k,) of displacing one state's K actions by `delta` with divergence div delta, given their scores.

        A pooled metric takes scores of any number of actions of that state; the others take those of the K actions.
        """
        damped = self.raw_cost(delta, divergence, scores) + self.damping * jnp.sum(delta**2, axis=-1)
        return damped / self.scale(scores)

    def penalty(
        self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], scores: Float[Array, "m d"]
    ) -> Float[Array, ""]:
        """The mean cost over d: what an actor loss multiplies with alpha and dual ascent holds at its budget (E18 to E22)."""
        return jnp.mean(self.cost(delta, divergence, scores)) / delta.shape[-1]


class L2(Metric):
    """E18: the squared length of the displacement, whatever the behaviour looks like."""

    needs_scores: ClassVar[bool] = False
    damping: float = 0.0
    trace_normalised: bool = False

    def scores(self, field, observation, actions, *, key):
        """Zeros (k, d): no network is evaluated."""
        return jnp.zeros_like(actions)

    def scale(self, scores):
        """L2's own matrix is the identity, whatever the scores: 1 plus the damping, or 1 when not normalised."""
        return jnp.asarray(1 + self.damping if self.trace_normalised else 1.0, scores.dtype)

    def raw_cost(self, delta, divergence, scores):
        return jnp.sum(delta**2, axis=-1)


class Fisher(Metric):
    """The Fisher quadratic form. With `pooled`, one matrix for each state (E20, E21); without, one for each action (E11, E19).

    `score` is "exact" (E5) or "released" (E7), `t` the perturbed time (E6), a number or an interval inside (0, 1).
    """

    score: str = eqx.field(default="exact", static=True)
    pooled: bool = eqx.field(default=True, static=True)
    t: float | tuple[float, float] = eqx.field(default=(0.85, 0.90), static=True)
    damping: float = 1e-3
    trace_normalised: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        _check_score(self.score, self.t, "Fisher")

    def matrices(self, scores: Float[Array, "k d"]) -> Float[Array, "k d d"]:
        """The quadratic form that each action is charged with, damped and normalised as asked, shape (k, d, d)."""
        k, d = scores.shape
        own = jax.vmap(jnp.outer)(scores, scores)
        forms = jnp.broadcast_to(jnp.mean(own, axis=0)[None], (k, d, d)) if self.pooled else own
        return (forms + self.damping * jnp.eye(d, dtype=scores.dtype)[None]) / self.scale(scores)

    def raw_cost(self, delta, divergence, scores):
        if self.pooled:
            return jnp.einsum("ki,ij,kj->k", delta, fisher_matrix(scores), delta)
        return jnp.sum(scores * delta, axis=-1) ** 2


class FisherRao(Metric):
    """E22: the Fisher-Rao norm of the change of density, E10, which also sees how the displacement spreads the actions."""

    needs_divergence: ClassVar[bool] = True
    score: str = eqx.field(default="exact", static=True)
    t: float | tuple[float, float] = eqx.field(default=(0.85, 0.90), static=True)
    damping: float = 1e-3
    trace_normalised: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        _check_score(self.score, self.t, "FisherRao")

    def raw_cost(self, delta, divergence, scores):
        return (jnp.sum(scores * delta, axis=-1) + divergence) ** 2


_MAKERS = {
    "l2": L2,
    "fisher-paper": lambda **options: Fisher(pooled=False, **options),
    "fisher-released": lambda **options: Fisher(score="released", **options),
    "fisher-exact": Fisher,
    "fisher-rao": FisherRao,
}
NAMES = tuple(_MAKERS)


def make(name: str, **options) -> Metric:
    """The named metric of the table above, with its class's options. Raises ValueError with the nearest name otherwise."""
    if name not in _MAKERS:
        raise ValueError(unknown("metric", name, NAMES))
    return _MAKERS[name](**options)


def check_metric(matrix, where: str) -> None:
    """Refuses a matrix (..., d, d) that is not finite, symmetric and positive semi-definite up to rounding; traced ones pass."""
    if not known(matrix):
        return
    matrix = np.asarray(matrix)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{where} takes a metric of shape (..., d, d); got shape {matrix.shape}.")
    if not np.all(np.isfinite(matrix)):
        raise ValueError(f"{where} takes a finite metric; it has NaN or infinite entries.")
    slack = 100 * np.finfo(matrix.dtype).eps * matrix.shape[-1]
    size = np.max(np.abs(matrix), axis=(-1, -2), keepdims=True)
    if np.any(np.abs(matrix - np.swapaxes(matrix, -1, -2)) > slack * size):
        raise ValueError(f"{where} takes a symmetric metric; this one is not.")
    lowest = np.linalg.eigvalsh(matrix)[..., 0]
    if np.any(lowest < -slack * size[..., 0, 0]):
        raise ValueError(
            f"{where} takes a positive semi-definite metric; got one with smallest eigenvalue {np.min(lowest):.3g}."
        )


def spectrum(matrix: Float[Array, "*b d d"]) -> tuple[Float[Array, "*b d"], Float[Array, "*b d d"]]:
    """Eigenvalues (..., d), softest first, and the axes as columns (..., d, d), of symmetric matrices (..., d, d)."""
    check_metric(matrix, "spectrum")
    return jnp.linalg.eigh(matrix)


def condition_number(matrix: Float[Array, "*b d d"]) -> Float[Array, "*b"]:
    """The stiffest over the softest eigenvalue, at least 1; infinite for a metric that is singular up to rounding."""
    values = spectrum(matrix)[0]
    charged = values[..., 0] > jnp.finfo(values.dtype).eps * values.shape[-1] * values[..., -1]
    return jnp.where(charged, values[..., -1] / jnp.where(charged, values[..., 0], 1.0), jnp.inf)


def alignment(first: Float[Array, "*b d d"], second: Float[Array, "*b d d"]) -> Float[Array, "*b"]:
    """|cos| of the angle between the stiffest axes of two metrics; 1 when they agree, 0 when they are perpendicular."""
    return jnp.abs(jnp.sum(spectrum(first)[1][..., -1] * spectrum(second)[1][..., -1], axis=-1))


def ellipse(matrix: Float[Array, "2 2"], cost: float | Float[Array, ""], n: int = 100) -> Float[Array, "n 2"]:
    """n points of the curve delta^T F delta = cost for a positive definite 2 x 2 metric, closed, shape (n, 2)."""
    check_shape(matrix, (2, 2), "a metric", "ellipse")
    values, axes = spectrum(matrix)
    if known(values) and not (values[0] > 0 and cost > 0):
        raise ValueError(f"ellipse takes a positive definite metric and a positive cost; got {values} and {cost}.")
    angle = jnp.linspace(0, 2 * np.pi, n, dtype=matrix.dtype)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return (circle * jnp.sqrt(cost / values)[None]) @ axes.T

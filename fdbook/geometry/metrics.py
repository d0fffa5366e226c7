"""Metrics as values: what a displacement of the behavior's actions costs.

A metric reads something off the flow at K actions of one state (nothing, scores, or one matrix for each action), and charges
a displacement delta of each action a quadratic cost. One convention holds for all of them (E18 to E22): the penalty of an actor
loss is the mean cost over d, without a factor 1/2, so that a budget means the same under each of them wherever the Fisher
information is the identity. Half the mean cost, with neither damping nor normalization, is what the metric takes the KL
divergence to be (E10, E11).

| name              | class                                    | cost of one action                              | equation |
|-------------------|------------------------------------------|-------------------------------------------------|----------|
| `l2`              | `L2()`                                   | abs(delta)^2                                    | E18      |
| `fisher-paper`    | `Fisher(score="exact", pooled=False)`    | (score . delta)^2, at the action itself         | E11, E19 |
| `fisher-released` | `Fisher(score="released")`               | delta^T F delta, F from v / (1 - t), per state  | E20, E7  |
| `fisher-exact`    | `Fisher(score="exact")`                  | delta^T F delta, F from the exact score         | E21, E5  |
| `fisher-rao`      | `FisherRao()`                            | (score . delta + div delta)^2                   | E22, E10 |

`make`, `to_dict` and `from_dict` know metrics by name. A new metric is a final subclass of `Metric` with its options as static
fields, and joins by one call of `register`.
"""

import abc
import dataclasses
import numbers
import re
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_shape, unknown
from fdbook.geometry import paths
from fdbook.geometry.quadratic import alignment, check_metric, condition_number, ellipse, spectrum


__all__ = [
    "L2",
    "NAMES",
    "Fisher",
    "FisherRao",
    "Metric",
    "ScoreMetric",
    "alignment",
    "check_metric",
    "condition_number",
    "ellipse",
    "fisher_matrix",
    "from_dict",
    "make",
    "normalize_trace",
    "perturb",
    "perturbed_scores",
    "register",
    "short_name",
    "spectrum",
    "summaries",
    "to_dict",
    "unusual",
]

Times = float | tuple[float, float]
"""A perturbed time (E6), or an interval of them, inside (0, 1)."""


def _check_times(t, where):
    ends = t if isinstance(t, tuple) else (t, t)
    if len(ends) != 2 or not all(isinstance(end, numbers.Real) for end in ends) or not 0 < ends[0] <= ends[1] < 1:
        raise ValueError(f"{where} takes a perturbed time in (0, 1), or an interval of such times; got {t}.")


def _check_score(kind):
    if kind not in ("exact", "released"):
        raise ValueError(unknown("score", kind, ("exact", "released")))


def perturb(
    actions: Float[Array, "k d"], t: Times, *, key: PRNGKeyArray
) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
    """Each action of one state noised once (E1): the times (k,), fixed or uniform in an interval (E6), and the points (k, d).

    Raises ValueError for a time outside (0, 1).
    """
    _check_times(t, "perturb")
    low, high = t if isinstance(t, tuple) else (t, t)
    time_key, noise_key = jr.split(key)
    times = jr.uniform(time_key, actions.shape[:1], actions.dtype, low, high) if low < high else None
    times = jnp.full(actions.shape[:1], low, actions.dtype) if times is None else times
    return times, paths.interpolate(times, jr.normal(noise_key, actions.shape, actions.dtype), actions)


def _read_score(kind, t, points, velocities):
    if kind == "released":
        return paths.released_score(t, velocities)
    return paths.score_from_velocity(t, points, velocities)


def perturbed_scores(
    field,
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
    _check_times(t, "perturbed_scores")
    times, points = perturb(actions, t, key=key)
    velocities = jax.vmap(field, in_axes=(0, None, 0))(times, observation, points)
    return _read_score(kind, times, points, velocities)


def fisher_matrix(scores: Float[Array, "k d"]) -> Float[Array, "d d"]:
    """The mean of score score^T over k samples, shape (d, d): symmetric, positive semi-definite, of rank min(k, d) at most.
    >>> metrics.fisher_matrix(jnp.array([[2.0, 0.0], [0.0, 1.0]])).tolist()
    [[2.0, 0.0], [0.0, 0.5]]
    """
    return scores.T @ scores / scores.shape[0]


def normalize_trace(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """E24: F d / tr F, which makes an isotropic F the identity. The zero matrix stays zero.
    >>> metrics.normalize_trace(jnp.diag(jnp.array([3.0, 1.0]))).tolist()
    [[1.5, 0.0], [0.0, 0.5]]
    """
    trace = jnp.trace(matrix)
    return matrix * jnp.where(trace > 0, matrix.shape[0] / jnp.where(trace > 0, trace, 1.0), 0.0)


class Metric(eqx.Module):
    """What a displacement costs. Subclasses are final, their options static fields, so that metrics compare and hash by value.

    A metric says of itself: `pooled`, whether one matrix serves all actions of a state (it may then come from any number of
    other actions of that state) or each action has its own; `reads`, what it takes from the flow, "nothing", "scores" or
    "matrices"; `needs_divergence`, whether it charges div delta; and `t`, where fresh readings are taken (E6; None: nowhere).
    `damping` >= 0 adds damping * |delta|^2. `trace_normalized` applies E24 to each state: the scale is tr F / d with F the mean
    matrix of the state's actions plus the damping. Metrics that keep one matrix for each action divide all of them by that same
    scale, so that the state's mean cost keeps its meaning.
    """

    reads: eqx.AbstractClassVar[str]
    needs_divergence: eqx.AbstractClassVar[bool]
    pooled: eqx.AbstractVar[bool]
    t: eqx.AbstractVar[Times | None]
    damping: eqx.AbstractVar[float]
    trace_normalized: eqx.AbstractVar[bool]

    def __check_init__(self):
        name = type(self).__name__
        if isinstance(self.damping, bool) or not isinstance(self.damping, numbers.Real) or not self.damping >= 0:
            raise ValueError(f"{name} takes a damping of at least 0; got {self.damping}.")
        if self.reads not in ("nothing", "scores", "matrices"):
            raise ValueError(unknown("kind of reading", self.reads, ("nothing", "scores", "matrices")))
        if self.reads != "nothing":
            _check_times(self.t, name)

    @abc.abstractmethod
    def readings(
        self,
        field,
        observation: Float[Array, " n"],
        t: Float[Array, " k"] | float,
        points: Float[Array, "k d"],
        velocities: Float[Array, "k d"],
    ) -> PyTree:
        """What the metric reads off a flow at K points x_t of one state, times t () or (k,), where the velocities are known.

        A pytree of arrays with leading axis k; None where nothing is read. Scores cost no network evaluation; a matrix metric
        differentiates `field(t, observation, x)`, one forward derivative for each of the d coordinates.
        """

    @abc.abstractmethod
    def raw_cost(self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: PyTree) -> Array:
        """The cost (k,) before damping and normalization."""

    @abc.abstractmethod
    def level(self, readings: PyTree) -> Float[Array, ""] | float:
        """tr F / d of the state's mean matrix F, before damping: what E24 divides by."""

    def perturbed(self, field, observation: Float[Array, " n"], actions: Float[Array, "k d"], *, key) -> PyTree:
        """Fresh readings at one state's actions (k, d), each noised once to a time of the metric's `t`. Shapes as `readings`."""
        if self.reads == "nothing":
            return None
        check_shape(actions, (None, field.action_dim), "actions", f"{type(self).__name__}.perturbed")
        times, points = perturb(actions, self.t, key=key)
        velocities = jax.vmap(field, in_axes=(0, None, 0))(times, observation, points)
        return self.readings(field, observation, times, points, velocities)

    def scale(self, readings: PyTree) -> Float[Array, ""] | float:
        """What E24 divides by: the level plus the damping; 1 when not normalized."""
        return self.level(readings) + self.damping if self.trace_normalized else 1.0

    def cost(self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: PyTree) -> Float[Array, " k"]:
        """The cost (k,) of displacing one state's K actions by `delta` with divergence div delta, given the readings.

        A pooled metric takes readings of any number of actions of that state; the others take those of the K actions.
        """
        damped = self.raw_cost(delta, divergence, readings) + self.damping * jnp.sum(delta**2, axis=-1)
        return damped / self.scale(readings)

    def penalty(self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: PyTree) -> Float[Array, ""]:
        """The mean cost over d: what an actor loss multiplies with alpha and dual ascent holds at its budget (E18 to E22)."""
        return jnp.mean(self.cost(delta, divergence, readings)) / delta.shape[-1]


class L2(Metric):
    """E18: the squared length of the displacement, whatever the behavior looks like. Its matrix is the identity."""

    reads: ClassVar[str] = "nothing"
    needs_divergence: ClassVar[bool] = False
    pooled: ClassVar[bool] = True
    t: ClassVar[None] = None
    damping: float = eqx.field(default=0.0, static=True)
    trace_normalized: bool = eqx.field(default=False, static=True)

    def readings(self, field, observation, t, points, velocities):
        """None: no network is evaluated."""
        return None

    def raw_cost(self, delta, divergence, readings):
        return jnp.sum(delta**2, axis=-1)

    def level(self, readings):
        return 1.0


class ScoreMetric(Metric):
    """A metric that reads one score for each action, (k, d), at no cost: "exact" (E5) or "released" (E7), as its `score` says."""

    reads: ClassVar[str] = "scores"
    score: eqx.AbstractVar[str]

    def __check_init__(self):
        _check_score(self.score)

    def readings(self, field, observation, t, points, velocities) -> Float[Array, "k d"]:
        """The scores (k, d), from the velocities alone."""
        return _read_score(self.score, t, points, velocities)

    def level(self, readings: Float[Array, "k d"]) -> Float[Array, ""]:
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

    def raw_cost(self, delta, divergence, readings):
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

    def raw_cost(self, delta, divergence, readings):
        return (jnp.sum(readings * delta, axis=-1) + divergence) ** 2


class _Entry(NamedTuple):
    """A metric by its name: its class with some options fixed, the name that the command line has for it, and a line about it."""

    kind: type[Metric]
    fixed: dict[str, Any]
    short: str
    summary: str


_REGISTRY: dict[str, _Entry] = {}
NAMES = _REGISTRY.keys()
"""The names of the registered metrics."""


def register(name: str, kind: type[Metric], *, short: str | None = None, summary: str, **fixed: Any) -> None:
    """Makes a metric known by a name, and by a `short` one on the command line: its class, with options `fixed` as they are said.

    Raises ValueError for a name that is taken.
    """
    taken = {item for other, entry in _REGISTRY.items() for item in (other, entry.short)}
    short = name if short is None else short
    if taken & {name, short}:
        raise ValueError(f"There is a metric called {(taken & {name, short}).pop()!r} already.")
    _REGISTRY[name] = _Entry(kind, fixed, short, summary)


register("l2", L2, summary="the length of the displacement (E18)")
register("fisher-paper", Fisher, short="paper", summary="one score for each action (E19)", pooled=False)
register(
    "fisher-released",
    Fisher,
    short="released",
    summary="one matrix for each state, scores by E7 (E20)",
    score="released",
)
register("fisher-exact", Fisher, short="exact", summary="one matrix for each state, exact scores (E21)")
register("fisher-rao", FisherRao, summary="scores and divergence, the complete second order (E22)")


def summaries() -> dict[str, str]:
    """The metrics by their short names, with a line about each."""
    return {entry.short: entry.summary for entry in _REGISTRY.values()}


def _options(kind: type[Metric]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]


def make(name: str, **options: Any) -> Metric:
    """The metric of that name, or short name, with its class's options. Raises ValueError with the nearest name otherwise.
    >>> float(metrics.make("l2").penalty(jnp.array([[3.0, 1.0]]), jnp.zeros(1), None))  # (3^2 + 1^2) / 2
    5.0
    """
    known = {entry.short: entry for entry in _REGISTRY.values()} | _REGISTRY
    if name not in known:
        raise ValueError(unknown("metric", name, _REGISTRY if "-" in name else summaries()))
    entry = known[name]
    for option in options:
        if option not in _options(entry.kind):
            raise ValueError(unknown(f"option of the metric {name}", option, _options(entry.kind)))
    return entry.kind(**(entry.fixed | options))


def _entry_of(metric: Metric) -> tuple[str, _Entry] | None:
    """The registered name whose class and fixed options are those of a metric; else one whose class is."""
    alike = {name: entry for name, entry in _REGISTRY.items() if entry.kind is type(metric)}
    decisive = {option for entry in alike.values() for option in entry.fixed}
    for name, entry in alike.items():
        plain = entry.kind(**entry.fixed)
        if all(getattr(plain, option) == getattr(metric, option) for option in decisive):
            return name, entry
    return None


def to_dict(metric: Metric) -> dict[str, Any]:
    """A metric as plain JSON: its name, and every option."""
    alike = [name for name, entry in _REGISTRY.items() if entry.kind is type(metric)]
    result = _entry_of(metric)
    name = result[0] if result else alike[0] if alike else _kebab(metric)
    values = {option: getattr(metric, option) for option in _options(type(metric))}
    return {"name": name} | {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def unusual(metric: Metric) -> dict[str, Any]:
    """The options of a metric that are not those that its name stands for."""
    result = _entry_of(metric)
    plain = None if result is None else result[1].kind(**result[1].fixed)
    values = {option: getattr(metric, option) for option in _options(type(metric))}
    return {option: value for option, value in values.items() if plain is None or getattr(plain, option) != value}


def from_dict(tree: Mapping[str, Any]) -> Metric:
    """The inverse of `to_dict`. Raises ValueError for a name or an option that there is not."""
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items() if key != "name"}
    return make(tree["name"], **options)


def short_name(metric: Metric) -> str:
    """What a metric is called on the command line, whatever its other options; the name of its class if it has no such name."""
    result = _entry_of(metric)
    return result[1].short if result else _kebab(metric)


def _kebab(metric: Metric) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(metric).__name__).lower()

"""What every metric is, and L2, which reads nothing."""

import abc
import dataclasses
import numbers
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_shape, unknown
from fdbook.geometry import paths


__all__ = ["L2", "Metric", "ReadAt", "Times", "check_times", "normalize_trace", "perturb"]

Times = float | tuple[float, float]
"""A perturbed time (E6), or an interval of them, inside (0, 1)."""
ReadAt = Float[Array, ""] | Float[Array, " k"] | float
"""The time at which a flow is read at K points: one for all of them, or one for each."""


def check_times(t: Times, where: str) -> None:
    """Refuses (ValueError) what is no perturbed time, and no interval of them, inside (0, 1)."""
    ends = t if isinstance(t, tuple) else (t, t)
    if len(ends) != 2 or not all(isinstance(end, numbers.Real) for end in ends) or not 0 < ends[0] <= ends[1] < 1:
        raise ValueError(f"{where} takes a perturbed time in (0, 1), or an interval of such times; got {t}.")


def perturb(
    actions: Float[Array, "k d"], t: Times, *, key: PRNGKeyArray
) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
    """Each action of one state noised once (E1): the times (k,), fixed or uniform in an interval (E6), and the points (k, d).

    Raises ValueError for a time outside (0, 1).
    """
    check_times(t, "perturb")
    low, high = t if isinstance(t, tuple) else (t, t)
    time_key, noise_key = jr.split(key)
    times = jr.uniform(time_key, actions.shape[:1], actions.dtype, low, high) if low < high else None
    times = jnp.full(actions.shape[:1], low, actions.dtype) if times is None else times
    return times, paths.interpolate(times, jr.normal(noise_key, actions.shape, actions.dtype), actions)


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
    scale, so that the state's mean cost keeps its meaning. Options out of range or of another kind raise ValueError.
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
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(field.default) is bool and not isinstance(value, bool):
                raise ValueError(f"{name} takes true or false for {field.name}; got {value!r}.")
        if self.reads != "nothing":
            check_times(self.t, name)

    @abc.abstractmethod
    def readings(
        self,
        field: paths.Velocity | None,
        observation: Float[Array, " n"],
        t: ReadAt,
        points: Float[Array, "k d"],
        velocities: Float[Array, "k d"],
    ) -> PyTree:
        """What the metric reads off a flow at K points x_t of one state, times t () or (k,), where the velocities are known.

        A pytree of arrays with leading axis k; None where nothing is read. Scores cost no network evaluation; a matrix metric
        differentiates `field(t, observation, x)`, one forward derivative for each of the d coordinates.
        """

    @abc.abstractmethod
    def raw_cost(
        self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: PyTree
    ) -> Float[Array, " k"]:
        """The cost (k,) before damping and normalization."""

    @abc.abstractmethod
    def level(self, readings: PyTree) -> Float[Array, ""] | float:
        """tr F / d of the state's mean matrix F, before damping: what E24 divides by."""

    def perturbed(
        self,
        field: paths.Velocity | None,
        observation: Float[Array, " n"],
        actions: Float[Array, "k d"],
        *,
        key: PRNGKeyArray | None,
    ) -> PyTree:
        """Fresh readings at one state's actions (k, d), each noised once to a time of the metric's `t`. Shapes as `readings`."""
        if self.reads == "nothing":
            return None
        assert field is not None  # what reads something reads a flow
        check_shape(actions, (None, field.action_dim), "actions", f"{type(self).__name__}.perturbed")
        times, points = perturb(actions, self.t, key=key)
        velocities = jax.vmap(field, in_axes=(0, None, 0))(times, observation, points)
        return self.readings(field, observation, times, points, velocities)

    def scale(self, readings: PyTree) -> Float[Array, ""] | float:
        """What E24 divides by: the level plus the damping; 1 when not normalized, and where all is 0 and nothing is charged."""
        if not self.trace_normalized:
            return 1.0
        scale = self.level(readings) + self.damping
        return jnp.where(scale > 0, scale, 1.0)

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

    def readings(
        self,
        field: paths.Velocity | None,
        observation: Float[Array, " n"],
        t: ReadAt,
        points: Float[Array, "k d"],
        velocities: Float[Array, "k d"],
    ) -> None:
        """None: no network is evaluated."""
        return None

    def raw_cost(
        self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: PyTree
    ) -> Float[Array, " k"]:
        """E18: |delta|^2, shape (k,)."""
        return jnp.sum(delta**2, axis=-1)

    def level(self, readings: PyTree) -> float:
        return 1.0

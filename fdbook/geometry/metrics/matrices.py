"""The metric that reads matrices: local information from the Jacobian of the velocity (E28), and its blur taken out (E29)."""

import math
import numbers
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from fdbook.checks import Array
from fdbook.geometry import information, paths
from fdbook.geometry.metrics.base import Metric, ReadAt, Times


__all__ = ["Curvatures", "Information"]


class Curvatures(NamedTuple):
    """What is read at K points: H = -Hess log p_t (E28) of each, symmetric, and the time t at which it was read."""

    matrices: Float[Array, "k d d"]
    times: Float[Array, " k"]


class Information(Metric):
    """A quadratic form whose matrix comes from the curvature of log p_t: full rank from one action, at d forward derivatives.

    With `pooled`, one matrix for each state, the mean of H over its actions, which is F_t in expectation (E28) and needs far
    fewer actions than the mean of outer products of scores; without, each action has its own. With `deblurred`, the noise of the
    perturbed time is taken out again (E29), of the mean or of each one; actions narrower than `least_width` (action units) count
    as that wide. Negative curvature, as there is between modes, charges nothing. Raises ValueError for a least width that is not
    positive and finite, and for an interval of times where the blur is taken out of a mean.
    """

    reads: ClassVar[str] = "matrices"
    needs_divergence: ClassVar[bool] = False
    pooled: bool = eqx.field(default=True, static=True)
    deblurred: bool = eqx.field(default=False, static=True)
    t: Times = eqx.field(default=0.9, static=True)
    least_width: float = eqx.field(default=0.01, static=True)
    damping: float = eqx.field(default=1e-3, static=True)
    trace_normalized: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        width = self.least_width
        if isinstance(width, bool) or not isinstance(width, numbers.Real) or not 0 < width < math.inf:
            raise ValueError(f"Information takes a finite least_width above 0; got {width}.")
        if self.pooled and self.deblurred and isinstance(self.t, tuple):
            raise ValueError(
                f"Information, pooled and deblurred, takes one time t in (0, 1), whose blur it takes out; got {self.t}."
            )

    def readings(
        self,
        field: paths.Velocity,
        observation: Float[Array, " n"],
        t: ReadAt,
        points: Float[Array, "k d"],
        velocities: Float[Array, "k d"],
    ) -> Curvatures:
        """The matrices of E28 at K points of one state, (k, d, d), and their times (k,)."""
        times = jnp.broadcast_to(jnp.asarray(t, points.dtype), points.shape[:1])
        read = jax.vmap(lambda time, x: information.local_information(field, time, observation, x))
        return Curvatures(read(times, points), times)

    def forms(self, readings: Curvatures) -> Float[Array, "m d d"]:
        """The positive semi-definite matrices that are charged, before damping: one (m = 1) if pooled, else one an action."""
        matrices, times = readings
        if self.pooled:
            matrices, times = jnp.mean(matrices, axis=0, keepdims=True), jnp.mean(times, keepdims=True)
        if not self.deblurred:
            return information.nearest_semidefinite(matrices)
        remove = jax.vmap(lambda h, t: information.deblurred_information(h, t, least_width=self.least_width))
        return remove(matrices, times)

    def raw_cost(
        self, delta: Float[Array, "k d"], divergence: Float[Array, " k"], readings: Curvatures
    ) -> Float[Array, " k"]:
        """delta^T H delta with the matrices of `forms` (E28, E29), shape (k,)."""
        forms = self.forms(readings)
        return jnp.einsum("ki,kij,kj->k", delta, jnp.broadcast_to(forms, (*delta.shape, delta.shape[-1])), delta)

    def level(self, readings: Curvatures) -> Float[Array, ""]:
        """tr H / d of the state's mean matrix H, before damping."""
        forms = self.forms(readings)
        return jnp.trace(jnp.mean(forms, axis=0)) / forms.shape[-1]

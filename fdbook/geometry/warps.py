"""Bijections of the plane that keep areas: a density that is bent by one keeps its values, its score and its quadrature."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from fdbook.checks import Array


__all__ = ["Shear", "Twist", "Warp"]


class Warp(eqx.Module):
    """An area-preserving bijection of the plane: it bends a density without changing its values."""

    @abc.abstractmethod
    def forward(self, u: Float[Array, "2"]) -> Float[Array, "2"]:
        """From the straight plane to the bent one."""

    @abc.abstractmethod
    def inverse(self, x: Float[Array, "2"]) -> Float[Array, "2"]:
        """From the bent plane back to the straight one."""


class Shear(Warp):
    """(u, v) -> (u, v + bend(u)) for a smooth scalar function `bend`.

    >>> warps.Shear(lambda u: u**2).forward(jnp.array([2.0, 1.0])).tolist()
    [2.0, 5.0]
    """

    bend: Callable = eqx.field(static=True)

    def forward(self, u: Float[Array, "2"]) -> Float[Array, "2"]:
        return jnp.stack([u[0], u[1] + self.bend(u[0])])

    def inverse(self, x: Float[Array, "2"]) -> Float[Array, "2"]:
        return jnp.stack([x[0], x[1] - self.bend(x[0])])


class Twist(Warp):
    """Turns each point about the origin by `rate` radians per unit of its squared distance from it."""

    rate: float = eqx.field(static=True)

    def _turn(self, x, sign):
        angle = sign * self.rate * jnp.sum(x**2)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([cos * x[0] - sin * x[1], sin * x[0] + cos * x[1]])

    def forward(self, u: Float[Array, "2"]) -> Float[Array, "2"]:
        return self._turn(u, 1.0)

    def inverse(self, x: Float[Array, "2"]) -> Float[Array, "2"]:
        return self._turn(x, -1.0)

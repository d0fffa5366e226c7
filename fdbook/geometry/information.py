"""What a metric could see of a density: local information for each action, and the blur of the perturbed time taken out again.

A score tells one direction; the Jacobian of the velocity tells a whole matrix. At a point x of time t it gives the negative
Hessian of log p_t, symmetric and of full rank, from d forward derivatives and no samples (E28). Its mean over p_t is the Fisher
matrix of p_t, which is that of the actions blurred by noise; for Gaussians the blur has a closed law (E27) and can be undone
(E29). What a step in a wrong metric costs is E26, `fdbook.geometry.anisotropy.efficiency`.

Functions of matrices take leading axes as batches.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fdbook.checks import Array, check_range, check_time


__all__ = [
    "blurred_condition",
    "deblurred_information",
    "information_from_jacobian",
    "jacobian",
    "local_information",
    "nearest_semidefinite",
]


def jacobian(function: Callable, point: Float[Array, " d"]) -> Float[Array, "m d"]:
    """The Jacobian (m, d) of a function of one point, a forward derivative for each column.

    XLA on a CPU makes plain matrix products of these, and not of jax.jacfwd's batched ones.

    >>> information.jacobian(lambda x: x * x, jnp.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    axes = jnp.eye(point.shape[0], dtype=point.dtype)
    return jnp.stack([jax.jvp(function, (point,), (axis,))[1] for axis in axes], axis=1)


def information_from_jacobian(t: Float[Array, ""] | float, slope: Float[Array, "*b d d"]) -> Float[Array, "*b d d"]:
    """E28: H = -Hess log p_t = (I - t dv/dx) / (1 - t), the symmetric part; t in [0, 1).

    It follows from E5 by one derivative. The Jacobian of an exact velocity is symmetric; that of a network nearly so, and what
    is not symmetric about it is left out. H has negative eigenvalues where log p_t is convex, as between two modes.

    >>> slope = jnp.zeros((2, 2))  # the velocity's Jacobian, of actions N(0, I) at t = 1/2, where p_t is N(0, I / 2)
    >>> information.information_from_jacobian(0.5, slope).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    t = check_time(t, "information_from_jacobian", open_high=True)
    symmetric = (slope + jnp.swapaxes(slope, -1, -2)) / 2
    identity = jnp.eye(slope.shape[-1], dtype=slope.dtype)
    return (jnp.broadcast_to(identity, slope.shape) - t * symmetric) / (1 - t)


def local_information(
    field: Callable, t: Float[Array, ""] | float, observation: Float[Array, " n"], x: Float[Array, " d"]
) -> Float[Array, "d d"]:
    """E28 at one point x (d,) of time t in [0, 1), read off a velocity field: (d, d), at the price of d forward derivatives.

    >>> field = flow.ExactVelocity(densities.gaussian(jnp.zeros(2), jnp.diag(jnp.array([1.0, 3.0]))))
    >>> matrix = information.local_information(field, 0.5, flow.EMPTY, jnp.ones(2))  # p_t is N(0, diag(1/2, 1))
    >>> [round(float(x), 3) for x in jnp.diagonal(matrix)]
    [2.0, 1.0]
    """
    return information_from_jacobian(t, jacobian(lambda point: field(jnp.asarray(t, x.dtype), observation, point), x))


def nearest_semidefinite(matrix: Float[Array, "*b d d"], floor: float = 0.0) -> Float[Array, "*b d d"]:
    """The matrix with its eigenvalues raised to `floor` at least: for floor 0 the nearest one that charges no step negatively.

    >>> matrix = information.nearest_semidefinite(jnp.diag(jnp.array([2.0, -1.0])))
    >>> [round(float(x), 3) for x in jnp.diagonal(matrix)]
    [2.0, 0.0]
    """
    values, axes = jnp.linalg.eigh(matrix)
    return _with_eigenvalues(jnp.maximum(values, floor), axes)


def deblurred_information(
    information: Float[Array, "*b d d"], t: Float[Array, ""] | float, *, least_width: float = 1e-3
) -> Float[Array, "*b d d"]:
    """E29: t^2 H (I - (1 - t)^2 H)^-1 for a matrix H of E28, or its mean over p_t; t in (0, 1).

    With the exact H of a point it is Cov[a | x_t]^-1 - (t / (1 - t))^2 I; for a Gaussian, at every t, the precision of the
    actions themselves. Eigenvalues of H below 0 count as 0, and those that say that the actions are narrower than `least_width`
    (> 0, in action units) count as that width. An error of H grows by 1 + (1 - t)^2 / (t width)^2 along a direction of that
    width, so that 1 - t is best near the thinnest one.

    >>> blurred = jnp.diag(jnp.array([2.0, 1.0]))  # of N(0, diag(1, 3)) at t = 1/2: p_t is N(0, diag(1/2, 1))
    >>> [round(float(x), 3) for x in jnp.diagonal(information.deblurred_information(blurred, 0.5))]
    [1.0, 0.333]
    """
    t = check_time(t, "deblurred_information", open_low=True, open_high=True)
    check_range(least_width, "a least width", "deblurred_information", open_low=True)
    values, axes = jnp.linalg.eigh(information)
    values = jnp.maximum(values, 0.0)
    left = 1 - (1 - t) ** 2 * values  # the actions' share of the variance of p_t; rounding may leave it at 0 or below
    narrow = left <= t**2 * least_width**2 * values
    precision = jnp.where(narrow, 1 / least_width**2, t**2 * values / jnp.where(narrow, 1.0, left))
    return _with_eigenvalues(precision, axes)


def blurred_condition(
    narrow: Float[Array, "*b"] | float, wide: Float[Array, "*b"] | float, t: Float[Array, "*b"] | float
) -> Float[Array, "*b"]:
    """E27: the condition number of what the metric at time t misses of a Gaussian with standard deviations `narrow` <= `wide`.

    It is that of F_t^-1 F with F_t = (t^2 Sigma + (1 - t)^2 I)^-1, which bounds by E26 what is lost: 1 for t = 1, and that of F
    itself, at which the metric is no better than L2, for t = 0. The blur stops mattering when 1 - t is below `narrow`.

    >>> [round(float(information.blurred_condition(1.0, 2.0, t)), 3) for t in (0.0, 1.0)]
    [4.0, 1.0]
    """
    check_range(jnp.asarray(narrow), "standard deviations", "blurred_condition", open_low=True)
    check_range(jnp.asarray(wide) / jnp.asarray(narrow), "wide over narrow", "blurred_condition", low=1.0)
    t = jnp.asarray(check_time(t, "blurred_condition"))
    return (t**2 + ((1 - t) / narrow) ** 2) / (t**2 + ((1 - t) / wide) ** 2)


def _with_eigenvalues(values, axes):
    return jnp.einsum("...ij,...j,...kj->...ik", axes, values, axes)

"""Symmetric matrices as quadratic forms: whether they can be metrics, their axes, how round they are, their ellipses."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fdbook.checks import Array, check_shape, known


__all__ = ["alignment", "check_metric", "condition_number", "ellipse", "spectrum"]


def check_metric(matrix: Array, where: str) -> None:
    """Refuses a matrix (..., d, d) that is not finite, symmetric and positive semi-definite up to rounding; traced ones pass."""
    if not known(matrix):
        return
    matrix = np.asarray(matrix)
    matrix = matrix if np.issubdtype(matrix.dtype, np.inexact) else matrix.astype(float)
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
    """The stiffest over the softest eigenvalue, at least 1; infinite for a metric that is singular up to rounding.

    >>> [round(float(metrics.condition_number(jnp.diag(jnp.array([3.0, stiff])))), 3) for stiff in (3.0, 12.0)]
    [1.0, 4.0]
    """
    values = spectrum(matrix)[0]
    charged = values[..., 0] > jnp.finfo(values.dtype).eps * values.shape[-1] * values[..., -1]
    return jnp.where(charged, values[..., -1] / jnp.where(charged, values[..., 0], 1.0), jnp.inf)


def alignment(first: Float[Array, "*b d d"], second: Float[Array, "*b d d"]) -> Float[Array, "*b"]:
    """|cos| of the angle between the stiffest axes of two metrics; 1 when they agree, 0 when they are perpendicular.

    >>> first, second = jnp.diag(jnp.array([1.0, 4.0])), jnp.diag(jnp.array([9.0, 2.0]))
    >>> round(float(metrics.alignment(first, 5 * first)), 3), round(float(metrics.alignment(first, second)), 3)
    (1.0, 0.0)
    """
    return jnp.abs(jnp.sum(spectrum(first)[1][..., -1] * spectrum(second)[1][..., -1], axis=-1))


def ellipse(matrix: Float[Array, "2 2"], cost: float | Float[Array, ""], n: int = 100) -> Float[Array, "n 2"]:
    """n points of the curve delta^T F delta = cost for a positive definite 2 x 2 metric, closed, shape (n, 2).

    >>> points = metrics.ellipse(jnp.diag(jnp.array([1.0, 4.0])), 1.0, n=5)  # half as far at four times the cost
    >>> [round(float(x), 3) for x in jnp.max(points, axis=0)]
    [1.0, 0.5]
    """
    check_shape(matrix, (2, 2), "a metric", "ellipse")
    values, axes = spectrum(matrix)
    if known(values) and not (values[0] > 0 and cost > 0):
        raise ValueError(f"ellipse takes a positive definite metric and a positive cost; got {values} and {cost}.")
    angle = jnp.linspace(0, 2 * np.pi, n, dtype=values.dtype)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return (circle * jnp.sqrt(cost / values)[None]) @ axes.T

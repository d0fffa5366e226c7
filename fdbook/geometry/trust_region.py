"""The best linear step under a quadratic trust region, and what is lost by taking L2 for the metric.

maximize g . delta subject to 1/2 delta^T F delta <= epsilon, for a gradient g (d,) and a metric F (d, d), symmetric positive
semi-definite. Everything is written in F's eigenbasis, where it stays accurate for ill-conditioned metrics; leading axes of g
and F are batches. In a direction that F does not charge at all the step has no bound: eigenvalues are then raised to `floor`
times the largest one, and the functions that have a limit there return it.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fdbook.checks import Array, check_finite, check_range
from fdbook.geometry.metrics import check_metric


__all__ = ["Step", "fisher_step", "gap", "kantorovich_bound", "l2_step"]


class Step(NamedTuple):
    """A displacement delta (..., d) and its first-order gain g . delta (...,)."""

    delta: Float[Array, "*b d"]
    gain: Float[Array, "*b"]


def _eigenbasis(gradient, metric, where):
    check_metric(metric, where)
    if jnp.shape(gradient) != jnp.shape(metric)[:-1]:
        raise ValueError(
            f"{where} takes a gradient (..., d) and a metric (..., d, d); got {jnp.shape(gradient)} and {jnp.shape(metric)}."
        )
    values, axes = jnp.linalg.eigh(metric)
    gradient = check_finite(gradient, "gradients", where)
    return jnp.maximum(values, 0.0), axes, jnp.einsum("...ij,...i->...j", axes, gradient)


def _ratio(top, bottom):
    """top / bottom, and 0 where the bottom vanishes."""
    return jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1.0), 0.0)


def fisher_step(
    gradient: Float[Array, "*b d"], metric: Float[Array, "*b d d"], epsilon: float, *, floor: float = 1e-6
) -> Step:
    """E13: delta* = sqrt(2 epsilon / (g^T F^-1 g)) F^-1 g, with gain sqrt(2 epsilon g^T F^-1 g); epsilon > 0 in nats.

    A zero gradient gives a zero step. Raises ValueError for a metric that is not positive semi-definite, mismatched shapes,
    or NaN. A zero metric bounds no direction, and gives a zero step too.

    >>> step = trust_region.fisher_step(jnp.array([3.0, 8.0]), jnp.diag(jnp.array([1.0, 4.0])), 0.5)
    >>> [round(float(x), 3) for x in step.delta], round(float(step.gain), 3)  # F^-1 g = (3, 2), g^T F^-1 g = 25
    ([0.6, 0.4], 5.0)
    """
    check_range(epsilon, "a trust region epsilon", "fisher_step", open_low=True)
    values, axes, g = _eigenbasis(gradient, metric, "fisher_step")
    values = jnp.maximum(values, floor * values[..., -1:])
    natural = _ratio(g, values)
    length = jnp.sum(g * natural, axis=-1)
    step = natural * _ratio(jnp.sqrt(2 * epsilon * length), length)[..., None]
    return Step(jnp.einsum("...ij,...j->...i", axes, step), jnp.sqrt(2 * epsilon * length))


def l2_step(
    gradient: Float[Array, "*b d"], metric: Float[Array, "*b d d"], epsilon: float, *, floor: float = 1e-6
) -> Step:
    """E14: the step along g whose cost 1/2 delta^T F delta is epsilon, with gain sqrt(2 epsilon) |g|^2 / sqrt(g^T F g).

    >>> step = trust_region.l2_step(jnp.array([3.0, 2.0]), jnp.diag(jnp.array([1.0, 4.0])), 0.5)
    >>> [round(float(x), 3) for x in step.delta], round(float(step.gain), 3)  # g^T F g = 25, |g|^2 = 13
    ([0.6, 0.4], 2.6)
    """
    check_range(epsilon, "a trust region epsilon", "l2_step", open_low=True)
    values, _, g = _eigenbasis(gradient, metric, "l2_step")
    cost = jnp.sum(jnp.maximum(values, floor * values[..., -1:]) * g**2, axis=-1)
    scale = _ratio(np.sqrt(2 * epsilon).item(), jnp.sqrt(cost))
    return Step(scale[..., None] * gradient, scale * jnp.sum(gradient**2, axis=-1))


def gap(gradient: Float[Array, "*b d"], metric: Float[Array, "*b d d"]) -> Float[Array, "*b"]:
    """E15: gain(L2) / gain(Fisher) = |g|^2 / sqrt((g^T F g)(g^T F^-1 g)), in [0, 1]; 1 for an eigenvector or a zero gradient.

    For a singular metric it is the limit of vanishing damping: 0 when g leans partly into the null space, 1 when wholly.

    >>> metric, gradients = jnp.diag(jnp.array([1.0, 4.0])), (jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0]))
    >>> [round(float(trust_region.gap(g, metric)), 3) for g in gradients]  # an eigenvector; 2 / sqrt(5 * 5/4)
    [1.0, 0.8]
    """
    values, _, g = _eigenbasis(gradient, metric, "gap")
    weights = _ratio(g**2, jnp.sum(g**2, axis=-1, keepdims=True))
    charged = values > jnp.finfo(values.dtype).eps * values.shape[-1] * values[..., -1:]
    free = jnp.sum(jnp.where(charged, 0.0, weights), axis=-1)
    relative = jnp.where(charged, values / jnp.where(values[..., -1:] > 0, values[..., -1:], 1.0), 1.0)
    stiff = jnp.sum(jnp.where(charged, weights * relative, 0.0), axis=-1)
    soft = jnp.sum(jnp.where(charged, weights / relative, 0.0), axis=-1)
    inside = jnp.where(stiff * soft > 0, 1.0 / jnp.sqrt(jnp.where(stiff * soft > 0, stiff * soft, 1.0)), 1.0)
    tiny = jnp.finfo(values.dtype).eps * values.shape[-1]
    return jnp.where(free <= tiny, jnp.minimum(inside, 1.0), jnp.where(free >= 1 - tiny, 1.0, 0.0))


def kantorovich_bound(condition: Float[Array, "*b"] | float) -> Float[Array, "*b"]:
    """E15: 2 sqrt(k) / (1 + k), the smallest `gap` that a metric of condition number k >= 1 allows; 0 for an infinite one.

    >>> [round(float(trust_region.kantorovich_bound(k)), 3) for k in (1.0, 4.0, 100.0)]  # 1, 4/5, 20/101
    [1.0, 0.8, 0.198]
    """
    condition = check_range(jnp.asarray(condition), "a condition number", "kantorovich_bound", low=1.0)
    return 2.0 / (jnp.sqrt(condition) + 1.0 / jnp.sqrt(condition))

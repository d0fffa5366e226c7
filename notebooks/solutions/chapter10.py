"""Worked solutions of chapter 10, and typical mistakes with a piece of what the checker says about them."""

import jax
import jax.numpy as jnp


def tilted(mass, values, temperature):
    # Only differences of value count: with the largest subtracted, no exponential overflows.
    weights = mass * jnp.exp((values - jnp.max(values)) / temperature)
    return weights / jnp.sum(weights)


def kl(share, mass):
    # 0 log 0 counts as 0; the inner `where` keeps the logarithm finite, the outer one drops the cell.
    full = share > 0
    return jnp.sum(jnp.where(full, share * jnp.log(jnp.where(full, share, 1.0) / mass), 0.0))


def shifts(gradient, covariance, alpha, temperature):
    # E17: alpha |shift|^2 / d - g . shift is least where 2 alpha shift / d = g. E25: a Gaussian times exp(g . a / lambda)
    # is the Gaussian again, moved by covariance g / lambda, as completing the square shows.
    return gradient.size * gradient / (2 * alpha), covariance @ gradient / temperature


answers = {"10.1": tilted, "10.2": kl, "10.3": shifts}


def _normal(weights):
    return weights / jnp.sum(weights)


def _ours(change):
    """E17's shift changed, E25's as it should be."""

    def wrong(gradient, covariance, alpha, temperature):
        right = shifts(gradient, covariance, alpha, temperature)
        return change(right[0], gradient, covariance, alpha), right[1]

    return wrong


def _best(change):
    """E17's shift as it should be, E25's changed."""

    def wrong(gradient, covariance, alpha, temperature):
        right = shifts(gradient, covariance, alpha, temperature)
        return right[0], change(right[1], gradient, covariance, temperature)

    return wrong


mistakes = {
    "10.1": [
        (lambda m, v, t: m * jnp.exp(v / t), "do not add up to 1"),
        (lambda m, v, t: tilted(m, v, t) / jnp.max(tilted(m, v, t)), "it is the sum"),
        (lambda m, v, t: jax.nn.softmax(v / t), "the behavior has been forgotten"),
        (lambda m, v, t: tilted(m, v, 1 / t), "leave the behavior as it is"),
        (lambda m, v, t: tilted(m, -v, t), "of the lowest value"),
        (lambda m, v, t: tilted(m, v, 1.0), "has not been used"),
        (lambda m, v, t: m + jax.nn.softmax(v / t), "grow or shrink by a factor"),
        (lambda m, v, t: jax.nn.one_hot(jnp.argmax(jnp.where(m > 0, v, -jnp.inf)), m.size), "a temperature of 0"),
        (lambda m, v, t: m, "and then normalizes"),
        (lambda m, v, t: _normal(m * jnp.exp(v / t)), "makes it overflow"),
        (lambda m, v, t: _normal(m * jnp.exp(jnp.minimum(v / t, 80.0))), "and does"),
        (lambda m, v, t: tilted(m, v, t)[:, None], "shape (12,)"),
    ],
    "10.2": [
        (lambda p, q: kl(q, p), "the other direction"),
        (lambda p, q: -kl(p, q), "never negative"),
        (lambda p, q: (kl(p, q) + kl(q, p)) / 2, "averaged here"),
        (lambda p, q: kl(p, q) / jnp.log(2), "bits"),
        (lambda p, q: jnp.mean(jnp.log(p / q)), "weighed alike"),
        (lambda p, q: jnp.sum(jnp.log(p / q)), "counts fully"),
        (lambda p, q: jnp.mean(p * jnp.log(p / q)), "weights already"),
        (lambda p, q: -jnp.sum(p * jnp.log(q)), "cross-entropy"),
        (lambda p, q: jnp.sum(p * jnp.log(p)), "minus an entropy"),
        (lambda p, q: jnp.sum(jnp.abs(p - q)) / 2, "total variation"),
        (lambda p, q: 7 * kl(p, q), "over the policy's own cells"),
        (lambda p, q: jnp.sum(p * jnp.log(p / q)), "0 log 0 counts as 0"),
        (lambda p, q: jnp.sum(p * jnp.log(jnp.maximum(p, 0.01) / q)) + jnp.sum(p == 0), "added or lost"),
    ],
    "10.3": [
        (_ours(lambda s, g, c, a: g / (2 * a)), "a mean over the d coordinates, not a sum"),
        (_ours(lambda s, g, c, a: 3 * g / a), "the slope of a square carries a factor"),
        (_ours(lambda s, g, c, a: g / a), "neither the slope"),
        (_ours(lambda s, g, c, a: -s), "E17's shift: this one lowers"),
        (_ours(lambda s, g, c, a: 3 * g * a / 2), "hold the policy back"),
        (_ours(lambda s, g, c, a: c @ s), "does not know the behavior"),
        (_ours(lambda s, g, c, a: g / jnp.linalg.norm(g)), "only the direction is left"),
        (_ours(lambda s, g, c, a: 7 * s), "meets that of the value"),
        (_best(lambda s, g, c, t: g / t), "the behavior has been forgotten"),
        (_best(lambda s, g, c, t: -s), "E25's shift: this one lowers"),
        (_best(lambda s, g, c, t: jnp.linalg.solve(c, g) / t), "where there is least room"),
        (_best(lambda s, g, c, t: s / 2), "the factor 1/2"),
        (_best(lambda s, g, c, t: 2 * s), "the factor 1/2"),
        (_best(lambda s, g, c, t: s * t**2), "a higher temperature"),
        (_best(lambda s, g, c, t: jnp.diag(c) * g / t), "correlated"),
        (lambda g, c, a, t: (shifts(g, c, a, t)[0],) * 2, "E17's once more"),
        (_best(lambda s, g, c, t: 7 * s), "where is its mean now"),
        (lambda g, c, a, t: shifts(g, c, a, t)[0], "return two shifts"),
    ],
}

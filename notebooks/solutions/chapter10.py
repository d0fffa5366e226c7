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


def best_of_n(mass, values, n):
    # The winner is at or below a value when all n draws are. A level of value wins with the difference of two such chances,
    # and its cells share that by their mass; the inner `where` keeps a level without mass from being 0 / 0.
    upto, below, level = (
        jnp.sum(mass * compare(values, values[:, None]), axis=1) for compare in (jnp.less_equal, jnp.less, jnp.equal)
    )
    return jnp.where(level > 0, mass * (upto**n - below**n) / jnp.where(level > 0, level, 1.0), 0.0)


answers = {"10.1": tilted, "10.2": kl, "10.3": shifts, "10.4": best_of_n}


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


def _upto(mass, values, strict=False):
    return jnp.sum(mass * ((values < values[:, None]) if strict else (values <= values[:, None])), axis=1)


def _careless(mass, values, n):
    """As the chapter's `chosen`: equal cells rank as they stand."""
    order = jnp.argsort(values)
    return jnp.zeros_like(mass).at[order].set(jnp.diff(jnp.cumsum(mass[order]) ** n, prepend=0.0))


def _whole_level(mass, values, n):
    return _upto(mass, values) ** n - _upto(mass, values, strict=True) ** n


def _unguarded(mass, values, n):
    return mass * _whole_level(mass, values, n) / (_upto(mass, values) - _upto(mass, values, strict=True))


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
    "10.4": [
        (lambda m, v, n: n * m * _upto(m, v) ** (n - 1), "a piece of u, from one end"),
        (lambda m, v, n: _normal(n * m * _upto(m, v) ** (n - 1)), "does not make up"),
        (lambda m, v, n: n * m * _upto(m, v, strict=True) ** (n - 1), "a cell drawn twice"),
        (lambda m, v, n: _upto(m, v) ** n, "no better than the cell"),
        (lambda m, v, n: best_of_n(m, -v, n), "the worst of the draws"),
        (lambda m, v, n: best_of_n(m, v, n - 1), "one draw too few"),
        (lambda m, v, n: best_of_n(m, v, n + 1), "one draw too many"),
        (lambda m, v, n: jax.nn.one_hot(jnp.argmax(v), m.size), "the limit of very many"),
        (lambda m, v, n: tilted(m, v, 1 / n), "that is a tilt"),
        (lambda m, v, n: m, "nothing has been chosen"),
        (lambda m, v, n: _normal(m * v**2), "with 3 draws and no ties"),
        (_careless, "that stands later"),
        (lambda m, v, n: _careless(m[::-1], v[::-1], n)[::-1], "that stands earlier"),
        (_whole_level, "belongs to all of them"),
        (lambda m, v, n: _whole_level(m, v, n) / jnp.sum(v == v[:, None], axis=1), "not by their number"),
        (lambda m, v, n: jax.nn.one_hot(jnp.argmax(v), m.size) if n == 1 else best_of_n(m, v, n), "with one draw"),
        (_unguarded, "0 / 0"),
        (lambda m, v, n: best_of_n(m, v, n) + 0.1 * (m == 0), "can never be drawn"),
        (lambda m, v, n: best_of_n(m, v, min(n, 100)), "ten-thousandth"),
        (lambda m, v, n: best_of_n(m, v, n)[:, None], "shape (5,)"),
    ],
}

"""Worked solutions of chapter 07, and typical mistakes with a piece of what the checker says about them."""

import jax.numpy as jnp
import numpy as np

from fdbook.geometry import trust_region


def blurred_condition(covariance, t):
    # x_t = (1 - t) z + t a adds the variances of its parts, and the Fisher matrix is the inverse of what results.
    values = jnp.linalg.eigvalsh(t**2 * covariance + (1 - t) ** 2 * jnp.eye(len(covariance)))
    return values[-1] / values[0]


def stein_number(scores, points):
    return -jnp.mean(scores * (points - jnp.mean(points, axis=0)))


def share_above(conditions, loss):
    return jnp.mean(1 - trust_region.kantorovich_bound(conditions) > loss)


def _condition(scores):
    # eigvalsh of many small matrices at once; the mean of outer products is symmetric.
    values = np.linalg.eigvalsh(np.swapaxes(scores, -1, -2) @ scores)
    return values[..., -1] / values[..., 0]


def is_thin(scores, level=0.05):
    # Round scores of the same K and d, made here: is the measured condition number among their largest 5%?
    round_scores = np.random.default_rng(0).normal(size=(400, *np.shape(scores)))
    return bool(_condition(np.asarray(scores)) > np.quantile(_condition(round_scores), 1 - level))


answers = {"07.1": blurred_condition, "07.2": stein_number, "07.3": share_above, "07.4": is_thin}


def _edge(scores):
    """The end to which the condition number of a round sample may reach when K and d are large."""
    root = (scores.shape[1] / scores.shape[0]) ** 0.5
    return ((1 + root) / (1 - root)) ** 2


def _blurred(action, noise):
    def condition(covariance, t):
        values = jnp.linalg.eigvalsh(action(t) * covariance + noise(t) * jnp.eye(len(covariance)))
        return values[-1] / values[0]

    return condition


mistakes = {
    "07.1": [
        (lambda c, t: jnp.linalg.cond(c), "does not change with t"),
        (_blurred(lambda t: 1.0, lambda t: (1 - t) ** 2), "is not whole"),
        (_blurred(lambda t: t, lambda t: 1 - t), "as the path mixes the points"),
        (_blurred(lambda t: t**2, lambda t: 1 - t), "the noise's part is off"),
        (_blurred(lambda t: (1 - t) ** 2, lambda t: t**2), "at t = 1 the noise"),
        (lambda c, t: 1 / blurred_condition(c, t), "never below 1"),
        (lambda c, t: jnp.sqrt(blurred_condition(c, t)), "you compare widths"),
        (lambda c, t: t**2 * c + (1 - t) ** 2 * jnp.eye(len(c)), "shape ()"),
        (lambda c, t: 2 * blurred_condition(c, t), "only noise, which is round"),
    ],
    "07.2": [
        (lambda s, x: jnp.mean(s * (x - x.mean(axis=0))), "wrong sign"),
        (lambda s, x: -jnp.mean(jnp.sum(s * (x - x.mean(axis=0)), axis=1)), "grows with the dimension"),
        (lambda s, x: -jnp.mean(s * x), "all points move by one vector"),
        (lambda s, x: -jnp.sum(s * (x - x.mean(axis=0))), "how many points"),
        (lambda s, x: jnp.ones(()), "nothing has been measured"),
        (lambda s, x: -s.T @ (x - x.mean(axis=0)) / len(x), "shape ()"),
    ],
    "07.3": [
        (lambda k, loss: jnp.mean(trust_region.kantorovich_bound(k) > loss), "where much is kept"),
        (lambda k, loss: jnp.mean(trust_region.kantorovich_bound(k) < loss), "lose more than that"),
        (lambda k, loss: 1 - share_above(k, loss), "the other states"),
        (lambda k, loss: 10 * share_above(k, loss), "a number of states"),
        (lambda k, loss: jnp.mean(1 - trust_region.kantorovich_bound(jnp.mean(k)) > loss), "one average state"),
        (lambda k, loss: jnp.mean(1 - 4 * k / (1 + k) ** 2 > loss), "the square of the one"),
    ],
    "07.4": [
        (lambda s: _condition(s) > 1.2, "of the round states thin"),
        (lambda s: _condition(s) > 10, "of the thin states"),
        (lambda s: _condition(s) > 2 * _edge(s), "of the thin states"),
        (lambda s: _condition(s), "True or False"),
        (lambda s: s > 0, "shape ()"),
    ],
}

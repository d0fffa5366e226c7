"""Worked solutions of chapter 03, and typical mistakes with a piece of what the checker says about them."""

import jax
import jax.numpy as jnp


def score(t, x, v):
    # The mean noise is E[z | x] = x - t v, and the score of a density blurred by (1 - t) z is -E[z | x] / (1 - t).
    return (t * v - x) / (1 - t)


def time(std, share):
    # std^2 / (std^2 + blur^2) = share with blur = (1 - t) / t.
    return 1 / (1 + std * jnp.sqrt(1 / share - 1))


def _charge(t, variance):
    return (t * variance - (1 - t)) ** 2 / (t**2 * variance + (1 - t) ** 2)


def tipping_mean(t, wide, thin):
    # m^2 + charge(wide) = charge(thin).
    return jnp.sqrt(_charge(t, thin) - _charge(t, wide))


def _matching(read, actions, t, weight=0.5):
    # E|read - truth|^2 / 2 = E|read|^2 / 2 - E[read . truth] + a constant, and E[read . truth] = -E[div read] by parts.
    def term(action):
        return weight * jnp.sum(read(t, action) ** 2) + jnp.trace(jax.jacfwd(lambda a: read(t, a))(action))

    return float(jnp.mean(jax.vmap(term)(actions)))


def reading_time(read, actions, times):
    return min(times, key=lambda t: _matching(read, actions, t))


def _steins_number(read, actions, t):
    scores = jax.vmap(lambda a: read(t, a))(actions)
    return float(-jnp.mean(jnp.sum(scores * (actions - actions.mean(axis=0)), axis=-1)) / actions.shape[1])


answers = {"03.1": score, "03.2": time, "03.3": tipping_mean, "03.4": reading_time}

mistakes = {
    "03.1": [
        (lambda t, x, v: -score(t, x, v), "sign reversed: your score points away"),
        (lambda t, x, v: v / (1 - t), "this is E7"),
        (lambda t, x, v: x - t * v, "the mean noise"),
        (lambda t, x, v: (v - x) / (1 - t), "close for t near 1"),
        (lambda t, x, v: x + (1 - t) * v, "the mean action"),
        (lambda t, x, v: t * v - x, "right direction, but its length is off"),
        (lambda t, x, v: (t * v - x) / t, "right direction, but its length is off"),
        (lambda t, x, v: (x - t * v) / t, "right line, sign reversed, and its length"),
        (lambda t, x, v: x, "the direction is off"),
    ],
    "03.2": [
        (lambda std, share: std * jnp.sqrt(1 / share - 1), "not yet a time"),
        (lambda std, share: 1 - std * jnp.sqrt(1 / share - 1), "for thin manifolds only"),
        (lambda std, share: 1 / (1 + std * jnp.sqrt(share / (1 - share))), "should give a later time"),
        (lambda std, share: 1 / (1 + std**2 * (1 / share - 1)), "variances add"),
        (lambda std, share: 1 / (1 + std**2 * jnp.sqrt(1 / share - 1)), "as if it were a variance"),
        (lambda std, share: 1 / (1 + std * (1 / share - 1)), "right for a share of a half"),
        (lambda std, share: 1 / std, "between 0 and 1"),
        (lambda std, share: 0.999, "later than it needs"),
        (lambda std, share: 0.5, "too early"),
    ],
    "03.3": [
        (lambda t, wide, thin: _charge(t, thin) - _charge(t, wide), "squared length"),
        (lambda t, wide, thin: jnp.sqrt(_charge(t, thin)), "charged something even at m = 0"),
        (lambda t, wide, thin: jnp.sqrt(_charge(t, thin) + _charge(t, wide)), "opposite senses"),
        (lambda t, wide, thin: tipping_mean(t, wide, thin) / (1 - t), "both entries carry the factor"),
        (lambda t, wide, thin: 0.0, "at the origin"),
        (lambda t, wide, thin: 1.5, "too far out."),
        (lambda t, wide, thin: 0.3, "not charged alike"),
    ],
    "03.4": [
        (lambda read, actions, times: times[-1], "you read too late"),
        (lambda read, actions, times: times[0], "you read too early"),
        (lambda read, actions, times: 0.9, "on one of the flows you read too"),
        (
            lambda read, actions, times: min(times, key=lambda t: abs(_steins_number(read, actions, t) - 1)),
            "on one of the flows you read too",
        ),
        (
            lambda read, actions, times: max(times, key=lambda t: _matching(read, actions, t)),
            "on one of the flows you read too",
        ),
        (lambda read, actions, times: min(times, key=lambda t: _matching(read, actions, t, 0.0)), "you read too late"),
        (lambda read, actions, times: 0.5, "one of the times that are given"),
    ],
}

"""Worked solutions of chapter 11, and typical mistakes with a piece of what the checker says about them."""

import jax.numpy as jnp


def _sums(gradients, fisher, forms):
    """What the steps G^-1 g gain and cost, over all states."""
    steps = jnp.linalg.solve(forms, gradients[..., None])[..., 0]
    return jnp.sum(gradients * steps), jnp.einsum("si,sij,sj->", steps, fisher, steps)


def efficiency(gradients, fisher, forms):
    # At the same KL the multiplier scales all steps of a metric alike, so that each gain is divided by the root of its cost.
    gain, cost = _sums(gradients, fisher, forms)
    best, least = _sums(gradients, fisher, fisher)
    return gain / jnp.sqrt(cost) / (best / jnp.sqrt(least))


def _curve(kl, gain, at):
    start = jnp.zeros(1)
    roots, gains = jnp.sqrt(jnp.concatenate([start, kl])), jnp.concatenate([start, gain])
    return jnp.interp(jnp.sqrt(at), roots, gains, right=jnp.nan)


def ratio(kl, gain, kl_l2, gain_l2, at):
    # Small steps gain in proportion to the root of their KL, so the curves are nearly straight there.
    return _curve(kl, gain, at) / _curve(kl_l2, gain_l2, at)


def spread(slopes, mean):
    # The derivative c_s / (2 sqrt(KL_s)) is the same in every state, so KL_s is proportional to c_s^2.
    return mean * slopes**2 / jnp.mean(slopes**2)


def unblurred(matrix, t, error):
    # E29 along each axis: 1 / m = t^2 w^2 + (1 - t)^2. Where an axis is thin, an error of m by a share is one of w^2 by that
    # share of (1 - t)^2 / t^2, and no squared width is believed below it. With no error at all a rounding error remains.
    values, axes = jnp.linalg.eigh(matrix)
    noise = (1 - t) ** 2 / t**2
    widths = 1 / (t**2 * values) - noise
    return axes @ jnp.diag(1 / jnp.maximum(widths, max(error * noise, 1e-6))) @ axes.T


answers = {"11.1": efficiency, "11.2": ratio, "11.3": spread, "11.4": unblurred}


def _own_budgets(gradients, fisher, forms):
    steps = jnp.linalg.solve(forms, gradients[..., None])[..., 0]
    best = jnp.linalg.solve(fisher, gradients[..., None])[..., 0]
    gain, cost = jnp.sum(gradients * steps, axis=1), jnp.einsum("si,sij,sj->s", steps, fisher, steps)
    return jnp.mean(gain / jnp.sqrt(cost * jnp.sum(gradients * best, axis=1)))


def _straight(kl, gain, kl_l2, gain_l2, at):
    def curve(kl, gain):
        return jnp.interp(at, jnp.append(0.0, kl), jnp.append(0.0, gain))

    return curve(kl, gain) / curve(kl_l2, gain_l2)


def _flat_ends(kl, gain, kl_l2, gain_l2, at):
    return ratio(kl, gain, kl_l2, gain_l2, jnp.minimum(at, jnp.minimum(kl[-1], kl_l2[-1])))


def _no_start(kl, gain, kl_l2, gain_l2, at):
    def curve(kl, gain):
        return jnp.interp(jnp.sqrt(at), jnp.sqrt(kl), gain)

    return curve(kl, gain) / curve(kl_l2, gain_l2)


def _e29(matrix, t, error):
    noise = (1 - t) ** 2
    return t**2 * matrix @ jnp.linalg.inv(jnp.eye(3) - noise * matrix)


def _fixed_floor(matrix, t, error):
    return unblurred(matrix, t, 1e-3 * t**2 / (1 - t) ** 2)


mistakes = {
    "11.1": [
        (lambda g, f, m: _sums(g, f, m)[0] / jnp.sqrt(_sums(g, f, m)[1]), "to be compared with that of the best ones"),
        (lambda g, f, m: 1 / efficiency(g, f, m), "a share of at most 1"),
        (_own_budgets, "a budget of its own"),
        (lambda g, f, m: _sums(g, f, m)[0] / _sums(g, f, f)[0], "compare them at the same KL"),
        (lambda g, f, m: efficiency(g, f, m) ** 2, "mind the root"),
        (lambda g, f, m: efficiency(g, m, f), "take the steps G^-1 g"),
        (
            lambda g, f, m: jnp.where(jnp.allclose(m, 7 * f), 0.5, efficiency(g, f, m)),
            "the multiplier takes the number up",
        ),
        (lambda g, f, m: efficiency(g, f, m)[None], "shape ()"),
    ],
    "11.2": [
        (_straight, "a gain grows with its root"),
        (lambda k, g, k2, g2, at: 1 / ratio(k, g, k2, g2, at), "the second curve over the first"),
        (lambda k, g, k2, g2, at: _curve(k, g, at) - _curve(k2, g2, at), "does not depend on the critic's unit"),
        (lambda k, g, k2, g2, at: g[1] / g2[1], "the second rungs"),
        (lambda k, g, k2, g2, at: g[0] / g2[0], "the first rungs"),
        (lambda k, g, k2, g2, at: jnp.ones(()), "and divide"),
        (_no_start, "start from no displacement"),
        (_flat_ends, "beyond the last rung"),
    ],
    "11.3": [
        (lambda c, mean: jnp.full(c.shape, mean), "every state gets the same here"),
        (lambda c, mean: mean * c / jnp.mean(c), "not enough"),
        (lambda c, mean: mean * c**2 / jnp.sum(c**2), "their mean should be the mean"),
        (lambda c, mean: jnp.where(c == jnp.max(c), mean * c.size, 0.0), "ever more slowly"),
        (lambda c, mean: spread(1 / c, mean), "the flattest state"),
        (lambda c, mean: mean * c**3 / jnp.mean(c**3), "the derivative in each KL_s"),
        (lambda c, mean: spread(c, mean)[:2], "shape (4,)"),
    ],
    "11.4": [
        (lambda m, t, error: m, "for exact matrices, read at t = 0.9"),
        (lambda m, t, error: jnp.eye(3), "L2 gains"),
        (_e29, "its width came out negative"),
        (_fixed_floor, "for matrices with an error of a fifth"),
        (lambda m, t, error: unblurred(m, t, 10 * error), "for matrices with an error of a tenth"),
        (lambda m, t, error: jnp.linalg.inv(unblurred(m, t, error)), "for exact matrices"),
        (lambda m, t, error: unblurred(m, t, error) + 50 * jnp.triu(m), "is a symmetric matrix"),
        (lambda m, t, error: jnp.linalg.eigvalsh(m), "shape (3, 3)"),
    ],
}

"""Worked solutions of chapter 12, and typical mistakes with a piece of what the checker says about them."""

import jax.numpy as jnp


def _costs(deltas, forms):
    """Half of delta G delta for every action (s, k, d) of every state."""
    return jnp.einsum("ski,sij,skj->sk", deltas, forms, deltas) / 2


def overspent(deltas, fisher, forms):
    # A budget is held in the mean over states and actions, so the means come before the ratio.
    return jnp.mean(_costs(deltas, fisher)) / jnp.mean(_costs(deltas, forms))


def least_kept(thin, wide, t):
    # E27: what F_t^-1 F is along either axis; E26: the worst direction of a metric with that condition number.
    along = [t**2 + (1 - t) ** 2 / width**2 for width in (thin, wide)]
    k = along[0] / along[1]
    return 2 * jnp.sqrt(k) / (1 + k)


def fewer_steps(ours, ours_solved, theirs, theirs_solved):
    # Where no start was solved by both, 0 / 0 is the NaN that is asked for.
    both = ours_solved & theirs_solved
    return jnp.sum(jnp.where(both, ours - theirs, 0.0)) / jnp.sum(both)


# B and D say more than was compared, E was not seen, and F has a cause without its experiment.
conclusions = "ACG"

answers = {"12.1": overspent, "12.2": least_kept, "12.3": fewer_steps, "12.4": conclusions}


def _flat(deltas):
    return jnp.broadcast_to(jnp.eye(deltas.shape[-1]), (len(deltas), *2 * deltas.shape[-1:]))


def _worst(k):
    return 2 * jnp.sqrt(k) / (1 + k)


def _blurred(thin, wide, t):
    return (t**2 * wide**2 + (1 - t) ** 2) / (t**2 * thin**2 + (1 - t) ** 2)


def _k(thin, wide, t):
    return (t**2 + (1 - t) ** 2 / thin**2) / (t**2 + (1 - t) ** 2 / wide**2)


def _own_means(a, x, b, y):
    return jnp.sum(a * x) / jnp.sum(x) - jnp.sum(b * y) / jnp.sum(y)


mistakes = {
    "12.1": [
        (lambda d, f, g: 1 / overspent(d, f, g), "what was said over what is spent"),
        (lambda d, f, g: jnp.mean(_costs(d, f) / _costs(d, g)), "the means come first"),
        (lambda d, f, g: overspent(d, f, g) / 2, "the half is in both"),
        (lambda d, f, g: overspent(d, f, g) * 2, "the half is in both"),
        (lambda d, f, g: overspent(d, f, _flat(d)), "that is L2's promise"),
        (lambda d, f, g: jnp.sum(_costs(d, f)) / jnp.mean(_costs(d, g)), "a sum over a mean"),
        (lambda d, f, g: overspent(d, g, f) ** 2, "half of delta F delta"),
        (lambda d, f, g: overspent(d, f, g)[None], "shape ()"),
    ],
    "12.2": [
        (lambda thin, wide, t: _worst((wide / thin) ** 2), "what L2 keeps"),
        (lambda thin, wide, t: _worst(_blurred(thin, wide, t)), "the condition number of F_t"),
        (_k, "what does the worst direction keep"),
        (lambda thin, wide, t: _worst(_k(thin, wide, t) ** 2), "mind the root"),
        (lambda thin, wide, t: 0.5 * least_kept(thin, wide, t), "E27 gives the condition number"),
        (lambda thin, wide, t: jnp.where(thin == wide, 0.9, least_kept(thin, wide, t)), "nothing is lost"),
    ],
    "12.3": [
        (_own_means, "the harder ones in it"),
        (lambda a, x, b, y: jnp.mean(a - b), "no steps to the goal"),
        (lambda a, x, b, y: -fewer_steps(a, x, b, y), "theirs minus ours"),
        (lambda a, x, b, y: jnp.sum((a - b) * (x | y)) / jnp.sum(x | y), "no two numbers to compare"),
        (lambda a, x, b, y: jnp.sum((a - b) * (x & y)), "the sum of the differences"),
        (lambda a, x, b, y: jnp.median(a), "the starts that both solve"),
        (lambda a, x, b, y: jnp.nan_to_num(fewer_steps(a, x, b, y)), "nothing to compare: return NaN"),
    ],
    "12.4": [
        ("AB", "with ten critics the same metric is level"),
        ({"A", "C", "D"}, "not seen for not there"),
        ("ACEG", "an order that is not resolved"),
        (["a", "c", "f", "g"], "does not reach fewer goals than the next of its kind"),
        ("CG", "does it hold zero?"),
        ("AG", "with four critics and with ten"),
        (("A", "C"), "beside what whole trainings did"),
        ("ACGX", "the statements are A to G; you name X"),
        ("", "you name none"),
        (3, "the letters of statements"),
    ],
}

"""Worked solutions of chapter 09, and typical mistakes with a piece of what the checker says about them."""

import jax.numpy as jnp


def value_of_steps(steps, discount):
    # -1 - discount - discount^2 - ..., k terms: a geometric series.
    return -(1 - discount**steps) / (1 - discount)


def sweep(values, neighbors, met, discount):
    return jnp.where(met, 0.0, -1 + discount * jnp.max(values[neighbors], axis=1))


def targets(rewards, masks, discount, q):
    return rewards + discount * masks * jnp.min(q, axis=0)


def read_run(curves, budget, discount):
    # The end of each curve alone, in the order in which the chapter looks.
    end = {name: jnp.mean(jnp.asarray(values)[-5:]) for name, values in curves.items()}
    if end["q"] > 0 or max(end["q_largest"], -end["q"]) > 1 / (1 - discount):
        return "out of range"
    if end["penalty"] > 1.2 * budget:
        return "out of reach"
    if 2 * end["multiplier"] * end["penalty"] * abs(end["actor_q"]) < 0.05:
        return "not felt"
    return "sound"


answers = {"09.1": value_of_steps, "09.2": sweep, "09.3": targets, "09.4": read_run}


def _whole(curves):
    """Curves whose last rows are the mean over all rows: what one sees who averages over the whole training."""
    return {name: jnp.full(5, jnp.mean(jnp.asarray(values))) for name, values in curves.items()}


def _without(name, value):
    """The solution with one curve replaced by a harmless one."""
    return lambda c, budget, discount: read_run(c | {name: jnp.full(5, value)}, budget, discount)


mistakes = {
    "09.1": [
        (lambda k, g: (1 - g**k) / (1 - g), "every step costs"),
        (lambda k, g: -k, "without a discount"),
        (lambda k, g: -(g**k), "the last step is worth"),
        (lambda k, g: g**k, "a reward of 1 at the goal"),
        (lambda k, g: -(1 - g ** (k + 1)) / (1 - g), "one step too many"),
        (lambda k, g: g * value_of_steps(k, g), "the first step is not discounted"),
        (lambda k, g: -(1 - g**k), "may be larger than 1 in size"),
        (lambda k, g: -jnp.ones_like(k) / (1 - g), "never reached"),
        (lambda k, g: -k * g**k, "a discount of its own"),
        (lambda k, g: -1 / (1 - g), "shape (5,)"),
        (lambda k, g: 7 * value_of_steps(k, g), "once more than the one before"),
    ],
    "09.2": [
        (lambda v, n, m, g: jnp.where(m, 0, -1 + g * jnp.min(v[n], axis=1)), "walking away"),
        (lambda v, n, m, g: jnp.where(m, 0, -1 + g * jnp.mean(v[n], axis=1)), "turns at random"),
        (lambda v, n, m, g: -1 + g * jnp.max(v[n], axis=1), "nothing more is paid"),
        (lambda v, n, m, g: jnp.where(m, 0, -1 + jnp.max(v[n], axis=1)), "is to be discounted"),
        (lambda v, n, m, g: jnp.where(m, 0, g * (jnp.max(v[n], axis=1) - 1)), "this step is not discounted"),
        (lambda v, n, m, g: jnp.where(m, 0, g * jnp.max(v[n], axis=1)), "has to be paid for"),
        (lambda v, n, m, g: jnp.where(m, 0, 1 + g * jnp.max(v[n], axis=1)), "its reward is negative"),
        (lambda v, n, m, g: jnp.where(m, 0, -1 + g * v), "look up the values"),
        (lambda v, n, m, g: jnp.where(m, -1, -1 + g * jnp.max(v[n], axis=1)), "a mask of 0"),
        (lambda v, n, m, g: jnp.max(v[n], axis=0), "shape (6,)"),
        (lambda v, n, m, g: 7 * sweep(v, n, m, g), "of the best neighbor"),
    ],
    "09.3": [
        (lambda r, m, g, q: r + g * m * jnp.mean(q, axis=0), "takes the lowest"),
        (lambda r, m, g, q: r + g * m * jnp.max(q, axis=0), "most cheerfully"),
        (lambda r, m, g, q: r + g * jnp.min(q, axis=0), "has not been used"),
        (lambda r, m, g, q: r + g * (1 - m) * jnp.min(q, axis=0), "not 1"),
        (lambda r, m, g, q: r + m * jnp.min(q, axis=0), "has not been discounted"),
        (lambda r, m, g, q: g * m * jnp.min(q, axis=0), "is missing"),
        (lambda r, m, g, q: g * (r + m * jnp.min(q, axis=0)), "comes now"),
        (lambda r, m, g, q: r + g * m * q[0], "only the first critic"),
        (lambda r, m, g, q: r + g * m * jnp.min(q), "not over the batch"),
        (lambda r, m, g, q: r - g * m * jnp.min(q, axis=0), "makes this one worse"),
        (lambda r, m, g, q: r + g * m * q, "shape (4,)"),
        (lambda r, m, g, q: 7 * targets(r, m, g, q), "of what follows"),
    ],
    "09.4": [
        (lambda c, b, g: "sound", 'that are "not felt" are called'),
        (lambda c, b, g: read_run(_whole(c), b, g), "are called something else"),
        (_without("q_largest", 0.0), "its largest in size at"),
        (_without("multiplier", 1.0), "in the end its budget brings"),
        (_without("penalty", 0.1), "times its budget"),
        (lambda c, b, g: "fine", "it should return one of"),
        (lambda c, b, g: 1.0, "it should return one of"),
    ],
}

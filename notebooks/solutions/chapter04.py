"""Worked solutions of chapter 04, and typical mistakes with a piece of what the checker says about them."""

import jax.numpy as jnp


def second_order_kl(scores, displacements, divergences):
    pull = jnp.sum(scores * displacements, axis=-1)
    return 0.5 * jnp.mean((pull + divergences) ** 2)


def scaling_kl(e, d):
    # E9: log pi(a) - log pi(a + e a) has the mean ((1 + e)^2 - 1) d / 2, and the determinant is (1 + e)^d.
    return d * (e + 0.5 * e**2 - jnp.log1p(e))


def free_ride(a):
    return jnp.stack([-a[1], a[0]]) / jnp.linalg.norm(a)


def kl_from_log_ratios(log_ratios):
    # exp(-l) - 1 has the mean zero over new actions. Added, it takes the first order of l away, and with it the noise;
    # what is left, exp(-l) - 1 + l, is never negative, and l^2 / 2 for small l.
    return jnp.mean(jnp.expm1(-log_ratios) + log_ratios)


answers = {"04.1": second_order_kl, "04.2": scaling_kl, "04.3": free_ride, "04.4": kl_from_log_ratios}

mistakes = {
    "04.1": [
        (lambda s, delta, div: 0.5 * jnp.mean(jnp.sum(s * delta, axis=-1) ** 2), "this is E11"),
        (lambda s, delta, div: jnp.mean((jnp.sum(s * delta, axis=-1) + div) ** 2), "twice too large"),
        (lambda s, delta, div: 0.5 * jnp.mean((jnp.sum(s * delta, axis=-1) - div) ** 2), "its sign is off"),
        (lambda s, delta, div: 0.5 * jnp.sum((jnp.sum(s * delta, axis=-1) + div) ** 2), "grows with the number"),
        (lambda s, delta, div: 0.5 * jnp.mean(jnp.sum(s * delta, axis=-1) + div) ** 2, "cancel losses"),
        (lambda s, delta, div: 0.5 * (jnp.sum(s * delta, axis=-1) + div) ** 2, "shape ()"),
    ],
    "04.2": [
        (lambda e, d: e**2 * d, "this is E10"),
        (lambda e, d: 0.5 * e**2 * (d**2 + 2 * d), "this is E11"),
        (lambda e, d: d * (jnp.log1p(e) + 0.5 / (1 + e) ** 2 - 0.5), "the other way round"),
        (lambda e, d: d * (e + 0.5 * e**2), "change of volume is missing"),
        (lambda e, d: d * (e + 0.5 * e**2) - jnp.log1p(e), "right for d = 1"),
    ],
    "04.3": [
        (lambda a: a / jnp.linalg.norm(a), "off the ring"),
        (lambda a: jnp.stack([-a[1], a[0]]), "its length is not one"),
        (lambda a: jnp.array([1.0, 0.0]), "at some actions only"),
        (lambda a: 0 * a, "standing still"),
    ],
    "04.4": [
        (lambda r: jnp.mean(r), "for a small step its typical error is"),
        (lambda r: jnp.maximum(jnp.mean(r), 0.0), "for a small step its typical error is"),
        (lambda r: 0.5 * jnp.mean(r**2), "off on the average"),
        (lambda r: 0.5 * jnp.var(r), "off on the average"),
        (lambda r: jnp.mean(jnp.expm1(r) - r), "off on the average"),
        (lambda r: 0.0 * r[0], "for a small step its typical error is 1.0 times"),
        (lambda r: r, "shape ()"),
    ],
}

"""Worked solutions of chapter 01, and typical mistakes with a piece of what the checker says about them."""

import itertools

import jax
import jax.numpy as jnp


def euler(field, z, steps):
    x = z
    for k in range(steps):
        x = x + field(k / steps, x) / steps
    return x


def _conditional_means(t, x, mean, std):
    # Cov(a, x) = t std^2, Cov(z, x) = 1 - t and Var(x) = t^2 std^2 + (1 - t)^2, in every coordinate.
    variance = t**2 * std**2 + (1 - t) ** 2
    return mean + t * std**2 / variance * (x - t * mean), (1 - t) / variance * (x - t * mean)


def velocity(t, x, mean, std):
    action, noise = _conditional_means(t, x, mean, std)
    return action - noise


def _normal(x):
    return -0.5 * jnp.sum(x**2) - jnp.log(2 * jnp.pi)


def log_prob(rates, action):
    # The noise is exp(-r) a, and the divergence is sum(rates) at every time and place.
    return _normal(jnp.exp(-rates) * action) - jnp.sum(rates)


def _late_euler(field, z, steps):
    x = z
    for k in range(steps):
        x = x + field((k + 1) / steps, x) / steps
    return x


def _frozen_euler(field, z, steps):
    x = z
    for _ in range(steps):
        x = x + field(0.0, x) / steps
    return x


def _leaping_euler(field, z, steps):
    x = z
    for k in range(steps):
        x = x + field(k / steps, x)
    return x


def _short_euler(field, z, steps):
    x = z
    for k in range(steps - 1):
        x = x + field(k / steps, x) / steps
    return x


def _along(times, field, z):
    x = z
    for t, after in itertools.pairwise(times):
        x = x + (after - t) * field(t, x)
    return x


def sampler(field, z, calls):
    # Each step asks for one velocity and carries on the change since the one before (Adams and Bashforth's second order). The
    # steps are shorter towards t = 1, where a thin behavior makes the velocity change fastest.
    times = 1 - (1 - jnp.linspace(0, 1, calls + 1)) ** 1.5
    x, before, length = z, None, 1.0
    for t, after in itertools.pairwise(times):
        now, step = field(t, x), after - t
        change = 0 if before is None else (now - before) * step / (2 * length)
        x, before, length = x + step * (now + change), now, step
    return x


def _crowded_start(field, z, calls):
    return _along(jnp.linspace(0, 1, calls + 1) ** 2, field, z)


def _stops_early(field, z, calls):
    return _along(jnp.linspace(0, 0.9, calls + 1), field, z)


def _long_heun(field, z, calls):
    times = jnp.linspace(0, 1, calls + 1)
    x = z
    for t, after in itertools.pairwise(times):
        first = field(t, x)
        x = x + (after - t) * (first + field(after, x + (after - t) * first)) / 2
    return x


answers = {"01.1": euler, "01.2": velocity, "01.3": log_prob, "01.4": sampler}

mistakes = {
    "01.1": [
        (_late_euler, "first step does not use the velocity at t = 0"),
        (_frozen_euler, "asked at t = 0 in every step"),
        (_leaping_euler, "several times too far"),
        (_short_euler, "one step before t = 1"),
        (lambda field, z, steps: euler(lambda t, x: -field(t, x), z, steps), "against the velocity"),
        (lambda field, z, steps: jnp.stack([z, euler(field, z, steps)]), "shape (2,)"),
        (lambda field, z, steps: z, "should end elsewhere"),
    ],
    "01.2": [
        (lambda t, x, mean, std: -velocity(t, x, mean, std), "wrong way"),
        (lambda t, x, mean, std: _conditional_means(t, x, mean, std)[0], "not how fast it moves"),
        (lambda t, x, mean, std: velocity(t, x, mean, std**0.5), "how the spread enters"),
        (lambda t, x, mean, std: mean - x, "no longer pure noise"),
        (lambda t, x, mean, std: mean - (1 - t) * x, "right at t = 0, wrong later"),
        (lambda t, x, mean, std: mean, "off already at t = 0"),
    ],
    "01.3": [
        (lambda rates, a: _normal(jnp.exp(-rates) * a) + jnp.sum(rates), "rises where the flow spreads"),
        (lambda rates, a: _normal(jnp.exp(-rates) * a), "does not integrate to 1"),
        (lambda rates, a: _normal(a) - jnp.sum(rates), "taken the action itself for its noise"),
        (lambda rates, a: _normal(jnp.exp(rates) * a) - jnp.sum(rates), "the other way in time"),
        (lambda rates, a: _normal(jnp.exp(-rates) * a) - jnp.prod(rates), "change of volume is off"),
        (lambda rates, a: _normal(rates * a), "the log-density is off"),
    ],
    "01.4": [
        (euler, "hardly better than equal Euler steps"),
        (_long_heun, "asked for 16 velocities"),
        (_crowded_start, "times that of equal Euler steps"),
        (_stops_early, "times that of equal Euler steps"),
        (lambda field, z, calls: z, "times that of equal Euler steps"),
        (lambda field, z, calls: jax.jit(lambda x: euler(field, x, calls))(z), "plain Python loop"),
        (lambda field, z, calls: jnp.stack([z, z]), "shape (1,)"),
    ],
}

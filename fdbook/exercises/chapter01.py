"""Checkers of chapter 01, a flow moves mass: an Euler loop, the velocity towards one Gaussian, a likelihood."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, exercise, same_shape


def _close(value, truth):
    return np.allclose(value, truth, rtol=1e-3, atol=1e-4)


def _field(t, x):
    """A velocity whose every argument matters."""
    return jnp.stack([jnp.cos(3.0 * t) - x[1], t * x[0] + 1.0])


def _euler(z, times, size):
    """Steps of one size whose velocities are taken at the given times."""
    x = np.asarray(z, float)
    for t in times:
        x = x + size * np.array([np.cos(3.0 * t) - x[1], t * x[0] + 1.0])
    return x


@exercise("01.1")
def _check_euler(answer):
    z, steps = jnp.array([0.4, -0.3]), 7
    value = same_shape(call(answer, _field, z, steps), (2,))
    times = np.arange(steps) / steps
    mistakes = (
        (times + 1 / steps, 1 / steps, "your first step does not use the velocity at t = 0."),
        (0 * times, 1 / steps, "your field is asked at t = 0 in every step."),
        (times, 1.0, "your particle goes several times too far: look at how long one step lasts."),
        (times[:-1], 1 / steps, "your particle stops one step before t = 1."),
        (np.append(times, 1.0), 1 / steps, "your particle goes one step beyond t = 1."),
        (times, -1 / steps, "your particle moves against the velocity."),
    )
    if _close(value, _euler(z, times, 1 / steps)):
        return "This is the sampler of most released flow policies, with steps = 10."
    for wrong_times, size, hint in mistakes:
        if _close(value, _euler(z, wrong_times, size)):
            raise Wrong(hint)
    raise Wrong(f"for a field that turns with time, {steps} steps should end elsewhere.")


def _conditional_means(t, x, mean, std):
    """E[a | x] and E[z | x] by linear regression on the joint Gaussian of (a, z, x)."""
    variance = t**2 * std**2 + (1 - t) ** 2
    return mean + t * std**2 / variance * (x - t * mean), (1 - t) / variance * (x - t * mean)


@exercise("01.2")
def _check_velocity(answer):
    mean = np.array([0.5, -0.2])
    cases = [(t, np.array(x), std) for t, x in ((0.0, [0.3, 0.8]), (0.6, [-0.4, 0.9])) for std in (1.0, 0.3)]
    values = [same_shape(call(answer, t, jnp.asarray(x), jnp.asarray(mean), std), (2,)) for t, x, std in cases]
    means = [_conditional_means(t, x, mean, std) for t, x, std in cases]
    wider = [_conditional_means(t, x, mean, std**0.5) for t, x, std in cases]
    if _close(values, [a - z for a, z in means]):
        return "Every flow policy with Gaussian actions moves like this: no network needed."
    mistakes = (
        ([z - a for a, z in means], "right line, wrong way: your particles leave the actions for the noise."),
        ([a for a, _ in means], "this is where a particle ends on average, not how fast it moves."),
        ([a for a, _ in wider], "this is where a particle ends on average, not how fast it moves."),
        ([a - z for a, z in wider], "right for std = 1 and wrong for std = 0.3: look at how the spread enters."),
        ([mean - x for _, x, _ in cases], "right at t = 0, wrong later: a point at t > 0 is no longer pure noise."),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    at_start = _close(values[:2], [a - z for a, z in means[:2]])
    raise Wrong(
        "right at t = 0, wrong later." if at_start else "it is off already at t = 0, where x is the noise itself."
    )


@exercise("01.3")
def _check_log_prob(answer):
    rates, action = np.array([0.4, -1.3]), np.array([0.7, 0.2])

    def normal(x):
        return -0.5 * np.sum(x**2) - np.log(2 * np.pi)

    value = same_shape(call(answer, jnp.asarray(rates), jnp.asarray(action)), ())
    widths = np.exp(rates)
    if _close(value, normal(action / widths) - np.log(np.prod(widths))):
        return "The divergence is the rate at which the flow spreads volume, and density pays for it."
    mistakes = (
        (normal(action / widths) + rates.sum(), "your density rises where the flow spreads the actions out."),
        (normal(action / widths), "your density does not integrate to 1: the change of volume is missing."),
        (normal(action) - rates.sum(), "you have taken the action itself for its noise."),
        (normal(action * widths) - rates.sum(), "you carried the action on; its noise lies the other way in time."),
        (normal(action / widths) - np.prod(rates), "the change of volume is off; try rates that are equal."),
    )
    for wrong, hint in mistakes:
        if _close(value, wrong):
            raise Wrong(hint)
    raise Wrong("the log-density is off; start from where the trajectory through the action began.")

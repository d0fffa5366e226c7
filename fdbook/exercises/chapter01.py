"""Checkers of chapter 01, a flow moves mass: an Euler loop, the velocity towards one Gaussian, a likelihood, and a sampler that
makes the most of few velocities."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

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


@exercise(
    "01.1",
    hints=(
        "how long is one step, and at which time and place does the first one ask for the velocity?",
        "keep t and x together: a step moves both, and the next velocity belongs to where they are then.",
    ),
)
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


@exercise(
    "01.2",
    hints=(
        "a, z and x are jointly Gaussian: a conditional mean is the mean plus covariance over variance times the deviation of x.",
        "Cov(a, x) and Cov(z, x) can be read off x = (1 - t) z + t a; divide both by Var(x), and subtract one from the other.",
    ),
)
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


@exercise(
    "01.3",
    hints=(
        "which noise does this action come from? Solve the equation of motion backwards in time.",
        "the divergence of this field is the same everywhere and at all times; what is its integral from 0 to 1?",
    ),
)
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


_MIXTURES = (([0.3, 0.7], [-0.9, 0.6], [0.1, 0.25]), ([0.5, 0.2, 0.3], [-1.0, 0.1, 0.8], [0.15, 0.08, 0.2]))


class _Counted:
    """The exact velocity of a mixture in one dimension, which counts how often it is asked."""

    def __init__(self, weights, means, stds):
        self.weights, self.means, self.stds = (np.asarray(part) for part in (weights, means, stds))
        self.calls = 0

    def __call__(self, t, x):
        if isinstance(x, jax.core.Tracer) or isinstance(t, jax.core.Tracer):
            raise ValueError(
                "call the field in a plain Python loop, without jit, vmap or scan, so that calls can be counted."
            )
        self.calls += 1
        t, x = float(t), np.asarray(x, float)
        spread, off = t**2 * self.stds**2 + (1 - t) ** 2, x - t * self.means
        log_weights = np.log(self.weights) - 0.5 * off**2 / spread - 0.5 * np.log(spread)
        shares = np.exp(log_weights - log_weights.max())
        each = self.means + (t * self.stds**2 - (1 - t)) / spread * off
        return jnp.asarray(np.sum(shares * each, keepdims=True) / shares.sum())

    def end(self, z):
        """Where the exact flow takes a noise: the action of the same quantile, by bisection."""
        low, high = -10.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            below = np.sum(self.weights * ndtr((middle - self.means) / self.stds)) < ndtr(z)
            low, high = (middle, high) if below else (low, middle)
        return low


def _equal_steps(field, z, calls):
    x = np.asarray(z)
    for step in range(calls):
        x = x + np.asarray(field(step / calls, x)) / calls
    return x


@exercise(
    "01.4",
    hints=(
        "Euler takes the velocity for constant during a step: two velocities at neighboring times tell how it changes.",
        "the velocity of the step before is still there, for free; and a thin behavior wants shorter steps near t = 1.",
    ),
)
def _check_sampler(answer):
    gained, noises = [], np.random.default_rng(14).normal(size=(12, 1))
    for mixture in _MIXTURES:
        for calls in (8, 12):
            field = _Counted(*mixture)
            truth = np.array([field.end(z[0]) for z in noises])
            ends = []
            for z in noises:
                field.calls = 0
                ends.append(same_shape(call(answer, field, jnp.asarray(z), calls), (1,))[0])
                if field.calls > calls:
                    raise Wrong(f"with calls = {calls} your sampler asked for {field.calls} velocities.")
            plain = [_equal_steps(field, z, calls)[0] for z in noises]
            gained.append(np.mean(np.abs(plain - truth)) / max(np.mean(np.abs(ends - truth)), 1e-12))
    if min(gained) < 0.95:
        raise Wrong(f"on one of the fresh mixtures its error is {1 / min(gained):.1f} times that of equal Euler steps.")
    if min(gained) < 1.5:
        raise Wrong(
            f"hardly better than equal Euler steps: on one of the fresh mixtures its error is {min(gained):.1f} times smaller."
        )
    return f"Its error is {min(gained):.1f} to {max(gained):.1f} times smaller than that of Euler steps. Can you double it?"

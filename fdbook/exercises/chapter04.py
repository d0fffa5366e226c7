"""Checkers of chapter 04, Fisher is local KL: E10 from samples, the KL of a scaling, a displacement that costs nothing, and an
estimate of the KL that is good for small steps and for large ones."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, exercise, same_shape


def _close(value, truth):
    return np.allclose(value, truth, rtol=1e-3, atol=1e-6)


@exercise(
    "04.1",
    hints=(
        "two numbers at each action say how the density changes there: one has the score in it, the other has not.",
        "add the two at each action before you square, and take the mean over the actions last.",
    ),
)
def _check_second_order(answer):
    random = np.random.default_rng(4)
    cases = [[random.normal(size=shape) for shape in ((n, d), (n, d), (n,))] for n, d in ((7, 2), (11, 3))]
    values = np.array([same_shape(call(answer, *map(jnp.asarray, case)), ()) for case in cases])

    def item(formula):
        return np.array([formula(np.einsum("nd,nd->n", s, delta), div) for s, delta, div in cases])

    if _close(values, item(lambda pull, div: 0.5 * np.mean((pull + div) ** 2))):
        return "You charge what the density feels: the pull along the score and the spread of the field."
    mistakes = (
        (lambda pull, div: np.mean((pull + div) ** 2), "twice too large."),
        (lambda pull, div: 0.5 * np.sum((pull + div) ** 2), "it grows with the number of actions."),
        (lambda pull, div: np.sum((pull + div) ** 2), "it grows with the number of actions, and is twice too large."),
        (lambda pull, div: 0.5 * np.mean(pull**2), "this is E11: a field that bunches the actions costs too little."),
        (lambda pull, div: 0.5 * np.mean(div**2), "a translation, which has no divergence, is free under your form."),
        (lambda pull, div: 0.5 * np.mean((pull - div) ** 2), "right without a divergence; with one, its sign is off."),
        (
            lambda pull, div: 0.5 * np.mean(pull**2 + div**2),
            "the pull and the spread are charged as if they never met.",
        ),
        (lambda pull, div: 0.5 * np.mean(pull + div) ** 2, "gains at one action cancel losses at another."),
        (lambda pull, div: 0.5 * np.mean(pull + div), "a cost that can be negative: look at the power."),
    )
    for formula, hint in mistakes:
        if _close(values, item(formula)):
            raise Wrong(hint)
    raise Wrong("the value is off; try a divergence of zero first, then scores of zero.")


def _kl_on_grid(e, d):
    """KL((1 + e) a | a) by summing q log(q / p) on one axis, for a standard normal in d dimensions."""
    x = np.linspace(-30, 30, 60_001)
    log_p, log_q = -0.5 * x**2, -0.5 * (x / (1 + e)) ** 2 - np.log(1 + e)
    return d * np.sum(np.exp(log_q) * (log_q - log_p)) * (x[1] - x[0]) / np.sqrt(2 * np.pi)


@exercise(
    "04.2",
    hints=(
        "write E9 for δ = e a: three terms, two of them means of |a|², which is d on the average.",
        "the matrix I + ∇δ is (1 + e) times the identity; what is the logarithm of its determinant in d dimensions?",
    ),
)
def _check_scaling(answer):
    cases = [(0.5, 1), (-0.4, 3), (1.0, 4)]
    values = np.array([same_shape(call(answer, e, d), ()) for e, d in cases])
    e, d = np.array(cases).T
    if _close(values, [_kl_on_grid(*case) for case in cases]):
        return "Its expansion begins with e^2 d, which is E10; the cubic term is why E10 is only local."
    back = [_kl_on_grid(-rate / (1 + rate), count) for rate, count in cases]
    mistakes = (
        (e**2 * d, "this is E10: right for small e, and not for e = 0.5."),
        (0.5 * e**2 * (d**2 + 2 * d), "this is E11: it is not right even for small e."),
        (back, "this is the KL from the standard Gaussian to the scaled one, the other way round."),
        (d * (e + 0.5 * e**2), "your KL is negative for e = -0.4: the change of volume is missing."),
        (d * (e + 0.5 * e**2) + d * np.log1p(e), "its slope at e = 0 is not zero, so it is negative on one side."),
        (e + 0.5 * e**2 - np.log1p(e), "right for d = 1; more dimensions cost more."),
        (d * (e + 0.5 * e**2) - np.log1p(e), "right for d = 1; in more dimensions the volume changes faster."),
        (2 * d * (e + 0.5 * e**2 - np.log1p(e)), "twice too large."),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    raise Wrong(
        "negative for some e, and a KL never is." if np.any(values < 0) else "the value is off at e = 0.5, d = 1."
    )


def _ring_score(a, radius=1.0, width=0.08):
    """The score of the ring's log-normal profile, which points along the radius."""
    r = np.linalg.norm(a)
    return a / r * (-np.log(r / radius) / ((width / radius) ** 2 * r) - 2 / r)


def _divergence(function, a, step=1e-2):
    """Central differences: exact for what is linear, good to a per cent for what turns with the angle."""
    moved = [[call(function, jnp.asarray(a + sign * step * axis)) for sign in (1, -1)] for axis in np.eye(2)]
    return sum((plus - minus)[i] / (2 * step) for i, (plus, minus) in enumerate(moved))


@exercise(
    "04.3",
    hints=(
        "which motion maps the ring onto itself?",
        "for E10 to vanish, the field needs no part along the radius and no divergence; then see to its length.",
    ),
)
def _check_free_ride(answer):
    angles, radii = np.linspace(0.3, 6.0, 5), np.array([0.9, 1.0, 1.1, 0.95, 1.05])
    actions = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    moves = np.array([same_shape(call(answer, jnp.asarray(a)), (2,)) for a in actions])
    spread = np.array([_divergence(answer, a) for a in actions])
    pull = np.array([_ring_score(a) @ move for a, move in zip(actions, moves, strict=True)])
    free, lengths = np.abs(pull + spread) < 0.05, np.linalg.norm(moves, axis=-1)
    if np.all(free) and np.allclose(lengths, 1, atol=1e-3):
        return "The policy is the same before and after, so no metric that measures policies should charge for it."
    if np.all(lengths < 1e-6):
        raise Wrong("standing still is free, but its length is not one.")
    if np.all(free):
        raise Wrong(f"it is free, but its length is not one: at |a| = {radii[2]} it is {lengths[2]:.2f}.")
    outward = np.abs(np.einsum("nd,nd->n", moves, actions)) / (lengths * radii + 1e-12)
    if np.all(outward > 0.99):
        raise Wrong("this leads off the ring, the dearest way there is.")
    if np.any(free) or np.ptp(moves, axis=0).max() < 1e-6:
        raise Wrong("it is free at some actions only: the ring turns, and so should the displacement.")
    raise Wrong(f"at ({actions[0][0]:.2f}, {actions[0][1]:.2f}) the density changes under your displacement.")


_STEPS = {"small": (0.02, 1.01), "large": (0.8, 1.2), "shift": (1.0, 1.0)}
_REPEATS, _COUNT = 200, 64


def _log_ratios(mean, width):
    """Samples (repeats, n) of log q(a) - log p(a) at a ~ q = N(mean, width^2), for p = N(0, 1), and KL(q | p)."""
    a = mean + width * np.random.default_rng(44).normal(size=(_REPEATS, _COUNT))
    ratios = 0.5 * a**2 - 0.5 * ((a - mean) / width) ** 2 - np.log(width)
    return ratios, 0.5 * (width**2 + mean**2 - 1) - np.log(width)


@exercise(
    "04.4",
    hints=(
        "most of the noise of ℓ cancels if you add something that has the same noise with the other sign, and a mean you know.",
        "the old density has mass one: which function of ℓ has the mean 1 over new actions? Its deviation from 1 may be added.",
    ),
)
def _check_estimate(answer):
    found, plain, truths = {}, {}, {}
    for name, step in _STEPS.items():
        ratios, truths[name] = _log_ratios(*step)
        found[name] = np.array([same_shape(call(answer, jnp.asarray(row)), ()) for row in ratios])
        plain[name] = np.sqrt(np.mean((ratios.mean(axis=1) - truths[name]) ** 2))
    error = {name: np.sqrt(np.mean((values - truths[name]) ** 2)) for name, values in found.items()}
    offset = {name: values.mean() / truths[name] - 1 for name, values in found.items()}
    if error["small"] > 0.5 * truths["small"]:
        raise Wrong(
            f"for a small step its typical error is {error['small'] / truths['small']:.1f} times the KL; the plain mean's is "
            f"{plain['small'] / truths['small']:.1f} times. You know one more mean exactly."
        )
    for name in ("large", "shift"):
        if abs(offset[name]) > 0.04 + 4 * error[name] / truths[name] / np.sqrt(_REPEATS):
            raise Wrong(
                f"good for small steps; for one of {truths[name]:.2f} nats it is {offset[name]:+.0%} off on the average."
            )
        if error[name] > 1.5 * plain[name]:
            raise Wrong(f"at {truths[name]:.2f} nats it is noisier than the plain mean of the log-ratios.")
    times = plain["small"] / error["small"]
    return f"For the small step its error is {times:.0f} times smaller than the plain mean's, and it is right for large ones."

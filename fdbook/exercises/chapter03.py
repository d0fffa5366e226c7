"""Checkers of chapter 03, the score inside the velocity: E5, the perturbed time, and where E7 tips over."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, exercise, same_shape


def _close(value, truth):
    return np.allclose(value, truth, rtol=1e-3, atol=1e-4)


@exercise("03.1")
def _check_score(answer):
    times, mean, variance = (0.3, 0.6, 0.95), np.array([0.4, -0.3]), 0.2
    x = np.array([0.7, 0.5])
    scores, velocities = [], []
    for t in times:  # a Gaussian's noised density, where the score is known without the velocity
        noised = t**2 * variance + (1 - t) ** 2
        scores.append(-(x - t * mean) / noised)
        velocities.append(mean + (t * variance - (1 - t)) / noised * (x - t * mean))
    scores, velocities = np.array(scores), np.array(velocities)
    values = np.array(
        [
            same_shape(call(answer, t, jnp.asarray(x), jnp.asarray(v)), (2,))
            for t, v in zip(times, velocities, strict=True)
        ]
    )
    if _close(values, scores):
        return "One line, no new network, no gradient: the score was inside the velocity all along."
    t = np.array(times)[:, None]
    mistakes = (
        (-scores, "sign reversed: your score points away from where the mass is."),
        (velocities / (1 - t), "this is E7: at the peak of a noised Gaussian it should vanish, and it does not."),
        (x - t * velocities, "this is the mean noise given x; its length and its sense are not yet those of a score."),
        ((velocities - x) / (1 - t), "close for t near 1, wrong for smaller t."),
        (x + (1 - t) * velocities, "this is the mean action given x, not a score."),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    lengths = np.linalg.norm(values, axis=-1) * np.linalg.norm(scores, axis=-1)
    cosines = np.sum(values * scores, axis=-1) / np.maximum(lengths, 1e-12)
    if _close(cosines, 1.0):
        raise Wrong("right direction, but its length is off by a factor that changes with t.")
    if _close(cosines, -1.0):
        raise Wrong("right line, sign reversed, and its length is off too.")
    raise Wrong("the direction is off; at a point where E[z | x] = 0 the score should vanish.")


@exercise("03.2")
def _check_time(answer):
    cases = [(std, share) for std in (0.3, 0.04) for share in (0.5, 0.9)]
    values = np.array([same_shape(call(answer, std, share), ()) for std, share in cases])
    stds, shares = np.array(cases).T
    grid = np.linspace(1e-6, 1, 2_000_001)
    kept = [std**2 / (std**2 + ((1 - grid) / grid) ** 2) for std in stds]
    truth = np.array([grid[np.argmax(k >= share)] for k, share in zip(kept, shares, strict=True)])
    if _close(values, truth):
        return "Thin manifolds ask for late times, and late times are where a learned score is least sure."
    blur = stds * np.sqrt(1 / shares - 1)
    mistakes = (
        (blur, "this is how much blur the manifold can bear, not yet a time."),
        (1 - blur, "close for thin manifolds only: the blur of x_t / t is not 1 - t."),
        (1 / (1 + stds * np.sqrt(shares / (1 - shares))), "asking for a larger share should give a later time."),
        (1 / (1 + stds**2 * (1 / shares - 1)), "right for a share of a half and std = 1: variances add, times do not."),
        (1 / (1 + stds**2 * np.sqrt(1 / shares - 1)), "the thickness enters as if it were a variance."),
        (1 / (1 + stds * (1 / shares - 1)), "right for a share of a half, wrong for the rest."),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    if np.any(values <= 0) or np.any(values > 1):
        raise Wrong("a perturbed time lies between 0 and 1.")
    late = np.all(values >= truth)
    raise Wrong("later than it needs to be." if late else "too early: less than the share is kept there.")


def _second_moment(t, mean, variance):
    """E[v^2] of the velocity of a Gaussian on one axis, by Gauss-Hermite quadrature over x_t."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    noised = t**2 * variance + (1 - t) ** 2
    velocity = mean + (t * variance - (1 - t)) / np.sqrt(noised) * nodes
    return weights @ velocity**2 / weights.sum()


@exercise("03.3")
def _check_tipping(answer):
    cases = [(0.9, 0.09, 0.01), (0.85, 0.04, 0.0025), (0.8, 0.25, 0.01)]
    values = np.array([same_shape(call(answer, *case), ()) for case in cases])
    soft = np.array([_second_moment(t, 0.0, wide) for t, wide, _ in cases])
    stiff = np.array([_second_moment(t, 0.0, thin) for t, _, thin in cases])
    truth = np.sqrt(stiff - soft)
    if _close(values, truth):
        return "A mean further out than this, and E7 calls the wide direction the stiff one."
    times = np.array([t for t, _, _ in cases])
    mistakes = (
        (stiff - soft, "this is a squared length."),
        (np.sqrt(stiff), "a little too far out: the soft axis is charged something even at m = 0."),
        (np.sqrt(stiff + soft), "too far out: the two axes pull in opposite senses."),
        (truth / (1 - times), "both entries carry the factor 1 / (1 - t)^2, and yours is left with it."),
        (0 * truth, "with the mean at the origin the two axes are not charged alike."),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    raise Wrong("too far out." if np.all(values > truth) else "the two axes are not charged alike at this mean.")

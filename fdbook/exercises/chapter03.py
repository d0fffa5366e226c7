"""Checkers of chapter 03, the score inside the velocity: E5, the perturbed time, where E7 tips over, and when to read a score
whose truth nobody knows."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, exercise, same_shape


def _close(value, truth):
    return np.allclose(value, truth, rtol=1e-3, atol=1e-4)


@exercise(
    "03.1",
    hints=(
        "take the mean of x = (1 - t) z + t a given x, and write v as the difference of two such means.",
        "solve for the mean noise; the score is the mean noise over -(1 - t).",
    ),
)
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


@exercise(
    "03.2",
    hints=(
        "variances add: across the ridge x_t / t has the variance of the action and that of the blur.",
        "set std^2 over that sum equal to the share, solve for the blur, and then the blur (1 - t) / t for t.",
    ),
)
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


@exercise(
    "03.3",
    hints=(
        "write the diagonal of E7's matrix once for the wide axis, with the mean in it, and once for the thin axis, without.",
        "the common factor drops out; what is left is one equation for m squared.",
    ),
)
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


_TIMES = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


class _Learned:
    """A Gaussian's blurred score at time t, with the error of a network whose velocity is off by waves of one size."""

    def __init__(self, thin, size, seed):
        random = np.random.default_rng(seed)
        angle, self.size = random.uniform(0, np.pi), size
        axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.mean, self.covariance = random.normal(size=2) / 2, axes @ np.diag([0.4**2, thin**2]) @ axes.T
        self.waves, self.phases = 5 * random.normal(size=(2, 2)), random.uniform(0, 6, size=2)
        self.actions = random.multivariate_normal(self.mean, self.covariance, size=2000)

    def read(self, t, action):
        """The score at one action (2,), as it would be read off a network at time t."""
        blurred = self.covariance + ((1 - t) / t) ** 2 * np.eye(2)
        wrong = self.size * jnp.sin(self.waves @ action + self.phases)
        return -jnp.asarray(np.linalg.inv(blurred)) @ (action - self.mean) + t**2 / (1 - t) * wrong

    def error(self, t):
        """The root of the mean squared distance to the true score, on the actions."""
        blurred, off = self.covariance + ((1 - t) / t) ** 2 * np.eye(2), self.actions - self.mean
        blur = off @ (np.linalg.inv(self.covariance) - np.linalg.inv(blurred))
        wrong = self.size * np.sin(self.actions @ self.waves.T + self.phases)
        return np.sqrt(np.mean(np.sum((blur + t**2 / (1 - t) * wrong) ** 2, axis=-1)))


@exercise(
    "03.4",
    hints=(
        "expand the mean of |score read - true score|^2: only the cross term has the truth in it. Integrate it by parts.",
        "E[read . true score] = -E[div read]; so half of E|read|^2 plus E[div read] is the distance, up to a constant.",
    ),
)
def _check_reading(answer):
    cases = [_Learned(*case) for case in ((0.03, 0.05, 1), (0.1, 0.1, 2), (0.2, 0.4, 3))]
    chosen = [float(same_shape(call(answer, case.read, jnp.asarray(case.actions), _TIMES), ())) for case in cases]
    if any(min(abs(t - known) for known in _TIMES) > 1e-6 for t in chosen):
        raise Wrong(f"the answer should be one of the times that are given; it was {chosen[0]:g}.")
    errors = [np.array([case.error(t) for t in _TIMES]) for case in cases]
    for t, found in zip(chosen, errors, strict=True):
        best, mine = _TIMES[int(found.argmin())], found[int(np.argmin(np.abs(np.array(_TIMES) - t)))]
        if mine > 1.25 * found.min():
            why = "the score is that of a blurred density" if t < best else "it is mostly the error of the network"
            raise Wrong(
                f"on one of the flows you read too {'early' if t < best else 'late'}: {why}, and {mine / found.min():.1f} times "
                "as far from the truth as at the best time."
            )
    return f"You chose {', '.join(f'{t:g}' for t in chosen)}, from actions alone. Score matching trains networks like this."

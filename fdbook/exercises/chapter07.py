"""Checkers of chapter 07, real actions are anisotropic: blurred condition numbers, a score that fits its samples, ceilings, and a
test of anisotropy."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, exercise, same_shape


def _close(value, truth):
    return np.allclose(value, truth, rtol=1e-3, atol=1e-4)


def _refuse(value, mistakes):
    for wrong, hint in mistakes:
        if _close(value, wrong):
            raise Wrong(hint)


def _spread(values):
    """The largest over the smallest of the eigenvalues that a noised Gaussian has, for the variances given."""
    return np.max(values) / np.min(values)


@exercise(
    "07.1",
    hints=(
        "the noised action has two independent parts; what are their variances along each axis of the covariance?",
        "the Fisher matrix is the inverse of a sum of two matrices; an inverse has the same condition number.",
    ),
)
def _check_blur(answer):
    variances, cases = np.array([0.25, 0.04, 0.01]), ((0.0, 1.0), (0.6, 1.0), (0.9, 1.0), (0.9, 0.3))
    turn = np.linalg.qr(np.array([[1.0, 2.0, 0.5], [0.3, -1.0, 2.0], [1.5, 0.2, -0.4]]))[0]
    values = [same_shape(call(answer, jnp.asarray(turn * s * variances @ turn.T), t), ()) for t, s in cases]

    def wanted(actions, noise):
        return [_spread(actions(t) * s * variances + noise(t)) for t, s in cases]

    if _close(values, wanted(lambda t: t**2, lambda t: (1 - t) ** 2)):
        return "A metric read at t = 0.9 cannot see what is thinner than about a tenth of an action unit."
    mistakes = (
        (wanted(lambda t: 1.0, lambda t: 0.0), "your answer does not change with t: nothing has been blurred."),
        (
            wanted(lambda t: 1.0, lambda t: (1 - t) ** 2),
            "right for the noise; the action that it is mixed with is not whole.",
        ),
        (wanted(lambda t: t, lambda t: 1 - t), "you have mixed the variances as the path mixes the points."),
        (wanted(lambda t: t, lambda t: (1 - t) ** 2), "right for the noise; the variance of the action's part is off."),
        (wanted(lambda t: t**2, lambda t: 1 - t), "right for the action; the variance of the noise's part is off."),
        (wanted(lambda t: (1 - t) ** 2, lambda t: t**2), "at t = 0 you have the actions, and at t = 1 the noise."),
        ([1 / v for v in wanted(lambda t: t**2, lambda t: (1 - t) ** 2)], "a condition number is never below 1."),
        (
            [v**0.5 for v in wanted(lambda t: t**2, lambda t: (1 - t) ** 2)],
            "you compare widths; the metric charges squares.",
        ),
        (
            [v**2 for v in wanted(lambda t: t**2, lambda t: (1 - t) ** 2)],
            "your answer is too large by its own square root.",
        ),
    )
    _refuse(values, mistakes)
    if not np.isclose(values[0], 1, atol=1e-4):
        raise Wrong("at t = 0 there is only noise, which is round; your condition number there is not 1.")
    raise Wrong("right at t = 0, and off later.")


def _samples(shrink):
    """Points (n, 2) off the origin, and the scores there of a Gaussian whose covariance is theirs over `shrink`."""
    rng = np.random.default_rng(7)
    factor, mean = np.array([[0.5, 0.0], [0.2, 0.1]]), np.array([3.0, -2.0])
    points = mean + rng.normal(size=(4000, 2)) @ factor.T
    centered = points - points.mean(axis=0)
    covariance = centered.T @ centered / len(points) / shrink
    return points, -np.linalg.solve(covariance, (points - mean).T).T


@exercise(
    "07.2",
    hints=(
        "subtract the mean of the points from the points, and from nothing else.",
        "the diagonal of the matrix has d numbers, each a mean over n points.",
    ),
)
def _check_stein(answer):
    cases = [_samples(shrink) for shrink in (1.0, 0.5)]
    values = np.array([same_shape(call(answer, *map(jnp.asarray, (scores, points))), ()) for points, scores in cases])
    products = np.array([np.mean(np.sum(scores * (points - points.mean(axis=0)), axis=1)) for points, scores in cases])
    if _close(values, -products / 2):
        return "Two lists of numbers and no density: this is how chapter 07 found out about the sampler."
    raw = np.array([np.mean(np.sum(scores * points, axis=1)) for points, scores in cases])
    mistakes = (
        (products / 2, "right size, wrong sign: a score points back to where the points are dense."),
        (-products, "your number grows with the dimension; for a true score it should be 1 in any."),
        (-raw / 2, "your number changes when all points move by one vector; choose the origin with care."),
        (-raw, "your number changes when all points move by one vector; choose the origin with care."),
        (-products * 2000, "your number grows with how many points there are."),
        (-products * 4000, "your number grows with how many points there are."),
        (np.ones(2), "it is 1 even for scores of a wider density: nothing has been measured."),
    )
    _refuse(values, mistakes)
    if abs(values[0] - 1) > 0.1:
        raise Wrong("for scores that belong to the points it should be close to 1, and it is not.")
    raise Wrong("it is 1 where the scores belong to the points; it is off for points narrower than their scores say.")


@exercise(
    "07.3",
    hints=(
        "give every state its own ceiling by E15 first, and count last.",
        "a ceiling is 1 minus what is kept, and what is kept is 2 √κ / (1 + κ).",
    ),
)
def _check_share(answer):
    conditions = np.array([1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 9.0, 20.0, 60.0, 400.0])
    losses = (0.05, 0.1, 0.3, 0.6)
    values = [same_shape(call(answer, jnp.asarray(conditions), loss), ()) for loss in losses]
    kept = 2 / (conditions**0.5 + conditions**-0.5)
    truth = np.array([np.mean(1 - kept > loss) for loss in losses])
    if _close(values, truth):
        return "The distribution over states says more than the ceiling of an average state."
    squared = 4 * conditions / (1 + conditions) ** 2
    mistakes = (
        (np.array([np.mean(kept > loss) for loss in losses]), "your states are those where much is kept, not lost."),
        (
            np.array([np.mean(kept < loss) for loss in losses]),
            "your states keep less than that; they should lose more than that.",
        ),
        (1 - truth, "these are the other states, in which the loss is small."),
        (truth * len(conditions), "that is a number of states; the question asks for a share."),
        (100 * truth, "that is a percentage; the question asks for a share between 0 and 1."),
        (np.array([np.mean(1 - squared > loss) for loss in losses]), "this bound is the square of the one of E15."),
        (
            np.array([float(1 - 2 / (m**0.5 + m**-0.5) > loss) for loss in losses for m in [conditions.mean()]]),
            "you have judged one average state; every state has a ceiling of its own.",
        ),
    )
    _refuse(values, mistakes)
    raise Wrong("the share is off; try one state whose condition number is 9, where L2 can lose 40% of the gain.")


_STATES = {  # number of scores, dimension, condition numbers of round and of thin states
    "many scores in five dimensions": (512, 5, 2.6),
    "few scores in five dimensions": (32, 5, 25.0),
    "few scores in two dimensions": (16, 2, 16.0),
}
_DRAWN = 60


def _scores(count, d, condition, random):
    """Scores (count, d) of a Gaussian state of any size, turned at random, whose Fisher matrix has the condition number."""
    turn = np.linalg.qr(random.normal(size=(d, d)))[0]
    values = condition ** np.linspace(0, 1, d) * np.exp(random.normal())
    return (random.normal(size=(count, d)) * np.sqrt(values)) @ turn.T


@exercise(
    "07.4",
    hints=(
        "measure the condition number of the scores, and ask how large it would be for round scores; the chapter's table shows "
        "that this depends on K and on d.",
        "you can make round scores yourself, hundreds of times K of them, and see which share of them looks as thin as yours.",
    ),
)
def _check_thin(answer):
    random, told = np.random.default_rng(74), []
    for name, (count, d, condition) in _STATES.items():
        share = {}
        for kind, true in (("round", 1.0), ("thin", condition)):
            said = [same_shape(call(answer, _scores(count, d, true, random)), ()) for _ in range(_DRAWN)]
            if any(one not in (False, True) for one in said):
                raise Wrong("the answer is yes or no: True or False.")
            share[kind] = np.mean(said)
        if share["round"] > 0.17:
            raise Wrong(f"with {name} it calls {share['round']:.0%} of the round states thin; one in ten is allowed.")
        if share["thin"] < 0.75:
            raise Wrong(f"with {name} it finds {share['thin']:.0%} of the thin states; four in five are to be found.")
        told.append(f"with {name} {share['thin']:.0%}, and {share['round']:.0%} false alarms")
    return f"It finds {'; '.join(told)}."

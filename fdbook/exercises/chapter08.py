"""Checkers of chapter 08, what the data looks like: a variogram, the size of a recording, rewards and masks from parts."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, close, exercise, refuse, same_shape


@exercise("08.1")
def _check_variogram(answer):
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(40, 3)) * [0.3, 1.0, 2.0] + [4.0, 0.0, -1.0]
    pairs = rng.integers(0, 40, (25, 2))
    value = same_shape(call(answer, jnp.asarray(actions), jnp.asarray(pairs)), ())
    difference = actions[pairs[:, 0]] - actions[pairs[:, 1]]
    squares = np.sum(difference**2, axis=1)
    truth = np.mean(squares) / 6
    if close(value, truth):
        return "Where the states of a pair agree, this is the variance of the actions in one state."
    mistakes = (
        (2 * truth, "two independent actions differ by twice the variance; half of the square is what is asked for."),
        (3 * truth, "it is a mean over pairs, and per dimension of the action."),
        (6 * truth, "twice the variance, and not yet per dimension."),
        (np.sqrt(truth), "that is a width; the square of it is asked for."),
        (np.mean(np.sqrt(squares)), "distances have been averaged instead of their squares."),
        (np.mean(np.var(actions, axis=0)), "that is the variance over all states; the pairs have not been used."),
        (25 * truth, "that is a sum over the pairs; their mean does not grow with their number."),
        (np.mean(np.mean(difference, axis=0) ** 2) / 2, "average last: differences of either sign cancel each other."),
    )
    refuse(value, mistakes)
    raise Wrong("half the mean squared difference of the two actions of a pair, per dimension, is asked for.")


@exercise("08.2")
def _check_size(answer):
    cases = [(0.04, 0.95), (0.37, 0.95), (0.01, 0.5), (0.5, 0.75)]
    values = [same_shape(call(answer, share, chance), ()) for share, chance in cases]
    exact = np.array([np.log(1 - chance) / np.log(1 - share) for share, chance in cases])
    truth = np.ceil(exact - 1e-6)
    if np.array_equal(values, truth):
        return "A task that succeeds in 4% of the episodes needs 74 of them before its critic can count on one success."
    mistakes = (
        (exact, "right, but for whole episodes: round up."),
        (np.floor(exact), "right, but rounded down: with so few episodes the chance is a little below what was asked."),
        ([np.ceil(1 / share) for share, _ in cases], "that many episodes hold one success on average, and often none."),
        (
            [np.ceil(chance / share) for share, chance in cases],
            "chances of several episodes do not add up: one can hold twice.",
        ),
        (
            [np.ceil(np.log(chance) / np.log(1 - share)) for share, chance in cases],
            "that is where the chance of no success at all has fallen to `chance`.",
        ),
        (
            [np.ceil(np.log(1 - chance) / np.log(share)) for share, chance in cases],
            "an episode fails with chance 1 - share.",
        ),
    )
    for wrong, hint in mistakes:
        if np.allclose(values, wrong, rtol=1e-6):
            raise Wrong(hint)
    raise Wrong("n episodes are all without success with chance (1 - share)^n; solve for n.")


@exercise("08.3")
def _check_parts(answer):
    met = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]], bool)
    value = call(answer, jnp.asarray(met))
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Wrong("return two arrays: the rewards and the masks.")
    rewards, masks = (same_shape(np.asarray(part, float), (4,)) for part in value)
    refuse(
        rewards,
        (
            (
                [3.0, 2.0, 0.0, 2.0],
                "parts that are met count from the number of parts downwards: a reward is never above 0.",
            ),
            ([0.0, -1.0, -1.0, -1.0], "a reward counts the parts: two out of three are better than none."),
            ([1.0, 2 / 3, 0.0, 2 / 3], "a reward is a number of parts, not a share of them."),
            ([3.0, 1.0, 3.0, 1.0], "you count something else than the parts that are met."),
        ),
    )
    if not close(rewards, [0.0, -1.0, -3.0, -1.0]):
        raise Wrong("the reward is the number of parts that are met, minus the number of parts.")
    refuse(
        masks,
        (
            ([1.0, 0.0, 0.0, 0.0], "the mask multiplies the next value in E16: at the goal nothing is to follow."),
            ([0.0, 0.0, 1.0, 0.0], "one part is not the goal: the mask is 0 where all of them are met."),
            (np.ones(4), "without a mask the critic goes on counting after the goal."),
        ),
    )
    if not close(masks, [0.0, 1.0, 1.0, 1.0]):
        raise Wrong("the rewards are right; the mask is 0 where all parts are met, and 1 elsewhere.")
    return "This is how OGBench labels a row for its manipulation tasks."

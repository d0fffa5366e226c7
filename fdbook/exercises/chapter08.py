"""Checkers of chapter 08, what the data looks like: a variogram, the size of a recording, rewards and masks from parts, and an
estimate of the behavior's width."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, close, exercise, refuse, same_shape


@exercise(
    "08.1",
    hints=(
        "index the actions with the first and with the second column of `pairs`.",
        "square the differences, take the mean over everything, and ask how large it is for two independent actions.",
    ),
)
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


@exercise(
    "08.2",
    hints=(
        "what is the chance that not one of n episodes holds a success?",
        "that chance may be 1 - chance at most: take logarithms, and mind that episodes are whole.",
    ),
)
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


@exercise(
    "08.3",
    hints=(
        "count the parts that are met in each row; which count should be worth 0?",
        "the mask asks one question of a row: is there anything left to do?",
    ),
)
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


_WIDTH = 0.1
_WORLDS = {  # dimension of a state, how much of the noise lasts from one row to the next
    "states in a plane": (2, 0.0),
    "states in five dimensions": (5, 0.0),
    "noise that lasts within an episode": (2, 0.97),
}


def _log(dimension, lasting, seed, episodes=30, steps=100):
    """A log of known width: states, actions and the number of the episode of each row."""
    random = np.random.default_rng(seed)
    states = random.uniform(-1, 1, (episodes, steps, dimension))
    noise = random.normal(size=(episodes, steps, 2))
    for t in range(1, steps if lasting else 0):
        states[:, t] = states[:, t - 1] + 0.05 * random.normal(size=(episodes, dimension))
        states[:, t] = np.where(np.abs(states[:, t]) > 1, 2 * np.sign(states[:, t]) - states[:, t], states[:, t])
        noise[:, t] = lasting * noise[:, t - 1] + np.sqrt(1 - lasting**2) * noise[:, t]
    turn = random.normal(size=(dimension, 2)) / np.sqrt(dimension)
    actions = 0.5 * np.sin(2 * states @ turn) + _WIDTH * noise
    return states.reshape(-1, dimension), actions.reshape(-1, 2), np.repeat(np.arange(episodes), steps)


@exercise(
    "08.4",
    hints=(
        "the closest pairs of different episodes are a good beginning; in five dimensions even they are far apart. "
        "What does the variogram do as their distance grows?",
        "for a smooth mean it grows like the square of the distance: fit a line against r² and ask it for r = 0.",
    ),
)
def _check_width(answer):
    found = {
        name: [same_shape(call(answer, *_log(*world, seed)), ()) for seed in range(4)]
        for name, world in _WORLDS.items()
    }
    shares = {name: np.mean(values) / _WIDTH**2 for name, values in found.items()}
    squared = [np.mean(np.square(values)) / _WIDTH**2 for values in found.values()]
    told = ", ".join(f"{share:.2f} times the truth with {name}" for name, share in shares.items())
    if max(abs(share - 1) for share in squared) < 0.25:
        raise Wrong("that is a width; the square of it, a variance per dimension, is asked for.")
    if shares["noise that lasts within an episode"] < 0.75 and abs(shares["states in a plane"] - 1) < 0.25:
        raise Wrong(f"it finds {told}: rows of one episode share their noise, and make the behavior look thin.")
    if shares["states in five dimensions"] > 1.25 and abs(shares["states in a plane"] - 1) < 0.25:
        raise Wrong(f"it finds {told}: where no two states are close, the mean's change has to be taken out.")
    if max(abs(share - 1) for share in shares.values()) > 0.25:
        raise Wrong(f"it finds {told}, in the mean of four logs; 0.75 to 1.25 is asked for.")
    return f"It finds {told}."

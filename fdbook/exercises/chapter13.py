"""Checkers of chapter 13, reading a benchmark table: the best evaluation, a test of few seeds, a tuned score, a rule."""

import itertools
import warnings

import jax.numpy as jnp
import numpy as np
from scipy import stats

from fdbook.exercises import Wrong, call, close, exercise, refuse, same_shape


def _best(truths, episodes):
    below = np.prod(stats.binom.cdf(np.arange(episodes)[:, None], episodes, truths), axis=1)
    return np.sum(1 - below) / episodes


@exercise(
    "13.1",
    hints=(
        "the best is at most k when all of them are; what is the chance of that for one evaluation?",
        "the mean of a count is the sum over k of the chance that it is above k; scipy.stats.binom.cdf has the rest.",
    ),
)
def _check_best(answer):
    truths, episodes = np.array([0.5, 0.6, 0.75]), 20
    value = same_shape(call(answer, truths, episodes), ())
    truth = _best(truths, episodes)
    if not close(value, truth):
        counts = np.arange(episodes)[:, None]
        above = 1 - stats.binom.cdf(counts, episodes, truths)
        mistakes = (
            (truths.max(), "that is the best truth; luck lifts the best evaluation above it."),
            (_best(np.full(3, truths.mean()), episodes), "one truth for all evaluations: here each has its own."),
            (_best(np.full(3, truths.max()), episodes), "one truth for all evaluations: here each has its own."),
            (truth * episodes, "that is a number of successes; a share is asked for."),
            (truth - truths.max(), "that is by how much it lies above the best truth; the share itself is asked for."),
            (np.sum(np.prod(above, axis=1)) / episodes, "that is the worst evaluation: all of them are above it."),
            (truth - (1 - np.prod(1 - above[0])) / episodes, "the sum begins at no success, k = 0."),
        )
        refuse(value, mistakes)
        raise Wrong(
            "the best is at most k successes when all evaluations are: multiply their distribution functions, and sum."
        )
    if not close(call(answer, truths[:1], 8), truths[0]):
        raise Wrong("right for these three, but the best of one evaluation is on the average its truth.")
    return "Stopping where a run looks best is choosing by luck, among other things."


def _differences(ours, theirs):
    """The difference of means for every way to deal the scores."""
    pooled, places = np.concatenate([ours, theirs]), range(len(ours) + len(theirs))
    dealt = np.array([np.isin(places, chosen) for chosen in itertools.combinations(places, len(ours))])
    return np.array([pooled[one].mean() - pooled[~one].mean() for one in dealt])


@exercise(
    "13.2",
    hints=(
        "if the names of the methods mean nothing, every way to deal the scores out again is as likely as what was seen.",
        "itertools.combinations gives the ways; for a given total, a larger sum of one side is a larger difference of means.",
    ),
)
def _check_chance(answer):
    ours, theirs = np.array([75.0, 90.0, 82.0]), np.array([60.0, 78.0, 55.0, 70.0])
    value = same_shape(call(answer, jnp.asarray(ours), jnp.asarray(theirs)), ())
    dealt, seen = _differences(ours, theirs), ours.mean() - theirs.mean()
    truth = np.mean(dealt >= seen - 1e-9)
    if not close(value, truth):
        mistakes = (
            (np.mean(dealt > seen + 1e-9), "what was seen is one of the ways, too: at least as large is asked for."),
            (np.mean(np.abs(dealt) >= seen - 1e-9), "that counts both directions; one was asked for."),
            (np.mean(dealt <= seen + 1e-9), "that counts the ways that come out at most as large."),
            (1 - truth, "that is the share of the ways that come out smaller."),
            (truth * len(dealt), "that is a number of ways; their share is asked for."),
            (np.mean(ours[:, None] > theirs), "that is the probability of improvement over pairs of seeds."),
        )
        refuse(value, mistakes)
        raise Wrong("pool the scores, deal as many as `ours` has in every way, and count the differences of means.")
    if not close(call(answer, jnp.asarray([1.0, 2.0]), jnp.asarray([1.0, 2.0])), 5 / 6):
        raise Wrong("right, but where the two have equal scores a tie should count as at least as large.")
    return "With three seeds against three it is never below 1 in 20."


def _chosen(scores, by, told):
    """The mean over the seeds `told` of the setting that is best over the seeds `by`."""
    return scores[scores[:, by].mean(axis=1).argmax(), told].mean()


@exercise(
    "13.3",
    hints=(
        "whoever chooses a setting must not be asked how good it is: split the seeds.",
        "scores[:, 0::2] and scores[:, 1::2] are the halves; each chooses once and tells once.",
    ),
)
def _check_tuned(answer):
    scores = np.array([[70.0, 60.0, 80.0, 66.0], [50.0, 90.0, 60.0, 81.0], [65.0, 71.0, 62.0, 73.0]])
    even, odd = slice(0, None, 2), slice(1, None, 2)
    value = same_shape(call(answer, jnp.asarray(scores)), ())
    first, second = _chosen(scores, even, odd), _chosen(scores, odd, even)
    if not close(value, (first + second) / 2):
        mistakes = (
            (scores.mean(axis=1).max(), "that is the best mean over all seeds, which chose it and tell it."),
            (
                (_chosen(scores, even, even) + _chosen(scores, odd, odd)) / 2,
                "the seeds that chose a setting also tell its score here: take the others.",
            ),
            (first, "that is one half; choose by the odd-numbered seeds, too, and average."),
            (second, "that is the other half; choose by the even-numbered seeds, too, and average."),
            (scores.mean(), "that is the mean over all settings; no setting was chosen."),
            (scores.max(), "that is the best seed of all."),
        )
        refuse(value, mistakes)
        raise Wrong("let one half of the seeds choose the setting and the other half tell its score, both ways.")
    return "The seeds that chose said 80 here; the others say 59."


_SEEDS, _GAP, _GAMES = (3, 5, 10), 25.0, 150


def _experiments(seeds, gap):
    """Fresh pairs of methods: success in percent of their seeds, with spreads of their own, and which of the two is better."""
    rng = np.random.default_rng(seeds)
    for _ in range(_GAMES):
        sign, spreads = rng.choice([-1, 1]), rng.choice([5.0, 20.0], size=2)
        means = 55 + sign * gap * np.array([0.5, -0.5])
        shares = np.clip(rng.normal(means, spreads, size=(seeds, 2)), 0, 100) / 100
        ours, theirs = 2.0 * rng.binomial(50, shares).T
        yield ours, theirs, sign


def _calls(answer, seeds, gap):
    """What the rule says of each pair, times the sign of the truth: 1 is right, 0 open, -1 wrong."""
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few of the pairs have seeds that are all alike
        for ours, theirs, sign in _experiments(seeds, gap):
            said.append(sign * float(same_shape(call(answer, ours, theirs), ())))
    if not np.isin(said, (-1, 0, 1)).all():
        raise Wrong("the rule should return 1 where ours is better, -1 where theirs is, and 0 where it cannot tell.")
    return np.array(said)


@exercise(
    "13.4",
    hints=(
        "a rule that may say nothing needs a yardstick: how far apart do two such means lie by luck alone?",
        "of three seeds the spread itself is a guess, and 1.96 standard errors are too few; scipy has a test for that.",
    ),
)
def _check_rule(answer):
    level = {seeds: np.mean(_calls(answer, seeds, 0.0) != 0) for seeds in _SEEDS}
    apart = {seeds: _calls(answer, seeds, _GAP) for seeds in _SEEDS}
    if np.mean(apart[10] < 0) > np.mean(apart[10] > 0):
        raise Wrong("where the methods differ you name the worse one: 1 means that ours is better.")
    if np.mean(list(level.values())) > 0.08 or level[3] > 0.1:
        shown = ", ".join(f"{share:.0%} with {seeds}" for seeds, share in level.items())
        raise Wrong(f"of methods that are equal you name a winner too often, in {shown} seeds; 5% was agreed on.")
    found = np.mean(apart[10] > 0)
    if found < 0.75:
        raise Wrong(
            f"you hardly ever name a wrong winner, but 25 points and ten seeds of each are enough for you in {found:.0%} "
            "of cases; more than three quarters are in reach."
        )
    few = np.mean(apart[3] > 0)
    return f"Of differences of 25 points you find {found:.0%} with ten seeds and {few:.0%} with three: most tables have three."

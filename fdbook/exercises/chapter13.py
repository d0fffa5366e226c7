"""Checkers of chapter 13, reading a benchmark table: the best evaluation of a run, an exact test of few seeds, a tuned score."""

import itertools

import jax.numpy as jnp
import numpy as np
from scipy import stats

from fdbook.exercises import Wrong, call, close, exercise, refuse, same_shape


def _best(truths, episodes):
    below = np.prod(stats.binom.cdf(np.arange(episodes)[:, None], episodes, truths), axis=1)
    return np.sum(1 - below) / episodes


@exercise("13.1")
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


@exercise("13.2")
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


@exercise("13.3")
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

"""Worked solutions of chapter 13, and typical mistakes with a piece of what the checker says about them."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from scipy.stats import binom, ttest_ind


def best(truths, episodes):
    # The best is at most k successes when all evaluations are; the mean of a count is the sum of its chances to be above k.
    below = np.prod([binom.cdf(np.arange(episodes), episodes, p) for p in truths], axis=0)
    return np.sum(1 - below) / episodes


def chance_of(ours, theirs):
    # For a given sum of all scores, the difference of means grows with the sum of the first.
    pooled = np.concatenate([ours, theirs])
    sums = [sum(chosen) for chosen in itertools.combinations(pooled, len(ours))]
    return np.mean(np.array(sums) >= np.sum(ours) - 1e-9)


def tuned(scores):
    halves = scores[:, 0::2].mean(axis=1), scores[:, 1::2].mean(axis=1)
    return (halves[1][halves[0].argmax()] + halves[0][halves[1].argmax()]) / 2


def judge(ours, theirs):
    # Welch's test: every method with a spread of its own, and Student's law for spreads that are estimated from few seeds.
    sure = ttest_ind(ours, theirs, equal_var=False).pvalue < 0.05
    return int(sure) * (1 if ours.mean() > theirs.mean() else -1)


answers = {"13.1": best, "13.2": chance_of, "13.3": tuned, "13.4": judge}


def _above(truths, episodes):
    return np.array([1 - binom.cdf(np.arange(episodes), episodes, p) for p in truths])


def _strictly(ours, theirs):
    sums = [sum(chosen) for chosen in itertools.combinations(np.concatenate([ours, theirs]), len(ours))]
    return np.mean(np.array(sums) > np.sum(ours) + 1e-9)


def _both_ways(ours, theirs):
    pooled = np.concatenate([ours, theirs])
    dealt = np.array([sum(chosen) for chosen in itertools.combinations(pooled, len(ours))])
    differences = dealt / len(ours) - (pooled.sum() - dealt) / len(theirs)
    return np.mean(np.abs(differences) >= np.mean(ours) - np.mean(theirs) - 1e-9)


def _the_other_way(ours, theirs):
    sums = [sum(chosen) for chosen in itertools.combinations(np.concatenate([ours, theirs]), len(ours))]
    return np.mean(np.array(sums) <= np.sum(ours) + 1e-9)


def _ways(ours, theirs):
    return math.comb(len(ours) + len(theirs), len(ours))


def _by_those_who_chose(scores):
    return (scores[:, 0::2].mean(axis=1).max() + scores[:, 1::2].mean(axis=1).max()) / 2


def _by_errors(ours, theirs, seeds=True):
    """By 1.96 standard errors, or standard deviations, of the difference."""
    squares = [one.var(ddof=1) / (len(one) if seeds else 1) for one in (ours, theirs)]
    return np.sign(ours.mean() - theirs.mean()) * (abs(ours.mean() - theirs.mean()) > 1.96 * np.sqrt(sum(squares)))


def _apart(ours, theirs):
    return int(ours.min() > theirs.max()) - int(theirs.min() > ours.max())


mistakes = {
    "13.1": [
        (lambda p, n: np.max(p), "luck lifts the best evaluation"),
        (lambda p, n: best(np.full(3, np.mean(p)), n), "here each has its own"),
        (lambda p, n: best(np.full(3, np.max(p)), n), "here each has its own"),
        (lambda p, n: n * best(p, n), "a share is asked for"),
        (lambda p, n: best(p, n) - np.max(p), "the share itself is asked for"),
        (lambda p, n: np.sum(np.prod(_above(p, n), axis=0)) / n, "the worst evaluation"),
        (lambda p, n: best(p, n) - (1 - np.prod(1 - _above(p, n)[:, 0])) / n, "the sum begins at no success"),
        (lambda p, n: best(p[:2], n), "multiply their distribution functions"),
        (lambda p, n: best(p, n) if n > 8 else 0.0, "the best of one evaluation"),
        (lambda p, n: _above(p, n), "shape ()"),
    ],
    "13.2": [
        (_strictly, "one of the ways, too"),
        (_both_ways, "both directions"),
        (_the_other_way, "at most as large"),
        (lambda ours, theirs: 1 - chance_of(ours, theirs), "come out smaller"),
        (lambda ours, theirs: chance_of(ours, theirs) * _ways(ours, theirs), "a number of ways"),
        (lambda ours, theirs: jnp.mean(ours[:, None] > theirs), "probability of improvement"),
        (lambda ours, theirs: 0.5, "deal as many as `ours` has"),
        (
            lambda ours, theirs: chance_of(ours, theirs) if len(ours) > 2 else _strictly(ours, theirs),
            "a tie should count",
        ),
        (lambda ours, theirs: ours, "shape ()"),
    ],
    "13.3": [
        (lambda x: x.mean(axis=1).max(), "over all seeds"),
        (_by_those_who_chose, "also tell its score"),
        (lambda x: x[x[:, 0::2].mean(axis=1).argmax(), 1::2].mean(), "that is one half"),
        (lambda x: x[x[:, 1::2].mean(axis=1).argmax(), 0::2].mean(), "that is the other half"),
        (lambda x: x.mean(), "no setting was chosen"),
        (lambda x: x.max(), "the best seed of all"),
        (lambda x: x.min(), "both ways"),
        (lambda x: x.mean(axis=1), "shape ()"),
    ],
    "13.4": [
        (lambda ours, theirs: np.sign(ours.mean() - theirs.mean()), "you name a winner too often"),
        (lambda ours, theirs: np.sign(ours.max() - theirs.max()), "you name a winner too often"),
        (_by_errors, "you name a winner too often"),
        (lambda ours, theirs: _by_errors(ours, theirs, seeds=False), "more than three quarters are in reach"),
        (_apart, "more than three quarters are in reach"),
        (lambda ours, theirs: 0, "for you in 0% of cases"),
        (lambda ours, theirs: judge(theirs, ours), "you name the worse one"),
        (lambda ours, theirs: ours.mean() - theirs.mean(), "0 where it cannot tell"),
        (lambda ours, theirs: np.sign(ours - theirs), "shape ()"),
    ],
}

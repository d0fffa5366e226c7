"""Scores of several seeds on several tasks, summed up with their uncertainty.

The estimators are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice"
(https://arxiv.org/abs/2108.13264). Their library, rliable, is no dependency: it wants as many seeds on every task, and pulls in
old releases of arch and statsmodels for a bootstrap that is a few lines here.

Scores are an array (seeds, tasks), or a mapping from the name of a task to an array of one score for each seed, shape
(..., seeds); tasks of a mapping may have different numbers of seeds. Leading axes, equal in all tasks, are carried through: the
bootstrap has its resamples there.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import trim_mean

from fdbook.checks import check_finite, check_range


__all__ = [
    "ENOUGH",
    "bootstrap_interval",
    "caution",
    "interquartile_mean",
    "mean",
    "performance_profile",
    "probability_of_improvement",
]

Scores = Mapping[str, np.ndarray] | np.ndarray
Values = np.ndarray | np.floating  # an array, or one number of NumPy
CONFIDENCE = 0.95
RESAMPLES = 2000
ENOUGH = 10
"""Seeds with which a percentile bootstrap interval covers about as often as it says."""


def _checked(scores: Scores, where: str) -> dict[str, np.ndarray]:
    """The scores as arrays of floats. Raises ValueError for none at all, NaN and infinite ones, and another shape."""
    if isinstance(scores, np.ndarray) and scores.ndim == 2:
        scores = {f"task {place}": column for place, column in enumerate(scores.T, 1)}
    if not isinstance(scores, Mapping) or not scores:
        got = f"shape {scores.shape}" if isinstance(scores, np.ndarray) else repr(str(scores)[:60])
        raise ValueError(
            f"{where} takes scores as a mapping from at least one task to an array, or as an array (seeds, tasks); got {got}."
        )
    arrays = {task: np.asarray(values, float) for task, values in scores.items()}
    for task, values in arrays.items():
        if values.ndim == 0 or values.shape[-1] == 0:
            raise ValueError(
                f"{where} takes an array of at least one score for each task; got shape {values.shape} for {task}."
            )
        check_finite(values, f"scores of {task}", where)
    return arrays


def _pooled(scores: Scores, where: str) -> np.ndarray:
    """All scores of all tasks, (..., scores)."""
    return np.concatenate(list(_checked(scores, where).values()), axis=-1)


def mean(scores: Scores) -> Values:
    """The mean of each task, averaged over tasks, shape (...): every task counts the same, however many seeds it has.

    Raises ValueError for scores that are NaN or infinite, or none.

    >>> float(statistics.mean({"cube": np.array([0.0, 100.0]), "scene": np.array([90.0])}))  # of 50 and 90
    70.0
    """
    return np.mean([values.mean(axis=-1) for values in _checked(scores, "A mean").values()], axis=0)


def interquartile_mean(scores: Scores) -> Values:
    """The mean of the middle half of all scores, seeds and tasks alike, shape (...): every score counts the same.

    A quarter of them, rounded down, is left out at each end, so that fewer than four are all averaged. Raises ValueError for
    scores that are NaN or infinite, or none.

    >>> scores = np.array([[0.0], [60.0], [70.0], [95.0]])  # four seeds on one task
    >>> float(statistics.interquartile_mean(scores)), float(statistics.mean(scores))
    (65.0, 56.25)
    """
    return trim_mean(_pooled(scores, "An interquartile mean"), 0.25, axis=-1)


def performance_profile(scores: Scores, thresholds: Values | Sequence[float | int] | float | int) -> Values:
    """The share of all scores, seeds and tasks alike, that lies above each threshold, in [0, 1], shape (..., thresholds).

    A score at a threshold is not above it. Raises ValueError for scores or thresholds that are NaN or infinite, or none.

    >>> statistics.performance_profile(np.array([[10.0, 50.0], [50.0, 90.0]]), [0, 50]).tolist()
    [1.0, 0.25]
    """
    where = "A performance profile"
    pooled = _pooled(scores, where)
    thresholds = np.atleast_1d(check_finite(np.asarray(thresholds, float), "thresholds", where))
    if thresholds.ndim != 1 or not thresholds.size:
        raise ValueError(f"{where} takes at least one threshold, in one row; got shape {thresholds.shape}.")
    return np.stack([(pooled > threshold).mean(axis=-1) for threshold in thresholds], axis=-1)


def probability_of_improvement(scores: Scores, others: Scores) -> Values:
    """P(X > Y) for a seed of `scores` and one of `others` on the same task, averaged over tasks, in [0, 1], shape (...).

    All pairs of seeds are compared, and a tie counts half. Raises ValueError when the two have different tasks, and for scores
    that are NaN or infinite, or none.

    >>> ours, others = {"cube": np.array([60.0, 80.0])}, {"cube": np.array([50.0, 60.0])}
    >>> float(statistics.probability_of_improvement(ours, others))  # of four pairs three are better, and one is a tie
    0.875
    """
    where = "A probability of improvement"
    here, there = _checked(scores, where), _checked(others, where)
    if odd := sorted(here.keys() ^ there.keys()):
        raise ValueError(f"{where} compares scores on the same tasks; only one of the two has {', '.join(odd)}.")
    signs = (np.sign(here[task][..., :, None] - there[task][..., None, :]) for task in here)
    return np.mean([(1 + sign.mean(axis=(-2, -1))) / 2 for sign in signs], axis=0)


def bootstrap_interval(
    statistic: Callable[..., Values],
    *scores: Scores,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Values, Values]:
    """The ends of the stratified percentile bootstrap interval of a statistic of one or more sets of scores, (seeds,) each task.

    Within each task of each set as many seeds are drawn, with replacement, as there are; tasks are not resampled. The
    statistic is called once, with arrays (resamples, seeds), and gives an array (resamples, ...); the ends have shape (...).
    Where a task has one seed nothing says how much seeds differ, and both ends are NaN. With few seeds the interval is too
    narrow (`caution`).

    Raises ValueError for scores that are NaN, infinite, none or of several axes, for a confidence outside (0, 1) and for a number
    of resamples that is no whole number of at least 1.

    >>> scores = np.array([[60.0], [70.0], [80.0], [90.0]])  # four seeds on one task
    >>> [float(end) for end in statistics.bootstrap_interval(statistics.mean, scores)]
    [65.0, 85.0]
    """
    where = "A bootstrap interval"
    check_range(confidence, "a confidence", where, high=1.0, open_low=True, open_high=True)
    if isinstance(resamples, bool) or not isinstance(resamples, int | np.integer):
        raise ValueError(f"{where} takes a number of resamples that is a whole number; got {resamples!r}.")
    check_range(resamples, "a number of resamples", where, low=1.0)
    checked = [_checked(each, where) for each in scores]
    for task, values in ((task, values) for each in checked for task, values in each.items()):
        if values.ndim != 1:
            raise ValueError(f"{where} takes scores of shape (seeds,); got shape {values.shape} for {task}.")
    generator = np.random.default_rng(seed)
    drawn = [{task: _resampled(values, resamples, generator) for task, values in each.items()} for each in checked]
    low, high = np.quantile(statistic(*drawn), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    if any(values.size == 1 for each in checked for values in each.values()):
        return low * np.nan, high * np.nan
    return low, high


def caution(seeds: int, *, alone: bool = True) -> str:
    """What to say of a 95% interval from few seeds of a task; empty for `ENOUGH` of them, and for one, which has no interval.

    That of the mean of two or three seeds, `alone` and not with other seeds, is their range, as each end is drawn in 1/4 or 1/27
    of cases, more than 2.5%. The range holds the median of what they are draws of unless all lie on one side of it, in a share
    1 - 2^(1 - seeds).
    """
    if not 1 < seeds < ENOUGH:
        return ""
    if seeds > 3 or not alone:
        return f"with {seeds} seeds a bootstrap interval is narrower than it says"
    return (
        f"with {seeds} seeds a bootstrap interval is their range, which covers the truth in about {1 - 2.0 ** (1 - seeds):.0%} "
        f"of cases, not {CONFIDENCE:.0%}"
    )


def _resampled(values: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Values (seeds,) drawn with replacement, (resamples, seeds)."""
    return values[generator.integers(values.size, size=(resamples, values.size))]

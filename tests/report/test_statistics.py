"""Statistics of scores against closed forms, sums by hand, and intervals against the truth of simulated data."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.stats import norm

from fdbook.report.statistics import bootstrap_interval, caution, interquartile_mean, mean, performance_profile
from fdbook.report.statistics import probability_of_improvement as better


UNEVEN = {"a": np.array([1.0, 5.0, 2.0]), "b": np.array([4.0]), "c": np.array([100.0, -7.0, 3.0, 0.0])}
ONE = {"a": np.array([0.0, 10.0, 20.0, 30.0])}


def test_the_interquartile_mean_is_that_of_the_sorted_middle():
    pooled = sorted(value for values in UNEVEN.values() for value in values)  # -7 0 1 2 3 4 5 100
    assert interquartile_mean(UNEVEN) == np.mean(pooled[2:6]) == 2.5
    assert interquartile_mean({"a": np.arange(100.0)}) == 49.5
    assert interquartile_mean({"a": np.array([1.0, 2.0, 9.0])}) == 4.0  # a quarter of three is none
    assert interquartile_mean({"a": np.array([0.0, 0, 0, 1000.0]), "b": np.array([0.0, 8, 8, 8])}) == 4.0


def test_in_a_mean_every_task_counts_the_same_and_in_the_interquartile_mean_every_score():
    scores = {"a": np.zeros(6), "b": np.array([12.0, 12.0])}
    assert mean(scores) == 6.0
    assert interquartile_mean(scores) == 0.0


def test_a_profile_is_the_share_above():
    found = performance_profile(UNEVEN, [-10, 0, 2.5, 100])
    np.testing.assert_array_equal(found, [1.0, 6 / 8, 4 / 8, 0.0])
    thresholds = np.linspace(0, 1, 11)
    uniform = {"a": np.arange(1000) / 1000 + 0.0005}
    np.testing.assert_allclose(performance_profile(uniform, thresholds), 1 - thresholds, atol=1e-12)


def test_improvement_counts_pairs_and_ties_half():
    here = {"a": np.array([1.0, 2.0]), "b": np.array([5.0])}
    there = {"b": np.array([5.0, 4.0, 6.0, 4.0]), "a": np.array([1.0, 0.0, 3.0])}

    def by_hand(task):
        pairs = list(itertools.product(here[task], there[task]))
        return sum(1.0 if x > y else 0.5 if x == y else 0.0 for x, y in pairs) / len(pairs)

    assert by_hand("a") == pytest.approx(3.5 / 6)
    assert by_hand("b") == 2.5 / 4
    assert better(here, there) == pytest.approx((3.5 / 6 + 2.5 / 4) / 2)
    assert better(here, there) + better(there, here) == pytest.approx(1.0)
    assert better(here, here) == 0.5


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_improvement_of_normal_scores_is_the_closed_form(shift):
    quantiles = norm.ppf((np.arange(2000) + 0.5) / 2000)
    found = better({"a": quantiles + shift}, {"a": quantiles})
    assert found == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=1e-3)


def test_the_interval_of_two_seeds_is_that_of_all_four_draws():
    """Of (0, 1) the mean is 0, 1/2 and 1 with the weights 1/4, 1/2 and 1/4."""
    scores = {"a": np.array([0.0, 1.0])}
    assert bootstrap_interval(mean, scores, confidence=0.6) == (0.0, 1.0)
    assert bootstrap_interval(mean, scores, confidence=0.4) == (0.5, 0.5)


def test_seeds_are_drawn_within_their_task():
    """Tasks far apart with equal seeds: a draw across tasks would vary, a stratified one cannot."""
    scores = {"a": np.zeros(3), "b": np.full(5, 100.0)}
    assert bootstrap_interval(interquartile_mean, scores) == (interquartile_mean(scores),) * 2
    assert bootstrap_interval(mean, scores) == (50.0, 50.0)


def test_two_mappings_are_drawn_independently():
    scores = {"a": np.array([0.0, 1.0])}
    low, high = bootstrap_interval(lambda x, y: mean(x) - mean(y), scores, scores, confidence=0.95)
    assert (low, high) == (-1.0, 1.0)  # each end has the weight 1/16; drawn alike, the difference would be 0
    low, high = bootstrap_interval(better, {"a": np.array([1.0, 3.0])}, {"a": np.array([0.0, 0.5, 0.9])})
    assert (low, high) == (1.0, 1.0)


def test_a_profile_has_an_interval_at_each_threshold():
    low, high = bootstrap_interval(lambda scores: performance_profile(scores, [-1, 5, 99]), ONE)
    assert low.shape == high.shape == (3,)
    np.testing.assert_array_equal((low[[0, 2]], high[[0, 2]]), [[1, 0], [1, 0]])
    assert low[1] < 0.75 < high[1]


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Gaussian scores of 3 tasks with 8, 10 and 12 seeds, 400 times: 90% would be 360, with a standard deviation of 6."""
    generator = np.random.default_rng(1)
    centers, sizes = {"a": 10.0, "b": 50.0, "c": 90.0}, {"a": 8, "b": 10, "c": 12}
    covered = 0
    for trial in range(400):
        scores = {task: generator.normal(centers[task], 5.0, sizes[task]) for task in centers}
        low, high = bootstrap_interval(mean, scores, confidence=0.9, resamples=400, seed=trial)
        covered += low <= 50.0 <= high
    assert 330 <= covered <= 372  # a percentile interval of ten seeds is a little narrow


def test_the_seed_is_all_that_an_interval_depends_on():
    scores = {"a": np.random.default_rng(0).normal(size=7)}
    assert bootstrap_interval(mean, scores, seed=1) == bootstrap_interval(mean, scores, seed=1)
    assert bootstrap_interval(mean, scores, seed=1) != bootstrap_interval(mean, scores, seed=2)


def test_an_interval_is_that_of_another_library(budget):
    """SciPy resamples the samples that it is given independently of each other: within tasks, if each is one task's."""
    scores = {"a": np.array([0.0, 3.0, 9.0, 10.0]), "b": np.array([50.0, 90.0, 20.0, 30.0, 60.0])}

    def statistic(*drawn, axis):
        return stats.trim_mean(np.concatenate(drawn, axis=axis), 0.25, axis=axis)

    options = {"vectorized": True, "method": "percentile", "n_resamples": 20_000, "random_state": 0}
    wanted = stats.bootstrap(tuple(scores.values()), statistic, **options).confidence_interval
    found = bootstrap_interval(interquartile_mean, scores, resamples=20_000)
    np.testing.assert_allclose(found, wanted, atol=budget("bootstrap_ends"))


@pytest.mark.parametrize(
    "statistic", [mean, interquartile_mean, lambda scores: performance_profile(scores, [3.5, 6.0])]
)
def test_an_array_of_seeds_and_tasks_is_as_good_as_a_mapping(statistic):
    table = np.arange(12.0).reshape(4, 3) ** 1.5  # four seeds of three tasks
    tasks = dict(zip("abc", table.T, strict=True))
    np.testing.assert_array_equal(statistic(table), statistic(tasks))
    np.testing.assert_array_equal(bootstrap_interval(statistic, table), bootstrap_interval(statistic, tasks))


def test_improvement_takes_arrays_with_other_numbers_of_seeds():
    assert better(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0]])) == 0.5


@pytest.mark.parametrize(("seeds", "share"), [(2, 0.5), (3, 0.75)])
def test_the_interval_of_two_or_three_seeds_covers_as_seldom_as_the_caution_says(seeds, share):
    """Of 400 times a share of 0.5 has a standard deviation of 0.025."""
    draws = np.random.default_rng(2).normal(size=(400, seeds))
    ends = [bootstrap_interval(mean, {"a": draw}, resamples=4000) for draw in draws]
    np.testing.assert_allclose(ends, np.stack([draws.min(axis=1), draws.max(axis=1)], axis=1), rtol=1e-12)
    assert np.mean([low <= 0 <= high for low, high in ends]) == pytest.approx(share, abs=0.06)
    assert f"in about {share:.0%} of cases, not 95%" in caution(seeds)


def test_enough_seeds_need_no_caution_and_one_has_no_interval():
    assert [bool(caution(seeds)) for seeds in (1, 2, 9, 10)] == [False, True, True, False]
    assert caution(4) == caution(4, alone=False) == "with 4 seeds a bootstrap interval is narrower than it says"
    assert "range" not in caution(3, alone=False)


@pytest.mark.parametrize("scores", [{"a": np.array([3.0])}, UNEVEN, np.ones((1, 2))])
def test_where_a_task_has_one_seed_there_is_no_interval(scores):
    assert np.isnan(bootstrap_interval(mean, scores)).all()
    assert np.isfinite(mean(scores))


STATISTICS = {
    "A mean": mean,
    "An interquartile mean": interquartile_mean,
    "A performance profile": lambda scores: performance_profile(scores, [0.5]),
    "A probability of improvement": lambda scores: better(scores, ONE),
    "A bootstrap interval": lambda scores: bootstrap_interval(mean, scores),
}


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({"a": np.array([1.0, np.nan])}, r"finite scores of a; 1 of 2 values are NaN or infinite\.$"),
        ({}, r"scores as a mapping from at least one task to an array, or as an array \(seeds, tasks\); got '\{\}'\.$"),
        (np.ones(3), r"scores as a mapping .*; got shape \(3,\)\.$"),
        (np.ones((3, 0)), r"scores as a mapping .*; got .*\.$"),
        (np.array([[1.0], [np.inf]]), r"finite scores of task 1; 1 of 2 values are NaN or infinite\.$"),
        ({"a": np.array([])}, r"an array of at least one score for each task; got shape \(0,\) for a\.$"),
    ],
)
def test_scores_that_are_none_are_refused(name, scores, sentence):
    with pytest.raises(ValueError, match=f"^{name} takes {sentence}"):
        STATISTICS[name](scores)


def test_other_mistakes_get_a_sentence():
    with pytest.raises(ValueError, match="compares scores on the same tasks; only one of the two has b, c"):
        better({"a": np.ones(2), "c": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(ValueError, match=r"takes scores of shape \(seeds,\); got shape \(2, 2\) for a"):
        bootstrap_interval(mean, {"a": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"takes a confidence in \(0, 1\); got 1\."):
        bootstrap_interval(mean, ONE, confidence=1.0)
    with pytest.raises(ValueError, match="takes finite thresholds"):
        performance_profile(ONE, [np.nan])
    with pytest.raises(ValueError, match="a number of resamples in"):
        bootstrap_interval(mean, ONE, resamples=0)
    for thresholds, shape in (([], r"\(0,\)"), (np.ones((1, 1)), r"\(1, 1\)")):
        with pytest.raises(ValueError, match=rf"takes at least one threshold, in one row; got shape {shape}\.$"):
            performance_profile(ONE, thresholds)


@pytest.mark.parametrize("resamples", [1.5, True, "many"])
def test_a_number_of_resamples_is_a_whole_one(resamples, unhooked):
    with pytest.raises(ValueError, match=rf"takes a number of resamples that is a whole number; got {resamples!r}\.$"):
        bootstrap_interval(mean, ONE, resamples=resamples)

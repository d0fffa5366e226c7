"""Metrics against plain NumPy written from the equations (E10, E11, E18 to E24, E28, E29); the scores of a flow (E5 to E7)."""

import itertools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import plain_metrics
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fdbook.geometry import flow, metrics
from fdbook.geometry.densities import gaussian
from fdbook.geometry.metrics import L2, Curvatures, Fisher, FisherRao, FisherScale, Information


K, D = 6, 3
STATE = flow.EMPTY


def batch(seed=0, k=K, d=D):
    """delta (k, d), divergence (k,) and scores (k, d) of one state."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(k, d)), rng.normal(size=k), 3 * rng.normal(size=(k, d))


def curvatures(seed, pooled, k=K, d=D):
    """Symmetric matrices (k, d, d): in their mean some curvature is negative, some beyond what E29 can have; and their times."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    factors = rng.normal(size=(k, d, d))
    matrices = axes @ np.diag(np.linspace(-60, 150, d)) @ axes.T + 10 * (factors + np.swapaxes(factors, 1, 2))
    return Curvatures(jnp.asarray(matrices), jnp.full(k, 0.9) if pooled else jnp.linspace(0.85, 0.95, k))


def given_to(name, seed=0):
    """delta, divergence, and readings of the kind that a metric reads."""
    metric, (delta, divergence, scores) = metrics.make(name), batch(seed)
    return delta, divergence, curvatures(seed, metric.pooled) if metric.reads == "matrices" else scores


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("name", metrics.NAMES)
def test_cost_is_the_equation(name, damping, normalized, budget):
    metric, given_ = metrics.make(name, damping=damping, trace_normalized=normalized), given_to(name)
    expected = plain_metrics.cost(name, *given_, damping, normalized)
    np.testing.assert_allclose(metric.cost(*given_), expected, rtol=budget("closed_form"))
    assert float(metric.penalty(*given_)) == pytest.approx(np.mean(expected) / D, rel=budget("closed_form"))


def test_a_metric_without_its_cost_by_hand_is_told_where_it_belongs(monkeypatch):
    monkeypatch.delitem(plain_metrics.FORMS, "l2")
    with pytest.raises(AssertionError, match=r"^tests/plain_metrics\.py: FORMS has no entry for 'l2'"):
        plain_metrics.cost("l2", *batch(), 0.0, False)


def test_defaults_are_those_of_the_equations(budget):
    """E20: damping 1e-3 and E24; E18 has neither, and the scale would be gone with E24."""
    for name in metrics.NAMES:
        given_ = given_to(name, 1)
        expected = plain_metrics.cost(name, *given_, *plain_metrics.defaults(name))
        np.testing.assert_allclose(metrics.make(name).cost(*given_), expected, rtol=budget("closed_form"))
    assert (metrics.make("fisher-released").score, metrics.make("fisher-exact").score) == ("released", "exact")
    assert (metrics.make("fisher-paper").pooled, metrics.make("fisher-exact").pooled) == (False, True)
    assert metrics.make("fisher-released").t == (0.85, 0.90)


STRETCH = np.array([2.0, 1.0, 0.5])


def stretched(reading):
    """Scores and matrices as in other units of each coordinate; times as they are."""
    factors = {1: np.ones(1), 2: STRETCH[None], 3: np.outer(STRETCH, STRETCH)[None]}
    return reading * factors[reading.ndim]


@pytest.mark.parametrize("name", metrics.NAMES)
def test_who_needs_what(name):
    delta, divergence, readings = given_to(name, 2)
    metric = metrics.make(name)
    cost = metric.cost(delta, divergence, readings)
    changed_divergence = not np.allclose(cost, metric.cost(delta, 0 * divergence, readings))
    changed_readings = not np.allclose(cost, metric.cost(delta, divergence, jax.tree.map(stretched, readings)))
    assert metric.needs_divergence is changed_divergence is (name == "fisher-rao")
    assert (metric.reads != "nothing") is changed_readings is (name != "l2")


def test_the_scale_tells_states_apart_and_no_direction(budget):
    """Scores turned alike leave it; scores twice as long charge four times as much; with E24 it is L2."""
    delta, divergence, scores = batch(8)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    plainly = FisherScale(damping=0.0).cost(delta, divergence, scores)
    for other, factor in ((scores @ turn, 1.0), (2 * scores, 4.0)):
        changed = FisherScale(damping=0.0).cost(delta, divergence, other)
        np.testing.assert_allclose(changed, factor * plainly, rtol=budget("closed_form"))
    l2 = L2().cost(delta, divergence, scores)
    np.testing.assert_allclose(FisherScale(trace_normalized=True).cost(delta, divergence, scores), l2)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_matrices_are_what_is_charged(pooled, normalized, budget):
    delta, divergence, scores = batch(3)
    metric = Fisher(pooled=pooled, damping=0.2, trace_normalized=normalized)
    forms = np.asarray(metric.matrices(scores))
    np.testing.assert_allclose(np.einsum("ki,kij,kj->k", delta, forms, delta), metric.cost(delta, divergence, scores))
    np.testing.assert_allclose(forms, np.swapaxes(forms, 1, 2))
    assert np.all(np.linalg.eigvalsh(forms) > 0)
    if normalized:
        assert np.trace(forms.mean(0)) == pytest.approx(D, rel=budget("closed_form"))


def test_the_papers_matrix_has_rank_one():
    """E11: score score^T of one action; E20 and E21 pool K of them."""
    scores = batch(4)[2]
    own, pooled = (Fisher(pooled=p, damping=0.0, trace_normalized=False).matrices(scores) for p in (False, True))
    assert set(np.linalg.matrix_rank(own)) == {1}
    assert set(np.linalg.matrix_rank(pooled)) == {D}
    assert np.linalg.matrix_rank(metrics.fisher_matrix(scores[:2])) == 2
    np.testing.assert_allclose(pooled[0], np.cov(scores.T, bias=True) + np.outer(scores.mean(0), scores.mean(0)))
    np.testing.assert_allclose(metrics.fisher_matrix(scores), pooled[0])


def test_an_isotropic_fisher_is_the_identity(budget):
    """E24: then every normalized Fisher metric charges what L2 charges, however dense the actions are."""
    delta, divergence, _ = batch(5, k=2 * D)
    scores = 7.0 * np.concatenate([np.eye(D), -np.eye(D)])
    np.testing.assert_allclose(metrics.normalize_trace(7.0 * jnp.eye(D)), np.eye(D))
    l2 = L2().cost(delta, divergence, scores)
    for damping in (0.0, 0.5):
        fisher = Fisher(damping=damping).cost(delta, divergence, scores)
        np.testing.assert_allclose(fisher, l2, rtol=budget("closed_form"))
        np.testing.assert_allclose(L2(damping=damping, trace_normalized=True).cost(delta, divergence, scores), l2)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_one_budget_means_one_thing_where_the_information_is_the_identity(name):
    """On readings of a standard normal law the penalty of a constant displacement is |delta|^2 / d, under every metric.

    With a factor 1/2 in any of them, or a sum for a mean, it would not be.
    """
    delta = jnp.broadcast_to(jnp.asarray([0.3, -0.1, 0.2]), (2 * D, D))
    scores = np.sqrt(D) * np.concatenate([np.eye(D), -np.eye(D)])  # their mean outer product is the identity
    t = 0.9  # of noised actions; E29 takes the noise out of the normal law of the actions themselves
    blurred = 1 / (t**2 + (1 - t) ** 2) if getattr(metrics.make(name), "deblurred", False) else 1.0
    readings = {"matrices": Curvatures(jnp.stack([blurred * jnp.eye(D)] * (2 * D)), jnp.full(2 * D, t))}
    for normalized in (False, True):
        metric = metrics.make(name, damping=0.0, trace_normalized=normalized)
        penalty = metric.penalty(delta, jnp.zeros(2 * D), readings.get(metric.reads, scores))
        np.testing.assert_allclose(penalty, 0.14 / D, rtol=1e-9)


def test_metrics_come_back_from_json_and_compare_by_value():
    for name in metrics.NAMES:
        for options in ({}, {"damping": 0.5}):
            metric = metrics.make(name, **options)
            back = metrics.from_dict(json.loads(json.dumps(metrics.to_dict(metric))))
            assert back == metric
            assert hash(back) == hash(metric)
            assert metrics.to_dict(metric)["name"] == name
            assert metrics.make(metrics.short_name(metric), **options) == metric
            assert metrics.unusual(metric) == options
    assert len({metrics.make(name) == metrics.make("fisher-exact") for name in metrics.NAMES}) == 2
    odd = Fisher(score="released", pooled=False)
    assert metrics.from_dict(metrics.to_dict(odd)) == odd
    assert metrics.short_name(odd) == "fisher"
    with pytest.raises(
        ValueError, match=r"no option of the metric fisher-exact called 'dampin'\. Did you mean 'damping'"
    ):
        metrics.from_dict({"name": "fisher-exact", "dampin": 1.0})
    for nameless in ({}, {"name": None}, {"damping": 1.0}):
        with pytest.raises(
            ValueError, match=r"^metrics\.from_dict takes a dict with the name of a metric under 'name'; got"
        ):
            metrics.from_dict(nameless)
    with pytest.raises(ValueError, match=r"There is a metric called 'exact' already"):
        metrics.register("mine", Fisher, short="exact", summary="")


def test_trace_normalization_of_matrices():
    matrix = np.diag([1.0, 2.0, 6.0])
    np.testing.assert_allclose(metrics.normalize_trace(matrix), matrix / 3)
    np.testing.assert_array_equal(metrics.normalize_trace(np.zeros((2, 2))), np.zeros((2, 2)))


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_fisher_matrices_are_positive_semi_definite(k, d, seed):
    matrix = metrics.fisher_matrix(batch(seed, k, d)[2])
    metrics.check_metric(matrix, "here")
    assert np.linalg.matrix_rank(matrix) == min(k, d)


class Spy(eqx.Module):
    """A field whose velocity tells the time at which it was asked: v = t (1, 1, 1)."""

    action_dim: int = D

    def __call__(self, t, observation, x):
        return t * jnp.ones_like(x)


def times_seen(t, k=500):
    """The perturbed times at which `perturbed_scores` asks, from E7's score v / (1 - t) = t / (1 - t)."""
    scores = metrics.perturbed_scores(Spy(), STATE, jnp.zeros((k, D)), key=jr.key(0), t=t, kind="released")
    assert np.ptp(scores, axis=1).max() == 0
    return np.asarray(scores[:, 0] / (1 + scores[:, 0]))


def test_perturbed_times():
    """E6: fixed, or uniform in an interval, one for each action."""
    np.testing.assert_allclose(times_seen(0.8), 0.8)
    np.testing.assert_allclose(times_seen((0.8, 0.8)), 0.8)
    times = times_seen((0.6, 0.9))
    assert 0.6 <= times.min() < 0.61
    assert 0.89 < times.max() <= 0.9
    assert times.std() == pytest.approx(0.3 / np.sqrt(12), rel=0.1)


def test_times_and_noises_are_drawn_apart(budget):
    """E1 and E6: taken out of the points, the noise is normal and knows nothing of its time."""
    times, points = map(np.asarray, metrics.perturb(jnp.zeros((20_000, 1)), (0.2, 0.8), key=jr.key(0)))
    noises = points[:, 0] / (1 - times)
    assert scipy.stats.kstest(noises, "norm").pvalue > budget("chi_square_level")
    assert abs(np.corrcoef(times, noises)[0, 1]) < budget("standard_errors") / np.sqrt(20_000)


@pytest.mark.parametrize("kind", ["exact", "released"])
def test_perturbed_scores_of_a_gaussian(kind, budget):
    """Their second moment at a fixed t: (t^2 S + (1 - t)^2 I)^-1 for E5; for E7 that of (M (x - t m) + m) / (1 - t)."""
    mean, covariance, t, k = np.array([0.5, -0.2]), np.array([[0.09, 0.02], [0.02, 0.02]]), 0.9, 40_000
    field = flow.ExactVelocity(gaussian(jnp.asarray(mean), jnp.asarray(covariance)))
    actions = field.mixture.sample(k, key=jr.key(1))
    metric = Fisher(score=kind, t=t)
    scores = np.asarray(metric.perturbed(field, STATE, actions, key=jr.key(2)))
    noised = t**2 * covariance + (1 - t) ** 2 * np.eye(2)
    slope = (t * covariance - (1 - t) * np.eye(2)) @ np.linalg.inv(noised)
    released = (slope @ noised @ slope.T + np.outer(mean, mean)) / (1 - t) ** 2
    expected = {"exact": np.linalg.inv(noised), "released": released}[kind]
    products = np.einsum("ki,kj->kij", scores, scores)
    errors = (products.mean(0) - expected) / (products.std(0) / np.sqrt(k))
    assert np.max(np.abs(errors)) < budget("standard_errors")
    again = metrics.perturbed_scores(field, STATE, actions, key=jr.key(2), t=t, kind=kind)
    np.testing.assert_array_equal(scores, again)


def test_l2_asks_no_network():
    """Its scores are zeros, and the field is not even looked at."""
    assert L2().perturbed(None, STATE, jnp.ones((K, D)), key=jr.key(0)) is None


TURN = np.array([[0.6, -0.8], [0.8, 0.6]])
BENT = TURN @ np.diag([1.0, 9.0]) @ TURN.T


def test_spectrum_condition_and_alignment():
    values, axes = metrics.spectrum(BENT)
    np.testing.assert_allclose(values, [1, 9])
    np.testing.assert_allclose(np.abs(axes.T @ TURN), np.eye(2), atol=1e-12)
    assert float(metrics.condition_number(BENT)) == pytest.approx(9)
    np.testing.assert_allclose(metrics.condition_number(np.stack([np.eye(2), BENT])), [1, 9])
    assert float(metrics.alignment(BENT, np.diag([4.0, 1.0]))) == pytest.approx(0.8)
    assert float(metrics.alignment(BENT, 5 * BENT)) == pytest.approx(1)
    assert float(metrics.alignment(np.diag([1.0, 2.0]), np.diag([2.0, 1.0]))) == pytest.approx(0, abs=1e-12)


def test_metrics_of_whole_numbers(refused, unhooked):
    whole = np.array([[2, 1], [1, 2]])
    np.testing.assert_allclose(metrics.spectrum(whole)[0], [1, 3])
    assert float(metrics.condition_number(jnp.asarray(whole))) == pytest.approx(3)
    np.testing.assert_allclose(metrics.ellipse(whole, 1.0, n=7), metrics.ellipse(whole.astype(float), 1.0, n=7))
    refused(metrics.spectrum, np.array([[1, 2], [2, 1]]), match="smallest eigenvalue -1")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_metrics_have_an_infinite_condition_number(dtype):
    """Whatever sign rounding gives to their smallest eigenvalue."""
    scores = np.random.default_rng(6).normal(size=(100, 2)).astype(dtype)
    matrices = np.einsum("ni,nj->nij", scores, scores)
    assert np.all(np.isinf(metrics.condition_number(matrices)))
    assert np.isinf(metrics.condition_number(np.zeros((2, 2), dtype)))


@pytest.mark.parametrize("cost", [0.25, 4.0])
@pytest.mark.parametrize("turn", [TURN, TURN.T])
def test_ellipse_is_a_level_set(cost, turn, budget):
    matrix = turn @ np.diag([1.0, 9.0]) @ turn.T
    points = np.asarray(metrics.ellipse(matrix, cost, n=41))
    assert points.shape == (41, 2)
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", points, matrix, points), cost, rtol=budget("closed_form"))
    np.testing.assert_allclose(points[0], points[-1], atol=1e-12)
    lengths = np.linalg.norm(points, axis=1)
    np.testing.assert_allclose([lengths.max(), lengths.min()], [np.sqrt(cost), np.sqrt(cost / 9)])
    corners = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
    assert abs(corners[-1] - corners[0]) == pytest.approx(2 * np.pi)


BAD_MATRICES = [
    (-np.eye(2), "takes a positive semi-definite metric; got one with smallest eigenvalue -1"),
    (np.diag([1.0, -1e-3]), "smallest eigenvalue -0.001"),
    (np.stack([np.eye(2), np.diag([1.0, -1.0])]), "smallest eigenvalue -1"),
    (np.array([[1.0, np.nan], [np.nan, 1.0]]), "takes a finite metric; it has NaN"),
    (np.array([[1.0, 0.3], [0.0, 1.0]]), "takes a symmetric metric"),
    (np.ones((2, 3)), r"takes a metric of shape \(..., d, d\); got shape \(2, 3\)"),
    (np.ones(2), r"got shape \(2,\)"),
]


@pytest.mark.parametrize(("matrix", "match"), BAD_MATRICES)
def test_bad_metrics(matrix, match, refused, unhooked):
    for function in (lambda m: metrics.check_metric(m, "here"), metrics.spectrum, metrics.condition_number):
        refused(function, matrix, match=match)
    refused(lambda m: metrics.alignment(np.eye(2), m), matrix, match=match)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_no_reason_to_refuse(dtype):
    scores = np.random.default_rng(7).normal(size=(3, 8)).astype(dtype) * 1e4
    metrics.check_metric(np.asarray(metrics.fisher_matrix(scores)), "here")
    metrics.check_metric(np.zeros((2, 2), dtype), "here")


def test_check_metric_lets_traced_values_pass():
    np.testing.assert_allclose(jax.jit(metrics.condition_number)(BENT), 9)


def test_bad_ellipses(refused, unhooked):
    refused(metrics.ellipse, np.diag([1.0, 0.0]), 1.0, match="positive definite metric and a positive cost")
    refused(metrics.ellipse, BENT, -1.0, match="positive definite metric and a positive cost")
    refused(metrics.ellipse, np.eye(3), 1.0, match=r"ellipse takes a metric of shape \(2, 2\)")


@pytest.mark.parametrize(
    "t", [0.0, 1.0, np.nan, -0.1, (0.9, 0.8), (0.0, 0.5), (0.5, 1.0), [0.8, 0.9], (0.7, 0.8, 0.9), "x"]
)
def test_bad_perturbed_times(t, refused, unhooked):
    field, actions = Spy(), jnp.zeros((K, D))
    sentence = r"takes a perturbed time in \(0, 1\), or an interval of such times; got"
    refused(lambda: metrics.perturbed_scores(field, STATE, actions, key=jr.key(0), t=t), match=sentence)
    for metric in (Fisher, FisherRao, FisherScale, Information):
        refused(lambda metric=metric: metric(t=t), match=f"{metric.__name__} {sentence}")


def test_bad_names_and_numbers(refused, unhooked):
    refused(metrics.make, "fisher-exakt", match="no metric called 'fisher-exakt'. Did you mean 'fisher-exact'")
    refused(lambda: Fisher(score="exakt"), match="no score called 'exakt'. Did you mean 'exact'")
    refused(
        lambda: metrics.perturbed_scores(Spy(), STATE, jnp.zeros((K, D)), key=jr.key(0), kind="relesed"),
        match="Did you mean 'released'",
    )
    for damping in (-1.0, np.nan):
        for name in metrics.NAMES:
            refused(lambda n=name, d=damping: metrics.make(n, damping=d), match="a damping of at least 0; got")
    refused(
        lambda: metrics.perturbed_scores(Spy(), STATE, jnp.zeros(D), key=jr.key(0)),
        match=r"perturbed_scores takes actions of shape \(n, 3\); got shape \(3,\)",
    )


def test_options_that_are_true_or_false_take_nothing_else(refused, unhooked):
    for option, names in (("pooled", ("exact", "information")), ("deblurred", ("information",))):
        for name, value in itertools.product(names, ("no", 0, None)):
            kind = type(metrics.make(name)).__name__
            sentence = rf"^{kind} takes true or false for {option}; got {value!r}\.$"
            refused(lambda n=name, o=option, v=value: metrics.make(n, **{o: v}), match=sentence)
    for name in metrics.NAMES:
        refused(
            lambda n=name: metrics.make(n, trace_normalized="off"),
            match=r"true or false for trace_normalized; got 'off'",
        )
        for value in (False, True):
            metric = metrics.make(name, trace_normalized=value)
            assert metrics.from_dict(json.loads(json.dumps(metrics.to_dict(metric)))) == metric

"""Closed-form steps against general optimizers, and the Kantorovich bound on what the isotropic step loses (E13 to E15)."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import example, given
from hypothesis import strategies as st

from fdbook.geometry.trust_region import fisher_step, gap, kantorovich_bound, l2_step


def random_metric(dim, condition, rng):
    """A positive definite matrix of that condition number, and its axes."""
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    values = condition ** np.concatenate([[0.0, 1.0], rng.uniform(size=dim - 2)])
    return (axes * values) @ axes.T, axes[:, :2]


def exactly_gap(gradient, metric):
    return gradient @ gradient / np.sqrt(gradient @ metric @ gradient * (gradient @ np.linalg.solve(metric, gradient)))


OPTIMIZERS = {
    "SLSQP": {"options": {"ftol": 1e-14, "maxiter": 500}},
    "trust-constr": {
        "options": {"gtol": 1e-10, "xtol": 1e-12, "maxiter": 3000},
        "hess": lambda d: np.zeros((d.size, d.size)),
    },
}


@pytest.mark.parametrize("method", OPTIMIZERS)
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_fisher_step_is_the_optimum(dim, method, budget):
    """E13 against a general constrained optimizer, which knows neither F^-1 nor eigenvectors."""
    rng, epsilon, near = np.random.default_rng(dim), 0.05, budget("constrained_optimizer")
    metric, _ = random_metric(dim, 20.0, rng)
    gradient = rng.normal(size=dim)
    found = scipy.optimize.minimize(
        lambda d: -gradient @ d,
        1e-2 * gradient,
        jac=lambda d: -gradient,
        constraints=[
            scipy.optimize.NonlinearConstraint(
                lambda d: 0.5 * d @ metric @ d, -np.inf, epsilon, jac=lambda d: (metric @ d)[None]
            )
        ],
        method=method,
        **OPTIMIZERS[method],
    )
    step = fisher_step(gradient, metric, epsilon)
    np.testing.assert_allclose(step.delta, found.x, atol=near)
    assert float(step.gain) == pytest.approx(-found.fun, abs=near)


@pytest.mark.parametrize("step", [fisher_step, l2_step])
@pytest.mark.parametrize("condition", [1.0, 330.0, 1e5])
def test_steps_spend_the_whole_trust_region(step, condition, budget):
    rng = np.random.default_rng(1)
    metric, _ = random_metric(4, condition, rng)
    gradient = rng.normal(size=4)
    delta, gain = step(gradient, metric, 0.3)
    assert 0.5 * delta @ metric @ delta == pytest.approx(0.3, rel=budget("trust_region_closed_form"))
    assert float(gain) == pytest.approx(float(gradient @ delta), rel=budget("trust_region_closed_form"))
    along = {fisher_step: np.linalg.solve(metric, gradient), l2_step: gradient}[step]
    cosine = delta @ along / np.linalg.norm(delta) / np.linalg.norm(along)
    assert cosine == pytest.approx(1, abs=budget("trust_region_closed_form"))


def test_the_ratio_of_gains_is_the_gap(budget):
    rng = np.random.default_rng(2)
    metrics = np.stack([random_metric(3, condition, rng)[0] for condition in (1.5, 20.0, 330.0, 1e4)])
    gradients = rng.normal(size=(4, 3))
    ratio = l2_step(gradients, metrics, 0.1).gain / fisher_step(gradients, metrics, 0.1).gain
    near = functools.partial(np.testing.assert_allclose, rtol=budget("trust_region_closed_form"))
    near(gap(gradients, metrics), ratio)
    near(ratio, [exactly_gap(g, m) for g, m in zip(gradients, metrics, strict=True)])


@st.composite
def problems(draw):
    """A gradient and a positive definite metric of dimension 2 to 7 and condition number up to 1e6."""
    dim, seed = draw(st.integers(2, 7)), draw(st.integers(0, 2**32 - 1))
    condition = 10 ** draw(st.floats(0, 6))
    rng = np.random.default_rng(seed)
    metric, extremes = random_metric(dim, condition, rng)
    mixed = extremes @ draw(st.sampled_from([(1.0, 1.0), (1.0, 0.0), (condition**0.5, 1.0), (1.0, condition**0.5)]))
    return draw(st.sampled_from([rng.normal(size=dim), mixed])), 10 ** draw(st.floats(-4, 4)) * metric, condition


@given(problems())
def test_the_gap_lies_above_the_kantorovich_bound(problem):
    gradient, metric, condition = problem
    lost = float(gap(gradient, metric))
    assert float(kantorovich_bound(condition)) * (1 - 1e-6) <= lost <= 1
    assert lost == pytest.approx(exactly_gap(gradient, metric), rel=1e-5)


@given(st.floats(1, 1e8), st.integers(2, 6))
@example(330.0, 2)
def test_the_bound_is_tight(condition, dim):
    """The worst gradient leans equally on the stiffest and the softest axis; an eigenvector loses nothing."""
    metric, extremes = random_metric(dim, condition, np.random.default_rng(dim))
    assert float(gap(extremes.sum(axis=1), metric)) == pytest.approx(2 * condition**0.5 / (1 + condition), rel=1e-5)
    assert float(kantorovich_bound(condition)) == pytest.approx(2 * condition**0.5 / (1 + condition), rel=1e-12)
    assert float(gap(extremes[:, 0], np.diag(np.arange(1.0, dim + 1)))) <= 1
    assert float(gap(extremes[:, 1], metric)) == pytest.approx(1, rel=1e-5)


def test_bound_in_numbers():
    """The factor 330 of the banana leaves the isotropic step with 11% of the gain."""
    assert float(kantorovich_bound(330.0)) == pytest.approx(0.11, abs=0.005)
    np.testing.assert_allclose(kantorovich_bound(jnp.array([1.0, 4.0, jnp.inf])), [1, 0.8, 0])


def test_batches_are_many_single_problems():
    rng = np.random.default_rng(3)
    metrics = np.stack([random_metric(3, 50.0, rng)[0] for _ in range(6)]).reshape(2, 3, 3, 3)
    gradients = rng.normal(size=(2, 3, 3))
    for step in (fisher_step, l2_step):
        delta, gain = step(gradients, metrics, 0.2)
        assert (delta.shape, gain.shape) == ((2, 3, 3), (2, 3))
        alone = step(gradients[1, 2], metrics[1, 2], 0.2)
        np.testing.assert_allclose(delta[1, 2], alone.delta, rtol=1e-12)
        np.testing.assert_allclose(eqx.filter_jit(step)(gradients, metrics, 0.2).gain, gain, rtol=1e-12)
    assert gap(gradients, metrics).shape == (2, 3)
    np.testing.assert_allclose(gap(gradients, metrics)[0, 1], gap(gradients[0, 1], metrics[0, 1]), rtol=1e-12)


SINGULAR = np.outer([3.0, 4.0], [3.0, 4.0])  # E11's matrix of one action


def test_singular_metrics_have_finite_steps():
    """A direction that is not charged is charged `floor` times the stiffest one: a long step, not an infinite one."""
    for gradient in ([1.0, 0.0], [4.0, -3.0], [3.0, 4.0]):
        g = np.array(gradient)
        for step in (fisher_step, l2_step):
            delta, gain = step(g, SINGULAR, 0.1, floor=1e-4)
            assert np.all(np.isfinite(delta))
            assert gain > 0
        floored = SINGULAR + 25e-4 * np.outer([0.8, -0.6], [0.8, -0.6])
        np.testing.assert_allclose(
            fisher_step(g, SINGULAR, 0.1, floor=1e-4).delta, fisher_step(g, floored, 0.1).delta, rtol=1e-6
        )


def test_gap_of_a_singular_metric_is_a_limit():
    for gradient, limit in (([1.0, 0.0], 0), ([4.0, -3.0], 1), ([3.0, 4.0], 1)):
        g = np.array(gradient)
        damped = [exactly_gap(g, SINGULAR + damping * np.eye(2)) for damping in (1e-6, 1e-8)]
        assert float(gap(g, SINGULAR)) == limit
        assert abs(damped[1] - limit) < abs(damped[0] - limit) + 1e-6 < 2e-3


@pytest.mark.parametrize("metric", [np.diag([2.0, 5.0]), SINGULAR, np.zeros((2, 2))])
def test_zero_gradients_and_zero_metrics(metric):
    for step in (fisher_step, l2_step):
        for delta, gain in (step(np.zeros(2), metric, 0.1), step(np.ones(2), np.zeros((2, 2)), 0.1)):
            np.testing.assert_array_equal(delta, np.zeros(2))
            assert gain == 0
    assert gap(np.zeros(2), metric) == 1


BAD = [
    ((np.ones(2), -np.eye(2)), "takes a positive semi-definite metric; got one with smallest eigenvalue -1"),
    ((np.ones(2), np.array([[1.0, 2.0], [2.0, 1.0]])), "positive semi-definite metric; got .* -1"),
    ((np.ones(2), np.array([[1.0, 0.5], [0.0, 1.0]])), "takes a symmetric metric"),
    ((np.ones(2), np.full((2, 2), np.nan)), "takes a finite metric"),
    ((np.array([1.0, np.nan]), np.eye(2)), "takes finite gradients; 1 of 2"),
    ((np.ones(3), np.eye(2)), r"takes a gradient \(..., d\) and a metric \(..., d, d\); got \(3,\) and \(2, 2\)"),
    ((np.ones((4, 2)), np.eye(2)), r"got \(4, 2\) and \(2, 2\)"),
    ((np.ones(2), np.ones((2, 3))), r"takes a metric of shape \(..., d, d\); got shape \(2, 3\)"),
]


@pytest.mark.parametrize(("arguments", "match"), BAD)
def test_bad_problems(arguments, match, refused, unhooked):
    for function in (lambda *a: fisher_step(*a, 0.1), lambda *a: l2_step(*a, 0.1), gap):
        refused(function, *arguments, match=match)


def test_bad_numbers(refused):
    for epsilon in (0.0, -1.0, np.nan):
        for step in (fisher_step, l2_step):
            sentence = rf"{step.__name__} takes a trust region epsilon in \(0, inf\]; got"
            refused(step, np.ones(2), np.eye(2), epsilon, match=sentence)
    for condition in (0.5, np.nan):
        refused(kantorovich_bound, condition, match=r"takes a condition number in \[1, inf\]")
        refused(kantorovich_bound, jnp.asarray(condition), match="takes a condition number", jit=True)
    refused(gap, jnp.array([1.0, jnp.nan]), jnp.eye(2), match="takes finite gradients", jit=True)


def test_gradients_flow_through_a_step():
    """d gain / d epsilon = gain / (2 epsilon), by automatic differentiation inside jit."""
    metric, gradient = jnp.diag(jnp.array([1.0, 9.0])), jnp.array([1.0, -2.0])
    slope = jax.jit(jax.grad(lambda scale: fisher_step(scale * gradient, metric, 0.1).gain))(1.0)
    assert float(slope) == pytest.approx(float(fisher_step(gradient, metric, 0.1).gain), rel=1e-9)

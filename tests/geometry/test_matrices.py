"""The metrics that read matrices (E28, E29): closed forms of Gaussians, the information identity, and what they refuse."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry import flow, metrics
from fdbook.geometry.densities import GaussianMixture, gaussian
from fdbook.geometry.metrics import Curvatures, Fisher, Information


NAMES = [name for name in metrics.NAMES if metrics.make(name).reads == "matrices"]
RAW = {"damping": 0.0, "trace_normalized": False}
TURN = np.array([[0.6, -0.8], [0.8, 0.6]])
SIGMA = TURN @ np.diag([0.3, 0.03]) ** 2 @ TURN.T
STEPS = np.array([[0.1, 0.0], [0.0, 0.1], [-0.3, 0.2]])


def read(metric, t, dtype=np.float64):
    """A Gaussian's flow, widths 0.3 and 0.03, read at as many points as there are steps."""
    field = flow.ExactVelocity(gaussian(jnp.asarray([0.5, -0.2], dtype), jnp.asarray(SIGMA, dtype)))
    points = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), dtype)
    velocities = jax.vmap(field, in_axes=(None, None, 0))(jnp.asarray(t, dtype), flow.EMPTY, points)
    return metric.readings(field, flow.EMPTY, jnp.asarray(t, dtype), points, velocities)


@pytest.mark.parametrize("t", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("name", NAMES)
def test_a_gaussian_at_several_times(name, t, budget):
    """The blurred precision, and where the blur is taken out, that of the actions themselves."""
    metric = metrics.make(name, **RAW)
    blurred = SIGMA if metric.deblurred else t**2 * SIGMA + (1 - t) ** 2 * np.eye(2)
    wanted = np.einsum("ki,ij,kj->k", STEPS, np.linalg.inv(blurred), STEPS)
    readings = read(metric, t)
    np.testing.assert_allclose(readings.times, t)
    np.testing.assert_allclose(
        metric.cost(STEPS, np.zeros(3), readings), wanted, rtol=budget("information_closed_form")
    )
    level = np.trace(np.linalg.inv(blurred)) / 2
    np.testing.assert_allclose(metric.level(readings), level, rtol=budget("information_closed_form"))


@pytest.mark.parametrize("pooled", [True, False])
def test_single_precision_is_enough_for_a_thin_gaussian(pooled, budget):
    """Both eigenvalues of the actions' precision, 11 and 1111, at t = 0.9, where the blur is three times the thin width."""
    metric = Information(pooled=pooled, deblurred=True)
    forms = metric.forms(read(metric, 0.9, np.float32))
    assert forms.dtype == np.float32
    for form in np.asarray(forms, np.float64):
        found = np.linalg.eigvalsh(form)
        np.testing.assert_allclose(found, [1 / 0.3**2, 1 / 0.03**2], rtol=budget("deblurred_in_single_precision"))


def test_the_mean_matrix_is_that_of_the_scores(budget):
    """E28: at the same noised actions of a mixture, H and score score^T have one mean, where neither is constant."""
    mixture = GaussianMixture(
        jnp.asarray([0.3, 0.7]),
        jnp.asarray([[-0.4, 0.1], [0.5, -0.2]]),
        jnp.asarray([[[0.04, 0.015], [0.015, 0.02]], [[0.01, -0.004], [-0.004, 0.05]]]),
    )
    field, n = flow.ExactVelocity(mixture), 5_000
    actions = mixture.sample(n, key=jr.key(1))
    local = np.asarray(Information(t=0.7).perturbed(field, flow.EMPTY, actions, key=jr.key(2)).matrices)
    scores = np.asarray(Fisher(t=0.7).perturbed(field, flow.EMPTY, actions, key=jr.key(2)))
    apart = np.einsum("ki,kj->kij", scores, scores) - local
    errors = apart.mean(axis=0) / (apart.std(axis=0) / np.sqrt(n))
    assert np.abs(errors).max() < budget("standard_errors")
    assert np.all(local.std(axis=0) > 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_negative_curvature_charges_nothing(name):
    """After the mean where one matrix serves a state; before any scale, which it does not lower either."""
    metric = metrics.make(name, t=0.5, **RAW)
    readings = Curvatures(jnp.asarray([np.diag([-3.0, 2.0]), np.diag([1.0, 2.0])]), jnp.full(2, 0.5))
    along, across = (jnp.broadcast_to(jnp.asarray(step), (2, 2)) for step in ([1.0, 0.0], [0.0, 1.0]))
    one, two = (0.25 / 0.75, 1.0) if metric.deblurred else (1.0, 2.0)  # E29 of 1 and of 2 at t = 1/2
    np.testing.assert_allclose(
        metric.cost(along, jnp.zeros(2), readings), [0.0, 0.0 if metric.pooled else one], atol=1e-12
    )
    np.testing.assert_allclose(metric.cost(across, jnp.zeros(2), readings), [two, two])
    np.testing.assert_allclose(metric.level(readings), (two + (0.0 if metric.pooled else one / 2)) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_without_positive_curvature_is_free_and_not_undefined(name):
    """Also when E24 would divide by its level, 0; the damping, if there is one, is then all that is charged."""
    readings = Curvatures(jnp.stack([-jnp.eye(2)] * 3), jnp.full(3, 0.9))
    free, damped = (metrics.make(name, damping=damping, trace_normalized=True) for damping in (0.0, 0.1))
    np.testing.assert_array_equal(free.cost(STEPS, np.zeros(3), readings), np.zeros(3))
    np.testing.assert_allclose(damped.cost(STEPS, np.zeros(3), readings), np.sum(STEPS**2, axis=1))


def test_each_action_has_the_blur_of_its_own_time(budget):
    """Actions noised to an interval of times, as E6 has it: every one gives the precision."""
    metric = Information(pooled=False, deblurred=True, t=(0.5, 0.9), **RAW)
    field = flow.ExactVelocity(gaussian(jnp.zeros(2), jnp.asarray(SIGMA)))
    readings = metric.perturbed(field, flow.EMPTY, field.mixture.sample(3, key=jr.key(0)), key=jr.key(1))
    assert np.ptp(readings.times) > 0.05
    wanted = np.einsum("ki,ij,kj->k", STEPS, np.linalg.inv(SIGMA), STEPS)
    np.testing.assert_allclose(
        metric.cost(STEPS, np.zeros(3), readings), wanted, rtol=budget("information_closed_form")
    )


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan, np.inf, True, "x"])
def test_bad_widths(width, refused, unhooked):
    refused(lambda: Information(least_width=width), match="Information takes a finite least_width above 0; got")


def test_a_mean_has_the_blur_of_one_time(refused, unhooked):
    sentence = (
        r"Information, pooled and deblurred, takes one time t in \(0, 1\), whose blur it takes out; got \(0.8, 0.9\)"
    )
    refused(lambda: metrics.make("information-deblurred", t=(0.8, 0.9)), match=sentence)
    for name in ("information", "information-local", "information-sharp"):
        assert metrics.make(name, t=(0.8, 0.9)).t == (0.8, 0.9)


def test_actions_count_as_no_narrower_than_the_least_width(budget):
    metric = Information(deblurred=True, least_width=0.1, **RAW)
    values = np.linalg.eigvalsh(metric.forms(read(metric, 0.9))[0])
    np.testing.assert_allclose(values, [1 / 0.3**2, 1 / 0.1**2], rtol=budget("information_closed_form"))

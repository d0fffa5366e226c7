"""Local and deblurred information (E26 to E29): closed forms of Gaussians, a mixture's posterior by NumPy, and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbook.geometry import anisotropy, information, metrics, paths
from fdbook.geometry.densities import GaussianMixture, gaussian


EMPTY = jnp.zeros(0)
WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-0.4, 0.1], [0.5, -0.2]])
COVARIANCES = np.array([[[0.04, 0.015], [0.015, 0.02]], [[0.01, -0.004], [-0.004, 0.05]]])


def exact_field(density):
    """The velocity of a density, as a field of no observation."""
    return lambda t, observation, x: density.velocity(t, x)


def rotation(d, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def covariance(widths, seed=0):
    q = rotation(len(widths), seed)
    return q @ np.diag(np.square(widths)) @ q.T


def posterior_covariance(t, x):
    """Cov[a | x_t = x] of the mixture, from Bayes' rule for each component: x_t is a times t plus noise of deviation 1 - t."""
    noise = (1 - t) ** 2 * np.eye(2)
    weights, means, covariances = [], [], []
    for weight, mean, sigma in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        spread = t**2 * sigma + noise
        gain = t * sigma @ np.linalg.inv(spread)
        away = x - t * mean
        weights.append(weight * np.exp(-0.5 * away @ np.linalg.solve(spread, away)) / np.sqrt(np.linalg.det(spread)))
        means.append(mean + gain @ away)
        covariances.append(sigma - t * gain @ sigma)
    weights, means = np.array(weights) / np.sum(weights), np.array(means)
    centered = means - weights @ means
    within = np.einsum("k,kij->ij", weights, np.array(covariances))
    return within + np.einsum("k,ki,kj->ij", weights, centered, centered)


@pytest.mark.parametrize("t", [0.05, 0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("widths", [(0.3, 0.03), (0.5, 0.2, 0.1, 0.05, 0.02)])
def test_a_gaussian_at_every_time(t, widths, budget):
    """H is the inverse of the blurred covariance everywhere, and without the blur it is the precision of the actions."""
    sigma = covariance(widths)
    density = gaussian(jnp.full(len(widths), 0.2), jnp.asarray(sigma))
    for x in np.random.default_rng(1).normal(size=(3, len(widths))):
        got = information.local_information(exact_field(density), t, EMPTY, jnp.asarray(x))
        blurred = t**2 * sigma + (1 - t) ** 2 * np.eye(len(widths))
        np.testing.assert_allclose(got, np.linalg.inv(blurred), rtol=budget("information_closed_form"), atol=1e-9)
        found = information.deblurred_information(got, t)
        scale = np.max(np.abs(np.linalg.inv(sigma)))
        np.testing.assert_allclose(found, np.linalg.inv(sigma), atol=budget("information_closed_form") * scale)


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.3, 0.8, 0.95])
def test_deblurring_is_the_posterior_covariance_of_a_mixture(t, budget):
    """Second-order Tweedie, where no single Gaussian is right: against Bayes' rule in NumPy."""
    density = GaussianMixture(WEIGHTS, MEANS, COVARIANCES)
    compared = 0
    for x in t * np.random.default_rng(2).uniform(-0.6, 0.6, (12, 2)):
        wanted = np.linalg.inv(posterior_covariance(t, x)) - (t / (1 - t)) ** 2 * np.eye(2)
        local = information.local_information(exact_field(density), t, EMPTY, jnp.asarray(x))
        hessian = -jax.hessian(lambda point: density.noised(t).log_prob(point))(jnp.asarray(x))
        np.testing.assert_allclose(local, hessian, rtol=budget("information_closed_form"), atol=1e-7)
        if np.linalg.eigvalsh(local)[0] > 0:
            compared += 1
            found = information.deblurred_information(local, t, least_width=1e-6)
            np.testing.assert_allclose(found, wanted, rtol=budget("information_closed_form"), atol=1e-6)
    assert compared >= 3


@pytest.mark.parametrize("t", [0.5, 0.85])
def test_the_information_identity(t, budget):
    """The mean of H over p_t is the mean of score score^T, both by quadrature on a grid."""
    density = GaussianMixture(WEIGHTS, MEANS, COVARIANCES)
    axis = np.linspace(-2.5, 2.5, 161)
    points = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    weights = jnp.exp(jax.vmap(density.noised(t).log_prob)(points)) * (axis[1] - axis[0]) ** 2
    local = jax.vmap(lambda x: information.local_information(exact_field(density), t, EMPTY, x))(points)
    velocities = jax.vmap(lambda x: density.velocity(t, x))(points)
    scores = paths.score_from_velocity(t, points, velocities)
    fisher = jnp.einsum("n,ni,nj->ij", weights, scores, scores)
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=budget("information_quadrature"))
    np.testing.assert_allclose(jnp.einsum("n,nij->ij", weights, local), fisher, rtol=budget("information_quadrature"))


def test_between_modes_the_negative_eigenvalue_is_projected_away():
    density = GaussianMixture(
        np.array([0.5, 0.5]), np.array([[-0.5, 0.0], [0.5, 0.0]]), np.stack([0.01 * np.eye(2)] * 2)
    )
    local = information.local_information(exact_field(density), 0.9, EMPTY, jnp.zeros(2))
    values, axes = np.linalg.eigh(local)
    assert values[0] < -100
    assert abs(axes[0, 0]) > 0.999
    kept = information.nearest_semidefinite(local)
    np.testing.assert_allclose(kept, np.diag([0.0, values[1]]), atol=1e-9 * values[1])
    np.testing.assert_allclose(np.linalg.eigvalsh(information.nearest_semidefinite(local, 3.0))[0], 3.0, rtol=1e-9)
    found = np.asarray(information.deblurred_information(local, 0.9))
    np.testing.assert_allclose(found[0, 0], 0.0, atol=1e-6)
    assert found[1, 1] > 50


def test_a_matrix_that_no_density_can_have_is_capped_at_the_least_width():
    t, least = 0.9, 0.02
    for value in (1 / (1 - t) ** 2, 1e6):
        found = information.deblurred_information(jnp.diag(jnp.asarray([1.0, value])), t, least_width=least)
        np.testing.assert_allclose(found[1, 1], 1 / least**2, rtol=1e-9)


@pytest.mark.parametrize("t", [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9])
def test_single_precision_meets_the_least_width_too(t):
    """At early times the precisions 0.5 / least^2 and 1 / least^2 are one number of float32 after the blur."""
    matrix = jnp.diag(jnp.asarray([0.0, 0.25, 1e7], jnp.float32))
    found = information.deblurred_information(matrix, t, least_width=1e-3)
    assert found.dtype == jnp.float32
    wanted = [0, t**2 * 0.25 / (1 - 0.25 * (1 - t) ** 2), 1e6]
    np.testing.assert_allclose(jnp.diagonal(found), wanted, rtol=1e-5)


def test_each_eigenvalue_is_deblurred_as_a_variance():
    """The variance of the actions is that of x_t less the noise, over t^2, and no smaller than the least one."""
    for t in np.linspace(0.05, 0.95, 19):
        values = np.geomspace(1e-12, 1e6, 200) / (1 - t) ** 2
        values = values[np.abs(1 - (1 - t) ** 2 * values) > 0.02]  # beside it the subtraction loses two digits at most
        found = information.deblurred_information(jnp.asarray(values)[:, None, None], t, least_width=0.03)
        wanted = 1 / np.maximum((1 / values - (1 - t) ** 2) / t**2, 0.03**2)
        wanted[(1 - t) ** 2 * values > 1] = 1 / 0.03**2  # narrower than nothing
        np.testing.assert_allclose(found[:, 0, 0], wanted, rtol=1e-12)


def test_deblurring_has_finite_gradients():
    """Of float32 at an early time, where the actions may have no width left: 0 at and beyond the least one, and below 0."""
    t = 0.02
    slope = jax.grad(lambda x: information.deblurred_information(x[None, None], t)[0, 0])
    wanted = {-3.0: 0.0, 1e-30: t**2, 0.25: t**2 / (1 - 0.25 * (1 - t) ** 2) ** 2, 1 / (1 - t) ** 2: 0.0, 1e4: 0.0}
    for value, derivative in wanted.items():
        assert float(slope(jnp.asarray(value, jnp.float32))) == pytest.approx(derivative, rel=1e-5)
    assert 0 <= float(slope(jnp.float32(0.0))) <= 1.001 * t**2  # a corner: anything between its sides


def test_a_jacobian_has_a_row_for_each_component_and_a_column_for_each_coordinate():
    found = information.jacobian(lambda x: jnp.stack([x[0] * x[1], x[1] ** 2, 3 * x[0]]), jnp.asarray([2.0, 5.0]))
    np.testing.assert_allclose(found, [[5.0, 2.0], [0.0, 10.0], [3.0, 0.0]])


def test_rotation_changes_nothing(budget):
    q = jnp.asarray(rotation(2, 5))
    jacobian = jnp.asarray(np.random.default_rng(6).normal(size=(2, 2)))
    turned = information.information_from_jacobian(0.8, q @ jacobian @ q.T)
    straight = information.information_from_jacobian(0.8, jacobian)
    np.testing.assert_allclose(turned, q @ straight @ q.T, atol=budget("information_closed_form"))
    np.testing.assert_allclose(turned, turned.T, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.8, 0.9, 0.97, 1.0])
def test_the_closed_law_of_the_blur(t):
    """Against the eigenvalues of F_t^-1 F, and the numbers that NumPy's generalized eigenvalues give for three axes."""
    widths = np.array([0.03, 0.1, 0.3])
    values = (t**2 * widths**2 + (1 - t) ** 2) / widths**2
    np.testing.assert_allclose(information.blurred_condition(0.03, 0.3, t), values.max() / values.min(), rtol=1e-12)
    sigma = np.diag(widths**2)
    product = (t**2 * sigma + (1 - t) ** 2 * np.eye(3)) @ np.linalg.inv(sigma)
    np.testing.assert_allclose(information.blurred_condition(0.03, 0.3, t), np.linalg.cond(product), rtol=1e-9)


def test_efficiency_lies_between_its_bounds_and_reaches_both():
    rng = np.random.default_rng(7)
    for _ in range(50):
        factors = rng.normal(size=(2, 4, 4))
        f, m = (factor @ factor.T + 0.1 * np.eye(4) for factor in factors)
        condition = np.linalg.eigvals(np.linalg.solve(m, f)).real
        k = condition.max() / condition.min()
        eta = float(anisotropy.efficiency(rng.normal(size=4), f, m))
        assert 2 * np.sqrt(k) / (1 + k) - 1e-12 <= eta <= 1 + 1e-12
    widths = np.array([0.03, 0.3])
    f, g = np.diag(1 / widths**2), np.array([1.0, 1.0])
    for t in (0.8, 0.97):
        m = np.diag(1 / (t**2 * widths**2 + (1 - t) ** 2))
        k = float(information.blurred_condition(0.03, 0.3, t))
        worst = g * np.sqrt(np.diag(m))  # both ends weigh alike in the metric's own coordinates
        tight = float(anisotropy.efficiency(worst, f, m))
        np.testing.assert_allclose(tight, 2 * np.sqrt(k) / (1 + k), rtol=1e-9)
    assert float(anisotropy.efficiency(g, f, 3 * f)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: information.information_from_jacobian(1.0, jnp.eye(2)), r"takes a time t in \[0, 1\); got 1"),
        (lambda: information.deblurred_information(jnp.eye(2), 0.0), r"takes a time t in \(0, 1\); got 0"),
        (
            lambda: information.deblurred_information(jnp.eye(2), 0.5, least_width=0.0),
            r"a least width in \(0, inf\]; got 0",
        ),
        (lambda: information.blurred_condition(0.3, 0.03, 0.9), r"wide over narrow in \[1, inf\]; got 0\.1"),
    ],
)
def test_bad_input_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_the_pooled_form_sees_the_axes_of_the_data():
    """The mean of H over a state's actions, deblurred, has the condition number of a Gaussian's precision; F_t has less."""
    sigma = covariance((0.3, 0.03), seed=3)
    density, t = gaussian(jnp.zeros(2), jnp.asarray(sigma)), 0.9
    points = jnp.asarray(np.random.default_rng(8).normal(size=(8, 2)))
    mean = jnp.mean(
        jax.vmap(lambda x: information.local_information(exact_field(density), t, EMPTY, x))(points), axis=0
    )
    assert float(metrics.condition_number(mean)) < 12
    np.testing.assert_allclose(metrics.condition_number(information.deblurred_information(mean, t)), 100, rtol=1e-6)

"""The straight path: velocity, endpoint, noise and score of exact mixtures (E1, E5, E7), and the times they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import multivariate_normal
from plain import many

from fdbook.geometry import paths
from fdbook.geometry.densities import gaussian


TIMES = [0.02, 0.3, 0.7, 0.9, 0.99]


def noised_log_prob(plain, t, x):
    """log p_t(x), written from E1 alone."""
    noised = plain.noised(t)
    parts = [multivariate_normal.logpdf(x, m, c) for m, c in zip(noised.means, noised.covariances, strict=True)]
    return logsumexp(jnp.stack(parts) + jnp.log(noised.weights))


def on_path(plain, t, n=50, seed=0):
    """n points of p_t."""
    rng = np.random.default_rng(seed)
    return t * plain.sample(n, rng) + (1 - t) * rng.normal(size=(n, plain.means.shape[1]))


def velocities(mixture, t, x):
    return many(mixture.velocity, in_axes=(None, 0))(t, x)


@pytest.mark.parametrize("t", TIMES)
def test_the_velocity_holds_the_score(plain, mixture, t, budget):
    """E5 from the exact velocity is the gradient of log p_t."""
    x = on_path(plain, t)
    score = many(jax.grad(lambda x: noised_log_prob(plain, t, x)))(x)
    from_velocity = paths.score_from_velocity(t, x, velocities(mixture, t, x))
    np.testing.assert_allclose(from_velocity, score, atol=budget("score_from_velocity"), rtol=0)
    np.testing.assert_allclose(many(mixture.noised(t).score)(x), score, atol=budget("score_from_velocity"), rtol=0)


@pytest.mark.parametrize("t", TIMES)
def test_released_score(plain, mixture, t, budget):
    """E7: v / (1 - t) = score / t + x / (t (1 - t))."""
    x = on_path(plain, t)
    score = many(jax.grad(lambda x: noised_log_prob(plain, t, x)))(x)
    released = paths.released_score(t, velocities(mixture, t, x))
    np.testing.assert_allclose(released, score / t + x / (t * (1 - t)), atol=budget("released_score"), rtol=0)


CASES = [  # mean, variances, and the diagonals of the true Fisher matrix, of E5's and of E7's at t = 0.9, of trace 2
    ((0.0, 0.0), (0.01, 0.09), (1.80, 0.20), (1.64, 0.36), (1.98, 0.02)),
    ((0.0, 0.0), (0.0025, 0.25), (1.98, 0.02), (1.89, 0.11), (1.83, 0.17)),
    ((0.6, 0.0), (0.09, 0.01), (0.20, 1.80), (0.36, 1.64), (0.89, 1.11)),
    ((0.0, 0.8), (0.01, 0.04), (1.60, 0.40), (1.40, 0.60), (0.77, 1.23)),
]


@pytest.mark.parametrize(("mean", "variances", "true", "exact", "released"), CASES)
def test_what_the_released_score_does_to_a_metric(mean, variances, true, exact, released, budget):
    """E7's table, by the exact velocity of a Gaussian; the last row shows the order of the axes reversed."""
    density, t = gaussian(jnp.array(mean), jnp.diag(jnp.array(variances))), 0.9

    def diagonal(score, nodes):
        scores = many(score)(nodes.points)
        second = np.einsum("n,ni->i", nodes.weights, scores**2)
        return 2 * second / second.sum()

    def velocity(x):
        return density.velocity(t, x)

    noised, near = density.noised(t).quadrature(3), budget("table_of_released_scores")
    np.testing.assert_allclose(diagonal(density.score, density.quadrature(3)), true, atol=near)
    np.testing.assert_allclose(
        diagonal(lambda x: paths.score_from_velocity(t, x, velocity(x)), noised), exact, atol=near
    )
    np.testing.assert_allclose(diagonal(lambda x: paths.released_score(t, velocity(x)), noised), released, atol=near)


@pytest.mark.parametrize("t", [0.0, *TIMES, 1.0])
def test_endpoint_and_noise_are_conditional_means(t, budget):
    """For a Gaussian they are linear regressions: E[a|x] and E[z|x] from the joint covariance of (a, z, x)."""
    mean, covariance = np.array([0.4, -0.2]), np.array([[0.09, 0.03], [0.03, 0.04]])
    density, x = gaussian(mean, covariance), np.random.default_rng(1).normal(size=(20, 2))
    whitened = (x - t * mean) @ np.linalg.inv(t**2 * covariance + (1 - t) ** 2 * np.eye(2))
    v = velocities(density, t, x)
    near = budget("closed_form")
    np.testing.assert_allclose(paths.endpoint_from_velocity(t, x, v), mean + t * whitened @ covariance, atol=near)
    np.testing.assert_allclose(paths.noise_from_velocity(t, x, v), (1 - t) * whitened, atol=near)


def test_path_and_its_speed():
    z, a = np.random.default_rng(2).normal(size=(2, 5, 3))
    t = np.linspace(0, 1, 5)
    np.testing.assert_allclose(
        paths.interpolate(t, z, a), [(1 - s) * b + s * e for s, b, e in zip(t, z, a, strict=True)]
    )
    np.testing.assert_array_equal(paths.interpolate(0.0, z, a), z)
    np.testing.assert_array_equal(paths.interpolate(1.0, z, a), a)
    speed = jax.jacfwd(lambda t: paths.interpolate(t, jnp.asarray(z), jnp.asarray(a)))(0.3)
    np.testing.assert_allclose(paths.target_velocity(z, a), speed, atol=1e-12)
    np.testing.assert_allclose(paths.target_velocity(z, a), a - z)


@pytest.mark.parametrize("t", [0.02, 0.5, np.array([0.1, 0.9, 0.99])])
def test_conversions_invert_each_other(t, budget):
    x, v = np.random.default_rng(3).normal(size=(2, 3, 4))
    near = budget("closed_form")
    np.testing.assert_allclose(paths.velocity_from_endpoint(t, x, paths.endpoint_from_velocity(t, x, v)), v, atol=near)
    np.testing.assert_allclose(paths.velocity_from_score(t, x, paths.score_from_velocity(t, x, v)), v, atol=near)
    endpoint, noise = paths.endpoint_from_velocity(t, x, v), paths.noise_from_velocity(t, x, v)
    np.testing.assert_allclose(paths.interpolate(t, noise, endpoint), x, atol=near)
    np.testing.assert_allclose(endpoint - noise, v, atol=near)


def test_batches_are_many_single_points():
    """t of shape (n,) with points (n, d), and two leading axes, against one point at a time."""
    x, v = np.random.default_rng(4).normal(size=(2, 2, 3, 4))
    t = np.random.default_rng(5).uniform(0.1, 0.9, (2, 3))
    singly = [[paths.score_from_velocity(float(t[i, j]), x[i, j], v[i, j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(paths.score_from_velocity(t, x, v), singly, rtol=1e-12)
    np.testing.assert_allclose(paths.score_from_velocity(t[0], x[0], v[0]), singly[0], rtol=1e-12)


FUNCTIONS = {  # the ends of [0, 1] that each function refuses
    paths.interpolate: (),
    paths.endpoint_from_velocity: (),
    paths.noise_from_velocity: (),
    paths.velocity_from_endpoint: (1.0,),
    paths.score_from_velocity: (1.0,),
    paths.released_score: (1.0,),
    paths.velocity_from_score: (0.0,),
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_times_out_of_range(function, refused):
    x = jnp.ones((2, 3))
    rest = (x,) if function is paths.released_score else (x, x)
    sentence = rf"{function.__name__} takes a time t in [\[(]0, 1[\])]"
    for t in (-1e-6, 1 + 1e-6, np.nan, *FUNCTIONS[function]):
        refused(function, t, *rest, match=sentence)
        refused(function, jnp.array([0.5, t]), *rest, match=sentence)
    for t in (np.nan, *FUNCTIONS[function], 1.5):
        refused(function, jnp.asarray(t), *rest, match=sentence, jit=True)
    for t in {0.0, 1.0} - set(FUNCTIONS[function]):
        assert np.all(np.isfinite(function(t, *rest)))
        assert np.all(np.isfinite(jax.jit(function)(t, *rest)))


def test_a_fixed_time_is_fine_inside_jit():
    x = jnp.ones(3)
    np.testing.assert_allclose(jax.jit(lambda x: paths.score_from_velocity(0.8, x, x))(x), (0.8 - 1) / 0.2, rtol=1e-12)

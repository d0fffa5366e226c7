"""Densities against grids, finite differences, SciPy and their own samples; exact velocities against Monte Carlo (E1, E5)."""

import functools
import re

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from plain import many, random_mixture

from fdbook.geometry import densities
from fdbook.geometry.densities import GaussianMixture, Ring, Shear, Twist, gaussian, make


STEP = 0.02  # at most half of the smallest standard deviation: midpoint sums of smooth peaks are then exact to rounding
X = np.arange(-4, 4, STEP) + STEP / 2
Y = np.arange(-4, 14, STEP) + STEP / 2  # the banana's arms rise steeply


@functools.cache
def on_grid(name):
    """Points (n, 2) of a fine grid and the probabilities (n,) of their cells."""
    points = np.stack(np.meshgrid(X, Y, indexing="ij"), axis=-1).reshape(-1, 2)
    return points, np.exp(many(make(name).log_prob)(points)) * STEP**2


@functools.cache
def samples(name):
    """20000 draws (n, 2)."""
    return sampled(make(name), 20_000)


def sampled(density, n, seed=0):
    return np.asarray(eqx.filter_jit(lambda key: density.sample(n, key=key))(jr.key(seed)))


@functools.cache
def rule(name):
    """The points and weights of a quadrature."""
    return tuple(map(np.asarray, jax.jit(lambda: make(name).quadrature(40))()))


def moments(x):
    """Functions (n, 7) whose means tell densities apart."""
    a, b = x[:, 0], x[:, 1]
    return np.stack([a, b, a**2, b**2, a * b, np.cos(2 * a - b), np.sin(a + 2 * b)], axis=-1)


def differences(function, x, h=1e-5):
    """Central differences (n, d) of a batched function of points (n, d)."""
    steps = h * np.eye(x.shape[1])
    return np.stack([(function(x + step) - function(x - step)) / (2 * h) for step in steps], axis=-1)


def test_every_kind_of_density_and_of_warp_has_a_name():
    """The tests here run over the names: what has none is not tested."""
    made = [make(name) for name in densities.NAMES]
    known = {type(each) for each in made} | {type(each.warp) for each in made if isinstance(each, densities.Warped)}
    kinds = (*densities.Density.__subclasses__(), *Shear.__base__.__subclasses__())
    missing = [kind.__name__ for kind in kinds if kind.__module__.startswith("fdbook.") and kind not in known]
    assert missing == [], f"fdbook/geometry/densities.py: _MAKERS has no name for {missing}"


@pytest.mark.parametrize("name", densities.NAMES)
def test_mass_is_one(name, budget):
    points, mass = on_grid(name)
    says = f"the grid of these tests (X, Y and STEP) does not hold {name!r}: it is too wide, too thin, or no density"
    assert abs(mass.sum() - 1) < budget("mass_on_a_grid"), says
    assert mass[np.max(np.abs(points), axis=-1) < 2].sum() > 0.96


@pytest.mark.parametrize("name", densities.NAMES)
def test_score_is_the_gradient(name, budget):
    x = samples(name)[:200]
    score, by_differences = many(make(name).score)(x), differences(many(make(name).log_prob), x)
    assert np.max(np.abs(score - by_differences)) < budget("score_by_differences") * np.max(np.abs(score))


@pytest.mark.parametrize("name", densities.NAMES)
def test_samples_follow_the_density(name, budget):
    """A chi-square test of 20000 samples in cells of side 0.2, with the grid's probabilities."""
    points, mass = on_grid(name)
    edges = [np.append(axis[::10] - STEP / 2, axis[-1] + STEP / 2) for axis in (X, Y)]
    seen = np.histogram2d(*samples(name).T, edges)[0].ravel()
    expected = 20_000 * np.histogram2d(*points.T, edges, weights=mass)[0].ravel()
    full = expected >= 5
    seen, expected = (np.append(counts[full], 20_000 - counts[full].sum()) for counts in (seen, expected))
    assert scipy.stats.chi2.sf(np.sum((seen - expected) ** 2 / expected), full.sum()) > budget("chi_square_level")


@pytest.mark.parametrize("name", densities.NAMES)
def test_quadrature_is_the_grid(name, budget):
    points, mass = on_grid(name)
    nodes, weights = rule(name)
    assert np.isclose(weights.sum(), 1.0)
    np.testing.assert_allclose(weights @ moments(nodes), mass @ moments(points), atol=budget("quadrature_against_grid"))


@pytest.mark.parametrize("name", densities.NAMES)
def test_samples_have_the_moments_of_the_quadrature(name, budget):
    (nodes, weights), drawn = rule(name), moments(samples(name))
    errors = (drawn.mean(0) - weights @ moments(nodes)) / (drawn.std(0) / np.sqrt(20_000))
    assert np.max(np.abs(errors)) < budget("standard_errors")


def test_banana_and_ridge_by_scipy():
    norm = scipy.stats.norm
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 50))
    banana = norm.logpdf(x, 0, 0.6) + norm.logpdf(y, 0.9 * (x**2 - 0.36), 0.06)
    np.testing.assert_allclose(many(make("banana").log_prob)(np.stack([x, y], -1)), banana, rtol=1e-10)
    parts = [
        weight * norm.pdf(x, mean, 0.22) * norm.pdf(y, 0.45 * np.sin(3 * x), width)
        for weight, mean, width in ((0.3, -0.9, 0.05), (0.4, 0, 0.09), (0.3, 0.9, 0.05))
    ]
    ridge = np.exp(many(make("ridge").log_prob)(np.stack([x, y], -1)))
    np.testing.assert_allclose(ridge, np.sum(parts, 0), rtol=1e-10)


def test_ring_by_scipy(budget):
    """Its radius is log-normal: P(|x| < r) on the grid against SciPy's distribution function."""
    density = Ring(radius=0.7, width=0.2)
    radii = np.linspace(1e-3, 2.5, 20_000)
    along = np.exp(many(density.log_prob)(np.stack([radii, 0 * radii], -1))) * 2 * np.pi * radii
    law = scipy.stats.lognorm(0.2 / 0.7, scale=0.7)
    np.testing.assert_allclose(along, law.pdf(radii), atol=budget("closed_form"))
    assert scipy.stats.kstest(np.linalg.norm(sampled(density, 5000), axis=-1), law.cdf).pvalue > 1e-4
    assert np.all(np.isfinite(density.score(jnp.zeros(2))))
    assert np.exp(density.log_prob(jnp.zeros(2))) == 0


@pytest.mark.parametrize("warp", [Shear(lambda u: 0.9 * (u**2 - 0.36)), Twist(0.7)])
def test_warps_are_area_preserving_bijections(warp):
    u = np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_allclose(jax.vmap(warp.inverse)(jax.vmap(warp.forward)(u)), u, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(jax.vmap(jax.jacfwd(warp.forward))(u)), 1, atol=1e-12)


def test_there_are_six_of_different_anisotropy():
    """The condition numbers of their Fisher matrices E[score score^T] run from that of an isotropic ring on."""

    def condition(name):
        nodes, weights = rule(name)
        scores = many(make(name).score)(nodes)
        return np.linalg.cond(np.einsum("n,ni,nj->ij", weights, scores, scores))

    conditions = {name: condition(name) for name in densities.NAMES}
    assert len(conditions) >= 6
    assert conditions["ring"] == pytest.approx(1)
    assert conditions["crossing"] > 4


@pytest.mark.parametrize(("dim", "components"), [(1, 2), (2, 3), (5, 4)])
def test_mixtures_by_scipy(dim, components, budget):
    plain = random_mixture(dim, components, dim)
    built, x = plain.built(), plain.sample(100, np.random.default_rng(1))
    close = functools.partial(np.testing.assert_allclose, rtol=budget("closed_form"), atol=budget("closed_form"))
    close(many(built.log_prob)(x), plain.log_prob(x))
    parts = [
        np.log(w) + scipy.stats.multivariate_normal(m, c).logpdf(x)
        for w, m, c in zip(*vars(plain).values(), strict=True)
    ]
    close(many(built.responsibilities)(x).T, np.exp(np.stack(parts) - plain.log_prob(x)))
    noised = many(lambda t, x: built.noised(t).log_prob(x), in_axes=(None, 0))
    for t in (0.0, 0.3, 0.9, 1.0):
        close(noised(t, x), plain.noised(t).log_prob(x))
    slopes = differences(plain.log_prob, x)
    assert np.max(np.abs(many(built.score)(x) - slopes)) < budget("score_by_differences") * np.max(np.abs(slopes))


@pytest.mark.parametrize("dim", [1, 3])
def test_mixture_quadrature_is_exact_for_polynomials(dim, budget):
    plain = random_mixture(dim, 3, 20 + dim)
    nodes = plain.built().quadrature(2)
    second = np.einsum("k,kij->ij", plain.weights, plain.covariances)
    second += np.einsum("k,ki,kj->ij", plain.weights, plain.means, plain.means)
    by_nodes = np.einsum("n,ni,nj->ij", nodes.weights, nodes.points, nodes.points)
    np.testing.assert_allclose(by_nodes, second, atol=budget("closed_form"))


@pytest.mark.parametrize("dim", [2, 3])
def test_mixture_samples_have_its_moments(dim, budget):
    plain = random_mixture(dim, 3, 30 + dim)
    drawn = sampled(plain.built(), 50_000)
    errors = (drawn.mean(0) - plain.weights @ plain.means) / (drawn.std(0) / np.sqrt(50_000))
    assert np.max(np.abs(errors)) < budget("standard_errors")
    # the two-sample test has no closed form in its way: projections on three directions
    other = plain.sample(50_000, np.random.default_rng(2))
    for axis in np.random.default_rng(3).normal(size=(3, dim)):
        assert scipy.stats.ks_2samp(drawn @ axis, other @ axis).pvalue > budget("chi_square_level")


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("dim", [2, 3])
def test_velocity_is_a_conditional_mean(dim, t, budget):
    """E1: E[a - z | x_t = x] by self-normalized importance sampling, a from the mixture with weights N(x; t a, (1 - t)^2 I)."""
    plain, rng = random_mixture(dim, 3, 40 + dim), np.random.default_rng(4)
    actions = plain.sample(200_000, rng)
    points = t * plain.sample(8, rng) + (1 - t) * rng.normal(size=(8, dim))
    for x, exact in zip(points, many(plain.built().velocity, in_axes=(None, 0))(t, points), strict=True):
        z = (x - t * actions) / (1 - t)
        weights = np.exp(-0.5 * np.sum(z**2, axis=-1))
        weights /= weights.sum()
        mean = weights @ (actions - z)
        error = np.sqrt(weights**2 @ (actions - z - mean) ** 2)
        assert np.max(error) < 0.2
        assert np.max(np.abs(exact - mean) / error) < budget("standard_errors")


def test_velocity_at_the_ends(plain, mixture):
    """At t = 0 nothing is known of a, at t = 1 nothing of z: v = E[a] - x and v = x."""
    x = plain.sample(10, np.random.default_rng(5))
    velocity = many(mixture.velocity, in_axes=(None, 0))
    np.testing.assert_allclose(velocity(0.0, x), plain.weights @ plain.means - x, atol=1e-12)
    np.testing.assert_allclose(velocity(1.0, x), x, atol=1e-12)


def test_monte_carlo_nodes(mixture):
    nodes = densities.monte_carlo(mixture, 50, key=jr.key(0))
    assert nodes.points.shape == (50, 2)
    assert float(np.sum(nodes.weights)) == pytest.approx(1)
    assert nodes.mean(nodes.points[:, 1]) == pytest.approx(float(np.mean(nodes.points[:, 1])))


@pytest.mark.parametrize("whole", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_mixture_of_whole_numbers(whole, unhooked):
    parts = [np.array([1]), np.array([[2, -1]]), np.array([[[4, 0], [0, 9]]])]
    mixture = GaussianMixture(*(part if i in whole else part.astype(np.float64) for i, part in enumerate(parts)))
    same = GaussianMixture(*(part.astype(np.float64) for part in parts))
    assert {part.dtype for part in jax.tree.leaves(mixture)} == {jnp.dtype(np.float64)}
    np.testing.assert_array_equal(mixture.sample(4, key=jr.key(0)), same.sample(4, key=jr.key(0)))
    assert float(mixture.log_prob(jnp.array([2.0, 2.0]))) == pytest.approx(-np.log(2 * np.pi * 6) - 0.5)
    single = GaussianMixture(parts[0], parts[1], parts[2].astype(np.float32))
    assert {part.dtype for part in jax.tree.leaves(single)} == {jnp.dtype(np.float32)}


def test_off_manifold(budget):
    density = make("banana")

    share = eqx.filter_jit(functools.partial(densities.off_manifold, density, key=jr.key(1)))
    away, on = jnp.array([[0.0, 1.0], [3.0, 0.0]]), jnp.array([[0.0, -0.324], [0.1, -0.315]])
    error = np.sqrt(0.05 * 0.95 * (1 / 20_000 + 1 / 8192))
    assert abs(float(share(jnp.asarray(samples("banana")), level=0.05)) - 0.05) < budget("standard_errors") * error
    assert [float(share(points)) for points in (away, on)] == [1, 0]
    assert float(share(jnp.concatenate([away, on]))) == 0.5


def test_a_density_can_be_made_inside_jit(mixture):
    x = jnp.array([0.1, -0.2])
    inside = eqx.filter_jit(lambda x: make("crossing").log_prob(x) + gaussian(x, jnp.eye(2)).log_prob(x))(x)
    assert float(inside) == pytest.approx(float(make("crossing").log_prob(x)) - np.log(2 * np.pi))
    assert eqx.filter_jit(lambda x: mixture.velocity(0.5, x))(x) == pytest.approx(mixture.velocity(0.5, x))


def equations(jaxpr):
    """Every primitive of a traced function with the shapes it works on, inner functions too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, [variable.aval.shape for variable in equation.invars]
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("method", ["log_prob", "score", "responsibilities", "velocity"])
def test_nothing_is_factorized_for_each_point(mixture, method):
    """Two large batches of LAPACK calls at the same time can hang on a machine with two cores."""
    function = getattr(mixture, method)
    function = functools.partial(function, 0.5) if method == "velocity" else function
    seen = list(equations(jax.make_jaxpr(jax.vmap(function))(jnp.ones((17, 2))).jaxpr))
    assert {"cholesky", "eigh"} & {name for name, _ in seen}
    for name, shapes in seen:
        if name in ("cholesky", "eigh", "lu", "triangular_solve"):
            assert all(17 not in shape for shape in shapes), name


EYES = np.stack([np.eye(2)] * 2)
BAD_MIXTURES = [
    (([0.5, 0.6], np.zeros((2, 2)), EYES), "positive and sum to 1; got"),
    (([1.5, -0.5], np.zeros((2, 2)), EYES), "positive and sum to 1; got"),
    (([0.5, 0.5], np.zeros((2, 2)), -EYES), "must be positive definite"),
    (([0.5, 0.5], np.zeros((2, 2)), EYES * [[[1.0, 0.0], [0.0, 0.0]]]), "must be positive definite"),
    (([0.5, 0.5], np.zeros((2, 2)), EYES + np.eye(2, k=1)), "must be symmetric"),
    (([0.5, 0.5], np.full((2, 2), np.nan), EYES), "takes finite means; 4 of 4"),
    (([0.5, 0.5], np.zeros((2, 2)), EYES * np.nan), "takes finite covariances"),
    (([0.5, np.nan], np.zeros((2, 2)), EYES), "takes finite weights"),
    (([0.5, 0.5], np.zeros((2, 3)), EYES), r"takes weights \(k,\), means .* got \(2,\), \(2, 3\) and \(2, 2, 2\)"),
    (([1.0], np.zeros((2, 2)), EYES), r"got \(1,\), \(2, 2\) and \(2, 2, 2\)"),
    (([1.0], np.zeros(2), EYES), r"got \(1,\), \(2,\) and \(2, 2, 2\)"),
]


@pytest.mark.parametrize(("parts", "match"), BAD_MIXTURES)
def test_bad_mixtures(parts, match, refused, unhooked):
    refused(lambda: GaussianMixture(*map(np.asarray, parts)), match=match)


@pytest.mark.parametrize("method", ["log_prob", "score"])
@pytest.mark.parametrize("shape", [(), (3,), (5, 2)])
def test_wrong_shapes(method, shape, mixture, refused, unhooked):
    for density in (mixture, make("banana"), make("ring")):
        where = re.escape(f"{type(density).__name__}.{method} takes one point of shape (2,); got shape {shape}.")
        refused(getattr(density, method), np.zeros(shape), match=where)


@pytest.mark.parametrize("t", [-0.1, 1.1, np.nan])
def test_times_out_of_range(t, mixture, refused):
    sentence = r"velocity takes a time t in \[0, 1\]"
    refused(mixture.velocity, t, jnp.zeros(2), match=sentence)
    refused(mixture.velocity, jnp.asarray(t), jnp.zeros(2), match=sentence, jit=True)
    refused(lambda t: mixture.noised(t).log_prob(jnp.zeros(2)), t, match="noised takes a time")
    refused(lambda t: mixture.noised(t).log_prob(jnp.zeros(2)), jnp.asarray(t), match="noised takes", jit=True)


def test_many_times_at_once_are_not_one_time(mixture, refused, unhooked):
    """Two times and two coordinates would broadcast to a wrong answer."""
    refused(mixture.velocity, np.array([0.1, 0.2]), np.zeros(2), match=r"takes a time of shape \(\); got shape \(2,\)")
    refused(mixture.noised, np.array([0.1, 0.2]), match=r"takes a time of shape \(\); got shape \(2,\)")


def test_bad_names_and_numbers(mixture, refused):
    refused(make, "bananna", match="no density called 'bananna'. Did you mean 'banana'")
    refused(lambda: Ring(width=-1.0), match="positive radius and width; got 1.0 and -1.0")
    far = jnp.zeros((1, 2))
    sentence = r"takes a number of samples in \[1, inf\]; got 0"
    refused(lambda: densities.monte_carlo(mixture, 0, key=jr.key(0)), match=f"monte_carlo {sentence}")
    refused(lambda: densities.off_manifold(mixture, far, key=jr.key(0), n=0), match=f"off_manifold {sentence}")
    for level in (0.0, 1.0, np.nan):
        refused(
            lambda level=level: densities.off_manifold(mixture, far, key=jr.key(0), level=level),
            match="level strictly between 0 and 1",
        )

"""Transport maps: their KL by quadrature on grids of their own (E9 to E12), their inverse, and what they learn (E13 to E24)."""

import functools
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import plain_metrics
import pytest
import scipy.stats

from fdbook.geometry import densities, metrics, transport
from fdbook.geometry.densities import gaussian
from fdbook.geometry.flow import EMPTY
from fdbook.geometry.metrics import L2, Fisher, FisherRao
from fdbook.geometry.transport import BaseActions, Displacement, LocalTransport
from fdbook.geometry.trust_region import fisher_step, l2_step


def bend(state, a):
    """A smooth displacement with every kind of derivative; |grad delta| < 0.6."""
    return jnp.stack([0.2 * jnp.sin(2 * a[0] + a[1]) + 0.05, 0.15 * jnp.cos(a[0] - 0.5 * a[1]) + 0.1 * a[1]])


def scaled(size, delta=bend):
    return LocalTransport(lambda s, a: size * delta(s, a))


def compiled(kl, *args):
    """A KL as a Python float, from compiled code: op by op it takes seconds."""
    return float(eqx.filter_jit(kl)(*args))


class TestExactKL:
    """E9 against integrals and closed forms that never see its formula."""

    def test_against_a_grid(self, budget):
        """KL as the integral of q log(q / p) over a grid of b, with q = p(T^-1 b) / det and the inverse by bisection."""
        along, across = (lambda u: u + 0.2 * np.sin(2 * u)), (lambda v: v + 0.3 * np.sin(v))
        step = 0.02
        b = np.stack(np.meshgrid(np.arange(-4, 4, step), np.arange(-4, 14, step), indexing="ij"), -1).reshape(-1, 2)
        u = bisect(along, b[:, 0])
        v = bisect(across, b[:, 1] - 0.15 * np.cos(u))
        determinant = (1 + 0.4 * np.cos(2 * u)) * (1 + 0.3 * np.cos(v))
        log_q = banana(np.stack([u, v], -1)) - np.log(determinant)
        q, log_ratio = np.exp(log_q), log_q - banana(b)
        expected = np.sum(q * np.where(q > 1e-30, log_ratio, 0)) * step**2
        assert q.sum() * step**2 == pytest.approx(1, abs=1e-8)

        def delta(state, a):
            return jnp.stack([0.2 * jnp.sin(2 * a[0]), 0.3 * jnp.sin(a[1]) + 0.15 * jnp.cos(a[0])])

        density = densities.make("banana")
        exact = compiled(transport.kl_exact, LocalTransport(delta), density, density.quadrature(60))
        assert exact == pytest.approx(expected, rel=budget("kl_on_a_grid"))

    def test_between_gaussians(self, budget):
        """An affine map of a Gaussian is a Gaussian, whose KL is in every textbook."""
        rng = np.random.default_rng(0)
        mean, root = rng.normal(size=3), 0.4 * rng.normal(size=(3, 3)) + np.eye(3)
        covariance, slope, shift = root @ root.T, 0.2 * rng.normal(size=(3, 3)), rng.normal(size=3)
        density = gaussian(jnp.asarray(mean), jnp.asarray(covariance))
        transformed = (np.eye(3) + slope) @ covariance @ (np.eye(3) + slope).T
        move = slope @ mean + shift
        expected = 0.5 * (
            np.trace(np.linalg.solve(covariance, transformed))
            - 3
            + move @ np.linalg.solve(covariance, move)
            - np.linalg.slogdet(transformed)[1]
            + np.linalg.slogdet(covariance)[1]
        )
        kl = transport.kl_exact(LocalTransport(lambda s, a: slope @ a + shift), density, density.quadrature(4))
        assert float(kl) == pytest.approx(expected, rel=budget("closed_form"))

    def test_by_monte_carlo_above_two_dimensions(self, budget):
        covariance = np.diag(np.linspace(0.1, 0.5, 6) ** 2)
        density, shift = gaussian(jnp.zeros(6), jnp.asarray(covariance)), np.linspace(-0.1, 0.2, 6)
        nodes = densities.monte_carlo(density, 20_000, key=jr.key(0))
        moves = LocalTransport(lambda s, a: jnp.asarray(shift))
        expected = 0.5 * shift @ np.linalg.solve(covariance, shift)
        # log p(a) - log p(a + shift) is Gaussian with variance twice its mean
        error = np.sqrt(2 * expected / 20_000)
        assert abs(compiled(transport.kl_exact, moves, density, nodes) - expected) < budget("standard_errors") * error

    def test_of_nothing(self, mixture):
        still = LocalTransport(lambda s, a: 0 * a)
        kinds = (transport.kl_exact, transport.kl_second_order, transport.kl_second_order_hessian, transport.kl_fisher)
        for kl in kinds:
            assert compiled(kl, still, mixture, mixture.quadrature(5)) == 0

    def test_reads_the_observation(self, mixture):
        """A state that makes the displacement three times as long makes the quadratic forms nine times as large."""
        moves, nodes = LocalTransport(lambda s, a: s[0] * bend(s, a)), mixture.quadrature(10)
        for kl in (transport.kl_second_order, transport.kl_second_order_hessian, transport.kl_fisher):
            one, nine = (compiled(kl, moves, mixture, nodes, np.array([size])) for size in (0.1, 0.3))
            assert nine == pytest.approx(9 * one, rel=1e-12)
        assert compiled(transport.kl_exact, moves, mixture, nodes, np.array([0.3])) > 1.1 * one


def on_a_grid(density, step=0.02):
    """Nodes of a fine grid: a wide component's quadrature is blind to the thin ones that it crosses."""
    points = np.stack(np.meshgrid(*[np.arange(-2.5, 2.5, step)] * 2), -1).reshape(-1, 2)
    mass = np.exp(jax.jit(jax.vmap(density.log_prob))(points)) * step**2
    return densities.Nodes(jnp.asarray(points[mass > 1e-14]), jnp.asarray(mass[mass > 1e-14]))


def bisect(function, targets, low=-20.0, high=20.0):
    """The roots of a rising function, all at once."""
    low, high = np.full_like(targets, low), np.full_like(targets, high)
    for _ in range(60):
        middle = (low + high) / 2
        below = function(middle) < targets
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def banana(x):
    """Its log-density, by SciPy."""
    norm = scipy.stats.norm
    return norm.logpdf(x[:, 0], 0, 0.6) + norm.logpdf(x[:, 1], 0.9 * (x[:, 0] ** 2 - 0.36), 0.06)


class TestSecondOrder:
    """E10 and E11, which leave errors of the third order."""

    @pytest.mark.parametrize("name", ["banana", "ring", "crossing", "pinwheel"])
    def test_two_forms_of_the_second_order(self, name, budget):
        """(score . delta + div delta)^2 and -delta^T H delta + tr((grad delta)^2) agree by parts, under the integral only."""
        density = densities.make(name)
        nodes = density.quadrature(48) if name in ("banana", "ring") else on_a_grid(density)
        first = compiled(transport.kl_second_order, scaled(1.0), density, nodes)
        second = compiled(transport.kl_second_order_hessian, scaled(1.0), density, nodes)
        assert first == pytest.approx(second, rel=budget("two_forms"))
        alone = densities.Nodes(nodes.points[:1], jnp.ones(1))
        alone_first = compiled(transport.kl_second_order, scaled(1.0), density, alone)
        alone_second = compiled(transport.kl_second_order_hessian, scaled(1.0), density, alone)
        assert alone_first != pytest.approx(alone_second, rel=0.01)

    @pytest.mark.parametrize("name", ["banana", "ring"])
    def test_error_is_of_third_order(self, name, budget):
        """The log-log slopes of the exact KL and of its distance from E10."""
        density = densities.make(name)
        nodes, sizes = density.quadrature(48), np.geomspace(1e-3, 1e-2, 5)
        both = jax.jit(
            jax.vmap(
                lambda size: (
                    transport.kl_exact(scaled(size), density, nodes),
                    transport.kl_second_order(scaled(size), density, nodes),
                )
            )
        )
        exact, second = map(np.asarray, both(sizes))
        slope = np.polyfit(np.log(sizes), np.log(np.abs(exact - second)), 1)[0]
        assert abs(slope - 3) < budget("third_order_slope")
        assert np.polyfit(np.log(sizes), np.log(exact), 1)[0] == pytest.approx(2, abs=budget("third_order_slope"))

    @pytest.mark.parametrize("dim", [1, 2, 3, 5])
    def test_scaling_a_gaussian(self, dim, budget):
        """E12: for delta = e a, E10 is e^2 d and E11 is e^2 (d^2 + 2 d) / 2, whatever the covariance."""
        root = np.random.default_rng(dim).normal(size=(dim, dim)) + 2 * np.eye(dim)
        density, size = gaussian(jnp.zeros(dim), jnp.asarray(root @ root.T)), 0.01
        scaling = LocalTransport(lambda s, a: size * a)
        second, paper = (
            compiled(kl, scaling, density, density.quadrature(3))
            for kl in (transport.kl_second_order, transport.kl_fisher)
        )
        assert second == pytest.approx(size**2 * dim, rel=budget("closed_form"))
        assert paper == pytest.approx(size**2 * (dim**2 + 2 * dim) / 2, rel=budget("closed_form"))
        assert paper / second == pytest.approx((dim + 2) / 2, rel=budget("closed_form"))
        hessian = compiled(transport.kl_second_order_hessian, scaling, density, density.quadrature(3))
        assert hessian == pytest.approx(second, rel=budget("closed_form"))

    def test_translations_need_no_divergence(self, budget):
        """E11 is E10 for a translation, where both are 1/2 delta^T F delta."""
        density, shift = densities.make("banana"), np.array([0.02, -0.01])
        nodes = density.quadrature(48)
        scores = np.asarray(jax.jit(jax.vmap(density.score))(nodes.points))
        expected = 0.5 * shift @ np.einsum("n,ni,nj->ij", nodes.weights, scores, scores) @ shift
        moves = LocalTransport(lambda s, a: jnp.asarray(shift))
        for kl in (transport.kl_fisher, transport.kl_second_order, transport.kl_second_order_hessian):
            assert compiled(kl, moves, density, nodes) == pytest.approx(expected, rel=budget("two_forms"))

    def test_half_the_cost_of_a_metric(self, mixture, budget):
        """What the metrics' table says: half the mean cost, undamped and not normalized, is E11 or E10."""
        base = transport.base_from_density(mixture, 200, key=jr.key(1))
        nodes = densities.Nodes(base.actions[0], jnp.full(200, 1 / 200))
        moves = scaled(0.1)
        delta = jax.vmap(moves.delta, in_axes=(None, 0))(EMPTY, nodes.points)
        spread = jax.jit(jax.vmap(moves.divergence, in_axes=(None, 0)))(EMPTY, nodes.points)
        bare = {"damping": 0.0, "trace_normalized": False}
        pairs = ((Fisher(pooled=False, **bare), transport.kl_fisher), (FisherRao(**bare), transport.kl_second_order))
        for metric, kl in pairs:
            half = float(jnp.mean(metric.cost(delta, spread, base.readings[0]))) / 2
            assert half == pytest.approx(compiled(kl, moves, mixture, nodes), rel=budget("closed_form"))


def by_differences(function, x, h=1e-6):
    return np.stack([(function(x + step) - function(x - step)) / (2 * h) for step in h * np.eye(x.size)], -1)


def test_derivatives_of_a_map(budget):
    moves, a = scaled(1.0), np.array([0.3, -0.8])
    jacobian = by_differences(lambda a: np.asarray(bend(EMPTY, a)), a)
    near = budget("gradient_by_differences")
    np.testing.assert_allclose(moves(EMPTY, a), a + bend(EMPTY, a))
    np.testing.assert_allclose(moves.jacobian(EMPTY, a), jacobian, atol=near)
    assert float(moves.divergence(EMPTY, a)) == pytest.approx(np.trace(jacobian), abs=near)
    assert float(moves.determinant(EMPTY, a)) == pytest.approx(np.linalg.det(np.eye(2) + jacobian), abs=near)


class TestDisplacement:
    def test_starts_small_and_reads_everything(self):
        one, ten = (Displacement(1, 2, 16, 2, scale=scale, key=jr.key(0)) for scale in (0.01, 0.1))
        s, a = np.array([0.4]), np.array([0.3, -0.2])
        assert 0 < np.linalg.norm(one(s, a)) < 0.02
        np.testing.assert_allclose(ten(s, a), 10 * one(s, a), rtol=1e-5)
        for other in (one(s + 1, a), one(s, a + np.eye(2)[0]), one(s, a + np.eye(2)[1])):
            assert np.max(np.abs(other - one(s, a))) > 1e-6
        assert one(s, a).dtype == np.float64
        assert one(s, a.astype(np.float32)).dtype == np.float32


ONE_TO_ONE = {
    "bend": bend,
    "nearly folding": lambda s, a: 0.3 * jnp.sin(np.pi * a),
    "half way home": lambda s, a: -0.5 * a,
    "a quarter turn": lambda s, a: jnp.stack([-a[1] - a[0], a[0] - a[1]]),
    "a steep shear": lambda s, a: jnp.stack([0 * a[0], 3 * jnp.sin(4 * a[0])]),
    "a swirl": lambda s, a: densities.Twist(0.7).forward(a) - a,
    "a reflection in a point": lambda s, a: -2 * a,
    "a big network": Displacement(0, 2, 32, 2, scale=1.0, key=jr.key(3)),
}
FOLDS = {  # a target that several actions reach, or none
    "three preimages on each axis": (lambda s, a: 0.5 * jnp.sin(np.pi * a), [1.0, 1.0]),
    "a fixed point between two others": (lambda s, a: 2 * jnp.sin(np.pi * a), [0.0, 0.0]),
    "a fixed point, found at once": (lambda s, a: a**3 - 1.5 * a, [0.0, 0.0]),
    "close to a fold": (lambda s, a: 0.15 * jnp.sin(8 * a), [0.36, 0.1]),
    "two preimages, neither turned over": (
        lambda s, a: jnp.stack([a[0] ** 2 - a[1] ** 2 - a[0], 2 * a[0] * a[1] - a[1]]),
        [0.3, 0.2],
    ),
    "a crease": (lambda s, a: jnp.stack([a[0] ** 2 - a[0], 0 * a[1]]), [0.1, 0.1]),
    "beyond a crease": (lambda s, a: jnp.stack([a[0] ** 2 - a[0], 0 * a[1]]), [-0.3, 0.1]),
    "turned over": (lambda s, a: jnp.stack([-2 * a[0], 0 * a[1]]), [0.3, 0.1]),
    "collapsed": (lambda s, a: -a, [0.3, 0.1]),
    "pulled together": (lambda s, a: -0.9 * jnp.tanh(4 * a), [0.1, 0.2]),
    "NaN": (lambda s, a: a * jnp.nan, [0.1, 0.2]),
}


def chosen(maps):
    """One map for a whole table: the state says which. So the inverse is compiled once, not once for each."""
    branches = [lambda a, delta=delta: delta(EMPTY, a) for delta in maps]
    return LocalTransport(lambda state, a: jax.lax.switch(state[0].astype(int), branches, a))


ONES, FOLDING = chosen(ONE_TO_ONE.values()), chosen(delta for delta, _ in FOLDS.values())


@jax.jit
def there_and_back(state, a):
    """T(T^-1(a)) and T^-1(T(a)) of points (n, 2)."""
    forward = jax.vmap(functools.partial(ONES, state))
    inverse = jax.vmap(functools.partial(ONES.inverse, state))
    return forward(inverse(a)), inverse(forward(a))


NO_INVERSE = "This transport map has no inverse at the target: it folds near it, or Newton's method found no action"


class TestInverse:
    @pytest.mark.parametrize("name", ONE_TO_ONE)
    def test_undoes_the_map(self, name, budget):
        """T(T^-1(a)) = a and T^-1(T(a)) = a, from behind jit and vmap."""
        a, near = np.random.default_rng(1).uniform(-1, 1, (30, 2)), budget("inverse")
        there, back = there_and_back(np.array([1.0 * list(ONE_TO_ONE).index(name)]), a)
        np.testing.assert_allclose(there, a, atol=near, rtol=0)
        np.testing.assert_allclose(back, a, atol=20 * near, rtol=0)

    def test_eagerly_and_in_single_precision(self, budget):
        b = jnp.array([0.4, -0.9], jnp.float32)
        found = scaled(1.0).inverse(EMPTY, b)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(scaled(1.0)(EMPTY, found), b, atol=budget("single_precision"))

    @pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
    @pytest.mark.parametrize("name", FOLDS)
    def test_refuses_folds(self, name, dtype, refused):
        state, target = np.array([1.0 * list(FOLDS).index(name)]), jnp.asarray(FOLDS[name][1], dtype)
        refused(FOLDING.inverse, state, target, match=NO_INVERSE, jit=True)

    def test_refuses_a_fold_eagerly(self, refused):
        folding = LocalTransport(lambda s, a: jnp.sin(np.pi * a))
        refused(folding.inverse, EMPTY, jnp.array([1.0, 1.0]), match=NO_INVERSE)

    def test_random_maps_are_inverted_rightly_or_refused(self):
        """Waves of four heights: whatever is accepted has no other preimage, by a search from 200 starts."""
        waves, starts = 3 * jr.normal(jr.key(5), (3, 2)), jr.uniform(jr.key(6), (200, 2), minval=-2.5, maxval=2.5)
        targets, heights = jr.uniform(jr.key(7), (40, 2), minval=-1.0, maxval=1.0), np.array([0.02, 0.1, 0.2, 0.4])
        moves = LocalTransport(lambda state, a: state[0] * jnp.sin(waves @ a + 1) @ waves / 3)

        def width(state, target):
            """How far apart the preimages lie that Newton's method finds."""

            def newton(a, _):
                jacobian = jnp.eye(2) + moves.jacobian(state, a)
                return a - jnp.linalg.solve(jacobian, moves(state, a) - target), None

            roots = jax.vmap(lambda a: jax.lax.scan(newton, a, None, length=40)[0])(starts)
            missed = jnp.linalg.norm(jax.vmap(functools.partial(moves, state))(roots) - target[None], axis=-1)
            found = jnp.where((missed < 1e-8)[:, None], roots, jnp.nan)
            return jnp.max(jnp.nanmax(found, axis=0) - jnp.nanmin(found, axis=0))

        widths = jax.jit(jax.vmap(jax.vmap(width, (None, 0)), (0, None)))(heights[:, None], targets)
        several = np.asarray(widths) > 1e-6
        assert not several[0].any()
        assert several[2:].any(axis=1).all()
        inverse = eqx.filter_jit(moves.inverse)
        for height, row in zip(heights, several, strict=True):
            for target, ambiguous in zip(targets, row, strict=True):
                try:
                    inverse(height[None], target)
                except eqx.EquinoxRuntimeError:
                    assert height > 0.05  # the lowest waves do not fold at all
                else:
                    assert not ambiguous

    def test_check_one_to_one(self, refused):
        actions = jnp.asarray(np.random.default_rng(2).uniform(-1.5, 1.5, (200, 2)))
        assert scaled(1.0).check_one_to_one(EMPTY, actions) is actions
        folding = LocalTransport(lambda s, a: 0.5 * jnp.sin(np.pi * a))
        lowest = np.min(jax.vmap(folding.determinant, (None, 0))(EMPTY, actions))
        sentence = r"This transport map folds: det\(I \+ grad delta\) must be positive"
        refused(
            folding.check_one_to_one,
            EMPTY,
            actions,
            match=f"{sentence} at every action; its smallest value here is {lowest:.3g}",
        )
        refused(lambda a: folding.check_one_to_one(EMPTY, a), actions, match=sentence, jit=True)
        broken = LocalTransport(lambda s, a: a * jnp.nan)
        refused(broken.check_one_to_one, EMPTY, actions, match=sentence)
        density = densities.make("banana")
        refused(transport.kl_exact, folding, density, density.quadrature(20), match=sentence)
        refused(lambda n: transport.kl_exact(folding, density, n), density.quadrature(20), match=sentence, jit=True)

    def test_many_targets_at_once(self, refused, unhooked):
        refused(
            scaled(1.0).inverse, EMPTY, np.zeros((4, 2)), match="takes one point of shape .* Use jax.vmap for several"
        )


class TestPushforward:
    def test_is_the_affine_gaussian(self, budget):
        mean, slope, shift = np.array([0.2, -0.1]), np.array([[0.2, -0.4], [0.1, -0.3]]), np.array([0.3, 0.5])
        covariance = np.array([[0.09, 0.03], [0.03, 0.04]])
        linear = np.eye(2) + slope
        law = scipy.stats.multivariate_normal(linear @ mean + shift, linear @ covariance @ linear.T)
        moves, density = (
            LocalTransport(lambda s, a: slope @ a + shift),
            gaussian(jnp.asarray(mean), jnp.asarray(covariance)),
        )
        b = law.rvs(20, random_state=0)
        computed = jax.jit(jax.vmap(lambda b: moves.log_prob(density, EMPTY, b)))(b)
        np.testing.assert_allclose(computed, law.logpdf(b), atol=budget("pushforward"))

    def test_integrates_to_one(self, mixture, budget):
        axis = np.arange(-3, 3, 0.05)
        b = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        density = np.exp(jax.jit(jax.vmap(lambda b: scaled(1.0).log_prob(mixture, EMPTY, b)))(b))
        assert density.sum() * 0.05**2 == pytest.approx(1, abs=budget("pushforward_mass"))


class TestBase:
    def test_from_a_density(self, mixture):
        base = transport.base_from_density(mixture, 7, key=jr.key(0))
        assert (base.observations.shape, base.actions.shape, base.readings.shape) == ((1, 0), (1, 7, 2), (1, 7, 2))
        np.testing.assert_allclose(base.readings[0], jax.vmap(mixture.score)(base.actions[0]), rtol=1e-10)

    def test_from_a_flow(self, budget):
        """States of a conditional flow each have their own actions, by E3, and the scores their metric asks for."""

        class Follows(eqx.Module):
            """A flow that takes every noise z to s + 0.1 z: the exact velocity of N(s, 0.01 I)."""

            action_dim: int = 2

            def __call__(self, t, observation, x):
                t, observation = jnp.asarray(t, x.dtype), jnp.asarray(observation, x.dtype)
                pull = (x - t * observation) / (0.01 * t**2 + (1 - t) ** 2)
                return observation + (0.01 * t - (1 - t)) * pull

        states = jnp.array([[0.5, -0.5], [-0.3, 0.2], [0.0, 0.0]], jnp.float32)
        options = {"steps": 200}
        base = transport.base_from_flow(Follows(), Fisher(t=0.8), states, 500, key=jr.key(1), **options)
        assert (base.actions.shape, base.readings.shape) == ((3, 500, 2), (3, 500, 2))
        # the noise in every action, and (through E5 and E1) the noise at which its score was read
        starts = np.asarray(base.actions - states[:, None]) / 0.1
        points = 0.8 * states[:, None] - base.readings * (0.8**2 * 0.01 + 0.2**2)
        for noise in (starts, np.asarray(points - 0.8 * base.actions) / 0.2):
            np.testing.assert_allclose(noise.std(axis=1), 1, atol=0.15)
            products = noise * np.roll(noise, 1, axis=0)  # fresh in every state
            for draws in (noise, products):
                assert np.max(np.abs(draws.mean(axis=1))) < budget("standard_errors") / np.sqrt(500)
        l2 = transport.base_from_flow(Follows(), L2(), states, 5, key=jr.key(1), clip=True)
        assert l2.readings is None
        assert np.max(np.abs(l2.actions)) <= 1


def plain_actor_loss(name, base, multiplier, normalize_q):
    """E18 to E22, E28 and E29 with loops: the displacement is `quiver`, the value `worth`; both written out."""
    penalties, values = [], []
    for state, (s, actions) in enumerate(zip(base.observations, base.actions, strict=True)):
        delta = np.array([[0.1 * s[0] * a[1] ** 2, 0.2 * a[0] * a[1]] for a in actions])
        spread = np.array([0.2 * a[0] for a in actions])
        penalties.append(
            plain_metrics.penalty(name, delta, spread, jax.tree.map(operator.itemgetter(state), base.readings))
        )
        values.append([s[0] - np.sum((a + e) ** 2) for a, e in zip(actions, delta, strict=True)])
    scale = 1 / np.mean(np.abs(values)) if normalize_q else 1.0
    return multiplier * np.mean(penalties) - scale * np.mean(values), np.mean(penalties), np.mean(values)


def quiver(s, a):
    return jnp.stack([0.1 * s[0] * a[1] ** 2, 0.2 * a[0] * a[1]])


def worth(s, a):
    return s[0] - jnp.sum(a**2)


def random_base(name="fisher-exact", states=3, k=5, seed=0):
    """Base actions with readings of the kind that a metric reads: scores, or symmetric matrices and their times."""
    rng = np.random.default_rng(seed)
    sizes = ((states, 1), (states, k, 2), (states, k, 2))
    base = BaseActions(*(jnp.asarray(rng.normal(size=size)) for size in sizes))
    if metrics.make(name).reads != "matrices":
        return base
    factors = rng.normal(size=(states, k, 2, 2))
    matrices = jnp.asarray(20 * np.eye(2) + 5 * (factors + np.swapaxes(factors, -1, -2)))
    return base._replace(readings=metrics.Curvatures(matrices, jnp.full((states, k), 0.9)))


class TestActorLoss:
    @pytest.mark.parametrize("normalize_q", [False, True])
    @pytest.mark.parametrize("name", metrics.NAMES)
    def test_is_the_equation(self, name, normalize_q, budget):
        base = random_base(name)
        loss, info = transport.actor_loss(
            LocalTransport(quiver), worth, metrics.make(name), base, 0.7, normalize_q=normalize_q
        )
        expected = plain_actor_loss(name, jax.tree.map(np.asarray, base), 0.7, normalize_q)
        computed = float(loss), float(info["penalty"]), float(info["value"])
        np.testing.assert_allclose(computed, expected, rtol=budget("closed_form"))

    @pytest.mark.parametrize("name", metrics.NAMES)
    def test_no_gradient_reaches_the_base(self, name):
        def loss(base):
            return transport.actor_loss(LocalTransport(quiver), worth, metrics.make(name), base, 0.7, normalize_q=True)[
                0
            ]

        base = random_base(name)
        gradients = jax.grad(lambda actions, readings: loss(BaseActions(base.observations, actions, readings)), (0, 1))
        for gradient in jax.tree.leaves(gradients(*base[1:])):
            np.testing.assert_array_equal(gradient, np.zeros_like(gradient))

    def test_the_normalizing_scale_is_held_constant(self, budget):
        """The gradient of the normalized value is the gradient of the value over its mean absolute value."""
        base = random_base()

        def slope(normalize_q):
            def loss(size):
                moves = LocalTransport(lambda s, a: size * quiver(s, a))
                return transport.actor_loss(moves, worth, L2(), base, 0.0, normalize_q=normalize_q)[0]

            return float(jax.grad(loss)(1.0))

        moved = base.actions + jax.vmap(jax.vmap(quiver, (None, 0)))(base.observations, base.actions)
        mean = np.mean(np.abs(jax.vmap(jax.vmap(worth, (None, 0)))(base.observations, moved)))
        assert slope(True) == pytest.approx(slope(False) / mean, rel=budget("closed_form"))

    def test_dual_loss(self):
        """E23: the multiplier rises over budget, falls under it, and the penalty is held constant."""
        for penalty, sign in ((0.3, -1), (0.1, 1)):
            slopes = jax.grad(transport.dual_loss, (0, 1))(jnp.asarray(0.4), jnp.asarray(penalty), 0.2)
            assert float(slopes[0]) == pytest.approx(0.2 - penalty)
            assert np.sign(slopes[0]) == sign
            assert slopes[1] == 0
        assert float(transport.dual_loss(jnp.asarray(0.4), jnp.asarray(0.3), 0.2)) == pytest.approx(-0.04)

    def test_a_value_for_each_action(self, refused):
        moves, base = LocalTransport(quiver), random_base()
        refused(
            lambda: transport.actor_loss(moves, lambda s, a: a, L2(), base, 1.0),
            match=r"actor_loss takes one value for each action, all of shape \(3, 5\); got shape \(3, 5, 2\)",
        )


class Shift(eqx.Module):
    """A translation, the displacement for which E13 and E14 are exact."""

    by: jax.Array

    def __call__(self, state, action):
        return self.by


GRADIENT = np.array([1.0, 0.6])
COVARIANCE = np.array([[0.25, 0.03], [0.03, 0.02]])


def push(s, a):
    """A linear value."""
    return jnp.asarray(GRADIENT, a.dtype) @ a


@functools.cache
def base_of_a_gaussian():
    return transport.base_from_density(gaussian(jnp.zeros(2), jnp.asarray(COVARIANCE)), 400, key=jr.key(2))


class TestFit:
    bare = Fisher(damping=0.0, trace_normalized=False)

    @property
    def base(self):
        return base_of_a_gaussian()

    def trained(self, metric, **options):
        given_ = {
            "steps": 1500,
            "batch_size": 400,
            "learning_rate": 5e-3,
            "progress": False,
            "key": jr.key(3),
            **options,
        }
        moves, history = transport.fit(LocalTransport(Shift(jnp.zeros(2))), push, metric, self.base, **given_)
        return np.asarray(moves.delta.by), history

    def matrix(self):
        return np.asarray(metrics.fisher_matrix(self.base.readings[0]))

    def test_fixed_multiplier(self, budget):
        """max g . delta - lambda delta^T F delta / d is at delta = d F^-1 g / (2 lambda)."""
        by, history = self.trained(self.bare, multiplier=20.0)
        expected = np.linalg.solve(self.matrix(), GRADIENT) / 20
        np.testing.assert_allclose(by, expected, atol=budget("trained_step") * np.linalg.norm(expected))
        np.testing.assert_allclose(history["multiplier"], 20.0)
        assert {name: values.shape for name, values in history.items()} == dict.fromkeys(
            ("penalty", "value", "multiplier"), (1500,)
        )
        assert history["penalty"][-1] == pytest.approx(expected @ self.matrix() @ expected / 2, rel=0.05)

    @pytest.mark.parametrize(("start", "rate", "steps"), [(4.0, 5e-3, 1500), (0.5, 2e-2, 1500), (1.0, 2e-2, 4000)])
    def test_dual_ascent_reaches_its_budget_and_stays(self, start, rate, steps, budget):
        """The multiplier is known: lambda = sqrt(d g^T F^-1 g / budget) / 2; the step is E13's with epsilon = budget d / 2."""
        limit, fisher = 0.05, self.matrix()
        known = np.sqrt(2 * GRADIENT @ np.linalg.solve(fisher, GRADIENT) / limit) / 2
        by, history = self.trained(self.bare, multiplier=start * known, budget=limit, learning_rate=rate, steps=steps)
        near = budget("trained_step")
        np.testing.assert_allclose(history["penalty"][-200:], limit, rtol=near)
        np.testing.assert_allclose(history["multiplier"][-200:], known, rtol=near)
        best = fisher_step(GRADIENT, fisher, limit)
        np.testing.assert_allclose(by, best.delta, atol=near * np.linalg.norm(best.delta))

    def test_l2_goes_along_the_gradient(self, budget):
        """E14: the same loss with another metric takes another direction, and gains less for the same KL."""
        by, _ = self.trained(L2(), multiplier=3.0, budget=0.02)
        direction = by / np.linalg.norm(by)
        np.testing.assert_allclose(direction, GRADIENT / np.linalg.norm(GRADIENT), atol=budget("trained_step"))
        assert by @ by / 2 == pytest.approx(0.02, rel=budget("trained_step"))
        spent = 0.5 * by @ self.matrix() @ by
        np.testing.assert_allclose(l2_step(GRADIENT, self.matrix(), spent).delta, by, atol=budget("trained_step"))
        assert GRADIENT @ by < 0.95 * fisher_step(GRADIENT, self.matrix(), spent).gain

    def test_a_trust_region_is_kl(self, budget):
        """For a translation of a Gaussian the budget is the exact KL over d / 2 (E9, E11)."""
        density = gaussian(jnp.zeros(2), jnp.asarray(COVARIANCE))
        step = fisher_step(GRADIENT, np.linalg.inv(COVARIANCE), 0.05).delta
        kl = transport.kl_exact(LocalTransport(Shift(step)), density, density.quadrature(4))
        assert float(kl) == pytest.approx(0.05, rel=budget("closed_form"))

    def test_normalized_values_keep_their_direction(self, budget):
        by, _ = self.trained(L2(), multiplier=20.0, normalize_q=True, steps=600)
        np.testing.assert_allclose(
            by / np.linalg.norm(by), GRADIENT / np.linalg.norm(GRADIENT), atol=budget("trained_step")
        )

    def test_is_a_function_of_its_key(self):
        short = functools.partial(self.trained, self.bare, steps=30, batch_size=50)
        (one, history), (two, _), (other, _) = short(chunk=30), short(chunk=8), short(key=jr.key(4))
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, other)
        assert np.ptp(history["value"][:2]) > 0  # every step has its own batch

    def test_the_callers_map_is_untouched_and_networks_learn(self):
        before = Displacement(0, 2, 16, 1, key=jr.key(5))
        options = {"multiplier": 1.0, "steps": 300, "learning_rate": 5e-3, "batch_size": 400, "progress": False}
        moves = LocalTransport(before)
        trained, history = transport.fit(moves, push, FisherRao(), self.base, key=jr.key(6), **options)
        assert history["value"][-1] > history["value"][0] + 0.2
        again = Displacement(0, 2, 16, 1, key=jr.key(5))
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(old, new)
        assert not np.array_equal(trained.delta.mlp.layers[0].weight, before.mlp.layers[0].weight)

    def test_a_shorter_last_chunk_compiles_nothing(self):
        counts = []
        for steps in (20, 23):
            traced = []

            def counting(s, a, traced=traced):
                traced.append(1)
                return a[0]

            options = {"key": jr.key(0), "steps": steps, "chunk": 10, "progress": False}
            transport.fit(LocalTransport(Shift(jnp.zeros(2))), counting, L2(), self.base, **options)
            counts.append(len(traced))
        assert counts[0] == counts[1]

    def test_a_loss_that_breaks_is_named(self):
        with pytest.raises(FloatingPointError, match="transport map broke at step 0: value became nan"):
            transport.fit(
                LocalTransport(Shift(jnp.zeros(2))),
                lambda s, a: jnp.log(-(a[0] ** 2)),
                L2(),
                self.base,
                key=jr.key(0),
                steps=3,
                progress=False,
            )

    def short(self, base, **options):
        moves, given_ = (
            LocalTransport(Shift(jnp.zeros(2))),
            {"key": jr.key(0), "steps": 2, "progress": False, **options},
        )
        return transport.fit(moves, push, L2(), base, **given_)

    @pytest.mark.parametrize("bad", [0.0, -0.5, np.nan])
    def test_bad_numbers(self, bad, refused):
        refused(lambda: self.short(self.base, budget=bad), match=r"transport.fit takes a budget in \(0, inf\]")
        refused(lambda: self.short(self.base, multiplier=bad), match=r"transport.fit takes a multiplier in \(0, inf\]")

    def test_no_steps(self, refused):
        for bad in ({"steps": 0}, {"batch_size": 0}):
            refused(
                lambda bad=bad: self.short(self.base, **bad), match=r"takes steps and a batch size in \[1, inf\]; got 0"
            )

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"actions": np.full((1, 400, 2), np.nan)}, "takes finite base actions; 800 of 800"),
            ({"readings": np.full((1, 400, 2), np.inf)}, "takes finite readings; 800 of 800"),
            ({"observations": np.full((1, 1), np.nan)}, "takes finite observations; 1 of 1"),
            ({"actions": np.zeros((400, 2))}, r"takes base actions of shape \(n, n, n\); got shape \(400, 2\)"),
            ({"readings": np.zeros((1, 1, 2))}, r"takes readings of shape \(1, 400, 2\); got shape \(1, 1, 2\)"),
            ({"observations": np.zeros((2, 0))}, r"takes observations of shape \(1, n\); got shape \(2, 0\)"),
        ],
    )
    def test_bad_base(self, change, match, refused, unhooked):
        refused(lambda: self.short(self.base._replace(**change)), match=match)

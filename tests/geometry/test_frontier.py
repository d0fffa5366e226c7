"""Value against KL: binned KL against closed forms, measured maps whose KL and gain are known, and the ladder itself."""

import itertools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry import densities, distillation, flow, frontier, metrics, transport


SPREADS = np.array([0.5, 0.2])
GRID = frontier.Grid((-2.5, 2.5), (-1.2, 1.2), (80, 72))


def slope(observation, action):
    """A value with the same gradient everywhere."""
    return action[0] + 2.0 * action[1]


@pytest.fixture(scope="module")
def gaussian():
    return densities.gaussian(jnp.zeros(2), jnp.diag(jnp.asarray(SPREADS**2)))


@pytest.fixture(scope="module")
def yardstick(gaussian):
    return frontier.Yardstick(gaussian, slope, GRID, key=jr.key(0), crowd=100_000)


def test_cells_hold_the_mass_that_normal_tables_give_them(gaussian, budget):
    from scipy.stats import norm

    xs, ys = (np.linspace(*ends, n + 1) for ends, n in zip((GRID.x, GRID.y), GRID.bins, strict=True))
    exact = np.outer(np.diff(norm.cdf(xs / SPREADS[0])), np.diff(norm.cdf(ys / SPREADS[1])))
    np.testing.assert_allclose(GRID.mass(gaussian), exact, atol=budget("cell_mass"))
    assert GRID.share(np.array([[-2.49, 1.19], [9.0, 0.0]]))[0, -1] == 0.5


@pytest.mark.parametrize("shift", [(0.2, 0.0), (0.0, 0.2), (-0.3, 0.1)])
def test_binned_kl_of_a_shifted_gaussian(gaussian, yardstick, shift, budget):
    exact = 0.5 * np.sum((np.array(shift) / SPREADS) ** 2)
    found = GRID.kl(yardstick.crowd + jnp.asarray(shift)[None], yardstick.mass)
    assert abs(found - exact) < budget("binned_kl")


def test_a_translation_gains_and_costs_what_it_must(yardstick, budget):
    shift = jnp.array([0.1, 0.05])
    found = yardstick.measure(transport.LocalTransport(lambda s, a: shift), 7.0)
    assert found.multiplier == 7.0
    assert found.one_to_one
    assert abs(found.gain - 0.2) < budget("quadrature_kl")
    assert abs(found.kl - 0.5 * float(np.sum((np.asarray(shift) / SPREADS) ** 2))) < budget("quadrature_kl")


def test_standing_still_is_free_and_stays_on_the_manifold(yardstick, budget):
    found = yardstick.measure(transport.LocalTransport(lambda s, a: jnp.zeros_like(a)))
    assert (found.gain, found.one_to_one) == (0.0, True)
    assert abs(found.kl) < budget("quadrature_kl")
    assert abs(found.off - 0.01) < budget("off_manifold_share")


def test_a_fold_is_noticed_and_its_kl_taken_from_bins(yardstick, budget):
    fold = transport.LocalTransport(lambda s, a: jnp.stack([jnp.abs(a[0]) - a[0], 0.0 * a[1]]))
    found = yardstick.measure(fold)
    assert not found.one_to_one
    assert abs(found.kl - np.log(2)) < budget("binned_kl")  # a half-normal against its normal


@pytest.fixture(scope="module")
def base(gaussian):
    return transport.base_from_density(gaussian, 2_000, key=jr.key(1))


@pytest.fixture(scope="module")
def traced(yardstick, base):
    return {
        name: frontier.trace(
            yardstick,
            metrics.make(name),
            base,
            key=jr.key(2),
            ladder=(60.0, 30.0, 15.0),
            targets=(0.1,),
            steps=300,
            width=16,
        )
        for name in ("l2", "fisher-exact")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l2", "fisher-exact"])
def test_a_falling_multiplier_buys_more_for_more(traced, name):
    rungs, _ = traced[name]
    assert [rung.multiplier for rung in rungs] == [60.0, 30.0, 15.0]
    assert all(lower.gain < upper.gain and lower.kl < upper.kl for lower, upper in itertools.pairwise(rungs))


@pytest.mark.parametrize("name", ["l2", "fisher-exact"])
def test_a_target_is_met(traced, name, budget):
    _, [(moved, found)] = traced[name]
    assert abs(np.log(found.kl / 0.1)) < budget("target_kl")
    assert isinstance(moved, transport.LocalTransport)


def test_gains_at_equal_kl_are_those_of_the_trust_region(traced, budget):
    """For a straight value the best map is a translation: sqrt(2 KL) |g| in the metric's own length (E13), or along g (E14)."""
    gradient = np.array([1.0, 2.0])
    best = {
        "fisher-exact": np.sqrt(np.sum((gradient * SPREADS) ** 2)),
        "l2": np.sum(gradient**2) / np.sqrt(np.sum((gradient / SPREADS) ** 2)),
    }
    for name, (_, [(_, found)]) in traced.items():
        assert abs(found.gain / (np.sqrt(2 * found.kl) * best[name]) - 1) < budget("trust_region_gain")


@pytest.mark.parametrize("kl", [0.05, 0.4])
def test_the_best_of_a_straight_value_is_a_translation(gaussian, kl, budget):
    """E25 for N(0, S) and the value g . a is N(S g / lambda, S), whose gain at a KL is E13's: sqrt(2 KL g^T S g)."""
    gradient = np.array([1.0, 2.0])
    wide = frontier.Grid((-3.5, 3.5), (-1.6, 1.6), (280, 256))
    yardstick = frontier.Yardstick(gaussian, slope, wide, key=jr.key(0), crowd=1000)
    best = yardstick.best(kl)
    reach = np.sum((gradient * SPREADS) ** 2)
    assert best.kl == pytest.approx(kl, rel=1e-6)
    assert best.gain == pytest.approx(np.sqrt(2 * kl * reach), rel=budget("best_on_a_grid"))
    assert best.temperature == pytest.approx(np.sqrt(reach / (2 * kl)), rel=budget("best_on_a_grid"))
    centers = np.stack(np.meshgrid(*wide.centers, indexing="ij"), -1)
    mean = np.sum(best.density[..., None] * centers, axis=(0, 1)) * wide.area
    np.testing.assert_allclose(mean, SPREADS**2 * gradient / best.temperature, rtol=budget("best_on_a_grid"))


def test_nothing_on_the_grid_beats_the_best(yardstick):
    """Random other distributions, mixed in until the KL is the same, gain less; so do maps, which are distributions too."""
    rng, best, mass = np.random.default_rng(0), yardstick.best(0.2), yardstick.mass / yardstick.mass.sum()
    centers = np.stack(np.meshgrid(*GRID.centers, indexing="ij"), -1)
    values = centers @ np.array([1.0, 2.0])

    def kl(share):
        return np.sum(share * np.log(np.maximum(share, 1e-300) / mass))

    for _ in range(20):
        x, y = rng.normal(size=2)
        other = mass * np.exp(2 * np.sin(x * centers[..., 0] + y * centers[..., 1]) + values * rng.uniform(0.5, 3))
        other /= other.sum()
        parts = np.linspace(0, 1, 200)
        mixed = max((part for part in parts if kl(part * other + (1 - part) * mass) <= best.kl), default=0)
        gain = np.sum((mixed * other + (1 - mixed) * mass - mass) * values)
        assert gain < best.gain


def test_a_kl_that_no_distribution_reaches_is_refused(yardstick):
    with pytest.raises(
        ValueError,
        match=r"Yardstick\.best takes a KL below [\d.]+ nats, where the cells of highest value have all mass; got 1000",
    ):
        yardstick.best(1000.0)


def test_a_value_that_is_alike_everywhere_has_no_best(gaussian):
    grid = frontier.Grid((-2.5, 2.5), (-1.2, 1.2), (20, 18))

    def best(value, kl=0.5):
        return frontier.Yardstick(gaussian, value, grid, key=jr.key(0), order=4, crowd=1000).best(kl)

    for value, number in (
        (lambda s, a: jnp.asarray(3.0), 3),
        (lambda s, a: jnp.cos(a[0]) ** 2 + jnp.sin(a[0]) ** 2, 1),
    ):
        with pytest.raises(
            ValueError, match=rf"best takes a value that differs between cells; got {number} in all of them\.$"
        ):
            best(value)
    with pytest.raises(ValueError, match=r"best takes finite values; 360 of 360 values are NaN or infinite"):
        best(lambda s, a: a[0] * jnp.nan)
    assert best(lambda s, a: 1e-14 * slope(s, a)).gain == pytest.approx(1e-14 * best(slope).gain)
    with pytest.raises(
        ValueError, match=r"takes a KL below 0\.693 nats, where the cells of highest value have all mass; got 1"
    ):
        best(lambda s, a: jnp.minimum(a[0], 0.0), 1.0)  # half the mass is on the plateau: log 2


def test_a_one_step_policy_is_measured_as_a_map_is(yardstick, budget):
    """mu(z) = S z + b against N(0, S^2): a translation by b."""

    class Shifted(distillation.OneStep):
        def __init__(self):
            self.mlp = None

        def __call__(self, observation, noise):
            return jnp.asarray(SPREADS) * noise + jnp.array([0.1, 0.05])

    class Mirrored(Shifted):
        def __call__(self, observation, noise):
            return super().__call__(observation, noise * jnp.array([-1.0, 1.0]))

    found, turned = yardstick.measure(Shifted(), 3.0), yardstick.measure(Mirrored(), 3.0)
    assert turned.one_to_one
    assert abs(turned.kl - found.kl) < 2 * budget("kl_over_noises")  # one law, of other noises
    assert (found.multiplier, found.one_to_one) == (3.0, True)
    assert abs(found.gain - 0.2) < budget("gain_between_crowds")
    exact = 0.5 * np.sum((np.array([0.1, 0.05]) / SPREADS) ** 2)
    assert abs(found.kl - exact) < budget("kl_over_noises")


@pytest.mark.slow
def test_the_frontier_of_a_one_step_policy(gaussian, yardstick, budget):
    """With a straight value E17 adds d g / (2 alpha) to every action: an L2 map, on top of what imitation costs."""
    pairs = distillation.taught_by_flow(flow.ExactVelocity(gaussian), flow.EMPTY, 4000, key=jr.key(3), steps=100)
    rungs, met, imitation = frontier.trace_one_step(
        yardstick, *pairs, key=jr.key(4), ladder=(60.0, 30.0, 15.0), targets=(0.1,), imitation=3000, steps=400, width=32
    )
    assert imitation.kl < budget("imitation_kl")
    for rung in rungs:
        assert rung.gain == pytest.approx(5.0 / rung.multiplier, abs=budget("gain_of_e17"))
    assert abs(np.log(met[0][1].kl / 0.1)) < budget("target_kl")
    assert isinstance(met[0][0], distillation.OneStep)


def test_refusals(yardstick, base):
    with pytest.raises(ValueError, match="positive, falling multipliers"):
        frontier.trace(yardstick, metrics.make("l2"), base, key=jr.key(0), ladder=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"target KLs in \(0, inf\]"):
        frontier.trace(yardstick, metrics.make("l2"), base, key=jr.key(0), targets=(-0.1,))

"""The numbers behind the figures "geometry" and "landscape", on reduced problems."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.report import figures, style
from fdbook.report.figures import geometry, landscape


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimized")]
NAMES = ("l2", "fisher-paper", "fisher-exact")


@pytest.fixture(scope="module")
def context():
    def unused(name):
        raise AssertionError(f"this figure needs no {name}")

    return figures.Context(seed=0, recordings=unused, numbers=unused, progress=lambda share, message: None)


def test_local_fisher_of_a_gaussian_is_its_precision_plus_the_pull_of_the_center(budget):
    """For N(0, S) weighted by a narrow kernel at c, E[score score^T] = S^-1 E[a a^T] S^-1 with a ~ N(c', S')."""
    spreads, center, width = np.array([0.5, 0.2]), np.array([0.3, -0.1]), 0.1
    actions = jnp.asarray(spreads)[None] * jr.normal(jr.key(0), (400_000, 2))
    found = geometry.local_fisher(-actions / jnp.asarray(spreads**2)[None], actions, jnp.asarray(center), width)
    variance = 1 / (1 / spreads**2 + 1 / width**2)
    mean = variance * center / width**2
    exact = (np.diag(variance) + np.outer(mean, mean)) / np.outer(spreads**2, spreads**2)
    np.testing.assert_allclose(found, exact, rtol=budget("local_fisher"), atol=budget("local_fisher"))


@pytest.fixture(scope="module")
def idea(context):
    return geometry.compute(context, samples=5_000, fit_steps=2_000, steps=250, crowd=100_000)


def test_the_idea_in_one_look(idea):
    l2, fisher = (idea[name]["found"] for name in geometry.SHOWN)
    assert abs(np.log(l2["kl"] / geometry.TARGET_KL)) < 0.3
    assert abs(np.log(fisher["kl"] / geometry.TARGET_KL)) < 0.3
    assert fisher["gain"] > 2 * l2["gain"] > 0
    assert np.min(idea["condition"]) > 3


def test_stiff_axes_point_across_the_banana(idea):
    """The banana is the curve y = 0.9 (x^2 - 0.36): its normal at x is (-1.8 x, 1)."""
    for (x, _), matrix in zip(idea["centers"], idea["matrices"], strict=True):
        normal = np.array([-1.8 * x, 1.0])
        stiff = np.linalg.eigh(matrix)[1][:, -1]
        assert abs(stiff @ normal) / np.linalg.norm(normal) > 0.9


@pytest.fixture(scope="module")
def moons(context):
    return landscape.compute(
        context, NAMES, samples=8_000, fit_steps=6_000, ladder=(150.0, 60.0, 25.0, 10.0), steps=250, crowd=80_000
    )


def test_every_metric_has_a_frontier_that_rises(moons):
    assert set(moons["metrics"]) == set(NAMES)
    for entry in moons["metrics"].values():
        assert np.all(np.diff(entry["kl"]) > 0)
        assert np.all(np.diff(entry["gain"]) > 0)
        assert np.asarray(entry["densities"]).shape == (len(landscape.TARGETS), *landscape.GRID.bins)


def test_densities_hold_all_the_mass_they_should(moons):
    assert abs(np.sum(moons["behavior"]) * landscape.GRID.area - 1) < 1e-3
    for entry in moons["metrics"].values():
        assert np.all(np.sum(entry["densities"], axis=(1, 2)) * landscape.GRID.area > 0.97)


def test_at_equal_kl_the_metrics_of_single_actions_gain_more(moons):
    gains = {name: np.interp(np.log(0.15), np.log(e["kl"]), e["gain"]) for name, e in moons["metrics"].items()}
    assert gains["fisher-paper"] > 1.5 * gains["l2"]
    assert abs(gains["fisher-exact"] / gains["l2"] - 1) < 0.2  # one matrix for both moons is nearly round


@pytest.mark.parametrize("figure", [geometry, landscape])
def test_they_are_drawn(figure, request, tmp_path):
    numbers = request.getfixturevalue({geometry: "idea", landscape: "moons"}[figure])
    with style.applied():
        pictures = style.pictures(figure.draw(numbers))
    assert pictures[".png"].startswith(b"\x89PNG")

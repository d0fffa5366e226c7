"""The numbers behind the figure "gap", against closed forms and plain averages."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry import densities, metrics
from fdbook.report import style
from fdbook.report.figures import Context, gap


@pytest.mark.parametrize("condition", [1.0, 3.0, 40.0])
def test_quantiles_over_random_gradients_in_the_plane(condition, budget):
    angles = (np.arange(200_000) + 0.5) * 2 * np.pi / 200_000
    stiff, soft = np.cos(angles) ** 2, np.sin(angles) ** 2
    gaps = 1 / np.sqrt((condition * stiff + soft) * (stiff / condition + soft))
    for level in (0.1, 0.5, 0.9):
        found = gap.random_gap_quantiles(np.array([condition]), level)[0]
        assert found == pytest.approx(np.quantile(gaps, level), abs=budget("figure_gap_quantile"))


def test_noised_scores_of_a_mixture(budget):
    density, t = densities.make("moons"), 0.9
    points = density.noised(t).sample(500, key=jr.key(1))
    found = gap.noised_scores(density.sample(60_000, key=jr.key(0)), t, points)
    truth = jax.vmap(density.noised(t).score)(points)
    missed = jnp.sqrt(jnp.mean((found - truth) ** 2) / jnp.mean(truth**2))
    assert missed < budget("figure_noised_score")


def test_a_local_matrix_sees_its_own_surroundings_only():
    points = np.concatenate([np.zeros((50, 2)), np.full((30, 2), 3.0)])
    scores = np.concatenate([np.tile([1.0, 2.0], (50, 1)), np.tile([0.0, 5.0], (30, 1))])
    near = gap.local_matrices(np.array([[0.0, 0.1], [3.0, 2.9]]), points, scores, 0.15)
    np.testing.assert_allclose(near, [[[1, 2], [2, 4]], [[0, 0], [0, 25]]], atol=1e-12)
    far = gap.local_matrices(np.zeros((1, 2)), points, scores, 1e6)
    np.testing.assert_allclose(far[0], scores.T @ scores / 80, rtol=1e-9)


@pytest.fixture(scope="module")
def banana():
    return gap._toy("banana", jr.key(0))


def test_the_pooled_matrix_of_the_banana(banana, budget):
    stiff = 1 / 0.6**2 + (2 * 0.9 * 0.6 / 0.06) ** 2
    found = banana["sharp"]
    assert found["pooled"]["condition"][1] == pytest.approx(stiff * 0.06**2, rel=budget("figure_pooled_condition"))
    assert found["local"]["condition"][0] > 5


def test_every_measured_gap_lies_between_the_bound_and_one(banana):
    for kind in ("sharp", "noised"):
        condition, gaps = banana[kind]["points"].T
        assert np.all(gaps <= 1)
        assert np.all(gaps >= 2 * np.sqrt(condition) / (1 + condition) * (1 - 1e-9))


def test_noise_rounds_the_local_matrices_of_a_toy(banana):
    assert banana["noised"]["local"]["condition"][1] < 0.6 * banana["sharp"]["local"]["condition"][1]


def test_the_tight_case_attains_the_bound():
    found, metric = gap._tight(), np.diag([1.0, gap.TIGHT])
    assert found["gap"] == pytest.approx(2 * np.sqrt(gap.TIGHT) / (1 + gap.TIGHT))
    for step in found["steps"].values():
        assert step @ metric @ step == pytest.approx(1)
    gains = {name: step.sum() for name, step in found["steps"].items()}
    assert gains["l2"] / gains["fisher-exact"] == pytest.approx(found["gap"])


def robot(states=40):
    """Numbers as the figure "robot" has them: condition number 2 at t = 0.9, 4 at t = 0.95, and 9 of the actions."""
    times, conditions = np.array([0.7, 0.8, 0.9, 0.95]), np.array([1.2, 1.5, 2.0, 4.0])
    return {
        "times": times,
        "condition_e5": np.repeat(conditions[:, None], states, axis=1),
        "efficiency": {"l2": np.full((4, states), 0.97)},
        "spectrum_e5": np.tile([0.6, 0.9, 1.1, 1.2, 1.2], (states, 1)),
        "spectrum_precision": np.tile([0.2, 0.9, 1.0, 1.1, 1.8], (states, 1)),
    }


def test_the_robot_is_read_at_the_times_that_are_named():
    found = gap._robot(robot(), np.random.default_rng(0))
    np.testing.assert_allclose(found["by_time"]["0.95"]["condition"], [4, 4, 4])
    np.testing.assert_allclose(found["by_time"]["0.95"]["missed_at_most"], [0.2, 0.2, 0.2])
    assert found["by_time"]["0.9"]["missed_by_random"] == pytest.approx(0.03)
    np.testing.assert_allclose(found["sharp"]["condition"], [9, 9, 9])
    condition, gaps = found["noised"]["points"].T
    np.testing.assert_allclose(condition, 2)
    assert np.all((gaps <= 1) & (gaps >= 2 * np.sqrt(2) / 3))


def test_the_gap_of_a_random_gradient_is_that_of_its_metric(budget):
    spectrum = np.array([0.2, 0.9, 1.0, 1.1, 1.8])
    found = gap._random_points(np.tile(spectrum, (20_000, 1)), np.random.default_rng(0))[:, 1]
    g = np.random.default_rng(1).normal(size=(20_000, 5))
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    metric = turned @ np.diag(spectrum) @ turned.T
    costs = np.einsum("ni,ij,nj->n", g, metric, g) * np.einsum("ni,ij,nj->n", g, np.linalg.inv(metric), g)
    assert found.mean() == pytest.approx(np.mean((g**2).sum(1) / np.sqrt(costs)), abs=budget("figure_mean_gap"))


def test_the_whole_is_computed_and_drawn(monkeypatch):
    monkeypatch.setattr(gap, "SAMPLES", 512)
    monkeypatch.setattr(gap, "READ", 512)
    asked = []
    context = Context(0, str, lambda name: asked.append(name) or robot(), lambda share, message: None)
    numbers = gap.compute(context)
    assert asked == ["robot"]
    assert set(numbers["toys"]) == set(densities.NAMES)
    with style.applied():
        assert len(gap.draw(numbers).axes) == 4


def test_local_matrices_of_isotropic_scores_are_round():
    scores = np.stack([np.cos(np.arange(360) * np.pi / 180), np.sin(np.arange(360) * np.pi / 180)], axis=1)
    (found,) = gap.local_matrices(np.zeros((1, 2)), np.zeros((360, 2)), scores, 0.1)
    assert metrics.condition_number(found) == pytest.approx(1)

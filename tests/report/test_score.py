"""The numbers behind the figure "score", against closed forms for Gaussians and the measured cases of E7."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry import densities, flow, paths
from fdbook.report import style
from fdbook.report.figures import Context, score


MEAN, VARIANCES = np.array([0.3, -0.5]), np.array([0.01, 0.16])
TIMES = np.array([0.6, 0.9])


@pytest.fixture(scope="module")
def density():
    return densities.gaussian(jnp.asarray(MEAN), jnp.diag(jnp.asarray(VARIANCES)))


@pytest.mark.parametrize("t", [0.3, 0.9])
def test_second_moments_against_quadrature(density, t, budget):
    points, weights = density.noised(t).quadrature(6)
    velocities = jax.vmap(lambda x: density.velocity(t, x))(points)
    for read, moment in zip(
        (paths.score_from_velocity(t, points, velocities), paths.released_score(t, velocities)),
        score.second_moments(MEAN, VARIANCES, t)[1:],
        strict=True,
    ):
        measured = jnp.einsum("n,ni,nj->ij", weights, read, read)
        np.testing.assert_allclose(measured, moment, rtol=budget("figure_moments"), atol=1e-9)
    points, weights = density.quadrature(6)
    own = jax.vmap(density.score)(points)
    measured = jnp.einsum("n,ni,nj->ij", weights, own, own)
    np.testing.assert_allclose(
        measured, score.second_moments(MEAN, VARIANCES, t)[0], rtol=budget("figure_moments"), atol=1e-9
    )


@pytest.mark.parametrize(
    ("mean", "variances", "truth", "exact", "released"),
    [
        ((0, 0), (0.01, 0.09), (1.80, 0.20), (1.64, 0.36), (1.98, 0.02)),
        ((0, 0), (0.0025, 0.25), (1.98, 0.02), (1.89, 0.11), (1.83, 0.17)),
        ((0.6, 0), (0.09, 0.01), (0.20, 1.80), (0.36, 1.64), (0.89, 1.11)),
        ((0, 0.8), (0.01, 0.04), (1.60, 0.40), (1.40, 0.60), (0.76, 1.24)),
    ],
)
def test_cases_that_were_measured_elsewhere(mean, variances, truth, exact, released, budget):
    moments = score.second_moments(np.array(mean, float), np.array(variances), 0.9)
    for moment, expected in zip(moments, (truth, exact, released), strict=True):
        normalized = np.diag(moment) * 2 / np.trace(moment)
        np.testing.assert_allclose(normalized, expected, atol=budget("figure_e7_table"))


def test_e7_does_not_charge_one_width_at_all():
    t = 0.8
    charges = score.released_charges(np.array([np.sqrt((1 - t) / t), 0.01]), t)
    assert charges["released"][0] == pytest.approx(0, abs=1e-12)
    assert charges["truth"][1] == pytest.approx(1e4)
    assert charges["exact"][1] == pytest.approx(1 / (0.64e-4 + 0.04))


def test_e7_reverses_the_order_beyond_a_length_of_the_mean():
    found, angle = score._sweep(), np.radians(75)
    row = int(np.argmin(np.abs(found["angles"] - 75)))
    t, (stiff, soft) = score.TIME, (score.STIFF**2, score.SOFT**2)
    pulls = [(t * v - 1 + t) ** 2 / (t**2 * v + (1 - t) ** 2) for v in (stiff, soft)]
    turn = np.sqrt((pulls[0] - pulls[1]) / -np.cos(2 * angle)) / score.SOFT
    reversed_ = found["ratio"][row] < 1
    assert reversed_[found["lengths"] > turn + 1e-9].all()
    assert not reversed_[found["lengths"] < turn - 1e-9].any()
    assert found["alignment"][0] == pytest.approx(1)
    assert found["alignment"][-1, -1] == pytest.approx(0)


class Shifted(eqx.Module):
    """An exact velocity with a constant error."""

    exact: flow.ExactVelocity
    error: jax.Array

    @property
    def action_dim(self):
        return self.exact.action_dim

    def __call__(self, t, observation, x):
        return self.exact(t, observation, x) + self.error


def test_the_blur_and_the_network_are_told_apart(density, budget):
    actions = density.sample(2000, key=jr.key(0))
    wrong = jnp.array([0.02, -0.01])
    found = score.errors(density, Shifted(flow.ExactVelocity(density), wrong), actions, TIMES, key=jr.key(1))
    centered = np.asarray(actions) - MEAN
    size = np.sqrt(np.mean((centered / VARIANCES) ** 2))
    for i, t in enumerate(TIMES):
        noised = t**2 * VARIANCES + (1 - t) ** 2
        blur = np.sqrt(np.mean((centered / VARIANCES - t**2 * centered / noised) ** 2)) / size
        assert found["blur"][i] == pytest.approx(blur, rel=budget("figure_moments"))
        network = t**2 / (1 - t) * np.sqrt(np.mean(np.asarray(wrong) ** 2)) / size
        assert found["network"][i] == pytest.approx(network, rel=budget("figure_moments"))


def test_the_exact_field_has_no_error_of_its_own(density):
    actions = density.sample(1000, key=jr.key(0))
    found = score.errors(density, flow.ExactVelocity(density), actions, TIMES, key=jr.key(1))
    np.testing.assert_allclose(found["network"], 0, atol=1e-12)
    np.testing.assert_allclose(found["total"], found["blur"], atol=1e-12)
    np.testing.assert_allclose(found["matrix_learned"], found["matrix_exact"], atol=1e-12)


def test_matrices_of_a_gaussian(density, budget):
    actions = density.sample(20_000, key=jr.key(0))
    found = score.errors(density, flow.ExactVelocity(density), actions, TIMES, key=jr.key(1))
    for i, t in enumerate(TIMES):
        truth, *moments = (2 * m / np.trace(m) for m in score.second_moments(MEAN, VARIANCES, t))
        for name, moment in zip(("exact", "released"), moments, strict=True):
            expected = np.linalg.norm(moment - truth) / np.linalg.norm(truth)
            assert found[f"matrix_{name}"][i] == pytest.approx(expected, abs=budget("figure_matrix_error"))


@pytest.mark.slow
def test_a_smaller_problem_is_computed_and_drawn(monkeypatch):
    monkeypatch.setattr(score, "MANIFOLDS", ("crossing",))
    for name, value in {
        "TIMES": np.array([0.5, 0.8, 0.9]),
        "DATA": 2000,
        "ACTIONS": 256,
        "WIDTH": 16,
        "STEPS": 20,
    }.items():
        monkeypatch.setattr(score, name, value)
    said = []
    numbers = score.compute(Context(0, str, dict, lambda share, message: said.append(share)))
    assert said == sorted(said)
    for found in numbers["manifolds"].values():
        assert found["best_error"] == found["total"].min()
        assert np.all(np.diff(found["blur"]) < 0)
        assert np.all(np.diff(found["network"]) > 0)
    with style.applied():
        assert len(score.draw(numbers).axes) == 9

"""The robot figure: its estimators against Gaussians with known answers, and the whole of it on a made-up recording."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure

from fdbook.geometry import anisotropy, trust_region
from fdbook.report import numbers as files
from fdbook.report import style
from fdbook.report.figures import Context, robot


T = 0.85
MEAN = np.array([0.5, -0.3, 0.1])
COVARIANCE = np.array([[0.09, 0.02, 0.0], [0.02, 0.01, 0.0], [0.0, 0.0, 0.04]])


def gaussian_readings(n, shrink=1.0):
    """Readings of N(MEAN, COVARIANCE) at actions drawn from N(MEAN, shrink * COVARIANCE)."""
    observation = np.concatenate([MEAN, COVARIANCE.ravel()])
    actions = np.random.default_rng(0).multivariate_normal(MEAN, shrink * COVARIANCE, n)
    read = jax.jit(
        lambda a: anisotropy.readings(anisotropy.GaussianPolicy(3), jnp.asarray(observation), a, T, key=jr.key(1))
    )
    return jax.tree.map(np.asarray, read(jnp.asarray(actions)))


def noised(shrink=1.0):
    return T**2 * shrink * COVARIANCE + (1 - T) ** 2 * np.eye(3)


def distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_e5_of_a_gaussian_is_the_inverse_of_its_noised_covariance(budget):
    found = gaussian_readings(40_000)
    assert distance(found.exact, np.linalg.inv(noised())) < budget("sampled_fisher")
    assert abs(found.stein - 1) < budget("sampled_fisher")


def test_e7_of_a_gaussian_contains_its_mean(budget):
    """v / (1 - t) is linear in x for a Gaussian: its mean is MEAN / (1 - t) and its covariance follows from its slope."""
    slope = (np.eye(3) / (1 - T) - np.linalg.inv(noised())) / T
    wanted = slope @ noised() @ slope.T + np.outer(MEAN, MEAN) / (1 - T) ** 2
    found = gaussian_readings(40_000).released
    assert distance(found, wanted) < budget("sampled_fisher")
    assert distance(found, wanted - np.outer(MEAN, MEAN) / (1 - T) ** 2) > 5 * budget("sampled_fisher")


def test_steins_number_falls_when_actions_are_narrower_than_the_score_says(budget):
    wanted = np.trace(np.linalg.solve(noised(), noised(0.1))) / 3
    assert wanted < 0.8
    assert abs(gaussian_readings(40_000, shrink=0.1).stein - wanted) < budget("sampled_fisher")


@pytest.fixture
def problems():
    """Gradients (20, 4) and pairs of positive definite metrics (20, 4, 4)."""
    rng = np.random.default_rng(2)
    factors = rng.normal(size=(2, 20, 4, 4))
    return rng.normal(size=(20, 4)), *(np.einsum("sij,skj->sik", f, f) + 0.1 * np.eye(4) for f in factors)


def test_the_best_metric_loses_nothing_whatever_its_scale(problems):
    gradient, metric, _ = problems
    assert np.allclose(anisotropy.efficiency(gradient, metric, 7.0 * metric), 1)


def test_the_l2_step_is_worth_the_gap_of_e15(problems):
    gradient, metric, _ = problems
    flat = np.broadcast_to(np.eye(4), metric.shape)
    assert np.allclose(anisotropy.efficiency(gradient, metric, flat), trust_region.gap(gradient, metric))


def test_a_guessed_metric_is_worth_the_gain_of_its_step_at_equal_cost(problems):
    """Both steps are scaled until 1/2 delta^T F delta = epsilon; none of many others gains more than the best."""
    gradient, metric, guess = problems
    found, epsilon, rng = anisotropy.efficiency(gradient, metric, guess), 0.03, np.random.default_rng(3)
    for g, f, other, value in zip(gradient, metric, guess, found, strict=True):
        steps = np.concatenate([np.linalg.inv([other, f]) @ g, rng.normal(size=(500, 4))])
        steps *= np.sqrt(2 * epsilon / np.einsum("ki,ij,kj->k", steps, f, steps))[:, None]
        gains = steps @ g
        assert gains[1] == pytest.approx(gains.max())
        assert value == pytest.approx(gains[0] / gains[1])


def test_modes_are_counted_along_the_widest_axis_or_any_other():
    rng = np.random.default_rng(5)
    cloud = rng.normal(size=(512, 3)) * [0.1, 0.1, 0.05]
    assert anisotropy.modes(cloud) == 1
    cloud[:, 0] += 0.6 * (rng.uniform(size=512) < 0.3)
    assert anisotropy.modes(cloud) == 2
    assert anisotropy.modes(cloud, np.eye(3)[1]) == 1


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        ([[-1.0, 0.0]] * 50 + [[1.0, 0.0]] * 50, 2),
        ([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], 3),
        ([[-1.0]] * 50 + [[1.0]] * 20 + [[1.1]], 2),
        ([[0.3, -0.2]] * 7, 1),
        ([[0.3, -0.2]], 1),
        ([[-1.0, 0.0]] * 99 + [[1.0, 0.0]] * 1, 1),  # 1% as high as the other
    ],
)
def test_modes_at_the_ends_of_the_range_count(points, wanted):
    assert anisotropy.modes(np.array(points)) == wanted


def test_a_mirrored_cloud_has_its_mode_in_the_middle():
    """The quantiles of a normal law, and of two of them: maxima that lie between two points of a grid, or on one."""
    quantiles = scipy.stats.norm.ppf((np.arange(500) + 0.5) / 500)
    for count, centers in enumerate([(0.0,), (-3.0, 3.0), (-6.0, 0.0, 6.0)], 1):
        cloud = np.concatenate([quantiles + center for center in centers])
        assert anisotropy.modes(cloud[:, None]) == count
        assert anisotropy.modes(np.stack([0.1 * quantiles[0] * np.ones_like(cloud), cloud], axis=1)) == count


def test_clusters_that_are_clipped_at_the_bounds_are_two_modes():
    cloud = np.random.default_rng(6).normal(size=(400, 2)) * [0.3, 0.1]
    cloud[:, 0] += np.where(np.arange(400) < 200, -1.4, 1.4)
    assert anisotropy.modes(np.clip(cloud, -1, 1)) == 2


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        (np.zeros(5), r"anisotropy\.modes takes points of shape \(n, n\); got shape \(5,\)\."),
        (np.zeros((0, 2)), r"takes a number of points in \[1, inf\]; got 0\."),
        (np.array([[0.0], [np.nan]]), r"takes finite points; 1 of 2 values are NaN or infinite\."),
    ],
)
def test_modes_of_no_cloud_are_refused(points, sentence, unhooked):
    with pytest.raises(ValueError, match=sentence):
        anisotropy.modes(points)


def test_a_component_that_hardly_moves_is_not_blown_up():
    rng = np.random.default_rng(4)
    observations = (rng.normal(size=(500, 2)) * [3.0, 1e-4] + [2.0, 1.0]).astype(np.float32)
    scaled = anisotropy.standardizer(observations)(observations)
    assert scaled.dtype == np.float32
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-4)
    assert scaled[:, 0].std() == pytest.approx(1, abs=1e-4)
    assert scaled[:, 1].std() < 0.01


@pytest.fixture
def small(monkeypatch):
    """Sizes with which the whole figure is computed in seconds."""
    for name, value in {"STATES": 12, "ACTIONS": 32, "DRAWS": 2, "GRADIENTS": 4, "STEPS": 64}.items():
        monkeypatch.setattr(robot, name, value)
    for name, value in {"WIDTH": 16, "DEPTH": 1}.items():
        monkeypatch.setattr(anisotropy, name, value)


def made_up(rows, seed):
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(rows, 28)).astype(np.float32)
    actions = np.clip(0.8 * observations[:, :5] + 0.1 * rng.normal(size=(rows, 5)), -1, 1).astype(np.float32)
    return SimpleNamespace(observations=observations, actions=actions)


@pytest.mark.slow
def test_training_keeps_the_weights_that_do_best_on_rows_it_has_not_seen(small):
    """With 24 rows to learn by heart, the loss on others rises again long before the end."""
    train, held_out = ((part.observations, part.actions) for part in (made_up(24, 0), made_up(200, 1)))
    shares = []
    field, curve = anisotropy.fit_held_out(train, held_out, key=jr.key(0), steps=1500, checks=5, progress=shares.append)
    assert curve["step"] == list(range(300, 1501, 300))
    assert shares[-1] == 1
    assert curve["chosen"] == curve["step"][int(np.argmin(curve["held_out"]))] < 1500
    assert curve["train"][-1] < curve["held_out"][-1]
    assert field.action_dim == 5


@pytest.mark.slow
def test_the_whole_figure_on_a_made_up_recording(small, tmp_path):
    recording, messages = SimpleNamespace(train=made_up(300, 2), validation=made_up(60, 3)), []
    context = Context(3, {robot.NAME: recording}.__getitem__, dict, lambda share, message: messages.append(share))
    found = robot.compute(context)
    for suffix, content in files.stored(found, {"figure": "robot"}).items():
        (tmp_path / f"robot{suffix}").write_bytes(content)
    again = files.read(tmp_path / "robot.json")[0]
    times, states = len(robot.TIMES), 12
    for name in ("condition_e5", "condition_e7", "condition_blurred"):
        assert again[name].shape == (times, states)
        assert np.all(again[name] >= 1)
    assert again["condition_covariance"].shape == (states,)
    for values in (again["alignment"], *again["efficiency"].values()):
        assert np.all((values >= 0) & (values <= 1 + 1e-6))
    assert np.allclose(again["spectrum_e5"].mean(axis=-1), 1)
    assert np.array_equal(again["at_bounds"].round(6), np.mean(abs(recording.train.actions) >= 1, axis=0).round(6))
    assert messages == sorted(messages)
    with style.applied():
        figure = robot.draw(again)
        assert isinstance(figure, Figure)
        figure.canvas.draw()
    labeled = [ax for ax in figure.axes if ax.get_xlabel()]
    assert len(labeled) == len(figure.axes) == 8 + 6
    style.plt.close(figure)

"""What is in the files of a data set, against plain counts of the arrays."""

import numpy as np
import pytest

from fdbook.data import minari
from fdbook.data.files import Place
from fdbook.data.record import record
from fdbook.data.summary import describe, summarize
from fdbook.data.tasks import find_task


CUBE, MAZE, POINT = "ogbench/cube-single-play", "ogbench/pointmaze-medium-navigate", "D4RL/pointmaze/umaze-v2"

pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32")


def transitions_of(place):
    """The arrays of the training file without the last row of each episode."""
    with np.load(place.files["train"]) as file:
        arrays = dict(file)
    kept = ~arrays.pop("terminals")
    return {key: values[kept] for key, values in arrays.items()}


@pytest.fixture(scope="module")
def cube(recorded):
    return summarize(CUBE, recorded[CUBE].folder)


@pytest.mark.slow
def test_numbers_of_a_recording(recorded, cube):
    data = transitions_of(recorded[CUBE])
    assert (cube.transitions, cube.lengths.tolist()) == (2000, [1000, 1000])
    assert cube.bytes == sum(path.stat().st_size for path in recorded[CUBE].files.values())
    np.testing.assert_allclose(cube.mean, data["actions"].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(cube.covariance, np.cov(data["actions"].T), atol=1e-6)
    np.testing.assert_allclose(cube.at_bounds, (np.abs(data["actions"]) == 1).mean(axis=0))
    assert np.all(cube.actions.sum(axis=1) == 2000)
    variances = np.linalg.svd(data["actions"] - data["actions"].mean(axis=0), compute_uv=False) ** 2
    assert cube.condition_number == pytest.approx(variances[0] / variances[-1], rel=1e-4)


def test_where_the_hand_and_the_cube_were(recorded, cube):
    hand, block = cube.coverage
    assert (hand.title, block.title) == ("hand", "cube")
    assert hand.counts.sum() == block.counts.sum() == 2 * 1001
    with np.load(recorded[CUBE].files["train"]) as file:
        x, y = file["qpos"][:, 14], file["qpos"][:, 15]
    np.testing.assert_allclose(block.extent, [y.min(), y.max(), x.min(), x.max()], atol=1e-6)
    assert block.axes == ("y", "x")
    # the hand is where the cube is whenever the cube is high above the table
    assert hand.extent[0] < block.extent[0] + 0.1
    assert 0.2 < hand.extent[2] < hand.extent[3] < 0.65


def test_where_the_point_was(recorded):
    summary = summarize(MAZE, recorded[MAZE].folder)
    (plane,) = summary.coverage
    assert plane.counts.sum() == 12 * 1001
    inside = plane.counts.reshape(60, 60)[::-1]
    rows, columns = np.nonzero(plane.counts)
    cells = plane.walls[(rows * 8 // 60), (columns * 8 // 60)]
    assert cells.mean() < 0.05  # bins at the edge of a wall
    assert inside.any()


@pytest.mark.slow
def test_rewards_and_successes_of_each_task(recorded, families):
    for name in (CUBE, MAZE, "ogbench/puzzle-3x3-play"):
        summary = summarize(name, families[name].folder)
        assert len(summary.rewards) == 5
        assert sum(rewards.default for rewards in summary.rewards) == 1
        for rewards in summary.rewards:
            assert rewards.counts.sum() == summary.transitions
            zero = rewards.counts[rewards.values == 0]
            assert rewards.successes == (zero[0] if zero.size else 0)
            assert (rewards.successes == 0) == (rewards.episodes == 0)
            assert rewards.episodes <= len(summary.lengths)
    states = transitions_of(families["ogbench/puzzle-3x3-play"])["button_states"]
    first = next(rewards for rewards in summary.rewards if rewards.task.endswith("task1-v0"))
    assert first.values.min() >= -9
    assert len(states) == summary.transitions


@pytest.mark.slow
def test_a_task_without_a_success_is_warned_of(families):
    summary = summarize("ogbench/puzzle-3x3-play", families["ogbench/puzzle-3x3-play"].folder)
    lost = [rewards.task for rewards in summary.rewards if not rewards.successes]
    text = describe(summary)
    assert lost  # two episodes do not solve all five boards
    assert all(f"{task}: WARNING: no transition meets the goal" in text.replace(" (default)", "") for task in lost)
    assert text.count("WARNING") == len(lost)


def test_the_text_is_short_and_says_what_matters(cube):
    lines = describe(cube).splitlines()
    assert len(lines) <= 40
    assert "2,000 transitions in 2 episodes of 1000" in lines
    assert sum(line.startswith("cube-single-play-singletask-task") for line in lines) == 5


@pytest.mark.slow
def test_d4rl_data_have_returns(tmp_path):
    record(POINT, episodes=2, folder=tmp_path, workers=1, progress=False)
    folder = Place(POINT, 2, 0, tmp_path).folder
    summary, arrays = summarize(POINT, folder), minari.read(find_task(POINT), folder)
    assert summary.transitions == 2000
    assert len(summary.returns) == len(summary.lengths) == arrays["ends"].sum()
    goals = int(np.sum(arrays["rewards"][~arrays["ends"]] == 0))
    assert summary.returns.sum() == goals
    (rewards,) = summary.rewards
    assert rewards.successes == rewards.episodes == goals
    assert "returns of episodes, as recorded" in describe(summary)


def test_damage_is_refused(recorded, tmp_path):
    with pytest.raises(FileNotFoundError):
        summarize(CUBE, tmp_path)
    path = tmp_path / "cube-single-play-v0.npz"
    path.write_bytes(recorded[CUBE].files["train"].read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is damaged or is not an npz file"):
        summarize(CUBE, tmp_path)

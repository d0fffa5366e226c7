"""OGBench's noisy sets and larger worlds in short recordings: OGBench reads the files, and the noisy ones follow their law."""

import dataclasses

import numpy as np
import ogbench
import pytest
from scipy import stats

from fdbook.data import controllers
from fdbook.data.files import Place
from fdbook.data.record import record
from fdbook.data.tasks import DATASETS, find_task


WORLDS = ["cube-single", "cube-double", "cube-triple", "cube-quadruple", "scene"]
WORLDS += ["puzzle-3x3", "puzzle-4x4", "puzzle-4x5", "puzzle-4x6"]
LARGER = ["cube-triple", "cube-quadruple", "puzzle-4x5", "puzzle-4x6"]
NAMES = [f"{world}-play" for world in LARGER] + [f"{world}-noisy" for world in WORLDS]
EPISODES = 2

# gymnasium says so of OGBench's own action space
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32")


@pytest.fixture
def short(monkeypatch, tmp_path):
    """Records two training episodes of a few rows, and one for validation, in this process."""

    def make(name, steps):
        dataset = dataclasses.replace(DATASETS[name], steps=steps)
        monkeypatch.setitem(DATASETS, name, dataset)
        record(name, episodes=EPISODES, folder=tmp_path, workers=1, progress=False)
        return Place(name, EPISODES, 0, tmp_path)

    return make


def raw(place):
    with np.load(place.files["train"]) as file:
        return dict(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ogbench_reads_the_files(short, name):
    """The default task, by OGBench's name for it: a wrong stem, width or dtype is refused or seen here."""
    place = short(f"ogbench/{name}", steps=60)
    dataset, task = place.dataset, find_task(f"{name}-singletask")
    environment, *splits = ogbench.make_env_and_datasets(
        f"{name}-singletask-v0", dataset_dir=str(place.folder), add_info=True
    )
    assert environment.unwrapped.cur_task_id == int(task.name.removesuffix("-v0")[-1])
    environment.close()
    for episodes, data in zip(place.sizes.values(), splits, strict=True):
        widths = {key: (width,) for key, width in dataset.simulator.items()}
        widths |= {"observations": dataset.observation, "actions": (dataset.action,)}
        assert {key: data[key].shape for key in widths} == {key: (episodes * 59, *row) for key, row in widths.items()}
        assert data["observations"].dtype == data["actions"].dtype == np.float32
        assert np.all(np.abs(data["actions"]) <= 1)
        assert set(np.unique(data["rewards"])) <= set(range(-task.parts, 1))
        assert np.array_equal(np.flatnonzero(data["terminals"]), np.arange(1, episodes + 1) * 59 - 1)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "share"), [("cube-single", 0.1), ("scene", 0.1), ("puzzle-3x3", 0.2)])
def test_the_share_of_random_actions_and_what_they_are(short, monkeypatch, budget, world, share):
    """Told by the actions alone, without the noise. A controller asks for a move of at least 0.4 m, times five: one of the first
    three coordinates is cut off at the edge of the box; a uniform action never is. The shares are those of OGBench's commands.
    """
    monkeypatch.setattr(controllers, "LARGEST_NOISE", 0.0)
    actions = raw(short(f"ogbench/{world}-noisy", steps=500))["actions"]
    random = np.all(np.abs(actions[:, :3]) < 1, axis=1)
    assert abs(random.mean() - share) < budget("standard_errors") * np.sqrt(share * (1 - share) / len(actions))
    assert np.all(np.abs(actions[~random, 4]) == 1)
    for column in actions[random].T:
        assert stats.kstest(column, "uniform", (-1, 2)).pvalue > budget("uniform_actions")


@pytest.mark.slow
def test_the_noise_is_drawn_anew_for_each_episode_up_to_a_tenth(budget):
    """On the gripper of the puzzle, which is told to stay closed, the noise is ten times one that is uniform below 0.1.

    In the mean over the half that is not cut off, |noise| is 10 xi sqrt(2 / pi), xi an episode's draw.
    """
    dataset = dataclasses.replace(DATASETS["ogbench/puzzle-3x3-noisy"], steps=80)
    with controllers.environment(dataset) as arm:
        played = [controllers.episode(dataset, arm, (0, 0, k), lambda steps: None)["actions"] for k in range(30)]
    kept = [actions[np.any(np.abs(actions[:, :3]) == 1, axis=1), 4] for actions in played]
    drawn = np.array([np.mean(1 - closed[closed < 1]) for closed in kept]) / (10 * np.sqrt(2 / np.pi))
    spread = 0.1 / np.sqrt(12)
    assert abs(drawn.mean() - 0.05) < budget("standard_errors") * spread / np.sqrt(len(drawn))
    assert drawn.std() > spread / 2
    assert drawn.min() < 0.02

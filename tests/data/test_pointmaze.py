"""D4RL's point maze recorded anew: Minari reads it, its physics agrees, and the seed decides."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from fdbook.data import minari, pointmaze
from fdbook.data.files import Place
from fdbook.data.load import load
from fdbook.data.record import record
from fdbook.data.tasks import find, find_task


UMAZE = "D4RL/pointmaze/umaze-v2"
RUNS = 4


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    base = tmp_path_factory.mktemp("pointmaze")
    record(UMAZE, episodes=RUNS, folder=base, workers=2, progress=False)
    return Place(UMAZE, RUNS, 0, base)


@pytest.mark.slow
def test_minari_reads_it_without_this_package(recorded):
    code = (
        f"import minari; data = minari.load_dataset({UMAZE!r}); episodes = list(data.iterate_episodes())\n"
        "assert data.total_steps == 4000 and data.total_episodes == len(episodes)\n"
        "for e in episodes:\n"
        "    assert e.observations['observation'].shape == (len(e) + 1, 4) and e.actions.shape == (len(e), 2)\n"
        "    assert data.observation_space.contains({k: v[0] for k, v in e.observations.items()})\n"
        "    assert abs(e.actions).max() <= 1 and not e.terminations.any() and e.truncations[:-1].sum() == 0\n"
        "    assert e.truncations[-1] and set(e.rewards) <= {0.0, 1.0} and e.rewards[:-1].sum() == 0\n"
        "low, high = data.storage.metadata['ref_min_score'], data.storage.metadata['ref_max_score']\n"
        "assert 0 <= low < 5 < high < 30\n"
        "env = data.recover_environment(); assert env.spec.kwargs['reset_target'] and env.spec.max_episode_steps == 1000000\n"
        "assert data.recover_environment(eval_env=True).spec.id == 'PointMaze_UMaze-v3'\n"
        "import sys; assert not any(name.startswith('fdbook') for name in sys.modules); print('read')"
    )
    options = {"env": {"MINARI_DATASETS_PATH": str(recorded.folder), "PATH": "", "HOME": "/nowhere"}}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, **options
    )
    assert done.stdout == "read\n", done.stderr


def test_goals_follow_each_other_about_as_fast_as_in_the_published_data(recorded, budget):
    """The published million steps are cut into 13210 episodes: 76 steps from goal to goal."""
    arrays = minari.read(find_task(UMAZE), recorded.folder)
    goals = np.sum(arrays["masks"][~arrays["ends"]] == 0)
    assert 4000 / goals == pytest.approx(1_000_000 / 13_210, rel=budget("steps_to_a_goal"))


def test_states_lead_to_each_other(recorded, budget):
    data, dataset = minari.read(find_task(UMAZE), recorded.folder), find(UMAZE)
    rows = np.flatnonzero(~data["ends"])[::97]
    with pointmaze.environment(dataset) as environment:
        environment.reset(seed=0)
        point = environment.unwrapped.point_env
        for row in rows:
            state = data["observations"][row].astype(float)
            point.set_state(state[:2], state[2:4])
            after, *_ = point.step(data["actions"][row])
            np.testing.assert_allclose(after, data["observations"][row + 1, :4], atol=budget("recorded_point_step"))


def test_episodes_end_at_their_goal_and_keep_it(recorded):
    data = minari.read(find_task(UMAZE), recorded.folder)
    last = np.flatnonzero(data["ends"])
    starts = np.concatenate([[0], last[:-1] + 1])
    for start, end in zip(starts, last, strict=True):
        place, goal = data["observations"][start : end + 1, :2], data["observations"][start : end + 1, 4:]
        assert np.all(goal == goal[0])
        away = np.linalg.norm(place - goal[0], axis=1)
        assert np.all(away[1:-1] > 0.45 - 1e-6)
        assert (away[-1] <= 0.45 + 1e-6) == (data["rewards"][end - 1] == 0)


@pytest.mark.slow
def test_the_seed_decides_and_not_the_number_of_workers(recorded, tmp_path):
    for seed, alone in ((0, True), (1, False)):
        place = Place(UMAZE, RUNS, seed, tmp_path)
        record(UMAZE, episodes=RUNS, seed=seed, folder=tmp_path, workers=1, progress=False)
        first, other = (minari.read(find_task(UMAZE), each.folder) for each in (recorded, place))
        same = len(first["actions"]) == len(other["actions"]) and np.array_equal(first["actions"], other["actions"])
        assert same == alone


@pytest.mark.slow
def test_it_is_not_recorded_twice_and_damage_is_mended(recorded, tmp_path):
    shutil.copytree(recorded.base, tmp_path, dirs_exist_ok=True)
    place = Place(UMAZE, RUNS, 0, tmp_path)
    before = place.files["train"].stat().st_mtime_ns
    record(UMAZE, episodes=RUNS, folder=tmp_path, progress=False)
    assert place.files["train"].stat().st_mtime_ns == before
    place.files["train"].write_bytes(place.files["train"].read_bytes()[:-3000])
    with pytest.raises(ValueError, match="is damaged"):
        minari.read(find_task(UMAZE), place.folder)
    record(UMAZE, episodes=RUNS, folder=tmp_path, progress=False)
    first, other = (minari.read(find_task(UMAZE), each.folder) for each in (recorded, place))
    assert all(np.array_equal(first[key], other[key]) for key in first)


@pytest.mark.slow
def test_a_disk_that_is_full_while_minari_writes(recorded, tmp_path, start):
    """The kernel refuses files above 200 kB: each run fits, Minari's file does not."""
    place = Place(UMAZE, RUNS, 0, tmp_path)
    process = start(place, first="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n")
    printed, said = process.communicate(timeout=100)
    assert said == (
        f"fdbook: The Minari data set {UMAZE} could not be written into {place.folder.parent}; is the disk full? The episodes "
        "are kept: run the same command to carry on.\n"
    )
    assert (process.returncode, printed) == (1, "")
    assert not place.folder.exists()
    record(UMAZE, episodes=RUNS, folder=tmp_path, workers=1, progress=False)
    first, other = (minari.read(find_task(UMAZE), each.folder) for each in (recorded, place))
    assert all(np.array_equal(first[key], other[key]) for key in first)


def test_a_damaged_run_is_refused(tmp_path):
    dataset, path = find(UMAZE), tmp_path / "run.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"run\.npz is damaged or is not a recorded run\.$"):
        pointmaze.read(path, dataset)
    shapes = {"observations": (1001, 4), "goals": (1001, 2), "actions": (999, 2), "rewards": (1000,)}
    np.savez(path, **{key: np.zeros(shape) for key, shape in shapes.items()})
    with pytest.raises(ValueError, match=r"has actions of shape \(999, 2\), or not finite \(expected \(1000, 2\)\)\.$"):
        pointmaze.read(path, dataset)


def test_one_call_loads_it_and_its_environment_ends_at_the_goal(recorded, monkeypatch):
    monkeypatch.setenv("FDBOOK_DATA", str(recorded.base))
    loaded = load(UMAZE, episodes=RUNS)
    assert (loaded.source, loaded.train.size, loaded.train.observation_shape) == ("recorded", 4000, (6,))
    with loaded.environment() as environment:
        environment.reset(seed=0)
        inside = environment.unwrapped
        inside.point_env.set_state(inside.goal, np.zeros(2))
        observation, reward, terminated, _, _ = environment.step(np.zeros(2, np.float32))
    assert (reward, terminated) == (1, True)
    np.testing.assert_allclose(observation[:2], observation[4:], atol=1e-2)

"""Reading recordings back, and refusing what is not one."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax.numpy as jnp
import numpy as np
import ogbench
import pytest

from fdbook.data.files import Place, read, root
from fdbook.data.ogbench import environment, load, load_or_record, maze_layout, rewards, transitions
from fdbook.data.tasks import TASKS, find, find_task


CUBE, MAZE = "ogbench/cube-single-play", "ogbench/pointmaze-medium-navigate"
STEPS = 1001

# gymnasium says so of OGBench's own action space
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32")


@pytest.fixture
def copy(recorded, tmp_path):
    """The cube recording in a folder of its own, to be damaged."""
    place = Place(CUBE, recorded[CUBE].episodes, 0, tmp_path)
    place.folder.mkdir(parents=True)
    for split, path in recorded[CUBE].files.items():
        place.files[split].write_bytes(path.read_bytes())
    return place


def again(place):
    return load(place.name, episodes=place.episodes, seed=place.seed, folder=place.base)


def test_a_recording_as_arrays(recorded):
    place = recorded[CUBE]
    recording = again(place)
    assert (recording.name, recording.folder) == (CUBE, place.folder)
    for split, episodes in ((recording.train, 2), (recording.validation, 1)):
        assert split.observations.shape == (episodes * STEPS, 28)
        assert split.actions.shape == (episodes * STEPS, 5)
        assert split.observations.dtype == split.actions.dtype == np.float32
        assert split.terminals.dtype == bool
        assert split.starts.tolist() == [STEPS * k for k in range(episodes)]
        assert split.ends.tolist() == [STEPS * k + STEPS - 1 for k in range(episodes)]
    with np.load(place.files["train"]) as file:
        assert np.array_equal(recording.train.observations, file["observations"])
    with pytest.raises(ValueError, match="read-only"):
        recording.train.actions[0] = 0


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ({"episodes": 20}, "`fdbook data record ogbench/cube-single-play --episodes 20`"),
        ({"episodes": 3, "seed": 4}, "`fdbook data record ogbench/cube-single-play --episodes 3 --seed 4`"),
    ],
)
def test_a_missing_recording_names_the_command(arguments, command, tmp_path, monkeypatch):
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as refusal:
        load(CUBE, **arguments)
    sentence = f"There is no recording of {CUBE} with {arguments['episodes']} episodes and seed "
    assert str(refusal.value).startswith(sentence)
    assert str(refusal.value).endswith(f"{command} records it.")


def test_the_command_carries_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"--episodes 2 --folder '{tmp_path}/a b'` records it"):
        load(CUBE, episodes=2, folder=tmp_path / "a b")
    with pytest.raises(FileNotFoundError, match="--folder /dev/null` records it"):
        load(CUBE, episodes=2, folder="/dev/null")


def rewrite(path, **changes):
    """Changes arrays of a file; None takes one away."""
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(path, **{key: values for key, values in arrays.items() if values is not None})


def changed(path, key, where, value):
    with np.load(path) as file:
        values = file[key]
    values[where] = value
    rewrite(path, **{key: values})


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def array(path, key, change):
    with np.load(path) as file:
        values = file[key]
    rewrite(path, **{key: change(values)})


def npy(path):
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)


DAMAGE = {
    "truncated": (lambda path: os.truncate(path, 100_000), "is damaged or is not an npz file"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged or is not an npz file"),
    "text": (lambda path: path.write_text("hello"), "is damaged or is not an npz file"),
    "one flipped bit": (flip, "is damaged or is not an npz file"),
    "an npy file": (npy, "is damaged or is not an npz file"),
    "objects": (
        lambda path: rewrite(path, actions=np.array([{}, None], dtype=object)),
        "is damaged or is not an npz file",
    ),
    "no actions": (
        lambda path: rewrite(path, actions=None),
        "has no array 'actions' (expected observations, actions, qpos, qvel, terminals)",
    ),
    "no qpos": (lambda path: rewrite(path, qpos=None), "has no array 'qpos' (expected"),
    "NaN": (
        lambda path: changed(path, "observations", (5, 3), np.nan),
        "has observations NaN or infinite in 1 of 2002 rows, first in row 5 (nan)",
    ),
    "infinite": (
        lambda path: changed(path, "qvel", slice(7, 9), np.inf),
        "has qvel NaN or infinite in 2 of 2002 rows, first in row 7 (inf)",
    ),
    "narrow": (
        lambda path: array(path, "observations", lambda values: values[:, :-1]),
        "has observations of shape (2002, 27) (expected (2002, 28))",
    ),
    "short": (
        lambda path: array(path, "actions", lambda values: values[:-1]),
        "has actions of shape (2001, 5) (expected (2002, 5))",
    ),
    "words": (
        lambda path: array(path, "actions", lambda values: values.astype(str)),
        "has actions of <U32 (expected numbers, of float32)",
    ),
    "half a terminal": (
        lambda path: array(path, "terminals", lambda values: values * 0.5),
        "has terminals other than 0 and 1, first in row 1000 (0.5)",
    ),
    "one terminal": (
        lambda path: array(path, "terminals", lambda values: values[0]),
        "has terminals of shape () (expected (n,), at least one row)",
    ),
    "too large": (
        lambda path: changed(path, "actions", (9, 2), -1.5),
        "has actions outside [-1, 1] in 1 of 2002 rows, first in row 9 (-1.5)",
    ),
    "open end": (
        lambda path: changed(path, "terminals", -1, False),
        "has terminals that do not close 2 episodes of 1001 rows each",
    ),
    "early end": (
        lambda path: changed(path, "terminals", 500, True),
        "has terminals that do not close 2 episodes of 1001 rows each",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_in_one_sentence(copy, kind):
    damage, sentence = DAMAGE[kind]
    path = copy.files["train"]
    damage(path)
    with pytest.raises(ValueError) as refusal:
        again(copy)
    said = str(refusal.value)
    assert said.startswith(f"{path} {sentence}")
    assert said.endswith(f"; `{copy.command}` records it anew.")
    assert "\n" not in said


OTHERWISE = {
    "objects": "has actions of shape (2,) (expected (2002, 5))",
    "open end": "has terminals that do not close the last episode: its last row is none",
}


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "early end"])  # which is two episodes
@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.filterwarnings("ignore:None of the 2000 transitions:UserWarning")
def test_transitions_of_a_damaged_file_are_refused_in_one_sentence(copy, kind, split):
    damage, sentence = DAMAGE[kind]
    path = copy.files[split]
    if split == "validation":  # the same rows again, so that the same damage can be done
        path.write_bytes(copy.files["train"].read_bytes())
    damage(path)
    with pytest.raises(ValueError) as refusal:
        transitions(find_task("cube-single-play-singletask"), copy.folder)
    said = str(refusal.value)
    assert said.startswith(f"{path} {OTHERWISE.get(kind, sentence)}")
    assert "\n" not in said


@pytest.mark.slow
@pytest.mark.parametrize("task", [name for name in TASKS if name.startswith(("cube-single-play", "pointmaze-medium"))])
@pytest.mark.filterwarnings("ignore:None of the .* transitions:UserWarning")
def test_transitions_are_those_of_the_regular_layout_of_ogbench(recorded, task):
    """Told by OGBench's other layout, in which it builds the next observations itself."""
    task = find_task(task)
    place = recorded[task.dataset.name]
    environment, *splits = ogbench.make_env_and_datasets(task.name, dataset_dir=str(place.folder))
    environment.close()
    for data, ours, path in zip(splits, transitions(task, place.folder), place.files.values(), strict=True):
        batch = ours.at(jnp.arange(ours.size))
        with np.load(path) as file:  # the regular layout leaves out what was done in the last row of an episode
            data["next_actions"] = file["actions"][1:][~file["terminals"][:-1]]
        for name, values in batch._asdict().items():
            wanted = np.clip(data[name], -1 + 1e-5, 1 - 1e-5) if name.endswith("actions") else data[name]
            np.testing.assert_array_equal(values, wanted.astype(np.float32), err_msg=name)


def test_rewards_of_a_maze_tell_how_far_the_goal_is(recorded):
    """The goals of the five tasks lie in the middle of cells (row, column); success is to be within one unit of it."""
    place, maze = recorded[MAZE], maze_layout(MAZE)
    arrays = read(place.files["train"], place.dataset)
    for number, (i, j) in enumerate([(6, 6), (1, 6), (4, 2), (6, 1), (1, 1)], start=1):
        task = find_task(f"pointmaze-medium-navigate-singletask-task{number}")
        goal = np.array(maze.origin) + maze.cell * np.array([j, i])
        near = np.linalg.norm(arrays["qpos"] - goal, axis=1) <= 1.0
        np.testing.assert_array_equal(rewards(task, arrays), np.where(near, 0, -1), err_msg=task.name)


@pytest.mark.slow
def test_a_task_without_a_success_is_told(recorded, tmp_path):
    """One episode of the cube, cut so that it never comes to rest near the goal of the task."""
    task, place = find_task("cube-single-play-singletask-task1"), Place(CUBE, 1, 0, tmp_path)
    arrays = read(recorded[CUBE].files["train"], find(CUBE), 2)
    reached = [np.any(rewards(task, {"qpos": part}) == 0) for part in np.split(arrays["qpos"], 2)]
    place.folder.mkdir(parents=True)
    whole = {key: values[:STEPS] if not reached[0] else values[STEPS:] for key, values in arrays.items()}
    assert not all(reached)
    for path in place.files.values():
        np.savez(path, **whole)
    with pytest.warns(
        UserWarning, match=f"^None of the 1000 transitions in {place.files['train']} reaches the goal of"
    ):
        transitions(task, place.folder)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^There is no file .*cube-single-play-v0\.npz, where the data of cube-"
    ):
        transitions(find_task("cube-single-play-singletask"), tmp_path)


def test_the_environment_of_a_task():
    task = find_task("cube-single-play-singletask-task3")
    with environment(task) as made:
        observation, _ = made.reset(seed=0)
        assert observation.shape == task.dataset.observation == made.observation_space.shape
        assert made.unwrapped.cur_task_id == 3
        assert made.spec.max_episode_steps == task.horizon


@pytest.mark.slow
def test_what_is_missing_or_damaged_is_recorded_anew(recorded, same, tmp_path):
    place = Place(MAZE, 2, 0, tmp_path)
    first = load_or_record(MAZE, episodes=2, folder=tmp_path, progress=False)
    assert np.array_equal(first.train.actions, again(recorded[MAZE]).train.actions[: 2 * STEPS])
    place.files["validation"].unlink()
    flip(place.files["train"])
    once_more = load_or_record(MAZE, episodes=2, folder=tmp_path, progress=False)
    assert np.array_equal(first.train.observations, once_more.train.observations)
    assert np.array_equal(first.validation.observations, once_more.validation.observations)
    assert sorted(path.name for path in place.folder.parent.iterdir()) == ["2-episodes-seed-0"]


def test_where_recordings_live(monkeypatch):
    monkeypatch.setenv("FDBOOK_DATA", "~/elsewhere")
    assert root() == Path.home() / "elsewhere"
    assert Place(CUBE, 20, 3).folder == Path.home() / "elsewhere/ogbench/cube-single-play/20-episodes-seed-3"
    monkeypatch.setenv("FDBOOK_DATA", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/some/where")
    assert root().name == "fdbook"
    assert Place(CUBE, 25).sizes == {"train": 25, "validation": 2}


def test_the_layout_of_the_maze_is_that_of_the_simulated_walls():
    maze = maze_layout(MAZE)
    model = gymnasium.make("pointmaze-medium-v0").unwrapped.model
    walls = [model.geom(index) for index in range(model.ngeom) if model.geom(index).name.startswith("block")]
    assert len(walls) == maze.walls.sum()
    for wall in walls:
        i, j = map(int, wall.name.split("_")[1:])
        assert maze.walls[i, j]
        assert np.allclose(wall.pos[:2], np.array(maze.origin) + maze.cell * np.array([j, i]))
        assert np.allclose(2 * wall.size[:2], maze.cell)
    low, high = (function([wall.pos[:2] for wall in walls], axis=0) for function in (np.min, np.max))
    assert np.allclose(maze.extent, (low[0] - 2, high[0] + 2, low[1] - 2, high[1] + 2))


def test_a_cube_has_no_maze():
    others = ", ".join(f"ogbench/pointmaze-{size}-navigate" for size in ("medium", "large", "giant"))
    with pytest.raises(ValueError, match=f"^The data set {CUBE} has no maze; these have one: {others}.$"):
        maze_layout(CUBE)


def test_importing_the_data_room_imports_no_simulator():
    look = "import sys, fdbook.data; print([m for m in ('mujoco', 'gymnasium', 'ogbench') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout == "[]\n"

"""Recording on the real environments: OGBench reads the files, the physics agrees, and no interruption changes them."""

import contextlib
import ctypes.util
import dataclasses
import fcntl
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import ogbench
import pytest

from fdbook.data import controllers
from fdbook.data.files import Place
from fdbook.data.ogbench import load, maze_layout, transitions
from fdbook.data.record import record
from fdbook.data.tasks import DATASETS, find_task


CUBE, MAZE = "ogbench/cube-single-play", "ogbench/pointmaze-medium-navigate"
STEPS = 1001

# gymnasium says so of OGBench's own action space
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32")


def unfinished(place):
    return place.folder.with_name(f".{place.folder.name}.unfinished")


def shards(place):
    return sorted(unfinished(place).glob("*.npz"))


def raw(place):
    with np.load(place.files["train"]) as file:
        return dict(file)


def rerecord(place):
    record(place.name, episodes=place.episodes, seed=place.seed, folder=place.base, progress=False)
    assert not unfinished(place).exists()
    return place


STATES = [name for name, dataset in DATASETS.items() if dataset.benchmark == "ogbench" and dataset.controller]
STATES = [name for name in STATES if not DATASETS[name].pixels and DATASETS[name].episodes <= 1000]
# the noisy sets and the larger worlds are read in tests/data/test_noisy_files.py
STATES = [name for name in STATES if not name.endswith("-noisy")]


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_ogbench_reads_the_files(families, name):
    """The first and the last task, through OGBench alone."""
    place, dataset = families[name], DATASETS[name]
    for number in (1, 5):
        task = find_task(f"{dataset.stem.removesuffix('-v0')}-singletask-task{number}")
        environment, *splits = ogbench.make_env_and_datasets(task.name, dataset_dir=str(place.folder), add_info=True)
        assert environment.observation_space.shape == dataset.observation
        assert environment.action_space.shape == (dataset.action,)
        environment.close()
        for episodes, data in zip(place.sizes.values(), splits, strict=True):
            steps = dataset.steps - 1
            matrices = {"observations": dataset.observation, "next_observations": dataset.observation}
            matrices |= {"actions": (dataset.action,)} | {key: (width,) for key, width in dataset.simulator.items()}
            assert {key: data[key].shape[1:] for key in matrices} == matrices
            assert {values.shape[0] for values in data.values()} == {episodes * steps}
            assert data["observations"].dtype == data["actions"].dtype == np.float32
            assert set(np.unique(data["rewards"])) <= set(range(-task.parts, 1))
            assert np.array_equal(data["masks"], data["rewards"] < 0)
            assert np.array_equal(np.flatnonzero(data["terminals"]), np.arange(1, episodes + 1) * steps - 1)


def test_ogbench_reads_the_goal_conditioned_and_the_compact_form(recorded):
    place = recorded[CUBE]
    _, data, _ = ogbench.make_env_and_datasets(place.dataset.stem, dataset_dir=str(place.folder), compact_dataset=True)
    assert data["observations"].shape == (place.episodes * STEPS, 28)
    assert np.array_equal(np.flatnonzero(data["valids"] == 0), load(CUBE, episodes=2, folder=place.base).train.ends)


def test_cube_states_lead_to_each_other(recorded, budget):
    """A fresh environment put into row i and stepped with action i arrives in row i + 1; with action i + 1 it does not."""
    environment = gymnasium.make("cube-single-v0", mode="data_collection", terminate_at_goal=False).unwrapped
    environment.reset(seed=1)

    def step(data, row, action):
        mujoco.mj_resetData(environment._model, environment._data)
        environment._data.qpos[:], environment._data.qvel[:] = data["qpos"][row], data["qvel"][row]
        mujoco.mj_forward(environment._model, environment._data)
        environment.step(data["actions"][action])
        return np.abs(environment._data.qpos - data["qpos"][row + 1]).max()

    data, rows = raw(recorded[CUBE]), range(0, STEPS - 2, 20)
    assert np.median([step(data, row, row) for row in rows]) < budget("recorded_cube_step")
    assert np.median([step(data, row, row + 1) for row in rows]) > 4 * budget("recorded_cube_step")


def test_maze_states_lead_to_each_other(recorded, budget):
    environment = gymnasium.make("pointmaze-medium-v0", terminate_at_goal=False).unwrapped
    environment.reset(seed=1)
    data = raw(recorded[MAZE])
    for row in range(0, STEPS - 1, 20):
        environment.set_state(data["qpos"][row], data["qvel"][row])
        after, *_ = environment.step(data["actions"][row])
        assert after == pytest.approx(data["observations"][row + 1], abs=budget("recorded_maze_step"))


def test_cube_observations_show_the_states(recorded, budget):
    """OGBench's own layout of an observation: joints, their speeds, the cube's place at 10 times the scale, its turn."""
    data = raw(recorded[CUBE])
    seen, tolerance = data["observations"], budget("recorded_observation")
    assert np.array_equal(seen[:, :6], data["qpos"][:, :6])
    assert np.array_equal(seen[:, 6:12], data["qvel"][:, :6])
    assert seen[:, 19:22] == pytest.approx(10 * (data["qpos"][:, 14:17] - [0.425, 0, 0]), abs=tolerance)
    assert seen[:, 22:26] == pytest.approx(data["qpos"][:, 17:21], abs=tolerance)


def test_the_arm_carries_the_cube_as_often_as_published(recorded):
    """OGBench's play data hold about 11 carries in an episode of 1001 steps: the plans last 4.4 s, a step 0.05 s."""
    height = raw(recorded[CUBE])["qpos"][:, 16].reshape(-1, STEPS)
    up = height > 0.06
    lifts = (up[:, 1:] & ~up[:, :-1]).sum(axis=1)
    assert np.all((lifts >= 9) & (lifts <= 13))


def presses(place):
    """How often a button was pressed in each episode, told by the states of the buttons."""
    states = raw(place)["button_states"].reshape(-1, STEPS, place.dataset.simulator["button_states"])
    return np.any(np.diff(states, axis=1) != 0, axis=2).sum(axis=1)


def test_the_arm_presses_buttons_as_often_as_published(families):
    """OGBench's puzzle data hold about 30 presses in an episode."""
    assert np.all(
        (presses(families["ogbench/puzzle-3x3-play"]) >= 27) & (presses(families["ogbench/puzzle-3x3-play"]) <= 33)
    )


def test_a_press_turns_a_button_and_its_neighbors(families):
    """Lights out on a 3 x 3 board: the buttons that change in one step are a cross around one of them."""
    states = raw(families["ogbench/puzzle-3x3-play"])["button_states"].reshape(-1, STEPS, 3, 3)
    changes = np.argwhere(np.any(np.diff(states, axis=1) != 0, axis=(2, 3)))
    crosses = {
        frozenset((i + a, j + b) for a, b in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)) if 0 <= i + a < 3 > j + b >= 0)
        for i in range(3)
        for j in range(3)
    }
    for episode, step in changes:
        changed = np.argwhere(states[episode, step] != states[episode, step + 1])
        assert frozenset(map(tuple, changed.tolist())) in crosses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"), [(CUBE, 11), ("ogbench/scene-play", 20), ("ogbench/puzzle-3x3-play", 30)]
)
def test_as_many_tasks_are_completed_in_an_episode_as_published(name, published, budget):
    """Counted where the environment sets the next target, while the controller plays."""
    dataset, counts = DATASETS[name], []
    with controllers.environment(dataset) as arm:
        real, restart = arm.unwrapped.set_new_target, arm.unwrapped.initialize_episode
        arm.unwrapped.set_new_target = lambda **options: counts.append(1) or real(**options)
        arm.unwrapped.initialize_episode = lambda: (restart(), counts.clear())
        means = [
            controllers.episode(dataset, arm, (0, 0, index), lambda steps: None) and len(counts) for index in range(3)
        ]
    assert np.mean(means) == pytest.approx(published, abs=budget("completed_tasks"))


def test_the_cube_of_the_scene_stays_in_sight(families):
    _, y, z = raw(families["ogbench/scene-play"])["qpos"][:, 14:17].T
    assert y.max() < 0.29
    assert np.all((z[y <= -0.3] >= 0.06) & (z[y <= -0.3] <= 0.08))


def test_two_cubes_are_both_carried(families):
    heights = raw(families["ogbench/cube-double-play"])["qpos"][:, [16, 23]]
    assert np.all(heights.max(axis=0) > 0.06)


def test_the_point_walks_through_the_free_cells_towards_goals(recorded):
    data, maze = raw(recorded[MAZE]), maze_layout(MAZE)
    j, i = np.rint((data["observations"] - maze.origin) / maze.cell).astype(int).T
    assert not maze.walls[i, j].any()
    cells = np.unique((i * 8 + j).reshape(-1, STEPS) + 64 * np.arange(12)[:, None]) // 64
    assert np.all(np.bincount(cells) >= 8)
    assert len(np.unique(i * 8 + j)) == np.sum(~maze.walls)


def test_the_noise_of_the_maze_controller(recorded, budget):
    """Noise of standard deviation 0.5 on each coordinate, independent from step to step.

    While the point moves straight along x the way's y is small and changes slowly: two successive actions differ in y by
    sqrt(2) times the noise, nearly. The median shrugs off the clipping at 2 standard deviations.
    """
    data = raw(recorded[MAZE])
    place, steering = (data[key].reshape(-1, STEPS, 2) for key in ("observations", "actions"))
    moved = np.abs(place[:, 10:] - place[:, :-10])
    straight = (moved[..., 0] > 1.2) & (moved[..., 1] < 0.3)
    change = (steering[:, 5:-5] - steering[:, 4:-6])[straight][:, 1]
    assert len(change) > 500
    assert np.median(np.abs(change)) / (0.6745 * 2**0.5) == pytest.approx(0.5, rel=budget("maze_noise"))


@pytest.mark.slow
def test_the_seed_decides(recorded, same, tmp_path):
    reference = recorded[MAZE]
    np.random.seed(99)  # noqa: NPY002
    again = rerecord(Place(MAZE, reference.episodes, 0, tmp_path))
    assert same(reference, again)
    other = load(MAZE, episodes=2, folder=rerecord(Place(MAZE, 2, 1, tmp_path)).base, seed=1)
    first = load(MAZE, episodes=reference.episodes, folder=reference.base)
    assert not np.array_equal(first.train.actions[:STEPS], other.train.actions[:STEPS])
    assert not np.array_equal(first.train.actions[:STEPS], first.train.actions[STEPS : 2 * STEPS])
    assert not np.array_equal(first.train.actions[:STEPS], first.validation.actions)


@pytest.mark.slow
def test_an_episode_does_not_depend_on_those_before_it(recorded, tmp_path, start, until):
    """The second cube episode is the same whether it follows the first or starts a process that carries on."""
    place = Place(CUBE, 2, 0, tmp_path)
    process = start(place)
    until(lambda: len(shards(place)) >= 1)
    process.kill()
    process.wait()
    assert len(shards(place)) == 1
    rerecord(place)
    assert {key: values.tobytes() for key, values in raw(place).items()} == {
        key: values.tobytes() for key, values in raw(recorded[CUBE]).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_matter(recorded, same, tmp_path, workers):
    record(MAZE, episodes=12, folder=tmp_path, workers=workers, progress=False)
    assert same(recorded[MAZE], Place(MAZE, 12, 0, tmp_path))


def test_the_progress_bar_counts_every_row(tmp_path, capsys):
    record(MAZE, episodes=2, folder=tmp_path, workers=2)
    said = capsys.readouterr().err
    assert "100%" in said
    assert "3.00k/3.00k" in said


def test_the_global_generator_is_left_as_it_was(tmp_path):
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.uniform()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    rerecord(Place(MAZE, 1, 0, tmp_path))
    assert np.random.uniform() == expected  # noqa: NPY002


def test_a_finished_recording_is_not_touched(recorded):
    before = [path.stat() for path in recorded[MAZE].files.values()]
    rerecord(recorded[MAZE])
    assert [path.stat() for path in recorded[MAZE].files.values()] == before


def workers_of(process):
    """The numbers of the workers that a process has now."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return {int(number) for number in found.stdout.split()}


def gone(numbers):
    """Whether none of these processes runs any more; one that waits to be buried does not."""
    words = ["ps", "-o", "stat=", "-p", ",".join(map(str, numbers or {0}))]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return all(state.startswith("Z") for state in found.stdout.split())


def test_where_the_training_data_are_the_validation_data_are_too(tmp_path, monkeypatch):
    """Stopped between the two files, a recording does not look like one that has no validation data."""
    place, replace = Place(MAZE, 1, 0, tmp_path), os.replace

    def stop_before(source, target):
        if target == place.files["train"]:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop_before)
    with pytest.raises(KeyboardInterrupt):
        rerecord(place)
    assert [path.exists() for path in (place.files["train"], place.files["validation"])] == [False, True]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep is not there to find the workers with")
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_at_random_moments(recorded, same, tmp_path, start, until, workers):
    """Ten times in all: whenever it is killed, it resumes, and ends with the same arrays; no worker stays behind."""
    reference, moment, killed = recorded[MAZE], random.Random(workers), 0
    for turn in itertools.count():
        place = Place(MAZE, reference.episodes, 0, tmp_path / str(turn))
        while killed < 5:
            process = start(place, workers=workers)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment.uniform(0.5, 4.0))
                break  # it had finished before
            left = workers_of(process)
            process.kill()
            process.wait()
            killed += 1
            until(lambda left=left: gone(left))
            assert not place.files["train"].exists() or same(reference, place)
        assert same(reference, rerecord(place))
        if killed == 5:
            break


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep is not there to find the worker with")
def test_a_worker_that_is_killed_is_told_and_the_rest_is_kept(recorded, same, tmp_path, start, until):
    place = Place(MAZE, recorded[MAZE].episodes, 0, tmp_path)
    process = start(place, workers=2)
    until(lambda: len(shards(place)) >= 3)
    both = workers_of(process)
    assert len(both) == 2
    os.kill(min(both), signal.SIGKILL)
    _, said = process.communicate(timeout=30)
    assert said == "fdbook: A recording process was ended by signal 9; run the same command to carry on.\n"
    assert process.returncode == 1
    until(lambda: gone(both))
    assert len(shards(place)) >= 3
    assert same(recorded[MAZE], rerecord(place))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_says_one_sentence_and_leaves_nothing_half_written(recorded, same, tmp_path, start, until, workers):
    place = Place(MAZE, recorded[MAZE].episodes, 0, tmp_path)
    process = start(place, workers=workers)
    until(lambda: len(shards(place)) >= 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    saved = len(shards(place))
    assert said == (
        f"fdbook: The recording of {MAZE} stopped after {saved} of 13 episodes; run the same command to carry on.\n"
    )
    assert process.returncode == 130
    assert not place.folder.exists()
    assert not list(unfinished(place).glob("*.part"))
    assert same(recorded[MAZE], rerecord(place))


@pytest.mark.slow
def test_damaged_and_foreign_episodes_are_recorded_anew(recorded, same, half):
    first, second, third, *_ = shards(half)
    first.write_bytes(first.read_bytes()[:-100])
    flipped = bytearray(second.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    second.write_bytes(flipped)
    third.write_text("not an npz file")
    assert same(recorded[MAZE], rerecord(half))


@pytest.mark.slow
@pytest.mark.parametrize("stale", [True, False])
def test_episodes_of_other_versions_are_not_reused(recorded, same, half, stale):
    """Told by an episode that was swapped for another sound one: it is taken over only when the label fits."""
    first, second, *_ = shards(half)
    shutil.copy(second, first)
    label = unfinished(half) / "recording.json"
    if stale:
        label.write_text(label.read_text().replace('"layout": 1', '"layout": 0'))
    assert same(recorded[MAZE], rerecord(half)) == stale


def test_two_recordings_of_one_set_do_not_mix(half):
    handle = os.open(unfinished(half), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"^Another process is recording .* now; wait until it is done.$"):
            rerecord(half)
    finally:
        os.close(handle)


@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/data", "/proc/data"])
def test_a_folder_that_cannot_be_written_to(folder, monkeypatch):
    sentence = rf"^Cannot write into the folder {folder}/ogbench/pointmaze-medium-navigate: [^.]*\.$"
    with pytest.raises(OSError, match=sentence):
        record(MAZE, episodes=1, folder=folder, progress=False)
    monkeypatch.setenv("FDBOOK_DATA", folder)
    with pytest.raises(OSError, match=sentence):
        record(MAZE, episodes=1, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_is_full(recorded, same, tmp_path, start, workers):
    """The kernel refuses files above 100 kB: each episode fits, the recording does not; nothing of it is left in sight."""
    place = Place(MAZE, recorded[MAZE].episodes, 0, tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    process = start(place, first=limit, workers=workers)
    _, said = process.communicate(timeout=60)
    assert said == (
        f"fdbook: The recording of {MAZE} stopped after 13 of 13 episodes (File too large); "
        "run the same command to carry on.\n"
    )
    assert process.returncode == 1
    assert list(place.folder.iterdir()) == []
    assert same(recorded[MAZE], rerecord(place))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "ogbench/cube-singel-play"}, "no data set called .*; near it are cube-single-play, "),
        ({"name": "xyz"}, "^There is no data set called 'xyz'. `fdbook data list` names them all.$"),
        ({"name": CUBE, "episodes": 0}, "number of episodes that is a whole number of at least 1; got 0."),
        ({"name": CUBE, "workers": 0}, "number of workers that is a whole number of at least 1; got 0."),
        ({"name": "ogbench/antmaze-giant-navigate"}, "it was made by trained walking policies, which no environment"),
        ({"name": "D4RL/pen/human-v2"}, "D4RL/pen/human-v2 cannot be recorded anew: it was made by people"),
        ({"name": CUBE, "seed": -1}, "seed that is a whole number of at least 0; got -1."),
    ],
)
def test_names_and_numbers_that_make_no_sense(arguments, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        record(**arguments, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


PIXELS = "ogbench/visual-cube-single-play"


@pytest.fixture
def short_pictures(monkeypatch):
    """Episodes of 12 rows instead of 1001: without a GPU a picture takes a tenth of a second."""
    dataset = dataclasses.replace(DATASETS[PIXELS], steps=12)
    monkeypatch.setitem(DATASETS, PIXELS, dataset)
    task = dataclasses.replace(find_task("visual-cube-single-play-singletask-task1"), dataset=dataset)
    return dataset, task


@pytest.mark.slow
@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="nothing renders without the EGL library")
@pytest.mark.filterwarnings("ignore:None of the 22 transitions:UserWarning")
def test_pictures(short_pictures, tmp_path):
    """Recorded, read by OGBench, and stacked as transitions and by the environment alike."""
    _, task = short_pictures
    place = Place(PIXELS, 2, 0, tmp_path)
    record(PIXELS, episodes=2, folder=tmp_path, progress=False)
    states, _ = ogbench.make_env_and_datasets(
        "cube-single-singletask-task1-v0",
        dataset_only=True,
        cur_env=gymnasium.make("cube-single-singletask-task1-v0"),
        dataset_path=str(place.files["train"]),
    )
    data = raw(place)
    assert (data["observations"].shape, data["observations"].dtype) == ((24, 64, 64, 3), np.uint8)
    assert data["observations"].std() > 10
    assert len(states["rewards"]) == 22
    train, _ = transitions(task, place.folder)
    assert train.observation_shape == (64, 64, 9)
    batch = train.at(np.array([5]))
    wanted = np.concatenate(data["observations"][3:6], axis=-1)
    np.testing.assert_array_equal(batch.observations[0], wanted)
    np.testing.assert_array_equal(batch.next_observations[0], np.concatenate(data["observations"][4:7], axis=-1))


@pytest.mark.slow
@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="nothing renders without the EGL library")
def test_the_environment_stacks_pictures_as_the_transitions_do():
    code = (
        "import numpy as np\nfrom fdbook.data import ogbench, tasks\n"
        "made = ogbench.environment(tasks.find_task('visual-cube-single-play-singletask-task1'))\n"
        "seen = [made.reset(seed=0)[0]] + [made.step(np.full(5, 0.5, np.float32))[0] for _ in range(3)]\n"
        "assert made.observation_space.shape == seen[0].shape == (64, 64, 9) and seen[0].dtype == np.uint8\n"
        "assert np.array_equal(seen[0][..., :3], seen[0][..., 6:])\n"
        "assert np.array_equal(seen[2][..., :3], seen[0][..., 6:]) and np.array_equal(seen[3][..., :6], seen[2][..., 3:])\n"
        "assert not np.array_equal(seen[3][..., :3], seen[3][..., 6:])\n"
        "print('as expected')"
    )
    options = {"env": dict(os.environ) | {"MUJOCO_GL": "egl"}, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], **options)
    assert done.stdout == "as expected\n", done.stderr


def test_where_nothing_renders_one_sentence_says_so(short_pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    with pytest.raises(
        OSError,
        match=r"MuJoCo cannot render here with MUJOCO_GL='osmesa' \(.*\): unset it, and what works here is found\.$",
    ):
        record(PIXELS, episodes=1, folder=tmp_path, progress=False)

"""Recording data sets with the scripted controllers that come with the environments, in the benchmark's own files.

An episode depends on the seed, its split and its number alone. Each one is saved as soon as it ends, in a hidden folder
beside the recording to be: a recording that was stopped or killed goes on where it was, and ends with the same arrays.
"""

import contextlib
import functools
import importlib.metadata
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fdbook.data.files import Place, read
from fdbook.data.tasks import DataSet


__all__ = ["CONTROLLERS", "Controller", "RecordingStopped", "record"]

LAYOUT = 1
LABEL = "recording.json"
SPLITS = ("train", "validation")
PLAN_NOISE, PLAN_SMOOTHING = 0.1, 0.5
STEERING_NOISE = 0.5


class RecordingStopped(KeyboardInterrupt):
    """Ctrl-C during a recording; its message says how far it came and that it can be carried on."""


class Controller(NamedTuple):
    """A scripted controller: it builds the environment of a data set, and plays one episode in it from a seed.

    `play` yields at each step the observation, the action taken there (float32, in [-1, 1]) and the info that followed.
    """

    environment: Callable
    play: Callable


def _environment(dataset: DataSet, **options):
    """The environment, with episodes of the data set's length that go on when a goal is reached."""
    import gymnasium
    import ogbench  # noqa: F401 (registers the environments)

    options |= {"terminate_at_goal": False, "max_episode_steps": dataset.steps, "disable_env_checker": True}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="glfw")  # it misses a display, but nothing is drawn
        return gymnasium.make(dataset.environment, **options)


def _cube_environment(dataset: DataSet):
    """The environment, reset once: the first reset compiles the model, and all episodes are to start in one way."""
    environment = _environment(dataset, mode="data_collection")
    environment.reset(seed=0)
    return environment


def _cube_play(environment, seed: int) -> Iterator[tuple]:
    """Carries the cube to one random target after another, along planned paths with correlated noise."""
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

    oracle = CubePlanOracle(env=environment, noise=PLAN_NOISE, noise_smoothing=PLAN_SMOOTHING)
    observation, info = environment.reset(seed=seed)
    oracle.reset(observation, info)
    over = False
    while not over:
        before, action = observation, np.clip(oracle.select_action(observation, info), -1, 1).astype(np.float32)
        observation, _, _, over, info = environment.step(action)
        yield before, action, info
        if oracle.done:
            observation, info = environment.unwrapped.set_new_target(p_stack=0.0)
            oracle.reset(observation, info)


def _maze_environment(dataset: DataSet):
    """The environment, without the temporary file that its model was read from."""
    environment = _environment(dataset)
    Path(environment.unwrapped.fullpath).unlink(missing_ok=True)
    return environment


def _places(maze) -> tuple[np.ndarray, np.ndarray]:
    """The free cells (row, column) of a maze, and those of them that are not the inside of a straight corridor."""
    free = np.argwhere(maze.maze_map == 0)
    walls, (i, j) = maze.maze_map == 1, free.T
    below, above, left, right = walls[i - 1, j], walls[i + 1, j], walls[i, j - 1], walls[i, j + 1]
    corridor = (below & above & ~left & ~right) | (left & right & ~below & ~above)
    return free, free[~corridor]


def _maze_play(environment, seed: int) -> Iterator[tuple]:
    """Walks to one random goal after another, along shortest paths from cell to cell, with noise on every step."""
    rng, maze = np.random.default_rng(seed), environment.unwrapped
    free, goals = _places(maze)
    task = {"init_ij": tuple(rng.choice(free)), "goal_ij": tuple(rng.choice(goals))}
    observation, _ = environment.reset(seed=seed, options={"task_info": task})
    over = False
    while not over:
        way = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)[0] - maze.get_xy()
        steering = way / (np.linalg.norm(way) + 1e-6) + rng.normal(0, STEERING_NOISE, 2)
        before, action = observation, np.clip(steering, -1, 1).astype(np.float32)
        observation, _, _, over, info = environment.step(action)
        yield before, action, info
        if info["success"]:
            maze.set_goal(goal_xy=maze.add_noise(maze.ij_to_xy(rng.choice(goals))))


CONTROLLERS = {
    "cube": Controller(_cube_environment, _cube_play),
    "maze": Controller(_maze_environment, _maze_play),
}


@contextlib.contextmanager
def _global_randomness(seed):
    """Seeds NumPy's global generator, which environments and controllers draw from, and gives its state back after."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _episode(dataset: DataSet, environment, seeds: tuple[int, int, int], tick: Callable) -> dict[str, np.ndarray]:
    """One whole episode in the layout of the files, from (seed, number of the split, number of the episode)."""
    rows = {key: np.empty((dataset.steps, *row), dtype) for key, (row, dtype) in dataset.arrays.items()}
    own, shared = np.random.SeedSequence(seeds).generate_state(2).tolist()
    with _global_randomness(shared):
        for row, (observation, action, info) in enumerate(CONTROLLERS[dataset.controller].play(environment, own)):
            rows["observations"][row], rows["actions"][row] = observation, action
            rows["qpos"][row], rows["qvel"][row] = info["prev_qpos"], info["prev_qvel"]
            tick()
    return rows | {"terminals": np.arange(dataset.steps) == dataset.steps - 1}


def _save(path: Path, write: Callable, work: Path) -> None:
    """Has `write` fill a file under a temporary name in `work`, and puts it in its place whole."""
    temporary = work / f"{path.name}.part"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _about(place: Place) -> bytes:
    """What a recording is made from, as JSON."""
    versions = {package: importlib.metadata.version(package) for package in ("ogbench", "mujoco", "numpy")}
    numbers = {"episodes": int(place.episodes), "seed": int(place.seed)}
    about = {"layout": LAYOUT, "name": place.name, **numbers, "versions": versions}
    return json.dumps(about, indent=2).encode()


@contextlib.contextmanager
def _alone(folder: Path, what: Path) -> Iterator[None]:
    """Holds a lock on a folder that ends with the process, however it ends; OSError when another process holds it.

    Where the system or the file system has no such locks, two recordings of one set at one time are not told apart.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            flock(handle, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"Another process is recording {what} now; wait until it is done.") from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


class _Workshop:
    """The hidden folder beside a recording to be, with a file for every episode that has ended."""

    def __init__(self, place: Place):
        self.place = place
        self.folder = place.folder.with_name(f".{place.folder.name}.unfinished")
        self.jobs = [(split, index) for split in SPLITS for index in range(place.sizes[split])]

    def shard(self, split: str, index: int) -> Path:
        return self.folder / f"{split}-{index:06d}.npz"

    def progress(self) -> str:
        """How far it came."""
        saved = sum(self.shard(*job).exists() for job in self.jobs)
        return f"The recording of {self.place.name} stopped after {saved} of {len(self.jobs)} episodes"

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Makes the folder, lets nobody else in, and takes it away when the recording is finished."""
        self._make()
        with _alone(self.folder, self.place.folder):
            self._make()
            self._sort_out()
            yield
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self):
        """Finds out now, and not after the first episode, that the folder cannot be written to."""
        probe = self.folder / "probe.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(f"Cannot write into the folder {self.folder.parent}: {error.strerror}.") from error

    def _sort_out(self):
        """Keeps earlier episodes only if they were made from what this run is made from."""
        label, about = self.folder / LABEL, _about(self.place)
        with contextlib.suppress(OSError, ValueError):
            if label.read_bytes() == about:
                return
        for path in self.folder.iterdir():
            path.unlink()
        _save(label, lambda file: file.write(about), self.folder)

    def missing(self) -> list[tuple[str, int]]:
        """The episodes that are not saved, or not soundly."""
        return [job for job in self.jobs if not _sound(self.shard(*job), self.place, 1)]

    def record(self, environment, split: str, index: int, tick: Callable) -> None:
        """Plays and saves one episode."""
        seeds = (self.place.seed, SPLITS.index(split), index)
        rows = _episode(self.place.dataset, environment, seeds, tick)
        _save(self.shard(split, index), functools.partial(np.savez, **rows), self.folder)

    def assemble(self, split: str) -> dict[str, np.ndarray]:
        """All episodes of a split, one after the other."""
        dataset, size = self.place.dataset, self.place.sizes[split]
        rows = size * dataset.steps
        arrays = {key: np.empty((rows, *row), dtype) for key, (row, dtype) in dataset.arrays.items()}
        arrays["terminals"] = np.empty(rows, bool)
        for index in range(size):
            for key, values in read(self.shard(split, index), dataset, 1).items():
                arrays[key][index * dataset.steps : (index + 1) * dataset.steps] = values
        return arrays

    def finish(self) -> None:
        """Puts the files of the recording in their place, each of them whole."""
        self.place.folder.mkdir(exist_ok=True)
        for split, path in self.place.files.items():
            _save(path, functools.partial(np.savez, **self.assemble(split)), self.folder)
        _save(self.place.folder / LABEL, lambda file: file.write(_about(self.place)), self.folder)


def _sound(path: Path, place: Place, episodes: int) -> bool:
    """Whether a file is there and holds that many whole episodes."""
    with contextlib.suppress(OSError, ValueError):
        return bool(read(path, place.dataset, episodes))
    return False


def record(
    name: str, *, episodes: int = 1000, seed: int = 0, folder: str | Path | None = None, progress: bool = True
) -> Path:
    """Records `episodes` training episodes, and a tenth as many for validation; returns the folder of the two files.

    Nothing is done when the recording is there and sound; one that was stopped is carried on. `folder` stands in for
    the folder that holds every recording (`fdbook.data.ogbench.root`). Raises ValueError on an unknown name or a number
    out of range, OSError when the folder cannot be written to or the disk is full, and RecordingStopped on Ctrl-C; in
    every case the episodes that have ended are kept.
    """
    place = Place(name, episodes, seed, folder)
    workshop = _Workshop(place)
    if all(_sound(place.files[split], place, place.sizes[split]) for split in SPLITS):
        workshop.remove()
        return place.folder
    try:
        with workshop.open():
            _run(workshop, progress)
    except KeyboardInterrupt:
        raise RecordingStopped(f"{workshop.progress()}; run the same command to carry on.") from None
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise
        raise OSError(f"{workshop.progress()} ({error.strerror}); run the same command to carry on.") from error
    return place.folder


def _run(workshop: _Workshop, progress: bool) -> None:
    """Records what is missing under a bar that counts transitions, and finishes."""
    dataset, jobs = workshop.place.dataset, workshop.missing()
    total = len(workshop.jobs) * dataset.steps
    count = {"total": total, "initial": total - len(jobs) * dataset.steps, "unit": " transitions", "unit_scale": True}
    environment = CONTROLLERS[dataset.controller].environment(dataset)
    with environment, tqdm(desc=dataset.name, disable=not progress, **count) as bar:
        for job in jobs:
            workshop.record(environment, *job, bar.update)
    workshop.finish()

"""D4RL's point mazes recorded anew into Minari's own format: a force-driven point that follows waypoints from goal to goal.

As in the published data the task goes on: a reached goal is followed by another, and there the stored episode is cut, by
truncation and not by termination. Unlike them, the point is put back after every 1000 steps, so that an episode depends on its
seeds alone, and actions are stored as the simulator takes them, clipped to [-1, 1].
"""

import collections
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fdbook.data import minari, simulators, tasks, workers
from fdbook.data.controllers import TICK, global_randomness
from fdbook.data.dose import STANDARD, WAYPOINTS, Dose, step_noise
from fdbook.data.files import Place
from fdbook.data.tasks import DataSet


if TYPE_CHECKING:
    import gymnasium


__all__ = ["check", "environment", "episode", "finish", "read", "serve"]

GAIN, DAMPING = 10.0, 1.0
NEAR, SPREAD = 0.1, 0.2
GOALS = 20
LAYOUT = {"observations": 4, "goals": 2, "actions": 2, "rewards": 0}


def environment(dataset: DataSet) -> "gymnasium.Env":
    """The environment that the data come from: reached goals are followed by others, and no clock runs."""
    import gymnasium

    with minari.robotics():
        options = {"continuing_task": True, "reset_target": True, "max_episode_steps": 1_000_000}
        return simulators.tidy(gymnasium.make(dataset.environment, disable_env_checker=True, **options))


class _Waypoints:
    """A PD controller that follows shortest paths from cell to cell, near their centers, and in the last cell the goal."""

    def __init__(self, maze, rng):
        self.maze, self.rng = maze, rng
        self.free = {(i, j) for i, row in enumerate(maze.maze_map) for j, cell in enumerate(row) if cell != 1}
        self.ways = {}
        self.goal = None

    def _ways_to(self, target):
        """From each cell to the next one on a shortest path to the target (breadth first)."""
        if target not in self.ways:
            following, border = {target: target}, collections.deque([target])
            while border:
                i, j = cell = border.popleft()
                for other in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                    if other in self.free and other not in following:
                        following[other] = cell
                        border.append(other)
            self.ways[target] = following
        return self.ways[target]

    def _cell(self, place):
        return tuple(int(index) for index in self.maze.cell_xy_to_rowcol(place))

    def _aim(self, cell):
        """Makes a cell the next waypoint: a point near its center, or the goal when it is the last."""
        self.cell = cell
        center = np.asarray(self.maze.cell_rowcol_to_xy(np.array(cell)), float)
        self.waypoint = self.goal if cell == self.last else center - self.rng.uniform(0, SPREAD, 2)

    def action(self, place, velocity, goal):
        """The force towards the next waypoint, without noise."""
        if self.goal is None or goal[0] != self.goal[0] or goal[1] != self.goal[1]:
            self.goal, self.last = goal, self._cell(goal)
            self._aim(self._ways_to(self.last).get(self._cell(place), self.last))
        away = self.waypoint - place
        if self.cell != self.last and away @ away <= NEAR**2:
            self._aim(self._ways_to(self.last)[self.cell])
            away = self.waypoint - place
        return GAIN * away - DAMPING * velocity


def episode(
    dataset: DataSet, environment: Any, seeds: tuple[int, ...], tick: Callable, dose: Dose | None = None
) -> dict[str, np.ndarray]:
    """One run of `dataset.steps` steps from a reset, with noise on the forces, along and across the way to the next waypoint.

    observations (steps + 1, 4): place and velocity; goals (steps + 1, 2): the one that counts at each step; actions (steps, 2);
    rewards (steps,): 1 where a goal was reached, and 0.
    """
    steps = dataset.steps
    along, across = (STANDARD[WAYPOINTS][name] if dose is None else getattr(dose, name) for name in STANDARD[WAYPOINTS])
    environment_seed, noise, shared = np.random.SeedSequence(seeds).generate_state(3).tolist()
    rng = np.random.default_rng(noise)
    observations, goals = np.empty((steps + 1, 4)), np.empty((steps + 1, 2))
    actions, rewards = np.empty((steps, 2), np.float32), np.zeros(steps)
    with global_randomness(shared):
        seen, _ = environment.reset(seed=environment_seed)
        world, pilot = environment.unwrapped, _Waypoints(environment.unwrapped.maze, rng)
        for step in range(steps):
            state, goal = seen["observation"], np.array(world.goal)
            observations[step], goals[step] = state, goal
            force = pilot.action(state[:2], state[2:], goal)
            force = force + step_noise(rng, pilot.waypoint - state[:2], along, across)
            actions[step] = np.clip(force, -1, 1)
            seen, rewards[step], _, _, _ = environment.step(actions[step])
            if step % TICK == TICK - 1:
                tick(TICK)
        observations[steps], goals[steps] = seen["observation"], world.goal
    tick(steps % TICK)
    return {"observations": observations, "goals": goals, "actions": actions, "rewards": rewards}


def read(path: Path, dataset: DataSet) -> dict[str, np.ndarray]:
    """The arrays of one run. Raises ValueError, naming the file, when it is damaged; OSError when it is not there."""
    with open(path, "rb") as file:
        try:
            with np.load(file) as archive:
                arrays = {key: archive[key] for key in LAYOUT}
        except Exception as error:  # what a damaged file raises depends on where the damage is
            raise ValueError(f"{path} is damaged or is not a recorded run.") from error
    for key, width in LAYOUT.items():
        rows = dataset.steps + (key in ("observations", "goals"))
        shape = (rows, width) if width else (rows,)
        if arrays[key].shape != shape or not np.all(np.isfinite(arrays[key])):
            raise ValueError(f"{path} has {key} of shape {arrays[key].shape}, or not finite (expected {shape}).")
    return arrays


def _buffers(run: dict[str, np.ndarray]):
    """Minari's episodes of a run: each ends where a goal is reached, the last where the run does."""
    from minari.data_collector import EpisodeBuffer

    steps = len(run["rewards"])
    ends = sorted({*(np.flatnonzero(run["rewards"] > 0) + 1).tolist(), steps})
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        states, goal = run["observations"][start : end + 1], run["goals"][start]
        goals = np.tile(goal, (len(states), 1))
        reached = np.concatenate([[0], run["rewards"][start:end]]) > 0
        yield EpisodeBuffer(
            observations={"observation": states, "achieved_goal": states[:, :2], "desired_goal": goals},
            actions=run["actions"][start:end],
            rewards=run["rewards"][start:end],
            terminations=np.zeros(end - start, bool),
            truncations=np.arange(start + 1, end + 1) == end,
            infos={"success": reached, "qpos": states[:, :2], "qvel": states[:, 2:], "goal": goals},
        )


def _references(dataset: DataSet) -> tuple[float, float]:
    """Mean returns of random forces and of the controller without noise, in the continuing task: goals reached in 1000 steps."""
    result = []
    with environment(dataset) as world:
        inner: Any = world.unwrapped
        for expert in (False, True):
            rng, total = np.random.default_rng(0), 0.0
            for seed in range(GOALS):
                seen, _ = world.reset(seed=seed)
                pilot = _Waypoints(inner.maze, rng)
                for _ in range(dataset.steps):
                    state, goal = seen["observation"], np.array(inner.goal)
                    force = pilot.action(state[:2], state[2:], goal) if expert else rng.uniform(-1, 1, 2)
                    seen, reward, *_ = world.step(np.clip(force, -1, 1).astype(np.float32))
                    total += reward
            result.append(total / GOALS)
    return result[0], result[1]


def finish(place: Place, shards: list[Path], work: Path) -> None:
    """Builds the Minari data set from its runs in a folder of `work`, and puts it at `place.folder` whole.

    It is built in a process of its own: where the disk is full, HDF5 does not raise an error but ends the process.
    """
    building = work / "building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    noise = STANDARD[WAYPOINTS] if place.dose is None else place.dose.to_dict()
    about = f"{place.episodes} runs of {place.dataset.steps} steps, seed {place.seed}"
    order = {
        "name": place.name,
        "about": f"{about}, noise {noise['along']:g} along and {noise['across']:g} across the way",
    }
    missing = f"The Minari data set {place.name} could not be written into {place.folder.parent}"
    kept = "The episodes are kept: run the same command to carry on."
    try:
        workers.run(
            __name__,
            order,
            [[str(building.resolve()), [str(path.resolve()) for path in shards]]],
            1,
            lambda steps: None,
        )
    except workers.WorkerDiedError as error:
        raise OSError(f"{missing}; is the disk full? {kept}") from error
    except OSError as error:
        raise OSError(f"{missing} ({(error.strerror or str(error)).rstrip('.')}). {kept}") from error
    _flush(building)
    shutil.rmtree(place.folder, ignore_errors=True)
    os.replace(building, place.folder)


def serve(order: dict, jobs: Iterator, tick: Callable) -> None:
    """What the process does that builds a data set (see `fdbook.data.workers`)."""
    for building, shards in jobs:
        # Minari makes an environment itself, whose file nobody removes
        with tempfile.TemporaryDirectory(dir=Path(building).parent) as tempfile.tempdir:
            _build(tasks.find(order["name"]), order["about"], Path(building), [Path(path) for path in shards])


def _build(dataset: DataSet, about: str, building: Path, shards: list[Path]) -> None:
    """Writes the data set with Minari's own means into a folder of data sets."""
    from gymnasium.envs.registration import EnvSpec
    from minari import create_dataset_from_buffers

    low, high = _references(dataset)
    with environment(dataset) as world, minari.datasets_path(building), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = EnvSpec.from_json(cast("EnvSpec", world.spec).to_json())  # gymnasium's `make` gives it one
        made = create_dataset_from_buffers(
            dataset.name,
            list(_buffers(read(shards[0], dataset))),
            env=spec,
            eval_env=dataset.environment,
            algorithm_name="waypoints, PD controller, noise",
            author="recorded anew by fdbook",
            author_email="none",
            code_permalink="none",
            ref_min_score=low,
            ref_max_score=high,
            description=f"Recorded anew, not the published data: {about}.",
            data_format="hdf5",
        )
        for path in shards[1:]:
            made.update_dataset_from_buffer(list(_buffers(read(path, dataset))))


def _flush(folder):
    """Waits until every file is on disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def check(place: Place) -> bool:
    """Whether the recording at `place` can be read whole. Raises ValueError or OSError when it cannot."""
    return minari.read(tasks.find_task(place.name), place.folder)["rewards"].size > 0

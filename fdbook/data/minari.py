"""D4RL through Minari: its tasks as transitions, the environments to evaluate in, and normalized scores.

Dict observations are flattened as the papers see them (`flatten`). Time-outs and terminations are kept apart: the mask of E16 is
0 where a step terminated and, for the sparse mazes, where it reached the goal, which ended the episode in the old D4RL.
"""

import contextlib
import functools
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdbook.checks import Array, check_rows
from fdbook.data import coverage, downloads, mazes, simulators, sources
from fdbook.data.downloads import CorruptFileError
from fdbook.data.sources import normalized_score
from fdbook.data.tasks import DataSet, Task
from fdbook.rl.arrays import clip_actions, outside
from fdbook.rl.transitions import Transitions


if TYPE_CHECKING:
    import gymnasium
    import minari


__all__ = [
    "D4RL",
    "SOURCE",
    "datasets_folder",
    "datasets_path",
    "download",
    "environment",
    "flatten",
    "locate",
    "normalized_score",
    "open_set",
    "read",
    "robotics",
    "transitions",
]

PATIENCE = 5


@contextlib.contextmanager
def datasets_path(folder: str | Path | None) -> Iterator[None]:
    """Has Minari look for data sets in a folder (None: where it does anyway)."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    if folder is not None:
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop("MINARI_DATASETS_PATH")
            os.environ |= {} if before is None else {"MINARI_DATASETS_PATH": before}


@contextlib.contextmanager
def robotics() -> Iterator[None]:
    """With gymnasium-robotics' environments registered, and without the notices and warnings that it gives for all of them."""
    with simulators.simulating(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import gymnasium
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        yield


def flatten(observation: Mapping[str, Array] | Array, dataset: DataSet) -> np.ndarray:
    """One observation, or several (..., width), as agents see them, in float32.

    AntMaze: place (2) and body (27), without the goal, as in the old D4RL. Point maze: place (2), velocity (2) and goal (2),
    because goals change. Adroit: as it is.
    """
    if not isinstance(observation, Mapping):
        return np.asarray(observation, np.float32)
    parts = [observation["observation"]]
    if dataset.family == "antmaze":
        parts.insert(0, observation["achieved_goal"])
    if dataset.goal:
        parts.append(observation["desired_goal"])
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def datasets_folder() -> Path:
    """The folder where Minari keeps data sets: the environment variable MINARI_DATASETS_PATH, else the user's .minari."""
    chosen = os.environ.get("MINARI_DATASETS_PATH")
    return Path(chosen) if chosen else Path.home() / ".minari" / "datasets"


def locate(name: str) -> Path | None:
    """The folder of Minari's data sets, if one of this id is in it and is not empty."""
    folder = datasets_folder()
    return folder if downloads.is_nonempty(folder / name) else None


def download(name: str, *, again: bool = False) -> Path:
    """Downloads the data set of an id through Minari (`again`: where the one that is there is damaged); the folder of all.

    Raises OSError, within seconds when there is no network, and when what Minari brings is not whole.
    """
    folder = datasets_folder()
    downloads.fetch(folder, [name], _get, _check_whole, what=name, again=again)
    return folder


def _get(aside, wanted):
    """Has Minari download a data set, and those that it is made of, into a folder."""
    import minari
    from huggingface_hub import constants, get_session

    try:  # the download itself would try again and again, for half a minute
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:
        raise OSError(f"no network: {type(error).__name__}") from error
    for name in wanted:
        try:
            with datasets_path(aside):
                minari.download_dataset(name)
        except Exception as error:
            about_files = downloads.is_nonempty(aside / name) or str(aside) in str(error)
            if isinstance(error, OSError) or not isinstance(error, ValueError) or not about_files:
                raise OSError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    for path in sorted(aside.glob("*/**/namespace_metadata.json")):  # Minari's notes on a group of data sets
        kept = aside.parent / path.relative_to(aside)
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, kept)
    return [path.parents[1].relative_to(aside).as_posix() for path in sorted(aside.rglob("data/metadata.json"))]


def _check_whole(folder: Path, name: str) -> None:
    """Reads every array of a data set. Raises `CorruptFileError` unless it has the episodes and steps that were promised."""
    import h5py

    def read_all(_, item):  # with a result, h5py would stop there
        if isinstance(item, h5py.Dataset):
            item[()]

    data, where = open_set(name, folder), folder / name
    path = Path(data.storage.data_path) / "main_data.hdf5"
    try:
        if path.exists():
            with h5py.File(path, "r") as file:
                file.visititems(read_all)
                steps = [len(file[f"episode_{index}/rewards"]) for index in data.episode_indices]
        else:
            steps = [len(episode.rewards) for episode in data.iterate_episodes()]
    except Exception as error:  # what damage raises depends on where it is
        raise CorruptFileError(f"{where} is damaged: {type(error).__name__} on reading its episodes.", where) from error
    if (len(steps), sum(steps)) != (data.total_episodes, data.total_steps):
        raise CorruptFileError(f"{where} holds {sum(steps)} steps (its metadata promise {data.total_steps}).", where)


def open_set(name: str, folder: str | Path | None = None) -> "minari.MinariDataset":
    """Minari's own object for the data set of an id, in a folder of data sets (None: where Minari looks).

    Raises FileNotFoundError when it is not there; `CorruptFileError`, a ValueError, when it cannot be opened.
    """
    import minari

    folder = datasets_folder() if folder is None else Path(folder)
    if not (folder / name).exists():  # Minari would make the folder
        raise FileNotFoundError(f"There is no Minari data set {name} in {folder}.")
    with datasets_path(folder):
        try:
            return minari.load_dataset(name)
        except Exception as error:  # what damage raises depends on where it is
            raise CorruptFileError(f"{folder / name} is damaged or is not a Minari data set.", folder / name) from error


def read(task: Task, folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of a data set, in the compact layout of `fdbook.rl.transitions`.

    observations (rows, width), actions (rows, action), rewards, masks and ends (rows,): whole episodes one after the other. The
    last row of an episode holds its last observation, and zeros. Numbers are rounded to float32, as the papers do with these data
    (most are published in float64), and actions that any rounding took out of [-1, 1] are clipped. A point maze's first row that
    holds the goal of the episode before (`mazes.has_stale_goal`) is given its own, with a warning. `folder` holds Minari's sets.
    Rewards have `task.reward_shift` added. Raises FileNotFoundError when the data set is not there; ValueError, naming it, when
    it is damaged or does not fit the task.
    """
    arrays, stale = _read(task, folder)
    path = (datasets_folder() if folder is None else Path(folder)) / task.dataset.name
    mazes.warn_of_stale_goals(stale, int(arrays["ends"].sum()), str(path))
    return arrays | {"actions": clip_actions(arrays["actions"], str(path))}


def _read(task, folder):
    """The arrays of a data set, actions as they are, and the number of episodes whose first row was given another goal."""
    dataset, path = task.dataset, (datasets_folder() if folder is None else Path(folder)) / task.dataset.name
    data, where, stale = open_set(dataset.name, folder), str(path), 0
    width, action = dataset.observation[0], dataset.action
    try:
        rows = int(data.total_steps) + int(data.total_episodes)
        arrays = {"observations": np.zeros((rows, width), np.float32), "actions": np.zeros((rows, action), np.float32)}
        arrays |= {key: np.zeros(rows, np.float32) for key in ("rewards", "masks")} | {"ends": np.zeros(rows, bool)}
        row = whole = 0
        for episode in _episodes(data, dataset):
            first, row = row, _fill(arrays, row, episode, task, where)
            whole += len(episode.rewards) + 1
            seen = arrays["observations"][first:row]
            if dataset.goal and mazes.has_stale_goal(seen[:, -2:], seen[:, :2]):
                seen[0, -2:] = seen[1, -2:]
                stale += 1
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # what damage raises depends on where it is
        raise CorruptFileError(f"{where} is damaged: {type(error).__name__} on reading its episodes.", path) from error
    if whole != rows or not rows:
        raise CorruptFileError(f"{where} holds {whole} observations (its metadata promise {rows}).", path)
    arrays = {key: values[:row] for key, values in arrays.items()}
    check_rows(arrays["observations"], "observations", where)
    check_rows(arrays["rewards"], "rewards", where)
    return arrays, stale


class _Episode(NamedTuple):
    """What is needed of an episode of Minari."""

    id: int
    observations: Mapping[str, np.ndarray] | np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray


def _episodes(data, dataset: DataSet) -> Iterator:
    """Minari's episodes; those of an HDF5 file without their infos, which would take most of the time."""
    import gymnasium
    import h5py

    path = Path(data.storage.data_path) / "main_data.hdf5"
    if not path.exists():
        yield from data.iterate_episodes()
        return
    flat = not isinstance(data.observation_space, gymnasium.spaces.Dict)
    parts = ["observation", *(["achieved_goal"] * (dataset.family == "antmaze")), *(["desired_goal"] * dataset.goal)]
    with h5py.File(path, "r") as file:

        def array(name):
            stored = h5py.h5d.open(file.id, name.encode())
            values = np.empty(stored.shape, stored.dtype)
            if values.size:
                stored.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
            return values

        for index in data.episode_indices:
            of, seen = f"episode_{index}", f"episode_{index}/observations"
            observations = array(seen) if flat else {part: array(f"{seen}/{part}") for part in parts}
            rest = (array(f"{of}/{key}") for key in ("actions", "rewards", "terminations"))
            yield _Episode(int(index), observations, *rest)


def _fill(arrays, row, episode, task, where):
    """Copies one episode to the rows from `row` on; returns the row after it."""
    steps, (width,), action = len(episode.rewards), task.dataset.observation, task.dataset.action
    seen = flatten(episode.observations, task.dataset)
    for what, got, wanted in (
        ("observations", seen, (steps + 1, width)),
        ("actions", episode.actions, (steps, action)),
    ):
        if np.shape(got) != wanted:
            raise ValueError(f"{where}, episode {episode.id}, has {what} of shape {np.shape(got)} (expected {wanted}).")
    if row + steps >= len(arrays["ends"]):
        raise CorruptFileError(f"{where} holds more steps than its metadata promise.", Path(where))
    over, rewards = np.asarray(episode.terminations, bool), np.asarray(episode.rewards)
    if task.success_ends:
        over = over | (rewards >= 1)
    if not task.after_goal:
        steps = mazes.steps_until_goal(rewards)
    arrays["observations"][row : row + steps + 1] = seen[: steps + 1]
    arrays["actions"][row : row + steps] = episode.actions[:steps]
    arrays["rewards"][row : row + steps] = rewards[:steps] + task.reward_shift
    arrays["masks"][row : row + steps] = ~over[:steps]
    arrays["ends"][row + steps] = True
    return row + steps + 1


def transitions(task: Task, folder: str | Path | None = None) -> tuple[Transitions, None]:
    """A task's transitions, through Minari, and None: D4RL has no validation data. Raises what `read` does.

    Warns when the task has a goal that no transition reaches.
    """
    arrays = read(task, folder)
    where = str((Path(folder) if folder is not None else Path()) / task.dataset.name)
    made = Transitions.of(**arrays, padded=True, where=where)
    reached = arrays["rewards"][~arrays["ends"]] - task.reward_shift
    if task.parts and not np.any(reached >= 1):
        warnings.warn(
            f"None of the {made.size} transitions of {where} reaches a goal: a critic sees no success.", stacklevel=2
        )
    return made, None


def environment(task: Task, folder: str | Path | None = None, *, render_mode: str | None = None) -> "gymnasium.Env":
    """The environment to evaluate in, with flat observations: from the data set's own specification if it is there.

    Mazes end when the goal is reached, as in the old D4RL, whose return was then 0 or 1. Where the data were recorded within
    other walls than those of the evaluation, `mazes.walls_of_the_data` decides.
    """
    import gymnasium

    options = {"max_episode_steps": task.horizon} | ({"continuing_task": False} if task.parts else {})
    options |= {"render_mode": render_mode} if render_mode else {}
    with robotics():
        data = None if folder is None and locate(task.dataset.name) is None else open_set(task.dataset.name, folder)
    if data is not None:
        options |= mazes.walls_of_the_data(task, *(_maze(data, spec) for spec in ("env_spec", "eval_env_spec")))
    with robotics():
        make = functools.partial(gymnasium.make, task.environment)
        made = (make if data is None else functools.partial(data.recover_environment, eval_env=True))(**options)
    space = gymnasium.spaces.Box(-np.inf, np.inf, task.dataset.observation, np.float32)
    return gymnasium.wrappers.TransformObservation(
        simulators.tidy(made), lambda seen: flatten(seen, task.dataset), space
    )


def _maze(data, spec):
    """The map in a specification of Gymnasium's in a set's metadata; None where there is none."""
    told = data.storage.metadata.get(spec)
    return None if told is None else json.loads(told).get("kwargs", {}).get("maze_map")


class D4RL(sources.Source):
    """D4RL's data sets as Minari has them; they have no validation data."""

    def locate(self, dataset: DataSet) -> Path | None:
        """As the function `locate`."""
        return locate(dataset.name)

    def download(self, dataset: DataSet, *, again: bool = False) -> Path:
        """As the function `download`."""
        return download(dataset.name, again=again)

    def transitions(self, task: Task, folder: str | Path | None = None) -> tuple[Transitions, None]:
        """As the function `transitions`."""
        return transitions(task, folder)

    def environment(
        self, task: Task, folder: str | Path | None = None, *, render_mode: str | None = None
    ) -> "gymnasium.Env":
        """As the function `environment`."""
        return environment(task, folder, render_mode=render_mode)

    def contents(self, tasks: Sequence[Task], folder: str | Path | None = None) -> sources.Contents:
        """What is in the data set, with the returns as recorded."""
        (task,), folder = tasks, Path(folder or ".")
        arrays, stale = _read(task, folder)
        clipped = outside(arrays["actions"])
        arrays["actions"] = clip_actions(arrays["actions"], str(folder / task.dataset.name))
        ends = arrays["ends"]
        used, episode = ~ends, np.cumsum(ends) - ends
        recorded = arrays["rewards"][used] - task.reward_shift
        places = task.dataset.family != "adroit"
        after = 0
        if task.parts:
            lengths = np.bincount(episode[used])
            after = sum(
                len(part) - mazes.steps_until_goal(part) for part in np.split(recorded, np.cumsum(lengths)[:-1])
            )
        return sources.Contents(
            observations=arrays["observations"],
            actions=arrays["actions"],
            ends=ends,
            used=used,
            rewards=(arrays["rewards"],),
            returns=np.bincount(episode[used], recorded, minlength=int(ends.sum())),
            coverage=(coverage.plane("places", *arrays["observations"][:, :2].T),) if places else (),
            bytes=sum(path.stat().st_size for path in (folder / task.dataset.name).rglob("*") if path.is_file()),
            clipped=clipped,
            stale_goals=stale,
            after_goal=after,
        )


SOURCE = D4RL()

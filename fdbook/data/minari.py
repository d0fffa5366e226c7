"""D4RL through Minari: its tasks as transitions, the environments to evaluate in, and normalized scores.

Dict observations are flattened as the papers see them (`flatten`). Time-outs and terminations are kept apart: the mask of E16 is
0 where a step terminated and, for the sparse mazes, where it reached the goal, which ended the episode in the old D4RL.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fdbook.checks import Array, check_rows
from fdbook.data import coverage, simulators, sources
from fdbook.data.sources import normalized_score
from fdbook.data.tasks import DataSet, Task
from fdbook.rl.arrays import clip_actions
from fdbook.rl.transitions import Transitions


__all__ = [
    "D4RL",
    "SOURCE",
    "datasets_folder",
    "datasets_path",
    "download",
    "download_id",
    "environment",
    "flatten",
    "locate",
    "normalized_score",
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


def locate(dataset: DataSet) -> Path | None:
    """The folder of Minari's data sets, if this one is in it."""
    folder = datasets_folder()
    return folder if (folder / dataset.name / "data").is_dir() else None


def download(dataset: DataSet) -> Path:
    """Downloads the published data set through Minari. Raises OSError, within seconds, when there is no network."""
    return download_id(dataset.name)


def download_id(name: str) -> Path:
    """Downloads the data set of an id through Minari, and returns the folder of all. Raises OSError as `download` does."""
    import minari
    from huggingface_hub import constants, get_session

    try:  # the download itself would try again and again, for half a minute
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:
        raise OSError(f"no network: {type(error).__name__}") from error
    try:
        minari.download_dataset(name)
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    if not (datasets_folder() / name / "data").is_dir():
        raise OSError("Minari downloaded it, and it is not where Minari keeps its data sets")
    return datasets_folder()


def _open(task, folder):
    """Minari's own object for a data set, read from a folder of data sets."""
    import minari

    where = (Path(folder) if folder is not None else Path()) / task.dataset.name
    if folder is not None and not where.exists():  # Minari would make the folder
        raise FileNotFoundError(f"There is no Minari data set {task.dataset.name} in {folder}.")
    with datasets_path(folder):
        try:
            return minari.load_dataset(task.dataset.name)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"There is no Minari data set {task.dataset.name} in {folder}.") from error
        except Exception as error:  # what damage raises depends on where it is
            raise ValueError(f"{where} is damaged or is not a Minari data set.") from error


def read(task: Task, folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of a data set, in the compact layout of `fdbook.rl.transitions`.

    observations (rows, width), actions (rows, action), rewards, masks and ends (rows,): whole episodes one after the other. The
    last row of an episode holds its last observation, and zeros. Numbers are rounded to float32, as the papers do with these data
    (most are published in float64), and actions that any rounding took out of [-1, 1] are clipped. `folder` holds Minari's data
    sets. Rewards have `task.reward_shift` added. Raises FileNotFoundError when the data set is not there; ValueError, naming it,
    when it is damaged or does not fit the task.
    """
    data, dataset = _open(task, folder), task.dataset
    where = str((Path(folder) if folder is not None else Path()) / dataset.name)
    width, action = dataset.observation[0], dataset.action
    try:
        rows = int(data.total_steps) + int(data.total_episodes)
        arrays = {"observations": np.zeros((rows, width), np.float32), "actions": np.zeros((rows, action), np.float32)}
        arrays |= {key: np.zeros(rows, np.float32) for key in ("rewards", "masks")} | {"ends": np.zeros(rows, bool)}
        row = 0
        for episode in _episodes(data, dataset):
            row = _fill(arrays, row, episode, task, where)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # what damage raises depends on where it is
        raise ValueError(f"{where} is damaged: {type(error).__name__} on reading its episodes.") from error
    if row != rows or not rows:
        raise ValueError(f"{where} holds {row} observations (its metadata promise {rows}).")
    check_rows(arrays["observations"], "observations", where)
    check_rows(arrays["rewards"], "rewards", where)
    return arrays | {"actions": clip_actions(arrays["actions"], where)}


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
        raise ValueError(f"{where} holds more steps than its metadata promise.")
    over = np.asarray(episode.terminations, bool)
    if task.success_ends:
        over = over | (np.asarray(episode.rewards) >= 1)
    arrays["observations"][row : row + steps + 1] = seen
    arrays["actions"][row : row + steps] = episode.actions
    arrays["rewards"][row : row + steps] = np.asarray(episode.rewards) + task.reward_shift
    arrays["masks"][row : row + steps] = ~over
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


def environment(task: Task, folder: str | Path | None = None, *, render_mode: str | None = None):
    """The environment to evaluate in, with flat observations: from the data set's own specification if it is there.

    Mazes end when the goal is reached, as in the old D4RL, whose return was then 0 or 1.
    """
    import gymnasium

    options = {"max_episode_steps": task.horizon} | ({"continuing_task": False} if task.parts else {})
    options |= {"render_mode": render_mode} if render_mode else {}
    with robotics():
        if folder is None and locate(task.dataset) is None:
            made = gymnasium.make(task.environment, **options)
        else:
            made = _open(task, folder).recover_environment(eval_env=True, **options)
    space = gymnasium.spaces.Box(-np.inf, np.inf, task.dataset.observation, np.float32)
    return gymnasium.wrappers.TransformObservation(
        simulators.tidy(made), lambda seen: flatten(seen, task.dataset), space
    )


class D4RL(sources.Source):
    """D4RL's data sets as Minari has them; they have no validation data."""

    def locate(self, dataset):
        """As the function `locate`."""
        return locate(dataset)

    def download(self, dataset):
        """As the function `download`."""
        return download(dataset)

    def transitions(self, task, folder=None):
        """As the function `transitions`."""
        return transitions(task, folder)

    def environment(self, task, folder=None, *, render_mode=None):
        """As the function `environment`."""
        return environment(task, folder, render_mode=render_mode)

    def contents(self, tasks, folder=None):
        """What is in the data set, with the returns as recorded."""
        (task,), folder = tasks, Path(folder or ".")
        arrays = read(task, folder)
        ends = arrays["ends"]
        used, episode = ~ends, np.cumsum(ends) - ends
        recorded = arrays["rewards"][used] - task.reward_shift
        places = task.dataset.family != "adroit"
        return sources.Contents(
            observations=arrays["observations"],
            actions=arrays["actions"],
            ends=ends,
            used=used,
            rewards=(arrays["rewards"],),
            returns=np.bincount(episode[used], recorded, minlength=int(ends.sum())),
            coverage=(coverage.plane("places", *arrays["observations"][:, :2].T),) if places else (),
            bytes=sum(path.stat().st_size for path in (folder / task.dataset.name).rglob("*") if path.is_file()),
        )


SOURCE = D4RL()

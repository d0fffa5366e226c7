"""OGBench: its tasks as transitions with its own rewards, the environments to evaluate in, recordings as arrays, and mazes."""

import contextlib
import dataclasses
import functools
import http.client
import socket
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from fdbook.data import coverage, downloads, simulators, sources, tasks
from fdbook.data.dose import Dose
from fdbook.data.files import Place, arrays_of, check_headers, from_npz, read
from fdbook.data.tasks import DataSet, Task
from fdbook.data.walls import Distances, MazeLayout, shortest_ways
from fdbook.rl.arrays import outside
from fdbook.rl.transitions import Transitions


if TYPE_CHECKING:
    import gymnasium


__all__ = [
    "SOURCE",
    "OGBench",
    "Recording",
    "Split",
    "environment",
    "label",
    "load",
    "load_or_record",
    "maze_layout",
    "repeatable",
    "rewards",
    "transitions",
]

PATIENCE = 20
"""Seconds without an answer after which a download is given up."""
POINT_STEP = 0.2
"""How far an action of length 1 takes the robot of a point maze."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of whole episodes, one after the other; actions lie in [-1, 1]. The arrays cannot be written to."""

    observations: Float32[np.ndarray, "n observation"]
    actions: Float32[np.ndarray, "n action"]
    terminals: Bool[np.ndarray, " n"]

    def __post_init__(self):
        for array in (self.observations, self.actions, self.terminals):
            array.flags.writeable = False

    @property
    def ends(self) -> Int[np.ndarray, " episodes"]:
        """The last row of each episode."""
        return np.flatnonzero(self.terminals)

    @property
    def starts(self) -> Int[np.ndarray, " episodes"]:
        """The first row of each episode."""
        return np.concatenate([[0], self.ends[:-1] + 1])


@dataclasses.dataclass(frozen=True)
class Recording:
    """A data set in memory, with the folder that it was read from."""

    name: str
    folder: Path
    train: Split
    validation: Split


def load(
    name: str,
    *,
    episodes: int,
    seed: int = 0,
    dose: Dose | Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
) -> Recording:
    """A recording of `episodes` training episodes and a dose; `folder` stands in for the folder that holds every recording.

    Raises FileNotFoundError, with the command that records it, when there is none; ValueError when a file is damaged.
    """
    place = Place(name, episodes, seed, folder, dose)
    try:
        return Recording(place.name, place.folder, **{split: _split(place, split) for split in place.files})
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = f"There is no recording of {name} with {episodes} episodes and seed {seed} in {place.folder}"
        raise FileNotFoundError(f"{missing}; `{place.command}` records it.") from error


def _split(place, split):
    try:
        arrays = read(place.files[split], place.dataset, place.sizes[split])
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')}; `{place.command}` records it anew.") from error
    return Split(*(arrays[field.name] for field in dataclasses.fields(Split)))


def load_or_record(
    name: str,
    *,
    episodes: int,
    seed: int = 0,
    dose: Dose | Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Recording:
    """`load`, after recording what is missing or damaged with `fdbook.data.record.record`, whose errors it raises."""
    from fdbook.data.record import record

    try:
        return load(name, episodes=episodes, seed=seed, dose=dose, folder=folder)
    except (FileNotFoundError, ValueError):
        record(name, episodes=episodes, seed=seed, dose=dose, folder=folder, progress=progress)
        return load(name, episodes=episodes, seed=seed, dose=dose, folder=folder)


@functools.cache
def maze_layout(name: str) -> MazeLayout:
    """The maze of a data set, asked from its environment. Raises ValueError for a data set that has none."""
    from fdbook.data import controllers

    dataset = tasks.find(name)
    if dataset.controller != "maze":
        mazes = ", ".join(other.name for other in tasks.DATASETS.values() if other.controller == "maze")
        raise ValueError(f"The data set {name} has no maze; these have one: {mazes}.")
    with controllers.environment(dataset) as environment:
        maze: Any = environment.unwrapped
        origin, across = (np.asarray(maze.ij_to_xy(cell), float) for cell in ((0, 0), (0, 1)))
        walls = maze.maze_map == 1
    return MazeLayout(walls, float(across[0] - origin[0]), (float(origin[0]), float(origin[1])))


def environment(task: Task, render_mode: str | None = None) -> "gymnasium.Env":
    """The environment to evaluate in: its observations have shape and dtype of those of `transitions` (pictures are stacked).

    `reset(seed=...)` fixes an episode: OGBench's mazes draw their starts and goals from NumPy's global generator, which is seeded
    for the reset and put back. Pictures are rendered, as `fdbook.data.simulators.prepare_pictures` has prepared it.
    """
    import gymnasium

    environment = repeatable(
        _plain_environment(task.environment, **({"render_mode": render_mode} if render_mode else {}))
    )
    with simulators.simulating():
        if not task.dataset.pixels:
            return gymnasium.wrappers.DtypeObservation(environment, np.float32)
        height, width, channels = task.dataset.observation
        space = gymnasium.spaces.Box(0, 255, (height, width, channels * task.frame_stack), np.uint8)
        stacked = gymnasium.wrappers.FrameStackObservation(environment, task.frame_stack, padding_type="reset")
        return gymnasium.wrappers.TransformObservation(
            stacked, lambda frames: np.moveaxis(frames, 0, -2).reshape(space.shape), space
        )


def repeatable(environment: simulators.World) -> simulators.World:
    """The environment; one of OGBench's mazes with resets that depend on their seed alone."""
    world: Any = environment
    if hasattr(world.unwrapped, "maze_map"):
        plain = world.reset
        world.reset = lambda *, seed=None, options=None: _seeded(plain, seed, options)
    return environment


def _anywhere(environment):
    """A maze whose resets put the robot into a free cell that their seed draws, as far off its center as the task does."""
    plain, maze = environment.reset, environment.unwrapped
    free = np.argwhere(np.asarray(maze.maze_map) == 0)

    def reset(*, seed=None, options=None):
        observation, info = plain(seed=seed, options=options)
        generator = np.random.default_rng(seed)
        cells = free[np.any(free != np.array(maze.cur_task_info["goal_ij"]), axis=1)]
        center = np.array(maze.ij_to_xy(tuple(cells[generator.integers(len(cells))])), float)
        maze.set_xy(center + generator.uniform(-1, 1, 2) * maze._noise * maze._maze_unit / 4)
        return np.asarray(maze.get_ob(), observation.dtype), info

    environment.reset = reset
    return environment


def _seeded(reset, seed, options):
    """A reset whose draws from NumPy's global generator depend on the seed alone."""
    if seed is None:
        return reset(options=options)
    before = np.random.get_state()  # noqa: NPY002 (the generator that OGBench's mazes use)
    np.random.seed(seed)  # noqa: NPY002
    try:
        return reset(seed=seed, options=options)
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _plain_environment(name, **options):
    """The environment of that id."""
    import gymnasium

    simulators.import_ogbench()
    with simulators.simulating():
        return simulators.tidy(gymnasium.make(name, **options))


def transitions(task: Task, folder: str | Path) -> tuple[Transitions, Transitions | None]:
    """A task's training and validation transitions, with rewards and masks as OGBench itself labels them.

    `folder` holds the files, as OGBench names them; without the one of validation, that is None. What OGBench's own loader casts
    is cast (`fdbook.data.files.read`), and episodes may have any lengths. Warns when no training transition reaches the goal.
    Raises ValueError, naming the file, on damage and on what does not fit the task; FileNotFoundError when there are no training
    data.
    """
    paths = [Path(folder).expanduser() / name for name in _names(task.dataset)]
    if not paths[0].exists():
        raise FileNotFoundError(f"There is no file {paths[0]}, where the data of {task.name} should be.")
    paths = [path for path in paths if path.exists()]
    for path in paths:
        check_headers(path, task.dataset, _judged(task))
    train, *validation = (_transitions(task, path) for path in paths)
    if np.all(train.masks == 1):
        warnings.warn(_no_success(task, train.size, paths[0]), stacklevel=2)
    return train, validation[0] if validation else None


def _judged(task) -> tuple[str, ...]:
    """The arrays of the simulator's state that OGBench's rewards of a task read."""
    if task.dataset.family == "puzzle":
        return ("button_states",)
    return ("qpos", "button_states") if task.dataset.family == "scene" else ("qpos",)


def _transitions(task, path):
    arrays = read(path, task.dataset, needed=_judged(task))
    labels, masks = _labels(task, arrays)
    observations, actions, ends = (arrays.pop(key) for key in ("observations", "actions", "terminals"))
    options = {"frame_stack": task.frame_stack, "where": str(path)}
    return Transitions.of(observations, actions, labels, masks, ends, **options)


def _no_success(task, size, path):
    return (
        f"None of the {size} transitions in {path} reaches the goal of {task.name}: a critic sees no success there, and no "
        "policy learned from them can be expected to reach it; record more episodes, or take another task."
    )


def rewards(task: Task, arrays: dict[str, np.ndarray]) -> Float32[np.ndarray, " n"]:
    """The reward of each row of an OGBench file under a task, as OGBench itself labels it, from `qpos` and `button_states`."""
    return _labels(task, arrays)[0]


def _labels(task, arrays):
    """Rewards and masks of the rows of an OGBench file under a task."""
    states = task.environment.removeprefix("visual-")  # the rewards depend on the state: nothing need be rendered
    with simulators.simulating(), _plain_environment(states) as judge:
        return label(states, judge, arrays)


def label(name: str, environment: Any, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and masks (n,) of rows as OGBench labels them in a single-task environment of that id (of states).

    They judge the state before a step, as its environments of single tasks do since version 1.2 (`success_timing="pre"`): a goal
    is rewarded with the step that follows, and one that the last transition of an episode reaches, never.
    """
    simulators.import_ogbench()
    from ogbench.relabel_utils import relabel_dataset

    labeled = {key: arrays[key] for key in ("qpos", "button_states") if key in arrays}
    relabel_dataset(name, environment, labeled)
    return labeled["rewards"], labeled["masks"]


def _published() -> Path:
    """The folder where OGBench keeps its data sets."""
    simulators.import_ogbench()
    from ogbench.utils import DEFAULT_DATASET_DIR

    return Path(DEFAULT_DATASET_DIR).expanduser()


def _names(dataset) -> tuple[str, str]:
    """The files of a published data set."""
    return f"{dataset.stem}.npz", f"{dataset.stem}-val.npz"


def _get(dataset, aside, wanted):
    """Has OGBench download some of a data set's two files into a folder."""
    from ogbench.utils import download_datasets

    have = [path for name in _names(dataset) if name not in wanted and not (path := aside / name).exists()]
    for path in have:  # OGBench downloads what does not exist
        path.touch()
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        download_datasets([dataset.stem], str(aside))
    except http.client.HTTPException as error:
        raise OSError(f"the server broke off: {type(error).__name__}") from error
    finally:
        socket.setdefaulttimeout(patience)
        for path in have:
            path.unlink()
    return wanted


def _check_whole(folder: Path, name: str) -> None:
    """Reads every byte of an npz file. Raises `CorruptFileError` unless the checksums in it are right."""
    path = folder / name
    if from_npz(path, lambda archive: archive.zip.testzip()) is not None:
        raise downloads.CorruptFileError(f"{path} is damaged", path)


class OGBench(sources.Source):
    """OGBench's data sets, in the files and with the loader, rewards and environments of the package `ogbench`."""

    def locate(self, dataset: DataSet) -> Path | None:
        """The folder where OGBench keeps its data sets, if both of this one's files are in it."""
        folder = _published()
        return folder if all(downloads.is_nonempty(folder / name) for name in _names(dataset)) else None

    def download(self, dataset: DataSet, *, again: bool = False) -> Path:
        """Downloads the files that are not there with OGBench's own means. Raises OSError when that cannot be done."""
        folder, get = _published(), functools.partial(_get, dataset)
        downloads.fetch(folder, _names(dataset), get, _check_whole, what=dataset.stem, again=again)
        return folder

    def transitions(self, task: Task, folder: str | Path | None = None) -> tuple[Transitions, Transitions | None]:
        """As the function `transitions`; without a folder, of the published data."""
        return transitions(task, self.locate(task.dataset) or ".") if folder is None else transitions(task, folder)

    def environment(
        self, task: Task, folder: str | Path | None = None, *, render_mode: str | None = None
    ) -> "gymnasium.Env":
        """As the function `environment`, which needs no data."""
        return environment(task, render_mode)

    def start_anywhere(self, task: Task, environment: "gymnasium.Env") -> "gymnasium.Env":
        """The environment of a maze whose episodes start anywhere but in the goal's own cell."""
        if task.dataset.family != "maze" or task.dataset.pixels or "soccer" in task.dataset.name:
            return super().start_anywhere(task, environment)
        return _anywhere(environment)

    def shortest_ways(self, task: Task) -> Distances:
        """Those of a point maze, from its walls and the goal of the task."""
        if task.dataset.controller != "maze":
            return super().shortest_ways(task)
        with contextlib.closing(environment(task)) as made:
            made.reset(seed=0)
            maze: Any = made.unwrapped
            goal, radius = maze.ij_to_xy(maze.cur_task_info["goal_ij"]), maze.model.geom("pointbody").size[0]
        return shortest_ways(maze_layout(task.dataset.name), goal, radius=float(radius), step=POINT_STEP)

    def contents(self, tasks: Sequence[Task], folder: str | Path | None = None) -> sources.Contents:
        """What is in the training file, with what each task rewards."""
        dataset = tasks[0].dataset
        paths = [Path(folder or ".") / name for name in _names(dataset)]
        arrays = read(paths[0], dataset, needed=_judged(tasks[0]))
        ends = arrays["terminals"]
        if dataset.family == "maze":
            seen = coverage.of_maze(dataset, arrays["qpos"], maze_layout)
        else:
            seen = coverage.of_arm(dataset, arrays)
        return sources.Contents(
            observations=arrays["observations"],
            actions=arrays["actions"],
            ends=ends,
            used=~ends,
            rewards=tuple(rewards(task, arrays) for task in tasks),
            returns=None,
            coverage=seen,
            bytes=sum(path.stat().st_size for path in paths if path.exists()),
            clipped=outside(arrays_of(paths[0], ("actions",))["actions"]),
        )


SOURCE = OGBench()

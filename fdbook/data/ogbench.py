"""OGBench data sets on this machine: where a recording lives, and reading it back with every array checked.

The files are OGBench's own: row i holds the observation before step i and the action taken there; `terminals` is True
on the last row of each episode. The folder of a recording is a `dataset_dir` that OGBench's own loader takes.
"""

import dataclasses
import functools
import os
import shlex
from pathlib import Path

import numpy as np
import platformdirs
from jaxtyping import Bool, Float32, Int

from fdbook.data import tasks


__all__ = ["MazeLayout", "Place", "Recording", "Split", "load", "load_or_record", "maze_layout", "read", "root"]


def root() -> Path:
    """The folder that holds every recording: the environment variable FDBOOK_DATA, else the user's data folder."""
    chosen = os.environ.get("FDBOOK_DATA") or platformdirs.user_data_dir("fdbook", appauthor=False)
    return Path(chosen).expanduser()


@dataclasses.dataclass(frozen=True)
class Place:
    """The recording of `episodes` training episodes (at least 1) with a seed (at least 0), and where it lives.

    `base` stands in for `root()`. The number of episodes and the seed are in the path: a small set never passes for the
    standard one. Raises ValueError on an unknown name and on a number out of range.
    """

    name: str
    episodes: int
    seed: int = 0
    base: str | Path | None = None

    def __post_init__(self):
        tasks.find(self.name)
        for what, value, low in (("number of episodes", self.episodes, 1), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"A recording takes a {what} that is a whole number of at least {low}; got {value!r}.")

    @property
    def dataset(self) -> tasks.DataSet:
        """What an episode looks like."""
        return tasks.find(self.name)

    @property
    def folder(self) -> Path:
        """The folder of its files, and of nothing else."""
        base = root() if self.base is None else Path(self.base).expanduser()
        return base / self.name / f"{self.episodes}-episodes-seed-{self.seed}"

    @property
    def files(self) -> dict[str, Path]:
        """The file of each split."""
        stem = self.dataset.stem
        return {"train": self.folder / f"{stem}.npz", "validation": self.folder / f"{stem}-val.npz"}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of episodes of each split: for validation a tenth of those for training, and at least one."""
        return {"train": self.episodes, "validation": max(1, self.episodes // 10)}

    @property
    def command(self) -> str:
        """What a reader types to record it."""
        seed = f" --seed {self.seed}" if self.seed else ""
        base = "" if self.base is None else f" --folder {shlex.quote(str(self.base))}"
        return f"fdbook data record {self.name} --episodes {self.episodes}{seed}{base}"


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


def _arrays(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an npz file, read whole; ValueError when it is damaged or one is missing."""
    with open(path, "rb") as file:
        try:
            with np.load(file) as archive:
                arrays = {key: archive[key] for key in keys if key in archive}
        except Exception as error:  # what a damaged file raises depends on where the damage is
            raise ValueError(f"{path} is damaged or is not an npz file") from error
    for key in keys:
        if key not in arrays:
            raise ValueError(f"{path} has no array {key!r} (expected {', '.join(keys)})")
    return arrays


def _check(path: Path, arrays: dict[str, np.ndarray], dataset: tasks.DataSet, episodes: int) -> None:
    """Refuses arrays that are not `episodes` whole episodes of the data set."""
    rows = episodes * dataset.steps
    expected = {key: ((rows, width), np.dtype(np.float32)) for key, width in dataset.widths.items()}
    for key, (shape, dtype) in (expected | {"terminals": ((rows,), np.dtype(bool))}).items():
        got = arrays[key]
        if (got.shape, got.dtype) != (shape, dtype):
            raise ValueError(f"{path} has {key} of shape {got.shape} and {got.dtype} (expected {shape} and {dtype})")
    for key in dataset.widths:
        bad = np.flatnonzero(~np.isfinite(arrays[key]).all(axis=1))
        if bad.size:
            raise ValueError(f"{path} has NaN or infinite {key} in {bad.size} of {rows} rows, first in row {bad[0]}")
    reach = np.abs(arrays["actions"]).max()
    if reach > 1:
        raise ValueError(f"{path} has an action of magnitude {reach:g} (expected actions within [-1, 1])")
    if not np.array_equal(np.flatnonzero(arrays["terminals"]), np.arange(1, episodes + 1) * dataset.steps - 1):
        raise ValueError(f"{path} has terminals that do not close {episodes} episodes of {dataset.steps} rows each")


def read(path: Path, dataset: tasks.DataSet, episodes: int) -> dict[str, np.ndarray]:
    """The arrays of one file, which holds that many whole episodes of the data set.

    Raises ValueError, naming the file, unless keys, shapes and dtypes are right, every value is finite, actions lie in
    [-1, 1] and terminals close every episode; OSError when the file is not there or cannot be opened.
    """
    arrays = _arrays(path, (*dataset.widths, "terminals"))
    _check(path, arrays, dataset, episodes)
    return arrays


def load(name: str, *, episodes: int, seed: int = 0, folder: str | Path | None = None) -> Recording:
    """A recording of `episodes` training episodes; `folder` stands in for the folder that holds every recording.

    Raises FileNotFoundError, with the command that records it, when there is none; ValueError when a file is damaged.
    """
    place = Place(name, episodes, seed, folder)
    try:
        return Recording(name, place.folder, **{split: _split(place, split) for split in place.files})
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = f"There is no recording of {name} with {episodes} episodes and seed {seed} in {place.folder}"
        raise FileNotFoundError(f"{missing}; `{place.command}` records it.") from error


def _split(place, split):
    try:
        arrays = read(place.files[split], place.dataset, place.sizes[split])
    except ValueError as error:
        raise ValueError(f"{error}; `{place.command}` records it anew.") from error
    return Split(*(arrays[field.name] for field in dataclasses.fields(Split)))


def load_or_record(
    name: str, *, episodes: int, seed: int = 0, folder: str | Path | None = None, progress: bool = True
) -> Recording:
    """`load`, after recording what is missing or damaged with `fdbook.data.record.record`, whose errors it raises."""
    from fdbook.data.record import record

    try:
        return load(name, episodes=episodes, seed=seed, folder=folder)
    except (FileNotFoundError, ValueError):
        record(name, episodes=episodes, seed=seed, folder=folder, progress=progress)
        return load(name, episodes=episodes, seed=seed, folder=folder)


@dataclasses.dataclass(frozen=True)
class MazeLayout:
    """The walls of a maze on a square grid, in the units of the world (those of the observations).

    `walls[i, j]` is the cell whose centre is (x, y) = `origin` + `cell` * (j, i): rows run along y, columns along x.
    """

    walls: Bool[np.ndarray, "rows columns"]
    cell: float
    origin: tuple[float, float]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge: `imshow(walls, origin="lower", extent=...)` draws the maze in its place."""
        (rows, columns), (x, y), half = self.walls.shape, self.origin, self.cell / 2
        return x - half, x + columns * self.cell - half, y - half, y + rows * self.cell - half


@functools.cache
def maze_layout(name: str) -> MazeLayout:
    """The maze of a data set, asked from its environment. Raises ValueError for a data set that has none."""
    from fdbook.data.record import CONTROLLERS

    dataset = tasks.find(name)
    if dataset.family != "maze":
        mazes = ", ".join(other.name for other in tasks.DATASETS.values() if other.family == "maze")
        raise ValueError(f"The data set {name} has no maze; these have one: {mazes}.")
    with CONTROLLERS["maze"].environment(dataset) as environment:
        maze = environment.unwrapped
        origin, across = (np.asarray(maze.ij_to_xy(cell), float) for cell in ((0, 0), (0, 1)))
        return MazeLayout(maze.maze_map == 1, float(across[0] - origin[0]), (float(origin[0]), float(origin[1])))

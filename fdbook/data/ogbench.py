"""OGBench data sets: recordings read back as arrays, and the mazes behind them."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int

from fdbook.data import tasks
from fdbook.data.files import Place, read


__all__ = ["MazeLayout", "Recording", "Split", "load", "load_or_record", "maze_layout"]


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

"""Where a robot, its hand and the cubes were, in planes of cells: what a summary shows of a data set."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Num

from fdbook.data.sources import Coverage
from fdbook.data.tasks import DataSet


if TYPE_CHECKING:
    from fdbook.data.walls import MazeLayout


__all__ = ["of_arm", "of_maze", "plane"]

BINS = 60
CUBES = {"cube-single": 1, "cube-double": 2, "cube-triple": 3, "cube-quadruple": 4, "scene": 1}
HAND = "hand"


def plane(
    title: str,
    x: Num[np.ndarray, " n"],
    y: Num[np.ndarray, " n"],
    extent: tuple[float, float, float, float] | None = None,
    axes: tuple[str, str] = ("x", "y"),
) -> Coverage:
    """Counts points; the extent is that of the data, unless one is given."""
    low_x, high_x, low_y, high_y = extent or (x.min(), x.max(), y.min(), y.max())
    counts, _, _ = np.histogram2d(y, x, BINS, ((low_y, high_y), (low_x, high_x)))
    return Coverage(title, counts.astype(int), (float(low_x), float(high_x), float(low_y), float(high_y)), axes=axes)


def of_maze(
    dataset: DataSet, qpos: Num[np.ndarray, "n q"], layout: "Callable[[str], MazeLayout]"
) -> tuple[Coverage, ...]:
    """Where the walker was; with the walls, where we can build the maze: `layout(name)` gives it (`ogbench.maze_layout`)."""
    if dataset.controller != "maze":
        return (plane("places", *qpos[:, :2].T),)
    maze = layout(dataset.name)
    return (dataclasses.replace(plane("places", *qpos[:, :2].T, extent=maze.extent), walls=maze.walls),)


def of_arm(dataset: DataSet, arrays: Mapping[str, np.ndarray]) -> tuple[Coverage, ...]:
    """Where the hand and each cube were, seen from above, with the arm's base below: y runs to the right."""
    world = dataset.environment.removeprefix("visual-").removesuffix("-v0")
    cubes = CUBES.get(world, 0)
    places = {
        f"cube {k + 1}" if cubes > 1 else "cube": arrays["qpos"][:, 14 + 7 * k : 16 + 7 * k] for k in range(cubes)
    }
    if not dataset.pixels:  # the hand's place is part of an observation, at ten times the scale and shifted
        places = {HAND: arrays["observations"][:, 12:14] / 10 + np.array([0.425, 0.0], np.float32)} | places
    planes = [plane(title, place[:, 1], place[:, 0], axes=("y", "x")) for title, place in places.items()]
    return tuple(planes)

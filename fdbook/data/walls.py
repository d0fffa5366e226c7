"""The walls of a maze, and how far it is between them to a goal (the geodesic distance): what a perfect critic would know."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.sparse import csgraph

from fdbook.checks import check_range


__all__ = ["Distances", "MazeLayout", "shortest_ways"]

TOUCH = 1e-6
"""How much narrower a wall is when a way is tested against it, so that ways may run along walls."""
CHUNK = 64
"""Points of the grid at a time, at least: all of them at once would fill the memory."""


@dataclasses.dataclass(frozen=True)
class MazeLayout:
    """The walls of a maze on a square grid, in the units of the world (those of the observations).

    `walls[i, j]` is the cell whose center is (x, y) = `origin` + `cell` * (j, i): rows run along y, columns along x.
    """

    walls: Bool[np.ndarray, "rows columns"]
    cell: float
    origin: tuple[float, float]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge: `imshow(walls, origin="lower", extent=...)` draws the maze in its place."""
        (rows, columns), (x, y), half = self.walls.shape, self.origin, self.cell / 2
        return x - half, x + columns * self.cell - half, y - half, y + rows * self.cell - half


class Distances(NamedTuple):
    """The length of the shortest way to a goal from the points of a grid, in the units of the world."""

    values: Float[np.ndarray, "columns rows"]
    """That of the point (x, y) = `origin` + `spacing` * (i, j); where nobody can be, that of the nearest point from which a way
    leads to the goal."""
    origin: tuple[float, float]
    spacing: float
    step: float
    """How far an action of length 1 takes the robot."""


def shortest_ways(
    layout: MazeLayout, goal: tuple[float, float], *, radius: float, step: float, spacing: float = 0.25
) -> Distances:
    """The shortest ways to `goal` between the walls of a maze, of a robot with some `radius` that an action moves by `step`.

    Walls are widened by the radius, and keep sharp corners (a round robot would save up to 0.43 radii at a right angle); a
    shortest way runs straight from corner to corner of them. All lengths are in the units of the world. Raises ValueError if the
    goal lies in a wall or no point of the grid sees it, and for a radius, a step or a spacing that is not above 0.

    >>> maze = walls.MazeLayout(np.eye(3)[1:2] > 0, 2.0, (-2.0, 0.0))  # one wall, 2 wide, around the origin
    >>> made = walls.shortest_ways(maze, (3.0, 0.0), radius=0.5, step=1.0, spacing=1.0)
    >>> [round(float(made.values[i, 1]), 3) for i in (0, 5)]  # from behind the wall, round two corners, and from its front
    [7.243, 1.0]
    """
    for name, value in (("a radius", radius), ("a step", step), ("a spacing", spacing)):
        check_range(value, name, "shortest_ways", open_low=True)
    cells, half = np.argwhere(layout.walls)[:, ::-1], layout.cell / 2 + radius
    walls, target = np.asarray(layout.origin) + layout.cell * cells, np.asarray(goal, float)
    if not (np.all(np.isfinite(target)) and _free(target[None], walls, half)[0]):
        raise ValueError(f"A goal lies in no wall, nor nearer to one than the robot's radius, {radius:g}; got {goal}.")
    corners = (walls[:, None] + half * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])).reshape(-1, 2)
    turns = np.concatenate([target[None], np.unique(corners[_free(corners, walls, half)].round(9), axis=0)])
    lengths = csgraph.dijkstra(_straight(turns, turns, walls, half), indices=0)
    left, right, bottom, top = layout.extent
    axes = [np.arange(low, high + spacing / 2, spacing) for low, high in ((left, right), (bottom, top))]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    values, free = np.full(len(points), np.inf), np.flatnonzero(_free(points, walls, half))
    for chunk in np.array_split(free, max(1, len(free) // CHUNK)):
        values[chunk] = np.min(_straight(points[chunk], turns, walls, half) + lengths, axis=1)
    if not np.any(np.isfinite(values)):
        raise ValueError(f"From no point of the maze a way leads to the goal {goal}.")
    grid = values.reshape([len(axis) for axis in axes])
    nearest = ndimage.distance_transform_edt(~np.isfinite(grid), return_distances=False, return_indices=True)
    return Distances(grid[tuple(nearest)], (left, bottom), spacing, step)


def _free(points, walls, half) -> np.ndarray:
    """Which points (n, 2) lie in no wall; the edges of a wall do not belong to it."""
    inside = np.max(np.abs(points[:, None] - walls), axis=-1) < half - TOUCH
    return ~np.any(inside, axis=1)


def _straight(points, others, walls, half) -> np.ndarray:
    """The length (n, m) of the straight way from each point to each of the others; infinite where a wall is in between."""
    start, way = points[:, None, None], (others - points[:, None])[:, :, None]
    # a way along an axis never meets the edges that are parallel to it: it lies between them from end to end, or never
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(walls - start + side * (half - TOUCH)) / way for side in (-1, 1)])
    always = np.where(np.abs(walls - start) < half - TOUCH, np.inf, -np.inf)
    enter = np.where(way == 0, -always, ends.min(axis=0)).max(axis=-1)
    leave = np.where(way == 0, always, ends.max(axis=0)).min(axis=-1)
    blocked = np.any(np.maximum(enter, 0) < np.minimum(leave, 1), axis=-1)
    return np.where(blocked, np.inf, np.linalg.norm(way[:, :, 0], axis=-1))

"""What is peculiar about mazes in Minari's format: goals of the episode before, steps after the goal, two mazes for one set."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fdbook.data.definitions import Task


__all__ = ["has_stale_goal", "steps_until_goal", "walls_of_the_data", "warn_of_stale_goals"]

REACH = 0.45
"""The distance within which gymnasium-robotics counts a maze's goal as reached."""


def has_stale_goal(goals: np.ndarray, places: np.ndarray) -> bool:
    """Whether the first row of an episode holds the goal of the episode before. goals and places (rows, d), of each row.

    It does in D4RL's published point mazes: the environment draws the next goal after it has made the observation in which the
    last one is reached, and the episode that begins there starts with that observation. So the goal changes behind the first row
    and never again, and the first one either is where the robot stands or was not reached in the first step, after which it
    might have changed by right.
    """
    goals, places = np.asarray(goals), np.asarray(places)
    if len(goals) < 2 or np.array_equal(goals[0], goals[1]) or np.any(goals[1:] != goals[1]):
        return False
    near = np.linalg.norm(places[:2] - goals[0], axis=-1) <= REACH
    return bool(near[0] or (len(goals) > 2 and not near[1]))


def warn_of_stale_goals(count: int, episodes: int, where: str) -> None:
    """Warns that the goals in the first rows of `count` episodes were replaced, if there are any."""
    if count:
        warnings.warn(
            f"In {count} of {episodes} episodes of {where} the first row held the goal of the episode before, as in published "
            "point mazes; it was given the goal of the rows behind it.",
            stacklevel=3,
        )


def steps_until_goal(rewards: np.ndarray) -> int:
    """The number of an episode's steps up to the one that first reaches the goal, by recorded rewards (steps,) of 0 and 1.

    Minari's ants stay at the goal, and most of their recorded steps come after it (Minari issue 296).
    """
    reached = np.flatnonzero(np.asarray(rewards) >= 1)
    return int(reached[0]) + 1 if reached.size else len(rewards)


def walls_of_the_data(task: Task, recorded: Sequence | None, evaluated: Sequence | None) -> dict[str, Any]:
    """The `maze_map` to evaluate a task in, where its data were recorded in a maze with other walls than Minari's evaluation has.

    `recorded` and `evaluated` are rows of cells: 1 for a wall; 0, or a letter for starts and goals, for what is free. By
    `task.maze` = "data" the map has the walls of the recording, and the starts and goals of the evaluation; a warning says so.
    Nothing is said of the map where there is nothing to decide. Raises ValueError where a start or a goal would lie in a wall.
    """
    if recorded is None or evaluated is None or _walls(recorded) == _walls(evaluated):
        return {}
    name, differ = task.dataset.name, "has other walls than the maze in which its data were recorded"
    if task.maze == "evaluation":
        warnings.warn(f"{name} is evaluated in a maze that {differ} (Minari issue 304), as was asked.", stacklevel=2)
        return {}
    marked = [(i, j, cell) for i, row in enumerate(evaluated) for j, cell in enumerate(row) if isinstance(cell, str)]
    merged = [[cell if cell == 1 else 0 for cell in row] for row in recorded]
    for i, j, cell in marked:
        if i >= len(merged) or j >= len(merged[i]) or merged[i][j] == 1:
            raise ValueError(
                f"The evaluation maze of {name} {differ}, and has a start or a goal in a wall of that one (row {i}, column {j}): "
                'choose maze="evaluation".'
            )
        merged[i][j] = cell
    warnings.warn(
        f"The evaluation maze of {name} {differ} (Minari issue 304): episodes are played within the walls of the data; "
        'maze="evaluation" chooses the other.',
        stacklevel=2,
    )
    return {"maze_map": merged}


def _walls(cells):
    return [[cell == 1 for cell in row] for row in cells]

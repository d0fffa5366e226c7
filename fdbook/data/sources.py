"""Where data come from: one interface, and one class behind it for each kind of source.

A source finds a data set's files, downloads them, makes transitions and environments of a task, and says what its score is. The
registry's data sets are OGBench's (`fdbook.data.ogbench`) and D4RL's (`fdbook.data.minari`); data of one's own bring a source
along (`fdbook.data.custom`). A new kind is a subclass of `Source` in a file of its own.
"""

import abc
import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from fdbook.data.tasks import DataSet, Task
from fdbook.rl.transitions import Transitions


if TYPE_CHECKING:
    import gymnasium

    from fdbook.data.walls import Distances


__all__ = ["Contents", "Coverage", "Source", "normalized_score", "of"]

MODULES = {"ogbench": "fdbook.data.ogbench", "d4rl": "fdbook.data.minari"}
"""The module whose `SOURCE` belongs to a benchmark of the registry."""


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How often the cells of a plane were visited; `extent` is (left, right, bottom, top) in the units of the world."""

    title: str
    counts: Int[np.ndarray, "y x"]
    extent: tuple[float, float, float, float]
    walls: np.ndarray | None = None
    """Which cells of a maze are walls; its own extent is that of `extent`."""
    axes: tuple[str, str] = ("x", "y")
    """Which axes of the world run to the right and upwards."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is in the training files of a data set, for a summary."""

    observations: np.ndarray
    actions: Float32[np.ndarray, "n action"]
    ends: Bool[np.ndarray, " n"]
    """The last row of each episode."""
    used: Bool[np.ndarray, " n"]
    """The rows that are transitions."""
    rewards: tuple[Float[np.ndarray, " n"], ...]
    """Those of each task, in its order."""
    returns: Float[np.ndarray, " episodes"] | None
    """Those of the episodes, as recorded; None where they depend on the task."""
    coverage: tuple[Coverage, ...]
    bytes: int
    """Size of the files, validation data included."""
    clipped: int = 0
    """Rows with an action that rounding had taken out of [-1, 1] (`fdbook.rl.arrays.ROUNDING`)."""
    stale_goals: int = 0
    """Episodes whose first row held the goal of the episode before (`fdbook.data.mazes.has_stale_goal`)."""
    after_goal: int = 0
    """Transitions of D4RL's mazes that come after the goal was reached in their episode."""


class Source(abc.ABC):
    """What every kind of source answers. Sources keep no data: they read when they are asked."""

    @abc.abstractmethod
    def locate(self, dataset: DataSet) -> Path | None:
        """The folder that holds the published data, or one's own, if they are on this machine."""

    @abc.abstractmethod
    def download(self, dataset: DataSet, *, again: bool = False) -> Path:
        """Downloads the published data, or, `again`, what is damaged of an earlier download, and returns their folder.

        What is there stays as it is unless it is a damaged download; another process that downloads the same is waited for.
        Raises OSError when it cannot be done.
        """

    @abc.abstractmethod
    def transitions(self, task: Task, folder: str | Path | None = None) -> tuple[Transitions, Transitions | None]:
        """A task's training and validation transitions (None where there are none) from the files in a folder.

        Raises ValueError on damaged files and on what does not fit the task; FileNotFoundError when a file is not there.
        """

    @abc.abstractmethod
    def environment(
        self, task: Task, folder: str | Path | None = None, *, render_mode: str | None = None
    ) -> "gymnasium.Env":
        """A new environment to evaluate in: observations as those of `transitions`, actions in [-1, 1].

        `folder` holds the data, if the environment is described there. Raises ValueError for a task that has none.
        """

    def start_anywhere(self, task: Task, environment: "gymnasium.Env") -> "gymnasium.Env":
        """The environment of a maze with starts that the seed of a reset draws anywhere in the maze; ValueError for others."""
        raise ValueError(
            f"Only OGBench's mazes without a ball can start anywhere; {task.name} starts as its task says."
        )

    def shortest_ways(self, task: Task) -> "Distances":
        """The shortest ways to the goal of a maze in which an action is a step; ValueError for other tasks."""
        raise ValueError(f"Shortest ways to the goal are known in OGBench's point mazes only; {task.name} is none.")

    @abc.abstractmethod
    def contents(self, tasks: Sequence[Task], folder: str | Path | None = None) -> Contents:
        """What is in the training files of the data set of these tasks. Raises as `transitions` does."""

    def score(self, task: Task, returns: float | np.ndarray, successes: float | np.ndarray) -> np.ndarray:
        """The score of episodes, or of means over them, element by element: see `fdbook.data.load.score`."""
        if task.score == "success":
            return 100 * np.asarray(successes, float)
        return np.asarray(returns, float) if task.score == "return" else normalized_score(task, returns)


def of(dataset: DataSet) -> Source:
    """The source of a data set: the one that it brings along, else that of its benchmark."""
    if dataset.origin is not None:
        return dataset.origin
    return importlib.import_module(MODULES[dataset.benchmark]).SOURCE


def normalized_score(task: Task, returns: float | np.ndarray) -> np.ndarray:
    """Returns on a scale that is 0 for the lower and 100 for the upper of `task.references`, a random and an expert policy.

    Raises ValueError for a task without reference returns.
    """
    if task.references is None:
        raise ValueError(f"The task {task.name} has no reference returns: its score is {task.score}.")
    low, high = task.references
    return 100 * (np.asarray(returns, float) - low) / (high - low)

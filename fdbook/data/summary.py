"""What is in the files of a data set: episodes, coverage, actions, and what each task rewards. No plotting here."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fdbook.data import files, minari, ogbench, tasks
from fdbook.data.tasks import DataSet, Task


__all__ = ["Coverage", "Rewards", "Summary", "describe", "record", "summarise"]

BINS = 60
CUBES = {"cube-single": 1, "cube-double": 2, "scene": 1}
HAND = "hand"


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
class Rewards:
    """What one task makes of the transitions."""

    task: str
    default: bool
    values: Float[np.ndarray, " values"]
    """The rewards that occur; for dense rewards none are listed."""
    counts: Int[np.ndarray, " values"]
    successes: int
    """Transitions in which the goal is met, and"""
    episodes: int
    """episodes with one."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """The training data of a data set in numbers."""

    name: str
    folder: Path
    bytes: int
    """Size of its files, validation data included."""
    lengths: Int[np.ndarray, " episodes"]
    """Transitions of each episode."""
    observation_range: tuple[float, float]
    actions: Int[np.ndarray, "action bins"]
    """Histogram of each coordinate of the actions over [-1, 1]."""
    mean: Float[np.ndarray, " action"]
    covariance: Float[np.ndarray, "action action"]
    at_bounds: Float[np.ndarray, " action"]
    """The share of actions that lie at -1 or 1."""
    coverage: tuple[Coverage, ...]
    rewards: tuple[Rewards, ...]
    returns: Float[np.ndarray, " episodes"] | None
    """The return of each episode of D4RL's data, as recorded; None for OGBench, whose returns depend on the task."""

    @property
    def transitions(self) -> int:
        """The number of transitions."""
        return int(self.lengths.sum())

    @property
    def condition_number(self) -> float:
        """The largest over the smallest eigenvalue of the covariance of actions."""
        values = np.linalg.eigvalsh(self.covariance)
        return float(values[-1] / values[0]) if values[0] > 0 else float("inf")


def summarise(name: str, folder: str | Path) -> Summary:
    """Reads and checks the files of a data set in a folder, and sums them up.

    Raises ValueError on an unknown name and on a damaged file, FileNotFoundError when a file is not there.
    """
    dataset, folder = tasks.find(name), Path(folder).expanduser()
    own = [task for task in tasks.TASKS.values() if task.dataset is dataset]
    read = _ogbench if dataset.benchmark == "ogbench" else _d4rl
    observations, actions, ends, used, coverage, rewards, returns, size = read(dataset, own, folder)
    last = np.flatnonzero(ends)
    kept = actions[used]
    return Summary(
        name=name,
        folder=folder,
        bytes=size,
        lengths=np.diff(np.concatenate([[-1], last])) - 1,
        observation_range=(float(observations.min()), float(observations.max())),
        actions=np.stack([np.histogram(column, BINS, (-1, 1))[0] for column in kept.T]),
        mean=kept.mean(axis=0, dtype=float),
        covariance=np.atleast_2d(np.cov(kept, rowvar=False)),
        at_bounds=np.mean(np.abs(kept) >= 1, axis=0),
        coverage=coverage,
        rewards=rewards,
        returns=returns,
    )


def _ogbench(dataset, own, folder):
    paths = [folder / f"{dataset.stem}.npz", folder / f"{dataset.stem}-val.npz"]
    arrays = files.read(paths[0], dataset)
    ends = arrays["terminals"]
    used, episode = ~ends, np.cumsum(ends) - ends
    rewards = tuple(_rewards(task, ogbench.rewards(task, arrays)[used], episode[used]) for task in own)
    size = sum(path.stat().st_size for path in paths if path.exists())
    coverage = _of_maze(dataset, arrays["qpos"]) if dataset.family == "maze" else _of_arm(dataset, arrays)
    return arrays["observations"], arrays["actions"], ends, used, coverage, rewards, None, size


def _d4rl(dataset, own, folder):
    (task,) = own
    arrays = minari.read(task, folder)
    ends = arrays["ends"]
    used, episode = ~ends, np.cumsum(ends) - ends
    recorded = arrays["rewards"][used] - task.reward_shift
    rewards = (_rewards(task, arrays["rewards"][used], episode[used]),)
    size = sum(path.stat().st_size for path in (folder / dataset.name).rglob("*") if path.is_file())
    coverage = () if dataset.family == "adroit" else (_plane("places", *arrays["observations"][:, :2].T),)
    returns = np.bincount(episode[used], recorded, minlength=int(ends.sum()))
    return arrays["observations"], arrays["actions"], ends, used, coverage, rewards, returns, size


def _rewards(task: Task, rewards, episode) -> Rewards:
    if not task.parts:
        return Rewards(task.name, task.default, np.zeros(0), np.zeros(0, int), 0, 0)
    values, counts = np.unique(rewards, return_counts=True)
    met = rewards >= 0
    return Rewards(task.name, task.default, values.astype(float), counts, int(met.sum()), len(np.unique(episode[met])))


def _plane(title, x, y, extent=None, axes=("x", "y")) -> Coverage:
    """Counts points; the extent is that of the data, unless one is given."""
    low_x, high_x, low_y, high_y = extent or (x.min(), x.max(), y.min(), y.max())
    counts, _, _ = np.histogram2d(y, x, BINS, ((low_y, high_y), (low_x, high_x)))
    return Coverage(title, counts.astype(int), (float(low_x), float(high_x), float(low_y), float(high_y)), axes=axes)


def _of_maze(dataset: DataSet, qpos):
    """Where the walker was; with the walls, where we can build the maze."""
    if dataset.controller != "maze":
        return (_plane("places", *qpos[:, :2].T),)
    maze = ogbench.maze_layout(dataset.name)
    return (dataclasses.replace(_plane("places", *qpos[:, :2].T, maze.extent), walls=maze.walls),)


def _of_arm(dataset: DataSet, arrays):
    """Where the hand and each cube were, seen from above, with the arm's base below: y runs to the right."""
    world = dataset.environment.removeprefix("visual-").removesuffix("-v0")
    cubes = CUBES.get(world, 0)
    places = {
        f"cube {k + 1}" if cubes > 1 else "cube": arrays["qpos"][:, 14 + 7 * k : 16 + 7 * k] for k in range(cubes)
    }
    if not dataset.pixels:  # the hand's place is part of an observation, at ten times the scale and shifted
        places = {HAND: arrays["observations"][:, 12:14] / 10 + np.array([0.425, 0.0], np.float32)} | places
    planes = [_plane(title, place[:, 1], place[:, 0], axes=("y", "x")) for title, place in places.items()]
    return tuple(planes)


def describe(summary: Summary) -> str:
    """The summary as text for a terminal."""
    lengths, (low, high) = summary.lengths, summary.observation_range
    span = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
    lines = [
        f"{summary.name}, in {summary.folder} ({summary.bytes / 1e6:,.0f} MB)",
        f"{summary.transitions:,} transitions in {len(lengths):,} episodes of {span}",
        f"observations from {low:.3g} to {high:.3g}",
        f"actions: condition number of the covariance {summary.condition_number:.3g}",
        "  coordinate " + "".join(f"{number:>8}" for number in range(1, len(summary.mean) + 1)),
        "  mean       " + "".join(f"{value:8.3f}" for value in summary.mean),
        "  deviation  " + "".join(f"{value:8.3f}" for value in np.sqrt(np.diag(summary.covariance))),
        "  at +-1     " + "".join(f"{value:8.1%}" for value in summary.at_bounds),
    ]
    if summary.returns is not None:
        quantiles = ", ".join(f"{value:.4g}" for value in np.quantile(summary.returns, (0.1, 0.5, 0.9)))
        lines.append(f"returns of episodes, as recorded (10, 50, 90%): {quantiles}")
    for rewards in summary.rewards:
        lines += _told(rewards, summary)
    return "\n".join(lines)


def record(summary: Summary) -> dict:
    """What a run record keeps of a summary: plain numbers, without coverage and histograms."""
    tasks = {each.task: {"successes": each.successes, "episodes": each.episodes} for each in summary.rewards}
    return {
        "name": summary.name,
        "transitions": summary.transitions,
        "episodes": len(summary.lengths),
        "bytes": summary.bytes,
        "actions": {
            "mean": [round(value, 6) for value in summary.mean.tolist()],
            "deviation": [round(value, 6) for value in np.sqrt(np.diag(summary.covariance)).tolist()],
            "at bounds": [round(value, 6) for value in summary.at_bounds.tolist()],
            "condition number": round(summary.condition_number, 4),
        },
        "tasks": tasks,
    }


def _told(rewards, summary):
    """What a task rewards, in a line; a task without a success gets a warning."""
    name = f"{rewards.task}{' (default)' if rewards.default and len(summary.rewards) > 1 else ''}"
    if not len(rewards.values):
        return [f"{name}: dense rewards"]
    share = f"{rewards.successes:,} transitions in {rewards.episodes:,} of {len(summary.lengths):,} episodes"
    said = [f"{name}: goal met in {share}"]
    if not rewards.successes:
        said = [f"{name}: WARNING: no transition meets the goal: a critic sees no success here"]
    shown = ", ".join(f"{value:g}: {count:,}" for value, count in zip(rewards.values, rewards.counts, strict=True))
    return [*said, *([f"  rewards {shown}"] if len(rewards.values) > 2 else [])]

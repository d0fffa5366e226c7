"""What is in the files of a data set: episodes, coverage, actions, and what each task rewards. No plotting here."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fdbook.data import downloads, sources, tasks
from fdbook.data.sources import Coverage
from fdbook.data.tasks import Task


__all__ = ["Coverage", "Rewards", "Summary", "describe", "record", "summarize"]

BINS = 60


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
    clipped: int
    """Rows with an action that rounding had taken out of [-1, 1], and that is clipped when it is loaded."""
    stale_goals: int
    """Episodes whose first row holds the goal of the episode before, and is given its own when it is loaded."""
    after_goal: int = 0
    """Transitions of D4RL's mazes that come after the goal was reached in their episode."""

    @property
    def transitions(self) -> int:
        """The number of transitions."""
        return int(self.lengths.sum())

    @property
    def condition_number(self) -> float:
        """The largest over the smallest eigenvalue of the covariance of actions."""
        values = np.linalg.eigvalsh(self.covariance)
        return float(values[-1] / values[0]) if values[0] > 0 else float("inf")


def summarize(name: str | Task, folder: str | Path | None = None) -> Summary:
    """Reads and checks the files of a data set in a folder, and sums them up.

    `name` is a data set of the registry, or a task of one's own, whose files need no folder. Raises ValueError on an unknown name
    and on a damaged file, FileNotFoundError when a file is not there.
    """
    if isinstance(name, Task):
        dataset, dataset_tasks = name.dataset, (name,)
    else:
        dataset = tasks.find(name)
        dataset_tasks = tuple(task for task in tasks.TASKS.values() if task.dataset is dataset)
    source = sources.of(dataset)
    published = source.locate(dataset)
    folder = Path(folder or published or ".").expanduser()
    try:
        result = source.contents(dataset_tasks, folder)
    except downloads.CorruptFileError as error:
        raise (downloads.explain(error) if folder == published and dataset.origin is None else error) from error
    used, episode = result.used, np.cumsum(result.ends) - result.ends
    kept = result.actions[used]
    return Summary(
        name=dataset.name,
        folder=folder,
        bytes=result.bytes,
        lengths=np.bincount(episode[used], minlength=int(result.ends.sum())),
        observation_range=(float(result.observations.min()), float(result.observations.max())),
        actions=np.stack([np.histogram(column, BINS, (-1, 1))[0] for column in kept.T]),
        mean=kept.mean(axis=0, dtype=float),
        covariance=np.atleast_2d(np.cov(kept, rowvar=False)),
        at_bounds=np.mean(np.abs(kept) >= 1, axis=0),
        coverage=result.coverage,
        rewards=tuple(
            _rewards(task, rewards[used], episode[used])
            for task, rewards in zip(dataset_tasks, result.rewards, strict=True)
        ),
        returns=result.returns,
        clipped=result.clipped,
        stale_goals=result.stale_goals,
        after_goal=result.after_goal,
    )


def _rewards(task: Task, rewards, episode) -> Rewards:
    if not task.parts:
        return Rewards(task.name, task.default, np.zeros(0), np.zeros(0, int), 0, 0)
    values, counts = np.unique(rewards, return_counts=True)
    met = rewards >= 0
    return Rewards(task.name, task.default, values.astype(float), counts, int(met.sum()), len(np.unique(episode[met])))


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
    if summary.clipped:
        lines.append(
            f"  rounded out of [-1, 1] in {summary.clipped:,} of {len(lengths) + summary.transitions:,} rows: clipped"
        )
    if summary.stale_goals:
        share = f"{summary.stale_goals:,} of {len(lengths):,} episodes"
        lines.append(
            f"goals: the first row of {share} holds the goal of the episode before; it is given its own on loading"
        )
    if summary.after_goal:
        share = f"{summary.after_goal:,} of {summary.transitions:,} transitions ({summary.after_goal / summary.transitions:.0%})"
        lines.append(
            f"{share} come after the goal was reached in their episode: `fdbook train --until-goal` leaves them out"
        )
    if summary.returns is not None:
        quantiles = ", ".join(f"{value:.4g}" for value in np.quantile(summary.returns, (0.1, 0.5, 0.9)))
        lines.append(f"returns of episodes, as recorded (10, 50, 90%): {quantiles}")
    for rewards in summary.rewards:
        lines += _told(rewards, summary)
    return "\n".join(lines)


def record(summary: Summary) -> dict:
    """What a run record keeps of a summary: plain numbers, without coverage and histograms."""
    tasks = {item.task: {"successes": item.successes, "episodes": item.episodes} for item in summary.rewards}
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
        "clipped": summary.clipped,
        "stale goals": summary.stale_goals,
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

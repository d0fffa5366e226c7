"""Evaluations of a task: the environments they need, and the numbers that a run record keeps of them."""

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence

import jax.random as jr
import numpy as np
from jaxtyping import Float

from fdbook.data import load
from fdbook.data.tasks import Task
from fdbook.rl.agents import Agent
from fdbook.rl.environments import AsyncEnvironments, Environments, SyncEnvironments, cores
from fdbook.rl.evaluate import Evaluation, evaluate
from fdbook.rl.fourier_features import Normalizer
from fdbook.rl.offline_evaluation import FittedQ, offline_evaluate
from fdbook.rl.transitions import Transitions


__all__ = [
    "check_pictures",
    "environments",
    "episode_scores",
    "gif",
    "make_evaluator",
    "scores",
    "solved_length",
    "value_estimates",
]

FEW, MANY = 5, 25
"""Environments for each seed: few where one of them is heavy."""
MOST = 16
"""Processes that step environments, at most."""


@contextlib.contextmanager
def environments(
    task: Task, seeds: int, episodes: int, *, workers: int | None = None, starts: str = "task"
) -> Iterator[Callable[[], Environments]]:
    """A function that makes the environments of an evaluation when they are first needed; they are closed at the end.

    They are stepped by `workers` processes (None: by one for each core but two, at most MOST; 0: by this process, as are those of
    tasks that another process cannot make). The numbers are the same. `starts` is where episodes start, as in
    `fdbook.data.load.environment`.
    """
    share = min(episodes, FEW if task.dataset.family in ("cube", "scene", "puzzle") else MANY)
    made: list[Environments] = []

    def get() -> Environments:
        if not made:
            made.append(_environments(task, seeds * share, _workers(workers), starts))
        return made[0]

    try:
        yield get
    finally:
        for each in made:
            each.close()


def _workers(asked: int | None) -> int:
    """How many processes step environments."""
    if asked is not None:
        return asked
    return max(0, min(MOST, cores() - 2)) if os.name == "posix" else 0


def check_pictures(task: Task) -> None:
    """Resets the environment of a task whose observations are pictures. Raises OSError, in one sentence, if nothing renders."""
    if task.dataset.pixels and task.has_environment:
        with contextlib.closing(load.environment(task)) as environment:
            environment.reset(seed=0)


def _environments(task, count, workers, starts) -> Environments:
    check_pictures(task)  # and what works is known to the processes that are started
    make = functools.partial(load.environment, task, starts=starts)
    if workers > 0 and AsyncEnvironments.can_make(make):
        try:
            return AsyncEnvironments(make, count, workers)
        except OSError as error:  # an environment that only this process knows, for one
            warnings.warn(f"Environments of {task.name} are stepped in line. {error}", stacklevel=2)
    return SyncEnvironments([make() for _ in range(count)])


def episode_scores(task: Task, result: Evaluation) -> Float[np.ndarray, "seeds episodes"]:
    """The task's score of each episode, in percent or a return. Raises ValueError for a success of which nothing was said."""
    if task.score == "success" and not result.tells_success:
        raise ValueError(f"The score of {task.name} is success, of which {task.environment} says nothing in its info.")
    return np.asarray(load.score(task, result.returns, result.successes), float)


def scores(task: Task, result: Evaluation) -> dict[str, list[float]]:
    """An evaluation as a run record keeps it: for each seed the task's score, in percent or a return, and what explains it.

    "error", of two episodes or more, is the standard error that their finite number puts on the score. Episode i starts alike
    for every seed, method and checkpoint, so that differences between them hold less of it than two independent scores would,
    and the spread over seeds does not show it. There is no "success" where the environment says nothing of it; raises ValueError
    if that is the task's score.
    """
    item = episode_scores(task, result)
    episodes = item.shape[1]
    columns = {
        "score": item.mean(axis=1),
        "success": 100 * result.successes.mean(axis=1),
        "return": result.returns.mean(axis=1),
        "length": result.lengths.mean(axis=1),
    }
    if not result.tells_success:
        del columns["success"]
    if episodes > 1:
        columns["error"] = item.std(axis=1, ddof=1) / np.sqrt(episodes)
    return {name: [float(f"{value:.6g}") for value in values] for name, values in columns.items()}


def solved_length(result: Evaluation) -> dict[str, list[float | None]]:
    """The mean length, in steps, of each seed's episodes that succeed, as "solved length": None where none does.

    Nothing where the environments say nothing of success.
    """
    if not result.tells_success:
        return {}
    rows = zip(result.lengths, result.successes, strict=True)
    means = [float(np.mean(lengths[solved])) if np.any(solved) else None for lengths, solved in rows]
    return {"solved length": [None if mean is None else float(f"{mean:.6g}") for mean in means]}


def value_estimates(result: Evaluation) -> dict[str, list[float]]:
    """The mean discounted return of each seed, and what its critics, at the first state and action, estimate it to be.

    Nothing where they were not kept.
    """
    if result.discounted is None or result.estimates is None:
        return {}
    columns = {"discounted return": result.discounted, "value estimate": result.estimates}
    return {name: [float(f"{value:.6g}") for value in values.mean(axis=1)] for name, values in columns.items()}


def make_evaluator(
    task: Task,
    get: Callable[[], Environments],
    seeds: Sequence[int],
    *,
    episodes: int,
    normalizer: Normalizer | None,
    data: Transitions | None = None,
    held_out: Transitions | None = None,
    updates: int | None = None,
    progress: bool = False,
) -> Callable:
    """The function `(agents, stopped) -> dict or None` with which a run is evaluated.

    Where the task has an environment, it plays episodes there (`scores`). Where it has none, nothing is played: the numbers are
    those of `fdbook.rl.offline_evaluation.offline_evaluate` on `data` and `held_out` transitions, under their own names, and with
    "train_nll" in place of "held_out_nll" where nothing is held out;
    fitted Q evaluation makes `updates` (None: as many as it does by itself, which is also the most).
    """

    def play(agents: Agent, stopped: Callable[[], bool]) -> dict[str, list[float]] | None:
        options = {"episodes": episodes, "normalizer": normalizer, "progress": progress, "stopped": stopped}
        result = evaluate(agents, get(), seeds, **options)
        return None if result is None else scores(task, result)

    def estimate(agents: Agent, stopped: Callable[[], bool]) -> dict[str, list[float | None]]:
        most = FittedQ().updates
        fitted = FittedQ(updates=most if updates is None else min(updates, most))
        options = {"train": data, "fitted": fitted, "progress": progress, "key": jr.key(0)}
        if held_out is not None:
            return offline_evaluate(agents, held_out, seeds, **options)
        found = offline_evaluate(agents, data, seeds, **options)
        return {name.replace("held_out", "train"): values for name, values in found.items()}

    return play if task.has_environment else estimate


def gif(frames: Sequence[np.ndarray], seconds: float = 0.05) -> bytes:
    """An animated picture of frames (height, width, 3) of bytes; small ones, as agents see them, are enlarged pixel by pixel.

    >>> evaluation.gif([np.zeros((64, 64, 3), np.uint8)])[6:10] == bytes([0, 1, 0, 1])  # 256 pixels each way
    True
    """
    from PIL import Image

    larger = max(1, 256 // max(frames[0].shape[:2]))
    frames = [frame.repeat(larger, axis=0).repeat(larger, axis=1) for frame in frames]
    buffer, pictures = io.BytesIO(), [Image.fromarray(frame) for frame in frames]
    rest = {"append_images": pictures[1:], "duration": int(1000 * seconds), "loop": 0}
    pictures[0].save(buffer, "GIF", save_all=True, **rest)
    return buffer.getvalue()

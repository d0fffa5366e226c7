"""The sources of one's own data: arrays, in memory or in an npz file, and Minari's data sets (`custom` makes tasks of them)."""

import abc
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fdbook.checks import check_shape
from fdbook.data import downloads, mazes, minari, ogbench, simulators, sources, spaces
from fdbook.data.definitions import DataSet, Task
from fdbook.data.downloads import CorruptFileError
from fdbook.rl.transitions import ACTION_BOUND, Transitions


if TYPE_CHECKING:
    import gymnasium


__all__ = ["Arrays", "MinariSet", "Own", "from_set", "masks_and_ends"]

FLAGS = ("terminals", "terminations", "timeouts", "truncations")
"""What may say that a row ends its episode."""


@dataclasses.dataclass(frozen=True, eq=False)
class Own(sources.Source):
    """What the sources of one's own data share: the environment, if there is one, and how actions were rescaled."""

    description: dict[str, Any]
    """What `Task.to_dict` tells of it."""
    maker: spaces.Maker | None
    bounds: spaces.Bounds
    """Of the actions as the data have them."""
    keys: tuple[str, ...] | None
    """The entries of Dict observations that agents see; None: all."""

    def make(self, render_mode: str | None = None) -> "gymnasium.Env":
        """The environment as it is."""
        return spaces.make(self.maker, render_mode)

    def environment(
        self, task: Task, folder: str | Path | None = None, *, render_mode: str | None = None
    ) -> "gymnasium.Env":
        """The environment with flat observations and actions in [-1, 1]; `folder` says nothing here."""
        if not task.has_environment:
            raise ValueError(
                f"The task {task.name} is made of logs without an environment, so that nothing can be rolled out; "
                "fdbook.rl.offline_evaluation judges policies by the logs."
            )
        made = spaces.fit(ogbench.repeatable(self.make(render_mode)), self.keys, task.horizon, task.environment)
        if made.observation_space.shape != task.dataset.observation or made.action_space.shape != (
            task.dataset.action,
        ):
            shapes = made.observation_space.shape, made.action_space.shape
            raise ValueError(
                f"{task.environment} has observations and actions of shapes {shapes[0]} and {shapes[1]} (expected those of "
                f"the data, {task.dataset.observation} and {(task.dataset.action,)})."
            )
        return made

    def download(self, dataset: DataSet, *, again: bool = False) -> NoReturn:
        """Nothing can be downloaded."""
        raise OSError("it is nobody's but yours")

    def contents(self, tasks: Sequence[Task], folder: str | Path | None = None) -> sources.Contents:
        """What is in the training data, actions rescaled to [-1, 1], with returns as recorded."""
        (task,) = tasks
        data, _ = self.transitions(task, folder)
        ends, actions, rewards = np.asarray(data.ends), np.array(data.actions), np.asarray(data.rewards)
        edge = np.abs(actions) >= np.float32(ACTION_BOUND)
        actions[edge] = np.sign(actions[edge])
        used = np.ones(len(ends), bool) if data.next_observations is not None else ~ends
        episode = np.cumsum(ends) - ends
        returns = np.bincount(episode[used], rewards[used] - task.reward_shift, minlength=int(ends.sum()))
        size = sum(path.stat().st_size for path in self.paths)
        given = (np.asarray(data.observations), actions, ends, used, (rewards,), returns, (), size)
        return sources.Contents(*given, *self.mended())

    @abc.abstractmethod
    def mended(self) -> tuple[int, int]:
        """Training rows with an action that rounding took out of its bounds, and episodes that began with another's goal."""

    @property
    @abc.abstractmethod
    def paths(self) -> Sequence[Path]:
        """The files that hold the data."""


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Own):
    """Arrays by name, from `read(split)` (None where a split is missing), with rewards of their own or from a function."""

    read: Callable[[str], dict[str, np.ndarray] | None]
    rewards: Callable | None
    files: tuple[Path, ...]
    where: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """The npz files; none for arrays in memory."""
        return self.files

    def locate(self, dataset: DataSet) -> Path:
        """The folder of the file; for arrays in memory, the current one."""
        return self.files[0].parent if self.files else Path()

    def transitions(self, task: Task, folder: str | Path | None = None) -> tuple[Transitions, Transitions | None]:
        """The transitions of both splits."""
        for path in self.files:
            if not path.exists():
                raise FileNotFoundError(f"There is no file {path} any more, from which the task {task.name} was made.")
        train, validation = (self.read(split) for split in ("train", "validation"))
        made = self._made(task, train, self.where)
        return made, None if validation is None else self._made(task, validation, f"{self.where} (validation)")

    def mended(self) -> tuple[int, int]:
        """Counts of what is changed on loading."""
        arrays = self.read("train")
        return spaces.rounded_out(np.asarray(arrays["actions"]), self.bounds), 0

    def _made(self, task, arrays, where):
        compact = "next_observations" not in arrays
        rows = len(arrays["actions"])
        masks, ends = masks_and_ends(arrays, rows, where)
        rewards, masks = self._rewards(task, arrays, masks, where)
        rewards = np.asarray(rewards)
        rewards = rewards[:, 0] if rewards.shape == (rows, 1) else rewards
        made = {
            "observations": spaces.flat(arrays["observations"], rows=rows),
            "actions": spaces.to_unit(arrays["actions"], self.bounds, where),
            "rewards": rewards if task.reward_shift == 0 else rewards + task.reward_shift,
            "masks": masks,
            "ends": ends,
        }
        if not compact:
            return Transitions.of(
                **made, next_observations=spaces.flat(arrays["next_observations"], rows=rows), where=where
            )
        for name in ("rewards", "masks"):
            check_shape(made[name], (rows,), name, where)
        over = _terminated(_flags(arrays, rows, where))
        if over is not None:
            return Transitions.of(**_with_last_steps(made, over & (np.asarray(masks) == 0)), where=where)
        if "rewards" in arrays:
            _warn_of_lost_rewards(rewards, ends, where)
        return Transitions.of(**made, where=where)

    def _rewards(self, task, arrays, masks, where):
        """The rewards, and the masks if they come with them: from the function, the file, or OGBench's own labels."""
        if self.rewards is not None:
            made = self.rewards(arrays)
            return made if isinstance(made, tuple) else (made, masks)
        if "rewards" in arrays:
            return arrays["rewards"], masks
        if task.has_environment:
            environment: Any = self.make()
            try:
                labeled = getattr(environment.unwrapped, "_reward_task_id", None) is not None and "qpos" in arrays
                if labeled and environment.spec is not None:
                    return ogbench.label(environment.spec.id.removeprefix("visual-"), environment, arrays)
            finally:
                environment.close()
        raise ValueError(
            f"{where} has no rewards: store an array 'rewards' (or, from Python, give a function of the arrays that makes them; "
            "OGBench's single-task environments label files that have 'qpos')."
        )


def masks_and_ends(arrays: dict[str, np.ndarray], rows: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Masks and ends (rows,) from what a file says of the ends of its episodes.

    An episode ends at a row with `terminals`, `terminations`, `timeouts` or `truncations`. Masks are those of `masks`; else 0 at
    `terminations`; else, where `timeouts` or `truncations` tell the two apart, 0 at `terminals`; else 1: then `terminals` only
    closes episodes, as in OGBench. With next observations, the last row ends an episode whatever it says. Without, the last row
    of an episode is no transition, except where it terminated the episode, by the same flags, and its mask is 0: `Arrays` keeps
    it as a step, whose next observation is never used. Raises ValueError for flags other than 0 and 1, flags or next observations
    in another number of rows, and for no flags at all where there are no next observations.
    """
    flags, compact = _flags(arrays, rows, where), "next_observations" not in arrays
    if not flags and compact:
        raise ValueError(f"{where} has no array 'terminals' that says where episodes end, and no 'next_observations'.")
    ends = np.any([np.zeros(rows, bool), *flags.values()], axis=0)
    if not compact:
        ends[-1:] = True
    if "masks" in arrays:
        return np.asarray(arrays["masks"]).reshape(-1), ends
    over = _terminated(flags)
    return np.ones(rows, np.float32) if over is None else (~over).astype(np.float32), ends


def _flags(arrays, rows, where):
    """The flags (rows,) that there are, by name."""
    from fdbook.rl.arrays import cast

    flags = {name: cast(np.asarray(arrays[name]).reshape(-1), bool, name, where) for name in FLAGS if name in arrays}
    following = {name: np.atleast_1d(arrays[name]) for name in ("next_observations",) if name in arrays}
    for name, values in (flags | following).items():
        if len(values) != rows:
            raise ValueError(f"{where} has {name} in {len(values)} rows (expected {rows}, as many as actions).")
    return flags


def _terminated(flags):
    """Where episodes terminated; None where the flags do not tell it from time-outs."""
    if "terminations" in flags:
        return flags["terminations"]
    return flags.get("terminals") if {"timeouts", "truncations"} & set(flags) else None


def _with_last_steps(arrays, kept):
    """Arrays of the compact layout in which the rows `kept`, the last ones of their episodes, are transitions, of mask 0: each is
    followed by a copy of itself that ends the episode in its place, and whose observation no bootstrap sees.
    """
    copied = {name: np.repeat(values, 1 + kept, axis=0) for name, values in arrays.items()} if kept.any() else arrays
    copied["ends"][np.flatnonzero(kept) + np.arange(kept.sum())] = False
    return copied


def _warn_of_lost_rewards(rewards, ends, where):
    """Warns where all that rewards tell is in the last rows of episodes, which are no transitions."""
    inside = rewards[~ends]
    constant = rewards.dtype.kind in "iuf" and inside.size and np.all(inside == inside[0])
    if constant and np.any(rewards[ends] != inside[0]):
        warnings.warn(
            f"{where} has rewards other than {inside[0]:g} only in the last rows of episodes, which are no transitions here: say "
            "'terminations', or 'timeouts' beside 'terminals', where these rows are steps that terminated an episode.",
            stacklevel=2,
        )


def from_set(name: str, use: Callable[[Any], Any]) -> Any:
    """What `use` makes of Minari's object for a data set of that id, downloaded if it is not here or a damaged download.

    Raises FileNotFoundError, with the reason, when it can be had neither way; `CorruptFileError`, a ValueError, when it is that;
    and the ValueErrors of `use`.
    """

    def read():
        data = minari.open_set(name)
        try:
            return use(data)
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # what damage raises depends on where it is
            where = minari.datasets_folder() / name
            raise CorruptFileError(
                f"{where} is damaged: {type(error).__name__} on reading its episodes.", where
            ) from error

    if minari.locate(name) is None:
        try:
            minari.download(name)
        except OSError as error:
            missing = f"There is no Minari data set {name} in {minari.datasets_folder()}, and it cannot be downloaded"
            raise FileNotFoundError(f"{missing} ({downloads.reason(error)}).") from error
    return downloads.read_or_fetch_again(read, lambda: minari.download(name, again=True))


@dataclasses.dataclass(frozen=True, eq=False)
class MinariSet(Own):
    """A Minari data set of any id, read through Minari, with the environment that it describes or another."""

    id: str
    recovered: bool
    """Whether the environment is the one that the data set describes."""

    @property
    def paths(self) -> list[Path]:
        """All files of the data set."""
        return [path for path in (minari.datasets_folder() / self.id).rglob("*") if path.is_file()]

    def locate(self, dataset: DataSet) -> Path | None:
        """The folder of Minari's data sets, if this one is in it."""
        return minari.locate(self.id)

    def download(self, dataset: DataSet, *, again: bool = False) -> Path:
        """Downloads it through Minari. Raises OSError when that cannot be done."""
        return minari.download(self.id, again=again)

    def make(self, render_mode: str | None = None) -> "gymnasium.Env":
        """The environment that the data set describes for evaluation, or the other one."""
        if not self.recovered:
            return super().make(render_mode)
        options = {} if render_mode is None else {"render_mode": render_mode}
        data = from_set(self.id, lambda data: data)
        with minari.robotics(), warnings.catch_warnings(), simulators.making(f"of {self.id}"):
            warnings.simplefilter("ignore")
            return simulators.tidy(data.recover_environment(eval_env=True, **options))

    def transitions(self, task: Task, folder: str | Path | None = None) -> tuple[Transitions, None]:
        """All episodes, in the compact layout; Minari's data sets have no validation data."""
        where = str(minari.datasets_folder() / self.id)
        parts, stale = from_set(self.id, lambda data: self._parts(data, task, where))
        if not parts:
            raise ValueError(f"{where} holds no episode.")
        mazes.warn_of_stale_goals(stale, len(parts), where)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Transitions.of(**arrays, padded=True, where=where), None

    def _parts(self, data, task, where):
        """The episodes that have a step, and in how many of them the first row was given its own goal."""
        parts, stale = [], 0
        for episode in data.iterate_episodes():
            if len(episode.rewards):
                seen, mended = self._with_own_goal(episode.observations)
                parts.append(self._episode(episode, seen, task, where))
                stale += mended
        return parts, stale

    def _with_own_goal(self, seen):
        """An episode's observations, and whether the first one held the goal of the episode before and was given its own."""
        shown = isinstance(seen, dict) and {"achieved_goal", "desired_goal"} <= set(seen)
        if not shown or (self.keys is not None and "desired_goal" not in self.keys):
            return seen, False
        goals, places = np.array(seen["desired_goal"]), np.asarray(seen["achieved_goal"])
        if goals.ndim != 2 or goals.shape != places.shape or not mazes.has_stale_goal(goals, places):
            return seen, False
        goals[0] = goals[1]
        return {**seen, "desired_goal": goals}, True

    def mended(self) -> tuple[int, int]:
        """Counts of what is changed on loading."""

        def count(data):
            episodes = [episode for episode in data.iterate_episodes() if len(episode.rewards)]
            rows = sum(spaces.rounded_out(np.asarray(episode.actions), self.bounds) for episode in episodes)
            return rows, sum(self._with_own_goal(episode.observations)[1] for episode in episodes)

        return from_set(self.id, count)

    def _episode(self, episode, seen, task, where):
        """One episode; its last row holds the last observation, and padding. Numbers are rounded to float32, as D4RL's are."""
        steps = len(episode.rewards)
        seen = spaces.flat(seen, self.keys, rows=steps + 1)
        actions = spaces.to_unit(np.asarray(episode.actions), self.bounds, f"{where}, episode {episode.id},")
        rewards = np.asarray(episode.rewards, float) + task.reward_shift
        return {
            "observations": seen if seen.dtype == np.uint8 else seen.astype(np.float32),
            "actions": np.append(actions, actions[-1:], axis=0).astype(np.float32),
            "rewards": np.append(rewards, 0).astype(np.float32),
            "masks": np.append(~np.asarray(episode.terminations, bool), True).astype(np.float32),
            "ends": np.arange(steps + 1) == steps,
        }

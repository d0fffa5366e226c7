"""What a data set and a task are: the values that the registry's tables (`fdbook.data.tasks`) and one's own data are made of."""

import dataclasses
from typing import Any, Literal

import numpy as np

from fdbook.checks import unknown


__all__ = ["DataSet", "Group", "Task"]

Group = Literal[
    "ogbench-state", "ogbench-pixels", "d4rl-antmaze", "d4rl-adroit", "ogbench-pointmaze", "d4rl-pointmaze", "own"
]

MAZES = ("data", "evaluation")
OLD_D4RL = (
    "Recorded anew for Minari, in other simulators than the old D4RL: its scores and the published ones do not compare."
)
DENSE = " gymnasium-robotics 1.2.1 changed the dense rewards of door, hammer and relocate without a new version."
PEN = (
    " Pen is evaluated over 100 steps, as when its reference returns were measured, although the environment allows 200; the "
    "references are known to be stale (Minari issue 303)."
)
ANT = (
    " Settings of the old D4RL do not carry over to it (Minari issue 296). Episodes end at the goal, with a return of 1, so that "
    "the normalized return is the success in percent."
)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One data set of a benchmark."""

    name: str
    """OGBench's name for it behind ogbench/, as in ogbench/cube-single-play, or Minari's id, as in D4RL/pen/human-v2."""
    environment: str
    """The gymnasium id of the environment that the data come from."""
    observation: tuple[int, ...]
    """The shape of an observation as agents see it; for dict observations, of the flattened one."""
    action: int
    """The number of actions, each in [-1, 1]."""
    steps: int
    """Rows of an episode: exactly, in OGBench; at most, in D4RL."""
    description: str
    """What a reader is told about it, in one line."""
    episodes: int | None = None
    """Training episodes of the published set, with a tenth as many for validation; for D4RL's point mazes, runs of `steps` steps;
    None where none is recorded."""
    controller: str | None = None
    """The scripted controller that records it anew (a key of `fdbook.data.record.CONTROLLERS`), or None."""
    simulator: dict[str, int] = dataclasses.field(default_factory=dict)
    """The widths of OGBench's arrays of the simulator's state: qpos, qvel and, where there are buttons, button_states."""
    goal: bool = False
    """Whether the flattened observation of a D4RL maze holds the goal."""

    origin: Any = dataclasses.field(default=None, repr=False)
    """The `fdbook.data.sources.Source` that data of one's own bring along; None for the benchmarks' data."""

    @property
    def length(self) -> str:
        """How many rows an episode has, said: "1001", or "at most 300" where it may have fewer."""
        return f"at most {self.steps}" if self.benchmark == "d4rl" else str(self.steps)

    @property
    def benchmark(self) -> Literal["ogbench", "d4rl", "own"]:
        """Whose data set it is."""
        if self.origin is not None:
            return "own"
        return "ogbench" if self.name.startswith("ogbench/") else "d4rl"

    @property
    def pixels(self) -> bool:
        """Whether observations are pictures: uint8 of shape (height, width, channels)."""
        return len(self.observation) == 3

    @property
    def family(self) -> str:
        """The kind of world: maze, cube, scene or puzzle of OGBench; antmaze, pointmaze or adroit of D4RL; or own."""
        if self.origin is not None:
            return "own"
        if self.benchmark == "d4rl":
            kind = self.name.split("/")[1]
            return kind if kind in ("antmaze", "pointmaze") else "adroit"
        kind = self.name.removeprefix("ogbench/").removeprefix("visual-").split("-")[0]
        return kind if kind in ("cube", "scene", "puzzle") else "maze"

    @property
    def stem(self) -> str:
        """The name of an OGBench data set's file without its ending, as OGBench's own loader wants it."""
        return f"{self.name.removeprefix('ogbench/')}-v0"

    @property
    def transitions_per_episode(self) -> int:
        """Transitions in a whole episode: in OGBench's files the last row of an episode is none."""
        return self.steps - (self.benchmark == "ogbench")

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """The arrays of an OGBench file without `terminals`: shape of one row, and dtype."""
        rows = {
            "observations": (self.observation, np.dtype(np.uint8 if self.pixels else np.float32)),
            "actions": ((self.action,), np.dtype(np.float32)),
        }
        for key, width in self.simulator.items():
            rows[key] = ((width,), np.dtype(np.int64 if key == "button_states" else np.float32))
        return rows

    @property
    def why_not_recordable(self) -> str:
        """Why it cannot be recorded anew, in one sentence; empty when it can."""
        if self.controller:
            return ""
        if self.origin is not None:
            return f"{self.name} cannot be recorded anew: it is data of your own, as they are."
        who = {"adroit": "by people, and by policies trained on them", "antmaze": "by trained walking policies"}
        made = who.get(self.family, "by trained walking policies")
        return f"{self.name} cannot be recorded anew: it was made {made}, which no environment brings along."


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set with a reward, an evaluation, and the papers' settings for it."""

    name: str
    """OGBench's own name, as in cube-single-play-singletask-task2-v0; for D4RL, the data set's."""
    group: Group
    dataset: DataSet
    environment: str
    """The gymnasium id of the environment to evaluate in, or what else names it; empty where there is none."""
    horizon: int
    """Steps after which an evaluation episode is cut off."""
    parts: int
    """Sparse rewards count the parts of the goal that are met, minus `parts`: they lie in -parts to 0. 0 for a dense reward."""
    success_ends: bool
    """Whether the mask of E16 is 0, no bootstrapping, where all parts are met."""
    discount: float
    q_agg: Literal["mean", "min"]
    """How the target of E16 joins the critics."""
    fql_alpha: float
    """FQL's weight alpha (E17)."""
    budget: float
    """The budget on E |delta|^2 / d of E18 to E22."""
    updates: int
    """Gradient steps of a published run."""
    evaluations: tuple[int, ...]
    """The gradient steps after which it is evaluated, over 50 episodes each; the score is the mean over them."""
    score: Literal["success", "normalized return", "return"]
    """In percent: the share of episodes that reach the goal, or the return between `references` as 0 to 100; for tasks of one's
    own also the return as it is."""
    hyperparameters: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """By the name of an agent: other settings of it that the papers' authors trained it with on this task."""
    online_hyperparameters: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """The same where training goes on in the environment, as far as it differs."""
    default: bool = False
    """Whether it is the one that OGBench's name without a task number means."""
    reward_shift: float = 0.0
    """What is added to each recorded reward: -1 makes D4RL's 0 and 1 into -1 and 0."""
    references: tuple[float, float] | None = None
    """The returns of a random and of an expert policy, which a normalized return puts at 0 and 100."""
    frame_stack: int = 1
    """Pictures in an observation, along the channels."""
    published: str | None = None
    """Its name in the papers' tables, or None for a task that they do not have."""
    caveat: str = ""
    """What keeps scores here from being compared with published ones; empty where nothing does."""
    maze: str = "data"
    """Of D4RL's mazes: whose walls episodes are played in, the "data"'s or the "evaluation"'s, where Minari's two differ."""
    after_goal: bool = True
    """Of D4RL's mazes: whether the steps that follow a reached goal in an episode belong to the data."""

    def __post_init__(self):
        if self.maze not in MAZES:
            raise ValueError(unknown("maze", self.maze, MAZES))
        if self.variation and not self.group.startswith(("d4rl-antmaze", "d4rl-pointmaze")):
            said = ", ".join(f"{name}={value!r}" for name, value in self.variation.items())
            raise ValueError(
                f"Only D4RL's mazes have another maze, or steps after the goal; got {said} for {self.name}."
            )

    @property
    def variation(self) -> dict[str, Any]:
        """What of `maze` and `after_goal` is not as usual."""
        usual = {"maze": "data", "after_goal": True}
        return {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}

    @property
    def settings_from(self) -> Literal["papers", "ours"]:
        """Where discount, alpha and budget come from: the papers, or for tasks that they do not have, our choice."""
        return "papers" if self.published else "ours"

    @property
    def has_environment(self) -> bool:
        """Whether there is an environment to evaluate in."""
        return bool(self.environment)

    def to_dict(self) -> dict[str, Any]:
        """What `fdbook.data.tasks.task_from_dict` makes it again from, in plain JSON: its name, and what one's own is made of."""
        source = self.dataset.origin
        return {"name": self.name} | self.variation | ({} if source is None else source.description)

    @property
    def reward(self) -> str:
        """The convention of rewards and masks, in words."""
        if self.dataset.origin is not None:
            return "as the data have them"
        if not self.parts:
            return "dense; episodes end by time alone, so masks are 1"
        parts = "0 at the goal, -1 elsewhere" if self.parts == 1 else f"parts met - {self.parts}"
        return f"{parts}; mask 0 where all is met"

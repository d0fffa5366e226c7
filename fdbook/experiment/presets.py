"""Presets: what a specification says where its user says nothing. Each is a function of the task."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fdbook.checks import unknown
from fdbook.data.tasks import Task
from fdbook.rl import agents


__all__ = ["PRESETS", "Preset", "preset", "registry"]

LAPTOP_MAZES = ("ogbench-pointmaze", "d4rl-pointmaze")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes, steps and settings of a run."""

    updates: int
    evaluations: tuple[int, ...]
    """The updates after which it is evaluated."""
    config: dict[str, Any]
    """Settings of agents; each agent takes those that it has."""
    episodes: int = 50
    """Episodes of an evaluation, for each seed."""
    normalize: bool = False
    """Whether observations are taken to mean 0 and standard deviation 1."""
    wavelengths: tuple[float, ...] = ()
    """Fourier features that are added to them (`fdbook.rl.fourier_features.Normalizer`)."""
    metric: str = "exact"
    """The metric of "fidec"."""


def laptop(task: Task) -> Preset:
    """What two cores do in half an hour: smaller networks, fewer updates, a larger learning rate.

    In a point maze one step changes the value by a hundredth, and the policy arrives only if no corner traps it. Small networks
    that see Fourier features of the place, four critics whose minimum is believed, and target networks that follow fast get
    there within minutes; scores are read at t = 0.8. Of pictures, whose encoders take nearly all of the time, there are small
    batches, and few: a flow hardly begins to see, and nothing is solved.
    """
    if task.group in LAPTOP_MAZES:
        config = {"width": 64, "depth": 3, "learning_rate": 2e-3, "num_critics": 4, "tau": 0.05, "flow_steps": 5}
        evaluations = (5_000, 10_000, 15_000, 20_000)
        config |= {"multiplier": 0.01 if task.group == "ogbench-pointmaze" else 1.0}
        return Preset(20_000, evaluations, config, normalize=True, wavelengths=(8.0, 4.0, 2.0))
    config = {"width": 256, "depth": 3, "learning_rate": 1e-3}
    if task.dataset.pixels:
        return Preset(400, (400,), config | {"batch_size": 32}, episodes=2)
    return Preset(60_000, tuple(range(10_000, 60_001, 10_000)), config)


def paper(task: Task) -> Preset:
    """The papers' networks, updates and evaluations, with the exact metric."""
    return Preset(task.updates, task.evaluations, {"width": 512, "depth": 4})


def released(task: Task) -> Preset:
    """The papers' sizes, and what the released code of Fisher Decorator does where that differs.

    Every row of the batch is a state of the actor's, with K fresh samples whose scores are read between t = 0.85 and 0.90, and
    the displacement starts at full scale. It holds for DeFlow too, whose released code clips gradients alike.
    """
    config = {
        "actions_per_state": 1,
        "fisher_samples": "fresh",
        "num_fisher_samples": 8,
        "delta_scale": 1.0,
        "selection": "base",
    }
    return dataclasses.replace(paper(task), config=paper(task).config | config, metric="released")


PRESETS: dict[str, Callable[[Task], Preset]] = {"laptop": laptop, "paper": paper, "released": released}


def preset(name: str, task: Task) -> Preset:
    """The named preset for a task. Raises ValueError, with the nearest name, when there is none."""
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name](task)


def registry(task: Task, agent: str, *, online: bool = False) -> dict[str, Any]:
    """What the registry of tasks says of an agent's settings (`Entry.of_task`); some may not be settings of that agent.

    `online` says that the run has an online phase, for which the papers' authors trained some agents with other settings.
    """
    config = {setting: getattr(task, name) for setting, name in agents.AGENTS[agent].of_task.items()}
    return config | task.hyperparameters.get(agent, {}) | (task.online_hyperparameters.get(agent, {}) if online else {})

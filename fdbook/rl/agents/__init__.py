"""The agents, by the names under which the command line and run records know them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import PRNGKeyArray

from fdbook.checks import unknown
from fdbook.geometry import metrics
from fdbook.rl.agents.base import Agent
from fdbook.rl.agents.bc import FlowBC
from fdbook.rl.agents.decorated import Decorated
from fdbook.rl.agents.fql import FQL
from fdbook.rl.agents.ifql import IFQL
from fdbook.rl.agents.iql import IQL
from fdbook.rl.agents.rebrac import ReBRAC


__all__ = [
    "FQL",
    "IFQL",
    "IQL",
    "METRICS",
    "METRIC_SETTINGS",
    "NAMES",
    "Agent",
    "Decorated",
    "FlowBC",
    "ReBRAC",
    "check",
    "family",
    "make",
    "metric_name",
]

NAMES: dict[str, tuple[type[Agent], str]] = {
    "bc": (FlowBC, "a flow that imitates the data (E2)"),
    "ifql": (IFQL, "the best of 32 samples of that flow, judged by implicit Q-learning"),
    "fql": (FQL, "Flow Q-Learning: a one-step policy held to the flow by L2 (E17)"),
    "deflow": (Decorated, "the flow and a displacement under L2 (E18)"),
    "fidec": (Decorated, "the flow and a displacement under a Fisher metric (E19 to E22; choose it with --metric)"),
    "iql": (IQL, "implicit Q-learning with a Gaussian policy, without a flow"),
    "rebrac": (ReBRAC, "TD3 with behaviour cloning, a deterministic policy, without a flow"),
}

METRICS = {
    "paper": "fisher-paper",
    "released": "fisher-released",
    "exact": "fisher-exact",
    "fisher-rao": "fisher-rao",
    "l2": "l2",
}
"""The metrics of `fidec`, by the names that the command line has for them, and by those of `fdbook.geometry.metrics`."""


def family(name: str) -> type[Agent]:
    """The class of a named agent. Raises ValueError, with the nearest name, when there is none."""
    if name not in NAMES:
        raise ValueError(unknown("agent", name, NAMES))
    return NAMES[name][0]


METRIC_SETTINGS = ("damping", "trace_normalised", "perturbed_time", "perturbed_width")
"""Settings of `fidec` that its metric takes: those of `fdbook.geometry.metrics`, and the middle and width of its times."""


def make(name: str, metric: str | None = None) -> Callable[..., Agent]:
    """The `init` of a named agent; that of `fidec`, with a named metric ("exact" by default), takes METRIC_SETTINGS too.

    Raises ValueError, with the nearest name, for an agent or metric that there is not, and for a metric where none belongs.
    """
    kind = family(name)
    if name != "fidec":
        if metric is not None:
            raise ValueError(f"Only the agent 'fidec' takes a metric; got metric={metric!r} for {name!r}.")
        return kind.init
    chosen = metric_name(metric)

    def init(observation_shape: tuple[int, ...], action_dim: int, *, key: PRNGKeyArray, **settings: Any) -> Agent:
        rest = {each: value for each, value in settings.items() if each not in METRIC_SETTINGS}
        return kind.init(observation_shape, action_dim, key=key, metric=_metric(chosen, settings), **rest)

    return init


def metric_name(metric: str | None) -> str:
    """The name in `fdbook.geometry.metrics` of a metric of `fidec`. Raises ValueError, with the nearest name, when unknown."""
    metric = "exact" if metric is None else metric
    known = METRICS | {each: each for each in metrics.NAMES}
    if metric not in known:
        raise ValueError(unknown("metric", metric, METRICS))
    return known[metric]


def _metric(name: str, settings: dict[str, Any]) -> metrics.Metric:
    """A metric with those of an agent's settings that are its own."""
    options = {each: settings[each] for each in ("damping", "trace_normalised") if each in settings}
    if "perturbed_time" in settings or "perturbed_width" in settings:
        if name == "l2" or settings.get("fisher_samples") != "fresh":
            steps = settings.get("flow_steps", Decorated.Settings.flow_steps)
            last = f"else scores are read at the flow's last stage, t = {(steps - 1) / steps:g}"
            raise ValueError(f"A perturbed time is for a Fisher metric with fisher_samples = fresh; {last}.")
        low, high = metrics.Fisher().t
        middle = settings.get("perturbed_time", (low + high) / 2)
        half = settings.get("perturbed_width", high - low) / 2
        options["t"] = (float(middle - half), float(middle + half)) if half > 0 else float(middle)
    return metrics.make(name, **options)


def check(name: str, metric: str | None, **settings: Any) -> None:
    """Refuses settings that a named agent does not have, and values out of range, without building it."""
    known = [field.name for field in dataclasses.fields(family(name).Settings)]
    known += METRIC_SETTINGS if name == "fidec" else []
    for each in settings:
        if each not in known:
            raise ValueError(unknown(f"setting of {name}", each, known))
    family(name).configure(**{each: value for each, value in settings.items() if each not in METRIC_SETTINGS})
    if name == "fidec":
        _metric(metric_name(metric), settings)

"""The agents, by the names under which the command line and run records know them."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PRNGKeyArray

from fdbook.checks import check_fields, unknown
from fdbook.geometry import metrics
from fdbook.rl.agents.base import Agent, Config
from fdbook.rl.agents.bc import FlowBC
from fdbook.rl.agents.deflow_fidec import DecoratedFlow
from fdbook.rl.agents.fql import FQL
from fdbook.rl.agents.ifql import IFQL
from fdbook.rl.agents.iql import IQL
from fdbook.rl.agents.rebrac import ReBRAC


__all__ = [
    "FQL",
    "IFQL",
    "IQL",
    "NAMES",
    "Agent",
    "Config",
    "DecoratedFlow",
    "FlowBC",
    "ReBRAC",
    "check",
    "family",
    "make",
]

NAMES: dict[str, tuple[type[Agent], str]] = {
    "bc": (FlowBC, "a flow that imitates the data (E2)"),
    "ifql": (IFQL, "the best of 32 samples of that flow, judged by implicit Q-learning"),
    "fql": (FQL, "Flow Q-Learning: a one-step policy held to the flow by L2 (E17)"),
    "deflow": (DecoratedFlow, "the flow and a displacement under L2 (E18)"),
    "fidec": (
        DecoratedFlow,
        "the flow and a displacement under another metric (E19 to E22, E28, E29; choose it with --metric)",
    ),
    "iql": (IQL, "implicit Q-learning with a Gaussian policy, without a flow"),
    "rebrac": (ReBRAC, "TD3 with behavior cloning, a deterministic policy, without a flow"),
}


def family(name: str) -> type[Agent]:
    """The class of a named agent. Raises ValueError, with the nearest name, when there is none."""
    if name not in NAMES:
        raise ValueError(unknown("agent", name, NAMES))
    return NAMES[name][0]


def make(name: str) -> Callable[..., Agent]:
    """The `init` of a named agent, which takes its settings by keyword.

    That of "fidec" takes any `metric` and has the Fisher metric of the exact score by default; that of "deflow" has L2, and takes
    no other. Raises ValueError, with the nearest name, for an agent that there is not.

    >>> agent = agents.make("fidec")((4,), 2, key=jr.key(0), width=8, depth=1)
    >>> agent.action_dim, metrics.short_name(agent.config.metric)
    (2, 'exact')
    """
    kind = family(name)

    def init(observation_shape: tuple[int, ...], action_dim: int, *, key: PRNGKeyArray, **config: Any) -> Agent:
        return kind.init(observation_shape, action_dim, key=key, **_with_metric(name, config))

    return init if kind is DecoratedFlow else kind.init


def _with_metric(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a decorated flow, with the metric that its name stands for."""
    if name == "fidec":
        return {"metric": metrics.Fisher()} | config
    if config.get("metric", metrics.L2()) != metrics.L2():
        raise ValueError(f"The agent 'deflow' has the metric L2; got {config['metric']}: that is the agent 'fidec'.")
    return config


def check(name: str, **config: Any) -> None:
    """Refuses settings that a named agent does not have, and values out of range, without building it."""
    kind = family(name)
    for item in config:
        if item.startswith("metric.") and kind is DecoratedFlow:
            option = item.removeprefix("metric.")
            raise ValueError(f"{option!r} is an option of a metric: say metric=metrics.make(name, {option}=...).")
    check_fields(kind.Config, config, f"setting of {name}")
    kind.configure(**(_with_metric(name, config) if kind is DecoratedFlow else config))

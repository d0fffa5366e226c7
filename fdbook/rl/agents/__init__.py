"""The agents, by the names under which the command line and run records know them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
    "AGENTS",
    "FQL",
    "IFQL",
    "IQL",
    "Agent",
    "Config",
    "DecoratedFlow",
    "Entry",
    "FlowBC",
    "ReBRAC",
    "check",
    "choose_metric",
    "family",
    "make",
    "method",
]


OF_TASK = {"discount": "discount", "q_agg": "q_agg", "budget": "budget"}
"""What a task says of most agents' settings; those that an agent does not have are left out."""


class Entry(NamedTuple):
    """What is known of an agent by its name."""

    kind: type[Agent]
    summary: str
    """One line, for `fdbook train --names`."""
    metric: str | None = None
    """The name of the metric that it has where none is chosen; None: it has no metric."""
    any_metric: bool = False
    """Whether another metric can be chosen; methods are then told apart by it in tables and figures, as in "fidec exact"."""
    of_task: Mapping[str, str] = OF_TASK
    """Settings that come from the task where none are said: their names, and what a `Task` has for them."""


AGENTS = {
    "bc": Entry(FlowBC, "a flow that imitates the data (E2)"),
    "ifql": Entry(IFQL, "the best of 32 samples of that flow, judged by implicit Q-learning"),
    "fql": Entry(
        FQL,
        "Flow Q-Learning: a one-step policy held to the flow by L2 (E17)",
        of_task=OF_TASK | {"alpha": "fql_alpha"},
    ),
    "deflow": Entry(DecoratedFlow, "the flow and a displacement under L2 (E18)", metric="l2"),
    "fidec": Entry(
        DecoratedFlow,
        "the flow and a displacement under another metric (E19 to E22, E28, E29; choose it with --metric)",
        metric="exact",
        any_metric=True,
    ),
    "iql": Entry(IQL, "implicit Q-learning with a Gaussian policy, without a flow"),
    "rebrac": Entry(
        ReBRAC,
        "TD3 with behavior cloning, a deterministic policy, without a flow",
        of_task={"discount": "discount"},
    ),
}


def family(name: str) -> type[Agent]:
    """The class of a named agent. Raises ValueError, with the nearest name, when there is none."""
    if name not in AGENTS:
        raise ValueError(unknown("agent", name, AGENTS))
    return AGENTS[name].kind


def method(name: str, metric: str | None) -> str:
    """What an agent with a metric of that short name is called in tables and figures, as in "deflow" or "fidec exact"."""
    return f"{name} {metric}" if name in AGENTS and AGENTS[name].any_metric else name


def choose_metric(name: str, metric: metrics.Metric | str | None) -> metrics.Metric | None:
    """The metric of a named agent: the chosen one, or its own where none is chosen; None for an agent without one.

    Raises ValueError, with a sentence that says which agents take another, for a metric that the agent cannot have.
    """
    entry = AGENTS[name]
    chosen = metric if metric is None or isinstance(metric, metrics.Metric) else metrics.make(str(metric))
    takers = " or ".join(repr(other) for other in AGENTS if AGENTS[other].any_metric)
    if entry.metric is None and chosen is not None:
        raise ValueError(f"Only the agent {takers} takes a metric; got metric={metric!r} for {name!r}.")
    if entry.metric is None:
        return None
    own = metrics.make(entry.metric)
    if chosen is not None and chosen != own and not entry.any_metric:
        raise ValueError(
            f"The agent {name!r} has the metric {metrics.short_name(own)}; got metric={metric!r}: that is for {takers}."
        )
    return own if chosen is None else chosen


def make(name: str) -> Callable[..., Agent]:
    """The `init` of a named agent, which takes its settings by keyword.

    That of "fidec" takes any `metric` and has the Fisher metric of the exact score by default; that of "deflow" has L2, and takes
    no other. Raises ValueError, with the nearest name, for an agent that there is not.

    >>> agent = agents.make("fidec")((4,), 2, key=jr.key(0), width=8, depth=1)
    >>> agent.action_dim, metrics.short_name(agent.config.metric)
    (2, 'exact')
    """
    kind, entry = family(name), AGENTS[name]

    def init(observation_shape: tuple[int, ...], action_dim: int, *, key: PRNGKeyArray, **config: Any) -> Agent:
        return kind.init(observation_shape, action_dim, key=key, **_with_metric(name, config))

    return kind.init if entry.metric is None else init


def _with_metric(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The settings of an agent, with the metric that its name stands for."""
    return config if AGENTS[name].metric is None else config | {"metric": choose_metric(name, config.get("metric"))}


def check(name: str, **config: Any) -> None:
    """Refuses settings that a named agent does not have, and values out of range, without building it."""
    kind = family(name)
    for item in config:
        if item.startswith("metric.") and AGENTS[name].metric is not None:
            option = item.removeprefix("metric.")
            raise ValueError(f"{option!r} is an option of a metric: say metric=metrics.make(name, {option}=...).")
    check_fields(kind.Config, config, f"setting of {name}")
    kind.configure(**_with_metric(name, config))

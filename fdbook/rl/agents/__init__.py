"""The agents, by the names under which the command line and run records know them."""

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


__all__ = ["FQL", "IFQL", "IQL", "METRICS", "NAMES", "Agent", "Decorated", "FlowBC", "ReBRAC", "family", "make"]

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


def make(name: str, metric: str | None = None) -> Callable[..., Agent]:
    """The `init` of a named agent, for `fidec` with a named metric ("exact" by default).

    Raises ValueError, with the nearest name, for an agent or metric that there is not, and for a metric where none belongs.
    """
    kind = family(name)
    if name != "fidec":
        if metric is not None:
            raise ValueError(f"Only the agent 'fidec' takes a metric; got metric={metric!r} for {name!r}.")
        return kind.init
    metric = "exact" if metric is None else metric
    known = METRICS | {each: each for each in metrics.NAMES}
    if metric not in known:
        raise ValueError(unknown("metric", metric, METRICS))
    chosen = metrics.make(known[metric])

    def init(observation_shape: tuple[int, ...], action_dim: int, *, key: PRNGKeyArray, **settings: Any) -> Agent:
        return kind.init(observation_shape, action_dim, key=key, metric=chosen, **settings)

    return init

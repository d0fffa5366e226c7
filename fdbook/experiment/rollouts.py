"""Policies of a frozen flow and displacements of its actions, played in the environment of a task.

What is played acts as decorated flows do: the flow's Euler steps, clipped to the box, displaced and clipped again. The KL of a
ladder is that of the flow's own law, which those few steps follow nearly.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from fdbook.experiment import measure
from fdbook.experiment.evaluation import environments, episode_scores
from fdbook.experiment.run import Run
from fdbook.rl import agents, evaluate, networks
from fdbook.rl.agents import Agent, DecoratedFlow


__all__ = ["Played", "player", "with_displacements", "zero_displacements"]


class Played(NamedTuple):
    """What episodes came to, for each rung where there are several, each agent and each episode."""

    score: Float[np.ndarray, "*rungs agents episodes"]
    """The task's score: in percent, or a return."""
    length: Float[np.ndarray, "*rungs agents episodes"]
    """Steps: to the goal in tasks that end there, and the horizon where it was not reached: mostly, who reaches more goals."""


def with_displacements(stacked: Agent, deltas: PyTree) -> Agent:
    """Agents, stacked along the first axis of their arrays, that act with a flow's actions and these displacements of them.

    `stacked` is any agent with a flow; the displacements see what the flow sees.
    """
    shared = {field.name for field in dataclasses.fields(agents.Config)}
    told = {name: getattr(stacked.config, name) for name in shared}
    flow = stacked.networks["flow"]
    parts = {"flow": flow, "delta": networks.Encoded(flow.encoder, deltas)}
    return DecoratedFlow(parts, {}, (), DecoratedFlow.Config(**told, actions_per_state=1), stacked.action_dim)


@contextlib.contextmanager
def player(run: Run, episodes: int, starts: str) -> Iterator[Callable[[PyTree], Played]]:
    """A function that plays displacements, stacked as (agents, rungs, ...), in environments that are made once.

    Episode i starts alike for every agent, rung and call. Raises ValueError for a task without an environment or such starts.
    """
    seeds = run.spec.seeds
    options = {"episodes": episodes, "normalizer": run.normalizer}
    with environments(run.task, len(seeds), episodes, starts=starts) as get:

        def play(deltas: PyTree) -> Played:
            rungs = jax.tree.leaves(eqx.filter(deltas, eqx.is_array))[0].shape[1]
            made = []
            for rung in range(rungs):
                acting = with_displacements(run.agents, measure.take(deltas, slice(None), rung))
                played = evaluate.evaluate(acting, get(), seeds, **options)
                result = cast(evaluate.Evaluation, played)  # None is of one that was stopped, and nothing stops this
                made.append(Played(episode_scores(run.task, result), result.lengths.astype(float)))
            return measure.stack(made)

        yield play


def zero_displacements(deltas: PyTree) -> PyTree:
    """Displacements of 0 in the place of the first rung's (agents, 1, ...)."""
    return jax.tree.map(lambda x: 0 * x[:, :1] if eqx.is_array(x) else x, deltas)

"""Displacements of a frozen flow, refit under a metric: all agents and all multipliers side by side, on the same draws."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array
from fdbook.experiment import measure
from fdbook.geometry import anisotropy, loop, transport
from fdbook.geometry.metrics import Metric
from fdbook.rl import networks
from fdbook.rl.agents import Agent


__all__ = ["Frozen", "Refit", "freeze", "interpolate_multipliers", "read_metric", "sample"]

FIRST, CHUNK = 0.01, 500
PILOT_SHARE, PILOT_STATES, UNIT_STATES = 0.25, 64, 512


class Frozen(NamedTuple):
    """What does not change, one for each agent: networks, what a unit of Q counts, states, actions, what the metric reads."""

    critic: PyTree
    unit: Float[Array, ""]
    inputs: dict[str, Array]
    actions: Float[Array, "states k d"]
    readings: PyTree


class _Loss(eqx.Module):
    """E18 to E22 of every rung of every agent, on the same states: the sum, whose parts share no weight."""

    metric: Metric = eqx.field(static=True)
    batch_states: int = eqx.field(static=True)

    def __call__(self, deltas, data, *, key):
        frozen, multipliers = data
        index = jr.randint(key, (self.batch_states,), 0, frozen.actions.shape[1])
        over_rungs = eqx.filter_vmap(self._rung, in_axes=(eqx.if_array(0), 0, None, None))
        over_agents = eqx.filter_vmap(over_rungs, in_axes=(eqx.if_array(0), 0, eqx.if_array(0), None))
        losses, penalties = over_agents(deltas, multipliers, frozen, index)
        return jnp.sum(losses), {"penalty": jnp.mean(penalties)}

    def _rung(self, delta, multiplier, frozen, index):
        inputs, actions, readings = jax.tree.map(lambda x: x[index], (frozen.inputs, frozen.actions, frozen.readings))
        value = functools.partial(measure.mean_value, frozen.critic, frozen.unit)
        base = transport.BaseActions(inputs, actions, readings)
        loss, info = transport.actor_loss(measure.moving_map(delta), value, self.metric, base, multiplier)
        return loss, info["penalty"]


@eqx.filter_jit
def sample(agents: Agent, observations: Array, count: int, key: PRNGKeyArray) -> Float[Array, "agents states k d"]:
    """Actions (agents, states, count, d) of each agent's flow, by an accurate solver; the noises are the agents' common ones."""

    def one(agent):
        field = agent.networks["flow"]
        return anisotropy.sample_actions(field.head, field.features(observations), count, key=key)

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0),))(agents)


@eqx.filter_jit
def read_metric(
    agents: Agent,
    metric: Metric,
    observations: Array,
    actions: Float[Array, "agents states k d"],
    key: PRNGKeyArray,
) -> PyTree:
    """What a metric reads at the actions (agents, states, k, d) of each state, noised afresh."""
    if metric.reads == "nothing":
        return None
    keys = jr.split(key, len(observations))

    def one(agent, actions):
        field = agent.networks["flow"]
        read = functools.partial(metric.perturbed, field.head)
        rows = (field.features(observations), actions, keys)
        return jax.lax.map(lambda row: read(row[0], row[1], key=row[2]), rows, batch_size=64)

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0))(agents, actions)


@eqx.filter_jit
def _units(agents, observations, actions):
    """For each agent 1 / mean |Q| of its critics' mean, and the mean length of that value's gradient in the action."""

    def one(agent, actions):
        inputs, critic = measure.features(agent, observations), agent.networks["critic"]
        value = functools.partial(measure.mean_value, critic, jnp.ones((), jnp.float32))
        both = jax.vmap(jax.vmap(jax.value_and_grad(value, argnums=1), in_axes=(None, 0)))
        values, slopes = both(inputs, actions)
        unit = 1 / jnp.maximum(jnp.mean(jnp.abs(values)), 1e-8)
        return unit, unit * jnp.sqrt(jnp.mean(jnp.sum(slopes**2, axis=-1)))

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0))(agents, actions)


@eqx.filter_jit
def _seen(agents, observations):
    """The features of observations (agents, states, ...) under each agent's encoders."""
    return eqx.filter_vmap(lambda agent: measure.features(agent, observations), in_axes=(eqx.if_array(0),))(agents)


def freeze(agents: Agent, observations: Array, count: int, *, key: PRNGKeyArray) -> tuple[Frozen, np.ndarray]:
    """What stays of some agents, with `count` actions of their flows in each state, and the slope of each one's value.

    The slope (agents,) is the root mean square length of the gradient of Q in the action, in units of mean |Q|.
    """
    actions = sample(agents, observations, count, key)
    unit, slope = _units(agents, observations[:UNIT_STATES], actions[:, :UNIT_STATES])
    return Frozen(agents.networks["critic"], unit, _seen(agents, observations), actions, None), np.asarray(slope)


class Refit:
    """The displacements of several agents (first axis) for several multipliers (second axis) under one metric.

    Every one of them starts from the same weights, its agent's, and sees the same batches of states. `updates` is the length of
    the whole fit, along which the learning rate falls to 0.
    """

    def __init__(
        self,
        agents: Agent,
        metric: Metric,
        frozen: Frozen,
        held_out: measure.HeldOut,
        *,
        updates: int,
        learning_rate: float,
        batch_states: int,
        key: PRNGKeyArray,
    ):
        self.agents, self.metric, self.frozen, self.held_out = agents, metric, frozen, held_out
        self.updates, self.learning_rate, self.batch_states = updates, learning_rate, batch_states
        self._first_key, self._fit_key = jr.split(key)

    def fit(self, multipliers: Float[np.ndarray, "agents rungs"], updates: int | None = None) -> PyTree:
        """The displacements after all updates, or after the first few of them; their arrays are (agents, rungs, ...)."""
        count, rungs = multipliers.shape
        loss, optimizer = _Loss(self.metric, self.batch_states), loop.Adam(self.learning_rate, self.updates)
        update, state = loop.training(loss, self._first(count, rungs), optimizer)
        data = (self.frozen, jnp.asarray(multipliers, jnp.float32))
        options: dict[str, Any] = {"steps": updates or self.updates, "chunk": min(CHUNK, self.updates)}
        options |= {"key": self._fit_key, "progress": False, "label": "displacements"}
        state, _ = loop.run(update, state, data, **options)
        return state.model

    def _first(self, count, rungs) -> PyTree:
        config, (*_, width) = self.agents.config, self.frozen.inputs["flow"].shape

        def one(key):
            return networks.displacement(width, self.agents.action_dim, config.width, config.depth, last=FIRST, key=key)

        made = eqx.filter_vmap(one)(jr.split(self._first_key, count))
        return jax.tree.map(lambda x: jnp.repeat(x[:, None], rungs, axis=1) if eqx.is_array(x) else x, made)

    def measured(self, deltas: PyTree, states: int | None = None) -> measure.Measured:
        """What they gain and cost at the held-out states, or at the first few of them, with axes (rungs, agents) in front."""
        agents, rungs = jax.tree.leaves(eqx.filter(deltas, eqx.is_array))[0].shape[:2]

        def one(rung, place):
            agent, delta = measure.take(self.agents, place), measure.take(deltas, slice(None), rung)
            held_out = measure.take(self.held_out, place, slice(states))
            return measure.measured(agent, measure.take(delta, place), held_out)

        return measure.stack([measure.stack([one(rung, place) for place in range(agents)]) for rung in range(rungs)])

    def place_multipliers(
        self,
        wanted: Float[np.ndarray, " rungs"],
        slope: Float[np.ndarray, " agents"],
        density: Float[np.ndarray, " agents"],
    ) -> Float[np.ndarray, "agents rungs"]:
        """Multipliers whose displacements cost about the `wanted` KL, rising, in nats: by a short pilot.

        The pilot begins where one step of the quadratic model would have them, for values as steep as `slope`, on densities whose
        Fisher matrix has the trace `density` times d. Between its rungs the KL is interpolated.
        """
        level = self._level()
        guess = self.agents.action_dim * (slope / (2 * level) * np.sqrt(density / 2))[:, None] / np.sqrt(wanted)[None]
        pilot = self.fit(guess, max(1, int(PILOT_SHARE * self.updates)))
        kl = np.mean(self.measured(pilot, PILOT_STATES).kl, axis=-1).T
        return np.stack([interpolate_multipliers(*row, wanted) for row in zip(guess, kl, strict=True)])

    def _level(self) -> np.ndarray:
        """What the metric charges |delta|^2 / d with, in the mean over states, for each agent."""
        if self.frozen.readings is None:
            return np.ones(1)
        metric = self.metric
        over = jax.vmap(jax.vmap(lambda r: (metric.level(r) + metric.damping) / metric.scale(r)))
        return np.asarray(jnp.mean(over(self.frozen.readings), axis=1))


def interpolate_multipliers(multipliers: np.ndarray, kl: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The multipliers at which log KL, linear between given ones (falling), is as wanted; outside, KL falls with their square."""
    logs = np.log(np.maximum.accumulate(np.maximum(np.nan_to_num(kl, nan=1e-9, posinf=1e9), 1e-9)))
    logs += 1e-9 * np.arange(len(logs))
    goal, heights = np.log(wanted), np.log(multipliers)
    inside = np.interp(goal, logs, heights)
    below, above = np.minimum(goal - logs[0], 0), np.maximum(goal - logs[-1], 0)
    return np.exp(inside - (below + above) / 2)

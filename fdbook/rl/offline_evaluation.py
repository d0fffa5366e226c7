"""Judging policies by logs alone, where there is no environment: numbers that are each what their names say, and none a score.

`held_out_losses` are what agents were trained to make small, on data that they were not trained on. `held_out_nll` tells how well
a flow describes logged behavior, and nothing of how good that is. `critic_value` is what the own critics of an agent believe of
its policy: the policy was made to please them, so that it is too high as a rule. `fqe_value` is fitted Q evaluation: a fresh
critic, which the policy never saw, is fitted to the policy's own value on the data; where the policy leaves the data, it
extrapolates too. None of them is a rollout.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Float, Int, PRNGKeyArray

from fdbook.checks import Array, check_range
from fdbook.geometry import flow, loop
from fdbook.rl import networks
from fdbook.rl.agents import Agent
from fdbook.rl.agents.base import values
from fdbook.rl.transitions import ACTION_BOUND, Transitions


__all__ = [
    "FittedQ",
    "Likelihood",
    "critic_value",
    "first_states",
    "fitted_q_value",
    "held_out_evaluate",
    "held_out_likelihood",
    "held_out_losses",
    "offline_evaluate",
]


@dataclasses.dataclass(frozen=True)
class FittedQ:
    """Hyperparameters of fitted Q evaluation."""

    updates: int = 20_000
    batch_size: int = 256
    width: int = 256
    """Units of each hidden layer."""
    depth: int = 2
    """Hidden layers, with layer normalization."""
    num_critics: int = 2
    """Networks that are fitted; their mean is the value and the target."""
    learning_rate: float = 3e-4
    tau: float = 0.005
    """What part of the critics goes into their target networks at each update."""
    discount: float | None = None
    """None: the agents' own."""

    def __post_init__(self):
        for name in ("updates", "batch_size", "width", "depth", "num_critics"):
            check_range(getattr(self, name), name, "FittedQ", low=1.0)
        check_range(self.learning_rate, "a learning rate", "FittedQ", open_low=True)
        check_range(self.tau, "tau", "FittedQ", high=1.0, open_low=True)
        if self.discount is not None:
            check_range(self.discount, "a discount", "FittedQ", high=1.0, open_high=True)


class Likelihood(NamedTuple):
    """How likely logged actions are under the flow of each agent."""

    nll: Float[np.ndarray, " seeds"]
    """The mean of -log p(a | s) in nats (E4) over the actions inside the box; NaN where there is none."""
    clipped_share: float
    """The share of actions with a coordinate at the edge of the box, which are left out."""


def offline_evaluate(
    agents: Agent,
    data: Transitions,
    seeds: Sequence[int],
    *,
    train: Transitions | None = None,
    fitted: FittedQ | None = None,
    states: int = 1000,
    progress: bool = False,
    key: PRNGKeyArray,
) -> dict[str, list[float | None]]:
    """What logs say of several agents, stacked along the first axis of their arrays, one for each of `seeds`.

    `data` are held-out transitions with observations as the agents were trained on (normalized alike). For each seed:
    "held_out_nll" and "clipped_share" (`held_out_likelihood`) for agents with a flow, "critic_value" for those with critics, and
    "fqe_value" (`fitted_q_value`), fitted on `train` (None: on `data`) with the hyperparameters `fitted` and read at the first
    states of the episodes of `data`. For the first two, `states` are drawn at most; None stands for what is not finite. Raises
    ValueError for no state.
    """
    likelihood_key, value_key, fit_key = jr.split(key, 3)
    result = {}
    if "flow" in agents.networks:
        result |= _likelihood_rows(agents, data, seeds, states, likelihood_key)
    if "critic" in agents.networks:
        result["critic_value"] = critic_value(agents, data, seeds, states=states, key=value_key)
    options = {"at": data, "fitted": fitted, "progress": progress}
    result["fqe_value"] = fitted_q_value(agents, data if train is None else train, seeds, key=fit_key, **options)
    return _rounded(result)


def held_out_evaluate(
    agents: Agent, data: Transitions, seeds: Sequence[int], *, batches: int = 32, states: int = 1000, key: PRNGKeyArray
) -> dict[str, list[float | None]]:
    """`held_out_losses` of each seed, and for agents with a flow "held_out_nll" and "clipped_share", as `offline_evaluate`."""
    loss_key, likelihood_key = jr.split(key)
    found = held_out_losses(agents, data, seeds, batches=batches, key=loss_key)
    if "flow" in agents.networks:
        found |= _likelihood_rows(agents, data, seeds, states, likelihood_key)
    return _rounded(found)


def _likelihood_rows(agents, data, seeds, states, key):
    """`held_out_likelihood` by name, a number for each seed."""
    likelihood = held_out_likelihood(agents, data, states=states, key=key)
    return {"held_out_nll": likelihood.nll, "clipped_share": np.full(len(seeds), likelihood.clipped_share)}


def _rounded(rows):
    return {
        name: [float(f"{value:.6g}") if np.isfinite(value) else None for value in row] for name, row in rows.items()
    }


def held_out_losses(
    agents: Agent, data: Transitions, seeds: Sequence[int], *, batches: int = 32, key: PRNGKeyArray
) -> dict[str, Float[np.ndarray, " seeds"]]:
    """What training logs (each loss, and the scalars beside them), with no update made: the mean over batches of held-out data.

    Batches are as large as the agents train on. One key draws the same rows from data of the same size for every agent, so that
    two runs on the same episodes are compared on the same transitions. Raises ValueError for another number of batches than 1, 2
    and so on.
    """
    if not isinstance(batches, int | np.integer) or batches < 1:
        raise ValueError(f"held_out_losses takes a whole number of batches, at least one; got batches={batches!r}.")
    numbers, means = jnp.asarray(seeds), []
    for batch_key in jr.split(key, batches):
        means.append(_losses(agents, data, numbers, batch_key))
    return {name: np.mean([np.asarray(each[name], float) for each in means], axis=0) for name in means[0]}


@eqx.filter_jit
def _losses(agents, data, seeds, key):
    """The scalars of one batch, each (seeds,); the batch is the same for all agents, and what is drawn beside it is not."""
    batch_key, draw_key = jr.split(key)

    def losses(agent, seed):
        batch = data.sample(agent.config.batch_size, key=batch_key)
        draws = agent.draw(batch, key=jr.fold_in(draw_key, seed))
        return agent.loss(agent.networks, batch, draws)[1]

    return eqx.filter_vmap(losses, in_axes=(eqx.if_array(0), 0))(agents, seeds)


def held_out_likelihood(agents: Agent, data: Transitions, *, states: int = 1000, key: PRNGKeyArray) -> Likelihood:
    """How likely the actions of at most `states` transitions are under each agent's flow, by its exact ODE (E4).

    The density is that of the flow before its samples are clipped to the box. Inside the box it is the clipped policy's too; at
    the edge that policy has no density but a heap, and logged actions are clipped as well: those are left out and counted. Agents
    that act through more than their flow (a displacement, a one-step policy) are judged by the flow alone, and the few Euler
    steps that they act with follow it only nearly.
    """
    batch = data.at(_chosen(data, states, key))
    inside = np.all(np.abs(np.asarray(batch.actions)) < np.float32(ACTION_BOUND), axis=1)
    share = float(1 - inside.mean())
    if not inside.any():
        return Likelihood(np.full(_count(agents), np.nan), share)
    logs = _log_probs(agents, batch.observations[inside], batch.actions[inside])
    return Likelihood(-np.asarray(logs, float).mean(axis=1), share)


@eqx.filter_jit
def _log_probs(agents, observations, actions):
    """log p (seeds, n) of actions under each agent's flow."""

    def log_probs(agent):
        field = agent.networks["flow"]
        return jax.vmap(functools.partial(flow.log_prob, field.head))(field.features(observations), actions)

    return eqx.filter_vmap(log_probs, in_axes=(eqx.if_array(0),))(agents)


def critic_value(
    agents: Agent, data: Transitions, seeds: Sequence[int], *, states: int = 1000, key: PRNGKeyArray
) -> np.ndarray:
    """The mean over at most `states` states of Q(s, a), a from the policy, by each agent's own critics, joined as in E16."""
    observations = data.at(_chosen(data, states, key)).observations
    return np.asarray(_own_values(agents, observations, jnp.asarray(seeds), key), float)


@eqx.filter_jit
def _own_values(agents, observations, seeds, key):
    def value(agent, seed):
        actions = _act(agent, observations, key=jr.fold_in(key, seed))
        critic = agent.networks["critic"]
        return jnp.mean(agent.aggregate(values(critic, critic.features(observations), actions)))

    return eqx.filter_vmap(value, in_axes=(eqx.if_array(0), 0))(agents, seeds)


def _act(agent, observations, *, key):
    """An action of the policy for each observation."""
    keys = jr.split(key, len(observations))
    return jax.vmap(lambda observation, subkey: agent.act(observation, key=subkey))(observations, keys)


class _State(NamedTuple):
    """Critics that are fitted, their target networks and the optimizer's state; stacked over seeds."""

    critic: networks.Encoded
    target: networks.Encoded
    opt_state: optax.OptState


class _Update(eqx.Module):
    """One step of fitted Q evaluation of every agent."""

    seeds: Int[Array, " seeds"]
    fitted: FittedQ = eqx.field(static=True)

    def __call__(self, state, context, *, key):
        agents, data = context

        def step(state, agent, seed):
            batch_key, act_key = jr.split(jr.fold_in(key, seed))
            batch = data.sample(self.fitted.batch_size, key=batch_key)
            return self._step(state, agent, batch, _act(agent, batch.next_observations, key=act_key))

        state, loss = eqx.filter_vmap(step, in_axes=(eqx.if_array(0), eqx.if_array(0), 0))(state, agents, self.seeds)
        return state, {"loss": jnp.mean(loss)}

    def _step(self, state, agent, batch, next_actions):
        discount = agent.config.discount if self.fitted.discount is None else self.fitted.discount
        next_q = values(state.target, state.target.features(batch.next_observations), next_actions)
        target_q = batch.rewards + discount * batch.masks * jnp.mean(next_q, axis=0)

        def loss(critic):
            q = values(critic, critic.features(batch.observations), batch.actions)
            return jnp.mean((q - target_q[None]) ** 2)

        value, gradient = eqx.filter_value_and_grad(loss)(state.critic)
        optimizer = optax.adam(self.fitted.learning_rate)
        critic, opt_state = loop.apply_gradient(optimizer, gradient, state.opt_state, state.critic)
        target = loop.incremental_update(critic, state.target, self.fitted.tau)
        return _State(critic, target, opt_state), value


def fitted_q_value(
    agents: Agent,
    data: Transitions,
    seeds: Sequence[int],
    *,
    at: Transitions | None = None,
    fitted: FittedQ | None = None,
    progress: bool = False,
    key: PRNGKeyArray,
) -> np.ndarray:
    """Fitted Q evaluation: an estimate (seeds,) of each policy's discounted return from the first states of episodes.

    For each agent fresh critics are fitted to r + discount * mask * Q'(s', a') on `data`, with a' drawn anew from the policy at
    every update and Q' the mean of the target networks; the value is the mean of Q(s, a), a from the policy, over the first
    states of `at` (None: of `data`).
    """
    fitted = FittedQ() if fitted is None else fitted
    numbers, (start_key, fit_key, act_key) = jnp.asarray(seeds), jr.split(key, 3)

    def start(seed):
        head = functools.partial(_head, data.action_dim, fitted)
        critic = networks.Encoded.of(data.observation_shape, head, key=jr.fold_in(start_key, seed))
        opt_state = optax.adam(fitted.learning_rate).init(eqx.filter(critic, eqx.is_inexact_array))
        return _State(critic, jax.tree.map(lambda leaf: leaf, critic), opt_state)

    options = {"steps": fitted.updates, "progress": progress, "label": "fitted Q"}
    state, _ = loop.run(
        _Update(numbers, fitted), eqx.filter_vmap(start)(numbers), (agents, data), key=fit_key, **options
    )
    at = data if at is None else at
    observations = at.at(first_states(at)).observations
    return np.asarray(_fitted_values(state.critic, agents, observations, numbers, act_key), float)


def _head(action_dim, fitted, width, *, key):
    return networks.Critics(width, action_dim, fitted.width, fitted.depth, fitted.num_critics, key=key)


@eqx.filter_jit
def _fitted_values(critics, agents, observations, seeds, key):
    def value(critic, agent, seed):
        actions = _act(agent, observations, key=jr.fold_in(key, seed))
        return jnp.mean(values(critic, critic.features(observations), actions))

    return eqx.filter_vmap(value, in_axes=(eqx.if_array(0), eqx.if_array(0), 0))(critics, agents, seeds)


def first_states(data: Transitions) -> Int[np.ndarray, " episodes"]:
    """The numbers, as `Transitions.at` takes them, of the first transition of each episode that has one."""
    last = np.flatnonzero(np.asarray(data.ends))
    first = np.concatenate([[0], last[:-1] + 1])
    if data.usable is None:
        return first
    usable = np.asarray(data.usable)
    return np.searchsorted(usable, first[np.isin(first, usable)])


def _chosen(data, states, key):
    """Numbers of at most `states` different transitions."""
    if states < 1:
        raise ValueError(f"offline evaluation takes at least one state; got states={states}.")
    if states >= data.size:
        return jnp.arange(data.size)
    return jr.choice(key, data.size, (states,), replace=False)


def _count(agents):
    """The number of agents that are stacked."""
    return jax.tree.leaves(eqx.filter(agents.networks, eqx.is_array))[0].shape[0]

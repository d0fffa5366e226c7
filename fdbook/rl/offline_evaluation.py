"""Judging a policy from logs alone, where there is no environment to play in: three estimates, none of which is a rollout.

`held_out_nll`   the negative log-likelihood, in nats, of logged actions under the agent's behavior flow (E4). It says how
                 well the log was imitated, and nothing about the improved policy.
`critic_value`   the mean of the agent's own critics at the actions it would take, over logged states: what the agent believes.
                 A critic that is too high says so of itself.
`fqe_value`      fitted Q evaluation: a fresh critic, trained by E16 on the log with the agent's actions at the next states, no
                 actor climbing it; its mean at the first states of the logged episodes. It is the least biased of the three,
                 and still blind where the log has not been.

An agent without a flow has no `held_out_nll`, one without critics no `critic_value`.
"""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_range
from fdbook.geometry import flow, loop
from fdbook.rl import networks
from fdbook.rl.agents import Agent, base
from fdbook.rl.transitions import Transitions


__all__ = ["FQE", "critic_values", "fitted_q_values", "held_out_nll", "offline_evaluate"]

CHUNK = 250


@dataclasses.dataclass(frozen=True)
class FQE:
    """Hyperparameters of fitted Q evaluation."""

    updates: int = 5_000
    width: int = 256
    depth: int = 3
    batch_size: int = 256
    learning_rate: float = 1e-3
    tau: float = 0.01
    """What part of the critic goes into its target network at each update."""
    critics: int = 2
    """Critics that are fitted side by side; the estimate is their mean."""

    def __post_init__(self):
        for name in ("updates", "width", "depth", "batch_size", "critics"):
            check_range(getattr(self, name), name, "FQE", low=1.0)
        check_range(self.learning_rate, "a learning rate", "FQE", open_low=True)
        check_range(self.tau, "tau", "FQE", high=1.0, open_low=True)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam with a learning rate that decays to 0."""
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.updates))


def offline_evaluate(
    agents: Agent,
    data: Transitions,
    seeds: Sequence[int],
    *,
    held_out: Transitions | None = None,
    rows: int = 1000,
    fqe: FQE | None = None,
    key: PRNGKeyArray | None = None,
) -> dict[str, list[float]]:
    """The estimates above for agents that are stacked along the first axis of their arrays, one number for each of `seeds`.

    `data` are the logged transitions on which fitted Q evaluation is trained, with observations as the agents see them;
    likelihood and critic are read at `rows` rows of `held_out` (None: of `data`), drawn once for all agents. Raises ValueError
    for a number of rows below 1.
    """
    check_range(rows, "a number of rows", "offline_evaluate", low=1.0)
    held_out = data if held_out is None else held_out
    row_key, act_key, fqe_key = jr.split(jr.key(0) if key is None else key, 3)
    batch = held_out.sample(rows, key=row_key)
    found = {}
    if "flow" in agents.networks:
        found["held_out_nll"] = held_out_nll(agents, batch.observations, batch.actions)
    if "critic" in agents.networks:
        found["critic_value"] = critic_values(agents, batch.observations, key=act_key)
    found["fqe_value"] = fitted_q_values(agents, data, seeds, fqe=FQE() if fqe is None else fqe, key=fqe_key)
    return {name: [float(f"{value:.6g}") for value in np.asarray(values)] for name, values in found.items()}


@eqx.filter_jit
def held_out_nll(
    agents: Agent, observations: Array, actions: Float[Array, "rows d"], *, steps: int = 20
) -> Float[Array, " seeds"]:
    """E4: the mean of -log pi(a|s), in nats, under each agent's unclipped flow, its divergence exact.

    The solver makes `steps` steps of Tsit5. Recorded actions that were clipped at the bounds of the box lie on atoms of the
    clipped policy; their densities are those of the flow before it is clipped.
    """

    def one(agent):
        field = agent.networks["flow"]
        features = field.features(observations)
        log_prob = jax.lax.map(
            lambda row: flow.log_prob(field.head, *row, steps=steps), (features, actions), batch_size=CHUNK
        )
        return -jnp.mean(log_prob)

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0),))(agents)


@eqx.filter_jit
def critic_values(agents: Agent, observations: Array, *, key: PRNGKeyArray) -> Float[Array, " seeds"]:
    """The mean over rows of Q(s, pi(s)) under each agent's own critics, joined as in its target (E16)."""

    def one(agent):
        critic, actions = agent.networks["critic"], _act(agent, observations, key)
        return jnp.mean(agent.aggregate(base.values(critic, critic.features(observations), actions)))

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0),))(agents)


def fitted_q_values(
    agents: Agent, data: Transitions, seeds: Sequence[int], *, fqe: FQE, key: PRNGKeyArray
) -> Float[np.ndarray, " seeds"]:
    """The value of each agent's policy at the first states of the logged episodes, by fitted Q evaluation.

    Raises FloatingPointError when an estimate is not finite: the data do not cover what the policy does.
    """
    fit_key, noise_key, start_key = jr.split(key, 3)
    update = _Update(fqe, jnp.asarray(seeds), agents)
    state = eqx.filter_vmap(lambda seed: _init(fqe, data, key=jr.fold_in(start_key, seed)))(jnp.asarray(seeds))
    state, _ = loop.run(update, state, data, key=fit_key, steps=fqe.updates, chunk=CHUNK, progress=False)
    values = np.asarray(_first_values(agents, state, _first_observations(data), noise_key))
    if not np.all(np.isfinite(values)):
        raise FloatingPointError(
            f"Fitted Q evaluation gave {values.tolist()}: the log does not hold what the policies do."
        )
    return values


class _State(eqx.Module):
    critic: networks.Encoded
    target: networks.Encoded
    opt_state: optax.OptState


def _init(fqe: FQE, data: Transitions, *, key) -> _State:
    def head(width, *, key):
        return networks.Critics(width, data.action_dim, fqe.width, fqe.depth, fqe.critics, key=key)

    critic = networks.Encoded.of(data.observation_shape, head, key=key)
    return _State(critic, critic, fqe.optimizer.init(eqx.filter(critic, eqx.is_inexact_array)))


class _Update(eqx.Module):
    """One step of fitted Q evaluation for every agent."""

    fqe: FQE = eqx.field(static=True)
    seeds: Array
    agents: Agent

    def __call__(self, states: _State, data: Transitions, *, key) -> tuple[_State, dict[str, Array]]:
        def one(state, agent, seed):
            batch_key, act_key = jr.split(jr.fold_in(key, seed))
            batch = data.sample(self.fqe.batch_size, key=batch_key)
            actions = _act(agent, batch.next_observations, act_key)
            features = state.target.features(batch.next_observations)
            following = jnp.mean(base.values(state.target, features, actions), axis=0)

            def loss(critic):
                return base.critic_loss(critic, batch, following, agent.settings.discount)[0]

            value, gradient = eqx.filter_value_and_grad(loss)(state.critic)
            critic, opt_state = loop.descend(self.fqe.optimizer, gradient, state.opt_state, state.critic)
            target = optax.incremental_update(
                *(eqx.filter(x, eqx.is_inexact_array) for x in (critic, state.target)), self.fqe.tau
            )
            return _State(critic, eqx.combine(target, state.target), opt_state), value

        axes = (eqx.if_array(0), eqx.if_array(0), 0)
        states, losses = eqx.filter_vmap(one, in_axes=axes)(states, self.agents, self.seeds)
        return states, {"loss": jnp.mean(losses)}


@eqx.filter_jit
def _first_values(agents, states, observations, key):
    def one(agent, state):
        actions = _act(agent, observations, key)
        return jnp.mean(base.values(state.critic, state.critic.features(observations), actions))

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), eqx.if_array(0)))(agents, states)


def _first_observations(data: Transitions) -> Array:
    """The first observation of each logged episode."""
    usable = np.arange(data.size) if data.usable is None else np.asarray(data.usable)
    last = np.flatnonzero(np.asarray(data.ends))
    rows = np.concatenate([[0], last[:-1] + 1])
    return data.at(np.flatnonzero(np.isin(usable, rows))).observations


def _act(agent: Agent, observations: Array, key: PRNGKeyArray) -> Float[Array, "rows d"]:
    """An action of the agent for each row, with a noise of its own."""
    return jax.vmap(lambda seen, one: agent.act(seen, key=one))(observations, jr.split(key, observations.shape[0]))

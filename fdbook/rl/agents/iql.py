"""Implicit Q-learning with a Gaussian policy: an anchor without a flow.

The critic never sees an action that is not in the data: a state's value V is an expectile of Q over the logged actions, and the
policy is drawn towards logged actions in proportion to exp(alpha (Q - V)).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fdbook.checks import Array, check_range
from fdbook.rl import networks
from fdbook.rl.agents import base


__all__ = ["IQL", "NoDraws", "critic_network", "expectile_terms", "mean_network"]

LARGEST_WEIGHT = 100.0


class NoDraws(NamedTuple):
    """No randomness."""


def critic_network(observation_shape, action_dim, settings, *, key) -> networks.Encoded:
    """The critics, behind an encoder if observations are pictures."""

    def head(width, *, key):
        return networks.Critics(width, action_dim, settings.width, settings.depth, settings.critics, key=key)

    return networks.Encoded.of(observation_shape, head, key=key)


def mean_network(observation_shape, outputs, settings, *, layer_norm=False, key) -> networks.Encoded:
    """A network of observations alone, behind an encoder if they are pictures."""

    def head(width, *, key):
        return networks.MLP(width, outputs, settings.width, settings.depth, layer_norm=layer_norm, key=key)

    return networks.Encoded.of(observation_shape, head, key=key)


def state_values(network: networks.Encoded, observations) -> Float[Array, " batch"]:
    """V of a batch of observations."""
    return jax.vmap(network.head)(network.features(observations))[:, 0]


def expectile_terms(agent, trained, batch) -> tuple[Array, dict[str, Array], Float[Array, " batch"]]:
    """The losses of Q (E16, with V of the next state) and of V (an expectile of the slow critics' minimum); the advantages."""
    own, slow = agent.networks, agent.targets["critic"]
    q = jnp.min(base.values(slow, slow.features(batch.observations), batch.actions), axis=0)
    v = state_values(trained["value"], batch.observations)
    advantages = q - v
    weights = jnp.where(advantages > 0, agent.settings.expectile, 1 - agent.settings.expectile)
    value = jnp.mean(weights * advantages**2)
    following = state_values(own["value"], batch.next_observations)
    critic, info = base.critic_loss(trained["critic"], batch, following, agent.settings.discount)
    return critic + value, info | {"value": value, "v": jnp.mean(v)}, jax.lax.stop_gradient(advantages)


@dataclasses.dataclass(frozen=True)
class IQLSettings(base.Settings):
    """Implicit Q-learning's own settings."""

    expectile: float = 0.9
    """The expectile of Q that V learns, in (0, 1)."""
    alpha: float = 10.0
    """How strongly advantages weigh actions."""

    def __post_init__(self):
        super().__post_init__()
        check_range(self.expectile, "an expectile", "IQL", high=1.0, open_low=True, open_high=True)
        check_range(self.alpha, "alpha", "IQL")


class IQL(base.Agent):
    """Implicit Q-learning with advantage-weighted regression of a Gaussian of standard deviation 1."""

    Settings = IQLSettings

    @classmethod
    def build(cls, observation_shape, action_dim, settings, *, key):
        critic_key, value_key, actor_key = jax.random.split(key, 3)
        return {
            "critic": critic_network(observation_shape, action_dim, settings, key=critic_key),
            "value": mean_network(observation_shape, 1, settings, layer_norm=True, key=value_key),
            "actor": mean_network(observation_shape, action_dim, settings, key=actor_key),
        }

    def draw(self, batch, *, key):
        return NoDraws()

    def loss(self, trained, batch, draws):
        loss, info, advantages = expectile_terms(self, trained, batch)
        weights = jnp.minimum(jnp.exp(self.settings.alpha * advantages), LARGEST_WEIGHT)
        actor = trained["actor"]
        means = jax.vmap(actor.head)(actor.features(batch.observations))
        regression = jnp.mean(weights * 0.5 * jnp.sum((means - batch.actions) ** 2, axis=-1))
        return loss + regression, info | {"actor": regression, "weight": jnp.mean(weights)}

    def act(self, observation, *, key):
        """The Gaussian's mean, clipped to the box."""
        actor = self.networks["actor"]
        return jnp.clip(actor.head(actor.features(observation[None])[0]), -1, 1)

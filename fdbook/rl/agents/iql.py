"""Implicit Q-learning with a Gaussian policy: an anchor without a flow.

The critic never sees an action that is not in the data: a state's value V is an expectile of Q over the logged actions, and the
policy is drawn towards logged actions in proportion to exp(alpha (Q - V)), where Q is the minimum over the trained critics; V
itself is learned from the target critics.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_range
from fdbook.rl import networks
from fdbook.rl.agents import base
from fdbook.rl.transitions import Batch


__all__ = ["IQL", "NoDraws", "critic_network", "expectile_terms", "mean_network"]

LARGEST_WEIGHT = 100.0
ACTOR_LAST = 0.1
"""The first weights of a policy's last layer, times Glorot's: a hundredth of their variance, as in the published code."""


class NoDraws(NamedTuple):
    """No randomness."""


def critic_network(
    observation_shape: tuple[int, ...],
    action_dim: int,
    config: base.Config,
    *,
    key: PRNGKeyArray,
) -> networks.Encoded:
    """The critics, behind an encoder if observations are pictures."""

    def head(width, *, key):
        return networks.Critics(width, action_dim, config.width, config.depth, config.num_critics, key=key)

    return networks.Encoded.of(observation_shape, head, key=key)


def mean_network(
    observation_shape: tuple[int, ...],
    outputs: int,
    config: base.Config,
    *,
    layer_norm: bool = False,
    last: float = 1.0,
    key: PRNGKeyArray,
) -> networks.Encoded:
    """A network of observations alone, behind an encoder if they are pictures; its output's first weights are times `last`."""

    def head(width, *, key):
        sizes = (width, outputs, config.width, config.depth)
        return networks.MLP(*sizes, layer_norm=layer_norm, last=last, key=key)

    return networks.Encoded.of(observation_shape, head, key=key)


def state_values(network: networks.Encoded, observations: Array) -> Float[Array, " batch"]:
    """V of a batch of observations."""
    return jax.vmap(network.head)(network.features(observations))[:, 0]


def smaller_values(critic: networks.Encoded, batch: Batch) -> Float[Array, " batch"]:
    """The minimum over the critics of a batch's logged actions."""
    return jnp.min(base.values(critic, critic.features(batch.observations), batch.actions), axis=0)


def expectile_terms(agent: Any, trained: dict[str, PyTree], batch: Batch) -> tuple[Array, dict[str, Array]]:
    """The losses of Q (E16 with V of the next state, added over critics) and V (an expectile of the target critics' minimum),
    of an agent with an expectile in its config."""
    v = state_values(trained["value"], batch.observations)
    above = smaller_values(agent.targets["critic"], batch) - v
    value_loss = jnp.mean(jnp.where(above > 0, agent.config.expectile, 1 - agent.config.expectile) * above**2)
    next_q = state_values(agent.networks["value"], batch.next_observations)
    critic_loss, info = base.critic_loss(trained["critic"], batch, next_q, agent.config.discount, reduce=jnp.sum)
    return critic_loss + value_loss, info | {"value": value_loss, "v": jnp.mean(v)}


@dataclasses.dataclass(frozen=True)
class IQLConfig(base.Config):
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

    config: IQLConfig = eqx.field(static=True)

    Config: ClassVar[type[IQLConfig]] = IQLConfig

    @classmethod
    def build(
        cls, observation_shape: tuple[int, ...], action_dim: int, config: IQLConfig, *, key: PRNGKeyArray
    ) -> dict[str, PyTree]:
        critic_key, value_key, actor_key = jax.random.split(key, 3)
        return {
            "critic": critic_network(observation_shape, action_dim, config, key=critic_key),
            "value": mean_network(observation_shape, 1, config, layer_norm=True, key=value_key),
            "actor": mean_network(observation_shape, action_dim, config, last=ACTOR_LAST, key=actor_key),
        }

    def draw(self, batch: Batch, *, key: PRNGKeyArray) -> NoDraws:
        return NoDraws()

    def loss(
        self, trained: dict[str, PyTree], batch: Batch, draws: NoDraws
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Expectile regression of the state's value, the critics that follow it, advantage-weighted regression of the actor."""
        loss, info = expectile_terms(self, trained, batch)
        advantages = smaller_values(self.networks["critic"], batch)
        advantages = advantages - state_values(self.networks["value"], batch.observations)
        weights = jnp.minimum(jnp.exp(self.config.alpha * advantages), LARGEST_WEIGHT)
        actor = trained["actor"]
        means = jax.vmap(actor.head)(actor.features(batch.observations))
        regression = jnp.mean(weights * 0.5 * jnp.sum((means - batch.actions) ** 2, axis=-1))
        return loss + regression, info | {"actor": regression, "weight": jnp.mean(weights)}

    def act(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """The Gaussian's mean, clipped to the box."""
        actor = self.networks["actor"]
        return jnp.clip(actor.head(actor.features(observation[None])[0]), -1, 1)

    def explore(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """A sample of the Gaussian, whose standard deviation is 1, clipped to the box."""
        actor = self.networks["actor"]
        mean = actor.head(actor.features(observation[None])[0])
        return jnp.clip(mean + jax.random.normal(key, mean.shape, mean.dtype), -1, 1)

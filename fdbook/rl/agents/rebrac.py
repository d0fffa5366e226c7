"""ReBRAC: a deterministic policy held to the logged actions by L2, in the actor's loss and in the critic's target.

It is TD3 with behavior cloning, layer normalization in the critics and two separate weights of the distance to the data. One
Adam moves all networks, as in the published code: between its turns the actor has no gradient, and goes on by its momentum.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Bool, Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_range
from fdbook.rl.agents import base, iql
from fdbook.rl.transitions import Batch


__all__ = ["ReBRAC"]


@dataclasses.dataclass(frozen=True)
class ReBRACConfig(base.Config):
    """ReBRAC's own settings."""

    q_agg: str = "min"
    alpha_actor: float = 0.01
    """The weight of the distance to logged actions in the actor's loss."""
    alpha_critic: float = 0.01
    """The same in the critic's target."""
    actor_noise: float = 0.2
    """The standard deviation of the noise on the target's actions, clipped at `actor_noise_clip`."""
    actor_noise_clip: float = 0.5
    actor_freq: int = 2
    """The actor learns, and the target networks follow, at every so many updates; in between Adam moves the actor on."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("alpha_actor", "alpha_critic", "actor_noise", "actor_noise_clip"):
            check_range(getattr(self, name), name, "ReBRAC")
        check_range(self.actor_freq, "actor_freq", "ReBRAC", low=1.0)


class ReBRACDraws(NamedTuple):
    """The noise on the target's actions, before it is scaled."""

    noise: Float[Array, "batch d"]


class ReBRAC(base.Agent):
    """A deterministic policy (tanh), two critics, and target networks of both."""

    config: ReBRACConfig = eqx.field(static=True)

    Config: ClassVar[type[ReBRACConfig]] = ReBRACConfig
    target_names = ("critic", "actor")

    @classmethod
    def build(
        cls, observation_shape: tuple[int, ...], action_dim: int, config: ReBRACConfig, *, key: PRNGKeyArray
    ) -> dict[str, PyTree]:
        critic_key, actor_key = jr.split(key)
        return {
            "critic": iql.critic_network(observation_shape, action_dim, config, key=critic_key),
            "actor": iql.mean_network(observation_shape, action_dim, config, last=iql.ACTOR_LAST, key=actor_key),
        }

    @property
    def actor_turn(self) -> Bool[Array, ""]:
        """Whether the update that comes next is one of the actor's: number 2, 4, ... of all updates by default."""
        return (optax.tree.get(self.opt_state, "count") + 1) % self.config.actor_freq == 0

    def updated_targets(self) -> dict[str, PyTree]:
        """E16, at the actor's turns; in between the target networks stay."""
        return jax.tree.map(
            lambda new, old: jnp.where(self.actor_turn, new, old) if eqx.is_array(old) else old,
            super().updated_targets(),
            self.targets,
        )

    def draw(self, batch: Batch, *, key: PRNGKeyArray) -> ReBRACDraws:
        return ReBRACDraws(base.normals(batch, key=key))

    def loss(
        self, trained: dict[str, PyTree], batch: Batch, draws: ReBRACDraws
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The critics', whose target pays for the distance to the logged actions, and at its turns the actor's."""
        config, target = self.config, self.targets["critic"]
        noise = jnp.clip(config.actor_noise * draws.noise, -config.actor_noise_clip, config.actor_noise_clip)
        next_actions = jnp.clip(_policy(self.targets["actor"], batch.next_observations) + noise, -1, 1)
        distance_next = jnp.sum((next_actions - batch.next_actions) ** 2, axis=-1)
        next_q = self.aggregate(base.values(target, target.features(batch.next_observations), next_actions))
        critic_loss, info = base.critic_loss(
            trained["critic"], batch, next_q - config.alpha_critic * distance_next, config.discount
        )
        actions = _policy(trained["actor"], batch.observations)
        critic = self.networks["critic"]
        q = self.aggregate(base.values(critic, critic.features(batch.observations), actions))
        scale = jax.lax.stop_gradient(1 / jnp.maximum(jnp.mean(jnp.abs(q)), 1e-8))
        distance = jnp.mean(jnp.sum((actions - batch.actions) ** 2, axis=-1))
        actor_loss = config.alpha_actor * distance - scale * jnp.mean(q)
        loss = critic_loss + jnp.where(self.actor_turn, actor_loss, jnp.zeros_like(actor_loss))
        return loss, info | {"actor": actor_loss, "distance": distance, "actor_q": jnp.mean(q)}

    def act(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """The policy's one action."""
        return _policy(self.networks["actor"], observation[None])[0]

    def explore(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """The policy's action with noise, that of the critics' target."""
        config, action = self.config, self.act(observation, key=key)
        noise = config.actor_noise * jax.random.normal(key, action.shape, action.dtype)
        return jnp.clip(action + jnp.clip(noise, -config.actor_noise_clip, config.actor_noise_clip), -1, 1)


def _policy(actor, observations) -> Float[Array, "batch d"]:
    return jnp.tanh(jax.vmap(actor.head)(actor.features(observations)))

"""Flow Q-Learning (E17): a one-step policy, distilled from the flow and drawn to high values, held to the flow by L2."""

import dataclasses
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_range
from fdbook.geometry import distillation
from fdbook.rl import networks
from fdbook.rl.agents import base, bc, iql
from fdbook.rl.transitions import Batch


__all__ = ["FQL"]


@dataclasses.dataclass(frozen=True)
class FQLConfig(base.Config):
    """Flow Q-Learning's own settings."""

    alpha: float = 10.0
    """The weight of the distance to the flow (E17)."""
    normalize_q: bool = False
    """Whether the value in the actor's loss is divided by its mean absolute value."""

    def __post_init__(self):
        super().__post_init__()
        check_range(self.alpha, "alpha", "FQL", open_low=True)


class FQLDraws(NamedTuple):
    """Flow matching's draws, the noise of the actor's states and that of the next states."""

    matching: bc.MatchingDraws
    noise: Float[Array, "batch d"]
    next_noise: Float[Array, "batch d"]


class FQL(base.Agent):
    """A flow (E2), a one-step policy mu(s, z) that imitates it and climbs the critics (E17), and the critics (E16)."""

    config: FQLConfig = eqx.field(static=True)

    Config: ClassVar[type[FQLConfig]] = FQLConfig

    @classmethod
    def build(
        cls, observation_shape: tuple[int, ...], action_dim: int, config: FQLConfig, *, key: PRNGKeyArray
    ) -> dict[str, PyTree]:
        flow_key, actor_key, critic_key = jr.split(key, 3)

        def head(width, *, key):
            return networks.MLP(width + action_dim, action_dim, config.width, config.depth, key=key)

        return {
            "flow": bc.flow_network(observation_shape, action_dim, config, key=flow_key),
            "actor": networks.Encoded.of(observation_shape, head, key=actor_key),
            "critic": iql.critic_network(observation_shape, action_dim, config, key=critic_key),
        }

    def draw(self, batch: Batch, *, key: PRNGKeyArray) -> FQLDraws:
        matching_key, noise_key, next_key = jr.split(key, 3)
        noises = (base.normals(batch, key=subkey) for subkey in (noise_key, next_key))
        return FQLDraws(bc.matching(batch, key=matching_key), *noises)

    def loss(
        self, trained: dict[str, PyTree], batch: Batch, draws: FQLDraws
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """E2 for the flow, E16 for the critics, E17 for the one-step actor."""
        target = self.targets["critic"]
        field = trained["flow"]
        flow_loss = base.flow_loss(
            field.head, field.features(batch.observations), batch.actions, draws.matching.t, draws.matching.z
        )
        field = self.networks["flow"]
        flow_actions = base.integrate_flow(
            field.head, field.features(batch.observations), draws.noise, self.config.flow_steps
        ).actions
        actions = _one_step(trained["actor"], batch.observations, draws.noise)
        critic = self.networks["critic"]
        q = base.values(critic, critic.features(batch.observations), jnp.clip(actions, -1, 1))
        actor_loss, terms = distillation.actor_loss(
            actions,
            flow_actions,
            jnp.mean(q, axis=0),
            self.config.alpha,
            normalize_q=self.config.normalize_q,
        )
        next_actions = jnp.clip(_one_step(self.networks["actor"], batch.next_observations, draws.next_noise), -1, 1)
        next_q = self.aggregate(base.values(target, target.features(batch.next_observations), next_actions))
        critic_loss, info = base.critic_loss(trained["critic"], batch, next_q, self.config.discount)
        info |= {"flow": flow_loss, "actor": actor_loss, "distance": terms["distance"], "actor_q": terms["value"]}
        return flow_loss + actor_loss + critic_loss, info

    def act(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """The one-step policy's action for a fresh noise, clipped to the box."""
        noise = jr.normal(key, (1, self.action_dim), jnp.float32)
        return jnp.clip(_one_step(self.networks["actor"], observation[None], noise)[0], -1, 1)


def _one_step(actor: networks.Encoded, observations, noises) -> Float[Array, "batch d"]:
    """mu(s, z) for a batch."""
    return jax.vmap(actor.head)(jnp.concatenate([actor.features(observations), noises], axis=1))

"""Flow Q-Learning (E17): a one-step policy, distilled from the flow and drawn to high values, held to the flow by L2."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from fdbook.checks import Array, check_range
from fdbook.geometry import distillation
from fdbook.rl import networks
from fdbook.rl.agents import base, bc, iql


__all__ = ["FQL"]


@dataclasses.dataclass(frozen=True)
class FQLSettings(base.Settings):
    """Flow Q-Learning's own settings."""

    alpha: float = 10.0
    """The weight of the distance to the flow (E17)."""
    normalise_value: bool = False
    """Whether the value in the actor's loss is divided by its mean absolute value."""

    def __post_init__(self):
        super().__post_init__()
        check_range(self.alpha, "alpha", "FQL", open_low=True)


class FQLDraws(NamedTuple):
    """Flow matching's draws, the noise of the actor's states and that of the next states."""

    matching: bc.MatchingDraws
    noise: Float[Array, "batch d"]
    following: Float[Array, "batch d"]


class FQL(base.Agent):
    """A flow (E2), a one-step policy mu(s, z) that imitates it and climbs the critics (E17), and the critics (E16)."""

    Settings = FQLSettings

    @classmethod
    def build(cls, observation_shape, action_dim, settings, *, key):
        flow_key, actor_key, critic_key = jr.split(key, 3)

        def head(width, *, key):
            return networks.MLP(width + action_dim, action_dim, settings.width, settings.depth, key=key)

        return {
            "flow": bc.flow_network(observation_shape, action_dim, settings, key=flow_key),
            "actor": networks.Encoded.of(observation_shape, head, key=actor_key),
            "critic": iql.critic_network(observation_shape, action_dim, settings, key=critic_key),
        }

    def draw(self, batch, *, key):
        matching_key, noise_key, following_key = jr.split(key, 3)
        noises = (base.normals(batch, key=one) for one in (noise_key, following_key))
        return FQLDraws(bc.matching(batch, key=matching_key), *noises)

    def loss(self, trained, batch, draws):
        own, slow = self.networks, self.targets["critic"]
        field = trained["flow"]
        matched = base.flow_loss(
            field.head, field.features(batch.observations), batch.actions, draws.matching.t, draws.matching.z
        )
        field = own["flow"]
        taught = base.carry(
            field.head, field.features(batch.observations), draws.noise, self.settings.flow_steps
        ).actions
        actions = _one_step(trained["actor"], batch.observations, draws.noise)
        judge = own["critic"]
        judged = base.values(judge, judge.features(batch.observations), jnp.clip(actions, -1, 1))
        actor, terms = distillation.actor_loss(
            actions,
            taught,
            jnp.mean(judged, axis=0),
            self.settings.alpha,
            normalise_value=self.settings.normalise_value,
        )
        after = jnp.clip(_one_step(own["actor"], batch.next_observations, draws.following), -1, 1)
        following = self.aggregate(base.values(slow, slow.features(batch.next_observations), after))
        critic, info = base.critic_loss(trained["critic"], batch, following, self.settings.discount)
        info |= {"flow": matched, "actor": actor, "distance": terms["distance"], "actor_q": terms["value"]}
        return matched + actor + critic, info

    def act(self, observation, *, key):
        """The one-step policy's action for a fresh noise, clipped to the box."""
        noise = jr.normal(key, (1, self.action_dim), jnp.float32)
        return jnp.clip(_one_step(self.networks["actor"], observation[None], noise)[0], -1, 1)


def _one_step(actor: networks.Encoded, observations, noises) -> Float[Array, "batch d"]:
    """mu(s, z) for a batch."""
    return jax.vmap(actor.head)(jnp.concatenate([actor.features(observations), noises], axis=1))

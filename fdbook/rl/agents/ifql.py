"""Implicit flow Q-learning: samples of the behavior's flow, of which the critics choose the best (rejection sampling)."""

import dataclasses
import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_range
from fdbook.rl.agents import base, bc, iql
from fdbook.rl.transitions import Batch


__all__ = ["IFQL"]


@dataclasses.dataclass(frozen=True)
class IFQLConfig(base.Config):
    """Implicit flow Q-learning's own settings."""

    expectile: float = 0.9
    """The expectile of Q that V learns, in (0, 1)."""
    num_samples: int = 32
    """Samples of the flow among which it chooses."""

    def __post_init__(self):
        super().__post_init__()
        check_range(self.expectile, "an expectile", "IFQL", high=1.0, open_low=True, open_high=True)
        check_range(self.num_samples, "num_samples", "IFQL", low=1.0)


class IFQL(base.Agent):
    """A flow (E2) and, apart from it, the critics of implicit Q-learning. It acts with the best of several samples."""

    config: IFQLConfig = eqx.field(static=True)

    Config: ClassVar[type[IFQLConfig]] = IFQLConfig

    @classmethod
    def build(
        cls, observation_shape: tuple[int, ...], action_dim: int, config: IFQLConfig, *, key: PRNGKeyArray
    ) -> dict[str, PyTree]:
        flow_key, critic_key, value_key = jr.split(key, 3)
        return {
            "flow": bc.flow_network(observation_shape, action_dim, config, key=flow_key),
            "critic": iql.critic_network(observation_shape, action_dim, config, key=critic_key),
            "value": iql.mean_network(observation_shape, 1, config, layer_norm=True, key=value_key),
        }

    def draw(self, batch: Batch, *, key: PRNGKeyArray) -> bc.MatchingDraws:
        return bc.matching(batch, key=key)

    def loss(
        self, trained: dict[str, PyTree], batch: Batch, draws: bc.MatchingDraws
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """E2 for the flow, and expectile regression of the state's value with the critics that follow it."""
        field = trained["flow"]
        flow = base.flow_loss(field.head, field.features(batch.observations), batch.actions, draws.t, draws.z)
        loss, info = iql.expectile_terms(self, trained, batch)
        return loss + flow, info | {"flow": flow}

    def act(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """The best of the flow's samples, by the minimum over the critics."""
        actions = base.sample_actions(self, observation, self.config.num_samples, key=key)
        return base.best_action(
            self, observation, jax.lax.stop_gradient(actions), reduce=functools.partial(jnp.min, axis=0)
        )

"""Behavior cloning with a flow: the base policy of every other agent here, and what they have to beat."""

from typing import NamedTuple

import jax.random as jr
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array
from fdbook.rl import networks
from fdbook.rl.agents import base
from fdbook.rl.transitions import Batch


__all__ = ["FlowBC", "MatchingDraws", "flow_network", "matching"]


class MatchingDraws(NamedTuple):
    """The times and noises of flow matching (E2)."""

    t: Float[Array, " batch"]
    z: Float[Array, "batch d"]


def matching(batch: Batch, *, key: PRNGKeyArray) -> MatchingDraws:
    """One t ~ U[0, 1] and one z ~ N(0, I) for each action of a batch."""
    time_key, noise_key = jr.split(key)
    t = jr.uniform(time_key, batch.rewards.shape, batch.actions.dtype)
    return MatchingDraws(t, base.normals(batch, key=noise_key))


def flow_network(
    observation_shape: tuple[int, ...],
    action_dim: int,
    config: base.Config,
    *,
    key: PRNGKeyArray,
) -> networks.Encoded:
    """A velocity field, behind an encoder if observations are pictures."""

    def head(width, *, key):
        return networks.velocity_field(width, action_dim, config.width, config.depth, key=key)

    return networks.Encoded.of(observation_shape, head, key=key)


class FlowBC(base.Agent):
    """Flow matching alone (E2). It acts with samples of the flow.

    >>> agent = agents.FlowBC.init((4,), 2, key=jr.key(0), width=8, depth=1)
    >>> list(agent.networks), list(agent.targets)  # no critic, and nothing that follows one
    (['flow'], [])
    """

    target_names = ()

    @classmethod
    def build(
        cls, observation_shape: tuple[int, ...], action_dim: int, config: base.Config, *, key: PRNGKeyArray
    ) -> dict[str, PyTree]:
        return {"flow": flow_network(observation_shape, action_dim, config, key=key)}

    def draw(self, batch: Batch, *, key: PRNGKeyArray) -> MatchingDraws:
        return matching(batch, key=key)

    def loss(
        self, trained: dict[str, PyTree], batch: Batch, draws: MatchingDraws
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """E2: flow matching to the logged actions."""
        field = trained["flow"]
        loss = base.flow_loss(field.head, field.features(batch.observations), batch.actions, draws.t, draws.z)
        return loss, {"flow": loss}

    def act(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """A sample of the flow (E3), clipped to the box."""
        return base.sample_actions(self, observation, 1, key=key)[0]

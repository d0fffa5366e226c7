"""Critics without errors, for point mazes: how much nearer to the goal an action takes the robot, along the shortest way.

Learned critics err, and a policy that is improved by them finds their errors. Where the way is known, so is what an action is
worth, and a ladder with such a critic says what a metric does when nobody errs.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from fdbook.checks import Array
from fdbook.data import load
from fdbook.data.walls import Distances
from fdbook.experiment.run import Run
from fdbook.rl.fourier_features import Normalizer


__all__ = ["DistanceCritic", "with_distance_critic"]


class DistanceCritic(eqx.Module):
    """Q(s, a) = U(s) - U(s + step a), where U is the way that is left to the goal: its length D, or what it costs.

    With a discount g, walking it in full steps costs U = (1 - g^(D / step)) / (1 - g), 1 for each step, so that Q is the return
    of taking the action and then the shortest way, but for a factor of g and a part that no action changes. It stands in the
    place of an agent's critics, and sees what these see: observations that may be normalized.
    """

    values: Float[Array, "columns rows"]
    origin: Float[Array, " 2"]
    spacing: Float[Array, ""]
    step: Float[Array, ""]
    mean: Float[Array, " 2"]
    scale: Float[Array, " 2"]

    @classmethod
    def of(
        cls, distances: Distances, normalizer: Normalizer | None = None, discount: float | None = None
    ) -> "DistanceCritic":
        """The critic of a maze, for observations that went through a normalizer; without a discount, U is the length D."""
        left = distances.values
        if discount is not None:
            left = (1 - discount ** (left / distances.step)) / (1 - discount)
        mean, scale = (jnp.zeros(2), jnp.ones(2)) if normalizer is None else (normalizer.mean, normalizer.scale)
        numbers = (left, distances.origin, distances.spacing, distances.step, mean, scale)
        return cls(*(jnp.asarray(x, jnp.float32) for x in numbers))

    def features(self, observations: Float[Array, "*batch features"]) -> Float[Array, "*batch 2"]:
        """Where the robot is."""
        shape = (1,) * (observations.ndim - 1) + (2,)
        return observations[..., :2] * self.scale.reshape(shape) + self.mean.reshape(shape)

    @property
    def head(self) -> Callable:
        """How much nearer to the goal (1,) one action takes the robot from one place."""
        return self._nearer

    def _nearer(self, place, action):
        return (self._left(place) - self._left(place + self.step * action))[None]

    def _left(self, place):
        at = (place - self.origin) / self.spacing
        return jax.scipy.ndimage.map_coordinates(self.values, list(at), order=1, mode="nearest")


def with_distance_critic(run: Run, *, discounted: bool = False) -> Run:
    """The same run with a `DistanceCritic` in the place of its critics, with the run's own discount if `discounted`.

    Raises ValueError for tasks other than OGBench's point mazes.
    """
    ways, discount = load.shortest_ways(run.task), run.spec.config.discount if discounted else None
    critic = DistanceCritic.of(ways, run.normalizer, discount)
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(run.spec.seeds), *x.shape)), critic)
    agents = dataclasses.replace(run.agents, networks=run.agents.networks | {"critic": stacked})
    return dataclasses.replace(run, agents=agents)

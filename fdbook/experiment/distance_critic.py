"""A critic that is not learned, for point mazes: what an action is worth by the shortest way to the goal that is left after it.

Learned critics err, and a policy that is improved by them finds their errors. Where the way is known, so is what an action is
worth, and a ladder with such a critic says what a metric does when nobody errs. Of what it says 3% (root mean square) is the
error of reading the way between the points of a grid.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from fdbook.checks import Array, check_range
from fdbook.data import load
from fdbook.data.walls import Distances
from fdbook.experiment.run import Run
from fdbook.rl.fourier_features import Normalizer


__all__ = ["DistanceCritic", "with_distance_critic"]


class DistanceCritic(eqx.Module):
    """Q(s, a) = U(s) - U(s + step a) with the cost U of the way that is left to the goal (the cost-to-go).

    Without a discount U is the length D of the way, in the units of the world, and Q what the action saves of it. With a discount
    g it is U = (1 - g^(D / step)) / (1 - g): what a robot pays, 1 for each step, that walks there in actions of length 1. Then Q
    is, but for a factor and a part that no action changes, the return of taking the action and walking on like this. (In a box
    an action along its diagonal is longer than 1, so that walking is not quite the best there is.)

    It stands in the place of an agent's critics, and sees what these see: observations that may be normalized.
    """

    values: Float[Array, "columns rows"]
    """U at the points of the grid: (x, y) = `origin` + `spacing` * (i, j)."""
    origin: Float[Array, " 2"]
    spacing: Float[Array, ""]
    step: Float[Array, ""]
    mean: Float[Array, " 2"]
    scale: Float[Array, " 2"]

    @classmethod
    def of(
        cls, distances: Distances, normalizer: Normalizer | None = None, discount: float | None = None
    ) -> "DistanceCritic":
        """The critic of a maze, for observations that went through a normalizer; ValueError for a discount outside (0, 1)."""
        left = distances.values
        if discount is not None:
            check_range(discount, "a discount", "DistanceCritic", high=1.0, open_low=True, open_high=True)
            left = (1 - discount ** (left / distances.step)) / (1 - discount)
        mean, scale = (jnp.zeros(2), jnp.ones(2)) if normalizer is None else (normalizer.mean, normalizer.scale)
        numbers = (left, distances.origin, distances.spacing, distances.step, mean, scale)
        return cls(*(jnp.asarray(x, jnp.float32) for x in numbers))

    def features(self, observations: Float[Array, "*batch features"]) -> Float[Array, "*batch 2"]:
        """The places of the robot in the units of the world, from observations that begin with them, normalized or not."""
        shape = (1,) * (observations.ndim - 1) + (2,)
        return observations[..., :2] * self.scale.reshape(shape) + self.mean.reshape(shape)

    @property
    def head(self) -> Callable:
        """Q (1,) of one place (2,) and one action (2,)."""
        return self._saved

    def _saved(self, place, action):
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

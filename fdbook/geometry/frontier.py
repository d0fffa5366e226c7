"""Value against KL: how much a metric's transport maps gain on a 2-D toy, and what they cost, as the multiplier falls.

Metrics are compared at equal KL to the behaviour, never at equal multiplier or equal budget, which mean something else under
each of them. A ladder of falling multipliers, each rung trained on from the one above, traces the frontier; one more rung
between two others meets a wanted KL.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_range, check_shape
from fdbook.geometry import flow, transport
from fdbook.geometry.densities import Density, off_manifold
from fdbook.geometry.metrics import Metric


__all__ = ["Grid", "Measured", "Yardstick", "trace"]


class Grid(NamedTuple):
    """A rectangle of the plane in equal cells: ends of the two axes in action units, and the number of cells along each."""

    x: tuple[float, float] = (-2.0, 2.0)
    y: tuple[float, float] = (-2.0, 2.0)
    bins: tuple[int, int] = (160, 160)

    @property
    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """The cells' centres along each axis, shapes (bins[0],) and (bins[1],)."""
        return tuple(np.linspace(*ends, 2 * n + 1)[1::2] for ends, n in zip((self.x, self.y), self.bins, strict=True))

    @property
    def area(self) -> float:
        """The area of a cell, in squared action units."""
        return (self.x[1] - self.x[0]) / self.bins[0] * (self.y[1] - self.y[0]) / self.bins[1]

    def share(self, points: Float[Array, "n 2"]) -> np.ndarray:
        """The share of the points in each cell, shape bins; those outside the rectangle are in none."""
        check_shape(points, (None, 2), "points", "Grid.share")
        return np.histogram2d(*np.asarray(points, float).T, bins=self.bins, range=(self.x, self.y))[0] / len(points)

    def mass(self, density: Density, fine: int = 4) -> np.ndarray:
        """The density's mass in each cell, shape bins, by the midpoint rule on cells `fine` times as fine."""
        xs, ys = Grid(self.x, self.y, (fine * self.bins[0], fine * self.bins[1])).centres
        points = jnp.asarray(np.stack(np.meshgrid(xs, ys, indexing="ij"), -1).reshape(-1, 2), jnp.result_type(float))
        values = np.exp(np.asarray(jax.jit(jax.vmap(density.log_prob))(points), float))
        cells = values.reshape(self.bins[0], fine, self.bins[1], fine).sum((1, 3))
        return cells * self.area / fine**2

    def kl(self, points: Float[Array, "n 2"], mass: np.ndarray) -> float:
        """KL in nats of binned points against the cells' `mass`; it needs no map, so that it also serves one that folds.

        Binning hides what happens inside a cell (which lowers it), and finite samples add about (full cells) / (2 n).
        """
        share = self.share(points)
        full = share > 0
        return float(np.sum(share[full] * np.log(share[full] / np.maximum(mass[full], 1e-12))))


class Measured(NamedTuple):
    """One map: its multiplier, value gained, KL in nats, whether it is one-to-one, and the share of mass off the manifold."""

    multiplier: float
    gain: float
    kl: float
    one_to_one: bool
    off: float


class Yardstick:
    """Measures maps of one toy behaviour: moves a crowd of its samples, and takes the KL by quadrature (E9).

    Where the determinant is not positive at some node E9 does not hold, and the KL of the binned crowd stands in for it.
    """

    def __init__(
        self, density: Density, value: Callable, grid: Grid, *, key: PRNGKeyArray, order: int = 24, crowd: int = 400_000
    ):
        crowd_key, self._off_key = jr.split(key)
        self.density, self.value, self.grid = density, value, grid
        self.nodes = density.quadrature(order)
        self.crowd = density.sample(crowd, key=crowd_key)
        self.mass = grid.mass(density)
        self._few = min(20_000, crowd)
        self._push = eqx.filter_jit(lambda t, points: jax.vmap(lambda a: t(flow.EMPTY, a))(points))
        self._lowest = eqx.filter_jit(
            lambda t: jnp.min(jax.vmap(lambda a: t.determinant(flow.EMPTY, a))(self.nodes.points))
        )
        self._kl = eqx.filter_jit(lambda t: transport.kl_exact(t, density, self.nodes))

    def mean_value(self, points: Float[Array, "n 2"]) -> float:
        """The mean of the value over points."""
        return float(jnp.mean(jax.vmap(lambda a: self.value(flow.EMPTY, a))(points)))

    def moved(self, transport_map: transport.LocalTransport) -> Float[Array, "n 2"]:
        """Where the map carries the crowd, shape (crowd, 2)."""
        return self._push(transport_map, self.crowd)

    def density_of(self, transport_map: transport.LocalTransport) -> np.ndarray:
        """The density of the moved crowd in each cell, per squared action unit, shape grid.bins."""
        return self.grid.share(self.moved(transport_map)) / self.grid.area

    def measure(self, transport_map: transport.LocalTransport, multiplier: float = float("nan")) -> Measured:
        """What the map gains and costs; the gain is the mean change of value over the same actions."""
        moved = self.moved(transport_map)
        one_to_one = bool(self._lowest(transport_map) > 0)
        kl = float(self._kl(transport_map)) if one_to_one else self.grid.kl(moved, self.mass)
        gain = self.mean_value(moved[: self._few]) - self.mean_value(self.crowd[: self._few])
        off = float(off_manifold(self.density, moved[: self._few], key=self._off_key))
        return Measured(float(multiplier), gain, kl, one_to_one, off)


def trace(
    yardstick: Yardstick,
    metric: Metric,
    base: transport.BaseActions,
    *,
    key: PRNGKeyArray,
    ladder: Sequence[float] = tuple(np.geomspace(300.0, 6.0, 8)),
    targets: Sequence[float] = (),
    steps: int = 300,
    width: int = 96,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[list[Measured], list[tuple[transport.LocalTransport, Measured]]]:
    """The frontier of a metric: a `Measured` for each rung of the ladder, and a map with its own for each target KL in nats.

    Every rung is `steps` updates of `transport.fit` from the map above; the first starts near the identity. A target outside
    the ladder's range gets the ladder's end. Raises ValueError unless the multipliers are positive and fall.
    """
    check_range(np.asarray(targets), "target KLs", "frontier.trace", open_low=True)
    if not (min(ladder) > 0 and np.all(np.diff(ladder) < 0)):
        raise ValueError(f"frontier.trace takes positive, falling multipliers; got {tuple(ladder)}.")

    def train(start, multiplier):
        trained, _ = transport.fit(
            start, yardstick.value, metric, base, key=key, multiplier=float(multiplier), steps=steps, progress=False
        )
        return trained, yardstick.measure(trained, multiplier)

    rungs = [(transport.LocalTransport(transport.Displacement(0, 2, width, key=key)), None)]
    for number, multiplier in enumerate(ladder):
        progress(f"rung {number + 1} of {len(ladder)}")
        rungs.append(train(rungs[-1][0], multiplier))
    maps, measured = zip(*rungs[1:], strict=True)
    met = []
    for target in targets:
        progress(f"KL {target:g}")
        above, multiplier = _between(ladder, [rung.kl for rung in measured], target)
        met.append(train(maps[above], multiplier))
    return list(measured), met


def _between(ladder, kls, target):
    """The rung to start from and the multiplier at which log KL, linear between rungs, meets the target."""
    logs = np.log(np.maximum(np.maximum.accumulate(kls), 1e-12))
    below = int(np.clip(np.searchsorted(logs, np.log(target)), 1, len(ladder) - 1))
    rise = max(logs[below] - logs[below - 1], 1e-12)
    part = float(np.clip((np.log(target) - logs[below - 1]) / rise, 0, 1))
    return below - 1, ladder[below - 1] ** (1 - part) * ladder[below] ** part

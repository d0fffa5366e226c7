"""Value against KL: how much a method gains on a 2-D toy, what it costs as its multiplier falls, and the best that can be had.

Methods are compared at equal KL to the behavior, never at equal multiplier or equal budget, which mean something else under
each of them. A ladder of falling multipliers, each rung trained on from the one above, traces the frontier; one more rung
between two others meets a wanted KL. The best of all distributions (E25) is computed cell by cell, without learning.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from scipy.optimize import brentq

from fdbook.checks import Array, check_finite, check_range, check_shape
from fdbook.geometry import distillation, flow, transport
from fdbook.geometry.densities import Density, off_manifold
from fdbook.geometry.metrics import Metric


__all__ = ["Grid", "Measured", "Optimum", "Yardstick", "at_kl", "trace", "trace_one_step"]


class Grid(NamedTuple):
    """A rectangle of the plane in equal cells: ends of the two axes in action units, and the number of cells along each.

    >>> grid = frontier.Grid((0.0, 1.0), (0.0, 2.0), (2, 4))
    >>> grid.area, grid.centers[0].tolist()
    (0.25, [0.25, 0.75])
    """

    x: tuple[float, float] = (-2.0, 2.0)
    y: tuple[float, float] = (-2.0, 2.0)
    bins: tuple[int, int] = (160, 160)

    @property
    def centers(self) -> tuple[np.ndarray, np.ndarray]:
        """The cells' centers along each axis, shapes (bins[0],) and (bins[1],)."""
        x, y = (np.linspace(*ends, 2 * n + 1)[1::2] for ends, n in zip((self.x, self.y), self.bins, strict=True))
        return x, y

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
        xs, ys = Grid(self.x, self.y, (fine * self.bins[0], fine * self.bins[1])).centers
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


def at_kl(
    kl: Float[Array, " r"],
    values: Float[Array, " r"],
    at: Float[Array, "*k"] | Sequence[float] | float,
    start: float = 0.0,
) -> np.ndarray:
    """What was measured at rungs of some KLs (r,), read off at other KLs: linear in the root of the KL, NaN beyond the last rung.

    The curve begins at no KL with `start`; a gain, which begins with 0, grows with the root of a small KL.

    >>> frontier.at_kl(np.array([0.04, 0.16]), np.array([1.0, 2.0]), [0.01, 0.09, 0.5]).tolist()
    [0.5, 1.5, nan]
    """
    order = np.argsort(kl)
    roots = np.sqrt(np.maximum(np.append(0.0, np.asarray(kl, float)[order]), 0))
    return np.asarray(np.interp(np.sqrt(at), roots, np.append(start, np.asarray(values, float)[order]), right=np.nan))


class Measured(NamedTuple):
    """One map or policy: its multiplier, value gained, KL in nats, whether it is one-to-one, and its mass off the manifold."""

    multiplier: float
    gain: float
    kl: float
    one_to_one: bool
    off: float


class Optimum(NamedTuple):
    """E25 at one KL: the temperature lambda, the value gained, the KL in nats, and the density in each cell of the grid."""

    temperature: float
    gain: float
    kl: float
    density: np.ndarray


class Yardstick:
    """Measures maps and policies of one toy behavior: moves a crowd of samples, and takes the KL by E9.

    For a transport map E9 is a quadrature over the behavior, for a one-step policy a mean over many noises. Where a map's
    determinant is not positive at some node, or a policy's not of one sign at all noises, E9 does not hold, and the KL of the
    binned crowd stands in for it.

    >>> grid = frontier.Grid((-6.0, 6.0), (-6.0, 6.0), (60, 60))
    >>> g, options = densities.gaussian(jnp.zeros(2), jnp.eye(2)), {"order": 4, "crowd": 1000}
    >>> yardstick = frontier.Yardstick(g, lambda s, a: a[0], grid, key=jr.key(0), **options)
    >>> round(yardstick.best(0.5).gain, 2)  # sqrt(2 KL) for N(0, I) and a linear value of slope 1
    1.0
    """

    def __init__(
        self, density: Density, value: Callable, grid: Grid, *, key: PRNGKeyArray, order: int = 24, crowd: int = 400_000
    ):
        crowd_key, self._off_key = jr.split(key)
        self.density, self.value, self.grid = density, value, grid
        self.nodes = density.quadrature(order)
        self.crowd = density.sample(crowd, key=crowd_key)
        self.noises = jr.normal(jr.fold_in(key, 1), (crowd, density.dim), self.crowd.dtype)
        self.mass = grid.mass(density)
        self._few = min(20_000, crowd)
        self._push = eqx.filter_jit(lambda t, points: jax.vmap(lambda a: t(flow.EMPTY, a))(points))
        self._determinants = eqx.filter_jit(lambda t, points: jax.vmap(lambda a: t.determinant(flow.EMPTY, a))(points))
        self._kl = eqx.filter_jit(lambda t: transport.kl_exact(t, density, self.nodes))
        self._kl_one_step = eqx.filter_jit(lambda mu, noises: distillation.kl_exact(mu, density, noises))

    def mean_value(self, points: Float[Array, "n 2"]) -> float:
        """The mean of the value over points."""
        return float(jnp.mean(jax.vmap(lambda a: self.value(flow.EMPTY, a))(points)))

    def moved(self, learned: transport.LocalTransport | distillation.OneStep) -> Float[Array, "n 2"]:
        """Where a map carries the crowd, or a one-step policy as many noises, shape (crowd, 2)."""
        return self._push(learned, self.noises if isinstance(learned, distillation.OneStep) else self.crowd)

    def density_of(self, learned: transport.LocalTransport | distillation.OneStep) -> np.ndarray:
        """The density of the moved crowd in each cell, per squared action unit, shape grid.bins."""
        return self.grid.share(self.moved(learned)) / self.grid.area

    def measure(
        self, learned: transport.LocalTransport | distillation.OneStep, multiplier: float = float("nan")
    ) -> Measured:
        """What a map or a policy gains and costs.

        A map's gain is the mean change of value over the same actions, a policy's the difference of means over the crowds.
        """
        moved, few = self.moved(learned), self._few
        if isinstance(learned, distillation.OneStep):
            some = self.noises[: 5 * few]
            signs = jnp.sign(self._determinants(learned, some))
            one_to_one = bool(jnp.all(signs * signs[0] > 0))
            kl = float(self._kl_one_step(learned, some)) if one_to_one else self.grid.kl(moved, self.mass)
            gain = self.mean_value(moved) - self.mean_value(self.crowd)
        else:
            one_to_one = bool(jnp.all(self._determinants(learned, self.nodes.points) > 0))
            kl = float(self._kl(learned)) if one_to_one else self.grid.kl(moved, self.mass)
            gain = self.mean_value(moved[:few]) - self.mean_value(self.crowd[:few])
        off = float(off_manifold(self.density, moved[:few], key=self._off_key))
        return Measured(float(multiplier), gain, kl, one_to_one, off)

    def best(self, kl: float) -> Optimum:
        """E25: of all distributions on the grid, the one that gains most value at a KL of `kl` > 0 nats to the behavior.

        It weights every cell by exp(value / lambda), with the temperature lambda found by bisection. Raises ValueError for a
        KL beyond that of the cells with the highest value, which would have all mass, and for a value that is not finite or
        alike in all cells, so that there is nothing to gain.
        """
        check_range(kl, "a KL", "Yardstick.best", open_low=True)
        centers = np.stack(np.meshgrid(*self.grid.centers, indexing="ij"), -1).reshape(-1, 2)
        judged = jax.vmap(lambda a: self.value(flow.EMPTY, a))(jnp.asarray(centers, self.crowd.dtype))
        values = np.asarray(check_finite(judged, "values", "Yardstick.best"), float)
        mass = self.mass.ravel() / self.mass.sum()
        if np.ptp(values) <= 4 * np.finfo(judged.dtype).eps * np.max(np.abs(values)):  # they differ by rounding at most
            raise ValueError(
                f"Yardstick.best takes a value that differs between cells; got {values[0]:g} in all of them."
            )

        def tilted(temperature):
            log = np.log(np.maximum(mass, 1e-300)) + (values - values.max()) / temperature
            share = np.exp(log - log.max())
            share /= share.sum()
            return share, float(np.sum(share * np.log(np.maximum(share, 1e-300) / np.maximum(mass, 1e-300))))

        spread = float(np.std(values))
        low, high = np.log(1e-3 * spread), np.log(1e3 * spread)
        most = tilted(np.exp(low))[1]
        if kl >= most:
            raise ValueError(
                f"Yardstick.best takes a KL below {most:.3g} nats, where the cells of highest value have all mass; got {kl:g}."
            )
        temperature = float(np.exp(brentq(lambda log: tilted(np.exp(log))[1] - kl, low, high, xtol=1e-10)))
        share, result = tilted(temperature)
        gain = float(np.sum((share - mass) * values))
        return Optimum(temperature, gain, result, share.reshape(self.grid.bins) / self.grid.area)


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

    >>> g, grid = densities.gaussian(jnp.zeros(2), jnp.eye(2)), frontier.Grid((-6.0, 6.0), (-6.0, 6.0), (60, 60))
    >>> yardstick = frontier.Yardstick(g, lambda s, a: a[0], grid, key=jr.key(0), order=4, crowd=1000)
    >>> base, options = transport.base_from_density(g, 64, key=jr.key(1)), {"ladder": (2.5, 1.0), "steps": 200, "width": 8}
    >>> rungs, _ = frontier.trace(yardstick, metrics.make("l2"), base, key=jr.key(2), **options)
    >>> [(round(rung.gain, 1), round(rung.kl, 1)) for rung in rungs]  # pushes by 1 / multiplier, each at half its square
    [(0.4, 0.1), (1.0, 0.5)]
    """

    def train(start, multiplier):
        return transport.fit(
            start, yardstick.value, metric, base, key=key, multiplier=float(multiplier), steps=steps, progress=False
        )[0]

    start = transport.LocalTransport(transport.Displacement(0, 2, width, key=key))
    return _climb(yardstick, start, train, ladder, targets, progress)


def trace_one_step(
    yardstick: Yardstick,
    noises: Float[Array, "n 2"],
    taught: Float[Array, "n 2"],
    *,
    key: PRNGKeyArray,
    ladder: Sequence[float] = tuple(np.geomspace(300.0, 6.0, 8)),
    targets: Sequence[float] = (),
    imitation: int = 3000,
    steps: int = 300,
    width: int = 128,
    depth: int = 3,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[list[Measured], list[tuple[distillation.OneStep, Measured]], Measured]:
    """The frontier of Flow Q-Learning (E17), whose multiplier is alpha, as `trace` gives it, and what pure imitation comes to.

    `taught` are a flow's actions for the noises. A one-step policy first imitates them for `imitation` updates; the KL that is
    left then is the price of the distillation, which no alpha can undercut for long.

    >>> g, grid = densities.gaussian(jnp.zeros(2), jnp.eye(2)), frontier.Grid((-6.0, 6.0), (-6.0, 6.0), (60, 60))
    >>> yardstick = frontier.Yardstick(g, lambda s, a: a[0], grid, key=jr.key(0), order=4, crowd=1000)
    >>> noises, options = jr.normal(jr.key(1), (64, 2)), {"imitation": 300, "steps": 200, "width": 16, "depth": 1}
    >>> rungs, _, imitation = frontier.trace_one_step(yardstick, noises, noises, key=jr.key(2), ladder=(1.0,), **options)
    >>> imitation.gain < 0.2 < rungs[0].gain  # who only imitates gains nothing
    True
    """
    init_key, fit_key = jr.split(key)
    progress("imitating the flow")
    start = distillation.OneStep(0, 2, width, depth, key=init_key)
    options = {"key": fit_key, "progress": False}
    start, _ = distillation.fit(start, None, noises, taught, steps=imitation, learning_rate=2e-3, **options)

    def train(policy, alpha):
        return distillation.fit(policy, yardstick.value, noises, taught, alpha=float(alpha), steps=steps, **options)[0]

    return *_climb(yardstick, start, train, ladder, targets, progress), yardstick.measure(start, float("inf"))


def _climb(yardstick, start, train, ladder, targets, progress):
    """Down a ladder of multipliers, each rung trained on from the one above, and once more for each target KL."""
    check_range(np.asarray(targets), "target KLs", "frontier.trace", open_low=True)
    if not (min(ladder) > 0 and np.all(np.diff(ladder) < 0)):
        raise ValueError(f"frontier.trace takes positive, falling multipliers; got {tuple(ladder)}.")
    rungs = [(start, None)]
    for number, multiplier in enumerate(ladder):
        progress(f"rung {number + 1} of {len(ladder)}")
        learned = train(rungs[-1][0], multiplier)
        rungs.append((learned, yardstick.measure(learned, multiplier)))
    learned, measured = zip(*rungs[1:], strict=True)
    met = []
    for target in targets:
        progress(f"KL {target:g}")
        above, multiplier = _between(ladder, [rung.kl for rung in measured], target)
        trained = train(learned[above], multiplier)
        met.append((trained, yardstick.measure(trained, multiplier)))
    return list(measured), met


def _between(ladder, kls, target):
    """The rung to start from and the multiplier at which log KL, linear between rungs, meets the target."""
    logs = np.log(np.maximum(np.maximum.accumulate(kls), 1e-12))
    below = int(np.clip(np.searchsorted(logs, np.log(target)), 1, len(ladder) - 1))
    rise = max(logs[below] - logs[below - 1], 1e-12)
    part = float(np.clip((np.log(target) - logs[below - 1]) / rise, 0, 1))
    return below - 1, ladder[below - 1] ** (1 - part) * ladder[below] ** part

"""Two-dimensional action manifolds with exact log-density, exact score and exact sampler.

A density here plays the part of a behavior policy in one state: thin in some directions, wide in others, often bent.
Gaussian mixtures (of any dimension) also know, in closed form, everything that a flow-matching network has to learn: the
noised density p_t of the path E1, its score, and the velocity E[a - z | x_t = x].

Every method is written for one point; use `jax.vmap` for many. Points are in the units of the action box, whose sides run
from -1 to 1, and the named manifolds keep nearly all their mass in [-2, 2]^2.
"""

import abc
from typing import Literal, NamedTuple, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_finite, check_point, check_range, check_shape, check_time, known, unknown
from fdbook.geometry.warps import Shear, Twist, Warp


__all__ = [
    "NAMES",
    "Density",
    "GaussianMixture",
    "Nodes",
    "Ring",
    "Shear",
    "Twist",
    "Warped",
    "gaussian",
    "make",
    "monte_carlo",
    "off_manifold",
]


class Nodes(NamedTuple):
    """Points and weights with which an expectation is taken: E[f(a)] = sum_i weights_i f(points_i), weights sum to 1.

    >>> nodes = densities.Nodes(jnp.array([[-1.0], [3.0]]), jnp.array([0.75, 0.25]))
    >>> float(nodes.mean(nodes.points[:, 0] ** 2))  # 0.75 * 1 + 0.25 * 9
    3.0
    """

    points: Float[Array, "n d"]
    weights: Float[Array, " n"]

    def mean(self, values: Float[Array, " n"]) -> Float[Array, ""]:
        """E[f] from the values f(points), shape (n,)."""
        return jnp.sum(self.weights * values)


class Density(eqx.Module):
    """A probability density on R^d: log-density, score, sampler and quadrature."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The dimension d of a point."""

    @abc.abstractmethod
    def _log_prob(self, x) -> Array:
        """The log-density at one point of the right shape."""

    @abc.abstractmethod
    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """n independent draws, shape (n, d)."""

    @abc.abstractmethod
    def quadrature(self, order: int) -> Nodes:
        """Nodes whose expectation is exact for polynomials up to degree 2 * order - 1 of the density's own coordinates."""

    def _score(self, x):
        return jax.grad(self._log_prob)(x)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """The log-density at one point, in nats; shape (). Raises ValueError on any other shape than (d,)."""
        check_point(x, self.dim, f"{type(self).__name__}.log_prob")
        return self._log_prob(x)

    def score(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The gradient of the log-density at one point, shape (d,). Raises ValueError on any other shape than (d,)."""
        check_point(x, self.dim, f"{type(self).__name__}.score")
        return self._score(x)


class GaussianMixture(Density):
    """sum_k weights_k N(means_k, covariances_k) in any dimension, with its noised density and exact velocity under E1.

    Arguments: weights (k,), positive, summing to 1; means (k, d); covariances (k, d, d), symmetric positive definite.
    Raises ValueError when shapes disagree, weights do not sum to 1, a mean is NaN or infinite, or a covariance is not
    symmetric positive definite.

    >>> pair = densities.GaussianMixture(jnp.array([0.5, 0.5]), jnp.array([[-2.0], [2.0]]), jnp.ones((2, 1, 1)))
    >>> [round(float(share), 3) for share in pair.responsibilities(jnp.array([0.5]))]  # their ratio is exp(4 * 0.5)
    [0.119, 0.881]
    """

    weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    covariances: Float[Array, "k d d"]

    def __init__(self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike):
        parts = jnp.asarray(weights), jnp.asarray(means), jnp.asarray(covariances)
        inexact = [part.dtype for part in parts if jnp.issubdtype(part.dtype, jnp.inexact)]
        dtype = inexact[-1] if inexact else jnp.result_type(float)  # whole numbers become numbers like the others
        self.weights, self.means, self.covariances = (
            part if jnp.issubdtype(part.dtype, jnp.inexact) else part.astype(dtype) for part in parts
        )

    def __check_init__(self):
        k, d = self.means.shape if self.means.ndim == 2 else (None, None)
        if k is None or self.weights.shape != (k,) or self.covariances.shape != (k, d, d):
            raise ValueError(
                "A GaussianMixture takes weights (k,), means (k, d) and covariances (k, d, d); got "
                f"{self.weights.shape}, {self.means.shape} and {self.covariances.shape}."
            )
        if not known(self.weights, self.means, self.covariances):
            return
        for part in ("weights", "means", "covariances"):
            check_finite(getattr(self, part), part, "GaussianMixture")
        if not np.isclose(np.sum(np.asarray(self.weights)), 1.0, atol=1e-5) or np.any(np.asarray(self.weights) <= 0):
            raise ValueError(f"The weights of a GaussianMixture are positive and sum to 1; got {self.weights}.")
        covariances = np.asarray(self.covariances)
        if not np.allclose(covariances, np.swapaxes(covariances, -1, -2), atol=1e-5 * np.max(np.abs(covariances))):
            raise ValueError("Every covariance of a GaussianMixture must be symmetric; one of these is not.")
        if not np.all(np.linalg.eigvalsh(covariances) > 0):
            raise ValueError("Every covariance of a GaussianMixture must be positive definite; one of these is not.")

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def _components(self, x):
        """Log-density of x under each component (k,) and precision times (x - mean) (k, d).

        Nothing is factorized or solved for each point: on a CPU, two large batches of LAPACK calls that run at the same time
        can wait for each other's threads for ever.
        """

        def component(mean, covariance):
            factor = jnp.linalg.cholesky(covariance)
            whitening = solve_triangular(factor, jnp.eye(self.dim, dtype=factor.dtype), lower=True)
            white = whitening @ (x - mean)
            log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
            log_prob = -0.5 * jnp.sum(white**2) - log_det - 0.5 * self.dim * np.log(2 * np.pi).item()
            return log_prob, white @ whitening

        return jax.vmap(component)(self.means, self.covariances)

    def responsibilities(self, x: Float[Array, " d"]) -> Float[Array, " k"]:
        """The probability that x came from each component, shape (k,)."""
        return jax.nn.softmax(jnp.log(self.weights) + self._components(x)[0])

    def _log_prob(self, x):
        return jax.nn.logsumexp(jnp.log(self.weights) + self._components(x)[0])

    def _score(self, x):
        log_probs, pulls = self._components(x)
        return -jax.nn.softmax(jnp.log(self.weights) + log_probs) @ pulls

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        component_key, noise_key = jr.split(key)
        component = jr.categorical(component_key, jnp.log(self.weights), shape=(n,))
        noise = jr.normal(noise_key, (n, self.dim), self.means.dtype)
        factors = jnp.linalg.cholesky(self.covariances)
        return self.means[component] + jnp.einsum("nij,nj->ni", factors[component], noise)

    def noised(self, t: Float[Array, ""] | float) -> "GaussianMixture":
        """p_t, the law of x_t = (1 - t) z + t a (E1), again a mixture; t in [0, 1]."""
        check_shape(t, (), "a time", "GaussianMixture.noised")
        return self._noised(check_time(t, "GaussianMixture.noised"))

    def _noised(self, t):
        eye = jnp.eye(self.dim, dtype=self.means.dtype)
        return GaussianMixture(self.weights, t * self.means, t**2 * self.covariances + (1 - t) ** 2 * eye[None])

    def velocity(self, t: Float[Array, ""] | float, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The exact flow-matching velocity E[a - z | x_t = x] of E1, shape (d,); t in [0, 1].

        Conditioned on a component, (a, z, x_t) are jointly Gaussian, and the two conditional means are linear in x; the
        components are averaged with their responsibilities for x under p_t. Nothing is divided by 1 - t. Everything is
        written in the eigenbases of the covariances, which all times share, so that a solver factorizes nothing.
        """
        check_point(x, self.dim, "GaussianMixture.velocity")
        check_shape(t, (), "a time", "GaussianMixture.velocity")
        return self._velocity(check_time(t, "GaussianMixture.velocity"), x)

    def _velocity(self, t, x):
        values, axes = jnp.linalg.eigh(self.covariances)
        spread = t**2 * values + (1 - t) ** 2
        centered = jnp.einsum("kij,ki->kj", axes, x[None] - t * self.means)
        log_probs = -0.5 * jnp.sum(centered**2 / spread + jnp.log(spread), axis=-1)
        velocities = self.means + jnp.einsum("kij,kj->ki", axes, (t * values - (1 - t)) * centered / spread)
        return jax.nn.softmax(jnp.log(self.weights) + log_probs) @ velocities

    def quadrature(self, order: int) -> Nodes:
        """Gauss-Hermite nodes in each component, k * order^d of them."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(order)
        dtype = self.means.dtype
        grid = np.stack(np.meshgrid(*[nodes] * self.dim, indexing="ij"), axis=-1).reshape(-1, self.dim)
        products = np.prod(np.stack(np.meshgrid(*[weights] * self.dim, indexing="ij"), axis=-1), axis=-1).reshape(-1)
        grid, products = jnp.asarray(grid, dtype), jnp.asarray(products / products.sum(), dtype)
        factors = jnp.linalg.cholesky(self.covariances)
        points = self.means[:, None, :] + jnp.einsum("kij,nj->kni", factors, grid)
        return Nodes(points.reshape(-1, self.dim), jnp.outer(self.weights, products).reshape(-1))


def gaussian(mean: Float[Array, " d"], covariance: Float[Array, "d d"]) -> GaussianMixture:
    """N(mean, covariance): a mixture of one, with the mixture's closed forms.
    >>> round(float(densities.gaussian(jnp.zeros(2), jnp.eye(2)).log_prob(jnp.zeros(2))), 3)  # -log(2 pi)
    -1.838
    """
    return GaussianMixture(jnp.ones(1, jnp.asarray(mean).dtype), jnp.asarray(mean)[None], jnp.asarray(covariance)[None])


class Warped(Density):
    """A 2-D Gaussian mixture seen through an area-preserving warp; log-density, score and quadrature stay exact.

    >>> bent = densities.Warped(densities.gaussian(jnp.zeros(2), jnp.eye(2)), densities.Shear(lambda u: u**2))
    >>> round(float(bent.log_prob(jnp.array([1.0, 1.0]))), 3)  # that of N(0, I) at (1, 0): -log(2 pi) - 1/2
    -2.338
    """

    base: GaussianMixture
    warp: Warp

    @property
    def dim(self) -> int:
        return 2

    def _log_prob(self, x):
        return self.base._log_prob(self.warp.inverse(x))

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n 2"]:
        return jax.vmap(self.warp.forward)(self.base.sample(n, key=key))

    def quadrature(self, order: int) -> Nodes:
        """The base mixture's Gauss-Hermite nodes, carried through the warp."""
        points, weights = self.base.quadrature(order)
        return Nodes(jax.vmap(self.warp.forward)(points), weights)


class Ring(Density):
    """A circle of the given radius with a log-normal profile: log |x| ~ N(log radius, (width / radius)^2), angle uniform.

    `width` is the thickness (standard deviation, to first order) in action units. The density vanishes at the origin.
    """

    radius: float = eqx.field(default=1.0, converter=float)
    width: float = eqx.field(default=0.08, converter=float)

    def __check_init__(self):
        if not (self.radius > 0 and self.width > 0):
            raise ValueError(f"A Ring takes a positive radius and width; got {self.radius} and {self.width}.")

    @property
    def dim(self) -> int:
        return 2

    @property
    def _spread(self):
        return self.width / self.radius

    def _log_prob(self, x):
        squared = jnp.sum(x**2)
        tiny = jnp.finfo(x.dtype).tiny
        log_r = 0.5 * jnp.log(jnp.where(squared > tiny, squared, tiny))  # `where` keeps the score finite at the origin
        normal = -0.5 * ((log_r - np.log(self.radius).item()) / self._spread) ** 2
        return normal - np.log(self._spread * (2 * np.pi) ** 1.5).item() - 2 * log_r

    def sample(self, n: int, *, key: PRNGKeyArray) -> Float[Array, "n 2"]:
        """n independent draws (n, 2): a log-normal radius, whose spread follows from `width`, and a uniform angle."""
        radius_key, angle_key = jr.split(key)
        r = self.radius * jnp.exp(self._spread * jr.normal(radius_key, (n,)))
        angle = jr.uniform(angle_key, (n,), maxval=2 * np.pi)
        return r[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)

    def quadrature(self, order: int) -> Nodes:
        """Gauss-Hermite in log-radius times 4 * order equal angles."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(order)
        angle = np.arange(4 * order) * (2 * np.pi / (4 * order))
        r = self.radius * np.exp(self._spread * nodes)
        points = r[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        weights = np.repeat(weights / weights.sum() / (4 * order), 4 * order)
        dtype = jnp.result_type(float)
        return Nodes(jnp.asarray(points.reshape(-1, 2), dtype), jnp.asarray(weights, dtype))


def monte_carlo(density: Density, n: int, *, key: PRNGKeyArray) -> Nodes:
    """n >= 1 samples with equal weights: the Nodes to use above two dimensions. Raises ValueError for fewer."""
    check_range(n, "a number of samples", "monte_carlo", low=1.0)
    points = density.sample(n, key=key)
    return Nodes(points, jnp.full((n,), 1 / n, points.dtype))


def off_manifold(
    density: Density, points: Float[Array, "n d"], *, key: PRNGKeyArray, level: float = 0.01, n: int = 8192
) -> Float[Array, ""]:
    """The share of `points` that the density calls rarer than all but `level` of its own samples; in [0, 1].

    The density's own samples score `level`; `n` of them set the threshold. Raises ValueError unless 0 < level < 1 and n >= 1.
    >>> float(densities.off_manifold(densities.make("ring"), jnp.array([[0.0, 1.0], [0.0, 0.0]]), key=jr.key(0)))
    0.5
    """
    if not 0 < level < 1:
        raise ValueError(f"off_manifold takes a level strictly between 0 and 1; got {level}.")
    check_range(n, "a number of samples", "off_manifold", low=1.0)
    log_probs = jax.vmap(density.log_prob)(density.sample(n, key=key))
    return jnp.mean(jax.vmap(density.log_prob)(points) < jnp.quantile(log_probs, level))


def _rotated(angle, major, minor):
    """Covariance with standard deviation `major` along `angle` (radians) and `minor` across it."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return turn @ np.diag([major**2, minor**2]) @ turn.T


def _banana():
    base = gaussian(jnp.zeros(2), jnp.diag(jnp.array([0.6**2, 0.06**2])))
    return Warped(base, Shear(_parabola))


def _parabola(u):
    return 0.9 * (u**2 - 0.36)


def _ridge():
    means = np.array([[-0.9, 0.0], [0.0, 0.0], [0.9, 0.0]])
    covariances = np.stack([_rotated(0.0, 0.22, width) for width in (0.05, 0.09, 0.05)])
    return Warped(GaussianMixture(jnp.array([0.3, 0.4, 0.3]), means, covariances), Shear(_wave))


def _wave(u):
    return 0.45 * jnp.sin(3.0 * u)


def _pinwheel():
    angles = np.arange(5) * 2 * np.pi / 5
    means = 0.85 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    covariances = np.stack([_rotated(angle, 0.26, 0.09) for angle in angles])
    return Warped(GaussianMixture(jnp.full(5, 0.2), means, covariances), Twist(0.7))


def _moons():
    angle = (np.arange(12) + 0.5) * np.pi / 12
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    upper, lower = 0.8 * arc + np.array([-0.4, -0.2]), -0.8 * arc + np.array([0.4, 0.2])
    covariances = np.stack([_rotated(a + np.pi / 2, 0.09, 0.06) for a in angle])
    means = np.concatenate([upper, lower])
    return GaussianMixture(jnp.full(24, 1 / 24), means, np.concatenate([covariances, covariances]))


def _crossing():
    covariances = np.stack([_rotated(0.0, 0.5, 0.04), _rotated(np.pi / 2, 0.25, 0.08), _rotated(np.pi / 4, 0.15, 0.15)])
    means = np.array([[0.1, -0.7], [-0.9, 0.2], [0.6, 0.5]])
    return GaussianMixture(jnp.array([0.45, 0.3, 0.25]), means, covariances)


_MAKERS = {"banana": _banana, "crossing": _crossing, "moons": _moons}
_MAKERS |= {"pinwheel": _pinwheel, "ridge": _ridge, "ring": Ring}
NAMES = tuple(_MAKERS)


@overload
def make(name: Literal["banana", "pinwheel", "ridge"]) -> Warped: ...
@overload
def make(name: Literal["crossing", "moons"]) -> GaussianMixture: ...
@overload
def make(name: str) -> Density: ...
def make(name: str) -> Density:
    """The named manifold: banana, crossing (thin and wide Gaussians), moons, pinwheel, ridge (bent, three modes) or ring.

    Raises ValueError with the nearest name when there is no such manifold.
    >>> [name for name in densities.NAMES if isinstance(densities.make(name), densities.GaussianMixture)]
    ['crossing', 'moons']
    """
    if name not in _MAKERS:
        raise ValueError(unknown("density", name, NAMES))
    return _MAKERS[name]()

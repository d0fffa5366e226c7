"""What the geometry is held against: mixtures by SciPy, and a way to evaluate many points."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from fdbook.geometry.densities import GaussianMixture


def many(function, in_axes=0):
    """A function of one point, compiled for many and returning NumPy."""
    compiled = jax.jit(jax.vmap(function, in_axes=in_axes))
    return lambda *args: np.asarray(compiled(*args))


class PlainMixture:
    """A Gaussian mixture by SciPy: what `GaussianMixture` is held against."""

    def __init__(self, weights, means, covariances):
        self.weights, self.means, self.covariances = map(np.asarray, (weights, means, covariances))

    def log_prob(self, x):
        """The log-densities (n,) of points (n, d)."""
        parts = [
            np.log(weight) + scipy.stats.multivariate_normal(mean, covariance).logpdf(x)
            for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True)
        ]
        return scipy.special.logsumexp(np.stack(parts), axis=0)

    def sample(self, n, rng):
        """n draws (n, d)."""
        which = rng.choice(self.weights.size, n, p=self.weights)
        draws = [rng.multivariate_normal(m, c, n) for m, c in zip(self.means, self.covariances, strict=True)]
        return np.stack(draws)[which, np.arange(n)]

    def noised(self, t):
        """The law of (1 - t) z + t a, from E1."""
        eye = np.eye(self.means.shape[1])
        return PlainMixture(self.weights, t * self.means, t**2 * self.covariances + (1 - t) ** 2 * eye)

    def built(self):
        """The same mixture as the package has it."""
        return GaussianMixture(*map(jnp.asarray, (self.weights, self.means, self.covariances)))


def random_mixture(dim, components, seed):
    """A mixture with tilted, anisotropic components: standard deviations from 0.1 to 0.5."""
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(rng.normal(size=(components, dim, dim)))[0]
    variances = rng.uniform(0.1, 0.5, size=(components, dim)) ** 2
    covariances = np.einsum("kij,kj,klj->kil", turns, variances, turns)
    return PlainMixture(rng.dirichlet(5 * np.ones(components)), rng.uniform(-1, 1, (components, dim)), covariances)

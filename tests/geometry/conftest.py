"""What the geometry tests share: densities written a second time, in NumPy and SciPy, and flows that were trained once."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
import scipy.special
import scipy.stats

from fdbook.geometry import flow
from fdbook.geometry.densities import GaussianMixture


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


@pytest.fixture(scope="session")
def plain():
    """A skewed mixture in the plane."""
    return random_mixture(2, 3, 7)


@pytest.fixture(scope="session")
def mixture(plain):
    """The same, as the package has it."""
    return plain.built()


@pytest.fixture(scope="session")
def fitted(mixture):
    """A small flow trained on the mixture, its losses, and the untrained field it came from."""
    field_key, data_key, fit_key = jr.split(jr.key(0), 3)
    field = flow.VelocityField(0, 2, 64, 2, key=field_key)
    actions = mixture.sample(20_000, key=data_key)
    options = {"steps": 3000, "batch_size": 256, "learning_rate": 3e-3, "decay": 0.99, "progress": False}
    trained, losses = flow.fit(field, actions, key=fit_key, **options)
    return trained, losses, field


@pytest.fixture
def unhooked():
    """Turns the checks of jaxtyping off, as they are for a reader: the package's own sentences have to do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def refused():
    """Calls a function that must refuse its input: one sentence (matching `match`), eagerly or, with jit, at run time."""

    def check(function, *args, match, jit=False):
        if jit:
            with pytest.raises(eqx.EquinoxRuntimeError, match=match):
                eqx.filter_jit(function)(*args)
            return
        with pytest.raises(ValueError, match=match) as caught:
            function(*args)
        text = str(caught.value)
        assert "\n" not in text
        assert text.endswith((".", "]", "}"))

    return check

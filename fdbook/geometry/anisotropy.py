"""How anisotropic a policy is in each state: its Fisher matrices, what they are worth, and how far to trust them.

The readings of a flow at one state's noised actions (E5, E7) give the matrices that the pooled metrics charge (E20, E21).
Two numbers judge them without knowing the truth: Stein's, which is 1 for the score of the law that the actions come from, and
the step that one metric takes, measured in another.
"""

from collections.abc import Callable
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_finite, check_range, check_shape
from fdbook.geometry import flow, loop, metrics, paths, trust_region
from fdbook.geometry.densities import gaussian


__all__ = [
    "SAMPLERS",
    "GaussianPolicy",
    "Readings",
    "blurred",
    "ceiling",
    "charges_reversed",
    "efficiency",
    "fit_held_out",
    "mean_loss",
    "modes",
    "moments",
    "readings",
    "sample_actions",
    "spectra",
    "standardizer",
    "stiff_axis_alignment",
    "survey",
]

LOSS_ROWS = 4000
WIDTH, DEPTH, BATCH, RATE, DECAY = 256, 3, 256, 2e-3, 0.998
LEAST_SPREAD = 0.05
SAMPLERS = {"accurate": (diffrax.Heun(), 20), "reference": (diffrax.Euler(), 10)}


def standardizer(observations: Float[Array, "n m"]) -> Callable:
    """A function that shifts and scales observations by the mean and the standard deviation of these.

    A component that hardly moves is divided by 0.05 instead, so that its noise is not blown up.

    >>> observations = np.array([[1.0, 5.0], [3.0, 5.0]])
    >>> anisotropy.standardizer(observations)(observations).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    mean, spread = observations.mean(axis=0), np.maximum(observations.std(axis=0), LEAST_SPREAD)
    return lambda others: ((others - mean[None]) / spread[None]).astype(np.float32)


@eqx.filter_jit
def mean_loss(
    field: Callable,
    observations: Float[Array, "n m"],
    actions: Float[Array, "n d"],
    keys: Array,
) -> Float[Array, ""]:
    """E2 on all rows, with one time and one noise a row for each of several keys.

    >>> field, keys = flow.ExactVelocity(densities.gaussian(jnp.zeros(2), jnp.eye(2))), jr.split(jr.key(1), 4)
    >>> loss = anisotropy.mean_loss(field, jnp.zeros((1000, 0)), jr.normal(jr.key(0), (1000, 2)), keys)
    >>> bool(jnp.abs(loss - np.pi / 2) < 0.1)  # of N(0, I) the exact velocity, the best there is, leaves pi / 2
    True
    """
    return jnp.mean(jax.lax.map(lambda key: flow.flow_matching_loss(field, observations, actions, key=key), keys))


def _spaced(arrays):
    """At most LOSS_ROWS rows of each array, spread evenly."""
    n = len(arrays[0])
    return tuple(array[np.linspace(0, n - 1, min(n, LOSS_ROWS)).astype(int)] for array in arrays)


def fit_held_out(
    train: tuple[Float[Array, "n m"], Float[Array, "n d"]],
    held_out: tuple[Float[Array, "k m"], Float[Array, "k d"]],
    *,
    key: PRNGKeyArray,
    steps: int = 16_000,
    checks: int = 16,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[flow.VelocityField, dict]:
    """Fits a flow to (observations, actions), and keeps the weights whose loss E2 on held-out rows was the lowest.

    The losses on both are taken `checks` times, on at most LOSS_ROWS rows that are spread evenly. Returns the field and
    a dict of `step`, `train` and `held_out` (checks,) and `chosen`, the step that was kept.
    """
    field_key, loss_key, train_key = jr.split(key, 3)
    field = flow.VelocityField(train[0].shape[1], train[1].shape[1], WIDTH, DEPTH, key=field_key)
    update, state = flow.training(field, steps=steps, batch_size=BATCH, learning_rate=RATE, decay=DECAY)
    some, loss_keys = (_spaced(train), _spaced(held_out)), jr.split(loss_key, 8)
    data, count = tuple(map(jnp.asarray, train)), steps // checks
    curve, best = {"step": [], "train": [], "held_out": []}, (np.inf, field, 0)
    for check in range(checks):
        state, _ = loop.run(
            update, state, data, key=jr.fold_in(train_key, check), steps=count, chunk=count, progress=False
        )
        losses = [float(mean_loss(state.average, seen, actions, loss_keys)) for seen, actions in some]
        for name, value in zip(curve, ((check + 1) * count, *losses), strict=True):
            curve[name].append(value)
        if losses[1] < best[0]:
            best = (losses[1], state.average, (check + 1) * count)
        progress((check + 1) / checks)
    return best[1], curve | {"chosen": best[2]}


class GaussianPolicy(eqx.Module):
    """A policy that is a Gaussian in every state, with its exact velocity: the observation is its mean and its covariance."""

    action_dim: int = eqx.field(static=True)

    @property
    def observation_dim(self) -> int:
        """The length of a mean and a covariance, d (d + 1)."""
        return self.action_dim * (self.action_dim + 1)

    def __call__(self, t: ArrayLike, observation: Float[Array, " n"], x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The velocity at one point x (d,) and time t of N(mean, covariance), for the observation (mean, covariance's rows)."""
        mean, rows = jnp.split(observation, [self.action_dim])
        mixture = gaussian(mean, rows.reshape(self.action_dim, self.action_dim))
        return flow.ExactVelocity(mixture)(t, observation, x)


def moments(actions: Float[Array, "s k d"]) -> tuple[np.ndarray, np.ndarray]:
    """The means (s, d) and the covariances (s, d, d) of the actions drawn in each of s states.

    >>> means, covariances = anisotropy.moments(np.array([[[1.0, 0.0], [3.0, 0.0]]]))
    >>> means.tolist(), covariances.tolist()
    ([[2.0, 0.0]], [[[1.0, 0.0], [0.0, 0.0]]])
    """
    actions = np.asarray(actions)
    means = actions.mean(axis=1)
    centered = actions - means[:, None]
    return means, np.einsum("ski,skj->sij", centered, centered) / actions.shape[1]


def modes(points: Float[Array, "k d"], axis: Float[Array, " d"] | None = None, *, least: float = 0.1) -> int:
    """How many modes one state's actions have along an axis, by default the widest one.

    The density along it is smoothed with 0.3 of its standard deviation; a mode is a maximum that is at least `least` times
    as high as the highest one, at the ends of the range too. Actions that are all alike have one. Raises ValueError for points
    that are no (k, d), for none, and for NaN or infinite ones.

    >>> anisotropy.modes(np.array([[x, 0.0] for x in (-4, -3, -2, 2, 3, 4)]))
    2
    """
    check_shape(points, (None, None), "points", "anisotropy.modes")
    check_range(len(points), "a number of points", "anisotropy.modes", low=1.0)
    points = np.asarray(check_finite(points, "points", "anisotropy.modes"), float)
    if axis is None:
        axis = np.linalg.eigh(np.atleast_2d(np.cov(points.T, bias=True)))[1][:, -1]
    along = points @ np.asarray(axis, float)
    width = 0.3 * along.std()
    if width <= 1e-12 * np.max(np.abs(along)):  # no spread but rounding
        return 1
    grid = np.arange(along.min() - width, along.max() + 1.25 * width, width / 8)
    smooth = np.exp(-(((grid[:, None] - along[None]) / width) ** 2) / 2).sum(axis=1)
    smooth = smooth[np.append(True, np.diff(smooth) != 0)]  # the middle of a mirrored cloud may be two equal points
    floor = np.maximum(np.maximum(smooth[:-2], smooth[2:]), least * smooth.max())
    return int(np.sum(smooth[1:-1] > floor))


@eqx.filter_jit
def sample_actions(
    field: paths.Velocity, states: Float[Array, "s n"], k: int, *, key: PRNGKeyArray, sampler: str = "accurate"
) -> Float[Array, "s k d"]:
    """k actions in each state before clipping (s, k, d), by a sampler of SAMPLERS; one key gives all of them the same noise.

    >>> field, options = flow.VelocityField(3, 2, width=8, depth=1, key=jr.key(0)), {"sampler": "reference"}
    >>> actions = anisotropy.sample_actions(field, jnp.ones((5, 3)), 4, key=jr.key(1), **options)
    >>> actions.shape, bool(jnp.any(actions[0] == actions[1]))  # states that are alike get noises of their own
    ((5, 4, 2), False)
    """
    solver, steps = SAMPLERS[sampler]
    noises = jr.normal(key, (states.shape[0], k, field.action_dim), jnp.float32)
    sample = jax.vmap(lambda s, z: flow.sample(field, s, z, solver=solver, steps=steps), in_axes=(None, 0))
    return jax.lax.map(lambda row: sample(*row), (states, noises)).astype(jnp.float32)


class Readings(NamedTuple):
    """What the scores at one state's noised actions say: the matrices (d, d) of E5 and of E7, and Stein's number ()."""

    exact: Float[Array, "*b d d"]
    released: Float[Array, "*b d d"]
    stein: Float[Array, "*b"]


def readings(
    field: Callable,
    observation: Float[Array, " n"],
    actions: Float[Array, "k d"],
    t: Float[Array, ""] | float,
    *,
    key: PRNGKeyArray,
) -> Readings:
    """Reads E5 and E7 off a field at perturbed time t in (0, 1), at one state's actions (k, d), each noised once (E1).

    Stein's number is -E[score . (x - E x)] / d for the score of E5: 1 when that is the score of the law of x, smaller
    when the actions come from a narrower law than the score belongs to.

    >>> field = flow.ExactVelocity(densities.gaussian(jnp.zeros(1), jnp.eye(1)))  # its velocity at t = 1/2 is 0
    >>> read = anisotropy.readings(field, flow.EMPTY, jr.normal(jr.key(0), (20_000, 1)), 0.5, key=jr.key(1))
    >>> round(float(read.exact[0, 0]), 1), round(float(read.stein), 1)  # p_t is N(0, 1/2), of Fisher matrix 2
    (2.0, 1.0)
    """
    points = paths.interpolate(t, jr.normal(key, actions.shape, actions.dtype), actions)
    velocities = jax.vmap(field, in_axes=(None, None, 0))(t, observation, points)
    exact, released = paths.score_from_velocity(t, points, velocities), paths.released_score(t, velocities)
    stein = -jnp.mean(exact * (points - jnp.mean(points, axis=0)[None]))
    return Readings(metrics.fisher_matrix(exact), metrics.fisher_matrix(released), stein)


@eqx.filter_jit
def survey(
    field: Callable,
    observations: Float[Array, "s n"],
    actions: Float[Array, "s k d"],
    times: Float[Array, " t"],
    *,
    draws: int = 8,
    key: PRNGKeyArray,
) -> Readings:
    """Readings at every time and in every state, (times, states, ...), each of the actions (s, k, d) noised `draws` times."""
    actions, keys = jnp.tile(actions, (1, draws, 1)), jr.split(key, observations.shape[0])

    def at(t):
        return jax.lax.map(lambda row: readings(field, row[0], row[1], t, key=row[2]), (observations, actions, keys))

    return jax.lax.map(at, times)


def blurred(covariance: Float[Array, "*b d d"], t: float) -> Float[Array, "*b d d"]:
    """The covariance of x_t (E1) when that of the actions is given: t^2 covariance + (1 - t)^2 I.

    >>> anisotropy.blurred(np.diag([0.0, 3.0]), 0.5).tolist()
    [[0.25, 0.0], [0.0, 1.0]]
    """
    return t**2 * covariance + (1 - t) ** 2 * np.broadcast_to(np.eye(covariance.shape[-1]), covariance.shape)


def efficiency(
    gradient: Float[Array, "*b d"], metric: Float[Array, "*b d d"], guess: Float[Array, "*b d d"]
) -> Float[Array, "*b"]:
    """E26: the gain of the step that a guessed metric G takes, G^-1 g, over that of E13, both at the same cost in F; in [0, 1].

    It is 1 for G = F up to scale, and the gap of E15 for G = I. It is at least 2 sqrt(k) / (1 + k), k = cond(G^-1 F).

    >>> gradient, metric = np.array([1.0, 1.0]), np.diag([1.0, 4.0])
    >>> [round(float(anisotropy.efficiency(gradient, metric, guess)), 3) for guess in (7 * metric, np.eye(2))]
    [1.0, 0.8]
    """
    step, best = (np.linalg.solve(matrix, gradient[..., None])[..., 0] for matrix in (guess, metric))
    cost = np.einsum("...i,...ij,...j->...", step, metric, step)
    return np.asarray(np.sum(gradient * step, axis=-1) / np.sqrt(cost * np.sum(gradient * best, axis=-1)))


def charges_reversed(exact: Float[Array, "*b d d"], released: Float[Array, "*b d d"]) -> np.ndarray:
    """Where a released matrix (E7) charges the softest axis of the exact one (E5) more than its stiffest; bool (...,)."""
    axes = np.linalg.eigh(exact)[1]
    charge = np.einsum("...ji,...jk,...ki->...i", axes, released, axes)
    return charge[..., 0] > charge[..., -1]


def stiff_axis_alignment(matrices: Float[Array, "*b d d"], directions: Float[Array, "s d"]) -> np.ndarray:
    """|cos| of the angle between the stiffest axes (..., s, d) and directions (s, d), one for each state."""
    units = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    return np.abs(np.einsum("...i,...i->...", np.linalg.eigh(matrices)[1][..., -1], units))


def spectra(matrices: Float[Array, "*b d d"]) -> np.ndarray:
    """Eigenvalues (..., d), softest first, each state's divided by their mean (E24)."""
    values = np.linalg.eigvalsh(np.asarray(matrices, float))
    return values / values.mean(axis=-1, keepdims=True)


def ceiling(condition: Float[Array, "*b"]) -> np.ndarray:
    """E15: the largest share of the gain that the L2 step can miss, 1 - 2 sqrt(k) / (1 + k).

    >>> [round(float(share), 3) for share in anisotropy.ceiling(np.array([1.0, 4.0]))]
    [0.0, 0.2]
    """
    return 1 - np.asarray(trust_region.kantorovich_bound(np.asarray(condition, float)))

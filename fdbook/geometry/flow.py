"""Flow-matching policies: a velocity field, its training, and its samples and likelihoods through diffrax.

A field maps (t, observation, x) to the velocity at x. A toy density is a policy with an empty observation, shape (0,), so the
same functions serve the notebooks and the robot. Everything but `fit` is written for one point: use `jax.vmap` for many.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_finite, check_point, check_shape, check_time, known
from fdbook.geometry import loop, paths
from fdbook.geometry.densities import GaussianMixture


__all__ = [
    "EMPTY",
    "ExactVelocity",
    "VelocityField",
    "fit",
    "flow_matching_loss",
    "log_prob",
    "noise",
    "sample",
    "sample_and_log_prob",
    "training",
    "trajectory",
]

EMPTY = np.zeros((0,), np.float32)  # the observation of a toy policy


class VelocityField(eqx.Module):
    """A multilayer perceptron v(t, observation, x) with GELU; `depth` hidden layers of `width` units.

    >>> field = flow.VelocityField(4, 2, width=8, depth=1, key=jr.key(0))
    >>> field(0.5, jnp.zeros(4), jnp.zeros(2)).shape
    (2,)
    """

    mlp: eqx.nn.MLP
    observation_dim: int = eqx.field(static=True)
    action_dim: int = eqx.field(static=True)

    def __init__(self, observation_dim: int, action_dim: int, width: int = 256, depth: int = 3, *, key: PRNGKeyArray):
        if observation_dim < 0 or min(action_dim, width, depth) < 1:
            raise ValueError(
                "VelocityField takes observation_dim >= 0 and action_dim, width, depth >= 1; got "
                f"{observation_dim}, {action_dim}, {width}, {depth}."
            )
        self.observation_dim, self.action_dim = observation_dim, action_dim
        inputs = observation_dim + action_dim + 1
        self.mlp = eqx.nn.MLP(inputs, action_dim, width, depth, jax.nn.gelu, dtype=jnp.float32, key=key)

    def __call__(self, t: ArrayLike, observation: Float[Array, " n"], x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The velocity at one point x (d,), at time t (), for one observation (n,); computed in the weights' precision."""
        check_point(observation, self.observation_dim, "VelocityField (observation)")
        check_point(x, self.action_dim, "VelocityField (x)")
        check_shape(t, (), "a time", "VelocityField")
        dtype = self.mlp.layers[0].weight.dtype
        parts = [jnp.asarray(part, dtype) for part in (observation, x, jnp.reshape(t, (1,)))]
        return self.mlp(jnp.concatenate(parts)).astype(x.dtype)


class ExactVelocity(eqx.Module):
    """A Gaussian mixture's closed-form velocity under E1, with the interface of a VelocityField (the observation is unused).

    >>> field = flow.ExactVelocity(densities.gaussian(jnp.array([1.0, 0.0]), jnp.eye(2)))
    >>> [round(float(v), 3) for v in field(0.0, flow.EMPTY, jnp.array([3.0, 5.0]))]  # at t = 0 the mean action minus x
    [-2.0, -5.0]
    """

    mixture: GaussianMixture

    @property
    def observation_dim(self) -> int:
        """0: a mixture has no observation."""
        return 0

    @property
    def action_dim(self) -> int:
        """The dimension of the mixture."""
        return self.mixture.dim

    def __call__(self, t: ArrayLike, observation: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The velocity at one point x (d,), at time t () in [0, 1]."""
        check_point(x, self.mixture.dim, "ExactVelocity (x)")
        return self.mixture._velocity(jnp.asarray(t, x.dtype), x)


def noise(field: paths.Velocity, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
    """n starting points z ~ N(0, I) for a field, shape (n, action_dim).

    >>> flow.noise(flow.ExactVelocity(densities.make("moons")), 3, key=jr.key(0)).shape
    (3, 2)
    """
    return jr.normal(key, (n, field.action_dim))


def flow_matching_loss(
    field: Callable, observations: Float[Array, "b n"], actions: Float[Array, "b d"], *, key: PRNGKeyArray
) -> Float[Array, ""]:
    """E2: the mean over the batch of |v(t, s, x_t) - (a - z)|^2 / d, with one t ~ U[0, 1] and one z ~ N(0, I) for each action."""
    time_key, noise_key = jr.split(key)
    t = jr.uniform(time_key, actions.shape[:1], actions.dtype)
    z = jr.normal(noise_key, actions.shape, actions.dtype)
    velocity = jax.vmap(field)(t, observations, paths.interpolate(t, z, actions))
    return jnp.mean((velocity - paths.target_velocity(z, actions)) ** 2)


class _MatchingLoss(eqx.Module):
    """E2 on a batch of the data, for `loop.fit`."""

    batch_size: int = eqx.field(static=True)

    def __call__(self, field, data, *, key):
        observations, actions = data
        index_key, loss_key = jr.split(key)
        index = jr.randint(index_key, (self.batch_size,), 0, actions.shape[0])
        loss = flow_matching_loss(field, observations[index], actions[index], key=loss_key)
        return loss, {"loss": loss}


def training(
    field: Callable, *, steps: int, batch_size: int, learning_rate: float, decay: float
) -> tuple[Callable, loop.Training]:
    """The update and the first state with which `fit` trains (`loop.training`)."""
    return loop.training(_MatchingLoss(batch_size), field, loop.Adam(learning_rate, steps), decay=decay)


def fit(
    field: VelocityField,
    actions: Float[Array, "n d"],
    observations: Float[Array, "n m"] | None = None,
    *,
    key: PRNGKeyArray,
    steps: int = 5000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    decay: float = 0.998,
    chunk: int = 500,
    progress: bool = True,
) -> tuple[VelocityField, np.ndarray]:
    """Trains the field on actions (n, d) and observations (n, m) by flow matching (E2); returns it and the losses (steps,).

    Adam with a cosine decay of the learning rate to 0; the returned weights are an exponential moving average of the
    trained ones with the given `decay` in [0, 1), and those at the start have no part in it. Without observations the policy
    has the empty one. Raises ValueError on wrong shapes, NaN or infinite data, FloatingPointError if the loss stops being
    finite.

    >>> field = flow.VelocityField(0, 2, width=16, depth=1, key=jr.key(0))
    >>> options = {"steps": 100, "learning_rate": 1e-2, "progress": False}
    >>> field, losses = flow.fit(field, jnp.full((64, 2), 3.0), key=jr.key(1), **options)  # all actions are (3, 3)
    >>> losses.shape, bool(losses[-10:].mean() < losses[:10].mean() / 2)
    ((100,), True)
    """
    check_shape(actions, (None, field.action_dim), "actions", "flow.fit")
    if observations is None:
        observations = np.zeros((np.shape(actions)[0], 0), np.float32)
    check_shape(observations, (np.shape(actions)[0], field.observation_dim), "observations", "flow.fit")
    if not (0 <= decay < 1 and learning_rate > 0 and min(batch_size, steps, np.shape(actions)[0]) >= 1):
        raise ValueError(
            "flow.fit takes decay in [0, 1), a positive learning rate, and at least one in a batch, one step and one action; "
            f"got {decay}, {learning_rate}, {batch_size}, {steps} and {np.shape(actions)[0]}."
        )
    data = tuple(
        jnp.asarray(check_finite(array, what, "flow.fit"), jnp.float32)
        for array, what in ((observations, "observations"), (actions, "actions"))
    )
    options = {"steps": steps, "chunk": chunk, "progress": progress, "label": "flow matching", "key": key}
    optimizer = loop.Adam(learning_rate, steps)
    field, history = loop.fit(_MatchingLoss(batch_size), field, data, optimizer, decay=decay, **options)
    return field, history["loss"]


def _vector_field(t, x, args):
    field, observation = args
    return field(t, observation, x)


def _solve(terms, y, args, t0, t1, solver, steps, stepsize_controller, adjoint, saveat):
    """One diffrax solve, with equal steps unless a controller is given."""
    if steps < 1:
        raise ValueError(f"A flow takes at least one step; got {steps}.")
    controller = diffrax.ConstantStepSize() if stepsize_controller is None else stepsize_controller
    time = jax.tree.leaves(y)[0].dtype.type  # diffrax would raise a float32 state to the precision of float64 times
    try:
        return diffrax.diffeqsolve(
            terms,
            solver,
            time(t0),
            time(t1),
            time((t1 - t0) / steps),
            y,
            args,
            saveat=saveat,
            stepsize_controller=controller,
            adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
            max_steps=max(4096, steps),
        )
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "Forward derivatives of a flow, as in jax.jvp, jax.jacfwd and jax.hessian, take adjoint=diffrax.DirectAdjoint(); "
            f"got {'none' if adjoint is None else type(adjoint).__name__}."
        ) from error


def _carry(field, observation, noise, saveat, solver, steps, stepsize_controller, adjoint, until=1.0):
    """The flow from t = 0 to `until`, saved as `saveat` says."""
    terms, solver = diffrax.ODETerm(_vector_field), diffrax.Euler() if solver is None else solver
    args = (field, observation)
    return _solve(terms, noise, args, 0.0, until, solver, steps, stepsize_controller, adjoint, saveat).ys


def sample(
    field: paths.Velocity,
    observation: Float[Array, " n"],
    noise: Float[Array, " d"],
    *,
    solver: diffrax.AbstractSolver | None = None,
    steps: int = 10,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    clip: bool = False,
    until: float = 1.0,
) -> Float[Array, " d"]:
    """E3: the action (d,) that the flow carries one noise (d,) to, from t = 0 to t = 1; with `until` < 1, how far it is then.

    The default is the reference setting, 10 equal Euler steps; `clip=True` also clips to the action box [-1, 1]. Any diffrax
    solver, step-size controller (then `steps` only sets the first step) and adjoint can be given. Raises ValueError for a noise
    of another shape, fewer than one step, and an `until` outside [0, 1].

    >>> field = flow.ExactVelocity(densities.gaussian(jnp.array([1.0, -2.0]), jnp.eye(2)))
    >>> action = flow.sample(field, flow.EMPTY, jnp.zeros(2))  # the mean of the noise goes to the mean of the actions
    >>> [round(float(a), 3) for a in action]
    [1.0, -2.0]
    """
    check_point(noise, field.action_dim, "flow.sample (noise)")
    saveat, until = diffrax.SaveAt(t1=True), check_time(until, "flow.sample (until)")
    action = _carry(field, observation, noise, saveat, solver, steps, stepsize_controller, adjoint, until)[0]
    return jnp.clip(action, -1, 1) if clip else action


def trajectory(
    field: paths.Velocity,
    observation: Float[Array, " n"],
    noise: Float[Array, " d"],
    times: Float[Array, " k"],
    *,
    solver: diffrax.AbstractSolver | None = None,
    steps: int = 10,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Float[Array, "k d"]:
    """E3 on the way: where the flow has carried one noise (d,) at increasing times (k,) in [0, 1]; arguments as in `sample`.

    Raises ValueError for wrong shapes, fewer than one step, and times that fall or lie outside [0, 1].

    >>> field = flow.ExactVelocity(densities.gaussian(jnp.array([1.0]), jnp.eye(1)))
    >>> points = flow.trajectory(field, flow.EMPTY, jnp.zeros(1), jnp.array([0.0, 0.5, 1.0]))  # along the means of p_t
    >>> [round(float(x), 3) for x in points[:, 0]]
    [0.0, 0.5, 1.0]
    """
    check_point(noise, field.action_dim, "flow.trajectory (noise)")
    check_shape(times, (None,), "times", "flow.trajectory")
    times = _check_rising(check_time(times, "flow.trajectory"))
    saveat = diffrax.SaveAt(ts=jnp.asarray(times, noise.dtype))
    return _carry(field, observation, noise, saveat, solver, steps, stepsize_controller, adjoint)


def _check_rising(times):
    """Returns times (k,) of a trajectory, refusing those of which a later one is smaller."""
    sentence = "flow.trajectory takes times that do not fall"
    if not known(times):
        return eqx.error_if(times, jnp.any(jnp.diff(times) < 0), f"{sentence}; a smaller one came after a larger one.")
    falls = np.flatnonzero(np.diff(times) < 0)
    if falls.size:
        earlier, later = np.asarray(times)[falls[0] : falls[0] + 2]
        raise ValueError(f"{sentence}; got {later!s} after {earlier!s}.")
    return times


def log_prob(
    field: paths.Velocity,
    observation: Float[Array, " n"],
    action: Float[Array, " d"],
    *,
    divergence: str = "exact",
    probes: int = 1,
    key: PRNGKeyArray | None = None,
    solver: diffrax.AbstractSolver | None = None,
    steps: int = 20,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Float[Array, ""]:
    """E4: the log-density () in nats of one action (d,) under the unclipped flow.

    The ODE runs back from the action at t = 1 to its noise at t = 0 and gathers the divergence on the way. `divergence` is
    "exact" (d forward derivatives) or "hutchinson" (`probes` random sign vectors, which need a `key`; unbiased). The default
    solver is Tsit5 with `steps` equal steps. Gradients work as they are; `jax.hessian` needs `adjoint=diffrax.DirectAdjoint()`.
    Raises ValueError for an unknown divergence or a missing key, TypeError for forward derivatives with another adjoint.

    >>> field = flow.ExactVelocity(densities.gaussian(jnp.ones(2), jnp.eye(2)))
    >>> round(float(flow.log_prob(field, flow.EMPTY, jnp.ones(2))), 3)  # -log(2 pi), as N(1, I) has at its mean
    -1.838
    """
    check_point(action, field.action_dim, "flow.log_prob (action)")
    signs = _probe_signs(field, divergence, probes, key, action.dtype, "flow.log_prob")
    options = (solver, steps, stepsize_controller, adjoint)
    start, gathered = _solve_with_divergence(field, observation, action, signs, 1.0, 0.0, *options)
    return _log_normal(start) + gathered


def sample_and_log_prob(
    field: paths.Velocity,
    observation: Float[Array, " n"],
    noise: Float[Array, " d"],
    *,
    divergence: str = "exact",
    probes: int = 1,
    key: PRNGKeyArray | None = None,
    solver: diffrax.AbstractSolver | None = None,
    steps: int = 20,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """E3 and E4 in one solve: the action (d,) that the flow carries a noise (d,) to, and its log-density () in nats.

    Arguments and errors as in `log_prob`. The density is that of the ODE: an action of the same noise by ten Euler steps
    (`sample`) is another one.
    """
    check_point(noise, field.action_dim, "flow.sample_and_log_prob (noise)")
    signs = _probe_signs(field, divergence, probes, key, noise.dtype, "flow.sample_and_log_prob")
    options = (solver, steps, stepsize_controller, adjoint)
    action, gathered = _solve_with_divergence(field, observation, noise, signs, 0.0, 1.0, *options)
    return action, _log_normal(noise) - gathered


def _probe_signs(field, divergence, probes, key, dtype, where) -> Float[Array, "probes d"]:
    """The vectors whose quadratic forms in the Jacobian have the divergence for their sum."""
    if divergence not in ("exact", "hutchinson"):
        raise ValueError(f"{where} takes divergence 'exact' or 'hutchinson'; got {divergence!r}.")
    if divergence == "exact":
        return jnp.eye(field.action_dim, dtype=dtype)
    if key is None or probes < 1:
        raise ValueError(f"{where} with Hutchinson's divergence takes a key and at least one probe.")
    return jr.rademacher(key, (probes, field.action_dim), dtype) / np.sqrt(probes).astype(dtype)


def _with_divergence(t, y, args):
    """The velocity, and its divergence beside it. It closes over nothing, so that diffrax compiles it once."""
    field, observation, signs = args
    velocity, derivative = jax.linearize(lambda x: field(t, observation, x), y[0])
    return velocity, jnp.sum(signs * jax.vmap(derivative)(signs))


def _solve_with_divergence(field, observation, point, signs, t0, t1, solver, steps, stepsize_controller, adjoint):
    """The other end of a trajectory, and the integral of the divergence from t0 to t1 along it."""
    start, args = (point, jnp.zeros((), point.dtype)), (field, observation, signs)
    terms, solver = diffrax.ODETerm(_with_divergence), diffrax.Tsit5() if solver is None else solver
    saveat = diffrax.SaveAt(t1=True)
    ends, gathered = _solve(terms, start, args, t0, t1, solver, steps, stepsize_controller, adjoint, saveat).ys
    return ends[0], gathered[0]


def _log_normal(z):
    return -0.5 * jnp.sum(z**2) - 0.5 * z.size * np.log(2 * np.pi).item()

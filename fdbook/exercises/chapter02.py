"""Checkers of chapter 02, learning the velocity: the loss, its floor, the best velocity for a finite data set, and a pairing of
noises and actions that lowers the floor."""

import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from fdbook.exercises import Wrong, call, exercise, same_shape


def _close(value, truth):
    return np.allclose(value, truth, rtol=1e-3, atol=1e-4)


def _velocity(t, x):
    """A velocity whose every argument matters."""
    return jnp.stack([jnp.sin(2.0 * t) * x[1], x[0] - t])


@exercise(
    "02.1",
    hints=(
        "where does the particle of a pair stand at time t, and which direction does its line have?",
        "jax.vmap(velocity) takes all times and points at once; compare with the directions, square, and take one mean of all.",
    ),
)
def _check_loss(answer):
    rng = np.random.default_rng(21)
    t, z, a = rng.uniform(size=8), rng.normal(size=(8, 2)), 0.5 + rng.normal(size=(8, 2))
    value = same_shape(call(answer, _velocity, jnp.asarray(t), jnp.asarray(z), jnp.asarray(a)), ())

    def loss(x, target):
        v = np.stack([np.sin(2.0 * t) * x[:, 1], x[:, 0] - t], axis=-1)
        return np.mean((v - target) ** 2)

    there, back = z + t[:, None] * (a - z), a + t[:, None] * (z - a)
    truth = loss(there, a - z)
    if _close(value, truth):
        return "Nothing in it knows a density, a score or a mean velocity: only pairs of noise and action."
    mistakes = (
        (loss(there, z - a), "your target points from the action to the noise."),
        (loss(back, a - z), "at t = 0 your point is the action; it should be the noise."),
        (loss(back, z - a), "at t = 0 your point is the action; it should be the noise."),
        (loss(there, a), "your target is the action; a particle that is under way has less far to go."),
        (loss(a, a - z), "your velocity never sees a point on the way."),
        (2 * truth, "it is too large by a constant factor: the mean runs over coordinates too."),
        (8 * truth, "it is too large by a constant factor: it should not grow with the batch."),
        (16 * truth, "it is too large by a constant factor: it should not grow with the batch."),
    )
    for wrong, hint in mistakes:
        if _close(value, wrong):
            raise Wrong(hint)
    raise Wrong("the loss is off; try one pair and a velocity that is zero, where it is the squared target.")


@exercise(
    "02.2",
    hints=(
        "per coordinate, a - z and x_t are jointly Gaussian: what is left is the variance less covariance squared over Var(x_t).",
        "the determinant of their 2 x 2 covariance, over Var(x_t), is the same number; write it out and most terms cancel.",
    ),
)
def _check_floor(answer):
    cases = [(t, std) for t in (0.0, 0.35, 0.8, 1.0) for std in (1.0, 0.3)]
    values = np.array([same_shape(call(answer, t, std), ()) for t, std in cases])

    def floor(t, std):  # the residual of the regression of a - z on x, from the joint covariance
        joint = np.array([[std**2 + 1, t * std**2 - (1 - t)], [t * std**2 - (1 - t), t**2 * std**2 + (1 - t) ** 2]])
        return np.linalg.det(joint) / joint[1, 1]

    truth = np.array([floor(t, std) for t, std in cases])
    if _close(values, truth):
        return "No network and no data set, however large, brings the loss below it."
    stds = np.array([std for _, std in cases])
    mistakes = (
        (stds**2 + 1, "this is the spread of a - z before x_t is seen; seeing it should help."),
        (stds**2 + 1 - truth, "this is the part that x_t explains; the loss is left with the rest."),
        (np.sqrt(truth), "this is a length; the loss is a mean square."),
        ([floor(t, std**0.5) for t, std in cases], "right for std = 1 and wrong for std = 0.3: look at how it enters."),
        (2 * truth, "this is the sum over two coordinates; the loss is a mean over them."),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    if not _close(values[:2], truth[:2]):
        raise Wrong("it is off at t = 0, where z is known and only a is left to guess.")
    if not _close(values[-2:], truth[-2:]):
        raise Wrong("it is off at t = 1, where a is known and only z is left to guess.")
    raise Wrong("right at both ends of time and wrong between them.")


@exercise(
    "02.3",
    hints=(
        "if action i led to x, its noise was (x - t a_i) / (1 - t): how likely is such a noise, as compared with the others?",
        "average the velocities a_i - z_i with these likelihoods as weights, which have to sum to one.",
    ),
)
def _check_best(answer):
    rng = np.random.default_rng(23)
    t, x, actions = 0.6, np.array([0.3, -0.2]), rng.normal(size=(40, 2))
    value = same_shape(call(answer, t, jnp.asarray(x), jnp.asarray(actions)), (2,))

    def weights(centers, scale):
        return np.exp(-0.5 * np.sum((x - centers) ** 2, axis=-1) / scale)

    right = weights(t * actions, (1 - t) ** 2)
    targets = (actions - x) / (1 - t)
    mean = right @ targets / right.sum()
    if _close(value, mean):
        return "It carries noise to these very actions and to no others: a perfect fit has learned the data by heart."
    near, wide = weights(actions, (1 - t) ** 2), weights(t * actions, 1 - t)
    mistakes = (
        (-mean, "right line, wrong way: your particles leave the actions."),
        (targets.mean(axis=0), "every action pulls alike; one that could hardly have led to x should not."),
        (right @ targets, "your weights do not sum to one."),
        (right @ targets / len(actions), "your weights do not sum to one."),
        (right @ actions / right.sum(), "this is the mean action, not the velocity towards it."),
        (right @ actions / right.sum() - x, "right direction, but its length is off by a factor that grows with t."),
        (
            near @ targets / near.sum(),
            "your weights favor actions near x; at time t a point has gone only part of the way.",
        ),
        (
            wide @ targets / wide.sum(),
            "right for nearly no noise or nearly all of it: the width of your weights is off.",
        ),
    )
    for wrong, hint in mistakes:
        if _close(value, wrong):
            raise Wrong(hint)
    raise Wrong("the mean velocity is off; with a single action it should lead straight to it.")


def _batches():
    """Fresh noises and actions in one, two and five dimensions; the actions are two clouds, apart and off the origin."""
    random = np.random.default_rng(24)
    for n, d in ((64, 1), (128, 2), (128, 5)):
        side = np.where(random.uniform(size=(n, 1)) < 0.4, -1.0, 0.7)
        yield (
            random.normal(size=(n, d)),
            side * np.linspace(1.0, 0.6, d) + random.normal(size=(n, d)) * np.linspace(0.3, 0.6, d),
        )


@exercise(
    "02.4",
    hints=(
        "in one dimension trajectories that never cross keep the order of the crowd: which pairing does that?",
        "in more dimensions it is an assignment problem; scipy solves it, and swapping pairs while that pays comes close.",
    ),
)
def _check_pairing(answer):
    saved = {}
    for z, actions in _batches():
        n, d = z.shape
        paired = same_shape(call(answer, jnp.asarray(z), jnp.asarray(actions)), (n, d))
        gaps = np.abs(paired[:, None] - actions[None]).max(axis=-1)
        if gaps.min(axis=1).max() > 1e-4:
            raise Wrong("some of what you return are not actions of the batch: pair them, and do not move them.")
        if len(set(gaps.argmin(axis=1))) < n:
            raise Wrong(
                "some actions occur twice and others not at all: the crowd would no longer arrive at the behavior."
            )
        costs = np.sum((actions[None] - z[:, None]) ** 2, axis=-1)
        blind, best = costs.trace(), costs[linear_sum_assignment(costs)].sum()
        saved[d] = (blind - np.sum((paired - z) ** 2)) / (blind - best)
    worst = min(saved, key=lambda name: saved[name])
    if saved[worst] < 0.05:
        raise Wrong("the lines are not shorter than those of blind pairs.")
    if saved[worst] < 0.8:
        raise Wrong(
            f"in {worst} dimension{'s' * (worst > 1)} it saves {saved[worst]:.0%} of what the best pairing saves."
        )
    return (
        f"It saves at least {saved[worst]:.0%} of what the best pairing saves. But an action now knows something of its noise, "
        "and E5 of the next chapter, which takes them for independent, is lost."
    )

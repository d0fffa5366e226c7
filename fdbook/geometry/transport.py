"""The local transport map T(a) = a + delta(s, a): its density, its inverse, what it costs in KL, and how it is learned.

The behavior policy pi_beta stays as it is; the refined policy is the law of T(a) for a ~ pi_beta (E8). T has to be one-to-one
for that law to have the density pi_beta(T^-1(b)) / |det(I + grad delta)|. For a bounded displacement this holds as soon as the
determinant is positive everywhere (a local diffeomorphism of R^d that moves no point far is one-to-one), and certainly when
delta is a contraction. Maps are for one point; expectations are over `Nodes`, from a density's quadrature or from Monte Carlo.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optimistix as optx
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_finite, check_point, check_range, check_shape, known
from fdbook.geometry import flow, information, loop
from fdbook.geometry.base_actions import BaseActions, base_from_density, base_from_flow
from fdbook.geometry.densities import Density, Nodes
from fdbook.geometry.metrics import Metric


__all__ = [
    "BaseActions",
    "Displacement",
    "LocalTransport",
    "actor_loss",
    "base_from_density",
    "base_from_flow",
    "dual_loss",
    "fit",
    "kl_exact",
    "kl_fisher",
    "kl_second_order",
    "kl_second_order_hessian",
]


class Displacement(eqx.Module):
    """A multilayer perceptron delta(s, a) with GELU, whose last layer starts `scale` times as large as usual.
    >>> bool(jnp.all(jnp.abs(transport.Displacement(3, 2, key=jr.key(0))(jnp.ones(3), jnp.ones(2))) < 0.01))  # near 0 at first
    True
    """

    mlp: eqx.nn.MLP

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        width: int = 64,
        depth: int = 2,
        *,
        scale: float = 0.01,
        key: PRNGKeyArray,
    ):
        mlp = eqx.nn.MLP(
            observation_dim + action_dim, action_dim, width, depth, jax.nn.gelu, dtype=jnp.float32, key=key
        )
        last = jax.tree.map(lambda leaf: scale * leaf, mlp.layers[-1])
        self.mlp = eqx.tree_at(lambda m: m.layers[-1], mlp, last)

    def __call__(self, observation: Float[Array, " n"], action: Float[Array, " d"]) -> Float[Array, " d"]:
        """delta(s, a) of shape (d,), computed in the weights' precision."""
        dtype = self.mlp.layers[0].weight.dtype
        inputs = jnp.concatenate([jnp.asarray(observation, dtype), jnp.asarray(action, dtype)])
        return self.mlp(inputs).astype(action.dtype)


class LocalTransport(eqx.Module):
    """E8: T(a) = a + delta(s, a), for any function `delta` of an observation, an array (n,) or a pytree, and an action (d,).
    >>> float(transport.LocalTransport(lambda s, a: 0.5 * a).determinant(flow.EMPTY, jnp.zeros(2)))  # 1.5^2
    2.25
    """

    delta: Callable

    def __call__(self, observation: PyTree, action: Float[Array, " d"]) -> Float[Array, " d"]:
        """T(a), shape (d,)."""
        return action + self.delta(observation, action)

    def jacobian(self, observation: PyTree, action: Float[Array, " d"]) -> Float[Array, "d d"]:
        """grad delta at one action: rows are components of delta, columns those of the action; shape (d, d)."""
        return information.jacobian(lambda a: self.delta(observation, a), action)

    def divergence(self, observation: PyTree, action: Float[Array, " d"]) -> Float[Array, ""]:
        """div delta at one action, shape ()."""
        return jnp.trace(self.jacobian(observation, action))

    def estimated_divergence(
        self, observation: PyTree, action: Float[Array, " d"], probe: Float[Array, " d"]
    ) -> Float[Array, ""]:
        """Hutchinson's estimate of div delta at one action, shape (): unbiased for a probe of random signs."""
        return probe @ jax.jvp(lambda a: self.delta(observation, a), (action,), (probe,))[1]

    def determinant(self, observation: PyTree, action: Float[Array, " d"]) -> Float[Array, ""]:
        """det(I + grad delta) at one action: how much T spreads the actions there; at most 0 where T folds."""
        return jnp.linalg.det(jnp.eye(action.shape[0], dtype=action.dtype) + self.jacobian(observation, action))

    def check_one_to_one(self, observation: Float[Array, " n"], actions: Float[Array, "k d"]) -> Float[Array, "k d"]:
        """Returns the actions (k, d), refusing a map whose determinant is not positive at every one of them.

        A fold between the given actions goes unseen: give as many as the density is wide.
        """
        lowest = jnp.min(jax.vmap(self.determinant, in_axes=(None, 0))(observation, actions))
        message = "This transport map folds: det(I + grad delta) must be positive"
        if known(lowest):
            if not lowest > 0:
                raise ValueError(f"{message} at every action; its smallest value here is {float(lowest):.3g}.")
            return actions
        return eqx.error_if(actions, ~(lowest > 0), f"{message}, and is not at some action.")

    def inverse(
        self, observation: Float[Array, " n"], target: Float[Array, " d"], *, tolerance: float = 1e-9
    ) -> Float[Array, " d"]:
        """The action a (d,) with T(a) = target, by Newton's method from several starts around it.

        Refuses (ValueError, or a runtime error inside jit) when the iteration does not converge, two starts lead to two actions,
        or T folds, its determinant not positive, at a solution or a probe no farther off than the longest displacement seen.
        """
        check_point(target, target.shape[-1] if target.ndim else 1, "LocalTransport.inverse")
        tolerance = max(tolerance, 10 * float(jnp.finfo(target.dtype).eps))
        axes = jnp.eye(target.shape[0], dtype=target.dtype)
        offsets = jnp.concatenate([axes, -axes])
        around = jnp.concatenate([target[None], target[None] + 0.5 * offsets])
        moves = jax.vmap(self.delta, in_axes=(None, 0))(observation, around)
        reach = jnp.max(jnp.linalg.norm(moves, axis=-1)) + tolerance
        probes = jnp.concatenate([target[None], *(target[None] + part * reach * offsets for part in (1.0, 0.5, 0.25))])
        starts = probes[: 1 + offsets.shape[0]]
        solver = optx.Newton(rtol=tolerance, atol=tolerance)

        def solve(start):
            options = {"max_steps": 64, "throw": False}
            return optx.root_find(lambda a, _: self(observation, a) - target, solver, start, **options).value

        result = jax.vmap(solve)(starts)
        missed = jnp.linalg.norm(jax.vmap(lambda a: self(observation, a))(result) - target[None], axis=-1)
        slack = 1e3 * tolerance * (1 + jnp.linalg.norm(target))
        good = missed < slack
        best = result[jnp.argmin(jnp.where(jnp.isfinite(missed), missed, jnp.inf))]
        apart = jnp.linalg.norm(result - best[None], axis=-1) > 10 * slack
        upright = jax.vmap(self.determinant, in_axes=(None, 0))(observation, jnp.concatenate([result, probes])) > 0
        folds = jnp.any(~upright & jnp.concatenate([good, jnp.ones(probes.shape[0], bool)]))
        refused = ~jnp.any(good) | jnp.any(good & apart) | folds
        message = (
            "This transport map has no inverse at the target: it folds near it, or Newton's method found no action."
        )
        if known(refused):
            if refused:
                raise ValueError(message)
            return best
        return eqx.error_if(best, refused, message)

    def log_prob(
        self, density: Density, observation: Float[Array, " n"], target: Float[Array, " d"]
    ) -> Float[Array, ""]:
        """E8: the log-density () of the refined policy at one action, for a behavior `density`; refuses where T folds."""
        action = self.inverse(observation, target)
        return density.log_prob(action) - jnp.log(self.determinant(observation, action))


def _at_nodes(function, nodes):
    return nodes.mean(jax.vmap(function)(nodes.points))


def kl_exact(
    transport: LocalTransport, density: Density, nodes: Nodes, observation: Float[Array, " n"] = flow.EMPTY
) -> Float[Array, ""]:
    """E9: KL(T_# pi | pi) = E[log pi(a) - log pi(a + delta) - log |det(I + grad delta)|] in nats.
    Refuses (as `check_one_to_one`) a map that folds at a node. Small displacements need float64: the first two terms cancel.
    >>> g, shift = densities.gaussian(jnp.zeros(1), jnp.eye(1)), transport.LocalTransport(lambda s, a: 0 * a + 0.5)
    >>> round(float(transport.kl_exact(shift, g, g.quadrature(8))), 3)  # 0.5^2 / 2
    0.125
    """
    points = transport.check_one_to_one(observation, nodes.points)

    def loss(action):
        moved = transport(observation, action)
        return density.log_prob(action) - density.log_prob(moved) - jnp.log(transport.determinant(observation, action))

    return _at_nodes(loss, Nodes(points, nodes.weights))


def kl_second_order(
    transport: LocalTransport, density: Density, nodes: Nodes, observation: Float[Array, " n"] = flow.EMPTY
) -> Float[Array, ""]:
    """E10, first form: 1/2 E[(score . delta + div delta)^2], the KL of a small displacement to second order, in nats.
    >>> g, wider = densities.gaussian(jnp.zeros(1), jnp.eye(1)), transport.LocalTransport(lambda s, a: 0.1 * a)
    >>> round(float(transport.kl_second_order(wider, g, g.quadrature(8))), 3)  # 1/2 E[(0.1 - 0.1 a^2)^2] = 0.1^2
    0.01
    """

    def rate(action):
        delta = transport.delta(observation, action)
        return 0.5 * (density.score(action) @ delta + transport.divergence(observation, action)) ** 2

    return _at_nodes(rate, nodes)


def kl_second_order_hessian(
    transport: LocalTransport, density: Density, nodes: Nodes, observation: Float[Array, " n"] = flow.EMPTY
) -> Float[Array, ""]:
    """E10, second form: 1/2 E[-delta^T (Hess log pi) delta + tr((grad delta)^2)], equal to the first by parts, in nats.

    >>> g, wider = densities.gaussian(jnp.zeros(1), jnp.eye(1)), transport.LocalTransport(lambda s, a: 0.1 * a)
    >>> round(float(transport.kl_second_order_hessian(wider, g, g.quadrature(8))), 3)  # 1/2 E[0.1^2 a^2 + 0.1^2] = 0.1^2
    0.01
    """

    def rate(action):
        delta, jacobian = transport.delta(observation, action), transport.jacobian(observation, action)
        curvature = jax.jvp(density.score, (action,), (delta,))[1]
        return 0.5 * (jnp.trace(jacobian @ jacobian) - delta @ curvature)

    return _at_nodes(rate, nodes)


def kl_fisher(
    transport: LocalTransport, density: Density, nodes: Nodes, observation: Float[Array, " n"] = flow.EMPTY
) -> Float[Array, ""]:
    """E11: 1/2 E[(score . delta)^2] in nats, the paper's form: second order for a translation, not for a field that varies.
    >>> g, wider = densities.gaussian(jnp.zeros(1), jnp.eye(1)), transport.LocalTransport(lambda s, a: 0.1 * a)
    >>> round(float(transport.kl_fisher(wider, g, g.quadrature(8))), 3)  # 1/2 E[(0.1 a^2)^2], half as much again as E10
    0.015
    """
    return _at_nodes(lambda a: 0.5 * (density.score(a) @ transport.delta(observation, a)) ** 2, nodes)


def actor_loss(
    transport: LocalTransport,
    value: Callable,
    metric: Metric,
    base: BaseActions,
    multiplier: Float[Array, ""] | float,
    *,
    normalize_q: bool = False,
    probes: Float[Array, "b k d"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """E18 to E22: multiplier * penalty - mean value(s, a + delta), and a dict with the penalty and the mean value.

    `value(s, a)` is a scalar function of one observation and one action. With `normalize_q` the value is divided by its
    mean absolute value, held constant. No gradient reaches the base actions or their readings. A metric that needs div delta gets
    it exactly, or, with `probes` (random signs, one vector for each action), as Hutchinson's estimate.
    """
    observations, (actions, readings) = base.observations, jax.lax.stop_gradient((base.actions, base.readings))
    over_actions = functools.partial(jax.vmap, in_axes=(None, 0))
    delta = jax.vmap(over_actions(transport.delta))(observations, actions)
    divergence = jnp.zeros(actions.shape[:2], actions.dtype)
    if metric.needs_divergence and probes is not None:
        estimate = jax.vmap(transport.estimated_divergence, in_axes=(None, 0, 0))
        divergence = jax.vmap(estimate)(observations, actions, probes)
    elif metric.needs_divergence:
        divergence = jax.vmap(over_actions(transport.divergence))(observations, actions)
    penalty = jnp.mean(jax.vmap(metric.penalty)(delta, divergence, readings))
    values = jax.vmap(over_actions(value))(observations, actions + delta)
    check_shape(values, actions.shape[:2], "one value for each action, all", "actor_loss")
    scale = jax.lax.stop_gradient(1 / jnp.maximum(jnp.mean(jnp.abs(values)), 1e-8)) if normalize_q else 1.0
    return multiplier * penalty - scale * jnp.mean(values), {"penalty": penalty, "value": jnp.mean(values)}


def dual_loss(
    log_multiplier: Float[Array, ""], penalty: Float[Array, ""], budget: Float[Array, ""] | float
) -> Float[Array, ""]:
    """E23: -log_multiplier (penalty - budget), the penalty held constant: its descent raises the multiplier over budget.
    >>> round(float(jax.grad(transport.dual_loss)(jnp.zeros(()), jnp.array(0.5), 0.1)), 1)  # budget - penalty
    -0.4
    """
    return -log_multiplier * (jax.lax.stop_gradient(penalty) - budget)


class _Dual(NamedTuple):
    """What is trained: the map, and the logarithm of the penalty's multiplier."""

    transport: LocalTransport
    log_multiplier: Float[Array, ""]


class _Loss(eqx.Module):
    """The actor loss on a batch and, with a budget, the dual loss (E23), for `loop.fit`."""

    value: Callable
    metric: Metric
    budget: Float[Array, ""] | None
    batch_size: int = eqx.field(static=True)
    normalize_q: bool = eqx.field(static=True)

    def _batch(self, base, key):
        if self.batch_size >= base.actions.shape[1]:
            return base
        index = jr.randint(key, (self.batch_size,), 0, base.actions.shape[1])
        return BaseActions(base.observations, *jax.tree.map(lambda x: x[:, index], (base.actions, base.readings)))

    def __call__(self, model, base, *, key):
        multiplier = jnp.exp(jax.lax.stop_gradient(model.log_multiplier))
        batch, options = self._batch(base, key), {"normalize_q": self.normalize_q}
        loss, info = actor_loss(model.transport, self.value, self.metric, batch, multiplier, **options)
        if self.budget is not None:
            loss = loss + dual_loss(model.log_multiplier, info["penalty"], self.budget)
        return loss, info | {"multiplier": multiplier}


class _Optimizer(eqx.Module):
    """Adam for the map and for the dual, whose rates fall together: a dual that stays fast would outrun a slow map.
    Within a tenth of the budget the dual's steps shrink with the violation; plain Adam blows small ones up and wanders off.
    """

    budget: Float[Array, ""] | None
    learning_rate: float = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __call__(self):
        actor, dual = (optax.cosine_decay_schedule(rate, self.steps, 0.05) for rate in (self.learning_rate, 1e-2))
        eps = 1e-8 if self.budget is None else 0.1 * self.budget
        return optax.partition(
            {"map": optax.adam(actor), "dual": optax.adam(dual, b2=0.99, eps=eps)}, _Dual("map", "dual")
        )


def fit(
    transport: LocalTransport,
    value: Callable,
    metric: Metric,
    base: BaseActions,
    *,
    key: PRNGKeyArray,
    multiplier: float = 1.0,
    budget: float | None = None,
    normalize_q: bool = False,
    steps: int = 2000,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    chunk: int = 500,
    progress: bool = True,
) -> tuple[LocalTransport, dict[str, np.ndarray]]:
    """Trains a transport map to raise `value` under a metric; returns it and the history of penalty, value and multiplier.

    Without a `budget` the multiplier stays as given; with one it starts there and dual ascent (E23) holds the penalty, the
    metric's mean cost over d, at the budget. Batches are `batch_size` of the base actions of every state. Raises ValueError
    for a multiplier or budget that is not positive, for wrong shapes and for NaN among the base actions.
    >>> base = transport.base_from_density(densities.gaussian(jnp.zeros(1), jnp.eye(1)), 64, key=jr.key(0))
    >>> start, l2 = transport.LocalTransport(transport.Displacement(0, 1, key=jr.key(1))), metrics.make("l2")
    >>> _, history = transport.fit(start, lambda s, a: a[0], l2, base, key=jr.key(2), steps=200, progress=False)
    >>> round(float(history["penalty"][-1]), 2)  # value - penalty = delta - delta^2 is greatest at delta = 1/2
    0.25
    """
    check_range(multiplier, "a multiplier", "transport.fit", open_low=True)
    if budget is not None:
        check_range(budget, "a budget", "transport.fit", open_low=True)
    check_range(min(steps, batch_size), "steps and a batch size", "transport.fit", low=1.0)
    check_shape(base.actions, (None, None, None), "base actions", "transport.fit")
    for reading in jax.tree.leaves(base.readings):
        states, k, d = np.shape(base.actions)
        check_shape(reading, (states, k, *[d] * (np.ndim(reading) - 2)), "readings", "transport.fit")
    for part in jax.tree.leaves(base.observations):
        check_shape(part, (np.shape(base.actions)[0], None), "observations", "transport.fit")
        check_finite(part, "observations", "transport.fit")
    check_finite(base.actions, "base actions", "transport.fit")
    for reading in jax.tree.leaves(base.readings):
        check_finite(reading, "readings", "transport.fit")
    dtype = base.actions.dtype
    held = None if budget is None else jnp.asarray(budget, dtype)
    model = _Dual(transport, jnp.log(jnp.asarray(multiplier, dtype)))
    loss, optimizer = _Loss(value, metric, held, batch_size, normalize_q), _Optimizer(held, learning_rate, steps)
    options = {"steps": steps, "chunk": chunk, "progress": progress, "label": "transport map", "key": key}
    model, history = loop.fit(loss, model, base, optimizer, **options)
    return model.transport, history

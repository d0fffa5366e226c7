"""What a displacement of a frozen flow gains and costs: on held-out states, under the flow's own exact density (E9).

The behavior is the flow's own law, integrated accurately and not clipped: that is the law of which E9 knows the density. Where
a displaced action leaves the box, critics see the clipped one. Agents are stacked along the first axis of their arrays.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array
from fdbook.data.load import Loaded
from fdbook.geometry import flow, metrics, transport
from fdbook.geometry.metrics import Metric
from fdbook.rl.agents import Agent


__all__ = [
    "Critics",
    "HeldOut",
    "Local",
    "Measured",
    "crossed_pairs",
    "features",
    "held_out",
    "local_geometry",
    "log_probs",
    "mean_value",
    "measured",
    "metric_matrices",
    "metric_matrix",
    "moving_map",
    "observations",
    "predicted_gain",
    "predicted_ratio",
    "stack",
    "take",
]

SOLVER_STEPS = 10
OFF_LEVEL = 0.01


@runtime_checkable
class Critics(Protocol):
    """What values actions: an agent's critics behind their encoder, or what stands in for them."""

    @property
    def head(self) -> Callable:
        """Q of every critic (critics,) for what it sees of one observation and one action."""
        ...


def observations(loaded: Loaded, train: int, held_out: int, *, key: PRNGKeyArray) -> tuple[Array, Array]:
    """At most so many states of a run's data to learn from, and others to measure at, as its agents see them.

    Those to measure at come from the validation set. Where there is none, both come from the data, apart from each other: then
    the agents have seen them.
    """
    keys = jr.split(key)
    if loaded.validation is None:
        numbers = jr.permutation(keys[0], loaded.train.size)[: train + held_out]
        chosen = loaded.train.at(numbers).observations
        return chosen[held_out:], chosen[:held_out]
    parts = zip((loaded.train, loaded.validation), (train, held_out), keys, strict=True)
    rows = [data.at(jr.permutation(key, data.size)[:count]).observations for data, count, key in parts]
    return rows[0], rows[1]


def take(tree: PyTree, *index: int | slice) -> PyTree:
    """The parts of a tree's arrays at an index of their first axes; what is no array stays."""
    return jax.tree.map(lambda x: x[index] if eqx.is_array(x) else x, tree)


def stack(rows: Sequence[PyTree]) -> PyTree:
    """Trees alike as one tree, their arrays stacked along a new first axis."""
    return jax.tree.map(lambda *x: np.stack(x), *rows)


def mean_value(
    critic: Critics, unit: Float[Array, ""], inputs: dict[str, Array], action: Float[Array, " d"]
) -> Float[Array, ""]:
    """The critics' mean at the clipped action, in units of their mean absolute value."""
    return unit * jnp.mean(critic.head(inputs["critic"], jnp.clip(action, -1, 1)))


def moving_map(delta: Callable, sees: str = "flow") -> transport.LocalTransport:
    """The transport map of a displacement that sees one network's features of an observation, those of `sees`."""
    return transport.LocalTransport(lambda inputs, action: delta(inputs[sees], action))


def features(agent: Agent, observations: Array) -> dict[str, Array]:
    """What each network sees of observations: "flow", "critic" and, where they are there, "delta" and "actor"."""
    there = [name for name in ("flow", "critic", "delta", "actor") if name in agent.networks]
    return {name: agent.networks[name].features(observations) for name in there}


class HeldOut(NamedTuple):
    """Held-out states, for each agent: the inputs of its networks, actions of its flow, and their log-density."""

    inputs: dict[str, Array]
    actions: Float[Array, "states k d"]
    log_probs: Float[Array, "states k"]
    threshold: Float[Array, " states"]


@eqx.filter_jit
def held_out(agents: Agent, observations: Array, count: int, key: PRNGKeyArray) -> HeldOut:
    """`count` actions of each agent's flow at each of some states, with their exact log-density (E4)."""
    noises = jr.normal(key, (len(observations), count, agents.action_dim), jnp.float32)

    def one(agent):
        field, inputs = agent.networks["flow"], features(agent, observations)
        both = functools.partial(flow.sample_and_log_prob, field.head, steps=SOLVER_STEPS)
        draw = jax.vmap(both, in_axes=(None, 0))
        actions, log_probs = jax.lax.map(lambda row: draw(*row), (inputs["flow"], noises), batch_size=64)
        means = jnp.mean(log_probs, axis=1)
        gap = jnp.quantile(means[:, None] - log_probs, 1 - OFF_LEVEL)
        return HeldOut(inputs, actions, log_probs, means - gap)

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0),))(agents)


@eqx.filter_jit
def log_probs(agent: Agent, inputs: dict[str, Array], actions: Float[Array, "states k d"]) -> Float[Array, "states k"]:
    """The exact log-density (E4) of actions at each state under one agent's flow."""
    log_prob = functools.partial(flow.log_prob, agent.networks["flow"].head, steps=SOLVER_STEPS)
    over = jax.vmap(log_prob, in_axes=(None, 0))
    return jax.lax.map(lambda row: over(*row), (inputs["flow"], actions), batch_size=64)


class Measured(NamedTuple):
    """What one displacement gains in Q and costs in nats at each state (states,), and four shares in [0, 1]."""

    gain: Float[Array, " states"]
    kl: Float[Array, " states"]
    """E9 in the mean over those samples at which the map is one-to-one."""
    folded: Float[Array, ""]
    """Samples with det(I + grad delta) <= 0, where E9 does not hold."""
    crossed: Float[Array, ""]
    """Pairs a, b of one state's samples with (T(a) - T(b)) . (a - b) <= 0. Without any the map is one-to-one among them."""
    clipped: Float[Array, ""]
    """The part of the displacement that the action box cuts off."""
    off: Float[Array, ""]
    """Displaced actions that the flow calls rarer than all but 1% of its own, relative to the mean of their state."""


@eqx.filter_jit
def measured(agent: Agent, delta: Callable, held_out: HeldOut, sees: str = "flow") -> Measured:
    """One displacement of one agent at held-out states: what it gains and costs (E9); `sees` names the features it takes."""
    field, critic = agent.networks["flow"].head, agent.networks["critic"]
    value = functools.partial(mean_value, critic, jnp.ones((), jnp.float32))
    moving = moving_map(delta, sees)

    def sample(inputs, action, log_prob, threshold):
        moved = moving(inputs, action)
        determinant = moving.determinant(inputs, action)
        after = flow.log_prob(field, inputs["flow"], moved, steps=SOLVER_STEPS)
        kl = log_prob - after - jnp.log(jnp.maximum(determinant, 1e-30))
        gain = value(inputs, moved) - value(inputs, action)
        kept = jnp.linalg.norm(jnp.clip(moved, -1, 1) - jnp.clip(action, -1, 1))
        return moved, gain, kl, determinant > 0, kept, jnp.linalg.norm(moved - action), after < threshold

    def state(inputs, actions, log_probs, threshold):
        moved, *rest = jax.vmap(sample, in_axes=(None, 0, 0, None))(inputs, actions, log_probs, threshold)
        return crossed_pairs(actions, moved), *rest

    rows = (held_out.inputs, held_out.actions, held_out.log_probs, held_out.threshold)
    crossed, gain, kl, upright, kept, length, off = jax.lax.map(lambda row: state(*row), rows, batch_size=64)
    count = jnp.maximum(jnp.sum(upright, axis=1, dtype=kl.dtype), 1)
    cost = jnp.sum(jnp.where(upright, kl, 0.0), axis=1) / count
    clipped = 1 - jnp.sum(kept) / jnp.maximum(jnp.sum(length), 1e-12)
    return Measured(jnp.mean(gain, axis=1), cost, jnp.mean(~upright), jnp.mean(crossed), clipped, jnp.mean(off))


def crossed_pairs(actions: Float[Array, "k d"], moved: Float[Array, "k d"]) -> Float[Array, ""]:
    """The share of pairs of points that a map brings past each other: (T(a) - T(b)) . (a - b) <= 0, equal points left out.

    >>> a = jnp.array([[0.0], [1.0], [3.0]])
    >>> [float(measure.crossed_pairs(a, b)) for b in (2 * a + 1, -a)]
    [0.0, 1.0]
    """
    between, after = (points[:, None] - points[None] for points in (actions, moved))
    apart = jnp.any(between != 0, axis=-1)
    past = apart & (jnp.sum(between * after, axis=-1) <= 0)
    return jnp.sum(past, dtype=actions.dtype) / jnp.maximum(jnp.sum(apart, dtype=actions.dtype), 1)


class Local(NamedTuple):
    """At each held-out state: the true Fisher matrix of the flow's law, and the mean gradient of Q over its actions."""

    information: Float[Array, "agents states d d"]
    gradients: Float[Array, "agents states d"]


@eqx.filter_jit
def local_geometry(agents: Agent, observations: Array, count: int, key: PRNGKeyArray) -> Local:
    """The true Fisher matrix of each agent's flow at each state, from `count` scores, and the gradient of Q.

    The scores are gradients of the exact log-density (E4), so that no perturbed time blurs them.
    """
    noises = jr.normal(key, (len(observations), count, agents.action_dim), jnp.float32)

    def one(agent):
        field = agent.networks["flow"].head
        value = functools.partial(mean_value, agent.networks["critic"], jnp.ones((), jnp.float32))
        score = jax.grad(functools.partial(flow.log_prob, field, steps=SOLVER_STEPS), argnums=1)

        def state(inputs, noises):
            draw = functools.partial(flow.sample, field, inputs["flow"], solver=diffrax.Tsit5(), steps=SOLVER_STEPS)
            actions = jax.vmap(draw)(noises)
            scores = jax.vmap(score, in_axes=(None, 0))(inputs["flow"], actions)
            slopes = jax.vmap(jax.grad(value, argnums=1), in_axes=(None, 0))(inputs, actions)
            return Local(metrics.fisher_matrix(scores), jnp.mean(slopes, axis=0))

        return jax.lax.map(lambda row: state(*row), (features(agent, observations), noises), batch_size=4)

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0),))(agents)


def metric_matrices(metric: Metric, readings: PyTree, held_out: HeldOut) -> Float[Array, "agents states d d"]:
    """What a metric charges a translation of each state with, as matrices (agents, states, d, d)."""
    agents, states, _, d = held_out.actions.shape
    if readings is None:
        return jnp.broadcast_to(jnp.eye(d), (agents, states, d, d))
    return _charged(metric, readings, d)


def metric_matrix(metric: Metric, readings: PyTree, d: int) -> Float[Array, "d d"]:
    """What a metric charges a translation of one state with, as a matrix, by its readings of k actions there."""
    k = jax.tree.leaves(readings)[0].shape[0]

    def cost(step):
        return jnp.mean(metric.cost(jnp.broadcast_to(step, (k, d)), jnp.zeros(k, step.dtype), readings))

    return jax.hessian(cost)(jnp.zeros(d, jnp.float32)) / 2


@eqx.filter_jit
def _charged(metric, readings, d):
    return jax.vmap(jax.vmap(lambda readings: metric_matrix(metric, readings, d)))(readings)


def predicted_gain(
    gradients: Float[Array, "*#b s d"], information: Float[Array, "*#b s d d"], forms: Float[Array, "*#b s d d"]
) -> np.ndarray:
    """E26 over several states with one multiplier: what the steps G^-1 g gain, at the same small mean KL, up to a factor.

    With `information` F and `forms` G the gain at a KL of eps is sqrt(2 eps) times this: sum g G^-1 g over the root of
    sum g G^-1 F G^-1 g. It is largest for G = F, where the mean KL is spread over states as is best, too.

    >>> gradients, information = np.array([[[1.0, 1.0]]]), np.diag([1.0, 4.0])[None, None]  # of one state
    >>> forms = np.stack([information[0], np.eye(2)[None]])  # the information itself, and L2
    >>> [round(float(gain), 3) for gain in measure.predicted_gain(gradients, information, forms)]
    [1.118, 0.894]
    """
    gradients, information, forms = (np.asarray(x, float) for x in (gradients, information, forms))
    steps = np.linalg.solve(forms, gradients[..., None])[..., 0]
    cost = np.einsum("...si,...sij,...sj->...", steps, information, steps)
    return np.sum(gradients * steps, axis=(-2, -1)) / np.sqrt(cost)


def predicted_ratio(local: Local, forms: Float[Array, "agents states d d"]) -> np.ndarray:
    """The gain that E26 predicts for a metric that charges `forms`, over that of L2, for each agent (agents,)."""
    identity = np.broadcast_to(np.eye(forms.shape[-1]), forms.shape)
    ours, theirs = (predicted_gain(local.gradients, local.information, form) for form in (forms, identity))
    return ours / theirs

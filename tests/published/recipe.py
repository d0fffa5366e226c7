"""One set of weights, one batch and one set of draws for every agent, from NumPy's frozen generator: the same on every machine.

`compare.py` gives them to the published code as well; `test_gradients.py` needs nobody else's code, only the numbers that the
published code made of them.
"""

import dataclasses
from typing import NamedTuple
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from fdbook.geometry import flow, metrics, paths
from fdbook.rl import agents
from fdbook.rl.agents import base, bc, deflow_fidec, fql, iql, rebrac
from fdbook.rl.transitions import Batch


N, D, B, K = 7, 3, 64, 4
"""Coordinates of an observation and of an action, transitions of a batch, Fisher samples of a state."""
SIZES = {"width": 32, "depth": 2, "batch_size": B, "flow_steps": 10, "tau": 0.3}
UPDATES = 6
TIMES = (0.85, 0.90)
DECORATED = {"actions_per_state": 1, "budget": 0.01, "multiplier": 10.0, "normalize_q": True}
FRESH = DECORATED | {"fisher_samples": "fresh", "num_fisher_samples": K}
CASES = {
    "fql": ("fql", None, {"alpha": 10.0, "normalize_q": True}),
    "ifql": ("ifql", None, {}),
    "iql": ("iql", None, {"alpha": 3.0}),
    "rebrac": ("rebrac", None, {"alpha_actor": 0.1, "alpha_critic": 0.1}),
    "deflow": ("deflow", None, DECORATED),
    "fidec-released": ("fidec", "released", FRESH),
    "fidec-exact": ("fidec", "exact", FRESH),
}
"""Name of a case: the agent, its metric, its settings."""


class Draws(NamedTuple):
    """All the randomness that the update of any agent takes."""

    t: np.ndarray
    z: np.ndarray
    noise: np.ndarray
    following: np.ndarray
    fisher_noise: np.ndarray
    fisher_z: np.ndarray
    fisher_t: np.ndarray


def numbers(seed: int):
    """A generator whose stream NumPy promises not to change."""
    return np.random.RandomState(seed)


def arrays(network) -> list:
    """The arrays of a network: weights and biases of each layer, then of each normalization."""
    return jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))


def norms(network) -> int:
    """How many layers of a network are normalized."""
    return len(getattr(getattr(network.head, "members", network.head), "norms", ()))


def _drawn(network, random):
    """The network with arrays drawn anew: weights of a size that keeps activations near 1, normalizations near the identity."""
    if not hasattr(network, "head"):
        return network
    old, rest = eqx.partition(network, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(old)
    members, new = hasattr(network.head, "members"), []
    for number, leaf in enumerate(leaves):
        is_scale = number >= len(leaves) - 2 * norms(network) and number % 2 == 0
        size = 1 / np.sqrt(leaf.shape[-1]) if leaf.ndim == 2 + members else 0.1
        new.append(jnp.asarray(is_scale + size * random.normal(size=leaf.shape), jnp.float32))
    return eqx.combine(jax.tree.unflatten(structure, new), rest)


def agent(case: str) -> base.Agent:
    """The agent of a case, its networks and target networks drawn from seed 0."""
    name, metric, config = CASES[case]
    config = config if metric is None else config | {"metric": metrics.make(metric)}
    made = agents.make(name)((N,), D, key=jax.random.key(0), **(SIZES | config))
    random = numbers(0)
    networks = {key: _drawn(made.networks[key], random) for key in sorted(made.networks)}
    targets = {key: _drawn(made.targets[key], random) for key in sorted(made.targets)}
    return dataclasses.replace(made, networks=networks, targets=targets)


def batch(seed: int) -> Batch:
    """A batch of transitions in NumPy's arrays."""
    random = numbers(1000 + seed)
    observations, following = random.normal(size=(2, B, N))
    actions, next_actions = random.uniform(-1, 1, size=(2, B, D))
    rewards, masks = random.normal(size=B), random.uniform(size=B) < 0.8
    return Batch(*(x.astype(np.float32) for x in (observations, actions, following, rewards, masks, next_actions)))


def draws(seed: int) -> Draws:
    """The draws of one update."""
    random = numbers(2000 + seed)
    t, fisher_t = random.uniform(size=B), random.uniform(*TIMES, size=B * K)
    z, noise, following = random.normal(size=(3, B, D))
    fisher_noise, fisher_z = random.normal(size=(2, B * K, D))
    return Draws(*(x.astype(np.float32) for x in (t, z, noise, following, fisher_noise, fisher_z, fisher_t)))


def given(made: base.Agent, drawn: Draws):
    """The draws in the form that an agent's `loss` takes."""
    matching, noise, following = bc.MatchingDraws(drawn.t, drawn.z), drawn.noise, drawn.following
    if isinstance(made, agents.FQL):
        return fql.FQLDraws(matching, noise, following)
    if isinstance(made, agents.IFQL):
        return matching
    if isinstance(made, agents.IQL):
        return iql.NoDraws()
    if isinstance(made, agents.ReBRAC):
        return rebrac.ReBRACDraws(following)
    return deflow_fidec.DecoratedFlowDraws(matching, noise[:, None], following, jax.random.key(0))


def _scores(drawn: Draws):
    """The scores of a decorated flow at the drawn Fisher samples, instead of those that it would draw itself."""

    def readings(self, field, features, actions, *, key):
        if self.metric.reads == "nothing":
            return None
        rows = jnp.repeat(features, K, axis=0)
        there = base.integrate_flow(field, rows, drawn.fisher_noise, self.config.flow_steps).actions
        t = drawn.fisher_t
        points = paths.interpolate(t, drawn.fisher_z, there)
        velocities = jax.vmap(field)(t, rows, points)
        return self.metric.readings(field, flow.EMPTY, t, points, velocities).reshape(-1, K, D)

    return mock.patch.object(deflow_fidec.DecoratedFlow, "_fresh_readings", readings)


def device(rows):
    """A batch or draws, on the device."""
    return jax.tree.map(jnp.asarray, rows)


@eqx.filter_jit
def _gradient(made, rows, drawn):
    with _scores(drawn):
        return eqx.filter_grad(lambda networks: made.loss(networks, rows, given(made, drawn))[0])(made.networks)


@eqx.filter_jit
def _update(made, rows, drawn):
    drawing = mock.patch.object(type(made), "draw", lambda self, rows, *, key: given(self, drawn))
    with _scores(drawn), drawing:
        return made.update(rows, key=jax.random.key(0))[0]


def gradient(made: base.Agent, seed: int) -> dict:
    """The gradient of an agent's loss at the batch and the draws of a seed, by network."""
    return _gradient(made, device(batch(seed)), device(draws(seed)))


def updated(made: base.Agent, updates: int = UPDATES) -> base.Agent:
    """The agent after several updates, number i with the batch and the draws of seed i, from 0 on."""
    for seed in range(updates):
        made = _update(made, device(batch(seed)), device(draws(seed)))
    return made


def at_a_turn(made: base.Agent) -> base.Agent:
    """The agent with the optimizer's memory of one update: ReBRAC's actor learns at the second."""
    return dataclasses.replace(made, opt_state=updated(made, 1).opt_state)


def vector(network) -> np.ndarray:
    """All numbers of a network, or of its gradient, in one row."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in arrays(network)])


def digest(row: np.ndarray, entries: int = 12) -> dict:
    """The length of a row of numbers, and some of them, evenly apart."""
    places = np.unique(np.linspace(0, len(row) - 1, entries).astype(int))
    return {"norm": float(f"{np.linalg.norm(row):.9g}"), "entries": [float(f"{x:.9g}") for x in row[places]]}


def change(after: base.Agent, before: base.Agent, name: str) -> np.ndarray:
    """What updates added to a network, or to "target NAME", in one row."""
    part = "targets" if name.startswith("target ") else "networks"
    key = name.removeprefix("target ")
    return vector(getattr(after, part)[key]) - vector(getattr(before, part)[key])

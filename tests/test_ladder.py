"""The frozen ladder against closed forms: a behavior that is a Gaussian in every state, and a value that is linear in the action.

Then the best displacement of each state is the translation G^-1 g, its KL half its quadratic form in the precision, and the gain
at equal KL is E26, whatever the networks are.
"""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbook.data import custom
from fdbook.data.load import load
from fdbook.experiment import RunSpec, ladder
from fdbook.experiment.run import Run
from fdbook.geometry import metrics
from fdbook.geometry.anisotropy import GaussianPolicy
from fdbook.rl import agents, records, train
from fdbook.rl.networks import Encoded


D = 2
SLOPE = np.array([0.6, 0.8])
WIDTHS = ((0.3, 0.05), (0.1, 0.1))
"""Two kinds of state: a thin one, turned by 30 degrees, and a round one."""
L2, EXACT = metrics.L2(), metrics.make("fisher-exact", damping=0.0, t=0.95)
RAW = dataclasses.replace(EXACT, trace_normalized=False)
SHARP = metrics.make("information-deblurred", damping=0.0, trace_normalized=False, least_width=1e-3)


def covariance(kind):
    angle = np.pi / 6 * (kind == 0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag(np.square(WIDTHS[kind])) @ turn.T


COVARIANCES = np.stack([covariance(0), covariance(1)])
STATES = np.array([[0.0, 0.0, *covariance(kind).ravel()] for kind in (0, 1)], np.float32)


class LinearCritics(eqx.Module):
    """Two critics whose mean is 2 + the slope times the action; they disagree by a constant."""

    slope: jax.Array

    def head(self, features, action):
        return 2 + self.slope @ action + jnp.array([0.1, -0.1], jnp.float32)


class Critic(eqx.Module):
    head: LinearCritics
    encoder: ClassVar[None] = None

    def features(self, observations):
        return observations


@pytest.fixture(scope="module")
def run():
    """Two agents alike in their flow, whose critics point the same way, one of them twice as steeply."""
    rng = np.random.default_rng(0)
    rows = STATES[rng.integers(2, size=1200)]
    actions = rng.normal(size=(1200, D)).astype(np.float32) * 0.1
    ends = np.arange(1200) % 300 == 299
    arrays = {"observations": rows, "actions": np.clip(actions, -1, 1), "terminals": ends}
    arrays |= {"next_observations": rows, "rewards": np.zeros(1200), "masks": np.ones(1200)}
    task = custom.from_arrays(arrays)
    spec = RunSpec(
        task, "deflow", seeds=2, updates=1, config={"width": 16, "depth": 1, "batch_size": 16}, normalize=False
    )
    stacked = train.init(agents.make("deflow"), (6,), D, (0, 1), width=16, depth=1, batch_size=16)
    flow = Encoded(None, GaussianPolicy(D))
    slopes = jnp.asarray(np.stack([SLOPE, 2 * SLOPE]), jnp.float32)
    critics = Encoded(None, LinearCritics(slopes).head)
    stacked = dataclasses.replace(stacked, networks=stacked.networks | {"flow": flow, "critic": CriticOf(slopes)})
    return Run(spec, records.Record(spec.to_dict(), {}), stacked, 1), load(task)


class CriticOf(eqx.Module):
    slope: jax.Array

    def features(self, observations):
        return observations

    def head(self, features, action):
        return 2 + self.slope @ action + jnp.array([0.1, -0.1], jnp.float32)


SPEC = {
    "rungs": 5,
    "updates": 400,
    "states": 64,
    "actions": 4,
    "readings": 256,
    "held_out_states": 40,
    "held_out_actions": 8,
}


@pytest.fixture(scope="module")
def climbed(run):
    spec = ladder.LadderSpec(metrics=(L2, EXACT, RAW, SHARP), learning_rate=1e-2, kl=(0.02, 0.5), **SPEC)
    return ladder.climb(run[0], spec, loaded=run[1])


def efficiency(forms):
    """E26 by hand for equally many states of both kinds: the gain of the steps G^-1 g at a mean KL of 1/2, up to the states' share."""
    steps = [np.linalg.solve(form, SLOPE) for form in forms]
    cost = sum(step @ np.linalg.solve(sigma, step) for step, sigma in zip(steps, COVARIANCES, strict=True))
    return sum(SLOPE @ step for step in steps) / np.sqrt(cost)


def test_x(climbed):
    for m, r in zip(climbed.spec.metrics, climbed.rungs):
        q = ladder.ratio(climbed, m)
        print(
            ladder._name(m),
            "mult",
            r.multiplier[:, 0],
            "kl",
            r.kl.mean(-1).T,
            "gain",
            r.gain.mean(-1)[:, 0],
            "ratio",
            q.ratio,
            q.low,
            q.high,
            "pred",
            r.predicted,
        )
    i = np.stack([np.eye(2)] * 2)
    P = np.linalg.inv(COVARIANCES)
    print(
        climbed.ceiling,
        efficiency(P) / efficiency(i),
        "exact norm",
        efficiency(np.stack([metrics.normalize_trace(jnp.asarray(p)) for p in P])) / efficiency(i),
    )
    print(np.unique(climbed.condition.round(2)))
    assert 0

"""What logs say of policies, against closed forms: a mixture's density, a quadratic Q, and the value of a linear policy."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry.densities import GaussianMixture
from fdbook.geometry.flow import ExactVelocity
from fdbook.rl import agents, networks, train
from fdbook.rl.agents import base
from fdbook.rl.offline_evaluation import (
    FittedQ,
    critic_value,
    first_states,
    fitted_q_value,
    held_out_likelihood,
    held_out_losses,
    offline_evaluate,
)
from fdbook.rl.transitions import Transitions


SEEDS = [3, 4]
GAINS = np.array([0.2, 1.2], np.float32)
A, B, DISCOUNT = 0.9, 0.5, 0.8


class Linear(base.Agent):
    """Agents with known parts: they act with -gain times the state."""

    @classmethod
    def build(cls, observation_shape, action_dim, settings, *, key):
        raise AssertionError("this policy does not learn")

    def draw(self, batch, *, key):
        raise AssertionError("this policy does not learn")

    def loss(self, trained, batch, draws):
        raise AssertionError("this policy does not learn")

    def act(self, observation, *, key):
        return -self.networks["gain"] * observation


class Head(eqx.Module):
    """Two critics of a state and an action, by a formula."""

    formula: Callable = eqx.field(static=True)

    def __call__(self, observation, action):
        return self.formula(observation[0], action[0])


def linear(q_agg="mean", **parts):
    settings = base.Config(discount=DISCOUNT, q_agg=q_agg)
    return Linear({"gain": jnp.asarray(GAINS)} | parts, {}, None, settings, 1)


def logged(compact=False, episodes=400, length=10, seed=0):
    """Episodes of s' = A s + B u under u ~ U(-1, 1), with the reward -(s^2 + u^2 / 10), and their first states."""
    rng = np.random.default_rng(seed)
    states = np.zeros((episodes, length + 1))
    states[:, 0] = rng.uniform(-1, 1, episodes)
    actions = rng.uniform(-1, 1, (episodes, length + 1))
    for step in range(length):
        states[:, step + 1] = A * states[:, step] + B * actions[:, step]
    rewards = -(states**2 + actions**2 / 10)
    rows = length + 1 if compact else length
    arrays = [each[:, :rows].reshape(-1) for each in (states, actions, rewards)]
    ends = np.arange(episodes * rows) % rows == rows - 1
    following = None if compact else states[:, 1:].reshape(-1, 1).astype(np.float32)
    columns = (arrays[0][:, None].astype(np.float32), arrays[1][:, None].astype(np.float32))
    return Transitions.of(
        *columns, arrays[2].astype(np.float32), np.ones(len(ends), np.float32), ends, following
    ), states[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("compact", [True, False])
def test_fitted_q_evaluation_finds_the_value_of_linear_policies(optimized, compact, budget):
    """V(s) = -p s^2 with p = 1 + gain^2 / 10 + DISCOUNT (A - B gain)^2 p, for each policy its own.

    It catches the logged next action in place of the policy's (then the values are those of the data, -2.1), a forgotten
    discount, and the critic of another seed (-0.69 and -0.41).
    """
    data, first = logged(compact)
    fitted = FittedQ(updates=2500, width=64, learning_rate=2e-3, tau=0.02)
    found = fitted_q_value(linear(), data, SEEDS, fitted=fitted, key=jr.key(0))
    p = (1 + GAINS**2 / 10) / (1 - DISCOUNT * (A - B * GAINS) ** 2)
    np.testing.assert_allclose(found, -p * np.mean(first**2), rtol=budget("fitted_q_evaluation"))


@pytest.mark.slow
def test_masks_end_what_is_counted():
    data, first = logged()
    data = dataclasses.replace(data, masks=jnp.zeros_like(data.masks))
    fitted = FittedQ(updates=1500, width=64, learning_rate=2e-3)
    found = fitted_q_value(linear(), data, SEEDS, fitted=fitted, key=jr.key(0))
    np.testing.assert_allclose(found, -(1 + GAINS**2 / 10) * np.mean(first**2), atol=0.02)


@pytest.mark.parametrize("q_agg", ["mean", "min"])
def test_the_critics_estimate_is_that_of_the_agent_s_own_critics_at_its_own_actions(q_agg):
    critic = networks.Encoded(None, Head(lambda s, a: jnp.stack([s + 2 * a, s * a])))
    data, _ = logged(episodes=20)
    found = critic_value(linear(q_agg, critic=critic), data, SEEDS, key=jr.key(0))
    s = np.asarray(data.observations[:, 0], float)
    for value, gain in zip(found, GAINS, strict=True):
        q = np.stack([s - 2 * gain * s, -gain * s**2])
        np.testing.assert_allclose(value, np.mean(q.mean(axis=0) if q_agg == "mean" else q.min(axis=0)), rtol=1e-5)


@pytest.mark.slow
def test_the_likelihood_is_that_of_a_mixture_inside_the_box_and_the_edge_is_counted(budget):
    """The exact velocity of a Gaussian mixture: E4 must give the mixture's density; what lies at the edge is left out."""
    means, covariances = jnp.array([[0.4, 0.2], [-0.5, -0.3]]), jnp.stack([0.04 * jnp.eye(2), 0.09 * jnp.eye(2)])
    mixture = GaussianMixture(jnp.array([0.3, 0.7]), means, covariances)
    actions = np.clip(mixture.sample(400, key=jr.key(1)), -1, 1).astype(np.float32)
    ends = np.arange(400) % 50 == 49
    rows = (np.zeros((400, 3), np.float32), actions, np.zeros(400, np.float32), np.ones(400, np.float32), ends)
    data = Transitions.of(*rows, next_observations=rows[0])
    head = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]).astype(jnp.float32), ExactVelocity(mixture))
    found = held_out_likelihood(linear(flow=networks.Encoded(None, head)), data, key=jr.key(0))
    edge = np.any(np.abs(actions) == 1, axis=1)
    assert found.clipped_share == pytest.approx(edge.mean())
    assert 0 < edge.sum() < 40
    wanted = -np.mean(jax.vmap(mixture.log_prob)(jnp.asarray(actions[~edge], float)))
    np.testing.assert_allclose(found.nll, wanted, atol=budget("held_out_nll"))
    whole = dataclasses.replace(data, actions=jnp.ones_like(data.actions))
    assert np.all(np.isnan(held_out_likelihood(linear(flow=networks.Encoded(None, head)), whole, key=jr.key(0)).nll))


def test_first_states_are_those_of_episodes_with_a_transition():
    ends = np.array([0, 0, 1, 1, 0, 1], bool)
    rows = (np.arange(6, dtype=np.float32)[:, None], np.zeros((6, 1), np.float32), np.zeros(6), np.ones(6), ends)
    compact = Transitions.of(*rows)
    np.testing.assert_array_equal(compact.at(first_states(compact)).observations[:, 0], [0, 4])
    full = Transitions.of(*rows, next_observations=rows[0])
    np.testing.assert_array_equal(full.at(first_states(full)).observations[:, 0], [0, 3, 4])


WANTED = {
    "bc": {"held_out_nll", "clipped_share", "fqe_value"},
    "fql": {"held_out_nll", "clipped_share", "critic_value", "fqe_value"},
    "ifql": {"held_out_nll", "clipped_share", "critic_value", "fqe_value"},
    "deflow": {"held_out_nll", "clipped_share", "critic_value", "fqe_value"},
    "fidec": {"held_out_nll", "clipped_share", "critic_value", "fqe_value"},
    "iql": {"critic_value", "fqe_value"},
    "rebrac": {"critic_value", "fqe_value"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_agent_is_judged_by_what_it_has(name):
    assert name in WANTED, f"tests/rl/test_offline_evaluation.py: WANTED has no entry for {name!r}"
    data, _ = logged(episodes=8)
    settings = {"width": 8, "depth": 1, "batch_size": 4}
    stacked = train.init(agents.make(name), data.observation_shape, data.action_dim, SEEDS, **settings)
    options = {"fitted": FittedQ(updates=3, batch_size=4, width=8), "states": 20}
    found = offline_evaluate(stacked, data, SEEDS, key=jr.key(0), **options)
    assert set(found) == WANTED[name]
    assert all(len(values) == len(SEEDS) and np.all(np.isfinite(values)) for values in found.values())
    assert found == offline_evaluate(stacked, data, SEEDS, key=jr.key(0), **options)
    assert found["fqe_value"][0] != found["fqe_value"][1]


def test_held_out_losses_are_those_of_the_networks_on_the_same_rows_for_every_agent():
    """E2 by hand: a velocity of v everywhere, and targets a - z whose noises have variance 1, leave (a - v)^2 + 1 in the mean.

    Two agents of one velocity differ by their noises, and what is seen changes neither the rows nor the noises that are drawn.
    """
    data, _ = logged(episodes=40)
    stacked = train.init(agents.make("bc"), data.observation_shape, 1, SEEDS, width=4, depth=1, batch_size=64)
    still = jax.tree.map(lambda leaf: 0 * leaf if eqx.is_inexact_array(leaf) else leaf, stacked)
    moved = eqx.tree_at(
        lambda agent: agent.networks["flow"].head.mlp.layers[-1].bias, still, replace_fn=lambda b: b + 0.5
    )
    actions, options = np.asarray(data.actions, float), {"batches": 200, "key": jr.key(0)}
    for agent, v in ((still, 0.0), (moved, 0.5)):
        found = held_out_losses(agent, data, SEEDS, **options)
        assert set(found) == {"flow"}
        np.testing.assert_allclose(found["flow"], np.mean((actions - v) ** 2) + 1, rtol=0.05)
        assert found["flow"][0] != found["flow"][1]
    elsewhere = dataclasses.replace(data, observations=data.observations + 1)
    same = held_out_losses(moved, elsewhere, SEEDS, **options)["flow"]
    np.testing.assert_array_equal(same, found["flow"])
    with pytest.raises(
        ValueError, match=r"^held_out_losses takes a whole number of batches, at least one; got batches=0\.$"
    ):
        held_out_losses(stacked, data, SEEDS, batches=0, key=jr.key(0))


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match=r"^FittedQ takes tau in \(0, 1\]; got 0\.$"):
        FittedQ(tau=0.0)
    with pytest.raises(ValueError, match=r"^offline evaluation takes at least one state; got states=0\.$"):
        critic_value(linear(), logged(episodes=2)[0], SEEDS, states=0, key=jr.key(0))

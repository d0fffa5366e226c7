"""Several updates in a row by hand, and what else agents take from the published code: first weights, choices, crops."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import plain_agents as plain
import pytest
from test_agents import D, N, act, make, some_batch

from fdbook.geometry import flow
from fdbook.geometry.densities import GaussianMixture
from fdbook.rl import agents, train
from fdbook.rl.agents import base


def arrays(tree):
    """The inexact arrays of a tree, in double precision."""
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]


def agents_after(agent, updates):
    """The agent before the first update and after each of several, of other batches and draws each."""
    update = eqx.filter_jit(lambda agent, batch, key: agent.update(batch, key=key)[0])
    met = [agent]
    for step in range(updates):
        met.append(update(met[-1], some_batch(step), jr.key(step)))
    return met


@pytest.mark.parametrize("name", [name for name in agents.AGENTS if name != "bc"])
def test_target_networks_follow_what_the_networks_were_before_each_update(budget, name):
    """Six updates: a copy that follows the new weights, the order that textbooks have, is one update early."""
    met = agents_after(make(name, learning_rate=1e-2, tau=0.3), 6)
    for key in met[0].targets:
        late = early = arrays(met[0].targets[key])
        weights = [arrays(agent.networks[key]) for agent in met]
        for number in range(6):
            if name != "rebrac" or number % 2 == 1:
                late = [0.7 * slow + 0.3 * fast for slow, fast in zip(late, weights[number], strict=True)]
                early = [0.7 * slow + 0.3 * fast for slow, fast in zip(early, weights[number + 1], strict=True)]
        for got, wanted in zip(arrays(met[-1].targets[key]), late, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=budget("followed_weights"))
        assert max(np.abs(a - b).max() for a, b in zip(late, early, strict=True)) > 1e-3


def adam(gradients, rate):
    """Adam's steps for a list of gradients, one for each update, from its definition."""
    first = second = 0.0
    steps = []
    for number, gradient in enumerate(gradients, start=1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        steps.append(-rate * (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-8))
    return steps


def test_rebracs_actor_goes_on_by_its_momentum_between_its_turns(budget):
    """An Adam of its own, which waits between the turns, moves at updates 2, 4 and 6 only, and otherwise far."""
    met = agents_after(make("rebrac", alpha_actor=0.3), 6)

    @eqx.filter_jit
    def gradient(agent, batch, key):
        draws = agent.draw(batch, key=key)
        return eqx.filter_grad(lambda networks: agent.loss(networks, batch, draws)[1]["actor"])(agent.networks)

    gradients = []
    for step, agent in enumerate(met[:-1]):
        term = gradient(agent, some_batch(step), jr.key(step))
        weight = np.asarray(term["actor"].head.layers[0].weight, np.float64)
        gradients.append(weight if (step + 1) % 2 == 0 else 0 * weight)
    weights = [np.asarray(agent.networks["actor"].head.layers[0].weight, np.float64) for agent in met]
    moved = np.diff(weights, axis=0)
    np.testing.assert_allclose(moved, adam(gradients, 3e-4), rtol=0, atol=3e-4 * budget("adam_by_hand"))
    lengths = np.abs(moved).mean(axis=(1, 2))
    assert lengths[0] == 0
    assert np.all(lengths[2::2] > 0.3 * lengths[1:-1:2])


@pytest.mark.parametrize("name", ["iql", "rebrac"])
def test_a_policys_last_layer_starts_at_a_hundredth_of_glorots_variance(budget, name):
    made = make(name, width=400)
    glorot = np.sqrt(2 / (400 + D))
    tolerance = budget("spread_of_first_weights")
    last, hidden = (np.asarray(made.networks["actor"].head.layers[i].weight) for i in (-1, 1))
    assert last.std() == pytest.approx(0.1 * glorot, rel=tolerance)
    assert hidden.std() == pytest.approx(np.sqrt(2 / 800), rel=tolerance)
    members = made.networks["critic"].head.members
    assert np.asarray(members.layers[-1].weight).std() == pytest.approx(np.sqrt(2 / 401), rel=tolerance)


def test_ifql_chooses_by_the_smaller_critic_whatever_the_target_joins_by():
    agent = make("ifql", num_samples=16, q_agg="mean")
    choices = []
    for key in jr.split(jr.key(5), 8):
        observation = jr.normal(key, (N,), jnp.float32)
        s = np.repeat(np.asarray(observation, np.float64)[None], 16, axis=0)
        noises = np.asarray(jr.normal(key, (16, D), jnp.float32))
        actions = plain.flow(agent.networks["flow"].head, s, noises, 5)[0]
        q = plain.q(agent.networks["critic"].head, s, actions)
        np.testing.assert_allclose(act(agent, observation, key), actions[np.argmax(q.min(axis=0))], atol=1e-5)
        choices.append(np.argmax(q.min(axis=0)) == np.argmax(q.mean(axis=0)))
    assert not all(choices)


def test_a_crop_moves_an_observation_and_its_next_one_alike():
    """One coin for the whole batch; two crops drawn apart would make the critic's two pictures jump against each other."""
    batch = some_batch(shape=(12, 10, 3))
    batch = batch._replace(next_observations=255 - batch.observations)
    cropped, coins = eqx.filter_jit(train._cropped), []
    for key in jr.split(jr.key(0), 64):
        got = cropped(batch, key=key)
        assert np.array_equal(got.next_observations, 255 - got.observations)
        still = (np.asarray(got.observations) == np.asarray(batch.observations)).all(axis=(1, 2, 3))
        coins.append(still.all())
        assert still.all() or still.mean() < 0.25
        assert np.array_equal(got.actions, batch.actions)
    assert 20 < sum(coins) < 44
    states = some_batch()
    assert train._cropped(states, key=jr.key(0)) is states


@pytest.mark.parametrize("width", [0.3, 0.1, 0.03])
def test_ten_steps_narrow_the_flow(budget, width):
    """Euler's steps on a Gaussian's exact velocity are one factor each: how much of p_t's variance the last stage keeps."""
    field = flow.ExactVelocity(GaussianMixture(jnp.ones(1), jnp.full((1, 1), 0.2), jnp.full((1, 1, 1), width**2)))
    base_actions = base.integrate_flow(field, jnp.zeros((2, 0)), jnp.asarray([[0.0], [1.0]]), 10)
    factor = 1.0
    for t in np.arange(9) / 10:
        factor *= 1 + 0.1 * (t * width**2 - (1 - t)) / ((t * width) ** 2 + (1 - t) ** 2)
    assert float(base_actions.points[1, 0] - base_actions.points[0, 0]) == pytest.approx(
        factor, rel=budget("closed_form")
    )
    kept = factor**2 / ((0.9 * width) ** 2 + 0.1**2)
    assert round(kept, 2) == {0.3: 0.77, 0.1: 0.85, 0.03: 0.98}[width]

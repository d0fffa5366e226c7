"""Estimates from logs alone, against a Gaussian's likelihood and a Markov chain whose value is a linear system's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry import flow
from fdbook.geometry.densities import gaussian
from fdbook.rl import agents, networks, train
from fdbook.rl.agents import base
from fdbook.rl.offline_evaluation import FQE, critic_values, fitted_q_values, held_out_nll, offline_evaluate
from fdbook.rl.transitions import Transitions


STATES, DISCOUNT = 5, 0.9


class Fixed(base.Agent):
    """A policy that always does one thing."""

    def build(self, *args, **options):
        raise AssertionError("it is made by hand")

    draw = loss = build

    def act(self, observation, *, key):
        return self.networks["action"]


def fixed(actions, **networks):
    """Stacked policies, one for each row of actions."""
    actions = jnp.asarray(actions, jnp.float32)
    parts = {name: jax.tree.map(lambda leaf: jnp.stack([leaf] * len(actions)), part) for name, part in networks.items()}
    return Fixed({"action": actions} | parts, {}, (), base.Settings(discount=DISCOUNT), actions.shape[1])


def ring(episodes=60, steps=40, seed=0):
    """Logged walks around a ring of states by random actions: reward state / 5 - a^2, one step on whatever is done.

    The last state's step ends the return (mask 0), and the walk goes on from the first.
    """
    rng = np.random.default_rng(seed)
    rows = episodes * steps
    ends = np.arange(rows) % steps == steps - 1
    state = (np.arange(rows) % steps) % STATES
    actions = rng.uniform(-1, 1, (rows, 1)).astype(np.float32)
    rewards = state / 5 - actions[:, 0] ** 2
    masks = (state != STATES - 1).astype(np.float32)
    observations = np.eye(STATES, dtype=np.float32)[state]
    return Transitions.of(observations, actions, rewards.astype(np.float32), masks, ends)


def exact_value(action):
    """V of the first state: sum of discounted rewards until the last state's step."""
    return sum(DISCOUNT**k * (k / 5 - action**2) for k in range(STATES))


def test_fitted_q_evaluation_finds_the_value_of_a_policy_that_is_not_the_logs(budget):
    """Two policies at once; the log's own actions have the mean square 1/3, neither policy's."""
    options = FQE(updates=3000, width=32, depth=2, batch_size=64, learning_rate=3e-3, tau=0.05)
    found = fitted_q_values(fixed([[0.0], [0.9]]), ring(), [0, 1], fqe=options, key=jr.key(0))
    wanted = [exact_value(0.0), exact_value(0.9)]
    np.testing.assert_allclose(found, wanted, atol=budget("fitted_q_evaluation"))
    assert abs(exact_value(np.sqrt(1 / 3)) - wanted[0]) > 5 * budget("fitted_q_evaluation")


def test_the_likelihood_is_the_gaussians(budget):
    density = gaussian(jnp.asarray([0.1, -0.2]), jnp.asarray([[0.09, 0.03], [0.03, 0.05]]))
    stacked = fixed(np.zeros((2, 2)), flow=networks.Encoded(None, _NoObservation(flow.ExactVelocity(density))))
    actions = np.random.default_rng(3).multivariate_normal([0.1, -0.2], [[0.09, 0.03], [0.03, 0.05]], 50)
    away = actions - [0.1, -0.2]
    precision = np.linalg.inv([[0.09, 0.03], [0.03, 0.05]])
    square = np.einsum("ni,ij,nj->n", away, precision, away)
    wanted = np.mean(0.5 * square + 0.5 * np.log(np.linalg.det(2 * np.pi * np.linalg.inv(precision))))
    found = held_out_nll(stacked, jnp.zeros((50, 3)), jnp.asarray(actions), steps=200)
    np.testing.assert_allclose(found, [wanted, wanted], atol=budget("held_out_likelihood"))


class _NoObservation(eqx.Module):
    field: eqx.Module

    @property
    def action_dim(self):
        return self.field.action_dim

    def __call__(self, t, observation, x):
        return self.field(t, observation, x)


def test_the_critics_are_asked_at_the_policys_own_actions():
    class Square(eqx.Module):
        def __call__(self, observation, action):
            return jnp.stack([observation[0] - action[0] ** 2, observation[0] - action[0] ** 2 + 2])

    observations = jnp.asarray([[1.0], [2.0], [6.0]], jnp.float32)
    agent = fixed([[0.5]], critic=networks.Encoded(None, Square()))
    found = critic_values(agent, observations, key=jr.key(0))
    np.testing.assert_allclose(found, [3 - 0.25 + 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bc", {"held_out_nll", "fqe_value"}),
        ("rebrac", {"critic_value", "fqe_value"}),
        ("deflow", {"held_out_nll", "critic_value", "fqe_value"}),
    ],
)
def test_each_agent_gets_the_estimates_that_it_has(name, keys):
    data = ring(episodes=4)
    made = train.init(agents.make(name), (STATES,), 1, [0, 1], width=8, depth=1, batch_size=16, flow_steps=2)
    options = {"rows": 20, "fqe": FQE(updates=10, width=8, depth=1, batch_size=8)}
    found = offline_evaluate(made, data, [0, 1], **options)
    assert set(found) == keys
    assert all(len(values) == 2 and np.all(np.isfinite(values)) for values in found.values())
    assert found == offline_evaluate(made, data, [0, 1], **options)


def test_bad_hyperparameters_are_refused():
    with pytest.raises(ValueError, match=r"^FQE takes tau in \(0, 1\]; got 0\.$"):
        FQE(tau=0.0)
    with pytest.raises(ValueError, match=r"^offline_evaluate takes a number of rows in \[1, inf\]; got 0\.$"):
        offline_evaluate(fixed([[0.0]]), ring(episodes=1), [0], rows=0)

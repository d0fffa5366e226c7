"""Decorated on a bandit with a known answer: a Gaussian behavior, a value that is nearly linear, E13 and E14."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry import flow, loop, metrics
from fdbook.geometry.densities import GaussianMixture
from fdbook.rl import agents, networks
from fdbook.rl.transitions import Batch


pytestmark = pytest.mark.slow
SPREAD = np.diag([0.3, 0.2]) ** 2
SLOPE, BEND = np.array([1.0, 1.0]), 0.2
STEPS, BUDGET, B = 40, 2e-3, 256


class Held(eqx.Module):
    """A function that no optimizer touches."""

    function: Callable = eqx.field(static=True)
    action_dim: int = eqx.field(static=True, default=2)

    def __call__(self, *arguments):
        return self.function(*arguments)


def value(observation, action):
    """Two critics that agree: slope . a - bend |a|^2 / 2."""
    one = jnp.asarray(SLOPE, action.dtype) @ action - 0.5 * BEND * action @ action
    return jnp.stack([one, one])


def bandit(metric, **config):
    """A Decorated agent whose flow and critics are known exactly, and which learns its displacement and multiplier alone."""
    spread = jnp.asarray(SPREAD, jnp.float32)
    mixture = GaussianMixture(jnp.ones(1, jnp.float32), jnp.zeros((1, 2), jnp.float32), spread[None])
    velocity = flow.ExactVelocity(mixture)
    sizes = {"width": 32, "depth": 2, "batch_size": B, "flow_steps": STEPS, "learning_rate": 3e-4}
    options = sizes | {"actions_per_state": 128, "budget": BUDGET, "normalize_q": False} | config
    agent = agents.DecoratedFlow.init((0,), 2, key=jr.key(0), metric=metric, **options)
    known = {"flow": Held(lambda t, s, x: velocity(t, s, x)), "critic": Held(value)}
    held = {name: networks.Encoded(None, head) for name, head in known.items()}
    trained = agent.networks | held
    opt_state = agent.config.optimizer.init(eqx.filter(trained, eqx.is_inexact_array))
    return dataclasses.replace(agent, networks=trained, targets={"critic": held["critic"]}, opt_state=opt_state)


def learn(agent):
    """The mean displacement over eight late moments of the learning, and the history of the last ones."""
    rows, actions, scalars = (jnp.zeros(shape, jnp.float32) for shape in ((B, 0), (B, 2), (B,)))
    batch, found, histories = Batch(rows, actions, rows, scalars, scalars, actions), [], []
    for number, steps in enumerate([5000] + 8 * [250]):
        agent, history = loop.run(update, agent, batch, key=jr.key(number), steps=steps, chunk=250, progress=False)
        found.append(displacement(agent))
        histories.append(history)
    late = {name: np.concatenate([history[name] for history in histories[1:]]) for name in histories[0]}
    return np.mean(found[1:], axis=0), late


def update(agent, batch, *, key):
    return agent.update(batch, key=key)


def displacement(agent):
    """The mean displacement of the behavior's actions."""
    actions = jr.multivariate_normal(jr.key(2), jnp.zeros(2), jnp.asarray(SPREAD), (4000,), dtype=jnp.float64)
    head = agent.networks["delta"].head
    return np.asarray(jnp.mean(jax.vmap(lambda a: head(jnp.zeros(0), a))(actions), axis=0))


@pytest.fixture(scope="module")
def trained(optimized):
    """By metric: the mean displacement that was learned, and the history of its last updates."""
    exact = metrics.Fisher(score="exact", damping=0.0, trace_normalized=False)
    # In raw units a Fisher cost of 0.02 is a KL of 0.02 nats; L2 gets a budget of its own size.
    return {"exact": learn(bandit(exact, budget=0.02, multiplier=3.0)), "l2": learn(bandit(metrics.L2()))}


def fisher():
    """E[score score^T] at the last stage: of the noised Gaussian's score, over the law to which 39 Euler steps carry N(0, I).

    For a Gaussian the velocity is linear, and each axis of variance w passes factors 1 + h m(t), where m is half the slope of
    log(t^2 w + (1 - t)^2). (With infinitely many steps this would be the inverse of the noised covariance.)
    """
    h, variances = 1 / STEPS, np.diag(SPREAD)
    spread = np.ones(2)
    for t in np.arange(STEPS - 1) * h:
        spread = spread * (1 + h * (t * variances - (1 - t)) / (t**2 * variances + (1 - t) ** 2)) ** 2
    noised = (1 - h) ** 2 * variances + h**2
    return np.diag(spread / noised**2)


def test_the_exact_metric_finds_the_step_of_e13(trained, budget):
    inverse = np.linalg.inv(fisher())
    cost = 2 * 0.02  # d times the budget is delta^T F delta
    wanted = np.sqrt(cost / (SLOPE @ inverse @ SLOPE)) * inverse @ SLOPE
    np.testing.assert_allclose(trained["exact"][0], wanted, rtol=budget("bandit_closed_form"))


def test_l2_finds_the_step_of_e14(trained, budget):
    wanted = np.sqrt(2 * BUDGET) * SLOPE / np.linalg.norm(SLOPE)
    np.testing.assert_allclose(trained["l2"][0], wanted, rtol=budget("bandit_closed_form"))


@pytest.mark.parametrize("name", ["exact", "l2"])
def test_dual_ascent_ends_at_the_budget_with_the_multiplier_of_the_closed_form(trained, budget, name):
    """At the optimum the slope of the value is multiplier * 2 F delta / d."""
    history = trained[name][1]
    asked = {"exact": 0.02, "l2": BUDGET}[name]
    assert np.mean(history["penalty"]) == pytest.approx(asked, rel=budget("bandit_closed_form"))
    form = fisher() if name == "exact" else np.eye(2)
    wanted = np.sqrt(SLOPE @ np.linalg.inv(form) @ SLOPE / (2 * asked))
    assert np.mean(history["multiplier"]) == pytest.approx(wanted, rel=budget("bandit_closed_form"))

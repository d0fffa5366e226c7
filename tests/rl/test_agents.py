"""Every agent's losses against NumPy, where gradients go and where not, and what the agents do with their networks."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import plain_agents as plain
import plain_metrics
import pytest
import scipy.stats

from fdbook.geometry import flow, metrics
from fdbook.geometry.densities import GaussianMixture
from fdbook.rl import agents
from fdbook.rl.agents import deflow_fidec
from fdbook.rl.transitions import Batch


N, D, B = 6, 3, 32
SIZES = {"width": 16, "depth": 2, "batch_size": B, "flow_steps": 5}


def some_batch(seed=0, shape=(N,)):
    keys = jr.split(jr.key(seed), 6)
    pictures = len(shape) == 3
    observations = [
        jr.randint(key, (B, *shape), 0, 256, jnp.uint8) if pictures else jr.normal(key, (B, *shape), jnp.float32)
        for key in keys[:2]
    ]
    actions = [jr.uniform(key, (B, D), jnp.float32, -1, 1) for key in keys[2:4]]
    rewards = jr.normal(keys[4], (B,), jnp.float32)
    masks = jr.bernoulli(keys[5], 0.7, (B,)).astype(jnp.float32)
    return Batch(observations[0], actions[0], observations[1], rewards, masks, actions[1])


def make(name, metric=None, seed=0, shape=(N,), **config):
    config = SIZES | ({} if metric is None else {"metric": metrics.make(metric)}) | config
    agent = agents.make(name)(shape, D, key=jr.key(seed), **config)
    # Slow copies that differ from the networks, and a displacement that is not small: else mistakes would not show.
    other = agents.make(name)(shape, D, key=jr.key(seed + 1), **config)
    agent = dataclasses.replace(agent, targets=other.targets)
    if "delta" in agent.networks:
        last = lambda a: a.networks["delta"].head.mlp.layers[-1].weight  # noqa: E731
        agent = eqx.tree_at(last, agent, 30 * last(agent))
    return agent


@eqx.filter_jit
def update(agent, batch, key):
    return agent.update(batch, key=key)


@eqx.filter_jit
def act(agent, observation, key):
    return agent.act(observation, key=key)


@eqx.filter_jit
def loss(agent, batch, draws):
    return agent.loss(agent.networks, batch, draws)


def terms(agent, batch, key):
    draws = agent.draw(batch, key=key)
    total, info = loss(agent, batch, draws)
    numpy = jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf), draws
    )
    return float(total), {name: float(value) for name, value in info.items()}, numpy


def as_numpy(batch):
    return Batch(*(np.asarray(leaf, np.float64) for leaf in batch))


def aggregate(agent, values):
    return values.mean(axis=0) if agent.config.q_agg == "mean" else values.min(axis=0)


def test_behavior_cloning_is_flow_matching(budget):
    agent, batch = make("bc"), some_batch()
    total, info, draws = terms(agent, batch, jr.key(2))
    b = as_numpy(batch)
    wanted = plain.flow_matching(agent.networks["flow"].head, b.observations, b.actions, draws.t, draws.z)
    assert total == info["flow"] == pytest.approx(wanted, rel=budget("losses_in_single_precision"))


@pytest.mark.parametrize("q_agg", ["mean", "min"])
@pytest.mark.parametrize("normalize", [True, False])
def test_flow_q_learning(budget, q_agg, normalize):
    agent = make("fql", alpha=7.0, q_agg=q_agg, normalize_q=normalize)
    batch = some_batch()
    total, info, draws = terms(agent, batch, jr.key(2))
    b, own, tolerance = as_numpy(batch), agent.networks, budget("losses_in_single_precision")
    mu = lambda s, z: plain.mlp(own["actor"].head, np.concatenate([s, z], axis=1))  # noqa: E731
    taught = plain.flow(own["flow"].head, b.observations, draws.noise, 5)[0]
    actions = mu(b.observations, draws.noise)
    judged = plain.q(own["critic"].head, b.observations, np.clip(actions, -1, 1)).mean(axis=0)
    scale = 1 / np.abs(judged).mean() if normalize else 1.0
    actor = 7.0 * np.mean((actions - taught) ** 2) - scale * judged.mean()
    after = np.clip(mu(b.next_observations, draws.next_noise), -1, 1)
    following = aggregate(agent, plain.q(agent.targets["critic"].head, b.next_observations, after))
    critic = plain.critic(own["critic"].head, b, following, 0.99)
    matched = plain.flow_matching(own["flow"].head, b.observations, b.actions, draws.matching.t, draws.matching.z)
    assert info["actor"] == pytest.approx(actor, rel=tolerance)
    assert info["critic"] == pytest.approx(critic, rel=tolerance)
    assert info["flow"] == pytest.approx(matched, rel=tolerance)
    assert total == pytest.approx(actor + critic + matched, rel=tolerance)


def needs_no_several_actions(name):
    metric = metrics.make(name)
    return metric.reads == "nothing" or not metric.pooled


PER_ACTION = [name for name in metrics.NAMES if needs_no_several_actions(name)]


@pytest.mark.parametrize(
    ("name", "where"), [(name, "current") for name in metrics.NAMES] + [(name, "next") for name in PER_ACTION]
)
def test_decorated(budget, name, where):
    """E18 to E23, E28, E29 for every metric, at t = 4/5, on the batch's states or its next ones; l2 is DeFlow's loss."""
    options = {} if where == "current" else {"actor_states": "next"}
    agent = make("deflow", **options) if name == "l2" else make("fidec", name, **options)
    batch = some_batch()
    total, info, draws = terms(agent, batch, jr.key(2))
    b, own, tolerance = as_numpy(batch), agent.networks, budget("losses_in_single_precision")
    k, rows = (4, b.observations) if where == "current" else (1, b.next_observations)
    noise = draws.noise if where == "current" else draws.next_noise[:, None]  # those of E16's target
    states = B // k
    assert noise.shape == (states, k, D)
    field, delta = own["flow"].head, own["delta"].head
    penalties, values = [], []
    for state in range(states):
        s = np.repeat(rows[state][None], k, axis=0)
        actions, points, velocities = plain.flow(field, s, noise[state], 5)
        readings = plain.readings(name, agent.config.metric.reads, field, 0.8, s, points, velocities)
        moves = plain.displaced(delta, s, actions)
        penalties.append(plain_metrics.penalty(name, moves, plain.divergence(delta, s, actions), readings))
        values.append(plain.q(own["critic"].head, s, np.clip(actions + moves, -1, 1)).mean(axis=0))
    penalty, values = np.mean(penalties), np.stack(values)
    actor = 10.0 * penalty - values.mean() / np.abs(values).mean()
    base = plain.flow(field, b.next_observations, draws.next_noise, 5)[0]
    after = np.clip(base + plain.displaced(delta, b.next_observations, base), -1, 1)
    following = plain.q(agent.targets["critic"].head, b.next_observations, after).mean(axis=0)
    critic = plain.critic(own["critic"].head, b, following, 0.99)
    matched = plain.flow_matching(field, b.observations, b.actions, draws.matching.t, draws.matching.z)
    dual = -np.log(10.0) * (penalty - 0.001)
    assert info["penalty"] == pytest.approx(penalty, rel=tolerance)
    assert info["actor"] == pytest.approx(actor, rel=tolerance)
    assert info["critic"] == pytest.approx(critic, rel=tolerance)
    assert total == pytest.approx(actor + critic + matched + dual, rel=tolerance)


def test_a_fixed_multiplier_and_a_raw_value(budget):
    agent = make("deflow", dual_ascent=False, multiplier=3.0, normalize_q=False)
    batch = some_batch()
    total, info, _ = terms(agent, batch, jr.key(2))
    assert info["actor"] == pytest.approx(
        3 * info["penalty"] - info["actor_q"], rel=budget("losses_in_single_precision")
    )
    assert total == pytest.approx(
        info["actor"] + info["critic"] + info["flow"], rel=budget("losses_in_single_precision")
    )
    after, _ = update(agent, batch, jr.key(2))
    assert float(after.networks["log_multiplier"]) == pytest.approx(np.log(3.0))


@pytest.mark.parametrize("alpha", [2.0, 20.0])
def test_implicit_q_learning(budget, alpha):
    """With the larger alpha some weights are cut at 100, as in the published code."""
    agent, batch = make("iql", expectile=0.8, alpha=alpha), some_batch()
    total, info, _ = terms(agent, batch, jr.key(2))
    b, own, tolerance = as_numpy(batch), agent.networks, budget("losses_in_single_precision")
    slow = plain.q(agent.targets["critic"].head, b.observations, b.actions).min(axis=0)
    v = plain.mlp(own["value"].head, b.observations)[:, 0]
    value = np.mean(np.where(slow > v, 0.8, 0.2) * (slow - v) ** 2)
    following = plain.mlp(own["value"].head, b.next_observations)[:, 0]
    critic = 2 * plain.critic(own["critic"].head, b, following, 0.99)  # the critics' squared errors are added
    trained = plain.q(own["critic"].head, b.observations, b.actions).min(axis=0)
    weights = np.minimum(np.exp(alpha * (trained - v)), 100)
    assert np.any(weights == 100) == (alpha > 2)
    assert np.abs(trained - slow).max() > 0.1  # else weights by the target critics would pass too
    means = plain.mlp(own["actor"].head, b.observations)
    actor = np.mean(weights * 0.5 * np.sum((means - b.actions) ** 2, axis=1))
    assert info["value"] == pytest.approx(value, rel=tolerance)
    assert info["critic"] == pytest.approx(critic, rel=tolerance)
    assert info["actor"] == pytest.approx(actor, rel=tolerance)
    assert total == pytest.approx(actor + critic + value, rel=tolerance)
    both, batch_info, _ = terms(make("ifql", expectile=0.8), batch, jr.key(2))
    assert both == pytest.approx(batch_info["flow"] + batch_info["critic"] + batch_info["value"], rel=tolerance)


def test_rebrac(budget):
    agent, batch = make("rebrac", alpha_actor=0.3, alpha_critic=0.2), some_batch()
    total, info, draws = terms(agent, batch, jr.key(2))
    b, own, tolerance = as_numpy(batch), agent.networks, budget("losses_in_single_precision")
    policy = lambda network, s: np.tanh(plain.mlp(network.head, s))  # noqa: E731
    noise = np.clip(0.2 * draws.noise, -0.5, 0.5)
    after = np.clip(policy(agent.targets["actor"], b.next_observations) + noise, -1, 1)
    following = plain.q(agent.targets["critic"].head, b.next_observations, after).min(axis=0)
    following = following - 0.2 * np.sum((after - b.next_actions) ** 2, axis=1)
    critic = plain.critic(own["critic"].head, b, following, 0.99)
    actions = policy(own["actor"], b.observations)
    judged = plain.q(own["critic"].head, b.observations, actions).min(axis=0)
    distance = np.mean(np.sum((actions - b.actions) ** 2, axis=1))
    actor = 0.3 * distance - judged.mean() / np.abs(judged).mean()
    assert info["critic"] == pytest.approx(critic, rel=tolerance)
    assert info["actor"] == pytest.approx(actor, rel=tolerance)
    assert total == pytest.approx(critic, rel=tolerance)  # the first update is not the actor's
    once = dataclasses.replace(agent, opt_state=update(agent, batch, jr.key(2))[0].opt_state)
    total, _, _ = terms(once, batch, jr.key(2))
    assert total == pytest.approx(actor + critic, rel=tolerance)


def _moved(before, after):
    pairs = zip(
        jax.tree.leaves(eqx.filter(before, eqx.is_array)), jax.tree.leaves(eqx.filter(after, eqx.is_array)), strict=True
    )
    return any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)


def _length(tree):
    return float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))))


@pytest.mark.parametrize(("name", "metric"), [("deflow", None), ("fidec", "exact"), ("fidec", "fisher-rao")])
def test_gradients_reach_what_a_term_names_as_its_own(name, metric):
    """The actor's loss moves the displacement alone; the critic's loss the critic alone, and never its slow copy."""
    agent, batch = make(name, metric), some_batch()
    draws = agent.draw(batch, key=jr.key(2))

    def term(networks, targets, which):
        whole = dataclasses.replace(agent, networks=networks, targets=targets)
        return whole.loss(networks, batch, draws)[1][which]

    # All arguments are differentiated, the agent's own networks too where a term uses them: what is held constant must be zero.
    def actor(trained):
        return agent.loss(trained, batch, draws)[1]["actor"]

    @eqx.filter_jit
    def gradients(parts):
        critic, flow = (eqx.filter_grad(lambda p, w=which: term(*p, w))(parts) for which in ("critic", "flow"))
        return critic, flow, eqx.filter_grad(actor)(parts[0])

    (own, slow), (flows, _), found = gradients((agent.networks, agent.targets))
    assert {key: _length(value) > 0 for key, value in own.items()} == {
        "critic": True,
        "delta": False,
        "flow": False,
        "log_multiplier": False,
    }
    assert _length(slow) == 0
    assert [key for key, value in flows.items() if _length(value) > 0] == ["flow"]
    assert [key for key, value in found.items() if _length(value) > 0] == ["delta"]


@pytest.mark.parametrize("name", ["bc", "fql", "deflow"])
def test_the_draws_of_an_update_are_independent(name, budget):
    """Times are uniform, noises normal, and no two of them go together, as they would with one key for both."""
    agent, batch = make(name), some_batch()
    drawn = jax.vmap(lambda key: agent.draw(batch, key=key))(jr.split(jr.key(3), 200))
    rows = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(drawn) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    rows = [leaf.reshape(200, -1)[:, :B].ravel() for leaf in rows]
    for row in rows:
        law = "uniform" if row.min() >= 0 else "norm"
        assert scipy.stats.kstest(row, law).pvalue > budget("chi_square_level")
    bound = budget("standard_errors") / np.sqrt(rows[0].size)
    assert np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < bound


@pytest.mark.parametrize("name", agents.AGENTS)
def test_an_update_descends(name):
    agent, batch = make(name, learning_rate=1e-3), some_batch()
    draws = agent.draw(batch, key=jr.key(2))
    before = float(loss(agent, batch, draws)[0])
    after, info = update(agent, batch, jr.key(2))
    again = dataclasses.replace(agent, networks=after.networks)
    assert all(np.shape(value) == () and np.isfinite(value) for value in info.values())
    # The critics move too, so only the terms of the network that is descended can be compared: the sum of all losses falls.
    assert float(loss(again, batch, draws)[0]) < before


DETERMINISTIC = ("iql", "rebrac")
"""Agents whose actions do not depend on the key."""


@pytest.mark.parametrize("name", agents.AGENTS)
def test_actions_lie_in_the_box_and_depend_on_the_key_alone(name):
    agent = make(name)
    observations = 3 * jr.normal(jr.key(5), (16, N), jnp.float32)
    actions = np.array([act(agent, s, key) for s, key in zip(observations, jr.split(jr.key(6), 16), strict=True)])
    assert actions.shape == (16, D)
    assert np.all(np.abs(actions) <= 1)
    assert np.array_equal(act(agent, observations[0], jr.key(1)), act(agent, observations[0], jr.key(1)))
    random = not np.array_equal(act(agent, observations[0], jr.key(1)), act(agent, observations[0], jr.key(2)))
    says = f"tests/rl/test_agents.py: DETERMINISTIC is wrong of {name!r}, which acts at random: {random}"
    assert random == (name not in DETERMINISTIC), says


def test_the_best_of_several_is_the_one_that_the_critics_value_most():
    agent = make("fidec", num_samples=16)
    observation, key = jr.normal(jr.key(5), (N,), jnp.float32), jr.key(6)
    chosen = np.asarray(act(agent, observation, key))
    noises = jr.normal(key, (16, D), jnp.float32)
    s = np.repeat(np.asarray(observation, np.float64)[None], 16, axis=0)
    base = plain.flow(agent.networks["flow"].head, s, noises, 5)[0]
    moved = np.clip(base + plain.displaced(agent.networks["delta"].head, s, base), -1, 1)
    q = plain.q(agent.networks["critic"].head, s, moved).mean(axis=0)
    np.testing.assert_allclose(chosen, moved[np.argmax(q)], atol=1e-5)
    assert np.unique(moved.round(4), axis=0).shape[0] > 8


def test_refinements_apply_the_displacement_again():
    once, twice = make("deflow"), make("deflow", num_refinements=2)
    observation, key = jr.normal(jr.key(5), (N,), jnp.float32), jr.key(6)
    first, second = (np.asarray(act(agent, observation, key)) for agent in (once, twice))
    s = np.asarray(observation, np.float64)[None]
    move = plain.displaced(once.networks["delta"].head, s, first[None].astype(np.float64))[0]
    np.testing.assert_allclose(second, np.clip(first + move, -1, 1), atol=1e-5)
    assert np.abs(second - first).max() > 1e-3


def test_scores_from_the_last_stage_and_fresh_ones_estimate_the_same_matrix(budget):
    """THEORY 6: for an exact velocity both follow p_t; the scores of the same t give the same Fisher matrix."""
    spread = jnp.asarray([[0.5, 0.2], [0.2, 0.3]])
    means = jnp.asarray([[0.3, 0.1], [-0.4, -0.2]])
    mixture = GaussianMixture(jnp.asarray([0.4, 0.6]), means, jnp.stack([spread, 2 * spread]))
    field, steps, n = flow.ExactVelocity(mixture), 100, 20_000
    t = (steps - 1) / steps
    metric = metrics.Fisher(score="exact", t=t)
    noises = jr.normal(jr.key(0), (n, 2))
    base_actions = agents.base.integrate_flow(field, jnp.zeros((n, 0)), noises, steps)
    last = metric.readings(field, jnp.zeros((0,)), base_actions.time, base_actions.points, base_actions.velocities)
    fresh = metric.perturbed(field, jnp.zeros((0,)), mixture.sample(n, key=jr.key(1)), key=jr.key(2))
    a, b = (np.asarray(metrics.fisher_matrix(scores)) for scores in (last, fresh))
    np.testing.assert_allclose(a, b, rtol=budget("fisher_matrices_of_20000_samples"))
    assert base_actions.time == t


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["exact", "paper", "fisher-rao", "deblurred", "local"])
def test_fresh_samples_are_as_many_as_asked(metric):
    options = {"fisher_samples": "fresh", "num_fisher_samples": 4, "actions_per_state": 2}
    agent, batch = make("fidec", metric, **options), some_batch()
    draws = agent.draw(batch, key=jr.key(2))
    base, _ = agent.base_actions(batch.observations, batch.next_observations, draws)
    reads, many = agent.config.metric.reads, 4 if agent.config.metric.pooled else 2
    assert base.actions.shape == (B // 2, 2, D)
    for leaf in jax.tree.leaves(base.readings):
        assert leaf.shape[:2] == (B // 2, many)
    if reads == "matrices":
        assert base.readings.matrices.shape[2:] == (D, D)
        np.testing.assert_allclose(base.readings.times, 0.9)
    assert np.isfinite(float(loss(agent, batch, draws)[0]))
    other, _ = agent.base_actions(batch.observations, batch.next_observations, draws._replace(key=jr.key(9)))
    assert np.array_equal(base.actions, other.actions)
    read, again = (jax.tree.leaves(each.readings)[0] for each in (base, other))
    assert not np.allclose(read, again)


def test_every_metric_sees_the_same_states_and_actions():
    """The comparison changes one thing: the actor's batch of DeFlow is that of every Fisher metric, draw by draw."""
    batch, seen = some_batch(), {}
    for name in metrics.NAMES:
        agent = make("deflow") if name == "l2" else make("fidec", name)
        base, after = agent.base_actions(batch.observations, batch.next_observations, agent.draw(batch, key=jr.key(2)))
        seen[name] = (base.observations, base.actions, after)
        assert agent.config.max_grad_norm == 5.0
    for name in metrics.NAMES:
        assert all(np.array_equal(a, b) for a, b in zip(seen[name], seen["l2"], strict=True)), name


@pytest.mark.parametrize("metric", ["fisher-exact", "information-local"])
def test_a_trajectory_is_read_at_the_step_that_was_asked_for(metric, budget):
    """E6 and E28: step 3 of 5 is the time 0.6, by Euler's steps in NumPy; the actions stay the same."""
    last, third = make("fidec", metric), make("fidec", metric, perturbed_time=0.6)
    batch = some_batch()
    draws = last.draw(batch, key=jr.key(2))
    (at_last, _), (at_third, _) = (
        a.base_actions(batch.observations, batch.next_observations, draws) for a in (last, third)
    )
    np.testing.assert_allclose(at_last.actions, at_third.actions, atol=1e-6)
    s = np.repeat(np.asarray(batch.observations, np.float64)[: B // 4], 4, axis=0)
    x = np.asarray(draws.noise, np.float64).reshape(-1, D)
    field = third.networks["flow"].head
    for step in range(3):
        x = x + plain.velocity(field, step / 5, s, x) / 5
    wanted = plain.readings(metric, third.metric.reads, field, 0.6, s, x, plain.velocity(field, 0.6, s, x))
    for found, right in zip(jax.tree.leaves(at_third.readings), jax.tree.leaves(wanted), strict=True):
        tolerance = budget("losses_in_single_precision")
        np.testing.assert_allclose(found.reshape(right.shape), right, rtol=tolerance, atol=1e-5)


@pytest.mark.slow
def test_dual_ascent_as_the_paper_writes_it():
    """lambda <- relu(lambda + eta (penalty - budget)), by a loop over the penalties that were logged; it stops at 0."""
    small, batch = {"dual": "relu", "depth": 1, "flow_steps": 2}, some_batch()
    agent = make("deflow", dual_rate=2.0, multiplier=0.02, budget=0.05, **small)
    wanted = 0.02
    for step in range(4):
        assert float(agent.multiplier) == pytest.approx(wanted, rel=1e-5)
        assert not any("log" in name for name in agent.networks)
        agent, info = update(agent, batch, jr.key(step))
        assert float(info["multiplier"]) == pytest.approx(wanted, rel=1e-5)
        wanted = max(0.0, wanted + 2.0 * (float(info["penalty"]) - 0.05))
    low, _ = update(make("deflow", dual_rate=100.0, multiplier=0.01, budget=100.0, **small), batch, jr.key(0))
    assert float(low.multiplier) == 0.0
    still, _ = update(make("deflow", dual_ascent=False, multiplier=3.0, **small), batch, jr.key(0))
    assert float(still.multiplier) == 3.0


def test_a_displacement_starts_at_the_scale_that_was_asked_for():
    def last(agent):
        return np.std(agent.networks["delta"].head.mlp.layers[-1].weight)

    init = agents.make("deflow")
    small, full = (init((N,), D, key=jr.key(0), **SIZES, **more) for more in ({}, {"delta_scale": 1.0}))
    assert last(small) / last(full) == pytest.approx(0.01, rel=1e-5)


def test_the_released_choice_among_several(budget):
    """The critics' mean over base actions; the best one displaced, and on its way the action of the highest mean."""
    agent = make("fidec", num_samples=16, num_refinements=3, selection="base", q_agg="min")
    observation, key = jr.normal(jr.key(5), (N,), jnp.float32), jr.key(6)
    s = np.asarray(observation, np.float64)[None]
    rows = np.repeat(s, 16, axis=0)
    base = plain.flow(agent.networks["flow"].head, rows, jr.normal(key, (16, D), jnp.float32), 5)[0]
    critics, delta = agent.networks["critic"].head, agent.networks["delta"].head
    way = [base[np.argmax(plain.q(critics, rows, base).mean(axis=0))]]
    for _ in range(3):
        way.append(np.clip(way[-1] + plain.displaced(delta, s, way[-1][None])[0], -1, 1))
    best = way[np.argmax(plain.q(critics, np.repeat(s, 4, axis=0), np.stack(way)).mean(axis=0))]
    np.testing.assert_allclose(act(agent, observation, key), best, atol=1e-5)
    plainly = dataclasses.replace(agent, config=dataclasses.replace(agent.config, num_refinements=1))
    np.testing.assert_allclose(act(plainly, observation, key), way[1], atol=1e-5)


def test_many_actions_take_one_random_probe_for_the_divergence(budget):
    agent = agents.make("fidec")((N,), 9, key=jr.key(0), metric=metrics.FisherRao(), **SIZES)
    states, k = 64, 8
    observations = jr.normal(jr.key(1), (states, N), jnp.float32)
    actions = jr.uniform(jr.key(2), (states, k, 9), jnp.float32, -1, 1)
    delta = agent.networks["delta"].head
    field = deflow_fidec.transport.LocalTransport(delta)
    probes = jr.rademacher(jr.key(3), (4000, 9), jnp.float32)
    exact = float(field.divergence(observations[0], actions[0, 0]))
    estimate = eqx.filter_jit(jax.vmap(lambda p: field.estimated_divergence(observations[0], actions[0, 0], p)))
    estimates = np.asarray(estimate(probes))
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - exact) < budget("standard_errors") * error
    assert estimates.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bc", "fql", "fidec"])
def test_agents_see_pictures(name):
    agent, batch = make(name, shape=(16, 16, 3), depth=1, flow_steps=2), some_batch(shape=(16, 16, 3))
    after, info = update(agent, batch, jr.key(0))
    assert all(np.isfinite(value) for value in info.values())
    for key, network in after.networks.items():
        if key != "log_multiplier":
            assert _moved(agent.networks[key].encoder, network.encoder), key
    assert act(after, batch.observations[0], jr.key(1)).shape == (D,)


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        ("fidec", {"budgett": 1}, r"no setting of DecoratedFlow called 'budgett'\. Did you mean 'budget'\?"),
        ("fidec", {"budget": 0.0}, r"takes a budget in \(0, inf\]; got 0"),
        ("fidec", {"fisher_samples": "freshh"}, r"Did you mean 'fresh'\?"),
        ("fidec", {"actor_states": "next"}, "one action of each; the metric exact pools several of a state"),
        ("fidec", {"actions_per_state": 5}, r"a batch of 32 is no multiple of actions_per_state = 5"),
        ("fidec", {"perturbed_time": 0.5}, r"a step of its flow, k / 5 with k from 1 to 4; got perturbed_time = 0\.5"),
        (
            "fidec",
            {"perturbed_time": 0.8, "fisher_samples": "fresh"},
            r"fresh samples are noised to the metric's own t",
        ),
        ("fidec", {"dual": "rellu"}, r"no value of dual called 'rellu'\. Did you mean 'relu'\?"),
        ("deflow", {"metric": metrics.Fisher()}, r"The agent 'deflow' has the metric l2; got metric=Fisher"),
        ("fidec", {"flow_steps": 1}, r"at least 2 steps; got 1"),
        ("fql", {"alpha": -1.0}, r"takes alpha in \(0, inf\]; got -1"),
        ("bc", {"discount": 1.0}, r"takes a discount in \[0, 1\); got 1"),
        ("iql", {"expectile": 1.0}, r"takes an expectile in \(0, 1\); got 1"),
        ("bc", {"q_agg": "max"}, r"no q_agg called 'max'"),
        ("bc", {"width": 0}, r"takes width in \[1, inf\]; got 0"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(name, config, sentence):
    with pytest.raises(ValueError, match=sentence):
        agents.make(name)((N,), D, key=jr.key(0), **(SIZES | config))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no agent called 'fidek'\. Did you mean 'fidec'\?"):
        agents.make("fidek")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"dampin": 1.0}, r"no setting of fidec called 'dampin'"),
        ({"damping": 1.0}, r"no setting of fidec called 'damping'"),
        ({"tau": 0.0}, r"takes tau in \(0, 1\]; got 0"),
    ],
)
def test_settings_are_checked_before_anything_is_built(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        agents.check("fidec", **config)


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "samples"), [("local", "trajectory"), ("deblurred", "fresh")])
def test_a_short_training_lowers_the_penalty(metric, samples):
    """Fifty updates from displacements far over budget: the multiplier rises, the penalty falls, all stays finite."""
    config = {"fisher_samples": samples, "learning_rate": 3e-3, "budget": 1e-4, "width": 8, "depth": 1}
    agent, batch, penalties = make("fidec", metric, **config), some_batch(), []
    for step in range(50):
        agent, info = update(agent, batch, jr.key(step))
        assert all(np.isfinite(value) for value in info.values())
        penalties.append(float(info["penalty"]))
    assert float(agent.multiplier) > 10.5
    assert np.mean(penalties[-5:]) < 0.5 * penalties[0]

"""The critic that knows the way: its values by hand, and a ladder in a maze whose trained critics point away from the goal."""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbook.data import walls
from fdbook.data.load import Loaded
from fdbook.experiment import RunSpec, distance_critic, gains, ladder, measure
from fdbook.experiment.run import Run
from fdbook.geometry import metrics
from fdbook.geometry.anisotropy import GaussianPolicy
from fdbook.rl import agents, records, train
from fdbook.rl.fourier_features import Normalizer
from fdbook.rl.networks import Encoded
from fdbook.rl.transitions import Transitions


MAZE = "pointmaze-medium-navigate-singletask-task1-v0"
STEP, DEVIATION = 0.2, 0.3
PLAIN = walls.MazeLayout(np.array([[True, False, False, False]]), 2.0, (-20.0, 0.0))
"""A wall that is in nobody's way."""
WAYS = walls.shortest_ways(PLAIN, (-14.0, 0.5), radius=0.1, step=0.2, spacing=0.5)


@pytest.fixture(
    params=[None, Normalizer(jnp.array([1.0, -2.0], jnp.float32), jnp.array([0.5, 4.0], jnp.float32), (2.0,))]
)
def seen(request):
    """A critic that knows the way to a goal at (-14, 0.5), and what turns places into observations."""
    normalizer = request.param
    return distance_critic.DistanceCritic.of(WAYS, normalizer), normalizer or (lambda x: x)


def test_an_action_is_worth_the_way_that_it_saves(seen):
    """The part of it along the straight way to the goal, times the step, whatever observations are normalized to."""
    critic, normalized = seen
    places = jnp.array([[-18.0, 0.5], [-17.0, 0.5]], jnp.float32)
    inputs = critic.features(normalized(places))
    np.testing.assert_allclose(inputs, places, rtol=1e-5)
    for action, saved in (((1.0, 0.0), 0.2), ((-0.5, 0.0), -0.1), ((0.0, 0.0), 0.0), ((0.5, 0.0), 0.1)):
        value = jax.vmap(critic.head, in_axes=(0, None))(inputs, jnp.array(action, jnp.float32))
        np.testing.assert_allclose(value, np.full((2, 1), saved), atol=1e-5)
    assert isinstance(critic, measure.Critics)


def test_with_a_discount_it_is_the_return_of_the_shortest_way():
    """Against the sum of the discounted costs of whole steps, 1 each, on a straight way of so many of them."""
    ways = walls.shortest_ways(PLAIN, (-14.0, 0.5), radius=0.1, step=0.5, spacing=0.5)
    critic = distance_critic.DistanceCritic.of(ways, None, 0.9)
    cost = {steps: sum(0.9**k for k in range(steps)) for steps in (5, 6, 7)}
    place = jnp.array([-17.0, 0.5], jnp.float32)  # six steps away
    for action, steps in ((1.0, 5), (0.0, 6), (-1.0, 7)):
        value = critic.head(place, jnp.array([action, 0.0], jnp.float32))
        np.testing.assert_allclose(value, [cost[6] - cost[steps]], atol=1e-5)


class Trembling(eqx.Module):
    """A flow whose law is the Gaussian around no action with DEVIATION, wherever it is."""

    action_dim: int = eqx.field(static=True, default=2)

    def __call__(self, t, place, x):
        told = jnp.array([0.0, 0.0, DEVIATION**2, 0.0, 0.0, DEVIATION**2], x.dtype)
        return GaussianPolicy(2)(t, told, x)


def run_of(agent):
    """Two agents whose flow is a Gaussian around no action, and places in six cells of the maze."""
    config = {"width": 32, "depth": 2, "batch_size": 16}
    cells = np.array([(1, 1), (2, 4), (4, 1), (4, 5), (5, 3), (6, 5)])[np.arange(600) % 6]
    places = (4 * cells[:, ::-1] - 4 + np.random.default_rng(0).uniform(-1, 1, (600, 2))).astype(np.float32)
    ends, zeros = np.arange(600) % 100 == 99, np.zeros(600, np.float32)
    data = Transitions.of(places, np.zeros((600, 2), np.float32), zeros, 1 - zeros, ends)
    spec = RunSpec(MAZE, agent, seeds=2, updates=1, config=config)
    normalizer = data.normalized(wavelengths=spec.wavelengths).normalizer
    stacked = train.init(agents.make(agent), (normalizer.width,), 2, (0, 1), **config)
    stacked = dataclasses.replace(stacked, networks=stacked.networks | {"flow": Encoded(None, Trembling())})
    run = Run(spec, records.Record(spec.to_dict(), {}), stacked, 1, normalizer)
    return run, Loaded(run.task, data, None, Path(), "own")


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["deflow", "bc"])
def test_a_ladder_by_distance_gains_way_whatever_the_critics_say(agent, budget):
    """Of untrained critics, or of none. The best at a KL of k is a step of the deviation times sqrt(2 k), along the way."""
    run, data = run_of(agent)
    spec = ladder.LadderSpec(
        metrics=("exact",), critic="distance", rungs=2, kl=(0.05, 0.2), updates=600, states=400, readings=4,
        batch_states=64, held_out_states=64, held_out_actions=4, fisher_actions=4,
    )  # fmt: skip
    made = ladder.run_ladder(run, spec, loaded=data)
    rungs = made.of(metrics.L2())
    best = STEP * DEVIATION * np.sqrt(2 * rungs.kl.mean(axis=-1))
    share = rungs.gain.mean(axis=-1) / best
    assert np.all((1 - budget("distance_gain") < share) & (share < 1.01))
    tree = json.loads(json.dumps(made.to_dict()))
    assert tree["ladder"]["critic"] == "distance"
    assert gains.ladder_table(tree).startswith("gain in Q")


def stop(*_, **__):
    raise StopIteration


def test_the_discounted_critic_has_the_discount_of_the_run(monkeypatch):
    run, data = run_of("deflow")
    asked = []
    monkeypatch.setattr(ladder, "with_distance_critic", lambda run, **options: asked.append(options) or run)
    monkeypatch.setattr(ladder.measure, "observations", stop)  # what comes after is not looked at
    for kind in ("trained", "distance", "discounted"):
        with pytest.raises(StopIteration):
            ladder.run_ladder(run, ladder.LadderSpec(critic=kind), loaded=data)
    assert asked == [{"discounted": False}, {"discounted": True}]
    without, logged = run_of("bc")
    with pytest.raises(StopIteration):  # a run without critics of its own is as good
        ladder.run_ladder(without, ladder.LadderSpec(critic="distance"), loaded=logged)
    monkeypatch.setattr(distance_critic.load, "shortest_ways", lambda task: WAYS)
    plain, discounted = (
        distance_critic.with_distance_critic(run, discounted=flag).agents.networks["critic"] for flag in (False, True)
    )
    assert plain.values.shape == (2, *WAYS.values.shape)
    np.testing.assert_allclose(plain.values[1], WAYS.values, rtol=1e-6)
    steps, discount = WAYS.values / WAYS.step, run.spec.config.discount
    np.testing.assert_allclose(discounted.values[0], (1 - discount**steps) / (1 - discount), rtol=1e-5)


def test_other_tasks_and_critics_are_refused(unhooked):
    cube = RunSpec("cube-single", "deflow", seeds=1, updates=1)
    stacked = train.init(agents.make("deflow"), (28,), 5, (0,), width=8, depth=1)
    run = Run(cube, records.Record(cube.to_dict(), {}), stacked, 1)
    with pytest.raises(
        ValueError, match=r"^Shortest ways to the goal are known in OGBench's point mazes only; cube-single"
    ):
        ladder.run_ladder(run, ladder.LadderSpec(critic="distance"))
    for discount in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match=r"^DistanceCritic takes a discount in \(0, 1\); got"):
            distance_critic.DistanceCritic.of(WAYS, None, discount)
    rebrac = RunSpec(MAZE, "rebrac", seeds=1, updates=1)
    stacked = train.init(agents.make("rebrac"), (14,), 2, (0,), width=8, depth=1)
    with pytest.raises(ValueError, match=r"^A ladder needs a frozen flow and critics; a run of rebrac has no flow\.$"):
        ladder.run_ladder(
            Run(rebrac, records.Record(rebrac.to_dict(), {}), stacked, 1), ladder.LadderSpec(critic="distance")
        )
    with pytest.raises(ValueError, match=r"no critic called 'distances'\. Did you mean 'distance'"):
        ladder.LadderSpec(critic="distances")
    plain = RunSpec("cube-single", "bc", seeds=1, updates=1)
    stacked = train.init(agents.make("bc"), (28,), 5, (0,), width=8, depth=1)
    with pytest.raises(ValueError, match=r"^A ladder needs a frozen flow and critics; a run of bc has no critic\.$"):
        ladder.run_ladder(Run(plain, records.Record(plain.to_dict(), {}), stacked, 1))

"""Displacements of a frozen flow, played: a bandit whose rewards say what was done, and mazes that start anywhere."""

import dataclasses
import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_bandit import Bandit

from fdbook import cli, experiment
from fdbook.data import custom
from fdbook.data.load import environment
from fdbook.data.tasks import find_task
from fdbook.experiment import RunSpec, evaluation, ladder, rollouts
from fdbook.experiment.rollouts import Played
from fdbook.experiment.run import Run
from fdbook.geometry.anisotropy import GaussianPolicy
from fdbook.rl import agents, evaluate, records, train
from fdbook.rl.networks import Encoded


MAZE = "pointmaze-medium-navigate-singletask-task1-v0"
STEPS = np.array([[[0.1, 0.0], [0.2, -0.1]], [[-0.3, 0.0], [3.0, 0.0]]], np.float32)
"""For each of two agents, and each of two rungs."""


class Step(eqx.Module):
    """A translation, whatever is seen."""

    step: jax.Array

    def __call__(self, seen, action):
        return self.step


class Straight(eqx.Module):
    """A flow whose Euler steps end at the action that goes straight to the goal of the maze's first task, walls or not."""

    action_dim: int = eqx.field(static=True, default=2)

    def __call__(self, t, place, x):
        return (jnp.clip(jnp.array([20.0, 20.0], x.dtype) - place, -1, 1) - x) / (1 - t).astype(x.dtype)


@pytest.fixture(scope="module", params=["deflow", "bc"])
def run(request):
    """Two agents whose flow is a Gaussian around 0."""
    rows = np.broadcast_to(Bandit().reset()[0], (40, 6))
    arrays = {"observations": rows, "actions": np.zeros((40, 2), np.float32), "terminals": np.arange(40) % 4 == 3}
    arrays |= {"next_observations": rows, "rewards": np.zeros(40), "masks": np.ones(40)}
    task = custom.from_arrays(arrays, Bandit, horizon=2)
    spec = RunSpec(task, request.param, seeds=2, updates=1, config={"width": 8, "depth": 1, "batch_size": 8})
    stacked = train.init(agents.make(request.param), (6,), 2, (0, 1), width=8, depth=1, batch_size=8)
    flow = {"flow": Encoded(None, GaussianPolicy(2))}
    stacked = dataclasses.replace(stacked, networks=stacked.networks | flow)
    return Run(spec, records.Record(spec.to_dict(), {}), stacked, 1)


@pytest.mark.slow
def test_displaced_agents_act_with_the_flow_and_the_displacement(run):
    """Every episode has the same noise on every rung, so that what a translation earns is known exactly; the box cuts it off."""
    maps = Step(jnp.asarray(STEPS))
    with rollouts.player(run, 3, "task") as play:
        moved, base = play(maps), play(rollouts.zero_displacements(maps))
    assert (moved.score.shape, base.score.shape) == ((2, 2, 3), (1, 2, 3))
    assert np.all(np.std(base.score, axis=2) > 0)
    earned = 2 * (10 * STEPS[..., 0] + STEPS[..., 1]).T
    difference = moved.score - base.score
    np.testing.assert_allclose(difference[:, 0], np.broadcast_to(earned[:, :1], (2, 3)), atol=1e-4)
    np.testing.assert_allclose(difference[0, 1], earned[0, 1], atol=1e-4)
    assert np.all(np.abs(moved.score[1, 1] - 20) < 2 * 0.5)  # at the edge, whatever the flow does along it
    np.testing.assert_array_equal(moved.length, 2)


def test_what_cannot_be_played_is_refused_before_anything_is_fitted(run, monkeypatch):
    monkeypatch.setattr(ladder.refit, "freeze", None)
    critic = dataclasses.replace(run.agents, networks=run.agents.networks | {"critic": None})
    started = dataclasses.replace(run, agents=critic)
    with pytest.raises(ValueError, match=r"^Only OGBench's mazes without a ball can start anywhere; "):
        ladder.run_ladder(started, ladder.LadderSpec(episodes=2, starts="anywhere"))


def test_a_success_of_which_nothing_is_said_is_no_score(run):
    silent = dataclasses.replace(run.task, score="success")
    with (
        rollouts.player(dataclasses.replace(run, spec=run.spec.replace(task=silent)), 2, "task") as play,
        pytest.raises(ValueError, match=r"is success, of which .* says nothing"),
    ):
        play(Step(jnp.asarray(STEPS)))


def test_differences_at_equal_kl_by_hand():
    """Scores that are 5 and 30 or 20 times the root of the KL, at other rungs; where one ladder ends there is nothing."""
    spec = ladder.LadderSpec(metrics=("scale",), kl=(0.01, 0.7))

    def rungs(kl):
        kl = np.broadcast_to(np.asarray(kl)[:, None, None], (2, 3, 4))
        nothing = np.zeros((2, 3))
        return ladder.Rungs(nothing, kl, kl, nothing, nothing, nothing, nothing, np.ones(3))

    def scores(factor, kl):
        values = np.broadcast_to(5 + factor * np.sqrt(kl)[:, None, None], (2, 3, 6))
        return Played(values, 100 - values)

    kls, base = (np.array([0.1, 0.5]), np.array([0.04, 0.9])), Played(np.full((3, 6), 5.0), np.full((3, 6), 95.0))
    played = (scores(20, kls[0]), scores(30, kls[1]))
    parts = (tuple(map(rungs, kls)), (), np.ones(3), np.ones((3, 4)), "x")
    made = ladder.Ladder(spec, *parts, base, played)
    got = ladder.play_difference(made, spec.metrics[1], at=(0.01, 0.16, 0.6))
    np.testing.assert_allclose(got.value, [1, 4, np.nan])
    np.testing.assert_allclose((got.low[:2], got.high[:2]), [[1, 4], [1, 4]])
    np.testing.assert_allclose(ladder.play_difference(made, spec.metrics[1], "length", (0.16,)).value, [-4])
    assert list(ladder.play_difference(made, spec.metrics[1]).kl) == [0.05, 0.1, 0.2, 0.5]
    with pytest.raises(ValueError, match="no quantity of episodes called 'scores'"):
        ladder.play_difference(made, spec.metrics[1], "scores")
    with pytest.raises(
        ValueError, match=r"^This ladder was not played: give its specification a number of episodes\.$"
    ):
        ladder.play_difference(dataclasses.replace(made, base=None), spec.metrics[1])


def test_a_maze_starts_anywhere_but_in_its_walls_and_its_goal():
    """All free cells but the goal's own are met, evenly; the seed fixes where, and the goal stays that of the task."""
    maze = environment(find_task(MAZE), starts="anywhere")
    plain = environment(find_task(MAZE))
    inside, met = maze.unwrapped, []
    for seed in range(400):
        seen, info = maze.reset(seed=seed)
        cell = inside.xy_to_ij(seen[:2])
        assert inside.maze_map[cell] == 0
        np.testing.assert_allclose(inside.get_xy(), seen[:2], rtol=1e-6)
        met.append(cell)
    free = {tuple(cell) for cell in np.argwhere(inside.maze_map == 0)} - {tuple(inside.cur_task_info["goal_ij"])}
    counts = np.array([met.count(cell) for cell in free])
    assert (counts.sum(), counts.min() > 0) == (400, True)
    assert np.sum((counts - 400 / len(free)) ** 2 / (400 / len(free))) < len(free) + 4 * np.sqrt(2 * len(free))
    first, again = (maze.reset(seed=7)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(plain.reset(seed=399)[1]["goal"][:2], info["goal"][:2])
    assert seen.dtype == plain.reset(seed=0)[0].dtype
    assert not maze.step(np.zeros(2, np.float32))[4]["success"]


def test_other_tasks_start_as_they_say():
    for task, sentence in (
        (
            "cube-single-play-singletask-task2-v0",
            "Only OGBench's mazes without a ball can start anywhere; cube-single-play",
        ),
        (
            "D4RL/pointmaze/medium-v2",
            "Only OGBench's mazes without a ball can start anywhere; D4RL/pointmaze/medium-v2 starts as its task says.",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            environment(find_task(task), starts="anywhere")
    with pytest.raises(ValueError, match=r"no kind of starts called 'anywher'\. Did you mean 'anywhere'"):
        environment(find_task(MAZE), starts="anywher")
    with pytest.raises(ValueError, match="no kind of starts called 'goal'"):
        ladder.LadderSpec(starts="goal")
    with pytest.raises(ValueError, match=r"^LadderSpec takes starts = anywhere with a number of episodes to play; got"):
        ladder.LadderSpec(starts="anywhere")


@pytest.mark.slow
def test_from_anywhere_the_share_of_starts_and_the_steps_from_the_solved_ones_are_told():
    """Those of two seeds by hand, and those of an evaluation against each of its episodes."""
    successes, lengths = np.array([[True, False, True, False], [False] * 4]), np.array([[10, 99, 21, 99]] * 2)
    result = evaluate.Evaluation(np.zeros((2, 4)), successes, lengths)
    assert evaluation.solved_length(result) == {"solved length": [15.5, None]}
    assert evaluation.solved_length(dataclasses.replace(result, tells_success=False)) == {}

    spec = RunSpec(MAZE, "bc", seeds=1, updates=1, episodes=12, normalize=False)
    stacked = train.init(agents.make("bc"), (2,), 2, (0,), width=8, depth=1, flow_steps=5)
    stacked = dataclasses.replace(stacked, networks=stacked.networks | {"flow": Encoded(None, Straight())})
    ways = Run(spec, records.Record(spec.to_dict(), {}), stacked, 1)
    with evaluation.environments(ways.task, 1, 12, workers=0, starts="anywhere") as get:
        each = evaluate.evaluate(ways.agents, get(), (0,), episodes=12)
    solved = [steps for steps, success in zip(each.lengths[0], each.successes[0], strict=True) if success]
    found = ways.evaluate(starts="anywhere", progress=False)
    assert 0 < len(solved) < 12
    assert found["success"] == [pytest.approx(100 * len(solved) / 12, rel=1e-5)]
    assert found["solved length"] == [pytest.approx(sum(solved) / len(solved), rel=1e-5)]
    assert found["length"][0] > found["solved length"][0]
    assert "solved length" not in ways.evaluate(episodes=1, progress=False)


def test_the_command_evaluates_from_anywhere(run, tmp_path, monkeypatch, capsys, unhooked):
    asked = []

    def answer(self, **options):
        asked.append(options)
        if options.get("starts") != "anywhere":
            return {"score": [0.0, 100.0]}
        return {"score": [1.0, 2.0], "success": [0.0, 25.0], "solved length": [None, 31.25]}

    (tmp_path / "record.json").write_text("{}")
    monkeypatch.setattr(experiment, "open_run", lambda folder: run)
    monkeypatch.setattr(Run, "evaluate", answer)
    out = tmp_path / "evaluation.json"
    typed = ["evaluate", str(tmp_path), "--starts", "anywhere", "--episodes", "3", "--no-progress", "--out", str(out)]
    assert cli.main(typed) == 0
    assert (asked[0]["starts"], asked[0]["episodes"]) == ("anywhere", 3)
    tree = json.loads(out.read_text())
    assert (tree["run"], tree["step"], tree["starts"], tree["episodes"]) == (run.spec.to_dict(), 1, "anywhere", 3)
    assert tree["evaluation"] == {"score": [1.0, 2.0], "success": [0.0, 25.0], "solved length": [None, 31.25]}
    assert (tree["official"], asked[1]["episodes"]) == ({"score": [0.0, 100.0]}, 3)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:4] == [
        ["seed", "score", "success", "solved", "length"],
        ["0", "1.0", "0.0", "none"],
        ["1", "2.0", "25.0", "31.2"],
    ]
    assert " ".join(rows[4]) == "The official score: 3 episodes that start as the task says"
    assert rows[5:8] == [["seed", "score"], ["0", "0.0"], ["1", "100.0"]]
    assert cli.main([*typed, "--video", str(tmp_path / "film.gif")]) == 2
    assert "--video films episodes that start as the task says; leave --starts out" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(experiment, "open_run", lambda folder: run)
    assert cli.main(["evaluate", str(tmp_path), "--starts", "anywhere", "--no-progress"]) == 1
    assert "fdbook: Only OGBench's mazes without a ball can start anywhere; " in capsys.readouterr().err

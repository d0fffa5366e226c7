"""Mazes in Minari's format: steps after the goal, and an evaluation within other walls, on a small set of the real ant."""

import dataclasses
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest

from fdbook import cli
from fdbook.data import mazes, minari
from fdbook.data.load import load
from fdbook.data.tasks import find_task, task_from_dict
from fdbook.experiment import RunSpec


ANT = "D4RL/antmaze/umaze-diverse-v1"
STEPS = 12
RECORDED = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
EVALUATED = [[1, 1, 1, 1, 1], [1, 0, 0, "r", 1], [1, 0, 1, 1, 1], [1, 0, 0, "g", 1], [1, 1, 1, 1, 1]]
JOINED = [[1, 1, 1, 1, 1], [1, 0, 0, "r", 1], [1, 1, 1, 0, 1], [1, 0, 0, "g", 1], [1, 1, 1, 1, 1]]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32"),
    pytest.mark.filterwarnings("ignore:.*v4 is out of date"),
    pytest.mark.filterwarnings("ignore:None of the .* transitions:UserWarning"),
]

COLLECT = """
import pickle, sys
import gymnasium, gymnasium_robotics, minari

gymnasium.register_envs(gymnasium_robotics)
name, steps, recorded, evaluated = pickle.load(sys.stdin.buffer)
options = {"max_episode_steps": steps, "continuing_task": True}
collector = minari.DataCollector(gymnasium.make("AntMaze_UMaze-v4", maze_map=recorded, **options))
for episode in range(2):
    collector.reset(seed=episode)
    over = False
    while not over:
        *_, terminated, truncated, _ = collector.step(0 * collector.action_space.sample())
        over = terminated or truncated
about = {"algorithm_name": "none", "author": "a", "author_email": "a", "code_permalink": "a", "description": "a"}
collector.create_dataset(name, eval_env=gymnasium.make("AntMaze_UMaze-v4", maze_map=evaluated, **options), **about)
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Two episodes of an ant that lies still, in the walls of the real set, whose evaluation is said to be in others."""
    folder = tmp_path_factory.mktemp("mazes")
    environ = dict(os.environ) | {"MINARI_DATASETS_PATH": str(folder)}
    words = [sys.executable, "-W", "ignore", "-c", COLLECT]
    given = pickle.dumps((ANT, STEPS, RECORDED, EVALUATED))
    subprocess.run(words, input=given, env=environ, check=True, capture_output=True)
    with h5py.File(
        folder / ANT / "data" / "main_data.hdf5", "a"
    ) as file:  # the first reaches its goal at step 5 and stays
        rewards = np.zeros(STEPS)
        rewards[4:9] = 1
        file["episode_0/rewards"][...] = rewards
        file["episode_1/rewards"][...] = 0 * rewards
    return folder


@pytest.mark.parametrize(
    ("rewards", "steps"), [([0, 0, 1, 1, 0], 3), ([1, 0], 1), ([0, 0], 2), ([0, 0, 1], 3), ([], 0)]
)
def test_an_episode_up_to_its_goal(rewards, steps):
    assert mazes.steps_until_goal(np.array(rewards, float)) == steps


@pytest.mark.parametrize("same", [(RECORDED, RECORDED), (None, EVALUATED), (RECORDED, None), (EVALUATED, EVALUATED)])
def test_where_walls_agree_nothing_is_decided(same):
    assert mazes.walls_of_the_data(find_task(ANT), *same) == {}


def test_starts_and_goals_come_from_the_evaluation_and_walls_from_the_data():
    with pytest.warns(UserWarning, match="episodes are played within the walls of the data"):
        assert mazes.walls_of_the_data(find_task(ANT), RECORDED, EVALUATED) == {"maze_map": JOINED}
    task = dataclasses.replace(find_task(ANT), maze="evaluation")
    with pytest.warns(UserWarning, match="as was asked"):
        assert mazes.walls_of_the_data(task, RECORDED, EVALUATED) == {}


def test_a_goal_in_a_wall_is_refused():
    inside = [row[:] for row in EVALUATED]
    inside[2][1], inside[3][3] = "g", 0
    with pytest.raises(ValueError, match=r"a start or a goal in a wall of that one \(row 2, column 1\): choose maze="):
        mazes.walls_of_the_data(find_task(ANT), RECORDED, inside)


@pytest.mark.parametrize(("maze", "walls"), [("data", JOINED), ("evaluation", EVALUATED)])
def test_the_environment_has_the_walls_that_were_chosen(collected, maze, walls):
    task = dataclasses.replace(find_task(ANT), maze=maze)
    with pytest.warns(UserWarning, match="other walls"):
        environment = minari.environment(task, collected)
    with environment as made:
        assert made.unwrapped.maze.maze_map == walls
        seen, _ = made.reset(seed=0)
        assert seen.shape == task.dataset.observation
        goal = made.unwrapped.goal
    cell = np.array([3 - 2, 2 - 3]) * 4.0  # row 3, column 3, in the world: to the right, and down
    assert np.all(np.abs(goal - cell) < 2 + 1)


def test_steps_after_the_goal_are_left_out_where_that_is_asked(collected):
    task = find_task(ANT)
    everything = load(task, dataset_dir=collected).train
    until = load(dataclasses.replace(task, after_goal=False), dataset_dir=collected).train
    assert (everything.size, until.size) == (2 * STEPS, 5 + STEPS)
    np.testing.assert_array_equal(until.observations[:6], everything.observations[:6])
    np.testing.assert_array_equal(until.observations[6:], everything.observations[STEPS + 1 :])
    assert np.asarray(until.masks[:5]).tolist() == [1, 1, 1, 1, 0]
    assert np.asarray(until.rewards[:5]).tolist() == [-1, -1, -1, -1, 0]
    assert np.flatnonzero(until.ends).tolist() == [5, 5 + 1 + STEPS]


def test_inspect_counts_them(collected, capsys):
    assert cli.main(["data", "inspect", ANT, "--dataset-dir", str(collected)]) == 0
    said = capsys.readouterr().out
    assert f"7 of {2 * STEPS} transitions (29%) come after the goal was reached in their episode" in said


def test_a_variation_is_part_of_the_run():
    task = dataclasses.replace(find_task(ANT), maze="evaluation", after_goal=False)
    assert task_from_dict(task.to_dict()) == task
    assert task_from_dict(find_task(ANT).to_dict()) == find_task(ANT)
    assert find_task(ANT).to_dict() == {"name": ANT}
    spec, usual = RunSpec(task, "bc"), RunSpec(ANT, "bc")
    assert RunSpec.from_dict(spec.to_dict()) == spec
    assert spec.hash != usual.hash
    assert spec.folder != usual.folder
    assert spec.diff(usual).keys() == {"task.maze", "task.after_goal"}


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (ANT, {"maze": "evalution"}, "There is no maze called 'evalution'. Did you mean 'evaluation'?"),
        (
            "pointmaze-medium",
            {"after_goal": False},
            "Only D4RL's mazes have another maze, or steps after the goal; got after",
        ),
        ("D4RL/pen/human-v2", {"maze": "evaluation"}, "Only D4RL's mazes have another maze"),
    ],
)
def test_what_has_no_maze_has_no_variation(name, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(find_task(name), **change)


def test_the_text_of_a_task_says_that_success_is_the_score(capsys):
    assert cli.main(["data", "list", ANT]) == 0
    assert "the normalized return is the success in percent" in " ".join(capsys.readouterr().out.split())


def test_the_command_takes_both(capsys):
    words = ["train", "pointmaze-medium", "--until-goal"]
    assert cli.main(words) == 2
    assert "Only D4RL's mazes" in capsys.readouterr().err
    assert cli.main(["train", ANT, "--maze", "other"]) == 2
    assert "There is no maze called 'other'" in capsys.readouterr().err

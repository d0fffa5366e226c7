"""Steps in the environment are judged as OGBench labels its data: the state before a step, by the same count of what is done.

So logged transitions and those of an online phase can be mixed as they are.
"""

import numpy as np
import pytest

from fdbook.data import load, ogbench
from fdbook.data.tasks import find_task


pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32")
MAZE, CUBE = "pointmaze-medium-navigate-singletask", "cube-single-play-singletask"


def played(environment, actions, prepare=lambda simulation: None):
    """Rewards and masks of an episode as it is played, and the simulator's state before each step, as recordings keep it."""
    environment.reset(seed=3)
    simulation = environment.unwrapped
    prepare(simulation)
    found = {"rewards": [], "masks": [], "qpos": [], "button_states": []}
    for action in actions:
        data = simulation.data if hasattr(simulation, "data") else simulation._data
        found["qpos"].append(data.qpos.copy())
        found["button_states"].append(np.array(getattr(simulation, "_cur_button_states", [])))
        _, reward, terminated, truncated, _ = environment.step(action)
        found["rewards"].append(reward)
        found["masks"].append(0.0 if terminated else 1.0)
        if terminated or truncated:
            break
    return {name: np.array(values) for name, values in found.items()}


def beside_the_goal(simulation):
    simulation.set_xy(np.asarray(simulation.cur_goal_xy) - [1.5, 0])


def in_its_place(simulation):
    simulation._data.joint("object_joint_0").qpos[:3] = simulation._data.mocap_pos[0]
    simulation.post_step()  # notices it


@pytest.mark.parametrize(
    ("name", "prepare", "action", "most"),
    [(MAZE, beside_the_goal, [1.0, 0.0], 30), (CUBE, in_its_place, [0.0] * 5, 4)],
    ids=["into the goal of a maze", "a cube in its place"],
)
def test_a_goal_is_rewarded_with_the_step_that_follows(name, prepare, action, most):
    task = find_task(name)
    with load.environment(task) as made:
        found = played(made, [np.array(action, np.float32)] * most, prepare)
        rewards, masks = ogbench.label(task.environment, made, found)
    np.testing.assert_array_equal(found["rewards"], rewards)
    np.testing.assert_array_equal(found["masks"], masks)
    assert len(rewards) < most
    assert (rewards[-1], masks[-1]) == (0, 0)
    assert np.all(masks[:-1] == 1)


@pytest.mark.parametrize("name", ["scene-play-singletask-task1", "puzzle-3x3-play-singletask-task1", CUBE])
def test_what_is_not_done_is_counted_alike(name):
    """Random actions: each task counts what is done of it, and OGBench's own labels of the states say the same."""
    task = find_task(name)
    actions = np.random.default_rng(0).uniform(-1, 1, (25, 5)).astype(np.float32)
    with load.environment(task) as made:
        found = played(made, actions)
        rewards, masks = ogbench.label(task.environment, made, found)
    np.testing.assert_array_equal(found["rewards"], rewards)
    np.testing.assert_array_equal(found["masks"], masks)
    assert np.all(rewards < 0)

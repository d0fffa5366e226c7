"""The page about a data set: one panel for each thing there is to see, with the numbers it was given."""

from pathlib import Path

import numpy as np
import pytest

from fdbook.data import ogbench
from fdbook.data.summary import Coverage, Rewards, Summary
from fdbook.report import inspection


def summary(actions=3, tasks=5, planes=2, **changes):
    """A summary with the given numbers of things."""
    values, counts = np.array([-2.0, -1.0, 0.0]), np.array([60, 30, 10])
    coverage = tuple(
        Coverage(f"plane {k}", np.arange(3600).reshape(60, 60), (0.0, 1.0, 0.0, 2.0)) for k in range(planes)
    )
    given = {
        "name": "some/data",
        "folder": Path(),
        "bytes": 1,
        "lengths": np.full(4, 25),
        "observation_range": (0.0, 1.0),
        "actions": np.full((actions, 60), 10),
        "mean": np.zeros(actions),
        "covariance": np.diag(np.arange(1.0, actions + 1)) / 10,
        "at_bounds": np.full(actions, 0.25),
        "coverage": coverage,
        "rewards": tuple(Rewards(f"task{k}", k == 2, values, counts, 10, 3) for k in range(1, tasks + 1)),
        "returns": None,
        "clipped": 0,
        "stale_goals": 0,
    }
    return Summary(**given | changes)


def panels(fig):
    return {ax.get_title(loc="left"): ax for ax in fig.axes}


def test_a_panel_for_each_thing():
    drawn = panels(inspection.draw(summary()))
    wanted = {"plane 0", "plane 1", "correlation of actions", "rewards", "episodes with a success"}
    assert wanted | {f"action {k}: 25% at ±1" for k in (1, 2, 3)} <= set(drawn)


def test_bars_are_shares():
    drawn = panels(inspection.draw(summary()))
    widths = sorted({round(bar.get_width(), 6) for bar in drawn["rewards"].patches})
    assert widths == [0, 0.1, 0.3, 0.6]
    successes = {round(bar.get_width(), 6) for bar in drawn["episodes with a success"].patches}
    assert successes == {1.0, 0.75}
    assert [label.get_text() for label in drawn["rewards"].get_yticklabels()] == [
        "task 1",
        "task 2 *",
        "task 3",
        "task 4",
        "task 5",
    ]


def test_one_task_with_returns_and_many_actions():
    drawn = panels(inspection.draw(summary(actions=24, tasks=1, planes=0, returns=np.arange(4.0))))
    assert "returns of episodes" in drawn
    assert sum(title.startswith("action ") for title in drawn) == 8
    assert [label.get_text() for label in drawn["rewards"].get_yticklabels()] == ["the task"]


def test_dense_rewards_say_so():
    dense = (Rewards("hand", True, np.zeros(0), np.zeros(0, int), 0, 0),)
    texts = [text.get_text() for ax in inspection.draw(summary(rewards=dense)).axes for text in ax.texts]
    assert "dense rewards" in texts


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32")
def test_a_maze_shows_its_walls():
    maze = ogbench.maze_layout("ogbench/pointmaze-medium-navigate")
    plane = Coverage("places", np.ones((60, 60), int), maze.extent, maze.walls)
    drawn = panels(inspection.draw(summary(coverage=(plane,))))["places"]
    assert [image.get_array().shape for image in drawn.images] == [(60, 60), maze.walls.shape]
    assert tuple(drawn.images[1].get_extent()) == maze.extent

"""Shortest ways between walls: by hand, against Dijkstra's on a grid of our own, and walked by the simulated robot."""

import contextlib
import itertools

import numpy as np
import pytest
from scipy import sparse

from fdbook.data import load, ogbench, walls
from fdbook.data.tasks import find_task


MAZE = "ogbench/pointmaze-medium-navigate"
TASK = "pointmaze-medium-navigate-singletask-task1-v0"
RADIUS = 0.7
"""Of the ball, in OGBench's file of the robot."""
ONE = walls.MazeLayout(np.array([[False, True, False]]), 2.0, (-2.0, 0.0))
"""One wall, two units wide, around the origin, and a free cell on either side."""


@pytest.fixture(scope="module")
def medium():
    """The medium maze and its ways to the goal of the first task."""
    return ogbench.maze_layout(MAZE), load.shortest_ways(find_task(TASK))


def value(ways, *places):
    """What the grid says at places that are points of it."""
    at = (np.array(places) - ways.origin) / ways.spacing
    assert np.allclose(at, np.round(at))
    return ways.values[tuple(np.round(at).astype(int).T)]


def free(ways, layout):
    """Which points of the grid lie outside all walls, widened by the robot's radius."""
    i, j = np.indices(ways.values.shape)
    points = np.asarray(ways.origin) + ways.spacing * np.stack([i, j], axis=-1)
    rows, columns = np.nonzero(layout.walls)
    centers = np.asarray(layout.origin) + layout.cell * np.stack([columns, rows], axis=-1)
    reach = np.max(np.abs(points[:, :, None] - centers), axis=-1)
    return np.all(reach > layout.cell / 2 + RADIUS - 1e-9, axis=-1)


def test_ways_around_one_wall_by_hand():
    """A way turns at corners of the widened wall; in the wall it is as long as that of the nearest point outside."""
    ways = walls.shortest_ways(ONE, (3.0, 0.0), radius=0.5, step=0.5, spacing=0.5)
    assert (ways.origin, ways.spacing, ways.step, ways.values.shape) == ((-3.0, -1.0), 0.5, 0.5, (13, 5))
    front = np.hypot(1.5, 1.5)
    np.testing.assert_allclose(value(ways, (-3, 0)), 2 * front + 3)
    np.testing.assert_allclose(value(ways, (-1.5, 0), (-2, 1)), [1.5 + 3 + front, np.hypot(0.5, 0.5) + 3 + front])
    np.testing.assert_allclose(value(ways, (2, 0), (3, 1), (1.5, 0), (1, 0)), [1, 1, 1.5, 1.5])


def test_no_way_leads_between_two_walls_that_touch():
    """A closed row of walls from edge to edge is walked round; a box around the goal is never entered."""
    two = walls.MazeLayout(np.array([[False, True, False]] * 2), 2.0, (-2.0, -1.0))
    ways = walls.shortest_ways(two, (3.0, 0.0), radius=0.5, step=0.5, spacing=0.5)
    np.testing.assert_allclose(value(ways, (-3, 0)), 2 * np.hypot(1.5, 2.5) + 3)
    box = walls.MazeLayout(np.pad(np.zeros((1, 1), bool), 1, constant_values=True), 2.0, (-2.0, -2.0))
    inside = walls.shortest_ways(box, (0.0, 0.0), radius=0.5, step=0.5, spacing=0.5)
    np.testing.assert_allclose(
        value(inside, (0.5, 0.5), (3, 0)), [np.hypot(0.5, 0.5), 0.5]
    )  # from outside none leads there
    with pytest.raises(ValueError, match=r"^From no point of the maze a way leads to the goal \(9.0, 0.0\)\.$"):
        walls.shortest_ways(box, (9.0, 0.0), radius=0.5, step=0.5, spacing=5.0)


def test_a_way_of_the_real_maze_by_hand(medium):
    """To the corner of the wall around (16, 16), 4 wide and widened by the ball, that is on the right below; then to (20, 20)."""
    corner = 2 + RADIUS
    by_hand = np.hypot(corner, 4 - corner) + np.hypot(4 - corner, 4 + corner)
    np.testing.assert_allclose(value(medium[1], (16, 12), (16, 20)), [by_hand, 4])


def test_ways_in_a_real_maze_are_those_of_a_grid(medium):
    """A grid of 32 directions takes ways that are never shorter, and longer by 3% at most, and the rounding to points of it."""
    layout, ways = medium
    open_, spacing = free(ways, layout), ways.spacing
    number = np.where(open_, np.cumsum(open_).reshape(open_.shape) - 1, -1)
    edges = []
    for di, dj in itertools.product(range(-3, 4), repeat=2):
        if np.gcd(di, dj) != 1:
            continue
        i, j = np.nonzero(open_)
        inside = (i + di >= 0) & (i + di < open_.shape[0]) & (j + dj >= 0) & (j + dj < open_.shape[1])
        i, j = i[inside], j[inside]
        # nothing in between may be a wall: looked at in a hundred points on the way
        share = np.linspace(0, 1, 101)[:, None]
        x, y = i + share * di, j + share * dj
        clear = np.all(open_[np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)], axis=0)
        length = spacing * np.hypot(di, dj)
        edges.append((number[i, j][clear], number[i + di, j + dj][clear], np.full(clear.sum(), length)))
    rows, columns, lengths = (np.concatenate(part) for part in zip(*edges, strict=True))
    graph = sparse.csr_matrix((lengths, (rows, columns)), shape=(open_.sum(),) * 2)
    goal = np.round((np.array([20.0, 20.0]) - ways.origin) / spacing).astype(int)
    found = sparse.csgraph.dijkstra(graph, indices=number[tuple(goal)])
    ours = ways.values[open_]
    assert np.all(np.isfinite(found))
    assert np.all(ours <= found + spacing / 4)  # the grid's way may cut a corner
    assert np.all(found <= 1.03 * ours + 2 * spacing)
    assert ours.max() > 30


def test_no_way_is_longer_than_that_of_a_neighbor_and_the_step_to_it(medium):
    layout, ways = medium
    open_ = free(ways, layout)
    for axis, size in enumerate(open_.shape):
        both = np.logical_and(*(np.take(open_, part, axis) for part in (range(1, size), range(size - 1))))
        steps = np.abs(np.diff(ways.values, axis=axis))[both]
        assert steps.max() <= ways.spacing + 1e-9
    assert np.all(np.isfinite(ways.values))


def test_the_robot_that_follows_the_ways_arrives_in_as_many_steps_as_they_say(medium):
    """In the simulator, always in the direction in which the way gets shorter: the ball needs its length over that of a step."""
    _, ways = medium
    slopes = np.stack(np.gradient(ways.values, ways.spacing), axis=-1)
    with contextlib.closing(load.environment(find_task(TASK))) as environment:
        place, _ = environment.reset(seed=0)
        first = np.round((place[:2] - ways.origin) / ways.spacing).astype(int)
        expected = (ways.values[tuple(first)] - 1) / ways.step  # the goal counts as reached within one unit
        over, count = False, 0
        while not over and count < 400:
            count += 1
            slope = slopes[tuple(np.round((place[:2] - ways.origin) / ways.spacing).astype(int))]
            place, _, over, _, _ = environment.step(-slope / np.linalg.norm(slope))
    assert over
    assert expected > 100
    assert abs(count - expected) < 0.1 * expected


def test_an_action_moves_the_simulated_robot_by_the_step(medium):
    with contextlib.closing(load.environment(find_task(TASK))) as environment:
        before, _ = environment.reset(seed=0)
        after, *_ = environment.step(np.array([0.0, 1.0], np.float32))
    np.testing.assert_allclose(after - before, [0, medium[1].step], atol=1e-6)


def test_goals_in_walls_and_other_tasks_are_refused(unhooked):
    with pytest.raises(
        ValueError, match=r"^A goal lies in no wall, nor nearer to one than the robot's radius, 0\.5; got"
    ):
        walls.shortest_ways(ONE, (1.4, 0.0), radius=0.5, step=0.2)
    for name in (
        "cube-single-play-singletask-task2-v0",
        "D4RL/pointmaze/medium-v2",
        "antmaze-large-navigate-singletask",
    ):
        task = find_task(name)
        with pytest.raises(
            ValueError, match=rf"^Shortest ways .* in OGBench's point mazes only; {task.name} is none\.$"
        ):
            load.shortest_ways(task)

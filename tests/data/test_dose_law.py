"""The law of a dose, from whole recordings and the ways that the controller itself was told; and that names keep doses apart."""

import dataclasses

import numpy as np
import pytest

from fdbook.data import controllers, load, ogbench
from fdbook.data.dose import Dose
from fdbook.data.files import Place
from fdbook.data.record import record
from fdbook.data.tasks import find


MAZE, CUBE = "ogbench/pointmaze-medium-navigate", "ogbench/cube-single-play"
THIN = {"along": 0.3, "across": 0.03, "heading": 0.5}


@pytest.fixture(scope="module")
def played():
    """Plays episodes of the maze; the actions, and the unit vectors to the sub-goals that the environment named for them."""

    def play(dose, episodes=4):
        dataset, ways = find(MAZE), []
        with controllers.environment(dataset) as environment:
            real = environment.unwrapped.get_oracle_subgoal

            def told(place, goal):
                subgoal = real(place, goal)
                ways.append((subgoal[0] - place) / np.linalg.norm(subgoal[0] - place))
                return subgoal

            environment.unwrapped.get_oracle_subgoal = told
            seeds = [(0, 0, index) for index in range(episodes)]
            rows = [controllers.episode(dataset, environment, seed, lambda steps: None, dose) for seed in seeds]
        return np.concatenate([each["actions"] for each in rows]), np.array(ways)

    return play


def in_the_frame(actions, ways):
    """Actions along and across the ways: (n, 2)."""
    return np.stack([np.sum(actions * ways, 1), actions[:, 1] * ways[:, 0] - actions[:, 0] * ways[:, 1]], 1)


@pytest.mark.parametrize("given", [THIN, THIN | {"along": 0.03, "across": 0.3}, {"noise": 0.1, "heading": 0.7}])
def test_the_covariance_of_recorded_actions_around_the_heading(played, budget, given):
    """Against NumPy's own draws around the same ways, clipped alike: catches noise in the wrong frame or swapped axes."""
    dose = Dose.of(find(MAZE), given)
    actions, ways = played(dose)
    assert np.mean(np.any(np.abs(actions) >= 1, axis=1)) < 0.05
    rng, across = np.random.default_rng(1), np.stack([-ways[:, 1], ways[:, 0]], 1)
    along, sideways = rng.normal(0, [[dose.along], [dose.across]], (2, len(ways)))
    drawn = np.clip(dose.heading * ways + along[:, None] * ways + sideways[:, None] * across, -1, 1)
    found, wanted = in_the_frame(actions, ways), in_the_frame(drawn, ways)
    scale = np.array([dose.along, dose.across])
    assert (found.mean(0) - wanted.mean(0)) / scale == pytest.approx(0, abs=budget("dose_mean"))
    ratio = (np.cov(found.T) - np.cov(wanted.T)) / np.outer(scale, scale)
    np.testing.assert_allclose(ratio, 0, atol=budget("dose_covariance"))


def test_the_published_dose_of_the_maze_is_played_as_it_always_was(played):
    """Bit for bit: the unit vector to the sub-goal plus independent noise of 0.5, drawn after start and goal."""
    dataset = dataclasses.replace(find(MAZE), steps=60)
    with controllers.environment(dataset) as environment:
        rows = controllers.episode(dataset, environment, (3, 0, 1), lambda steps: None)
        own, shared = np.random.SeedSequence((3, 0, 1)).generate_state(2).tolist()
        rng, maze = np.random.default_rng(own), environment.unwrapped
        free, goals = controllers._places(maze)
        task = {"init_ij": tuple(rng.choice(free)), "goal_ij": tuple(rng.choice(goals))}
        with controllers.global_randomness(shared):
            environment.reset(seed=own, options={"task_info": task})
            for action in rows["actions"]:
                way = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)[0] - maze.get_xy()
                steered = way / (np.linalg.norm(way) + 1e-6) + rng.normal(0, 0.5, 2)
                np.testing.assert_array_equal(action, np.clip(steered, -1, 1).astype(np.float32))
                *_, info = environment.step(action)
                if info["success"]:
                    maze.set_goal(goal_xy=maze.add_noise(maze.ij_to_xy(rng.choice(goals))))


def test_plans_get_their_noise_by_coordinate(budget):
    """On a plan that stands still: deviation times what smoothing with normalized Gaussian weights leaves of it."""
    noise, smoothing = (0.1, 0.0, 0.02, 0.3, 0.05), 0.8

    class Still:
        def compute_plan(self, times, poses, grasps):
            return np.zeros((20_000, 5))

    with controllers.global_randomness(0):
        plan = controllers._noisy(Still(), noise, smoothing).compute_plan(None, None, None)
    weights = np.exp(-0.5 * (np.arange(-3, 4) / smoothing) ** 2)
    left = np.sqrt(np.sum((weights / weights.sum()) ** 2))
    wanted = np.array(noise) * [0.05, 0.05, 0.05, 0.3, 1.0] * left
    np.testing.assert_allclose(plan.std(0), wanted, rtol=budget("dose_sampling"), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        (MAZE, {"along": 0.1234567}, {"along": 0.1234568}),
        (MAZE, {"heading": 0.5}, {"heading": 0.5000001}),
        (CUBE, {"noise": 0.1000001}, None),
        (CUBE, {"noise": (0.1, 0.1, 0.02, 0.1, 0.05)}, {"noise": (0.1, 0.1, 0.02, 0.1, 0.050000001)}),
        (CUBE, {"noise": 1e-7}, {"noise": 1.00000001e-7}),
    ],
)
def test_two_doses_never_share_a_folder_or_a_command(name, one, other):
    """Catches names with rounded numbers: the finished recording of the one would be given out for the other."""
    first, second = Place(name, 3, dose=one), Place(name, 3, dose=other)
    assert first.folder != second.folder
    assert first.command != second.command


def test_arrays_and_lists_are_one_dose():
    assert Dose.of(find(CUBE), {"noise": np.full(5, 0.2)}) == Dose.of(find(CUBE), {"noise": [0.2] * 5})
    assert Dose.of(find(CUBE), {"noise": [0.2] * 5}) == Dose.of(find(CUBE), {"noise": 0.2})


def test_a_short_name_is_the_same_place(tmp_path, monkeypatch):
    """Catches a recording under the name that was typed, which nothing finds again."""
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    assert Place("pointmaze-medium", 2) == Place(MAZE, 2)
    record("pointmaze-medium", episodes=1, dose=THIN, workers=1, progress=False)
    place = Place(MAZE, 1, dose=THIN)
    assert load.recordings("pointmaze-medium") == [place]
    assert load.folder_of("pointmaze-medium", Place("pointmaze-medium", 1, dose=THIN)) == place.folder
    assert ogbench.load("pointmaze-medium", episodes=1, dose=THIN).name == MAZE


def test_a_folder_and_a_dose_are_not_mixed(tmp_path):
    """Catches a run on the files of a folder whose label says another dose than was asked for."""
    with pytest.raises(
        ValueError, match=r"takes either dataset_dir or the .* dose of a recording; got both, dose=Dose\("
    ):
        load.load("pointmaze-medium", dose=THIN, dataset_dir=tmp_path)


@pytest.mark.slow
def test_workers_are_told_the_dose(tmp_path):
    """Two processes record what one does here."""
    found = []
    for workers in (1, 2):
        folder = record(MAZE, episodes=2, dose=THIN, folder=tmp_path / str(workers), workers=workers, progress=False)
        with np.load(folder / "pointmaze-medium-navigate-v0.npz") as archive:
            found.append(archive["actions"])
    np.testing.assert_array_equal(*found)

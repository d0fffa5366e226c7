"""The registry against the environments themselves, and against the protocol that the papers share."""

import dataclasses
import warnings

import gymnasium
import gymnasium_robotics
import numpy as np
import ogbench  # noqa: F401 (registers the environments)
import pytest

from fdbook.data import minari, tasks
from fdbook.data.controllers import CONTROLLERS
from fdbook.data.tasks import DATASETS, TASKS, find, find_task, recordable


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32"),
    pytest.mark.filterwarnings("ignore:.*DISPLAY"),
    pytest.mark.filterwarnings("ignore:.*v4 is out of date"),  # gymnasium says so of AntMaze
]
gymnasium.register_envs(gymnasium_robotics)

WORLDS = ["cube-single", "cube-double", "cube-triple", "cube-quadruple", "scene"]
WORLDS += ["puzzle-3x3", "puzzle-4x4", "puzzle-4x5", "puzzle-4x6"]
LARGER = {"cube-triple": 3000, "cube-quadruple": 5000, "puzzle-4x5": 3000, "puzzle-4x6": 5000}
NOISY = [name for name in DATASETS if name.endswith("-noisy")]
STATES = [name for name, dataset in DATASETS.items() if not dataset.pixels and name not in NOISY]
PICTURES = [name for name, dataset in DATASETS.items() if dataset.pixels]


def tasks_of(name):
    return [task for task in TASKS.values() if task.dataset.name == name]


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_dimensions_horizon_and_rewards_are_those_of_the_environment(name):
    """For every task: what the environment says of itself, and what it does when it is stepped at random."""
    dataset, rng = find(name), np.random.default_rng(0)
    for task in tasks_of(name):
        with gymnasium.make(task.environment) as environment:
            assert environment.spec.max_episode_steps == (200 if name.startswith("D4RL/pen/") else task.horizon)
            assert environment.action_space.shape == (dataset.action,)
            assert np.all(environment.action_space.low == -1)
            assert np.all(environment.action_space.high == 1)
            observation, _ = environment.reset(seed=0)
            assert minari.flatten(observation, dataset).shape == dataset.observation
            for _ in range(5):
                action = rng.uniform(-1, 1, dataset.action).astype(environment.action_space.dtype)
                _, reward, terminated, _, _ = environment.step(action)
                if task.parts:
                    assert reward + task.reward_shift in range(-task.parts, 1)
                    assert not terminated
                else:
                    assert reward != round(reward)
            if dataset.benchmark == "ogbench":
                model = getattr(environment.unwrapped, "_model", None) or environment.unwrapped.model
                buttons = getattr(environment.unwrapped, "_num_buttons", 0)
                wanted = {"qpos": model.nq, "qvel": model.nv} | ({"button_states": buttons} if buttons else {})
                assert dataset.simulator == wanted


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_of_the_same_world_as_the_states(name):
    """Without rendering: what the registry of gymnasium says, and the data set with states beside it."""
    dataset, states = find(name), find(name.replace("visual-", ""))
    (task,) = tasks_of(name)
    spec, plain = gymnasium.spec(task.environment), gymnasium.spec(task.environment.removeprefix("visual-"))
    assert spec.max_episode_steps == plain.max_episode_steps == task.horizon
    assert spec.entry_point == plain.entry_point
    assert spec.kwargs["ob_type"] == "pixels"
    assert (dataset.observation, dataset.action, dataset.simulator) == ((64, 64, 3), states.action, states.simulator)
    assert task.frame_stack == 3


@pytest.mark.parametrize("name", [name for name in STATES if name.startswith("ogbench/")])
def test_the_default_task_is_that_of_the_environment(name):
    (default,) = [task for task in tasks_of(name) if task.default]
    with gymnasium.make(default.environment.replace(f"-task{default.environment[-4]}", "")) as environment:
        environment.reset(seed=0)
        assert environment.unwrapped.cur_task_id == int(default.environment[-4])


def test_the_noisy_sets_are_those_of_ogbench_and_of_the_worlds_of_their_play_sets():
    """Their environments are the play sets', which other tests compare; a task that evaluated in another one would fail here."""
    expected = {f"ogbench/{prefix}{world}-noisy" for prefix in ("", "visual-") for world in WORLDS}
    apart = sorted(expected ^ set(NOISY))
    assert apart == [], (
        f"{apart}: in fdbook/data/tasks.py or in WORLDS of tests/data/test_tasks.py, and not in the other"
    )
    for name in NOISY:
        noisy, play = find(name), find(name.replace("-noisy", "-play"))
        own = {"name": play.name, "controller": play.controller, "description": play.description}
        assert dataclasses.replace(noisy, **own) == play
        assert (
            len({noisy.stem, noisy.controller, noisy.description} & {play.stem, play.controller, play.description}) == 0
        )
        for task, other in zip(tasks_of(name), tasks_of(play.name), strict=True):
            assert task.name == other.name.replace("-play-", "-noisy-")
            assert (task.published, task.settings_from) == (None, "ours")
            own = {key: getattr(other, key) for key in ("name", "dataset", "published", "hyperparameters")}
            assert dataclasses.replace(task, **own) == other


def test_published_sizes():
    """As in the commands that OGBench generates its arms' data with: episodes of 1001 rows, more of them in larger worlds."""
    for dataset in DATASETS.values():
        if dataset.benchmark == "ogbench" and dataset.family != "maze":
            world = dataset.environment.removeprefix("visual-").removesuffix("-v0")
            expected = LARGER.get(world, 1000)
            here = f"{dataset.name} has {dataset.episodes} episodes; tests/data/test_tasks.py, LARGER, has {expected} for {world}"
            assert (dataset.steps, dataset.episodes) == (1001, expected), here


@pytest.mark.parametrize("prefix", ["", "visual-"])
@pytest.mark.parametrize(
    ("world", "family"),
    [
        ("cube-triple", "cube-double"),
        ("cube-quadruple", "cube-double"),
        ("puzzle-4x5", "puzzle-4x4"),
        ("puzzle-4x6", "puzzle-4x4"),
    ],
)
def test_larger_worlds_have_the_settings_of_their_family(prefix, world, family):
    task, known = (find_task(f"{prefix}{name}-play-singletask-task1") for name in (world, family))
    assert (task.published, task.settings_from, known.settings_from) == (None, "ours", "papers")
    shared = (
        "discount",
        "q_agg",
        "fql_alpha",
        "budget",
        "updates",
        "evaluations",
        "group",
        "score",
        "frame_stack",
    )
    assert [getattr(task, key) for key in shared] == [getattr(known, key) for key in shared]


@pytest.mark.parametrize("size", ["medium", "large", "giant"])
def test_at_the_goal_of_a_maze_the_reward_is_0_and_the_episode_ends(size):
    task = find_task(f"pointmaze-{size}-navigate-singletask")
    with gymnasium.make(task.environment) as environment:
        environment.reset(seed=0)
        environment.unwrapped.set_xy(environment.unwrapped.cur_goal_xy)
        _, reward, terminated, _, _ = environment.step(np.zeros(2, np.float32))
    assert (reward, terminated) == (0, True)


@pytest.mark.parametrize("name", WORLDS)
def test_where_all_parts_are_met_the_reward_is_0_and_otherwise_at_least_minus_parts(name):
    task = find_task(f"{name}-play-singletask")
    with gymnasium.make(task.environment) as environment:
        environment.reset(seed=0)
        met = environment.unwrapped._compute_successes()
        flat = [part for group in met for part in (group if isinstance(group, list | tuple | np.ndarray) else [group])]
    assert len(flat) == task.parts


def test_the_tasks_of_the_papers():
    """As their protocol counts them: ten worlds with five tasks, five with pictures, six ant mazes, twelve hands."""
    worlds = ("antmaze-large", "antmaze-giant", "humanoidmaze-medium", "humanoidmaze-large", "antsoccer-arena")
    arms = ("cube-single", "cube-double", "scene", "puzzle-3x3", "puzzle-4x4")
    sets = [f"{world}-navigate" for world in worlds] + [f"{arm}-play" for arm in arms]
    wanted = {f"{name}-singletask-task{number}-v0" for name in sets for number in range(1, 6)}
    wanted |= {f"visual-{arm}-play-singletask-task1-v0" for arm in arms}
    wanted |= {f"antmaze-{maze}-v2" for maze in ("umaze", "umaze-diverse")}
    wanted |= {f"antmaze-{size}-{kind}-v2" for size in ("medium", "large") for kind in ("play", "diverse")}
    hands, sources = ("pen", "door", "hammer", "relocate"), ("human", "cloned", "expert")
    wanted |= {f"{hand}-{source}-v1" for hand in hands for source in sources}
    published = [task.published for task in TASKS.values() if task.published]
    assert len(published) == len(set(published)) == 73
    assert set(published) == wanted


@pytest.mark.parametrize(
    ("name", "discount", "q_agg", "alpha", "budget", "updates", "evaluations"),
    [
        ("antmaze-giant-navigate-singletask-task3", 0.995, "min", 10, 0.01, 1_000_000, (800_000, 900_000, 1_000_000)),
        ("antmaze-large-navigate-singletask", 0.99, "min", 10, 0.01, 1_000_000, (800_000, 900_000, 1_000_000)),
        ("humanoidmaze-large-navigate-singletask", 0.995, "mean", 30, 0.001, 1_000_000, (800_000, 900_000, 1_000_000)),
        ("antsoccer-arena-navigate-singletask", 0.995, "mean", 10, 0.01, 1_000_000, (800_000, 900_000, 1_000_000)),
        ("cube-double-play-singletask", 0.99, "mean", 300, 0.001, 1_000_000, (800_000, 900_000, 1_000_000)),
        ("puzzle-4x4-play-singletask", 0.99, "mean", 1000, 0.005, 1_000_000, (800_000, 900_000, 1_000_000)),
        ("visual-cube-double-play-singletask-task1", 0.99, "mean", 100, 0.001, 500_000, (300_000, 400_000, 500_000)),
        ("visual-puzzle-3x3-play-singletask-task1", 0.99, "mean", 300, 0.005, 500_000, (300_000, 400_000, 500_000)),
        ("D4RL/antmaze/large-diverse-v1", 0.99, "mean", 3, 0.001, 500_000, (500_000,)),
        ("D4RL/antmaze/umaze-v1", 0.99, "mean", 10, 0.001, 500_000, (500_000,)),
        ("D4RL/pen/expert-v2", 0.99, "min", 3000, 0.001, 500_000, (500_000,)),
        ("D4RL/hammer/cloned-v2", 0.99, "min", 10_000, 0.001, 500_000, (500_000,)),
        ("D4RL/relocate/human-v2", 0.99, "min", 10_000, 0.001, 500_000, (500_000,)),
    ],
)
def test_settings_of_the_papers(name, discount, q_agg, alpha, budget, updates, evaluations):
    task = find_task(name)
    assert (task.discount, task.q_agg, task.fql_alpha, task.budget) == (discount, q_agg, alpha, budget)
    assert (task.updates, task.evaluations, task.settings_from) == (updates, evaluations, "papers")


def test_scores_that_do_not_compare_say_so():
    for task in TASKS.values():
        assert bool(task.caveat) == (task.group in ("d4rl-antmaze", "d4rl-adroit"))
        assert (task.references is not None) == (task.score == "normalized return")


def test_every_data_set_has_a_task_and_those_with_a_controller_a_line():
    assert {task.dataset.name for task in TASKS.values()} == set(DATASETS)
    controllers = {dataset.controller for dataset in DATASETS.values()} - {None, "waypoints"}
    assert controllers == set(CONTROLLERS)
    assert list(recordable()) == [name for name, dataset in DATASETS.items() if dataset.controller]
    assert all(line and "\n" not in line for line in recordable().values())
    assert all(bool(dataset.controller) != bool(dataset.why_not_recordable) for dataset in DATASETS.values())


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("cube-single-play-singletask", "cube-single-play-singletask-task2-v0"),
        ("cube-single-play-singletask-v0", "cube-single-play-singletask-task2-v0"),
        ("ogbench/scene-play-singletask-task5", "scene-play-singletask-task5-v0"),
        ("puzzle-4x4-play-singletask-task1-v0", "puzzle-4x4-play-singletask-task1-v0"),
        ("D4RL/pen/human-v2", "D4RL/pen/human-v2"),
    ],
)
def test_names_of_tasks(name, whole):
    assert find_task(name).name == whole


def test_pen_is_evaluated_as_long_as_its_reference_returns_were_and_says_so():
    for task in TASKS.values():
        if task.name.startswith("D4RL/pen/"):
            assert task.horizon == 100
            assert "over 100 steps" in task.caveat


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"^There is no data set called 'ogbench/cube-singel'; near it are cube-single,"
    ):
        find("ogbench/cube-singel")
    with pytest.raises(
        ValueError, match=r"^There is no task called 'cube-singel-play-singletask'; near it are cube-single-play,"
    ):
        find_task("cube-singel-play-singletask")


def test_a_task_can_be_made_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_task("scene-play-singletask").reward == "parts met - 5; mask 0 where all is met"


def test_a_world_without_settings_is_named(monkeypatch):
    monkeypatch.setattr(tasks, "SETTINGS", {"humanoidmaze": tasks.SETTINGS["humanoidmaze"]})
    with pytest.raises(KeyError, match="SETTINGS has no entry for ant"):
        list(tasks._ogbench_tasks())

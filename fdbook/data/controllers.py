"""The scripted controllers that come with the environments, each playing whole episodes into arrays.

OGBench's robot arm follows plans with correlated noise or, for the noisy sets, acts in closed loop with noise and some random
actions; its point walks along shortest paths with noise on every step; all as in the published data. An episode depends on
its seeds alone: NumPy's global generator, which environments and controllers draw from, is seeded for it.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from scipy.ndimage import gaussian_filter1d

from fdbook.data import files, simulators
from fdbook.data.dose import ARM, MAZE, STANDARD, Dose, step_noise
from fdbook.data.tasks import DataSet


if TYPE_CHECKING:
    import gymnasium


__all__ = ["CONTROLLERS", "Controller", "environment", "episode", "read"]

COORDINATE_NOISE = np.array([0.05, 0.05, 0.05, 0.3, 1.0])
"""What a noise of 1 means for each coordinate of the arm's plans: meters, radians, the gripper's opening (OGBench's values)."""
STACKING = {"cube-double": (0.0, 0.25), "cube-triple": (0.05, 0.35), "cube-quadruple": (0.1, 0.5)}
LEAST_MOVE, LARGEST_NOISE, RANDOM_ACTIONS = 0.4, 0.1, {"cube": 0.1, "scene": 0.1, "puzzle": 0.2}
ACTION_NOISE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
"""OGBench's noisy sets: the least length of a controller's move; an episode's noise is uniform up to the largest, times these for
each coordinate; and the share of actions that are random."""
TICK = 100


class Controller(NamedTuple):
    """How a data set is recorded: `environment(dataset)` builds its environment; `play(dataset, environment, seed, dose)` yields
    one episode, at each step the observation, the action taken there (in [-1, 1]) and the info that followed.
    """

    environment: Callable
    play: Callable


@contextlib.contextmanager
def global_randomness(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator and gives its state back after."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _build(dataset: DataSet, **options):
    """A data set's environment, with episodes of its length that go on when a goal is reached. OSError where nothing renders."""
    options |= {"terminate_at_goal": False, "max_episode_steps": dataset.steps, "disable_env_checker": True}
    if not dataset.pixels:
        return _made(dataset.environment, **options)
    environment = _made(dataset.environment, **options)
    with simulators.simulating():
        environment.reset(seed=0)  # renders
    return environment


def _made(name, **options):
    import gymnasium

    simulators.import_ogbench()
    with simulators.simulating():
        return simulators.tidy(gymnasium.make(name, **options))


def _arm_environment(dataset):
    """The environment, reset once: the first reset compiles the model, and all episodes are to start in one way."""
    environment = _build(dataset, mode="data_collection")
    environment.reset(seed=0)
    return environment


def _oracles(dataset, environment, dose):
    """The planner for each kind of thing that the arm can be told to do."""
    noise = STANDARD[ARM]["noise"] if dose is None else dose.noise
    smoothing = STANDARD[ARM]["smoothing"] if dose is None else dose.smoothing
    options = {"env": environment, "noise": noise, "noise_smoothing": smoothing}
    if isinstance(noise, tuple) or smoothing == 0:  # OGBench's planners know one noise, and filter it
        return {
            name: _noisy(oracle, noise, smoothing) for name, oracle in _plans(dataset, options | {"noise": 0.0}).items()
        }
    return _plans(dataset, options)


def _noisy(oracle, noise, smoothing: float):
    """A planner without noise of its own whose plans get noise for each coordinate, drawn and smoothed as OGBench does."""
    plan_of = oracle.compute_plan

    def compute_plan(times, poses, grasps):
        plan = plan_of(times, poses, grasps)
        drawn = np.random.normal(0, 1, size=(len(plan), 5)) * COORDINATE_NOISE * np.asarray(noise)  # noqa: NPY002
        return plan + (gaussian_filter1d(drawn, axis=0, sigma=smoothing) if smoothing > 0 else drawn)

    oracle.compute_plan = compute_plan
    return oracle


def _plans(dataset, options):
    """OGBench's planners for a data set."""
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    if dataset.family == "cube":
        return {"cube": cube_plan.CubePlanOracle(**options)}
    if dataset.family == "puzzle":
        return {"button": button_plan.ButtonPlanOracle(**options, gripper_always_closed=True)}
    return {
        "cube": cube_plan.CubePlanOracle(**options),
        "button": button_plan.ButtonPlanOracle(**options),
        "drawer": drawer_plan.DrawerPlanOracle(**options),
        "window": window_plan.WindowPlanOracle(**options),
    }


def _stacking(dataset) -> float:
    """The chance that a cube's next target is on another cube: drawn once for an episode of several cubes."""
    if dataset.family != "cube":
        return 0.5
    name = dataset.environment.removeprefix("visual-").removesuffix("-v0")
    return 0.0 if name == "cube-single" else np.random.uniform(*STACKING[name])  # noqa: NPY002


def _arm_play(dataset, environment, seed: int, dose) -> Iterator[tuple]:
    """Does one random thing after another, along planned paths with correlated noise."""
    oracles = _oracles(dataset, environment, dose)
    observation, info = environment.reset(seed=seed)
    stacking = _stacking(dataset)
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(observation, info)
    over = False
    while not over:
        before, action = observation, np.clip(oracle.select_action(observation, info), -1, 1).astype(np.float32)
        observation, _, _, over, info = environment.step(action)
        yield before, action, info
        if oracle.done:
            observation, info = environment.unwrapped.set_new_target(p_stack=stacking)
            oracle = oracles[info["privileged/target_task"]]
            oracle.reset(observation, info)


def _markov_oracles(dataset, environment):
    """The closed-loop controller for each kind of thing that the arm can be told to do."""
    from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov

    options = {"env": environment, "min_norm": LEAST_MOVE}
    if dataset.family == "cube":
        return {"cube": cube_markov.CubeMarkovOracle(**options)}
    if dataset.family == "puzzle":
        return {"button": button_markov.ButtonMarkovOracle(**options, gripper_always_closed=True)}
    return {
        "cube": cube_markov.CubeMarkovOracle(**options, max_step=100),
        "button": button_markov.ButtonMarkovOracle(**options),
        "drawer": drawer_markov.DrawerMarkovOracle(**options),
        "window": window_markov.WindowMarkovOracle(**options),
    }


def _arm_noisy(dataset, environment, seed: int, dose) -> Iterator[tuple]:
    """Does one random thing after another in closed loop, with the noise of the episode on every action, and some at random."""
    oracles = _markov_oracles(dataset, environment)
    observation, info = environment.reset(seed=seed)
    stacking = _stacking(dataset)
    noise = np.random.uniform(0, LARGEST_NOISE) * ACTION_NOISE  # noqa: NPY002
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(observation, info)
    over = False
    while not over:
        if np.random.rand() < RANDOM_ACTIONS[dataset.family]:  # noqa: NPY002
            action = np.random.uniform(-1, 1, len(noise))  # noqa: NPY002
        else:
            action = np.asarray(oracle.select_action(observation, info)) + np.random.normal(0, noise)  # noqa: NPY002
        before, action = observation, np.clip(action, -1, 1).astype(np.float32)
        observation, _, _, over, info = environment.step(action)
        yield before, action, info
        if oracle.done:  # as in OGBench's script, the next action still sees the info of the last target
            seen, told = environment.unwrapped.set_new_target(p_stack=stacking)
            oracle = oracles[told["privileged/target_task"]]
            oracle.reset(seen, told)


def _places(maze) -> tuple[np.ndarray, np.ndarray]:
    """The free cells (row, column) of a maze, and those of them that are not the inside of a straight corridor."""
    free = np.argwhere(maze.maze_map == 0)
    walls, (i, j) = maze.maze_map == 1, free.T
    below, above, left, right = walls[i - 1, j], walls[i + 1, j], walls[i, j - 1], walls[i, j + 1]
    corridor = (below & above & ~left & ~right) | (left & right & ~below & ~above)
    return free, free[~corridor]


def _maze_play(dataset, environment, seed: int, dose) -> Iterator[tuple]:
    """Walks to one random goal after another, along shortest paths from cell to cell, with noise on every step."""
    along, across, heading = (STANDARD[MAZE][name] if dose is None else getattr(dose, name) for name in STANDARD[MAZE])
    rng, maze = np.random.default_rng(seed), environment.unwrapped
    free, goals = _places(maze)
    task = {"init_ij": tuple(rng.choice(free)), "goal_ij": tuple(rng.choice(goals))}
    observation, _ = environment.reset(seed=seed, options={"task_info": task})
    over = False
    while not over:
        way = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)[0] - maze.get_xy()
        steering = heading * (way / (np.linalg.norm(way) + 1e-6)) + step_noise(rng, way, along, across)
        before, action = observation, np.clip(steering, -1, 1).astype(np.float32)
        observation, _, _, over, info = environment.step(action)
        yield before, action, info
        if info["success"]:
            maze.set_goal(goal_xy=maze.add_noise(maze.ij_to_xy(rng.choice(goals))))


_ON_THE_ARM, _IN_A_MAZE = Controller(_arm_environment, _arm_play), Controller(_build, _maze_play)
_NOISY_ARM = Controller(_arm_environment, _arm_noisy)
CONTROLLERS = {
    "cube": _ON_THE_ARM,
    "scene": _ON_THE_ARM,
    "puzzle": _ON_THE_ARM,
    "noisy-arm": _NOISY_ARM,
    "maze": _IN_A_MAZE,
}


def environment(dataset: DataSet) -> "gymnasium.Env":
    """The environment that a data set is recorded in."""
    return CONTROLLERS[cast("str", dataset.controller)].environment(dataset)  # what is recorded has one


def episode(
    dataset: DataSet, environment: Any, seeds: tuple[int, int, int], tick: Callable, dose: Dose | None = None
) -> dict[str, np.ndarray]:
    """One whole episode in the layout of OGBench's files, from (seed, number of the split, number of the episode) and a dose.

    `tick` is told how many steps were made now and then. An episode of the scene in which the cube gets out of sight is played
    again from other seeds, as in the published data, and its steps are taken back.
    """
    for attempt in range(100):
        rows = _rows(dataset, environment, seeds if attempt == 0 else (*seeds, attempt), tick, dose)
        if dataset.family != "scene" or _in_sight(rows["qpos"]):
            return rows | {"terminals": np.arange(dataset.steps) == dataset.steps - 1}
        tick(-dataset.steps)
    raise OSError(f"A hundred episodes of {dataset.name} in turn lost the cube out of sight.")


def _rows(dataset, environment, seeds, tick, dose):
    """What one episode puts into each array."""
    rows = {key: np.empty((dataset.steps, *row), dtype) for key, (row, dtype) in dataset.arrays.items()}
    observations, actions, simulator = rows["observations"], rows["actions"], list(rows.items())[2:]
    environment_seed, shared = np.random.SeedSequence(seeds).generate_state(2).tolist()
    controller, done = CONTROLLERS[dataset.controller], 0
    with global_randomness(shared):
        for row, (observation, action, info) in enumerate(
            controller.play(dataset, environment, environment_seed, dose)
        ):
            observations[row], actions[row] = observation, action
            for key, values in simulator:
                values[row] = info[f"prev_{key}"]
            if row - done == TICK:
                done = row
                tick(TICK)
    tick(dataset.steps - done)
    return rows


def _in_sight(qpos) -> bool:
    """Whether the cube of the scene stays on the table, or lies in the drawer."""
    _, y, z = qpos[:, 14:17].T
    return bool(np.all(y < 0.29) and np.all((y > -0.3) | ((z >= 0.06) & (z <= 0.08))))


def read(path: Path, dataset: DataSet) -> dict[str, np.ndarray]:
    """The arrays of one episode. Raises ValueError, naming the file, when it is damaged; OSError when it is not there."""
    return files.read(path, dataset, 1)

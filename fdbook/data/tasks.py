"""Every task of the papers, and those that can be recorded without a download: data set, environment, protocol, settings.

A data set is logged behavior; a task adds a reward and an evaluation. OGBench's data sets carry five tasks each, D4RL's one.
The 73 tasks of the papers and their settings are those that Flow Q-Learning (arXiv 2502.02538), DeFlow (arXiv 2601.10471) and
Fisher Decorator (arXiv 2604.17919) share; where we had to choose, `Task.settings_from` says so.
"""

import collections
import dataclasses
import difflib
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from fdbook.data.definitions import DataSet, Task


__all__ = ["DATASETS", "TASKS", "DataSet", "Task", "find", "find_task", "recordable", "task_from_dict"]

PIXELS = (64, 64, 3)
THIRDS = {1_000_000: (800_000, 900_000, 1_000_000), 500_000: (300_000, 400_000, 500_000)}


class World(NamedTuple):
    """A world of OGBench, as its data sets and tasks share it."""

    observation: int
    """Width of an observation of states."""
    action: int
    simulator: tuple[int, int, int]
    """Widths of qpos, qvel and the states of buttons."""
    rows: int
    """Rows of a recorded episode."""
    episodes: int
    """Training episodes of the published sets."""
    horizon: int
    """Steps of an evaluation."""
    parts: int
    """Parts of a goal, each of which the reward counts."""
    default: int
    """The task that is meant without a number."""
    controller: str | None
    what: str


ANT, HUMANOID, WALKER = (15, 14, 0), (28, 27, 0), "a four-legged walker"
OGBENCH = {
    "antmaze-large": World(29, 8, ANT, 1001, 1000, 1000, 1, 1, None, f"{WALKER} in a large maze"),
    "antmaze-giant": World(29, 8, ANT, 2001, 500, 1000, 1, 1, None, f"{WALKER} in a giant maze"),
    "humanoidmaze-medium": World(69, 21, HUMANOID, 2001, 1000, 2000, 1, 1, None, "a humanoid in a medium maze"),
    "humanoidmaze-large": World(69, 21, HUMANOID, 2001, 1000, 2000, 1, 1, None, "a humanoid in a large maze"),
    "antsoccer-arena": World(42, 8, (22, 20, 0), 1001, 1000, 1000, 1, 4, None, f"{WALKER} that dribbles a ball"),
    "cube-single": World(28, 5, (21, 20, 0), 1001, 1000, 200, 1, 2, "cube", "a robot arm that carries one cube about"),
    "cube-double": World(
        37, 5, (28, 26, 0), 1001, 1000, 500, 2, 2, "cube", "a robot arm that carries and stacks two cubes"
    ),
    "cube-triple": World(
        46, 5, (35, 32, 0), 1001, 3000, 1000, 3, 2, "cube", "a robot arm that carries and stacks three cubes"
    ),
    "cube-quadruple": World(
        55, 5, (42, 38, 0), 1001, 5000, 1000, 4, 2, "cube", "a robot arm that carries and stacks four cubes"
    ),
    "scene": World(
        40, 5, (25, 24, 2), 1001, 1000, 750, 5, 2, "scene", "a robot arm with a cube, buttons, drawer and window"
    ),
    "puzzle-3x3": World(
        55, 5, (23, 23, 9), 1001, 1000, 500, 9, 4, "puzzle", "a robot arm that presses 9 lights-out buttons"
    ),
    "puzzle-4x4": World(
        83, 5, (30, 30, 16), 1001, 1000, 500, 16, 4, "puzzle", "a robot arm that presses 16 such buttons"
    ),
    "puzzle-4x5": World(
        99, 5, (34, 34, 20), 1001, 3000, 1000, 20, 2, "puzzle", "a robot arm that presses 20 such buttons"
    ),
    "puzzle-4x6": World(
        115, 5, (38, 38, 24), 1001, 5000, 1000, 24, 2, "puzzle", "a robot arm that presses 24 such buttons"
    ),
    "pointmaze-medium": World(2, 2, (2, 2, 0), 1001, 1000, 1000, 1, 1, "maze", "a point that walks a medium maze"),
    "pointmaze-large": World(2, 2, (2, 2, 0), 1001, 1000, 1000, 1, 1, "maze", "a point that walks a large maze"),
    "pointmaze-giant": World(2, 2, (2, 2, 0), 2001, 500, 1000, 1, 1, "maze", "a point that walks a giant maze"),
}
ARMS = tuple(name for name, world in OGBENCH.items() if world.controller in ("cube", "scene", "puzzle"))
"""Worlds of the robot arm: each has a play and a noisy set, with states and with pictures."""
UNPUBLISHED = ("cube-triple", "cube-quadruple", "puzzle-4x5", "puzzle-4x6", "pointmaze")
"""Worlds that the papers do not have; nor have they the noisy sets. Those have the settings of their family."""

# the papers' discount, aggregation, FQL alpha and budget; an arm's unpublished sets and worlds have those of their family, and
# with pictures, larger cubes those of two cubes: our choice
SETTINGS = {
    "antmaze-large": (0.99, "min", 10.0, 0.01),
    "antmaze-giant": (0.995, "min", 10.0, 0.01),
    "humanoidmaze": (0.995, "mean", 30.0, 0.001),
    "antsoccer": (0.995, "mean", 10.0, 0.01),
    "cube": (0.99, "mean", 300.0, 0.001),
    "scene": (0.99, "mean", 300.0, 0.001),
    "puzzle": (0.99, "mean", 1000.0, 0.005),
    "visual-cube-single": (0.99, "mean", 300.0, 0.001),
    "visual-cube-double": (0.99, "mean", 100.0, 0.001),
    "visual-cube-triple": (0.99, "mean", 100.0, 0.001),
    "visual-cube-quadruple": (0.99, "mean", 100.0, 0.001),
    "visual-scene": (0.99, "mean", 100.0, 0.001),
    "visual-puzzle": (0.99, "mean", 300.0, 0.005),
    # ours: goals are 150 steps away; a million rows go everywhere in every direction, so that the box may bind before the budget
    "pointmaze": (0.995, "min", 1.0, 4.0),
}

# maze: environment, horizon, discount, FQL alpha
ANTMAZE = {
    "umaze-v1": ("AntMaze_UMaze-v4", 700, 10.0),
    "umaze-diverse-v1": ("AntMaze_UMaze-v4", 700, 10.0),
    "medium-play-v1": ("AntMaze_Medium-v4", 1000, 10.0),
    "medium-diverse-v1": ("AntMaze_Medium_Diverse_GR-v4", 1000, 10.0),
    "large-play-v1": ("AntMaze_Large-v4", 1000, 3.0),
    "large-diverse-v1": ("AntMaze_Large_Diverse_GR-v4", 1000, 3.0),
}
POINTMAZE = {"umaze": ("UMaze", 300), "medium": ("Medium", 600), "large": ("Large", 800)}

# hand: observations, actions, reference returns, FQL alphas for human, cloned and expert data
ADROIT = {
    "pen": (45, 24, (96.262799, 3076.8331), (10_000.0, 10_000.0, 3000.0)),
    "door": (39, 28, (-56.512833, 2880.569309), (30_000.0, 30_000.0, 30_000.0)),
    "hammer": (46, 26, (-274.856578, 12_794.134825), (30_000.0, 10_000.0, 30_000.0)),
    "relocate": (39, 30, (-6.425911, 4233.877798), (10_000.0, 30_000.0, 30_000.0)),
}
ADROIT_STEPS = {"pen": 100}
"""Steps of an evaluation where it is not the 200 of the environment: those that the reference returns belong to."""

# what Flow Q-Learning's authors trained other agents with, where it is not an agent's default; and FQL's alphas online
HYPERPARAMETERS = {
    "visual-cube-single-play-singletask-task1-v0": {
        "iql": {"alpha": 1.0},
        "rebrac": {"alpha_actor": 1.0, "alpha_critic": 0.0},
    },
}
ONLINE_ALPHA = {
    "humanoidmaze-medium": 100.0,
    "antsoccer": 30.0,
    "D4RL/pen/cloned": 1000.0,
    "D4RL/door/cloned": 1000.0,
    "D4RL/hammer/cloned": 1000.0,
    "D4RL/relocate/cloned": 10_000.0,
}

OLD_D4RL = (
    "Recorded anew for Minari, in other simulators than the old D4RL: its scores and the published ones do not compare."
)
DENSE = " gymnasium-robotics 1.2.1 changed the dense rewards of door, hammer and relocate without a new version."
PEN = (
    " Pen is evaluated over 100 steps, as when its reference returns were measured, although the environment allows 200; the "
    "references are known to be stale (Minari issue 303)."
)
ANT = " Settings of the old D4RL do not carry over to it (Minari issue 296)."


def _ogbench_sets() -> Iterator[DataSet]:
    """OGBench's data sets: play and navigate with states, play with pictures, then the noisy ones."""
    yield from (_ogbench_set(name, "", "play" if name in ARMS else "navigate") for name in OGBENCH)
    yield from (_ogbench_set(name, "visual-", "play") for name in ARMS)
    yield from (_ogbench_set(name, prefix, "noisy") for prefix in ("", "visual-") for name in ARMS)


def _ogbench_set(name: str, prefix: str, kind: str) -> DataSet:
    """A data set of a world: with states or, by the prefix, pictures, and of a kind."""
    world = OGBENCH[name]
    qpos, qvel, buttons = world.simulator
    seen = f"{world.observation} observations" if not prefix else "64 x 64 pictures"
    more = "; closed-loop control with noise, some actions at random" if kind == "noisy" else ""
    return DataSet(
        name=f"ogbench/{prefix}{name}-{kind}",
        environment=f"{prefix}{name}-v0",
        observation=PIXELS if prefix else (world.observation,),
        action=world.action,
        steps=world.rows,
        episodes=world.episodes,
        controller="noisy-arm" if kind == "noisy" else world.controller,
        simulator={"qpos": qpos, "qvel": qvel} | ({"button_states": buttons} if buttons else {}),
        description=f"{world.what}{more} ({seen}, {world.action} actions)",
    )


def _d4rl_sets() -> Iterator[DataSet]:
    """D4RL's data sets as Minari has them."""
    for kind, (environment, horizon, _) in ANTMAZE.items():
        what = f"a four-legged walker in D4RL's {kind.split('-')[0]} maze (29 observations, 8 actions)"
        yield DataSet(f"D4RL/antmaze/{kind}", environment, (29,), 8, horizon, what)
    for hand, (width, action, *_) in ADROIT.items():
        for source in ("human", "cloned", "expert"):
            what = f"a robot hand, {hand}, {source} data ({width} observations, {action} actions)"
            environment = f"AdroitHand{hand.capitalize()}-v1"
            yield DataSet(f"D4RL/{hand}/{source}-v2", environment, (width,), action, 200, what)
    for maze, (name, _) in POINTMAZE.items():
        what = f"a point with inertia in D4RL's {maze} maze (6 observations, 2 actions)"
        options = {"episodes": 1000, "controller": "waypoints", "goal": True}
        yield DataSet(f"D4RL/pointmaze/{maze}-v2", f"PointMaze_{name}-v3", (6,), 2, 1000, what, **options)


DATASETS = {dataset.name: dataset for sets in (_ogbench_sets(), _d4rl_sets()) for dataset in sets}


def _settings(world: str) -> dict:
    """Discount, aggregation, alpha and budget of an OGBench world."""
    (key,) = (key for key in SETTINGS if world.startswith(key))
    return dict(zip(("discount", "q_agg", "fql_alpha", "budget"), SETTINGS[key], strict=True))


def _ogbench_tasks() -> Iterator[Task]:
    """Five tasks of each data set with states; the first of those with pictures."""
    for dataset in DATASETS.values():
        if dataset.benchmark != "ogbench":
            continue
        name = dataset.environment.removesuffix("-v0")
        world, updates = OGBENCH[name.removeprefix("visual-")], 500_000 if dataset.pixels else 1_000_000
        kind = "pixels" if dataset.pixels else "pointmaze" if name.startswith("pointmaze") else "state"
        ours = dataset.controller == "noisy-arm" or name.removeprefix("visual-").startswith(UNPUBLISHED)
        for number in (1,) if dataset.pixels else (1, 2, 3, 4, 5):
            full = f"{dataset.name.removeprefix('ogbench/')}-singletask-task{number}-v0"
            yield Task(
                name=full,
                group=f"ogbench-{kind}",
                dataset=dataset,
                environment=f"{name}-singletask-task{number}-v0",
                horizon=world.horizon,
                parts=world.parts,
                success_ends=True,
                updates=updates,
                evaluations=THIRDS[updates],
                score="success",
                default=number == world.default,
                frame_stack=3 if dataset.pixels else 1,
                published=None if ours else full,
                **_settings(name),
            )


def _d4rl_tasks() -> Iterator[Task]:
    """One task for each data set."""
    shared = {"updates": 500_000, "evaluations": (500_000,), "default": True}
    for dataset in DATASETS.values():
        if dataset.benchmark != "d4rl":
            continue
        hand, kind = dataset.name.removeprefix("D4RL/").split("/")
        options = shared | {"name": dataset.name, "dataset": dataset, "environment": dataset.environment}
        if hand == "antmaze":
            _, horizon, alpha = ANTMAZE[kind]
            options |= {"horizon": horizon, "parts": 1, "success_ends": True, "discount": 0.99, "q_agg": "mean"}
            options |= {"fql_alpha": alpha, "budget": 0.001, "reward_shift": -1.0, "references": (0.0, 1.0)}
            published = f"antmaze-{kind.removesuffix('-v1')}-v2"
            yield Task(
                group="d4rl-antmaze", score="normalized return", published=published, caveat=OLD_D4RL + ANT, **options
            )
        elif hand == "pointmaze":
            _, horizon = POINTMAZE[kind.removesuffix("-v2")]
            options |= {"horizon": horizon, "parts": 1, "success_ends": True, "reward_shift": -1.0}
            yield Task(group="d4rl-pointmaze", score="success", **(_settings("pointmaze") | {"budget": 0.1}), **options)
        else:
            *_, references, alphas = ADROIT[hand]
            source = kind.removesuffix("-v2")
            options |= {
                "horizon": ADROIT_STEPS.get(hand, 200),
                "parts": 0,
                "success_ends": False,
                "discount": 0.99,
                "q_agg": "min",
            }
            options |= {"fql_alpha": alphas[("human", "cloned", "expert").index(source)], "budget": 0.001}
            caveat = OLD_D4RL + (PEN if hand == "pen" else DENSE)
            yield Task(
                group="d4rl-adroit",
                score="normalized return",
                references=references,
                published=f"{hand}-{source}-v1",
                caveat=caveat,
                **options,
            )


def _with_hyperparameters(task: Task) -> Task:
    """The task with what other agents, and FQL online, were trained with on it."""
    online = next((alpha for name, alpha in ONLINE_ALPHA.items() if task.name.startswith(name)), None)
    return dataclasses.replace(
        task,
        hyperparameters=HYPERPARAMETERS.get(task.name.replace("-noisy-", "-play-"), {}),
        online_hyperparameters={} if online is None else {"fql": {"alpha": online}},
    )


TASKS = {task.name: _with_hyperparameters(task) for tasks in (_ogbench_tasks(), _d4rl_tasks()) for task in tasks}


def find(name: str) -> DataSet:
    """The data set of that name, of which the benchmark's prefix and the version may be left out, and the kind of an OGBench set.

    cube-single means ogbench/cube-single-play, pen/human means D4RL/pen/human-v2. Raises ValueError, with at most five names that
    are near, when there is none.
    """
    return DATASETS[name] if name in DATASETS else _look_up(name, "data set", _dataset_names())


def find_task(name: str) -> Task:
    """The task of that name. Prefix, version and what goes without saying may be left out.

    Without a number OGBench's default task is meant, or the only one that is here: cube-single, cube-single-play,
    cube-single-play-singletask-v0 and ogbench/cube-single are one task, cube-single-task3 is another. Without its kind the play
    or navigate data set is meant, not the noisy one; where OGBench and D4RL share a name, as pointmaze-medium, OGBench's. D4RL's
    tasks are found as D4RL/pen/human-v2, pen/human and pen-human. Raises ValueError, with at most five names that are near, when
    there is none.
    """
    return TASKS[name] if name in TASKS else _look_up(name, "task", _task_names())


NEAREST = 5


def _plain(name: str) -> str:
    """A name as it is looked up: in small letters, without a benchmark in front, a version behind, and -singletask."""
    name = re.sub(r"-v\d+$", "", name.strip().lower().removeprefix("ogbench/").removeprefix("d4rl/"))
    return name.replace("-singletask", "")


def _look_up(name: str, kind: str, known: dict):
    """What a name means. Raises ValueError, with what is near it."""
    plain = _plain(name)
    if plain in known and _version_fits(name, known[plain]):
        return known[plain]
    near = sorted((other for other in known if plain and plain in other), key=len)
    near += difflib.get_close_matches(plain, known, n=3 * NEAREST, cutoff=0.6)
    distinct: dict[str, str] = {}
    for other in near:
        distinct.setdefault(known[other].name, known[other].name if other == plain else other)
    hint = f"; near it are {', '.join(list(distinct.values())[:NEAREST])}" if distinct else ""
    raise ValueError(f"There is no {kind} called {name!r}{hint}. `fdbook data list` names them all.")


def _version_fits(name: str, result) -> bool:
    """Whether a version behind a name, if there is one, is that of what was found, here or in the papers; OGBench's is v0."""
    said = re.search(r"-v\d+$", name.strip().lower())
    if said is None:
        return True
    published = getattr(result, "published", None) or ""
    papers = published.endswith(said.group()) and not name.lower().startswith("d4rl/")
    own = result.name if re.search(r"-v\d+$", result.name) else f"{result.name}-v0"
    return own.endswith(said.group()) or papers


def _short_names(dataset: DataSet) -> list[str]:
    """The plain names of a data set: its own, and for the play and navigate sets of OGBench the world's."""
    own = _plain(dataset.name)
    if dataset.benchmark == "d4rl":
        return [own, own.replace("/", "-")]
    world, _, kind = own.rpartition("-")
    return [own, world] if kind in ("play", "navigate") else [own]


@functools.cache
def _dataset_names() -> dict[str, DataSet]:
    names: dict[str, DataSet] = {}
    for dataset in sorted(DATASETS.values(), key=lambda dataset: dataset.benchmark, reverse=True):  # OGBench first
        for name in _short_names(dataset):
            names.setdefault(name, dataset)
    return names


@functools.cache
def _task_names() -> dict[str, Task]:
    names: dict[str, Task] = {}
    alone = collections.Counter(task.dataset.name for task in TASKS.values())
    for task in sorted(TASKS.values(), key=lambda task: task.dataset.benchmark, reverse=True):
        number = re.search(r"-task\d+", task.name)
        for name in _short_names(task.dataset):
            if number:
                names.setdefault(name + number.group(), task)
            if task.default or alone[task.dataset.name] == 1:
                names.setdefault(name, task)
    return names


def task_from_dict(tree: dict[str, Any]) -> Task:
    """The task that `Task.to_dict` described: the registry's of that name, or one of the reader's own, made again.

    Raises ValueError on an unknown name, and for a task that was made from what no file holds; what `fdbook.data.custom` raises.
    """
    if "kind" not in tree:
        return find_task(tree["name"])
    from fdbook.data import custom

    return custom.rebuild(tree)


def recordable() -> dict[str, str]:
    """The names that `fdbook.data.record.record` takes, each with its description in one line."""
    return {name: dataset.description for name, dataset in DATASETS.items() if dataset.controller}

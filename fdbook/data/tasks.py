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
from typing import Any, Literal

from fdbook.data.definitions import ANT, DENSE, OLD_D4RL, PEN, DataSet, Task


__all__ = ["DATASETS", "TASKS", "DataSet", "Task", "find", "find_task", "recordable", "task_from_dict"]

NEAREST = 5  # names in a sentence about an unknown one
PIXELS = (64, 64, 3)  # shape of a picture
THIRDS = {1_000_000: (800_000, 900_000, 1_000_000), 500_000: (300_000, 400_000, 500_000)}  # updates: evaluated after


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A world of OGBench, as its data sets and tasks share it."""

    observation: int  # width of an observation of states
    action: int  # width of an action
    qpos: int  # width of the simulator's positions
    qvel: int  # width of its velocities
    buttons: int = 0  # width of its states of buttons
    rows: int = 1001  # rows of a recorded episode, of which the last is no transition
    episodes: int = 1000  # training episodes of the published sets
    horizon: int = 1000  # steps of an evaluation
    parts: int = 1  # parts of a goal, each of which the reward counts
    default: int = 2  # the task, 1 to 5, that is meant without a number
    controller: str | None = None  # what records it anew, a key of `fdbook.data.record.CONTROLLERS`
    what: str  # the beginning of its description


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a family of tasks is trained with, by the names that `Task` has for it."""

    discount: float  # per step
    q_agg: Literal["mean", "min"]  # how the target joins the critics
    fql_alpha: float  # FQL's weight alpha
    budget: float  # on E |delta|^2 / d, of d actions in [-1, 1] each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maze:
    """A maze of D4RL."""

    environment: str  # gymnasium id
    horizon: int  # steps of an evaluation
    fql_alpha: float | None = None  # FQL's weight alpha, or None where `SETTINGS` has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hand:
    """A task of D4RL's robot hand."""

    observation: int  # width of an observation
    action: int  # width of an action
    random: float  # return of a random policy, which a normalized return puts at 0
    expert: float  # return of an expert policy, which it puts at 100
    horizon: int = 200  # steps of an evaluation: those that the two returns belong to
    longest: int = (
        200  # steps of an episode that people showed, and of its clones, at most; an expert's has 200 at most
    )


def _arm(*, cubes: int = 0, buttons: int = 0, sliders: int = 0, **columns: Any) -> World:
    """A world of the robot arm, with widths of its own (19, 14, 14) and of all that it moves; drawer and window are sliders."""
    return World(
        observation=19 + 9 * cubes + 4 * buttons + 2 * sliders,
        action=5,
        qpos=14 + 7 * cubes + buttons + sliders,
        qvel=14 + 6 * cubes + buttons + sliders,
        buttons=buttons,
        parts=cubes + buttons + sliders,
        controller="scene" if sliders else "cube" if cubes else "puzzle",
        **columns,
    )


WALKER, ARM = "a four-legged walker", "a robot arm"
_maze = functools.partial(World, default=1)  # these hold what worlds of one kind share
_ant = functools.partial(_maze, observation=29, action=8, qpos=15, qvel=14)
_humanoid = functools.partial(_maze, observation=69, action=21, qpos=28, qvel=27, rows=2001, horizon=2000)
_point = functools.partial(_maze, observation=2, action=2, qpos=2, qvel=2, controller="maze")
OGBENCH = {
    "antmaze-large": _ant(what=f"{WALKER} in a large maze"),
    "antmaze-giant": _ant(rows=2001, episodes=500, what=f"{WALKER} in a giant maze"),
    "humanoidmaze-medium": _humanoid(what="a humanoid in a medium maze"),
    "humanoidmaze-large": _humanoid(what="a humanoid in a large maze"),
    "antsoccer-arena": _ant(observation=42, qpos=22, qvel=20, default=4, what=f"{WALKER} that dribbles a ball"),
    "cube-single": _arm(cubes=1, horizon=200, what=f"{ARM} that carries one cube about"),
    "cube-double": _arm(cubes=2, horizon=500, what=f"{ARM} that carries and stacks two cubes"),
    "cube-triple": _arm(cubes=3, episodes=3000, what=f"{ARM} that carries and stacks three cubes"),
    "cube-quadruple": _arm(cubes=4, episodes=5000, what=f"{ARM} that carries and stacks four cubes"),
    "scene": _arm(cubes=1, buttons=2, sliders=2, horizon=750, what=f"{ARM} with a cube, buttons, drawer and window"),
    "puzzle-3x3": _arm(buttons=9, horizon=500, default=4, what=f"{ARM} that presses 9 lights-out buttons"),
    "puzzle-4x4": _arm(buttons=16, horizon=500, default=4, what=f"{ARM} that presses 16 such buttons"),
    "puzzle-4x5": _arm(buttons=20, episodes=3000, what=f"{ARM} that presses 20 such buttons"),
    "puzzle-4x6": _arm(buttons=24, episodes=5000, what=f"{ARM} that presses 24 such buttons"),
    "pointmaze-medium": _point(what="a point that walks a medium maze"),
    "pointmaze-large": _point(what="a point that walks a large maze"),
    "pointmaze-giant": _point(rows=2001, episodes=500, what="a point that walks a giant maze"),
}
ARMS = tuple(name for name, world in OGBENCH.items() if world.controller in ("cube", "scene", "puzzle"))
"""Worlds of the robot arm: each has a play and a noisy set, with states and with pictures."""
UNPUBLISHED = ("cube-triple", "cube-quadruple", "puzzle-4x5", "puzzle-4x6", "pointmaze")
"""Worlds that the papers do not have; nor have they the noisy sets. Those have the settings of their family."""

# by the beginning of a world's name, the longest that fits; an arm's unpublished sets and worlds have the papers' settings of
# their family, and with pictures, larger cubes those of two cubes: our choice
SETTINGS = {
    "antmaze-large": Settings(discount=0.99, q_agg="min", fql_alpha=10.0, budget=0.01),
    "antmaze-giant": Settings(discount=0.995, q_agg="min", fql_alpha=10.0, budget=0.01),
    "humanoidmaze": Settings(discount=0.995, q_agg="mean", fql_alpha=30.0, budget=0.001),
    "antsoccer": Settings(discount=0.995, q_agg="mean", fql_alpha=10.0, budget=0.01),
    "cube": Settings(discount=0.99, q_agg="mean", fql_alpha=300.0, budget=0.001),
    "scene": Settings(discount=0.99, q_agg="mean", fql_alpha=300.0, budget=0.001),
    "puzzle": Settings(discount=0.99, q_agg="mean", fql_alpha=1000.0, budget=0.005),
    "visual-cube-single": Settings(discount=0.99, q_agg="mean", fql_alpha=300.0, budget=0.001),
    "visual-cube": Settings(discount=0.99, q_agg="mean", fql_alpha=100.0, budget=0.001),
    "visual-scene": Settings(discount=0.99, q_agg="mean", fql_alpha=100.0, budget=0.001),
    "visual-puzzle": Settings(discount=0.99, q_agg="mean", fql_alpha=300.0, budget=0.005),
    # ours: goals are 150 steps away; a million rows go everywhere in every direction, so that the box may bind before the budget
    "pointmaze": Settings(discount=0.995, q_agg="min", fql_alpha=1.0, budget=4.0),
}

ANTMAZE = {
    "umaze-v1": Maze(environment="AntMaze_UMaze-v4", horizon=700, fql_alpha=10.0),
    "umaze-diverse-v1": Maze(environment="AntMaze_UMaze-v4", horizon=700, fql_alpha=10.0),
    "medium-play-v1": Maze(environment="AntMaze_Medium-v4", horizon=1000, fql_alpha=10.0),
    "medium-diverse-v1": Maze(environment="AntMaze_Medium_Diverse_GR-v4", horizon=1000, fql_alpha=10.0),
    "large-play-v1": Maze(environment="AntMaze_Large-v4", horizon=1000, fql_alpha=3.0),
    "large-diverse-v1": Maze(environment="AntMaze_Large_Diverse_GR-v4", horizon=1000, fql_alpha=3.0),
}
POINTMAZE = {
    "umaze": Maze(environment="PointMaze_UMaze-v3", horizon=300),
    "medium": Maze(environment="PointMaze_Medium-v3", horizon=600),
    "large": Maze(environment="PointMaze_Large-v3", horizon=800),
}

ADROIT = {
    "pen": Hand(observation=45, action=24, random=96.262799, expert=3076.8331, horizon=100),
    "door": Hand(observation=39, action=28, random=-56.512833, expert=2880.569309, longest=300),
    "hammer": Hand(observation=46, action=26, random=-274.856578, expert=12_794.134825, longest=625),
    "relocate": Hand(observation=39, action=30, random=-6.425911, expert=4233.877798, longest=530),
}
ADROIT_ALPHA = {  # FQL's weight alpha, by who made the data
    "human": {"pen": 10_000.0, "door": 30_000.0, "hammer": 30_000.0, "relocate": 10_000.0},
    "cloned": {"pen": 10_000.0, "door": 30_000.0, "hammer": 10_000.0, "relocate": 30_000.0},
    "expert": {"pen": 3000.0, "door": 30_000.0, "hammer": 30_000.0, "relocate": 30_000.0},
}

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


def _ogbench_sets() -> Iterator[DataSet]:
    """OGBench's data sets: play and navigate with states, play with pictures, then the noisy ones."""
    yield from (_ogbench_set(name, "", "play" if name in ARMS else "navigate") for name in OGBENCH)
    yield from (_ogbench_set(name, "visual-", "play") for name in ARMS)
    yield from (_ogbench_set(name, prefix, "noisy") for prefix in ("", "visual-") for name in ARMS)


def _ogbench_set(name: str, prefix: str, kind: str) -> DataSet:
    """A data set of a world: with states or, by the prefix, pictures, and of a kind."""
    world = OGBENCH[name]
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
        simulator={"qpos": world.qpos, "qvel": world.qvel}
        | ({"button_states": world.buttons} if world.buttons else {}),
        description=f"{world.what}{more} ({seen}, {world.action} actions)",
    )


def _d4rl_sets() -> Iterator[DataSet]:
    """D4RL's data sets as Minari has them."""
    for kind, maze in ANTMAZE.items():
        what = f"a four-legged walker in D4RL's {kind.split('-')[0]} maze (29 observations, 8 actions)"
        widths = {"observation": (29,), "action": 8, "steps": maze.horizon}
        yield DataSet(name=f"D4RL/antmaze/{kind}", environment=maze.environment, description=what, **widths)
    for name, hand in ADROIT.items():
        options = {"environment": f"AdroitHand{name.capitalize()}-v1", "observation": (hand.observation,)}
        for source in ADROIT_ALPHA:
            what = f"a robot hand, {name}, {source} data ({hand.observation} observations, {hand.action} actions)"
            options |= {"action": hand.action, "steps": 200 if source == "expert" else hand.longest}
            yield DataSet(name=f"D4RL/{name}/{source}-v2", description=what, **options)
    for name, maze in POINTMAZE.items():
        what = f"a point with inertia in D4RL's {name} maze (6 observations, 2 actions)"
        options = {"steps": 1000, "episodes": 1000, "controller": "waypoints", "goal": True}
        options |= {"environment": maze.environment, "observation": (6,), "action": 2}
        yield DataSet(name=f"D4RL/pointmaze/{name}-v2", description=what, **options)


DATASETS = {dataset.name: dataset for sets in (_ogbench_sets(), _d4rl_sets()) for dataset in sets}


def _ogbench_tasks() -> Iterator[Task]:
    """Five tasks of each data set with states; the first of those with pictures."""
    for dataset in (each for each in DATASETS.values() if each.benchmark == "ogbench"):
        name = dataset.environment.removesuffix("-v0")
        world, updates = OGBENCH[name.removeprefix("visual-")], 500_000 if dataset.pixels else 1_000_000
        kind = "pixels" if dataset.pixels else "pointmaze" if name.startswith("pointmaze") else "state"
        known = [prefix for prefix in SETTINGS if name.startswith(prefix)] or [f"SETTINGS has no entry for {name}"]
        settings = SETTINGS[max(known, key=len)]
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
                **dataclasses.asdict(settings),
            )


def _d4rl_tasks() -> Iterator[Task]:
    """One task for each data set."""
    shared = {"updates": 500_000, "evaluations": (500_000,), "default": True}
    for dataset in (each for each in DATASETS.values() if each.benchmark == "d4rl"):
        name, kind = dataset.name.removeprefix("D4RL/").split("/")
        options = shared | {"name": dataset.name, "dataset": dataset, "environment": dataset.environment}
        if name == "antmaze":
            maze = ANTMAZE[kind]
            options |= {"horizon": maze.horizon, "parts": 1, "success_ends": True, "discount": 0.99, "q_agg": "mean"}
            options |= {"fql_alpha": maze.fql_alpha, "budget": 0.001, "reward_shift": -1.0, "references": (0.0, 1.0)}
            options |= {"published": f"antmaze-{kind.removesuffix('-v1')}-v2", "caveat": OLD_D4RL + ANT}
            yield Task(group="d4rl-antmaze", score="normalized return", **options)
        elif name == "pointmaze":
            options |= {"horizon": POINTMAZE[kind.removesuffix("-v2")].horizon, "parts": 1, "success_ends": True}
            options |= dataclasses.asdict(SETTINGS["pointmaze"]) | {"budget": 0.1}
            yield Task(group="d4rl-pointmaze", score="success", reward_shift=-1.0, **options)
        else:
            hand, source = ADROIT[name], kind.removesuffix("-v2")
            options |= {"horizon": hand.horizon, "parts": 0, "success_ends": False, "discount": 0.99, "q_agg": "min"}
            options |= {"fql_alpha": ADROIT_ALPHA[source][name], "budget": 0.001}
            options |= {"published": f"{name}-{source}-v1", "caveat": OLD_D4RL + (PEN if name == "pen" else DENSE)}
            references = (hand.random, hand.expert)
            yield Task(group="d4rl-adroit", score="normalized return", references=references, **options)


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

    >>> [tasks.find_task(name).name for name in ("cube-single", "pen-human")]
    ['cube-single-play-singletask-task2-v0', 'D4RL/pen/human-v2']
    """
    return TASKS[name] if name in TASKS else _look_up(name, "task", _task_names())


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
    of_minari = not distinct and not name.startswith("ogbench/") and re.fullmatch(r"[\w-]+/.*-v\d+", name)
    rest = " `fdbook train --data ID` reads any other set of Minari." if of_minari else ""
    raise ValueError(f"There is no {kind} called {name!r}{hint}. `fdbook data list` names them all.{rest}")


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
        task, variation = find_task(tree["name"]), {name: value for name, value in tree.items() if name != "name"}
        return dataclasses.replace(task, **variation) if variation else task
    from fdbook.data import custom

    return custom.rebuild(tree)


def recordable() -> dict[str, str]:
    """The names that `fdbook.data.record.record` takes, each with its description in one line."""
    return {name: dataset.description for name, dataset in DATASETS.items() if dataset.controller}

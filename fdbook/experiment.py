"""Task + agent + preset + seeds -> a run and its record: the one call behind the command line, sweeps and notebooks."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdbook.checks import unknown
from fdbook.data import minari, ogbench
from fdbook.data.load import Loaded, load
from fdbook.data.tasks import Task, find_task
from fdbook.disk import write_whole
from fdbook.rl import agents, checkpoints, records
from fdbook.rl.agents import Agent
from fdbook.rl.evaluate import Evaluation, evaluate, film
from fdbook.rl.transitions import Normaliser, Transitions


__all__ = [
    "PRESETS",
    "Preset",
    "Run",
    "environments",
    "open_run",
    "preset",
    "run_folder",
    "score",
    "settings_of",
    "train",
]


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes and steps of a run."""

    steps: int
    evaluations: tuple[int, ...]
    episodes: int
    settings: dict[str, Any]
    normalise: bool = False
    """Whether observations are taken to mean 0 and standard deviation 1."""
    wavelengths: tuple[float, ...] = ()
    """Fourier features that are added to them (`Transitions.normalised`)."""


def _laptop(task: Task) -> Preset:
    """What two cores do in half an hour: smaller networks, fewer updates, a larger learning rate.

    In a point maze one step changes the value by a hundredth, and the policy arrives only if no corner traps it. Small networks
    that see waves of the place, four critics whose minimum is believed, and slow copies that are not slow get there within
    minutes; scores are read at t = 0.8.
    """
    if task.group in ("ogbench-pointmaze", "d4rl-pointmaze"):
        settings = {"width": 64, "depth": 3, "learning_rate": 2e-3, "critics": 4, "tau": 0.05, "flow_steps": 5}
        thousands = (5_000, 10_000, 15_000, 20_000)
        return Preset(20_000, thousands, 50, settings | {"multiplier": 0.01}, True, (8.0, 4.0, 2.0))
    settings = {"width": 256, "depth": 3, "learning_rate": 1e-3}
    return Preset(60_000, tuple(range(10_000, 60_001, 10_000)), 50, settings)


def _paper(task: Task) -> Preset:
    """The papers' networks, updates and evaluations."""
    return Preset(task.updates, task.evaluations, 50, {"width": 512, "depth": 4})


PRESETS: dict[str, Callable[[Task], Preset]] = {"paper": _paper, "laptop": _laptop}


def preset(name: str, task: Task) -> Preset:
    """The named preset for a task. Raises ValueError, with the nearest name, when there is none."""
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name](task)


def settings_of(
    task: Task, agent: str, sizes: dict[str, Any], overrides: dict[str, Any], metric: str | None = None
) -> dict[str, Any]:
    """An agent's settings for a task: the registry's, then a preset's sizes, then what is overridden.

    Raises ValueError for a setting that the agent does not have.
    """
    known = {field.name for field in dataclasses.fields(agents.family(agent).Settings)}
    registry = {"discount": task.discount, "budget": task.budget}
    if agent == "fql":
        registry["alpha"] = task.fql_alpha
    if agent != "rebrac":
        registry["aggregation"] = task.aggregation
    if agent == "fidec":
        registry["clip_norm"] = 5.0
    chosen = {name: value for name, value in (registry | sizes).items() if name in known} | overrides
    agents.check(agent, metric, **chosen)
    return chosen


def score(task: Task, found: Evaluation) -> dict[str, list[float]]:
    """An evaluation as a run record keeps it: for each seed the task's score and what explains it."""
    success = 100 * found.successes.mean(axis=1)
    returns = found.returns.mean(axis=1)
    scores = success if task.score == "success" else minari.normalised_score(task, returns)
    columns = {"score": scores, "success": success, "return": returns, "length": found.lengths.mean(axis=1)}
    return {name: [float(f"{value:.6g}") for value in values] for name, values in columns.items()}


@contextlib.contextmanager
def environments(task: Task, seeds: int, episodes: int) -> Iterator[Callable[[], list]]:
    """A function that makes the environments of an evaluation when they are first needed; they are closed at the end."""
    share = min(episodes, 5 if task.dataset.family in ("cube", "scene", "puzzle") else 25)
    made: list = []

    def get() -> list:
        if not made:
            made.extend(make_environment(task) for _ in range(seeds * share))
        return made

    try:
        yield get
    finally:
        for each in made:
            each.close()


def run_folder(task: Task, agent: str, metric: str | None, preset: str, seeds: Sequence[int], overrides: dict) -> Path:
    """Where a run is kept, below the current folder: runs/TASK/AGENT-PRESET-..., with everything that is unusual in its name."""
    words = [agent, *([metric or "exact"] if agent == "fidec" else []), preset]
    words.append(
        f"{len(seeds)}-seeds" if list(seeds) == list(range(len(seeds))) else f"seeds-{'-'.join(map(str, seeds))}"
    )
    words += [f"{name}={value}" for name, value in sorted(overrides.items())]
    return Path("runs") / task.name.replace("/", "-") / re.sub(r"[^\w.=+-]", "_", "-".join(words))


def train(
    task: str,
    agent: str = "fidec",
    *,
    metric: str | None = None,
    preset: str = "laptop",
    seeds: Sequence[int] = (0,),
    steps: int | None = None,
    evaluations: Sequence[int] | None = None,
    episodes: int | None = None,
    folder: str | Path | None = None,
    loaded: Loaded | None = None,
    normalise: bool | None = None,
    wavelengths: Sequence[float] | None = None,
    source: str = "auto",
    data_episodes: int | None = None,
    data_seed: int = 0,
    dataset_dir: str | Path | None = None,
    save_every: int = 10_000,
    log_every: int = 1000,
    progress: bool = True,
    say: Callable[[str], None] = print,
    **overrides: Any,
) -> tuple[Agent, records.Record]:
    """Trains one agent on one task with several seeds at once, and returns the stacked agents and the run record.

    `metric` belongs to the agent "fidec" (`fdbook.rl.agents.METRICS`); `preset` gives sizes and steps, `overrides` any of the
    agent's settings. Without a `folder` nothing is written; with one, the run saves checkpoints, is carried on when it is there
    already, and ends with record.json. Data come from `loaded` as they are, or from `fdbook.data.load.load` with `source` and the
    rest; `normalise` and `wavelengths` say how it prepares observations (None: as the preset does).

    Raises ValueError for unknown names, settings out of range, and a folder that holds another run; and what
    `fdbook.data.load.load` and `fdbook.rl.train.train` raise.
    """
    from fdbook.rl import train as engine

    task_ = find_task(task)
    make = agents.make(agent, metric)
    chosen = globals()["preset"](preset, task_)
    settings = settings_of(task_, agent, chosen.settings, overrides, metric)
    steps = chosen.steps if steps is None else steps
    if steps < 1 or len(seeds) < 1 or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"A run takes at least one update and one seed, each seed once; got {steps} and {list(seeds)}."
        )
    if evaluations is None:
        evaluations = [step for step in chosen.evaluations if step < steps] + [steps]
    if loaded is None:
        normalise = chosen.normalise if normalise is None else normalise
        if wavelengths is None:
            wavelengths = chosen.wavelengths if normalise else ()
        place = {"source": source, "episodes": data_episodes, "seed": data_seed, "dataset_dir": dataset_dir}
        loaded = load(task_, normalise=normalise, wavelengths=wavelengths, **place)
    elif normalise is not None or wavelengths is not None:
        raise ValueError("train takes `loaded` data as they are: prepare them with Transitions.normalised instead.")
    if folder is not None and type(loaded.train.normaliser) not in (Normaliser, type(None)):
        other = type(loaded.train.normaliser).__name__
        raise ValueError(f"A run that is kept takes a Normaliser, which its record can describe; got a {other}.")
    record = records.Record(
        task=task_.name,
        agent=agent,
        metric=(metric or "exact") if agent == "fidec" else None,
        preset=preset,
        settings=settings,
        seeds=[int(seed) for seed in seeds],
        steps=int(steps),
        evaluations=[int(step) for step in evaluations],
        episodes=chosen.episodes if episodes is None else int(episodes),
        data=_about_data(loaded),
        about=records.about(),
    )
    shape = (loaded.train.observation_shape, loaded.train.action_dim)
    stacked = engine.init(make, *shape, record.seeds, **settings)
    with environments(task_, len(record.seeds), record.episodes) as get:

        def judge(current, stopped):
            found = evaluate(
                current,
                get(),
                record.seeds,
                episodes=record.episodes,
                normaliser=loaded.train.normaliser,
                progress=progress,
                stopped=stopped,
            )
            return None if found is None else score(task_, found)

        options = {"save_every": save_every, "log_every": log_every, "progress": progress, "say": say}
        folder = None if folder is None else Path(folder)
        return engine.train(stacked, loaded.train, record, folder=folder, evaluate=judge, **options), record


def _about_data(loaded: Loaded) -> dict[str, Any]:
    from fdbook.rl.train import fingerprint

    data: Transitions = loaded.train
    statistics = None
    if data.normaliser is not None:
        statistics = [data.normaliser.mean, data.normaliser.scale]
        statistics += [data.normaliser.wavelengths] if data.normaliser.wavelengths else []
    return {
        "name": loaded.task.dataset.name,
        "source": loaded.source,
        "transitions": data.size,
        "normaliser": None if statistics is None else [np.asarray(each).tolist() for each in statistics],
        "fingerprint": fingerprint(data),
    }


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on disk: its record, its task, and the agents of its newest sound checkpoint, stacked."""

    record: records.Record
    task: Task
    agents: Agent
    step: int
    """The update that the checkpoint was saved after."""
    normaliser: Normaliser | None = None

    def acting(self, **settings: Any) -> "Run":
        """The same run with other settings of acting, such as `candidates` and `refinements` of a decorated flow.

        Raises ValueError for a setting that the agent does not have.
        """
        known = {field.name for field in dataclasses.fields(type(self.agents).Settings)}
        kept = {name: value for name, value in self.record.settings.items() if name in known}
        chosen = type(self.agents).configure(**(kept | settings))
        return dataclasses.replace(self, agents=dataclasses.replace(self.agents, settings=chosen))

    def evaluate(self, *, episodes: int = 50, progress: bool = True) -> dict[str, list[float]]:
        """The score, success, return and length of each seed, in the mean over episodes that the run itself uses too."""
        with environments(self.task, len(self.record.seeds), episodes) as get:
            options = {"episodes": episodes, "normaliser": self.normaliser, "progress": progress}
            return score(self.task, evaluate(self.agents, get(), self.record.seeds, **options))

    def film(self, path: str | Path, *, episode: int = 0, index: int = 0) -> bool:
        """Writes one episode of one seed into a GIF of about a hundred pictures, and returns whether it succeeded."""
        environment = make_environment(self.task, render_mode="rgb_array")
        try:
            seed = self.record.seeds[index]
            frames, success = film(
                self.agents,
                environment,
                seed,
                episode=episode,
                index=index,
                normaliser=self.normaliser,
                every=max(2, self.task.horizon // 100),
            )
        finally:
            environment.close()
        write_whole({Path(path): gif(frames)})
        return success


def gif(frames: Sequence[np.ndarray], seconds: float = 0.05) -> bytes:
    """An animated picture of frames (height, width, 3) of bytes."""
    from PIL import Image

    buffer, pictures = io.BytesIO(), [Image.fromarray(frame) for frame in frames]
    rest = {"append_images": pictures[1:], "duration": int(1000 * seconds), "loop": 0}
    pictures[0].save(buffer, "GIF", save_all=True, **rest)
    return buffer.getvalue()


def make_environment(task: Task, render_mode: str | None = None):
    """A new environment to evaluate in; its observations are raw."""
    make = ogbench.environment if task.dataset.benchmark == "ogbench" else minari.environment
    return make(task, render_mode=render_mode)


def open_run(folder: str | Path) -> Run:
    """Reads a run's folder. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
    from fdbook.rl import train as engine

    folder = Path(folder)
    record = records.read(folder)
    task = find_task(record.task)
    *picture, last = task.dataset.observation
    statistics = record.data.get("normaliser")
    normaliser = None
    if statistics is not None:
        mean, scale, *wavelengths = statistics
        normaliser = Normaliser(np.asarray(mean, np.float32), np.asarray(scale, np.float32), *wavelengths)
        last = normaliser.width
    make, shape = agents.make(record.agent, record.metric), (*picture, last * task.frame_stack)
    like = engine.init(make, shape, task.dataset.action, record.seeds, **record.settings)
    with checkpoints.Checkpoints(folder / "checkpoints", read_only=True) as stores:
        found = stores.restore(like)
    if found is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint yet.")
    return Run(record, task, found[0], found[1]["step"], normaliser)


def summary(record: records.Record) -> str:
    """A run in a few lines: what it was, and what its evaluations came to."""
    name = f"{record.agent} ({record.metric})" if record.metric else record.agent
    lines = [f"{name} on {record.task}, {record.preset}: {record.status}, {record.done} of {record.steps} updates"]
    for each in record.scores:
        lines.append(f"  {each['step']:>9,}  " + "  ".join(f"{value:6.1f}" for value in each["score"]))
    if record.scores:
        last = record.score()
        lines.append(f"  mean of the last {min(3, len(record.scores))}: {np.mean(last):.1f} ({len(last)} seeds)")
    return "\n".join(lines)

"""A run: trained from its specification in a folder that belongs to one process, and opened again."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
from filelock import FileLock, Timeout

from fdbook.checks import count, memory_told
from fdbook.data import load
from fdbook.data.load import Loaded
from fdbook.data.tasks import Task
from fdbook.disk import check_writable, write_whole
from fdbook.experiment.evaluation import (
    check_pictures,
    environments,
    gif,
    make_evaluator,
    scores,
    solved_length,
    value_estimates,
)
from fdbook.experiment.spec import RunSpec
from fdbook.rl import agents, checkpoints, evaluate, records
from fdbook.rl import train as engine
from fdbook.rl.agents import Agent
from fdbook.rl.fourier_features import Normalizer
from fdbook.rl.offline_evaluation import held_out_evaluate
from fdbook.rl.online import Online


__all__ = ["Run", "data_of", "open_run", "summary", "train"]

LOCK = ".lock"
FILM = 100
"""Pictures of a film, about."""
ACTING: dict[type[Agent], tuple[str, ...]] = {
    agents.FlowBC: ("flow_steps",),
    agents.IFQL: ("flow_steps", "num_samples"),
    agents.DecoratedFlow: ("flow_steps", "num_refinements", "num_samples", "q_agg", "selection"),
    agents.FQL: (),
    agents.IQL: (),
    agents.ReBRAC: (),
}
"""What `act` reads of the settings of our agents: all else is of training."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run: its specification, its record, and its agents, stacked along the first axis of their arrays."""

    spec: RunSpec
    record: records.Record
    agents: Agent
    step: int
    """The number of updates that the agents have had."""
    normalizer: Normalizer | None = None
    """What observations go through before an agent sees them."""

    @property
    def task(self) -> Task:
        """The task."""
        return self.spec.task

    def data(self, loaded: Loaded | None = None) -> Loaded:
        """The data that the run was trained on, as its agents see them; `loaded` ones, if given, stand in for them.

        Raises ValueError where the transitions that are here now, or those held out, are others than those that its record knows.
        """
        if loaded is None:
            found = _load(self.spec)
            now, name = _fingerprints(found), self.task.dataset.name
            for kind, then in self.record.data.items():
                if kind in now and then is not None and now[kind] != then:
                    part = "trained on data" if kind == "fingerprint" else "judged by held-out data"
                    raise ValueError(
                        f"The run was {part} with the fingerprint {then!r}; those of {name} that are here have "
                        f"{now[kind]!r}: they have changed, or were recorded anew elsewhere. Take the data along with the run."
                    )
            return found
        return _prepared(loaded, self.spec, self.normalizer)

    def acting(self, **changes: Any) -> "Run":
        """The same run with other settings of acting, such as `num_samples` and `num_refinements` of a decorated flow.

        Raises ValueError for a setting that the agent does not have, and for one of training, which its actions do not depend on.
        """
        checked = self.spec.replace(config=changes).config
        known = next((ACTING[kind] for kind in type(self.agents).__mro__ if kind in ACTING), changes)  # one's own: any
        if others := [name for name in changes if name not in known]:
            told = f"{self.spec.agent} acts by {', '.join(known) or 'none of its settings'}"
            raise ValueError(f"{told}; got {', '.join(others)}, of training: another value takes another run.")
        config = dataclasses.replace(self.agents.config, **{name: getattr(checked, name) for name in changes})
        return dataclasses.replace(self, agents=dataclasses.replace(self.agents, config=config))

    def evaluate(
        self, *, episodes: int | None = None, starts: str = "task", progress: bool = True
    ) -> dict[str, list[float] | list[float | None]]:
        """Score, success, return and length of each seed, in the mean over episodes: the same ones that the run itself plays.

        `starts` = "anywhere" has the episodes of OGBench's mazes start all over the maze instead: success is then the share of
        starts from which the goal is reached, and "solved length" the mean steps from these (None where there are none). Agents
        with critics also have the "discounted return" and the critics' "value estimate" of it, from the first state and action:
        an estimate above the return promises too much. Raises ValueError for other tasks then, and for a task without an
        environment.
        """
        episodes = self.spec.episodes if episodes is None else episodes
        _check_environment(self.task)
        with environments(self.task, len(self.spec.seeds), episodes, starts=starts) as get:
            options = {"episodes": episodes, "normalizer": self.normalizer, "progress": progress}
            options |= {"critics": "critic" in self.agents.networks, "reward_shift": self.task.reward_shift}
            result = evaluate.evaluate(self.agents, get(), self.spec.seeds, **options)
        found = scores(self.task, result) | (solved_length(result) if starts == "anywhere" else {})
        return found | value_estimates(result)

    def held_out(
        self, *, loaded: Loaded | None = None, batches: int = 32, states: int = 1000
    ) -> dict[str, list[float | None]]:
        """What the run's held-out data say of each seed, with nothing played and nothing trained.

        Each loss and scalar that training logs, in the mean over `batches` of held-out data; for agents with a flow also
        "held_out_nll", in nats (E4), and "clipped_share", over at most `states` actions (`fdbook.rl.offline_evaluation`). The
        same rows are drawn for every run on episodes of one number and length. `loaded` data stand in for those that the run was
        trained on. Where all actions lie at the edge of the box, the likelihood is None. Raises ValueError where none are held
        out, and where the data have changed.
        """
        data = self.data(loaded).validation
        if data is None:
            raise ValueError(f"The data of {self.task.name} have no validation set: nothing is held out of them.")
        options = {"batches": batches, "states": states, "key": jr.key(0)}
        return held_out_evaluate(self.agents, data, self.spec.seeds, **options)

    def pictures(self, *, episode: int = 0, index: int = 0) -> tuple[list[np.ndarray], list[int], bool]:
        """About a hundred pictures of one episode of one seed, the step that each one shows, and whether it succeeded.

        An episode of the same number starts alike for every run of a task. Raises OSError where the environment renders nothing.
        """
        _check_environment(self.task)
        every = max(2, self.task.horizon // FILM)
        options = {"episode": episode, "index": index, "normalizer": self.normalizer, "every": every}
        try:
            with contextlib.closing(load.environment(self.task, render_mode="rgb_array")) as environment:
                return evaluate.film(self.agents, environment, self.spec.seeds[index], **options)
        except OSError:  # a sentence already
            raise
        except Exception as error:  # what cannot render raises depends on the environment
            raise OSError(
                f"An episode of {self.task.name} cannot be filmed here: nothing renders ({error})."
            ) from error

    def film(self, path: str | Path, *, episode: int = 0, index: int = 0) -> bool:
        """Writes one episode of one seed into a GIF of about a hundred pictures, and returns whether it succeeded.

        Raises OSError where the environment renders no pictures.
        """
        frames, _, success = self.pictures(episode=episode, index=index)
        write_whole({Path(path): gif(frames)})
        return success


def _check_environment(task: Task) -> None:
    if not task.has_environment:
        raise ValueError(
            f"The task {task.name} has no environment: nothing can be played; see the run's own estimates."
        )


def train(
    spec: RunSpec,
    folder: str | Path | None = None,
    *,
    loaded: Loaded | None = None,
    save_every: int = 10_000,
    log_every: int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
    watch: Callable[[records.Record, Agent], None] = lambda record, agents: None,
) -> Run:
    """Trains what a specification says, all seeds at once.

    Without a `folder` nothing is written. With one, the run saves checkpoints there every `save_every` updates and every ten
    minutes, is carried on when it is there already, bit for bit, and ends with record.json. Scalars are logged in the mean over
    `log_every` updates (None: a tenth of the offline ones, and at most 1000). `loaded` data stand in for those that
    `fdbook.data.load.load` would load, raw or prepared as the specification says. `say` is told what the reader should know, and
    `watch` is shown the record as it grows and the agents, whose arrays it must not keep, several times a minute.

    Raises ValueError for what is no specification, a folder that holds another run and `loaded` data that do not fit;
    BlockingIOError for a folder in which another process trains; MemoryError for a device that is full; and what
    `fdbook.data.load.load` and `fdbook.rl.train.train` raise.
    """
    if not isinstance(spec, RunSpec):
        raise ValueError(f"train takes a specification, as in RunSpec('cube-single'); got {spec!r}.")
    folder = None if folder is None else Path(folder)
    options = {"save_every": save_every, "log_every": log_every, "progress": progress, "say": say, "watch": watch}
    if spec.evaluations:
        check_pictures(spec.task)
    with memory_told():
        loaded = data_of(spec, loaded)
        with _alone(folder):
            return _trained(spec, loaded, folder, options)


def _trained(spec: RunSpec, loaded: Loaded, folder: Path | None, options: dict[str, Any]) -> Run:
    """The run of a specification on data that are prepared, evaluated on the way."""
    data = loaded.train
    record = records.Record(spec.to_dict(), _about_data(loaded))
    record.progress.about = records.about()
    stacked = _init(spec, data.observation_shape, data.action_dim)
    evaluation = {"episodes": spec.episodes, "normalizer": data.normalizer, "progress": options["progress"]}
    evaluation |= {"data": data, "held_out": loaded.validation, "updates": spec.updates}
    count = len(spec.seeds)
    if spec.online and folder is not None:
        _take_offline_phase(spec, record, folder, options["say"])
    with (
        environments(spec.task, count, spec.episodes) as get,
        environments(spec.task, count, 1) as own,
    ):
        evaluator = make_evaluator(spec.task, get, spec.seeds, **evaluation)
        shift = {"normalizer": data.normalizer, "reward_shift": spec.task.reward_shift, "say": options["say"]}
        online = Online(own, spec.seeds, spec.online, **shift) if spec.online else None
        stacked = engine.train(stacked, data, record, folder=folder, evaluate=evaluator, online=online, **options)
    return Run(spec, record, stacked, record.done, data.normalizer)


def _take_offline_phase(spec: RunSpec, record: records.Record, folder: Path, say: Callable[[str], None]) -> None:
    """Lets a new run with an online phase begin where a finished one without it, kept in its usual place, has ended."""
    changes: dict[str, Any] = {"online": 0}
    if "evaluations" in spec.overrides:
        changes["evaluations"] = [step for step in spec.evaluations if step <= spec.updates]
    offline = spec.replace(**changes)
    there, mine = offline.folder, folder / "checkpoints"
    if mine.exists() or not (there / records.NAME).exists():
        return
    before = records.read(there)
    short = dataclasses.replace(record, spec=offline.to_dict())
    differing = set(short.differing(before)) - {"evaluations", "episodes"}
    if before.status == "finished" and not differing and checkpoints.copy(there / "checkpoints", mine, spec.updates):
        say(f"The updates on the logged data are those of {there}.")


@contextlib.contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Holds a run's folder for this process. The system lets it go when the process ends, however it ends."""
    if folder is None:
        yield
        return
    check_writable(folder)
    lock = FileLock(folder / LOCK)
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise BlockingIOError(f"Another process trains in {folder} now: wait, or choose another folder.") from error


def _init(spec: RunSpec, observation_shape: tuple[int, ...], action_dim: int) -> Agent:
    """New agents, one for each seed, stacked."""
    config = {field.name: getattr(spec.config, field.name) for field in dataclasses.fields(spec.config)}
    return engine.init(agents.make(spec.agent), observation_shape, action_dim, spec.seeds, **config)


def data_of(spec: RunSpec, loaded: Loaded | None = None) -> Loaded:
    """The data of a specification, prepared as it says; `loaded` ones, if given, stand in for those that would be loaded."""
    return _load(spec) if loaded is None else _prepared(loaded, spec)


def _load(spec: RunSpec) -> Loaded:
    """Loads the data of a specification, prepared as it says."""
    place = dataclasses.asdict(spec.data)
    return load.load(spec.task, normalize=spec.normalize, wavelengths=spec.wavelengths, **place)


def _prepared(loaded: Loaded, spec: RunSpec, statistics: Normalizer | None = None) -> Loaded:
    """Given data, prepared as the specification says, raw ones with the given statistics or (None) their own.

    Raises ValueError for data of another task or prepared otherwise.
    """
    if loaded.task.dataset.name != spec.task.dataset.name or loaded.task.name != spec.task.name:
        raise ValueError(f"A run on {spec.task.name} takes its data; got those of {loaded.task.name}.")
    normalizer, train, held_out = loaded.train.normalizer, loaded.train, loaded.validation
    if normalizer is None and spec.normalize:
        train = train.normalized(statistics, wavelengths=spec.wavelengths)
        held_out = None if held_out is None else held_out.normalized(train.normalizer)
        return dataclasses.replace(loaded, train=train, validation=held_out)
    if type(normalizer) not in (Normalizer, type(None)):
        raise ValueError(f"A run takes a Normalizer, which its record can describe; got a {type(normalizer).__name__}.")
    if (normalizer is not None) != spec.normalize or (
        normalizer is not None and normalizer.wavelengths != spec.wavelengths
    ):
        how = "raw" if normalizer is None else f"normalized, with wavelengths={normalizer.wavelengths}"
        wanted = f"normalize={spec.normalize}, wavelengths={spec.wavelengths}"
        raise ValueError(f"The specification says {wanted}; the data that were given are {how}.")
    return loaded


def _about_data(loaded: Loaded) -> dict[str, Any]:
    """What a record keeps of the data."""
    data, statistics = loaded.train, None
    if data.normalizer is not None:
        statistics = {name: np.asarray(getattr(data.normalizer, name)).tolist() for name in ("mean", "scale")}
    return {
        "name": loaded.task.dataset.name,
        "source": loaded.source,
        "transitions": data.size,
        "observation": list(data.observation_shape),
        "action": data.action_dim,
        "normalizer": statistics,
        **_fingerprints(loaded),
    }


def _fingerprints(loaded: Loaded) -> dict[str, str | None]:
    """By their names in a record: of the transitions that are trained on, and of those that are held out, if there are any."""
    held_out = loaded.validation
    return {
        "fingerprint": loaded.train.fingerprint(),
        "validation_fingerprint": None if held_out is None else held_out.fingerprint(),
    }


def open_run(folder: str | Path, *, task: Task | None = None) -> Run:
    """Reads a run's folder; `task` stands in for a task of one's own that its record cannot make again.

    Raises FileNotFoundError where there is no run or no checkpoint yet, ValueError where it is damaged.
    """
    folder = Path(folder)
    record = records.read(folder)
    spec = RunSpec.from_dict(record.spec, task=task)
    statistics, normalizer = record.data["normalizer"], None
    if statistics is not None:
        mean, scale = (np.asarray(statistics[name], np.float32) for name in ("mean", "scale"))
        normalizer = Normalizer(mean, scale, spec.wavelengths)
    like = _init(spec, tuple(record.data["observation"]), record.data["action"])
    with checkpoints.Checkpoints(folder / "checkpoints", read_only=True) as stores:
        result = stores.restore(like)
    if result is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint yet.")
    return Run(spec, record, result[0], result[1]["done"], normalizer)


def summary(record: records.Record) -> str:
    """A run in a few lines: what it was, and what its evaluations came to."""
    name = record.method
    preset, done = record.spec["preset"], f"{record.done} of {record.updates} updates"
    lines = [f"{name} on {record.task}, {preset}: {record.status}, {done}"]
    for item in record.scores:
        shown = {"": item["score"]} if "score" in item else {key: item[key] for key in item if key != "step"}
        for key, values in shown.items():
            told = ("  none" if value is None else f"{value:6.4g}" for value in values)
            lines.append(f"  {item['step']:>9,}  {key and key + '  '}" + "  ".join(told))
    if record.scores and "score" in record.scores[-1]:
        last, error = record.score(), record.scores[-1].get("error")
        lines.append(
            f"  mean of the last {min(3, len(record.scores))}: {np.mean(last):.1f} ({count(len(last), 'seed')})"
        )
        if error is not None:
            episodes = record.spec["episodes"]
            lines.append(
                f"  {count(episodes, 'episode')}, the same starts for all seeds: +-{np.mean(error):.1f} on each score"
            )
    return "\n".join(lines)

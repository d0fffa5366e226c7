"""The specification of a run: one frozen value that the command line, Python, sweeps, records and notebooks all make.

Two runs with equal specifications are the same experiment. What is not said comes from the registry of tasks and from a preset,
and is in the value as if it had been said: a specification that is read back later does not depend on what the defaults are then.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fdbook.checks import check_fields
from fdbook.data.dose import Dose
from fdbook.data.load import check_choice
from fdbook.data.tasks import Task, find_task, task_from_dict
from fdbook.experiment import parts
from fdbook.experiment.presets import preset, registry
from fdbook.geometry import metrics
from fdbook.rl import agents, records
from fdbook.rl.agents import Config
from fdbook.rl.precision import check_precision


__all__ = ["DataSpec", "RunSpec", "differences"]

FILLED = ("metric", "updates", "evaluations", "episodes", "normalize", "wavelengths")
"""Parts that a preset fills in."""
LATER = {"online": 0, "matmul_precision": "float32"}
"""Parts that records have had only lately, and say only where they are other than this."""
LONGEST = 120


@dataclasses.dataclass(frozen=True, init=False)
class DataSpec:
    """Which data of a task are meant: arguments of `fdbook.data.load.load`. A task with data of its own takes none of them.

    The dose may be given as a mapping, and the folder as a Path. Raises ValueError for a source that there is not, and for
    numbers, doses and folders that no data can have.
    """

    source: str
    """"auto", "recorded" or "download"."""
    episodes: int | None
    """Training episodes of a recording; None: the standard size."""
    seed: int
    """The seed of a recording."""
    dose: Dose | None
    """The noise of a recording's controller; None: as published."""
    dataset_dir: str | None
    """A folder with the benchmark's own files."""

    def __init__(
        self,
        source: str = "auto",
        episodes: int | None = None,
        seed: int = 0,
        dose: Dose | Mapping[str, Any] | None = None,
        dataset_dir: str | Path | None = None,
    ) -> None:
        check_choice(source, episodes, seed, dataset_dir)
        whole = None if episodes is None else int(episodes)
        parts: dict[str, Any] = {"source": source, "episodes": whole, "seed": int(seed)}
        parts["dose"] = dose if dose is None or isinstance(dose, Dose) else Dose.from_dict(dose)
        parts["dataset_dir"] = None if dataset_dir is None else str(dataset_dir)
        for name, value in parts.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the standard data set, as plain JSON."""
        standard, names = DataSpec(), [field.name for field in dataclasses.fields(self)]
        told = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(standard, name)}
        return told | ({} if self.dose is None else {"dose": self.dose.to_dict()})

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "DataSpec":
        """The inverse of `to_dict`. Raises ValueError for a name that there is not."""
        check_fields(cls, tree, "part of a data specification")
        return cls(**tree)


@dataclasses.dataclass(frozen=True, init=False)
class RunSpec:
    """What a run is. Names are looked up and everything is checked when it is made; later nothing about it changes.

    Task and metric may be given by name, and `data` as a mapping. None means: as the preset says. `config` takes any settings of
    the agent (`fdbook.rl.agents.family(agent).Config`); what it leaves out comes from the task's registry and the preset. Use
    `replace` for a variation, `diff` to see what differs.

    Raises ValueError for unknown names, values of another kind or out of range, and combinations that make no sense.

    >>> spec = experiment.RunSpec("cube-single", "fql", config={"alpha": 100.0})
    >>> spec.replace(config={"alpha": 300.0}).diff(spec)
    {'config.alpha': (300.0, 100.0)}
    >>> spec.replace(seeds=3).seeds
    (0, 1, 2)
    """

    task: Task
    """Given as a task, or as the name of one."""
    agent: str
    metric: metrics.Metric | None
    """Of "fidec": a metric, given as one or by its name, as in "exact". Of "deflow" it is L2; other agents have none."""
    preset: str
    data: DataSpec
    seeds: tuple[int, ...]
    """They are trained side by side; a number n that is given stands for the seeds 0 to n - 1."""
    updates: int
    evaluations: tuple[int, ...]
    """The updates after which it is evaluated."""
    episodes: int
    """Episodes of an evaluation, for each seed."""
    normalize: bool
    """Whether observations are taken to mean 0 and standard deviation 1."""
    wavelengths: tuple[float, ...]
    """Fourier features that are added to them, in standard deviations."""
    online: int
    """Updates that follow the `updates` on the logged data, each after one step in the environment (`fdbook.rl.online`)."""
    matmul_precision: str
    """Of the matrix products of updates: "float32", "tensorfloat32" or "bfloat16" (`fdbook.rl.precision`)."""
    config: Config
    """The agent's configuration, whole; given as a mapping of the settings that are to be others than by default."""
    overrides: tuple[str, ...] = dataclasses.field(compare=False, repr=False)
    """The names of what was said and not filled in; those of settings begin with "config."."""

    def __init__(
        self,
        task: Task | str,
        agent: str = "fidec",
        metric: metrics.Metric | str | None = None,
        preset: str = "laptop",
        data: DataSpec | Mapping[str, Any] = DataSpec(),
        seeds: int | Sequence[int] = (0,),
        updates: int | None = None,
        evaluations: Sequence[int] | None = None,
        episodes: int | None = None,
        normalize: bool | None = None,
        wavelengths: Sequence[float] | None = None,
        online: int = 0,
        matmul_precision: str = "float32",
        config: Config | Mapping[str, Any] = MappingProxyType({}),
        overrides: Sequence[str] | None = None,
    ) -> None:
        given = dict(locals())  # the arguments by name
        said = {"overrides": _said(given) if overrides is None else tuple(overrides)}
        for name, value in (_resolved(given) | {"agent": agent, "preset": preset} | said).items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> "RunSpec":
        """The specification with other values; what was filled in is filled in anew, for another task or agent too.

        `config` is joined with what was said before, `data` too where it is given as a mapping.
        """
        check_fields(RunSpec, changes, "part of a specification")
        names = ("task", "agent", "preset", "data", "seeds", "online", "matmul_precision")
        said: dict[str, Any] = {name: getattr(self, name) for name in names}
        said |= {name: getattr(self, name) for name in self.overrides if not name.startswith("config.")}
        said_config = {name.removeprefix("config."): None for name in self.overrides if name.startswith("config.")}
        config = {name: getattr(self.config, name) for name in said_config} | _as_dict(changes.pop("config", {}))
        if isinstance(changes.get("data"), Mapping):
            changes["data"] = dataclasses.replace(self.data, **changes["data"])
        return RunSpec(**(said | changes), config=config)

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain JSON."""
        config = {name: value for name, value in _as_dict(self.config).items() if name != "metric"}
        metric = None
        if self.metric is not None:
            metric = metrics.to_dict(self.metric) | {"label": metrics.short_name(self.metric)}
        names = ("agent", "preset", "seeds", "updates", "evaluations", "episodes", "normalize", "wavelengths")
        tree = {"format": records.FORMAT, "task": self.task.to_dict(), "metric": metric, "data": self.data.to_dict()}
        names += tuple(name for name, default in LATER.items() if getattr(self, name) != default)
        tree |= {name: getattr(self, name) for name in names} | {"config": config, "overrides": self.overrides}
        return json.loads(json.dumps(tree, default=_plain))

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], *, task: Task | None = None) -> "RunSpec":
        """The inverse of `to_dict`; `task` stands in for a task that cannot be made again from its description.

        Raises ValueError for a tree that describes none, or was written by another version.
        """
        if not isinstance(tree, Mapping) or "format" not in tree:
            raise ValueError(
                f"A specification is a mapping that says its format, {records.FORMAT}; got {str(tree)[:60]!r}."
            )
        tree = records.upgraded(dict(tree))
        if (format := tree.pop("format")) != records.FORMAT:
            raise ValueError(
                f"A specification of format {records.FORMAT} was expected; this one, of {format!r}, is another version's."
            )
        try:
            metric = dict(tree.pop("metric") or {})
            metric.pop("label", None)
            task = _task(tree.pop("task"), task)
            data, config = DataSpec.from_dict(tree.pop("data")), tree.pop("config")
            return cls(task, metric=metrics.from_dict(metric) if metric else None, data=data, config=config, **tree)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"This is no specification of a run ({type(error).__name__}: {error}).") from error

    @property
    def total_updates(self) -> int:
        """All updates, offline and online."""
        return self.updates + self.online

    @property
    def hash(self) -> str:
        """Twelve characters that two specifications share only if they are equal, whatever their presets are called."""
        tree = {name: value for name, value in self.to_dict().items() if name not in records.LABELS}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]

    def __hash__(self) -> int:
        return int(self.hash, 16)

    def diff(self, other: "RunSpec") -> dict[str, tuple[Any, Any]]:
        """What differs: for each name, as in "config.budget", the value here and the value there.

        Raises ValueError for what is no specification.
        """
        if not isinstance(other, RunSpec):
            raise ValueError(f"A specification is compared with another RunSpec; got a {type(other).__name__}.")
        return records.differences(self.to_dict(), other.to_dict())

    @property
    def method(self) -> str:
        """The name of the method in tables and figures, as in "deflow" or "fidec exact" (`agents.method`)."""
        return agents.method(self.agent, None if self.metric is None else metrics.short_name(self.metric))

    @property
    def folder(self) -> Path:
        """Where the run is kept by default, below the current folder: runs/TASK/..., with all that is unusual in its name."""
        words = [*self.method.split(), self.preset, _seeds_word(self.seeds), *self._unusual()]
        name = re.sub(r"[^\w.=+-]", "_", "-".join(words))
        if len(name) > LONGEST or self.task.dataset.origin is not None:  # data of one's own differ by more than a name
            name = name if len(name) <= LONGEST - 13 else name[: LONGEST - 12].rpartition("-")[0]
            name = f"{name}-{self.hash}"
        return Path("runs") / re.sub(r"[^\w.=+-]", "-", self.task.name) / name

    def _unusual(self):
        for name, value in self.task.variation.items():
            yield f"{name}={_word(value)}"
        for name, value in self.data.to_dict().items():
            dose = self.data.dose if name == "dose" else None
            yield f"data-{name}={_word(value)}" if dose is None else dose.slug
        for name, value in ({} if self.metric is None else metrics.unusual(self.metric)).items():
            yield f"metric-{name}={_word(value)}"
        for name in sorted(self.overrides):
            if name != "metric":
                owner, short = (self.config, name.removeprefix("config.")) if "." in name else (self, name)
                yield f"{short}={_word(getattr(owner, short))}"
        for name, default in LATER.items():
            if getattr(self, name) != default:
                yield f"{name}={getattr(self, name)}"


def differences(here: records.Record, there: records.Record) -> dict[str, tuple[Any, Any]]:
    """What differs between the specifications of two runs, as `RunSpec.diff` says.

    Where one cannot be made again, of a task of one's own or of another version, the records are compared as they are written.
    """
    try:
        return RunSpec.from_dict(here.spec).diff(RunSpec.from_dict(there.spec))
    except (ValueError, OSError):
        return records.differences(here.spec, there.spec)


def _task(tree: dict[str, Any], task: Task | None) -> Task:
    """The task of a description, or the one that stands in for it, which must fit."""
    if task is None:
        return task_from_dict(tree)
    if task.to_dict() != tree:
        raise ValueError(f"The task {task.name!r} is not the one that the run was made with, {tree.get('name')!r}.")
    return task


def _said(given: dict[str, Any]) -> tuple[str, ...]:
    """The names of what was given and could have been left out."""
    said = [name for name in FILLED if given[name] is not None]
    return tuple(said + [f"config.{name}" for name in _as_dict(given["config"]) if name != "metric"])


def _as_dict(config) -> dict[str, Any]:
    """The settings of a mapping or of a whole configuration."""
    if isinstance(config, Config):
        return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if not isinstance(config, Mapping):
        raise ValueError(f"A run takes its config as settings by name; got {config!r}.")
    if "metric" in config:
        raise ValueError("A run's metric is said as metric=..., not among the settings of its agent.")
    return dict(config)


def _resolved(given: dict[str, Any]) -> dict[str, Any]:
    """Every part of a specification, filled in and checked."""
    parts.check_names(given)
    task = given["task"] if isinstance(given["task"], Task) else find_task(given["task"])
    kind, filled = agents.family(given["agent"]), preset(given["preset"], task)
    named = filled.metric if agents.AGENTS[given["agent"]].any_metric else None
    metric = agents.choose_metric(given["agent"], named if given["metric"] is None else given["metric"])
    known = {field.name for field in dataclasses.fields(kind.Config)}
    online = parts.online_updates(given["online"], task)
    defaults = registry(task, given["agent"], online=online > 0) | filled.config
    config = {name: value for name, value in defaults.items() if name in known} | _as_dict(given["config"])
    if metric is not None:
        config["metric"] = metric
    agents.check(given["agent"], **config)
    config = kind.configure(**config)
    counts = {"updates": filled.updates, "episodes": filled.episodes}
    for name, usual in counts.items():
        counts[name] = parts.whole_number(usual if given[name] is None else given[name], f"number of {name}", 1)
    evaluations = parts.evaluations(given["evaluations"], filled.evaluations, counts["updates"], online)
    found: dict[str, Any] = {"task": task, "metric": metric, "config": config, "evaluations": evaluations} | counts
    found |= {"data": _data(given["data"], task), "seeds": parts.seeds(given["seeds"]), "online": online}
    found["matmul_precision"] = check_precision(given["matmul_precision"])
    return found | parts.features(given["normalize"], given["wavelengths"], filled, task)


def _data(data, task: Task) -> DataSpec:
    """Which data are meant, with the dose written out whole, or left out where it is the published one."""
    if not isinstance(data, DataSpec | Mapping):
        raise ValueError(f"A run takes its data as a DataSpec or as parts of one by name; got {data!r}.")
    data = data if isinstance(data, DataSpec) else DataSpec.from_dict(data)
    if task.dataset.origin is not None and data != DataSpec():
        raise ValueError(
            f"The task {task.name} has data of its own; got {data.to_dict()}, which choose another data set."
        )
    return data if data.dose is None else dataclasses.replace(data, dose=Dose.of(task.dataset, data.dose))


def _seeds_word(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed-{seeds[0]}"
    return f"{len(seeds)}-seeds" if list(seeds) == list(range(len(seeds))) else f"seeds-{'-'.join(map(str, seeds))}"


def _word(value) -> str:
    """A value in the name of a folder; a number in the fewest digits that no other has."""
    if isinstance(value, tuple | list):
        return "-".join(map(_word, value))
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(float(value))
    return str(value)


def _plain(value):
    """What JSON has no word for."""
    return value.item() if isinstance(value, np.generic) else str(value)

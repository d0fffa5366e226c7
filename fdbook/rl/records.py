"""The run record: what was run, on what data, and what came out, as one JSON file.

`fdbook.experiment.train` makes it from a specification, the training loop fills it, tables, figures and sentences read it. Curves
and scores have one value for each seed.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fdbook.disk import write_whole


__all__ = ["Progress", "Record", "about", "differences", "read"]

LAST = 3
NAME = "record.json"
LABELS = ("preset", "overrides")
"""Parts of a specification that say where its values came from, and not what they are."""
RENAMED = {
    "aggregation": "q_agg",
    "candidates": "num_samples",
    "clip_norm": "max_grad_norm",
    "critics": "num_critics",
    "fisher_count": "num_fisher_samples",
    "normalise_value": "normalize_q",
    "refinements": "num_refinements",
}
"""Settings by the names that they had in records of format 1; the command line takes them still."""
RENAMED_OF = {"rebrac": {"actor_every": "actor_freq", "noise": "actor_noise", "noise_bound": "actor_noise_clip"}}
"""By agent: settings of its own by the names that they had in records of format 1 and 2."""
FORMAT = 2
"""The format of specifications in records."""


@dataclasses.dataclass
class Progress:
    """How far a run has come, and what has come out: the part of a record that a checkpoint keeps, too."""

    done: int = 0
    """Updates so far."""
    wall: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds spent in training, evaluating and saving."""
    curves: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
    """By the name of a scalar: its means over the updates since the last logged one, one row each time, one column a seed."""
    logged: list[int] = dataclasses.field(default_factory=list)
    """The updates of the rows of `curves`."""
    scores: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Of each evaluation: the update, under "step", and for each seed the score and what explains it, means over episodes."""
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Versions and machine, where the run began."""

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> "Progress":
        """The inverse of `dataclasses.asdict`. Raises TypeError for a tree of another kind."""
        return cls(**tree)


@dataclasses.dataclass
class Record:
    """One run of one agent on one task with several seeds."""

    spec: dict[str, Any]
    """The specification, as `fdbook.experiment.RunSpec.to_dict` gives it."""
    data: dict[str, Any]
    """Name, source, size and fingerprint of the transitions, and the fingerprint of those held out."""
    status: Literal["running", "stopped", "finished", "broken"] = "running"
    note: str = ""
    """Why a run broke, or which error stopped it."""
    progress: Progress = dataclasses.field(default_factory=Progress)

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.spec["task"]["name"]

    @property
    def agent(self) -> str:
        """The name of the agent."""
        return self.spec["agent"]

    @property
    def metric(self) -> str | None:
        """The short name of the metric of a decorated flow, as the command line has it; None for other agents."""
        return None if self.spec["metric"] is None else self.spec["metric"]["label"]

    @property
    def method(self) -> str:
        """The name of the method in tables and figures, as in "deflow" or "fidec exact" (`agents.method`)."""
        from fdbook.rl import agents

        return agents.method(self.agent, self.metric)

    @property
    def score_kind(self) -> str:
        """What its score is, as its task says it: "success" or "normalized return", both in percent, or "return"."""
        options = self.spec["task"].get("options")
        if options is not None:  # a task of one's own
            return options.get("score") or ("normalized return" if "references" in options else "return")
        succeeds = not self.task.startswith("D4RL/") or self.task.startswith("D4RL/pointmaze/")
        return "success" if succeeds else "normalized return"

    @property
    def seeds(self) -> list[int]:
        """The seeds that are trained side by side."""
        return list(self.spec["seeds"])

    @property
    def updates(self) -> int:
        """Updates asked for, offline and online."""
        return self.offline + self.spec.get("online", 0)

    @property
    def offline(self) -> int:
        """Updates on the logged data alone, which come first."""
        return self.spec["updates"]

    @property
    def evaluations(self) -> list[int]:
        """The updates after which it is evaluated."""
        return list(self.spec["evaluations"])

    @property
    def config(self) -> dict[str, Any]:
        """The agent's configuration, without its metric."""
        return self.spec["config"]

    @property
    def matmul_precision(self) -> str:
        """That of the matrix products of its updates (`fdbook.rl.precision`)."""
        return self.spec.get("matmul_precision", "float32")

    @property
    def done(self) -> int:
        """Updates so far."""
        return self.progress.done

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The evaluations so far (`Progress.scores`)."""
        return self.progress.scores

    def identity(self) -> dict[str, Any]:
        """What a run that is carried on must share with the one that began, by dotted names."""
        flat = {name: value for name, value in flatten(self.spec).items() if name.split(".")[0] not in LABELS}
        return flat | {"data with the fingerprint": self.data.get("fingerprint")}

    def differing(self, other: "Record") -> dict[str, tuple[Any, Any]]:
        """Where two identities differ: by dotted names the values here and there, None where there is none."""
        return _pairs_that_differ(self.identity(), other.identity())

    def score(self, last: int = LAST) -> np.ndarray:
        """The papers' number for each seed: the mean score of the last three evaluations (or of as many as there are).

        Raises ValueError before the first evaluation, and for a task that has no environment to score in.
        """
        if not self.scores:
            raise ValueError(f"The run of {self.agent} on {self.task} has not been evaluated yet.")
        if "score" not in self.scores[-1]:
            raise ValueError(f"The task {self.task} has no environment, so that its runs have no score.")
        return np.mean([evaluation["score"] for evaluation in self.scores[-last:]], axis=0)

    def write(self, folder: Path) -> None:
        """Puts the record into a folder, whole or not at all."""
        write_whole({folder / NAME: (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()})

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> "Record":
        """The record that a JSON tree describes. Raises ValueError for a tree that is none."""
        tree = tree | {"spec": upgraded(tree["spec"])} if isinstance(tree.get("spec"), dict) else tree
        try:
            record = cls(**(tree | {"progress": Progress.from_dict(tree["progress"])}))
            flatten(
                {name: record.spec[name] for name in ("task", "agent", "metric", "seeds", "updates", "evaluations")}
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("This is no run record: fields are missing, or there are others.") from error
        return record


def upgraded(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification of format 1 or 2 with the names of today; any other as it is."""
    if spec.get("format") not in (1, FORMAT) or not isinstance(spec.get("config"), dict):
        return spec
    renamed = (RENAMED if spec["format"] == 1 else {}) | RENAMED_OF.get(spec.get("agent", ""), {})
    config = {renamed.get(name, name): value for name, value in spec["config"].items()}
    overrides = [_renamed(name, renamed) for name in spec.get("overrides", ())]
    if spec["format"] == FORMAT:
        return spec | {"config": config, "overrides": overrides}
    task = dict(spec["task"])
    if options := task.get("options"):
        options = {RENAMED.get(name, name): value for name, value in options.items()}
        old = options.get("score") == "normalised return"
        task["options"] = options | ({"score": "normalized return"} if old else {})
    return spec | {"format": FORMAT, "task": task, "config": config, "overrides": overrides}


def _renamed(override: str, renamed: dict[str, str]) -> str:
    part, _, name = override.rpartition(".")
    return f"{part}.{renamed.get(name, name)}" if part == "config" else override


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
        flat |= nested
    return flat


def differences(here: dict[str, Any], there: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two specifications as records have them: by dotted names the values here and there, None for none.

    >>> here, there = ({"metric": None, "config": {"alpha": alpha, "width": 512}} for alpha in (1.0, 3.0))
    >>> records.differences(here, there)
    {'config.alpha': (1.0, 3.0)}
    """
    return _pairs_that_differ(flatten(_without_labels(here)), flatten(_without_labels(there)))


def _pairs_that_differ(here: dict[str, Any], there: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    both = ((name, (here.get(name), there.get(name))) for name in here | there)
    return {name: pair for name, pair in both if pair[0] != pair[1]}


def _without_labels(tree: dict[str, Any]) -> dict[str, Any]:
    tree = {name: value for name, value in tree.items() if name not in ("overrides", "format")}
    metric = tree["metric"] and {name: value for name, value in tree["metric"].items() if name != "label"}
    return tree | {"metric": metric}


def read(path: str | Path) -> Record:
    """The record in a run's folder, or in a file. Raises FileNotFoundError and, for a damaged file, ValueError.

    >>> records.read("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: There is no run record nowhere.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"There is no run record {path}.")
    try:
        return Record.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no run record: it is damaged, or something else wrote it.") from error


def about() -> dict[str, Any]:
    """What a run depends on beside its specification: versions, system, cores and device."""
    import jax

    packages = (
        "fdbook",
        "jax",
        "jaxlib",
        "equinox",
        "diffrax",
        "optax",
        "numpy",
        "gymnasium",
        "ogbench",
        "minari",
        "mujoco",
    )
    return {
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }

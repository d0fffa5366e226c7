"""The run record: what was run, on what, with which settings and seeds, and what came out, as one JSON file.

The training loop writes it; tables, figures and sentences read it. Curves and scores have one value for each seed.
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


__all__ = ["Record", "about", "read"]

LAST = 3
NAME = "record.json"


@dataclasses.dataclass
class Record:
    """One run of one agent on one task with several seeds."""

    task: str
    agent: str
    metric: str | None
    preset: str
    settings: dict[str, Any]
    seeds: list[int]
    steps: int
    """Updates asked for."""
    evaluations: list[int]
    """The updates after which it is evaluated."""
    episodes: int
    """Episodes of an evaluation, for each seed."""
    data: dict[str, Any]
    """Name, source, size and fingerprint of the transitions."""
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Versions and machine, where the run began."""
    status: Literal["running", "stopped", "finished", "broken"] = "running"
    done: int = 0
    """Updates done so far."""
    wall: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds spent in training, evaluating and saving."""
    curves: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
    """By the name of a scalar: its means over the updates since the last logged step, one row a step, one column a seed."""
    logged: list[int] = dataclasses.field(default_factory=list)
    """The steps of the rows of `curves`."""
    scores: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Of each evaluation: the step, and for each seed score, success and return in the mean, and length."""
    note: str = ""
    """Why a run broke."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that is carried on must share with the one that began."""
        names = ("task", "agent", "metric", "settings", "seeds", "steps", "evaluations", "episodes")
        return {name: getattr(self, name) for name in names} | {"data": self.data.get("fingerprint")}

    def score(self, last: int = LAST) -> np.ndarray:
        """The papers' number for each seed: the mean score of the last three evaluations (or of as many as there are).

        Raises ValueError before the first evaluation.
        """
        if not self.scores:
            raise ValueError(f"The run of {self.agent} on {self.task} has not been evaluated yet.")
        return np.mean([evaluation["score"] for evaluation in self.scores[-last:]], axis=0)

    def write(self, folder: Path) -> None:
        """Puts the record into a folder, whole or not at all."""
        write_whole({folder / NAME: (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()})

    @classmethod
    def of(cls, tree: dict[str, Any]) -> "Record":
        """The record that a JSON tree describes. Raises ValueError for a tree that is none."""
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{key: value for key, value in tree.items() if key in known})
        except (TypeError, AttributeError) as error:
            raise ValueError("This is no run record: fields are missing.") from error


def read(path: str | Path) -> Record:
    """The record in a run's folder, or in a file. Raises FileNotFoundError and, for a damaged file, ValueError."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"There is no run record {path}.")
    try:
        return Record.of(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no run record: it is damaged, or something else wrote it.") from error


def about() -> dict[str, Any]:
    """What a run depends on beside its settings: versions, system, cores and device."""
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

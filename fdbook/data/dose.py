"""The dose of a recording: how much noise its controller adds, and in which directions. It is part of the data's identity.

The arm's plans (cube, scene, puzzle) get smooth noise on each coordinate of the action; the points of the mazes get independent
noise on every step, along and across the way that they go. With less noise across than along the logged actions lie on a thin
filament: this is how anisotropy is dialed in, in OGBench's mazes. The force of D4RL's point is a feedback on place and velocity
that saturates (most of its steps are clipped in a coordinate, at any dose), so that doses show less in its actions.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from fdbook.checks import check_fields
from fdbook.data.definitions import DataSet


__all__ = ["Dose", "step_noise"]

ARM, MAZE, WAYPOINTS = "the robot arm", "OGBench's point mazes", "D4RL's point mazes"
KINDS = {"cube": ARM, "scene": ARM, "puzzle": ARM, "maze": MAZE, "waypoints": WAYPOINTS}
ARM_NOISE = 5
"""Coordinates of the arm's actions: the hand's x, y and z, its yaw, and the gripper."""


@dataclasses.dataclass(frozen=True)
class Dose:
    """The noise of a recording; None stands for what the published data have. Make one that fits a data set with `Dose.of`.

    All values are finite and at least 0, the heading is above 0 and at most 1. Actions are clipped to [-1, 1] after the noise is
    added.
    """

    noise: float | tuple[float, ...] | None = None
    """Of the arm: a factor on the noise of its plans, one for all coordinates or one for each of the five (published: 0.1).
    Of the mazes: the standard deviation in every direction, in action units (published: 0.5)."""
    smoothing: float | None = None
    """Of the arm: the standard deviation, in steps, of the filter that makes its noise smooth (published: 0.5)."""
    along: float | None = None
    """Of the mazes: the standard deviation along the way, in action units."""
    across: float | None = None
    """Of the mazes: the same across it."""
    heading: float | None = None
    """Of OGBench's mazes: the length of the action before the noise, in (0, 1] (published: 1); shorter ones are clipped less."""

    @classmethod
    def of(cls, dataset: DataSet, given: "Dose | Mapping[str, Any] | None") -> "Dose | None":
        """The dose for a data set with every value that it has, or None when that is the published one.

        Raises ValueError, in one sentence, for names or values that the data set's controller does not have.
        """
        if given is None:
            return None
        given = given if isinstance(given, Dose) else cls.from_dict(given)
        if dataset.controller not in KINDS:
            why = dataset.why_not_recordable or f"{dataset.name} has a controller without such noise."
            raise ValueError(f"A dose is for a data set that a scripted controller with noise records; {why}")
        kind = KINDS[dataset.controller]
        standard = STANDARD[kind]
        said = _spread(given, kind)
        for name, value in said.items():
            if name not in standard:
                names = ", ".join(f"{item} ({FLAGS[item]})" for item in sorted({*standard, "noise"}))
                raise ValueError(
                    f"The dose of {dataset.name}, of {kind}, takes {names}; got {name} ({FLAGS[name]}) {value:g}."
                )
        filled = standard | said
        if isinstance(filled.get("noise"), tuple) and len(set(filled["noise"])) == 1:
            filled["noise"] = filled["noise"][0]
        return None if filled == standard else cls(**filled)

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            object.__setattr__(self, name, _checked(name, value))

    def to_dict(self) -> dict[str, Any]:
        """What is said of it, as plain JSON."""
        said = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Dose":
        """The inverse of `to_dict`. Raises ValueError for a name that there is not, and for what is no mapping."""
        if not isinstance(tree, Mapping):
            raise ValueError(f"A dose is said as a mapping, as in {{'noise': 0.2}}; got {tree!r}.")
        check_fields(cls, tree, "part of a dose")
        return cls(**{name: _checked(name, value) for name, value in tree.items()})

    @property
    def slug(self) -> str:
        """The dose in the name of a folder: two doses never share one."""
        return "-".join(f"{name}-{_digits(value, '-')}" for name, value in self.to_dict().items())

    @property
    def options(self) -> str:
        """The dose as it is typed behind `fdbook data record`."""
        return " ".join(f"{FLAGS[name]} {_digits(value, ' ')}" for name, value in self.to_dict().items())


STANDARD = {
    ARM: {"noise": 0.1, "smoothing": 0.5},
    MAZE: {"along": 0.5, "across": 0.5, "heading": 1.0},
    WAYPOINTS: {"along": 0.5, "across": 0.5},
}
"""The doses of the published data."""
FLAGS = {
    "noise": "--noise",
    "smoothing": "--noise-smoothing",
    "along": "--noise-along",
    "across": "--noise-across",
    "heading": "--heading",
}
"""What each part of a dose is called on the command line."""


def _digits(value, between: str) -> str:
    """One number or several, each in as many digits as tell it from all others, without an exponent."""
    values = value if isinstance(value, list) else [value]
    return between.join(np.format_float_positional(item, trim="-") for item in values)


def _checked(name: str, value):
    """A part of a dose as floats; one noise of a list of one."""
    if value is None:
        return None
    if name == "noise" and isinstance(value, tuple | list | np.ndarray):
        if len(value) not in (1, ARM_NOISE):
            raise ValueError(f"A dose takes one noise, or {ARM_NOISE} for the arm; got {len(value)}.")
        values = tuple(_checked(name, item) for item in value)
        return values if len(values) > 1 else values[0]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"A dose takes numbers; got {name}={value!r}.")
    if name == "heading" and not 0 < value <= 1:
        raise ValueError(f"A dose takes a heading above 0 and of at most 1, the box of actions; got {value:g}.")
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"A dose takes a finite {name} of at least 0; got {value:g}.")
    return float(value)


def _spread(given: Dose, kind: str) -> dict[str, Any]:
    """What was said, with a maze's noise in every direction written as noise along and across."""
    said = {name: value for name, value in dataclasses.asdict(given).items() if value is not None}
    if kind == ARM or "noise" not in said:
        return said
    noise = said.pop("noise")
    got = f"{len(noise)} numbers" if isinstance(noise, tuple) else "both"
    if isinstance(noise, tuple) or "along" in said or "across" in said:
        raise ValueError(
            f"The noise of {kind} is one number for all directions, or one along and one across; got {got}."
        )
    return said | {"along": noise, "across": noise}


def step_noise(rng: np.random.Generator, way: Float[np.ndarray, "2"], along: float, across: float) -> np.ndarray:
    """The noise (2,) on one step of a maze, with standard deviations along and across a way (2,)."""
    if along == across:
        return rng.normal(0, along, 2)
    unit = way / (np.linalg.norm(way) + 1e-6)
    first, second = rng.normal(0, 1, 2)
    return along * first * unit + across * second * np.array([-unit[1], unit[0]])

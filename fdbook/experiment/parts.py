"""Parts of a specification: what `RunSpec` is told of seeds, updates, evaluations and observations, checked and filled in.

All functions raise ValueError, in one sentence, for values of another kind, out of range, and ones that do not fit together.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fdbook.checks import check_range
from fdbook.data.tasks import Task
from fdbook.experiment.presets import Preset


__all__ = ["check_names", "evaluations", "features", "online_updates", "seeds", "whole_number"]


def check_names(given: Mapping[str, Any]) -> None:
    """Refuses a task that is neither one nor the name of one, and other names that are no text."""
    if not isinstance(given["task"], Task | str):
        raise ValueError(f"A run takes a task, or the name of one; got {given['task']!r}.")
    for name in ("agent", "preset", "matmul_precision"):
        if not isinstance(given[name], str):
            raise ValueError(f"A run takes a word for {name}; got {given[name]!r}.")


def whole_number(value: object, what: str, low: int, high: int = 2**31 - 1) -> int:
    """A whole number of at least `low` and at most `high`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"A run takes a {what} that is a whole number of at least {low}; got {value!r}.")
    if value > high:
        raise ValueError(f"A run takes a {what} that is a whole number of at most {high}; got {value!r}.")
    return int(value)


def _several(value: Any, name: str, example: str) -> tuple:
    """The items of what is a row of them."""
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        return tuple(value)
    except TypeError:
        raise ValueError(f"A run takes {name} as in {example}; got {value!r}.") from None


def seeds(value: object) -> tuple[int, ...]:
    """The seeds: those that are given, or the seeds 0 to n - 1 where a number n is."""
    if isinstance(value, int | np.integer):
        value = range(whole_number(value, "number of seeds", 1))
    found = tuple(whole_number(seed, "seed", 0) for seed in _several(value, "seeds", "3 or (0, 1, 2)"))
    if not found or len(set(found)) < len(found):
        raise ValueError(f"A run takes at least one seed, each of them once; got {list(found)}.")
    return found


def online_updates(value: object, task: Task) -> int:
    """The updates of the online phase, which a task without an environment, or with pictures, cannot have."""
    steps = whole_number(value, "number of online updates", 0)
    if steps and not task.has_environment:
        raise ValueError(f"The task {task.name} has no environment to be trained in; got online={steps}.")
    if steps and task.dataset.pixels:
        raise ValueError(f"Online updates take observations that are states; those of {task.name} are pictures.")
    return steps


def evaluations(value: object, usual: Sequence[int], updates: int, online: int) -> tuple[int, ...]:
    """The updates after which a run is evaluated; None: the `usual` ones up to its end, its end, the online phase's quarters."""
    if value is None:
        quarters = {updates + online * quarter // 4 for quarter in range(1, 5)} - {updates}
        return (*(step for step in usual if step < updates), updates, *sorted(quarters))
    given = _several(value, "evaluations", "(500, 1000)")
    steps = sorted({whole_number(step, "number of an update to evaluate after", 0) for step in given})
    if steps and steps[-1] > updates + online:
        raise ValueError(f"A run of {updates + online} updates cannot be evaluated after update {steps[-1]}.")
    return tuple(steps)


def features(normalize: object, wavelengths: object, filled: Preset, task: Task) -> dict[str, Any]:
    """Whether observations are normalized, and with which Fourier features; None: as the preset has it."""
    normalize = filled.normalize if normalize is None else normalize
    if not isinstance(normalize, bool | np.bool_):
        raise ValueError(f"A run takes true or false for normalize; got {normalize!r}.")
    normalize = bool(normalize)
    if wavelengths is None:
        wavelengths = filled.wavelengths if normalize else ()
    lengths = _several(wavelengths, "wavelengths", "(4.0, 2.0)")
    for item in lengths:
        if isinstance(item, bool) or not isinstance(item, numbers.Real):
            raise ValueError(f"A run takes wavelengths that are numbers; got {item!r}.")
        check_range(float(item), "a wavelength", "A run", open_low=True)
    lengths = tuple(float(item) for item in lengths)
    if lengths and not normalize:
        raise ValueError(f"Fourier features are of normalized observations; got wavelengths={lengths} without them.")
    if normalize and task.dataset.pixels:
        raise ValueError(f"Observations of {task.name} are pictures, which are not normalized; got normalize=True.")
    return {"normalize": normalize, "wavelengths": lengths}

"""Exercises with a checker: it says what is wrong with a wrong answer, and does not give the right one away.

In a notebook:

    def my_score(t, x, v):
        ...                       # your turn

    check("03.1", my_score)

prints that 03.1 is still open, what is wrong with it, or that it is right. `check("03.1", hint=1)` prints where to begin, and
`hint=2` how to go on. The checkers of chapter 03, with their hints, live in `fdbook.exercises.chapter03`; worked solutions are
in notebooks/solutions, and the tests run them.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from fdbook.checks import Array, unknown


__all__ = [
    "Numbers",
    "Wrong",
    "call",
    "check",
    "close",
    "exercise",
    "hints",
    "names",
    "refuse",
    "returns_nan",
    "same_shape",
    "verdict",
]

CHAPTERS = tuple(sorted(each.name[-2:] for each in pkgutil.iter_modules(__path__) if each.name.startswith("chapter")))
"""The numbers of the chapters with exercises: those with a module here."""
Numbers = Array | Sequence[float | int] | float | int
"""What an answer, or a mistake, comes to."""
_CHECKERS: dict[str, Callable] = {}
_HINTS: dict[str, tuple[str, ...]] = {}


class Wrong(Exception):
    """Raised by a checker, with one sentence that says what is wrong."""


class _Open(Exception):
    """The answer has not been given yet."""


def exercise(name: str, *, hints: tuple[str, ...] = ()) -> Callable:
    """Registers a checker under a name such as "03.1": a function of the answer that raises Wrong, or returns a remark.

    `hints` are two sentences for readers who are stuck: where to begin, and how to go on. Neither gives the answer away.
    """

    def register(checker):
        _CHECKERS[name] = checker
        _HINTS[name] = hints
        return checker

    return register


def names() -> tuple[str, ...]:
    """The names of all exercises, in order."""
    for chapter in CHAPTERS:
        importlib.import_module(f"fdbook.exercises.chapter{chapter}")
    return tuple(sorted(_CHECKERS))


def _known(name: str) -> str:
    name = f"0{name}" if f"0{name}" in names() else name
    if name not in names():
        raise ValueError(unknown("exercise", name, names()))
    return name


def hints(name: str) -> tuple[str, ...]:
    """The hints of an exercise, the vaguest first. Raises ValueError for an exercise that does not exist."""
    return _HINTS[_known(name)]


def _missing(value) -> bool:
    return value is None or value is Ellipsis


def call(answer: object, *args: object) -> PyTree[np.ndarray]:
    """What the reader's function returns for these arguments, as NumPy; turns dots, errors and NaN into sentences."""
    if not callable(answer):
        raise Wrong(f"the answer should be a function; it is a {type(answer).__name__}.")
    try:
        value = answer(*args)
    except Exception as error:
        raise Wrong(
            f"your function raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from None
    if _missing(value):
        raise _Open
    value = jax.tree.map(np.asarray, value)
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(value) if leaf.dtype.kind == "f"):
        raise Wrong("your function returned NaN or infinite values.")
    return value


def returns_nan(answer: Callable, *args: object) -> bool:
    """Whether the answer to these arguments is NaN, as it should be where there is nothing to say."""
    try:
        return bool(np.all(np.isnan(np.asarray(answer(*args), float))))
    except (TypeError, ValueError):
        return False


def same_shape(value: PyTree[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The value as an array, refused unless it has the shape (...)."""
    value = np.asarray(value)
    if value.shape != shape:
        raise Wrong(f"the answer should have shape {shape}; it has shape {value.shape}.")
    return value


def close(value: Numbers, truth: Numbers) -> bool:
    """Whether an answer agrees with the truth to a thousandth."""
    return np.allclose(value, truth, rtol=1e-3, atol=1e-5)


def refuse(value: Numbers, mistakes: Iterable[tuple[Numbers, str]]) -> None:
    """Raises Wrong with the hint of the first of several (wrong value, hint) that the answer agrees with."""
    for wrong, hint in mistakes:
        if close(value, wrong):
            raise Wrong(hint)


def verdict(name: str, answer: object) -> tuple[bool, str]:
    """Whether the answer to an exercise is right, and the line that `check` prints. "3.1" is "03.1".

    Raises ValueError, with the nearest name, for an exercise that does not exist.
    """
    name = _known(name)
    try:
        if _missing(answer):
            raise _Open
        remark = _CHECKERS[name](answer)
    except _Open:
        return False, f"{name} is open: replace the dots with your answer and run the cell again."
    except Wrong as wrong:
        return False, f"{name} is not right yet: {wrong}"
    return True, f"{name} is right. {remark or ''}".rstrip()


def check(name: str, answer: object = None, *, hint: object = None) -> None:
    """Checks the answer to an exercise and prints one line: it is right, or what is wrong with it, or that it is open.

    With `hint` it prints the first or the second hint instead.

    Raises ValueError, with the nearest name, for an exercise that does not exist, and for a hint that it has not.
    """
    if hint is None:
        print(verdict(name, answer)[1])
        return
    known = hints(name)
    if isinstance(hint, bool) or hint not in range(1, len(known) + 1):
        raise ValueError(f"{name} has hints 1 to {len(known)}; got hint={hint!r}.")
    print(f"{_known(name)}, hint {hint} of {len(known)}: {known[hint - 1]}")

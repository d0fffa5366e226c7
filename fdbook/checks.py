"""Refusing bad input in one sentence: what was expected, what came, where.

Values that are known when a function is called raise ValueError. Values that are only known when compiled code runs (inside
`jax.jit`) raise through `equinox.error_if`, with the same sentence.
"""

import contextlib
import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree


__all__ = [
    "Array",
    "check_fields",
    "check_finite",
    "check_kinds",
    "check_point",
    "check_range",
    "check_rows",
    "check_shape",
    "check_time",
    "count",
    "free_memory",
    "known",
    "memory_told",
    "unknown",
]

Array = jax.Array | np.ndarray  # what a jaxtyping annotation of this package accepts
Value = TypeVar("Value", bound=ArrayLike)


def known(*values: PyTree) -> bool:
    """Whether every value can be looked at now (False for values that `jax.jit` is tracing)."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def count(number: int, noun: str) -> str:
    """A number with its noun, as in 1 seed and 3 seeds."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def unknown(kind: str, name: object, names: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    names = sorted(names)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"There is no {kind} called {name!r}.{hint} Known: {', '.join(names)}."


def check_fields(cls: type, names: Iterable[str], kind: str) -> None:
    """Refuses a name that is no field of a dataclass, with the nearest one that is; `kind` says what a field is to the reader."""
    fields = [field.name for field in dataclasses.fields(cls)]
    for name in names:
        if name not in fields:
            raise ValueError(unknown(kind, name, fields))


KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (float | int, "a number"),
    str: (str, "a word"),
}


def check_kinds(instance: object, where: str) -> None:
    """Refuses values of a dataclass that are of another kind than their defaults: text for a number, a fraction for a whole one.

    Fields whose default is of no such kind are let through, and so is None where a field's type says that it may be None.
    """
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        optional = type(None) in typing.get_args(field.type)
        if type(field.default) not in KINDS or (value is None and optional):
            continue
        kind, words = KINDS[type(field.default)]
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{where} takes {words} for {field.name}; got {value!r}.")


def _shown(value, *bounds) -> str:
    """A number in a few digits, or in all where a few would make it one of the bounds: 1.0000001 is not shown as 1."""
    short = f"{value:g}"
    return str(value) if short in [f"{bound:g}" for bound in bounds] and type(value)(short) != value else short


def check_shape(x: ArrayLike, shape: tuple[int | None, ...], what: str, where: str) -> None:
    """Refuses an array whose shape is not `shape`, where None stands for any length."""
    got = np.shape(x)
    if len(got) != len(shape) or any(want is not None and want != have for want, have in zip(shape, got, strict=True)):
        wanted = (
            "("
            + ", ".join("n" if want is None else str(want) for want in shape)
            + ("," if len(shape) == 1 else "")
            + ")"
        )
        raise ValueError(f"{where} takes {what} of shape {wanted}; got shape {got}.")


def check_point(x: ArrayLike, dim: int, where: str) -> None:
    """Refuses anything but one point of R^dim, and points the way to `jax.vmap` for several."""
    got = np.shape(x)
    if got != (dim,):
        several = " Use jax.vmap for several points." if len(got) == 2 and got[1] == dim else ""
        raise ValueError(f"{where} takes one point of shape ({dim},); got shape {got}.{several}")


def check_range(
    x: Value,
    what: str,
    where: str,
    *,
    low: float = 0.0,
    high: float = np.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> Value:
    """Returns x, refusing values outside the interval from `low` to `high` (ends excluded where they are open), and NaN."""
    values: Any = np.asarray(x) if known(x) else x  # NumPy, because inside jax.jit even constants would be traced
    above = values > low if open_low else values >= low
    below = values < high if open_high else values <= high
    good = above & below
    message = f"{where} takes {what} in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    if known(x):
        if not np.all(good):
            raise ValueError(f"{message}; got {_shown(values[~good].flat[0], low, high)}.")
        return x
    return eqx.error_if(x, ~good, f"{message}; a value outside it (or NaN) came.")


def check_time(t: Value, where: str, *, open_low: bool = False, open_high: bool = False) -> Value:
    """Returns t, refusing times outside [0, 1] (ends excluded where they are open), and NaN."""
    return check_range(t, "a time t", where, high=1.0, open_low=open_low, open_high=open_high)


def check_finite(x: Value, what: str, where: str) -> Value:
    """Returns x, refusing NaN and infinite values."""
    if known(x):
        bad = np.size(x) - np.sum(np.isfinite(x))
        if bad:
            raise ValueError(f"{where} takes finite {what}; {bad} of {np.size(x)} values are NaN or infinite.")
        return x
    return eqx.error_if(x, ~jnp.all(jnp.isfinite(x)), f"{where} takes finite {what}; a NaN or infinite value came.")


def check_rows(x: Array, what: str, where: str, *, low: float = -np.inf, high: float = np.inf) -> None:
    """Refuses NaN, infinite values and values outside [low, high] in a large array, and names the first row that has one."""
    x = np.asarray(x)
    smallest, largest = (x.min(), x.max()) if x.size else (0, 0)  # NaN where there is one; cheap in time and memory
    if np.isfinite(smallest) and np.isfinite(largest) and low <= smallest and largest <= high:
        return
    bad = ~np.isfinite(x)
    kind = "NaN or infinite" if bad.any() else f"outside [{low:g}, {high:g}]"
    bad = bad if bad.any() else (x < low) | (x > high)
    rows, first = np.flatnonzero(bad.reshape(len(x), -1).any(axis=1)), _shown(x[bad].flat[0], low, high)
    raise ValueError(f"{where} has {what} {kind} in {rows.size} of {len(x)} rows, first in row {rows[0]} ({first}).")


def free_memory() -> int | None:
    """Bytes of main memory that can be had without swapping; None where the system does not say (it is no Linux)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            told = dict(line.split(":", 1) for line in file)
        return 1024 * int(told["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


@contextlib.contextmanager
def memory_told() -> Iterator[None]:
    """Within it, a device that has no memory left is a MemoryError of one sentence, which says what to lower."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        asked = re.search(r"allocat\w* ([\d.]*\d) ?([KMGT]iB|bytes)", str(error))
        size = "" if asked is None else f", and {asked[1]} {asked[2]} more were wanted"
        if asked is not None and asked[2] == "bytes":
            size = f", and {float(asked[1]) / 2**30:,.1f} GiB more were wanted"
        raise MemoryError(
            f"The device has no memory left{size}: fewer seeds at once, a shorter online phase (--online), fewer episodes of "
            "data (--data-episodes), a smaller batch_size, width or actions_per_state, or fewer runs beside each other take less "
            "(`fdbook sweep FILE --estimate` says what a run takes)."
        ) from error

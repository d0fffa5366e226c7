"""Arrays as they come, made into arrays as they are kept: cast without loss, or with a word about what was lost.

Others' files hold float64 or float16, big-endian numbers, 0 and 1 for False and True. What can be meant by them is taken; what
cannot is refused in one sentence.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from fdbook.checks import Array


__all__ = ["ALIGNMENT", "ROUNDING", "aligned", "cast", "clip_actions", "outside"]

ALIGNMENT = 64
"""Bytes of whose multiple an address has to be, for JAX to share its memory on a CPU."""
ROUNDING = float(np.float32(1 + 1e-5)) - 1
"""By how much an action may leave [-1, 1] and still count as rounded: 1e-5, or 84 steps of float32 above 1. Then it is clipped.

It is as much as the papers' own clipping to 1 - 1e-5 takes from an action of 1. `fdbook data inspect` counts such rows."""


def aligned(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """An array of NumPy's, not filled, whose memory JAX can share on a CPU."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def cast(values: Array, dtype: np.dtype | type, what: str, where: str) -> np.ndarray:
    """The values in a dtype, in this machine's byte order, row after row; they themselves where they are so already.

    Floating point numbers are rounded where the dtype is narrower, with a warning that says by how much at most; NaN and
    infinite values stay what they are. Bytes and integers take whole numbers that they can hold, bool takes 0 and 1. Raises
    ValueError for other values, and for what is not numbers.
    """
    values, dtype = np.asarray(values), np.dtype(dtype)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where} has {what} of {values.dtype} (expected numbers, of {dtype}).")
    if values.dtype == dtype:
        return values if values.flags.c_contiguous else values.copy(order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        made = values.astype(dtype, order="C")
    if np.can_cast(values.dtype, dtype, "safe"):
        return made
    with np.errstate(over="ignore", invalid="ignore"):
        same = (made == values) | ((made != made) & (values != values))
    if not np.all(same):
        _lost(values, made, same, what, where)
    return made


def _lost(values, made, same, what, where):
    """Warns of rounding; refuses values that the new dtype does not have."""
    row = int(np.flatnonzero(~same.reshape(len(same) if same.ndim else 1, -1).all(axis=1))[0])
    first = values[~same].flat[0]
    if made.dtype.kind != "f":
        wanted = "0 and 1" if made.dtype.kind == "b" else f"whole numbers that {made.dtype} holds"
        raise ValueError(f"{where} has {what} other than {wanted}, first in row {row} ({first!s}).")
    if np.any(np.isinf(made) & ~same):
        raise ValueError(f"{where} has {what} too large for {made.dtype}, first in row {row} ({first!s}).")
    change = np.max(np.abs(values[~same] - made[~same].astype(values.dtype if values.dtype.kind == "f" else float)))
    warnings.warn(
        f"{where} has {what} of {values.dtype}, rounded to {made.dtype}: by {change:.2g} at most.", stacklevel=4
    )


def outside(actions: Array) -> int:
    """The number of rows of actions (rows, d) that have one outside [-1, 1] in float32: those that `clip_actions` changes."""
    return int(np.sum(np.any(np.abs(np.asarray(actions).astype(np.float32)) > 1, axis=-1)))


def clip_actions(actions: np.ndarray, where: str) -> np.ndarray:
    """The actions (rows, d) in [-1, 1]: what lies outside by rounding alone, `ROUNDING` at most, is clipped.

    Raises ValueError for NaN, infinite values and what lies further outside, with the first row that has one.
    """
    actions = np.asarray(actions)
    size = max(actions.max(), -actions.min()) if actions.size else 0  # NaN where there is one
    if size <= 1:
        return actions
    if size <= 1 + ROUNDING:
        return np.clip(actions, -1, 1)
    bad = ~np.isfinite(actions)
    kind = "NaN or infinite" if bad.any() else "outside [-1, 1]"
    bad = bad if bad.any() else np.abs(actions) > 1 + ROUNDING
    rows = np.flatnonzero(bad.reshape(len(actions), -1).any(axis=1))
    first = actions[bad].flat[0]
    raise ValueError(
        f"{where} has actions {kind} in {rows.size} of {len(actions)} rows, first in row {rows[0]} ({first!s})."
    )

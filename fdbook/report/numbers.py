"""Numbers on disk, and files that are never half-written.

The numbers behind a figure are a dictionary of scalars, strings, lists, arrays and further dictionaries. Scalars and
small arrays become JSON that a person can read; arrays of more than 64 values go to an npz file beside it, whose digest
the JSON holds.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from fdbook.disk import check_writable, write_whole


__all__ = ["Json", "beside", "check_writable", "decode", "encode", "layout", "read", "stored", "write_whole"]

Json = dict | list | str | int | float | None
"""What JSON holds."""
LARGE = 64
DIGITS = 6
NPZ = "npz"


def _rounded(value, where):
    """JSON for nested lists of numbers: floats with 6 significant digits, NaN as null."""
    if isinstance(value, list):
        return [_rounded(item, where) for item in value]
    if not isinstance(value, float):
        return value
    if np.isinf(value):
        raise ValueError(f"The number {where} is infinite, and figures keep finite numbers (or NaN for none).")
    return None if np.isnan(value) else float(f"{value:.{DIGITS}g}")


def _numeric(value):
    """The value as an array of numbers, or None when it is not one."""
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        return None
    return array if array.dtype.kind in "biuf" else None


def encode(value: object, where: str = "", arrays: dict[str, np.ndarray] | None = None) -> Json:
    """What JSON holds of a value; arrays of more than 64 numbers go into `arrays`, by path, as float32 or integers.

    Raises ValueError for an infinite number, and for anything that is no number, string, list, array or dictionary.
    """
    arrays = {} if arrays is None else arrays
    if isinstance(value, dict):
        return {str(key): encode(item, f"{where}/{key}" if where else str(key), arrays) for key, item in value.items()}
    if value is None or isinstance(value, str):
        return value
    array = _numeric(value)
    if array is None:
        if not isinstance(value, list | tuple):
            kind = type(value).__name__
            raise ValueError(f"The number {where} is of type {kind}; figures keep numbers, strings, lists and arrays.")
        return [encode(item, f"{where}/{i}", arrays) for i, item in enumerate(value)]
    if array.size <= LARGE:
        return _rounded(array.tolist(), where)
    arrays[where] = array.astype(np.float32) if array.dtype.kind == "f" else array
    return {NPZ: list(array.shape)}


def decode(tree: Json, arrays: Mapping[str, np.ndarray], where: str = "") -> Json | np.ndarray:
    """The inverse of `encode`: lists of numbers come back as arrays, lists of strings as lists, null as NaN."""
    if isinstance(tree, dict):
        if set(tree) == {NPZ}:
            return arrays[where]
        return {key: decode(item, arrays, f"{where}/{key}" if where else key) for key, item in tree.items()}
    if not isinstance(tree, list):
        return np.nan if tree is None else tree
    if not _only_numbers(tree):
        return [decode(item, arrays, f"{where}/{i}") for i, item in enumerate(tree)]
    array = np.asarray(tree)
    return array if array.dtype.kind in "biuf" else np.asarray(tree, float)


def _only_numbers(tree):
    if isinstance(tree, list):
        return all(_only_numbers(item) for item in tree)
    return tree is None or isinstance(tree, bool | int | float)


def layout(tree: Json, indent: str = "") -> str:
    """JSON with sorted keys, one entry a line, and every list of plain values on one line."""
    inner = indent + "  "
    if isinstance(tree, dict) and tree:
        opened, closed = "{", "}"
        rows = [f"{json.dumps(str(key))}: {layout(tree[key], inner)}" for key in sorted(tree)]
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        opened, closed, rows = "[", "]", [layout(item, inner) for item in tree]
    else:
        return json.dumps(tree, allow_nan=False, ensure_ascii=False)
    return f"{opened}\n{inner}" + f",\n{inner}".join(rows) + f"\n{indent}{closed}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def stored(numbers: dict, about: dict) -> dict[str, bytes]:
    """The contents of the files, by suffix: ".json" (the numbers, and `about`) and, for large arrays, ".npz"."""
    arrays = {}
    tree, files = {"numbers": encode(numbers, arrays=arrays), "about": about}, {}
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        files[".npz"] = buffer.getvalue()
        tree["npz"] = _digest(files[".npz"])
    return files | {".json": (layout(tree) + "\n").encode()}


def beside(path: Path, contents: Mapping[str, bytes]) -> dict[Path, bytes]:
    """The files of the same name as `path`, by the suffixes of their contents."""
    return {path.with_suffix(suffix): content for suffix, content in contents.items()}


def read(path: Path) -> tuple[dict, dict]:
    """The numbers that `stored` put into `path` (.json) and the .npz beside it, and what it says about them.

    Raises FileNotFoundError when one is not there, ValueError when one is damaged or they do not belong together.
    """
    arrays = path.with_suffix(".npz")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        numbers, about, digest = tree["numbers"], tree["about"], tree.get("npz")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no numbers of a figure: it is damaged, or something else wrote it.") from error
    if digest is None:
        return cast("dict", decode(numbers, {})), about
    content = arrays.read_bytes()
    if _digest(content) != digest:
        raise ValueError(f"{arrays} does not belong to {path}: the two were not written by the same run.")
    with np.load(io.BytesIO(content)) as file:
        return cast("dict", decode(numbers, dict(file))), about

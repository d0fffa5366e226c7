"""Files of data sets on this machine: where a recording lives, and reading OGBench's files with every array checked.

In OGBench's files row i holds the observation before step i and the action taken there; `terminals` is True on the last row
of each episode. The folder of a recording is a `dataset_dir` that OGBench's own loader takes, or, for D4RL, a folder of data
sets that Minari takes as MINARI_DATASETS_PATH.
"""

import dataclasses
import math
import os
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from fdbook.checks import check_rows
from fdbook.data import tasks
from fdbook.data.dose import Dose
from fdbook.data.downloads import CorruptFileError
from fdbook.rl.arrays import aligned, cast, clip_actions


__all__ = [
    "Place",
    "arrays_of",
    "check",
    "check_headers",
    "check_recording",
    "check_whole",
    "from_npz",
    "read",
    "root",
]


LABEL = "recording.json"
"""The file in a recording's folder that says what it was made from."""
PART = 2**20
"""Bytes that are read at once; arrays of fewer are read by NumPy."""


def root() -> Path:
    """The folder that holds every recording: the environment variable FDBOOK_DATA, else the user's data folder."""
    chosen = os.environ.get("FDBOOK_DATA") or platformdirs.user_data_dir("fdbook", appauthor=False)
    return Path(chosen).expanduser()


def check_whole(value: Any, what: str, where: str, low: int) -> None:
    """Refuses, with ValueError, what is no whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{where} takes a {what} that is a whole number of at least {low}; got {value!r}.")


def check_recording(episodes: int, seed: int) -> None:
    """Refuses, with ValueError, a number of training episodes or a seed that no recording can have."""
    check_whole(episodes, "number of episodes", "A recording", 1)
    check_whole(seed, "seed", "A recording", 0)


@dataclasses.dataclass(frozen=True, init=False)
class Place:
    """The recording of `episodes` training episodes (at least 1) with a seed (at least 0) and a dose, and where it lives.

    `base` stands in for `root()`. Episodes, seed and a dose other than the published one are in the path: a small or a noisy set
    never passes for the standard one. Raises ValueError on an unknown name, on a number out of range, and for a dose that the
    data set cannot have.
    """

    name: str
    episodes: int
    seed: int
    base: str | Path | None
    dose: Dose | None
    """Given as a mapping or a dose; kept whole, or as None for the published one."""

    def __init__(
        self,
        name: str,
        episodes: int,
        seed: int = 0,
        base: str | Path | None = None,
        dose: Dose | Mapping[str, Any] | None = None,
    ) -> None:
        dataset = tasks.find(name)  # however it was said
        parts: dict[str, Any] = {"name": dataset.name, "episodes": episodes, "seed": seed, "base": base}
        for part, value in (parts | {"dose": Dose.of(dataset, dose)}).items():
            object.__setattr__(self, part, value)
        check_recording(episodes, seed)

    @property
    def dataset(self) -> tasks.DataSet:
        """What an episode looks like."""
        return tasks.find(self.name)

    @property
    def folder(self) -> Path:
        """The folder of its files, and of nothing else."""
        base = root() if self.base is None else Path(self.base).expanduser()
        dose = "" if self.dose is None else f"-{self.dose.slug}"
        return base / self.name / f"{self.episodes}-episodes-seed-{self.seed}{dose}"

    @property
    def files(self) -> dict[str, Path]:
        """The file of each split."""
        if self.dataset.benchmark == "d4rl":
            return {"train": self.folder / self.name / "data" / "main_data.hdf5"}
        stem = self.dataset.stem
        return {"train": self.folder / f"{stem}.npz", "validation": self.folder / f"{stem}-val.npz"}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of episodes of each split: for validation, which D4RL does not have, a tenth, and at least one."""
        if self.dataset.benchmark == "d4rl":
            return {"train": self.episodes}
        return {"train": self.episodes, "validation": max(1, self.episodes // 10)}

    @property
    def command(self) -> str:
        """What a reader types to record it."""
        seed = f" --seed {self.seed}" if self.seed else ""
        base = "" if self.base is None else f" --folder {shlex.quote(str(self.base))}"
        size = "" if self.episodes == self.dataset.episodes else f" --episodes {self.episodes}"
        dose = "" if self.dose is None else f" {self.dose.options}"
        return f"fdbook data record {self.name}{size}{seed}{dose}{base}"


def check_headers(path: Path, dataset: tasks.DataSet, needed: Collection[str] | None = None) -> None:
    """Refuses a file of OGBench's whose keys or shapes are not those of the data set, without reading the arrays.

    `needed` are the arrays of the simulator's state that must be there (None: all); the others are checked where they are.
    Raises ValueError, naming the file and what was expected; OSError when the file is not there or cannot be opened.
    """
    expected = _expected(dataset)
    headers = from_npz(path, lambda archive: {key: _header(archive, key) for key in expected if key in archive})
    _check_keys(path, headers, dataset, needed)
    _check_shapes(path, headers, dataset)


def _expected(dataset):
    """Shape of one row, and dtype as it is kept, of each array of a file."""
    return dataset.arrays | {"terminals": ((), np.dtype(bool))}


def _read_header(file):
    """Shape of an array, whether it is written column after column, and dtype, from the beginning of an open npy file."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return reader(file)


def _header(archive, key):
    """Shape and dtype of one array of an npz file."""
    with archive.zip.open(f"{key}.npy") as file:
        shape, _, dtype = _read_header(file)
        return shape, dtype


def _array(archive, key):
    """One array of an npz file; a large one, unless it is written column after column, where JAX can share its memory on a CPU,
    so that it is there once and stays so. Nothing may follow a large one.
    """
    with archive.zip.open(f"{key}.npy") as file:
        shape, by_columns, dtype = _read_header(file)
        if by_columns or dtype.hasobject or math.prod(shape) * dtype.itemsize < PART:
            return archive[key]
        made = aligned(shape, dtype)
        left = memoryview(made.reshape(-1).view(np.uint8))
        while left and (got := file.readinto(left[:PART])):
            left = left[got:]
        if left or file.read(1):  # the checksum is compared at the end of a file
            raise ValueError(f"{key} is not as long as its header says")
        return made


def from_npz(path: Path, read: Callable) -> Any:
    """What `read` makes of an open npz file; `CorruptFileError`, a ValueError, when it is that."""
    with open(path, "rb") as file:
        try:
            with np.load(file) as archive:
                return read(archive)
        except MemoryError:
            raise
        except Exception as error:  # what a damaged file raises depends on where the damage is
            raise CorruptFileError(f"{path} is damaged or is not an npz file", path) from error


def arrays_of(path: Path, keys: Collection[str] | None = None, numbers: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of numbers of an npz file (None: all), as they are.

    Raises ValueError when it is damaged, and for one of `keys` or `numbers` that holds something else than numbers; OSError when
    it cannot be opened.
    """

    def read(archive):
        kinds = {key: _header(archive, key)[1] for key in archive if keys is None or key in keys}
        return {key: _array(archive, key) for key, dtype in kinds.items() if dtype.kind in "biuf"}, kinds

    result, kinds = from_npz(path, read)
    for key, dtype in kinds.items():
        if key not in result and (keys is not None or key in numbers):
            what = "Python objects" if dtype.kind == "O" else str(dtype)
            raise ValueError(f"{path} has {key} of {what} (expected an array of numbers).")
    return result


def _check_keys(path, result, dataset, needed=None):
    needed = dataset.simulator if needed is None else needed
    for key in ("observations", "actions", *needed, "terminals"):
        if key not in result:
            raise ValueError(f"{path} has no array {key!r} (expected {', '.join(_expected(dataset))})")


def _check_shapes(path, headers, dataset):
    """Refuses arrays that do not have one row of the right shape for each of `terminals`, and what is not numbers."""
    shape, _ = headers["terminals"]
    rows = shape[0] if len(shape) == 1 else 0
    if rows == 0:
        raise ValueError(f"{path} has terminals of shape {shape} (expected (n,), at least one row)")
    for key, (row, dtype) in _expected(dataset).items():
        if key not in headers:
            continue
        (shape, got), wanted = headers[key], (rows, *row)
        if shape != wanted:
            raise ValueError(f"{path} has {key} of shape {shape} (expected {wanted})")
        if got.kind not in "biuf":
            raise ValueError(f"{path} has {key} of {got} (expected numbers, of {dtype})")


def check(path: Path, arrays: dict[str, np.ndarray], dataset: tasks.DataSet, episodes: int | None = None) -> None:
    """Refuses arrays that are not whole episodes of the data set.

    With `episodes`, so many of `dataset.steps` rows each, as a recording has them; without, at least one transition in episodes
    of any lengths. Every value must be finite and every action in [-1, 1].
    """
    _check_shapes(path, {key: (values.shape, values.dtype) for key, values in arrays.items()}, dataset)
    for key, values in arrays.items():
        if key == "actions":
            clip_actions(values, str(path))
        elif values.dtype.kind == "f":
            check_rows(values, key, str(path))
    ends = np.flatnonzero(arrays["terminals"])
    if episodes is None:
        if not arrays["terminals"][-1]:
            raise ValueError(f"{path} has terminals that do not close the last episode: its last row is none")
        if len(ends) == len(arrays["terminals"]):
            raise ValueError(f"{path} has no transition: every row is an episode of its own")
    elif not np.array_equal(ends, np.arange(1, episodes + 1) * dataset.steps - 1) or len(arrays["terminals"]) != (
        episodes * dataset.steps
    ):
        raise ValueError(f"{path} has terminals that do not close {episodes} episodes of {dataset.steps} rows each")


def read(
    path: Path, dataset: tasks.DataSet, episodes: int | None = None, *, needed: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of one file, as `dataset.arrays` and `terminals` have them: cast (`fdbook.rl.arrays.cast`) where others store
    them otherwise, actions that rounding has taken out of [-1, 1] clipped; the simulator's state in the precision of the file.

    With `episodes` the file must hold so many of `dataset.steps` rows each; without, episodes of any lengths. `needed` as in
    `check_headers`. Raises ValueError, naming the file, unless arrays and shapes are right, every value is finite, actions lie
    in [-1, 1] and the last row closes an episode; OSError when the file is not there or cannot be opened.
    """
    expected = _expected(dataset)
    arrays = from_npz(path, lambda archive: {key: _array(archive, key) for key in expected if key in archive})
    _check_keys(path, arrays, dataset, needed)
    _check_shapes(path, {key: (values.shape, values.dtype) for key, values in arrays.items()}, dataset)
    for key, (_, dtype) in expected.items():
        if key in arrays:
            kept = arrays[key].dtype.newbyteorder("=") if key in dataset.simulator and dtype.kind == "f" else dtype
            arrays[key] = cast(arrays[key], kept, key, str(path))
    check(path, arrays, dataset, episodes)
    return arrays | {"actions": clip_actions(arrays["actions"], str(path))}

"""Files of data sets on this machine: where a recording lives, and reading OGBench's files with every array checked.

In OGBench's files row i holds the observation before step i and the action taken there; `terminals` is True on the last row
of each episode. The folder of a recording is a `dataset_dir` that OGBench's own loader takes, or, for D4RL, a folder of data
sets that Minari takes as MINARI_DATASETS_PATH.
"""

import dataclasses
import os
import shlex
from pathlib import Path

import numpy as np
import platformdirs

from fdbook.data import tasks


__all__ = ["Place", "check", "read", "root"]


def root() -> Path:
    """The folder that holds every recording: the environment variable FDBOOK_DATA, else the user's data folder."""
    chosen = os.environ.get("FDBOOK_DATA") or platformdirs.user_data_dir("fdbook", appauthor=False)
    return Path(chosen).expanduser()


@dataclasses.dataclass(frozen=True)
class Place:
    """The recording of `episodes` training episodes (at least 1) with a seed (at least 0), and where it lives.

    `base` stands in for `root()`. The number of episodes and the seed are in the path: a small set never passes for the
    standard one. Raises ValueError on an unknown name and on a number out of range.
    """

    name: str
    episodes: int
    seed: int = 0
    base: str | Path | None = None

    def __post_init__(self):
        tasks.find(self.name)
        for what, value, low in (("number of episodes", self.episodes, 1), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"A recording takes a {what} that is a whole number of at least {low}; got {value!r}.")

    @property
    def dataset(self) -> tasks.DataSet:
        """What an episode looks like."""
        return tasks.find(self.name)

    @property
    def folder(self) -> Path:
        """The folder of its files, and of nothing else."""
        base = root() if self.base is None else Path(self.base).expanduser()
        return base / self.name / f"{self.episodes}-episodes-seed-{self.seed}"

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
        return f"fdbook data record {self.name} --episodes {self.episodes}{seed}{base}"


def _arrays(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an npz file, read whole; ValueError when it is damaged or one is missing."""
    with open(path, "rb") as file:
        try:
            with np.load(file) as archive:
                arrays = {key: archive[key] for key in keys if key in archive}
        except Exception as error:  # what a damaged file raises depends on where the damage is
            raise ValueError(f"{path} is damaged or is not an npz file") from error
    for key in keys:
        if key not in arrays:
            raise ValueError(f"{path} has no array {key!r} (expected {', '.join(keys)})")
    return arrays


def check(path: Path, arrays: dict[str, np.ndarray], dataset: tasks.DataSet, episodes: int | None = None) -> None:
    """Refuses arrays that are not `episodes` whole episodes of the data set (None: any number, but at least one)."""
    episodes = max(1, len(arrays["terminals"]) // dataset.steps) if episodes is None else episodes
    rows = episodes * dataset.steps
    for key, (row, dtype) in (dataset.arrays | {"terminals": ((), np.dtype(bool))}).items():
        shape = (rows, *row)
        got = arrays[key]
        if (got.shape, got.dtype) != (shape, dtype):
            raise ValueError(f"{path} has {key} of shape {got.shape} and {got.dtype} (expected {shape} and {dtype})")
    for key in dataset.arrays:
        if arrays[key].dtype != np.float32:
            continue
        bad = np.flatnonzero(~np.isfinite(arrays[key]).all(axis=1))
        if bad.size:
            raise ValueError(f"{path} has NaN or infinite {key} in {bad.size} of {rows} rows, first in row {bad[0]}")
    reach = np.abs(arrays["actions"]).max()
    if reach > 1:
        raise ValueError(f"{path} has an action of magnitude {reach:g} (expected actions within [-1, 1])")
    if not np.array_equal(np.flatnonzero(arrays["terminals"]), np.arange(1, episodes + 1) * dataset.steps - 1):
        raise ValueError(f"{path} has terminals that do not close {episodes} episodes of {dataset.steps} rows each")


def read(path: Path, dataset: tasks.DataSet, episodes: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of one file, which holds that many whole episodes of the data set (None: any number, but at least one).

    Raises ValueError, naming the file, unless keys, shapes and dtypes are right, every value is finite, actions lie in
    [-1, 1] and terminals close every episode; OSError when the file is not there or cannot be opened.
    """
    arrays = _arrays(path, (*dataset.arrays, "terminals"))
    check(path, arrays, dataset, episodes)
    return arrays

"""One call from the name of a task to its transitions: what is on this machine, else downloaded, else how to record it."""

import contextlib
import dataclasses
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fdbook.checks import unknown
from fdbook.data import minari, ogbench
from fdbook.data.files import Place, root
from fdbook.data.tasks import DataSet, Task, find, find_task
from fdbook.rl.transitions import Transitions


__all__ = ["Loaded", "downloaded", "folder_of", "load", "recordings"]

SOURCES = ("auto", "recorded", "download")
PATIENCE = 20


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A task's transitions, and where they came from."""

    task: Task
    train: Transitions
    validation: Transitions | None
    """None for D4RL, which has no validation data."""
    folder: Path
    source: Literal["recorded", "downloaded", "dataset_dir"]

    def environment(self):
        """A new environment to evaluate in; its observations are raw: apply `train.normaliser`, if there is one."""
        if self.task.dataset.benchmark == "ogbench":
            return ogbench.environment(self.task)
        return minari.environment(self.task, self.folder)


def load(
    task: str | Task,
    *,
    source: str = "auto",
    episodes: int | None = None,
    seed: int = 0,
    dataset_dir: str | Path | None = None,
    normalise: bool = False,
    wavelengths: Sequence[float] = (),
) -> Loaded:
    """The transitions of a task.

    `source` "auto" takes the published data if they are on this machine, else a recording of the standard size, else downloads;
    "recorded" and "download" allow only the one or the other. `episodes` and `seed` choose a recording of another size, and
    `dataset_dir` a folder with the benchmark's own files. `normalise` takes observations to mean 0 and standard deviation 1,
    and `wavelengths` adds Fourier features to these (`Transitions.normalised`).

    Raises ValueError on an unknown task or source, waves without `normalise`, and damaged data; FileNotFoundError when the data
    are not here and cannot be had, with the command that records them, or the reason why none can.
    """
    task = task if isinstance(task, Task) else find_task(task)
    if source not in SOURCES:
        raise ValueError(unknown("source", source, SOURCES))
    if wavelengths and not normalise:
        raise ValueError("load adds waves to normalised observations only; got wavelengths with normalise=False.")
    found, folder = _find(task.dataset, source, episodes, seed, dataset_dir)
    train, validation = (ogbench if task.dataset.benchmark == "ogbench" else minari).transitions(task, folder)
    if normalise:
        train = train.normalised(wavelengths=wavelengths)
        validation = None if validation is None else validation.normalised(train.normaliser)
    return Loaded(task, train, validation, folder, found)


def recordings(name: str) -> list[Place]:
    """The finished recordings of a data set on this machine, the largest first."""
    found = []
    for folder in sorted((root() / name).glob("*-episodes-seed-*")):
        words = folder.name.split("-")
        with contextlib.suppress(ValueError, IndexError):
            place = Place(name, int(words[0]), int(words[3]))
            if place.folder == folder and all(path.exists() for path in place.files.values()):
                found.append(place)
    return sorted(found, key=lambda place: (-place.episodes, place.seed))


def folder_of(name: str, place: Place | None = None) -> Path:
    """The folder with a data set's files: those of a recording, or, without one, what `load` would take without a download.

    Raises FileNotFoundError, with the command that records them or the reason why none can, when they are not here.
    """
    dataset = find(name)
    if place is not None:
        if all(path.exists() for path in place.files.values()):
            return place.folder
        raise FileNotFoundError(f"There is no recording in {place.folder}; `{place.command}` records it.")
    if found := downloaded(dataset):
        return found
    if dataset.controller and (standard := Place(name, dataset.episodes)).files["train"].exists():
        return standard.folder
    raise FileNotFoundError(f"{name} is not on this machine; {_instead(dataset)}")


def _find(dataset, source, episodes, seed, dataset_dir):
    """Where a task's data come from, and the folder that holds them."""
    if dataset_dir is not None:
        return "dataset_dir", Path(dataset_dir).expanduser()
    if dataset.controller and source != "download":
        if episodes is None and source == "auto" and (published := downloaded(dataset)):
            return "downloaded", published
        place = Place(dataset.name, dataset.episodes if episodes is None else episodes, seed)
        if episodes is not None or source == "recorded" or place.files["train"].exists():
            return "recorded", folder_of(dataset.name, place)
    elif episodes is not None or source == "recorded":
        raise ValueError(dataset.why_not_recordable or f"A download has one size; got episodes={episodes}.")
    return "downloaded", downloaded(dataset) or _download(dataset)


def downloaded(dataset: DataSet) -> Path | None:
    """The folder that holds the published data, if they are on this machine."""
    if dataset.benchmark == "d4rl":
        return minari.locate(dataset)
    from ogbench.utils import DEFAULT_DATASET_DIR

    folder = Path(DEFAULT_DATASET_DIR).expanduser()
    files = (folder / f"{dataset.stem}.npz", folder / f"{dataset.stem}-val.npz")
    return folder if all(path.exists() for path in files) else None


def _download(dataset):
    """Downloads the published data with the benchmark's own means, and returns their folder."""
    try:
        if dataset.benchmark == "d4rl":
            return minari.download(dataset)
        from ogbench.utils import DEFAULT_DATASET_DIR, download_datasets

        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(PATIENCE)
        try:
            download_datasets([dataset.stem])
        finally:
            socket.setdefaulttimeout(patience)
        return Path(DEFAULT_DATASET_DIR).expanduser()
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or reason
        missing = f"{dataset.name} is not on this machine and cannot be downloaded ({str(reason).rstrip('.')})"
        raise FileNotFoundError(f"{missing}; {_instead(dataset)}") from error


def _instead(dataset):
    """What can be done without a download."""
    if not dataset.controller:
        return dataset.why_not_recordable
    here = [f"{place.episodes} episodes, seed {place.seed}" for place in recordings(dataset.name)]
    smaller = f" (recorded here in other sizes: {'; '.join(here)})" if here else ""
    return f"`{Place(dataset.name, dataset.episodes).command}` records it{smaller}."

"""Recording data sets with the scripted controllers that come with the environments, in the benchmarks' own files.

An episode depends on the seed, its split and its number alone, and not on how many processes record. Each one is saved as soon
as it ends, in a hidden folder beside the recording to be: a recording that was stopped or killed goes on where it was, and ends
with the same arrays.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from fdbook.data import controllers, pointmaze, simulators, workers
from fdbook.data.dose import Dose
from fdbook.data.files import LABEL, Place, read
from fdbook.data.tasks import DataSet, find
from fdbook.rl.environments import cores


if TYPE_CHECKING:
    import gymnasium


__all__ = ["RecordingStopped", "record"]

LAYOUT = 1
SPLITS = ("train", "validation")


class RecordingStopped(KeyboardInterrupt):
    """Ctrl-C during a recording; its message says how far it came and that it can be carried on."""


def _save(path: Path, write: Callable, work: Path, last: bool = True) -> None:
    """Has `write` fill a file under a temporary name in `work`, and puts it in its place whole; `last` waits for the disk."""
    temporary = work / f"{path.name}.{os.getpid()}.part"
    try:
        with open(temporary, "wb") as file:
            write(file)
            if last:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _about(place: Place) -> bytes:
    """What a recording is made from, as JSON."""
    versions = {package: importlib.metadata.version(package) for package in ("ogbench", "mujoco", "numpy")}
    numbers = {"episodes": int(place.episodes), "seed": int(place.seed)}
    dose = {} if place.dose is None else {"dose": place.dose.to_dict()}
    about = {"layout": LAYOUT, "name": place.name, **numbers, **dose, "versions": versions}
    return json.dumps(about, indent=2).encode()


@contextlib.contextmanager
def _alone(folder: Path, what: Path) -> Iterator[None]:
    """Holds a lock on a folder that ends with the process, however it ends; OSError when another process holds it.

    Where the system or the file system has no such locks, two recordings of one set at one time are not told apart.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            flock(handle, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"Another process is recording {what} now; wait until it is done.") from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def _module(dataset: DataSet):
    """Where a data set's environment, episodes and shards are made: OGBench's or D4RL's."""
    return controllers if dataset.benchmark == "ogbench" else pointmaze


class Workshop:
    """The hidden folder beside a recording to be, with a file for every episode that has ended.

    `dataset` stands in for the registry's entry, as for tests with short episodes.
    """

    def __init__(self, place: Place, dataset: DataSet | None = None):
        self.place = place
        self.dataset = place.dataset if dataset is None else dataset
        self.folder = place.folder.with_name(f".{place.folder.name}.unfinished")
        self.jobs = [(split, index) for split in place.sizes for index in range(place.sizes[split])]

    def shard(self, split: str, index: int) -> Path:
        """The file of one episode."""
        return self.folder / f"{split}-{index:06d}.npz"

    def progress(self) -> str:
        """How far it came."""
        saved = sum(self.shard(*job).exists() for job in self.jobs)
        return f"The recording of {self.place.name} stopped after {saved} of {len(self.jobs)} episodes"

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Makes the folder, lets nobody else in, and takes it away when the recording is finished."""
        self._make()
        with _alone(self.folder, self.place.folder):
            self._make()
            self._sort_out()
            yield
            self.remove()

    def remove(self) -> None:
        """Takes the folder away, if it is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self):
        """Finds out now, and not after the first episode, that the folder cannot be written to."""
        probe = self.folder / "probe.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(f"Cannot write into the folder {self.folder.parent}: {error.strerror}.") from error

    def _sort_out(self):
        """Keeps earlier episodes only if they were made from what this run is made from; takes half-written files away."""
        label, about = self.folder / LABEL, _about(self.place)
        with contextlib.suppress(OSError, ValueError):
            if label.read_bytes() == about:
                for path in self.folder.glob("*.part"):
                    path.unlink(missing_ok=True)
                return
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        _save(label, lambda file: file.write(about), self.folder)

    def missing(self) -> list[tuple[str, int]]:
        """The episodes that are not saved, or not soundly."""
        return [job for job in self.jobs if not _sound(functools.partial(self._read, self.shard(*job)))]

    def _read(self, path):
        return _module(self.dataset).read(path, self.dataset)

    def record(self, environment: "gymnasium.Env", split: str, index: int, tick: Callable) -> None:
        """Plays and saves one episode."""
        seeds = (self.place.seed, SPLITS.index(split), index)
        rows = _module(self.dataset).episode(self.dataset, environment, seeds, tick, self.place.dose)
        write = functools.partial(np.savez_compressed if self.dataset.pixels else np.savez, **rows)
        _save(self.shard(split, index), write, self.folder, last=False)

    def finish(self) -> None:
        """Puts the files of the recording in their place, each of them whole."""
        shards = {
            split: [self.shard(split, index) for index in range(size)] for split, size in self.place.sizes.items()
        }
        for paths in shards.values():
            for path in paths:
                self._read(path)
        if self.dataset.benchmark == "d4rl":
            pointmaze.finish(self.place, shards["train"], self.folder)
        else:
            self.place.folder.mkdir(exist_ok=True)
            for split, path in self.place.files.items():
                _save(self.folder / path.name, functools.partial(_join, shards[split], self.dataset), self.folder)
            for path in reversed(self.place.files.values()):  # training data last: where they are, all is
                os.replace(self.folder / path.name, path)
        _save(self.place.folder / LABEL, lambda file: file.write(_about(self.place)), self.folder)


def _join(shards: list[Path], dataset: DataSet, file) -> None:
    """Writes the arrays of all episodes, one after the other, into one npz file, with one episode in memory at a time."""
    method = zipfile.ZIP_DEFLATED if dataset.pixels else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as archive:
        for key, (row, dtype) in (dataset.arrays | {"terminals": ((), np.dtype(bool))}).items():
            shape = (len(shards) * dataset.steps, *row)
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for path in shards:
                    with np.load(path) as shard:
                        member.write(np.ascontiguousarray(shard[key]).data)


def _sound(read_it: Callable) -> bool:
    """Whether a file can be read: it is there, and it holds what it should."""
    with contextlib.suppress(OSError, ValueError):
        return bool(read_it())
    return False


def _finished(place: Place) -> bool:
    """Whether the recording is there, and sound."""
    if place.dataset.benchmark == "d4rl":
        return _sound(lambda: pointmaze.check(place))
    return all(
        _sound(lambda split=split: read(place.files[split], place.dataset, place.sizes[split])) for split in place.sizes
    )


def record(
    name: str,
    *,
    episodes: int | None = None,
    seed: int = 0,
    dose: Dose | Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Records `episodes` training episodes (None: as many as published), and for OGBench a tenth as many for validation.

    `dose` is the noise of its controller (None: as published). Returns the folder of the files. Nothing is done when the
    recording is there and sound; one that was stopped is carried on. `folder` stands in for the folder that holds every recording
    (`fdbook.data.files.root`). `workers` processes record at the same time (None: one for each core); the result does not depend
    on their number. Raises ValueError on an unknown name, one that cannot be recorded, a number out of range, or a dose that the
    data set cannot have; OSError when the folder cannot be written to, the disk is full, pictures cannot be rendered or a worker
    dies; RecordingStopped on Ctrl-C. In every case the episodes that have ended are kept.
    """
    dataset = find(name)
    if not dataset.controller:
        raise ValueError(dataset.why_not_recordable)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ValueError(
            f"A recording takes a number of workers that is a whole number of at least 1; got {workers!r}."
        )
    place = Place(dataset.name, dataset.episodes if episodes is None else episodes, seed, folder, dose)
    workshop = Workshop(place)
    if _finished(place):
        workshop.remove()
        return place.folder
    try:
        with workshop.open():
            _run(workshop, workers, progress)
    except KeyboardInterrupt:
        raise RecordingStopped(f"{workshop.progress()}; run the same command to carry on.") from None
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise
        raise OSError(f"{workshop.progress()} ({error.strerror}); run the same command to carry on.") from error
    return place.folder


def _run(workshop: Workshop, count: int | None, progress: bool) -> None:
    """Records what is missing under a bar that counts transitions, and finishes."""
    dataset, jobs = workshop.dataset, workshop.missing()
    total = len(workshop.jobs) * dataset.steps
    options = {"total": total, "initial": total - len(jobs) * dataset.steps, "unit": " rows", "unit_scale": True}
    count = min(cores() if count is None else count, max(1, len(jobs)))
    if dataset.pixels and jobs:
        simulators.prepare_pictures()
    with tqdm(desc=dataset.name, disable=not progress, **options) as bar:
        if count == 1 and not dataset.pixels:
            _record(workshop, jobs, bar.update)
        else:
            workers.run(Workshop.__module__, _order(workshop), jobs, count, bar.update)
    workshop.finish()


def _record(workshop, jobs, tick):
    """Records one episode after the other in this process."""
    environment = None
    for split, index in jobs:
        environment = environment or _module(workshop.dataset).environment(workshop.dataset)
        workshop.record(environment, split, index, tick)
    if environment is not None:
        environment.close()


def _order(workshop: Workshop) -> dict:
    """All that a worker must know, as JSON takes it."""
    place = workshop.place
    names = {
        "name": place.name,
        "episodes": int(place.episodes),
        "seed": int(place.seed),
        "steps": workshop.dataset.steps,
    }
    dose = None if place.dose is None else place.dose.to_dict()
    return names | {"base": None if place.base is None else str(place.base), "dose": dose}


def serve(order: dict, jobs: Iterator[tuple[str, int]], tick: Callable) -> None:
    """What a worker does (see `fdbook.data.workers`): records the episodes that it is given."""
    place = Place(order["name"], order["episodes"], order["seed"], order["base"], order["dose"])
    workshop = Workshop(place, dataclasses.replace(place.dataset, steps=order["steps"]))
    _record(workshop, jobs, tick)

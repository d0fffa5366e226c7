"""What is done with the cells of a sweep: their state on disk, running what is left of them, copies of their records."""

import collections
import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fdbook.checks import count
from fdbook.disk import check_writable, write_whole
from fdbook.experiment.engines import CARRY_ON, KILL, Engine, Event, Job
from fdbook.experiment.sweep import Cell, Sweep
from fdbook.rl import records
from fdbook.rl.train import TrainingInterrupted


__all__ = ["State", "copy_records", "last_score", "run_sweep", "seconds_left", "state", "states"]


@dataclasses.dataclass(frozen=True)
class State:
    """What a cell's folder says of it."""

    status: Literal["to do", "running", "stopped", "broken", "finished", "damaged", "another"]
    """That of its record: "running" too if its process was killed. "to do": there is none; "damaged": it cannot be read;
    "another": it is that of another specification."""
    done: int = 0
    """Updates so far, as far as they are recorded."""
    score: float | None = None
    """The mean over seeds of the last score."""
    pace: float | None = None
    """Seconds for an update so far, with evaluations."""
    note: str = ""


def state(cell: Cell) -> State:
    """The state of a cell on disk."""
    path = cell.folder / records.NAME
    if not path.exists():
        return State("to do")
    try:
        record = records.read(path)
    except ValueError as error:
        return State("damaged", note=str(error))
    if note := _differences(record, cell):
        return State("another", record.done, note=note)
    pace = sum(record.progress.wall.values()) / record.done if record.done else None
    return State(record.status, record.done, last_score(record), pace, record.note)


def last_score(record: records.Record) -> float | None:
    """The mean over seeds of the last evaluation's score, if there was one that has it."""
    scores = record.scores[-1].get("score") if record.scores else None
    return None if scores is None else float(np.mean(scores))


def states(sweep: Sweep) -> list[State]:
    """The state of every cell. Raises ValueError where a folder holds a run of another specification."""
    found = [state(cell) for cell in sweep.cells]
    others = [(cell, each) for cell, each in zip(sweep.cells, found, strict=True) if each.status == "another"]
    if others:
        (cell, each), more = others[0], len(others) - 1
        rest = f" ({count(more, 'other folder')} likewise)" if more else ""
        raise ValueError(
            f"{cell.folder} holds another run than the cell {cell.label}: {each.note}{rest}; say another out."
        )
    return found


def _differences(record: records.Record, cell: Cell) -> str:
    """What of a record is not as the cell's specification says."""
    asked = records.Record(cell.spec.to_dict(), {})
    pairs = dataclasses.replace(record, data={}).differing(asked)
    return "; ".join(f"{name} is {there!r} there and {here!r} here" for name, (there, here) in pairs.items())


def run_sweep(
    sweep: Sweep,
    engine: Engine,
    *,
    watch: Callable[[Event], None] = lambda event: None,
    say: Callable[[str], None] = print,
) -> dict[int, str]:
    """Runs the cells that are not finished, and returns why those that failed did, by their places in `sweep.cells`.

    Cells that were begun are carried on. A folder whose record is damaged is set aside under another name, and its cell begins
    anew. `watch` is shown what happens, with places in `sweep.cells`, and `say` is told what the reader should know.

    Raises ValueError for folders that hold other runs, OSError where nothing can be written, and TrainingInterrupted after Ctrl-C
    or SIGTERM: the cells that run save where they are, and the next call carries on. A second Ctrl-C kills them.
    """
    found = states(sweep)
    check_writable(sweep.out)
    for cell, each in zip(sweep.cells, found, strict=True):
        if each.status == "damaged":
            say(f"{each.note} It is kept as {_set_aside(cell.folder)}, and {cell.label} begins anew.")
    left = [place for place, each in enumerate(found) if each.status != "finished"]
    jobs = [Job(sweep.cells[place].spec.to_dict(), sweep.cells[place].folder) for place in left]
    failures: dict[int, str] = {}
    ended: set[int] = set()
    with _told(say) as told:
        for event in engine.run(jobs, told):
            if event is None:
                continue
            place = left[event.index]
            watch(dataclasses.replace(event, index=place))
            failures |= {place: event.note} if event.kind == "failed" else {}
            ended |= {place} if event.kind in ("finished", "failed") else set()
        if told() != CARRY_ON and ended != set(left):
            raise TrainingInterrupted(_what_is_left(sweep, left, ended, failures))
    return failures


def _what_is_left(sweep: Sweep, left: Sequence[int], ended: set[int], failures: Mapping[int, str]) -> str:
    finished = len(sweep.cells) - len(left) + len(ended - set(failures))
    failed = f", {len(failures)} failed" if failures else ""
    names = "; ".join(sweep.cells[place].label for place in left if place not in ended - set(failures))
    return f"Stopped: {finished} of {count(len(sweep.cells), 'cell')} finished{failed}; the same command carries on with {names}."


@contextlib.contextmanager
def _told(say: Callable[[str], None]) -> Iterator[Callable[[], int]]:
    """Within it, Ctrl-C and SIGTERM only leave word, and the function that it gives says what the engine is to do."""
    came: list[int] = []

    def hear(number, frame):
        came.append(number)
        if len(came) == 1:
            say("Stopping: the cells that run save where they are. Ctrl-C again kills them.")

    old = {}
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGINT, signal.SIGTERM):
            old[name] = signal.signal(name, hear)
    try:
        yield lambda: min(len(came), KILL)
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)


def _set_aside(folder: Path) -> Path:
    """Gives a folder another name, which is returned."""
    numbers = (folder.with_name(f"{folder.name}.damaged-{number}") for number in range(1, 10_000))
    place = next(path for path in numbers if not path.exists())
    os.replace(folder, place)
    return place


def copy_records(sweep: Sweep, folder: str | Path) -> list[Path]:
    """Copies the records of finished cells to FOLDER/NAME/record.json, and returns the copies.

    Raises what `states` does, and OSError.
    """
    folder, copies = Path(folder), {}
    for cell, each in zip(sweep.cells, states(sweep), strict=True):
        if each.status == "finished":
            copies[folder / cell.name / records.NAME] = (cell.folder / records.NAME).read_bytes()
    for path in copies:
        check_writable(path.parent)
    write_whole(copies)
    return list(copies)


def seconds_left(
    sweep: Sweep, done: Sequence[int], paces: Mapping[int, float], jobs: int, over: set[int]
) -> float | None:
    """About how long the rest takes, or None where nothing is left, and while nothing is known of any pace.

    `done` updates of each cell, `paces` of some in seconds for an update, `over` the cells that ended. A cell whose pace is not
    known is taken to be as fast as the others of its method on its task, else of its method, else as all of them in the mean.
    """
    if not paces or len(over) == len(sweep.cells):
        return None
    known = collections.defaultdict(list)
    for place, pace in paces.items():
        for key in _keys(sweep.cells[place]):
            known[key].append(pace)
    total = 0.0
    for place, cell in enumerate(sweep.cells):
        if place not in over:
            alike = next(known[key] for key in _keys(cell) if key in known)
            total += (cell.spec.total_updates - done[place]) * paces.get(place, float(np.mean(alike)))
    return total / jobs


def _keys(cell: Cell) -> tuple[tuple[str, ...], ...]:
    return (cell.spec.task.name, cell.spec.method), (cell.spec.method,), ()

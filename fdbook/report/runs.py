"""Run records as tables and figures take them: found in folders, and joined where they are seeds of one run."""

from collections.abc import Iterable
from pathlib import Path

from fdbook.rl import records
from fdbook.rl.records import Record


__all__ = ["find", "grouped", "progress"]


def find(places: Iterable[str | Path]) -> dict[Path, Record]:
    """The records in folders, however deep, and in files that are records themselves, by the folders that they lie in.

    A record that is found twice is there once. Raises FileNotFoundError for a place that is not there or has no record, and
    ValueError for a damaged record.
    """
    found: dict[Path, Record] = {}
    for place in map(Path, places):
        files = sorted(place.rglob(records.NAME)) if place.is_dir() else [place]
        if not files:
            raise FileNotFoundError(f"There is no run record in {place}, nor in the folders below it.")
        known = {path.resolve() for path in found}
        found |= {path.parent: records.read(path) for path in files if path.parent.resolve() not in known}
    return found


def progress(record: Record) -> str:
    """How a run ended, as in "stopped after 500 of 1,000 updates"."""
    return f"{record.status} after {record.done:,} of {record.updates:,} updates"


def grouped(result: Iterable[Record]) -> dict[str, dict[str, list[Record]]]:
    """The records by task and method. Raises ValueError where two of a method differ in more than their seeds."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in result:
        groups.setdefault(record.task, {}).setdefault(record.method, []).append(record)
    for task, methods in groups.items():
        for name, several in methods.items():
            seeds = [seed for record in several for seed in record.seeds]
            others = sorted({part for record in several for part in _differences(several[0], record)})
            if others or len(set(seeds)) < len(seeds):
                why = f"they differ in {', '.join(others)}" if others else f"they share a seed ({seeds})"
                raise ValueError(f"The records of {name} on {task} are not seeds of one run: {why}.")
    return groups


def _differences(record: Record, other: Record) -> list[str]:
    """The parts of two specifications that differ, apart from the seeds."""
    here, there = record.identity(), other.identity()
    return [part for part in here | there if part != "seeds" and here.get(part) != there.get(part)]

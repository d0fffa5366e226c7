"""Run records as tables and figures take them: found in folders, and joined where they are seeds of one run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fdbook.checks import count
from fdbook.rl import records
from fdbook.rl.records import Progress, Record


__all__ = ["find", "grouped", "joined", "progress"]


def find(places: Iterable[str | Path]) -> dict[Path, Record]:
    """The records in folders, however deep, and in files that are records themselves.

    They go by the folders that they lie in, those in files of another name than record.json by their files. A record that is
    found twice is there once. Raises FileNotFoundError for a place that is not there or has no record, and
    ValueError for a damaged record.
    """
    found: dict[Path, Record] = {}
    for place in map(Path, places):
        files = sorted(place.rglob(records.NAME)) if place.is_dir() else [place]
        if not files:
            raise FileNotFoundError(f"There is no run record in {place}, nor in the folders below it.")
        known = {path.resolve() for path in found}
        named = {path.parent if path.name == records.NAME else path: path for path in files}
        found |= {name: records.read(path) for name, path in named.items() if name.resolve() not in known}
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
            if why := _why_apart(several):
                raise ValueError(f"The records of {name} on {task} are not seeds of one run: {why}.")
    return groups


def joined(found: Mapping[Path, Record] | Mapping[str, Record]) -> dict[str, Record]:
    """The records by name, finished ones that are seeds of one run as one record of all these seeds, without its curves.

    Where all of them are seeds of one run they stay apart, so that they can be compared.
    """
    groups: list[dict[Path | str, Record]] = []
    for name, record in found.items():
        home = next((group for group in groups if _are_one([*group.values(), record])), None)
        if home is None:
            groups.append(home := {})
        home[name] = record
    if len(groups) < 2:
        return {str(name): record for name, record in found.items()}
    return {_name(list(group)): _as_one(list(group.values())) for group in groups}


def _are_one(several: Sequence[Record]) -> bool:
    """Whether finished records of one method are seeds of one run, evaluated alike."""
    same = len({(record.method, len(record.scores), record.status == "finished") for record in several}) == 1
    return same and several[0].status == "finished" and not _why_apart(several)


def _name(names: Sequence[Path | str]) -> str:
    return str(names[0]) + (f" and {count(len(names) - 1, 'other')}" if len(names) > 1 else "")


def _as_one(several: Sequence[Record]) -> Record:
    """One record of all seeds."""
    first, rows = several[0], zip(*(record.scores for record in several), strict=True)
    if len(several) == 1:
        return first
    scores = [
        {"step": row[0]["step"]}
        | {key: [value for item in row for value in item[key]] for key in row[0] if key != "step" and _in_all(key, row)}
        for row in rows
    ]
    note = " ".join(dict.fromkeys(record.note for record in several if record.note))
    spec = first.spec | {"seeds": [seed for record in several for seed in record.seeds]}
    return Record(spec, first.data, first.status, note, Progress(done=first.done, scores=scores))


def _in_all(key: str, row: Sequence[Mapping]) -> bool:
    return all(key in item for item in row)


def _why_apart(several: Sequence[Record]) -> str:
    """Why records of one task and method are not seeds of one run; empty where they are."""
    seeds = [seed for record in several for seed in record.seeds]
    others = sorted({part for record in several for part in several[0].differing(record)} - {"seeds"})
    if others:
        return f"they differ in {', '.join(others)}"
    return f"they share a seed ({seeds})" if len(set(seeds)) < len(seeds) else ""

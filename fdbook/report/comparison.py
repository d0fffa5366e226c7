"""Runs of one task against the first of them: what differs in their specifications, and by how much their scores do."""

import dataclasses
import math
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fdbook.checks import count
from fdbook.report import statistics
from fdbook.report.runs import progress
from fdbook.rl import records
from fdbook.rl.records import Record


__all__ = ["Comparison", "Difference", "compare", "describe"]

WIDTH = 120
Differ = Callable[[Record, Record], dict[str, tuple[Any, Any]]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A run against the first."""

    specification: Mapping[str, tuple[Any, Any]]
    """By dotted names, the value of the first run and the value of this one; None where there is none."""
    unrecorded: tuple[str, ...]
    """Settings that only one of the two records has; the other is older, and today's default was filled in."""
    score: float
    """The mean score over seeds, less that of the first run; NaN where one has none."""
    low: float
    """The lower end of its 95% bootstrap interval; NaN where a run has one seed."""
    high: float
    unpaired: str = ""
    """Why seeds are not paired, as in "seeds differ"; empty where differences of each seed were taken."""

    @property
    def paired(self) -> bool:
        """Whether the two share their seeds and the episodes that these are evaluated in."""
        return not self.unpaired


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs of one task, by name, and how all but the first differ from it."""

    runs: Mapping[str, Record]
    differences: Mapping[str, Difference]

    @property
    def task(self) -> str:
        """The task of all runs."""
        return next(iter(self.runs.values())).task


def _as_written(here: Record, there: Record) -> dict[str, tuple[Any, Any]]:
    return records.differences(here.spec, there.spec)


def compare(runs: Mapping[Path, Record] | Mapping[str, Record], *, differ: Differ = _as_written) -> Comparison:
    """Compares runs, by the names of their folders, with the first.

    `differ` says what differs between two specifications: `fdbook.experiment.differences` knows today's defaults, what is used
    without it compares the records as they are written. Scores are those of `Record.score`; of runs with the same seeds and the
    same number of evaluation episodes, which begin alike, the differences of each seed are resampled, of others the two lists of
    seeds independently.

    Raises ValueError for fewer than two runs, and for runs of different tasks or kinds of score.
    """
    named = {str(name): record for name, record in runs.items()}
    if len(named) < 2:
        raise ValueError(f"A comparison takes at least two different runs; got {', '.join(named) or 'none'}.")
    (first, reference), *others = named.items()
    for name, record in others:
        if record.task != reference.task:
            raise ValueError(
                f"Runs of one task are compared; {first} is of {reference.task} and {name} of {record.task}."
            )
        if record.score_kind != reference.score_kind:
            kinds = f"that of {first} is {reference.score_kind}, that of {name} {record.score_kind}"
            raise ValueError(f"Runs with one kind of score are compared; {kinds}.")
    return Comparison(named, {name: _difference(reference, record, differ) for name, record in others})


def _difference(first: Record, other: Record, differ: Differ) -> Difference:
    found = dict(differ(first, other))
    data = tuple(record.data.get("fingerprint") for record in (first, other))
    if data[0] != data[1]:
        found["data with the fingerprint"] = data
    unrecorded = () if first.agent != other.agent else _unrecorded(first, other, found)
    unpaired = _why_unpaired(first, other)
    return Difference(found, unrecorded, *_score_difference(first, other, not unpaired), unpaired)


def _why_unpaired(first: Record, other: Record) -> str:
    """Why the seeds of two runs are not paired; empty where they are."""
    different = {
        "seeds": sorted(first.seeds) != sorted(other.seeds),
        "episodes": first.spec["episodes"] != other.spec["episodes"],
    }
    return (
        f"{' and '.join(word for word, differ in different.items() if differ)} differ"
        if any(different.values())
        else ""
    )


def _unrecorded(first: Record, other: Record, found: Mapping[str, tuple[Any, Any]]) -> tuple[str, ...]:
    """The settings that one of two records of an agent lacks, and that were filled in."""
    lacking = records.flatten({"config": first.config}).keys() ^ records.flatten({"config": other.config}).keys()
    return tuple(sorted(name for name in lacking if None not in found.get(name, ())))


def _scores(record: Record) -> np.ndarray:
    """Its score for each seed, in the order of the seeds; none where it has none."""
    try:
        return np.asarray(record.score(), float)[np.argsort(record.seeds)]
    except ValueError:
        return np.array([])


def _score_difference(first: Record, other: Record, paired: bool) -> tuple[float, float, float]:
    """The difference of the mean scores, and the ends of its interval."""
    here, there = _scores(first), _scores(other)
    if not here.size or not there.size:
        return math.nan, math.nan, math.nan
    task = first.task
    if paired:
        low, high = statistics.bootstrap_interval(statistics.mean, {task: there - here})
    else:
        low, high = statistics.bootstrap_interval(
            lambda x, y: statistics.mean(y) - statistics.mean(x), {task: here}, {task: there}
        )
    return float(there.mean() - here.mean()), float(low), float(high)


def describe(comparison: Comparison) -> str:
    """The comparison in lines: the runs with their scores, and for each but the first what differs."""
    rows = [_row(place, name, record) for place, (name, record) in enumerate(comparison.runs.items(), 1)]
    kind = next(iter(comparison.runs.values())).score_kind
    lines = [f"{comparison.task}: {kind}, the mean of the last three evaluations, ± standard deviation over seeds", ""]
    lines += [*_aligned(rows), *_note_lines(comparison)]
    for place, (name, difference) in enumerate(comparison.differences.items(), 2):
        lines += ["", f"{place} against 1: {_score_words(difference, comparison.runs[name])}"]
        lines += _specification_lines(difference, place)
    return "\n".join([*lines, *_caution_lines(comparison)])


def _note_lines(comparison: Comparison) -> list[str]:
    """What the records note, each note once, with the places of the runs that have it."""
    notes: dict[str, list[str]] = {}
    for place, record in enumerate(comparison.runs.values(), 1):
        notes.setdefault(record.note, []).append(str(place))
    told = [f"note of {', '.join(places)}: {note}" for note, places in notes.items() if note]
    return ["", *(line for text in told for line in _wrapped(text))] if told else []


def _caution_lines(comparison: Comparison) -> list[str]:
    """What few seeds do to the intervals, where there are some."""
    first = len(next(iter(comparison.runs.values())).seeds)
    sizes = {
        (min(first, len(comparison.runs[name].seeds)), difference.paired)
        for name, difference in comparison.differences.items()
        if not math.isnan(difference.low)
    }
    told = [statistics.caution(seeds, alone=paired) for seeds, paired in sorted(sizes)]
    return (
        ["", *(line for text in told if text for line in _wrapped(f"{text[0].upper()}{text[1:]}."))]
        if any(told)
        else []
    )


def _wrapped(text: str, indent: str = "") -> list[str]:
    rest = {"initial_indent": indent, "subsequent_indent": f"{indent}  ", "break_on_hyphens": False}
    return textwrap.wrap(text, WIDTH, **rest)


def _specification_lines(difference: Difference, place: int) -> list[str]:
    """What differs, a line each; the settings that only one of two agents knows are told together."""
    if not difference.specification and not difference.unrecorded:
        return ["  nothing differs in the specifications"]
    pairs, own = dict(sorted(difference.specification.items())), ([], [])
    for name, values in list(pairs.items()) if "agent" in pairs else []:
        if None in values:
            own[values.index(None)].append(
                f"{name} {_value(next(each for each in pairs.pop(name) if each is not None))}"
            )
    lines = _aligned([("", name, _value(here), "->", _value(there)) for name, (here, there) in pairs.items()])
    sentences = [
        f"only {number} has {'; '.join(names)}" for number, names in zip((place, 1), own, strict=True) if names
    ]
    if difference.unrecorded:
        sentences.append(
            f"today's default is filled in where a record is older than {', '.join(difference.unrecorded)}"
        )
    return lines + [line for sentence in sentences for line in _wrapped(sentence, "  ")]


def _row(place: int, name: str, record: Record) -> tuple[str, ...]:
    scores, seeds = _scores(record), ", ".join(map(str, record.seeds))
    text = f"{scores.mean():.1f}" if scores.size else "no score"
    text += f" ± {scores.std(ddof=1):.1f}" if scores.size > 1 else ""
    word = f"{'seed' if len(record.seeds) == 1 else 'seeds'} {seeds}"
    return str(place), name, record.method, word, text, "" if record.status == "finished" else progress(record)


def _score_words(difference: Difference, record: Record) -> str:
    if math.isnan(difference.score):
        return "one of the two has no score"
    pairs = f"paired by seed, {count(len(record.seeds), 'pair')}"
    how = pairs if difference.paired else f"{difference.unpaired}, not paired"
    if math.isnan(difference.low):
        return f"score {difference.score:+.1f}, no interval with one seed ({how})"
    return (
        f"score {difference.score:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}] (95% bootstrap interval, {how})"
    )


def _value(value: Any) -> str:
    """A value of a specification; a dash for none."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows whose columns begin below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]

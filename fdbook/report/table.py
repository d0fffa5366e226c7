"""The table of a benchmark: tasks against methods, from run records, with published numbers beside ours.

`make` computes it, `FORMATS` writes it down. Ours and the published numbers are never in one column, and the caption says what
differs from the published protocol.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fdbook.checks import count, unknown
from fdbook.report import published as facts_of
from fdbook.report import statistics
from fdbook.report.runs import grouped, progress
from fdbook.rl.records import Record


__all__ = ["SHOWN", "Cell", "Table", "make"]

SHOWN = ("same", "all", "none")
"""Which published numbers are shown: of the methods that are in the table, of all, or none."""
AGGREGATE = "IQM of "
KINDS = {"success": "success in percent", "normalized return": "normalized return in percent", "return": "return"}
"""Kinds of score, in words."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number with its uncertainty; what is not known is NaN, or 0 seeds."""

    mean: float
    std: float = math.nan
    """The sample standard deviation over seeds."""
    seeds: int = 0
    low: float = math.nan
    """The lower end of the interval of a statistic over tasks."""
    high: float = math.nan
    decimals: int = 1
    """Those that are shown."""

    @property
    def text(self) -> str:
        """As in 81.3 ± 2.1 (3), with the number of seeds, or 81.3 [78.0, 84.2], with an interval."""
        mean, std, low, high = (f"{value:.{self.decimals}f}" for value in (self.mean, self.std, self.low, self.high))
        text = mean if math.isnan(self.std) else f"{mean} ± {std}"
        text += "" if math.isnan(self.low) else f" [{low}, {high}]"
        return text + (f" ({self.seeds})" if self.seeds else "")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows, columns and the cells that are not empty."""

    rows: tuple[str, ...]
    """The tasks, and at the end the aggregate, if there is one."""
    ours: tuple[str, ...]
    """The columns of our methods."""
    published: tuple[str, ...]
    """The columns of published numbers."""
    cells: Mapping[tuple[str, str], Cell]
    """By row and column."""
    caption: str
    left_out: tuple[str, ...]
    """The runs that are not in it, each with the reason."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, ours first."""
        return self.ours + self.published

    @property
    def aggregate(self) -> str | None:
        """The last row, if it is no task."""
        return self.rows[-1] if self.rows[-1].startswith(AGGREGATE) else None


def make(runs: Mapping[Path, Record] | Mapping[str, Record], *, published: str = "same") -> Table:
    """The table of run records, by the names of their folders, as `fdbook.report.runs.find` gives them.

    A cell is the mean and the sample standard deviation over seeds of `Record.score`. Unfinished runs, and those without a
    score, are left out. `published` is one of `SHOWN`.

    Raises ValueError when records of one method and task are not seeds of one run, when those of one task have several kinds of
    score, or when no run is left to show.
    """
    if published not in SHOWN:
        raise ValueError(unknown("choice of published numbers", published, SHOWN))
    left_out = {name: why for name, record in runs.items() if (why := _why_not(record))}
    told = tuple(f"{name} is left out: {why}" for name, why in left_out.items())
    groups = grouped(record for name, record in runs.items() if name not in left_out)
    if not groups:
        raise ValueError(f"No finished run with a score is there to show; {'; '.join(told) or 'no record was given'}.")
    groups = {task: groups[task] for task in sorted(groups)}
    kinds = {task: _kind(task, methods) for task, methods in groups.items()}
    scores = {
        (task, method): np.concatenate([record.score() for record in several])
        for task, methods in groups.items()
        for method, several in methods.items()
    }
    methods = sorted({method for _, method in scores}, key=_order)
    cells = {place: _cell(values) for place, values in scores.items()}
    row, common = _aggregate(scores, [task for task in groups if kinds[task] != "return"], methods)
    facts = _facts(list(groups), methods, published)
    for fact, task in facts:
        cells[task, fact.column] = Cell(fact.mean, fact.std, decimals=0)
    columns = tuple(dict.fromkeys(fact.column for fact, _ in facts))
    caption = _caption(groups, facts, scores, common)
    return Table((*groups, *{place[0]: None for place in row}), tuple(methods), columns, cells | row, caption, told)


def _why_not(record: Record) -> str:
    """Why a run is not in the table; empty for one that is."""
    if record.status != "finished":
        return progress(record)
    try:
        record.score()
    except ValueError:
        return "it has no score"
    return ""


def _kind(task: str, methods: Mapping[str, Sequence[Record]]) -> str:
    """The kind of score of a task's records."""
    kinds = sorted({record.score_kind for several in methods.values() for record in several})
    if len(kinds) > 1:
        raise ValueError(
            f"The records of {task} have scores of several kinds, which do not compare: {', '.join(kinds)}."
        )
    return kinds[0]


def _order(method: str) -> tuple[int, str]:
    names, agent = list(facts_of.METHODS), method.split()[0]
    return (names.index(agent) if agent in names else len(names)), method


def _cell(values: np.ndarray) -> Cell:
    std = float(np.std(values, ddof=1)) if values.size > 1 else math.nan
    return Cell(float(np.mean(values)), std, values.size)


def _aggregate(scores, tasks, methods) -> tuple[dict[tuple[str, str], Cell], list[str]]:
    """The cells of the interquartile mean over those of the tasks that all methods have, and these tasks."""
    common = [task for task in tasks if all((task, method) in scores for method in methods)]
    if not common:
        return {}, common
    row = f"{AGGREGATE}{count(len(common), 'common task' if len(methods) > 1 else 'task')}"
    cells = {}
    for method in methods:
        own = {task: scores[task, method] for task in common}
        low, high = statistics.bootstrap_interval(statistics.interquartile_mean, own)
        cells[row, method] = Cell(float(statistics.interquartile_mean(own)), low=float(low), high=float(high))
    return cells, common


def _facts(tasks: Sequence[str], methods: Sequence[str], which: str) -> list:
    """The published numbers to show, each with the task that it is shown at."""
    names = {facts_of.METHODS.get(method.split()[0]) for method in methods}
    shown = [fact for fact in facts_of.facts() if which == "all" or (which == "same" and fact.method in names)]
    return [(fact, task) for fact in shown for task in tasks if fact.on(task)]


def _caption(groups, facts, scores, common: list[str]) -> str:
    cells = [several for methods in groups.values() for several in methods.values()]
    kinds = sorted({several[0].score_kind for several in cells}, reverse=True)
    sentences = [
        f"Scores are means of a run's last three evaluations ({', '.join(KINDS[kind] for kind in kinds)}); shown are their "
        "mean ± sample standard deviation over seeds, and the number of seeds in parentheses."
    ]
    sentences += [_about_aggregate(scores, common, kinds), *_about_published(facts), *_about_runs(cells)]
    return " ".join(sentences)


def _about_aggregate(scores, common: list[str], kinds: list[str]) -> str:
    percent = " whose score is in percent" if "return" in kinds else ""
    if not common:
        return f"No task{percent} has all our methods, so that there is no mean over tasks."
    fewest = min(values.size for (task, _), values in scores.items() if task in common)
    told = f"; with {fewest} seeds it is too narrow" if 1 < fewest < statistics.ENOUGH else ""
    return (
        f"IQM: interquartile mean over the seeds of the tasks{percent} that all our methods have, with its 95% interval "
        f"(stratified bootstrap) where each task has two seeds or more{told}."
    )


def _about_published(facts) -> list[str]:
    if not facts:
        return []
    sources = "; ".join(dict.fromkeys(fact.source for fact, _ in facts))
    sentences = [f"Published numbers stand in columns of their own, copied from: {sources}."]
    if several := sorted({fact.tasks for fact, _ in facts} - {1}):
        sentences.append(
            f"A published column of {several[0]} tasks has the mean of the tasks of a data set at each of them."
        )
    return sentences


def _about_runs(cells: Sequence[Sequence[Record]]) -> list[str]:
    """How the runs were made, and what of it differs from the published protocol."""
    known = [several for several in cells if facts_of.protocol(several[0]) is not None]
    own = [several for several in cells if several not in known]
    sentences = []
    if known:
        different = "; ".join(facts_of.deviations(known))
        where = " on the papers' tasks" if own else ""
        sentences.append(
            f"What differs from the published protocol in our runs{where}: {different}."
            if different
            else f"In seeds, updates, evaluations and data our runs{where} follow the published protocol."
        )
    if any(several[0].task.startswith("D4RL/") for several in known):
        sentences.append("D4RL is Minari's here, whose scores and those published on the old D4RL do not compare.")
    if own:
        sentences.append(f"Our runs on tasks that the papers do not have: {'; '.join(facts_of.conditions(own))}.")
    every = [record for several in cells for record in several]
    for note in dict.fromkeys(record.note for record in every if record.note):
        told = sum(record.note == note for record in every)
        sentences.append(f"Noted in {told} of {count(len(every), 'record')}: {note.rstrip('.')}.")
    return sentences

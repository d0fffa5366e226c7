"""Numbers that papers published on OGBench's tasks, with their sources, and how the runs behind them differ from ours.

The numbers are facts from the papers' tables, in published.csv: of one task, or the mean of a category of tasks where nothing
finer was found. Those on the old D4RL are left out: D4RL is Minari's here, whose scores do not compare.
"""

import csv
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources

from fdbook.rl.records import LAST, Record


__all__ = ["METHODS", "PROTOCOL", "Fact", "conditions", "deviations", "facts", "protocol"]

METHODS = {
    "bc": "BC",
    "iql": "IQL",
    "rebrac": "ReBRAC",
    "ifql": "IFQL",
    "fql": "FQL",
    "deflow": "DeFlow",
    "fidec": "FiDec",
}
"""The agents, in the order of a table's columns, and what papers call them."""
PROTOCOL = {"seeds": 8, "updates": 1_000_000, "apart": 100_000, "episodes": 50}
"""Of FQL, and of the papers that follow it: states, OGBench's own data, mean of the last three evaluations so far apart."""
PIXELS = {"seeds": 4, "updates": 500_000}
"""What differs where observations are pictures."""
D4RL = {"updates": 500_000, "apart": 0}
"""What differs in D4RL, where the last evaluation alone counts."""


@dataclasses.dataclass(frozen=True)
class Fact:
    """One published score, in percent."""

    task: str
    """A task, or a category of them."""
    tasks: int
    """How many tasks the number is the mean of."""
    method: str
    mean: float
    std: float
    """NaN where none was published."""
    source: str

    @property
    def column(self) -> str:
        """The heading of the column that it belongs to: the method, the source, and that it is a mean of several tasks."""
        short = re.sub(r" \([^)]*\)", "", self.source)
        return f"{self.method} ({short}{f', {self.tasks} tasks' if self.tasks > 1 else ''})"

    def on(self, task: str) -> bool:
        """Whether it says something of a task: of it, or of its category."""
        return self.task == (task.partition("-singletask")[0] if self.tasks > 1 else task)


@functools.cache
def facts() -> tuple[Fact, ...]:
    """All published numbers, in the order of `METHODS`."""
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    rows = [
        row | {"tasks": int(row["tasks"]), "mean": float(row["mean"]), "std": float(row["std"] or "nan")}
        for row in csv.DictReader(text.splitlines())
    ]
    order = list(METHODS.values())
    return tuple(sorted((Fact(**row) for row in rows), key=lambda fact: (order.index(fact.method), fact.tasks)))


def protocol(record: Record) -> dict[str, int] | None:
    """What `PROTOCOL` names, as the papers have it on the task of a run; None for a task that is in none of their tables.

    "apart" is 0 where they take the last evaluation alone.
    """
    if "options" in record.spec["task"]:  # a task of one's own
        return None
    if record.task.startswith("D4RL/"):
        return None if record.task.startswith("D4RL/pointmaze/") else PROTOCOL | D4RL
    if not any(fact.tasks == 1 and fact.on(record.task) for fact in facts()):
        return None
    return PROTOCOL | (PIXELS if record.task.startswith("visual-") else {})


def conditions(groups: Iterable[Sequence[Record]]) -> list[str]:
    """How finished runs were made, a phrase each, from their records; one group for each cell."""
    groups = [list(group) for group in groups]
    every = [record for group in groups for record in group]
    measured = [
        f"{_span(values)} {_noun(name, values)}" for name, values in _measured(groups).items() if name != "apart"
    ]
    return [*_settings(every, usual=""), *_data(every), *measured, *_short(every)]


def deviations(groups: Iterable[Sequence[Record]]) -> list[str]:
    """What differs from the published protocol, a phrase each, from the records of finished runs; one group for each cell.

    Runs of tasks that the papers do not have say nothing here.
    """
    groups = [list(group) for group in groups]
    told = [(group, wanted) for group in groups if (wanted := protocol(group[0])) is not None]
    groups, protocols = [group for group, _ in told], [wanted for _, wanted in told]
    every = [record for group in groups for record in group]
    phrases = [*_settings(every), *_data(every)]
    for name, values in _measured(groups).items():
        pairs = list(zip(values, (wanted[name] for wanted in protocols), strict=True))
        pairs = [(value, want) for value, want in pairs if want and value < math.inf]
        if any(value != want for value, want in pairs):
            ours, wanted = zip(*pairs, strict=True)
            phrases.append(f"{_span(ours)} {_noun(name, ours)} (published: {_span(wanted)})")
    if any(not wanted["apart"] and len(group[0].scores) > 1 for group, wanted in told):
        phrases.append("in D4RL the mean of the last three evaluations (published: the last alone)")
    return phrases + _short([record for group, wanted in told if wanted["apart"] for record in group])


def _measured(groups: Sequence[Sequence[Record]]) -> dict[str, list[int | float]]:
    """What `PROTOCOL` names, of each group."""
    return {
        "seeds": [sum(len(record.seeds) for record in group) for group in groups],
        "updates": [group[0].updates for group in groups],
        "apart": [_apart(group[0]) for group in groups],
        "episodes": [group[0].spec["episodes"] for group in groups],
    }


def _noun(name: str, values: Iterable[int | float]) -> str:
    """What comes after the values of `_measured`."""
    noun = {"seeds": "seed", "updates": "update", "apart": "update", "episodes": "episode"}[name]
    rest = {"apart": " between the last evaluations", "episodes": " an evaluation"}.get(name, "")
    return f"{noun}{'' if set(values) == {1} else 's'}{rest}"


def _short(every: list[Record]) -> list[str]:
    """Which runs have fewer evaluations than a score takes."""
    short = [len(record.scores) for record in every if len(record.scores) < LAST]
    noun = "evaluation" if set(short) == {1} else "evaluations"
    return [f"the mean of {_span(short)} {noun} only in {len(short)} of {len(every)} runs"] if short else []


def _settings(every: list[Record], usual: str = "paper") -> list[str]:
    """The presets but the usual one, and the settings that were said."""
    presets = sorted({str(record.spec["preset"]) for record in every} - {usual})
    phrases = [f"the preset{'s' if len(presets) > 1 else ''} {', '.join(presets)}"] if presets else []
    told = {name for record in every for name in record.spec.get("overrides") or ()}
    told = sorted(name.removeprefix("config.") for name in told - {"updates", "evaluations", "episodes", "metric"})
    return phrases + ([f"settings of our own ({', '.join(told)})"] if told else [])


def _data(every: list[Record]) -> list[str]:
    words = {"recorded": "data recorded anew", "own": "data of one's own", "dataset_dir": "data from a given folder"}
    sources = sorted({record.data.get("source") or "unknown" for record in every} - {"downloaded"})
    phrases = [words.get(source, f"data from a source that is {source}") for source in sources]
    told = sorted({name for record in every for name in record.spec.get("data") or ()} - {"source", "dataset_dir"})
    return phrases + ([f"data that differ from the standard ones in {', '.join(told)}"] if told else [])


def _apart(record: Record) -> int | float:
    """The largest number of updates between two of the last evaluations that a score is made of; infinite for one only."""
    steps = [item["step"] for item in record.scores[-LAST:]]
    return max((after - before for before, after in itertools.pairwise(steps)), default=math.inf)


def _span(values: Sequence[int | float]) -> str:
    """The finite values, as 3 or 1 to 3."""
    finite = [value for value in values if value < math.inf]
    low, high = min(finite), max(finite)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"

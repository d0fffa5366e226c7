"""What `fdbook data list` prints: the data sets with the settings of their tasks, and all that is known of one."""

import textwrap
from collections.abc import Sequence

from fdbook.data import load, tasks
from fdbook.data.tasks import DataSet, Task


__all__ = ["details", "table"]

HEADINGS = ("data set", "obs", "act", "tasks", "steps", "discount", "target", "alpha", "budget", "size", "here")


def _tasks_of(dataset: DataSet) -> list[Task]:
    return [task for task in tasks.TASKS.values() if task.dataset is dataset]


def _size(dataset: DataSet) -> str:
    """The published number of transitions, or a dash where the registry does not fix it."""
    if dataset.episodes is None:
        return "-"
    millions = dataset.episodes * dataset.transitions_per_episode / 1e6
    return f"{millions:g}M"


def _here(dataset: DataSet) -> str:
    """What of it is on this machine, in a word or two."""
    result = ["download"] if load.downloaded(dataset) else []
    places = load.recordings(dataset.name)
    sizes = sorted({place.episodes for place in places if place.dose is None}, reverse=True)
    doses = sum(place.dose is not None for place in places)
    more = [f"{doses} of another dose"] if doses else []
    return ", ".join(result + [f"{size} episodes" for size in sizes] + more) or "-"


def _doses(dataset: DataSet) -> str:
    """The recordings of another dose than the published one, as they are recorded again."""
    return "; ".join(f"`{place.command}`" for place in load.recordings(dataset.name) if place.dose is not None)


def table(*, recordable_only: bool = False, parts: Sequence[str] = ()) -> str:
    """One line for each data set, with `parts` for each whose name holds one, in groups, with what its tasks share, and notes."""
    rows, groups = [], {}
    for dataset in tasks.DATASETS.values():
        first, *_ = tasks_here = _tasks_of(dataset)
        if recordable_only and not dataset.controller:
            continue
        if parts and not any(part.lower() in dataset.name.lower() for part in parts):
            continue
        width = "pixels" if dataset.pixels else str(dataset.observation[0])
        settings = (f"{first.discount:g}", first.q_agg, f"{first.fql_alpha:g}", f"{first.budget:g}")
        name = f"{dataset.name}{' *' if dataset.controller else ''}"
        rows.append(
            (
                name,
                width,
                str(dataset.action),
                str(len(tasks_here)),
                str(first.horizon),
                *settings,
                _size(dataset),
                _here(dataset),
            )
        )
        groups[name] = first.group
    order = list(dict.fromkeys(groups.values()))
    rows.sort(key=lambda row: order.index(groups[row[0]]))
    widths = [max(len(row[column]) for row in (HEADINGS, *rows)) for column in range(len(HEADINGS))]
    lines, before = [], None
    for row in (HEADINGS, *rows):
        if row is not HEADINGS and groups[row[0]] != before:
            before = groups[row[0]]
            lines.append(f"-- {before}")
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
        ]
        lines.append("  ".join([*cells, row[-1]]))
    papers = sum(task.settings_from == "papers" for task in tasks.TASKS.values())
    notes = (
        "* can be recorded anew without a download. steps: length of an evaluation episode. target: how the critics are joined. "
        f"alpha, budget: FQL's weight (E17) and the budget on a displacement (E18). {papers} tasks are the papers'; the "
        "others, and their settings, are ours. D4RL here is Minari's: its scores do not compare with published ones. "
        "`fdbook data list NAME` tells all of one data set."
    )
    return "\n".join([*lines, "", *textwrap.wrap(notes, 110)])


def details(name: str) -> str:
    """All that is known of a data set and its tasks, a line each. Raises ValueError on an unknown name."""
    dataset = tasks.find(name)
    first, *_ = tasks_here = _tasks_of(dataset)
    low_high = (
        ""
        if first.references is None
        else f", 0 and 100 at returns of {first.references[0]:g} and {first.references[1]:g}"
    )
    facts = {
        "what": dataset.description,
        "environment": dataset.environment,
        "rows": f"{dataset.length} in an episode; {_size(dataset)} transitions as published",
        "rewards": first.reward
        + (f"; {first.reward_shift:+g} is added to the recorded ones" if first.reward_shift else ""),
        "evaluation": f"{first.score} in %{low_high}; 50 episodes of at most {first.horizon} steps, "
        f"after {', '.join(f'{step:,}' for step in first.evaluations)} of {first.updates:,} updates",
        "settings": f"discount {first.discount:g}, target {first.q_agg} of the critics, FQL alpha {first.fql_alpha:g}, "
        f"budget {first.budget:g}; from {'the papers' if first.settings_from == 'papers' else 'us'}",
        "tasks": ", ".join(
            f"{task.name}{' (default)' if task.default and len(tasks_here) > 1 else ''}" for task in tasks_here
        ),
        "recording": dataset.why_not_recordable or f"`fdbook data record {dataset.name}`",
        "here": _here(dataset),
    }
    if doses := _doses(dataset):
        facts["doses"] = doses
    if first.caveat:
        facts["mind"] = first.caveat
    indent = " " * 13
    lines = [
        textwrap.fill(f"{key:<11}  {value}", 110, subsequent_indent=indent, break_on_hyphens=False)
        for key, value in facts.items()
    ]
    return "\n".join([name, *lines])

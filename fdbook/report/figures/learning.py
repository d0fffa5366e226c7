"""Success against updates on a robot arm and in a maze, with what the penalty and the multiplier do meanwhile.

Nothing is trained here: the curves are those of the run records in the folder that `fdbook figures --runs` names, one group for
each task and each method. Runs of one task, method and settings are joined seed by seed, however many runs they came in.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from fdbook.checks import count
from fdbook.report import style
from fdbook.report.figures import Context
from fdbook.report.runs import grouped


__all__ = ["compute", "draw", "method_look"]

TITLES = {"cube-single-play": "robot arm, one cube", "pointmaze-medium-navigate": "point maze, medium"}
LABELS = {
    "bc": "behavior (BC)",
    "fql": "FQL",
    "deflow": "DeFlow (L2)",
    "fidec": "FiDec",
    "ifql": "IFQL",
    "iql": "IQL",
    "rebrac": "ReBRAC",
}
LOOKS = {"bc": "behavior", "fql": "fql", "deflow": "l2"}
"""Agents that look like an entry of the style; the others look like their metric, or are told apart by these."""
MARKS = {
    "ifql": {"marker": "<", "linestyle": "--", "color": "#996633"},
    "iql": {"marker": ">", "linestyle": ":", "color": "#330066"},
    "rebrac": {"marker": "h", "linestyle": "-."},
}
DUALITY = (("-", "penalty / budget"), ("--", "multiplier / its last"))


def _rows(several, read) -> np.ndarray:
    """A table (steps, seeds) from records whose parts are read as (steps, own seeds); as long as the shortest of them."""
    parts = [np.asarray(read(record), float) for record in several]
    shortest = min(len(part) for part in parts)
    return np.concatenate([part[:shortest] for part in parts], axis=1)


def compute(context: Context) -> dict:
    """For each task and method: steps and scores (evaluations, seeds), curves (logged, seeds), and what the runs were.

    Raises FileNotFoundError when there is no record.
    """
    result = [record for record in context.runs() if record.scores]
    if not result:
        raise FileNotFoundError(
            "There is no record of an evaluated run; make one with: fdbook train cube-single-play-singletask --out "
            "figures/data/runs/cube-single-fidec"
        )
    tasks = {}
    for task, methods in grouped(result).items():
        tasks[task] = {}
        for name, several in methods.items():
            first = several[0]
            score = _rows(several, lambda record: [item["score"] for item in record.scores])
            entry = {
                "agent": first.agent,
                "metric": first.metric or "",
                "seeds": sum(len(record.seeds) for record in several),
            }
            entry |= {"steps": [item["step"] for item in first.scores[: len(score)]], "score": score}
            entry |= {
                "episodes": first.spec["episodes"],
                "last three": np.mean(score[-3:], axis=0),
                "logged": first.progress.logged,
            }
            entry["logged"] = first.progress.logged[: min(len(record.progress.logged) for record in several)]
            for curve in ("penalty", "multiplier"):
                if curve in first.progress.curves:
                    entry[curve] = _rows(several, lambda record, curve=curve: record.progress.curves[curve])
            if first.config.get("budget") is not None:
                entry["budget"] = first.config["budget"]
            entry["minutes a seed"] = sum(sum(r.progress.wall.values()) for r in several) / 60 / entry["seeds"]
            tasks[task][name] = entry
    return {"tasks": tasks}


def method_look(agent: str, metric: str, **changes: object) -> dict:
    """The color, line and label of a method; black, and the agent's own name, for one that has none here."""
    names = (LOOKS.get(agent), f"fisher-{metric}", f"information-{metric}", metric)
    name = next((name for name in names if name in style.METRIC_COLORS), "exact")
    label = LABELS.get(agent, agent) + (f" ({metric})" if metric and agent not in LOOKS else "")
    return style.look(name, **({"label": label} | MARKS.get(agent, {}) | changes))


def _look(entry, **changes):
    """That of a method, with the number of its seeds."""
    look = method_look(entry["agent"], entry["metric"], **changes)
    return look | {"label": f"{look['label']}, {count(entry['seeds'], 'seed')}"}


def _title(task):
    return next((title for name, title in TITLES.items() if task.startswith(name)), task)


def draw(numbers: dict) -> Figure:
    """A column for each task: above, success of every seed (pale) and their mean; below, penalty over budget and multiplier."""
    tasks = numbers["tasks"]
    size = (1.25 * style.WIDTH, 0.85 * style.WIDTH)
    fig, axes = plt.subplots(2, len(tasks), figsize=size, squeeze=False, sharex="col", height_ratios=[1.4, 1])
    handles: list[Artist] = [Line2D([], [], color=style.INK, linestyle=line, label=label) for line, label in DUALITY]
    handles.append(Patch(color=style.GRAY, alpha=0.3, linewidth=0, label="band: range of seeds"))
    for (upper, lower), (task, methods) in zip(axes.T, tasks.items(), strict=True):
        for entry in methods.values():
            steps, score = np.asarray(entry["steps"]) / 1000, np.asarray(entry["score"], float)
            steps, score = np.append(0, steps), np.concatenate([np.full_like(score[:1], np.nan), score])
            for seed in score.T:
                upper.plot(steps, seed, **_look(entry, linewidth=0.9, alpha=0.45, marker="") | {"label": "_"})
            upper.plot(steps, score.mean(axis=1), **_look(entry, linewidth=2, clip_on=False, zorder=3))
            _draw_duality(lower, entry)
        upper.set(title=_title(task), ylim=(0, 104), ylabel="success (%)")
        upper.legend(loc="best")
        upper.grid(axis="y")
        lower.set(xlabel="updates (thousands)", yscale="log", ylim=(0.08, 8))
        lower.set(
            title="does the penalty hold its budget? (colors as above)",
            ylabel="ratio to the budget,\nor to the last value",
        )
        lower.set_yticks([0.1, 0.3, 1, 3], labels=["0.1", "0.3", "1", "3"])
        lower.yaxis.set_minor_locator(NullLocator())
        lower.set_xticks([0, *sorted({step / 1000 for entry in methods.values() for step in entry["steps"]})])
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    for ax, letter in zip(axes.ravel(), "abcdefgh", strict=False):
        style.panel_label(ax, letter)
    return fig


def _draw_duality(ax, entry):
    """Penalty over its budget, and the multiplier over where it ended, of a decorated flow: the mean and range of the seeds."""
    if "penalty" not in entry or "multiplier" not in entry or "budget" not in entry:
        return
    steps = np.asarray(entry["logged"]) / 1000
    penalty = np.asarray(entry["penalty"], float) / entry["budget"]
    multiplier = np.asarray(entry["multiplier"], float)
    look = _look(entry, marker="")
    ax.axhline(1, color=style.GRAY, linewidth=0.8)
    for rows, (line, _) in zip((penalty, multiplier / multiplier[-1]), DUALITY, strict=True):
        ax.plot(steps, rows.mean(axis=1), color=look["color"], linestyle=line)
        ax.fill_between(steps, rows.min(axis=1), rows.max(axis=1), color=look["color"], alpha=0.2, linewidth=0)

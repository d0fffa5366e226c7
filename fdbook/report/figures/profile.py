"""Eleven methods on the same tasks: interquartile means with their intervals, and performance profiles.

Nothing is trained here: the scores are those of the run records of the matrix, the mean of each seed's last three evaluations.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fdbook.report import statistics, style
from fdbook.report.figures import Context
from fdbook.report.figures.learning import method_look
from fdbook.report.runs import grouped


__all__ = ["compute", "draw"]

LEVELS = np.linspace(0, 100, 101)
PROFILED = ("bc", "iql", "fql", "deflow", "fidec exact", "fidec fisher-rao")
"""The methods whose profiles are drawn; those of all eleven hide each other."""


def compute(context: Context) -> dict:
    """Of each method the score of every seed on every task, their interquartile mean, its interval, and the profile.

    The tasks are those on which most methods were trained; methods that were not trained on each of them are left out. The
    interval is NaN where a task has one seed. Raises FileNotFoundError when there is no record of an evaluated run.
    """
    cells = grouped([record for record in context.matrix() if record.scores])
    if not cells:
        raise FileNotFoundError(
            "There is no record of a matrix; make one with: fdbook sweep figures/data/sweeps/matrix-mazes.toml --records "
            "figures/data/matrix"
        )
    most = max(len(methods) for methods in cells.values())
    tasks = [task for task, methods in cells.items() if len(methods) == most]
    names = [name for name in cells[tasks[0]] if all(name in cells[task] for task in tasks)]
    methods = {}
    for name in names:
        scores = {task: np.concatenate([record.score() for record in cells[task][name]]) for task in tasks}
        first = cells[tasks[0]][name][0]
        low, high = statistics.bootstrap_interval(statistics.interquartile_mean, scores)
        methods[name] = {
            "agent": first.agent,
            "metric": first.metric or "",
            "scores": scores,
            "mean": float(statistics.interquartile_mean(scores)),
            "low": float(low),
            "high": float(high),
            "profile": statistics.performance_profile(scores, LEVELS),
        }
    return {"tasks": tasks, "methods": methods, "levels": LEVELS}


def draw(numbers: dict) -> Figure:
    """Left a row for each method, best first: seeds (pale), interquartile mean and interval. Right some of the profiles."""
    ordered = sorted(numbers["methods"].items(), key=lambda item: -item[1]["mean"])
    fig, (left, right) = plt.subplots(1, 2, figsize=(1.25 * style.WIDTH, 0.62 * style.WIDTH), layout="constrained")
    labels: list[str] = []
    for place, (name, entry) in enumerate(ordered):
        look = method_look(entry["agent"], entry["metric"])
        labels.append(look["label"])
        seeds = np.concatenate([np.asarray(values, float) for values in entry["scores"].values()])
        spread = np.linspace(-0.22, 0.22, seeds.size)
        left.plot(seeds, place + spread, "o", color=look["color"], alpha=0.35, markersize=3, markeredgewidth=0)
        left.plot([entry["low"], entry["high"]], [place, place], color=look["color"], linewidth=2)
        left.plot(entry["mean"], place, "D", color=look["color"], markersize=4, markeredgewidth=0)
        if name in PROFILED:
            right.plot(numbers["levels"], 100 * np.asarray(entry["profile"], float), **look | {"marker": ""})
    left.set_yticks(range(len(ordered)), labels)
    left.set_ylim(len(ordered) - 0.4, -0.6)
    left.tick_params(axis="y", left=False)
    left.set(title="success by seed, mean of the last three evaluations", xlim=(-3, 103))
    left.set_xlabel("success (%)\ndots: seeds; diamond and bar: interquartile mean, 95% interval")
    right.set(xlabel="success (%)", ylabel="seeds above it (%)", xlim=(0, 100), ylim=(-2, 102))
    right.set_title(f"performance profiles of {len(right.lines)} methods")
    right.legend(*_sorted_legend(right), loc="lower left")
    for letter, ax in zip("ab", (left, right), strict=True):
        style.panel_label(ax, letter)
    return fig


def _sorted_legend(ax):
    """Lines and labels, from the highest profile in the middle to the lowest."""
    lines, labels = ax.get_legend_handles_labels()
    pairs = sorted(zip(lines, labels, strict=True), key=lambda pair: -float(np.mean(pair[0].get_ydata())))
    return [line for line, _ in pairs], [label for _, label in pairs]

"""What every method costs: an update and an action, on the machine that `fdbook bench` was last recorded on.

Nothing is timed here: the numbers are those of figures/data/bench.json, which `fdbook bench --json` writes.
"""

import re

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fdbook.report import style
from fdbook.report.figures import Context
from fdbook.report.figures.learning import LABELS


__all__ = ["compute", "draw"]

ROW = re.compile(r"(?P<method>[\w -]+): (?P<what>an update|actions for \d+ states), (?P<size>width \d+, depth \d+)")
"""What a row of `fdbook bench methods` is called."""
ONE = "fql"
"""The method that the others are compared with."""


def compute(context: Context) -> dict:
    """Of every method the milliseconds that an update and the actions for so many states take, the fastest update first.

    Raises ValueError for a record without them.
    """
    record = context.bench()
    found = [(ROW.fullmatch(row["what"]), row["value"]) for row in record.get("methods", [])]
    methods: dict[str, dict[str, float]] = {}
    for match, value in found:
        methods.setdefault(match["method"], {})["update" if match["what"] == "an update" else "act"] = value
    if ONE not in methods:
        raise ValueError(
            "The record of the bench times no methods; make one with: fdbook bench --json figures/data/bench.json"
        )
    words = [match["what"] for match, _ in found if match["what"] != "an update"]
    rows = [{"method": name} | times for name, times in methods.items()]
    return {
        "methods": sorted(rows, key=lambda row: row["update"]),
        "acting": words[0],
        "size": found[0][0]["size"],
        "machine": f"{record['about']['device']}, {record['about']['cores']} cores",
    }


def _label(method: str) -> str:
    agent, *metric = method.split(" ", 1)
    return f"{LABELS.get(agent, agent)} ({metric[0]})" if metric else LABELS.get(agent, agent)


def _times(ratio: float) -> str:
    return f"×{ratio:.2f}" if ratio < 10 else f"×{ratio:.0f}"


def draw(numbers: dict) -> Figure:
    """A bar for each method: left an update, right the actions; each with its multiple of FQL's."""
    rows = numbers["methods"]
    fig, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 0.9 + 0.22 * len(rows)), sharey=True)
    (base,) = (row for row in rows if row["method"] == ONE)
    places = np.arange(len(rows))
    panels = (("update", "training", "an update (ms)"), ("act", "acting", f"{numbers['acting']} (ms)"))
    for letter, ax, (key, title, label) in zip("ab", axes, panels, strict=True):
        values = np.array([row[key] for row in rows])
        colors = [style.METRIC_COLORS["fql"] if row["method"] == ONE else style.GRAY for row in rows]
        ax.barh(places, values, color=colors, height=0.7)
        for place, value in zip(places, values, strict=True):
            ax.annotate(
                _times(value / base[key]), (value, place), (3, 0), textcoords="offset points", va="center", fontsize=7
            )
        ax.set(title=title, xlabel=label, xlim=(0, 1.16 * values.max()), yticks=places)
        ax.tick_params(axis="y", left=False)
        style.panel_label(ax, letter)
    axes[0].set_yticklabels([_label(row["method"]) for row in rows], fontsize=8)
    axes[0].invert_yaxis()
    fig.suptitle(f"{numbers['size']}, batches of 256, {numbers['machine']}; labels: time relative to FQL", fontsize=8)
    return fig

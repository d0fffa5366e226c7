"""Where geometry could help: of every recordable data set how thin its actions are, and what E26 says that metrics gain over L2.

Nothing is trained here: the numbers are those of records of `fdbook data inspect NAME --geometry --json FILE`, kept as
`geometry-*.json` beside the ladders; what a file is called beyond its data set, as its noise, is shown behind that.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from fdbook.report import style
from fdbook.report.figures import Context


__all__ = ["compute", "draw"]

KIND = "geometry-"
TIME = "0.9"
"""The time of the flow at which the metrics in use read it."""
SHOWN = {
    "scale": ("fisher-scale", "where alone (tr F / d)"),
    "exact": ("fisher-exact", "which way alone (E21, E24)"),
    "exact raw": ("information", "both (E21, raw)"),
    "deblurred raw": ("information-deblurred", "both, deblurred (E29, raw)"),
}
"""By label of a metric: the look it has here, and what it knows."""


def compute(context: Context) -> dict:
    """For each data set condition numbers (10, 50, 90% of states), true and as they are read at `TIME`, and ratios to L2.

    The one that promises least comes first. Raises FileNotFoundError when there is no such record, and ValueError for one of an
    inspection without --geometry.
    """
    trees = {name: tree for name, tree in context.ladders().items() if name.startswith(KIND)}
    if not trees:
        raise FileNotFoundError(
            "There is no record of what a data set promises; make one with: fdbook data inspect NAME --geometry "
            f"--json figures/data/ladders/{KIND}NAME.json"
        )
    rows = [_row(name.removeprefix(KIND), tree) for name, tree in trees.items()]
    return {"data": sorted(rows, key=lambda row: row["ceiling"])}


def _row(name: str, tree: dict) -> dict:
    if "geometry" not in tree:
        raise ValueError(
            f"The record {KIND}{name} says nothing of the geometry; make it with fdbook data inspect NAME --geometry."
        )
    geometry, rest = tree["geometry"], name.removeprefix(tree["name"].replace("/", "-")).strip("-").replace("-", " ")
    return {
        "name": ", ".join(part for part in (tree["name"].removeprefix("ogbench/"), rest) if part),
        "data": tree["name"],
        "episodes": tree["episodes"],
        "condition": list(geometry["condition"].values()),
        "read": list(geometry["blurred"][TIME].values()),
        "ratios": {label: geometry["ratios"][label] for label in SHOWN},
        "ceiling": geometry["ceiling"],
    }


def draw(numbers: dict) -> Figure:
    """A row for each data set: left the condition numbers, right what metrics gain over L2, and the best that E26 allows."""
    rows = numbers["data"]
    fig, (left, right) = plt.subplots(1, 2, figsize=(style.WIDTH, 1.3 + 0.19 * len(rows)), sharey=True)
    places = np.arange(len(rows))
    for key, shift, color, face in (("condition", 0.16, style.INK, style.INK), ("read", -0.16, style.GRAY, "white")):
        low, middle, high = np.array([row[key] for row in rows]).T
        left.hlines(places + shift, low, high, color=color, linewidth=0.9)
        left.plot(middle, places + shift, "o", color=color, markerfacecolor=face, markersize=3.5)
    left.set(xscale="log", xlabel="condition number", yticks=places)
    left.set_yticklabels([row["name"] for row in rows], fontsize=7)
    left.xaxis.set_major_formatter("{x:g}")
    right.barh(places, [row["ceiling"] - 1 for row in rows], left=1, height=0.72, color=style.PALE)
    for label, (metric, _) in SHOWN.items():
        look = style.look(metric, linestyle="none", markersize=4.5)
        right.plot([row["ratios"][label] for row in rows], places, **look)
    right.axvline(1, color=style.GRAY, linewidth=0.7)
    right.set(xscale="log", xlabel="gain over L2 at small KL (E26)", ylim=(-0.7, len(rows) - 0.3))
    right.xaxis.set_major_locator(FixedLocator((1, 1.2, 1.5, 2, 3, 4, 6, 8)))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_locator(NullLocator())
    right.tick_params(axis="y", left=False)
    left.set_title("how thin the actions are")
    right.set_title("what metrics could gain")
    for letter, ax in zip("ab", (left, right), strict=True):
        style.panel_label(ax, letter)
    _legend(fig)
    return fig


def _legend(fig) -> None:
    """What the marks of both panels mean, below them."""
    dots = [
        Line2D([], [], color=style.INK, marker="o", markersize=3.5, linewidth=0.9, label="true, 10 to 90% of states"),
        Line2D([], [], color=style.GRAY, marker="o", markerfacecolor="white", markersize=3.5, linewidth=0.9),
    ]
    dots[1].set_label(f"as read at t = {TIME}")
    handles = [Line2D([], [], **style.look(metric, label=what, linestyle="none")) for metric, what in SHOWN.values()]
    best = plt.Rectangle((0, 0), 1, 1, color=style.PALE, label="best that E26 allows")
    fig.legend(handles=[*dots, *handles, best], loc="outside lower center", ncols=4, fontsize=6.5, columnspacing=1.2)

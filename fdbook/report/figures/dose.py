"""What geometry gains in exact KL as the logged actions get thinner: predicted by E26, and measured with flow and critics frozen.

Nothing is trained here: the numbers are those of the records of `fdbook ladder` on runs whose recordings differ in one dose, the
noise across the way of a point maze.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from fdbook.geometry import frontier
from fdbook.report import style
from fdbook.report.figures import Context
from fdbook.report.figures.microscope import KINDS


__all__ = ["compute", "draw"]

AT = 0.2
"""The exact KL, in nats, at which metrics are compared."""
RARE = 0.01
"""The share of the flow's own actions that count as rare, and so of displaced ones at no KL."""
CURVES = ("l2", "exact", "exact raw", "deblurred raw")
SHOWN = ("released", "exact", "scale", "exact raw", "local raw", "deblurred raw")
PARTS = {
    "scale": "where alone\n(tr F / d)",
    "exact": "which way alone\n(E21, E24)",
    "exact raw": "both\n(E21)",
    "deblurred raw": "both, deblurred\n(E29)",
}


def compute(context: Context) -> dict:
    """For each recording the dose, what the flow's true Fisher matrix is like, and of each metric curves and ratios to L2.

    Of ladders with the critics that were trained: one with another critic is no further dose.

    At the exact KL `AT`: `ratio` is the mean over agents and its interval, `each` the ratio of each agent, `off` the mean share
    of displaced actions that the flow calls rarer than all but 1% of its own, `folded at` the largest share of an agent's folded
    samples; `folded` is that on the whole ladder.

    Raises FileNotFoundError when there is no record of a ladder on such a recording, and ValueError for two of one dose.
    """
    doses: list[dict] = []
    for name, tree in context.ladders().items():
        dose = tree.get("run", {}).get("data", {}).get("dose") or {}
        if (
            "metrics" not in tree
            or name.split("-")[0] in KINDS
            or tree.get("ladder", {}).get("critic", "trained") != "trained"
            or not {"along", "across"} <= dose.keys()
            or dose["across"] is None
        ):
            continue
        first = tree["metrics"][0]["ratio"]["kl"]
        if AT not in first:
            raise ValueError(f"The ladder {name} compares metrics at {first} nats; the figure needs {AT:g} among them.")
        twins = [item["name"] for item in doses if all(item[part] == dose[part] for part in ("along", "across"))]
        if twins:
            raise ValueError(f"The figure takes one ladder of each dose; {twins[0]} and {name} are of the same.")
        doses.append(_dose(name, tree, dose))
    if not doses:
        raise FileNotFoundError(
            "There is no ladder of a recording with a dose; make one with: fdbook ladder RUN --out figures/data/ladders/NAME.json"
        )
    return {"doses": sorted(doses, key=lambda item: (item["along"], -item["across"])), "at": AT}


def _at(entry, part: str, start: float) -> np.ndarray:
    """For each agent a part of a record at the exact KL `AT`; `start` is its value at no KL."""
    kl, values = (np.array(entry[name], float).T for name in ("kl", part))
    return np.array([frontier.at_kl(*row, AT, start) for row in zip(kl, values, strict=True)])


def _dose(name, tree, dose) -> dict:
    widths = sorted((dose["along"], dose["across"]))
    entries, flat = {}, _at(tree["metrics"][0], "gain", 0.0)
    for entry in tree["metrics"]:
        at = entry["ratio"]["kl"].index(AT)
        entries[entry["label"]] = {
            "name": entry["metric"]["name"],
            "normalized": bool(entry["metric"]["trace_normalized"]),
            "kl": np.mean(entry["kl"], axis=1),
            "gain": np.mean(entry["gain"], axis=1),
            "ratio": np.array([entry["ratio"][part][at] for part in ("ratio", "low", "high")], float),
            "predicted": float(np.mean(entry["predicted"])),
            "folded": float(np.max(entry["folded"])),
            "folded at": float(np.max(_at(entry, "folded", 0.0))),
            "each": _at(entry, "gain", 0.0) / flat,
            "off": float(np.mean(_at(entry, "off", RARE))),
        }
    return {
        "name": name,
        "along": dose["along"],
        "across": dose["across"],
        "condition": (widths[1] / widths[0]) ** 2,
        "flow condition": [float(np.mean(tree["condition"][q])) for q in ("0.1", "0.5", "0.9")],
        "ceiling": float(np.mean(tree["ceiling"])),
        "agents": len(tree["ceiling"]),
        "metrics": entries,
    }


def draw(numbers: dict) -> Figure:
    """Gain against KL on the thinnest recording; ratios against the dose; predicted and measured; what the gain is made of."""
    fig, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 0.86 * style.WIDTH))
    across = [dose for dose in numbers["doses"] if dose["across"] <= dose["along"]]
    thinnest = max(across or numbers["doses"], key=lambda dose: dose["condition"])
    _curves(axes[0, 0], thinnest)
    _ratios(axes[0, 1], across, numbers["at"])
    _predicted(axes[1, 0], numbers["doses"], numbers["at"])
    _parts(axes[1, 1], thinnest, numbers["at"])
    for letter, ax in zip("abcd", axes.flat, strict=True):
        style.panel_label(ax, letter)
    _legend(fig, numbers["doses"])
    return fig


def _look(entry, **changes) -> dict:
    """A metric's look; with open markers where the trace is normalized, so that states count alike."""
    look = style.look(entry["name"], **changes)
    if entry["normalized"]:
        look |= {"markerfacecolor": "white", "markeredgecolor": look["color"], "markeredgewidth": 1.0}
    return look


def _legend(fig, doses) -> None:
    """One legend for all panels, below them."""
    names = {entry["name"] for dose in doses for entry in dose["metrics"].values()}
    handles = [Line2D([], [], **style.look(name)) for name in style.METRIC_LABELS if name in names]
    plain = {"color": style.INK, "linestyle": "none", "marker": "o"}
    handles.append(Line2D([], [], **plain, markerfacecolor="white", label="open: trace-normalized"))
    handles.append(Line2D([], [], color=style.INK, linewidth=0.9, linestyle=":", label="best that E26 allows"))
    fig.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7, columnspacing=1.2)


def _curves(ax, dose) -> None:
    for label in (name for name in CURVES if name in dose["metrics"]):
        entry = dose["metrics"][label]
        ax.plot(entry["kl"], entry["gain"], **_look(entry))
    ax.set(xscale="log", yscale="log", xlabel="exact KL (nats)", ylabel="gain in Q")
    ax.set_title(f"noise {dose['along']:g} along, {dose['across']:g} across")
    for axis, ticks in ((ax.xaxis, (0.02, 0.05, 0.1, 0.2, 0.5, 1)), (ax.yaxis, (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def _ratios(ax, doses, at) -> None:
    shown = [label for label in SHOWN if all(label in dose["metrics"] for dose in doses)]
    for place, label in enumerate(shown):
        entries = [dose["metrics"][label] for dose in doses]
        middle, low, high = np.array([entry["ratio"] for entry in entries]).T
        condition = np.array([dose["condition"] for dose in doses]) * 1.035 ** (place - (len(shown) - 1) / 2)
        look = _look(entries[0])
        ax.errorbar(condition, middle, np.maximum([middle - low, high - middle], 0), elinewidth=0.8, capsize=0, **look)
    ceiling = [dose["ceiling"] for dose in doses]
    condition = [dose["condition"] for dose in doses]
    ax.plot(condition, ceiling, color=style.INK, linewidth=0.9, linestyle=":")
    ax.axhline(1, color=style.GRAY, linewidth=0.7)
    ax.set(xscale="log", xlabel="condition number of the noise", ylabel="gain over that of L2")
    ax.xaxis.set_major_locator(FixedLocator([round(x, 1) for x in condition]))
    ax.xaxis.set_major_formatter("{x:.3g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_title(f"at equal exact KL, {at:g} nats")


def _predicted(ax, doses, at) -> None:
    lowest, highest = 1.0, 1.0
    for dose in doses:
        for entry in dose["metrics"].values():
            middle, low, high = entry["ratio"]
            if np.isnan(middle) or entry["name"] == "l2":
                continue
            look = _look(entry, label=None, linestyle="none", markersize=4)
            ax.errorbar(
                entry["predicted"], middle, [[middle - low], [high - middle]], elinewidth=0.5, alpha=0.8, **look
            )
            lowest, highest = min(lowest, low, entry["predicted"]), max(highest, high, entry["predicted"])
    ends = (lowest - 0.05, highest + 0.05)
    ax.plot(ends, ends, color=style.GRAY, linewidth=0.7)
    ax.annotate("line: as predicted", (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=7, color=style.GRAY)
    ax.set(xlim=ends, ylim=ends, xlabel="predicted by E26", ylabel="measured")
    ax.set_title("every metric on every recording")


def _parts(ax, dose, at) -> None:
    """Bars: the gain of the scale alone, of the direction alone, of both, and what E26 allows."""
    rows = [(words, dose["metrics"][label]) for label, words in PARTS.items() if label in dose["metrics"]]
    rows = [(words, entry) for words, entry in rows if np.isfinite(entry["ratio"][0])]
    for place, (_, entry) in enumerate(rows):
        middle, low, high = entry["ratio"]
        ax.barh(place, middle - 1, left=1, color=style.METRIC_COLORS[entry["name"]], height=0.6, alpha=0.85)
        ax.errorbar(middle, place, xerr=[[middle - low], [high - middle]], color=style.INK, elinewidth=0.9)
    ax.axvline(dose["ceiling"], color=style.INK, linewidth=0.9, linestyle=":")
    ax.set(yticks=range(len(rows)), yticklabels=[words for words, _ in rows], xlabel="gain over that of L2")
    ax.invert_yaxis()
    ax.set_title("what the gain is made of")

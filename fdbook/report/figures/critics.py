"""What a metric brings at equal exact KL with learned critics, and with one that knows the way: goals reached in a maze.

Nothing is trained here: the numbers are those of pairs of ladders that were played in the environment, `played-NAME` with the
run's trained critics, and `discounted-NAME` with the return of the shortest way in their place, of the same flows.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fdbook.report import style
from fdbook.report.figures import Context
from fdbook.report.figures.microscope import draw_played, played_curves


__all__ = ["compute", "draw"]

KINDS = {"played": "learned critics", "discounted": "a critic that knows the way"}
SAME = ("condition", "base")
"""What two ladders of a pair agree in: condition numbers of the flows' Fisher matrices, and what the flows reach themselves."""


def compute(context: Context) -> dict:
    """Of each pair of ladders the goals at every rung, in the mean over agents, with those of the flow.

    Raises FileNotFoundError where there is no pair, and ValueError for two of different flows.
    """
    trees = context.ladders()
    names = [name.removeprefix("discounted-") for name in trees if name.startswith("discounted-")]
    pairs = {name: {kind: trees[f"{kind}-{name}"] for kind in KINDS} for name in names if f"played-{name}" in trees}
    if not pairs:
        raise FileNotFoundError(
            "There is no pair of ladders, played-NAME and discounted-NAME; make the second one with fdbook ladder RUN "
            "--set critic=discounted --set episodes=100 --set starts=anywhere --out figures/data/ladders/discounted-NAME.json"
        )
    for name, pair in pairs.items():
        differ = [what for what in SAME if pair["played"].get(what) != pair["discounted"].get(what)]
        if differ:
            raise ValueError(
                f"The ladders played-{name} and discounted-{name} are of different flows: their {differ[0]} differs."
            )
    return {"pairs": {name: {kind: played_curves(tree) for kind, tree in pair.items()} for name, pair in pairs.items()}}


def draw(numbers: dict) -> Figure:
    """A row for each recording, the thinnest first: with learned critics (left), and with one that knows the way (right)."""
    pairs = sorted(numbers["pairs"].values(), key=lambda pair: -pair["played"]["condition"])
    size = (style.WIDTH, (0.1 + 0.4 * len(pairs)) * style.WIDTH)
    fig, axes = plt.subplots(len(pairs), 2, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    for row, pair in zip(axes, pairs, strict=True):
        for ax, (kind, title) in zip(row, KINDS.items(), strict=True):
            draw_played(ax, pair[kind])
            ax.set(title=f"{_kind_of_data(pair[kind])} data, {title}", ylim=(-2, 102))
            ax.label_outer()
    for letter, ax in zip("abcdefgh", axes.flat, strict=False):
        style.panel_label(ax, letter)
    handles = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    plain = {"color": style.INK, "linestyle": "none", "marker": "o", "markerfacecolor": "white"}
    handles["open: trace-normalized"] = Line2D([], [], **plain)
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=7)
    return fig


def _kind_of_data(item) -> str:
    return "round" if item["condition"] < np.sqrt(10) else "thin"

"""One style for every figure: sizes, type, colors that color-blind readers tell apart, and the panels they share.

Each metric, and each method besides, has one color, one marker and one line, here and nowhere else, so that a reader learns
them once and a print in black and white still tells them apart.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Num
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from fdbook.checks import Array
from fdbook.report.numbers import beside, write_whole


__all__ = [
    "DENSITY",
    "METRIC_COLORS",
    "METRIC_LABELS",
    "METRIC_LINES",
    "METRIC_MARKERS",
    "SIGNED",
    "WIDTH",
    "applied",
    "density_panel",
    "ellipse",
    "look",
    "panel_label",
    "pictures",
    "render",
    "save",
    "shared_colorbar",
    "text_color",
    "use",
]

WIDTH = 7.0
"""The width of a figure that spans a page, in inches."""
DPI = {"png": 200, "pdf": 150}
"""Dots per inch of a picture, and of the images inside a PDF."""
TEXT_CONTRAST = 4.55
"""Of text in a metric's color with the white below it; a little more than the 4.5 asked for, as colors are rounded."""
INK, GRAY, PALE = "#1a1a1a", "#767676", "#e4e4e4"

METRIC_COLORS = {
    "l2": "#d55e00",
    "fisher-paper": "#0072b2",
    "fisher-released": "#cc79a7",
    "fisher-exact": "#56b4e9",
    "fisher-rao": "#009e73",
    "fql": "#e0b400",
    "optimum": "#6b2d0c",
    "exact": INK,
    "behavior": "#606060",
    "fisher-scale": "#bda962",
    "information": "#130cfe",
    "information-local": "#ea08fc",
    "information-deblurred": "#392aaa",
    "information-sharp": "#562051",
}
METRIC_MARKERS = {
    "l2": "s",
    "fisher-paper": "^",
    "fisher-released": "X",
    "fisher-exact": "o",
    "fisher-rao": "D",
    "fql": "v",
    "optimum": "P",
    "exact": "*",
    "behavior": ".",
    "fisher-scale": "p",
    "information": "<",
    "information-local": ">",
    "information-deblurred": "H",
    "information-sharp": "d",
}
METRIC_LINES = {
    "l2": (0, (6, 2)),
    "fisher-paper": "-",
    "fisher-released": (0, (5, 1.5, 1, 1.5)),
    "fisher-exact": (0, (1, 1.2)),
    "fisher-rao": (0, (3, 1, 1, 1, 1, 1)),
    "fql": (0, (4, 1)),
    "optimum": (0, (8, 1.5)),
    "exact": "-",
    "behavior": "-",
    "fisher-scale": (0, (2, 2)),
    "information": (0, (9, 1, 3, 1)),
    "information-local": (0, (5, 1, 1, 1, 1, 1, 1, 1)),
    "information-deblurred": (0, (9, 1, 1, 1)),
    "information-sharp": (0, (1, 2.5)),
}
METRIC_LABELS = {
    "l2": "L2",
    "fisher-paper": "Fisher (paper)",
    "fisher-released": "Fisher (released)",
    "fisher-exact": "Fisher (exact score)",
    "fisher-rao": "Fisher-Rao",
    "fql": "FQL (one step)",
    "optimum": "best possible",
    "exact": "exact KL",
    "behavior": "behavior",
    "fisher-scale": "Fisher, scale alone",
    "information": "information",
    "information-local": "local information",
    "information-deblurred": "deblurred",
    "information-sharp": "deblurred, local",
}

DENSITY = LinearSegmentedColormap.from_list(
    "density", [(0.0, "#ffffff"), *zip(np.linspace(0.215, 1, 7), sns.color_palette("mako_r", 8)[:7], strict=True)]
)
"""Densities, from white (none) to dark; its lightness falls evenly."""
_VLAG = sns.color_palette("vlag", as_cmap=True)
SIGNED = LinearSegmentedColormap.from_list(
    "signed", [*_VLAG(np.linspace(0, 0.45, 10)), "#ffffff", *_VLAG(np.linspace(0.55, 1, 10))], N=257
)
"""Values with a sign, from blue (negative) through white (exactly none) to red (positive)."""

_HALO = withStroke(linewidth=2.6, foreground="white", alpha=0.8)

_RC = {
    "axes.edgecolor": GRAY,
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "figure.constrained_layout.use": True,
    "figure.dpi": 120,
    "figure.figsize": (WIDTH, 0.42 * WIDTH),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "image.cmap": "mako_r",
    "legend.fontsize": 8,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.framealpha": 0.8,
    "legend.frameon": True,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "mathtext.fontset": "dejavusans",
    "patch.linewidth": 0.8,
    "pdf.fonttype": 42,
    "savefig.dpi": DPI["png"],
    "text.color": INK,
    "xtick.color": GRAY,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "xtick.major.size": 3,
    "xtick.major.width": 0.7,
    "xtick.minor.size": 1.8,
    "xtick.minor.width": 0.5,
    "ytick.color": GRAY,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
    "ytick.major.size": 3,
    "ytick.major.width": 0.7,
    "ytick.minor.size": 1.8,
    "ytick.minor.width": 0.5,
}


def use() -> None:
    """Sets the style for every figure from here on (in a notebook)."""
    sns.set_theme(context="paper", style="ticks", palette=list(METRIC_COLORS.values()), rc=_RC)


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """The style inside a `with` block."""
    with mpl.rc_context():
        use()
        yield


def look(metric: str, **changes: Any) -> dict[str, Any]:
    """What `ax.plot` takes to draw a metric in its own color, line, marker and label; `changes` override or add."""
    look = {
        "color": METRIC_COLORS[metric],
        "linestyle": METRIC_LINES[metric],
        "marker": METRIC_MARKERS[metric],
        "label": METRIC_LABELS[metric],
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }
    return look | changes


def text_color(metric: str) -> str:
    """The color of a metric for text on white: darkened, where need be, to a contrast of 4.5 (WCAG, level AA).

    >>> style.METRIC_COLORS["fql"], style.text_color("fql")
    ('#e0b400', '#907300')
    """
    color = np.array(to_rgb(METRIC_COLORS[metric]))
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    linear *= min(1.0, (1.05 / TEXT_CONTRAST - 0.05) / (linear @ (0.2126, 0.7152, 0.0722)))
    return to_hex(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def panel_label(ax: Axes, letter: str) -> None:
    """A bold letter at the top left corner of a panel, outside it."""
    ax.annotate(
        letter,
        (0, 1),
        xycoords="axes fraction",
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=11,
        fontweight="bold",
    )


def density_panel(
    ax: Axes,
    xs: Num[Array, " n"],
    ys: Num[Array, " m"],
    values: Num[Array, "_ _"],
    vmax: float | np.floating | Num[Array, ""],
    *,
    vmin: float = 0.0,
    cmap: Colormap | str = DENSITY,
) -> AxesImage:
    """An image of values[j, i] at (xs[i], ys[j]), from `vmin` to `vmax`, its axes of equal scale; returns the image.

    xs (n,) and ys (m,) are evenly spaced; values has shape (m, n), as from np.meshgrid(xs, ys). Panels that are compared
    take the same `vmax`. Raises ValueError when the shapes disagree.
    """
    xs, ys, values = np.asarray(xs), np.asarray(ys), np.asarray(values)
    if values.shape != (len(ys), len(xs)):
        raise ValueError(f"density_panel takes values of shape (ys, xs) = {(len(ys), len(xs))}; got {values.shape}.")
    right, up = (xs[1] - xs[0]) / 2, (ys[1] - ys[0]) / 2
    extent = (xs[0] - right, xs[-1] + right, ys[0] - up, ys[-1] + up)
    image = ax.imshow(
        values, origin="lower", extent=extent, vmin=vmin, vmax=vmax, cmap=cmap, interpolation="bilinear", aspect="equal"
    )
    ax.set(xlim=extent[:2], ylim=extent[2:])
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return image


def ellipse(
    ax: Axes,
    center: Num[Array, "2"] | tuple[float | int, float | int],
    matrix: Num[Array, "_ _"] | Sequence[Sequence[float | int]],
    level: float,
    **keywords: Any,
) -> Ellipse:
    """Draws {x : (x - c)^T M (x - c) = level} for a positive definite M (2, 2), and returns the patch.

    Keywords go to matplotlib's Ellipse; it is not filled unless a face color is given, and its line
    has a white halo, so that it can be read on a dark density. Raises ValueError unless M is
    symmetric positive definite and the level is positive.
    """
    matrix = np.asarray(matrix, float)
    if matrix.shape != (2, 2) or not np.allclose(matrix, matrix.T):
        raise ValueError(f"ellipse takes a symmetric matrix of shape (2, 2); got {matrix.tolist()}.")
    values, vectors = np.linalg.eigh(matrix)
    if not (values[0] > 0 and level > 0):
        raise ValueError(
            f"ellipse takes a positive definite matrix and a positive level; got eigenvalues {values} and {level}."
        )
    long, short = 2 * np.sqrt(level / values)
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
    if not {"facecolor", "fc", "color"} & set(keywords):
        keywords["fill"] = False
    keywords = {"linewidth": 1.3, "path_effects": [_HALO]} | keywords
    patch = Ellipse(center, long, short, angle=angle, **keywords)
    ax.add_patch(patch)
    return patch


def shared_colorbar(fig: Figure | SubFigure, image: ScalarMappable, axes: Iterable[Axes], label: str) -> Colorbar:
    """One slim color bar, with a label and its units, for all panels that share the image's scale."""
    bar = fig.colorbar(image, ax=list(np.ravel(np.array(list(axes), dtype=object))), shrink=0.8, aspect=28, pad=0.015)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    bar.set_label(label)
    return bar


def render(fig: Figure, kind: str) -> bytes:
    """The picture as "pdf" or "png", with no date in it: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    undated = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None}}[kind]
    smaller = {"pil_kwargs": {"optimize": True}} if kind == "png" else {}
    fig.savefig(buffer, format=kind, dpi=DPI[kind], metadata=undated, **smaller)
    return buffer.getvalue()


def pictures(fig: Figure) -> dict[str, bytes]:
    """The figure as files, by suffix (".pdf" and ".png"); closes it."""
    try:
        return {f".{kind}": render(fig, kind) for kind in ("pdf", "png")}
    finally:
        plt.close(fig)


def save(fig: Figure, path: str | Path) -> None:
    """Writes `path` as PDF and as PNG (its suffix, if any, is replaced), both or neither, and closes the figure."""
    write_whole(beside(Path(path), pictures(fig)))

"""The style: what is drawn lies where the mathematics says, and colors can be told apart."""

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from fdbook.geometry import metrics
from fdbook.report import style


@pytest.fixture
def ax():
    with style.applied():
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


@pytest.mark.parametrize("matrix", [[[4.0, 0.0], [0.0, 1.0]], [[2.0, -1.2], [-1.2, 3.0]], [[1.0, 0.0], [0.0, 1.0]]])
def test_an_ellipse_is_the_level_set(ax, matrix, budget):
    center, level = np.array([0.3, -0.7]), 0.05
    patch = style.ellipse(ax, center, matrix, level)
    path = patch.get_path().transformed(patch.get_patch_transform())
    offsets = path.interpolated(1).vertices[::3] - center  # the ends of the Bezier pieces lie on the curve
    values = np.einsum("ni,ij,nj->n", offsets, np.asarray(matrix), offsets)
    np.testing.assert_allclose(values, level, rtol=budget("drawn_ellipse"))


@pytest.mark.parametrize(
    ("matrix", "level"),
    [([[1.0, 0.0], [0.0, 0.0]], 1.0), ([[1.0, 0.0], [0.0, 1.0]], 0.0), ([[1.0, 0.5], [0.0, 1.0]], 1.0), ([[1.0]], 1.0)],
)
def test_an_ellipse_without_end_is_refused(ax, matrix, level):
    with pytest.raises(ValueError, match="ellipse takes a"):
        style.ellipse(ax, (0, 0), matrix, level)


def test_a_density_panel_puts_values_where_they_belong(ax):
    xs, ys = np.linspace(-1, 1, 21), np.linspace(0, 3, 31)
    values = np.exp(-((xs[None] - 0.5) ** 2 + (ys[:, None] - 2.5) ** 2) / 0.01)
    image = style.density_panel(ax, xs, ys, values, 1.0)
    ax.figure.canvas.draw()
    x, y = ax.transData.transform((0.5, 2.5))
    canvas = np.asarray(ax.figure.canvas.buffer_rgba())
    row = canvas.shape[0] - round(y)
    assert canvas[row, round(x), :3].sum() < 260
    assert canvas[row + 40, round(x), :3].sum() == 3 * 255
    assert image.get_clim() == (0.0, 1.0)


def test_a_density_panel_refuses_values_that_lie_crosswise(ax):
    with pytest.raises(ValueError, match=r"\(31, 21\); got \(21, 31\)"):
        style.density_panel(ax, np.linspace(-1, 1, 21), np.linspace(0, 3, 31), np.zeros((21, 31)), 1.0)


def test_every_metric_has_all_of_its_looks():
    looks = (style.METRIC_COLORS, style.METRIC_MARKERS, style.METRIC_LINES, style.METRIC_LABELS)
    where = "fdbook/report/style.py: "
    missing = {name for each in looks for name in (*style.METRIC_COLORS, *metrics.NAMES) if name not in each}
    assert missing == set(), f"{where}these have not all of a color, a marker, a line and a label: {missing}"
    for what, table in (("marker", style.METRIC_MARKERS), ("label", style.METRIC_LABELS)):
        assert alike(table) == [], f"{where}the same {what} have {alike(table)}"
    lines = alike({name: style.METRIC_LINES[name] for name in metrics.NAMES})
    assert lines == [], f"{where}the same line have {lines}"
    long = [label for label in style.METRIC_LABELS.values() if len(label) > 20]
    assert long == [], f"{where}labels of more than 20 characters: {long}"


def alike(table):
    """The names that share their value with another, each group of them."""
    groups = {value: [name for name in table if table[name] == value] for value in table.values()}
    return [names for names in groups.values() if len(names) > 1]


def _linear(color):
    return np.where(
        np.asarray(color) <= 0.04045, np.asarray(color) / 12.92, ((np.asarray(color) + 0.055) / 1.055) ** 2.4
    )


def _lab(linear):
    """CIE L*a*b* (D65) of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ np.clip(linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


SIGHT = {  # full dichromacy, Machado, Oliveira and Fernandes (2009)
    "all cones": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


LIGHTEST = 80
"""Of a line on white paper, the L* of CIE L*a*b*, which is 100 for white."""


def _seen(color, sight):
    return _lab(np.asarray(SIGHT[sight]) @ _linear(to_rgb(color)))


def _free(names):
    """The color of a coarse grid, not too light, that lies farthest from those of the names for every sight."""
    taken = {sight: np.array([_seen(style.METRIC_COLORS[name], sight) for name in names]) for sight in SIGHT}
    grid = [to_hex(each) for each in itertools.product(np.linspace(0, 1, 11), repeat=3)]
    return max(
        (color for color in grid if _seen(color, "all cones")[0] <= LIGHTEST),
        key=lambda color: min(
            np.linalg.norm(taken[sight] - _seen(color, sight)[None], axis=1).min() for sight in SIGHT
        ),
    )


def test_no_color_is_too_light_for_white_paper():
    light = [name for name, color in style.METRIC_COLORS.items() if _seen(color, "all cones")[0] > LIGHTEST]
    assert light == [], f"fdbook/report/style.py: these colors can hardly be seen on white: {light}"


def test_a_free_color_is_far_from_all(budget):
    color, least = _free(style.METRIC_COLORS), budget("distance_of_colors")
    near = [np.linalg.norm(_seen(color, s) - _seen(c, s)) for s in SIGHT for c in style.METRIC_COLORS.values()]
    assert min(near) > least


@pytest.mark.parametrize("sight", SIGHT)
def test_colors_can_be_told_apart(sight, budget):
    seen = {name: _seen(color, sight) for name, color in style.METRIC_COLORS.items()}
    near = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
    pair = min(near, key=near.get)
    least = budget("distance_of_colors")
    says = f"fdbook/report/style.py: with {sight} the colors of {' and '.join(pair)} are {near[pair]:.1f} apart, not {least:g}"
    assert near[pair] > least, f"{says}; for {pair[1]} {_free(set(seen) - {pair[1]})} would do"


def test_density_darkens_evenly(budget):
    lightness = np.array([_lab(_linear(color[:3]))[0] for color in style.DENSITY(np.linspace(0, 1, 41))])
    steps = -np.diff(lightness)
    assert lightness[0] == pytest.approx(100, abs=0.1)
    assert steps.max() / steps.min() < budget("evenness_of_density_colors")


def test_no_value_is_white_among_signed_ones():
    assert to_hex(style.SIGNED(0.5)) == "#ffffff"
    below, above = style.SIGNED([0.0, 1.0])[:, :3]
    assert below[2] > below[0]
    assert above[0] > above[2]


def test_text_in_a_color_can_be_read_on_white():
    """By the contrast of WCAG, (L1 + 0.05) / (L2 + 0.05) of relative luminances; a color that is dark enough stays."""

    def contrast(color):
        return 1.05 / (_linear(to_rgb(color)) @ (0.2126, 0.7152, 0.0722) + 0.05)

    for name, color in style.METRIC_COLORS.items():
        assert contrast(style.text_color(name)) >= 4.5
        assert contrast(color) < 4.55 or style.text_color(name) == color


def test_the_same_figure_gives_the_same_bytes():
    def drawn():
        with style.applied():
            fig, ax = plt.subplots()
            ax.plot([0, 1], [0, 1], **style.look("l2"))
            style.panel_label(ax, "a")
            return style.pictures(fig)

    first, second = drawn(), drawn()
    assert first == second
    assert first[".pdf"].startswith(b"%PDF")


def test_a_picture_has_its_size_in_inches_and_every_color():
    """More than a palette holds: a density keeps its even shades."""
    fig = plt.figure(figsize=(3, 2))
    fig.add_axes((0, 0, 1, 1)).imshow(np.linspace(0, 1, 600 * 400).reshape(400, 600), cmap=style.SIGNED, aspect="auto")
    picture = Image.open(io.BytesIO(style.render(fig, "png")))
    plt.close(fig)
    assert picture.size == (600, 400)
    assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 256


def test_save_writes_both_files(tmp_path):
    style.save(plt.figure(), tmp_path / "figure")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.pdf", "figure.png"]


def test_the_style_ends_with_its_block():
    before = plt.rcParams["axes.linewidth"]
    with style.applied():
        assert plt.rcParams["axes.linewidth"] != before
    assert plt.rcParams["axes.linewidth"] == before

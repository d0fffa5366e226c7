"""The figure of the ceilings: a row for each data set, with the numbers of its record."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fdbook.report import figures, style
from fdbook.report import numbers as files
from fdbook.report.figures import ceilings, dose


def inspected(name, ceiling):
    """What `fdbook data inspect NAME --geometry --json FILE` keeps."""
    quantiles = {"0.1": 2.0, "0.5": 5.0, "0.9": 30.0}
    read = {t: {q: value / 2 for q, value in quantiles.items()} for t in ("0.8", "0.9", "0.97")}
    ratios = {"scale": 1.01, "exact": 1.1, "exact raw": 1.2, "deblurred raw": ceiling - 0.1}
    geometry = {"condition": quantiles, "blurred": read, "ratios": ratios, "ceiling": ceiling, "loss": 0.2}
    return {"name": name, "episodes": 20, "geometry": geometry}


def context(trees):
    return figures.Context(0, str, dict, lambda share, message: None, ladders=lambda: trees)


TREES = {
    "geometry-ogbench-pointmaze-medium-navigate-across-0.03": inspected("ogbench/pointmaze-medium-navigate", 2.2),
    "geometry-ogbench-cube-single-play": inspected("ogbench/cube-single-play", 1.4),
    "dose-thin": {"run": {"data": {}}},
}


def test_numbers_are_those_of_the_records_from_the_lowest_ceiling_on():
    low, high = ceilings.compute(context(TREES))["data"]
    assert (low["name"], high["name"]) == ("cube-single-play", "pointmaze-medium-navigate, across 0.03")
    assert (high["ceiling"], high["condition"], high["read"]) == (2.2, [2.0, 5.0, 30.0], [1.0, 2.5, 15.0])
    assert high["ratios"] == {"scale": 1.01, "exact": 1.1, "exact raw": 1.2, "deblurred raw": pytest.approx(2.1)}


def test_what_is_drawn_is_what_was_computed(tmp_path):
    path = tmp_path / "numbers.json"
    files.write_whole(files.beside(path, files.stored(ceilings.compute(context(TREES)), {})))
    numbers = files.read(path)[0]
    fig = ceilings.draw(numbers)
    left, right = fig.axes[:2]
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "cube-single-play",
        "pointmaze-medium-navigate, across 0.03",
    ]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.4, 1.2])
    for (metric, _), label in zip(ceilings.SHOWN.values(), ceilings.SHOWN, strict=True):
        (line,) = (line for line in right.lines if line.get_color() == style.METRIC_COLORS[metric])
        np.testing.assert_allclose(line.get_xdata(), [row["ratios"][label] for row in numbers["data"]])
    plt.close(fig)


def test_without_a_record_the_command_is_named():
    with pytest.raises(
        FileNotFoundError, match="make one with: fdbook data inspect NAME --geometry --json figures/data"
    ):
        ceilings.compute(context({"dose-thin": {}}))


def test_a_record_without_the_geometry_is_named():
    plain = {key: value for key, value in inspected("ogbench/cube-single-play", 1.4).items() if key != "geometry"}
    with pytest.raises(
        ValueError, match=r"^The record geometry-plain says nothing of the geometry; make it with fdbook data"
    ):
        ceilings.compute(context(TREES | {"geometry-plain": plain}))


def test_the_figure_of_the_dose_leaves_them_alone():
    with pytest.raises(FileNotFoundError, match="no ladder of a recording with a dose"):
        dose.compute(context(TREES))

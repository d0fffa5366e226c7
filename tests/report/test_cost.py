"""The figure of the cost: a bar for each method that the bench timed, and its multiple of FQL's."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fdbook.report import figures
from fdbook.report import numbers as files
from fdbook.report.figures import cost


def record(**times):
    """What `fdbook bench methods --json FILE` keeps, of methods with their milliseconds (update, actions)."""
    size, rows = "width 256, depth 3", []
    for name, (update, act) in times.items():
        rows.append({"what": f"{name}: an update, {size}", "value": update, "unit": "ms", "bound": ""})
        rows.append({"what": f"{name}: actions for 50 states, {size}", "value": act, "unit": "ms", "bound": ""})
    return {"about": {"device": "cpu", "cores": 2}, "methods": rows}


def context(tree):
    return figures.Context(0, str, dict, lambda share, message: None, bench=lambda: tree)


def test_bars_and_multiples_are_those_of_the_record(tmp_path):
    numbers = cost.compute(context(record(fql=(4.0, 1.0), **{"fidec fisher-rao": (10.0, 3.0)}, bc=(1.0, 2.0))))
    assert [row["method"] for row in numbers["methods"]] == ["bc", "fql", "fidec fisher-rao"]
    path = tmp_path / "numbers.json"
    files.write_whole(files.beside(path, files.stored(numbers, {})))
    fig = cost.draw(files.read(path)[0])
    updates, actions = fig.axes
    assert [label.get_text() for label in updates.get_yticklabels()] == ["behavior (BC)", "FQL", "FiDec (fisher-rao)"]
    for ax, values in ((updates, [1, 4, 10]), (actions, [2, 1, 3])):
        np.testing.assert_allclose([bar.get_width() for bar in ax.patches], values)
    assert [text.get_text() for text in updates.texts if "×" in text.get_text()] == ["×0.25", "×1.00", "×2.50"]
    assert [ax.get_title() for ax in fig.axes] == ["training", "acting"]
    plt.close(fig)


def test_large_multiples_have_no_decimals():
    assert [cost._times(ratio) for ratio in (0.102, 9.99, 51.35)] == ["×0.10", "×9.99", "×51"]


def test_a_record_without_methods_is_refused():
    with pytest.raises(ValueError, match="times no methods; make one with: fdbook bench --json"):
        cost.compute(context({"about": {}, "loop": []}))


def test_the_record_of_the_book_times_every_method_that_is_named():
    """The record that lies in the repository is one that the figure takes."""
    numbers = cost.compute(context(json.loads(figures.BENCH.read_text(encoding="utf-8"))))
    assert {"bc", "fql", "deflow", "fidec exact"} <= {row["method"] for row in numbers["methods"]}

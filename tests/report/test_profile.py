"""The figure of the matrix: interquartile means, intervals and profiles of methods that were trained on the same tasks."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fdbook.report import figures
from fdbook.report import numbers as files
from fdbook.report.figures import profile
from fdbook.rl import records


def record(task, agent, scores, metric=None):
    """A finished run whose seeds had these scores (evaluations, seeds)."""
    scores = np.array(scores, float)
    spec = {"task": {"name": task}, "agent": agent, "metric": metric and {"name": metric, "label": metric}}
    spec |= {"preset": "laptop", "overrides": [], "seeds": list(range(scores.shape[1])), "updates": 30, "config": {}}
    made = records.Record(spec | {"evaluations": [10, 20, 30], "episodes": 50}, {"fingerprint": "0"})
    made.progress.scores = [{"step": 10 * n, "score": row.tolist()} for n, row in enumerate(scores, 1)]
    made.status = "finished"
    return made


def context(several):
    return figures.Context(0, str, dict, lambda share, message: None, matrix=lambda: several)


THREE = [[0, 0, 0], [10, 40, 60], [20, 50, 90]]  # means of seeds: 10, 30, 50
LAST = [[90, 80, 70]] * 3


@pytest.fixture
def numbers():
    several = [record("a", "bc", THREE), record("b", "bc", LAST), record("a", "iql", LAST), record("b", "iql", LAST)]
    return profile.compute(context([*several, record("c", "bc", LAST)]))


def test_methods_are_summed_up_over_the_tasks_that_they_share(numbers):
    assert sorted(numbers["tasks"]) == ["a", "b"]
    assert set(numbers["methods"]) == {"bc", "iql"}
    found = numbers["methods"]["bc"]
    np.testing.assert_allclose(found["scores"]["a"], [10, 30, 50])
    assert found["mean"] == pytest.approx(
        np.mean([30, 50, 70, 80])
    )  # of 10 30 50 70 80 90 the middle, a quarter off each end
    assert found["low"] < found["mean"] < found["high"]
    at = {int(level): share for level, share in zip(numbers["levels"], found["profile"], strict=True)}
    assert (at[0], at[10], at[49], at[50], at[89], at[90]) == pytest.approx((1, 5 / 6, 4 / 6, 3 / 6, 1 / 6, 0))


def test_it_is_drawn_best_first_from_what_was_kept(numbers, tmp_path):
    path = tmp_path / "numbers.json"
    files.write_whole(files.beside(path, files.stored(numbers, {})))
    fig = profile.draw(files.read(path)[0])
    left, right = fig.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["IQL", "behavior (BC)"]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["IQL", "behavior (BC)"]
    for line in right.lines:
        name = "iql" if line.get_label() == "IQL" else "bc"
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(numbers["methods"][name]["profile"]))
    plt.close(fig)


def test_without_records_it_says_how_to_make_them():
    with pytest.raises(FileNotFoundError, match="make one with: fdbook sweep"):
        profile.compute(context([]))


def test_the_profiles_of_the_metrics_cross_that_of_l2():
    found = figures.load_numbers("profile")["methods"]
    lines = [np.array(entry["profile"], float) for entry in found.values() if entry["agent"] in ("deflow", "fidec")]
    flat = np.array(found["deflow"]["profile"], float)
    assert len(lines) == 6
    assert any({-1, 1} <= set(np.sign(line - flat)) for line in lines)

"""The figure of learned critics beside one that knows the way: pairs of ladders of the same flows, and what the README says."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fdbook.geometry import metrics
from fdbook.report import figures
from fdbook.report.figures import critics


def ladder(across, scores, critic):
    """The record of a ladder of two agents, with two rungs of L2 and of the exact score's metric."""
    entries = [
        {
            "label": metrics.short_name(metric),
            "metric": metrics.to_dict(metric),
            "kl": [[0.1, 0.3], [0.6, 1.0]],
            "played": {
                "score": (np.array([[10.0, 20.0], [30.0, 50.0]]) + more).tolist(),
                "length": [[900.0, 800.0]] * 2,
            },
        }
        for metric, more in zip((metrics.L2(), metrics.make("exact")), scores, strict=True)
    ]
    return {
        "run": {"data": {"dose": {"along": 0.3, "across": across}}},
        "fingerprint": critic,
        "ladder": {"critic": critic},
        "condition": {"0.5": [across, across]},
        "base": {"score": [1.0, 3.0], "length": [1000.0, 990.0]},
        "metrics": entries,
    }


TREES = {
    "played-b": ladder(0.03, (0, 5), "trained"),
    "discounted-b": ladder(0.03, (1, 40), "discounted"),
    "played-a": ladder(0.3, (2, 3), "trained"),
    "discounted-a": ladder(0.3, (4, 4), "discounted"),
    "played-alone": ladder(0.1, (9, 9), "trained"),
}


def context(trees):
    return figures.Context(0, str, dict, lambda share, message: None, ladders=lambda: trees)


def test_pairs_are_drawn_the_thinnest_data_first():
    """Each panel's curves, from the flow alone to the last rung, are means over the two agents."""
    numbers = critics.compute(context(TREES))
    assert sorted(numbers["pairs"]) == ["a", "b"]
    fig = critics.draw(numbers)
    titles = [ax.get_title() for ax in fig.axes]
    learned, known = "learned critics", "a critic that knows the way"
    assert titles == [f"{kind} data, {critic}" for kind in ("thin", "round") for critic in (learned, known)]
    for ax, more in zip(fig.axes, ((0, 5), (1, 40), (2, 3), (4, 4)), strict=True):
        for line, one in zip(ax.get_lines(), more, strict=True):
            np.testing.assert_allclose(line.get_xdata(), [0.05, 0.2, 0.8])
            np.testing.assert_allclose(line.get_ydata(), [2, 15 + one, 40 + one])
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert labels == ["L2", "Fisher (exact score)", "open: trace-normalized"]
    plt.close(fig)


def test_ladders_of_different_flows_are_no_pair():
    for what, other in (("condition", {"0.5": [1.0, 2.0]}), ("base", {"score": [0.0, 0.0], "length": [1.0, 1.0]})):
        trees = copy.deepcopy(TREES)
        trees["discounted-a"][what] = other
        message = f"^The ladders played-a and discounted-a are of different flows: their {what} differs.$"
        with pytest.raises(ValueError, match=message):
            critics.compute(context(trees))
    with pytest.raises(FileNotFoundError, match="make the second one with fdbook ladder RUN --set critic=discounted"):
        critics.compute(context({"played-alone": TREES["played-alone"]}))


def test_what_the_readme_says_of_the_two_kinds_of_critics():
    """Of goals reached at the last rungs, in the mean over five agents."""
    pairs = figures.load_numbers("critics")["pairs"]
    last = {
        (name, kind): {curve["label"]: (curve["kl"][-1], curve["score"][-1]) for curve in item["curves"]}
        for name, pair in pairs.items()
        for kind, item in pair.items()
    }
    directed = ("paper", "exact", "exact raw", "deblurred raw")
    spans = {
        kind: [round(end([last["thinnest", kind][label][1] for label in directed])) for end in (min, max)]
        for kind in critics.KINDS
    }
    assert spans == {"played": [73, 83], "discounted": [90, 97]}
    assert min(last["thinnest", "discounted"][label][0] for label in directed) > 1.5
    assert max(round(last["thinnest", "discounted"][label][0], 1) for label in directed) == 2.2
    np.testing.assert_allclose(last["thinnest", "discounted"]["l2"], (1.3, 14), atol=0.01)
    assert round(last["thinnest", "played"]["l2"][1]) == 43
    ends = last["roundest", "discounted"]
    assert [round(score) for _, score in ends.values()] == [99, 99, 99]

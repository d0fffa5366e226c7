"""The figure of the dose: its numbers come from the records of ladders, and what does not fit is refused in a sentence."""

import copy
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fdbook import cli
from fdbook.experiment import LadderSpec, RunSpec
from fdbook.geometry import metrics
from fdbook.report import figures, style
from fdbook.report.figures import dose


KLS = [0.05, 0.2]


def entry(name, ratio, **options):
    """What a record keeps of one metric, on two rungs and for two agents."""
    metric = metrics.make(name, **options)
    return {
        "label": metrics.short_name(metric) + (" raw" if options else ""),
        "metric": metrics.to_dict(metric),
        "kl": [[0.1, 0.3], [0.4, 0.6]],
        "gain": [[1.0, 2.0], [3.0, 4.0]],
        "folded": [[0.0, 0.0], [0.0, 0.02]],
        "off": [[0.02, 0.03], [0.04, 0.06]],
        "predicted": [ratio + 0.1, ratio + 0.3],
        "ratio": {"kl": KLS, "ratio": [1.0, ratio], "low": [0.9, ratio - 0.1], "high": [1.1, ratio + 0.2]},
    }


def ladder(along, across, scale=1.0):
    raw = {"trace_normalized": False}
    entries = [entry("l2", 1.0), entry("exact", 1.4 * scale), entry("exact", 1.5 * scale, **raw), entry("scale", 1.1)]
    entries.append(entry("deblurred", 1.7 * scale, **raw))
    return {
        "run": {"data": {"dose": {"along": along, "across": across, "heading": 0.5}}},
        "ceiling": [2.0, 3.0],
        "condition": {"0.1": [1.0, 2.0], "0.5": [4.0, 6.0], "0.9": [8.0, 9.0]},
        "metrics": entries,
    }


def context(**trees):
    return figures.Context(0, str, dict, lambda share, message: None, ladders=lambda: trees)


def test_numbers_are_those_of_the_records():
    other = {"run": {"data": {}}, "metrics": []}
    numbers = dose.compute(context(thin=ladder(0.3, 0.03), plain=other, round=ladder(0.3, 0.3)))
    assert [item["name"] for item in numbers["doses"]] == ["round", "thin"]
    thin = numbers["doses"][1]
    assert thin["condition"] == pytest.approx(100)
    assert (thin["ceiling"], thin["flow condition"], thin["agents"]) == (2.5, [1.5, 5.0, 8.5], 2)
    deblurred = thin["metrics"]["deblurred raw"]
    assert deblurred["ratio"] == pytest.approx([1.7, 1.6, 1.9])
    assert deblurred["predicted"] == pytest.approx(1.9)
    assert (deblurred["normalized"], thin["metrics"]["exact"]["normalized"]) == (False, True)
    np.testing.assert_allclose(deblurred["kl"], [0.2, 0.5])
    np.testing.assert_allclose(deblurred["gain"], [1.5, 3.5])
    assert deblurred["folded"] == 0.02


def test_ladders_with_another_critic_and_those_of_other_figures_are_no_doses():
    known = ladder(0.3, 0.03, scale=2.0) | {"ladder": {"critic": "discounted"}}
    trained = ladder(0.3, 0.03) | {"ladder": {"critic": "trained"}}
    numbers = dose.compute(context(known=known, thin=trained, **{"played-thin": ladder(0.3, 0.03)}))
    assert [item["name"] for item in numbers["doses"]] == ["thin"]
    kept = dose.compute(context(**{path.stem: json.loads(path.read_text()) for path in figures.LADDERS.glob("*.json")}))
    assert [item["name"] for item in kept["doses"]] == [
        f"dose-along-0.3-across-{across}" for across in (0.3, 0.16, 0.095, 0.0535, 0.03)
    ]


def test_two_ladders_of_one_dose_are_refused():
    with pytest.raises(ValueError, match="one ladder of each dose; first and second are of the same"):
        dose.compute(context(first=ladder(0.3, 0.03), second=ladder(0.3, 0.03)))


def test_single_agents_are_compared_at_the_kl_and_not_beyond_their_rungs():
    tree = ladder(0.3, 0.03)
    tree["metrics"][1]["gain"] = [[3.0, 8.0], [9.0, 16.0]]
    tree["metrics"][3]["folded"] = [[0.0, 0.3], [0.1, 0.5]]
    tree["metrics"][2]["kl"] = [[0.1, 0.05], [0.4, 0.15]]
    metrics_met = dose.compute(context(thin=tree))["doses"][0]["metrics"]
    np.testing.assert_allclose(metrics_met["exact"]["each"], [3.0, 4.0])
    root = (
        2**0.5
    )  # of 0.2 over 0.1: the first agent's rungs are at the roots of 0.1 and 0.4, the second's first at that of 0.3
    first, second = 0.02 + 0.02 * (root - 1), 0.01 + 0.02 * (0.2 / 0.3) ** 0.5
    assert metrics_met["exact"]["folded at"] == 0
    assert metrics_met["exact"]["off"] == pytest.approx((first + second) / 2)
    assert np.isnan(metrics_met["exact raw"]["each"]).tolist() == [False, True]


def test_it_is_drawn_from_one_recording_or_several_and_where_a_kl_was_not_reached():
    lost, thin_lost = ladder(0.3, 0.1), ladder(0.3, 0.03)
    for tree in (lost, thin_lost):
        tree["metrics"][2]["ratio"] = {"kl": KLS} | {part: [1.0, None] for part in ("ratio", "low", "high")}
    cases = (
        ({"thin": ladder(0.3, 0.03)}, [1.1, 1.4, 1.5, 1.7]),
        ({"a": ladder(0.03, 0.3, 0.5), "b": ladder(0.3, 0.03), "c": lost}, [1.1, 1.4, 1.5, 1.7]),
        ({"thin": thin_lost}, [1.1, 1.4, 1.7]),
    )
    for trees, ends in cases:
        numbers = dose.compute(context(**trees))
        with style.applied():
            fig = dose.draw(numbers)
            fig.draw_without_rendering()
            bars = [patch.get_x() + patch.get_width() for patch in fig.axes[3].patches]
            plt.close(fig)
        np.testing.assert_allclose(bars, ends)


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        FileNotFoundError, match=r"^There is no ladder of a recording with a dose; make one with: fdbook ladder"
    ):
        dose.compute(context())
    tree = copy.deepcopy(ladder(0.3, 0.03))
    tree["metrics"][0]["ratio"]["kl"] = [0.05, 0.1]
    sentence = r"^The ladder thin compares metrics at \[0\.05, 0\.1\] nats; the figure needs 0\.2 among them\."
    with pytest.raises(ValueError, match=sentence):
        dose.compute(context(thin=tree))


@pytest.mark.parametrize("path", sorted(figures.LADDERS.glob("dose-*.json")), ids=lambda path: path.stem)
def test_the_records_are_what_their_names_say(path):
    """The dose is that of the run, the metrics can be made again, every ladder rises, and L2 is its own measure."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    spec, widths = RunSpec.from_dict(tree["run"]), path.stem.removeprefix("dose-along-").split("-across-")
    assert (spec.data.dose.along, spec.data.dose.across) == tuple(map(float, widths))
    assert (spec.agent, spec.task.name, tree["step"]) == (
        "deflow",
        "pointmaze-medium-navigate-singletask-task1-v0",
        10_000,
    )
    assert len(spec.seeds) == len(tree["ceiling"]) == 5
    made = [metrics.from_dict(item["metric"]) for item in tree["metrics"]]
    assert LadderSpec(metrics=made).to_dict()["metrics"] == tree["ladder"]["metrics"]
    for item in tree["metrics"]:
        assert np.all(np.diff(item["kl"], axis=0) > 0)
        assert np.all(np.diff(item["multiplier"], axis=0) < 0)
        low, middle, high = (np.array(item["ratio"][part], float) for part in ("low", "ratio", "high"))
        assert np.all((low <= middle) & (middle <= high) | np.isnan(middle))
    assert {1.0} == set(filter(None, tree["metrics"][0]["ratio"]["ratio"]))


@pytest.mark.slow
def test_the_runner_reads_ladders_and_computes_again_when_they_change(tmp_path, capsys):
    folder, out = tmp_path / "ladders", tmp_path / "figures"
    folder.mkdir()

    def ceiling(scale):
        tree = ladder(0.3, 0.03) | {"ceiling": [scale, scale]}
        (folder / "thin.json").write_text(json.dumps(tree))
        asked = ["figures", "dose", "--out", str(out), "--ladders", str(folder), "--no-progress"]
        assert cli.main(asked) == 0
        said = capsys.readouterr()
        return said.out + said.err, figures.load_numbers("dose", out)["doses"][0]["ceiling"]

    assert ceiling(2.0)[1] == 2
    assert "up to date" in ceiling(2.0)[0]
    said, found = ceiling(3.0)
    assert "computed" in said
    assert found == 3

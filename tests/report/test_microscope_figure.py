"""The figure of the microscope: its numbers are those of ablations, audits and ladders that were played."""

import copy
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fdbook import book
from fdbook.experiment import RunSpec, read_sweep
from fdbook.geometry import metrics
from fdbook.report import figures, style
from fdbook.report import numbers as files
from fdbook.report.figures import dose, microscope
from fdbook.rl import records


KINDS = (*microscope.KINDS, "evaluated")
RECORDS = sorted(path for path in figures.LADDERS.glob("*.json") if path.stem.split("-")[0] in KINDS)


def entry(ratio, name, **options):
    metric = metrics.make(name, **options)
    return {
        "label": metrics.short_name(metric),
        "metric": metrics.to_dict(metric),
        "kl": [[0.1, 0.3], [0.4, 0.6]],
        "folded": [[0.0, 0.0], [0.0, 0.02]],
        "predicted": [ratio + 0.1, ratio + 0.3],
        "ratio": {"kl": [0.05, 0.2], "ratio": [1.0, ratio], "low": [0.9, ratio - 0.1], "high": [1.1, ratio + 0.2]},
        "played": {"score": [[10.0, 20.0], [30.0, 50.0]], "length": [[900.0, 800.0], [700.0, 500.0]]},
    }


RAW = {"trace_normalized": False}


def ladder(*entries, readings=32):
    shape = {"readings": readings, "updates": 100, "starts": "anywhere"}
    base = {"score": [1.0, 3.0], "length": [1000.0, 990.0]}
    tree = {
        "run": {"data": {"dose": {"along": 0.3, "across": 0.03}}},
        "fingerprint": "x",
        "ladder": shape,
        "base": base,
    }
    return tree | {"metrics": [entry(1.0, "l2"), *entries]}


def data():
    return {"data": {"dose": {"along": 0.3, "across": 0.05}}, "config": {"num_critics": 4}}


def audit(kl, metric=None):
    made = {
        "exact_kl": True,
        "kl": kl,
        "surrogate": [0.1, 0.2],
        "off": [0.2, 0.4],
        "clipped": [0.0, 0.1],
        "folded": [0.0, 0.02],
    }
    config = {"budget": 0.1, "dual_ascent": metric is None, "num_critics": 4}
    return {"run": data() | {"metric": metric, "config": config}, "audit": made}


def trees():
    times = ladder(
        entry(1.3, "exact", t=0.8, **RAW), entry(1.5, "exact", t=0.97, **RAW), entry(1.6, "deblurred", **RAW)
    )
    return {
        "ablation-time": times,
        "ablation-damping": ladder(entry(1.2, "deblurred", damping=0.5)),
        "ablation-readings": ladder(entry(1.4, "exact", **RAW), entry(1.4, "exact", t=0.9, **RAW), readings=4),
        "audit-l2": audit([2.0, 3.0]),
        "audit-exact": audit([0.3, 0.4], metrics.to_dict(metrics.make("exact"))),
        "played-thin": ladder(entry(1.5, "deblurred", **RAW)),
        "audit-whole": audit([1.0, 2.0]),
        "evaluated-whole": {"run": data(), "evaluation": {"score": [20.0, 40.0], "length": [900.0, 700.0]}},
        "evaluated-alone": {"run": data(), "evaluation": {"score": [20.0], "length": [900.0]}},
        "dose-thin": {"run": {"data": {"dose": {"along": 0.3, "across": 0.03}}}},
    }


def context(records):
    return figures.Context(0, str, dict, lambda share, message: None, ladders=lambda: records)


def test_numbers_are_those_of_the_records():
    numbers = microscope.compute(context(trees()))
    rows = {(row["name"], str(row["t"]), row["damping"], row["readings"]): row for row in numbers["ablations"]}
    assert len(rows) == 6
    early = rows["fisher-exact", "0.8", 0.001, 32]
    assert early["ratio"] == pytest.approx([1.3, 1.2, 1.5])
    assert (early["predicted"], early["folded"]) == (pytest.approx(1.5), 0.02)
    assert rows["information-deblurred", "0.9", 0.5, 32]["trace_normalized"] is True
    assert numbers["audits"].keys() == {"audit-l2", "audit-exact", "audit-whole"}
    assert (numbers["audits"]["audit-l2"]["name"], numbers["audits"]["audit-exact"]["name"]) == ("l2", "fisher-exact")
    np.testing.assert_allclose(numbers["audits"]["audit-l2"]["kl"], [2, 3])
    assert numbers["audits"]["audit-l2"]["off"] == pytest.approx(0.3)
    assert [row["held at a budget"] for row in numbers["audits"].values()] == [True, False, True]
    assert numbers["whole"].keys() == {"whole"}
    assert numbers["whole"]["whole"]["critics"] == 4
    np.testing.assert_allclose([numbers["whole"]["whole"][part] for part in ("kl", "score")], [[1, 2], [20, 40]])
    played = numbers["played"]["played-thin"]
    assert [curve["label"] for curve in played["curves"]] == ["l2", "deblurred"]
    np.testing.assert_allclose(played["curves"][1]["score"], [15, 40])
    np.testing.assert_allclose(played["curves"][1]["kl"], [0.2, 0.5])
    assert (played["flow"], played["condition"], numbers["starts"]) == (2.0, pytest.approx(100), ["anywhere"])


def test_more_seeds_of_a_training_are_joined_in_their_order():
    def record(seeds, part, **lists):
        return {"run": {"seeds": seeds, "agent": "deflow"}, part: {"exact_kl": True} | lists}

    records = {
        "audit-whole-seeds-5-to-6": record([5, 6], "audit", kl=[3.0, 4.0]),
        "audit-whole": record([0, 1], "audit", kl=[1.0, 2.0]),
        "evaluated-whole-seeds-5-to-6": record([5, 6], "evaluation", score=[30, 40]),
        "evaluated-whole": record([0, 1], "evaluation", score=[10, 20]),
        "geometry-cube": {"name": "cube"},
    }
    whole = microscope.join_seeds(records)
    assert whole.keys() == {"audit-whole", "evaluated-whole", "geometry-cube"}
    assert whole["audit-whole"]["run"] == {"seeds": [0, 1, 5, 6], "agent": "deflow"}
    assert whole["audit-whole"]["audit"] == {"exact_kl": True, "kl": [1.0, 2.0, 3.0, 4.0]}
    assert whole["evaluated-whole"]["evaluation"]["score"] == [10, 20, 30, 40]
    assert whole["geometry-cube"] == {"name": "cube"}
    records["audit-whole-seeds-5-to-6"]["run"]["agent"] = "fidec"
    with pytest.raises(ValueError, match="audit-whole, audit-whole-seeds-5-to-6 are not seeds of one training"):
        microscope.join_seeds(records)


def read_back(numbers, folder):
    """The numbers as the figure is drawn from: lists have become arrays."""
    path = folder / "numbers.json"
    files.write_whole(files.beside(path, files.stored(numbers, {})))
    return files.read(path)[0]


def test_it_is_drawn_and_says_what_was_changed(tmp_path):
    numbers = read_back(microscope.compute(context(trees())), tmp_path)
    with style.applied():
        fig = microscope.draw(numbers)
        fig.draw_without_rendering()
        words = [label.get_text() for label in fig.axes[1].get_yticklabels()]
        plt.close(fig)
    assert words == [
        "exact score, 4 readings",
        "exact score, 4 readings",
        "deblurred, 32 readings",
        "deblurred, damping 0.5",
    ]


def test_whole_trainings_say_their_critics_and_an_arrow_what_more_of_them_change(tmp_path):
    records = trees()
    for kind in ("audit", "evaluated"):
        more = copy.deepcopy(records[f"{kind}-whole"])
        more["run"]["config"]["num_critics"] = 10
        records[f"{kind}-more"] = more
    records["evaluated-more"]["evaluation"]["score"] = [50.0, 60.0]
    numbers = read_back(microscope.compute(context(records)), tmp_path)
    with style.applied():
        fig = microscope.draw(numbers)
        said = fig.axes[3].texts
        arrows = [(text.xy, text.xyann) for text in said if text.get_text() == ""]
        legend = [text.get_text() for text in fig.legends[0].get_texts()]
        plt.close(fig)
    assert [text.get_text() for text in said if text.get_text().isdigit()] == ["4", "10"]
    np.testing.assert_allclose(arrows, [[(1.5, 55), (1.5, 30)]])
    assert legend[-1] == "large: trained whole (4 or 10 critics)"


def test_ladders_that_are_no_dose_are_none_of_the_figure_dose():
    with pytest.raises(FileNotFoundError, match=r"^There is no ladder of a recording with a dose"):
        dose.compute(context({name: tree for name, tree in trees().items() if not name.startswith("dose")}))


def test_other_records_are_left_out_or_refused_in_a_sentence():
    """An audit of a one-step policy, whose KL is an estimate; a ladder without a dose; one that ends before 0.2 nats."""
    records, one_step = trees(), audit([1.0, 2.0])
    one_step["audit"] |= {"exact_kl": False, "surrogate": None, "folded": None, "clipped": None}
    records["played-plain"] = ladder(entry(1.5, "deblurred", **RAW)) | {"run": {"data": {}}}
    numbers = microscope.compute(context(records | {"audit-fql": one_step}))
    assert "audit-fql" not in numbers["audits"]
    assert numbers["played"]["played-plain"]["condition"] == 1
    records["ablation-time"]["metrics"][0]["ratio"]["kl"] = [0.05, 0.1]
    with pytest.raises(
        ValueError, match=r"^The ladder ablation-time compares metrics at \[0\.05, 0\.1\] nats; the figure needs"
    ):
        microscope.compute(context(records))


@pytest.mark.parametrize("kind", microscope.KINDS)
def test_a_kind_that_is_missing_is_named_with_its_command(kind):
    there = {name: tree for name, tree in copy.deepcopy(trees()).items() if not name.startswith(kind)}
    command = "audit" if kind == "audit" else "ladder"
    sentence = rf"^There is no record of the kind {kind}; make one with fdbook {command} RUN --out figures/data/ladders/{kind}-"
    with pytest.raises(FileNotFoundError, match=sentence):
        microscope.compute(context(there))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_records_are_what_their_names_say(path):
    """Ablations and what was played are ladders of runs whose doses the figure dose shows, or of those that the audits are of."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    spec, kind = RunSpec.from_dict(tree["run"]), path.stem.split("-")[0]
    assert spec.task.name == "pointmaze-medium-navigate-singletask-task1-v0"
    first, last = map(int, path.stem.split("-seeds-")[1].split("-to-")) if "-seeds-" in path.stem else (0, 4)
    assert (spec.data.dose.along, list(spec.seeds), tree["step"]) == (0.3, list(range(first, last + 1)), 10_000)
    if "ten-critics-paper" in path.stem:
        home = (figures.LADDERS / f"{path.stem.replace('paper', 'exact')}.json").read_text(encoding="utf-8")
        exact = RunSpec.from_dict(json.loads(home)["run"])
        assert spec == exact.replace(metric="paper", config={"multiplier": 0.093})
    elif "ten-critics" in path.stem:
        home = (figures.LADDERS / f"{path.stem.replace('ten-critics', 'whole')}.json").read_text(encoding="utf-8")
        assert spec == RunSpec.from_dict(json.loads(home)["run"]).replace(config={"num_critics": 10})
    trained_whole = "whole" in path.stem or "critics-of" in path.stem
    kept = "audit-whole-l2" if trained_whole else f"dose-along-0.3-across-{spec.data.dose.across:g}"
    if "critics-of" in path.stem:
        kept = f"audit-whole-{path.stem.split('-')[3]}-seeds-{first}-to-{last}"
    shown = json.loads((figures.LADDERS / f"{kept}.json").read_text(encoding="utf-8"))
    if kind == "evaluated":
        assert (len(tree["evaluation"]["score"]), tree["starts"], tree["episodes"]) == (
            last + 1 - first,
            "anywhere",
            100,
        )
        return
    if kind == "audit":
        assert len(tree["audit"]["kl"]) == last + 1 - first
        if "across" in path.stem:
            assert spec.data.dose.across == float(path.stem.split("-")[-1])
        return
    assert tree["run"] == shown["run"]
    assert trained_whole or tree["fingerprint"] == shown["fingerprint"]
    assert spec.data.dose.across == {"roundest": 0.3}.get(path.stem.split("-")[-1], 0.03)
    assert ("base" in tree) == (kind == "played")
    for item in tree["metrics"]:
        assert np.all(np.diff(item["kl"], axis=0) > 0)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("d4rl-pointmaze-medium", "D4RL/pointmaze/medium-v2"),
        ("cube-single", "cube-single-play-singletask-task2-v0"),
        ("cube-single-standard", "cube-single-play-singletask-task2-v0"),
        ("cube-single-thinner", "cube-single-play-singletask-task2-v0"),
        ("cube-single-thin", "cube-single-play-singletask-task2-v0"),
        ("cube-single-thin-played", "cube-single-play-singletask-task2-v0"),
    ],
)
def test_a_ladder_of_another_task_is_of_the_task_that_its_name_says(name, task):
    """And of the training whose record lies with those that were tried."""
    assert {path.stem for path in figures.LADDERS.glob("ladder-*")} == {
        "ladder-cube-single",
        "ladder-cube-single-standard",
        "ladder-cube-single-thinner",
        "ladder-cube-single-thin",
        "ladder-cube-single-thin-played",
        "ladder-d4rl-pointmaze-medium",
    }
    tree = json.loads((figures.LADDERS / f"ladder-{name}.json").read_text(encoding="utf-8"))
    assert RunSpec.from_dict(tree["run"]).task.name == task
    trained = records.read(figures.RUNS.parent / "tried" / f"{name}-deflow")
    assert (trained.spec, trained.done) == (tree["run"], tree["step"])


def test_what_the_arm_gains_is_what_the_readme_says():
    """The deblurred metric, raw, at a fifth of a nat, on two standard recordings and two thin ones; within an eighth of E26."""
    text = (book.ROOT / "README.md").read_text(encoding="utf-8")
    said = re.search(
        r"(\S+) to (\S+) times what L2 gains on the arm's standard data, (\S+) and (\S+) times on the same arm",
        " ".join(text.split()),
    )
    found = []
    for name in ("cube-single", "cube-single-standard", "cube-single-thinner", "cube-single-thin"):
        tree = json.loads((figures.LADDERS / f"ladder-{name}.json").read_text(encoding="utf-8"))
        (entry,) = (each for each in tree["metrics"] if each["label"] == "deblurred raw")
        found.append(entry["ratio"]["ratio"][entry["ratio"]["kl"].index(0.2)])
        assert abs(found[-1] / np.mean(entry["predicted"]) - 1) < 1 / 8
    np.testing.assert_allclose([float(number) for number in said.groups()], found, atol=0.006)


@pytest.mark.parametrize(("name", "place"), [("l2", 0), ("deblurred", 1)])
def test_what_was_trained_whole_on_the_arm_is_of_its_sweep(name, place):
    """The training, its audit and its evaluation are of one run, which is a cell of the file that chapter 12 names."""
    trained = records.read(figures.RUNS.parent / "tried" / f"thin-arm-{name}")
    sweep = read_sweep(figures.RUNS.parent / "sweeps" / "thin-arm-metrics.toml")
    assert RunSpec.from_dict(trained.spec) == sweep.cells[place].spec
    assert trained.done == 10_000
    audit, played = (
        json.loads((figures.LADDERS / f"arm-{kind}-{name}.json").read_text(encoding="utf-8"))
        for kind in ("audit", "evaluated")
    )
    assert [(tree["run"], tree["step"]) for tree in (audit, played)] == 2 * [(trained.spec, 10_000)]
    assert (played["starts"], played["episodes"]) == ("task", 100)
    np.testing.assert_array_equal(len(audit["audit"]["kl"]), len(played["evaluation"]["score"]))

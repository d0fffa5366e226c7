"""The figure of learning: run records joined by method and seed, what is refused, and how the runner reads them."""

import json

import numpy as np
import pytest

from fdbook.report import figures, style
from fdbook.report.figures import learning
from fdbook.rl import records


CUBE = "cube-single-play-singletask-task2-v0"


def record(agent="fidec", metric="exact", seeds=(0,), scores=((10, [20.0]), (20, [60.0])), task=CUBE, **config):
    """A finished run whose curves are simple numbers."""
    logged, count = [5, 10, 15, 20], len(seeds)
    curves = {"penalty": [[0.002] * count] * 4, "multiplier": [[m] * count for m in (1.0, 2.0, 3.0, 4.0)]}
    spec = {"task": {"name": task}, "agent": agent, "preset": "laptop", "overrides": [], "seeds": list(seeds)}
    spec |= {"metric": None if metric is None else {"name": f"fisher-{metric}", "label": metric}, "episodes": 50}
    spec |= {"updates": 20, "evaluations": [step for step, _ in scores], "config": {"budget": 0.001} | config}
    progress = records.Progress(
        done=20,
        wall={"training": 60.0 * count},
        curves=curves if agent == "fidec" else {"flow": [[1.0] * count] * 4},
        logged=logged,
        scores=[{"step": step, "score": score} for step, score in scores],
    )
    return records.Record(spec, {"fingerprint": "0"}, "finished", progress=progress)


def context(*found):
    def unused(name):
        raise AssertionError(f"this figure needs no {name}")

    return figures.Context(0, unused, unused, lambda share, message: None, lambda: list(found))


BC = record("bc", None, seeds=(0, 1), scores=((10, [0.0, 2.0]), (20, [4.0, 6.0])))


def test_seeds_are_joined_however_many_runs_they_came_in():
    other = record(seeds=(1, 2), scores=((10, [30.0, 40.0]), (20, [80.0, 100.0])))
    found = learning.compute(context(record(), other, BC))["tasks"][CUBE]
    assert set(found) == {"fidec exact", "bc"}
    np.testing.assert_array_equal(found["fidec exact"]["score"], [[20, 30, 40], [60, 80, 100]])
    assert found["fidec exact"]["steps"] == [10, 20]
    np.testing.assert_allclose(found["fidec exact"]["last three"], [40, 55, 70])
    np.testing.assert_allclose(found["fidec exact"]["minutes a seed"], 1.0)
    assert found["fidec exact"]["penalty"].shape == (4, 3)
    assert "penalty" not in found["bc"]


def test_a_run_that_is_not_finished_cuts_the_others_short():
    short = record(seeds=(1,), scores=((10, [40.0]),))
    short.spec["evaluations"], short.progress.logged = [10, 20], [5, 10]
    short.progress.curves = {name: rows[:2] for name, rows in short.progress.curves.items()}
    found = learning.compute(context(record(), short))["tasks"][CUBE]["fidec exact"]
    np.testing.assert_array_equal(found["score"], [[20, 40]])
    assert (found["steps"], found["logged"], found["penalty"].shape) == ([10], [5, 10], (2, 2))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (record(budget=0.01, seeds=(1,)), r"they differ in config\.budget"),
        (record(seeds=(1,), scores=((10, [20.0]),)), r"they differ in evaluations"),
        (record(seeds=(0,)), r"they share a seed \(\[0, 0\]\)"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(other, why):
    with pytest.raises(
        ValueError, match=rf"The records of fidec exact on cube-single.* are not seeds of one run: {why}\.$"
    ):
        learning.compute(context(record(), other))


def test_without_a_record_the_reader_is_told_how_to_make_one():
    with pytest.raises(FileNotFoundError, match="fdbook train cube-single-play-singletask --out"):
        learning.compute(context())


def test_it_is_drawn():
    maze = record(task="pointmaze-medium-navigate-singletask-task1-v0")
    with style.applied():
        assert style.pictures(learning.draw(learning.compute(context(record(), BC, maze))))[".png"]


def test_the_runner_reads_the_records_and_computes_again_when_they_change(tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "figures"
    (runs / "one").mkdir(parents=True)
    record().write(runs / "one")

    def score():
        figures.run(["learning"], out=out, runs=runs, recordings=str, progress=False)
        numbers = json.loads((out / "data" / "learning.json").read_text())["numbers"]
        return capsys.readouterr().out, numbers["tasks"][CUBE]["fidec exact"]["score"]

    assert score()[1] == [[20], [60]]
    assert "up to date" in score()[0]
    record(scores=((10, [20.0]), (20, [70.0]))).write(runs / "one")
    said, found = score()
    assert "computed" in said
    assert found == [[20], [70]]

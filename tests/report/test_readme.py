"""What the README says in numbers, against the records that it is said of."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from fdbook.report import figures
from fdbook.rl import records


README = " ".join((figures.RUNS.parents[2] / "README.md").read_text(encoding="utf-8").split())
MATRIX = "{}-laptop-3-seeds-episodes=50-evaluations=2500-5000-7500-10000-updates=10000"
OGBENCH, MEDIUM, LARGE = (
    "pointmaze-medium-navigate-singletask-task1-v0",
    "D4RL-pointmaze-medium-v2",
    "D4RL-pointmaze-large-v2",
)


def said(pattern):
    """The numbers in the one sentence of the README that a pattern describes; each `#` in it stands for a number."""
    (found,) = re.finditer(re.escape(pattern).replace(r"\#", r"(-?\d+(?:\.\d+)?)"), README)
    return [float(number) for number in found.groups()]


def ladder(name):
    return json.loads((figures.LADDERS / f"{name}.json").read_text(encoding="utf-8"))


def goals(tree, label, kl):
    """The goals that each agent reaches at an exact KL, between rungs by the root of the KL, in percent."""
    (entry,) = (entry for entry in tree["metrics"] if entry["label"] == label)
    rungs = zip(np.transpose(entry["kl"]), np.transpose(entry["played"]["score"]), tree["base"]["score"], strict=True)
    return np.array([np.interp(kl**0.5, [0, *spent**0.5], [start, *reached]) for spent, reached, start in rungs])


def interval(differences):
    """The ends of Student's interval of 95%."""
    return stats.t.interval(0.95, len(differences) - 1, np.mean(differences), stats.sem(differences))


def matrix(task, method):
    return records.read(figures.RUNS.parent / "matrix" / MATRIX.format(f"{task}-{method}")).score()


def evaluated(*names):
    return np.concatenate([ladder(f"evaluated-{name}")["evaluation"]["score"] for name in names])


def test_all_fits():
    """The slope, through zero, of what was gained beyond L2 against what E26 predicts, at 0.2 nats, and how many fits."""
    predicted, gained = [], []
    for path in figures.LADDERS.glob("*.json"):
        tree = ladder(path.stem)
        if "metrics" in tree and tree["ladder"]["updates"] >= 1400 and path.stem != "ablation-readings-4":
            for entry in tree["metrics"]:
                if entry["label"] != "l2" and "t=0.97" not in entry["label"]:
                    predicted.append(sum(entry["predicted"]) / len(entry["predicted"]) - 1)
                    gained.append(entry["ratio"]["ratio"][entry["ratio"]["kl"].index(0.2)] - 1)
    (slope,), *_ = np.linalg.lstsq(np.array(predicted)[:, None], np.array(gained), rcond=None)
    assert said("over # fits #% of what is promised beyond L2") == [len(gained), round(100 * slope)]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("played-thinnest", "at one nat, #% against # with learned critics (five agents; # to # points more)"),
        ("discounted-thinnest", "# against # with a critic that knows the way (# to # more)"),
        ("discounted-middle", "on a rounder recording with that critic # against # (# to # more)"),
    ],
)
def test_goals_of_frozen_flows(name, sentence):
    ours, theirs = (goals(ladder(name), label, 1.0) for label in ("exact", "l2"))
    assert said(sentence) == [round(float(x)) for x in (ours.mean(), theirs.mean(), *interval(ours - theirs))]


def test_goals_of_whole_trainings():
    parts = ("", "-seeds-5-to-14", "-seeds-15-to-24")
    ours, theirs = (evaluated(*(f"whole-{label}{seeds}" for seeds in parts)) for label in ("exact", "l2"))
    low, high = interval(theirs - ours)
    told = said("(#% of the goals against #, # seeds each; # to # points fewer)")
    assert told == [round(float(x)) for x in (ours.mean(), theirs.mean(), len(ours), low, high)]
    ours, theirs = (evaluated(f"ten-critics-{label}-seeds-5-to-14") for label in ("exact", "l2"))
    low, high = interval(ours - theirs)
    told = said("leave it open (# against #; from # points fewer to # more)")
    assert told == [round(float(x)) for x in (ours.mean(), theirs.mean(), -low, high)]


def test_runs():
    """Means of the last three evaluations, over three seeds."""

    def mean(*names):
        return round(np.mean([records.read(figures.RUNS.parent / name).score() for name in names]))

    cube = mean(*(f"runs/cube-single-fidec-exact-seed-{seed}" for seed in range(3)))
    assert said("reaches #% success on the cube, where imitation alone has # ") == [cube, mean("runs/cube-single-bc")]
    fidec, deflow, fql = (mean(f"runs/pointmaze-medium-{name}") for name in ("fidec-exact", "deflow", "fql"))
    assert deflow == fidec
    assert said("medium point maze #%, as does DeFlow, and FQL #.") == [fidec, fql]
    told = said(
        "#% in D4RL's small point maze after #,000 updates, and after #,000 #% in the medium one and #% in the large one"
    )
    small, medium, large = (f"tried/d4rl-pointmaze-{size}" for size in ("umaze", "medium", "large"))
    updates = {name: records.read(figures.RUNS.parent / name).updates / 1000 for name in (small, medium, large)}
    assert updates[medium] == updates[large]
    assert told == [mean(small), updates[small], updates[medium], mean(medium), mean(large)]
    told = said("those of Fisher Decorator are at #, # and #")
    assert told == [round(float(x)) for x in matrix(OGBENCH, "fidec-exact")]


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ("OGBench's medium point maze", OGBENCH),
        ("D4RL's medium point maze", MEDIUM),
        ("D4RL's large point maze", LARGE),
    ],
)
def test_the_table_of_runs(row, task):
    """Imitation, FQL, DeFlow, Fisher Decorator."""
    told = said(f"| {row} | # | # | # | # |")
    assert told == [round(matrix(task, name).mean()) for name in ("bc", "fql", "deflow", "fidec-exact")]


def test_the_matrix():
    """Three seeds tell no metric from another; IQL leads in the mean; imitation is as good as any in D4RL's medium maze."""
    found = figures.load_numbers("profile")["methods"]
    metrics = [entry for entry in found.values() if entry["agent"] in ("deflow", "fidec")]
    assert (len(found), len(metrics)) == (11, 6)
    chances = [stats.f_oneway(*(entry["scores"][maze] for entry in metrics)).pvalue for maze in metrics[0]["scores"]]
    assert said("by chance (p = # to #)") == [round(min(chances), 2), round(max(chances), 2)]
    assert max(found, key=lambda name: found[name]["mean"]) == "iql"
    medium = [round(matrix(MEDIUM, name.replace(" ", "-")).mean()) for name in found]
    assert said("imitation has #% in D4RL's medium maze, as much as any") == [round(matrix(MEDIUM, "bc").mean())]
    assert max(medium) == round(matrix(MEDIUM, "bc").mean())
    assert not np.any(matrix(OGBENCH, "bc"))


def test_the_cost():
    """An update in units of FQL's: the metrics that are charged, the deblurred one, Fisher-Rao; and an action."""
    times = {row["method"]: row for row in figures.load_numbers("cost")["methods"]}
    update, act = ({name: row[part] / times["fql"][part] for name, row in times.items()} for part in ("update", "act"))
    plain = {
        round(update[name], 1) for name in ("deflow", "fidec paper", "fidec released", "fidec exact", "fidec scale")
    }
    told = said(
        "takes # times as long as one of FQL, # times with the deblurred metric and # with the Fisher-Rao metric"
    )
    assert told == [*plain, round(update["fidec deblurred"], 1), round(update["fidec fisher-rao"], 1)]
    assert "which integrates a flow, takes four times as long" in README
    assert round(act["fidec exact"]) == 4

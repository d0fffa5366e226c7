"""`fdbook table` and `fdbook compare` on records made by hand: every number is known beforehand."""

import csv
import dataclasses
import io
import itertools
import json
import math

import numpy as np
import pytest

from fdbook import cli, experiment
from fdbook.data import custom
from fdbook.data.tasks import TASKS
from fdbook.report import comparison, layouts, published, runs, table
from fdbook.rl import records


CUBE, MAZE = "cube-single-play-singletask-task2-v0", "pointmaze-medium-navigate-singletask-task1-v0"
PUZZLE = "puzzle-3x3-play-singletask-task4-v0"
SOURCE = "FQL (ICML 2025, arXiv 2502.02538) Table 3"


@pytest.fixture(scope="session")
def spec():
    """The dictionary of a specification, made once for each agent and task."""
    made = {}

    def get(task, agent):
        if (task, agent) not in made:
            made[task, agent] = json.dumps(experiment.RunSpec(task, agent).to_dict())
        return json.loads(made[task, agent])

    return get


@pytest.fixture
def record(spec):
    """Makes a finished run with the given scores of its seeds, the same at each of three evaluations."""

    def make(scores, task=CUBE, agent="bc", seeds=None, config=(), **changes):
        tree = spec(task, agent) | {"seeds": list(range(len(scores)) if seeds is None else seeds)} | changes
        tree["config"] |= dict(config)
        steps = [item - 1000 * k for k, item in zip((2, 1, 0), [tree["updates"]] * 3, strict=True)]
        progress = records.Progress(tree["updates"], scores=[{"step": step, "score": list(scores)} for step in steps])
        return records.Record(tree, {"source": "recorded", "fingerprint": "0"}, "finished", progress=progress)

    return make


@pytest.fixture
def say(capsys):
    """Runs a command; returns its exit code, what it printed, and what it complained of."""

    def run(*words):
        return cli.main([str(word) for word in words]), *capsys.readouterr()

    return run


@pytest.fixture
def written(tmp_path):
    """Writes records into folders of these names; returns the folder above."""

    def write(**named):
        for name, each in named.items():
            (tmp_path / "runs" / name).mkdir(parents=True)
            each.write(tmp_path / "runs" / name)
        return tmp_path / "runs"

    return write


def cells(text):
    """A Markdown table as a dictionary of dictionaries: by row, by column."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_a_cell_is_the_mean_over_seeds_however_many_runs_they_came_in(record):
    one, two = record([10.0, 20.0]), record([60.0], seeds=[7])
    one.progress.scores.insert(0, {"step": 1, "score": [1000.0, 1000.0]})  # only the last three count
    made = table.make({"a": one, "b": two, "c": record([5.0], MAZE)}, published="none")
    cell = made.cells[CUBE, "bc"]
    assert (cell.mean, cell.std, cell.seeds) == (30.0, pytest.approx(math.sqrt(700)), 3)  # (400 + 100 + 900) / 2
    assert made.cells[CUBE, "bc"].text == "30.0 ± 26.5 (3)"
    assert made.cells[MAZE, "bc"].text == "5.0 (1)"


def test_the_last_row_takes_the_tasks_that_all_methods_have(record):
    kept = {"a": record([0.0, 10, 20, 70]), "b": record([40.0, 40.0], agent="fql"), "c": record([99.0], MAZE)}
    made = table.make(kept)
    assert made.rows == (CUBE, MAZE, "IQM of 1 common task")
    assert made.ours == ("bc", "fql")
    assert (MAZE, "fql") not in made.cells
    assert made.cells[made.aggregate, "bc"].mean == 15.0
    assert made.cells[made.aggregate, "bc"].low < 15.0 < made.cells[made.aggregate, "bc"].high
    assert made.cells[made.aggregate, "fql"].text == "40.0 [40.0, 40.0]"
    apart = table.make({"a": record([1.0, 2.0]), "b": record([1.0, 2.0], MAZE, "fql")})
    assert apart.rows == (CUBE, MAZE)
    assert apart.aggregate is None
    assert "No task has all our methods" in apart.caption


def test_without_two_seeds_in_each_task_the_last_row_has_no_interval(record):
    made = table.make({"a": record([10.0, 20.0]), "b": record([30.0], MAZE)})
    assert made.cells["IQM of 2 tasks", "bc"].text == "20.0"


def test_published_numbers_have_columns_of_their_own_with_their_source(record):
    kept = {"a": record([10.0, 20.0]), "b": record([40.0], agent="deflow"), "c": record([40.0], MAZE)}
    made = table.make(kept)
    assert made.published == ("BC (FQL Table 3)", "DeFlow (CoDrift Table, 5 tasks)")
    shown = cells(layouts.markdown(made))
    assert shown[CUBE]["BC (FQL Table 3)"] == "3 ± 1"
    assert shown[CUBE]["DeFlow (CoDrift Table, 5 tasks)"] == "96 ± 2"
    assert (shown[CUBE]["bc"], shown[CUBE]["deflow"]) == ("15.0 ± 7.1 (2)", "40.0 (1)")
    assert set(shown[MAZE].values()) == {"40.0 (1)", ""}
    assert f"copied from: {SOURCE}; CoDrift Table" in made.caption
    assert table.make(kept, published="none").published == ()
    everything = table.make(kept, published="all").published
    assert [column.split()[0] for column in everything] == ["BC", "IQL", "ReBRAC", "IFQL", "FQL", "DeFlow"]
    with pytest.raises(ValueError, match=r"no choice of published numbers called 'sam'\. Did you mean 'same'\?"):
        table.make(kept, published="sam")


def test_the_published_numbers_are_those_of_the_papers():
    found = {(fact.task, fact.method): fact for fact in published.facts()}
    assert len(found) == len(published.facts())
    fql = found["cube-single-play-singletask-task2-v0", "FQL"]
    assert (fql.mean, fql.std, fql.tasks, fql.source) == (97.0, 2.0, 1, SOURCE)
    assert math.isnan(found["antmaze-large-navigate-singletask-task1-v0", "BC"].std)
    assert {fact.method for fact in published.facts()} <= set(published.METHODS.values())
    assert all(0 <= fact.mean <= 100 for fact in published.facts())
    category = found["cube-single-play", "DeFlow"]
    assert category.on(CUBE)
    assert not category.on("cube-single-noisy-singletask-task2-v0")
    assert not category.on("visual-" + CUBE)
    assert not fql.on("cube-single-play-singletask-task3-v0")


def test_the_caption_says_what_differs_from_the_published_protocol(record):
    other = record([1.0], PUZZLE, overrides=["config.tau"], updates=70_000)
    caption = table.make({"a": record([1.0, 2.0], episodes=20), "b": other}).caption
    for phrase in (
        "our runs: the preset laptop",
        "settings of our own (tau)",
        "data recorded anew",
        "1 to 2 seeds (published: 8)",
        "60,000 to 70,000 updates (published: 1,000,000)",
        "1,000 updates between the last evaluations (published: 100,000)",
        "20 to 50 episodes an evaluation (published: 50)",
    ):
        assert phrase in caption


def test_tasks_that_the_papers_do_not_have_are_held_to_no_protocol(record):
    kept = {"a": record([1.0, 2.0]), "b": record([1.0], MAZE, overrides=["config.tau"])}
    assert table.make(kept).caption.endswith(
        "in our runs on the papers' tasks: the preset laptop; data recorded anew; 2 seeds (published: 8); 60,000 updates "
        "(published: 1,000,000); 1,000 updates between the last evaluations (published: 100,000). Our runs on tasks that the "
        "papers do not have: the preset laptop; settings of our own (tau); data recorded anew; 1 seed; 20,000 updates; 50 "
        "episodes an evaluation."
    )
    assert "published" not in table.make({"b": kept["b"]}).caption


def test_d4rl_has_a_protocol_of_its_own_and_scores_that_do_not_compare(record):
    caption = table.make({"a": record([1.0, 2.0], "D4RL/pen/human-v2", updates=500_000)}).caption
    assert "(normalized return in percent)" in caption
    assert (
        "; 2 seeds (published: 8); in D4RL the mean of the last three evaluations (published: the last alone)."
        in caption
    )
    assert "those published on the old D4RL do not compare." in caption


@pytest.mark.parametrize("name", TASKS)
def test_protocols_and_kinds_of_score_are_those_of_the_registry(name):
    task = TASKS[name]
    spec = {"task": task.to_dict(), "agent": "bc", "metric": None}
    made = records.Record(spec, {})
    assert made.score_kind == task.score
    wanted = published.protocol(made)
    assert (wanted is None) == (task.published is None)
    if wanted is not None:
        steps = task.evaluations
        apart = {after - before for before, after in itertools.pairwise(steps)} or {0}
        assert (wanted["updates"], {wanted["apart"]}) == (task.updates, apart)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "return"),
        ({"references": (0.0, 2.0)}, "normalized return"),
        ({"references": (0.0, 2.0), "score": "return"}, "return"),
        ({"score": "success", "name": CUBE}, "success"),
    ],
)
def test_a_task_of_ones_own_says_its_kind_of_score_and_has_no_protocol(options, kind):
    arrays = {"observations": np.zeros((4, 1)), "actions": np.zeros((4, 1)), "terminals": np.array([0, 0, 0, 1])}
    task = custom.from_arrays(arrays, **options)
    made = records.Record({"task": task.to_dict(), "agent": "bc", "metric": None}, {})
    assert made.score_kind == task.score == kind
    assert published.protocol(made) is None


def own(record, scores, name, **options):
    """A finished run on a task of one's own."""
    made = record(scores)
    made.spec["task"] = {"name": name, "options": options}
    return made


def test_returns_stay_out_of_the_mean_over_tasks(record):
    made = table.make({"a": record([10.0, 20.0]), "b": own(record, [-900.0, -800.0], "mine")})
    assert made.rows == (CUBE, "mine", "IQM of 1 task")
    assert made.cells[made.aggregate, "bc"].mean == 15.0
    assert "(success in percent, return)" in made.caption
    assert "seeds of the tasks whose score is in percent that all" in made.caption
    assert "No task whose score is in percent has" in table.make({"b": own(record, [1.0], "mine")}).caption
    other = own(record, [1.0], "mine", score="success")
    other.spec["agent"] = "iql"
    with pytest.raises(ValueError, match=r"^The records of mine have scores of several kinds, .*: return, success\.$"):
        table.make({"a": own(record, [1.0], "mine"), "b": other})


def test_what_records_note_is_in_the_caption(record):
    noted = record([1.0], MAZE)
    noted.note = "Made long ago."
    assert table.make({"a": record([1.0]), "b": noted}).caption.endswith("Noted in 1 of 2 records: Made long ago.")


def test_a_run_as_published_differs_in_nothing(record):
    run = record(np.arange(8.0), preset="paper", updates=1_000_000)
    for item, step in zip(run.progress.scores, (800_000, 900_000, 1_000_000), strict=True):
        item["step"] = step
    run.data["source"] = "downloaded"
    assert published.deviations([[run]]) == []
    del run.progress.scores[0]
    assert published.deviations([[run]]) == ["the mean of 2 evaluations only in 1 of 1 runs"]
    del run.progress.scores[0]
    assert "the mean of 1 evaluation only in 1 of 1 runs" in published.deviations([[run]])
    run.spec["data"] = {"episodes": 10}
    assert "data that differ from the standard ones in episodes" in published.deviations([[run]])


def test_what_is_not_finished_or_has_no_score_is_left_out_with_a_word(record, written, say):
    stopped, silent = record([99.0]), record([99.0], seeds=[1])
    stopped.status, stopped.progress.done = "stopped", 1234
    silent.progress.scores = [{"step": 10, "likelihood": [0.0]}]
    folder = written(good=record([10.0, 20.0]), stopped=stopped, silent=silent)
    code, printed, complaint = say("table", folder)
    assert code == 0
    assert cells(printed)[CUBE]["bc"] == "15.0 ± 7.1 (2)"
    assert complaint.splitlines() == [
        f"fdbook: {folder / 'silent'} is left out: it has no score",
        f"fdbook: {folder / 'stopped'} is left out: stopped after 1,234 of 60,000 updates",
    ]
    code, printed, complaint = say("table", folder / "stopped")
    assert (code, printed) == (1, "")
    assert complaint.startswith("fdbook: No finished run with a score is there to show; ")


def test_runs_that_are_not_seeds_of_one_are_refused(record, written, say):
    folder = written(a=record([1.0]), b=record([2.0], seeds=[1], config={"width": 8}))
    code, printed, complaint = say("table", folder)
    assert (code, printed) == (1, "")
    assert complaint == f"fdbook: The records of bc on {CUBE} are not seeds of one run: they differ in config.width.\n"


def test_records_are_found_once_however_deep(record, written):
    folder = written(a=record([1.0]), **{"deep/er": record([2.0])})
    assert list(runs.find([folder])) == [folder / "a", folder / "deep" / "er"]
    assert len(runs.find([folder, folder / "a", folder / "a" / "record.json"])) == 2
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no run record in .*empty, nor in the folders below it"):
        runs.find([folder / "empty"])
    with pytest.raises(FileNotFoundError, match="There is no run record nowhere"):
        runs.find(["nowhere"])


def test_records_beside_each_other_go_by_their_files(record, written, say):
    folder = written(run=record([1.0])) / "run"
    for name, each in {"a": record([10.0]), "b": record([30.0], seeds=[1])}.items():
        each.write(folder)
        (folder / "record.json").rename(folder / f"{name}.json")
    record([1.0]).write(folder)
    files = [folder / "a.json", folder / "b.json"]
    found = runs.find([*files, folder, folder / "record.json", files[0]])
    assert {name: each.score().tolist() for name, each in found.items()} == {
        files[0]: [10.0],
        files[1]: [30.0],
        folder: [1.0],
    }
    code, printed, complaint = say("table", *files)
    assert (code, complaint) == (0, "")
    assert cells(printed)[CUBE]["bc"] == "20.0 ± 14.1 (2)"


def test_markdown_is_aligned_and_latex_escaped(record):
    made = table.make({"a": record([10.0, 20.0]), "b": record([3.0, 5.0], MAZE)})
    made = dataclasses.replace(made, caption="100% of_it & more")
    lines = layouts.markdown(made).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[5:] == ["", "100% of_it & more"]
    text = layouts.latex(made)
    assert r"\caption{100\% of\_it \& more}" in text
    assert rf"{CUBE} & 15.0 $\pm$ 7.1 (2) & 3 $\pm$ 1 \\" in text
    assert r"\begin{tabular}{lr|r}" in text
    assert text.count("{") == text.count("}")


def test_csv_has_the_numbers_in_full(record):
    made = table.make({"a": record([10.0, 20.0, 30.1]), "b": record([3.0], MAZE)})
    rows = {row["task"]: row for row in csv.DictReader(io.StringIO(layouts.to_csv(made)))}
    assert float(rows[CUBE]["bc mean"]) == pytest.approx(60.1 / 3, abs=1e-14)
    assert (rows[CUBE]["bc seeds"], rows[CUBE]["BC (FQL Table 3) mean"], rows[CUBE]["bc low"]) == ("3", "3.0", "")
    assert (rows[MAZE]["bc std"], rows[MAZE]["BC (FQL Table 3) std"]) == ("", "")
    assert rows["IQM of 2 tasks"]["bc seeds"] == ""


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["--out", "new/t.tex"], "\\begin{table}"),
        (["--out", "t.csv"], "task,"),
        (["--out", "t.md"], "| task"),
        (["--out", "t.md", "--format", "csv"], "task,"),
    ],
)
def test_a_file_has_the_format_of_its_name_or_the_one_asked_for(
    record, written, say, tmp_path, monkeypatch, words, start
):
    folder = written(a=record([1.0, 2.0]))
    monkeypatch.chdir(tmp_path)
    assert say("table", folder, *words) == (0, f"The table is {words[1]}.\n", "")
    assert (tmp_path / words[1]).read_text().startswith(start)


def test_the_table_of_the_kept_runs_holds_what_the_book_has(say):
    code, printed, complaint = say("table")
    assert (code, complaint) == (0, "")
    assert cells(printed)[MAZE]["deflow"] == "100.0 ± 0.0 (3)"
    assert say("table", "--format", "html")[0] == 2


# Comparisons


def test_runs_with_the_same_seeds_are_compared_seed_by_seed(record):
    """The seeds differ by far more than the runs do: paired, the difference is exact whatever is drawn."""
    first, other = record([0.0, 50.0, 100.0]), record([102.0, 2.0, 52.0], seeds=[2, 0, 1], config={"width": 8})
    found = comparison.compare({"a": first, "b": other}).differences["b"]
    assert (found.score, found.low, found.high, found.paired) == (2.0, 2.0, 2.0, True)
    assert found.specification["config.width"] == (256, 8)
    free = comparison.compare({"a": first, "b": record([2.0, 52.0, 102.0], seeds=[3, 4, 5])}).differences["b"]
    assert not free.paired
    assert (free.score, free.low < -30, free.high > 30) == (2.0, True, True)


def test_the_first_is_what_each_is_compared_with(record, written, say):
    folder = written(a=record([10.0, 20.0]), b=record([15.0, 25.0], config={"width": 8}), c=record([30.0], agent="fql"))
    code, printed, complaint = say("compare", *(folder / name for name in "abc"))
    assert (code, complaint) == (0, "")
    assert "2 against 1: score +5.0 [+5.0, +5.0] (95% bootstrap interval, paired by seed, 2 pairs)" in printed
    assert "  config.width  256  ->  8\n" in printed
    assert "3 against 1: score +15.0, no interval with one seed (seeds differ, not paired)" in printed
    assert "  agent  bc    ->  fql\n  seeds  0, 1  ->  0\n  only 3 has config.alpha 300.0; " in printed
    assert printed.splitlines()[2].split() == f"1 {folder / 'a'} bc seeds 0, 1 15.0 ± 7.1".split()


def test_seeds_are_paired_only_where_they_see_the_same_episodes(record):
    kept = {"a": record([0.0, 100.0]), "b": record([1.0, 101.0], episodes=20), "c": record([5.0], episodes=20)}
    found = comparison.compare(kept).differences
    assert (found["b"].unpaired, found["c"].unpaired) == ("episodes differ", "seeds and episodes differ")
    assert (found["b"].low, found["b"].high) == (-99.0, 101.0)
    assert "(95% bootstrap interval, episodes differ, not paired)" in comparison.describe(comparison.compare(kept))


def test_the_words_tell_how_little_few_seeds_say(record):
    def last(first, other):
        return comparison.describe(comparison.compare({"a": first, "b": other})).splitlines()[-1]

    three, other = record([1.0, 2.0, 3.0]), record([2.0, 4.0, 4.0], agent="iql")
    assert last(three, other).startswith(
        "With 3 seeds a bootstrap interval is their range, which covers the truth in about 75%"
    )
    assert (
        last(three, record([2.0, 4.0, 4.0], seeds=[5, 6, 7]))
        == "With 3 seeds a bootstrap interval is narrower than it says."
    )
    assert "bootstrap" not in last(record(np.arange(10.0)), record(np.arange(10.0), agent="iql"))


def test_runs_that_are_seeds_of_one_are_compared_together(record, written, say):
    parts = {
        "one": record([10.0], seeds=[1]),
        "zero": record([0.0, 30.0], seeds=[0, 2]),
        "rest": record([5.0, 15.0, 35.0], agent="iql"),
    }
    parts["one"].progress.scores[-1]["error"] = [1.0]
    folder = written(**parts)
    code, printed, _ = say("compare", folder / "rest", folder / "one", folder / "zero")
    assert code == 0
    assert printed.splitlines()[3].split() == f"2 {folder / 'one'} and 1 other bc seeds 1, 0, 2 13.3 ± 15.3".split()
    assert "2 against 1: score -5.0 [-5.0, -5.0] (95% bootstrap interval, paired by seed, 3 pairs)" in printed
    assert "3 against 1" not in printed
    code, printed, _ = say("compare", folder / "one", folder / "zero")
    assert (code, "2 against 1: score +5.0" in printed) == (0, True)


@pytest.mark.parametrize("change", ["status", "seed", "setting", "evaluations"])
def test_runs_that_are_not_seeds_of_one_stay_apart(record, change):
    kept = {
        "a": record([1.0]),
        "b": record([2.0], seeds=[0 if change == "seed" else 1]),
        "c": record([3.0], agent="iql"),
    }
    if change == "status":
        kept["a"].status = kept["b"].status = "running"
    elif change == "setting":
        kept["b"].spec["config"]["width"] = 8
    elif change == "evaluations":
        del kept["b"].progress.scores[0]
    assert runs.joined(kept) == kept


def test_what_records_note_is_told_once(record):
    kept = {name: record([1.0], seeds=[seed]) for seed, name in enumerate("abc")}
    kept["a"].note = kept["c"].note = "Made long ago."
    assert "\n\nnote of 1, 3: Made long ago.\n" in comparison.describe(comparison.compare(kept))


def test_scores_of_other_kinds_are_not_compared(record):
    with pytest.raises(
        ValueError, match=r"^Runs with one kind of score are compared; that of a is return, that of b success\.$"
    ):
        comparison.compare({"a": own(record, [1.0], "mine"), "b": own(record, [1.0], "mine", score="success")})


def test_a_setting_that_is_younger_than_a_record_is_named(record):
    old, new = record([1.0], agent="deflow"), record([1.0], agent="deflow")
    del old.spec["config"]["actor_states"]
    found = comparison.compare({"old": old, "new": new}, differ=experiment.differences)
    assert found.differences["new"].specification == {}
    assert found.differences["new"].unrecorded == ("config.actor_states",)
    assert "today's default is filled in where a record is older than config.actor_states" in comparison.describe(found)
    written = comparison.compare({"old": old, "new": new}).differences["new"]
    assert written.specification == {"config.actor_states": (None, "current")}
    assert written.unrecorded == ()


def test_a_task_that_cannot_be_made_again_is_compared_as_written(record):
    first, other = record([1.0]), record([1.0], config={"width": 8})
    for each in (first, other):
        each.spec["task"] = {"name": "my own task"}
    with pytest.raises(ValueError, match="my own task"):
        experiment.RunSpec.from_dict(first.spec)
    assert experiment.differences(first, other) == {"config.width": (256, 8)}


def test_other_data_differ_and_nothing_else_does(record):
    first, other = record([1.0, 2.0]), record([1.0, 2.0])
    words = comparison.describe(comparison.compare({"a": first, "b": other}, differ=experiment.differences))
    assert "2 pairs)\n  nothing differs in the specifications\n" in words
    other.data["fingerprint"] = "1"
    found = comparison.compare({"a": first, "b": other}).differences["b"]
    assert found.specification == {"data with the fingerprint": ("0", "1")}


def test_a_run_without_a_score_is_compared_all_the_same(record):
    first, other = record([1.0]), record([1.0])
    other.progress.scores, other.status, other.progress.done = [], "running", 5
    words = comparison.describe(comparison.compare({"a": first, "b": other}))
    assert "2 against 1: one of the two has no score" in words
    assert "no score  running after 5 of 60,000 updates" in words


def test_what_cannot_be_compared_gets_one_sentence(record, written, say):
    folder = written(a=record([1.0]), b=record([1.0], MAZE))
    assert say("compare", folder / "a", folder / "b") == (
        1,
        "",
        f"fdbook: Runs of one task are compared; {folder / 'a'} is of {CUBE} and {folder / 'b'} of {MAZE}.\n",
    )
    assert say("compare", folder / "a")[::2] == (
        2,
        f"fdbook: fdbook compare takes at least two runs; got {folder / 'a'}\n",
    )
    assert say("compare", folder / "a", folder / "a")[0] == 1
    code, _, complaint = say("compare", folder, folder / "a")
    assert code == 2
    assert complaint.startswith(f"fdbook: {folder} holds no run itself; below it are {folder / 'a'}")
    assert say("compare", folder / "a", folder / "none")[::2] == (
        1,
        f"fdbook: There is no run record {folder / 'none'}.\n",
    )

"""Sweeps: from a file to cells, what is refused, and running them in processes that fail, die and stop."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

import fdbook
from fdbook import cli, experiment
from fdbook.cli.sweep import _Bars, _Lines, _record_data
from fdbook.experiment import Processes, RunSpec, cell, read_sweep, run_sweep
from fdbook.experiment.engines import KILL, LOG, Event, Job
from fdbook.experiment.sweeping import seconds_left, states
from fdbook.geometry import metrics
from fdbook.rl import records
from fdbook.rl.train import TrainingInterrupted


ROOT = Path(fdbook.__file__).parents[1]
MAZE, CUBE = "pointmaze-medium", "cube-single"
WORKER = r"""
import json, os, signal, sys, time
tree = json.loads(sys.stdin.readline())
spec, folder = tree["spec"], tree["folder"]
path, updates = os.path.join(folder, "record.json"), spec["updates"]
mode = json.load(open("modes.json")).get(spec["agent"], "finish")
begun = json.load(open(path))["progress"]["done"] if os.path.exists(path) else 0
print("log of", spec["agent"], file=sys.stderr, flush=True)

def tell(kind, **rest):
    print(json.dumps({"kind": kind, **rest}), flush=True)

def keep(status, done):
    scores = [{"step": done, "score": [50.0, 70.0]}]
    progress = {"done": done, "wall": {"training": 2.0 * done}, "curves": {}, "logged": [], "scores": scores, "about": {}}
    tree = {"spec": spec, "data": {"fingerprint": "x"}, "status": status, "note": "", "progress": progress}
    open(path, "w").write(json.dumps(tree))

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
tell("progress", done=begun, score=None)
if mode == "fail":
    tell("failed", note="No space left on device.")
    sys.exit(1)
if mode == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "silent":
    print("half a line of {", flush=True)
    sys.exit(7)
if mode == "wait":
    signal.sigwait([signal.SIGTERM])
    keep("stopped", updates // 2)
    tell("stopped", note="Stopped half-way.")
    sys.exit(130)
if mode == "stubborn":
    tell("progress", done=begun)
    time.sleep(60)
keep("finished", updates)
tell("finished", done=updates, score=60.0)
"""
"""A worker that trains nothing: what it does is said in modes.json, for each agent."""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """The current folder is empty; writes a sweep's file there, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "s.toml").write_text(text)
        return "s.toml"

    return write


NO_GPU = "fdbook: JAX finds no device for --device gpu; leave it out, or install fdbook[cuda] on a machine with an NVIDIA GPU\n"
BASE = '[base]\ntask = "cube-single"\nupdates = 100\nevaluations = [100]\n'


@pytest.fixture
def cells(write, tmp_path):
    """A sweep of three agents in the mazes' folders, which a worker of no weight trains as it is told."""

    def make(**modes):
        (tmp_path / "modes.json").write_text(json.dumps(modes))
        (tmp_path / "worker.py").write_text(WORKER)
        return read_sweep(write(BASE + '[axes]\nagent = ["bc", "deflow", "fql"]\n'))

    return make


def engine(jobs=1):
    return Processes(jobs, (sys.executable, "-I", "worker.py"))


def run(sweep, jobs=1, **options):
    """The failures of a sweep, and what was told of it."""
    events, said = [], []
    failures = run_sweep(sweep, engine(jobs), watch=events.append, say=said.append, **options)
    return failures, events, said


def statuses(sweep):
    return [each.status for each in states(sweep)]


# From a file to cells


def test_cells_are_the_product_of_tasks_methods_and_axes(write):
    sweep = read_sweep(
        write("""
        out = "elsewhere"
        [base]
        preset = "laptop"
        seeds = 2
        config = {width = 16, depth = 1}
        [[methods]]
        agent = "deflow"
        [[methods]]
        name = "tight"
        agent = "fidec"
        metric = {name = "exact", damping = 0.5}
        config.budget = 0.001
        [axes]
        config.batch_size = [32, 64]
        task = ["cube-single", "pointmaze-medium"]
        """)
    )
    common = {"width": 16, "depth": 1}
    exact = metrics.make("exact", damping=0.5)
    expected = []
    for task, method, size in itertools.product((CUBE, MAZE), (0, 1), (32, 64)):
        config = common | {"batch_size": size} | ({"budget": 0.001} if method else {})
        agent, metric = ("fidec", exact) if method else ("deflow", None)
        expected.append(RunSpec(task, agent, metric=metric, seeds=2, config=config))
    assert [cell.spec for cell in sweep.cells] == expected
    assert [cell.label for cell in sweep.cells][:3] == [
        "cube-single, deflow, batch_size=32",
        "cube-single, deflow, batch_size=64",
        "cube-single, tight, batch_size=32",
    ]
    assert all(str(cell.folder) == str(cell.spec.folder).replace("runs", "elsewhere", 1) for cell in sweep.cells)
    assert len({cell.name for cell in sweep.cells}) == 8
    assert "/" not in sweep.cells[0].name


def test_dotted_names_and_tables_say_the_same(write):
    dotted = read_sweep(write(BASE + '"config.width" = 16\n[axes]\n"config.budget" = [0.1, 0.2]\n'))
    nested = read_sweep(write(BASE + "config = {width = 16}\n[axes.config]\nbudget = [0.1, 0.2]\n"))
    assert [cell.spec for cell in dotted.cells] == [cell.spec for cell in nested.cells]
    assert [cell.spec.config.budget for cell in dotted.cells] == [0.1, 0.2]
    assert {cell.spec.config.width for cell in dotted.cells} == {16}


def test_a_metric_that_is_named_anew_has_none_of_the_options_before(write):
    text = BASE + 'metric = {name = "exact", damping = 0.5}\n[[methods]]\nname = "a"\n[[methods]]\nmetric = "paper"\n'
    first, second = read_sweep(write(text)).cells
    assert (first.spec.metric, second.spec.metric) == (metrics.make("exact", damping=0.5), metrics.make("paper"))
    damped = read_sweep(write(BASE + 'metric = {name = "exact"}\n[axes]\n"metric.damping" = [0.1, 0.2]\n'))
    assert [cell.spec.metric.damping for cell in damped.cells] == [0.1, 0.2]


def test_a_base_alone_is_one_cell(write):
    (cell,) = read_sweep(write(BASE)).cells
    assert cell.spec == RunSpec(CUBE, updates=100, evaluations=[100])


def test_seeds_can_be_an_axis_where_all_methods_have_the_same(write):
    text = BASE + '[axes]\nseeds = [[0], [1, 2]]\nagent = ["bc", "fql"]\n'
    assert [cell.spec.seeds for cell in read_sweep(write(text)).cells] == [(0,), (0,), (1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[base\n", r"s\.toml is no TOML: .*line 1"),
        ("[bas]\n", r"at its top: There is no part of a sweep called 'bas'\. Did you mean 'base'\?"),
        ("base = 3\n", r"base: a table was expected; got 3\."),
        ("[base]\nagnet = 'bc'\n", r"\[base\]: There is no part of a run called 'agnet'\. Did you mean 'agent'\?"),
        ("[base]\nagent = 'bc'\n", r"a cell without a task: "),
        (BASE + "agent = 'bbc'\n", r"\[base\]: There is no agent called 'bbc'"),
        (BASE + "config.budgte = 1\n", r"\[base\]: There is no setting of fidec called 'budgte'\. Did you mean 'budget'"),
        (BASE + "data = {episods = 1}\n", r"\[base\]: There is no part of a data specification called 'episods'"),
        (BASE + "data = 3\n", r"\[base\]: data is a table, as in data = \{\.\.\.\}; got 3\."),
        (BASE + "seeds.first = 3\n", r"\[base\]: seeds has no parts; got seeds\.first\."),
        (BASE + "metric = {damping = 1}\n", r"A metric with options says its name"),
        (BASE + "metric = {name = 'exact', dampin = 1}\n", r"\[base\]: There is no option of the metric exact called 'dampin'"),
        (BASE + "[axes]\nagent = ['bc', 'fqll']\n", r"\[axes\] agent: There is no agent called 'fqll'\. Did you mean 'fql'\?"),
        (BASE + "[axes]\nagent = 'bc'\n", r"\[axes\] agent: a list of at least one value was expected; got 'bc'\."),
        (BASE + "[axes]\nagent = []\n", r"\[axes\] agent: a list of at least one value was expected; got \[\]\."),
(BASE + "[axes]\nupdates = [100, 0]\n", r"\[axes\] updates: A run takes a number of updates .*; got 0\."),
        (BASE + "[[methods]]\nagent = 'bc'\n[[methods]]\nagnt = 'bc'\n", r"\[\[methods\]\] number 2: There is no part of a run"),
        (
            BASE + "[[methods]]\nagent = 'bc'\n[axes]\nagent = ['fql']\n",
            r"\[axes\] agent: \[\[methods\]\] number 1 says agent, too; say it once\.",
        ),
        (BASE + "agent = 'fql'\nmetric = 'exact'\n", r"Only the agent 'fidec' takes a metric"),
        (
            BASE + "[axes]\nagent = ['bc', 'bc']\n",
            r"cells 1 \(bc\) and 2 \(bc\) are the same run\.",
        ),
        (BASE + "[axes]\nseeds = [1, 2]\n", r"cell seeds=2: its seed 0 is in another cell of the same method, too\."),
        ("allow = ['update']\n" + BASE, r"allow: There is no part that cells share called 'update'\. Did you mean 'updates'"),
    ],
)  # fmt: skip
def test_a_wrong_file_gets_one_sentence_with_the_place(write, capsys, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_sweep(write(text))
    assert cli.main(["sweep", "s.toml", "--list"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("fdbook: s.toml")
    assert complaint.count("\n") == 1


MORE = "; several values go to [axes]."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("task = 5", "A run takes a task, or the name of one; got 5."),
        ("task = ['cube-single', 'scene']", "A run takes a task, or the name of one; got ['cube-single', 'scene']" + MORE),
        ("task = {data = 5}", "A task of one's own takes a text for data; got 5."),
        ("task = {data = ['a.npz', 'b.npz']}", "A task of one's own takes a text for data; got ['a.npz', 'b.npz']" + MORE),
        ("task = {data = 'a.npz', env = 5}", "A task of one's own takes a text for env; got 5."),
        (f"task = '{CUBE}'\nagent = ['bc', 'fql']", "A run takes a word for agent; got ['bc', 'fql']" + MORE),
        (f"task = '{CUBE}'\nagent = 5", "A run takes a word for agent; got 5."),
        (f"task = '{CUBE}'\npreset = ['laptop']", "A run takes a word for preset; got ['laptop']" + MORE),
        (f"task = '{CUBE}'\nmatmul_precision = ['tf32']", "A run takes a word for matmul_precision; got ['tf32']" + MORE),
        (f"task = '{CUBE}'\nseeds = 3.0", "A run takes seeds as in 3 or (0, 1, 2); got 3.0."),
        (f"task = '{CUBE}'\nevaluations = 5", "A run takes evaluations as in (500, 1000); got 5."),
        (f"task = '{CUBE}'\nnormalize = true\nwavelengths = 1.0", "A run takes wavelengths as in (4.0, 2.0); got 1.0."),
        (f"task = '{CUBE}'\nnormalize = 7", "A run takes true or false for normalize; got 7."),
        (f"task = '{CUBE}'\nnormalize = 'false'", "A run takes true or false for normalize; got 'false'."),
        (
            f"task = '{CUBE}'\nupdates = [5, 6]",
            "A run takes a number of updates that is a whole number of at least 1; got [5, 6]" + MORE,
        ),
        (
            f"task = '{CUBE}'\nconfig.budget = [0.1, 0.2]",
            "DecoratedFlow takes a number for budget; got [0.1, 0.2]" + MORE,
        ),
        (f"task = '{CUBE}'\nmetric = {{name = 'exact', pooled = 'no'}}", "Fisher takes true or false for pooled; got 'no'."),
        (
            f"task = '{CUBE}'\nmetric = {{name = 'exact', t = [0.9, 0.8]}}",
            "Fisher takes a perturbed time in (0, 1), or an interval of such times; got (0.9, 0.8).",
        ),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_gets_one_sentence_with_the_place(write, capsys, unhooked, text, sentence):
    assert cli.main(["sweep", write(f"[base]\n{text}\n"), "--list"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.endswith(f": {sentence}\n")
    assert complaint.startswith("fdbook: s.toml, [base]: " if "0.9, 0.8" not in sentence else "fdbook: s.toml, cell ")


def test_a_metric_in_a_file_may_have_an_interval_of_times(write):
    text = f"[base]\ntask = '{CUBE}'\nmetric = {{name = 'exact', t = [0.8, 0.9]}}\n"
    assert read_sweep(write(text)).cells[0].spec.metric == metrics.make("exact", t=(0.8, 0.9))


def test_a_file_that_is_not_there_gets_one_sentence(write, capsys):
    assert cli.main(["sweep", "nowhere.toml"]) == 2
    assert capsys.readouterr().err == "fdbook: There is no file nowhere.toml.\n"


@pytest.mark.parametrize(
    ("change", "names", "allow"),
    [
        ("updates = 90\nevaluations = [90]", ["evaluations", "updates"], ["updates", "evaluations"]),
        ("evaluations = [50, 100]", ["evaluations"], ["evaluations"]),
        ("episodes = 7", ["episodes"], ["episodes"]),
        ("normalize = true", ["normalize"], ["normalize"]),
        ("normalize = true\nwavelengths = [2.0]", ["normalize", "wavelengths"], ["normalize", "wavelengths"]),
        ("seeds = [5]", ["seeds"], ["seeds"]),
        ("data = {episodes = 9}", ["data.episodes"], ["data"]),
        ("data.dose.noise = 0.5", ["data.dose.noise"], ["data.dose"]),
    ],
)
def test_cells_of_a_task_that_cannot_be_compared_are_refused_unless_allowed(write, change, names, allow):
    text = BASE + f"[[methods]]\nagent = 'bc'\n[[methods]]\nagent = 'fql'\n{change}\n"
    with pytest.raises(ValueError, match=r"^s\.toml, cells 1 \(bc\) and 2 \(fql.*\) of one task differ in ") as error:
        read_sweep(write(text))
    assert all(f"{name}: " in str(error.value) for name in names)
    for each in allow:
        some = [other for other in allow if other != each]
        with pytest.raises(ValueError, match="differ in"):
            read_sweep(write(f"allow = {some}\n{text}"))
    assert len(read_sweep(write(f"allow = {allow}\n{text}")).cells) == 2


@pytest.mark.slow
def test_data_that_are_not_here_are_recorded_first(write, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path / "data"))
    tasks = '["pointmaze-medium", "antmaze-large-navigate-singletask"]'
    config = "config = {width = 8, depth = 1, batch_size = 8}\n"
    base = '[base]\nagent = "bc"\nupdates = 4\nevaluations = []\ndata.episodes = 2\ndata.seed = 3\n'
    file = write(f"{base}{config}[axes]\ntask = {tasks}\n")
    assert cli.main(["sweep", file, "--record", "--jobs", "1"]) == 1
    (folder,) = (path for path in (tmp_path / "data").glob("*/*/*") if path.is_dir())
    assert (folder.parent.name, folder.name) == ("pointmaze-medium-navigate", "2-episodes-seed-3")
    states = experiment.states(read_sweep(file))
    assert [state.status for state in states] == ["finished", "to do"]
    assert "antmaze-large-navigate" in capsys.readouterr().out


def test_recordings_that_no_download_can_be_are_recorded_beside_a_download(write, monkeypatch, tmp_path):
    """The published files are here: only what another size, seed or dose chooses, or the source, is recorded."""
    asked = []
    monkeypatch.setattr("fdbook.data.load.downloaded", lambda dataset: tmp_path)
    monkeypatch.setattr("fdbook.data.record.record", lambda name, **chosen: asked.append(chosen))
    for choice in (
        "seed = 0",
        "episodes = 2",
        "seed = 3",
        "dose = {along = 0.25}",
        'source = "recorded"',
        'source = "download"',
        'dataset_dir = "d"',
    ):
        sweep = read_sweep(write(f'[base]\nagent = "bc"\ntask = "{MAZE}"\ndata = {{{choice}}}\n[axes]\nseeds = [1]\n'))
        _record_data(sweep, with_bars=False)
    assert [(each["episodes"], each["seed"], each["dose"] and each["dose"].along) for each in asked] == [
        (2, 0, None),
        (None, 3, None),
        (None, 0, 0.25),
        (None, 0, None),
    ]


@pytest.mark.slow
def test_nothing_is_recorded_for_a_device_that_is_not_here(write, tmp_path):
    file = write('[base]\ntask = "pointmaze-medium"\nagent = "bc"\ndata.episodes = 2\n[axes]\nseeds = [1]\n')
    environment = os.environ | {"FDBOOK_DATA": str(tmp_path / "data"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "fdbook", "sweep", file, "--record", "--device", "gpu", "--jobs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, NO_GPU)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("rate", [(), ("--rate", "50")])
def test_an_estimate_for_a_device_that_is_not_here_gets_one_sentence(write, rate):
    command = [sys.executable, "-m", "fdbook", "sweep", write(BASE), "--estimate", "--device", "gpu", *rate]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] + "\n" == NO_GPU
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_files_that_readers_begin_with_are_sweeps(write):
    cells = {"maze-metrics": 12, "thin-maze-metrics": 3, "thin-maze-seeds": 4, "thin-maze-ten-critics": 3}
    cells |= {
        "online": 6,
        "full-size": 8,
        "papers": 511,
        "matrix-mazes": 33,
        "precision": 3,
        "arm-doses": 3,
        "thin-arm-metrics": 3,
    }
    for name, count in cells.items():
        assert len(read_sweep(ROOT / "figures" / "data" / "sweeps" / f"{name}.toml").cells) == count
    assert {path.stem for path in (ROOT / "figures" / "data" / "sweeps").glob("*.toml")} == cells.keys()
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(read_sweep(write(block)).cells) == 8


def test_tasks_may_differ_in_everything(write):
    text = "[[methods]]\ntask = 'cube-single'\nupdates = 7\n[[methods]]\ntask = 'pointmaze-medium'\nupdates = 9\n"
    assert [cell.spec.updates for cell in read_sweep(write(text)).cells] == [7, 9]


# Running


def test_all_cells_are_run_and_a_second_call_runs_none(cells):
    sweep = cells()
    failures, events, _ = run(sweep, jobs=2)
    assert failures == {}
    assert statuses(sweep) == ["finished"] * 3
    kinds = {place: [event.kind for event in events if event.index == place] for place in range(3)}
    assert kinds == {place: ["started", "progress", "finished"] for place in range(3)}
    assert {event.score for event in events if event.kind == "finished"} == {60.0}
    assert [(sweep.cells[0].folder / LOG).read_text(), run(sweep)[1]] == ["log of bc\n", []]


def test_a_cell_that_fails_or_dies_takes_no_other_with_it(cells):
    sweep = cells(bc="fail", deflow="die")
    failures, _, _ = run(sweep)
    assert failures == {
        0: "No space left on device.",
        1: "Its process was killed (SIGKILL, perhaps by the system for want of memory); what it saved last is kept.",
    }
    assert statuses(sweep) == ["to do", "to do", "finished"]
    sweep = cells(bc="silent")
    failures, events, _ = run(sweep)
    assert failures == {0: f"Its process ended with exit code 7: see {sweep.cells[0].folder / LOG}."}
    assert {event.index for event in events} == {0, 1}
    assert statuses(sweep) == ["to do", "finished", "finished"]


def test_a_cell_that_cannot_be_started_fails_alone(cells):
    sweep = cells()
    sweep.cells[1].folder.parent.mkdir(parents=True)
    sweep.cells[1].folder.write_text("no folder")
    failures, _, _ = run(sweep)
    assert list(failures) == [1]
    assert failures[1].startswith("It could not be started: ")
    assert [statuses(sweep)[0], statuses(sweep)[2]] == ["finished", "finished"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_lets_cells_save_and_the_next_call_carries_on(cells, name):
    sweep = cells(deflow="wait")

    def watch(event):
        if (event.index, event.kind) == (1, "progress"):
            os.kill(os.getpid(), getattr(signal, name))

    said, before = [], signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        TrainingInterrupted, match=r"^Stopped: 1 of 3 cells finished; the same command carries on with deflow; fql\.$"
    ):
        run_sweep(sweep, engine(), watch=watch, say=said.append)
    assert said == ["Stopping: the cells that run save where they are. Ctrl-C again kills them."]
    assert signal.getsignal(signal.SIGTERM) is before
    assert [(each.status, each.done) for each in states(sweep)] == [("finished", 100), ("stopped", 50), ("to do", 0)]
    failures, events, _ = run(cells())
    assert failures == {}
    assert [(event.index, event.done) for event in events if event.kind == "progress"] == [(1, 50), (2, 0)]
    assert statuses(sweep) == ["finished"] * 3


def test_a_second_stop_kills(cells):
    sweep = cells(bc="stubborn")
    came = []

    def watch(event):
        if event.kind == "progress":
            came.append(event)
            if len(came) == 2:
                for _ in range(KILL):
                    os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match=r"^Stopped: 0 of 3 cells finished"):
        run_sweep(sweep, engine(), watch=watch, say=lambda sentence: None)
    assert statuses(sweep) == ["to do"] * 3


def test_an_engine_that_is_left_kills_what_runs(cells):
    sweep = cells(bc="stubborn")
    job = Job(sweep.cells[0].spec.to_dict(), sweep.cells[0].folder)
    events = engine().run([job], lambda: 0)
    assert next(events) == Event(0, "started")
    before = threading.active_count()
    events.close()
    assert threading.active_count() == before - 1  # the thread that listened saw the process end


def test_a_folder_with_another_run_is_refused_before_anything_runs(cells, capsys):
    sweep = cells()
    other = sweep.cells[2].spec.replace(config={"alpha": 3.0})
    sweep.cells[2].folder.mkdir(parents=True)
    records.Record(other.to_dict(), {"fingerprint": "x"}, "finished").write(sweep.cells[2].folder)
    sentence = r"holds another run than the cell fql: config\.alpha is 3\.0 there and 300\.0 here; say another out\.$"
    with pytest.raises(ValueError, match=sentence):
        run(sweep)
    assert not any(cell.folder.exists() for cell in sweep.cells[:2])
    assert cli.main(["sweep", "s.toml", "--jobs", "1"]) == 1
    assert "holds another run" in capsys.readouterr().err


def test_a_damaged_record_is_set_aside_and_its_cell_begins_anew(cells):
    sweep = cells()
    run(sweep)
    folder = sweep.cells[1].folder
    (folder / records.NAME).write_text("{")
    assert statuses(sweep) == ["finished", "damaged", "finished"]
    _, events, said = run(sweep)
    kept = folder.with_name(f"{folder.name}.damaged-1")
    assert said == [
        f"{folder / records.NAME} is no run record: it is damaged, or something else wrote it. "
        f"It is kept as {kept}, and deflow begins anew."
    ]
    assert (kept / records.NAME).read_text() == "{"
    assert {event.index for event in events} == {1}
    assert statuses(sweep) == ["finished"] * 3
    (folder / records.NAME).write_text("")
    run(sweep)
    assert folder.with_name(f"{folder.name}.damaged-2").exists()


def test_records_of_finished_cells_are_copied_without_the_rest(cells, capsys):
    run(cells(deflow="fail"))
    assert cli.main(["sweep", "s.toml", "--records", "small"]) == 0
    assert capsys.readouterr().out == "2 of 3 cells are finished; their records are in small.\n"
    sweep = cells()
    names = [sweep.cells[place].name for place in (0, 2)]
    assert sorted(os.listdir("small")) == sorted(names)
    assert os.listdir(f"small/{names[0]}") == [records.NAME]
    assert records.read(f"small/{names[0]}") == records.read(sweep.cells[0].folder)


def test_records_of_a_sweep_that_has_not_begun_are_nowhere(cells, capsys):
    cells()
    assert cli.main(["sweep", "s.toml", "--records", "small"]) == 0
    assert capsys.readouterr().out == "0 of 3 cells are finished; nothing is copied to small.\n"
    assert not os.path.exists("small")
    assert cli.main(["sweep", "s.toml", "--records", "modes.json"]) == 2
    assert capsys.readouterr().err == "fdbook: --records takes a folder; modes.json is a file\n"


def test_the_list_says_how_far_each_cell_is(cells, capsys):
    run(cells(deflow="fail"))
    assert cli.main(["sweep", "s.toml", "--list"]) == 0
    rows = [line.split()[:6] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows[0][1:] == ["finished", "100", "/", "100", "60.0"]
    assert rows[1][1:] == ["to", "do", "0", "/", "100"]


@pytest.mark.parametrize("kind", [_Bars, _Lines])
def test_what_is_shown_while_cells_run(cells, capsys, kind):
    """A cell that paces at a second an update, heard of at 0 and at 50 updates; a second one that fails."""
    sweep = cells()
    board = kind(sweep, states(sweep), 2)
    for event in (Event(0, "started"), Event(1, "started"), Event(0, "progress", done=0)):
        board.hear(event)
    start, first = board.began[0]
    board.began[0] = (start - 50, first)
    board.hear(Event(0, "progress", done=50, score=12.5))
    assert board.left() == f"about {(50 + 100 + 100) // 2 // 60}:05 left"
    board.hear(Event(1, "failed", note="No space left on device."))
    assert board.left() == f"about {(50 + 100) // 2 // 60}:15 left"
    board.hear(Event(0, "finished", done=100, score=25.0))
    board.hear(Event(2, "started"))
    board.close()
    shown = capsys.readouterr().out
    assert "bc: finished, 100 of 100 updates, score 25.0" in shown
    assert "deflow: failed, 0 of 100 updates; No space left on device" in shown


def test_time_left_comes_from_the_paces_of_cells_alike(cells):
    sweep = cells()
    assert seconds_left(sweep, [0, 0, 0], {}, 1, set()) is None
    assert seconds_left(sweep, [100, 40, 0], {0: 1.0, 1: 3.0}, 2, {0}) == pytest.approx((60 * 3 + 100 * 2) / 2)
    assert seconds_left(sweep, [100, 100, 100], {0: 1.0}, 2, {0, 1, 2}) is None


# The process of a cell


def test_how_a_cell_ended_is_told(write, monkeypatch):
    spec = RunSpec(CUBE, "bc", updates=100, evaluations=[100])
    tree, told = {"spec": spec.to_dict(), "folder": "run"}, []

    def train(spec, folder, *, progress, watch):
        record = records.Record(spec.to_dict(), {})
        for step in (1, 2, 3):
            record.progress.done = step
            watch(record, None)
        record.scores.append({"step": 3, "score": [10.0, 40.0]})
        return types.SimpleNamespace(record=record)

    monkeypatch.setattr(experiment, "train", train)
    assert cell._ended(tree, told.append) == {"kind": "finished", "done": 3, "score": 25.0}
    assert told == [{"kind": "progress", "done": 1, "score": None}]  # no second word within the same second
    for error, kind, note in (
        (TrainingInterrupted("Stopped after 2 of 100 updates."), "stopped", "Stopped after 2 of 100 updates."),
        (OSError(28, "No space left on device"), "failed", "No space left on device."),
        (FloatingPointError("The run broke at update 3."), "failed", "The run broke at update 3."),
        (KeyError("bug"), "failed", "KeyError: 'bug'"),
    ):
        monkeypatch.setattr(experiment, "train", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert cell._ended(tree, told.append) == {"kind": kind, "note": note}

    def stopped(spec, folder, **options):
        train(spec, folder, **options)
        raise TrainingInterrupted("Stopped after 3 of 100 updates.")

    monkeypatch.setattr(experiment, "train", stopped)
    assert cell._ended(tree, told.append) == {
        "kind": "stopped",
        "note": "Stopped after 3 of 100 updates.",
        "done": 3,
        "score": None,
    }
    assert cell._ended(tree | {"spec": {}}, told.append)["note"].startswith("A specification is a mapping")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*log has actions:UserWarning")
def test_a_real_cell_as_it_is_typed(write, own_log, capsys):
    """Data of one's own, without an environment."""
    write("""
    [base]
    agent = "bc"
    task.data = "log.npz"
    updates = 2
    evaluations = []
    config = {width = 4, depth = 1, batch_size = 4}
    """)
    assert cli.main(["sweep", "s.toml", "--jobs", "1"]) == 0
    assert "[1/1 over] bc: finished, 2 of 2 updates\n" in capsys.readouterr().out
    sweep = read_sweep("s.toml")
    assert statuses(sweep) == ["finished"]
    assert experiment.open_run(sweep.cells[0].folder).spec.hash == sweep.cells[0].spec.hash
    assert (sweep.cells[0].folder / LOG).read_text().endswith("Finished after 2 updates.\n")
    assert cli.main(["sweep", "s.toml", "--jobs", "1"]) == 0
    assert "started" not in capsys.readouterr().out

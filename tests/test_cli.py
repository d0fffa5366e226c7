"""The command line as a person meets it: help, one sentence for every mistake, and exit codes."""

import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

from fdbook import bench, cli
from fdbook.cli import common
from fdbook.cli.common import Parser, UsageError
from fdbook.report import figures


ROOT = Path(__file__).parents[1]


@pytest.fixture
def say(capsys):
    """Runs a command; returns its exit code, what it printed, and what it complained of."""

    def run(*words):
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Registers a figure called "toy" from the source of its `compute`."""

    def register(body):
        source = f'"""A toy."""\nimport matplotlib.pyplot as plt\ndef compute(context):\n    {body}\n'
        (tmp_path / "toy_figure.py").write_text(source + "def draw(numbers):\n    return plt.figure()\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(figures.REGISTRY, "toy", "toy_figure")
        sys.modules.pop("toy_figure", None)

    return register


def one_sentence(complaint):
    """The complaint, if it is one line of the form `fdbook: ...`."""
    assert complaint.startswith("fdbook: ")
    assert complaint.count("\n") == 1
    return complaint.removeprefix("fdbook: ").strip()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["figures", "--help"],
        ["data", "record", "--help"],
        ["data", "inspect", "--help"],
        ["sweep", "--help"],
        ["bench", "--help"],
        ["doctor", "--help"],
        ["notebooks", "copy", "--help"],
    ],
)
def test_help_has_an_example(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    code = (
        "import sys, fdbook; before = set(sys.modules)\n"
        "from fdbook import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', *set(sys.modules) - before)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert {"jax", "equinox", "numpy", "matplotlib", "ogbench"} & set(out.split("LOADED")[1].split()) == set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["figurs"], "Did you mean 'figures'"),
        (["doctr"], "Did you mean 'doctor'"),
        (["notebooks", "copi", "x"], "Did you mean 'copy'"),
        (["notebooks", "copy"], "DIR"),
        (["data", "recrd"], "Did you mean 'record'"),
        (["data", "record", "ogbench/cube-singel-play"], "near it are cube-single-play, "),
        (
            ["data", "record", "cube-single", "--noise-along", "0.3"],
            "takes noise (--noise), smoothing (--noise-smoothing); got along (--noise-along) 0.3",
        ),
        (
            ["data", "record", "pointmaze-medium", "--heading", "0"],
            "takes a heading above 0 and of at most 1, the box of actions; got 0",
        ),
        (["data", "record", "pointmaze-medium", "--noise", "much"], "argument --noise: invalid float value: 'much'"),
        (["data", "inspect", "D4RL/pointmaze/umaze-v2", "--heading", "0.5"], "got heading (--heading) 0.5"),
        (["figures", "landscap"], "Did you mean 'landscape'"),
        (["figures", "kl", "landscap", "--list"], "Did you mean 'landscape'"),
        (["bench", "flo"], "Did you mean 'flow'"),
        (["figures", "--seed", "-1"], "at least 0, got '-1'"),
        (["figures", "--episodes", "0"], "at least 1, got '0'"),
        (["data", "list", "ogbench/scen-"], "No data set has 'ogbench/scen-' in its name; `fdbook data list` names"),
        (["data", "inspect", "ogbench/scen"], "near it are scene, "),
        (["data", "inspect", "ogbench/scene-play", "--out", "scene.gif"], "ends in .png, .pdf; got scene.gif"),
        (["data", "record", "ogbench/scene-play", "--transitions", "9", "--episodes", "2"], "not allowed with"),
        (["data", "record", "ogbench/scene-play", "--workers", "0"], "at least 1, got '0'"),
        (["data", "record", "ogbench/cube-single-play", "--episodes", "many"], "at least 1, got 'many'"),
        (["figures", "--fresh", "--redraw"], "not allowed with"),
        (["figures", "--sed", "1"], "unrecognized arguments: --sed"),
        (["data"], "COMMAND"),
        ([], "COMMAND"),
    ],
)
def test_a_mistake_gets_one_sentence_and_code_2(say, words, expected):
    code, printed, complaint = say(*words)
    assert code == 2
    assert printed == ""
    assert expected in one_sentence(complaint)


def test_a_wrong_value_of_an_option_names_the_option_and_not_a_command():
    parser = Parser(prog="toy")
    parser.add_argument("--size", choices=("laptop", "paper"))
    with pytest.raises(UsageError, match=r"^There is no value of --size called 'laptopp'\. Did you mean 'laptop'\?"):
        parser.parse_args(["--size", "laptopp"])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise ValueError('The toy is broken.')", "The toy is broken."),
        ("raise FloatingPointError('The loss became nan.')", "The loss became nan."),
        ("open('/nowhere/at/all')", "No such file or directory: /nowhere/at/all"),
    ],
)
def test_a_failure_gets_one_sentence_and_code_1(say, toy, tmp_path, body, sentence):
    toy(body)
    code, _, complaint = say("figures", "toy", "--out", tmp_path / "out")
    assert code == 1
    assert one_sentence(complaint) == sentence


def test_a_bug_is_not_hidden(toy, tmp_path):
    toy("return undefined")
    with pytest.raises(NameError):
        cli.main(["figures", "toy", "--out", str(tmp_path / "out")])


def test_an_unwritable_folder_is_refused_before_anything_is_computed(say, toy, tmp_path):
    toy(f"open({str(tmp_path / 'computed')!r}, 'w')")
    (tmp_path / "file").write_text("")
    code, _, complaint = say("figures", "toy", "--out", tmp_path / "file" / "out")
    assert code == 1
    assert str(tmp_path / "file" / "out") in one_sentence(complaint)
    assert not (tmp_path / "computed").exists()


def test_ctrl_c_gets_one_sentence_and_code_130(say, toy, tmp_path):
    toy("raise KeyboardInterrupt")
    code, _, complaint = say("figures", "toy", "--out", tmp_path / "out")
    assert code == 130
    assert "Interrupted in figure toy; finished and kept: none." in one_sentence(complaint)


def test_figures_hands_on_what_was_asked_for(say, toy, tmp_path, monkeypatch):
    from fdbook.data import ogbench

    asked = []
    monkeypatch.setattr(ogbench, "load_or_record", lambda name, **settings: asked.append((name, settings)))
    toy("context.recordings('some/data'); return {'seed': context.seed}")
    code, printed, _ = say("figures", "toy", "--out", tmp_path, "--seed", 3, "--episodes", 7, "--no-progress")
    assert code == 0
    assert printed.startswith("toy ")
    assert asked == [("some/data", {"seed": 3, "episodes": 7, "progress": False})]
    assert figures.load_numbers("toy", tmp_path) == {"seed": 3}


def test_list_says_what_each_figure_shows(say, toy):
    toy("raise AssertionError")
    assert say("figures", "--list", "toy") == (0, "toy        A toy.\n", "")
    printed = say("figures", "--list")[1]
    assert [line.split()[0] for line in printed.splitlines()] == list(figures.REGISTRY)


def test_data_list_names_what_can_be_recorded_and_where(say, tmp_path, monkeypatch):
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    code, printed, _ = say("data", "list")
    assert code == 0
    assert "ogbench/cube-single-play" in printed
    assert str(tmp_path) in printed


def test_data_list_by_a_part_of_names(say):
    code, printed, _ = say("data", "list", "pen")
    assert code == 0
    rows = [line.split()[0] for line in printed.splitlines() if line.startswith(("ogbench/", "D4RL/"))]
    assert rows == ["D4RL/pen/human-v2", "D4RL/pen/cloned-v2", "D4RL/pen/expert-v2"]
    headings = [line for line in say("data", "list", "cube")[1].splitlines() if line.startswith("--")]
    assert len(headings) == len(set(headings)) > 1
    assert "evaluation" in say("data", "list", "D4RL/pen/human-v2")[1]


def test_record_hands_on_what_was_asked_for(say, tmp_path, monkeypatch):
    from fdbook.data import record
    from fdbook.data.dose import Dose

    asked = []
    monkeypatch.setattr(record, "record", lambda name, **settings: asked.append((name, settings)) or tmp_path)
    name = "ogbench/cube-single-play"
    assert say("data", "record", name, "--episodes", 3, "--seed", 4, "--folder", tmp_path)[:2] == (0, f"{tmp_path}\n")
    settings = {"episodes": 3, "seed": 4, "dose": None, "folder": Path(tmp_path), "workers": None, "progress": False}
    assert asked == [(name, settings)]
    noise = ("--noise", 0.1, 0.1, 0.02, 0.1, 0.05, "--noise-smoothing", 0)
    assert say("data", "record", "cube-single", *noise)[0] == 0
    assert asked[1][0] == name
    assert asked[1][1]["dose"] == Dose(noise=(0.1, 0.1, 0.02, 0.1, 0.05), smoothing=0.0)


@pytest.mark.parametrize(
    ("name", "words", "episodes"),
    [
        ("ogbench/scene-play", ["--transitions", "300000"], 300),
        ("ogbench/scene-play", ["--transitions", "300001", "--workers", "2"], 301),
        ("ogbench/pointmaze-giant-navigate", ["--transitions", "4000"], 2),
        ("D4RL/pointmaze/umaze-v2", ["--transitions", "4000"], 4),
        ("ogbench/pointmaze-giant-navigate", [], 500),
    ],
)
def test_a_size_in_transitions_is_as_many_episodes_as_that_takes(say, tmp_path, monkeypatch, name, words, episodes):
    from fdbook.data import record

    asked = []
    monkeypatch.setattr(record, "record", lambda name, **settings: asked.append(settings) or tmp_path)
    assert say("data", "record", name, *words)[0] == 0
    assert asked[0]["episodes"] == episodes
    assert asked[0]["workers"] == (2 if "--workers" in words else None)


@pytest.mark.slow
def test_inspect_prints_and_draws(say, tmp_path):
    from fdbook.data.record import record

    name = "ogbench/pointmaze-medium-navigate"
    record(name, episodes=2, folder=tmp_path, workers=1, progress=False)
    words = ("data", "inspect", name, "--episodes", 2, "--folder", tmp_path)
    code, printed, complaint = say(*words, "--out", tmp_path / "drawn" / "maze.png")
    assert (code, complaint) == (0, "")
    assert "2,000 transitions in 2 episodes of 1000" in printed
    assert (tmp_path / "drawn" / "maze.png").read_bytes().startswith(b"\x89PNG")
    assert say(*words, "--out", tmp_path / "maze.pdf")[0] == 0
    assert (tmp_path / "maze.pdf").read_bytes().startswith(b"%PDF")
    folder = tmp_path / name / "2-episodes-seed-0"
    assert say("data", "inspect", name, "--dataset-dir", folder)[1].splitlines()[1:] == printed.splitlines()[1:-1]


def test_inspecting_what_is_not_there_names_the_command(say, tmp_path, monkeypatch):
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, complaint = say("data", "inspect", "ogbench/scene-play")
    assert code == 1
    assert one_sentence(complaint) == (
        "ogbench/scene-play is not on this machine; `fdbook data record ogbench/scene-play` records it."
    )
    code, _, complaint = say("data", "inspect", "ogbench/scene-play", "--episodes", 3)
    assert code == 1
    assert "`fdbook data record ogbench/scene-play --episodes 3` records it." in one_sentence(complaint)


def test_a_recording_that_was_stopped_says_so(say, monkeypatch):
    from fdbook.data import record

    def stopped(name, **settings):
        raise record.RecordingStopped("3 of 22 episodes are saved; run the same command to carry on.")

    monkeypatch.setattr(record, "record", stopped)
    code, _, complaint = say("data", "record", "ogbench/cube-single-play")
    assert code == 130
    assert one_sentence(complaint).startswith("3 of 22 episodes are saved")


def test_a_reader_who_has_seen_enough_is_no_failure():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "import sys; from fdbook.cli import main; sys.exit(main(['data', 'list']))"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_warning_is_a_sentence_on_the_command_line_and_a_warning_elsewhere(monkeypatch, capsys):
    def warned(arguments):
        said = UserWarning("The log has actions between 0 and 5: they are rescaled.")
        sys.stderr.write(warnings.formatwarning(said, UserWarning, "fdbook/data/custom.py", 3))

    before = warnings.formatwarning
    monkeypatch.setattr("fdbook.cli.data._list_data", warned)
    assert cli.main(["data", "list"]) == 0
    assert capsys.readouterr().err == "fdbook: The log has actions between 0 and 5: they are rescaled.\n"
    assert warnings.formatwarning is before


def test_version_is_the_package_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("fdbook ")


def test_python_m_fdbook_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fdbook", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "fdbook", "")


def test_a_device_that_is_not_here_gets_one_sentence():
    command = [sys.executable, "-m", "fdbook", "figures", "kl"]
    environment = os.environ | {"JAX_PLATFORMS": "tpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("fdbook: JAX finds no device for JAX_PLATFORMS='tpu'; unset it")
    assert "Traceback" not in done.stderr


def test_a_device_that_was_asked_for_and_is_not_here_gets_one_sentence():
    command = [sys.executable, "-m", "fdbook", "bench", "import", "--device", "gpu"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "fdbook: JAX finds no device for --device gpu; leave it out, or install"
    )
    assert "Traceback" not in done.stderr


def test_a_device_that_is_asked_for_is_that_of_the_processes_too(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    before = jax.config.jax_platforms
    common.choose_device("cpu")
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    assert jax.config.jax_platforms == "cpu"
    jax.config.update("jax_platforms", before)


def test_every_command_that_computes_says_in_a_sentence_that_the_device_is_full(monkeypatch, capsys):
    def measure():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.21GiB.")

    monkeypatch.setitem(bench.BENCHMARKS, "import", measure)
    assert cli.main(["bench", "import"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("fdbook: The device has no memory left, and 3.21 GiB more were wanted: fewer seeds")
    assert told.count("\n") == 1


def test_the_commands_of_make_full_size_are_ones_that_there_are():
    """The recipe for a GPU, as make would run it; what it names is there."""
    made = subprocess.run(["make", "-n", "full-size"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    typed = [shlex.split(line.split(";")[0])[1:] for line in made.splitlines() if "/fdbook " in line.split(" -", 1)[0]]
    parsed = [cli._parser().parse_args(words) for words in typed]
    assert [words[0] for words in typed] == ["bench", "sweep", "sweep"]
    assert [each.device for each in parsed] == ["gpu", "gpu", None]
    assert parsed[0].names == ["seeds"]
    assert "seeds" in bench.BENCHMARKS
    assert parsed[1].record
    assert parsed[1].file == parsed[2].file
    assert (ROOT / parsed[1].file).is_file()
    assert parsed[0].json.parent == parsed[2].records

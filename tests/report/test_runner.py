"""The runner of figures, tried on toys: what it writes, what it keeps, and what is left when it is stopped."""

import importlib
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from fdbook import cli
from fdbook.report import figures


TOY = '''"""A toy figure.

More about it.
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

HERE = pathlib.Path(__file__).parent


def compute(context):
    with open(HERE / "computed.txt", "a") as log:
        log.write(f"{NAME}\\n")
    context.progress(0.5, "half way")
    BODY
    return {"seed": context.seed, "line": np.linspace(0, 1, 100), "word": "yes", "note": CONSTANT}


def draw(numbers):
    if (HERE / "broken").exists():
        raise ZeroDivisionError("draw is broken")
    fig, ax = plt.subplots()
    ax.plot(numbers["line"])
    ax.set_title(str(numbers["note"]))
    return fig
'''
FILES = ("{}.pdf", "{}.png", "data/{}.json", "data/{}.npz")


class Workshop:
    """A folder with toy figures in it, and a folder that they are drawn into."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "figures"

    def write(self, name, body="pass", constant="1"):
        """Writes the module of a toy figure."""
        source = TOY.replace("{NAME}", name).replace("BODY", body).replace("CONSTANT", constant)
        (self.folder / f"toy_{name}.py").write_text(source)
        sys.modules.pop(f"toy_{name}", None)

    def run(self, *names, **options):
        """Runs the figures; returns the names of those that were computed, in their order."""
        log = self.folder / "computed.txt"
        log.write_text("")
        figures.run(names, out=self.out, recordings=lambda name: name, progress=False, **options)
        return log.read_text().split()

    def files(self, name):
        """The contents of a figure's files, by their names."""
        return {form: path.read_bytes() for form in FILES if (path := self.out / form.format(name)).exists()}

    def debris(self):
        """Temporary files that were left behind."""
        return [path for path in self.out.rglob("*") if path.name.endswith(".tmp")]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """Two registered toys, `one` and `two`."""
    for name in ("one", "two"):
        monkeypatch.setitem(figures.REGISTRY, name, f"toy_{name}")
    monkeypatch.setattr(figures, "SOURCES", ("fdbook.checks",))  # someone may be editing the others
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    workshop = Workshop(tmp_path)
    workshop.write("one")
    workshop.write("two")
    return workshop


def test_a_run_writes_pictures_and_numbers(workshop, capsys):
    assert workshop.run("one", "two", seed=3, episodes=7) == ["one", "two"]
    files = workshop.files("one")
    assert files["{}.pdf"].startswith(b"%PDF")
    assert files["{}.png"].startswith(b"\x89PNG")
    numbers = figures.load_numbers("one", workshop.out)
    assert (numbers["seed"], numbers["word"], numbers["line"].shape) == (3, "yes", (100,))
    about = json.loads(files["data/{}.json"])["about"]
    assert (about["figure"], about["shows"], about["seed"], about["episodes"]) == ("one", "A toy figure.", 3, 7)
    assert about["versions"]["jax"] == importlib.metadata.version("jax")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]
    assert workshop.debris() == []


def test_a_second_run_only_draws(workshop, capsys):
    workshop.run("one")
    before = workshop.files("one")
    assert workshop.run("one") == []
    assert workshop.files("one") == before
    assert "up to date" in capsys.readouterr().out.splitlines()[-1]


def test_pictures_do_not_depend_on_when_or_where(workshop):
    workshop.run("one")
    first, workshop.out = workshop.files("one"), workshop.folder / "elsewhere"
    assert workshop.run("one") == ["one"]
    second = workshop.files("one")
    assert all(first[form] == second[form] for form in ("{}.pdf", "{}.png", "data/{}.npz"))


@pytest.mark.parametrize("options", [{"seed": 1}, {"episodes": 21}, {"fresh": True}])
def test_another_question_is_computed_anew(workshop, options):
    workshop.run("one")
    assert workshop.run("one", **options) == ["one"]


def test_other_code_is_computed_anew(workshop, monkeypatch):
    workshop.run("one")
    workshop.write("one", constant="2")
    assert workshop.run("one") == ["one"]
    assert figures.load_numbers("one", workshop.out)["note"] == 2
    workshop.write("shared")
    monkeypatch.setattr(figures, "SOURCES", (*figures.SOURCES, "toy_shared"))
    assert workshop.run("one") == ["one"]
    assert workshop.run("one") == []


def test_another_version_is_computed_anew(workshop, monkeypatch):
    workshop.run("one")
    monkeypatch.setattr(figures, "_versions", lambda: {"jax": "another"})
    assert workshop.run("one") == ["one"]


def test_the_mathematics_counts_as_code_of_every_figure():
    from fdbook.geometry import paths

    sources = [path for module in figures.SOURCES for path in figures._source(module)]
    assert os.fspath(paths.__file__) in map(os.fspath, sources)


def test_a_fresh_clone_computes_for_itself(workshop):
    workshop.run("one")
    for path in (workshop.out / ".made").iterdir():  # not under version control
        path.unlink()
    assert workshop.run("one") == ["one"]


def test_numbers_that_were_damaged_are_computed_anew(workshop):
    workshop.run("one")
    (workshop.out / ".made" / "one.npz").write_bytes(b"")
    assert workshop.run("one") == ["one"]


def test_large_arrays_that_are_gone_leave_no_file(workshop):
    workshop.run("one")
    workshop.write("one", body="return {'line': [1, 2], 'note': 0}")
    workshop.run("one")
    assert set(workshop.files("one")) == set(FILES) - {"data/{}.npz"}


def test_redraw_draws_what_is_there(workshop):
    workshop.run("one")
    before = workshop.files("one")
    path = workshop.out / "data" / "one.json"
    path.write_text(path.read_text().replace('"note": 1', '"note": 5'))
    assert workshop.run("one", redraw=True) == []
    after = workshop.files("one")
    assert after["{}.png"] != before["{}.png"]
    assert b'"note": 5' in after["data/{}.json"]


def test_redraw_without_numbers_says_how_to_get_them(workshop):
    with pytest.raises(FileNotFoundError, match=r"one\.json is not there; draw it with: fdbook figures one"):
        workshop.run("one", redraw=True)


@pytest.mark.parametrize("out", ["figures", "../figures", "a b"])
def test_the_advised_command_writes_where_the_call_reads(workshop, monkeypatch, out):
    (workshop.folder / "inside").mkdir()
    monkeypatch.chdir(workshop.folder / "inside")
    with pytest.raises(FileNotFoundError) as refusal:
        figures.load_numbers("one", out)
    words = shlex.split(str(refusal.value).partition("draw it with: fdbook ")[2])
    assert (len(words) == 2) == (out == "figures")
    assert cli.main(words) == 0
    assert figures.load_numbers("one", out)["note"] == 1


@pytest.mark.slow
def test_a_figure_can_use_the_numbers_of_another(workshop):
    workshop.write("two", body="other = context.numbers('one'); assert other['line'].shape == (100,)")
    assert workshop.run("two") == ["two", "one"]
    assert set(workshop.files("one")) == set(FILES)
    assert workshop.run("two", "one") == []
    workshop.write("one", constant="2")
    assert workshop.run("two") == ["two", "one"]


def test_each_figure_is_made_once(workshop):
    workshop.write("two", body="context.numbers('one'); context.numbers('one')")
    assert workshop.run("one", "two", "one", fresh=True) == ["one", "two"]


def test_a_figure_that_uses_an_unknown_one_says_so(workshop):
    workshop.write("two", body="context.numbers('on')")
    with pytest.raises(ValueError, match=r"no figure called 'on'\. Did you mean 'one'"):
        workshop.run("two")


def test_recordings_are_handed_on(workshop):
    workshop.write("one", body="return {'note': context.recordings('ogbench/x'), 'line': [0]}")
    workshop.run("one")
    assert figures.load_numbers("one", workshop.out)["note"] == "ogbench/x"


def test_a_broken_drawing_leaves_the_old_files_and_keeps_the_new_numbers(workshop):
    workshop.run("one")
    before = workshop.files("one")
    workshop.write("one", constant="2")
    (workshop.folder / "broken").touch()
    with pytest.raises(ZeroDivisionError):
        workshop.run("one")
    assert workshop.files("one") == before
    (workshop.folder / "broken").unlink()
    assert workshop.run("one") == []
    assert figures.load_numbers("one", workshop.out)["note"] == 2


def test_a_drawing_that_returns_nothing_is_named(workshop):
    path = workshop.folder / "toy_one.py"
    path.write_text(path.read_text().replace("    return fig\n", ""))
    with pytest.raises(ValueError, match=r"^The figure one is not drawn: draw of toy_one returns nothing\.$"):
        workshop.run("one")


def test_unknown_names_are_refused_first(workshop):
    with pytest.raises(ValueError, match=r"no figure called 'landscap'\. Did you mean 'landscape'"):
        workshop.run("one", "landscap")
    with pytest.raises(ValueError, match="no figure called 'landscap'"):
        figures.load_numbers("landscap")
    assert not workshop.out.exists()


def test_fresh_and_redraw_exclude_each_other(workshop):
    with pytest.raises(ValueError, match="not both"):
        workshop.run("one", fresh=True, redraw=True)


DRIVER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
kill_at = int(sys.argv[2])
from fdbook import cli
from fdbook.report import figures
figures.SOURCES = ("fdbook.checks",)
for name in ("one", "two"):
    figures.REGISTRY[name] = f"toy_{name}"
replace = os.replace
def counted(source, target):
    global kill_at
    kill_at -= 1
    if kill_at == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = counted
sys.exit(cli.main(["figures", "one", "two", "--out", sys.argv[1] + "/figures", "--no-progress"]))
"""
WAIT = "(HERE / 'waiting').touch(); import time; time.sleep(60) if (HERE / 'wait').exists() else None"


def start(workshop, kill_at=0):
    """The command `fdbook figures one two` in a process of its own, which kills itself before its kill_at-th move."""
    command = [sys.executable, "-c", DRIVER, str(workshop.folder), str(kill_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_keeps_what_is_finished_and_is_carried_on(workshop, how):
    workshop.write("two", body=WAIT)
    (workshop.folder / "wait").touch()
    process = start(workshop)
    deadline = time.monotonic() + 120
    while not (workshop.folder / "waiting").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    _, complaint = process.communicate(timeout=60)
    assert set(workshop.files("one")) == set(FILES)
    assert workshop.files("two") == {}
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert complaint.count("\n") == 1
        assert complaint.startswith("fdbook: Interrupted in figure two; finished and kept: one. Run the same command")
    (workshop.folder / "wait").unlink()
    assert workshop.run("one", "two") == ["two"]
    assert set(workshop.files("two")) == set(FILES)
    assert workshop.debris() == []


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [2, 4])
def test_a_run_killed_between_two_moves_is_carried_on(workshop, kill_at):
    process = start(workshop, kill_at)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    for content in workshop.files("one").values():
        assert len(content) > 500  # whatever is there is whole
    computed = workshop.run("one", "two")
    assert computed == (["one", "two"] if kill_at == 2 else ["two"])
    assert set(workshop.files("one")) == set(workshop.files("two")) == set(FILES)
    assert workshop.debris() == []

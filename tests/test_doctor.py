"""`fdbook doctor`: needs are read from the chapters' code, what is broken is told with what mends it, and nothing is assumed."""

import functools
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from fdbook import book, cli
from fdbook.cli import checkup, probing, requirements
from fdbook.cli.probing import Answer


@pytest.fixture(scope="module")
def chapters():
    """What the book's chapters need."""
    return {number: requirements.of_notebook(path) for number, path in book.chapters().items()}


def notebook(folder, *cells, name="03_a_chapter.ipynb", kernel="python3"):
    """A notebook with a title and these cells of code."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": kernel, "display_name": "", "language": "python"}})
    made.cells = [nbformat.v4.new_markdown_cell("# 3 · A chapter\n\nText."), *map(nbformat.v4.new_code_cell, cells)]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, folder / name)
    return folder / name


def test_needs_are_read_from_the_code_of_a_chapter(tmp_path):
    need = requirements.of_notebook(
        notebook(
            tmp_path,
            "import numpy as np\nfrom fdbook.data.ogbench import load_or_record, maze_layout\n%config Inline.x = 1",
            'cube = load_or_record("ogbench/cube-single-play", episodes=20)\nload(TASK, episodes=60)\nmake(name, episodes=n)',
            'a = figures.LADDERS.glob("dose-*.json")\nb = read(figures.RUNS.parent / "tried" / f"x-{k}-{seed}")\n'
            'c = read(f"../figures/data/recording-{name}.json")\nd = load_numbers("geometry", "../figures")\n'
            'e = {"a": "tried/one"}\nf = figures.RUNS / name\ng = figures.BENCH\nother = f"{name}.json" / "x"',
        )
    )
    assert need.title == "A chapter"
    assert need.imports[:2] == ("import numpy", "from fdbook.data.ogbench import load_or_record")
    assert need.episodes == {"ogbench/cube-single-play": 20, None: 60}
    assert "ogbench/cube-single-play" in need.words
    assert set(need.records) == {
        "ladders/dose-*.json", "tried/x-*-*", "recording-*.json", "geometry.json", "tried/one", "runs/*", "bench.json",
    }  # fmt: skip
    assert need.uses_data
    assert need.records_anew
    assert need.kernel == "python3"


def test_a_chapter_that_asks_for_nothing_needs_nothing(tmp_path):
    code = "from fdbook.geometry import flow\nfrom fdbook.data.tasks import TASKS"
    need = requirements.of_notebook(notebook(tmp_path, code, "record = 3", kernel="other"))
    assert (need.records, need.episodes, need.uses_data, need.records_anew) == ((), {}, False, False)
    assert need.kernel == "other"


@pytest.mark.parametrize("text", ["{", "{}", '{"cells": [{"cell_type": "code", "source": ["x ="]}]}', '{"cells": 3}'])
def test_a_damaged_chapter_is_told_by_name(tmp_path, text):
    path = tmp_path / "01_x.ipynb"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"01_x\.ipynb is damaged: "):
        requirements.of_notebook(path)


def test_what_the_chapters_of_the_book_need(chapters):
    assert list(chapters) == [f"{number:02d}" for number in range(len(chapters))]
    assert [number for number, need in chapters.items() if need.uses_data] == ["07", "08", "09"]
    assert chapters["07"].episodes["ogbench/cube-single-play"] == 20
    assert "D4RL/pointmaze/medium-v2" in chapters["08"].words
    assert chapters["09"].episodes["ogbench/pointmaze-medium-navigate"] == 60
    assert "geometry.json" in chapters["00"].records
    assert "tried/d4rl-pointmaze-large" in chapters["13"].records
    lacking = {(n, each) for n, need in chapters.items() for each in need.records if not any(book.RECORDS.glob(each))}
    assert lacking == set()


def test_late_imports_are_those_of_others_inside_functions(tmp_path):
    (tmp_path / "a.py").write_text(
        "import early\ndef f():\n    import late.inner, json\n    from later import x\n    from fdbook import checks\n"
        '    importlib.import_module("latest")\n    importlib.import_module(name)\n'
    )
    assert requirements.late_imports(tmp_path) == ("late.inner", "later", "latest")
    assert {"ogbench", "minari", "gymnasium"} <= set(requirements.late_imports(book.PACKAGE / "data"))


def test_what_is_tried_is_told_and_ends_no_one_else():
    answers = probing.try_out(
        {
            "fine": "print('noise')\nresult = [1, 'a']",
            "gone": "import a_module_that_is_not_there.inner",
            "broken": "import json\njson.loads('{')",
            "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "ended": "import os\nos._exit(3)",
            "left": "raise SystemExit(4)",
            "after": "result = 'still here'",
        }
    )
    assert answers["fine"] == Answer(result=[1, "a"])
    gone = answers["gone"]
    assert (gone.error, gone.module, gone.missing) == ("a_module_that_is_not_there is not installed", gone.module, True)
    assert gone.module == "a_module_that_is_not_there"
    assert answers["broken"].error.startswith("JSONDecodeError: ")
    assert answers["broken"].module == "json.decoder"
    assert answers["killed"].error == "its process was ended by SIGKILL"
    assert answers["ended"].error == "its process ended with exit code 3"
    assert answers["left"].error == "SystemExit: 4"
    assert answers["after"].result == "still here"


def test_what_does_not_end_and_what_always_crashes_are_given_up():
    answers = probing.try_out({"endless": "while True: pass", "after": "result = 1"}, patience=1.5)
    assert answers["endless"].error == "no answer in 1.5 seconds"
    assert answers["after"].result == 1
    crash = "import os\nos._exit(1)"
    answers = probing.try_out({str(number): crash for number in range(probing.RESTARTS + 3)})
    assert [each.error for each in answers.values()] == [
        *["its process ended with exit code 1"] * (probing.RESTARTS + 1),
        *["not tried: too many tries before it ended their process"] * 2,
    ]


def test_a_process_that_cannot_be_started_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert probing.try_out({"any": ""}, patience=5.0)["any"].error.startswith("no process can be started: No such file")


def test_the_inventory_tells_what_is_here_and_what_is_not(tmp_path, monkeypatch):
    from fdbook.data.record import record

    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    name = "ogbench/pointmaze-medium-navigate"
    record(name, episodes=2, workers=1, progress=False)
    told = probing.inventory({"07": ([name, "no data set"], {name: 2}), "09": ([name], {"": 3})})
    assert json.loads(json.dumps(told)) == told
    assert told["root"] == str(tmp_path)
    assert told["here"][name] == "2 episodes"
    (first,), (second,) = told["chapters"]["07"], told["chapters"]["09"]
    assert (first["here"], second["here"]) == (True, False)
    assert second["command"] == f"fdbook data record {name} --episodes 3"
    there = sum(path.stat().st_size for path in tmp_path.rglob("*.npz"))
    assert 0.5 < first["bytes"] / there < 3  # files are compressed a little


KERNEL, ASKED_ONCE = checkup._kernel, functools.cache(checkup._kernel)
GOOD = {"device": Answer(result=[["cpu", "cpu"]]), "renderer": Answer(result="egl")}
STOCK = {"root": ".", "here": {}, "chapters": {}}


@pytest.fixture
def doctor(monkeypatch, capsys, tmp_path):
    """Runs the doctor with answers that are made up; returns its exit code, the findings by name, and, if asked, its table."""
    monkeypatch.setattr(checkup, "_kernel", ASKED_ONCE)  # it is tested by itself below

    def run(answers=None, *, here=True, root=tmp_path, table=False):
        told = dict(GOOD, **(answers or {}))
        stock = {"root": str(root), "here": {"ogbench/x": "download"}}

        def try_out(tasks):
            data = {
                "name": "ogbench/x",
                "here": here,
                "recordable": True,
                "bytes": 100,
                "command": "fdbook data record x",
            }
            known = stock | {"chapters": {number: [data] for number in book.chapters(book.NOTEBOOKS)}}
            return {name: told.get(name, Answer(result=known if name == "data" else None)) for name in tasks}

        monkeypatch.setattr(checkup.probing, "try_out", try_out)
        code = cli.main(["doctor", "--json"])
        found = {each["what"]: each for each in json.loads(capsys.readouterr().out)}
        assert not table or cli.main(["doctor"]) == code
        return code, found, capsys.readouterr().out

    return run


def stopped(found):
    return [what for what, each in found.items() if each["chapter"] and each["state"] == "missing"]


def test_where_all_is_well_every_chapter_can_run(doctor):
    code, found, printed = doctor(table=True)
    assert code == 0
    assert stopped(found) == []
    assert f"All {len(book.chapters())} chapters can run here." in printed
    assert found["07"]["found"].endswith("its data are here")
    assert found["films"]["state"] == found["device"]["state"] == found["kernel"]["state"] == "ok"
    assert max(len(line) for line in printed.splitlines() if "->" not in line) <= 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "chapters", "row", "sentence", "command"),
    [
        (
            {"import ogbench": Answer("ogbench is not installed", "ogbench", True)},
            ["07", "08", "09"],
            "07",
            "`import ogbench`: ogbench is not installed",
            "-m pip install -c constraints.txt ogbench"
            if sys.version_info < (3, 13)
            else "-m pip install -c constraints.txt --no-deps ogbench dm_control",
        ),
        (
            {"from scipy import stats": Answer("ImportError: bad", "scipy.stats", False)},
            ["09", "12", "13"],
            "12",
            "`from scipy import stats`: ImportError: bad",
            "-m pip install -c constraints.txt --force-reinstall --no-deps scipy",
        ),
        (
            {"device": Answer("its process was ended by SIGILL")},
            None,
            "device",
            "JAX does not run: its process was ended by SIGILL",
            "--force-reinstall --no-deps jax jaxlib",
        ),
        (
            {"import jupyterlab": Answer("jupyterlab is not installed", "jupyterlab", True)},
            None,
            "JupyterLab",
            "jupyterlab is not installed",
            "-m pip install -c constraints.txt jupyterlab",
        ),
        (
            {"data": Answer("ImportError: libx", "minari.core", False)},
            ["07", "08", "09"],
            "data",
            "cannot be looked at: ImportError: libx",
            "--force-reinstall --no-deps minari",
        ),
        (
            {"renderer": Answer("MuJoCo cannot render here (egl: x): install it, as in `apt install libegl1`.")},
            [],
            "films",
            "MuJoCo cannot render here",
            "apt install libegl1",
        ),
        ({"pictures": Answer("OSError: no WebP", "PIL.Image", False)}, [], "films", "no WebP", "--no-deps pillow"),
    ],
)
def test_what_is_missing_is_told_with_what_mends_it(doctor, monkeypatch, answers, chapters, row, sentence, command):
    monkeypatch.chdir(book.ROOT)
    code, found, printed = doctor(answers, table=True)
    assert stopped(found) == (list(book.chapters()) if chapters is None else chapters)
    assert code == (0 if chapters == [] else 1)
    assert sentence in found[row]["found"]
    assert found[row]["state"] == ("note" if chapters == [] else "missing")
    assert found[row]["mend"].endswith(command)
    assert f"-> {found[row]['mend']}" in printed


@pytest.mark.parametrize(
    ("asked", "mend"),
    [("tpu", "unset JAX_PLATFORMS"), ("cuda", "unset JAX_PLATFORMS; on a machine with an NVIDIA GPU: ")],
)
def test_a_device_that_is_asked_for_and_not_here(doctor, monkeypatch, asked, mend):
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    code, found, _ = doctor({"device": Answer("RuntimeError: no backend", "jax._src.xla_bridge", False)})
    assert code == 1
    assert found["device"]["found"] == f"JAX finds none for JAX_PLATFORMS={asked!r} (RuntimeError: no backend)"
    assert found["device"]["mend"].startswith(mend)


def test_a_gpu_is_told_and_so_is_one_that_is_not_used(doctor, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    _, found, _ = doctor({"device": Answer(result=[["gpu", "Fast One"], ["gpu", "Fast One"]])})
    assert found["device"]["found"] == "2 of gpu: Fast One"
    says = checkup._says
    monkeypatch.setattr(checkup, "_says", lambda command: "GPU 0" if command[0] == "nvidia-smi" else says(command))
    _, found, _ = doctor()
    assert found["device"]["state"] == "note"
    assert "which JAX does not use" in found["device"]["found"]
    assert found["device"]["mend"].endswith("'jax[cuda12]'")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    _, found, _ = doctor()
    assert "as JAX_PLATFORMS='cpu' asks" in found["device"]["found"]


@pytest.mark.slow
def test_data_that_are_not_here_are_recorded_if_they_can_be(doctor, monkeypatch, tmp_path):
    code, found, _ = doctor(here=False)
    assert code == 0
    assert found["07"]["found"].endswith("; records ogbench/x when it is run")
    code, found, _ = doctor(here=False, root=Path("/dev/null/x"))
    assert code == 1
    assert stopped(found) == ["07", "08", "09"]
    assert found["07"]["found"].endswith("not here: ogbench/x; nothing can be recorded into /dev/null/x")
    assert found["data"]["state"] == "note"
    monkeypatch.setattr(checkup, "_free", lambda folder: 100_000_000)
    code, found, _ = doctor(here=False)
    assert code == 1
    assert f"100 MB of {tmp_path} are too little" in found["08"]["found"]
    assert found["disk"]["state"] == "note"
    assert doctor(here=True)[0] == 0


def test_chapters_records_and_constraints_that_are_not_there(doctor, monkeypatch, tmp_path):
    notebook(tmp_path / "notebooks", 'read(figures.LADDERS / "lost.json")')
    (tmp_path / "notebooks" / "04_x.ipynb").write_text("{")
    for name, place in (("NOTEBOOKS", "notebooks"), ("RECORDS", "figures/data"), ("CONSTRAINTS", "constraints.txt")):
        monkeypatch.setattr(book, name, tmp_path / place)
    known = book.chapters
    monkeypatch.setattr(book, "chapters", lambda folder=tmp_path / "notebooks": known(folder))
    code, found, _ = doctor()
    assert code == 1
    assert stopped(found) == ["04", "03"]
    assert f"no ladders/lost.json in {tmp_path / 'figures' / 'data'}" in found["03"]["found"]
    assert "04_x.ipynb is damaged" in found["04"]["found"]
    assert "constraints.txt to compare them with" in found["versions"]["found"]
    for path in (tmp_path / "notebooks").iterdir():
        path.unlink()
    code, found, _ = doctor()
    assert code == 1
    assert found["chapters"]["found"] == f"there are none in {tmp_path / 'notebooks'}"


@pytest.mark.slow
def test_versions_are_compared_with_what_is_needed_and_with_the_constraints(doctor, monkeypatch):
    versions = {"numpy": "1.0", "jax": "99.0"}
    known = importlib.metadata.version

    def version(name):
        if name == "seaborn":
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name, known(name))

    monkeypatch.setattr(importlib.metadata, "version", version)
    _, found, _ = doctor()
    assert found["numpy"]["found"] == "1.0; fdbook needs >=2.0"
    assert found["numpy"]["mend"].endswith(" numpy")
    assert found["packages"]["state"] == "missing"
    assert found["packages"]["found"].endswith("are not installed: seaborn")
    assert found["packages"]["mend"].endswith(" seaborn")
    assert found["versions"]["state"] == "note"
    assert "jax 99.0 (there: " in found["versions"]["found"]
    assert " jax==" in found["versions"]["mend"]
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    versions.clear()
    _, found, _ = doctor()
    assert found["packages"]["found"].endswith("are not installed: seaborn")
    assert "versions" not in found

    def gone(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", gone)
    _, found, _ = doctor()
    assert found["fdbook"]["found"].startswith("not installed, only found in ")


def test_a_look_that_fails_is_told(doctor, monkeypatch):
    monkeypatch.setattr(checkup, "_pins", lambda: 1 / 0)
    _, found, _ = doctor()
    assert found["packages"]["found"] == "cannot be looked at (ZeroDivisionError: division by zero)"
    monkeypatch.setattr(checkup, "_kernel", KERNEL)
    monkeypatch.setitem(sys.modules, "jupyter_client", None)
    code, found, _ = doctor()
    assert code == 1
    assert stopped(found) == list(book.chapters())
    assert "ModuleNotFoundError" in found["kernel"]["found"]


def kernel(folder, name, *argv):
    spec = {"argv": list(argv), "display_name": name, "language": "python"}
    (folder / "kernels" / name).mkdir(parents=True)
    (folder / "kernels" / name / "kernel.json").write_text(json.dumps(spec))


def test_the_kernel_has_to_be_one_of_this_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert checkup._kernel("not-there").found == "Jupyter has no kernel 'not-there'"
    other = tmp_path / "python-of-another"
    other.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    other.chmod(0o755)
    kernel(tmp_path, "another", str(other), "-m", "ipykernel_launcher")
    found = checkup._kernel("another")
    assert found.state == "missing"
    assert f"starts another environment: {tmp_path}" in found.found
    assert "-m jupyter kernelspec remove another && " in found.mend
    assert found.mend.endswith("-m ipykernel install --sys-prefix --name another")
    kernel(tmp_path, "gone", "/nowhere/python", "-m", "ipykernel_launcher")
    assert checkup._kernel("gone").found == "'gone' starts /nowhere/python, which has no ipykernel"
    kernel(tmp_path, "ours", "python", "-m", "ipykernel_launcher")
    assert checkup._kernel("ours").state == "ok"
    kernel(tmp_path, "full", sys.executable, "-m", "ipykernel_launcher")
    assert checkup._kernel("full").state == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["ogbench", "jax"])
def test_a_broken_installation_gets_a_table_and_no_traceback(tmp_path, broken):
    """As a reader meets it: the command, with a package that cannot be imported (or kills what imports it)."""
    body = "raise ImportError('libx.so: cannot open')" if broken == "ogbench" else "import os; os.kill(os.getpid(), 9)"
    (tmp_path / broken).mkdir()
    (tmp_path / broken / "__init__.py").write_text(body)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "FDBOOK_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "fdbook", "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ""
    found = {each["what"]: each for each in json.loads(done.stdout)}
    if broken == "ogbench":
        assert stopped(found) == ["07", "08", "09"]
        assert "`import ogbench`: ImportError: libx.so: cannot open" in found["07"]["found"]
        assert found["07"]["mend"].endswith("ogbench" if sys.version_info < (3, 13) else "dm_control")
    else:
        assert stopped(found) == list(book.chapters())
        assert found["device"]["found"] == f"JAX does not run: its process was ended by {signal.SIGKILL.name}"
    assert not (tmp_path / "data").exists()  # whoever only looks makes no folders


@pytest.mark.slow
def test_here_every_chapter_can_run(tmp_path):
    """Nothing made up: this installation, as it is. A chapter that cannot run here cannot be tested here either."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    environment |= {"FDBOOK_DATA": str(tmp_path)}
    command = [sys.executable, "-m", "fdbook", "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"All {len(book.chapters())} chapters can run here." in done.stdout


def test_the_doctor_starts_fast():
    code = "import sys; from fdbook.cli import doctor, checkup; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"jax", "numpy", "matplotlib", "jupyter_client", "equinox", "ogbench"} & set(loaded) == set()

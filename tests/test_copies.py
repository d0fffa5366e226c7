"""The book outside a clone: what a copy holds and never overwrites, and a wheel that carries it all into a clean environment."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest

from fdbook import book, cli
from fdbook.cli import notebooks


ROOT = Path(__file__).parents[1]
CHANGED = ("PYTHONPATH", "JAX_PLATFORMS", "MPLBACKEND")
"""Variables that other tests set, and a reader's shell has not."""


@pytest.fixture
def sources(tmp_path):
    """Files to copy, by their places, and a way to write one of them."""
    files = {}

    def write(place, text):
        files[place] = tmp_path / "ours" / place
        files[place].parent.mkdir(parents=True, exist_ok=True)
        files[place].write_text(text)
        return files

    write("notebooks/00_a.ipynb", "zero")
    write("notebooks/01_b.ipynb", "one")
    return write("figures/data/kl.json", "{}"), write


def texts(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_a_copy_is_what_was_there_and_again_nothing_new(sources, tmp_path):
    files, _ = sources
    copy = tmp_path / "deep" / "copy"
    assert notebooks.copy(files, copy) == []
    told = texts(copy)
    assert {place: told[place] for place in files} == {place: path.read_text() for place, path in files.items()}
    assert set(told) == {*files, notebooks.NOTE}
    assert notebooks.copy(files, copy) == []
    assert texts(copy) == told


def test_what_the_reader_has_changed_is_never_overwritten_without_force(sources, tmp_path):
    files, write = sources
    copy = tmp_path / "copy"
    notebooks.copy(files, copy)
    (copy / "notebooks" / "00_a.ipynb").write_text("mine")
    write("notebooks/01_b.ipynb", "one, corrected")
    before = texts(copy)
    with pytest.raises(
        ValueError, match=r"you have changed notebooks/00_a\.ipynb; copy to another folder, or .* --force"
    ):
        notebooks.copy(files, copy)
    assert texts(copy) == before  # not even what could have been renewed
    assert notebooks.copy(files, copy, force=True) == ["notebooks/00_a.ipynb"]
    assert texts(copy)["notebooks/00_a.ipynb"] == "zero"
    assert texts(copy)["notebooks/01_b.ipynb"] == "one, corrected"


def test_what_the_reader_has_not_changed_is_renewed(sources, tmp_path):
    files, write = sources
    notebooks.copy(files, tmp_path / "copy")
    write("notebooks/01_b.ipynb", "one, corrected")
    assert notebooks.copy(files, tmp_path / "copy") == []
    assert texts(tmp_path / "copy")["notebooks/01_b.ipynb"] == "one, corrected"


@pytest.mark.parametrize("note", [None, "{", "[]", "{}"])
def test_without_a_sound_note_everything_that_differs_is_the_readers(sources, tmp_path, note):
    files, write = sources
    copy = tmp_path / "copy"
    notebooks.copy(files, copy)
    (copy / notebooks.NOTE).unlink() if note is None else (copy / notebooks.NOTE).write_text(note)
    assert notebooks.copy(files, copy) == []
    (copy / notebooks.NOTE).unlink() if note is None else (copy / notebooks.NOTE).write_text(note)
    write("notebooks/01_b.ipynb", "one, corrected")
    with pytest.raises(ValueError, match="01_b"):
        notebooks.copy(files, copy)


def test_a_copy_that_fails_leaves_nothing(sources, tmp_path, monkeypatch):
    files, _ = sources
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        notebooks.copy(files, tmp_path / "deep" / "copy")
    assert not (tmp_path / "deep").exists()


def test_a_source_that_is_gone_and_a_folder_in_the_way_are_told_before_anything_is_written(sources, tmp_path):
    files, _ = sources
    (tmp_path / "copy" / "notebooks" / "00_a.ipynb").mkdir(parents=True)
    with pytest.raises(OSError, match=r"00_a\.ipynb is in the way"):
        notebooks.copy(files, tmp_path / "copy")
    assert texts(tmp_path / "copy") == {}
    files["notebooks/01_b.ipynb"].unlink()
    with pytest.raises(FileNotFoundError):
        notebooks.copy(files, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_long_lists_are_cut(sources, tmp_path):
    files, write = sources
    for number in range(8):
        write(f"notebooks/x{number}.ipynb", "ours")
    notebooks.copy(files, tmp_path)
    for path in (tmp_path / "notebooks").iterdir():
        path.write_text("mine")
    with pytest.raises(ValueError, match=r"x2\.ipynb and 5 more; copy"):
        notebooks.copy(files, tmp_path)


def test_the_command_copies_the_book(tmp_path, capsys):
    assert cli.main(["notebooks", "copy", str(tmp_path / "b")]) == 0
    assert f"open them with jupyter lab {tmp_path / 'b' / 'notebooks'}" in capsys.readouterr().out
    assert len(list((tmp_path / "b" / "notebooks").glob("*.ipynb"))) == len(list(book.NOTEBOOKS.glob("*.ipynb")))
    (tmp_path / "b" / "notebooks" / "solutions" / "chapter01.py").write_text("mine")
    assert cli.main(["notebooks", "copy", str(tmp_path / "b")]) == 1
    assert "you have changed notebooks/solutions/chapter01.py" in capsys.readouterr().err
    assert cli.main(["notebooks", "copy", str(tmp_path / "b"), "--force"]) == 0
    assert "Overwritten, though you had changed them: notebooks/solutions/chapter01.py." in capsys.readouterr().out


def test_the_files_of_the_book_are_those_under_version_control():
    """What a reader works with, and no cache, run or checkpoint beside it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "notebooks", "figures/data"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no clone")
    known = {place for place in done.stdout.split() if not place.startswith("notebooks/site/")}
    assert set(book.files()) == {place for place in known if (ROOT / place).exists()}


def test_an_installation_without_chapters_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no chapters"):
        book.files(tmp_path)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The Python of a clean environment with the wheel in it, and nothing of the clone; the packages of this one beside it."""
    pytest.importorskip("hatchling", reason="needs hatchling, which comes with fdbook[test]")
    folder = tmp_path_factory.mktemp("elsewhere")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 8e6
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        assert not any("site/" in name or "__pycache__" in name for name in archive.namelist())
        archive.extractall(packages)
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "those_of_the_tests.pth").write_text(
        "\n".join(here) + "\n"
    )  # not followed further: no clone comes with them
    return python


def outside(python, folder, *words, check=True):
    """What a command says in a folder of its own, without a word of this clone in the environment."""
    environment = {name: value for name, value in os.environ.items() if name not in CHANGED}
    environment |= {"FDBOOK_DATA": str(folder / "data"), "JUPYTER_PLATFORM_DIRS": "1"}
    command = [str(python), *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_wheel_brings_the_book_along(elsewhere, tmp_path):
    where = outside(
        elsewhere, tmp_path, "-c", "from fdbook import book; print(book.IN_CLONE, book.ROOT)"
    ).stdout.split()
    assert where[0] == "False"
    assert not Path(where[1]).is_relative_to(ROOT)
    outside(elsewhere, tmp_path, "-m", "fdbook", "notebooks", "copy", "mine")
    made = {place: (tmp_path / "mine" / place).read_bytes() for place in book.files()}
    assert made == {place: path.read_bytes() for place, path in book.files().items()}
    assert "geometry" in outside(elsewhere, tmp_path, "-m", "fdbook", "figures", "--list").stdout
    assert (
        outside(elsewhere, tmp_path, "-m", "fdbook", "table").stdout.count("|") > 20
    )  # the records, found where they are now
    found = json.loads(outside(elsewhere, tmp_path, "-m", "fdbook", "doctor", "--json").stdout)
    told = {each["what"]: each for each in found}
    assert "installed in" in told["fdbook"]["found"]
    assert [each["what"] for each in found if each["chapter"]] == list(book.chapters())
    assert {each["state"] for each in found if each["chapter"]} == {"ok"}


@pytest.mark.slow
def test_chapters_run_in_a_copy(elsewhere, tmp_path):
    """The map, which reads a record of a figure by its place beside the notebooks."""
    outside(elsewhere, tmp_path, "-m", "fdbook", "notebooks", "copy", "mine")
    (path,) = (tmp_path / "mine" / "notebooks").glob("00_*.ipynb")
    outside(elsewhere, tmp_path, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", path)
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in str(output) for cell in cells for output in cell.outputs) == 2

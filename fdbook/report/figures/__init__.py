"""The figures by name, and the runner that computes, draws and saves them.

A figure is a module of this package. The first line of its docstring says what it shows, `compute(context)` returns its
numbers (a dictionary, as in `fdbook.report.numbers`), and `draw(numbers)` returns a matplotlib figure. The runner saves
NAME.pdf and NAME.png, and the numbers in data/NAME.json (and data/NAME.npz for large arrays).

Numbers that this machine has finished with the same code, seed, data and versions are not computed again: a run that was
interrupted carries on, and a second run only draws. A hidden note in `.made/` says what they were computed from. The
notes stay out of version control, so that a fresh clone computes every figure itself.
"""

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from fdbook import book
from fdbook.checks import unknown
from fdbook.report import numbers as files
from fdbook.rl import records


__all__ = ["REGISTRY", "Context", "describe", "load_numbers", "run"]

REGISTRY: dict[str, str] = {
    name: f"{__name__}.{name}"
    for name in (
        "geometry",
        "landscape",
        "kl",
        "gap",
        "score",
        "robot",
        "learning",
        "dose",
        "microscope",
        "critics",
        "ceilings",
        "cost",
        "profile",
    )
}
RUNS, LADDERS, BENCH = book.RECORDS / "runs", book.RECORDS / "ladders", book.RECORDS / "bench.json"
MATRIX = book.RECORDS / "matrix"
PACKAGES = ("fdbook", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy", "ogbench", "mujoco")
SOURCES = ("fdbook.checks", "fdbook.geometry")


@dataclass(frozen=True)
class Context:
    """What a figure computes from."""

    seed: int
    """The seed of all of its randomness."""
    recordings: Callable[[str], Any]
    """From the name of a data set to its recording (a `fdbook.data.ogbench.Recording`), made at first use."""
    numbers: Callable[[str], dict]
    """From the name of another figure to its numbers; that figure is made first if it is not up to date."""
    progress: Callable[[float, str], None]
    """Takes the share that is done, in [0, 1], and what is being done now."""
    runs: Callable[[], list[records.Record]] = list
    """Gives the run records that are kept with the figures."""
    ladders: Callable[[], dict[str, dict]] = dict
    """Gives the records of ladders that are kept with the figures, by the names of their files."""
    bench: Callable[[], dict] = dict
    """Gives the record of `fdbook bench` that is kept with the figures."""
    matrix: Callable[[], list[records.Record]] = list
    """Gives the run records of the matrix of methods and tasks that is kept with the figures."""


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in REGISTRY:
            raise ValueError(unknown("figure", name, REGISTRY))


def _source(module: str) -> list[Path]:
    """The files of a module, or all of a package, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"The module {module} is registered and does not exist.")
    path = Path(spec.origin)
    return sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]


def describe(name: str) -> str:
    """What a figure shows: the first line of its module's docstring. Raises ValueError for an unknown name."""
    _check_names([name])
    tree = ast.parse(_source(REGISTRY[name])[0].read_text(encoding="utf-8"))
    return cast("str", ast.get_docstring(tree)).split("\n")[0]  # every module here has one


def load_numbers(name: str, out: str | Path = "figures") -> dict:
    """The numbers that a figure was drawn from, under `out`/data.

    Raises ValueError for an unknown name or damaged files, FileNotFoundError when the figure was not drawn there.
    """
    _check_names([name])
    path = Path(out) / "data" / f"{name}.json"
    try:
        return files.read(path)[0]
    except FileNotFoundError as error:
        where = "" if Path(out) == Path("figures") else f" --out {shlex.quote(str(out))}"
        raise FileNotFoundError(f"{error.filename} is not there; draw it with: fdbook figures {name}{where}") from error


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


class _Studio:
    """One run: where it writes, what it starts from, and which figures are made."""

    def __init__(self, out, seed, episodes, recordings, runs, ladders, fresh, redraw, bar):
        self.out, self.recordings, self.bar = out, recordings, bar
        self.runs, self.ladders = runs, ladders
        self.fresh, self.redraw = fresh, redraw
        self.config = {"seed": seed, "episodes": episodes, "versions": _versions()}
        self.made: dict[str, dict] = {}
        self.current = ""

    def make(self, name: str) -> dict:
        """Makes a figure, once a run, and returns its numbers."""
        if name not in self.made:
            outer, self.current, start = self.current, name, time.perf_counter()
            module = importlib.import_module(REGISTRY[name])
            how = self._number(name, module)
            numbers = files.read(self._numbers(name))[0]
            self._publish(name, module, numbers)
            self.made[name], self.current = numbers, outer
            self.bar.write(f"{name:<10} {time.perf_counter() - start:6.1f} s  {how}")
            self.bar.update(len(self.made) - self.bar.n)
        return self.made[name]

    def _number(self, name, module) -> str:
        """Sees to it that the figure's numbers are there; returns what was done, in words."""
        if self.redraw:
            load_numbers(name, self.out)
            return "drawn again, from the numbers that were there"
        if self._up_to_date(name) and not self.fresh:
            return "drawn, from numbers that are up to date"
        self._compute(name, module)
        return "computed and drawn"

    def _up_to_date(self, name) -> bool:
        """Whether the numbers in `.made` came from this code, and those of the figures that they use did."""
        try:
            about = files.read(self._numbers(name))[1]
            same = about["sources"] == _fingerprint(name) and all(about[key] == self.config[key] for key in self.config)
            same = same and about["records"] in ("", self._records())
            return same and all(self._up_to_date(other) for other in about["uses"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _compute(self, name, module):
        """Computes the numbers and keeps them in `.made`."""
        start, uses, read = time.perf_counter(), set(), []

        def runs():
            read.append(self._records())
            return [records.read(path) for path in _records_in(self.runs)]

        def ladders():
            read.append(self._records())
            paths = sorted(self.ladders.glob("*.json"))
            return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}

        def bench():
            read.append(self._records())
            return json.loads(BENCH.read_text(encoding="utf-8"))

        def matrix():
            read.append(self._records())
            return [records.read(path) for path in _records_in(MATRIX)]

        def numbers(other):
            _check_names([other])
            uses.add(other)
            return self.make(other)

        def progress(share, message):
            self.bar.set_description(f"{name}: {message}", refresh=False)
            self.bar.update(len(self.made) + min(max(share, 0.0), 1.0) - self.bar.n)

        progress(0.0, "starting")
        context = Context(self.config["seed"], self.recordings, numbers, progress, runs, ladders, bench, matrix)
        result = module.compute(context)
        about = {"figure": name, "shows": describe(name), "machine": _machine(), "sources": _fingerprint(name)}
        about |= {"seconds": float(f"{time.perf_counter() - start:.3g}"), "uses": sorted(uses), **self.config}
        about["records"] = read[0] if read else ""
        whole = files.beside(self._numbers(name), files.stored(result, about))
        files.write_whole(whole, without={self._numbers(name).with_suffix(".npz")} - whole.keys())

    def _publish(self, name, module, numbers):
        """Draws the figure and puts its files in their places, all of them or none."""
        from fdbook.report import style

        self.bar.set_description(f"{name}: drawing", refresh=True)
        with style.applied():
            figure = module.draw(numbers)
            if figure is None:
                raise ValueError(f"The figure {name} is not drawn: draw of {module.__name__} returns nothing.")
            whole, gone = files.beside(self.out / f"{name}.pdf", style.pictures(figure)), set()
        if not self.redraw:
            for suffix in (".npz", ".json"):
                kept, public = self._numbers(name).with_suffix(suffix), self.out / "data" / f"{name}{suffix}"
                if kept.exists():
                    whole[public] = kept.read_bytes()
                else:
                    gone.add(public)
        files.write_whole(whole, without=gone)

    def _records(self) -> str:
        """The digest of the records of runs, of the matrix, of ladders and of the bench."""
        paths = [*_records_in(self.runs), *_records_in(MATRIX), *sorted(self.ladders.glob("*.json")), BENCH]
        return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]

    def _numbers(self, name) -> Path:
        return self.out / ("data" if self.redraw else ".made") / f"{name}.json"


def _records_in(folder: Path) -> list[Path]:
    """The run records in the folders below a folder."""
    return sorted(folder.glob(f"*/{records.NAME}"))


def _fingerprint(name) -> str:
    """The digest of the code that a figure's numbers come from."""
    digest = hashlib.sha256()
    for module in (*SOURCES, REGISTRY[name]):
        for path in _source(module):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run(
    names: Sequence[str] = (),
    *,
    out: str | Path = "figures",
    seed: int = 0,
    episodes: int = 20,
    recordings: Callable[[str], Any],
    runs: str | Path = RUNS,
    ladders: str | Path = LADDERS,
    fresh: bool = False,
    redraw: bool = False,
    progress: bool = True,
) -> list[str]:
    """Makes the named figures (all of them by default) in `out`, and returns the names of those that were made.

    `recordings` gives the recording of a data set by name, of `episodes` episodes; `runs` is a folder with the folders of runs,
    as `fdbook train --out` makes them, whose records a figure of learning is drawn from, `ladders`
    one with files of `fdbook ladder`. With `fresh` everything is computed
    anew; with `redraw` nothing is, and the numbers under `out` are drawn whatever they were made from. Raises ValueError
    for an unknown name, OSError for a folder that cannot be written to, both before anything is computed, and
    KeyboardInterrupt, with a sentence that says which figures are finished, on Ctrl-C.
    """
    names = list(dict.fromkeys(names or REGISTRY))
    _check_names(names)
    if fresh and redraw:
        raise ValueError("Figures are either computed anew (fresh) or only drawn again (redraw), not both.")
    out = Path(out)
    for folder in (out, out / "data", out / ".made"):
        files.check_writable(folder)
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(total=len(names), bar_format=form, disable=not progress, mininterval=0.2, miniters=0) as bar:
        studio = _Studio(out, seed, episodes, recordings, Path(runs), Path(ladders), fresh, redraw, bar)
        try:
            for name in names:
                studio.make(name)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_interrupted(studio, str(stop))) from None
    return list(studio.made)


def _interrupted(studio, reason):
    finished = ", ".join(studio.made) or "none"
    detail = f" ({reason})" if reason else ""
    return (
        f"Interrupted in figure {studio.current}{detail}; finished and kept: {finished}. "
        "Run the same command to carry on with the rest."
    )

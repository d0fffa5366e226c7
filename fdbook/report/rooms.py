"""The rooms of the package and who uses whom, read from the imports in its code: the picture cannot say anything else."""

import ast
import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fdbook import book
from fdbook.report import style


__all__ = ["CHAPTERS", "Room", "arrows", "draw", "levels", "read"]

CHAPTERS = "the chapters"
"""The room of the notebooks, which use the package as the rest of it does."""
WORDS = {
    CHAPTERS: "what you read and run",
    "geometry": "densities, flows,\nscores, metrics, KL",
    "rl": "agents, critics,\ntraining, evaluation",
    "data": "tasks, recordings,\nsimulators",
    "experiment": "one run, many runs,\nladders, audits",
    "exercises": "what checks\nyour answers",
    "report": "figures, tables,\nstyle",
    "bench": "how fast it is",
    "cli": "the command fdbook",
}
"""What is in a room, as the picture has it."""
WIDTH, HEIGHT, APART = 0.21, 0.6, 0.25
"""Of a box and between two, in shares of the width of the picture and of the distance of two rows."""


@dataclasses.dataclass(frozen=True)
class Room:
    """A folder of the package, or, where that has none of that name, a module of its own."""

    uses: frozenset[str]
    """The other rooms that its code imports, inside functions too."""
    is_folder: bool


def read(package: str | Path = book.PACKAGE, notebooks: Iterable[Path] = ()) -> dict[str, Room]:
    """The rooms of a package by name, from the code of its files; with `notebooks`, these are one more.

    Raises FileNotFoundError when there is no code.
    """
    package, paths = Path(package), {}
    for path in sorted(package.rglob("*.py")):
        top = path.relative_to(package).parts[0].removesuffix(".py")
        if not top.startswith("_"):
            paths.setdefault(top, []).append(path)
    if not paths:
        raise FileNotFoundError(f"There is no code of a package in {package}.")
    rooms = {}
    for name, found in paths.items():
        uses = {used for path in found for used in _used(*_code(path, package), package.name)}
        rooms[name] = Room(frozenset(uses & paths.keys() - {name}), (package / name).is_dir())
    sources = [source for path in notebooks for source in _cells(path)]
    if sources:
        uses = {used for source in sources for used in _used(source, (), package.name)}
        rooms[CHAPTERS] = Room(frozenset(uses & paths.keys()), True)
    return rooms


def _code(path: Path, package: Path) -> tuple[str, tuple[str, ...]]:
    """The code of a file, and the names of the packages that it is in."""
    return path.read_text(encoding="utf-8"), (package.name, *path.relative_to(package).parts[:-1])


def _cells(path: Path) -> Iterator[str]:
    """The code of a notebook, without the lines that are IPython's, and without cells that a reader has not finished."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            source = "\n".join(line for line in lines if not line.startswith(("%", "!")))
            with contextlib.suppress(SyntaxError):
                ast.parse(source)
                yield source


def _used(source: str, here: tuple[str, ...], package: str) -> Iterator[str]:
    """The second part of the name of everything of a package that some code imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*here[: len(here) - node.level + 1], node.module or "")) if node.level else node.module
            names = [f"{(base or '').strip('.')}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (parts[1] for parts in (name.split(".") for name in names) if parts[0] == package and len(parts) > 1)


def levels(rooms: Mapping[str, Room]) -> dict[str, int]:
    """How high a folder stands: below all that use it, by one where it can, and above all that it uses; the lowest at 0.

    Raises ValueError, with their names, when some use each other in a circle.
    """
    uses = {
        name: {used for used in room.uses if rooms[used].is_folder} for name, room in rooms.items() if room.is_folder
    }
    found: dict[str, int] = {}
    while len(found) < len(uses):
        ready = [name for name in uses if name not in found and uses[name] <= found.keys()]
        if not ready:
            raise ValueError(f"These use each other in a circle: {', '.join(sorted(uses.keys() - found.keys()))}.")
        found |= {name: 1 + max((found[used] for used in uses[name]), default=-1) for name in ready}
    for name in sorted(found, key=lambda name: -found[name]):
        found[name] = min((found[user] - 1 for user in uses if name in uses[user]), default=found[name])
    return found


def arrows(rooms: Mapping[str, Room]) -> list[tuple[str, str]]:
    """Who uses whom among the folders, without what follows: where a uses b and b uses c, the arrow from a to c is left out."""
    uses = {
        name: {used for used in room.uses if rooms[used].is_folder} for name, room in rooms.items() if room.is_folder
    }

    def below(name):
        return uses[name].union(*(below(used) for used in uses[name]))

    return sorted((name, used) for name in uses for used in uses[name] if not any(used in below(o) for o in uses[name]))


def draw(rooms: Mapping[str, Room]) -> Figure:
    """A box for each folder, as high as `levels` says, with an arrow to each that it uses; below them the modules."""
    ways = _ways(rooms)
    places = _places(rooms, ways)
    xs, ys = zip(*places.values(), strict=True)
    left, right, top = min(xs) - 0.51 * WIDTH, max(xs) + 0.51 * WIDTH, max(ys)
    fig, ax = plt.subplots(figsize=(style.WIDTH * (right - left), 0.72 * (top + 1) + 0.3))
    ax.set(xlim=(left, right), ylim=(-0.72, top + 0.36))
    ax.axis("off")
    for name in rooms.keys() & places.keys():
        _box(ax, *places[name], name)
    for way in ways:
        for user, used in itertools.pairwise(way):
            (x, y), (to, below) = places[user], places[used]
            lean = 0.35 * WIDTH * max(-1.0, min(1.0, (x - to) / APART))
            start = (x - lean, y - HEIGHT / 2) if user == way[0] else (x, y)
            end = (to + lean, below + HEIGHT / 2) if used == way[-1] else (to, below)
            look = {"arrowstyle": "-|>" if used == way[-1] else "-", "color": style.GRAY, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", end, start, arrowprops=look, zorder=1)
    small = ", ".join(sorted(name for name, room in rooms.items() if not room.is_folder))
    ax.text(
        (left + right) / 2, -0.6, f"and small modules: {small}", ha="center", va="center", fontsize=8, color=style.GRAY
    )
    return fig


def _ways(rooms) -> list[list[str]]:
    """Each arrow as the names it passes, one in every row from the user down to what it uses: in between they are no room's."""
    height = levels(rooms)
    ways = []
    for user, used in arrows(rooms):
        between = range(height[user] - 1, height[used], -1)
        ways.append([user, *(f"{user} to {used} at {level}" for level in between), used])
    return ways


def _places(rooms, ways) -> dict[str, tuple[float, float]]:
    """The middle of each box, and where arrows pass a row: above the middle of what it uses, as far as its row has room."""
    height, pairs = levels(rooms), {pair for way in ways for pair in itertools.pairwise(way)}
    for way in ways:
        height |= {name: height[way[0]] - number for number, name in enumerate(way)}
    places: dict[str, tuple[float, float]] = {}
    for level in range(1 + max(height.values())):
        row = [name for name in sorted(height) if height[name] == level]
        below = {name: [places[used][0] for user, used in pairs if user == name] for name in row}
        wished = {name: sum(xs) / len(xs) for name, xs in below.items() if xs}
        row.sort(key=lambda name: (wished.get(name, 0.0), name))
        offset = {name: (number - (len(row) - 1) / 2) * APART for number, name in enumerate(row)}
        edge = WIDTH / 2 + offset[row[-1]]
        middle = sum(wished[name] - offset[name] for name in wished) / len(wished) if wished else 0.5
        places |= {name: (min(max(middle, edge), 1 - edge) + offset[name], float(level)) for name in row}
    return places


def _box(ax: Axes, x: float, y: float, name: str) -> None:
    """A room: its name, and what is in it."""
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    box = FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.012", mutation_aspect=8, zorder=2)
    box.set(facecolor="white", edgecolor=style.INK, linewidth=0.8)
    ax.add_patch(box)
    ax.text(x, y + 0.17, name, ha="center", va="center", fontsize=9, fontweight="bold", zorder=3)
    ax.text(x, y - 0.1, WORDS.get(name, ""), ha="center", va="center", fontsize=7, linespacing=1.1, zorder=3)

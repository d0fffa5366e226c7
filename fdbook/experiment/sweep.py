"""Many runs from one file: `read_sweep` makes a matrix of specifications of a TOML file and refuses an unfair one.

The file has a table `[base]` of parts of a `RunSpec`; tables `[[methods]]`, each joined with it, for what belongs together (an
agent, its metric and its settings); and `[axes]`, whose values are lists. The cells are the product of all axes and methods.
`[base]`, `[[methods]]` and `[axes]` name parts alike: `task`, `config = {budget = 0.1}`, or dotted, `config.budget`. A metric
with options is a table, `metric = {name = "exact", damping = 0.1}`, and so are data of one's own, `task = {data = "log.npz",
env = "Pendulum-v1"}`. What `fdbook.experiment.sweeping` does with the cells is there.
"""

import dataclasses
import functools
import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fdbook.checks import unknown
from fdbook.data import custom
from fdbook.data.tasks import Task
from fdbook.experiment.spec import RunSpec
from fdbook.geometry import metrics
from fdbook.rl.records import flatten


__all__ = ["Cell", "Sweep", "read_sweep"]

PARTS = tuple(field.name for field in dataclasses.fields(RunSpec) if field.name != "overrides")
TABLES = ("data", "config")
NAMED = ("task", "metric")
"""Parts that a name or a table says."""
SEVERAL = ("seeds", "evaluations", "wavelengths")
"""Parts that are lists themselves."""
SHARED = ("task", "data", "normalize", "wavelengths", "seeds", "episodes", "updates", "evaluations", "online")
"""What the cells of one task share, unless the file allows that it differs."""
KEYS = {"out": str, "allow": list, "base": dict, "axes": dict, "methods": list}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    label: str
    """What tells it from the other cells, in a few words."""
    spec: RunSpec
    folder: Path
    """Where its run is kept."""

    @property
    def name(self) -> str:
        """One word for a folder of copied records: the task and the name of the run's own folder."""
        return f"{self.folder.parent.name}-{self.folder.name}"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The cells of a file, checked."""

    path: Path
    out: Path
    """The folder of all runs."""
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """What one place of the file says: values by dotted names."""

    place: str
    values: Mapping[str, Any]
    label: str = ""


def read_sweep(path: str | Path) -> Sweep:
    """The sweep of a TOML file. Relative paths in it, as that of `out`, begin in the current folder.

    Raises OSError where there is no such file, and ValueError, with the place in the file, for what is no TOML, names that
    there are not, values that make no specification, cells that are there twice, and cells of one task that cannot be compared.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}.") from error
    try:
        _check_keys(tree)
        out = Path(tree.get("out", "runs")).expanduser()
        cells = tuple(_cell(layers, out) for layers in _product(tree))
        _check_twice(cells)
        _check_fair(cells, tree.get("allow", []))
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    return Sweep(path, out, cells)


def _check_keys(tree: dict[str, Any]) -> None:
    """Refuses parts of a file that there are not, or that are of another kind."""
    words = {str: "a text", list: "a list", dict: "a table"}
    for name, value in tree.items():
        if name not in KEYS:
            raise ValueError(f"at its top: {unknown('part of a sweep', name, KEYS)}")
        if not isinstance(value, KEYS[name]):
            raise ValueError(f"{name}: {words[KEYS[name]]} was expected; got {value!r}.")
    for name in tree.get("allow", []):
        if not isinstance(name, str) or name.partition(".")[0] not in SHARED:
            raise ValueError(f"allow: {unknown('part that cells share', name, SHARED)}")


def _product(tree: dict[str, Any]) -> Iterator[list[_Layer]]:
    """For each cell the layers that make it, the later ones over the earlier."""
    base = _layer("[base]", tree.get("base", {}))
    methods, axes = list(_methods(tree.get("methods", []))), list(_axes(tree.get("axes", {})))
    _check_apart(methods, axes)
    tasks = [layers for layers in axes if "task.name" in layers[0].values or "task.data" in layers[0].values]
    rest = [layers for layers in axes if layers not in tasks]
    for chosen in itertools.product(*tasks, *([methods] if methods else []), *rest):
        yield [base, *chosen]


def _layer(place: str, tree: Mapping[str, Any], label: str = "") -> _Layer:
    """A table of the file by dotted names, those of metrics and tasks written out. Refuses parts that there are not."""
    values: dict[str, Any] = {}
    for name, value in flatten(dict(tree)).items():
        part, dot, _ = name.partition(".")
        if part not in PARTS:
            raise ValueError(f"{place}: {unknown('part of a run', part, PARTS)}")
        if dot and part not in (*TABLES, *NAMED):
            raise ValueError(f"{place}: {part} has no parts; got {name}.")
        if value == {}:
            continue
        if not dot and part in TABLES:
            raise ValueError(f"{place}: {part} is a table, as in {part} = {{...}}; got {value!r}.")
        values[f"{name}.name" if part in NAMED and not dot else name] = value
    return _Layer(place, values, label)


def _methods(tables: Sequence[Any]) -> Iterator[_Layer]:
    for number, table in enumerate(tables, 1):
        place = f"[[methods]] number {number}"
        if not isinstance(table, dict):
            raise ValueError(f"{place}: a table was expected; got {table!r}.")
        layer = _layer(place, {name: value for name, value in table.items() if name != "name"})
        yield dataclasses.replace(layer, label=str(table.get("name", "") or _words(layer.values)))


def _axes(tree: Mapping[str, Any]) -> Iterator[list[_Layer]]:
    for name, values in flatten(dict(tree)).items():
        place = f"[axes] {name}"
        if not isinstance(values, list) or not values:
            raise ValueError(f"{place}: a list of at least one value was expected; got {values!r}.")
        layers = [_layer(place, {name: value}) for value in values]
        yield [dataclasses.replace(layer, label=_words(layer.values)) for layer in layers]


def _words(values: Mapping[str, Any]) -> str:
    """What a layer says, in a few words: names alone, settings with theirs."""
    plain = ("task.name", "task.data", "agent", "metric.name")
    words = ((name in plain, name.removeprefix("config."), _short(value)) for name, value in values.items())
    return " ".join(value if bare else f"{name}={value}" for bare, name, value in words)


def _short(value: Any) -> str:
    return ",".join(map(_short, value)) if isinstance(value, list) else f"{value}"


def _check_apart(methods: list[_Layer], axes: list[list[_Layer]]) -> None:
    """Refuses an axis of what a method or an axis before it says, too."""
    for i, (mine, *_) in enumerate(axes):
        for other in [*methods, *(layers[0] for layers in axes[:i])]:
            for name, said in itertools.product(mine.values, other.values):
                if f"{name}.".startswith(f"{said}.") or f"{said}.".startswith(f"{name}."):
                    raise ValueError(f"{mine.place}: {other.place} says {said}, too; say it once.")


def _cell(layers: Sequence[_Layer], out: Path) -> Cell:
    """The cell of some layers. Raises ValueError with the place that a sentence is about."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for part in NAMED:  # another metric or task has other options
            if layer.values.keys() & {f"{part}.name", f"{part}.data"}:
                values = {name: value for name, value in values.items() if not name.startswith(f"{part}.")}
        values |= layer.values
        origins |= dict.fromkeys(layer.values, layer.place)
    label = ", ".join(layer.label for layer in layers if layer.label)
    if not values.keys() & {"task.name", "task.data"}:
        raise ValueError("a cell without a task: [base], [[methods]] or [axes] says which, as in task = 'cube-single'.")
    try:
        spec = RunSpec(**_parts(values))
    except (ValueError, TypeError, OSError) as error:
        name = _culprit(str(error), values)
        place = f"cell {label or '[base]'}" if name is None else origins[name]
        raise ValueError(f"{place}: {error}" if name is None else f"{place}: {_hinted(error, name, values)}") from error
    return Cell(label or spec.method, spec, out / spec.folder.relative_to("runs"))


def _culprit(sentence: str, values: Mapping[str, Any]) -> str | None:
    """The name that a sentence is about: that which it quotes, or else that of the value."""
    quoted = re.findall(r"'([^']*)'", sentence)[:1]
    words = set(re.findall(r"\w+", sentence))
    called = {name: name.removesuffix(".name").rpartition(".")[2] for name in values}
    for name, value in values.items():
        if called[name] in quoted or value in quoted:
            return name
    for name, value in values.items():
        if called[name] in words and (repr(value) in sentence or f"{value}" in sentence):
            return name
    return None


def _hinted(error: Exception, name: str, values: Mapping[str, Any]) -> str:
    """A sentence about a value; of a list where one value belongs it says where lists go."""
    part, _, option = name.partition(".")
    one = part not in SEVERAL and (part not in NAMED or option in ("name", "data"))
    hint = "; several values go to [axes]." if one and isinstance(values[name], list) else ""
    return str(error).removesuffix(".") + hint if hint else str(error)


def _parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a RunSpec from values by dotted names."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *above, last = name.split(".")
        functools.reduce(lambda branch, part: branch.setdefault(part, {}), above, tree)[last] = value
    if "metric" in tree:
        options = dict(tree["metric"])
        if "name" not in options:
            raise ValueError(f"A metric with options says its name, too, as in name = 'exact'; got {options}.")
        tree["metric"] = metrics.from_dict(options | {"name": str(options["name"])})
    return tree | {"task": _task(tree["task"])}


def _task(tree: dict[str, Any]) -> Task | str:
    """The name of a task, or a task of one's own."""
    if "data" not in tree:
        if len(tree) > 1:
            raise ValueError(f"A task of the registry takes no options; got {tree}.")
        return tree["name"]
    for name in ("data", "env"):
        if not isinstance(tree.get(name, ""), str):
            raise ValueError(f"A task of one's own takes a text for {name}; got {tree[name]!r}.")
    return _own_task(json.dumps(tree, sort_keys=True))


@functools.lru_cache(maxsize=64)  # each reads its file, and a sweep has many cells of one task
def _own_task(text: str) -> Task:
    """Data of one's own as a task."""
    tree = json.loads(text)
    return custom.from_source(tree.pop("data"), tree.pop("env", None), **tree)


def _check_twice(cells: Sequence[Cell]) -> None:
    """Refuses a sweep in which a run is twice."""
    seen: dict[Any, int] = {}
    for number, cell in enumerate(cells, 1):
        for key in (cell.spec.hash, cell.folder):
            if key in seen:
                first = seen[key]
                raise ValueError(
                    f"cells {first} ({cells[first - 1].label}) and {number} ({cell.label}) are the same run."
                )
        seen |= {cell.spec.hash: number, cell.folder: number}


def _check_fair(cells: Sequence[Cell], allow: Sequence[str]) -> None:
    """Refuses cells of one task that differ in what they are to share, and names the first two."""
    first: dict[str, tuple[int, dict[str, Any]]] = {}
    seeds = _seeds_of_methods(cells)
    for number, cell in enumerate(cells, 1):
        mine = _shared(cell.spec) | {"seeds": seeds[_method(cell)]}
        before, other = first.setdefault(cell.spec.task.name, (number, mine))
        names = [name for name in mine | other if mine.get(name) != other.get(name)]
        names = [name for name in names if not any(f"{name}.".startswith(f"{each}.") for each in allow)]
        if names:
            told = "; ".join(f"{name}: {other.get(name)} and {mine.get(name)}" for name in names)
            raise ValueError(
                f"cells {before} ({cells[before - 1].label}) and {number} ({cell.label}) of one task differ in {told}. "
                f"If they are meant to: allow = {list(dict.fromkeys(names))}."
            )


def _shared(spec: RunSpec) -> dict[str, Any]:
    """What a run shares with those that it is compared with, by dotted names."""
    tree = spec.to_dict()
    return flatten({name: tree[name] for name in SHARED if name != "seeds" and tree.get(name, {}) != {}})


def _method(cell: Cell) -> str:
    """What a cell is apart from its seeds."""
    return cell.spec.replace(seeds=1).hash


def _seeds_of_methods(cells: Sequence[Cell]) -> dict[str, list[int]]:
    """For each method of each task all seeds that it is run with, in however many cells."""
    found: dict[str, list[int]] = {}
    for cell in cells:
        before = found.setdefault(_method(cell), [])
        if twice := sorted({*before} & {*cell.spec.seeds}):
            raise ValueError(f"cell {cell.label}: its seed {twice[0]} is in another cell of the same method, too.")
        before.extend(cell.spec.seeds)
    return {method: sorted(seeds) for method, seeds in found.items()}

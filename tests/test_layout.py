"""What the design promises about the shape of the code: who imports whom, what is public, how long a file is."""

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fdbook


PACKAGE = Path(fdbook.__file__).parent
TESTS = Path(__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(("fdbook", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}

LEAVES = {"book", "checks", "disk", "references"}
MAY_IMPORT = {
    "book": set(),
    "checks": set(),
    "disk": set(),
    "references": {"checks"},
    "geometry": {"geometry"},
    "rl": {"rl", "geometry"},
    "data": {"data", "rl", "geometry"},
    "report": {"report", "rl.records", "geometry"},
    "experiment": {"experiment", "data", "rl", "geometry"},
    "exercises": {"exercises", "data", "rl", "geometry"},
}
SIMULATORS = {"gymnasium", "gymnasium_robotics", "ogbench", "mujoco", "minari", "dm_control"}
PLOTTING = {"matplotlib", "seaborn"}
MAY_NOT_IMPORT = {
    "geometry": SIMULATORS | PLOTTING,
    "rl": SIMULATORS | PLOTTING,
    "data": PLOTTING,
    "report": SIMULATORS,
}


def imported(module, source, is_package=False):
    """The full names of all that a module's source imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            here = parts if is_package else parts[:-1]
            base = ".".join([*here[: len(here) - node.level + 1], node.module or ""]).strip(".")
            base = base if node.level else node.module
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(module, source, is_package=False):
    """What a module imports and should not."""
    room = module.split(".")[1] if "." in module else ""
    allowed = MAY_IMPORT.get(room)
    for name in imported(module, source, is_package):
        top, _, inside = name.partition(".")
        if top in MAY_NOT_IMPORT.get(room, set()):
            yield name
        if top == "fdbook" and allowed is not None:
            fine = allowed | (LEAVES if room not in LEAVES else set())
            if not any(inside == other or inside.startswith(f"{other}.") for other in fine):
                yield name


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    path = MODULES[module]
    assert list(violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")) == []


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("fdbook.geometry.flow", "from fdbook.report import style", ["fdbook.report.style"]),
        ("fdbook.geometry.flow", "from fdbook import data", ["fdbook.data"]),
        ("fdbook.geometry.flow", "from ..data import tasks", ["fdbook.data.tasks"]),
        ("fdbook.geometry.flow", "def f():\n    import matplotlib.pyplot as plt", ["matplotlib.pyplot"]),
        ("fdbook.geometry.flow", "from fdbook.checks import unknown\nfrom fdbook.geometry import paths", []),
        ("fdbook.report.style", "import fdbook.data.ogbench", ["fdbook.data.ogbench"]),
        ("fdbook.report.tables", "from fdbook.rl import agents", ["fdbook.rl.agents"]),
        ("fdbook.report.tables", "from fdbook.rl.records import read", []),
        ("fdbook.rl.train", "from fdbook.data import tasks", ["fdbook.data.tasks"]),
        ("fdbook.checks", "from fdbook.references import cite", ["fdbook.references.cite"]),
        ("fdbook.cli", "from fdbook.report import figures\nfrom fdbook.data import tasks", []),
    ],
)
def test_a_wrong_import_is_found(module, source, bad):
    assert list(violations(module, source)) == bad


def test_every_room_has_its_rule():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms - set(MAY_IMPORT) == {"__init__", "__main__", "cli", "bench"}


def _offers_something(path):
    """Whether a module binds a public name, by an import, a definition or an assignment, beyond what it imports to use."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return any(not name.startswith("_") or name == "__all__" for name in names)


PUBLIC = [
    name
    for name, path in MODULES.items()
    if _offers_something(path) and not any(part.startswith("_") for part in name.split("."))
]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_listed_and_documented(module):
    loaded = importlib.import_module(module)
    assert inspect.getdoc(loaded), f"{module} has no docstring."
    assert len(loaded.__all__) == len(set(loaded.__all__)), f"{module}.__all__ lists a name twice."
    missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
    assert missing == [], f"{module}.__all__ lists names that are not there."
    assert [name for name in loaded.__all__ for name in _undocumented(name, getattr(loaded, name))] == []


def _undocumented(name, value):
    """The name, and those of its public methods, that have no docstring of their own or from a base class."""
    if inspect.isfunction(value) and not inspect.getdoc(value):
        yield name
    if not inspect.isclass(value):
        return
    if not value.__dict__.get("__doc__"):
        yield name
    for each, member in vars(value).items():
        method = inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
        documented = any(inspect.getdoc(getattr(base, each, None)) for base in value.__mro__)
        if method and not each.startswith("_") and not documented:
            yield f"{name}.{each}"


def _public_functions(node, owner=""):
    """The public functions and methods below a node, each with its name; methods are within a public class."""
    for child in ast.iter_child_nodes(node):
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        named = function or isinstance(child, ast.ClassDef)
        if named and child.name.startswith("_") and not child.name.endswith("__"):
            continue
        if function:
            yield f"{owner}{child.name}", child
        else:
            yield from _public_functions(child, f"{owner}{child.name}." if isinstance(child, ast.ClassDef) else owner)


def untyped(source):
    """A sentence for each public function and method of a module without the type of an argument or of what it returns."""
    for name, function in _public_functions(ast.parse(source)):
        given = function.args
        static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)
        named = [*given.posonlyargs, *given.args][bool("." in name and not static) :]  # without the object or the class
        named += [*given.kwonlyargs, *(each for each in (given.vararg, given.kwarg) if each is not None)]
        missing = [each.arg for each in named if each.annotation is None]
        starting = name.endswith(("__init__", "__post_init__", "__check_init__"))  # nothing to say: they return None
        missing += [] if starting or function.returns is not None else ["what it returns"]
        if missing:
            yield f"{name} does not say the type of {', '.join(missing)}"


@pytest.mark.parametrize("module", [name for name in MODULES if "._" not in name])
def test_public_functions_say_what_they_take_and_what_they_return(module):
    assert [f"{module}.{each}" for each in untyped(MODULES[module].read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(x: int, *rest: int, y: int, **more: int) -> int: ...", []),
        ("def f(x, *rest, y, **more): ...", ["f does not say the type of x, y, rest, more, what it returns"]),
        ("class A:\n    def f(self, x: int): ...", ["A.f does not say the type of what it returns"]),
        ("class A:\n    @classmethod\n    def f(cls, x) -> int: ...", ["A.f does not say the type of x"]),
        ("class A:\n    @staticmethod\n    def f(x) -> int: ...", ["A.f does not say the type of x"]),
        ("class A:\n    class B:\n        async def f(self, /, x) -> int: ...", ["A.B.f does not say the type of x"]),
        ("if True:\n    def f(x) -> int: ...", ["f does not say the type of x"]),
        ("class A:\n    def __init__(self, x): ...", ["A.__init__ does not say the type of x"]),
        ("class A:\n    def __str__(self): ...", ["A.__str__ does not say the type of what it returns"]),
        ("class _A:\n    def f(self, x): ...\ndef _f(x): ...\ndef g() -> int:\n    def h(x): ...", []),
    ],
)
def test_a_type_that_is_missing_is_named(source, said):
    assert list(untyped(source)) == said


ASKED = {"data/definitions.py", "data/tasks.py", "data/files.py", "data/record.py"}
"""The registry, and what records OGBench's and D4RL's own forms."""


def asks_for_a_benchmark(source):
    """Whether a module compares a data set's benchmark with a name: what differs between sources belongs to their classes."""
    for node in ast.walk(ast.parse(source)):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        sides += [node.subject] if isinstance(node, ast.Match) else []
        if any(isinstance(side, ast.Attribute) and side.attr == "benchmark" for side in sides):
            return True
    return False


def test_what_kind_a_source_is_of_is_asked_by_no_module_that_uses_one():
    asking = {str(path.relative_to(PACKAGE)) for path in FILES if asks_for_a_benchmark(path.read_text("utf-8"))}
    assert asking - ASKED == set()
    assert asks_for_a_benchmark('x = a if task.dataset.benchmark == "ogbench" else b')
    assert not asks_for_a_benchmark('name = f"{dataset.benchmark}/x"')


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_files_can_be_read_in_one_sitting(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, (
        f"{path.relative_to(PACKAGE.parent)} has {lines} lines; above 400 a part of it moves to a new file"
    )


def test_the_console_script_is_the_command_line():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="fdbook")
    from fdbook import cli

    assert script.load() is cli.main


@pytest.mark.parametrize(
    "modules", ["fdbook", ", ".join(name for name in MODULES if name.startswith("fdbook.geometry"))]
)
def test_importing_the_mathematics_loads_no_plotting_and_no_simulator(modules):
    code = f"import sys; import {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert set(loaded) & (SIMULATORS | PLOTTING) == set()


def test_every_budget_has_a_reason_and_a_reader():
    budgets = tomllib.loads((TESTS / "budgets.toml").read_text(encoding="utf-8"))
    incomplete = [name for name, entry in budgets.items() if set(entry) != {"tolerance", "reason"}]
    assert incomplete + [name for name, entry in budgets.items() if not entry.get("reason")] == []
    texts = [
        path.read_text("utf-8") for path in (*TESTS.rglob("*.py"), *(PACKAGE.parent / "notebooks").rglob("*.ipynb"))
    ]
    read = {name for text in texts for name in re.findall(r'budget\(\\?"([^"\\]+)', text)}
    assert set(budgets) - read == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_files_that_are_named_exist(name):
    root = PACKAGE.parent
    text = (root / name).read_text(encoding="utf-8")
    named = re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r"`((?:fdbook|tests|notebooks)/[\w/.]+)`", text)
    assert [path for path in named if not (root / path).exists() and "NAME" not in path] == []

"""What a chapter needs, read from its code: the imports, the data sets by name, and the records below figures/data.

Nothing is imported to find out, so that it can be found out where nothing can be imported.
"""

import ast
import dataclasses
import functools
import json
import sys
from pathlib import Path


__all__ = ["Needs", "late_imports", "of_notebook"]

FOLDERS = {"RUNS": "runs", "LADDERS": "ladders", "BENCH": "bench.json"}
"""The names that `fdbook.report.figures` has for places below figures/data."""
BELOW = ("runs/", "tried/", "ladders/")
"""How text begins that names a record below figures/data."""
EXPRESSIONS = (ast.Constant, ast.JoinedStr, ast.Attribute, ast.BinOp, ast.Call)
RECORDING = ("record", "load_or_record")
"""The functions that record what is not here."""


@dataclasses.dataclass(frozen=True)
class Needs:
    """What one chapter needs."""

    title: str
    imports: tuple[str, ...]
    """Its import statements, one for each module or name."""
    words: tuple[str, ...]
    """Every text in its code, among which are the names of data sets."""
    episodes: dict[str | None, int]
    """The sizes of the recordings that it loads, by the name beside the size; None where the name comes from elsewhere."""
    records: tuple[str, ...]
    """Patterns of files below figures/data, each of which has to match one."""
    kernel: str
    """The name of the kernel that it asks for."""

    @property
    def uses_data(self) -> bool:
        """Whether it asks `fdbook.data` for more than the registry, which is a table and needs no data and no simulator."""
        asked = [line for line in self.imports if line.startswith(("from fdbook.data", "import fdbook.data"))]
        return any(not line.startswith("from fdbook.data.tasks ") for line in asked) or any(
            line == "from fdbook import data" for line in self.imports
        )

    @property
    def records_anew(self) -> bool:
        """Whether it records what is not here."""
        return any(line.endswith(tuple(f" import {name}" for name in RECORDING)) for line in self.imports)


def of_notebook(path: Path) -> Needs:
    """What the notebook of a chapter needs. Raises ValueError when it is no notebook, or its code cannot be read as Python."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
        trees = [ast.parse(_python(source)) for kind, source in cells if kind == "code"]
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    title = next((source for kind, source in cells if kind == "markdown"), "").partition("\n")[0].lstrip("# ")
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    kernel = notebook.get("metadata", {}).get("kernelspec", {}).get("name", "python3")
    return Needs(
        title=title.partition("· ")[2] or title,
        imports=tuple(dict.fromkeys(line for node in imports for line in _imports(node))),
        words=tuple(dict.fromkeys(texts)),
        episodes=dict(pair for call in calls for pair in _episodes(call)),
        records=tuple(dict.fromkeys(_records(nodes, calls))),
        kernel=kernel,
    )


@functools.cache
def late_imports(folder: Path) -> tuple[str, ...]:
    """The modules of others that the functions of a package import when they run, as they are written there."""
    found = set()
    for path in sorted(folder.glob("*.py")):
        functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
        for node in (inner for function in functions for inner in ast.walk(function)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "fdbook")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                found |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    ours = {"fdbook", *sys.stdlib_module_names}
    return tuple(sorted(name for name in found if name.partition(".")[0] not in ours))


def _python(source: str) -> str:
    """A cell without the lines that are IPython's."""
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())


def _imports(node):
    """The imports of a statement, one in a line."""
    first = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
    return [first + alias.name for alias in node.names]


def _episodes(call):
    """The size in a call with `episodes=20`, and the name that is its first argument, if it stands there."""
    sizes = [keyword.value for keyword in call.keywords if keyword.arg == "episodes"]
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    name = first if isinstance(first, str) else None
    return [(name, size.value) for size in sizes if isinstance(size, ast.Constant) and isinstance(size.value, int)]


def _records(nodes, calls):
    """The patterns of the expressions that mean places below figures/data, the largest of those that lie in each other."""
    patterns = {node: pattern for node in nodes if isinstance(node, EXPRESSIONS) and (pattern := _pattern(node))}
    inner = {child for node in patterns for child in ast.walk(node) if child is not node}
    yield from (pattern for node, pattern in patterns.items() if node not in inner)
    for call in calls:
        if _name(call.func) == "load_numbers" and isinstance(call.args[0], ast.Constant):
            yield f"{call.args[0].value}.json"


def _name(node) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _pattern(node) -> str | None:
    """The place below figures/data that an expression means, a star for what is known only when it runs; None for another."""
    match node:
        case ast.Constant(value=str(text)) if text.startswith("../figures/data/"):
            return text.removeprefix("../figures/data/")
        case ast.Constant(value=str(text)) if text.startswith(BELOW):
            return text
        case ast.JoinedStr():
            text = _text(node)
            return text.removeprefix("../figures/data/") if text.startswith(("../figures/data/", *BELOW)) else None
        case ast.Attribute(value=ast.Name(id="figures"), attr=name) if name in FOLDERS:
            return FOLDERS[name]
        case ast.Attribute(value=inner, attr="parent"):
            place = _pattern(inner)
            return None if place is None else (place.rpartition("/")[0] or ".")
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            place = _pattern(left)
            return None if place is None else f"{place}/{_text(right)}".removeprefix("./")
        case ast.Call(func=ast.Attribute(value=inner, attr="glob"), args=[ast.Constant(value=str(text))]):
            place = _pattern(inner)
            return None if place is None else f"{place}/{text}".removeprefix("./")
    return None


def _text(node) -> str:
    """A text as far as it is written down, a star for the rest."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "*"

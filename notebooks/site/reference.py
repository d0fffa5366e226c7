"""The pages of the package, from its source: every public name with its signature and docstring, read and not imported.

Docstrings are Markdown, as the chapters are, so they go into the pages as they stand.
"""

import ast
import itertools
import re
import textwrap
from dataclasses import dataclass, field


ROOMS = {
    "geometry": "The mathematics: densities, flows, scores, metrics, transport maps and what they cost in KL.",
    "rl": "Agents, their critics, and the loop that trains them.",
    "data": "Tasks and their data: loaded, checked, or recorded anew.",
    "experiment": "Runs as values: train, evaluate, and compare metrics on what was trained.",
    "report": "Figures, tables and their style.",
}
_EXAMPLE = re.compile(r"(?m)^>>> (?:.+\n?)+")

LEAVES = ("references", "exercises", "checks", "disk")


@dataclass
class Item:
    """A public name: its kind in the language of Sphinx's Python domain, its signature, its docstring and its members."""

    kind: str
    name: str
    signature: str = ""
    doc: str = ""
    members: list["Item"] = field(default_factory=list)
    options: tuple[str, ...] = ()


@dataclass
class Module:
    """A module: its name, its docstring, what it defines, and what it offers from other modules (name to full name)."""

    name: str
    doc: str
    items: list[Item]
    offers: dict[str, str]


def modules(package):
    """All public modules of the rooms and leaves of `package`, the folder of fdbook, by name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or parts[0] not in (*ROOMS, *LEAVES) or any(part.startswith("_") for part in parts):
            continue
        if parts[0] in LEAVES and len(parts) > 1:  # the checkers of the chapters would give answers away
            continue
        name = ".".join(("fdbook", *parts))
        found[name] = read(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    return found


def read(name, source, is_package):
    """One module from its source."""
    tree = ast.parse(source)
    public, items, offers = _listed(tree), [], {}
    for node, after in itertools.pairwise([*tree.body, None]):
        if isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            offers |= {a.asname or a.name: f"{whole}.{a.name}" for a in node.names if (a.asname or a.name) in public}
        elif isinstance(node, ast.FunctionDef) and node.name in public and not _is_overload(node):
            items.append(_function(node, "function"))
        elif isinstance(node, ast.ClassDef) and node.name in public:
            items.append(_class(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id in public:
                items.append(Item("data", target.id, doc=_text(after)))
    return Module(name, ast.get_docstring(tree) or "", items, offers)


def _is_overload(node):
    """Whether a function says only what another one, below it, gives for arguments of one kind."""
    return any(ast.unparse(mark).endswith("overload") for mark in node.decorator_list)


def _listed(tree):
    """The names of `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return {each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)}
    return set()


def _text(node):
    """The docstring that stands below an assignment, or nothing."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return textwrap.dedent(node.value.value).strip()
    return ""


def _function(node, kind):
    marks = {getattr(each, "id", getattr(each, "attr", "")) for each in node.decorator_list}
    arguments = node.args
    if kind == "method" and "staticmethod" not in marks:
        arguments = ast.arguments(
            posonlyargs=arguments.posonlyargs, args=arguments.args[1:], vararg=arguments.vararg,
            kwonlyargs=arguments.kwonlyargs, kw_defaults=arguments.kw_defaults, kwarg=arguments.kwarg,
            defaults=arguments.defaults,
        )  # fmt: skip
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    doc = ast.get_docstring(node) or ""
    if kind == "method" and {"property", "cached_property"} & marks:
        return Item("property", node.name, doc=doc, options=(f":type: {ast.unparse(node.returns)}",) if result else ())
    options = tuple(f":{mark}:" for mark in ("classmethod", "staticmethod") if mark in marks)
    options += (":abstractmethod:",) if "abstractmethod" in marks else ()
    return Item(kind, node.name, f"({ast.unparse(arguments)}){result}", doc, options=options)


def _class(node):
    members, fields = [], []
    signature = None
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            signature = _function(each, "method").signature.removesuffix(" -> None")
        elif isinstance(each, ast.FunctionDef) and (not each.name.startswith("_") or each.name == "__call__"):
            members.append(_function(each, "method"))
        elif isinstance(each, ast.AnnAssign) and not getattr(each.target, "id", "_").startswith("_"):
            kind = ast.unparse(each.annotation)
            if not kind.startswith(("ClassVar", "AbstractVar", "eqx.AbstractVar", "AbstractClassVar")):
                fields.append(_field(each, kind))
    return Item("class", node.name, signature if signature is not None else f"({', '.join(fields)})",
                ast.get_docstring(node) or "", members)  # fmt: skip


def _field(node, kind):
    """A field of a dataclass as an argument of its constructor."""
    value = node.value
    if isinstance(value, ast.Call) and getattr(value.func, "attr", getattr(value.func, "id", "")) == "field":
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        value = given.get("default", ast.Constant(...) if "default_factory" in given else None)
    return f"{node.target.id}: {kind}" + (f" = {ast.unparse(value)}" if value is not None else "")


def objects(found):
    """Where every documented object is: its full name to the page and the anchor."""
    places = {}
    for module in found.values():
        page = f"api/{module.name}"
        places[module.name] = (page, f"module-{module.name}")
        for item in module.items:
            whole = f"{module.name}.{item.name}"
            places[whole] = (page, whole)
            places |= {f"{whole}.{member.name}": (page, f"{whole}.{member.name}") for member in item.members}
    for module in found.values():  # names that a package offers from the modules below it
        for name, whole in module.offers.items():
            if whole in places:
                places.setdefault(f"{module.name}.{name}", places[whole])
    return places


def docstrings(found):
    """Every docstring with the full name of what it belongs to."""
    for module in found.values():
        yield module.name, module.doc
        for item in module.items:
            yield f"{module.name}.{item.name}", item.doc
            for member in item.members:
                yield f"{module.name}.{item.name}.{member.name}", member.doc


def pages(found):
    """The source files of the reference, by their paths below the site's source."""
    written = {f"api/{module.name}.md": page(module, found) for module in found.values()}
    return {**written, "api/index.md": index(found)}


def page(module, found):
    """One module's page."""
    lines = [
        f"# {module.name.removeprefix('fdbook.')}",
        "",
        f"```{{py:module}} {module.name}",
        "```",
        "",
        markdown(module.doc),
    ]
    below = [
        name for name in found if name.startswith(f"{module.name}.") and name.count(".") == module.name.count(".") + 1
    ]
    offered = {name: whole for name, whole in module.offers.items() if whole.startswith("fdbook.")}
    if offered:
        names = (whole.removeprefix("fdbook.") for whole in sorted(offered.values()))
        lines += ["", "It offers " + ", ".join(f"`{name}`" for name in names) + "."]
    if below:
        lines += ["", "```{toctree}", ":maxdepth: 1", "", *below, "```"]
    for item in module.items:
        lines += ["", *entry(item, 8)]
    return "\n".join(lines) + "\n"


def entry(item, ticks):
    """The directive of an item, its docstring inside."""
    fence = "`" * ticks
    # the domain wants one line, and no newline in a default value
    lines = [
        f"{fence}{{py:{item.kind}}} {item.name}{' '.join(item.signature.split())}",
        *item.options,
        "",
        markdown(item.doc),
    ]
    for member in item.members:
        lines += ["", *entry(member, ticks - 2)]
    return [*lines, fence]


def markdown(doc):
    """A docstring as Markdown: examples for the interpreter become blocks of code."""
    return _EXAMPLE.sub(lambda match: f"\n```pycon\n{match.group().strip()}\n```\n", doc)


def index(found):
    """The page that the reference begins with."""
    lines = ["# The package", "", "What every public function and class does, in the words of its docstring.", ""]
    for room, text in ROOMS.items():
        lines += [f"- [](fdbook.{room}.md): {text}"]
    lines += ["", "```{toctree}", ":hidden:", "", *(f"fdbook.{name}" for name in (*ROOMS, *LEAVES)), "```"]
    return "\n".join(lines) + "\n"

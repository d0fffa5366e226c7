"""The chapters as pages: the committed notebooks, changed in memory only, with their outputs as they are.

Long plotting cells are folded, links lead to pages, pictures get a text for those who cannot see them, and the worked solutions
stand at the end of the exercises, closed.
"""

import ast
import json
import re


FOLDED_FROM = 13
"""Lines from which a plotting cell is folded."""

_PLOTS = re.compile(r"\b(?:plt|ax|axes|fig|figure)\b *[.\[]")
_MARKS = re.compile(r"(?m)^(?:# NBVAL_IGNORE_OUTPUT|%config InlineBackend.*)\n?")
_TAG = re.compile(r"\\tag\{(E\d{1,2})\}")
_EXERCISES = re.compile(r"^## +(?:Your turn|Exercises)\b")


def page(notebook, change, solution):
    """The notebook that Sphinx reads: `change` rewrites Markdown cells, `solution` is the module of solutions, or None."""
    cells, heading, last = [], "", None
    inside = False
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for line in source.splitlines():
                if re.match(r"#{1,2} ", line):
                    inside = bool(_EXERCISES.match(line))
                if line.startswith("#"):
                    heading = line.lstrip("# ")
            cell = {**cell, "source": linked_tags(change(source))}
        else:
            cell = {**cell, "source": _MARKS.sub("", source).strip("\n"), "metadata": metadata(source, heading)}
        cells.append(cell)
        last = len(cells) if inside else last
    if solution is not None:
        hidden = {"cell_type": "markdown", "id": "solutions", "metadata": {}, "source": solutions(solution)}
        cells.insert(last if last is not None else len(cells), hidden)
    return json.dumps({**notebook, "cells": cells})


def metadata(source, heading):
    """What myst-nb is told about a code cell: whether to fold it, and what its picture is called."""
    long = len(source.strip().splitlines()) >= FOLDED_FROM and _PLOTS.search(source)
    tags = ["hide-input"] if long else []
    if not _MARKS.sub("", source).strip():
        tags = ["remove-input"]
    return {"tags": tags, "mystnb": {"image": {"alt": f"Figure of the section “{heading}”"}}}


def linked_tags(text):
    """Numbers of displayed equations that lead to the page of equations."""
    return _TAG.sub(lambda m: rf"\tag{{$\href{{../equations.html#{m[1]}}}{{\text{{{m[1]}}}}}$}}", text)


def solutions(text):
    """The worked solutions of a chapter as a closed block: what its `answers` need, without the typical mistakes."""
    return (
        '<details class="solutions"><summary>Worked solutions: open them after you have tried</summary>\n\n'
        f"```python\n{answers(text)}\n```\n\n</details>"
    )


def answers(text):
    """The part of a module of solutions that its `answers` use, in the order of the file."""
    tree = ast.parse(text)
    lines = text.splitlines()
    binds = {}
    for node in tree.body:
        for name in _bound(node):
            binds.setdefault(name, []).append(node)
    wanted, todo = set(), ["answers"]
    while todo:
        for node in binds.get(todo.pop(), []):
            if node not in wanted:
                wanted.add(node)
                todo += [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
    blocks, before = [], None
    for node in tree.body:
        if node in wanted:
            decorators = [each.lineno for each in getattr(node, "decorator_list", [])]
            start = min([node.lineno, *decorators]) - 1
            while start and lines[start - 1].startswith("#"):
                start -= 1
            imports = isinstance(node, ast.Import | ast.ImportFrom)
            gap = "" if before is None else "\n" if imports and before else "\n\n\n"
            blocks.append(gap + "\n".join(lines[start : node.end_lineno]))
            before = imports
    return "".join(blocks)


def _bound(node):
    """The names that a statement of a module binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)]


def title(notebook):
    """The first heading of a notebook."""
    for cell in notebook["cells"]:
        found = re.search(r"(?m)^# +(.+)$", "".join(cell["source"])) if cell["cell_type"] == "markdown" else None
        if found:
            return found[1].strip()
    raise ValueError("a chapter should begin with a heading like '# 4 · Fisher is local KL'; this notebook has none.")

"""All source files of the site, in memory: chapters, reference, equations, and the repository's own documents."""

import functools
import json
import re

import chapters
import equations
import links
import reference

from fdbook.references import bibtex


TOC = """
```{{toctree}}
:caption: {caption}
:hidden:

{entries}
```
"""


def written(root):
    """The source files of the site of the repository at `root`: path to content."""
    found = reference.modules(root / "fdbook")
    notebooks = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in numbered(root)}
    glossary = root / "notebooks" / "glossary.ipynb"
    files = reference.pages(found)
    for name, notebook in notebooks.items():
        page = f"chapters/{name}"
        answers = root / "notebooks" / "solutions" / f"chapter{name[:2]}.py"
        solution = answers.read_text(encoding="utf-8") if answers.exists() else None
        change = functools.partial(links.relink, origin=f"notebooks/{name}", page=page, api=found)
        files[page] = chapters.page(notebook, change, solution)
    if glossary.exists():
        change = functools.partial(
            links.relink, origin="notebooks/glossary.ipynb", page="chapters/glossary.ipynb", api=found
        )
        files["chapters/glossary.ipynb"] = chapters.page(json.loads(glossary.read_text("utf-8")), change, None)
    for name in ("DIFFERENCES.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        page = links.PAGES[name]
        files[page] = links.relink((root / name).read_text(encoding="utf-8"), name, page, found)
    files |= front(root, notebooks, found)
    files["equations.md"] = equations.page(*places(root, notebooks, found))
    files["bibliography.md"] = equations.bibliography(bibtex())
    files["names.json"] = json.dumps(equations.short(reference.objects(found)))
    return files


def numbered(root):
    """The chapters, in their order."""
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def sections(text):
    """A Markdown document cut at its headings of level two: the heading (empty for the beginning) to the text with it."""
    parts = re.split(r"(?m)^(?=## )", text)
    return {(re.match(r"## (.+)", part) or ["", ""])[1]: part.strip() for part in parts}


def front(root, notebooks, found):
    """The front page, from the README's beginning, and the page about running the book, from the rest."""
    parts = sections((root / "README.md").read_text(encoding="utf-8"))
    start = parts.pop("Start here", "")
    begin = parts.pop("")
    parts.pop("The book", None)
    figures = parts.pop("What the figures say", "").replace("## ", "# ", 1)
    titles = {name: re.sub(r"^\d+ · ", "", chapters.title(each)) for name, each in notebooks.items()}
    rows = "\n".join(f"- {name[:2]} · [{title}](notebooks/{name})" for name, title in titles.items())
    home = "\n\n".join([begin, start, "## The book", rows])
    pages = {
        "index.md": home,
        "running.md": "# Running the book\n\n" + "\n\n".join(parts.values()),
        "figures.md": shown(figures),
    }
    files = {page: links.relink(text, "README.md", page, found) for page, text in pages.items()}
    entries = {
        "Chapters": [f"chapters/{name}" for name in notebooks],
        "Look up": ["equations", "chapters/glossary", "figures", "api/index", "bibliography"],
        "About": ["running", "differences", "changelog", "contributing"],
    }
    for caption, names in entries.items():
        files["index.md"] += TOC.format(
            caption=caption, entries="\n".join(name.removesuffix(".ipynb") for name in names)
        )
    return files


def shown(text):
    """The README's table of figures as sections: each with its name, its picture and what came out."""
    head, _, table = text.partition("\n| figure |")
    lines = [head]
    for name, path, shows, found in re.findall(r"(?m)^\| \[(\w+)\]\(([^)]+)\) \| (.+?) \| (.+?) \|$", table):
        lines += [f"## {name}", f"![{shows}]({path})", f"**Shows** {shows}.", f"**What came out:** {found}."]
    return "\n\n".join(lines)


def places(root, notebooks, found):
    """Where equations are cited: chapters, docstrings and tests, each a map from a place, as Markdown, to its text."""
    texts = {}
    for name, notebook in notebooks.items():
        text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
        texts[f"[{chapters.title(notebook)}](chapters/{name})"] = text
    docs = {
        f"`{name.removeprefix('fdbook.')}`": doc for name, doc in reference.docstrings(found) if name.count(".") > 1
    }
    tests = {
        f"`{path.relative_to(root).as_posix()}`": path.read_text(encoding="utf-8")
        for path in sorted((root / "tests").rglob("test_*.py"))
        if path.name not in ("test_references.py", "test_book.py")
    }
    return texts, docs, tests

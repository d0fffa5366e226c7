"""The site of the book: built once, from the notebooks as they are, and every promise about it looked up in its pages."""

import functools
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import fdbook
from fdbook.references import EQUATIONS, PAPERS


pytestmark = pytest.mark.slow
ROOT = Path(fdbook.__file__).parent.parent
SITE = ROOT / "notebooks" / "site"
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
GLOSSARY = ROOT / "notebooks" / "glossary.ipynb"
NEEDED = ("sphinx", "myst_nb", "furo")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
CHROMIUM = shutil.which("chromium")

needs_extra = pytest.mark.skipif(bool(MISSING), reason=f"the extra 'book' is not installed: no {', '.join(MISSING)}")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")


def build(out):
    """The build as its own process: its warnings are its own."""
    command = [sys.executable, str(SITE / "build.py"), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    out = tmp_path_factory.mktemp("built") / "book"
    done = build(out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["book"]
    return out


class Page(HTMLParser):
    """What the tests ask of a page: its anchors, its links, what it loads, and what is closed in it."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.details, self.ranges = set(), [], [], [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if "id" in attributes:
            self.ids.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes)
        if tag in ("script", "img", "iframe", "source", "video") and attributes.get("src"):
            self.loads.append(attributes["src"])
        if tag == "link" and re.search("stylesheet|icon|preload", attributes.get("rel", "")):
            self.loads.append(attributes.get("href", ""))
        if tag == "details":
            self.details.append(attributes)
        self.ranges += tag == "input" and attributes.get("type") == "range"


@functools.cache
def parsed(path):
    """A page, read once."""
    return Page(path)


def page_of(site, notebook):
    """The page of a notebook."""
    return site / "chapters" / f"{notebook.stem}.html"


def cells(notebook, kind):
    """The cells of one kind, with their sources."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(cell, "".join(cell["source"])) for cell in found if cell["cell_type"] == kind]


def prose(notebook):
    """The words of a notebook, without headings, mathematics, code and the addresses of links."""
    text = "\n\n".join(source for _, source in cells(notebook, "markdown"))
    for pattern in (r"(?ms)^```.*?^```", r"(?s)\$\$.*?\$\$", r"\$[^$\n]+\$", r"`[^`]+`", r"(?m)^#.*$", r"\]\([^)]*\)"):
        text = re.sub(pattern, " ", text)
    return text


@needs_extra
def test_every_link_leads_somewhere(site):
    broken = []
    for path in sorted(site.rglob("*.html")):
        for link in parsed(path).links:
            target, _, anchor = link["href"].partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            goal = (path.parent / unquote(target)).resolve() if target else path
            known = goal.is_file() and (not anchor or goal.suffix != ".html" or unquote(anchor) in parsed(goal).ids)
            broken += [] if known else [f"{path.relative_to(site)}: {link['href']}"]
    assert broken == []


@needs_extra
def test_nothing_is_loaded_from_a_network(site):
    for path in sorted(site.rglob("*.html")):
        for source in parsed(path).loads:
            assert not re.match(r"(?:https?:)?//", source), f"{path.name} loads {source}"
            if not source.startswith("data:"):
                assert (path.parent / unquote(source.partition("?")[0])).exists(), f"{path.name} loads {source}"


@needs_extra
@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_every_id_in_a_chapter_leads_to_its_equation(site, notebook):
    page = parsed(page_of(site, notebook))
    titles = {
        link["href"].partition("#")[2]: link.get("title", "")
        for link in page.links
        if "equations.html#E" in link["href"]
    }
    named = set(re.findall(r"\bE\d{1,2}\b", prose(notebook)))
    assert named - set(titles) == set()
    assert [each for each in named if EQUATIONS[each].statement not in titles[each]] == []


@needs_extra
def test_the_page_of_equations_has_them_all_and_says_where_they_are_used(site):
    page = parsed(site / "equations.html")
    assert set(EQUATIONS) - page.ids == set()
    text = (site / "equations.html").read_text(encoding="utf-8")
    parts = re.split(r'<section id="(?=E\d)', text)[1:]
    assert len(parts) == len(EQUATIONS)
    for part in parts:
        assert "<strong>Source:</strong>" in part
        assert "<strong>Tests:</strong>" in part or "<strong>Chapters:</strong>" in part
    tenth = next(part for part in parts if part.startswith('E10"'))
    assert "04_fisher_is_local_kl.html" in tenth
    assert "fdbook.geometry.transport.html#fdbook.geometry.transport.kl_second_order" in tenth
    assert "tests/geometry/test_transport.py" in tenth


@needs_extra
def test_ids_in_docstrings_lead_there_too(site):
    links = {link["href"] for link in parsed(site / "api" / "fdbook.geometry.transport.html").links}
    assert {"../equations.html#E8", "../equations.html#E9", "../equations.html#E10"} <= links


@needs_extra
def test_the_search_knows_the_words_of_the_book(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    terms = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))["terms"]
    assert {"kantorovich", "filament"} <= set(terms)


@needs_extra
@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_are_there_and_closed(site, notebook):
    closed = [each for each in parsed(page_of(site, notebook)).details if each.get("class") == "solutions"]
    solutions = ROOT / "notebooks" / "solutions" / f"chapter{notebook.stem[:2]}.py"
    assert len(closed) == solutions.exists()
    assert all("open" not in each for each in closed)


@needs_extra
@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_pictures_and_sliders_of_a_chapter_are_on_its_page(site, notebook):
    outputs = [output.get("data", {}) for cell, _ in cells(notebook, "code") for output in cell["outputs"]]
    page = parsed(page_of(site, notebook))
    pictures = sum("image/png" in data and "text/html" not in data for data in outputs)
    assert sum("_images/" in source for source in page.loads) >= pictures
    assert page.ranges == sum("".join(data.get("text/html", "")).count('type="range"') for data in outputs)


ANIMATIONS = re.compile(r"!\[([^\]]*)\]\(animations/([\w-]+\.gif)\)")


def animations_of(notebook):
    """The descriptions and the files of the animations that a notebook shows."""
    return [found for _, source in cells(notebook, "markdown") for found in ANIMATIONS.findall(source)]


def test_every_animation_is_shown_by_a_chapter_and_described_in_words():
    shown = [each for notebook in CHAPTERS for each in animations_of(notebook)]
    kept = {path.name for path in (ROOT / "notebooks" / "animations").glob("*.gif")}
    assert {name for _, name in shown} == kept
    assert [name for words, name in shown if len(words.split()) < 8] == []


@needs_extra
@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_animations_of_a_chapter_are_on_its_page(site, notebook):
    for _, name in animations_of(notebook):
        assert f"../_images/{name}" in parsed(page_of(site, notebook)).loads
        kept = (ROOT / "notebooks" / "animations" / name).read_bytes()
        assert (site / "_images" / name).read_bytes() == kept


@needs_extra
def test_papers_have_their_bibtex(site):
    text = re.sub(r"<[^>]+>", "", (site / "bibliography.html").read_text(encoding="utf-8"))
    assert all(re.search(rf"@\w+\{{{key},", text) for key in PAPERS)


@needs_extra
def test_what_is_no_site_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = build(tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == f"'{tmp_path}' holds something that is not a site of this book: name an empty or a new folder."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


PAGES = (
    "index.html",
    "chapters/01_a_flow_moves_mass.html",
    "chapters/04_fisher_is_local_kl.html",
    "chapters/12_the_metric_under_the_microscope.html",
    "chapters/glossary.html",
    "equations.html",
    "api/fdbook.geometry.flow.html",
)


@needs_extra
@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_a_browser_shows_the_page_without_complaints(site, name, tmp_path):
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--enable-logging=stderr",
    ]
    options += ["--v=0", "--virtual-time-budget=20000", "--dump-dom"]
    command = [CHROMIUM, *options, (site / name).as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert "data-mjx-error" not in done.stdout
    if 'class="math' in (site / name).read_text(encoding="utf-8"):
        assert "<mjx-container" in done.stdout
    else:
        assert name in ("index.html", "api/fdbook.geometry.flow.html")


@pytest.fixture
def parts(monkeypatch):
    """The modules that make the site, those that need no Sphinx."""
    monkeypatch.syspath_prepend(str(SITE))
    names = ("links", "chapters", "reference")
    loaded = {name: importlib.import_module(name) for name in names}
    yield loaded
    for name in names:
        sys.modules.pop(name)


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("[four](04_x.ipynb#fold)", "[four](04_x.ipynb#fold)"),
        ("[word](glossary.ipynb#a-word)", "[word](glossary.ipynb#a-word)"),
        (
            "[code](../fdbook/checks.py), [`it`](../fdbook/data)",
            "[code](../api/fdbook.checks.md), [`it`](../api/fdbook.data.md)",
        ),
        ("[kept](https://x.org), `[code](no.py)`", "[kept](https://x.org), `[code](no.py)`"),
        ("[why](../DIFFERENCES.md) [gone](../tests/test_x.py)", "[why](../differences.md) gone"),
        ("```\n[a](b.py)\n```\n[a](b.py)", "```\n[a](b.py)\n```\na"),
        ("![it moves](animations/flow.gif)", "![it moves](animations/flow.gif)"),
    ],
)
def test_links_of_chapters_lead_to_pages_or_become_text(parts, text, becomes):
    api = ("fdbook.checks", "fdbook.data")
    assert parts["links"].relink(text, "notebooks/05_y.ipynb", "chapters/05_y.ipynb", api) == becomes


SOLUTIONS = '''
"""Doc."""
import os
import re

def helper(x):
    return re.escape(x)

def f(x):
    # why
    return helper(x)

def wrong():
    return os

answers = {"01.1": f}
mistakes = {"01.1": [(wrong, "no")]}
'''


def test_solutions_show_what_answers_use_and_no_mistakes(parts):
    shown = parts["chapters"].answers(SOLUTIONS)
    assert "mistakes" not in shown
    assert "wrong" not in shown
    assert "import os" not in shown
    assert "# why" in shown
    compile(shown, "shown", "exec")


def test_long_plots_are_folded_and_nothing_else(parts):
    long, short = "plt.plot(1)\n" * 14, "plt.plot(1)\n" * 12
    assert parts["chapters"].metadata(long, "x")["tags"] == ["hide-input"]
    assert parts["chapters"].metadata(short, "x")["tags"] == []
    assert parts["chapters"].metadata("y = 1\n" * 14, "x")["tags"] == []


MODULE = '''
__all__ = ["f", "G", "N"]
N = 3
"""How many."""
def f(a: int, *, b=2) -> int:
    """Adds."""
class G:
    x: int
    y: int = 1
'''


def test_a_signature_and_its_docstring_are_read_from_the_source(parts):
    module = parts["reference"].read("fdbook.m", MODULE, is_package=False)
    assert [(each.kind, each.name, each.signature, each.doc) for each in module.items] == [
        ("data", "N", "", "How many."),
        ("function", "f", "(a: int, *, b=2) -> int", "Adds."),
        ("class", "G", "(x: int, y: int = 1)", ""),
    ]


def test_the_glossary_has_an_entry_for_every_link_to_it():
    headings = {
        line[4:] for _, source in cells(GLOSSARY, "markdown") for line in source.splitlines() if line.startswith("### ")
    }
    assert headings == {each.lower() for each in headings}
    anchors = {heading.replace(" ", "-") for heading in headings}
    asked = {
        (notebook.name, anchor)
        for notebook in (*CHAPTERS, GLOSSARY)
        for _, source in cells(notebook, "markdown")
        for anchor in re.findall(r"\]\(glossary\.ipynb#([^)]+)\)", source)
        + (re.findall(r"\]\(#([^)]+)\)", source) if notebook == GLOSSARY else [])
    }
    missing = sorted(f"{name}: glossary.ipynb#{anchor}" for name, anchor in asked if anchor not in anchors)
    assert missing == [], f"notebooks/glossary.ipynb has no entry for the links {missing}"


def test_every_entry_of_the_glossary_says_which_chapter_builds_it():
    entries = [source for _, source in cells(GLOSSARY, "markdown") if source.startswith("### ")]
    assert [entry.splitlines()[0] for entry in entries if not re.search(r"\]\(\d\d_\w+\.ipynb\)", entry)] == []
    names = {path.name for path in CHAPTERS}
    assert {name for entry in entries for name in re.findall(r"\((\d\d_\w+\.ipynb)\)", entry)} - names == set()

"""The page of all equations, and the links that lead to it: every id in the prose of a page shows what it stands for.

A transform of Sphinx does the latter, on pages as they are read, so that no chapter and no docstring says where an id leads.
"""

import json
import re

from docutils import nodes
from sphinx.transforms import SphinxTransform

from fdbook.references import EQUATIONS, PAPERS


ID = re.compile(r"\bE\d{1,2}\b")

_NOT_PROSE = (nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.title, nodes.raw,
              nodes.Invisible, nodes.caption)  # fmt: skip


def ids(text):
    """The ids of equations that stand in a text, in their order, without repetition."""
    return [found for found in dict.fromkeys(ID.findall(text)) if found in EQUATIONS]


def page(chapters, docstrings, tests):
    """The source of the page. Each argument maps a place, as Markdown, to the text in which ids are looked for."""
    lines = [
        "# Equations",
        "",
        f"The book's {len(EQUATIONS)} equations, with the ids that chapters, docstrings and tests cite. "
        "They are the entries of `fdbook.references`.",
        "",
        "Actions, displacements $\\delta$ and scores lie in $\\mathbb{R}^d$, where $d$ is the dimension of an action; "
        "$s$ is a state; $z \\sim N(0, I)$; $x_t$ is the point of the path E1 at time $t$, and $p_t$ its law; "
        "$\\pi_\\beta$ is the behavior policy, $\\pi_\\theta$ the improved one; $\\operatorname{sg}$ stops the gradient.",
        "The [glossary](chapters/glossary.ipynb) explains the words.",
        "",
    ]
    for equation in EQUATIONS.values():
        source = PAPERS[equation.source] if equation.source else None
        lines += [f"## {equation.id}: {equation.name}", "", "$$", equation.statement, "$$", ""]
        lines += [f"**Source:** {cited(source)}" if source else "**Source:** derived in this book.", ""]
        for kind, places in (("Chapters", chapters), ("Package", docstrings), ("Tests", tests)):
            found = [place for place, text in places.items() if equation.id in ids(text)]
            lines += [f"- **{kind}:** {', '.join(found)}"] if found else []
        lines += [""]
    return "\n".join(lines)


def cited(paper):
    """A paper as Markdown, with a link to it where arXiv has it."""
    text = str(paper)
    if paper.arxiv:
        text = text.replace(f"arXiv {paper.arxiv}", f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})")
    return f"{text} ([entry](bibliography.md))."


def bibliography(text):
    """The source of the page with the BibTeX of all papers."""
    used = {key: [e.id for e in EQUATIONS.values() if e.source == key] for key in PAPERS}
    rows = [f"- {paper}" + (f" ({', '.join(used[key])})" if used[key] else "") for key, paper in PAPERS.items()]
    head = ["# Papers", "", "What the book stands on, and which equations come from where.", "", *rows, ""]
    return "\n".join([*head, "## BibTeX", "", "```bibtex", text.strip(), "```", ""])


def script():
    """What the page's script shows when a reader points at an id: a JavaScript file."""
    shown = {each.id: {"name": each.name, "statement": each.statement} for each in EQUATIONS.values()}
    return f"window.EQUATIONS = {json.dumps(shown, indent=1)};\n"


class Anchors(SphinxTransform):
    """Gives each section of the page of equations its id, as it is written everywhere, for an anchor."""

    default_priority = 300

    def apply(self, **kwargs):
        if self.env.docname != "equations":
            return
        for section in self.document.findall(nodes.section):
            found = ID.match(section[0].astext())
            if found:
                section["ids"].insert(0, found.group())
                self.document.ids[found.group()] = section


class Links(SphinxTransform):
    """Turns every id in prose into a link to its equation, with the statement as a title."""

    default_priority = 870

    def apply(self, **kwargs):
        builder = self.app.builder
        target = builder.get_relative_uri(self.env.docname, "equations")
        for text in list(self.document.findall(nodes.Text)):
            if not ID.search(text) or _inside(text):
                continue
            parts, end = [], 0
            for found in ID.finditer(text):
                equation = EQUATIONS.get(found.group())
                if equation is None:
                    continue
                parts += [nodes.Text(text[end : found.start()])] if found.start() > end else []
                parts.append(
                    nodes.reference(
                        "",
                        equation.id,
                        internal=True,
                        refuri=f"{target}#{equation.id}",
                        classes=["equation"],
                        reftitle=f"{equation.id}, {equation.name}: {equation.statement}",
                    )
                )
                end = found.end()
            if parts:
                text.parent.replace(text, [*parts, nodes.Text(text[end:])] if end < len(text) else parts)


def _inside(text):
    """Whether a text belongs to something that is not prose: a link, code, mathematics, a heading, a signature."""
    node = text.parent
    while node is not None:
        if isinstance(node, _NOT_PROSE) or node.tagname in ("desc_signature", "pending_xref"):
            return True
        node = node.parent
    return False


class Names(SphinxTransform):
    """Turns `flow.sample` and the like, in prose and docstrings, into links to where the name is documented."""

    default_priority = 871

    def apply(self, **kwargs):
        known = self.config.known_names
        own = self.env.docname.removeprefix("api/")  # a page of the package may call its own names without their module
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext().removesuffix("()")
            place = known.get(name) or known.get(f"{own}.{name}")
            if place is None or isinstance(literal.parent, nodes.reference) or _inside(literal):
                continue
            page, anchor = place
            here = "" if page == self.env.docname else self.app.builder.get_relative_uri(self.env.docname, page)
            link = nodes.reference("", "", internal=True, refuri=f"{here}#{anchor}", classes=["name"])
            literal.parent.replace(literal, link)
            link += literal


def short(places):
    """The names under which prose may call an object: with its module, without the package; those that mean one thing only."""
    calls = {}
    for whole, place in places.items():
        parts = whole.split(".")
        for start in range(len(parts)):
            if len(parts) - start >= 2:
                calls.setdefault(".".join(parts[start:]), set()).add(place)
    return {name: next(iter(found)) for name, found in calls.items() if len(found) == 1}

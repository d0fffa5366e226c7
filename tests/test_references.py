"""The registry of equations holds the ids that are in use, and what it says about them can be printed and cited."""

import json
import re
from pathlib import Path

import pytest

import fdbook
from fdbook import references


PACKAGE = Path(fdbook.__file__).parent
ROOT = PACKAGE.parent
SKIPPED = {PACKAGE / "references.py", Path(__file__)}


def ids(text):
    """The equation ids that a text cites."""
    return {f"E{number}" for number in re.findall(r"\bE(\d{1,2})\b", text)}


def written(path):
    """What people wrote in a file: all of a Python file, the cells of a notebook without their outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def cited():
    """Where each id is cited, in the package, the notebooks and the tests."""
    places = {}
    for folder in ("fdbook", "notebooks", "tests"):
        for path in (*ROOT.glob(f"{folder}/**/*.py"), *ROOT.glob(f"{folder}/**/*.ipynb")):
            if path not in SKIPPED and ".ipynb_checkpoints" not in path.parts:
                for each in ids(written(path)):
                    places.setdefault(each, []).append(path.relative_to(ROOT).as_posix())
    return places


def test_every_cited_equation_is_known():
    unknown = {each: places for each, places in cited().items() if each not in references.EQUATIONS}
    assert unknown == {}, f"fdbook/references.py has no entry for what is cited: {unknown}"


def test_every_known_equation_is_cited():
    idle = set(references.EQUATIONS) - set(cited())
    assert idle == set(), f"fdbook/references.py: {idle} are cited in no docstring, notebook or test"


def test_ids_are_numbered_without_a_gap():
    wanted = [f"E{number}" for number in range(1, len(references.EQUATIONS) + 1)]
    assert list(references.EQUATIONS) == wanted, "fdbook/references.py: a new equation has the next number, at the end"


def test_the_map_shows_every_equation():
    (path,) = (ROOT / "notebooks").glob("00_*.ipynb")
    shown = json.dumps([cell.get("outputs") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]])
    missing = [each for each in references.EQUATIONS if f"| {each} |" not in shown]
    assert missing == [], (
        f"notebooks/{path.name} was executed before fdbook/references.py had {missing}: execute it again"
    )


def test_ids_are_found_in_prose_and_in_code():
    assert ids("E1 and (E24); E5's sign, E10-E12, not E402, not 1E5, not EE7") == {"E1", "E24", "E5", "E10", "E12"}


def test_only_what_people_wrote_in_a_notebook_counts(tmp_path):
    cells = [{"cell_type": "code", "source": ["x = 1  # E1\n"], "outputs": [{"data": {"image/png": "ab/E9+"}}]}]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert ids(written(path)) == {"E1"}


@pytest.mark.parametrize("equation", references.EQUATIONS.values(), ids=lambda equation: equation.id)
def test_an_equation_is_complete(equation):
    assert re.fullmatch(r"E\d{1,2}", equation.id)
    assert references.EQUATIONS[equation.id] is equation
    assert equation.name
    assert equation.source == "" or equation.source in references.PAPERS
    assert equation.statement.count("{") == equation.statement.count("}")
    assert equation.statement.count(r"\left") == equation.statement.count(r"\right")


def test_citing_takes_one_line():
    line = references.cite("E5")
    assert line.startswith("E5, ")
    assert "2604.17919" in line
    assert "\n" not in line
    assert references.cite("E9").endswith("[derived in this book]")


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(ValueError, match=r"no equation called 'E55'\. Did you mean 'E5'"):
        references.cite("E55")


@pytest.mark.parametrize("paper", references.PAPERS.values(), ids=lambda paper: paper.key)
def test_bibtex_of_a_paper_is_well_formed(paper):
    assert re.match(rf"@(misc|inproceedings|article)\{{{paper.key},\n", paper.bibtex)
    depth = 0
    for letter in paper.bibtex:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", paper.bibtex, re.MULTILINE))
    assert fields["year"] == str(paper.year)
    assert all(", " in name for name in fields["author"].split(" and "))
    assert not paper.arxiv or re.fullmatch(r"\d{4}\.\d{5}", fields["eprint"])
    assert len(fields) == paper.bibtex.count("\n") - 1


def test_the_bibliography_holds_every_paper():
    assert references.bibtex().count("@") == len(references.PAPERS)


@pytest.mark.parametrize("equation", references.EQUATIONS.values(), ids=list(references.EQUATIONS))
def test_no_space_command_runs_into_the_word_behind_it(equation):
    assert not re.search(r"\\q?quad[A-Za-z]", equation.statement)

"""The exercises: solutions are accepted, typical mistakes refused with a sentence that says what is wrong, dots are open."""

import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest

from fdbook import exercises


NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def solutions(chapter):
    """The module of worked solutions of a chapter, which has `answers` and `mistakes`, by name of exercise."""
    path = NOTEBOOKS / "solutions" / f"chapter{chapter}.py"
    assert path.exists(), f"notebooks/solutions/{path.name} is missing: `answers` and `mistakes` of each exercise"
    spec = importlib.util.spec_from_file_location(f"solutions_{chapter}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """Readers write NumPy-like code: ranks and types are promoted as jax does by default."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


SOLUTIONS = {chapter: solutions(chapter) for chapter in exercises.CHAPTERS}
ANSWERS = [(name, answer) for module in SOLUTIONS.values() for name, answer in module.answers.items()]
MISTAKES = [
    (name, number, wrong, hint)
    for module in SOLUTIONS.values()
    for name, wrongs in module.mistakes.items()
    for number, (wrong, hint) in enumerate(wrongs)
]


def test_every_notebook_with_exercises_is_a_chapter_of_them():
    text = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("*.ipynb"))
    asking = sorted(set(re.findall(r'check\(\\"(\d\d)\.', text)))
    missing = [chapter for chapter in asking if chapter not in exercises.CHAPTERS and chapter != "00"]
    assert missing == [], f"fdbook/exercises/ has no checkers chapter{'.py, chapter'.join(missing)}.py"
    assert set(exercises.CHAPTERS) <= set(asking)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_committed_executed(path):
    """From the first cell to the last, in one go, and small: notebooks/site/slim.py packs what is larger."""
    where = f"notebooks/{path.name}"
    assert path.stat().st_size <= 400_000, f"{where} is {path.stat().st_size} bytes; notebooks/site/slim.py packs it"
    assert "widget-view" not in path.read_text(encoding="utf-8")  # for which the site would load scripts from elsewhere
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" and cell.source.strip()]
    executed = [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert executed, (
        f"{where}: jupyter nbconvert --to notebook --execute --inplace it, then python notebooks/site/slim.py it"
    )


SECTIONS = (
    "**Goal.**",
    "**Time.**",
    "**Before this.**",
    "## What was shown",
    "## Your turn",
    "## What breaks",
    "## References",
)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")), ids=lambda path: path.stem)
def test_a_chapter_has_its_sections_and_its_rows(path):
    """What a reader finds in every chapter, and where every chapter is found."""
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    missing = [each for each in SECTIONS if f"\n{each}" not in f"\n{text}"]
    assert missing == [], f"notebooks/{path.name} lacks {missing}"
    readme, number = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8"), path.stem[:2]
    row = re.search(rf"(?m)^\| {number} \| \[.+\]\(notebooks/{path.name}\) \| (.+) \|$", readme)
    assert row, f"README.md, The book: there is no row | {number} | [title](notebooks/{path.name}) | question |"
    (first,) = NOTEBOOKS.glob("00_*.ipynb")
    cells = "\n".join(cell.source for cell in nbformat.read(first, 4).cells if cell.cell_type == "markdown")
    told = number == "00" or re.search(
        rf"(?m)^\| \[{number}\]\({path.name}\) \| .+ \| {re.escape(row[1])} \| .+ \|$", cells
    )
    assert told, (
        f"notebooks/{first.name}, The chapters: no row for [{number}]({path.name}) asks what README.md asks, {row[1]}"
    )


def test_every_exercise_has_a_solution_and_mistakes_and_stands_in_its_notebook():
    assert sorted(name for name, _ in ANSWERS) == list(exercises.names())
    assert {name for name, *_ in MISTAKES} == set(exercises.names())
    for chapter in exercises.CHAPTERS:
        (path,) = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
        code = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
        asked = re.findall(r'check\("([^"]+)"', code)
        assert asked == [name for name in exercises.names() if name.startswith(chapter)]


@pytest.mark.parametrize(("name", "answer"), ANSWERS, ids=[name for name, _ in ANSWERS])
def test_solutions_are_right(name, answer):
    right, line = exercises.verdict(name, answer)
    assert right, line
    assert line.startswith(f"{name} is right.")


@pytest.mark.parametrize(
    ("name", "wrong", "hint"),
    [(name, wrong, hint) for name, _, wrong, hint in MISTAKES],
    ids=[f"{name}-{number}" for name, number, *_ in MISTAKES],
)
def test_mistakes_are_told_apart(name, wrong, hint):
    right, line = exercises.verdict(name, wrong)
    assert not right
    assert line.startswith(f"{name} is not right yet: ")
    assert hint in line
    assert "\n" not in line


@pytest.mark.parametrize("name", exercises.names())
def test_dots_are_open(name, capsys):
    exercises.check(name, ...)
    assert capsys.readouterr().out.startswith(f"{name} is open")


def test_an_error_in_the_answer_is_a_sentence():
    def broken(*arguments):
        raise ZeroDivisionError("division by zero")

    lines = [exercises.verdict(name, broken)[1] for name, answer in ANSWERS if callable(answer)]
    assert lines
    assert all("your function raised ZeroDivisionError: division by zero" in line for line in lines)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (3.0, "the answer should be a function; it is a float."),
        (lambda x: x * jnp.nan, "your function returned NaN or infinite values."),
        (lambda x: (x, {"more": np.inf}), "your function returned NaN or infinite values."),
        (lambda x, y: x, "your function raised TypeError: "),
    ],
)
def test_answers_of_a_wrong_kind(answer, hint):
    with pytest.raises(exercises.Wrong) as wrong:
        exercises.call(answer, jnp.ones(2))
    assert str(wrong.value).startswith(hint)


def test_answers_come_back_as_numpy_and_with_their_shape():
    value = exercises.call(lambda x, y: (x + y, 1), jnp.ones(2), 2.0)
    np.testing.assert_array_equal(value[0], [3, 3])
    assert all(isinstance(part, np.ndarray) for part in value)
    assert exercises.same_shape(value[0], (2,)) is value[0]
    with pytest.raises(exercises.Wrong, match=r"should have shape \(3,\); it has shape \(2,\)"):
        exercises.same_shape(value[0], (3,))


def test_functions_that_return_nothing_are_open():
    lines = [exercises.verdict(name, lambda *args, **options: None) for name, answer in ANSWERS if callable(answer)]
    assert lines
    for right, line in lines:
        assert not right
        assert "is open: replace the dots" in line


def test_an_unknown_exercise_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"There is no exercise called '9\.11'. Did you mean '09\.1'\?"):
        exercises.check("9.11", ...)


def test_a_chapter_may_lack_its_zero(capsys):
    exercises.check("3.1", ...)
    assert capsys.readouterr().out.startswith("03.1 is open")


@pytest.mark.parametrize("name", exercises.names())
def test_hints_come_in_two_steps(name, capsys):
    """Where to begin, and how to go on: two sentences that differ, each asked for by its number, as is a short name."""
    first, second = exercises.hints(name)
    assert first != second
    assert all(len(hint.split()) >= 5 and hint.rstrip().endswith((".", "?", "!")) for hint in (first, second))
    for number, hint in enumerate((first, second), start=1):
        exercises.check(name, hint=number)
        assert capsys.readouterr().out == f"{name}, hint {number} of 2: {hint}\n"
    exercises.check(name.removeprefix("0"), hint=1)
    assert capsys.readouterr().out.startswith(f"{name}, hint 1 of 2: ")


@pytest.mark.parametrize("hint", [0, 3, True, "1"])
def test_a_hint_that_there_is_not_is_refused(hint):
    with pytest.raises(ValueError, match=r"^04\.1 has hints 1 to 2; got hint="):
        exercises.check("04.1", hint=hint)


def test_hints_of_an_exercise_that_does_not_exist():
    with pytest.raises(ValueError, match=r"There is no exercise called '99\.1'"):
        exercises.check("99.1", hint=1)

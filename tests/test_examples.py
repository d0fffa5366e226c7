"""The examples in docstrings: all of them run and print what they say, and what the notebooks call has one."""

import ast
import doctest
import importlib
import inspect
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import fdbook
from fdbook import experiment
from fdbook.data import tasks, walls
from fdbook.experiment import auditing, estimate, evaluation, measure
from fdbook.geometry import (
    anisotropy,
    base_actions,
    densities,
    distillation,
    flow,
    frontier,
    information,
    metrics,
    paths,
    quadratic,
    transport,
    trust_region,
    warps,
)
from fdbook.report import statistics, style
from fdbook.rl import agents, environments, precision, records, train, transitions
from fdbook.rl.agents import deflow_fidec


MODULES = [
    agents,
    anisotropy,
    auditing,
    base_actions,
    deflow_fidec,
    densities,
    distillation,
    environments,
    estimate,
    evaluation,
    experiment.spec,
    flow,
    frontier,
    information,
    measure,
    metrics,
    paths,
    precision,
    quadratic,
    records,
    statistics,
    style,
    tasks,
    train,
    transitions,
    transport,
    trust_region,
    walls,
    warps,
]
NAMESPACE = {module.__name__.rpartition(".")[-1]: module for module in [*MODULES, experiment]}
NAMESPACE |= {"jax": jax, "jnp": jnp, "jr": jr, "np": np}
"""What an example may use without importing it, by the names that the notebooks have for it."""

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

FIGURE, DATA, ENVIRONMENT = "it draws, or serves, a figure", "it takes a data set", "it plays in an environment"
RECORD = "it takes the record of a run"
WITHOUT = {
    "fdbook.book.chapters": "it gives places on the reader's own disk",
    "fdbook.data.dose.step_noise": "it is a part of how a data set is recorded",
    "fdbook.data.load.load": DATA,
    "fdbook.data.minari.read": DATA,
    "fdbook.data.ogbench.load": DATA,
    "fdbook.data.ogbench.load_or_record": DATA,
    "fdbook.data.ogbench.maze_layout": ENVIRONMENT,
    "fdbook.data.record.record": ENVIRONMENT,
    "fdbook.data.summary.summarize": DATA,
    "fdbook.experiment.evaluation.environments": ENVIRONMENT,
    "fdbook.experiment.gains.ladder_table": "it takes the record of a ladder",
    "fdbook.experiment.run.train": DATA,
    "fdbook.report.figures.Context": FIGURE,
    "fdbook.report.figures.ceilings.compute": FIGURE,
    "fdbook.report.figures.ceilings.draw": FIGURE,
    "fdbook.report.figures.dose.compute": FIGURE,
    "fdbook.report.figures.dose.draw": FIGURE,
    "fdbook.report.figures.geometry.draw": FIGURE,
    "fdbook.report.figures.learning.method_look": FIGURE,
    "fdbook.report.figures.load_numbers": FIGURE,
    "fdbook.report.figures.critics.compute": FIGURE,
    "fdbook.report.figures.critics.draw": FIGURE,
    "fdbook.report.figures.microscope.compute": FIGURE,
    "fdbook.report.figures.microscope.draw": FIGURE,
    "fdbook.report.figures.robot.band": FIGURE,
    "fdbook.report.figures.robot.draw_state": FIGURE,
    "fdbook.report.figures.robot.metric_handles": FIGURE,
    "fdbook.report.inspection.coverage": FIGURE,
    "fdbook.report.inspection.marginal": FIGURE,
    "fdbook.report.layouts.markdown": RECORD,
    "fdbook.report.sliders.slider": FIGURE,
    "fdbook.report.published.deviations": RECORD,
    "fdbook.report.published.facts": "it gives all the papers' numbers, and computes nothing",
    "fdbook.report.rooms.draw": FIGURE,
    "fdbook.report.rooms.read": FIGURE,
    "fdbook.report.runs.find": RECORD,
    "fdbook.report.runs.grouped": RECORD,
    "fdbook.report.style.density_panel": FIGURE,
    "fdbook.report.style.ellipse": FIGURE,
    "fdbook.report.style.look": FIGURE,
    "fdbook.report.style.panel_label": FIGURE,
    "fdbook.report.style.shared_colorbar": FIGURE,
    "fdbook.report.style.use": FIGURE,
    "fdbook.report.table.make": RECORD,
    "fdbook.rl.evaluate.evaluate": ENVIRONMENT,
    "fdbook.rl.online.Online": ENVIRONMENT,
}
"""What the notebooks call and has no example, and why."""


def trees(notebook):
    """The code cells of a notebook, as Python reads them, without the lines that are IPython's."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        lines = ("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
        yield ast.parse("\n".join(lines))


def imported(module, name):
    """What `from module import name` gives."""
    place = importlib.import_module(module)
    return getattr(place, name) if hasattr(place, name) else importlib.import_module(f"{module}.{name}")


def called(notebook):
    """The functions and classes of this package that a notebook calls, or hands to what calls them, by their full names."""
    nodes = [node for tree in trees(notebook) for node in ast.walk(tree)]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("fdbook.")]
    known = {part.asname or part.name: imported(node.module, part.name) for node in imports for part in node.names}
    for node in nodes:
        first, *rest = ast.unparse(node).split(".") if isinstance(node, ast.Name | ast.Attribute) else ("",)
        if first not in known or not all(part.isidentifier() for part in rest):
            continue
        value = known[first]
        for part in rest:
            value = getattr(value, part, None)
        value = inspect.unwrap(value) if callable(value) else value
        ours = f"{getattr(value, '__module__', '')}.".startswith("fdbook.") and hasattr(value, "__qualname__")
        if ours and not value.__module__.startswith("fdbook.exercises"):
            yield f"{value.__module__}.{value.__qualname__}", value


CALLED = dict(pair for notebook in NOTEBOOKS for pair in called(notebook))


def examples(module):
    """The doctests of a module's public names and of their methods.

    They are looked for one by one: in a module the finder skips what an import hook has wrapped.
    """
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in module.__all__:
        value = getattr(module, name)
        value = inspect.unwrap(value) if callable(value) else value
        inside = f"{getattr(value, '__module__', '')}.".startswith(
            f"{module.__name__}."
        )  # of a package, its modules too
        if (inspect.isfunction(value) or inspect.isclass(value)) and inside:
            found = finder.find(value, f"{module.__name__}.{name}", module=False, globs=dict(NAMESPACE))
            yield from (test for test in found if test.examples)


EXAMPLES = {test.name: test for module in MODULES for test in examples(module)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_says(name):
    said = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(EXAMPLES[name], out=said.append)
    assert tried > 0
    assert failed == 0, "".join(said)


@pytest.mark.parametrize("name", sorted(CALLED.keys() - WITHOUT.keys()))
def test_what_the_notebooks_call_has_an_example(name):
    made_by = [CALLED[name], getattr(CALLED[name], "__init__", None)]
    shown = any(">>> " in (getattr(each, "__doc__", None) or "") for each in made_by)
    assert shown, f"a notebook calls {name}, whose docstring has no example"


def test_what_has_no_example_is_called_and_has_none():
    assert sorted(WITHOUT.keys() - CALLED.keys()) == []
    assert [name for name in WITHOUT if ">>> " in (inspect.getdoc(CALLED[name]) or "")] == []


def test_every_example_in_the_package_is_run():
    texts = [path.read_text(encoding="utf-8") for path in Path(fdbook.__file__).parent.rglob("*.py")]
    assert sum(text.count(">>> ") for text in texts) == sum(len(test.examples) for test in EXAMPLES.values())

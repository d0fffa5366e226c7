"""The examples in docstrings: all of them run and print what they say, and what the notebooks call has one."""

import doctest
import inspect
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import fdbook
from fdbook import experiment
from fdbook.experiment import auditing, measure
from fdbook.geometry import (
    anisotropy,
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
)
from fdbook.rl import agents, records


MODULES = [
    agents,
    anisotropy,
    auditing,
    densities,
    distillation,
    experiment.spec,
    flow,
    frontier,
    information,
    measure,
    metrics,
    paths,
    quadratic,
    records,
    transport,
    trust_region,
]
NAMESPACE = {module.__name__.rpartition(".")[-1]: module for module in [*MODULES, experiment]}
NAMESPACE |= {"jnp": jnp, "jr": jr, "np": np}
"""What an example may use without importing it, by the names that the notebooks have for it."""

CALLED = {
    "agents": "make",
    "anisotropy": "blurred ceiling efficiency modes moments standardizer",
    "densities": "gaussian make off_manifold",
    "distillation": "OneStep actor_loss fit taught_by_flow",
    "experiment": "RunSpec",
    "flow": "ExactVelocity VelocityField fit log_prob noise sample trajectory",
    "frontier": "Grid Yardstick",
    "metrics": "alignment condition_number ellipse fisher_matrix make normalize_trace perturbed_scores",
    "paths": "interpolate released_score score_from_velocity target_velocity",
    "records": "read",
    "transport": "LocalTransport fit kl_exact kl_fisher kl_second_order",
    "trust_region": "fisher_step gap kantorovich_bound l2_step",
}
"""What the notebooks call, and a reader can try without data or a long training."""


def examples(module):
    """The doctests of a module's public names and of their methods.

    They are looked for one by one: in a module the finder skips what an import hook has wrapped.
    """
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in module.__all__:
        value = getattr(module, name)
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


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in CALLED for name in CALLED[module].split()])
def test_what_the_notebooks_call_has_an_example(module, name):
    assert ">>> " in inspect.getdoc(getattr(NAMESPACE[module], name))


def test_every_example_in_the_package_is_run():
    texts = [path.read_text(encoding="utf-8") for path in Path(fdbook.__file__).parent.rglob("*.py")]
    assert sum(text.count(">>> ") for text in texts) == sum(len(test.examples) for test in EXAMPLES.values())

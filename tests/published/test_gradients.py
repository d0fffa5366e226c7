"""Our gradients and six of our updates against the numbers that the published code made of the same weights, batches and draws.

The numbers in gradients.json come from `compare.py`, which runs the published code; here only ours runs.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import recipe


PUBLISHED = json.loads(Path(__file__).with_name("gradients.json").read_text(encoding="utf-8"))


@functools.cache
def agent(case):
    return recipe.agent(case)


def test_every_case_has_its_published_numbers():
    assert sorted(PUBLISHED) == sorted(recipe.CASES)
    for case, found in PUBLISHED.items():
        assert set(found["gradient"]) == set(agent(case).networks)
        targets = {f"target {name}" for name in agent(case).targets}
        assert set(found["six updates"]) == set(agent(case).networks) | targets


@pytest.mark.parametrize("case", recipe.CASES)
def test_gradients_are_the_published_ones(budget, case):
    """A loss that is halved, a term that judges by another network or another draw, a clip in the wrong place: all show."""
    found = recipe.gradient(recipe.at_a_turn(agent(case)), 0)
    tolerance = budget("published_gradients")
    for name, wanted in PUBLISHED[case]["gradient"].items():
        got = recipe.digest(recipe.vector(found[name]))
        assert got["norm"] == pytest.approx(wanted["norm"], rel=tolerance), name
        np.testing.assert_allclose(got["entries"], wanted["entries"], rtol=0, atol=tolerance * wanted["norm"])


@pytest.mark.parametrize("case", recipe.CASES)
def test_six_updates_arrive_where_the_published_ones_do(budget, case):
    """Adam, its clip, target networks that lag an update, and ReBRAC's turns."""
    before = agent(case)
    after, rate = recipe.updated(before), before.config.learning_rate
    for name, wanted in PUBLISHED[case]["six updates"].items():
        got = recipe.digest(recipe.change(after, before, name))
        assert got["norm"] == pytest.approx(wanted["norm"], rel=budget("length_of_published_updates")), name
        atol = rate * budget("published_updates")
        np.testing.assert_allclose(got["entries"], wanted["entries"], rtol=0, atol=atol, err_msg=name)

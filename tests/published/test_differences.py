"""DIFFERENCES.md: the files and tests that it names exist, and the differences that it states are those that were measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import recipe

from fdbook.rl import records


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "DIFFERENCES.md").read_text(encoding="utf-8")
PUBLISHED = json.loads(Path(__file__).with_name("gradients.json").read_text(encoding="utf-8"))
ROWS = {
    "fql": "fql",
    "ifql": "ifql",
    "iql": "iql",
    "rebrac": "rebrac",
    "deflow": "deflow",
    "fidec-released": "fidec, released score",
    "fidec-exact": "fidec, exact score (a comment in the published code)",
}


def test_files_and_tests_that_it_names_exist():
    named = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert [path for path in named if not (ROOT / path).exists()] == []
    tests = re.findall(r"`(test_\w+)`", PAGE)
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(tests) >= 4
    assert [name for name in tests if f"def {name}(" not in texts] == []


@pytest.mark.parametrize("case", recipe.CASES)
def test_it_states_the_differences_that_were_measured(case):
    assert f"| {ROWS[case]} | {' | '.join(PUBLISHED[case]['largest differences'])} |" in PAGE


def test_its_spread_of_an_evaluation_by_drawn_starts():
    assert f"{100 * (0.5 * 0.5 / 50) ** 0.5:.1f}" == "7.1"
    assert PAGE.count("7.1") == 2


def test_its_learning_curves_are_those_of_the_records():
    def mean(method, actions):
        record = records.read(ROOT / f"figures/data/tried/actions-per-state-{method}-{actions}")
        wanted = {"budget": 0.1, "actions_per_state": int(str(actions).removesuffix("-fresh")), "dual_ascent": True}
        assert {name: record.config[name] for name in wanted} == wanted
        assert (record.status, record.updates, record.seeds, record.agent) == (
            "finished",
            12_000,
            [0, 1, 2],
            method.split("-")[0],
        )
        return f"{np.mean(record.score()):.1f}"

    there = records.read(ROOT / "figures/data/tried/actor-states-next-deflow")
    assert (there.status, there.updates, there.config["actor_states"], there.config["budget"]) == (
        "finished",
        12_000,
        "next",
        0.1,
    )
    assert f"L2 came to {np.mean(there.score()):.1f}%" in PAGE
    l2, exact = [mean("deflow", k) for k in (1, 4, 8)], [mean("fidec-exact", k) for k in (1, 2, 4, 8)]
    assert f"L2 {l2[0]}, {l2[1]} and {l2[2]}% with" in PAGE
    assert f"exact score {exact[0]}, {exact[1]}, {exact[2]} and {exact[3]}% with" in PAGE
    assert f"and {mean('fidec-exact', '1-fresh')}% with one action and 8 fresh samples" in PAGE

"""DIFFERENCES.md: the files and tests that it names exist, and the differences that it states are those that were measured."""

import json
import re
from pathlib import Path

import pytest
import recipe


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

"""What every test runs under: shapes and types checked, double precision, no silent promotion, no window."""

import signal
import tomllib
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import matplotlib
import pytest
from jaxtyping import install_import_hook


install_import_hook("fdbook", "beartype.beartype")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and its children too
matplotlib.use("Agg")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
hypothesis.settings.register_profile("fdbook", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fdbook")

BUDGETS = Path(__file__).with_name("budgets.toml")


@pytest.fixture(scope="session")
def budget():
    """From the name of a quantity to its tolerance in budgets.toml."""
    budgets = tomllib.loads(BUDGETS.read_text(encoding="utf-8"))

    def tolerance(name: str) -> float:
        assert name in budgets, f"tests/budgets.toml has no entry [{name}]; it has {', '.join(sorted(budgets))}."
        return budgets[name]["tolerance"]

    return tolerance


@pytest.fixture
def unhooked():
    """Turns the checks of jaxtyping off, as they are for a reader: the package's own sentences have to do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

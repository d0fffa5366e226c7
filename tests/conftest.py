"""What every test runs under: shapes and types checked, double precision, no silent promotion, no window."""

import os
import signal
import tomllib
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import matplotlib
import numpy as np
import pytest
from jaxtyping import install_import_hook


# Workers of pytest-xdist share the cores out: all of them on all cores, each with as many threads, take a tenth longer.
if hasattr(os, "sched_setaffinity") and "PYTEST_XDIST_WORKER" in os.environ:
    number, count = (int(os.environ[f"PYTEST_XDIST_WORKER{part}"].removeprefix("gw")) for part in ("", "_COUNT"))
    if own := sorted(os.sched_getaffinity(0))[number::count]:
        os.sched_setaffinity(0, own)
install_import_hook("fdbook", "beartype.beartype")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and its children too
matplotlib.use("Agg")
jax.config.update("jax_enable_x64", True)
# Most programs of the tests run once or twice: what they cost is their compilation. Processes that tests start are told the same;
# notebooks are not, and run as readers run them. Compiled in parts, side by side, a program takes more time in all.
# Of the flags only this series is known to know them, and others would abort.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
if jax.__version_info__[:2] == (0, 10):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
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
def own_log(tmp_path):
    """log.npz, data of one's own: four episodes of ten steps, without an environment."""
    rng, ends = np.random.default_rng(0), np.arange(40) % 10 == 9
    arrays = {"observations": rng.normal(size=(40, 2)), "actions": rng.uniform(-1, 1, (40, 1)), "rewards": np.ones(40)}
    path = tmp_path / "log.npz"
    np.savez(path, **{name: each.astype(np.float32) for name, each in arrays.items()}, terminals=ends)
    return path


@pytest.fixture
def unhooked():
    """Turns the checks of jaxtyping off, as they are for a reader: the package's own sentences have to do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def optimized():
    """For trainings so long that their programs are worth the time of compiling them well."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """What the tests of a file have compiled is forgotten after them: the programs of all files would fill the memory."""
    yield
    jax.clear_caches()

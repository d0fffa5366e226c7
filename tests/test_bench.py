"""`fdbook bench`: what is counted is right, and what is measured is printed and kept. No speed is tested here."""

import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook import bench, cli
from fdbook.bench import agents as timed_agents
from fdbook.bench import flow as timed_flow
from fdbook.bench import seeds as timed_seeds
from fdbook.bench import timing
from fdbook.rl import agents, operations, precision
from fdbook.rl.transitions import Batch


@pytest.fixture
def toys(monkeypatch):
    """Two measurements that take no time."""
    rows = {"one": [bench.Row("first", 1.23456789, "s", "at most 2")], "two": [bench.Row("second", 7, "")]}
    monkeypatch.setattr(bench, "BENCHMARKS", {name: lambda name=name: rows[name] for name in rows})
    return rows


@pytest.fixture
def small(monkeypatch):
    """A training that takes no time."""
    for name, value in {"WIDTH": 48, "DEPTH": 2, "BATCH": 64, "UPDATES": 3}.items():
        monkeypatch.setattr(timed_flow, name, value)
    monkeypatch.setattr(timed_agents, "UPDATES", 3)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(timing, "PRODUCTS", ((32, 16, 8), (64, 16, 8)))


@pytest.mark.slow
def test_a_batch_is_drawn_from_all_transitions(small, monkeypatch):
    monkeypatch.setattr(timed_agents, "ROWS", 2002)
    with jax.enable_x64(False):
        draw, update, ratio = timed_agents.measure_data()
    assert "drawing 256 of 2,000 transitions" in draw.what
    assert ratio.value == pytest.approx(draw.value / update.value)


def products(jaxpr):
    """Floating-point operations of all matrix products in a jaxpr, those of inner ones included."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * np.prod(equation.outvars[0].aval.shape) * np.prod([shape[axis] for axis in contracted])
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            total += products(inner) if hasattr(inner, "eqns") else 0.0
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fql", "fidec", "deflow on next states"])
def test_the_products_of_an_update_are_counted(name, monkeypatch, budget):
    """By hand, and by JAX, which sees every product once the flow's steps are written out."""

    def unrolled(field, features, noises, steps, *, stage=None):
        assert stage is None or stage == steps - 1
        x, move = noises, jax.vmap(field, in_axes=(None, 0, 0))
        for k in range(steps):
            last, v = x, move(jnp.float32(k / steps), features, x)
            x = x + v / steps
        return agents.base.FlowSamples(jnp.clip(x, -1, 1), last, v, (steps - 1) / steps)

    monkeypatch.setattr(agents.base, "integrate_flow", unrolled)
    options = {"actor_states": "next"} if name.endswith("next states") else {}
    agent = agents.make(name.split()[0])((28,), 5, key=jr.key(0), width=64, depth=3, **options)
    rows = [jnp.ones((256, width), jnp.float32) for width in (28, 5, 28)]
    batch = Batch(*rows, jnp.ones(256, jnp.float32), jnp.ones(256, jnp.float32), rows[1])
    arrays, rest = eqx.partition(agent, eqx.is_array)

    def update(arrays, key):
        after, _ = eqx.combine(arrays, rest).update(batch, key=key)
        return eqx.filter(after, eqx.is_array)

    from jax.interpreters import partial_eval

    closed = jax.make_jaxpr(update)(arrays, jr.key(1))
    used, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    assert operations.update_products(name, 28, 5, 64, 3) == pytest.approx(
        products(used), rel=budget("counted_products")
    )


@pytest.mark.slow
def test_agents_are_timed(small, monkeypatch):
    for name, value in {"PAPER": (8, 1), "AGENT_UPDATES": 2, "METRICS": ("deblurred",)}.items():
        monkeypatch.setattr(timed_agents, name, value)
    counted = iter([2e9, 5e9])  # operations with exact scores, and with matrices
    monkeypatch.setattr(timing, "update_flops", lambda update, state, data: next(counted))
    with jax.enable_x64(False):
        rows = timed_agents.measure_agents()
    assert all(row.value > 0 for row in rows if row.unit != "GFLOP")
    assert [row.bound for row in rows if row.bound] == ["at least 0.7"] * 3 + ["at most 1.22", "at most 0.75"]
    assert len({row.what for row in rows}) == len(rows)
    assert rows[-2].value == pytest.approx(rows[3].value / rows[1].value)
    assert rows[-1].value == pytest.approx(rows[5].value / rows[1].value)
    costs = {row.what.partition(": ")[0]: row.value for row in rows if row.unit == "GFLOP"}
    assert costs.pop("deblurred") == 3.0
    sizes = (timing.OBSERVATION_DIM, timing.ACTION_DIM, 8, 1)
    names = ("fql", "fidec", "deflow on next states")
    assert list(costs.values()) == [operations.update_products(name, *sizes) / 1e9 for name in names]


def test_pictures_are_held_once(monkeypatch):
    """At a size that a test can afford, 25 MB; the memory of so few is not told from the rest."""
    monkeypatch.setattr(timed_agents, "PICTURES", 2002)
    monkeypatch.setattr(timing, "ROUNDS", 1)
    held, ratio, drawn = timed_agents.measure_pictures()
    assert held.value == 2002 * 64 * 64 * 3 / 1e9
    assert (ratio.bound, held.unit, drawn.unit) == ("at most 1.1", "GB", "ms")
    assert ratio.value >= 0
    assert drawn.value > 0
    assert "pictures" in bench.BENCHMARKS


def test_what_takes_much_memory_is_measured_only_by_name(toys, monkeypatch, capsys):
    monkeypatch.setattr(bench, "LARGE", ("two",))
    assert list(bench.run()) == ["one"]
    assert list(bench.run(["two"])) == ["two"]


@pytest.mark.slow
def test_seeds_are_timed_in_every_precision(small, monkeypatch):
    for name, values in {"SIZES": ((8, 1),), "COUNTS": (1, 2), "UPDATES": 2, "PRODUCT": 16}.items():
        monkeypatch.setitem(getattr(timed_seeds, name), "cpu", values)
    monkeypatch.setattr(precision, "PRECISIONS", {name: precision.PRECISIONS[name] for name in ("float32", "bfloat16")})
    with jax.enable_x64(False):
        rows = {row.what: row for row in timed_seeds.measure_seeds()}
    one, two = (f"fidec, {count}, 8x1, bfloat16" for count in ("1 seed", "2 seeds"))
    assert all(row.value > 0 for row in rows.values())
    assert len(rows) == 2 + 2 * 2 * (2 * 4 + 1)
    assert rows[f"{two}: memory"].value > rows[f"{one}: memory"].value  # the data are there once
    counted = 2 * operations.update_products("fidec", timing.OBSERVATION_DIM, timing.ACTION_DIM, 8, 1)
    rate = rows["matrix products in bfloat16"].value * 1e9
    took = rows[f"{two}: an update of all"].value / 1e3
    assert rows[f"{two}: share of that rate"].value * took * rate == pytest.approx(counted, rel=0.01)
    ratio = rows["fidec over fql, 2 seeds, 8x1, bfloat16"]
    by_hand = rows[f"{two}: an update of all"].value / rows["fql, 2 seeds, 8x1, bfloat16: an update of all"].value
    assert ratio.value == pytest.approx(by_hand)


@pytest.mark.slow
def test_the_loop_is_timed(small, monkeypatch):
    for name, value in {"SMALL": (4, 1), "LOOP_UPDATES": 2}.items():
        monkeypatch.setattr(timed_agents, name, value)
    seconds = {
        "fql": 2.0,
        "scanned": 3.0,
        "dispatched": 9.0,
        "light scanned": 1.0,
        "light dispatched": 5.0,
        "four": 6.0,
    }
    timed = []
    monkeypatch.setattr(timing, "best", lambda works, rounds: timed.append(set(works)) or seconds)
    rows = {(row.what, row.bound): row.value for row in timed_agents.measure_loop()}
    assert timed == [set(seconds)]
    ratios = {bound: value for (what, bound), value in rows.items() if bound}
    assert ratios == {"at least 2": 3.0, "at most 4.2": 2.0, "at most 1.3": 1.5}


@pytest.mark.slow
def test_every_method_is_timed_once(small, monkeypatch):
    for name, value in {"LAPTOP": (4, 1), "AGENT_UPDATES": 1, "METHODS": ("l2", "exact")}.items():
        monkeypatch.setattr(timed_agents, name, value)
    monkeypatch.setattr(agents, "AGENTS", {name: agents.AGENTS[name] for name in ("bc", "fidec")})
    monkeypatch.setattr(timing, "best", lambda works, rounds: {key: len(work()) for key, work in works.items()})
    with jax.enable_x64(False):
        rows = timed_agents.measure_methods()
    assert [row.what.split(":")[0] for row in rows] == ["bc", "fidec l2", "fidec exact"] * 2
    assert all(row.value > 0 for row in rows)


def test_what_is_measured_is_printed_and_kept(toys, tmp_path, capsys):
    bench.run(json=tmp_path / "bench.json")
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["one", "first", "1.235", "s", "(at", "most", "2)"]
    assert second.split() == ["two", "second", "7"]
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["one"] == [{"what": "first", "value": 1.23457, "unit": "s", "bound": "at most 2"}]
    assert kept["about"]["cores"] == os.cpu_count()
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_what_was_measured_before_it_failed_is_kept(toys, tmp_path, monkeypatch):
    """A long measurement yields its rows; what ends it, as a kill would, leaves those before."""

    def fails():
        yield bench.Row("third", 3.0, "s")
        raise RuntimeError("out of memory")

    monkeypatch.setitem(bench.BENCHMARKS, "two", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        bench.run(["one", "two"], json=tmp_path / "bench.json")
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert [row["what"] for row in kept["one"] + kept["two"]] == ["first", "third"]


@pytest.mark.parametrize(
    ("bound", "missed"),
    [("", False), ("at most 2", True), ("at most 2.5", False), ("at least 2.5", False), ("at least 3", True)],
)
def test_a_missed_bound_is_told(toys, monkeypatch, capsys, bound, missed):
    monkeypatch.setitem(bench.BENCHMARKS, "one", lambda: [bench.Row("first", 2.5, "s", bound)])
    bench.run(["one"])
    assert capsys.readouterr().out.rstrip().endswith(": missed)") == missed


def test_only_what_was_asked_for_is_measured(toys):
    assert bench.run(["two"]) == {"two": toys["two"]}


def test_an_unknown_measurement_is_refused(toys):
    with pytest.raises(ValueError, match=r"no measurement called 'twoo'\. Did you mean 'two'"):
        bench.run(["one", "twoo"])


def test_an_unwritable_file_is_refused_before_anything_is_measured(toys, tmp_path, monkeypatch):
    monkeypatch.setitem(bench.BENCHMARKS, "one", lambda: pytest.fail("it was measured"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Nothing can be written to .*file"):
        bench.run(json=tmp_path / "file" / "bench.json")


def test_a_folder_in_place_of_a_file_is_refused_before_anything_is_measured(toys, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bench.BENCHMARKS, "one", lambda: pytest.fail("it was measured"))
    with pytest.raises(IsADirectoryError, match=r"^A file is wanted for what is measured; .* is a folder\.$"):
        bench.run(json=tmp_path)
    assert cli.main(["bench", "one", "--json", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"fdbook: --json takes a file; {tmp_path} is a folder\n"


def test_import_compares_medians(monkeypatch):
    times = iter([9.0, 9.0, 1.0, 1.2, 5.0, 5.1, 2.0, 2.6])  # the first two warm up
    monkeypatch.setattr(timing, "ROUNDS", 3)
    monkeypatch.setattr(timed_flow, "_import_time", lambda modules: next(times))
    values = [row.value for row in timed_flow.measure_import()]
    assert values == pytest.approx([2.0, 2.6, 0.6])


def test_import_measures_every_module_of_the_mathematics(monkeypatch):
    asked = []
    monkeypatch.setattr(timed_flow, "_import_time", lambda modules: asked.append(modules) or 1.0)
    timed_flow.measure_import()
    assert {"fdbook", "fdbook.geometry.flow", "fdbook.geometry.densities"} <= set(asked[1].split(", "))
    assert "fdbook" not in asked[0]


def test_an_import_takes_time():
    assert 0 < timed_flow._import_time("json") < 60


def test_flops_are_those_of_the_matrix_products(small, budget):
    inputs = timing.OBSERVATION_DIM + timing.ACTION_DIM + 1
    layers = [(inputs, 48), (48, 48), (48, timing.ACTION_DIM)]
    forward = sum(2 * 64 * rows * columns for rows, columns in layers)
    by_hand = 3 * forward - 2 * 64 * inputs * 48  # twice as much backward, but no gradient of the inputs
    counted = timing.update_flops(*timed_flow._training())
    assert 1 <= counted / by_hand < 1 + budget("update_flops")


def test_products_do_the_work_that_is_counted(small):
    each = 32 * 8 * (2 * 16)
    work, flops = timing.products((32, 16, 8), 4.9 * each)
    done = work()
    assert all(np.array_equal(product, np.full((32, 8), 16.0)) for product in done)
    assert (len(done), flops) == (5, 5 * each)


def test_flow_reports_a_ratio_of_rates(small):
    *products, trained, update, ratio, cores = timed_flow.measure_flow()
    assert ratio.value == pytest.approx(trained.value / max(row.value for row in products))
    assert cores.value > 0
    flops = timing.update_flops(*timed_flow._training())
    assert flops / (update.value * 1e-3) / 1e9 == pytest.approx(trained.value)


def test_compilations_are_counted():
    double = jax.jit(lambda x: 2 * x)
    with timing.compilations() as first:
        double(jnp.ones(3))
    with timing.compilations() as second:
        double(jnp.ones(3))
    with timing.compilations() as third:
        double(jnp.ones(4))
    assert len(first) >= 1
    assert len(second) == 0
    assert len(third) >= 1


def test_training_compiles_in_its_first_chunk_only(small):
    first, later = timed_flow.measure_compile()
    assert first.value >= 1
    assert later.value == 0

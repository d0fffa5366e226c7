"""What a run will take: operations against those counted by hand, bytes against arrays that are made, and the command."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbook import cli
from fdbook.experiment import RunSpec, estimate
from fdbook.rl import agents, operations, train
from fdbook.rl.transitions import Transitions


CUBE, VISUAL = "cube-single-play-singletask-task2", "visual-cube-single-play-singletask-task1"
SWEEP = """
[base]
task = "cube-single"
updates = 100
episodes = 1
seeds = 2
config = { width = 16, depth = 1, batch_size = 32 }

[[methods]]
agent = "bc"

[[methods]]
agent = "fql"
"""


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize(
    ("name", "agent", "settings"),
    [("fql", "fql", {}), ("fidec", "fidec", {}), ("deflow on next states", "deflow", {"actor_states": "next"})],
)
def test_operations_are_those_counted_by_hand(name, agent, settings):
    """Three seeds, 5 updates; by hand the products of a network are counted, and not the small ones of a metric."""
    spec = RunSpec(CUBE, agent, seeds=3, updates=5, preset="paper", config={"width": 64, "depth": 3} | settings)
    by_hand = 15 * operations.update_products(name, 28, 5, 64, 3)
    assert estimate.estimate(spec).operations == pytest.approx(by_hand, rel=0.002)


def test_products_and_convolutions_are_counted_as_they_are_defined():
    kernel, picture, left = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 3, 2, 7), (4, 8, 8, 2), (5, 6)))

    def convolve(picture, kernel):
        return jax.lax.conv_general_dilated(picture, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert operations.count_products(convolve, picture, kernel, loops=1) == 2 * (4 * 8 * 8 * 7) * (3 * 3 * 2)
    assert operations.count_products(lambda a: a @ a.T, left, loops=1) == 2 * 5 * 5 * 6

    def scanned(a):
        return jax.lax.scan(lambda carry, _: (carry @ a.T @ a, None), a, length=4)[0]

    assert operations.count_products(scanned, left, loops=1) == 4 * (2 * 5 * 5 * 6) * 2

    def looped(a):
        return jax.lax.while_loop(lambda carry: jnp.sum(carry @ a.T) > 0, lambda carry: carry @ a.T @ a, a)

    assert operations.count_products(looped, left, loops=9) == 9 * (2 * 5 * 5 * 6) * 2
    assert operations.count_products(lambda a: (a @ a.T, 1.0)[1], left, loops=1) == 0


@pytest.mark.parametrize("agent", ["bc", "fidec", "iql"])
def test_bytes_of_agents_are_those_of_agents(agent):
    spec = RunSpec(CUBE, agent, seeds=2, config={"width": 32, "depth": 2})
    config = {field.name: getattr(spec.config, field.name) for field in dataclasses.fields(spec.config)}
    made = train.init(agents.make(agent), (28,), 5, spec.seeds, **config)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(made, eqx.is_array)))
    assert estimate.estimate(spec).agents == pytest.approx(held, rel=1e-3)


def test_bytes_of_data_are_those_of_transitions():
    """Three episodes of the cube, as OGBench keeps them, and pictures with three in a stack."""
    spec = RunSpec(CUBE, "bc", data={"episodes": 3})
    rows, ends = 3 * 1001, np.arange(3 * 1001) % 1001 == 1000
    actions, zeros = np.zeros((rows, 5), np.float32), np.zeros(rows, np.float32)
    data = Transitions.of(np.zeros((rows, 28), np.float32), actions, zeros, zeros, ends)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(data, eqx.is_array)))
    assert estimate.estimate(spec).data == pytest.approx(held, rel=1e-3)
    visual = RunSpec(VISUAL, "bc", data={"episodes": 1})
    rows, ends = visual.task.dataset.steps, np.arange(visual.task.dataset.steps) == visual.task.dataset.steps - 1
    pictures = np.zeros((rows, *visual.task.dataset.observation), np.uint8)
    data = Transitions.of(
        pictures, actions[:rows], zeros[:rows], zeros[:rows], ends, frame_stack=visual.task.frame_stack
    )
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(data, eqx.is_array)))
    assert estimate.estimate(visual).data == pytest.approx(held, rel=1e-3)
    assert estimate.estimate(RunSpec("D4RL/pen/human-v2", "bc")).data is None


def test_an_online_phase_counts_as_updates_and_needs_a_buffer():
    spec = RunSpec(CUBE, "bc", updates=100, config={"width": 16, "depth": 1})
    online = spec.replace(online=50, seeds=2)
    here, there = estimate.estimate(spec), estimate.estimate(online)
    assert there.operations == pytest.approx(3 * here.operations)
    assert there.data - here.data == 2 * 50 * (2 * 28 * 4 + 5 * 4 + 4 + 4 + 1)


def test_a_rate_is_measured_once_for_each_size(monkeypatch):
    """What is timed is the cheapest of a size; here by a clock of ours."""
    asked = []
    monkeypatch.setattr(estimate, "_seconds_of_an_update", lambda spec: asked.append(spec.method) or 2.0)
    specs = [RunSpec(CUBE, agent, config={"width": width, "depth": 1}) for width in (16, 32) for agent in ("fql", "bc")]
    rates = estimate.measured_rates(specs)
    assert asked == ["bc", "bc"]
    cost = estimate.estimate(specs[1]).operations / specs[1].updates
    assert rates[0] == rates[1] == pytest.approx(cost / 2)
    assert rates[2] == rates[3] > rates[0]


def test_the_command_prints_a_line_for_each_cell(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "PATIENCE", 0.05)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    words = ["sweep", str(tmp_path / "sweep.toml"), "--estimate"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["bc", "fql"]
    assert "measured here" in lines[3]
    assert cli.main([*words, "--rate", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    petaflops = float(lines[2].split()[2])
    assert float(lines[2].split()[1]) == pytest.approx(petaflops * 1e15 / 2e12 / 3600, rel=0.02)
    assert "at 2 * 10^12 operations a second, as was said" in lines[3]
    assert list(tmp_path.iterdir()) == [tmp_path / "sweep.toml"]
    for rate in ("0", "-3", "inf", "nan"):
        assert cli.main([*words, "--rate", rate]) == 2
        assert capsys.readouterr().err == f"fdbook: --rate takes a finite number above 0; got {rate}\n"
    assert cli.main([*words[:-1], "--rate", "2"]) == 2
    assert capsys.readouterr().err == "fdbook: --rate belongs to --estimate, which was not given\n"

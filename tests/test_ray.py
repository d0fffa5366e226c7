"""Sweeps on a Ray cluster: two nodes, one of which is killed half-way. Where Ray is not installed, it is asked for."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fdbook import cli, experiment
from fdbook.experiment import read_sweep
from fdbook.experiment.engines import LOG
from fdbook.experiment.sweeping import states


RAY = importlib.util.find_spec("ray") is not None
SWEEP = """
[base]
agent = "bc"
task.data = "log.npz"
updates = 40_000
evaluations = []
config = {width = 4, depth = 1, batch_size = 4}
[axes]
seeds = [[0], [1], [2], [3]]
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Four behavior clonings of data of one's own, and the current folder is theirs."""
    rng, ends = np.random.default_rng(0), np.arange(40) % 10 == 9
    arrays = {"observations": rng.normal(size=(40, 2)), "actions": rng.uniform(-1, 1, (40, 1)), "rewards": np.ones(40)}
    np.savez(tmp_path / "log.npz", **{name: each.astype(np.float32) for name, each in arrays.items()}, terminals=ends)
    (tmp_path / "s.toml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return "s.toml"


@pytest.mark.skipif(RAY, reason="Ray is here")
def test_ray_is_asked_for_in_one_sentence_where_it_is_not(sweep, capsys):
    assert cli.main(["sweep", sweep, "--engine", "ray"]) == 1
    assert capsys.readouterr().err == "fdbook: Sweeps on a cluster need Ray: pip install 'fdbook[ray]'.\n"


@pytest.fixture
def cluster():
    """A head without cores, and two nodes of two. That a node is dead is noticed in two seconds."""
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": soon})
    made.nodes = [made.add_node(num_cpus=2) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    made.shutdown()


def done(folder):
    """Updates that a cell's record tells so far."""
    try:
        return json.loads((folder / "record.json").read_text())["progress"]["done"]
    except FileNotFoundError:
        return 0


@pytest.mark.skipif(not RAY, reason="Ray is not here")
@pytest.mark.filterwarnings("ignore")
def test_of_two_nodes_one_is_killed_and_no_cell_is_lost_nor_finishes_twice(sweep, cluster):
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    typed = [sys.executable, "-m", "fdbook", "sweep", sweep, "--engine", "ray", "--no-progress"]
    with Path("told.txt").open("w", encoding="utf-8") as told:
        process = subprocess.Popen(typed, env=environment, stdout=told, stderr=subprocess.STDOUT)
    cells, since = read_sweep(sweep).cells, time.monotonic()
    try:
        while sum(0 < done(cell.folder) < 40_000 for cell in cells) < 2 and time.monotonic() - since < 120:
            time.sleep(0.1)
        begun = [done(cell.folder) for cell in cells]
        assert sum(0 < each < 40_000 for each in begun) == 2
        assert sum(cell.folder.exists() for cell in cells) == 2  # each node has cores for one
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        assert process.wait(timeout=240) == 0
    finally:
        process.kill()
    assert [each.status for each in states(read_sweep(sweep))] == ["finished"] * 4
    lines = Path("told.txt").read_text(encoding="utf-8").splitlines()
    logs = [(cell.folder / LOG).read_text() for cell in cells]
    assert [log.count("Finished after 40000 updates.") for log in logs] == [1] * 4
    assert sum(": started" in line for line in lines) == 5  # the one whose node was lost began twice
    for cell in cells:
        assert sum(": finished" in line and cell.label in line for line in lines) == 1
        assert experiment.open_run(cell.folder).record.done == 40_000

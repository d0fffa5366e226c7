"""Sweeps on a Ray cluster: what a stand-in for Ray can show, and two real nodes, one of which is killed half-way."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from filelock import FileLock

from fdbook import cli, experiment
from fdbook.experiment import ray_cluster, read_sweep
from fdbook.experiment.engines import CARRY_ON, LOG, Event, Job
from fdbook.experiment.run import LOCK
from fdbook.experiment.sweeping import states


RAY = importlib.util.find_spec("ray") is not None
SWEEP = """
[base]
agent = "bc"
task.data = "log.npz"
updates = 150_000
evaluations = []
config = {width = 4, depth = 1, batch_size = 4}
[axes]
seeds = [[0], [1], [2], [3]]
"""


@pytest.fixture
def sweep(own_log, tmp_path, monkeypatch):
    """Four behavior clonings of data of one's own, and the current folder is theirs."""
    (tmp_path / "s.toml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return "s.toml"


@pytest.mark.skipif(RAY, reason="Ray is here")
def test_ray_is_asked_for_in_one_sentence_where_it_is_not(sweep, capsys):
    assert cli.main(["sweep", sweep, "--engine", "ray"]) == 1
    assert capsys.readouterr().err == "fdbook: Sweeps on a cluster need Ray: pip install 'fdbook[ray]'.\n"


class Handle:
    """What Ray gives for a function or a class: `remote` calls it at once, and what it returns is its own reference."""

    def __init__(self, called):
        self.called, self.options = called, lambda **asked: self

    def remote(self, *given):
        made = self.called(*given)
        names = [name for name in dir(type(made)) if not name.startswith("_")] if isinstance(self.called, type) else []
        return types.SimpleNamespace(**{name: Handle(getattr(made, name)) for name in names}) if names else made


@pytest.fixture
def ray(monkeypatch):
    """A Ray of one thread, where everything is over as soon as it was asked for."""
    made = types.ModuleType("ray")
    strategies = types.SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    node = types.SimpleNamespace(get_node_id=lambda: "here")
    for name, value in {
        "init": lambda **options: None,
        "remote": Handle,
        "get": lambda reference: reference,
        "wait": lambda references, **options: (references, []),
        "kill": lambda actor: None,
        "cluster_resources": lambda: {"CPU": 4.0},
        "get_runtime_context": lambda: node,
    }.items():
        setattr(made, name, value)
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    return made


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_no_cluster_answers_is_told_at_once(ray, scheme, monkeypatch, tmp_path, capsys):
    sweep = tmp_path / "s.toml"
    sweep.write_text('[base]\ntask = "cube-single"\nagent = "bc"\n')
    with socket.socket() as closed:  # a port of its own, on which nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert cli.main(["sweep", str(sweep), "--engine", "ray"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"fdbook: No Ray cluster answers at RAY_ADDRESS={address}: ")
    assert said.count("\n") == 1


def test_what_two_nodes_say_of_one_cell_is_told_once(ray, monkeypatch, tmp_path):
    """The first finished it and died before it was heard, the second found it finished."""

    def work(index, job, mailbox):
        for kind in ("started", "finished", "started", "finished"):
            mailbox.put.remote(Event(index, kind))
        return f"reference {index}"

    monkeypatch.setattr(ray_cluster, "_work", work)
    jobs = [Job({}, tmp_path / name) for name in ("one", "two")]
    events = [event for event in ray_cluster.RayCluster().run(jobs, lambda: CARRY_ON) if event is not None]
    assert [(event.index, event.kind) for event in events] == [
        (0, "started"),
        (0, "finished"),
        (1, "started"),
        (1, "finished"),
    ]


def test_a_cell_waits_for_what_a_lost_node_left_behind(ray, monkeypatch, tmp_path):
    """Whose process holds the folder until it has saved."""
    held = FileLock(tmp_path / LOCK, thread_local=False)
    held.acquire()
    threading.Timer(1.0, held.release).start()
    told = []

    def run(self, jobs, asked):
        told.append((held.is_locked, asked()))
        yield Event(0, "finished")

    monkeypatch.setattr(ray_cluster.Processes, "run", run)
    mailbox = ray_cluster._Mailbox()
    asked = types.SimpleNamespace(put=Handle(mailbox.put), told=Handle(mailbox.told))
    ray_cluster._work(7, Job({}, tmp_path), asked)
    assert told == [(False, CARRY_ON)]
    assert mailbox.take() == [Event(7, "finished")]


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
        while sum(0 < done(cell.folder) < 150_000 for cell in cells) < 2 and time.monotonic() - since < 120:
            time.sleep(0.1)
        begun = [done(cell.folder) for cell in cells]
        assert sum(0 < each < 150_000 for each in begun) == 2
        assert sum(cell.folder.exists() for cell in cells) == 2  # each node has cores for one
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        assert process.wait(timeout=240) == 0
    finally:
        process.kill()
    assert [each.status for each in states(read_sweep(sweep))] == ["finished"] * 4
    lines = Path("told.txt").read_text(encoding="utf-8").splitlines()
    logs = [(cell.folder / LOG).read_text() for cell in cells]
    assert [log.count("Finished after 150000 updates.") for log in logs] == [1] * 4
    assert sum(": started" in line for line in lines) == 5  # the one whose node was lost began twice
    for cell in cells:
        assert sum(": finished" in line and cell.label in line for line in lines) == 1
        assert experiment.open_run(cell.folder).record.done == 150_000

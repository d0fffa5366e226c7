"""The training loop: seeds side by side, curves, stopping, resuming bit for bit, and everything that can break."""

import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.rl import agents, records, train
from fdbook.rl.checkpoints import Checkpoints, _digest
from fdbook.rl.transitions import Transitions


SIZES = {"width": 8, "depth": 1, "batch_size": 16, "flow_steps": 2}


def some_data(seed=0, rows=400, reward=1.0):
    rng = np.random.default_rng(seed)
    ends = np.arange(rows) % 50 == 49
    observations = rng.normal(size=(rows, 4)).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    rewards = (reward * rng.uniform(-1, 0, rows)).astype(np.float32)
    return Transitions.of(observations, actions, rewards, np.ones(rows, np.float32), ends)


def some_record(agent="bc", seeds=(0,), updates=600, evaluations=(), data=None, **config):
    spec = {"task": {"name": "toy"}, "agent": agent, "metric": None, "preset": "none", "overrides": []}
    spec |= {"seeds": list(seeds), "updates": updates, "evaluations": list(evaluations), "config": SIZES | config}
    return records.Record(spec, {"fingerprint": (some_data() if data is None else data).fingerprint()})


def run(record, data=None, **options):
    data = some_data() if data is None else data
    made = train.init(agents.make(record.agent), (4,), 2, record.seeds, **record.config)
    return train.train(made, data, record, **({"progress": False, "save_every": 200, "log_every": 100} | options))


def leaves(agent):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(agent, eqx.is_array))]


def saved(folder):
    with Checkpoints(folder / "checkpoints", read_only=True) as stores:
        return stores.steps


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


@pytest.mark.slow
def test_seeds_side_by_side_are_the_seeds_alone(budget):
    """Each seed has weights, batches and noise of its own, whatever runs beside it."""
    together = run(some_record("fql", seeds=(3, 5)))
    alone = run(some_record("fql", seeds=(5,)))
    for a, b in zip(leaves(together), leaves(alone), strict=True):
        np.testing.assert_allclose(
            a[1], b[0], rtol=budget("two_orders_of_summation"), atol=budget("two_orders_of_summation")
        )
        assert a.ndim == 1 or not np.array_equal(a[0], a[1])


@pytest.mark.slow
def test_a_step_of_the_loop_is_an_update_of_the_agent(budget):
    """The loop by hand. All rows are alike and the agent draws nothing, so that keys do not matter."""
    first = some_data().at(jnp.arange(1))[:5]
    observations, actions, following, rewards, masks = (np.repeat(np.asarray(row), 400, axis=0) for row in first)
    data = Transitions.of(observations, actions, rewards, masks, np.arange(400) % 50 == 49, following)
    record = some_record("iql", seeds=(7,), updates=3)
    got = run(record, data, log_every=1)
    agent = agents.make("iql")((4,), 2, key=jr.fold_in(jr.key(0), 7), **SIZES)
    update = eqx.filter_jit(lambda agent, batch: agent.update(batch, key=jr.key(0)))
    losses = []
    for _ in range(3):
        agent, info = update(agent, data.at(jnp.arange(16)))
        losses.append(float(info["critic"]))
    for a, b in zip(leaves(got), leaves(agent), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=budget("two_orders_of_summation"))
    assert [row[0] for row in record.progress.curves["critic"]] == pytest.approx(losses, rel=1e-4)
    assert record.progress.logged == [1, 2, 3]


def test_it_learns_and_logs_means(tmp_path):
    record = some_record(updates=1000, seeds=(0, 1))
    run(record, folder=tmp_path)
    assert record.progress.logged == list(range(100, 1001, 100))
    curve = np.array(record.progress.curves["flow"])
    assert curve.shape == (10, 2)
    assert np.all(curve[-1] < curve[0])
    assert record.status == "finished"
    assert record.done == 1000
    assert set(record.progress.wall) == {"training", "saving"}
    read = records.read(tmp_path)
    assert read == record
    assert dataclasses.asdict(read) == json.loads((tmp_path / "record.json").read_text())


def test_curves_do_not_depend_on_how_often_they_are_logged(budget):
    often, seldom = some_record(updates=400), some_record(updates=400)
    run(often, log_every=50)
    run(seldom, log_every=200)
    means = np.array(often.progress.curves["flow"]).reshape(2, 4, 1).mean(axis=1)
    np.testing.assert_allclose(seldom.progress.curves["flow"], means, rtol=budget("logged_digits"))


def events(folder):
    """What TensorBoard would read: (tag, step, value) of every record in the event files."""
    from tensorboardX.proto import event_pb2

    for path in sorted(folder.glob("events*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value


def test_tensorboard_can_read_the_log(tmp_path):
    record = some_record(updates=200, seeds=(0, 4), evaluations=(200,))
    run(record, folder=tmp_path, evaluate=lambda agents, stopped: {"score": [10.0, 20.0]})
    found = {(tag, step): value for tag, step, value in events(tmp_path / "tensorboard")}
    assert found["train/flow/seed_4", 100] == pytest.approx(record.progress.curves["flow"][0][1])
    assert found["evaluation/score/seed_4", 200] == 20.0


def test_evaluations_come_when_they_are_due_and_once():
    steps = []
    record = some_record(updates=700, evaluations=(130, 500, 700))

    def evaluate(agents, stopped):
        steps.append(record.done)
        return {"score": [float(record.done)]}

    run(record, evaluate=evaluate)
    assert steps == [130, 500, 700]
    assert [(each["step"], each["score"]) for each in record.scores] == [(s, [float(s)]) for s in steps]
    assert record.score() == pytest.approx([(130 + 500 + 700) / 3])
    assert record.score(last=1) == pytest.approx([700])


def in_precision(name, **options):
    record = some_record(**options)
    record.spec["matmul_precision"] = name
    return record


def test_a_training_computes_in_the_precision_that_its_record_says():
    ended = run(in_precision("bfloat16", updates=40))
    by_hand, key = train.init(agents.make("bc"), (4,), 2, (0,), **SIZES), jr.key(1)
    update = eqx.filter_jit(train.Update(jnp.arange(1), "bfloat16"))
    for number in range(40):
        by_hand, _ = update(by_hand, some_data(), key=jr.fold_in(key, number))
    for a, b in zip(leaves(ended.networks), leaves(by_hand.networks), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    whole = leaves(run(some_record(updates=40)).networks)
    assert max(np.abs(a - b).max() for a, b in zip(leaves(ended.networks), whole, strict=True)) > 1e-5


def test_a_run_is_not_carried_on_in_another_precision(tmp_path):
    run(some_record(), folder=tmp_path)
    with pytest.raises(ValueError, match="holds a run with matmul_precision None, not 'bfloat16'"):
        run(in_precision("bfloat16", updates=800), folder=tmp_path)


def test_agents_are_shown_as_they_are_after_so_many_updates_and_watching_changes_nothing():
    """Catches agents of another update than is said: those of 200 are what a run of 200 ends with."""
    shown = {}
    ended = run(some_record(), watch=lambda record, agents: shown.update({record.done: leaves(agents)}))
    assert list(shown) == sorted(shown)
    assert max(shown) == 600
    assert {250, 500} <= set(shown)
    assert equal(ended, run(some_record()))
    short = leaves(run(some_record(updates=200)))
    assert all(np.array_equal(one, other) for one, other in zip(shown[200], short, strict=True))
    assert not all(np.array_equal(one, other) for one, other in zip(shown[600], short, strict=True))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_saves_and_the_next_call_carries_on_bit_for_bit(tmp_path, name):
    whole = run(
        some_record("fql", updates=900, evaluations=(300, 900)), evaluate=lambda agents, stopped: {"score": [1.0]}
    )

    def stopping(agents, stopped):
        os.kill(os.getpid(), getattr(signal, name))
        while not stopped():
            time.sleep(0.01)
        return None

    record = some_record("fql", updates=900, evaluations=(300, 900))
    with pytest.raises(
        train.TrainingInterrupted, match=r"Stopped after 300 of 900 updates; the same command carries on\."
    ):
        run(record, folder=tmp_path, evaluate=stopping, save_every=500)
    assert records.read(tmp_path).status == "stopped"
    assert saved(tmp_path) == [300]
    again = some_record("fql", updates=900, evaluations=(300, 900))
    rest = run(again, folder=tmp_path, evaluate=lambda agents, stopped: {"score": [1.0]}, save_every=500)
    assert equal(whole, rest)
    assert [each["step"] for each in again.scores] == [300, 900]
    assert again.status == "finished"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _mean_weight(agents, stopped):
    """An evaluation that depends on the weights alone, and takes longer than the updates up to the next one."""
    time.sleep(0.3)
    first = jax.tree.leaves(eqx.filter(agents.networks, eqx.is_array))[0]
    return None if stopped() else {"score": np.asarray(first, float).reshape(len(first), -1).mean(axis=1).tolist()}


@pytest.mark.slow
def test_slow_updates_are_dispatched_one_by_one_and_saved_by_the_clock(tmp_path, monkeypatch):
    """What a network with pictures needs: Ctrl-C is obeyed, and a kill loses little, long before update 250."""
    usual = run(some_record("fql", updates=60))
    seen, kept = [], []

    def watch(record, agents):
        seen.append(record.done)
        kept.append(saved(tmp_path))

    monkeypatch.setattr(train, "DISPATCH_SECONDS", 1e-12)
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    slow = run(some_record("fql", updates=60), folder=tmp_path, watch=watch)
    assert equal(slow, usual)
    assert seen == list(range(1, 61))
    assert kept[-1] == [59, 58]


def test_an_evaluation_in_the_background_changes_nothing(tmp_path):
    waited, went_on = (some_record(updates=600, evaluations=(0, 200, 250, 600)) for _ in range(2))
    a = run(waited, evaluate=_mean_weight, folder=tmp_path / "waited", background=False)
    b = run(went_on, evaluate=_mean_weight, folder=tmp_path / "went on", background=True)
    assert equal(a, b)
    assert went_on.scores == waited.scores
    assert [each["step"] for each in went_on.scores] == [0, 200, 250, 600]
    assert len({each["score"][0] for each in went_on.scores}) == 4
    assert records.read(tmp_path / "went on").scores == waited.scores


def test_training_goes_on_while_it_is_evaluated():
    """The evaluation after update 100 ends only when update 300 has been made."""
    record, seen = some_record(updates=400, evaluations=(100,)), []

    def until_the_loop_is_ahead(agents, stopped):
        end = time.monotonic() + 30
        while record.done < 300 and time.monotonic() < end:
            time.sleep(0.01)
        seen.append(record.done)
        return {"score": [0.0]}

    run(record, evaluate=until_the_loop_is_ahead, background=True, save_every=1000)
    assert seen[0] >= 300
    assert [each["step"] for each in record.scores] == [100]


def test_an_evaluation_that_a_stop_cuts_short_is_made_again(tmp_path):
    """Stopped while update 200 is evaluated and training is ahead: the run carries on at 200, and has the same numbers."""
    whole = some_record(updates=600, evaluations=(200, 600))
    wanted = run(whole, evaluate=_mean_weight)
    record = some_record(updates=600, evaluations=(200, 600))

    def stop_when_ahead(agents, stopped):
        while record.done < 300:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        while not stopped():
            time.sleep(0.01)

    with pytest.raises(train.TrainingInterrupted):
        run(record, evaluate=stop_when_ahead, folder=tmp_path, background=True, save_every=1000)
    assert saved(tmp_path)[0] == 200
    again = some_record(updates=600, evaluations=(200, 600))
    got = run(again, evaluate=_mean_weight, folder=tmp_path, background=True, save_every=1000)
    assert equal(got, wanted)
    assert again.scores == whole.scores


def test_a_finished_run_is_not_run_again(tmp_path):
    first = run(some_record(updates=300), folder=tmp_path)
    before = (tmp_path / "record.json").read_bytes()
    record = some_record(updates=300)
    assert equal(first, run(record, folder=tmp_path))
    assert record.progress.logged == [100, 200, 300]
    assert record.status == "finished"
    assert (tmp_path / "record.json").read_bytes() == before


@pytest.mark.parametrize("lost", [True, False])
def test_a_finished_run_whose_record_was_lost_gets_it_again(tmp_path, lost):
    """Or one whose record was not written anew at its end, as when the process is killed there."""
    run(some_record(updates=300), folder=tmp_path)
    path = tmp_path / "record.json"
    first = json.loads(path.read_text())
    path.unlink()
    if not lost:
        path.write_text(json.dumps(first | {"status": "running"}))
    run(some_record(updates=300), folder=tmp_path)
    again = json.loads(path.read_text())
    for tree in (first, again):
        tree["progress"].pop("wall")
    assert again == first
    assert again["status"] == "finished"


def test_a_longer_run_carries_a_shorter_one_on_bit_for_bit(tmp_path):
    def judge(agents, stopped):
        return {"score": [1.0]}

    whole = run(some_record("fql", updates=700, evaluations=(200, 700)), evaluate=judge)
    run(some_record("fql", updates=300, evaluations=(200, 300)), folder=tmp_path, evaluate=judge)
    record = some_record("fql", updates=700, evaluations=(100, 200, 700))
    assert equal(whole, run(record, folder=tmp_path, evaluate=judge))
    assert [each["step"] for each in record.scores] == [200, 300, 700]
    assert (record.evaluations, record.progress.logged) == ([200, 300, 700], list(range(100, 701, 100)))
    with pytest.raises(ValueError, match=r"holds a run with updates 700, not 300: choose another folder"):
        run(some_record("fql", updates=300, evaluations=(200, 300)), folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": (1,)}, r"holds a run with seeds \[0\], not \[1\]: choose another folder\."),
        ({"agent": "fql"}, r"holds a run with agent 'bc', not 'fql': choose another folder\."),
        ({"width": 16}, r"holds a run with config\.width 8, not 16: choose another folder\."),
        ({"tau": 0.1}, r"holds a run with config\.tau None, not 0\.1: choose another folder\."),
    ],
)
def test_another_runs_folder_is_refused(tmp_path, change, sentence):
    run(some_record(updates=100), folder=tmp_path)
    for steps in (100, 200):  # a longer run must be of the same kind too
        with pytest.raises(ValueError, match=sentence):
            run(some_record(**({"updates": steps} | change)), folder=tmp_path)


def test_data_that_have_changed_are_refused(tmp_path):
    run(some_record(updates=100), folder=tmp_path)
    other = some_data(seed=1)
    with pytest.raises(ValueError, match=r"holds a run with data with the fingerprint '\w{16}', not '\w{16}'"):
        run(some_record(updates=100, data=other), other, folder=tmp_path)


def test_a_fingerprint_sees_every_array():
    data = some_data()
    found = {data.fingerprint()}
    for name in ("observations", "actions", "rewards", "masks"):
        array = getattr(data, name)
        changed = dataclasses.replace(data, **{name: array.at[(3,) + (0,) * (array.ndim - 1)].add(0.5)})
        found.add(changed.fingerprint())
    assert len(found) == 5
    assert some_data().fingerprint() in found
    assert data.normalized().fingerprint() == data.fingerprint()


def test_a_nan_stops_the_run_with_the_step_the_term_and_the_last_good_checkpoint(tmp_path):
    """Rewards of 1e18 square to more than single precision holds, once the critic meets them with a row that has one."""
    data = some_data(reward=0.0)
    data = dataclasses.replace(data, rewards=data.rewards.at[17].set(1e25))
    record = some_record("fql", updates=600, data=data)
    with pytest.raises(
        FloatingPointError, match=r"The run broke at update (\d+): critic became NaN or infinite"
    ) as error:
        run(record, data, folder=tmp_path, save_every=1)
    step = int(str(error.value).split("update ")[1].split(":")[0])
    assert f"the checkpoint of step {step} is sound" in str(error.value)
    assert records.read(tmp_path).status == "broken"
    # Another run of just so many updates ends well, and one more breaks it.
    whole = run(some_record("fql", updates=step, data=data), data)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves(whole))
    with pytest.raises(FloatingPointError, match=f"broke at update {step}: "):
        run(some_record("fql", updates=step + 1, data=data), data)


def test_a_critic_that_explodes_stops_the_run():
    record = some_record("fql", updates=3000, learning_rate=100.0)
    with pytest.raises(
        FloatingPointError, match=r"broke at update \d+: q_largest grew beyond 1e\+03, which the data's"
    ):
        run(record)
    assert record.status == "broken"


@pytest.mark.parametrize("background", [False, True])
def test_an_evaluation_that_is_not_finite_breaks_the_run(tmp_path, background):
    """A record holds no NaN, which is no JSON; in the background, too, the run does not stay "running"."""

    def spoiled(agents, stopped):
        raise FloatingPointError("The environment gave a reward with NaN or infinite values.")

    record = some_record(updates=300, evaluations=(200, 300))
    with pytest.raises(FloatingPointError, match=r"NaN or infinite values; the checkpoint of step \d+ is sound\.$"):
        run(record, folder=tmp_path, evaluate=spoiled, background=background)
    read = records.read(tmp_path)
    assert (read.status, read.scores) == ("broken", [])
    assert read.note.startswith("The environment gave a reward with NaN")


def test_a_run_that_was_killed_says_from_where_it_is_carried_on(tmp_path):
    def watch(record, agents):
        if record.done >= 300:
            raise RuntimeError("as good as killed")

    said = []
    with pytest.raises(RuntimeError):
        run(some_record(), folder=tmp_path, watch=watch, say=said.append)
    assert said == [f"The run is kept in {tmp_path}."]
    run(some_record(), folder=tmp_path, say=said.append)
    again = "The run is carried on from update 200; what it had done after that, if anything, is done again."
    assert said[1:] == [again, f"The run is kept in {tmp_path}."]


def test_nothing_is_compiled_after_the_first_chunk():
    from fdbook.bench.timing import compilations

    run(some_record(updates=600))
    with compilations() as found:
        run(some_record(updates=830))
    assert found == []


def test_only_the_newest_checkpoints_are_kept_and_a_damaged_one_is_refused(tmp_path):
    whole = run(some_record(updates=1000))
    run(some_record(updates=1000), folder=tmp_path)
    assert saved(tmp_path) == [1000, 800]
    for path in (tmp_path / "checkpoints" / "1000" / "arrays").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said, record = [], some_record(updates=1000)
    again = run(record, folder=tmp_path, say=said.append)
    assert equal(whole, again)
    assert said[1:] == [f"The run is kept in {tmp_path}."]
    assert "The checkpoint of step 1000" in said[0]
    again = "The run is carried on from update 800; what it had done after that, if anything, is done again."
    assert said[0].endswith(f" {again}")
    said.clear()
    run(some_record(updates=1000), folder=tmp_path, say=said.append)
    assert said == [f"The run is kept in {tmp_path}."]  # it is finished: nothing is carried on
    assert saved(tmp_path) == [1000, 800]


def test_a_checkpoint_of_another_version_is_refused_in_a_sentence(tmp_path):
    """Whole and sealed, but its parts have other names."""
    orbax = pytest.importorskip("orbax.checkpoint")
    state = {"weight": np.ones(3, np.float32)}
    with Checkpoints(tmp_path) as stores:
        parts = orbax.args.Composite(arrays=orbax.args.StandardSave(state), story=orbax.args.JsonSave({}))
        stores._manager.save(5, args=parts, force=True)
        stores._seal(5).write_text(_digest(tmp_path / "5"))
        with pytest.raises(ValueError, match=r"^The checkpoint of step 5 in .* was saved by another version of fdbook"):
            stores.restore(state)


def test_a_bit_that_flipped_in_a_checkpoint_is_seen(tmp_path):
    run(some_record(updates=400), folder=tmp_path)
    for step in (200, 400):
        for path in (tmp_path / "checkpoints" / str(step) / "arrays").rglob("d/*"):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 16
            path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"The checkpoint of step 400 .* is damaged\. The checkpoint of step 200 .* is damaged\."
    ):
        run(some_record(updates=400), folder=tmp_path)


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
import jax
jax.config.update("jax_enable_x64", True)
{first}
import test_train as t
from pathlib import Path
print("begun", flush=True)
agent = t.run(t.some_record({agent!r}, updates={updates}, seeds=(0, 1)), folder=Path({folder!r}), save_every=250)
"""


def driver(folder, updates, agent="bc", first=""):
    code = textwrap.dedent(DRIVER).format(
        tests=str(Path(__file__).parent), folder=str(folder), updates=updates, agent=agent, first=first
    )
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=os.environ | cache, **options)


def newest(folder):
    steps = [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, default=0)


@pytest.mark.slow
def test_kills_change_nothing(tmp_path):
    """kill -9 at 4 random moments, saving included: every start resumes, and the end is the uninterrupted one, bit for bit."""
    steps, rng = 250 * 20, np.random.default_rng(0)
    folder, kills, resumed = tmp_path / "run", 0, []
    while kills < 4:
        before, process = newest(folder), driver(folder, steps)
        end = time.monotonic() + 120
        while newest(folder) <= before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.15)))
        assert process.poll() is None, process.communicate()[1][-2000:]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        resumed.append(before)
    assert np.all(np.diff(resumed) > 0)
    process = driver(folder, steps)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors[-2000:]
    record = some_record("bc", updates=steps, seeds=(0, 1))
    interrupted = run(record, folder=folder)
    assert record.status == "running" or record.done == steps
    assert equal(interrupted, run(some_record("bc", updates=steps, seeds=(0, 1))))


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_harms_nothing(tmp_path):
    """Files beyond a few kilobytes cannot be written any more: what was saved stays, and the run is carried on later."""
    folder = tmp_path / "run"
    run(some_record("fql", updates=250, seeds=(0, 1)), folder=folder, save_every=250)
    record = json.loads((folder / "record.json").read_text())
    longer = record | {"spec": record["spec"] | {"updates": 1000}}
    (folder / "record.json").write_text(json.dumps(longer))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    process = driver(folder, 1000, "fql", first=limit)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "OSError" in errors
    assert "The checkpoint of step 500 could not be saved in" in errors  # threads of Orbax's write into the same lines
    assert "the checkpoint of step 250 is whole" in errors
    assert saved(folder) == [250]
    rest = run(some_record("fql", updates=1000, seeds=(0, 1)), folder=folder, save_every=250)
    assert equal(rest, run(some_record("fql", updates=1000, seeds=(0, 1))))

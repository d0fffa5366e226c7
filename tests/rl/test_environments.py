"""Environments in line and in worker processes: the same numbers, and no process that outlives what it is for."""

import functools
import os
import signal
import subprocess
import sys
import time

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbook.data.tasks import find_task
from fdbook.experiment import evaluation
from fdbook.rl import agents, train
from fdbook.rl.agents.base import values
from fdbook.rl.environments import AsyncEnvironments, SyncEnvironments
from fdbook.rl.evaluate import evaluate, film
from fdbook.rl.fourier_features import Normalizer


PENDULUM = functools.partial(gymnasium.make, "Pendulum-v1", max_episode_steps=7)


def stacked(seeds=2):
    sizes = {"width": 8, "depth": 1, "flow_steps": 2}
    return train.init(agents.make("bc"), (3,), 1, range(seeds), **sizes)


@pytest.fixture
def pool():
    made = AsyncEnvironments(PENDULUM, 5, 2)
    yield made
    made.close()


def test_the_same_numbers_in_line_and_by_workers(pool):
    here = SyncEnvironments([PENDULUM() for _ in range(5)])
    results = [evaluate(stacked(), place, [0, 3], episodes=5) for place in (here, pool)]
    assert results[0].lengths.tolist() == [[7] * 5] * 2
    assert len(np.unique(results[0].returns)) == 10
    np.testing.assert_array_equal(results[0].returns, results[1].returns)
    assert not results[1].tells_success


def test_a_return_is_the_sum_of_rewards():
    """One episode by hand: the policy's own actions, the rewards of an environment of our own."""
    from fdbook.rl.evaluate import FIRST_SEED, act

    policy, alone = stacked(1), PENDULUM()
    seen, total = alone.reset(seed=FIRST_SEED + 1)[0], 0.0
    for step in range(7):
        numbers = (np.full(shape, value, np.int32) for shape, value in (((1,), 4), ((1, 1), 1), ((1, 1), step)))
        seen, reward, *_ = alone.step(np.asarray(act(policy, None, jnp.asarray(seen)[None, None], *numbers))[0, 0])
        total += reward
    result = evaluate(policy, [PENDULUM()], [4], episodes=2)
    assert result.returns[0, 1] == pytest.approx(total, rel=1e-12)


class PassingBy:
    """At its goal after the second of three steps, and gone again at the end; rewards 10, 100 and 1000."""

    def reset(self, *, seed):
        self.time = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(3, np.float32), 10.0**self.time, False, self.time == 3, {"success": self.time == 2}


def test_success_as_gymnasium_robotics_calls_it():
    class Robot(PassingBy):
        def step(self, action):
            *rest, _ = super().step(action)
            return *rest, {"is_success": 1.0 if self.time == 3 else 0.0}

    result = evaluate(stacked(1), [Robot()], [0], episodes=1)
    assert result.tells_success
    assert result.successes.tolist() == [[True]]


def test_an_episode_succeeds_by_its_last_step_and_returns_every_reward():
    """As in the published evaluations, which read the last step's info."""
    result = evaluate(stacked(1), [PassingBy()], [0], episodes=2)
    assert result.tells_success
    assert result.successes.tolist() == [[False, False]]
    assert result.returns.tolist() == [[1110.0, 1110.0]]
    assert result.lengths.tolist() == [[3, 3]]


class Shown(PassingBy):
    """Three steps, and pictures of how many there have been."""

    def render(self):
        return np.full((2, 2, 3), self.time, np.uint8)

    def close(self):
        pass


@pytest.mark.parametrize(("every", "shown"), [(1, [0, 1, 2, 3]), (2, [0, 2, 3]), (3, [0, 3]), (5, [0, 3])])
def test_a_film_says_the_step_of_each_picture_the_last_one_too(every, shown):
    frames, steps, success = film(stacked(1), Shown(), 0, every=every)
    assert [int(frame[0, 0, 0]) for frame in frames] == steps == shown
    assert not success


def test_only_what_is_named_is_reset_and_stepped(pool):
    seen = pool.reset({3: 1, 0: 1, 4: 2})
    np.testing.assert_array_equal(seen[3], seen[0])
    assert not np.array_equal(seen[3], seen[4])
    steps = pool.step({4: np.zeros(1, np.float32)})
    assert list(steps) == [4]
    assert steps[4].success is None


def test_a_worker_that_dies_is_told(pool):
    pool.processes[1].send_signal(signal.SIGKILL)
    pool.processes[1].wait()
    with pytest.raises(OSError, match=r"^A process that steps environments has died"):
        pool.reset({0: 0, 1: 0})
    assert all(process.poll() is not None for process in pool.processes)


def test_a_worker_that_fails_says_why():
    with pytest.raises(OSError, match=r"^A process that steps environments failed \(NameNotFound: .*Pendulumm"):
        AsyncEnvironments(functools.partial(gymnasium.make, "Pendulumm-v1"), 2, 2)


class Faulty:
    """An environment that does at its second step, or at its reset, what no environment should."""

    def __init__(self, fault):
        self.fault = fault

    def reset(self, *, seed):
        self.time = 0
        if self.fault == "reset":
            raise RuntimeError("motor 3 is off")
        return np.full(3, np.inf if self.fault == "start" else 0.0, np.float32), {}

    def step(self, action):
        self.time += 1
        if self.time < 2 or self.fault == "reset":
            return np.zeros(3, np.float32), 0.0, False, False, {}
        if self.fault == "old":
            return np.zeros(3, np.float32), 0.0, False, {}
        if self.fault == "sentence":
            raise OSError("The arm is not calibrated.")
        if self.fault in ("step", "system"):
            raise RuntimeError("motor 3\nis off.") if self.fault == "step" else ConnectionRefusedError(111, "Refused")
        width, fill = 4 if self.fault == "shape" else 3, np.nan if self.fault == "observation" else 0.0
        return np.full(width, fill, np.float32), np.inf if self.fault == "reward" else 0.0, False, self.time == 3, {}

    def close(self):
        pass


FAULTS = {
    "reset": r"The environment Faulty failed when it was reset \(RuntimeError: motor 3 is off\)\.",
    "step": r"The environment Faulty failed when it was stepped \(RuntimeError: motor 3 is off\)\.",
    "old": r"The environment Faulty failed when it was stepped \(ValueError: not enough values to unpack .*\)\.",
    "system": r"The environment Faulty failed when it was stepped \(ConnectionRefusedError: .*Refused\)\.",
    "sentence": r"The arm is not calibrated\.",
    "shape": r"The environment Faulty gave an observation of shape \(4,\), where the first had \(3,\)\.",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_environment_that_fails_in_line_is_told_in_one_sentence(fault):
    with pytest.raises(OSError, match=f"^{FAULTS[fault]}$"):
        evaluate(stacked(1), [Faulty(fault)], [0], episodes=1)


def test_gymnasium_knows_what_failed():
    environment = PENDULUM()
    with pytest.raises(OSError, match=r"^The environment Pendulum-v1 failed when it was stepped \(ResetNeeded: "):
        SyncEnvironments([environment]).step({0: np.zeros(1, np.float32)})


def test_a_worker_says_what_a_process_alone_would_say():
    pool = AsyncEnvironments(PENDULUM, 1, 1)
    with pytest.raises(OSError, match=r"^The environment Pendulum-v1 failed when it was stepped \(ResetNeeded: "):
        pool.step({0: np.zeros(1, np.float32)})
    assert all(process.poll() is not None for process in pool.processes)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("start", "0 .* an observation"), ("observation", "2 .* an observation"), ("reward", "2 .* a reward")],
)
def test_values_that_are_not_finite_end_an_evaluation(fault, words):
    step, gave = words.split(" .* ")
    sentence = (
        f"^The environment, at step {step} of the evaluation episode with seed 1000000, gave {gave} with NaN or inf"
    )
    with pytest.raises(FloatingPointError, match=sentence):
        evaluate(stacked(1), [Faulty(fault)], [0], episodes=1)


def test_what_no_other_process_can_make_is_stepped_in_line():
    assert AsyncEnvironments.can_make(PENDULUM)
    assert not AsyncEnvironments.can_make(lambda: PENDULUM())


def test_workers_end_with_the_process_that_they_serve():
    code = """
import functools, os, gymnasium
from fdbook.rl.environments import AsyncEnvironments
pool = AsyncEnvironments(functools.partial(gymnasium.make, "Pendulum-v1"), 2, 2)
print(*(process.pid for process in pool.processes), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    end = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # one that nobody has waited for is gone, too
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_task_of_ogbench_in_both_ways(workers):
    task = find_task("pointmaze-medium")
    with evaluation.environments(task, 1, 2, workers=workers) as get:
        made = get()
        assert (type(made), len(made)) == (AsyncEnvironments if workers else SyncEnvironments, 2)
        first = made.reset({0: 5, 1: 6})
        assert made.step({1: np.ones(2, np.float32)})[1].success is False
    with evaluation.environments(task, 1, 2, workers=0) as get:
        again = get().reset({0: 5, 1: 6})
    for number in (0, 1):
        np.testing.assert_array_equal(first[number], again[number])


def test_discounted_returns_are_sums_of_shifted_rewards():
    agent = train.init(agents.make("iql"), (3,), 1, (0,), width=8, depth=1, discount=0.9)
    result = evaluate(agent, [PassingBy(), PassingBy()], [0], episodes=3, critics=True, reward_shift=-1.0)
    np.testing.assert_allclose(result.discounted, [3 * [9 + 0.9 * 99 + 0.81 * 999]])
    assert result.returns.tolist() == [3 * [1110.0]]
    assert evaluate(agent, [PassingBy()], [0], episodes=1).discounted is None
    with pytest.raises(ValueError, match=r"^evaluate compares returns with critics, and FlowBC has none\.$"):
        evaluate(stacked(1), [PassingBy()], [0], episodes=1, critics=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fql", "deflow", "iql", "ifql", "rebrac"])
def test_estimates_are_those_of_the_first_state_and_action(name):
    """Of every episode, those that begin later included: one at a time, by the agent's own critics, unstacked."""
    from fdbook.rl.evaluate import FIRST_SEED, act

    sizes = {"width": 8, "depth": 1, "flow_steps": 2, "q_agg": "min"}
    both = train.init(agents.make(name), (3,), 1, (3, 4), **sizes)
    normalizer = Normalizer(*jnp.array([[0.1, 0.0, -1.0], [0.5, 2.0, 1.0]], jnp.float32))
    result = evaluate(both, [PENDULUM() for _ in range(4)], [3, 4], episodes=3, normalizer=normalizer, critics=True)
    for place, seed in enumerate((3, 4)):
        alone = jax.tree.map(lambda leaf, place=place: leaf[place] if eqx.is_array(leaf) else leaf, both)
        one = jax.tree.map(lambda leaf: leaf[None] if eqx.is_array(leaf) else leaf, alone)
        for episode in range(3):
            start = jnp.asarray(PENDULUM().reset(seed=FIRST_SEED + episode)[0])
            numbers = (
                np.full(shape, value, np.int32) for shape, value in (((1,), seed), ((1, 1), episode), ((1, 1), 0))
            )
            action = act(one, normalizer, start[None, None], *numbers)[0, 0]
            told = values(alone.networks["critic"], ((start - normalizer.mean) / normalizer.scale)[None], action[None])
            assert result.estimates[place, episode] == pytest.approx(float(np.min(told)), rel=1e-5)
    assert len(np.unique(result.estimates)) == 6

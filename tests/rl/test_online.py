"""The online phase: what is drawn, what is kept of an environment, and that a break changes nothing."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.rl import agents, records, train
from fdbook.rl.environments import SyncEnvironments
from fdbook.rl.fourier_features import Normalizer
from fdbook.rl.online import Online, ReplayBuffer, Transition
from fdbook.rl.precision import PRECISIONS
from fdbook.rl.transitions import ACTION_BOUND, Transitions


SIZES = {"width": 8, "depth": 1, "batch_size": 16, "flow_steps": 2}
LONGEST = 7


class Walk:
    """A walk on a line: the first action moves it, beyond 2 is the goal, and time ends an episode after LONGEST steps.

    What happens depends on the seed of the reset and the actions alone; `drift` adds what depends on neither.
    """

    made = 0

    def __init__(self, drift=0.0, spoiled=None, start=0.0):
        Walk.made += 1
        self.drift, self.spoiled, self.start, self.steps = drift * Walk.made, spoiled, start, 0

    def reset(self, *, seed=None, options=None):
        self.seed, self.time = seed, 0
        self.place = np.random.default_rng(seed).uniform(-1, 1) + self.drift + self.start
        return self.observation(), {}

    def observation(self):
        return np.array([self.place, self.time, self.seed % 97], np.float32)

    def step(self, action):
        assert np.all(np.abs(action) <= ACTION_BOUND)
        self.place, self.time, self.steps = self.place + float(action[0]), self.time + 1, self.steps + 1
        reached = self.place > 2
        reward = np.nan if self.steps == self.spoiled else float(reached) - 0.25 * float(action[1])
        return self.observation(), reward, reached, self.time == LONGEST, {"success": float(reached)}

    def close(self):
        pass


def some_data(rows=60):
    rng = np.random.default_rng(0)
    ends = np.arange(rows) % 10 == 9
    observations = rng.normal(size=(rows, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    rewards = rng.uniform(-1, 0, rows).astype(np.float32)
    return Transitions.of(observations, actions, rewards, np.ones(rows, np.float32), ends)


def some_record(agent="bc", seeds=(0,), updates=20, online=60, evaluations=()):
    spec = {"task": {"name": "toy"}, "agent": agent, "metric": None, "preset": "none", "overrides": []}
    spec |= {"seeds": list(seeds), "updates": updates, "online": online}
    spec |= {"evaluations": list(evaluations), "config": SIZES}
    return records.Record(spec, {"fingerprint": some_data().fingerprint()})


def some_online(record, **options):
    environments = options.pop("environments", None) or [Walk() for _ in record.seeds]
    return Online(lambda: SyncEnvironments(environments), record.seeds, record.updates - record.offline, **options)


def run(record, online=None, **options):
    made = train.init(agents.make(record.agent), (3,), 2, record.seeds, **record.config)
    options = {"progress": False, "save_every": 13, "log_every": 10} | options
    return train.train(made, some_data(), record, online=some_online(record) if online is None else online, **options)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def numbered(data, count, seeds=2):
    """A buffer of `count` rows; observations say seed and row, actions too, and every third row ends an episode."""
    buffer = ReplayBuffer.empty(data, seeds, 2 * count)
    for row in range(count):
        marks = jnp.array([[100 + 10 * seed + row] * 3 for seed in range(seeds)], jnp.float32)
        rest = jnp.full(seeds, 0.5 + row, jnp.float32), jnp.ones(seeds, jnp.float32), jnp.full(seeds, row % 3 == 2)
        buffer = buffer.add(Transition(marks, marks[:, :2], marks + 0.5, *rest))
    return buffer


def test_batches_are_drawn_evenly_from_logged_and_own_transitions():
    """Against counting: data.size + 5 transitions, each as often as any other, and no row of another seed."""
    data, size = some_data(), 40_000
    buffer = numbered(data, 5)
    batch, share = buffer.sample(data, jnp.asarray(1), size, key=jr.key(0))
    own = np.asarray(batch.observations[:, 0]) >= 100
    assert share == pytest.approx(own.mean(), abs=1e-6)
    assert own.mean() == pytest.approx(5 / (data.size + 5), rel=0.1)
    rows = np.asarray(batch.observations[own, 0]) - 110
    assert set(rows) == {0, 1, 2, 3, 4}
    assert np.bincount(rows.astype(int)) / own.sum() == pytest.approx([0.2] * 5, abs=0.03)
    np.testing.assert_array_equal(batch.rewards[own], 0.5 + rows)
    np.testing.assert_array_equal(batch.next_observations[own, 0], 110.5 + rows)
    following = {0: 111, 1: 112, 2: 112, 3: 114, 4: 114}  # row 2 ends an episode, row 4 is the newest
    np.testing.assert_array_equal(batch.next_actions[own, 0], [following[int(row)] for row in rows])
    logged = {tuple(row) for row in np.asarray(data.at(jnp.arange(data.size)).observations).tolist()}
    assert {tuple(row) for row in np.asarray(batch.observations[~own]).tolist()} == logged


def test_without_rows_of_its_own_all_is_logged():
    data = some_data()
    batch, share = ReplayBuffer.empty(data, 1, 4).sample(data, jnp.asarray(0), 500, key=jr.key(0))
    assert share == 0
    assert np.all(np.any(np.asarray(batch.observations) != 0, axis=1))


@pytest.mark.slow
def test_the_buffer_holds_what_the_environment_answered():
    """Each seed's environment once more, by hand, with the actions that were taken."""
    record = some_record(seeds=(3, 8))
    normalizer = Normalizer(np.array([0.5, 1, 0], np.float32), np.array([2, 1, 10], np.float32), ())
    online = some_online(record, normalizer=normalizer, reward_shift=-1.0)
    run(record, online)
    rows, size = online.buffer.rows, int(online.buffer.size)
    assert size == 60
    over = 0
    for place, seed in enumerate(record.seeds):
        walk, episode = Walk(), 0
        seen = walk.reset(seed=int(np.random.SeedSequence([seed, 0]).generate_state(1)[0]))[0]
        for row in range(size):
            np.testing.assert_allclose(rows.observations[place, row], normalizer(seen), rtol=1e-6)
            seen, reward, terminated, truncated, _ = walk.step(np.asarray(rows.actions[place, row]))
            np.testing.assert_allclose(rows.next_observations[place, row], normalizer(seen), rtol=1e-6)
            assert rows.rewards[place, row] == pytest.approx(reward - 1, rel=1e-6)
            assert rows.masks[place, row] == (0 if terminated else 1)
            assert rows.ends[place, row] == (terminated or truncated)
            if terminated or truncated:
                episode, over = episode + 1, over + 1
                seen = walk.reset(seed=int(np.random.SeedSequence([seed, episode]).generate_state(1)[0]))[0]
    curves = {name: np.array(record.progress.curves[name]) for name in ("online_episodes", "online_successes")}
    assert 10 * curves["online_episodes"].sum() == pytest.approx(over)
    ended = np.asarray(rows.ends[:, :size])
    assert 10 * curves["online_successes"].sum() == pytest.approx((np.asarray(rows.masks[:, :size]) == 0).sum())
    assert 0 < (np.asarray(rows.masks[:, :size]) == 0).sum() < ended.sum()


@pytest.mark.slow
def test_one_step_one_update_and_curves_of_both_phases():
    record = some_record(updates=20, online=60, evaluations=(20, 50, 80))
    steps = []
    run(record, evaluate=lambda agents, stopped: {"score": [float(steps.append(record.done) or 0)]})
    assert steps == [20, 50, 80]
    assert (record.status, record.done) == ("finished", 80)
    assert record.progress.logged == list(range(10, 81, 10))
    share = np.array(record.progress.curves["online_share"])[:, 0]
    assert np.all(share[:2] == 0)
    assert np.all(np.diff(share[1:]) > 0)
    drawn = np.mean([(row + 1) / (some_data().size + row + 1) for row in range(50, 60)])  # the newest is drawn, too
    assert share[-1] == pytest.approx(drawn, abs=0.12)
    assert all(len(rows) == 8 for rows in record.progress.curves.values())


def test_the_offline_updates_are_those_of_a_run_without_an_online_phase():
    both, alone = some_record(online=1, seeds=(0, 4)), some_record(online=0, seeds=(0, 4))
    run(both, log_every=20)
    run(alone, log_every=20)
    copies = [np.array(record.progress.curves["flow"])[0] for record in (both, alone)]
    np.testing.assert_array_equal(*copies)


@pytest.mark.slow
def test_the_online_phase_computes_in_the_precision_of_its_record_too():
    """Against the same phase by hand, in that precision and in the other."""

    def after(precision):
        record = some_record(updates=1, online=0)
        record.spec["matmul_precision"] = "bfloat16"
        first = run(record)
        phase = some_online(some_record(updates=1, online=10))
        options = {"key": jr.key(1), "first": 1, "count": 10, "matmul_precision": precision}
        return leaves(phase.advance(first, some_data(), **options)[0].networks)

    record = some_record(updates=1, online=10)
    record.spec["matmul_precision"] = "bfloat16"
    got = leaves(run(record).networks)
    apart = {name: max(np.abs(a - b).max() for a, b in zip(got, after(name), strict=True)) for name in PRECISIONS}
    assert apart["bfloat16"] == 0
    assert min(apart["float32"], apart["tensorfloat32"]) > 1e-5


class Break(Exception):
    """What stops a run in these tests."""


@functools.cache
def unbroken(agent):
    """The record of a run that nothing breaks, and its agents."""
    record = some_record(agent, seeds=(0, 5))
    return record, run(record, log_every=1)


@pytest.mark.slow
@pytest.mark.parametrize("at", [30, 47, 61])
@pytest.mark.parametrize("agent", ["bc", "rebrac"])
def test_a_run_that_was_broken_off_ends_bit_for_bit_the_same(agent, at, tmp_path):
    whole, expected = unbroken(agent)

    def watch(record, agents):
        if record.done >= at:
            raise Break

    record = some_record(agent, seeds=(0, 5))
    with pytest.raises(Break):
        run(record, folder=tmp_path, watch=watch, log_every=1)
    record, said, told = some_record(agent, seeds=(0, 5)), [], []
    got = run(record, some_online(record, say=said.append), folder=tmp_path, log_every=1, say=told.append)
    assert equal(got, expected)
    assert record.progress.curves == whole.progress.curves
    assert said == []
    saved = max(step for step in (26, 39, 52) if step < at)
    assert told[0].startswith(f"The run is carried on from update {saved}; what it had done after that")


def test_an_environment_that_does_not_repeat_itself_is_told(tmp_path):
    def watch(record, agents):
        if record.done >= 40:
            raise Break

    record = some_record(seeds=(0, 5))
    with pytest.raises(Break):
        run(
            record, some_online(record, environments=[Walk(drift=0.01), Walk(drift=0.01)]), folder=tmp_path, watch=watch
        )
    record, said = some_record(seeds=(0, 5)), []
    online = some_online(record, environments=[Walk(drift=0.01), Walk(drift=0.01)], say=said.append)
    run(record, online, folder=tmp_path)
    assert record.status == "finished"
    assert len(said) == 1
    assert "the episodes of seeds" in said[0]
    assert "begin anew" in said[0]
    lengths = [np.diff(np.flatnonzero(np.r_[True, ends])) for ends in np.asarray(online.buffer.rows.ends)]
    assert all(length.max() <= LONGEST for length in lengths)


def test_nan_from_an_environment_stops_the_run_in_one_sentence(tmp_path):
    record = some_record(seeds=(2, 6))
    online = some_online(record, environments=[Walk(), Walk(spoiled=23)])
    with pytest.raises(FloatingPointError, match=r"^The environment of seed 6, at update 42, gave a reward with NaN"):
        run(record, online, folder=tmp_path)
    read = records.read(tmp_path)
    assert read.status == "broken"
    assert read.note.startswith("The environment of seed 6")
    assert "\n" not in read.note


def test_nan_from_a_reset_stops_the_run_in_one_sentence(tmp_path):
    record = some_record(seeds=(2,))
    online = some_online(record, environments=[Walk(start=np.nan)])
    with pytest.raises(
        FloatingPointError, match=r"^The environment of seed 2, reset with seed \d+, gave an observation"
    ):
        run(record, online, folder=tmp_path)
    assert records.read(tmp_path).status == "broken"


def test_a_buffer_that_has_no_room_is_refused_before_the_first_update(monkeypatch, tmp_path):
    """100,000 steps of 3 + 2 + 3 + 1 + 1 numbers and a mark are 4.1 MB for each seed."""
    monkeypatch.setattr("fdbook.rl.online.free_memory", lambda: 4 * 2**20)
    some_online(some_record(online=100_000)).state(some_data())
    record = some_record(online=100_000, seeds=(0, 1))
    sentence = (
        r"^The replay buffer of 100,000 online steps takes 0\.0 GiB, and 0\.0 GiB of memory are free: a shorter online phase "
        r"\(--online\) or fewer seeds at once take less\.$"
    )
    for folder in (tmp_path, None):
        with pytest.raises(MemoryError, match=sentence):
            run(record, folder=folder, watch=lambda record, agents: pytest.fail("an update was made"))
    assert record.done == 0
    assert not (tmp_path / records.NAME).exists()  # a shorter phase may take the same folder
    run(some_record(online=2, seeds=(0, 1)), folder=tmp_path)


def test_an_online_phase_needs_environments():
    record = some_record()
    made = train.init(agents.make("bc"), (3,), 2, record.seeds, **SIZES)
    with pytest.raises(ValueError, match="60 online updates, which take an Online"):
        train.train(made, some_data(), record, progress=False)


@pytest.mark.parametrize(("updates", "online"), [(30, 60), (20, 70)])
def test_a_folder_with_another_length_is_refused(updates, online, tmp_path):
    run(some_record(online=10), folder=tmp_path)
    with pytest.raises(ValueError, match="holds a run with"):
        run(some_record(updates=updates, online=online), folder=tmp_path)


@pytest.mark.slow
def test_what_explores_and_what_does_not():
    """IQL's Gaussian of standard deviation 1, ReBRAC's clipped noise; a flow is noisy already."""
    observation, keys = jnp.zeros(3, jnp.float32), jr.split(jr.key(0), 4000)
    for name in ("iql", "rebrac", "bc", "fql"):
        agent = agents.make(name)((3,), 2, key=jr.key(1), **SIZES)
        both = jax.vmap(lambda key, agent=agent: (agent.act(observation, key=key), agent.explore(observation, key=key)))
        played, tried = map(np.asarray, jax.jit(both)(keys))
        if name in ("bc", "fql"):
            np.testing.assert_array_equal(tried, played)
            continue
        noise = tried - played
        inside = np.abs(tried) < 1
        if name == "iql":
            assert np.mean(inside) == pytest.approx(0.6827, abs=0.05)  # of a Gaussian within one standard deviation
        else:
            assert np.abs(noise).max() <= agent.config.actor_noise_clip + 1e-6
            assert noise.std() == pytest.approx(agent.config.actor_noise, rel=0.1)

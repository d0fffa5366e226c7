"""Tasks of one's own: from files, arrays and Minari, read, rescaled, refused, described, trained on and evaluated."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv

from fdbook import experiment
from fdbook.data import custom, spaces, summary
from fdbook.data.load import environment, load, score
from fdbook.data.tasks import TASKS, find_task, task_from_dict
from fdbook.experiment import RunSpec


CUBE = "ogbench/cube-single-play"
PENDULUM, CAR = "Pendulum-v1", "MountainCarContinuous-v0"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32"),
    pytest.mark.filterwarnings("ignore:.* has actions between -. and .*they are rescaled:UserWarning"),
    pytest.mark.filterwarnings("ignore:None of the .* transitions:UserWarning"),
]


class Hand(gymnasium.Env):
    """A point that a hand moves; it sees where it is, and where it should be, in a Dict."""

    observation_space = gymnasium.spaces.Dict(
        {
            "place": gymnasium.spaces.Box(-9, 9, (2,), np.float64),
            "goal": gymnasium.spaces.Box(-9, 9, (1, 2), np.float64),
            "touch": gymnasium.spaces.MultiBinary(1),
        }
    )
    action_space = gymnasium.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 10.0]), dtype=np.float64)

    def __init__(self, render_mode=None):
        self.render_mode, self.place, self.taken = render_mode, np.zeros(2), []

    def _seen(self):
        return {"touch": np.ones(1, np.int8), "place": self.place, "goal": np.full((1, 2), 3.0)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.taken.append(action)
        self.place = np.clip(self.place + action, -9, 9)
        return self._seen(), -1.0, False, False, {"success": bool(self.place[1] > 5)}


def hand():
    """A factory that others can import."""
    return Hand()


def played(make, episodes=3, steps=9, seed=0):
    """What random actions came to, row by row: the last row of an episode holds its last observation."""
    rng, rows = np.random.default_rng(seed), []
    made = make()
    low, high = made.action_space.low, made.action_space.high
    for episode in range(episodes):
        observation, _ = made.reset(seed=episode)
        for step in range(steps + episode + 1):
            action = rng.uniform(low, high).astype(np.float32)
            rows.append([spaces.flat(observation), action, 0.0, step == steps + episode])
            observation, rows[-1][2], *_ = made.step(action.astype(made.action_space.dtype))
    made.close()
    names = ("observations", "actions", "rewards", "terminals")
    return {
        name: np.array(values, np.float32 if name != "terminals" else bool)
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


def pendulum():
    return gymnasium.make(PENDULUM).unwrapped


@pytest.fixture(scope="module")
def logged():
    """Three episodes of the pendulum, of 9, 10 and 11 steps."""
    return played(pendulum)


@pytest.fixture
def file(logged, tmp_path):
    np.savez(tmp_path / "pendulum.npz", **logged)
    return tmp_path / "pendulum.npz"


COLLECT = """
import gymnasium, minari, sys
sys.path.insert(0, sys.argv[1])
from test_custom import Hand
import numpy as np

def collect(name, make, **options):
    collector = minari.DataCollector(make, **options)
    collector.action_space.seed(0)
    for episode in range(3):
        collector.reset(seed=episode)
        over = False
        while not over:
            _, _, terminated, truncated, _ = collector.step(collector.action_space.sample())
            over = terminated or truncated
    about = {"algorithm_name": "random", "author": "a", "author_email": "a", "code_permalink": "a", "description": "a"}
    collector.create_dataset(name, **about)

collect("mine/pendulum/random-v0", gymnasium.make("Pendulum-v1", max_episode_steps=12))
gymnasium.register("Hand-v0", "test_custom:Hand", max_episode_steps=8)
collect("mine/hand-v3", gymnasium.make("Hand-v0"))
collect("mine/cart/random-v0", gymnasium.make("CartPole-v1", max_episode_steps=8))
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minari")
    environ = dict(os.environ) | {"MINARI_DATASETS_PATH": str(folder)}
    words = [sys.executable, "-W", "ignore", "-c", COLLECT, os.path.dirname(__file__)]
    subprocess.run(words, env=environ, check=True, capture_output=True)
    return folder


@pytest.fixture
def here(collected, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(collected))
    return collected


@pytest.fixture
def every_kind(file, logged, here):
    """A task of each kind, by name."""
    return {
        "npz": custom.from_npz(file, PENDULUM),
        "arrays": custom.from_arrays(played(Hand), hand, horizon=6, score="success"),
        "minari": custom.from_minari("mine/pendulum/random-v0"),
        "minari dict": custom.from_minari("mine/hand-v3", Hand, horizon=6),
        "logs": custom.from_npz(file, action_bounds=(-2, 2)),
        "minari logs": custom.from_minari("mine/pendulum/random-v0", None),
    }


KINDS = ("npz", "arrays", "minari", "minari dict", "logs", "minari logs")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_loaded_trained_on_and_evaluated_as_the_registry_s(every_kind, kind, tmp_path):
    """And a run on it is opened again, from its own description or, where no file holds the data, with the task in hand."""
    task = every_kind[kind]
    loaded = load(task, normalize=True)
    assert (loaded.source, loaded.validation) == ("own", None)
    assert loaded.train.observation_shape == task.dataset.observation
    config = {"width": 8, "depth": 1, "batch_size": 4, "flow_steps": 2}
    evaluations = (3,) if task.has_environment else ()
    spec = RunSpec(task, "bc", seeds=2, updates=3, evaluations=evaluations, episodes=2, normalize=True, config=config)
    run = experiment.train(spec, tmp_path / "run", loaded=loaded, progress=False, say=lambda sentence: None)
    assert run.record.done == 3
    if kind == "arrays":
        with pytest.raises(ValueError, match="which no file holds: make it again and pass it"):
            experiment.open_run(tmp_path / "run")
    opened = experiment.open_run(tmp_path / "run", task=task if kind in ("arrays", "logs") else None)
    assert opened.spec.hash == spec.hash
    if not task.has_environment:
        with pytest.raises(ValueError, match=rf"^The task {task.name} is made of logs without an environment"):
            loaded.environment()
        with pytest.raises(ValueError, match=rf"^The task {task.name} has no environment: nothing can be played"):
            opened.evaluate()
        return
    found = run.record.scores[0]
    assert found["length"] == [min(task.horizon, 200)] * 2
    assert np.all(np.isfinite(found["score"]))
    assert opened.evaluate(progress=False) == {name: found[name] for name in found if name != "step"}


@pytest.mark.parametrize("held_out", [False, True])
def test_a_likelihood_says_whether_its_actions_were_held_out(held_out, file, logged):
    """And actions that all lie at the edge of the box have none: None, which JSON can hold."""
    if held_out:
        edge = logged | {"actions": np.full_like(logged["actions"], 2.0)}
        np.savez(file.with_name(f"{file.stem}-val.npz"), **edge)
    config = {"width": 8, "depth": 1, "batch_size": 4, "flow_steps": 2}
    task = custom.from_npz(file, action_bounds=(-2, 2))
    spec = RunSpec(task, "bc", updates=3, evaluations=(3,), episodes=1, config=config)
    run = experiment.train(spec, None, progress=False, say=lambda sentence: None)
    found = run.record.scores[0]
    assert ("train_nll" in found, "held_out_nll" in found) == (not held_out, held_out)
    if held_out:
        assert (found["held_out_nll"], found["clipped_share"]) == ([None], [1.0])
        json.dumps(dataclasses.asdict(run.record), allow_nan=False)
        assert "held_out_nll    none" in experiment.summary(run.record)
    else:
        assert np.isfinite(found["train_nll"][0])


def test_the_two_parts_of_a_log_are_alike(file, logged):
    beside = file.with_name(f"{file.stem}-val.npz")
    np.savez(beside, **logged | {"observations": np.zeros((len(logged["actions"]), 5))})
    with pytest.raises(
        ValueError, match=r"-val\.npz has observations of size \(5,\); those of .*\.npz are of size \(3,\)\.$"
    ):
        custom.from_npz(file, action_bounds=(-2, 2))


@pytest.mark.parametrize("name", ["rewards", "masks"])
def test_what_is_no_number_is_not_told_as_missing(file, logged, name):
    np.savez(file, **logged | {name: np.full(len(logged["actions"]), "high")})
    with pytest.raises(ValueError, match=rf"has {name} of <U4 \(expected an array of numbers\)\.$"):
        load(custom.from_npz(file, action_bounds=(-2, 2)))


def test_bounds_beside_an_environment_contradict(file):
    with pytest.raises(ValueError, match="action_bounds are for logs alone; an environment has bounds of its own"):
        custom.from_npz(file, PENDULUM, action_bounds=(-9, 9))


def test_an_npz_file_in_the_layout_of_ogbench(file, logged):
    task = custom.from_npz(file, PENDULUM)
    data = load(task).train
    batch = data.at(jnp.arange(data.size))
    kept = np.flatnonzero(~logged["terminals"])
    assert (task.name, task.horizon, task.dataset.steps, task.score) == ("pendulum", 200, 12, "return")
    np.testing.assert_array_equal(batch.observations, logged["observations"][kept])
    np.testing.assert_array_equal(batch.next_observations, logged["observations"][kept + 1])
    np.testing.assert_array_equal(batch.rewards, logged["rewards"][kept])
    assert np.all(np.asarray(batch.masks) == 1)
    np.testing.assert_allclose(batch.actions, np.clip(logged["actions"][kept] / 2, -1 + 1e-5, 1 - 1e-5), atol=1e-6)


def test_actions_are_rescaled_once_in_the_data_and_back_in_the_environment(budget):
    """Told by the environment itself: a logged action, sent through, must arrive as it was logged, coordinate by coordinate."""
    arrays = played(Hand)
    with pytest.warns(
        UserWarning, match=r"^arrays-.* has actions between -1 and 10: they are rescaled to \[-1, 1\], and back\.$"
    ):
        task = custom.from_arrays(arrays, Hand)
    data = load(task).train
    made = environment(task)
    assert np.all(made.action_space.low == -1)
    assert np.all(made.action_space.high == 1)
    observation, _ = made.reset(seed=0)
    np.testing.assert_array_equal(observation, arrays["observations"][0])
    for row in range(4):
        observation, *_ = made.step(np.asarray(data.actions[row]))
        np.testing.assert_allclose(made.unwrapped.taken[row], arrays["actions"][row], atol=budget("rescaled_actions"))
        np.testing.assert_allclose(observation, arrays["observations"][row + 1], atol=budget("rescaled_actions"))


def test_dict_observations_are_joined_in_the_order_of_their_names(every_kind):
    task = every_kind["minari dict"]
    data = load(task).train
    assert (task.dataset.observation, data.size) == ((5,), 3 * 8)
    np.testing.assert_array_equal(data.observations[:, :2], np.full((27, 2), 3.0))  # goal
    np.testing.assert_array_equal(data.observations[:, 4], np.ones(27))  # touch
    first, _ = Hand().reset(seed=1)
    np.testing.assert_array_equal(data.observations[9, 2:4], first["place"].astype(np.float32))
    made = environment(task)
    np.testing.assert_array_equal(made.reset(seed=1)[0], data.observations[9])
    chosen = custom.from_minari("mine/hand-v3", Hand, keys=("touch", "place"))
    np.testing.assert_array_equal(load(chosen).train.observations, data.observations[:, 2:])
    assert environment(chosen).observation_space.shape == (3,)


def test_a_minari_set_is_read_as_minari_reads_it(here, every_kind):
    import minari

    data = load(every_kind["minari"]).train
    batch = data.at(jnp.arange(data.size))
    episodes = list(minari.load_dataset("mine/pendulum/random-v0").iterate_episodes())
    actions = np.concatenate([episode.actions for episode in episodes])
    following = np.concatenate([np.append(episode.actions[1:], episode.actions[-1:], axis=0) for episode in episodes])
    np.testing.assert_array_equal(batch.observations, np.concatenate([each.observations[:-1] for each in episodes]))
    np.testing.assert_array_equal(batch.next_observations, np.concatenate([each.observations[1:] for each in episodes]))
    np.testing.assert_array_equal(batch.actions, np.clip(actions / 2, np.float32(-1 + 1e-5), np.float32(1 - 1e-5)))
    np.testing.assert_array_equal(
        batch.next_actions, np.clip(following / 2, np.float32(-1 + 1e-5), np.float32(1 - 1e-5))
    )
    assert every_kind["minari"].horizon == 12


LAYOUTS = {
    "time-outs": ({"terminals": [0, 1, 0, 0, 0, 0], "timeouts": [0, 0, 0, 1, 0, 0]}, [1, 0, 1, 1, 1, 1], [1, 3, 5]),
    "terminations": ({"terminations": [0, 1, 0, 0, 0, 0], "truncations": [0, 0, 0, 1, 0, 0]}, [1, 0, 1, 1, 1, 1], [1, 3, 5]),
    "terminals alone": ({"terminals": [0, 1, 0, 0, 0, 1]}, [1, 1, 1, 1, 1, 1], [1, 5]),
    "masks": ({"terminals": [0, 1, 0, 0, 0, 1], "masks": [1, 0, 0, 1, 1, 1]}, [1, 0, 0, 1, 1, 1], [1, 5]),
    "no flags": ({}, [1, 1, 1, 1, 1, 1], [5]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ends_and_masks_of_arrays_with_next_observations(layout):
    flags, masks, ends = LAYOUTS[layout]
    arrays = {"observations": np.arange(12.0).reshape(6, 2), "actions": np.zeros((6, 1)), "rewards": np.ones((6, 1))}
    arrays |= {"next_observations": arrays["observations"] + 1} | {
        name: np.array(values) for name, values in flags.items()
    }
    data = load(custom.from_arrays(arrays, reward_shift=-3.0)).train
    batch = data.at(jnp.arange(6))
    assert data.size == 6
    np.testing.assert_array_equal(batch.masks, masks)
    np.testing.assert_array_equal(batch.rewards, np.full(6, -2.0))
    assert np.flatnonzero(data.ends).tolist() == ends


TERMINALS, TIMEOUTS = [0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1]
COMPACT = {
    "terminals beside time-outs": ({"terminals": TERMINALS, "timeouts": TIMEOUTS}, [0, 1, 2, 4], [1]),
    "terminals beside truncations": ({"terminals": TERMINALS, "truncations": TIMEOUTS}, [0, 1, 2, 4], [1]),
    "at the end": ({"terminals": [0, 0, 0, 0, 0, 1], "timeouts": [0, 0, 0, 1, 0, 0]}, [0, 1, 2, 4, 5], [5]),
    "terminations alone": ({"terminations": [0, 1, 0, 1, 0, 1]}, [0, 1, 2, 3, 4, 5], [1, 3, 5]),
    "after one step": (
        {"terminations": [1, 1, 0, 0, 0, 0], "truncations": [0, 0, 0, 0, 0, 1]},
        [0, 1, 2, 3, 4],
        [0, 1],
    ),
    "masks, too": ({"terminals": TERMINALS, "timeouts": TIMEOUTS, "masks": [1, 0, 1, 1, 1, 1]}, [0, 1, 2, 4], [1]),
    "masks that go on": ({"terminals": TERMINALS, "timeouts": TIMEOUTS, "masks": [1] * 6}, [0, 2, 4], []),
    "time-outs alone": ({"timeouts": [0, 1, 0, 1, 0, 1]}, [0, 2, 4], []),
    "terminals alone, as in OGBench": ({"terminals": [0, 1, 0, 1, 0, 1]}, [0, 2, 4], []),
}
"""By name: flags, the rows that are transitions, and those of them that nothing follows."""


@pytest.mark.parametrize("layout", COMPACT)
def test_steps_that_terminate_an_episode_are_kept_without_next_observations(layout):
    """As D4RL's own reader does: the last step is left out where it was cut off, and nowhere else."""
    flags, rows, over = COMPACT[layout]
    rewards, actions = np.array([1.0, 10, 2, 20, 3, 30]), np.linspace(-0.5, 0.5, 6, dtype=np.float32)
    arrays = {"observations": np.arange(12.0).reshape(6, 2), "actions": actions[:, None], "rewards": rewards}
    task = custom.from_arrays(arrays | {name: np.array(values) for name, values in flags.items()}, reward_shift=0.5)
    data = load(task).train
    assert data.size == len(rows)
    batch = data.at(jnp.arange(data.size))
    following = [row if row in over else row + 1 for row in rows]
    np.testing.assert_array_equal(batch.observations, arrays["observations"][rows])
    np.testing.assert_array_equal(batch.rewards, rewards[rows] + 0.5)
    np.testing.assert_array_equal(batch.masks, [row not in over for row in rows])
    np.testing.assert_allclose(batch.actions[:, 0], actions[rows], rtol=1e-6)
    np.testing.assert_allclose(batch.next_actions[:, 0], actions[following], rtol=1e-6)
    np.testing.assert_array_equal(batch.next_observations, arrays["observations"][following])
    found = summary.summarize(task)
    assert (found.transitions, found.returns.sum()) == (len(rows), rewards[rows].sum())


def test_rewards_that_only_the_left_out_rows_have_are_told():
    arrays = {"observations": np.zeros((6, 2)), "actions": np.zeros((6, 1)), "rewards": np.array([0.0, 0, 1, 0, 0, 1])}
    ends = {"terminals": np.array([0, 0, 1, 0, 0, 1])}
    with pytest.warns(
        UserWarning, match=r"^The dict of arrays has rewards other than 0 only in the last rows of episodes"
    ):
        load(custom.from_arrays(arrays | ends))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(custom.from_arrays(arrays | ends | {"timeouts": np.zeros(6)}))
        load(custom.from_arrays(arrays | ends | {"rewards": np.zeros(6)}))
        load(custom.from_arrays(arrays | ends | {"rewards": np.array([0.0, 1, 1, 0, 0, 1])}))


def test_rewards_from_a_function(logged):
    plain = {name: values for name, values in logged.items() if name != "rewards"}
    task = custom.from_arrays(
        plain, PENDULUM, rewards=lambda arrays: (arrays["observations"][:, 0], arrays["terminals"])
    )
    data = load(task).train
    np.testing.assert_array_equal(data.rewards, logged["observations"][:, 0])
    np.testing.assert_array_equal(data.masks, logged["terminals"])
    with pytest.raises(
        ValueError, match=r"^The dict of arrays has no rewards: store an array 'rewards' \(or, from Python"
    ):
        load(custom.from_arrays(plain, PENDULUM))


def test_an_environment_of_ogbench_that_has_no_name_labels_nothing(logged):
    """One that a user makes of OGBench's classes by hand: its labels are found by the name that it is registered by."""

    def made():
        environment = PendulumEnv()
        environment._reward_task_id = 1
        return gymnasium.wrappers.TimeLimit(environment, 5)

    arrays = {name: values for name, values in logged.items() if name != "rewards"}
    arrays["qpos"] = arrays["observations"]
    assert made().spec is None
    with pytest.raises(ValueError, match=r"^The dict of arrays has no rewards: store an array 'rewards'"):
        load(custom.from_arrays(arrays, made))


@pytest.mark.slow
def test_a_file_of_ogbench_with_its_single_task_environment_has_its_rewards(recorded):
    """The registry's own task, made by hand: OGBench labels the rows."""
    registry = find_task("cube-single-play-singletask-task2")
    mine = custom.from_npz(recorded[CUBE].files["train"], registry.environment)
    theirs = load(registry, dataset_dir=recorded[CUBE].folder)
    ours = load(mine)
    for split in ("train", "validation"):
        for one, other in zip(vars(getattr(ours, split)).items(), vars(getattr(theirs, split)).items(), strict=True):
            np.testing.assert_array_equal(one[1], other[1], err_msg=f"{split} {one[0]}")
    assert (mine.horizon, mine.dataset.observation) == (registry.horizon, registry.dataset.observation)


def refused_arrays(**changes):
    arrays = {
        "observations": np.zeros((4, 3)),
        "actions": np.zeros((4, 1)),
        "rewards": np.zeros(4),
        "terminals": [0, 0, 0, 1],
    }
    return {name: values for name, values in (arrays | changes).items() if values is not None}


REFUSED = {
    "discrete actions": (
        refused_arrays(actions=np.zeros(4, int)),
        None,
        {},
        "has actions that are int64 of shape (4,) (expected real",
    ),
    "discrete environment": (refused_arrays(), "CartPole-v1", {}, "has actions in Discrete(2) (expected a bounded Box"),
    "unbounded": (
        refused_arrays(),
        lambda: unbounded(),
        {},
        "(expected a bounded Box of d real numbers: policies here are",
    ),
    "width": (
        refused_arrays(observations=np.zeros((4, 2))),
        PENDULUM,
        {},
        "observations of shape (2,) and 1 actions; Pendulum-v1 has (3,)",
    ),
    "actions": (
        refused_arrays(actions=np.zeros((4, 2))),
        PENDULUM,
        {},
        "of shape (3,) and 2 actions; Pendulum-v1 has (3,) and 1.",
    ),
    "no environment of that name": (
        refused_arrays(),
        "Pendulumm-v9",
        {},
        "Gymnasium knows no environment called 'Pendulumm-v9'",
    ),
    "no observations": (refused_arrays(observations=None), None, {}, "The dict of arrays has no array 'observations'"),
    "rows": (
        refused_arrays(observations=np.zeros((3, 3))),
        None,
        {},
        "has 3 observations (expected 4, as many as actions).",
    ),
    "half as many next observations, twice as wide": (
        refused_arrays(next_observations=np.zeros((2, 6))),
        None,
        {},
        "The dict of arrays has next_observations in 2 rows (expected 4, as many as actions).",
    ),
    "one next observation too few": (
        refused_arrays(next_observations=np.zeros((3, 3))),
        None,
        {},
        "has next_observations in 3 rows (expected 4, as many as actions).",
    ),
    "no action": (
        refused_arrays(actions=np.zeros((4, 0))),
        None,
        {},
        "has actions that are float64 of shape (4, 0) (expected real numbers (n, d), one row of d numbers for each step",
    ),
    "nothing seen": (
        refused_arrays(observations=np.zeros((4, 0))),
        None,
        {},
        "has observations that are float64 of shape (4, 0) (expected numbers, one row for each step).",
    ),
    "no ends": (refused_arrays(terminals=None), None, {}, "has no array 'terminals' that says where episodes end"),
    "wide logs": (
        refused_arrays(actions=np.full((4, 1), 1.5)),
        None,
        {},
        "has actions from 1.5 to 1.5 and no environment that bounds",
    ),
    "integers in logs alone": (
        refused_arrays(actions=np.zeros((4, 1), int)),
        None,
        {},
        "has actions that are int64, and no environment that says what they are (expected floating point numbers",
    ),
    "objects": (
        refused_arrays(observations=np.array([{}] * 4)),
        None,
        {},
        "has observations that are object of shape (4,) (expected numbers, one row for each step).",
    ),
    "discount": (refused_arrays(), None, {"discount": 1.0}, "A task of one's own takes a discount in [0, 1); got 1."),
    "score": (refused_arrays(), None, {"score": "normalized return"}, "takes references, two returns, where its score"),
    "q_agg": (refused_arrays(), None, {"q_agg": "max"}, "There is no q_agg called 'max'."),
    "bounds of others": (
        refused_arrays(),
        None,
        {"action_bounds": ([0, 0, 0], 1)},
        "takes action_bounds that are numbers, or 1 for each end; got ([0, 0, 0], 1).",
    ),
}
REFERENCES = "A task of one's own takes references that are two finite returns, not the same; got "
BOUNDS = "A task of one's own takes action_bounds that are two, the lowest and the highest, of finite numbers; got "
OPTIONS = [
    ({"references": (5.0, 5.0)}, f"{REFERENCES}(5.0, 5.0)."),
    ({"references": (5.0,)}, f"{REFERENCES}(5.0,)."),
    ({"references": (0.0, 1.0, 2.0)}, f"{REFERENCES}(0.0, 1.0, 2.0)."),
    ({"references": (0.0, np.inf)}, f"{REFERENCES}(0.0, inf)."),
    ({"references": (np.nan, 1.0)}, f"{REFERENCES}(nan, 1.0)."),
    ({"updates": 0}, "A task of one's own takes a number of updates that is a whole number of at least 1; got 0."),
    ({"horizon": 0}, "A task of one's own takes a horizon that is a whole number of at least 1; got 0."),
    ({"evaluations": (1, -2)}, "update to evaluate after that is a whole number of at least 0; got -2."),
    ({"action_bounds": (1,)}, f"{BOUNDS}(1,)."),
    ({"action_bounds": (0, 1, 2)}, f"{BOUNDS}(0, 1, 2)."),
    ({"action_bounds": (-np.inf, np.inf)}, f"{BOUNDS}(-inf, inf)."),
]


@pytest.mark.parametrize(("options", "sentence"), OPTIONS)
def test_an_option_that_cannot_be_is_refused_before_the_data_are_looked_at(options, sentence):
    with pytest.raises(ValueError) as refusal:
        custom.Options(**options)
    assert str(refusal.value).endswith(sentence)
    assert "\n" not in str(refusal.value)


def test_bounds_for_each_action():
    bounds = (np.array([-1.0, 0.0]), [1, 2])
    assert custom.Options(action_bounds=bounds).told() == {"action_bounds": [[-1.0, 0.0], [1, 2]]}
    arrays = refused_arrays(actions=np.array([[-1.0, 0], [1, 2], [0, 1], [0, 1]]))
    data = load(custom.from_arrays(arrays, action_bounds=bounds)).train
    np.testing.assert_allclose(data.actions, [[-1, -1], [1, 1], [0, 0], [0, 0]], atol=1e-4)


def unbounded():
    made = Hand()
    made.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    return made


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(kind):
    arrays, maker, options, sentence = REFUSED[kind]
    with pytest.raises(ValueError) as refusal:
        custom.from_arrays(arrays, maker, **options)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "log.npz", **refused_arrays(observations=np.array([{}] * 4)))
    with pytest.raises(
        ValueError, match=r"log\.npz has observations of Python objects \(expected an array of numbers\)\.$"
    ):
        custom.from_npz(tmp_path / "log.npz")


def test_a_function_without_a_name_has_a_readable_label(logged):
    assert custom.from_arrays(logged, lambda: pendulum()).environment == "an environment of your own"


def test_an_action_outside_the_bounds_of_its_environment_is_refused_in_the_environment_s_units(logged):
    actions = logged["actions"].copy()
    actions[7] = 2.5
    with pytest.raises(ValueError, match=r"in 1 of 33 rows, first in row 7: action 0 is 2\.5, not in \[-2, 2\]\.$"):
        load(custom.from_arrays(logged | {"actions": actions}, PENDULUM))


def test_discrete_minari_data_are_refused(here):
    with pytest.raises(ValueError, match=r"has actions in Discrete\(2\) \(expected a bounded Box of d real numbers"):
        custom.from_minari("mine/cart/random-v0")


def _without_environment(collected, folder, monkeypatch):
    """A data set of Minari's that describes no environment, as sets made from buffers may."""
    shutil.copytree(collected, folder, dirs_exist_ok=True)
    path = folder / "mine" / "pendulum" / "random-v0" / "data" / "metadata.json"
    about = json.loads(path.read_text())
    assert about.pop("env_spec")
    path.write_text(json.dumps(about))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))


def test_a_minari_set_that_describes_no_environment_is_logs_alone(collected, tmp_path, monkeypatch):
    _without_environment(collected, tmp_path, monkeypatch)
    with pytest.warns(
        UserWarning, match=r"^The Minari data set mine/pendulum/random-v0 describes no environment: nothing"
    ):
        task = custom.from_source("mine/pendulum/random-v0")
    assert not task.has_environment
    assert load(task).train.size == 36
    assert custom.from_source("mine/pendulum/random-v0", PENDULUM).has_environment


def test_logs_alone_can_be_asked_for_by_name(file, here):
    for text, options in (("mine/pendulum/random-v0", {}), (str(file), {"action_bounds": (-2, 2)})):
        assert not custom.from_source(text, "none", **options).has_environment


def _broken(**options):
    raise AssertionError


def test_an_environment_that_its_own_library_cannot_make_gets_one_sentence(here):
    """As Franka's kitchen does with MuJoCo 4: an assertion of gymnasium-robotics, five calls down."""
    gymnasium.register("Broken-v0", _broken)
    try:
        with pytest.raises(
            OSError, match=r"^The environment Broken-v0 cannot be made here: AssertionError in test_custom"
        ) as told:
            custom.from_source("mine/pendulum/random-v0", "Broken-v0")
    finally:
        del gymnasium.registry["Broken-v0"]
    assert str(told.value).endswith("Its data can be used without it: `--env none`, or environment=None.")


@pytest.mark.parametrize("kind", ["npz", "minari", "logs", "minari logs"])
def test_a_task_is_made_again_from_what_it_tells(every_kind, kind):
    task = every_kind[kind]
    tree = json.loads(json.dumps(task.to_dict()))
    again = task_from_dict(tree)
    assert again.to_dict() == task.to_dict()
    for name in ("name", "environment", "horizon", "discount", "evaluations", "score"):
        assert getattr(again, name) == getattr(task, name)
    np.testing.assert_array_equal(load(again).train.actions, load(task).train.actions)


def test_options_and_importable_functions_are_told_too(file):
    options = {"discount": 0.9, "references": (-10.0, 5.0), "evaluations": (1, 2), "updates": 2, "name": "swing"}
    task = custom.from_npz(file, "gymnasium.envs.classic_control.pendulum:PendulumEnv", rewards=_ones, **options)
    again = task_from_dict(json.loads(json.dumps(task.to_dict())))
    assert (again.discount, again.references, again.evaluations, again.name) == (0.9, (-10.0, 5.0), (1, 2), "swing")
    np.testing.assert_array_equal(load(again).train.rewards, np.ones(33))
    assert environment(again).unwrapped.action_space.high == 2
    np.testing.assert_allclose(
        score(task, np.array([[-10.0, 5.0], [-2.5, 20.0]]), np.zeros((2, 2))), [[0, 100], [50, 200]]
    )


def _ones(arrays):
    return np.ones(len(arrays["actions"]))


def test_what_no_file_holds_must_be_passed_again(every_kind, file):
    tree = every_kind["arrays"].to_dict()
    with pytest.raises(
        ValueError,
        match=rf"made from arrays in memory \(fingerprint {tree['fingerprint']}\), which no file holds: make it again",
    ):
        task_from_dict(tree)
    lost = custom.from_npz(file, lambda: pendulum())
    with pytest.raises(
        ValueError, match=r"^The task pendulum was made from an environment that a function makes which cannot be"
    ):
        task_from_dict(lost.to_dict())


@pytest.mark.parametrize("name", ["cube-single-play-singletask-task3-v0", "D4RL/pen/human-v2"])
def test_a_task_of_the_registry_is_its_name(name):
    assert TASKS[name].to_dict() == {"name": name}
    assert task_from_dict({"name": name}) is TASKS[name]
    assert TASKS[name].has_environment


def test_a_text_is_a_file_or_an_id(file, here):
    assert custom.from_source(str(file), PENDULUM).to_dict()["kind"] == "npz"
    assert custom.from_source("mine/pendulum/random-v0").to_dict()["environment"] == "recover"
    with pytest.raises(FileNotFoundError, match=r"^There is no file .*/pendul\.npz\.$"):
        custom.from_source(str(file.with_name("pendul.npz")))
    with pytest.raises(
        ValueError, match=r"^Data are an npz file or a Minari id such as D4RL/pen/human-v2; got 'pendulum'\.$"
    ):
        custom.from_source("pendulum")


def test_a_minari_set_that_is_not_here_says_why_it_cannot_be_had(here, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        FileNotFoundError, match=r"^There is no Minari data set a/b-v0 in .*cannot be downloaded \(no network: Con"
    ):
        custom.from_minari("a/b-v0")


def test_one_s_own_data_are_not_chosen_by_size(every_kind):
    for options in ({"episodes": 3}, {"source": "recorded"}, {"seed": 1}, {"dataset_dir": "."}):
        with pytest.raises(
            ValueError, match=r"^pendulum is data of your own, taken as they are: source, episodes, seed"
        ):
            load(every_kind["npz"], **options)


def test_one_s_own_data_are_summed_up(every_kind, logged):
    found = summary.summarize(every_kind["npz"])
    assert (found.transitions, found.lengths.tolist()) == (30, [9, 10, 11])
    kept = ~logged["terminals"]
    np.testing.assert_allclose(found.mean, logged["actions"][kept].mean(axis=0) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.returns.sum(), logged["rewards"][kept].sum(), rtol=1e-5)
    assert "pendulum: dense rewards" in summary.describe(found)


def test_an_environment_that_changed_since_is_refused(every_kind):
    import dataclasses

    task = every_kind["npz"]
    other = dataclasses.replace(task, dataset=dataclasses.replace(task.dataset, observation=(4,)))
    with pytest.raises(
        ValueError, match=r"^Pendulum-v1 has observations and actions of shapes \(3,\) and \(1,\) \(expected"
    ):
        environment(other)


def test_a_file_that_is_gone_is_named(every_kind, file):
    file.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"^There is no file .*/pendulum\.npz any more, from which the task pendulum was made\.$",
    ):
        load(every_kind["npz"])


class Camera(Hand):
    """What the hand sees in pictures of bytes."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def _seen(self):
        return np.full((64, 64, 3), int(10 * abs(self.place[0])), np.uint8)


def test_pictures_stay_pictures():
    made, pictures = Camera(), []
    for seed in range(4):
        pictures.append(made.reset(seed=seed)[0])
    arrays = {"observations": np.array(pictures), "actions": np.zeros((4, 2)), "rewards": np.zeros(4)}
    task = custom.from_arrays(arrays | {"terminals": np.array([0, 0, 0, 1])}, Camera, horizon=5)
    data = load(task).train
    assert task.dataset.observation == data.observation_shape == (64, 64, 3)
    seen, _ = environment(task).reset(seed=2)
    assert seen.dtype == data.observations.dtype == np.uint8
    np.testing.assert_array_equal(seen, data.observations[2])
    wrong = {
        "observations": np.zeros((4, 64, 64, 3)),
        "actions": np.zeros((4, 2)),
        "rewards": np.zeros(4),
        "terminals": np.eye(4)[3],
    }
    with pytest.raises(
        ValueError, match=r"has observations of shape \(12288,\) and 2 actions; Camera has \(64, 64, 3\) and 2\.$"
    ):
        custom.from_arrays(wrong, Camera)


def test_a_maze_of_ogbench_starts_where_its_seed_says():
    """OGBench's mazes draw from NumPy's global generator; evaluations must not depend on what was drawn before."""
    arrays = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros((4, 2)),
        "rewards": np.zeros(4),
        "terminals": np.eye(4)[3],
    }
    task = custom.from_arrays(arrays, "pointmaze-medium-singletask-task1-v0", score="success")
    with environment(task) as made:
        first, _ = made.reset(seed=5)
        made.reset(seed=6)
        again, _ = made.reset(seed=5)
        assert (first.shape, first.dtype, task.horizon) == ((2,), np.float32, 1000)
        np.testing.assert_array_equal(first, again)

"""D4RL through Minari: small real data sets, recorded with Minari's own collector, read, damaged, and scored."""

import enum
import functools
import os
import pickle
import shutil
import subprocess
import sys

import h5py
import jax.numpy as jnp
import minari as library
import mujoco
import numpy as np
import pytest

from fdbook import cli, experiment
from fdbook.data import custom, minari
from fdbook.data.load import load
from fdbook.data.tasks import find_task
from fdbook.experiment.spec import RunSpec
from fdbook.rl import records


PEN, ANT = "D4RL/pen/human-v2", "D4RL/antmaze/umaze-v1"
DOOR, HAMMER, RELOCATE = "D4RL/door/cloned-v2", "D4RL/hammer/expert-v2", "D4RL/relocate/human-v2"
HANDS = (PEN, DOOR, HAMMER, RELOCATE)
SETS = (*HANDS, ANT)
KITCHEN = "D4RL/kitchen/partial-v2"
"""A set of D4RL that the papers, and so the registry, do not have: Minari's id makes a task of one's own of it."""
WIDTHS = {
    PEN: ((45,), (24,)),
    DOOR: ((39,), (28,)),
    HAMMER: ((46,), (26,)),
    RELOCATE: ((39,), (30,)),
    ANT: ((29,), (8,)),
}
"""The shapes of one observation and of one action, from the documentation of the environments."""
REFERENCES = {
    PEN: (96.262799, 3076.8331),
    DOOR: (-56.512833, 2880.569309),
    HAMMER: (-274.856578, 12794.134825),
    RELOCATE: (-6.425911, 4233.877798),
}
"""The returns of a random and of an expert policy, as D4RL has them."""
CHORES = ("kettle", "light switch", "microwave", "slide cabinet")
"""What is to be done in that kitchen, by name."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*share an object"),  # the goal of a kitchen
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32"),
    pytest.mark.filterwarnings("ignore:.*v4 is out of date"),
    pytest.mark.filterwarnings("ignore:None of the .* transitions:UserWarning"),
]


COLLECT = """
import pickle, sys
import gymnasium, gymnasium_robotics, minari

gymnasium.register_envs(gymnasium_robotics)
seen, sets = {}, pickle.load(sys.stdin.buffer)
for name, (id, options, low, high, evaluation) in sets.items():
    collector = minari.DataCollector(gymnasium.make(id, **options))
    collector.action_space.seed(0)
    seen[name] = []
    for episode in range(2):
        observation, _ = collector.reset(seed=episode)
        if id == "FrankaKitchen-v1" and episode:
            collector.unwrapped.data.qpos[22] = -0.75  # the microwave is open
        over = False
        while not over:
            action, before = collector.action_space.sample(), observation
            observation, reward, terminated, truncated, _ = collector.step(action)
            over = terminated or truncated
            seen[name].append((before, action, reward, observation, terminated, over))
    about = {"algorithm_name": "random", "author": "a", "author_email": "a", "code_permalink": "a", "description": "a"}
    collector.create_dataset(name, eval_env=evaluation, ref_min_score=low, ref_max_score=high, **about)
pickle.dump(seen, open(sys.argv[1], "wb"))
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Two episodes of random actions in each environment, in Minari's own format, and what was seen and done.

    As in the published sets, three hands and the kitchen have no other environment for evaluation, what people show of a hand is
    longer than an evaluation, and a kitchen goes on when its chores are done. In its second episode the microwave is open from
    the start. Python's -O leaves out the assertion with which MuJoCo 4 makes no kitchen.
    """
    folder = tmp_path_factory.mktemp("minari")
    goes_on = {"remove_task_when_completed": False, "terminate_on_tasks_completed": False}
    options = {
        PEN: {"max_episode_steps": 20},
        RELOCATE: {"max_episode_steps": 210},
        ANT: {"max_episode_steps": 15, "continuing_task": True},
        KITCHEN: {"max_episode_steps": 14, "tasks_to_complete": list(CHORES)} | goes_on,
    }
    tasks = {name: find_task(name) for name in SETS}
    ids = {name: task.environment for name, task in tasks.items()} | {KITCHEN: "FrankaKitchen-v1"}
    ranges = {name: task.references for name, task in tasks.items()} | {KITCHEN: (0.0, 4.0)}
    sets = {
        name: (id, options.get(name, {"max_episode_steps": 12}), *ranges[name], id if name in (PEN, ANT) else None)
        for name, id in ids.items()
    }
    environ = dict(os.environ) | {"MINARI_DATASETS_PATH": str(folder)}
    words = [sys.executable, "-O", "-W", "ignore", "-c", COLLECT, str(folder / "seen.pickle")]
    subprocess.run(words, input=pickle.dumps(sets), env=environ, check=True, capture_output=True)
    return folder, pickle.loads((folder / "seen.pickle").read_bytes())


@pytest.fixture
def copy(collected, tmp_path):
    """The data sets in a folder of their own, to be damaged."""
    shutil.copytree(collected[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def old_d4rl(observation, name):
    """An observation as the old D4RL had it: the place in front of the ant's body; a hand's as it is."""
    if name != ANT:
        return observation
    return np.concatenate([observation["achieved_goal"], observation["observation"]])


@pytest.mark.parametrize("name", SETS)
def test_transitions_are_what_was_seen_and_done(collected, name):
    folder, seen = collected
    task = find_task(name)
    transitions, validation = minari.transitions(task, folder)
    batch = transitions.at(jnp.arange(transitions.size))
    before, actions, rewards, after, terminated, _ = zip(*seen[name], strict=True)
    assert validation is None
    assert transitions.size == len(seen[name])
    np.testing.assert_array_equal(batch.observations, np.float32([old_d4rl(value, name) for value in before]))
    np.testing.assert_array_equal(batch.next_observations, np.float32([old_d4rl(value, name) for value in after]))
    np.testing.assert_array_equal(batch.actions, np.clip(np.float32(actions), -1 + 1e-5, 1 - 1e-5))
    np.testing.assert_array_equal(batch.rewards, np.float32(rewards) + task.reward_shift)
    reached = np.array(rewards) >= 1 if name == ANT else np.zeros(len(rewards), bool)
    np.testing.assert_array_equal(batch.masks, 1.0 - (np.array(terminated) | reached))
    assert (batch.observations.shape[1:], batch.actions.shape[1:]) == WIDTHS[name]
    assert {values.dtype for values in (batch.observations, batch.actions, batch.rewards)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", SETS)
def test_episodes_are_those_of_minari_itself(collected, monkeypatch, name):
    """We leave the infos of an HDF5 file unread; the rest is what Minari's own iterator gives."""
    folder, _ = collected
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    task, data = find_task(name), library.load_dataset(name)
    ours = list(minari._episodes(data, task.dataset))
    for mine, theirs in zip(ours, data.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(
            minari.flatten(mine.observations, task.dataset), minari.flatten(theirs.observations, task.dataset)
        )
        for key in ("id", "actions", "rewards", "terminations"):
            np.testing.assert_array_equal(getattr(mine, key), getattr(theirs, key))


@pytest.mark.parametrize("name", SETS)
def test_time_outs_are_no_terminations(collected, name):
    folder, seen = collected
    arrays = minari.read(find_task(name), folder)
    ends = np.flatnonzero(arrays["ends"])
    steps = np.flatnonzero([over for *_, over in seen[name]]) + 1
    np.testing.assert_array_equal(ends, steps + np.arange(len(steps)))
    assert np.all(arrays["masks"][ends - 1] == 1)


def test_a_reached_goal_of_an_ant_maze_masks(copy):
    """D4RL's antmaze ended where the goal was reached; Minari's goes on, with a reward of 1."""
    with h5py.File(copy / ANT / "data" / "main_data.hdf5", "a") as file:
        rewards = file["episode_0/rewards"][:]
        rewards[4] = 1
        file["episode_0/rewards"][...] = rewards
    arrays = minari.read(find_task(ANT), copy)
    assert arrays["rewards"][3:6].tolist() == [-1, 0, -1]
    assert arrays["masks"][3:6].tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", SETS)
def test_the_environment_gives_flat_observations(collected, name):
    task = find_task(name)
    for folder in (None, collected[0]):
        with minari.environment(task, folder) as environment:
            observation, _ = environment.reset(seed=3)
            assert observation.shape == environment.observation_space.shape == task.dataset.observation
            assert observation.dtype == np.float32
            inside = environment.unwrapped
            assert environment.spec.max_episode_steps == task.horizon
            if name == ANT:
                assert not inside.continuing_task
                np.testing.assert_allclose(observation[:2], inside.ant_env.data.qpos[:2], atol=1e-6)


@pytest.mark.parametrize("name", HANDS)
def test_scores_are_those_of_minari_times_100(collected, monkeypatch, name):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(collected[0]))
    task, (low, high) = find_task(name), REFERENCES[name]
    returns = np.array([low, 1000.0, high, -5.0])
    wanted = 100 * library.get_normalized_score(library.load_dataset(name), returns)
    np.testing.assert_allclose(minari.normalized_score(task, returns), wanted)
    np.testing.assert_allclose(minari.normalized_score(task, returns[[0, 2]]), [0, 100], atol=1e-12)


def test_a_task_without_references_has_no_score():
    with pytest.raises(
        ValueError, match=r"^The task cube-single-play-singletask-task2-v0 has no reference returns: its score"
    ):
        minari.normalized_score(find_task("cube-single-play-singletask"), 1.0)


@pytest.mark.parametrize("name", HANDS)
def test_data_on_this_machine_are_found(collected, monkeypatch, tmp_path, name):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(collected[0]))
    assert minari.locate(name) == collected[0]
    loaded = load(name, normalize=True)
    assert (loaded.source, loaded.folder, loaded.validation) == ("downloaded", collected[0], None)
    seen, _ = WIDTHS[name]
    assert loaded.train.normalizer.mean.shape == seen
    with loaded.environment() as environment:
        assert environment.reset(seed=0)[0].shape == seen
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert minari.locate(name) is None


@pytest.mark.parametrize("name", HANDS)
def test_data_of_a_hand_are_summed_up(collected, monkeypatch, capsys, name):
    folder, seen = collected
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    assert cli.main(["data", "inspect", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = len(seen[name]) // 2
    parts = seen[name][:steps], seen[name][steps:]
    low, high = sorted(sum(reward for _, _, reward, *_ in part) for part in parts)
    quantiles = ", ".join(f"{low + share * (high - low):.4g}" for share in (0.1, 0.5, 0.9))
    assert lines[0].startswith(f"{name}, in {folder} (")
    assert lines[1] == f"{2 * steps} transitions in 2 episodes of {steps}"
    assert lines[-2:] == [f"returns of episodes, as recorded (10, 50, 90%): {quantiles}", f"{name}: dense rewards"]


LENGTHS = {
    "D4RL/pen/cloned-v2": (500_000, 3736, 200),
    "D4RL/door/human-v2": (6729, 25, 300),
    "D4RL/door/expert-v2": (1_000_000, 5000, 200),
    "D4RL/hammer/human-v2": (11_310, 25, 625),
    "D4RL/hammer/expert-v2": (1_000_000, 5000, 200),
    "D4RL/relocate/cloned-v2": (1_000_000, 3758, 530),
    "D4RL/relocate/expert-v2": (1_000_000, 5000, 200),
}
"""Steps and episodes of published sets, from Minari's documentation, and the limit of steps in the scripts that made them."""


@pytest.mark.parametrize("name", LENGTHS)
def test_episodes_that_people_showed_may_be_longer_than_an_evaluation(name):
    steps, episodes, limit = LENGTHS[name]
    assert steps / episodes <= find_task(name).dataset.steps == limit
    assert find_task(name).horizon == (100 if name.startswith("D4RL/pen/") else 200)


def kitchen_seen(observation):
    """What a kitchen shows, flat: by name, the chores as they are, the goals of them, then robot and things."""
    parts = [observation[key][chore] for key in ("achieved_goal", "desired_goal") for chore in CHORES]
    return np.concatenate([*parts, observation["observation"]])


@pytest.fixture
def kitchen(collected, monkeypatch):
    """Makes a task of one's own of the kitchen's set."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(collected[0]))
    return functools.partial(custom.from_minari, KITCHEN, references=(0.0, 4.0))


@pytest.fixture
def comparing(monkeypatch):
    """MuJoCo with joint types that equal their numbers, as gymnasium-robotics' kitchen wants them."""
    joints = {name: int(joint) for name, joint in mujoco.mjtJoint.__members__.items()}
    monkeypatch.setattr(mujoco, "mjtJoint", enum.IntEnum("mjtJoint", joints))


def test_transitions_of_a_kitchen_are_what_was_seen_and_done(collected, kitchen):
    """Time-outs are no terminations, and each step is rewarded with the number of chores that are done then."""
    folder, seen = collected
    loaded = load(kitchen(None))
    assert (loaded.source, loaded.folder, loaded.validation) == ("own", folder, None)
    batch = loaded.train.at(jnp.arange(loaded.train.size))
    before, actions, rewards, after, _, over = zip(*seen[KITCHEN], strict=True)
    assert batch.observations.shape == (28, 2 * 11 + 59)
    np.testing.assert_array_equal(batch.observations, np.float32([kitchen_seen(value) for value in before]))
    np.testing.assert_array_equal(batch.next_observations, np.float32([kitchen_seen(value) for value in after]))
    np.testing.assert_array_equal(batch.actions, np.clip(np.float32(actions), -1 + 1e-5, 1 - 1e-5))
    np.testing.assert_array_equal(batch.rewards, rewards)
    assert set(rewards[:14]) == {0}
    assert rewards[14] == 1
    assert np.flatnonzero(over).tolist() == [13, 27]
    assert np.all(batch.masks == 1)
    assert load(kitchen(None, keys=("observation",))).train.observation_shape == (59,)


def test_a_kitchen_that_cannot_be_made_gets_one_sentence(kitchen, capsys):
    """In MuJoCo 4 the type of a joint does not equal its number, only the number the type; gymnasium-robotics asks the first."""
    if mujoco.mjtJoint.mjJNT_HINGE == np.int32(mujoco.mjtJoint.mjJNT_HINGE):
        pytest.skip("kitchens can be made with this MuJoCo")
    for environment, name in (("recover", f"of {KITCHEN}"), ("FrankaKitchen-v1", "FrankaKitchen-v1")):
        with pytest.raises(OSError, match=r"^The environment ") as refusal:
            kitchen(environment)
        said = str(refusal.value)
        assert said.startswith(f"The environment {name} cannot be made here: AssertionError in mujoco_utils.py, line ")
        assert said.endswith("Its data can be used without it: `--env none`, or environment=None.")
        assert "\n" not in said
    assert cli.main(["train", "--data", KITCHEN, "--agent", "bc"]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"fdbook: The environment of {KITCHEN} cannot be made here: AssertionError in ")
    assert complaint.count("\n") == 1


@pytest.mark.slow
def test_a_kitchen_s_data_are_trained_on_without_it(kitchen, tmp_path):
    """As the sentence says that they can be: they are then judged by the logs alone."""
    small = [word for name in ("width=8", "depth=1", "batch_size=8") for word in ("--set", name)]
    words = ["train", "--data", KITCHEN, "--env", "none", "--agent", "bc", "--updates", "3", "--no-progress", *small]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    record = records.read(tmp_path / "run")
    (found,) = record.scores
    assert (record.done, set(found)) == (3, {"step", "train_nll", "clipped_share", "fqe_value"})
    assert np.all(np.isfinite([found["train_nll"], found["fqe_value"]]))


def test_a_kitchen_is_recovered_with_its_chores(kitchen, comparing):
    task = kitchen()
    assert (task.horizon, task.score, task.dataset.action) == (14, "normalized return", 9)
    with load(task).environment() as environment:
        observation, _ = environment.reset(seed=3)
        inside = environment.unwrapped
        assert observation.shape == environment.observation_space.shape == task.dataset.observation
        assert observation.dtype == np.float32
        assert set(inside.goal) == set(CHORES)
        assert not inside.terminate_on_tasks_completed
        microwave = 7 + 2  # behind the kettle and the light switch
        np.testing.assert_allclose(observation[microwave], inside.data.qpos[22], atol=1e-6)
        np.testing.assert_allclose(observation[11 + microwave], -0.75)


@pytest.mark.slow
@pytest.mark.parametrize("name", [DOOR, HAMMER, RELOCATE, KITCHEN])
def test_a_short_run_is_scored_by_what_it_plays(kitchen, comparing, tmp_path, name):
    """One episode after three updates; the run that is opened again plays the same one."""
    task = kitchen() if name == KITCHEN else find_task(name)
    config = {"width": 8, "depth": 1, "batch_size": 8, "flow_steps": 1}
    spec = RunSpec(task, "bc", updates=3, evaluations=(3,), episodes=1, normalize=True, config=config)
    run = experiment.train(spec, tmp_path, progress=False, say=lambda sentence: None)
    (found,) = run.record.scores
    low, high = (0.0, 4.0) if name == KITCHEN else REFERENCES[name]
    assert found["length"] == [14 if name == KITCHEN else 200]
    assert np.isfinite(found["return"]).all()
    np.testing.assert_allclose(found["score"], 100 * (np.array(found["return"]) - low) / (high - low), atol=1e-6)
    again = experiment.open_run(tmp_path).evaluate(progress=False)
    assert again == {key: found[key] for key in found if key != "step"}


class Break(Exception):
    """What stops a run in these tests."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "over_at"), [(PEN, [100]), (RELOCATE, []), (ANT, [])])
def test_a_run_goes_on_in_the_environment_of_its_data(collected, monkeypatch, tmp_path, name, over_at):
    """A pen's episode is over after 100 steps, other hands' later; an ant that stays where it began gets -1 for each step.
    Broken off between, both end bit for bit as if nothing had been."""

    def watch(record, agents):
        if record.done >= 60:
            raise Break

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(collected[0]))
    config = {"width": 8, "depth": 1, "batch_size": 8, "flow_steps": 1}
    spec = RunSpec(name, "bc", updates=10, online=110, evaluations=[], seeds=2, config=config)
    quick = {"progress": False, "log_every": 1, "say": lambda sentence: None}
    whole = experiment.train(spec, **quick).record.progress.curves
    ended, rewards = (np.array(whole[key])[10:] for key in ("online_episodes", "online_reward"))
    for seed in range(2):
        assert (np.flatnonzero(ended[:, seed]) + 1).tolist() == over_at
    assert np.all(rewards == -1) == (name == ANT)
    assert np.all(np.isfinite(rewards))

    with pytest.raises(Break):
        experiment.train(spec, tmp_path, watch=watch, save_every=40, **quick)
    assert 10 < records.read(tmp_path).done < 120
    assert experiment.train(spec, tmp_path, **quick).record.progress.curves == whole


def change(folder, key, value):
    """Replaces an array of the first episode."""
    with h5py.File(folder / PEN / "data" / "main_data.hdf5", "a") as file:
        values = file[f"episode_0/{key}"][:]
        del file[f"episode_0/{key}"]
        if value is not None:
            file[f"episode_0/{key}"] = value(values)


def with_entry(index, entry):
    def changed(values):
        values[index] = entry
        return values

    return changed


def truncate(folder):
    path = folder / PEN / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:-5000])


DAMAGE = {
    "truncated": (truncate, "is damaged"),
    "no metadata": (
        lambda folder: (folder / PEN / "data" / "metadata.json").unlink(),
        "is damaged or is not a Minari data set.",
    ),
    "no rewards": (lambda folder: change(folder, "rewards", None), "is damaged: KeyError on reading its episodes."),
    "NaN": (
        lambda folder: change(folder, "observations", with_entry((3, 7), np.nan)),
        "has observations NaN or infinite in 1 of 42 rows, first in row 3 (nan).",
    ),
    "wide action": (
        lambda folder: change(folder, "actions", with_entry((5, 0), 1.5)),
        "has actions outside [-1, 1] in 1 of 42 rows, first in row 5 (1.5).",
    ),
    "narrow": (
        lambda folder: change(folder, "observations", lambda values: values[:, :-1]),
        "episode 0, has observations of shape (21, 44) (expected (21, 45)).",
    ),
    "short": (
        lambda folder: change(folder, "actions", lambda values: values[:-1]),
        "episode 0, has actions of shape (19, 24) (expected (20, 24)).",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_in_one_sentence(copy, kind):
    damage, sentence = DAMAGE[kind]
    damage(copy)
    with pytest.raises(ValueError) as refusal:
        minari.transitions(find_task(PEN), copy)
    said = str(refusal.value)
    assert str(copy / PEN) in said
    assert sentence in said
    assert "\n" not in said


def test_a_folder_without_the_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^There is no Minari data set D4RL/pen/human-v2 in "):
        minari.read(find_task(PEN), tmp_path)


def test_without_a_network_one_sentence_says_what_can_be_done(monkeypatch, tmp_path):
    """The hub's address is one of this machine at which nobody answers."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as refusal:
        load(PEN)
    assert str(refusal.value) == (
        f"{PEN} is not on this machine and cannot be downloaded (no network: ConnectError); {PEN} cannot be recorded anew: "
        "it was made by people, and by policies trained on them, which no environment brings along."
    )
    with pytest.raises(FileNotFoundError, match=r"`fdbook data record D4RL/pointmaze/umaze-v2` records it\.$"):
        load("D4RL/pointmaze/umaze-v2")

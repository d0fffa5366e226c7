"""D4RL through Minari: small real data sets, recorded with Minari's own collector, read, damaged, and scored."""

import os
import pickle
import shutil
import subprocess
import sys

import h5py
import jax.numpy as jnp
import minari as library
import numpy as np
import pytest

from fdbook import experiment
from fdbook.data import minari
from fdbook.data.load import load
from fdbook.data.tasks import find_task
from fdbook.experiment.spec import RunSpec
from fdbook.rl import records


PEN, ANT = "D4RL/pen/human-v2", "D4RL/antmaze/umaze-v1"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32"),
    pytest.mark.filterwarnings("ignore:.*v4 is out of date"),
    pytest.mark.filterwarnings("ignore:None of the .* transitions:UserWarning"),
]


COLLECT = """
import pickle, sys
import gymnasium, gymnasium_robotics, minari

gymnasium.register_envs(gymnasium_robotics)
seen, sets = {}, pickle.load(sys.stdin.buffer)
for name, (id, options, low, high) in sets.items():
    collector = minari.DataCollector(gymnasium.make(id, **options))
    collector.action_space.seed(0)
    seen[name] = []
    for episode in range(2):
        observation, _ = collector.reset(seed=episode)
        over = False
        while not over:
            action, before = collector.action_space.sample(), observation
            observation, reward, terminated, truncated, _ = collector.step(action)
            over = terminated or truncated
            seen[name].append((before, action, reward, observation, terminated, over))
    about = {"algorithm_name": "random", "author": "a", "author_email": "a", "code_permalink": "a", "description": "a"}
    collector.create_dataset(name, eval_env=id, ref_min_score=low, ref_max_score=high, **about)
pickle.dump(seen, open(sys.argv[1], "wb"))
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Two episodes of random actions in each of two environments, in Minari's own format, and what was seen and done."""
    folder = tmp_path_factory.mktemp("minari")
    ends = {PEN: {"max_episode_steps": 20}, ANT: {"max_episode_steps": 15, "continuing_task": True}}
    ids = {PEN: "AdroitHandPen-v1", ANT: "AntMaze_UMaze-v4"}
    sets = {name: (id, ends[name], *find_task(name).references) for name, id in ids.items()}
    environ = dict(os.environ) | {"MINARI_DATASETS_PATH": str(folder)}
    words = [sys.executable, "-W", "ignore", "-c", COLLECT, str(folder / "seen.pickle")]
    subprocess.run(words, input=pickle.dumps(sets), env=environ, check=True, capture_output=True)
    return folder, pickle.loads((folder / "seen.pickle").read_bytes())


@pytest.fixture
def copy(collected, tmp_path):
    """The data sets in a folder of their own, to be damaged."""
    shutil.copytree(collected[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def old_d4rl(observation, name):
    """An observation as the old D4RL had it: the place in front of the ant's body; the hand as it is."""
    if name == PEN:
        return observation
    return np.concatenate([observation["achieved_goal"], observation["observation"]])


@pytest.mark.parametrize("name", [PEN, ANT])
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


@pytest.mark.parametrize("name", [PEN, ANT])
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


@pytest.mark.parametrize("name", [PEN, ANT])
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


@pytest.mark.parametrize("name", [PEN, ANT])
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


def test_scores_are_those_of_minari_times_100(collected, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(collected[0]))
    returns = np.array([96.262799, 1000.0, 3076.8331, -5.0])
    wanted = 100 * library.get_normalized_score(library.load_dataset(PEN), returns)
    np.testing.assert_allclose(minari.normalized_score(find_task(PEN), returns), wanted)
    np.testing.assert_allclose(minari.normalized_score(find_task(PEN), returns[[0, 2]]), [0, 100])


def test_a_task_without_references_has_no_score():
    with pytest.raises(
        ValueError, match=r"^The task cube-single-play-singletask-task2-v0 has no reference returns: its score"
    ):
        minari.normalized_score(find_task("cube-single-play-singletask"), 1.0)


def test_data_on_this_machine_are_found(collected, monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(collected[0]))
    loaded = load(PEN, normalize=True)
    assert (loaded.source, loaded.folder, loaded.validation) == ("downloaded", collected[0], None)
    assert loaded.train.normalizer.mean.shape == (45,)
    with loaded.environment() as environment:
        assert environment.reset(seed=0)[0].shape == (45,)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert minari.locate(PEN) is None


class Break(Exception):
    """What stops a run in these tests."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "over_at"), [(PEN, [100]), (ANT, [])])
def test_a_run_goes_on_in_the_environment_of_its_data(collected, monkeypatch, tmp_path, name, over_at):
    """A hand's episode is over after its 100 steps; an ant that stays where it began is never over, and gets -1 for each step.
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

"""Runs from a specification to a record, their evaluation on real environments, and the commands that do both."""

import ctypes.util
import dataclasses
import functools
import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbook import cli, experiment
from fdbook.checks import memory_told
from fdbook.data import load as loading
from fdbook.data.load import load
from fdbook.data.record import record
from fdbook.data.tasks import find_task
from fdbook.experiment import RunSpec, evaluation
from fdbook.experiment import run as running
from fdbook.rl import agents, records, train, transitions
from fdbook.rl.evaluate import Evaluation, evaluate
from fdbook.rl.fourier_features import Normalizer


pytestmark = pytest.mark.slow
MAZE, TASK = "ogbench/pointmaze-medium-navigate", "pointmaze-medium-navigate-singletask"
EPISODES = 3
SMALL = {"width": 16, "depth": 1, "batch_size": 32}
QUICK = {"save_every": 30, "log_every": 30, "progress": False, "say": lambda sentence: None}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of recordings with a small maze."""
    folder = tmp_path_factory.mktemp("recordings")
    record(MAZE, episodes=EPISODES, folder=folder, workers=1, progress=False)
    return folder


@pytest.fixture
def here(base, tmp_path, monkeypatch):
    """The current folder is empty, and the small maze is what is recorded."""
    monkeypatch.setenv("FDBOOK_DATA", str(base))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loaded(here):
    with pytest.warns(UserWarning, match="reaches the goal"):
        return load(TASK, episodes=EPISODES, normalize=True)


def spec(agent="deflow", **changes):
    """A small run in the small maze."""
    changes = {"updates": 60, "evaluations": (30, 60), "episodes": 2, "wavelengths": (), "config": SMALL} | changes
    return RunSpec(TASK, agent, data={"episodes": EPISODES}, **changes)


@pytest.fixture
def trained(loaded):
    return experiment.train(spec(seeds=(0, 1)), "run", loaded=loaded, **QUICK)


def test_a_run_is_recorded_whole(trained, loaded):
    made = trained.record
    assert records.read("run") == made
    assert made.task == "pointmaze-medium-navigate-singletask-task1-v0"
    assert (made.status, made.done, made.seeds, trained.step) == ("finished", 60, [0, 1], 60)
    assert [each["step"] for each in made.scores] == [30, 60]
    assert all(len(each["score"]) == 2 for each in made.scores)
    assert made.config["budget"] == loaded.task.budget
    assert made.config["discount"] == loaded.task.discount
    assert made.data["transitions"] == EPISODES * 1000
    assert set(made.progress.wall) == {"training", "evaluating", "saving"}
    assert {"jax", "ogbench", "mujoco"} <= set(made.progress.about["versions"])
    assert "finished, 60 of 60 updates" in experiment.summary(made)
    assert "mean of the last 2" in experiment.summary(made)
    assert "2 episodes, the same starts for all seeds: +-" in experiment.summary(made)


def test_two_evaluations_of_one_checkpoint_agree(trained):
    """From disk, with other environments, and with another number of them: the same episodes."""
    run = experiment.open_run("run")
    assert run.step == 60
    first = run.evaluate(progress=False)
    assert first == run.evaluate(episodes=2, progress=False)
    kept = {name: values for name, values in trained.record.scores[-1].items() if name != "step"}
    assert kept == {name: first[name] for name in kept}
    assert first.keys() - kept.keys() == {"discounted return", "value estimate"}
    assert first["success"] == [0.0, 0.0]  # so that each of the 1000 steps costs 1
    discount = run.spec.config.discount
    never = -(1 - discount**1000) / (1 - discount)
    np.testing.assert_allclose(first["discounted return"], [never, never], rtol=1e-5)
    environments = [loading.environment(run.task) for _ in range(2)]
    one_each = evaluate(trained.agents, environments, run.spec.seeds, episodes=2, normalizer=run.normalizer)
    assert evaluation.scores(run.task, one_each) == kept


def test_what_is_reopened_is_what_was_run(trained):
    run = experiment.open_run("run")
    assert run.spec == trained.spec
    assert run.spec.hash == trained.spec.hash
    assert run.spec.overrides == trained.spec.overrides
    assert run.record == trained.record


def test_a_run_is_carried_on_where_the_statistics_round_otherwise(here, monkeypatch):
    """Another device adds up the mean in another order; its last digits are others, the data are the same."""
    quick = QUICK | {"folder": "moved"}
    with pytest.warns(UserWarning, match="reaches the goal"):
        first = experiment.train(spec("bc", updates=30, evaluations=()), **quick)
    elsewhere = vars(jnp) | {"mean": lambda x, axis: jnp.mean(x, axis=axis) * (1 + 3e-7)}
    monkeypatch.setattr(transitions, "jnp", types.SimpleNamespace(**elsewhere))
    with pytest.warns(UserWarning, match="reaches the goal"):
        second = experiment.train(spec("bc", updates=60, evaluations=()), **quick)
    with pytest.warns(UserWarning, match="reaches the goal"):
        data = experiment.open_run("moved").data()
    assert second.record.done == 60
    assert np.any(np.asarray(data.train.normalizer.mean) != np.asarray(first.normalizer.mean))
    assert first.record.data["fingerprint"] == second.record.data["fingerprint"] == data.train.fingerprint()


def test_fourier_features_are_in_the_record_and_come_back(here):
    with pytest.warns(UserWarning, match="reaches the goal"):
        made = experiment.train(
            spec("bc", updates=30, evaluations=(30,), wavelengths=(8.0, 4.0)), "run", **QUICK
        ).record
    run = experiment.open_run("run")
    assert run.normalizer.wavelengths == (8, 4)
    assert run.normalizer.width == 10
    found = run.evaluate(progress=False)
    assert found == {name: made.scores[-1][name] for name in found}


def test_raw_observations_stay_raw_although_the_preset_normalizes(here):
    raw = spec("bc", updates=1, evaluations=(), normalize=False)
    with pytest.warns(UserWarning, match="reaches the goal"):
        run = experiment.train(raw, **QUICK)
    assert run.normalizer is None
    assert run.record.data["normalizer"] is None


def test_data_that_are_not_what_the_specification_says_are_refused(loaded):
    with pytest.raises(
        ValueError, match=r"^load adds Fourier features to normalized observations only; got wavelengths with"
    ):
        load(TASK, episodes=EPISODES, wavelengths=(8.0,))
    for other, sentence in (
        (
            {"wavelengths": (8.0,)},
            r"says normalize=True, wavelengths=\(8\.0,\); the data that were given are normalized",
        ),
        ({"normalize": False}, r"says normalize=False, wavelengths=\(\); the data that were given are normalized"),
    ):
        with pytest.raises(ValueError, match=sentence):
            experiment.train(spec(**other), loaded=loaded, **QUICK)
    with pytest.raises(ValueError, match=r"^A run on cube-single.* takes its data; got those of pointmaze-medium"):
        experiment.train(RunSpec("cube-single-play-singletask"), loaded=loaded, **QUICK)


def test_raw_data_are_prepared_as_the_specification_says(here, loaded):
    with pytest.warns(UserWarning, match="reaches the goal"):
        raw = load(TASK, episodes=EPISODES)
    short = spec("bc", updates=1, evaluations=())
    first, second = (experiment.train(short, loaded=each, **QUICK).record.data for each in (raw, loaded))
    assert first == second


def test_a_normalizer_that_no_record_can_describe_is_refused(loaded):
    class Other(Normalizer):
        pass

    own = loaded.train.normalizer
    strange = dataclasses.replace(loaded.train, normalizer=Other(own.mean, own.scale))
    with pytest.raises(ValueError, match=r"takes a Normalizer, which its record can describe; got a Other\.$"):
        experiment.train(spec("bc"), "run", loaded=dataclasses.replace(loaded, train=strange), **QUICK)
    assert not list(Path("run").glob("*.json"))


def test_seeds_act_for_themselves_and_episodes_differ(trained):
    environments = [loading.environment(trained.task) for _ in range(4)]
    options = {"episodes": 3, "normalizer": trained.normalizer}
    plain = evaluate(trained.agents, environments, [0, 1], **options)
    assert plain.returns.shape == (2, 3)
    other = evaluate(trained.agents, environments, [0, 5], **options)
    assert np.array_equal(plain.lengths[0], other.lengths[0])
    observations = [environments[0].reset(seed=seed)[0] for seed in (1, 2, 1)]
    assert np.array_equal(observations[0], observations[2])
    assert not np.array_equal(observations[0], observations[1])


@pytest.mark.parametrize("name", ["cube-single", "pointmaze-medium", "scene", "D4RL/pointmaze/umaze-v2"])
def test_no_warning_of_gymnasium_reaches_the_reader(name):
    """Warnings are errors in these tests: an environment is made, reset twice and stepped without one."""
    with loading.environment(find_task(name)) as environment:
        for seed in (0, 1):
            environment.reset(seed=seed)
        environment.step(environment.action_space.sample())


class Watched:
    """Settings that keep which of them are read."""

    def __init__(self, config):
        self.config, self.read = config, set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self.config, name)


def small(name, **config):
    """A run of an agent that has learned nothing, as if it had been trained."""
    known = {field.name for field in dataclasses.fields(agents.family(name).Config)}
    config = SMALL | {name: value for name, value in config.items() if name in known}
    made = spec(name, config=config)
    stacked = train.init(agents.make(name), (4,), 2, (0,), **config)
    return running.Run(made, records.Record(made.to_dict(), {}), stacked, 1)


@pytest.mark.parametrize("name", agents.AGENTS)
def test_what_can_be_changed_of_a_run_is_what_its_actions_depend_on(name):
    read = set()
    for selection in ("displaced", "base"):
        run = small(name, num_samples=2, num_refinements=2, selection=selection)
        watched = Watched(run.agents.config)
        agent = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, run.agents)
        object.__setattr__(agent, "config", watched)
        agent.act(jnp.zeros(4, jnp.float32), key=jax.random.key(0))
        read |= watched.read
    assert read == {*running.ACTING[type(run.agents)]}
    for field in dataclasses.fields(run.spec.config):
        value = getattr(run.spec.config, field.name)
        if field.name in read:
            assert getattr(run.acting(**{field.name: value}).agents.config, field.name) == value
        elif field.name != "metric":
            with pytest.raises(ValueError, match=rf"^{name} acts by .*; got {field.name}, of training: another value"):
                run.acting(**{field.name: value})
    with pytest.raises(ValueError, match=r"There is no setting of .* called 'widht'\. Did you mean 'width'"):
        run.acting(widht=8)


def test_pictures_say_their_steps(monkeypatch):
    """Of an episode of 7 steps the first, every second one and the last are shown."""

    class Shown:
        def reset(self, *, seed):
            self.time = 0
            return np.zeros(4, np.float32), {}

        def step(self, action):
            self.time += 1
            return np.zeros(4, np.float32), 0.0, False, self.time == 7, {"success": True}

        def render(self):
            return np.full((2, 2, 3), self.time, np.uint8)

        def close(self):
            pass

    monkeypatch.setattr(loading, "environment", lambda task, render_mode: Shown())
    monkeypatch.setattr(running, "FILM", 1000)
    frames, steps, success = small("bc").pictures()
    assert [int(frame[0, 0, 0]) for frame in frames] == steps == [0, 2, 4, 6, 7]
    assert success


def test_an_evaluation_can_be_stopped(trained):
    environments = [loading.environment(trained.task) for _ in range(2)]
    asked = iter([False] * 5 + [True] * 5)
    assert evaluate(trained.agents, environments, [0, 1], episodes=2, stopped=lambda: next(asked)) is None
    with pytest.raises(ValueError, match=r"an environment for each agent .*; got 1 environments for 2 agents"):
        evaluate(trained.agents, environments[:1], [0, 1], episodes=2)


def test_scores_are_in_percent_of_successes_or_normalized_returns():
    found = Evaluation(
        np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
        np.array([[True, False, True, False], [False, False, False, True]]),
        np.full((2, 4), 7),
    )
    maze = evaluation.scores(find_task(TASK), found)
    assert maze["score"] == [50.0, 25.0]
    assert maze["error"] == pytest.approx([100 * np.sqrt(0.25 / 3), 100 * np.sqrt(0.1875 / 3)], rel=1e-5)
    assert evaluation.scores(find_task("D4RL/antmaze/umaze-v1"), found)["score"] == [50.0, 25.0]
    silent = dataclasses.replace(found, tells_success=False)
    with pytest.raises(ValueError, match=r"The score of .* is success, of which .* says nothing in its info"):
        evaluation.scores(find_task(TASK), silent)
    assert "success" not in evaluation.scores(find_task("D4RL/pen/human-v2"), silent)
    hand = dataclasses.replace(found, returns=np.array([[96.262799] * 4, [3076.8331] * 4]))
    scored = evaluation.scores(find_task("D4RL/pen/human-v2"), hand)["score"]
    assert scored == pytest.approx([0.0, 100.0], abs=1e-3)


HOLD = """
import sys, time
from pathlib import Path
from fdbook.experiment.run import _alone
with _alone(Path("run")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_folder_belongs_to_one_process_until_it_ends(loaded):
    """A second process is refused while the first is alive, and takes the folder over when it was killed."""
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        short = spec("bc", updates=1, evaluations=())
        with pytest.raises(
            BlockingIOError, match=r"^Another process trains in run now: wait, or choose another folder\.$"
        ):
            experiment.train(short, "run", loaded=loaded, **QUICK)
        assert not list(Path("run").glob("*.json"))
        other.send_signal(signal.SIGKILL)
        other.wait()
        end = time.monotonic() + 10
        while True:
            try:
                assert experiment.train(short, "run", loaded=loaded, **QUICK).record.status == "finished"
                break
            except BlockingIOError:  # the system lets go of a lock a moment after the process is gone
                assert time.monotonic() < end
    finally:
        other.kill()
        other.communicate()


def say(capsys, *words):
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


@pytest.mark.filterwarnings("ignore:None of the .* transitions")
def test_data_that_have_changed_are_not_taken_for_those_of_a_run(trained, here, loaded):
    """Judged by other data, a run gets other numbers; those that are passed on purpose are seen as the agents see."""
    usual = trained.held_out()
    assert trained.held_out(loaded=loaded) == usual
    raw = load(TASK, episodes=EPISODES)
    assert trained.held_out(loaded=raw) == usual
    fewer = dataclasses.replace(raw, train=raw.validation)
    assert trained.held_out(loaded=fewer) == usual  # by the run's own mean and scale
    assert trained.record.data["validation_fingerprint"] == raw.validation.fingerprint()
    without = trained.record.data | {
        "validation_fingerprint": None
    }  # trained on given data of which nothing was held out
    again = dataclasses.replace(trained, record=dataclasses.replace(trained.record, data=without))
    assert again.held_out() == usual
    parts = {"fingerprint": "trained on data", "validation_fingerprint": "judged by held-out data"}
    for name, part in parts.items():
        record = dataclasses.replace(trained.record, data=trained.record.data | {name: "another"})
        changed = dataclasses.replace(trained, record=record)
        for judge in (
            changed.held_out,
            functools.partial(experiment.audit, changed),
            functools.partial(experiment.run_ladder, changed),
        ):
            with pytest.raises(
                ValueError, match=rf"was {part} with the fingerprint .another.; those of .* that are here"
            ):
                judge()


@pytest.mark.filterwarnings("ignore:None of the .* transitions")
def test_train_and_evaluate_as_they_are_typed(here, capsys):
    words = ["train", "pointmaze-medium", "--metric", "paper", "--updates", 40, "--episodes", 1]
    words += ["--data-episodes", EPISODES, "--out", "mine", "--set", "metric.damping=0.5", "--wavelengths", "4,2"]
    words += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    code, printed, complaints = say(capsys, *words)
    assert (code, complaints) == (0, "")
    assert printed.startswith("The run is kept in mine.\n")
    title = "fidec paper on pointmaze-medium-navigate-singletask-task1-v0, laptop: finished, 40 of 40 updates"
    assert title in printed
    made = json.loads((here / "mine" / "record.json").read_text())["spec"]
    assert made["metric"]["damping"] == 0.5
    assert made["config"]["width"] == 16
    assert made["wavelengths"] == [4.0, 2.0]
    code, printed, complaints = say(capsys, "evaluate", "mine", "--episodes", 1, "--set", "candidates=2")
    assert (code, complaints) == (0, "fdbook: the setting candidates is called num_samples now\n")
    assert "the checkpoint of update 40, 1 episode\n" in printed
    assert "not finished" not in printed
    code, printed, complaints = say(capsys, "evaluate", "mine", "--held-out", "--out", "held.json")
    assert (code, complaints) == (0, "")
    assert "the checkpoint of update 40, on held-out data\n" in printed
    held = json.loads((here / "held.json").read_text())
    assert held["step"] == 40
    assert {"flow", "critic", "actor", "held_out_nll"} <= set(held["held_out"])
    assert f"{held['held_out']['flow'][0]:.4g}" in printed
    assert held["held_out"] == experiment.open_run("mine").held_out()
    whole = (here / "mine" / "record.json").read_bytes()
    for command in (
        ["evaluate", "mine", "--held-out"],
        ["evaluate", "mine"],
        ["audit", "mine"],
        ["ladder", "mine"],
        ["table"],
    ):
        code, printed, complaints = say(capsys, *command, "--out", "mine/record.json")
        sentence = (
            "--out takes another name than record.json, which is that of a run's own record; got mine/record.json"
        )
        assert (code, printed, complaints) == (2, "", f"fdbook: {sentence}\n")
        assert say(capsys, *command, "--out", "mine") == (2, "", "fdbook: --out takes a file; mine is a folder\n")
    assert (here / "mine" / "record.json").read_bytes() == whole
    for command in ("evaluate", "audit", "ladder"):
        sentence = "fdbook: RUN takes the folder of a run; mine/record.json is a file\n"
        assert say(capsys, command, "mine/record.json") == (2, "", sentence)
    code, _, complaints = say(capsys, "evaluate", "mine", "--held-out", "--episodes", 1)
    assert (code, complaints.count("\n")) == (2, 1)
    sentence = "another value takes another run.\n"
    code, printed, complaints = say(capsys, "evaluate", "mine", "--set", "width=8", "--set", "discount=0.5")
    assert (code, printed) == (2, "")
    assert complaints.startswith(
        "fdbook: fidec acts by flow_steps, num_refinements, num_samples, q_agg, selection; got "
    )
    assert complaints.endswith(f"got width, discount, of training: {sentence}")
    code, _, complaints = say(capsys, "evaluate", "mine", "--video", "a.gif", "--video-seed", 7)
    assert (code, complaints) == (2, "fdbook: --video-seed takes a seed of the run, one of 0; got 7\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "cube-singel-play-singletask"], "There is no task called"),
        (["train"], "train takes the name of a task, or --data with data of your own"),
        (["train", TASK, "--env", "Pendulum-v1"], "--env belongs to --data"),
        (["train", TASK, "--agent", "fidek"], "There is no agent called 'fidek'. Did you mean 'fidec'?"),
        (["train", TASK, "--metric", "exakt"], "There is no metric called 'exakt'. Did you mean 'exact'?"),
        (["train", TASK, "--agent", "fql", "--metric", "exact"], "Only the agent 'fidec' takes a metric"),
        (["train", TASK, "--preset", "laptopp"], "There is no preset called 'laptopp'. Did you mean 'laptop'?"),
        (
            ["train", TASK, "--set", "budgte=1"],
            "There is no setting of fidec called 'budgte'. Did you mean 'budget'?",
        ),
        (["train", TASK, "--set", "metric.dampin=1"], "dampin"),
        (["train", TASK, "--set", "budget"], "--set takes NAME=VALUE; got 'budget'"),
        (["train", TASK, "--seeds", "0"], "expected a whole number of at least 1, got '0'"),
        (["train", TASK, "--evaluations", "1,x"], "expected numbers with commas between them, got '1,x'"),
        (["train", TASK, "--updates", "5", "--evaluations", "6"], "cannot be evaluated after update 6"),
        (["train", TASK, "--source", "recordet"], "There is no source called 'recordet'. Did you mean 'recorded'?"),
        (["train", "--data", "log.npz", "--noise", "1"], "and doses are not for data of your own (--data)"),
        (["evaluate", "nowhere", "--video", "a.mp4"], "--video takes a file that ends in .gif; got a.mp4"),
        (["evaluate", "nowhere", "--video-episode", "0"], "--video-episode belongs to --video"),
        (["evaluate", "nowhere", "--video-seed", "1"], "--video-seed belongs to --video"),
    ],
)
def test_wrong_words_get_one_sentence(here, capsys, words, sentence):
    code, printed, complaints = say(capsys, *words)
    assert (code, printed) == (2, "")
    assert sentence in complaints
    assert complaints.startswith("fdbook: ")
    assert complaints.count("\n") == 1


def test_settings_of_another_kind_get_one_sentence(here):
    """In a process of its own, where no type checker stands before the sentence."""
    code = "from fdbook.cli import main; [main(['train', 'cube-single', '--set', text]) for text in {}]"
    said = {
        "width=abc": "DecoratedFlow takes a whole number for width; got 'abc'.",
        "depth=1.5": "DecoratedFlow takes a whole number for depth; got 1.5.",
        "budget=abc": "DecoratedFlow takes a number for budget; got 'abc'.",
        "dual_ascent=1": "DecoratedFlow takes true or false for dual_ascent; got 1.",
        "metric.damping=abc": "Fisher takes a damping of at least 0; got abc.",
    }
    command = [sys.executable, "-c", code.format(list(said))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [f"fdbook: {sentence}" for sentence in said.values()]


def test_a_run_that_is_not_there_gets_one_sentence(here, capsys):
    code, _, complaints = say(capsys, "evaluate", "nowhere")
    assert (code, complaints) == (1, "fdbook: There is no run record nowhere.\n")
    (here / "runs" / "one").mkdir(parents=True)
    (here / "runs" / "one" / "record.json").write_text("{}")
    code, _, complaints = say(capsys, "evaluate", "runs")
    assert (code, complaints) == (2, "fdbook: runs holds no run itself; below it are runs/one\n")
    (here / "record.json").write_text("{")
    code, _, complaints = say(capsys, "evaluate", ".")
    assert code == 1
    assert complaints == "fdbook: record.json is no run record: it is damaged, or something else wrote it.\n"


@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="nothing renders without the EGL library")
def test_an_episode_can_be_filmed(trained, here, capsys, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(running, "FILM", 10)
    code, printed, complaints = say(capsys, "evaluate", "run", "--episodes", 1, "--video", "film.gif")
    assert (code, complaints) == (0, "")
    assert "Filmed into film.gif" in printed
    with Image.open("film.gif") as film:
        assert film.n_frames > 1
        assert np.asarray(film.convert("RGB")).std() > 5


def test_an_online_phase_begins_where_the_finished_run_without_it_ended(loaded):
    """In the maze itself: the offline updates are taken from the other run, and the end is that of a run from scratch."""
    said, quick = [], QUICK | {"log_every": 10}
    whole = experiment.train(spec(online=40), "whole", loaded=loaded, **quick)
    experiment.train(spec(), spec().folder, loaded=loaded, **quick)
    told = quick | {"say": said.append}
    joined = experiment.train(spec(online=40), spec(online=40).folder, loaded=loaded, **told)
    assert f"The updates on the logged data are those of {spec().folder}." in said
    assert joined.record.status == "finished"
    assert [each["step"] for each in joined.record.scores] == [30, 60]
    for one, other in zip(
        *(jax.tree.leaves(eqx.filter(run.agents, eqx.is_array)) for run in (whole, joined)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    opened = experiment.open_run(spec(online=40).folder)
    assert opened.step == 100
    share = joined.record.progress.curves["online_share"]
    assert len(share) == len(joined.record.progress.logged) == 10
    assert share[-1][0] > 0 == share[5][0]


def test_a_run_of_other_settings_is_not_taken_for_the_offline_phase(loaded):
    said = []
    experiment.train(
        spec(), spec(online=20, config=SMALL | {"tau": 0.1}).replace(online=0).folder, loaded=loaded, **QUICK
    )
    other = spec(online=20, config=SMALL | {"tau": 0.1})
    experiment.train(other, "online", loaded=loaded, **(QUICK | {"say": said.append}))
    assert said == ["The run is kept in online."]


def test_the_command_goes_on_online(here, capsys):
    """`--online` from the command line, on the small maze, and what `fdbook evaluate` says of it."""
    words = [
        TASK,
        "--agent",
        "bc",
        "--updates",
        "30",
        "--online",
        "20",
        "--data-episodes",
        str(EPISODES),
        "--episodes",
        "2",
    ]
    words += ["--set", "width=16", "--set", "depth=1", "--no-progress", "--out", "online"]
    with pytest.warns(UserWarning, match="reaches the goal"):
        assert cli.main(["train", *words]) == 0
    assert "finished, 50 of 50 updates" in capsys.readouterr().out
    record = records.read("online")
    assert (record.offline, record.updates, record.done) == (30, 50, 50)
    assert [each["step"] for each in record.scores] == [30, 35, 40, 45, 50]
    assert cli.main(["train", *words[:-2], "--online", "-1", "--out", "other"]) == 2


def test_a_device_without_memory_says_what_to_lower(loaded):
    too_large = spec("bc", config=SMALL | {"batch_size": 20_000_000_000})
    with pytest.raises(MemoryError, match=r"no memory left, and [\d,.]+ GiB more were wanted: .*smaller batch_size"):
        experiment.train(too_large, "run", loaded=loaded, **QUICK)
    assert "no memory left" in records.read("run").note


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.21GiB.", "and 3.21 GiB more"),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 2147483648 bytes.", "and 2.0 GiB more"),
        ("RESOURCE_EXHAUSTED: CUDA_ERROR_OUT_OF_MEMORY", "left: fewer"),
        ("RESOURCE_EXHAUSTED: Out of memory", r"online phase \(--online\), fewer episodes of data \(--data-episodes\)"),
    ],
)
def test_a_full_gpu_is_told_in_the_same_words(message, told):
    with pytest.raises(MemoryError, match=told), memory_told():
        raise jax.errors.JaxRuntimeError(message)


def test_other_errors_of_the_device_stay_what_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory_told():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

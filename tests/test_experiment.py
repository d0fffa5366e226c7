"""Runs from the name of a task to a record, their evaluation on real environments, and the commands that do both."""

import ctypes.util
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fdbook import cli, experiment
from fdbook.data.load import load
from fdbook.data.record import record
from fdbook.data.tasks import find_task
from fdbook.rl import records
from fdbook.rl.evaluate import Evaluation, evaluate
from fdbook.rl.transitions import Normaliser


MAZE, TASK = "ogbench/pointmaze-medium-navigate", "pointmaze-medium-navigate-singletask"
EPISODES = 3
SMALL = {"width": 16, "depth": 1, "batch_size": 32}


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
        return load(TASK, episodes=EPISODES, normalise=True)


@pytest.fixture
def trained(here, loaded):
    options = {"steps": 60, "evaluations": [30, 60], "episodes": 2, "save_every": 30, "log_every": 30}
    return experiment.train(
        TASK, "deflow", seeds=[0, 1], loaded=loaded, folder="run", progress=False, **options, **SMALL
    )


def test_a_run_is_recorded_whole(trained, loaded):
    made = trained[1]
    assert records.read("run") == made
    assert made.task == "pointmaze-medium-navigate-singletask-task1-v0"
    assert (made.status, made.done, made.seeds) == ("finished", 60, [0, 1])
    assert [each["step"] for each in made.scores] == [30, 60]
    assert all(len(each["score"]) == 2 for each in made.scores)
    assert made.settings["budget"] == loaded.task.budget
    assert made.settings["discount"] == loaded.task.discount
    assert made.data["transitions"] == EPISODES * 1000
    assert set(made.wall) == {"training", "evaluating", "saving"}
    assert {"jax", "ogbench", "mujoco"} <= set(made.about["versions"])
    assert "finished, 60 of 60 updates" in experiment.summary(made)
    assert "mean of the last 2" in experiment.summary(made)


def test_two_evaluations_of_one_checkpoint_agree(trained):
    """From disk, with other environments, and with another number of them: the same episodes."""
    agents, made = trained
    run = experiment.open_run("run")
    assert run.step == 60
    first = run.evaluate(episodes=2, progress=False)
    assert first == run.evaluate(episodes=2, progress=False)
    assert first == {name: made.scores[-1][name] for name in first}
    environments = [experiment.make_environment(run.task) for _ in range(2)]
    one_each = evaluate(agents, environments, made.seeds, episodes=2, normaliser=run.normaliser)
    assert experiment.score(run.task, one_each) == first


def test_waves_are_in_the_record_and_come_back(here):
    options = {"episodes": 2, "save_every": 30, "log_every": 30, "progress": False, "data_episodes": EPISODES}
    with pytest.warns(UserWarning, match="reaches the goal"):
        _, made = experiment.train(TASK, "bc", steps=30, folder="run", wavelengths=(8.0, 4.0), **options, **SMALL)
    run = experiment.open_run("run")
    assert run.normaliser.wavelengths == (8, 4)
    assert run.normaliser.width == 10
    assert run.evaluate(episodes=2, progress=False) == {
        name: made.scores[-1][name] for name in ("score", "success", "return", "length")
    }


def test_raw_observations_stay_raw_although_the_preset_has_waves(here):
    options = {"episodes": 1, "log_every": 1, "progress": False, "data_episodes": EPISODES}
    with pytest.warns(UserWarning, match="reaches the goal"):
        _, made = experiment.train(TASK, "bc", steps=1, normalise=False, **options, **SMALL)
    assert made.data["normaliser"] is None


def test_waves_that_would_be_ignored_are_refused(loaded):
    with pytest.raises(ValueError, match=r"^load adds waves to normalised observations only; got wavelengths with"):
        load(TASK, episodes=EPISODES, wavelengths=(8.0,))
    for ignored in ({"wavelengths": (8.0,)}, {"normalise": False}):
        with pytest.raises(ValueError, match=r"^train takes `loaded` data as they are: prepare them"):
            experiment.train(TASK, "bc", loaded=loaded, steps=1, **ignored)


def test_a_normaliser_that_no_record_can_describe_is_refused(loaded):
    class Other(Normaliser):
        pass

    own = loaded.train.normaliser
    strange = dataclasses.replace(loaded.train, normaliser=Other(own.mean, own.scale))
    with pytest.raises(ValueError, match=r"takes a Normaliser, which its record can describe; got a Other\.$"):
        experiment.train(TASK, "bc", loaded=dataclasses.replace(loaded, train=strange), folder="run", steps=30)
    assert not Path("run").exists()


def test_seeds_act_for_themselves_and_episodes_differ(trained):
    run = experiment.open_run("run")
    environments = [experiment.make_environment(run.task) for _ in range(4)]
    plain = evaluate(run.agents, environments, [0, 1], episodes=3, normaliser=run.normaliser)
    assert plain.returns.shape == (2, 3)
    other = evaluate(run.agents, environments, [0, 5], episodes=3, normaliser=run.normaliser)
    assert np.array_equal(plain.lengths[0], other.lengths[0])
    observations = [environments[0].reset(seed=seed)[0] for seed in (1, 2, 1)]
    assert np.array_equal(observations[0], observations[2])
    assert not np.array_equal(observations[0], observations[1])


def test_an_evaluation_can_be_stopped(trained):
    run = experiment.open_run("run")
    environments = [experiment.make_environment(run.task) for _ in range(2)]
    asked = iter([False] * 5 + [True] * 5)
    assert evaluate(run.agents, environments, [0, 1], episodes=2, stopped=lambda: next(asked)) is None
    with pytest.raises(ValueError, match=r"an environment for each agent .*; got 1 environments for 2 agents"):
        evaluate(run.agents, environments[:1], [0, 1], episodes=2)


def test_scores_are_in_percent_of_successes_or_normalised_returns():
    found = Evaluation(
        np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
        np.array([[True, False, True, False], [False, False, False, True]]),
        np.full((2, 4), 7),
    )
    assert experiment.score(find_task(TASK), found)["score"] == [50.0, 25.0]
    assert experiment.score(find_task("D4RL/antmaze/umaze-v1"), found)["score"] == [50.0, 25.0]
    hand = dataclasses.replace(found, returns=np.array([[96.262799] * 4, [3076.8331] * 4]))
    assert experiment.score(find_task("D4RL/pen/human-v2"), hand)["score"] == pytest.approx([0.0, 100.0], abs=1e-3)


@pytest.mark.parametrize("name", list(experiment.PRESETS))
def test_presets_fit_every_task_and_agent(name):
    from fdbook.data.tasks import TASKS
    from fdbook.rl import agents

    for task in TASKS.values():
        chosen = experiment.preset(name, task)
        assert chosen.evaluations[-1] == chosen.steps
        for agent in agents.NAMES:
            settings = experiment.settings_of(task, agent, chosen.settings, {})
            assert settings["width"] == chosen.settings["width"]
            assert agents.family(agent).configure(**settings).discount == task.discount
    if name == "paper":
        pen = find_task("D4RL/pen/human-v2")
        assert experiment.settings_of(pen, "fql", {}, {})["alpha"] == 10_000
        assert experiment.settings_of(pen, "fidec", {}, {})["aggregation"] == "min"
        assert (experiment.preset(name, pen).steps, experiment.preset(name, pen).settings) == (
            500_000,
            {"width": 512, "depth": 4},
        )


def say(capsys, *words):
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


@pytest.mark.filterwarnings("ignore:None of the .* transitions")
def test_train_and_evaluate_as_they_are_typed(here, capsys):
    words = ["train", TASK, "--agent", "fidec", "--metric", "paper", "--steps", 40, "--episodes", 1]
    words += [
        "--data-episodes",
        EPISODES,
        "--out",
        "mine",
        *(word for k, v in SMALL.items() for word in ("--set", f"{k}={v}")),
    ]
    code, printed, complaints = say(capsys, *words)
    assert (code, complaints) == (0, "")
    assert printed.startswith("The run is kept in mine.\n")
    assert (
        "fidec (paper) on pointmaze-medium-navigate-singletask-task1-v0, laptop: finished, 40 of 40 updates" in printed
    )
    made = json.loads((here / "mine" / "record.json").read_text())
    assert made["metric"] == "paper"
    assert made["settings"]["width"] == 16
    code, printed, complaints = say(capsys, "evaluate", "mine", "--episodes", 1, "--set", "candidates=2")
    assert (code, complaints) == (0, "")
    assert "the checkpoint of update 40, 1 episodes" in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "cube-singel-play-singletask"], "There is no task called"),
        (["train", TASK, "--agent", "fidek"], "There is no agent called 'fidek'. Did you mean 'fidec'?"),
        (["train", TASK, "--metric", "exakt"], "There is no metric called 'exakt'. Did you mean 'exact'?"),
        (["train", TASK, "--agent", "fql", "--metric", "exact"], "Only the agent 'fidec' takes a metric"),
        (["train", TASK, "--preset", "laptopp"], "There is no preset called 'laptopp'. Did you mean 'laptop'?"),
        (
            ["train", TASK, "--set", "budgte=1"],
            "There is no setting of fidec called 'budgte'. Did you mean 'budget'?",
        ),
        (["train", TASK, "--set", "budget"], "--set takes NAME=VALUE; got 'budget'"),
        (["train", TASK, "--seeds", "0"], "expected a whole number of at least 1, got '0'"),
        (["evaluate", "nowhere", "--video", "a.mp4"], "--video takes a file that ends in .gif; got a.mp4"),
    ],
)
def test_wrong_words_get_one_sentence(here, capsys, words, sentence):
    code, _, complaints = say(capsys, *words)
    assert code == 2
    assert sentence in complaints
    assert complaints.startswith("fdbook: ")
    assert complaints.count("\n") == 1


def test_a_run_that_is_not_there_gets_one_sentence(here, capsys):
    code, _, complaints = say(capsys, "evaluate", "nowhere")
    assert (code, complaints) == (1, "fdbook: There is no run record nowhere.\n")
    (here / "record.json").write_text("{")
    code, _, complaints = say(capsys, "evaluate", ".")
    assert code == 1
    assert complaints == "fdbook: record.json is no run record: it is damaged, or something else wrote it.\n"


def test_runs_that_differ_are_kept_apart():
    task = find_task(TASK)
    folders = {
        str(experiment.run_folder(task, agent, metric, preset, seeds, overrides))
        for agent, metric in (("fidec", None), ("fidec", "paper"), ("deflow", None))
        for preset in ("paper", "laptop")
        for seeds in ([0], [0, 1], [3])
        for overrides in ({}, {"budget": 0.1})
    }
    assert len(folders) == 3 * 2 * 3 * 2
    assert f"runs/{task.name}/fidec-exact-laptop-2-seeds" in folders


@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="nothing renders without the EGL library")
def test_an_episode_can_be_filmed(trained, here):
    from PIL import Image

    code = "import sys; from fdbook.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "evaluate", "run", "--episodes", "1", "--video", "film.gif"]
    done = subprocess.run(command, env=os.environ | {"MUJOCO_GL": "egl"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Filmed into film.gif" in done.stdout
    length = experiment.open_run("run").record.scores[-1]["length"]
    with Image.open("film.gif") as film:
        assert film.n_frames > 1
        assert np.asarray(film.convert("RGB")).std() > 5
    assert length

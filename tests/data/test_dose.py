"""Doses of noise: what they are, where their recordings live, and the covariance that comes out."""

import json

import numpy as np
import pytest

from fdbook import cli
from fdbook.data import load, ogbench
from fdbook.data.dose import Dose
from fdbook.data.files import Place, read
from fdbook.data.record import record
from fdbook.data.tasks import find


MAZE, CUBE, UMAZE = "ogbench/pointmaze-medium-navigate", "ogbench/cube-single-play", "D4RL/pointmaze/umaze-v2"
THIN = {"along": 0.3, "across": 0.03, "heading": 0.5}


def of(name, **given):
    return Dose.of(find(name), given or None)


def test_the_published_dose_is_none_however_it_is_said():
    assert of(MAZE) is None
    assert of(MAZE, noise=0.5) is None
    assert of(MAZE, along=0.5, across=0.5, heading=1) is None
    assert of(CUBE, noise=(0.1,) * 5, smoothing=0.5) is None
    assert of(UMAZE, noise=0.5) is None
    assert of(MAZE, heading=0.5) == Dose(along=0.5, across=0.5, heading=0.5)
    assert of(MAZE, noise=0.2) == of(MAZE, along=0.2, across=0.2) == Dose.of(find(MAZE), Dose(noise=0.2))
    assert of(CUBE, noise=0.05) == Dose(noise=0.05, smoothing=0.5)


def test_it_comes_back_from_json():
    for dose in (of(MAZE, **THIN), of(CUBE, noise=(0.1, 0.1, 0.02, 0.1, 0.05)), of(UMAZE, noise=0.1)):
        assert Dose.from_dict(json.loads(json.dumps(dose.to_dict()))) == dose


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        (
            MAZE,
            {"smoothing": 0.5},
            r"^The dose of .*, of OGBench's point mazes, takes .*; got smoothing \(--noise-smoothing\) 0\.5\.$",
        ),
        (CUBE, {"along": 0.5}, r"takes noise .*, smoothing .*; got along \(--noise-along\) 0\.5\.$"),
        (UMAZE, {"heading": 0.5}, r"takes across .*, along .*, noise \(--noise\); got heading \(--heading\) 0\.5\.$"),
        (MAZE, {"noise": 0.5, "along": 0.3}, r"one number for all directions, or one along and one across; got both"),
        (MAZE, {"noise": (0.1,) * 5}, r"one number for all directions"),
        (CUBE, {"noise": (0.1, 0.2)}, r"^A dose takes one noise, or 5 for the arm; got 2\.$"),
        (MAZE, {"along": -0.1}, r"^A dose takes a finite along of at least 0; got -0\.1\.$"),
        (MAZE, {"heading": 0.0}, r"^A dose takes a heading above 0 and of at most 1, the box of actions; got 0\.$"),
        (MAZE, {"heading": 5.0}, r"^A dose takes a heading above 0 and of at most 1, the box of actions; got 5\.$"),
        (MAZE, {"across": float("nan")}, r"^A dose takes a finite across of at least 0; got nan\.$"),
        (MAZE, {"across": "thin"}, r"^A dose takes numbers; got across='thin'\.$"),
        (MAZE, {"acros": 0.1}, r"^There is no part of a dose called 'acros'\. Did you mean 'across'\?"),
        (
            "D4RL/pen/human-v2",
            {"noise": 0.1},
            r"that a scripted controller with noise records; D4RL/pen/human-v2 cannot be",
        ),
    ],
)
def test_what_a_controller_does_not_have_is_refused(name, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        of(name, **given)


def test_another_dose_lives_elsewhere_and_is_never_taken_for_the_published_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    thin, plain = Place(MAZE, 1, dose=THIN), Place(MAZE, 1)
    assert thin.folder.name == "1-episodes-seed-0-along-0.3-across-0.03-heading-0.5"
    assert thin.folder != plain.folder
    assert thin.command.endswith("--episodes 1 --noise-along 0.3 --noise-across 0.03 --heading 0.5")
    assert record(MAZE, episodes=1, dose=THIN, workers=1, progress=False) == thin.folder
    label = json.loads((thin.folder / "recording.json").read_text())
    assert label["dose"] == THIN
    assert load.recordings(MAZE) == [thin]
    with pytest.raises(FileNotFoundError, match=r"There is no recording in .*1-episodes-seed-0;"):
        load.load("pointmaze-medium", episodes=1, source="recorded")
    with pytest.warns(UserWarning, match="reaches the goal"):
        found = load.load("pointmaze-medium", episodes=1, dose=THIN)
    assert found.folder == thin.folder
    record(MAZE, episodes=1, workers=1, progress=False)
    assert "dose" not in json.loads((plain.folder / "recording.json").read_text())
    assert load.recordings(MAZE) == [plain, thin]
    assert not np.array_equal(*(read(place.files["train"], find(MAZE))["actions"] for place in (thin, plain)))


@pytest.mark.slow
def test_the_actions_of_a_maze_have_the_deviations_that_were_asked_for(tmp_path, budget):
    """In a straight corridor the way has one axis: the spread along it and across it, from the actions alone."""
    record(MAZE, episodes=12, dose=THIN, folder=tmp_path, workers=1, progress=False)
    split = ogbench.load(MAZE, episodes=12, dose=THIN, folder=tmp_path).train
    clipped = np.mean(np.abs(split.actions) >= 1)
    assert clipped < 0.05
    layout = ogbench.maze_layout(MAZE)
    cells = np.round((split.observations - np.asarray(layout.origin)) / layout.cell).astype(int)[:, ::-1]
    walls = layout.walls
    offset = np.abs(split.observations - (np.asarray(layout.origin) + layout.cell * cells[:, ::-1]))
    i, j = cells.T
    corridor = walls[i - 1, j] & walls[i + 1, j] & ~walls[i, j - 1] & ~walls[i, j + 1] & (offset.max(axis=1) < 0.6)
    along = split.actions[corridor, 0]
    assert corridor.sum() > 200
    forward = np.abs(along)[np.abs(along) > 0.05]
    np.testing.assert_allclose(np.median(np.abs(along)), 0.5, atol=budget("dose_in_a_corridor"))
    assert 0.15 < forward.std() < 0.35
    across = split.actions[corridor, 1]
    assert across.std() < 0.12


def test_noise_in_the_frame_of_the_way(budget):
    """Many draws for one slanted way: the covariance in its frame is diagonal, with the squares that were asked for."""
    from fdbook.data.dose import step_noise

    rng, angle = np.random.default_rng(0), 0.7
    way = 3.0 * np.array([np.cos(angle), np.sin(angle)])
    drawn = np.array([step_noise(rng, way, 0.3, 0.03) for _ in range(20_000)])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    found = np.cov(drawn @ turn.T, rowvar=False) / np.outer([0.3, 0.03], [0.3, 0.03])
    np.testing.assert_allclose(found, np.eye(2), atol=budget("dose_sampling"))


@pytest.mark.slow
def test_one_noise_for_each_coordinate_of_the_arm_is_the_scalar_where_they_agree(tmp_path):
    """The same draws: plans that get their noise here are those that get it from OGBench, and a still coordinate is still."""
    one = record(CUBE, episodes=1, dose={"noise": 0.2}, folder=tmp_path / "one", workers=1, progress=False)
    name = "cube-single-play-v0.npz"
    from fdbook.data import controllers

    dataset = find(CUBE)
    with controllers.environment(dataset) as environment:
        five = Dose(noise=(0.2, 0.2, 0.2, 0.2, 0.2000000001), smoothing=0.5)
        rows = controllers.episode(dataset, environment, (0, 0, 0), lambda steps: None, five)
        still = Dose(noise=(0.0, 0.0, 0.0, 0.0, 0.0), smoothing=0.0)
        exact = controllers.episode(dataset, environment, (0, 0, 0), lambda steps: None, still)
    with np.load(one / name) as archive:
        np.testing.assert_allclose(rows["actions"], archive["actions"], atol=1e-4)
        jitter = [np.abs(np.diff(actions[:, 4])).mean() for actions in (archive["actions"], exact["actions"])]
    assert jitter[1] < 0.5 * jitter[0]


def test_a_dose_as_it_is_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    words = ["data", "record", "pointmaze-medium", "--episodes", "1", "--workers", "1", "--no-progress"]
    typed = ["--noise-along", "0.3", "--noise-across", "0.03", "--heading", "0.5"]
    assert cli.main([*words, *typed]) == 0
    assert capsys.readouterr().out.strip() == str(Place(MAZE, 1, dose=THIN).folder)
    assert cli.main(["data", "list", MAZE]) == 0
    assert "--noise-along 0.3 --noise-across 0.03 --heading 0.5" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["data", "inspect", "pointmaze-medium", "--episodes", "1", *typed]) == 0
    assert "1,000 transitions in 1 episodes" in capsys.readouterr().out
    assert cli.main([*words, "--noise-smoothing", "1"]) == 2
    assert "got smoothing (--noise-smoothing) 1." in capsys.readouterr().err

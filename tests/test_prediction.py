"""What metrics could gain on a data set, against closed forms: behaviors that are Gaussians of known covariances."""

import json
import re

import jax
import numpy as np
import pytest

from fdbook import cli
from fdbook.data.files import Place
from fdbook.data.record import record
from fdbook.experiment import predict, prediction, prediction_lines
from fdbook.geometry import anisotropy, metrics
from fdbook.rl.transitions import Transitions


T = 0.9
WIDTHS = np.array([[0.3, 0.05], [0.1, 0.1]])
RAW = {"trace_normalized": False}
COMPARED = (
    metrics.make("exact", t=T, damping=0.0, **RAW),
    metrics.make("exact", t=T, damping=0.0),
    metrics.make("scale", t=T, damping=0.0),
    metrics.make("deblurred", t=T, damping=0.0, least_width=1e-3, **RAW),
)


def transitions(kinds):
    """Rows whose observation is a mean of 0 and a covariance of one of two kinds."""
    rows = np.array([[0, 0, *np.diag(np.square(WIDTHS[kind])).ravel()] for kind in kinds], np.float32)
    flat = np.zeros(len(rows), np.float32)
    ends = np.arange(len(rows)) == len(rows) - 1
    return Transitions.of(rows, np.zeros((len(rows), 2), np.float32), flat, 1 + flat, ends, rows)


@pytest.fixture
def known(monkeypatch):
    """The fit finds the exact flow."""
    curve = {"step": [1, 2], "train": [9.0, 9.0], "held_out": [3.0, 2.0], "chosen": 2}
    monkeypatch.setattr(anisotropy, "standardizer", lambda observations: lambda others: others)
    monkeypatch.setattr(anisotropy, "fit_held_out", lambda *pairs, **options: (anisotropy.GaussianPolicy(2), curve))


def gain(forms, slopes):
    """E26 by hand in as many states of each kind: forms are diagonals (kinds, 2), slopes (draws, states, 2)."""
    times = slopes.shape[1] // 2
    precision, forms = np.tile(1 / WIDTHS**2, (times, 1)), np.tile(forms, (times, 1))
    steps = slopes / forms
    return np.sum(slopes * steps, axis=(1, 2)) / np.sqrt(np.sum(precision * steps**2, axis=(1, 2)))


@pytest.mark.slow
def test_ratios_and_condition_numbers_are_the_closed_forms(known, budget):
    """Half thin states, half round ones: what is drawn of the flow, and which directions, leaves a few percent."""
    held_out = transitions([0, 1] * 8)
    options = {"compared": COMPARED, "states": 16, "actions": 1024, "key": jax.random.key(0)}
    made = predict(transitions([0, 1] * 20), held_out, **options)
    blurred = {t: t**2 * WIDTHS**2 + (1 - t) ** 2 for t in prediction.TIMES}
    for values, widths in ((made.condition, WIDTHS**2), *((made.blurred[t], blurred[t]) for t in prediction.TIMES)):
        np.testing.assert_allclose(values, np.tile(widths.max(axis=1) / widths.min(axis=1), 8), rtol=0.3)
    slopes = np.random.default_rng(0).normal(size=(4000, 16, 2))
    sharp, seen = 1 / WIDTHS**2, 1 / blurred[T]
    level = seen.mean(axis=1, keepdims=True)
    forms = (seen, seen / level, np.broadcast_to(level, (2, 2)), sharp)
    flat = gain(np.ones((2, 2)), slopes)
    expected = [np.mean(gain(form, slopes) / flat) for form in forms]
    np.testing.assert_allclose(list(made.ratios.values()), expected, rtol=budget("predicted_ratio"))
    assert made.ceiling == pytest.approx(expected[3], rel=budget("predicted_ratio"))
    assert made.ceiling >= max(made.ratios.values()) - 1e-3
    assert made.loss == 2


@pytest.mark.slow
def test_what_is_written_and_said(known):
    made = predict(transitions([0] * 30), compared=COMPARED[:1], states=2, actions=64, key=jax.random.key(0))
    tree = json.loads(json.dumps(made.to_dict()))
    assert list(tree["condition"]) == ["0.1", "0.5", "0.9"]
    assert tree["condition"]["0.5"] == pytest.approx(np.median(made.condition), rel=1e-4)
    assert list(tree["blurred"]) == ["0.8", "0.9", "0.97"]
    ((name, ratio),) = made.ratios.items()
    (said,) = re.findall(rf"{re.escape(name)} ([\d.]+);", prediction_lines(made).replace("\n", " "))
    assert float(said) == pytest.approx(ratio, abs=0.006)


def test_without_validation_data_a_tenth_is_kept_apart():
    seen = np.arange(100, dtype=np.float32)[:, None]
    rows = Transitions.of(seen, 0 * seen, 0 * seen[:, 0], 1 + 0 * seen[:, 0], seen[:, 0] == 99, seen)
    train, held_out = (set(np.ravel(part[0])) for part in prediction._split(rows, None, jax.random.key(0)))
    assert (len(train), len(held_out), train & held_out) == (90, 10, set())


@pytest.mark.slow
def test_the_command_fits_and_predicts(tmp_path, capsys, monkeypatch):
    place = Place("ogbench/pointmaze-medium-navigate", 1, 0, tmp_path)
    record(place.name, episodes=1, folder=tmp_path, progress=False)
    plain, asked = prediction.predict, []

    def short(*data, key):
        asked.append([part.size for part in data])
        return plain(*data, steps=20, states=4, actions=8, key=key)

    monkeypatch.setattr("fdbook.experiment.predict", short)
    out = tmp_path / "numbers.json"
    typed = [
        "data",
        "inspect",
        place.name,
        "--folder",
        str(tmp_path),
        "--episodes",
        "1",
        "--geometry",
        "--json",
        str(out),
    ]
    assert cli.main(typed) == 0
    assert "gain over L2 at equal small KL, by E26" in capsys.readouterr().out
    assert asked == [[1000, 1000]]
    assert list(json.loads(out.read_text())["geometry"]["ratios"]) == ["scale", "exact", "exact raw", "deblurred raw"]


def test_the_command_refuses_pictures_and_places_that_cannot_be_written_to_before_it_fits(capsys):
    for typed, code, sentence in (
        (
            ["visual-cube-single-play", "--geometry"],
            2,
            "takes data whose observations are vectors; ogbench/visual-cube-single-",
        ),
        (
            ["pointmaze-medium", "--geometry", "--json", "/dev/null/x.json"],
            1,
            "fdbook: Nothing can be written to /dev/null",
        ),
    ):
        assert cli.main(["data", "inspect", *typed]) == code
        assert sentence in capsys.readouterr().err

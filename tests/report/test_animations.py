"""The animations: what they show is exact, and what is written is a GIF that a page can carry."""

import io
import itertools
import re

import jax
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image, ImageSequence

from fdbook import book, cli
from fdbook.geometry import densities
from fdbook.report import animations
from fdbook.rl import records


def pictures(content):
    with Image.open(io.BytesIO(content)) as film:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]


def durations(content):
    with Image.open(io.BytesIO(content)) as film:
        return [frame.info["duration"] for frame in ImageSequence.Iterator(film)]


@pytest.fixture(scope="module")
def film():
    """A film of noise, whose episode ends at step 30, and one that fails at step 50."""
    rng = np.random.default_rng(0)
    shots = [np.repeat(rng.integers(0, 255, (40, 40, 1), dtype=np.uint8), 3, axis=2) for _ in range(26)]
    good = animations.Film("ours", shots[:16], list(range(0, 32, 2)), True)
    return good, animations.Film("theirs", shots, list(range(0, 52, 2)), False)


@pytest.mark.parametrize("name", [path.stem for path in sorted((book.NOTEBOOKS / "animations").glob("*.gif"))])
def test_the_committed_animations_are_small_and_move(name):
    assert name in animations.REGISTRY
    content = (book.NOTEBOOKS / "animations" / f"{name}.gif").read_bytes()
    assert len(content) < 1e6
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.info["loop"] == animations.PLAYS - 1
        assert 480 <= picture.width <= 640
    shown = pictures(content)
    assert len(shown) > 20
    assert all(np.any(one != other) for one, other in itertools.pairwise(shown))
    assert durations(content)[-1] == 3000 > 10 * durations(content)[5]


def test_the_arm_solves_as_many_episodes_as_the_chapter_says():
    """The two runs of the animation, by their records: of 20 episodes none and 9."""
    text = (book.NOTEBOOKS / "09_offline_rl_from_scratch.ipynb").read_text(encoding="utf-8")
    said = re.search(r"Of (\d+) evaluation episodes behavior cloning solves (\d+) and FiDec (\d+)\.", text)
    bc, fidec = (records.read(book.RECORDS / f"tried/arm-{name}") for name in ("bc", "fidec-exact"))
    for one in (bc, fidec):
        assert one.spec["task"] == {"name": "cube-single-play-singletask-task2-v0"}
        assert (one.spec["data"], one.spec["seeds"], one.progress.scores[-1]["step"]) == (
            {"episodes": 100},
            [0],
            10_000,
        )
    scores = [one.progress.scores[-1]["score"][0] * one.spec["episodes"] / 100 for one in (bc, fidec)]
    assert [int(group) for group in said.groups()] == [bc.spec["episodes"], *map(round, scores)]


def test_all_animations_of_the_book_together_stay_below_eight_megabytes():
    assert sum(path.stat().st_size for path in (book.NOTEBOOKS / "animations").glob("*.gif")) < 8e6


@pytest.mark.slow
def test_the_command_writes_what_was_named_and_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(animations.REGISTRY, "flow", lambda: animations.flowing(count=22, crowd=20))
    assert cli.main(["animations", "flow", "--out", str(tmp_path / "new")]) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["flow.gif"]
    assert len(pictures((tmp_path / "new" / "flow.gif").read_bytes())) == 22
    assert "flow.gif: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["slidin"], "There is no animation called 'slidin'. Did you mean 'sliding'?"),
        (["arm"], "the animation arm and --runs RUN RUN go together"),
        (["flow", "--runs", "a", "b"], "the animation arm and --runs RUN RUN go together"),
    ],
)
def test_what_cannot_be_made_is_told_in_a_sentence(typed, said, tmp_path, capsys):
    assert cli.main(["animations", *typed, "--out", str(tmp_path / "new")]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_list_says_what_each_one_shows(capsys):
    assert cli.main(["animations", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(animations.REGISTRY)


def test_films_stand_side_by_side_until_the_longer_one_is_over(film):
    shown = list(animations.beside(film, count=26))
    assert len(shown) == 26
    assert len({picture.shape for picture in shown}) == 1
    halves = [np.array_split(picture, 2, axis=1) for picture in shown]
    assert all(np.array_equal(halves[-1][0], halves[k][0]) for k in (16, 20))  # the first stands still from step 30 on
    assert not np.array_equal(halves[-1][1], halves[20][1])
    told = pictures(animations.encode(shown))[-1].reshape(-1, 3)
    for _, color in animations.ENDINGS.values():  # one succeeded, one did not, and the palette keeps both colors
        assert np.abs(told.astype(float) - 255 * np.array(to_rgb(color))).max(axis=1).min() < 16


@pytest.mark.slow
def test_the_determinant_of_a_climb_is_that_of_finite_differences():
    """Against the moved corners of a small square."""
    points = np.array([[0.3, -0.1], [0.5, 0.2]])
    banana = densities.make("banana")
    for precise in (False, True):
        places, spread = animations.climb(banana, precise, points, rate=0.004, steps=20)
        shifted = [animations.climb(banana, precise, points + e, rate=0.004, steps=20)[0][-1] for e in 1e-5 * np.eye(2)]
        slopes = np.stack([(moved - places[-1]) / 1e-5 for moved in shifted], axis=-1)
        np.testing.assert_allclose(spread[-1], np.log(np.linalg.det(slopes)), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_at_one_kl_the_fisher_climb_gains_several_times_what_l2_gains():
    """What chapter 6 says of the picture, from E9 by quadrature."""
    banana = densities.make("banana")
    nodes, gains = banana.quadrature(64), {}
    for precise, rate in ((False, 0.00105), (True, 0.015)):
        paid, gained = animations._paid(banana, nodes, precise, rate)
        assert np.all(np.diff(paid) > 0)
        assert paid[-1] > 2
        gains[precise] = np.interp((0.2, 1.0, 2.0), paid, gained)
    assert np.all(gains[True] > 4 * gains[False])


@pytest.mark.slow
def test_l2_leaves_the_banana_and_fisher_stays():
    kls = np.array([0.0, 2.0])
    banana = densities.make("banana")
    start = np.asarray(banana.sample(1000, key=jax.random.key(3)))
    off = {}
    for precise in (False, True):
        places, _ = animations._at_kls(precise, start, kls)
        off[precise] = float(densities.off_manifold(banana, jax.numpy.asarray(places[-1]), key=jax.random.key(1)))
    assert off[True] < 0.05 < 0.12 < off[False]

"""The rooms of the package: read from code, so a toy package and the real one say who uses whom, and a circle is refused."""

import matplotlib.pyplot as plt
import nbformat
import pytest

from fdbook import book
from fdbook.report import rooms


@pytest.fixture
def toy(tmp_path):
    """A package of three folders and a module, from what each imports."""

    def make(**files):
        package = tmp_path / "toy"
        for name, source in files.items():
            path = package / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return package

    return make


def test_who_uses_whom_is_read_from_every_form_of_import(toy, tmp_path):
    package = toy(
        low__a="import numpy\nfrom toy import small",
        middle__a="import toy.low.a\ndef f():\n    from toy.other.a import x",
        other__a="from ..low import a\nfrom . import b",
        other__b="from toy.other.a import y",
        high__a="from toy.middle import a as b",
        small="",
    )
    found = rooms.read(package)
    assert {name: set(room.uses) for name, room in found.items()} == {
        "low": {"small"},
        "middle": {"low", "other"},
        "other": {"low"},
        "high": {"middle"},
        "small": set(),
    }
    assert [name for name, room in found.items() if not room.is_folder] == ["small"]
    assert rooms.levels(found) == {"low": 0, "other": 1, "middle": 2, "high": 3}
    assert rooms.arrows(found) == [("high", "middle"), ("middle", "other"), ("other", "low")]


def test_notebooks_are_a_room_and_cells_that_are_not_finished_do_no_harm(toy, tmp_path):
    package = toy(low__a="", high__a="from toy.low import a")
    cells = ["%config x = 1\nfrom toy.high import a", "def broken(", "from toy.low.a import b"]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(made, tmp_path / "01_x.ipynb")
    found = rooms.read(package, [tmp_path / "01_x.ipynb"])
    assert found[rooms.CHAPTERS].uses == {"high", "low"}
    assert rooms.arrows(found) == [("high", "low"), (rooms.CHAPTERS, "high")]


def test_a_room_stands_right_below_the_lowest_that_uses_it(toy):
    package = toy(a__x="", b__x="import toy.a.x", c__x="import toy.b.x\nimport toy.lone.x", lone__x="")
    assert rooms.levels(rooms.read(package)) == {"a": 0, "b": 1, "c": 2, "lone": 1}


def test_a_circle_is_refused_by_name(toy):
    package = toy(a__x="import toy.b.x", b__x="import toy.c.x", c__x="import toy.a.x", d__x="")
    with pytest.raises(ValueError, match=r"use each other in a circle: a, b, c\."):
        rooms.levels(rooms.read(package))


def test_a_folder_without_code_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no code of a package"):
        rooms.read(tmp_path)


def test_the_picture_has_every_folder_and_every_arrow_points_down():
    found = rooms.read(notebooks=book.chapters().values())
    height = rooms.levels(found)
    assert height["geometry"] == 0
    assert max(height.values()) == height["cli"]
    assert all(height[user] > height[used] for user, used in rooms.arrows(found))
    figure = rooms.draw(found)
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert {name for name, room in found.items() if room.is_folder} <= shown
    assert {rooms.WORDS[name] for name in height} <= shown  # a new room is given its words
    plt.close(figure)


def test_boxes_do_not_lie_on_each_other():
    found = rooms.read(notebooks=book.chapters().values())
    places = list(rooms._places(found, rooms._ways(found)).values())
    for number, (x, y) in enumerate(places):
        assert all(y != other or abs(x - across) >= rooms.APART - 1e-9 for across, other in places[:number])
        assert rooms.WIDTH / 2 - 1e-9 <= x <= 1 - rooms.WIDTH / 2 + 1e-9

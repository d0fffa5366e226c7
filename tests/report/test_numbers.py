"""Numbers survive the disk, and files appear whole or not at all."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from fdbook.report import numbers


@pytest.fixture
def through_disk(tmp_path):
    """Writes numbers and reads them back."""

    def pass_through(given):
        path = tmp_path / "given.json"
        numbers.write_whole(numbers.beside(path, numbers.stored(given, {"seed": 0})))
        return numbers.read(path)[0]

    return pass_through


def test_small_values_come_back(through_disk):
    back = through_disk({"pi": 3.14159265, "n": 3, "yes": True, "name": "é", "list": ["a", "b"], "in": {"x": [1, 2]}})
    assert (back["pi"], back["n"], back["yes"], back["name"], back["list"]) == (3.14159, 3, True, "é", ["a", "b"])
    assert back["in"]["x"].tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(64,), (65,), (8, 9), (3, 5, 7), (0,), ()])
def test_arrays_of_every_size_come_back(through_disk, shape):
    given = np.random.default_rng(0).normal(size=shape)
    back = through_disk({"a": given, "b": jnp.asarray(given), "c": {"d": [{"e": given}]}})
    for value in (back["a"], back["b"], back["c"]["d"][0]["e"]):
        assert np.shape(value) == shape
        np.testing.assert_allclose(value, given, rtol=5e-6)


def test_nan_comes_back_and_infinity_is_refused(through_disk):
    back = through_disk({"none": np.nan, "some": [1.0, np.nan]})
    assert np.isnan(back["none"])
    np.testing.assert_array_equal(back["some"], [1.0, np.nan])
    with pytest.raises(ValueError, match="The number deep/inside is infinite"):
        numbers.stored({"deep": {"inside": [0.0, np.inf]}}, {})


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="The number x is of type set"):
        numbers.stored({"x": {1, 2}}, {})


def test_json_is_standard_sorted_and_easy_to_read():
    contents = numbers.stored({"b": [[1.0, 2.0], [3.0, 4.0]], "a": np.nan, "z": np.zeros(99)}, {"seed": 0})
    text = contents[".json"].decode()
    tree = json.loads(text, parse_constant=pytest.fail)
    assert list(tree["numbers"]) == ["a", "b", "z"]
    assert "[[1.0, 2.0], [3.0, 4.0]]" in text
    assert set(contents) == {".json", ".npz"}


def test_the_same_numbers_give_the_same_bytes():
    given = {"a": np.arange(100.0), "b": 1.5}
    assert numbers.stored(given, {}) == numbers.stored(dict(reversed(given.items())), {})


def test_files_of_two_runs_are_told_apart(tmp_path):
    path = tmp_path / "given.json"
    numbers.write_whole(numbers.beside(path, numbers.stored({"a": np.zeros(99)}, {})))
    other = numbers.stored({"a": np.ones(99)}, {})
    path.with_suffix(".npz").write_bytes(other[".npz"])
    with pytest.raises(ValueError, match=r"given\.npz does not belong to .*given\.json"):
        numbers.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"numbers": {}}', "\x00"])
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "given.json").write_text(text)
    with pytest.raises(ValueError, match="damaged, or something else wrote it"):
        numbers.read(tmp_path / "given.json")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch, failing):
    old = {tmp_path / "a": b"old a", tmp_path / "b": b"old b"}
    numbers.write_whole(old)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        numbers.write_whole({tmp_path / "a": b"new a", tmp_path / "b": b"new b"})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_the_second_file_failing_leaves_the_first_as_it_was(tmp_path):
    numbers.write_whole({tmp_path / "a": b"old"})
    with pytest.raises(OSError, match="No such file"):
        numbers.write_whole({tmp_path / "a": b"new", tmp_path / "missing" / "b": b"new"})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_folder_is_made_or_refused(tmp_path):
    numbers.check_writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Nothing can be written to .*file"):
        numbers.check_writable(tmp_path / "file")

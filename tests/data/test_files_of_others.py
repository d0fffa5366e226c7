"""Files that OGBench's own loader takes and ours took for damaged: other dtypes, byte orders, lengths, rounding, one split."""

import io
import json
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import ogbench
import pytest

from fdbook import cli
from fdbook.data import custom, files, minari, summary
from fdbook.data.files import Place, read
from fdbook.data.load import load
from fdbook.data.ogbench import transitions
from fdbook.data.record import record
from fdbook.data.tasks import find, find_task
from fdbook.rl.arrays import ALIGNMENT


CUBE, SCENE, POINT = "ogbench/cube-single-play", "ogbench/scene-play", "D4RL/pointmaze/umaze-v2"
MAZE = "ogbench/pointmaze-medium-navigate"
TASK = "cube-single-play-singletask-task2-v0"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32"),
    pytest.mark.filterwarnings("ignore:None of the .* transitions:UserWarning"),
]


def shortened(arrays):
    """Episodes of 700, 301, 1 and 1000 rows, of which the one of one row is no transition."""
    arrays["terminals"] = np.isin(np.arange(2002), (699, 1000, 1001, 2001))
    return arrays


def of_dtype(keys, dtype):
    return lambda arrays: arrays | {key: arrays[key].astype(dtype) for key in keys}


def rounded_up(arrays):
    actions = arrays["actions"].copy()
    actions[3], actions[4] = np.float32(1.0000001), -np.float32(1.0000001)
    return arrays | {"actions": actions}


FORMS = {
    "float64": of_dtype(("observations", "actions", "qpos", "qvel"), np.float64),
    "float16": of_dtype(("observations", "actions"), np.float16),
    "float32 terminals": of_dtype(("terminals",), np.float32),
    "whole terminals": of_dtype(("terminals",), np.int64),
    "big-endian": lambda arrays: of_dtype(("observations", "actions", "qpos"), ">f4")(arrays),
    "columns first": lambda arrays: {key: np.asfortranarray(values) for key, values in arrays.items()},
    "other lengths": shortened,
    "rounded up": rounded_up,
    "without velocities": lambda arrays: {key: values for key, values in arrays.items() if key != "qvel"},
    "something more": lambda arrays: arrays | {"camera": np.zeros(3), "words": np.array(["a"])},
}


def changed_copy(place, folder, change):
    """The files of a recording, changed, in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, path in place.files.items():
        if split == "train":
            with np.load(path) as file:
                np.savez(folder / path.name, **change(dict(file)))
        else:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def judge():
    """The task's environment, by whose rules OGBench's loader gives rewards: it takes seconds to make."""
    environment = ogbench.make_env_and_datasets(TASK, env_only=True)
    yield environment
    environment.close()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_what_the_loader_of_ogbench_takes_gives_its_transitions(recorded, judge, tmp_path, form):
    """Told by OGBench's regular layout, in which it builds the next observations itself."""
    folder = changed_copy(recorded[CUBE], tmp_path, FORMS[form])
    theirs, _ = ogbench.make_env_and_datasets(TASK, dataset_dir=str(folder), dataset_only=True, cur_env=judge)
    ours, validation = transitions(find_task(TASK), folder)
    batch = ours.at(jnp.arange(ours.size))
    assert (ours.size, validation.size) == (len(theirs["rewards"]), 1000)
    for name in ("observations", "next_observations", "rewards", "masks"):
        np.testing.assert_array_equal(getattr(batch, name), theirs[name], err_msg=name)
    np.testing.assert_array_equal(
        batch.actions, np.clip(theirs["actions"], np.float32(-1 + 1e-5), np.float32(1 - 1e-5))
    )


def test_what_a_cast_loses_is_said(recorded, tmp_path):
    third = lambda arrays: arrays | {"observations": arrays["observations"] + 1 / np.float64(3)}  # noqa: E731
    folder = changed_copy(recorded[CUBE], tmp_path, third)
    with pytest.warns(
        UserWarning, match=r"cube-single-play-v0.npz has observations of float64, rounded to float32: by .*e-0"
    ):
        ours, _ = transitions(find_task(TASK), folder)
    with np.load(folder / "cube-single-play-v0.npz") as file:
        np.testing.assert_array_equal(ours.observations, file["observations"].astype(np.float32))


@pytest.mark.parametrize("form", ["as it is", "rounded up", "float64"])
def test_rows_that_rounding_took_out_of_the_box_are_counted(recorded, tmp_path, form, capsys):
    """In a file of OGBench's, through the command, and in data of one's own with other bounds."""
    changes = FORMS | {
        "as it is": lambda arrays: arrays,
        "float64": lambda arrays: of_dtype(("actions",), float)(rounded_up(arrays)),
    }
    folder = changed_copy(recorded[MAZE], tmp_path, changes[form])
    rows = 0 if form == "as it is" else 2
    assert cli.main(["data", "inspect", MAZE, "--dataset-dir", str(folder), "--json", str(tmp_path / "told.json")]) == 0
    assert json.loads((tmp_path / "told.json").read_text())["clipped"] == rows
    assert ("rounded out of [-1, 1] in 2 of" in capsys.readouterr().out) == bool(rows)
    with np.load(folder / "pointmaze-medium-navigate-v0.npz") as file:
        arrays = {key: file[key] for key in ("observations", "terminals")} | {
            "actions": 2 * file["actions"].astype(float) + 1
        }
    arrays["rewards"] = np.zeros(12_012)
    with pytest.warns(UserWarning, match="between -1 and 3: they are rescaled"):
        mine = custom.from_arrays(arrays, None, action_bounds=(-1.0, 3.0))
    assert summary.summarize(mine).clipped == rows


def test_an_action_that_is_more_than_rounded_is_refused_with_its_digits(recorded, tmp_path):
    def push(arrays):
        arrays["actions"][5, 1] = 1.0001
        return arrays

    folder = changed_copy(recorded[CUBE], tmp_path, push)
    with pytest.raises(
        ValueError, match=r"has actions outside \[-1, 1\] in 1 of 2002 rows, first in row 5 \(1\.0001\)\.$"
    ):
        transitions(find_task(TASK), folder)


def test_without_a_file_of_validation_there_is_none(recorded, tmp_path):
    folder = changed_copy(recorded[CUBE], tmp_path, lambda arrays: arrays)
    (folder / "cube-single-play-v0-val.npz").unlink()
    loaded = load(TASK, dataset_dir=folder, normalize=True)
    assert (loaded.validation, loaded.train.size) == (None, 2000)


def test_rewards_need_what_they_are_made_of(families, tmp_path):
    place = families[SCENE]
    folder = changed_copy(place, tmp_path, lambda arrays: {k: v for k, v in arrays.items() if k != "button_states"})
    with pytest.raises(
        ValueError, match=r"scene-play-v0.npz has no array 'button_states' \(expected observations, actions, q"
    ):
        transitions(find_task("scene-play-singletask"), folder)


@pytest.mark.slow
def test_episodes_of_other_lengths_are_summed_up(recorded, tmp_path):
    folder = changed_copy(recorded[CUBE], tmp_path, shortened)
    found = summary.summarize(CUBE, folder)
    assert found.lengths.tolist() == [699, 300, 0, 999]
    assert "1,998 transitions in 4 episodes of 0 to 999" in summary.describe(found)
    assert len(read(folder / "cube-single-play-v0.npz", find(CUBE))["actions"]) == 2002
    with pytest.raises(ValueError, match="terminals that do not close 2 episodes of 1001 rows each"):
        read(folder / "cube-single-play-v0.npz", find(CUBE), 2)


@pytest.fixture(scope="module")
def point(tmp_path_factory):
    base = tmp_path_factory.mktemp("point")
    record(POINT, episodes=2, folder=base, workers=1, progress=False)
    return Place(POINT, 2, 0, base).folder


@pytest.mark.slow
def test_the_last_action_of_an_episode_is_followed_by_itself_in_d4rl_data(point):
    """The row behind it is padding with an action of zeros, and the mask is 1 after a time-out: ReBRAC's target would see it."""
    arrays = minari.read(find_task(POINT), point)
    data, _ = minari.transitions(find_task(POINT), point)
    batch = data.at(jnp.arange(data.size))
    last = np.flatnonzero(arrays["ends"][1:][~arrays["ends"][:-1]])
    assert len(last) == arrays["ends"].sum()
    assert np.any(np.asarray(batch.masks)[last] == 1)
    np.testing.assert_array_equal(np.asarray(batch.next_actions)[last], np.asarray(batch.actions)[last])
    np.testing.assert_array_equal(
        np.delete(batch.next_actions, last, axis=0),
        np.asarray(batch.actions)[np.setdiff1d(np.arange(data.size), last) + 1],
    )


@pytest.mark.parametrize(("value", "taken"), [(1.0000001, True), (-1.00001, True), (1.0001, False)])
def test_actions_rounded_up_are_clipped_through_minari_too(point, tmp_path, value, taken):
    import shutil

    import h5py

    shutil.copytree(point, tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / POINT / "data" / "main_data.hdf5", "a") as file:
        actions = file["episode_0/actions"][:].astype(np.float64)
        actions[2, 1] = value
        del file["episode_0/actions"]
        file["episode_0/actions"] = actions.astype(">f8")
    if taken:
        assert minari.read(find_task(POINT), tmp_path)["actions"][2, 1] == np.sign(value)
        assert summary.summarize(POINT, tmp_path).clipped == 1
    else:
        with pytest.raises(
            ValueError, match=r"has actions outside \[-1, 1\] in 1 of .* rows, first in row 2 \(1\.0001\)"
        ):
            minari.read(find_task(POINT), tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_large_array_is_read_once_and_where_jax_shares_it(tmp_path, save):
    pictures = np.random.default_rng(0).integers(0, 255, (1000, 64, 64, 3), np.uint8)
    save(tmp_path / "log.npz", pictures=pictures, small=np.arange(3.0))
    tracemalloc.start()
    read_back = files.arrays_of(tmp_path / "log.npz")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(read_back["pictures"], pictures)
    np.testing.assert_array_equal(read_back["small"], [0, 1, 2])
    assert read_back["pictures"].ctypes.data % ALIGNMENT == 0
    assert most < 1.3 * pictures.nbytes


@pytest.mark.parametrize("harm", ["a byte", "fewer rows", "more rows"])
def test_a_large_array_that_is_damaged_is_refused(tmp_path, harm):
    path = tmp_path / "log.npz"
    rows = {"fewer rows": 999, "more rows": 1001}.get(harm, 1000)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (rows, 4096)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pictures.npy", head.getvalue() + bytes(1000 * 4096))
    assert path.stat().st_size > files.PART
    if harm == "a byte":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.npz is damaged or is not an npz file"):
        files.arrays_of(path)

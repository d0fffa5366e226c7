"""From the name of a task to its transitions: what is found, what is downloaded, and what is said when neither can be."""

import shutil

import numpy as np
import ogbench.utils
import pytest

from fdbook.data import listing
from fdbook.data.files import Place
from fdbook.data.load import folder_of, load, recordings
from fdbook.data.tasks import DATASETS, TASKS


CUBE, MAZE = "ogbench/cube-single-play", "ogbench/pointmaze-medium-navigate"
TASK = "pointmaze-medium-navigate-singletask"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32"),
    pytest.mark.filterwarnings("ignore:None of the .* transitions:UserWarning"),
]


@pytest.fixture
def home(recorded, monkeypatch, tmp_path):
    """A home with nothing in it, the recordings of `recorded`, and a benchmark's address at which nobody answers."""
    monkeypatch.setenv("FDBOOK_DATA", str(recorded[MAZE].base))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ogbench.utils, "DATASET_URL", "http://127.0.0.1:9")
    return tmp_path


@pytest.mark.slow
def test_a_recording_of_a_chosen_size(home, recorded):
    loaded = load(TASK, episodes=12, normalize=True)
    assert (loaded.source, loaded.folder) == ("recorded", recorded[MAZE].folder)
    assert (loaded.train.size, loaded.validation.size) == (12_000, 1000)
    assert loaded.task.name == "pointmaze-medium-navigate-singletask-task1-v0"
    np.testing.assert_allclose(np.mean(loaded.train.observations, axis=0), 0, atol=1e-3)
    np.testing.assert_array_equal(loaded.validation.normalizer.mean, loaded.train.normalizer.mean)
    with loaded.environment() as environment:
        observation, _ = environment.reset(seed=0)
    assert loaded.train.normalizer(observation).shape == (2,)


def test_published_files_come_before_recordings_and_are_told_from_them(home, recorded):
    """Published files are OGBench's own in the folder where OGBench keeps them."""
    folder = home / ".ogbench" / "data"
    folder.mkdir(parents=True)
    for path in recorded[MAZE].files.values():
        shutil.copy(path, folder)
    loaded = load(TASK)
    assert (loaded.source, loaded.folder) == ("downloaded", folder)
    assert load(TASK, episodes=12).source == "recorded"
    place = Place(MAZE, 1000, 7)
    with pytest.raises(FileNotFoundError, match="There is no recording in") as refusal:
        load(TASK, seed=7)
    assert str(refusal.value) == (
        f"There is no recording in {place.folder}; `fdbook data record {MAZE} --seed 7` records it."
    )
    assert load(TASK, dataset_dir=folder).source == "dataset_dir"
    for choice in ({"seed": 7}, {"episodes": 12}, {"episodes": 12, "seed": 7}):
        told = ", ".join(f"{name}={value}" for name, value in choice.items())
        with pytest.raises(
            ValueError, match=rf"takes either dataset_dir or the episodes, seed .*; got both, {told}\.$"
        ):
            load(TASK, dataset_dir=folder, **choice)
    assert folder_of(MAZE) == folder


def test_a_recording_of_the_standard_size_is_taken(home, recorded, monkeypatch):
    import dataclasses

    monkeypatch.setitem(DATASETS, MAZE, dataclasses.replace(DATASETS[MAZE], episodes=12))
    task = dataclasses.replace(TASKS["pointmaze-medium-navigate-singletask-task3-v0"], dataset=DATASETS[MAZE])
    assert load(task).folder == folder_of(MAZE) == recorded[MAZE].folder


def test_without_a_network_the_command_that_records_it_is_named(home):
    with pytest.raises(FileNotFoundError) as refusal:
        load(TASK)
    assert str(refusal.value) == (
        f"{MAZE} is not on this machine and cannot be downloaded (Connection refused); `fdbook data record {MAZE}` records it "
        "(recorded here in other sizes: 12 episodes, seed 0)."
    )
    assert not list((home / ".ogbench" / "data").glob("[!.]*"))


def test_without_a_network_what_cannot_be_recorded_says_why(home):
    with pytest.raises(FileNotFoundError) as refusal:
        load("antmaze-giant-navigate-singletask")
    name = "ogbench/antmaze-giant-navigate"
    assert str(refusal.value) == (
        f"{name} is not on this machine and cannot be downloaded (Connection refused); {name} cannot be recorded anew: "
        "it was made by trained walking policies, which no environment brings along."
    )


@pytest.mark.parametrize(
    ("task", "options", "error", "sentence"),
    [
        (
            "pointmaze-medium-navigat-singletask",
            {},
            ValueError,
            "no task called .* near it are pointmaze-medium-navigate, ",
        ),
        (TASK, {"source": "downlod"}, ValueError, "no source called 'downlod'. Did you mean 'download'"),
        (
            TASK,
            {"episodes": 3},
            FileNotFoundError,
            "There is no recording in .*`fdbook data record .* --episodes 3` records it.",
        ),
        (
            TASK,
            {"source": "recorded"},
            FileNotFoundError,
            "There is no recording in .*1000-episodes-seed-0; `fdbook data record",
        ),
        (
            TASK,
            {"episodes": 12, "source": "download"},
            ValueError,
            "A download has one size, no seed and no dose; got episodes=12.",
        ),
        (
            TASK,
            {"seed": 7, "source": "download"},
            ValueError,
            r"^A download has one size, no seed and no dose; got seed=7\.$",
        ),
        ("antmaze-giant-navigate-singletask", {"seed": 7}, ValueError, "cannot be recorded anew: it was made by"),
        (
            TASK,
            {"seed": -1, "source": "download"},
            ValueError,
            r"^A recording takes a seed that is a whole number of at least 0; got -1\.$",
        ),
        (
            "antmaze-giant-navigate-singletask",
            {"source": "recorded"},
            ValueError,
            "cannot be recorded anew: it was made by",
        ),
    ],
)
def test_what_cannot_be_had_is_said_in_one_sentence(home, task, options, error, sentence):
    with pytest.raises(error, match=sentence):
        load(task, **options)


def test_recordings_that_are_here(home, recorded, tmp_path, monkeypatch):
    (found,) = recordings(MAZE)
    assert found.folder == recorded[MAZE].folder
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    assert recordings(MAZE) == []
    for folder in ("3-episodes-seed-0", "junk-episodes-seed-1"):
        (tmp_path / MAZE / folder).mkdir(parents=True)
    assert recordings(MAZE) == []
    with pytest.raises(
        FileNotFoundError, match=f"^{MAZE} is not on this machine; `fdbook data record {MAZE}` records it"
    ):
        folder_of(MAZE)
    place = Place(MAZE, 7)
    with pytest.raises(
        FileNotFoundError, match=r"There is no recording in .*7-episodes-seed-0; `fdbook data record .* 7` rec"
    ):
        folder_of(MAZE, place)


def test_the_list_has_a_line_for_every_data_set(home):
    text = listing.table()
    assert [name for name in DATASETS if name not in text] == []
    assert "73 tasks are the papers'" in " ".join(text.split())
    assert "12 episodes" in next(line for line in text.splitlines() if line.startswith(MAZE))
    short = listing.table(recordable_only=True)
    assert [name for name, dataset in DATASETS.items() if (name in short) != bool(dataset.controller)] == []
    assert max(len(line) for line in text.splitlines()) <= 120


@pytest.mark.parametrize("name", DATASETS)
def test_all_of_one_data_set(home, name):
    text = " ".join(listing.details(name).split())
    dataset = DATASETS[name]
    for task in (task for task in TASKS.values() if task.dataset is dataset):
        assert task.name in text
        assert f"FQL alpha {task.fql_alpha:g}, budget {task.budget:g}" in text
        assert task.caveat in text
    assert (f"`fdbook data record {name}`" in text) == bool(dataset.controller)


def test_a_dose_goes_to_the_place_of_the_recording_and_is_no_download(home):
    place = Place(MAZE, 12, dose={"noise": 0.2})
    with pytest.raises(FileNotFoundError) as refusal:
        load(TASK, episodes=12, dose={"noise": 0.2})
    assert str(refusal.value) == f"There is no recording in {place.folder}; `{place.command}` records it."
    assert load(TASK, episodes=12, dose={"noise": 0.5}).folder == Place(MAZE, 12).folder
    with pytest.raises(ValueError, match=r"^A download has one size, no seed and no dose; got dose=Dose\(.*along=0\.2"):
        load(TASK, dose={"noise": 0.2}, source="download")

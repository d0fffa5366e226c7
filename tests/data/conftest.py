"""Small real recordings, made once for all tests of this folder."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from fdbook.data.files import Place
from fdbook.data.record import record


CUBE, MAZE = "ogbench/cube-single-play", "ogbench/pointmaze-medium-navigate"
EPISODES = {CUBE: 2, MAZE: 12}
OTHERS = {
    "ogbench/cube-double-play": 1,
    "ogbench/scene-play": 2,
    "ogbench/puzzle-3x3-play": 2,
    "ogbench/puzzle-4x4-play": 1,
    "ogbench/pointmaze-large-navigate": 1,
    "ogbench/pointmaze-giant-navigate": 1,
}
COMMAND = "import sys; from fdbook.cli import main; sys.exit(main())"


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Each data set, recorded with seed 0 and never interrupted."""
    base = tmp_path_factory.mktemp("recordings")
    for name, episodes in EPISODES.items():
        record(name, episodes=episodes, folder=base, workers=1, progress=False)
    return {name: Place(name, episodes, 0, base) for name, episodes in EPISODES.items()}


class OnDemand(dict):
    """Data sets by name; those that are missing are recorded by two processes, when a test asks for them first."""

    def __missing__(self, name):
        base, episodes = self[CUBE].base, OTHERS.get(name, 1)
        record(name, episodes=episodes, folder=base, workers=2, progress=False)
        self[name] = Place(name, episodes, 0, base)
        return self[name]


@pytest.fixture(scope="session")
def families(recorded):
    """Every family of OGBench, those of `recorded` and others."""
    return OnDemand(recorded)


@pytest.fixture
def same():
    """Compares two recordings, byte for byte in every array."""

    def arrays(path):
        with np.load(path) as file:
            return {key: (file[key].dtype, file[key].shape, file[key].tobytes()) for key in sorted(file)}

    def compare(place, other):
        return all(arrays(place.files[split]) == arrays(other.files[split]) for split in place.files)

    return compare


@pytest.fixture(scope="session")
def start():
    """Starts `fdbook data record` in a process that does not outlive the tests; `first` is run before it."""
    processes = []

    def run(place, first="", workers=1):
        words = ["data", "record", place.name, "--episodes", str(place.episodes), "--folder", str(place.base)]
        words += ["--workers", str(workers)]
        words = [sys.executable, "-c", first + COMMAND, *words]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def until():
    """Waits until a condition holds, for 60 seconds at most."""

    def wait(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "what the test waited for did not happen"
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def killed(tmp_path_factory, start, until):
    """A recording like that of `recorded`, killed after some episodes."""
    place = Place(MAZE, EPISODES[MAZE], 0, tmp_path_factory.mktemp("killed"))
    process = start(place)
    until(lambda: len(list(unfinished(place).glob("*.npz"))) >= 5)
    process.kill()
    process.wait()
    assert not place.folder.exists()
    return place


@pytest.fixture
def half(killed, tmp_path):
    """A copy of `killed` that a test may carry on."""
    shutil.copytree(killed.base, tmp_path, dirs_exist_ok=True)
    return Place(killed.name, killed.episodes, killed.seed, tmp_path)


def unfinished(place):
    """The hidden folder of a recording that is not finished."""
    return place.folder.with_name(f".{place.folder.name}.unfinished")

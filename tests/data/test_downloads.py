"""Downloads against a server and a Minari remote of this machine that break off, send pages, are slow, and are well."""

import collections
import http.server
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import h5py
import minari as library
import numpy as np
import ogbench.utils
import pytest
from minari.storage import remotes

from fdbook import cli
from fdbook.data import custom, downloads, mazes, minari
from fdbook.data.files import Place
from fdbook.data.load import load
from fdbook.data.record import record
from fdbook.data.tasks import find_task


MAZE, TASK = "ogbench/pointmaze-medium-navigate", "pointmaze-medium-navigate-singletask"
TRAIN, VALIDATION = "pointmaze-medium-navigate-v0.npz", "pointmaze-medium-navigate-v0-val.npz"
POINT = "D4RL/pointmaze/umaze-v2"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32"),
    pytest.mark.filterwarnings("ignore:None of the .* transitions:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:unclosed file:ResourceWarning"
    ),  # OGBench's downloader leaves its files to Python
]


class Server(http.server.ThreadingHTTPServer):
    """Serves files by name as the next of `modes` says, or whole; counts what it was asked for."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.modes, self.asked = files, collections.defaultdict(list), collections.Counter()
        self.pause = 0.0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        self.server.asked[name] += 1
        time.sleep(self.server.pause)
        mode = self.server.modes[name].pop(0) if self.server.modes[name] else "whole"
        content = b"\n<html>Sorry</html>" if mode == "page" else self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: {"half": len(content) // 2, "nothing": 0}.get(mode, len(content))])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(recorded):
    """The published files of the maze, as others would serve them."""
    place = recorded[MAZE]
    with Server({path.name: path.read_bytes() for path in place.files.values()}) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def published(server, monkeypatch, tmp_path):
    """The folder where OGBench would keep its data, in a home with nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path / "recordings"))
    monkeypatch.setattr(ogbench.utils, "DATASET_URL", server.url)
    return tmp_path / ".ogbench" / "data"


def shown(folder):
    """What a user sees in a folder."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Turns one byte around, and nothing else that is seen of a file from outside."""
    content, state = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("mode", ["half", "page", "nothing"])
def test_what_comes_damaged_once_is_downloaded_once_more(server, published, mode):
    server.modes[TRAIN] = [mode]
    loaded = load(TASK)
    assert (loaded.source, loaded.train.size, loaded.validation.size) == ("downloaded", 12_000, 1000)
    assert server.asked == {TRAIN: 2, VALIDATION: 1}
    assert {name: (published / name).read_bytes() for name in shown(published)} == server.files
    load(TASK, source="download")
    assert server.asked.total() == 3


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        ("half", r"it breaks off, or is broken, in [\d,]+ bytes"),
        ("page", "a web page of 19 bytes came in its place"),
        ("nothing", "it is empty"),
    ],
)
def test_what_comes_damaged_twice_is_never_there(server, published, mode, what):
    """Nothing stands under its name, so that the next run, when the server is well, downloads it."""
    server.modes[TRAIN] = [mode, mode]
    sentence = rf"^{MAZE} is not on this machine and cannot be downloaded \({TRAIN} came damaged, twice: {what}\); `fdbook data"
    with pytest.raises(FileNotFoundError, match=sentence):
        load(TASK)
    assert shown(published) == []
    assert not list(published.glob(".*downloading*"))
    assert load(TASK).train.size == 12_000


def test_a_file_of_ones_own_is_not_downloaded_over(server, published):
    published.mkdir(parents=True)
    (published / TRAIN).write_bytes(server.files[TRAIN])
    before = (published / TRAIN).stat().st_mtime_ns
    assert load(TASK).train.size == 12_000
    assert server.asked == {VALIDATION: 1}
    assert (published / TRAIN).stat().st_mtime_ns == before
    assert [downloads.is_download(published / name) for name in (TRAIN, VALIDATION)] == [False, True]


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_download_is_set_aside_and_downloaded_again(server, published, damage):
    load(TASK)
    damage(published / TRAIN)
    damaged = (published / TRAIN).read_bytes()
    with pytest.warns(
        UserWarning, match=rf"{TRAIN} was damaged; it was a download, is set aside as .*, and was downloaded again"
    ):
        assert load(TASK).train.size == 12_000
    assert server.asked == {TRAIN: 2, VALIDATION: 1}
    assert (published / TRAIN).read_bytes() == server.files[TRAIN]
    assert (published / f".{TRAIN}.damaged").read_bytes() == damaged
    damage(published / TRAIN)
    with pytest.warns(UserWarning, match=rf"\.{TRAIN}\.damaged-2, and was"):
        load(TASK)
    assert (published / f".{TRAIN}.damaged").read_bytes() == damaged


def test_a_damaged_download_without_a_network_stays_and_the_sentence_says_so(server, published, monkeypatch):
    load(TASK)
    cut(published / TRAIN)
    damaged = (published / TRAIN).read_bytes()
    monkeypatch.setattr(ogbench.utils, "DATASET_URL", "http://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"; it was downloaded, and cannot be downloaded again \(Connection refused\)\.$"
    ):
        load(TASK)
    assert (published / TRAIN).read_bytes() == damaged


@pytest.mark.parametrize("kept", ["never marked", "put in the place of a download"])
def test_a_damaged_file_of_ones_own_is_never_touched(server, published, kept, capsys):
    """Nor is one that an older version downloaded, without a mark."""
    if kept == "never marked":
        published.mkdir(parents=True)
        (published / VALIDATION).write_bytes(server.files[VALIDATION])
    else:
        load(TASK)
    (published / TRAIN).write_bytes(b"PK of my own making" * 1000)
    state, asked = (published / TRAIN).stat(), server.asked.total()
    sentence = rf"{TRAIN} is damaged or is not an npz file; no mark says .* left as it is: move it away, and the pub"
    for options in ({}, {"source": "download"}):
        with pytest.raises(ValueError, match=sentence):
            load(TASK, **options)
    assert cli.main(["data", "inspect", MAZE]) == 1
    assert "left as it is: move it away, and the published data are downloaded" in capsys.readouterr().err
    now = (published / TRAIN).stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (state.st_size, state.st_mtime_ns, state.st_ino)
    assert server.asked.total() == asked
    (published / TRAIN).unlink()
    assert load(TASK).train.size == 12_000


def test_a_damaged_recording_and_a_folder_of_ones_own_are_not_downloads(
    recorded, published, monkeypatch, server, tmp_path
):
    base = tmp_path / "recordings"
    shutil.copytree(recorded[MAZE].base, base)
    place = Place(MAZE, 12, 0, base)
    cut(place.files["train"])
    monkeypatch.setenv("FDBOOK_DATA", str(base))
    with pytest.raises(
        ValueError, match=rf"{TRAIN} is damaged or .*; `fdbook data record {MAZE} --episodes 12` records it anew\.$"
    ):
        load(TASK, episodes=12)
    with pytest.raises(ValueError, match=rf"{TRAIN} is damaged or is not an npz file$"):
        load(TASK, dataset_dir=place.folder)
    assert not server.asked


DOWNLOAD = """
import sys
import ogbench.utils
from fdbook.data.ogbench import SOURCE
from fdbook.data.tasks import find
ogbench.utils.DATASET_URL = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
print(SOURCE.download(find(sys.argv[2])), flush=True)
"""


@pytest.fixture
def process(server, published):
    """Starts processes that download the maze's data when they are told to; they do not outlive the test."""
    started = []

    def start():
        words = [sys.executable, "-c", DOWNLOAD, server.url, MAZE]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(words, text=True, **pipes))
        return started[-1]

    yield start
    for made in started:
        made.kill()
        made.communicate()


def go(made):
    made.stdin.write("\n")
    made.stdin.flush()


@pytest.mark.slow
def test_a_second_process_waits_for_the_download_and_uses_it(server, published, process, until):
    server.pause = 0.5
    several = [process() for _ in range(2)]
    for made in several:
        assert made.stdout.readline() == "ready\n"
    for made in several:
        go(made)
    ended = [made.communicate(timeout=60) for made in several]
    assert [made.returncode for made in several] == [0, 0], ended
    assert all(said.splitlines()[-1] == str(published) for said, _ in ended)
    assert server.asked == {TRAIN: 1, VALIDATION: 1}
    waited = [f"Another process downloads {TRAIN.removesuffix('.npz')}; waiting" in errors for _, errors in ended]
    assert sorted(waited) == [False, True]
    assert {name: (published / name).read_bytes() for name in shown(published)} == server.files


def test_a_process_that_is_killed_on_the_way_lets_the_next_one_download(server, published, process, until):
    server.pause = 60.0
    made = process()
    assert made.stdout.readline() == "ready\n"
    go(made)
    until(lambda: server.asked[TRAIN] == 1)
    made.kill()
    made.wait()
    assert len(list(published.glob(".*downloading*"))) == 1
    server.pause = 0.0
    assert load(TASK).train.size == 12_000
    assert not list(published.glob(".*downloading*"))


class Remote(remotes.cloud_storage.CloudStorage):
    """A remote of Minari's that copies data sets from a folder, as the next of `modes` says, or whole."""

    folder, modes, downloads = Path(), [], 0

    def __init__(self, name, token=None):
        pass

    def list_datasets(self, prefix=None):
        return [POINT]

    def get_dataset_metadata(self, dataset_id):
        return json.loads((self.folder / dataset_id / "data" / "metadata.json").read_text())

    def download_dataset(self, dataset_id, path):
        Remote.downloads += 1
        mode, data = self.modes.pop(0) if self.modes else "whole", path / dataset_id / "data"
        if mode == "nothing":
            return
        shutil.copytree(self.folder / dataset_id, path / dataset_id)
        if mode == "an empty folder":
            shutil.rmtree(data)
            data.mkdir()
        elif mode == "half the file":
            cut(data / "main_data.hdf5")
        elif mode == "a page":
            (data / "main_data.hdf5").write_text("<html>Sorry</html>")
        elif mode == "no metadata":
            (data / "metadata.json").unlink()
        elif mode == "an episode missing":
            with h5py.File(data / "main_data.hdf5", "a") as file:
                del file["episode_1"]
        elif mode == "broken off":
            raise ConnectionResetError(104, "Connection reset by peer")

    def download_namespace_metadata(self, namespace, path):
        (path / namespace).mkdir(parents=True, exist_ok=True)
        (path / namespace / "namespace_metadata.json").write_text("{}")

    def upload_dataset(self, dataset_id):
        raise NotImplementedError

    def upload_namespace(self, namespace):
        raise NotImplementedError

    def list_namespaces(self):
        return ["D4RL", "D4RL/pointmaze"]


@pytest.fixture(scope="module")
def point(tmp_path_factory):
    """A small recording of a point maze in Minari's format: the folder of data sets that holds it."""
    base = tmp_path_factory.mktemp("point")
    record(POINT, episodes=2, folder=base, workers=1, progress=False)
    return Place(POINT, 2, 0, base).folder


@pytest.fixture
def remote(point, server, monkeypatch, tmp_path):
    """Minari's remote, and the folder of data sets that is to hold what comes."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(Remote, "folder", point)
    monkeypatch.setattr(Remote, "modes", [])
    monkeypatch.setattr(Remote, "downloads", 0)
    monkeypatch.setitem(remotes._registry, "test", lambda: Remote)
    monkeypatch.setenv("MINARI_REMOTE", "test://x")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path / "recordings"))
    return tmp_path / "minari"


MODES = ("nothing", "an empty folder", "half the file", "a page", "no metadata", "an episode missing")


def tree(folder):
    """The files of a folder, hidden ones left out, with their contents."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_minari_brings_less_than_all_and_it_is_downloaded_once_more(remote, point, mode):
    Remote.modes.append(mode)
    loaded = load(POINT)
    assert (loaded.source, loaded.folder, loaded.train.size, Remote.downloads) == ("downloaded", remote, 2000, 2)
    assert tree(remote / POINT) == tree(point / POINT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(library.list_local_datasets()) == [POINT]


@pytest.mark.parametrize("mode", MODES)
def test_minari_brings_less_than_all_twice_and_nothing_is_there(remote, mode):
    Remote.modes += [mode, mode]
    with pytest.raises(
        FileNotFoundError, match=rf"cannot be downloaded \({POINT} came damaged, twice: .*\); `fdbook data record"
    ):
        load(POINT)
    assert not downloads.is_nonempty(remote / POINT)
    assert load(POINT).train.size == 2000


def test_what_breaks_off_is_told_and_not_tried_again_at_once(remote):
    Remote.modes.append("broken off")
    with pytest.raises(
        FileNotFoundError, match=r"cannot be downloaded \(ConnectionResetError: .*Connection reset by peer\)"
    ):
        load(POINT)
    assert Remote.downloads == 1
    assert not downloads.is_nonempty(remote / POINT)


def test_an_empty_folder_of_an_earlier_download_is_none(remote):
    (remote / POINT / "data").mkdir(parents=True)
    assert minari.locate(POINT) is None
    assert load(POINT).train.size == 2000


def test_a_damaged_download_of_minaris_is_set_aside_and_downloaded_again(remote):
    load(POINT)
    cut(remote / POINT / "data" / "main_data.hdf5")
    with pytest.warns(
        UserWarning, match="umaze-v2 was damaged; it was a download, is set aside as .*umaze-v2.damaged, and was"
    ):
        assert load(POINT).train.size == 2000
    (remote / POINT / "data" / "metadata.json").unlink()
    with pytest.warns(UserWarning, match="umaze-v2.damaged-2, and was downloaded again"):
        assert custom.from_minari(POINT).dataset.observation == (8,)
    assert list(library.list_local_datasets()) == [POINT]


def test_a_damaged_minari_set_of_ones_own_is_never_touched(remote, point):
    shutil.copytree(point / POINT, remote / POINT)
    cut(remote / POINT / "data" / "main_data.hdf5")
    before = tree(remote)
    for read in (lambda: load(POINT), lambda: custom.from_minari(POINT)):
        with pytest.raises(
            ValueError, match=r"umaze-v2 is damaged.*; no mark says .* move it away, and the published data are"
        ):
            read()
    assert (tree(remote), Remote.downloads) == (before, 0)


def with_earlier_goals(file, episodes):
    """Puts the goal of the episode before into the first row of those that begin where it was reached; how many these are."""
    changed = 0
    for before, index in itertools.pairwise(episodes):
        goals, earlier = (file[f"episode_{i}/observations/desired_goal"] for i in (index, before))
        place = file[f"episode_{index}/observations/achieved_goal"][0]
        if np.linalg.norm(place - earlier[-1]) <= 0.45:
            goals[0] = earlier[-1]
            changed += 1
    return changed


@pytest.fixture
def stale(point, tmp_path):
    """The recording with goals as published: the environment's observation of a reached goal begins the next episode."""
    shutil.copytree(point, tmp_path / "stale")
    with h5py.File(tmp_path / "stale" / POINT / "data" / "main_data.hdf5", "a") as file:
        return tmp_path / "stale", with_earlier_goals(file, range(len(file))), len(file)


def test_goals_of_the_episode_before_are_replaced_counted_and_told(point, stale, capsys, monkeypatch):
    folder, changed, episodes = stale
    assert changed > 5
    assert changed == episodes - 2  # but for the first of each of two runs
    with pytest.warns(
        UserWarning, match=rf"^In {changed} of {episodes} episodes of .*umaze-v2 the first row held the goal of the"
    ):
        mended = minari.read(find_task(POINT), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = minari.read(find_task(POINT), point)
    for name in wanted:
        np.testing.assert_array_equal(mended[name], wanted[name])
    assert cli.main(["data", "inspect", POINT, "--dataset-dir", str(folder), "--json", str(folder / "told.json")]) == 0
    assert (
        f"the first row of {changed} of {episodes} episodes holds the goal of the episode before"
        in capsys.readouterr().out
    )
    assert json.loads((folder / "told.json").read_text())["stale goals"] == changed


def test_goals_of_the_episode_before_are_replaced_in_a_set_of_any_id_too(point, stale, monkeypatch):
    folder, changed, episodes = stale
    seen = []
    for root in (point, folder):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
        task = custom.from_minari(POINT)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            seen.append(np.asarray(load(task).train.observations))
    np.testing.assert_array_equal(*seen)
    assert [
        str(item.message).startswith(f"In {changed} of {episodes}") for item in told if "goal" in str(item.message)
    ] == [True]
    blind = custom.from_minari(POINT, keys=("observation",))
    assert blind.dataset.origin.mended() == (0, 0)
    assert task.dataset.origin.mended() == (0, changed)


OLD, NEW = (0.0, 0.0), (3.0, 0.0)
HERE, THERE, AWAY = (0.2, 0.1), (2.9, 0.1), (1.5, 0.0)


@pytest.mark.parametrize(
    ("goals", "places", "stale"),
    [
        ([OLD, NEW, NEW], [HERE, HERE, AWAY], True),
        ([OLD, NEW, NEW], [AWAY, AWAY, AWAY], True),  # of another run: nobody was near
        ([OLD, NEW], [HERE, THERE], True),
        ([NEW, NEW, NEW], [HERE, HERE, AWAY], False),
        ([OLD, NEW, NEW], [AWAY, HERE, AWAY], False),  # reached in the first step, and followed by the next
        ([OLD, NEW, OLD], [HERE, HERE, HERE], False),  # a goal that moves
        ([OLD, OLD, NEW], [HERE, HERE, HERE], False),
        ([OLD, NEW], [AWAY, AWAY], False),
        ([OLD], [HERE], False),
    ],
)
def test_only_a_goal_of_the_episode_before_counts_as_one(goals, places, stale):
    assert mazes.has_stale_goal(np.array(goals), np.array(places)) is stale

"""Simulators on machines as they are found: without a renderer, without a display, and rendering where something can."""

import ctypes.util
import os
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from PIL import Image

from fdbook import cli, experiment
from fdbook.data import simulators
from fdbook.data.load import environment as environment_of
from fdbook.data.record import record
from fdbook.experiment import RunSpec


MAZE, TASK = "ogbench/pointmaze-medium-navigate", "pointmaze-medium-navigate-singletask"
D4RL = "D4RL/pointmaze/umaze-v2"
PICTURES = "visual-cube-single-play-singletask-task1"
SMALL = {"width": 8, "depth": 1, "batch_size": 8}
QUIET = {"progress": False, "say": lambda sentence: None}
renders = pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="nothing renders without the EGL library")


def bare(tmp_path, **changes):
    """The variables of a machine without a display on which whatever imports OpenGL fails, and its empty temporary folder."""
    broken = tmp_path / "broken"
    (broken / "OpenGL").mkdir(parents=True)
    (broken / "OpenGL" / "__init__.py").write_text(
        "raise AttributeError(\"'NoneType' object has no attribute 'eglQueryString'\")\n"
    )
    (tmp_path / "temporary").mkdir()
    kept = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    kept = {key: value for key, value in kept.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    path = os.pathsep.join([str(broken), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path, "TMPDIR": str(tmp_path / "temporary")} | changes


def python(code, environ, folder):
    return subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "workers"),
    [(MAZE, TASK, 2), ("ogbench/cube-single-play", "cube-single", 2), (D4RL, D4RL, 1), (D4RL, D4RL, 2)],
)
def test_what_does_not_render_needs_no_renderer(tmp_path, name, task, workers):
    """Recorded and evaluated where OpenGL cannot be imported; and no file is left where temporary ones go."""
    code = (
        "from fdbook.data.record import record\n"
        "from fdbook.data.load import environment\n"
        "from fdbook.data.tasks import find_task\n"
        f"record({name!r}, episodes=2, folder='here', workers={workers}, progress=False)\n"
        f"made = environment(find_task({task!r}))\n"
        "made.reset(seed=0), made.step(made.action_space.sample())\n"
        "try:\n"
        "    import OpenGL\n"
        "except AttributeError:\n"
        "    print('as expected')\n"
    )
    done = python(code, bare(tmp_path), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "as expected\n", "")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert list((tmp_path / "here").rglob("*.npz")) or list((tmp_path / "here").rglob("*.hdf5"))


@pytest.mark.slow
def test_workers_that_play_ask_for_no_renderer(tmp_path):
    code = (
        "import functools\n"
        "from fdbook.data.load import environment\n"
        "from fdbook.data.tasks import find_task\n"
        "from fdbook.rl.environments import AsyncEnvironments\n"
        f"played = AsyncEnvironments(functools.partial(environment, find_task({TASK!r})), 2, 2)\n"
        "played.close()\n"
        "print('as expected')\n"
    )
    done = python(code, bare(tmp_path), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "as expected\n", "")


@pytest.mark.slow
def test_what_cannot_be_rendered_is_told_in_one_sentence(tmp_path):
    """Where nothing renders at all, and before anything is recorded or trained."""
    code = (
        "import sys\n"
        "from fdbook import cli\n"
        f"sys.exit(cli.main(['train', {PICTURES!r}, '--updates', '10', '--out', 'run', '--no-progress']))\n"
    )
    environ = bare(tmp_path, FDBOOK_DATA=str(tmp_path / "data"))
    done = python(code, environ, tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("fdbook: MuJoCo cannot render here (egl: ")
    assert done.stderr.endswith(
        "install the system's EGL library and a driver, as in `apt install libegl1 libgl1-mesa-dri`.\n"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("file", "stays"),
    [
        ("ant_maze1795693067.81.xml", False),
        ("tmpab_3x9zk.xml", False),
        ("arm.xml", True),
        ("venv/assets/adroit_pen.xml", True),
        ("venv/ant_maze1795693067.81.xml", True),
    ],
)
@pytest.mark.parametrize("attribute", ["tmp_xml_file_path", "fullpath"])
def test_only_temporary_files_of_mazes_are_removed(tmp_path, monkeypatch, file, stays, attribute):
    """An installation may lie where temporary files go, and a user's own model too."""
    monkeypatch.setattr(simulators.tempfile, "tempdir", str(tmp_path))
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<mujoco/>")
    world = types.SimpleNamespace(**{attribute: str(path)})
    assert simulators.tidy(world) is world
    assert path.exists() == stays


def trials(monkeypatch, complaints):
    """Renderers are found to complain so, without being tried; returns the names in the order in which they were."""
    tried = []
    monkeypatch.setattr(simulators, "_trial", lambda name: tried.append(name) or complaints[name])
    monkeypatch.setattr(simulators.platform, "system", lambda: "Linux")
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    simulators._working.cache_clear()
    return tried


@pytest.fixture(autouse=True)
def _afresh():
    yield
    simulators._working.cache_clear()


@pytest.fixture
def own_context(monkeypatch):
    """MuJoCo's choice of a renderer in this process, put back after the test."""
    import mujoco

    module = sys.modules.get("mujoco.rendering.classic.gl_context") or sys.modules["mujoco.gl_context"]
    monkeypatch.setattr(module, "GLContext", getattr(module, "GLContext", None), raising=False)
    assert mujoco.MjModel is not None
    return module


@pytest.mark.parametrize(
    ("complaints", "display", "chosen", "tried"),
    [
        ({"egl": ""}, None, "egl", ["egl"]),
        ({"egl": "no", "osmesa": ""}, None, "osmesa", ["egl", "osmesa"]),
        ({"egl": "no", "glfw": ""}, ":0", "glfw", ["egl", "glfw"]),
        ({"egl": "no", "osmesa": "no"}, None, None, ["egl", "osmesa"]),
    ],
)
@pytest.mark.usefixtures("own_context")
def test_the_first_that_draws_is_taken_and_tried_once(monkeypatch, complaints, display, chosen, tried):
    found = trials(monkeypatch, complaints)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    simulators.prepare_pictures()
    assert os.environ.get("MUJOCO_GL") == chosen
    if chosen:
        simulators.prepare_pictures()
        monkeypatch.delenv("MUJOCO_GL")
    assert found == tried


@pytest.mark.usefixtures("own_context")
def test_what_the_user_chose_is_kept_and_nothing_is_tried(monkeypatch):
    found = trials(monkeypatch, {})
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    simulators.prepare_pictures()
    assert (os.environ["MUJOCO_GL"], found) == ("osmesa", [])


def failing(name="mujoco.renderer"):
    """An error that comes up in a module of that name."""
    space = {"__name__": name}
    exec("def draw():\n    raise RuntimeError('no screen.\\nat all')", space)
    return space["draw"]


@pytest.mark.parametrize(
    ("chosen", "complaints", "sentence"),
    [
        (
            "osmesa",
            {},
            "MuJoCo cannot render here with MUJOCO_GL='osmesa' (RuntimeError: no screen): unset it, and what works here is "
            "found.",
        ),
        (
            None,
            {"egl": ""},
            "MuJoCo cannot render here (RuntimeError: no screen), but with MUJOCO_GL=egl it does: set that.",
        ),
        (
            None,
            {"egl": "no driver", "osmesa": "no library"},
            "MuJoCo cannot render here (egl: no driver; osmesa: no library): install the system's EGL library and a driver, "
            "as in `apt install libegl1 libgl1-mesa-dri`.",
        ),
    ],
)
def test_a_renderer_that_fails_is_one_sentence(monkeypatch, chosen, complaints, sentence):
    trials(monkeypatch, complaints)
    if chosen:
        monkeypatch.setenv("MUJOCO_GL", chosen)
    with pytest.raises(OSError, match="MuJoCo cannot render") as caught, simulators.simulating():
        failing()()
    assert str(caught.value) == sentence


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="no screen"), simulators.simulating():
        failing("somebody.else")()


@pytest.mark.parametrize("missing", [["ogbench"], ["dm_control"], ["ogbench", "dm_control"]])
def test_what_newer_pythons_lack_is_told_with_its_command(monkeypatch, missing):
    found = simulators.importlib.util.find_spec
    monkeypatch.setattr(simulators.importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    command = "`python -m pip install -c constraints.txt --no-deps ogbench dm_control`"
    with pytest.raises(OSError, match=f"^OGBench's environments need {' and '.join(missing)}, .*: run {command}"):
        simulators.import_ogbench()


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run in the small maze, in a folder."""
    folder = tmp_path_factory.mktemp("played")
    record(MAZE, episodes=3, folder=folder, workers=1, progress=False)
    old = os.environ.get("FDBOOK_DATA")
    os.environ["FDBOOK_DATA"] = str(folder)
    spec = RunSpec(TASK, "bc", data={"episodes": 3}, updates=10, evaluations=(), episodes=1, config=SMALL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*reaches the goal")
        experiment.train(spec, folder / "run", **QUIET)
    yield folder
    os.environ.pop("FDBOOK_DATA") if old is None else os.environ.update(FDBOOK_DATA=old)


@pytest.mark.slow
@renders
def test_a_run_is_filmed_from_python_without_a_display(played, tmp_path):
    """With MuJoCo imported before anything is said of rendering, as a notebook has it."""
    code = (
        f"import mujoco\nfrom fdbook.experiment import open_run\nopen_run({str(played / 'run')!r}).film('film.gif')\n"
    )
    environ = {
        key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")
    }
    done = python(code, environ | {"PYTHONWARNINGS": "ignore"}, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames > 1
        assert np.asarray(film.convert("RGB")).std() > 5


@pytest.mark.slow
@renders
def test_two_runs_are_filmed_side_by_side(played, tmp_path):
    run = str(played / "run")
    assert cli.main(["animations", "arm", "--runs", run, run, "--out", str(tmp_path), "--episode", "1"]) == 0
    with Image.open(tmp_path / "arm.gif") as film:
        assert film.n_frames > 20
        film.seek(film.n_frames - 1)
        half = np.asarray(film.convert("RGB"))
    left, right = half[30:-30, 10:240], half[30:-30, 260:490]
    assert left.std() > 5
    assert np.mean(left != right) < 0.01  # one run, one episode, twice


def test_a_film_that_fails_is_told_before_the_episodes_are_played(played, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("MuJoCo cannot render here.")

    def play(*_, **__):
        raise AssertionError("episodes were played")

    monkeypatch.setattr(experiment.Run, "film", fail)
    monkeypatch.setattr(experiment.Run, "evaluate", play)
    code = cli.main(["evaluate", str(played / "run"), "--video", str(tmp_path / "film.gif"), "--no-progress"])
    assert (code, capsys.readouterr()) == (1, ("", "fdbook: MuJoCo cannot render here.\n"))
    assert not (tmp_path / "film.gif").exists()


@pytest.mark.parametrize(
    ("complaints", "asked", "system", "told"),
    [
        ({"egl": "no", "osmesa": ""}, "", "Linux", "osmesa"),
        ({"egl": "no", "osmesa": "no"}, "", "Linux", "install the system's EGL library"),
        ({"glfw": ""}, "glfw", "Linux", "glfw"),
        ({"glfw": "no display"}, "glfw", "Linux", r"with MUJOCO_GL='glfw' \(no display\): unset it"),
        ({"": ""}, "", "Darwin", "the system's own"),
        ({"": "no"}, "", "Darwin", r"MuJoCo cannot render here \(no\)\."),
    ],
)
def test_the_renderer_is_told_after_it_was_tried(monkeypatch, complaints, asked, system, told):
    trials(monkeypatch, complaints)
    monkeypatch.setattr(simulators.platform, "system", lambda: system)
    if asked:
        monkeypatch.setenv("MUJOCO_GL", asked)
    if told in (*complaints, "the system's own"):
        assert simulators.renderer() == told
    else:
        with pytest.raises(OSError, match=told):
            simulators.renderer()


@renders
@pytest.mark.parametrize(("task", "mode"), [("visual-cube-single", None), ("cube-single", "rgb_array")])
def test_the_end_of_an_environment_is_that_of_its_renderer(monkeypatch, task, mode):
    """Left to the garbage collector it is ended in whichever thread that runs, where EGL refuses."""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    environment = environment_of(RunSpec(task).task, render_mode=mode)
    environment.reset(seed=0)
    environment.render()
    renderer = environment.unwrapped._renderer
    assert renderer._gl_context is not None
    environment.close()
    assert renderer._gl_context is None

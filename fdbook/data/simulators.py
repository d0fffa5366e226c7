"""The benchmarks' simulators as this package uses them: imported late, without their notices and temporary files, and rendering.

MuJoCo reads the environment variable MUJOCO_GL when it is imported, and renderers load libraries of the system that many machines
do not have. So only what renders names one, here and nowhere else: `prepare_pictures` keeps what the user has set, and otherwise
has the first one that works, tried in a process of its own, whether MuJoCo is imported already or not.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar


__all__ = ["close_renderers", "import_ogbench", "making", "prepare_pictures", "renderer", "simulating", "tidy"]

World = TypeVar("World")
"""Any environment: the same that comes in goes out."""
RENDERERS = ("mujoco", "OpenGL", "glfw", "dm_control._render", "gymnasium.envs.mujoco.mujoco_rendering")
"""The modules, by how their names begin, in which the errors of renderers come up."""
NOTICES = (
    ".*precision lowered by casting",  # of OGBench's spaces, which are built anew at every look and reset
    ".*render_mode",  # OGBench's arm draws in modes that it does not name
    ".*is out of date",
)
TEMPORARY = re.compile(r"ant_maze[\d.]*\.xml|tmp\w{8}\.xml")
"""What gymnasium-robotics and OGBench call the files of the mazes that they make."""
PATIENCE = 60
"""Seconds after which a renderer that is tried is given up."""
TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
print("drawn" if renderer.render().any() else "black", flush=True)
"""


@contextlib.contextmanager
def simulating() -> Iterator[None]:
    """Around what makes, resets or draws an environment: no notices, and one sentence where a renderer fails.

    The notices are gymnasium's on OGBench's spaces and modes of rendering, and glfw's on a display that nothing needs. An error
    of a renderer becomes OSError: what happened, and what to do about it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="glfw")
        for message in NOTICES:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        except Exception as error:  # what a library that is not there raises depends on the library
            if not _of_a_renderer(error):
                raise
            raise _no_pictures(error) from error


@contextlib.contextmanager
def making(name: str) -> Iterator[None]:
    """Around what makes an environment of a library: where that fails for a reason of the library's own, as with a simulator of a
    version that it does not know, OSError says so, and where, in one sentence.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if type(error).__module__.startswith("gymnasium"):  # its own sentences
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise OSError(
            f"The environment {name} cannot be made here: {type(error).__name__} in {where}, as with a version of its simulator "
            "that it does not know. Its data can be used without it: `--env none`, or environment=None."
        ) from error


def tidy(environment: World) -> World:
    """The environment, without the temporary file from which a maze's model was read, and which nobody else removes.

    Such a file has a name of its maker's and lies among the temporary ones; others, in folders there too, are left alone.
    """
    world = getattr(environment, "unwrapped", environment)
    for name in ("tmp_xml_file_path", "fullpath"):
        path = Path(str(getattr(world, name, "")))
        if path.parent == Path(tempfile.gettempdir()) and TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return environment


def close_renderers(environment: Any) -> None:
    """Closes what an environment of OGBench draws with, which its own `close` leaves to the garbage collector: that may run in
    another thread, where EGL refuses.
    """
    world = getattr(environment, "unwrapped", environment)
    for name in ("_renderer", "custom_renderer"):
        held: Any = getattr(world, name, None)
        if type(held).__module__.partition(".")[0] == "mujoco":
            held.close()


def import_ogbench() -> ModuleType:
    """The module ogbench, with whose import gymnasium knows its environments.

    Raises OSError, with the command that installs them, where it or dm_control is not installed.
    """
    missing = [name for name in ("ogbench", "dm_control") if importlib.util.find_spec(name) is None]
    if missing:
        raise OSError(
            f"OGBench's environments need {' and '.join(missing)}, which do not come along on Python 3.13 and newer: run "
            "`python -m pip install -c constraints.txt --no-deps ogbench dm_control`."
        )
    return importlib.import_module("ogbench")


def prepare_pictures() -> None:
    """Has this process, and those that it starts, render: as MUJOCO_GL says if it is set, else with the first that works.

    Where none works nothing is changed, for not every environment renders with MuJoCo: the first picture tells it (`simulating`).
    """
    chosen = os.environ.get("MUJOCO_GL")
    if not chosen and platform.system() == "Linux":
        with contextlib.suppress(OSError):
            os.environ["MUJOCO_GL"] = chosen = _working()
    context: Any = sys.modules.get("mujoco.rendering.classic.gl_context") or sys.modules.get("mujoco.gl_context")
    if context is not None and chosen in ("egl", "glfw", "osmesa"):  # MuJoCo was imported, and has its default
        with contextlib.suppress(Exception):  # what is missing is told when it renders
            context.GLContext = importlib.import_module(f"mujoco.{chosen}").GLContext


def renderer() -> str:
    """The renderer with which MuJoCo draws here, tried: that of MUJOCO_GL if it is set, else the first that works.

    Raises OSError, with what is wrong and what to do about it, where none draws.
    """
    chosen = os.environ.get("MUJOCO_GL", "")
    if not chosen and platform.system() == "Linux":
        return _working()
    if complaint := _trial(chosen):
        raise OSError(
            f"MuJoCo cannot render here with MUJOCO_GL={chosen!r} ({complaint}): unset it, and what works here is found."
            if chosen
            else f"MuJoCo cannot render here ({complaint})."
        )
    return chosen or "the system's own"


def _of_a_renderer(error) -> bool:
    """Whether an error came up in one of RENDERERS."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith(RENDERERS) for name in modules)


def _no_pictures(error) -> OSError:
    """The sentence for an error of a renderer."""
    chosen, reason = os.environ.get("MUJOCO_GL"), _reason(error)
    if _working.cache_info().currsize and chosen == _working():
        return OSError(
            f"MuJoCo cannot render in this process ({reason}), though it can in a new one with MUJOCO_GL={chosen}: start anew."
        )
    if chosen:
        return OSError(
            f"MuJoCo cannot render here with MUJOCO_GL={chosen!r} ({reason}): unset it, and what works here is found."
        )
    if platform.system() != "Linux":
        return OSError(f"MuJoCo cannot render here ({reason}).")
    try:
        return OSError(f"MuJoCo cannot render here ({reason}), but with MUJOCO_GL={_working()} it does: set that.")
    except OSError as complaint:
        return complaint


@functools.cache
def _working() -> str:
    """The first of MuJoCo's renderers on Linux that draws here. Raises OSError, with what each complains of, when none does."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    complaints = {}
    for name in ("egl", *(("glfw",) if display else ()), "osmesa"):
        complaints[name] = _trial(name)
        if not complaints[name]:
            return name
    told = "; ".join(f"{name}: {complaint}" for name, complaint in complaints.items())
    raise OSError(
        f"MuJoCo cannot render here ({told}): install the system's EGL library and a driver, as in `apt install libegl1 "
        "libgl1-mesa-dri`."
    )


def _trial(name: str) -> str:
    """What a process complains of that draws with one of MuJoCo's renderers; nothing where a picture comes out."""
    options = {"env": os.environ | {"MUJOCO_GL": name}, "stdin": subprocess.DEVNULL, "timeout": PATIENCE}
    try:
        done = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _reason(error)
    if done.stdout.split() == ["drawn"]:
        return ""
    said = done.stderr.strip().splitlines()
    return said[-1].rstrip(".") if said else f"its picture is black, exit code {done.returncode}"


def _reason(error) -> str:
    """The kind and the first line of an error."""
    first = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__, *first]).rstrip(".")

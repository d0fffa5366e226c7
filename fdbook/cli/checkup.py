"""What `fdbook doctor` looks at: a finding for each thing, and one for each chapter, which has what its own code needs.

Everything that could be broken is tried in a process of its own (`fdbook.cli.probing`); here only the standard library is needed.
"""

import dataclasses
import functools
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from fdbook import book
from fdbook.cli import probing, requirements


__all__ = ["Finding", "findings"]

PYTHON = (3, 11)
SPARE = 200e6
"""Bytes that are to stay free beside what is recorded: caches of compiled programs, notebooks that are saved."""
MODULES = {"PIL": "pillow", "tree": "dm-tree", "google": "protobuf", "orbax": "orbax-checkpoint", "yaml": "pyyaml"}
"""Modules that are called otherwise than what installs them."""
ALONE = ("ogbench", "dm_control")
"""What is installed without what it depends on, on Python 3.13 and newer: one of those has no wheel there, and is not used."""
DEVICE = "import jax\nresult = [[device.platform, device.device_kind] for device in jax.devices()]"
PICTURES = """
import io
from PIL import Image
for kind in ("GIF", "WEBP"):
    picture = Image.new("RGB", (4, 4))
    picture.save(io.BytesIO(), kind, save_all=True, append_images=[picture])
"""
RENDERER = "from fdbook.data import simulators\nresult = simulators.renderer()"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row: what it is about, how it stands, what was found, and the command that mends it."""

    what: str
    state: Literal["ok", "note", "missing"]
    """A note is about something that no chapter waits for."""
    found: str
    mend: str = ""
    chapter: bool = False
    """Whether it is about a chapter."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)


def findings() -> Iterator[Finding]:
    """The findings, as they come: what is quick to see first. Each check that fails itself is a finding that says so."""
    yield _python()
    yield from _guarded("packages", _packages)
    kernels = {}
    chapters, damaged = _chapters()
    for name in sorted({need.kernel for need in chapters.values()}):
        for finding in _guarded("kernel", lambda name=name: [_kernel(name)]):
            kernels[name] = finding
            yield finding
    answers = probing.try_out(_tasks(chapters))
    device, lab = _device(answers["device"]), _lab(answers["import jupyterlab"])
    yield from (device, lab)
    yield from _guarded("data", lambda: _data(answers["data"]))
    yield _films(answers["pictures"], probing.try_out({"renderer": RENDERER})["renderer"])
    if not chapters and not damaged:
        yield Finding("chapters", "missing", f"there are none in {book.NOTEBOOKS}", _mend_fdbook(), chapter=True)
    for number, sentence in damaged.items():
        yield Finding(number, "missing", sentence, _mend_fdbook(), chapter=True)
    for number, need in chapters.items():
        stops = [one for one in (device, lab, kernels[need.kernel]) if one.state == "missing"]
        look = functools.partial(_chapter, number, need, answers, stops)
        yield from _guarded(number, lambda look=look: [look()], chapter=True)


def _guarded(what: str, look: Callable[[], Iterable[Finding]], *, chapter: bool = False) -> Iterator[Finding]:
    """The findings of a look; one that says what went wrong, where the look itself fails."""
    try:
        yield from look()
    except Exception as error:  # whatever a broken installation comes up with
        found = f"cannot be looked at ({type(error).__name__}: {error})"
        mend = _install(error.name or "", again=False) if isinstance(error, ModuleNotFoundError) else _mend_fdbook()
        yield Finding(what, "missing", found, mend, chapter)


def _chapters() -> tuple[dict[str, requirements.Needs], dict[str, str]]:
    """What each chapter needs, and what is wrong with those of which it cannot be read."""
    found, damaged = {}, {}
    for number, path in book.chapters().items():
        try:
            found[number] = requirements.of_notebook(path)
        except (OSError, ValueError) as error:
            damaged[number] = str(error)
    return found, damaged


def _tasks(chapters) -> dict[str, str]:
    """What is tried in the other process, by name: imports are their own name."""
    first = {"import jupyterlab": "import jupyterlab", "pictures": PICTURES, "device": DEVICE}
    lines = [line for need in chapters.values() for line in need.imports] + _late()
    asked = {
        number: (list(need.words), {name or "": size for name, size in need.episodes.items()})
        for number, need in chapters.items()
        if need.uses_data
    }
    data = f"from fdbook.cli.probing import inventory\nresult = inventory({asked!r})"
    return first | {line: line for line in lines} | {"data": data}


def _python() -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}; {platform.system()} {platform.machine()}"
    if sys.version_info < PYTHON:
        newer = ".".join(map(str, PYTHON))
        return Finding("Python", "missing", f"{found}; fdbook needs {newer}", f"python{newer} -m venv .venv")
    if platform.system() != "Linux":
        return Finding("Python", "note", f"{found}: fdbook was tried on Linux only, see the README")
    return Finding("Python", "ok", found)


def _packages() -> Iterator[Finding]:
    """What fdbook requires: whether it is there, new enough, and what the constraints have."""
    where = f"a clone, {book.ROOT}" if book.IN_CLONE else f"installed in {book.PACKAGE.parent}"
    try:
        version, texts = importlib.metadata.version("fdbook"), importlib.metadata.requires("fdbook") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("fdbook", "missing", f"not installed, only found in {book.PACKAGE.parent}", _mend_fdbook())
        return
    yield Finding("fdbook", "ok", f"{version}; {where}")
    wanted = dict(_required(texts))
    installed = {name: _installed(name) for name in wanted}
    missing = [name for name, has in installed.items() if has is None]
    if missing:
        mend = _mend_fdbook() if book.IN_CLONE and len(missing) > 1 else f"{_pip()} {' '.join(missing)}"
        alone = missing == ["ogbench"]
        found = f"{len(missing)} of {len(wanted)} are not installed: {', '.join(missing)}"
        yield Finding("packages", "missing", found, _install("ogbench") if alone else mend)
    pinned, others = _pins(), []
    for name, has in installed.items():
        if has is not None and wanted[name] is not None and not wanted[name].contains(has, prereleases=True):
            yield Finding(name, "missing", f"{has}; fdbook needs {wanted[name]}", _install(name))
        elif has is not None and (pin := pinned.get(_plain(name), has)) != has:
            others.append((name, has, pin))
    if not pinned:
        yield Finding("versions", "note", f"there is no {book.CONSTRAINTS} to compare them with")
    elif others:
        told = ", ".join(f"{name} {has} (there: {pin})" for name, has, pin in others)
        names = " ".join(f"{name}=={pin}" for name, _, pin in others)
        yield Finding("versions", "note", f"others than in constraints.txt: {told}", f"{_pip()} {names}")
    elif not missing:
        yield Finding("packages", "ok", f"{len(wanted)}, in the versions of constraints.txt")


def _required(texts) -> Iterator[tuple[str, Any]]:
    """The names and versions that are required here; where even what reads them is not installed, the names."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        named = [re.match(r"[\w.-]+", text) for text in texts if ";" not in text]
        yield from ((name[0], None) for name in named if name)
        return
    for need in map(Requirement, texts):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield need.name, need.specifier


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins() -> dict[str, str]:
    """The versions of constraints.txt, by name; none where there is no such file."""
    if not book.CONSTRAINTS.exists():
        return {}
    pairs = re.findall(r"^([\w.-]+)==([^\s;]+)", book.CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    return {_plain(name): version for name, version in pairs}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _short(path: str | Path) -> str:
    """A path as it is typed here, from this folder if it lies below."""
    path = Path(path)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _pip() -> str:
    """The beginning of a command that installs into this very environment, in the versions of the constraints."""
    constraints = f" -c {_short(book.CONSTRAINTS)}" if book.CONSTRAINTS.exists() else ""
    return f"{_short(sys.executable)} -m pip install{constraints}"


def _install(module: str, *, again: bool = False) -> str:
    """The command that installs what a module belongs to; `again` for one that is there and broken."""
    top = module.partition(".")[0]
    if top == "fdbook":
        return _mend_fdbook()
    if top.replace("-", "_") in ALONE and sys.version_info >= (3, 13):
        return f"{_pip()} --no-deps {' '.join(ALONE)}"
    name = "jax jaxlib" if again and top in ("jax", "jaxlib") else MODULES.get(top, top.replace("_", "-"))
    return f"{_pip()}{' --force-reinstall --no-deps' if again else ''} {name}"


def _mend_fdbook() -> str:
    what = f"-e {_short(book.ROOT)}" if book.IN_CLONE else "--force-reinstall --no-deps fdbook"
    return f"{_pip()} {what}"


def _mend(answer, module: str = "fdbook") -> str:
    """The command for what came of a task; `module` is what it was about, where the answer does not tell where it went wrong."""
    return _install(answer.module or module, again=not answer.missing)


def _kernel(name: str) -> Finding:
    """The kernel of the notebooks: whether it is one of this very environment."""
    from jupyter_client import kernelspec

    ours = f"{_short(sys.executable)} -m ipykernel install --sys-prefix --name {name}"
    try:
        spec = kernelspec.KernelSpecManager().get_kernel_spec(name)
    except kernelspec.NoSuchKernel:
        return Finding("kernel", "missing", f"Jupyter has no kernel {name!r}", ours)
    starts = spec.argv[0]
    if starts in ("python", f"python{sys.version_info[0]}", "python{}.{}".format(*sys.version_info)):
        starts = sys.executable  # as Jupyter does
    prefix = _says([starts, "-c", "import sys, ipykernel; print(sys.prefix)"])
    if prefix is None:
        mend = _install("ipykernel") if starts == sys.executable else ours
        return Finding("kernel", "missing", f"{name!r} starts {starts}, which has no ipykernel", mend)
    if not os.path.samefile(prefix, sys.prefix):
        found = f"{name!r}, of {spec.resource_dir}, starts another environment: {prefix}"
        away = f"{_short(sys.executable)} -m jupyter kernelspec remove {name} && "
        within = Path(spec.resource_dir).is_relative_to(sys.prefix)
        return Finding("kernel", "missing", found, ours if within else away + ours)
    return Finding("kernel", "ok", f"{name!r} starts this environment")


def _says(command) -> str | None:
    """What a command prints; None where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _device(answer) -> Finding:
    asked = os.environ.get("JAX_PLATFORMS", "")
    if answer.error and asked and not answer.missing:
        found = f"JAX finds none for JAX_PLATFORMS={asked!r} ({answer.error})"
        gpu = f"; on a machine with an NVIDIA GPU: {_pip()} 'jax[cuda12]'"
        return Finding("device", "missing", found, "unset JAX_PLATFORMS" + (gpu if asked in ("cuda", "gpu") else ""))
    if answer.error:
        return Finding("device", "missing", f"JAX does not run: {answer.error}", _mend(answer, "jax"))
    kinds = [kind for kind, _ in answer.result]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ", ".join(dict.fromkeys(name for _, name in answer.result))
    found = f"CPU, {cores} cores" if set(kinds) == {"cpu"} else f"{len(kinds)} of {kinds[0]}: {names}"
    idle = _says(["nvidia-smi", "-L"]) if set(kinds) == {"cpu"} else None
    if idle and asked:
        return Finding("device", "note", f"{found}, as JAX_PLATFORMS={asked!r} asks, though there is an NVIDIA GPU")
    if idle:
        install = f"{_pip()} 'jax[cuda12]'"
        return Finding("device", "note", f"{found}; there is an NVIDIA GPU, which JAX does not use", install)
    return Finding("device", "ok", found)


def _lab(answer) -> Finding:
    if answer.error:
        return Finding("JupyterLab", "missing", answer.error, _mend(answer, "jupyterlab"))
    return Finding("JupyterLab", "ok", f"{_short(sys.executable)} -m jupyterlab opens it")


def _data(answer) -> Iterator[Finding]:
    """Where data sets are kept, which are there, and how much room is left."""
    if answer.error:
        yield Finding("data", "missing", f"cannot be looked at: {answer.error}", _mend(answer))
        return
    root, here = Path(answer.result["root"]), answer.result["here"]
    chosen = "FDBOOK_DATA" if os.environ.get("FDBOOK_DATA") else "set FDBOOK_DATA to choose another folder"
    told = "; ".join(f"{name}: {what}" for name, what in here.items()) or "nothing yet"
    if _writable(root):
        yield Finding("data", "ok", f"in {root} ({chosen}): {told}")
    else:
        mend = "export FDBOOK_DATA=a/folder/of/yours"
        yield Finding("data", "note", f"in {root} ({chosen}), where nothing can be written: {told}", mend)
    free = _free(root)
    low = free < SPARE
    mend = "export FDBOOK_DATA=a/folder/with/room" if low else ""
    yield Finding("disk", "note" if low else "ok", f"{free / 1e9:,.1f} GB free for data", mend)


def _nearest(folder: Path) -> Path:
    """The folder, or the one above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def _writable(folder: Path) -> bool:
    return _nearest(folder).is_dir() and os.access(_nearest(folder), os.W_OK | os.X_OK)


def _free(folder: Path) -> int:
    return shutil.disk_usage(_nearest(folder)).free


def _films(pictures, renderer) -> Finding:
    """What films and data sets of pictures need; no chapter renders, and films are GIFs, which need no ffmpeg."""
    if pictures.error:
        return Finding("films", "note", f"pictures cannot be written: {pictures.error}", _mend(pictures, "PIL"))
    if renderer.error:
        command = re.search(r"`([^`]+)`", renderer.error) or re.search(r"(MUJOCO_GL=\S+) it does", renderer.error)
        mend = command[1] if command else "unset MUJOCO_GL" if os.environ.get("MUJOCO_GL") else ""
        return Finding("films", "note", renderer.error, mend or _mend(renderer))
    return Finding("films", "ok", f"MuJoCo renders with {renderer.result}; GIF and WebP are written (no ffmpeg needed)")


def _chapter(number: str, need, answers, stops) -> Finding:
    """Whether a chapter can run: its imports, its records, its data or what records them, and none of `stops`, which stop all."""
    if stops:
        return Finding(number, "missing", f"{need.title}: lacks the {stops[0].what}, see above", chapter=True)
    for line in (*need.imports, *(_late() if need.uses_data else ())):
        if answers[line].error:
            found = f"{need.title}: `{line}`: {answers[line].error}"
            return Finding(number, "missing", found, _mend(answers[line], line.split()[1]), True)
    lacking = [pattern for pattern in need.records if not any(book.RECORDS.glob(pattern))]
    if lacking:
        found = f"{need.title}: no {', '.join(lacking)} in {book.RECORDS}"
        mend = f"git -C {_short(book.ROOT)} checkout -- figures/data" if book.IN_CLONE else _mend_fdbook()
        return Finding(number, "missing", found, mend, True)
    if not need.uses_data:
        return Finding(number, "ok", need.title, chapter=True)
    if answers["data"].error:
        return Finding(number, "missing", f"{need.title}: {answers['data'].error}", _mend(answers["data"]), True)
    return _data_of(number, need, answers["data"].result)


def _late() -> list[str]:
    """The imports of `fdbook.data` that happen only when something is recorded or read; none where it cannot be read itself."""
    try:
        return [f"import {module}" for module in requirements.late_imports(book.PACKAGE / "data")]
    except (OSError, ValueError, SyntaxError):
        return []


def _data_of(number: str, need, stock) -> Finding:
    """Whether the data of a chapter are here, or can be recorded."""
    root, absent = Path(stock["root"]), [data for data in stock["chapters"][number] if not data["here"]]
    names, commands = ", ".join(data["name"] for data in absent), " && ".join(data["command"] for data in absent)
    size = sum(data["bytes"] for data in absent)
    if not absent:
        return Finding(number, "ok", f"{need.title}; its data are here", chapter=True)
    found = f"{need.title}: not here: {names}"
    if not need.records_anew or not all(data["recordable"] for data in absent):
        return Finding(number, "missing", found, commands, True)
    if not _writable(root):
        found += f"; nothing can be recorded into {root}"
        return Finding(number, "missing", found, "export FDBOOK_DATA=a/folder/of/yours", True)
    if _free(root) < 2 * size + SPARE:
        found += f"; {_free(root) / 1e6:,.0f} MB of {root} are too little to record into"
        return Finding(number, "missing", found, "export FDBOOK_DATA=a/folder/with/room", True)
    return Finding(number, "ok", f"{need.title}; records {names} when it is run", chapter=True)

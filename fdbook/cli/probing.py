"""Trying things out in a process of its own, so that what is broken, or crashes, is told and does not end the one that asks."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


__all__ = ["Answer", "inventory", "try_out"]

PATIENCE = 180
"""Seconds after which a process that is asked is given up."""
RESTARTS = 4
"""Times that a process is started again after a task that ended it."""
CODE = """
import json, os, sys, traceback, warnings
warnings.simplefilter("ignore")
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a library prints is no answer
asked = json.loads(sys.stdin.readline())
sys.path[:] = asked["path"]
for name, code in asked["tasks"].items():
    print(json.dumps({"begun": name}), file=out, flush=True)
    names, said = {}, {"error": "", "module": "", "result": None}
    try:
        exec(code, names)
        said["result"] = names.get("result")
    except BaseException as error:
        frames = traceback.walk_tb(error.__traceback__)
        modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
        modules = [module for module in modules if module and not module.startswith(("__main__", "importlib", "_"))]
        first = [line if len(line) < 120 else line[:116] + " ..." for line in str(error).strip().splitlines()[:1]]
        kind = type(error).__name__
        gone = isinstance(error, ModuleNotFoundError)
        said["error"] = ": ".join([kind, *first]) if not gone else f"{error.name} is not installed"
        said["module"] = error.name or "" if gone else modules[-1] if modules else ""
        said["missing"] = gone
        if isinstance(error, OSError) and first:
            said["error"] = str(error).strip().splitlines()[0]
    print(json.dumps({"done": name, **said}), file=out, flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of one task."""

    error: str = ""
    """What went wrong, in a line; empty when nothing did."""
    module: str = ""
    """The module that is not installed, or in which it went wrong."""
    missing: bool = False
    """Whether that module is not installed."""
    result: Any = None
    """What the code bound to the name `result`, as JSON has it."""


def try_out(tasks: Mapping[str, str], *, patience: float = PATIENCE) -> dict[str, Answer]:
    """What comes of each task, a piece of Python by name, tried one after the other in a process of its own with this one's path.

    A task that ends the process, or does not end, has that for its error, and those after it are tried in a new process, at most
    RESTARTS times.
    """
    answers: dict[str, Answer] = {}
    for _ in range(RESTARTS + 1):
        left = {name: code for name, code in tasks.items() if name not in answers}
        if not left:
            break
        begun, reason = _ask(left, answers, patience)
        if begun is not None:
            answers[begun] = Answer(error=reason)
    return {
        name: answers.get(name, Answer(error="not tried: too many tries before it ended their process"))
        for name in tasks
    }


def _ask(tasks, answers, patience) -> tuple[str | None, str]:
    """Adds what one process answers; returns the task that it did not come through, and why."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a GPU's memory may be in use
    asked = json.dumps({"path": sys.path, "tasks": dict(tasks)}) + "\n"
    options = {
        "input": asked,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
        "env": environment,
    }
    try:
        done = subprocess.run([sys.executable, "-c", CODE], timeout=patience, check=False, **options)
        said, reason = done.stdout, _ending(done.returncode)
    except subprocess.TimeoutExpired as error:
        said, reason = error.stdout or "", f"no answer in {patience:g} seconds"
        said = said.decode() if isinstance(said, bytes) else said
    except OSError as error:
        return next(iter(tasks)), f"no process can be started: {error.strerror}"
    begun = None
    for line in said.splitlines():
        told = json.loads(line)
        begun = told.get("begun")
        if name := told.pop("done", None):
            answers[name] = Answer(**told)
    if begun is None and not any(name in answers for name in tasks):
        begun = next(iter(tasks))
    return begun, reason


def _ending(code: int) -> str:
    """What an exit code says of a process that ended before its time."""
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def inventory(chapters: Mapping[str, tuple[Sequence[str], Mapping[str, int]]]) -> dict[str, Any]:
    """What is here of the data: where it is kept, what is recorded and downloaded, and of each chapter's data whether it is here.

    `chapters` has the texts in a chapter's code, among which are the names of its data sets, and the sizes of the recordings that
    it loads; the size at "" is that of data sets that stand in no call. All of the result can be written as JSON.
    """
    import numpy as np

    from fdbook.data import files, load, tasks

    here, asked = {}, {}
    for name, dataset in tasks.DATASETS.items():
        places = load.recordings(name)
        sizes = [f"{place.episodes} episodes{' of a dose' if place.dose else ''}" for place in places]
        if found := (["download"] if load.downloaded(dataset) else []) + list(dict.fromkeys(sizes)):
            here[name] = ", ".join(found)
    for chapter, (texts, sizes) in chapters.items():
        asked[chapter] = []
        for name in (text for text in texts if text in tasks.DATASETS):
            dataset, episodes = tasks.DATASETS[name], sizes.get(name, sizes.get(""))
            place = files.Place(name, episodes or dataset.episodes or 1)
            row = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in dataset.arrays.values())
            there = all(path.exists() for path in place.files.values()) or (episodes is None and name in here)
            size = row * dataset.steps * sum(place.sizes.values())
            recordable = dataset.controller is not None
            facts = {"name": name, "here": there, "bytes": int(size), "recordable": recordable}
            asked[chapter].append(facts | {"command": place.command})
    return {"root": str(files.root()), "here": here, "chapters": asked}

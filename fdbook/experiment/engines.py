"""Where the cells of a sweep run: an `Engine` runs jobs and reports events. `Processes` gives each a process of this machine."""

import abc
import collections
import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, cast

from fdbook.checks import check_range
from fdbook.rl.environments import cores


__all__ = ["CARRY_ON", "KILL", "LOG", "STOP", "Engine", "Event", "Job", "Processes", "default_jobs"]

LOG = "sweep.log"
"""The file in a cell's folder that keeps what its process prints."""
CARRY_ON, STOP, KILL = 0, 1, 2
"""What an engine is told while it runs: go on; start nothing and let what runs save and stop; kill it."""
TICK = 0.2
"""Seconds after which an engine has heard nothing and looks at what it is told."""
WORKER = (sys.executable, "-m", "fdbook.experiment.cell")
ENDS = ("finished", "failed", "stopped")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to be trained."""

    spec: Mapping[str, Any]
    """`RunSpec.to_dict`."""
    folder: Path


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened to a job."""

    index: int
    """Its place among the jobs."""
    kind: Literal["started", "progress", "finished", "failed", "stopped"]
    done: int | None = None
    """Updates so far, where it is known."""
    score: float | None = None
    """The mean over seeds of the last score, where there is one."""
    note: str = ""
    """Why it failed, or how it stopped, in one sentence."""


class Engine(abc.ABC):
    """Runs jobs, each apart from the others: one that crashes takes none with it."""

    @abc.abstractmethod
    def run(self, jobs: Sequence[Job], told: Callable[[], int]) -> Iterator[Event | None]:
        """Runs every job once, and yields what happens as it happens; None where nothing did for a moment.

        Each job that starts ends with one event "finished", "failed" or "stopped". `told()` is CARRY_ON, STOP or KILL.
        """


class Processes(Engine):
    """Each job in a process of its own on this machine, `jobs` of them at once."""

    def __init__(self, jobs: int = 1, worker: Sequence[str] = WORKER):
        check_range(jobs, "a number of jobs", "An engine", low=1.0)
        self.jobs, self.worker = jobs, tuple(worker)

    def run(self, jobs: Sequence[Job], told: Callable[[], int]) -> Iterator[Event | None]:
        """Runs every job once, and yields what happens as it happens; None where nothing did for a moment."""
        waiting, running = collections.deque(enumerate(jobs)), {}
        events: queue.Queue[Event] = queue.Queue()
        try:
            while running or (waiting and told() == CARRY_ON):
                while waiting and len(running) < self.jobs and told() == CARRY_ON:
                    index, job = waiting.popleft()
                    try:
                        running[index] = _Process(index, job, self, events)
                        yield Event(index, "started")
                    except OSError as error:
                        yield Event(index, "failed", note=f"It could not be started: {error}.")
                for process in running.values():
                    process.tell(told())
                event = _next(events)
                if event is not None and event.kind in ENDS:
                    running.pop(event.index).close()
                yield event
        finally:
            for process in running.values():
                process.tell(KILL)
                process.close()


def _next(events: "queue.Queue[Event]") -> Event | None:
    try:
        return events.get(timeout=TICK)
    except queue.Empty:
        return None


class _Process:
    """A process that trains one job, and the thread that listens to it."""

    def __init__(self, index: int, job: Job, engine: Processes, events: "queue.Queue[Event]"):
        self.index, self.events, self.told, self.end = index, events, CARRY_ON, None
        job.folder.mkdir(parents=True, exist_ok=True)
        self.log = job.folder / LOG
        self.process = _started(engine, self.log)
        self.order_pipe = cast("IO[bytes]", self.process.stdin)  # neither pipe is None: `_started` asks for both
        self.event_pipe = cast("IO[bytes]", self.process.stdout)
        message = {"spec": job.spec, "folder": str(job.folder)}
        with contextlib.suppress(BrokenPipeError):  # it has died already, which its exit code says
            self.order_pipe.write(json.dumps(message).encode() + b"\n")
            self.order_pipe.flush()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def tell(self, what: int) -> None:
        """Hands on, once each, that it is to stop or to die."""
        if what > self.told:
            self.told = what
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if what == KILL:
                    os.killpg(self.process.pid, signal.SIGKILL)  # and the processes that step its environments
                else:
                    self.process.terminate()

    def close(self) -> None:
        """Waits until it is gone."""
        self.thread.join()
        with contextlib.suppress(BrokenPipeError):
            self.order_pipe.close()
        self.event_pipe.close()

    def _listen(self) -> None:
        end = None
        for line in self.event_pipe:
            with contextlib.suppress(ValueError, TypeError):  # a line that was cut off when it died
                event = Event(self.index, **json.loads(line))
                end = event if event.kind in ENDS else end
                if end is None:
                    self.events.put(event)
        code = self.process.wait()
        self.events.put(self._without_a_word(code) if end is None else end)

    def _without_a_word(self, code: int) -> Event:
        """How a process ended that did not say it."""
        if self.told != CARRY_ON and code < 0:
            return Event(self.index, "stopped", note="Stopped; what it saved last is kept.")
        if code < 0:
            name = signal.Signals(-code).name
            why = ", perhaps by the system for want of memory" if name == "SIGKILL" else ""
            return Event(
                self.index, "failed", note=f"Its process was killed ({name}{why}); what it saved last is kept."
            )
        return Event(self.index, "failed", note=f"Its process ended with exit code {code}: see {self.log}.")


def _started(engine: Processes, log: Path) -> subprocess.Popen:
    """A worker in a group of its own, which Ctrl-C on the terminal does not reach: it is told to stop once, and by us."""
    environment = dict(os.environ)
    if engine.jobs > 1:  # jobs that share an accelerator take of its memory what they need, and not all of it at once
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with open(log, "ab") as file:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": file}
        return subprocess.Popen(engine.worker, env=environment, start_new_session=True, **pipes)


def default_jobs() -> int:
    """How many jobs keep this machine busy: one for each two cores, and one where there is an accelerator.

    Another process looks for it, because one that has looked holds its memory. Raises ValueError where JAX finds no device.
    """
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"JAX finds no device for JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}.")
    return max(1, cores() // 2) if done.stdout.split()[-1:] == ["cpu"] else 1

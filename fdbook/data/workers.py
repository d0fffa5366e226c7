"""Processes that do jobs for this one: each gets its next job as soon as it is done, and ends when this process ends.

A worker is a new Python that shares nothing with this one but two pipes: whatever script or notebook calls, nothing of it runs a
second time. Jobs go in and reports come out as lines of JSON.
"""

import collections
import contextlib
import importlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any, cast


__all__ = ["WorkerDiedError", "main", "run"]

AHEAD = 2
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
COMMAND = "from fdbook.data import workers; workers.main()"


class WorkerDiedError(OSError):
    """A worker's process ended without a word of its own."""


class _Worker:
    """One process, the jobs that it has, and a thread that puts its reports into a queue."""

    def __init__(self, order, reports):
        self.jobs = collections.deque()
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the worker is ended)
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            env=dict(os.environ) | ONE_THREAD,
            start_new_session=True,  # Ctrl-C is for this process, which then ends its workers
        )
        self.order_pipe = cast("IO[bytes]", self.process.stdin)  # neither pipe is None: both were asked for
        self.report_pipe = cast("IO[bytes]", self.process.stdout)
        self.say(order)
        threading.Thread(target=self._listen, args=(reports,), daemon=True).start()

    def _listen(self, reports):
        for line in self.report_pipe:
            reports.put((self, *json.loads(line)))
        reports.put((self, "gone"))

    def say(self, what) -> None:
        """Hands over one line; a worker that is gone is found out by its thread."""
        with contextlib.suppress(BrokenPipeError):
            self.order_pipe.write(json.dumps(what).encode() + b"\n")
            self.order_pipe.flush()

    def last_words(self) -> str:
        """What it complained of last."""
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def end(self) -> None:
        """Ends the process, wherever it is."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.order_pipe, self.report_pipe, self.complaints):
            with contextlib.suppress(OSError):
                pipe.close()


def run(module: str, order: dict[str, Any], jobs: list, count: int, tick: Callable[[int], object]) -> None:
    """Has `count` processes call `serve(order, jobs, tick)` of a module; together they get every job (as JSON has it) once.

    `tick` of this process is called, from this thread, with the numbers that the workers' are called with. Raises OSError, with
    the error number and text of the worker's own where it was one, when a worker fails or dies; no worker outlives the call.
    """
    reports, waiting, workers = queue.SimpleQueue(), collections.deque(jobs), []
    try:
        for _ in range(count):
            workers.append(_Worker({"module": module, "order": order}, reports))
        for _ in range(AHEAD):
            for worker in workers:
                _hand_out(worker, waiting)
        left = len(jobs)
        while left:
            worker, kind, *details = reports.get()
            if kind == "tick":
                tick(details[0])
            elif kind == "done":
                left -= 1
                worker.jobs.popleft()
                _hand_out(worker, waiting)
            elif kind == "failed":
                raise OSError(*details)
            else:
                _refuse_death(worker)
    finally:
        for worker in workers:
            worker.end()


def _hand_out(worker, waiting):
    """The next job for a worker, if there is one."""
    if waiting:
        worker.jobs.append(waiting.popleft())
        worker.say(worker.jobs[-1])


def _refuse_death(worker):
    code = worker.process.wait()
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    raise WorkerDiedError(f"A recording process {how}{worker.last_words()}; run the same command to carry on.")


def main() -> None:
    """What a worker runs: reads the order and the jobs from its standard input, until that closes."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no report
    jobs = queue.SimpleQueue()
    first = json.loads(sys.stdin.readline())
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()

    def report(*words):
        reports.write(json.dumps(words) + "\n")
        reports.flush()

    def item() -> Iterator:
        while True:
            yield jobs.get()
            report("done")

    try:
        importlib.import_module(first["module"]).serve(first["order"], item(), lambda steps: report("tick", steps))
    except OSError as error:
        report("failed", *((str(error),) if error.errno is None else (error.errno, error.strerror)))
    except Exception as error:
        report("failed", f"A recording process failed: {type(error).__name__}: {error}")
        raise


def _read(jobs) -> None:
    """Passes jobs on; when nobody is there to give any more, the process ends at once, wherever it is."""
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(1)

"""The process of one cell of a sweep: `python -m fdbook.experiment.cell`. `fdbook.experiment.engines.Processes` starts it.

Its first line of input is JSON: a specification and a folder. On its output it tells, a line of JSON each, how far it is and
how it ended; whatever else would be printed goes to its standard error, the cell's log. When its input ends, whoever started it
is gone, and it saves and stops.
"""

import contextlib
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from fdbook import experiment
from fdbook.experiment.sweeping import last_score


__all__ = ["main"]

OFTEN = 1.0
"""Seconds between two words on how far it is."""


def _private() -> tuple[BinaryIO, BinaryIO]:
    """The pipes from and to whoever started this, under numbers that no library prints to and no process inherits."""
    asked, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return asked, answers


def _stop_at_the_end_of(asked: BinaryIO) -> None:
    asked.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _far(record) -> dict[str, Any]:
    return {"done": record.done, "score": last_score(record)}


def _ended(tree: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Trains, tells now and then how far it is, and returns how it ended."""
    far, last = {}, -OFTEN

    def watch(record, agents) -> None:
        nonlocal far, last
        far = _far(record)
        if time.monotonic() - last >= OFTEN:
            last = time.monotonic()
            tell({"kind": "progress", **far})

    try:
        spec = experiment.RunSpec.from_dict(tree["spec"])
        run = experiment.train(spec, tree["folder"], progress=False, watch=watch)
        return {"kind": "finished", **_far(run.record)}
    except KeyboardInterrupt as stop:
        return {"kind": "stopped", "note": str(stop) or "Stopped before its first update.", **far}
    except Exception as error:  # whatever happened to one cell, the others go on
        _print(traceback.format_exc())
        text = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}."
        expected = isinstance(error, ValueError | OSError | ArithmeticError | MemoryError)
        return {"kind": "failed", "note": text if expected else f"{type(error).__name__}: {text}", **far}


def _print(text: str) -> None:
    """Says something in the log, if the disk takes it."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def main() -> int:
    """Trains the cell that the input names. Returns 0 (finished), 1 (failed) or 130 (stopped)."""
    asked, answers = _private()
    tree = json.loads(asked.readline())

    def tell(event: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever listened is gone, and the run is about to be stopped
            answers.write(json.dumps(event).encode() + b"\n")

    threading.Thread(target=_stop_at_the_end_of, args=(asked,), daemon=True).start()
    end = _ended(tree, tell)
    tell(end)
    _print(end.get("note") or f"Finished after {end['done']} updates.")
    return {"finished": 0, "failed": 1, "stopped": 130}[end["kind"]]


if __name__ == "__main__":
    raise SystemExit(main())

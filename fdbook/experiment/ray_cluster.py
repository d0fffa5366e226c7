"""Sweeps on a cluster: an engine that hands each job to Ray. It needs the extra `ray`, and a folder that all nodes share."""

import collections
import dataclasses
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fdbook.experiment.engines import CARRY_ON, ENDS, TICK, Engine, Event, Job, Processes


__all__ = ["RayCluster"]

CORES = 2
"""Cores of a node that a job asks for."""


class _Mailbox:
    """An actor of the cluster: what jobs report, and what they are told."""

    def __init__(self):
        self.events, self.word = [], CARRY_ON

    def put(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[Event]:
        taken, self.events = self.events, []
        return taken

    def tell(self, word: int) -> None:
        self.word = word

    def told(self) -> int:
        return self.word


def _work(index: int, job: Job, mailbox: Any) -> None:
    """On a node: trains one job in a process of its own, and reports."""
    ray = importlib.import_module("ray")
    for event in Processes(1).run([job], lambda: ray.get(mailbox.told.remote())):
        if event is not None:
            ray.get(mailbox.put.remote(dataclasses.replace(event, index=index)))


class RayCluster(Engine):
    """Each job on a node of the Ray cluster that RAY_ADDRESS names, or of this machine: two cores, and a GPU where there are any.

    Raises ValueError where Ray is not installed, and ConnectionError where there is no such cluster.
    """

    def __init__(self, jobs: int | None = None):
        try:
            self.ray = importlib.import_module("ray")
        except ImportError as error:
            raise ValueError("Sweeps on a cluster need Ray: pip install 'fdbook[ray]'.") from error
        self.jobs = jobs
        self.ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error")

    def run(self, jobs: Sequence[Job], told: Callable[[], int]) -> Iterator[Event | None]:
        """Runs every job once, and yields what happens as it happens; None where nothing did for a moment."""
        mailbox = self.ray.remote(_Mailbox).options(num_cpus=0).remote()
        waiting, running, word = collections.deque(enumerate(jobs)), {}, CARRY_ON
        started: set[int] = set()
        ended: set[int] = set()
        try:
            while running or (waiting and told() == CARRY_ON):
                while waiting and told() == CARRY_ON and len(running) < (self.jobs or len(jobs)):
                    index, job = waiting.popleft()
                    running[self._submit(index, job, mailbox)] = index
                if told() != word:
                    word = told()
                    self.ray.get(mailbox.tell.remote(word))
                    for reference in [reference for reference, index in running.items() if index not in started]:
                        self.ray.cancel(reference)
                over = self._over(running)
                events = self.ray.get(
                    mailbox.take.remote()
                )  # after looking who is over, so that none of theirs is missed
                started |= {event.index for event in events}
                yield from events
                ended |= {event.index for event in events if event.kind in ENDS}
                yield from (
                    event for event in over if event.index not in ended and (event.index in started or not word)
                )
                yield None
                time.sleep(TICK)
        finally:
            self.ray.kill(mailbox)

    def _submit(self, index: int, job: Job, mailbox: Any) -> Any:
        """Hands a job to the cluster, and returns the reference to what becomes of it."""
        cluster = self.ray.cluster_resources()
        asked = {"num_cpus": min(CORES, int(cluster.get("CPU", 1))), "num_gpus": 1 if cluster.get("GPU", 0) else 0}
        job = dataclasses.replace(job, folder=job.folder.absolute())
        return self.ray.remote(_work).options(max_retries=0, **asked).remote(index, job, mailbox)

    def _over(self, running: dict[Any, int]) -> list[Event]:
        """Takes the jobs that are over out of `running`; for each an event that counts if the job itself reported no end."""
        over, _ = self.ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
        events = []
        for reference in over:
            note = "It ended without a word."
            try:
                self.ray.get(reference)
            except Exception as error:  # a node that was lost, for one: what comes is Ray's to say
                note = f"Its node reports: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
            events.append(Event(running.pop(reference), "failed", note=note))
        return events

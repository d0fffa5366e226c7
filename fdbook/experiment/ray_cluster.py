"""Sweeps on a cluster: an engine that hands each job to Ray. It needs the extra `ray`, and a folder that all nodes share."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import importlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from filelock import FileLock, Timeout

from fdbook.experiment.engines import CARRY_ON, ENDS, TICK, Engine, Event, Job, Processes
from fdbook.experiment.run import LOCK


__all__ = ["RayCluster"]

CORES = 2
"""Cores of a node that a job asks for."""
NODES_LOST = 3
"""How many nodes may die under a job: after each, another one carries on from what is saved."""
PATIENCE = 60.0
"""Seconds that a job waits for what a lost node left behind to save and stop."""


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
    """On a node: trains one job in a process of its own, and reports.

    It asks Ray from another thread than its first: a task that waits for Ray in its first thread lends its cores to others.
    """
    ray = importlib.import_module("ray")
    job.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(Timeout), FileLock(job.folder / LOCK, timeout=PATIENCE):
        pass
    with concurrent.futures.ThreadPoolExecutor(1) as apart:

        def ask(method, *given):
            return apart.submit(lambda: ray.get(method.remote(*given))).result()

        for event in Processes(1).run([job], lambda: ask(mailbox.told)):
            if event is not None:
                ask(mailbox.put, dataclasses.replace(event, index=index))


def _check_answers(address: str) -> None:
    """Refuses an address host:port or ray://host:port where nobody listens; Ray itself would ask there for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"No Ray cluster answers at RAY_ADDRESS={address}: {error}.") from error


class RayCluster(Engine):
    """Each job on a node of the Ray cluster that RAY_ADDRESS names, or of this machine: two cores, and a GPU where there are any.

    When a node dies, its jobs are carried on by others from what is saved in their folders, up to NODES_LOST times. Raises
    ValueError where Ray is not installed, and ConnectionError where there is no such cluster.
    """

    def __init__(self, jobs: int | None = None):
        try:
            self.ray = importlib.import_module("ray")
        except ImportError as error:
            raise ValueError("Sweeps on a cluster need Ray: pip install 'fdbook[ray]'.") from error
        self.jobs = jobs
        _check_answers(os.environ.get("RAY_ADDRESS", ""))
        self.ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error")

    def run(self, jobs: Sequence[Job], told: Callable[[], int]) -> Iterator[Event | None]:
        """Runs every job once, and yields what happens as it happens; None where nothing did for a moment."""
        mailbox = self.ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=self._here()).remote()
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
                # after looking who is over, so that none of theirs is missed
                events = self.ray.get(mailbox.take.remote())
                started |= {event.index for event in events}
                for event in events:
                    if event.index not in ended:  # a node that was lost may have said it already
                        yield event
                    ended |= {event.index} if event.kind in ENDS else set()
                yield from (
                    event for event in over if event.index not in ended and (event.index in started or not word)
                )
                yield None
                time.sleep(TICK)
        finally:
            self.ray.kill(mailbox)

    def _here(self) -> Any:
        """The node that asks, which outlives its jobs: where it is lost, the sweep is over."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        return strategies.NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)

    def _submit(self, index: int, job: Job, mailbox: Any) -> Any:
        """Hands a job to the cluster, and returns the reference to what becomes of it."""
        cluster = self.ray.cluster_resources()
        asked = {"num_cpus": min(CORES, int(cluster.get("CPU", 1))), "num_gpus": 1 if cluster.get("GPU", 0) else 0}
        job = dataclasses.replace(job, folder=job.folder.absolute())
        return self.ray.remote(_work).options(max_retries=NODES_LOST, **asked).remote(index, job, mailbox)

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

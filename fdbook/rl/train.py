"""The training loop of the agents: hundreds of updates per dispatch, several seeds at once, records, checkpoints, resuming.

The data stay on the device and batches are drawn inside the compiled loop (`fdbook.geometry.loop`). Seeds are stacked along the
first axis of an agent's arrays and trained by `vmap`, each with batches and noise of its own. Update i of a seed depends on the
seed, i and the state alone, so that a run which is carried on ends where an uninterrupted one does, bit for bit.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

from fdbook.checks import Array, memory_told
from fdbook.geometry import loop
from fdbook.rl import networks, records
from fdbook.rl.agents import Agent
from fdbook.rl.checkpoints import Checkpoints
from fdbook.rl.log import Log, breakage
from fdbook.rl.online import Online
from fdbook.rl.precision import with_matmul_precision
from fdbook.rl.transitions import Transitions


__all__ = ["TrainingInterrupted", "Update", "init", "train"]

CHUNK = 250
"""A dispatch ends at every multiple of this many updates."""
FIRST, DISPATCH_SECONDS = 10, 10.0
"""Updates of a process's first dispatch, and what a later one should take at most: between dispatches Ctrl-C is obeyed."""
SAVE_SECONDS = 600.0
"""A run whose updates are slow is saved at least this often."""
EXPLODED = 10.0
"""A critic has exploded when a value is this many times beyond what the data's rewards can add up to."""
CROPPED = 0.5
"""The share of batches of pictures that are randomly cropped."""


class TrainingInterrupted(KeyboardInterrupt):
    """The run was asked to stop, and saved where it is; the message says how to carry on."""


def init(
    make: Callable[..., Agent],
    observation_shape: tuple[int, ...],
    action_dim: int,
    seeds: Sequence[int],
    **config: Any,
) -> Agent:
    """New agents, one for each seed, stacked along the first axis of their arrays; `make` as `fdbook.rl.agents.make` gives it.

    >>> stacked = train.init(agents.make("bc"), (4,), 2, [0, 1], width=8, depth=1)
    >>> stacked.networks["flow"].head.mlp.layers[0].weight.shape  # 2 seeds; a time, 4 numbers seen and 2 actions go in
    (2, 8, 7)
    """
    keys = jnp.stack([jr.fold_in(jr.key(0), seed) for seed in seeds])
    return eqx.filter_vmap(lambda key: make(observation_shape, action_dim, key=key, **config))(keys)


class Update(eqx.Module):
    """One update of every seed: the function that the loop repeats."""

    seeds: Int[Array, " seeds"]
    matmul_precision: str = eqx.field(static=True, default="float32")

    def __call__(
        self, agents: Agent, data: Transitions, *, key: PRNGKeyArray
    ) -> tuple[Agent, dict[str, Float[Array, " seeds"]]]:
        """The agents after one update each, and scalars of shape (seeds,) to log."""

        def update_one(agent, seed):
            batch_key, crop_key, update_key = jr.split(jr.fold_in(key, seed), 3)
            batch = data.sample(agent.config.batch_size, key=batch_key)
            return agent.update(_cropped(batch, key=crop_key), key=update_key)

        update_all = eqx.filter_vmap(update_one, in_axes=(eqx.if_array(0), 0))
        return with_matmul_precision(update_all, self.matmul_precision)(agents, self.seeds)


def _cropped(batch, *, key):
    """Half of the batches of pictures moved a little, each next observation as its observation; states as they are."""
    if batch.observations.ndim != 4:
        return batch
    coin, place = jr.split(key)
    moved = batch._replace(
        observations=networks.random_crop(batch.observations, key=place),
        next_observations=networks.random_crop(batch.next_observations, key=place),
    )
    return jax.tree.map(functools.partial(jnp.where, jr.bernoulli(coin, CROPPED)), moved, batch)


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Within it, Ctrl-C and SIGTERM only leave word, and the function that it gives says whether they came."""
    came: list[int] = []
    old = {}
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGINT, signal.SIGTERM):
            old[name] = signal.signal(name, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)


def train(
    agents: Agent,
    data: Transitions,
    record: records.Record,
    *,
    folder: Path | None = None,
    evaluate: Callable[[Agent, Callable[[], bool]], dict[str, list[float]] | None] | None = None,
    online: Online | None = None,
    save_every: int = 10_000,
    log_every: int | None = None,
    keep: int = 2,
    background: bool | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda sentence: None,
    watch: Callable[[records.Record, Agent], None] = lambda record, agents: None,
) -> Agent:
    """Trains stacked agents (`init`) as a record says, writes into the record what comes out, and returns the agents.

    `evaluate(agents, stopped)` gives a dict of lists with one number for each seed; it may return None once `stopped()`. Where
    the record has an online phase, `online` goes on in the environment after the offline updates. With a
    `folder` the run saves a checkpoint every `save_every` updates, and every ten minutes, of which the newest `keep` stay, and
    carries on from the newest sound one when it is called again, with more updates too. Scalars are logged in the mean over
    `log_every` updates (None: a tenth of the offline ones, and at most 1000). `say` is told what the reader should know, and
    `watch` is shown the record as it grows and the agents, after every dispatch, and so at every multiple of 250 updates. It must
    not keep the agents' arrays: the next dispatch overwrites them.

    With `background` (None: where JAX has an accelerator) training goes on while a copy of the agents is evaluated. No newer
    checkpoint is saved before such an evaluation is done, so that a run that is carried on makes it again where it was lost.

    Raises TrainingInterrupted after Ctrl-C or SIGTERM, with everything saved; FloatingPointError when a scalar becomes NaN or a
    critic explodes, with the update and the term; ValueError for a folder that holds another run, data that have changed, or an
    online phase without its environments; MemoryError for a replay buffer without room; OSError when nothing can be saved; and
    what `evaluate` raises. The record says that a run that had begun stopped, and why.
    """
    if record.updates > record.offline and online is None:
        raise ValueError(
            f"The record has {record.updates - record.offline} online updates, which take an Online; got none."
        )
    background = jax.default_backend() != "cpu" if background is None else background
    log_every = min(1000, max(1, record.offline // 10)) if log_every is None else log_every
    options = {"save_every": save_every, "log_every": log_every, "bar": progress}
    options |= {"background": background, "watch": watch, "online": online}
    if online is not None:
        with memory_told():  # what the phase collects has its place before the offline updates are made
            online.state(data)
    if folder is None:
        return _Loop(agents, data, record, None, None, evaluate, **options).run()
    folder = Path(folder)
    with Checkpoints(folder / "checkpoints", keep) as stores:
        agents = _resume(stores, folder, agents, record, say, online, data)
        say(f"The run is kept in {folder}.")
        return _Loop(agents, data, record, folder, stores, evaluate, **options).run()


class _Loop:
    """What is left to do of a run: evaluations and dispatches in turn, with what is saved and logged between them."""

    def __init__(
        self, agents, data, record, folder, stores, evaluate, *, save_every, log_every, bar, background, watch, online
    ):
        self.watch, self.online = watch, online
        self.agents, self.data, self.record, self.folder = agents, data, record, folder
        self.stores, self.evaluate, self.bar = stores, evaluate, bar
        self.save_every, self.log_every = save_every, log_every
        self.update = Update(jnp.asarray(record.seeds), record.matmul_precision)
        self.saved = record.done if stores and stores.steps else None
        self.saved_at, self.pace = time.monotonic(), DISPATCH_SECONDS / FIRST
        self.background = concurrent.futures.ThreadPoolExecutor(1) if background else None
        self.under_way: tuple[int, concurrent.futures.Future] | None = None

    def run(self) -> Agent:
        """Trains to the end, and returns the agents."""
        record = self.record
        if record.done >= record.updates and not self._pending():
            record.status = "finished"
            if not self._is_recorded():  # it was lost, or the process ended before it was written
                self._write()
            return self.agents
        record.status, record.note = "running", ""
        self.agents, self.log = loop.copy(self.agents), Log(record, self.folder, self.log_every)
        options = {"total": record.updates, "initial": record.done, "unit": "update", "unit_scale": True}
        label = f"{record.method} on {record.task}"
        with _signals() as stopped, tqdm(desc=label, disable=not self.bar, **options) as bar:
            try:
                self._until_the_end(stopped, bar)
            except TrainingInterrupted as stop:
                record.status = "stopped"
                self._save()
                raise TrainingInterrupted(f"{stop}{'; the same command carries on' if self.folder else ''}.") from None
            except FloatingPointError as error:
                self._gather()
                record.status, record.note = "broken", f"{str(error).removesuffix('.')}{self._last_sound()}."
                self._write()
                raise FloatingPointError(record.note) from None
            except Exception as error:  # an evaluation's or the disk's: what was saved last can be carried on
                record.status, record.note = "stopped", f"Stopped by {type(error).__name__}: {error}"
                with contextlib.suppress(OSError):
                    self._write()
                raise
            finally:
                if self.background is not None:
                    self.background.shutdown()
                self.log.close()
        record.status = "finished"
        self._write()
        return self.agents

    def _until_the_end(self, stopped, bar):
        record = self.record
        while True:
            if self._pending():
                self._evaluate(stopped)
            if stopped():
                raise TrainingInterrupted(f"Stopped after {record.done} of {record.updates} updates")
            if record.done >= record.updates:
                self._gather()
                if stopped():
                    continue
                return
            with memory_told():
                metrics = self._dispatch()
            bar.update(len(next(iter(metrics.values()))))
            bar.set_postfix(_postfix(record, metrics), refresh=False)
            self.watch(record, self.agents)
            due = record.done in (record.offline, record.updates, *record.evaluations)
            if due or record.done % self.save_every == 0 or time.monotonic() - self.saved_at > SAVE_SECONDS:
                self._save()

    def _dispatch(self) -> dict[str, np.ndarray]:
        """The updates up to where something is due, and their scalars."""
        first = self.record.done
        count, key = self._next() - first, jr.key(1)
        places, start = {"key": key, "first": first, "count": count}, time.monotonic()
        with self._clock("training"):
            if first < self.record.offline:
                self.agents, metrics = loop.advance(self.update, self.agents, self.data, chunk=CHUNK, **places)
            else:
                places["matmul_precision"] = self.record.matmul_precision
                self.agents, metrics = self.online.advance(self.agents, self.data, **places)
        self.pace = (time.monotonic() - start) / count
        if broken := breakage(metrics, first, self._bound):
            raise FloatingPointError(f"The run broke at update {broken[0]}: {broken[1]}")
        self.record.progress.done += count
        self.log.add(self.record.done, metrics)
        return metrics

    @functools.cached_property
    def _bound(self) -> float:
        """What no value of a sound critic can be beyond."""
        rewards = max(1.0, float(jnp.max(jnp.abs(self.data.rewards))))
        return EXPLODED * rewards / (1 - self.agents.config.discount)

    def _evaluate(self, stopped):
        """Evaluates the agents as they are: now, or a copy of them while training goes on."""
        self._gather()
        if self.background is None:
            self._keep(self.record.done, self._timed_evaluation(self.agents, stopped))
            self._save()
        else:
            agents = loop.copy(self.agents)
            self.under_way = self.record.done, self.background.submit(self._timed_evaluation, agents, stopped)

    def _timed_evaluation(self, agents, stopped):
        with self._clock("evaluating"):
            return self.evaluate(agents, stopped)

    def _keep(self, step, result):
        """Puts an evaluation into the record and the log; None was stopped on the way."""
        if result is not None:
            self.record.scores.append({"step": step, **result})
            for name, values in result.items():
                self.log.scalars(f"evaluation/{name}", values, step)

    def _gather(self):
        """Waits for the evaluation that is under way, if one is. One that was stopped stays under way: it is to be made again."""
        if self.under_way is not None:
            step, future = self.under_way
            try:
                result = future.result()
            except BaseException:
                self.under_way = None
                raise
            if result is not None:
                self.under_way = None
                self._keep(step, result)
                self._write()

    def _pending(self) -> bool:
        """Whether the run stands at an evaluation that has not been made."""
        record = self.record
        due = record.done in record.evaluations and all(item["step"] != record.done for item in record.scores)
        under_way = self.under_way is not None and self.under_way[0] == record.done
        return due and self.evaluate is not None and not under_way

    def _next(self) -> int:
        """Where the next dispatch ends: with a chunk, or earlier where something is due or updates are slow."""
        record, done = self.record, self.record.done
        chunk = max(1, int(DISPATCH_SECONDS / max(self.pace, 1e-9)))
        ends = [record.offline] if done < record.offline else []
        stops = [done + chunk, record.updates, *ends, *(step for step in record.evaluations if step > done)]
        return min(stops + [(done // every + 1) * every for every in (CHUNK, self.save_every, self.log_every)])

    def _save(self):
        self._gather()
        if self.under_way is None and self.stores is not None and self.saved != self.record.done:
            with self._clock("saving"):
                replay = self.online.state(self.data) if self.record.done > self.record.offline else None
                self.stores.save(self.record.done, self.agents, dataclasses.asdict(self.record.progress), replay)
            self.saved = self.record.done
        self.saved_at = time.monotonic()
        self._write()

    def _is_recorded(self) -> bool:
        """Whether the folder has the record of a finished run."""
        there = self.folder is not None and (self.folder / records.NAME).exists()
        return there and records.read(self.folder).status == "finished"

    def _write(self):
        if self.folder is not None:
            self.record.write(self.folder)

    def _last_sound(self) -> str:
        return f"; the checkpoint of step {self.stores.steps[0]} is sound" if self.stores and self.stores.steps else ""

    @contextlib.contextmanager
    def _clock(self, what: str):
        """Adds the seconds that pass within it to what they were spent on."""
        start, wall = time.perf_counter(), self.record.progress.wall
        try:
            yield
        finally:
            wall[what] = round(wall.get(what, 0.0) + time.perf_counter() - start, 3)


def _postfix(record, metrics) -> dict[str, str]:
    shown = {
        name: f"{metrics[name][-1].mean():.3g}" for name in ("critic", "flow", "actor", "multiplier") if name in metrics
    }
    if record.scores and "score" in record.scores[-1]:
        shown["score"] = " ".join(f"{score:.0f}" for score in record.scores[-1]["score"])
    return shown


def _resume(stores, folder, agents, record, say, online, data) -> Agent:
    """The agents of the newest sound checkpoint, and what the record knew then; refuses another run's folder."""
    scores = []
    if (folder / records.NAME).exists():
        before = records.read(folder)
        _check_same(before, record, folder)
        scores = before.scores
    if not stores.steps:
        return agents
    agents, saved, complaints = stores.restore(agents)
    record.progress = records.Progress.from_dict(saved)
    if record.done > record.offline:
        online.restore(stores.restore_replay(record.done, online.state(data)))
    if complaints or record.done < record.updates:
        again = (
            f"The run is carried on from update {record.done}; what it had done after that, if anything, is done again."
        )
        say(" ".join([*complaints, again]))
    record.progress.scores = [item for item in scores if item["step"] <= record.done] or record.scores
    return agents


def _check_same(before, record, folder) -> None:
    """Refuses a folder with another run. A longer one of the same kind carries it on: no update depends on how many there are,
    unless an online phase follows."""
    longer = record.updates > before.updates and record.updates == record.offline
    for name, (new, old) in record.differing(before).items():
        if not (longer and name in ("updates", "evaluations")):
            kinds = f"{name} {old!r}, not {new!r}"
            raise ValueError(f"{folder} holds a run with {kinds}: choose another folder.")
    if longer:
        later = (step for step in record.evaluations if step > before.updates)
        record.spec = record.spec | {"evaluations": [*before.evaluations, *later]}

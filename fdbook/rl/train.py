"""The training loop of the agents: hundreds of updates per dispatch, several seeds at once, records, checkpoints, resuming.

The data stay on the device and batches are drawn inside the compiled loop (`fdbook.geometry.loop`). Seeds are stacked along the
first axis of an agent's arrays and trained by `vmap`, each with batches and noise of its own. Update i of a seed depends on the
seed, i and the state alone, so that a run which is carried on ends where an uninterrupted one does, bit for bit.
"""

import contextlib
import dataclasses
import functools
import hashlib
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
from jaxtyping import Int
from tqdm.auto import tqdm

from fdbook.checks import Array
from fdbook.geometry import loop
from fdbook.rl import networks, records
from fdbook.rl.agents import Agent
from fdbook.rl.checkpoints import Checkpoints
from fdbook.rl.transitions import Transitions


__all__ = ["Stopped", "Update", "fingerprint", "init", "train"]

CHUNK = 250
EXPLODED = 10.0
"""A critic has exploded when a value is this many times beyond what the data's rewards can add up to."""
CROPPED = 0.5
"""The share of batches of pictures that are randomly cropped."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and saved where it is; the message says how to carry on."""


def fingerprint(data: Transitions) -> str:
    """A digest of a data set's arrays."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(data):
        host = np.ascontiguousarray(leaf)
        found.update(f"{host.dtype} {host.shape}".encode())
        found.update(host.data)
    return found.hexdigest()[:16]


def init(
    make: Callable[..., Agent],
    observation_shape: tuple[int, ...],
    action_dim: int,
    seeds: Sequence[int],
    **settings: Any,
) -> Agent:
    """New agents, one for each seed, stacked along the first axis of their arrays; `make` as `fdbook.rl.agents.make` gives it."""
    keys = jnp.stack([jr.fold_in(jr.key(0), seed) for seed in seeds])
    return eqx.filter_vmap(lambda key: make(observation_shape, action_dim, key=key, **settings))(keys)


class Update(eqx.Module):
    """One update of every seed: the function that the loop repeats."""

    seeds: Int[Array, " seeds"]

    def __call__(self, agents: Agent, data: Transitions, *, key):
        """The agents after one update each, and scalars of shape (seeds,) to log."""

        def one(agent, seed):
            batch_key, crop_key, update_key = jr.split(jr.fold_in(key, seed), 3)
            batch = data.sample(agent.settings.batch_size, key=batch_key)
            return agent.update(_cropped(batch, key=crop_key), key=update_key)

        return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0))(agents, self.seeds)


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


def _breakage(metrics: dict[str, np.ndarray], first: int, bound: float) -> tuple[int, str] | None:
    """The first step at which a scalar is not finite or a value of the critic is beyond the bound, and what it was."""
    worst = None
    for name, rows in metrics.items():
        bad = ~np.isfinite(rows)
        kind = "became NaN or infinite"
        if name == "q_largest" and not bad.any():
            bad, kind = rows > bound, f"grew beyond {bound:.3g}, which the data's rewards cannot add up to"
        if bad.any():
            row, seed = np.argwhere(bad)[0]
            if worst is None or row < worst[0]:
                worst = (int(row), f"{name} {kind} (seed number {seed})")
    return None if worst is None else (first + worst[0], worst[1])


class _Log:
    """Means of the scalars between logged steps, in the record and, with a folder, for TensorBoard."""

    def __init__(self, record, folder, every):
        from tensorboardX import SummaryWriter

        self.record, self.every, self.sums, self.count = record, every, {}, 0
        self.writer = SummaryWriter(str(folder / "tensorboard"), write_to_disk=True) if folder else None

    def add(self, step: int, metrics: dict[str, np.ndarray]):
        rows = len(next(iter(metrics.values())))
        self.sums = {
            name: self.sums.get(name, 0.0) + values.sum(axis=0, dtype=float) for name, values in metrics.items()
        }
        self.count += rows
        if step % self.every == 0 or step == self.record.steps:
            self.record.logged.append(step)
            for name, total in self.sums.items():
                mean = [float(f"{value:.6g}") for value in total / self.count]
                self.record.curves.setdefault(name, []).append(mean)
                self.scalars(f"train/{name}", mean, step)
            self.sums, self.count = {}, 0

    def scalars(self, name, values, step):
        if self.writer is not None:
            for seed, value in zip(self.record.seeds, values, strict=True):
                self.writer.add_scalar(f"{name}/seed_{seed}", value, step)

    def close(self):
        if self.writer is not None:
            self.writer.close()


@dataclasses.dataclass
class _Clock:
    """Seconds by what they were spent on."""

    wall: dict[str, float]

    @contextlib.contextmanager
    def __call__(self, what: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.wall[what] = round(self.wall.get(what, 0.0) + time.perf_counter() - start, 3)


STORY = ("curves", "logged", "scores", "wall", "about")


def train(
    agents: Agent,
    data: Transitions,
    record: records.Record,
    *,
    folder: Path | None = None,
    evaluate: Callable[[Agent, Callable[[], bool]], dict[str, list[float]] | None] | None = None,
    save_every: int = 10_000,
    log_every: int = 1000,
    keep: int = 2,
    progress: bool = True,
    say: Callable[[str], None] = lambda sentence: None,
) -> Agent:
    """Trains stacked agents (`init`) as a record says, writes into the record what comes out, and returns the agents.

    `evaluate(agents, stopped)` gives a dict with a list of one number for each seed under "score" and whatever else; it may
    return None once `stopped()`. With a `folder` the run saves a checkpoint every `save_every` updates, of which the newest
    `keep` stay, and carries on from the newest sound one when it is called again, with more steps too. `say` is told what the
    reader should know.

    Raises Stopped after Ctrl-C or SIGTERM, with everything saved; FloatingPointError when a scalar becomes NaN or a critic
    explodes, with the step and the term; ValueError for a folder that holds another run, or data that have changed; OSError when
    nothing can be saved.
    """
    if folder is None:
        return _train(agents, data, record, None, None, evaluate, save_every, log_every, progress)
    folder = Path(folder)
    with Checkpoints(folder / "checkpoints", keep) as stores:
        agents = _resume(stores, folder, agents, record, say)
        return _train(agents, data, record, folder, stores, evaluate, save_every, log_every, progress)


def _train(agents, data, record, folder, stores, evaluate, save_every, log_every, progress):
    """What is left to do of a run."""
    if record.done >= record.steps and not _pending(record):
        return agents
    record.status, record.note = "running", ""
    update = Update(jnp.asarray(record.seeds))
    rewards = max(1.0, float(jnp.max(jnp.abs(data.rewards))))
    bound = EXPLODED * rewards / (1 - agents.settings.discount)
    clock, log, agents = _Clock(record.wall), _Log(record, folder, log_every), loop.own(agents)
    saved = record.done if stores and stores.steps else None

    def save():
        nonlocal saved
        if stores is not None and saved != record.done:
            with clock("saving"):
                stores.save(
                    record.done, agents, {name: getattr(record, name) for name in STORY} | {"step": record.done}
                )
            saved = record.done
        if folder is not None:
            record.write(folder)

    label = f"{record.agent} on {record.task}"
    options = {"total": record.steps, "initial": record.done, "unit": "update", "unit_scale": True}
    with _signals() as stopped, tqdm(desc=label, disable=not progress, **options) as bar:
        try:
            while True:
                if evaluate is not None and _pending(record):
                    with clock("evaluating"):
                        found = evaluate(agents, stopped)
                    if found is not None:
                        record.scores.append({"step": record.done, **found})
                        log.scalars("evaluation/score", found["score"], record.done)
                        save()
                if stopped():
                    raise Stopped(f"Stopped after {record.done} of {record.steps} updates")
                if record.done >= record.steps:
                    break
                first = record.done
                count = _next(record, save_every, log_every) - first
                with clock("training"):
                    agents, metrics = loop.advance(
                        update, agents, data, key=jr.key(1), first=first, count=count, chunk=CHUNK
                    )
                if broken := _breakage(metrics, first, bound):
                    raise FloatingPointError(f"The run broke at update {broken[0]}: {broken[1]}")
                record.done += count
                log.add(record.done, metrics)
                bar.update(count)
                bar.set_postfix(_postfix(record, metrics), refresh=False)
                if record.done % save_every == 0 or record.done == record.steps or record.done in record.evaluations:
                    save()
        except Stopped as stop:
            record.status = "stopped"
            save()
            raise Stopped(f"{stop}{'; the same command carries on' if folder else ''}.") from None
        except FloatingPointError as error:
            last = f"; the checkpoint of step {stores.steps[0]} is sound" if stores and stores.steps else ""
            record.status, record.note = "broken", f"{error}{last}."
            if folder is not None:
                record.write(folder)
            raise FloatingPointError(record.note) from None
        finally:
            log.close()
    record.status = "finished"
    if folder is not None:
        record.write(folder)
    return agents


def _pending(record) -> bool:
    """Whether the run stands at an evaluation that has not been made."""
    return record.done in record.evaluations and all(each["step"] != record.done for each in record.scores)


def _next(record, save_every: int, log_every: int) -> int:
    """Where the next dispatch ends: after a chunk, or earlier where something is due."""
    stops = [record.done + CHUNK, record.steps, *(step for step in record.evaluations if step > record.done)]
    stops += [(record.done // every + 1) * every for every in (save_every, log_every)]
    return min(stops)


def _postfix(record, metrics) -> dict[str, str]:
    shown = {
        name: f"{metrics[name][-1].mean():.3g}" for name in ("critic", "flow", "actor", "multiplier") if name in metrics
    }
    if record.scores:
        shown["score"] = " ".join(f"{score:.0f}" for score in record.scores[-1]["score"])
    return shown


def _resume(stores, folder, agents, record, say) -> Agent:
    """The agents of the newest sound checkpoint, and what the record knew then; refuses another run's folder.

    A longer run of the same kind carries a shorter one on: no update depends on how many there will be.
    """
    scores = []
    if (folder / records.NAME).exists():
        before = records.read(folder)
        longer = record.steps > before.steps
        for name, value in record.identity.items():
            other = before.identity[name]
            if other != value and not (longer and name in ("steps", "evaluations")):
                what = "data with the fingerprint" if name == "data" else name
                raise ValueError(f"{folder} holds a run with {what} {other!r}, not {value!r}: choose another folder.")
        scores = before.scores
        if longer:
            later = [step for step in record.evaluations if step > before.steps]
            record.evaluations = [*before.evaluations, *later]
    if not stores.steps:
        return agents
    agents, story, complaints = stores.restore(agents)
    if complaints:
        say(" ".join([*complaints, f"The run is carried on from step {story['step']}."]))
    for name in STORY:
        setattr(record, name, story[name])
    record.done = story["step"]
    record.scores = [each for each in scores if each["step"] <= record.done] or record.scores
    return agents

"""Many environments that are stepped together, each reset with a seed of its own: in line, or in worker processes.

Gymnasium's AsyncVectorEnv gives every environment a process of its own, which an evaluation with dozens of them cannot afford.
Here each worker steps its share, in one message and one answer for every step of the policy. What an environment answers depends
on its seeds and actions alone, so that the numbers do not depend on where it is stepped.
"""

import abc
import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


__all__ = [
    "AsyncEnvironments",
    "Environment",
    "Environments",
    "Step",
    "SyncEnvironments",
    "as_environments",
    "check_answer",
    "cores",
]


@runtime_checkable
class Environment(Protocol):
    """What is asked of an environment: as much of gymnasium's interface as is used here."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation of an episode that the seed fixes, and what there is to say of it."""
        ...

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The next observation, the reward, whether the episode terminated or was cut, and what there is to say of it."""
        ...

    def render(self) -> Any:
        """A picture, where the environment was made to render."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


class Step(NamedTuple):
    """What came of a step."""

    observation: Any
    reward: float
    over: bool
    success: bool | None
    """Whether the episode counts as a success so far; None where the environment says nothing of it."""
    terminated: bool = False
    """Whether nothing follows, and not only the clock ended the episode."""


class Environments(abc.ABC):
    """Environments by number, from 0 to `len` - 1."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abc.abstractmethod
    def reset(self, seeds: Mapping[int, int]) -> dict[int, Any]:
        """Resets those that are named, each with its seed, and returns their observations."""

    @abc.abstractmethod
    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        """Steps those that are named."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes all of them."""


def _success(info: dict[str, Any]) -> bool | None:
    """What an environment says of success, as gymnasium-robotics calls it or as others do; None for nothing."""
    said = info.get("success", info.get("is_success"))
    return None if said is None else bool(np.any(said))


def check_answer(observation: Any, reward: float, what: str) -> None:
    """Refuses, by a FloatingPointError, an observation or a reward with NaN or infinite values; `what` gave it, and when."""
    if not (np.all(np.isfinite(observation)) and np.isfinite(reward)):
        wrong = "an observation" if np.isfinite(reward) else "a reward"
        raise FloatingPointError(f"{what} gave {wrong} with NaN or infinite values.")


@contextlib.contextmanager
def _told(environment, doing: str) -> Iterator[None]:
    """Within it, whatever an environment raises is an OSError of one sentence; an OSError that is a sentence stays as it is."""
    try:
        yield
    except Exception as error:  # what an environment raises depends on the environment
        if _is_sentence(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
        raise OSError(f"The environment {_name(environment)} failed when it was {doing} ({reason}).") from error


def _is_sentence(error: Exception) -> bool:
    """Whether an error is one of this package's own, whose message is the sentence to say: the system's have a number."""
    return isinstance(error, OSError) and error.errno is None and bool(str(error))


def _name(environment) -> str:
    """What gymnasium calls an environment; of one that it does not know, the class."""
    return getattr(getattr(environment, "spec", None), "id", None) or type(environment).__name__


class SyncEnvironments(Environments):
    """Environments that this process steps, one after the other.

    Raises OSError, in one sentence, when one of them fails, or gives an observation of another shape than the first one.

    >>> import gymnasium
    >>> worlds = environments.SyncEnvironments([gymnasium.make("Pendulum-v1") for _ in range(2)])
    >>> len(worlds), worlds.reset({1: 0})[1].shape, worlds.step({1: np.zeros(1, np.float32)})[1].over
    (2, (3,), False)
    """

    def __init__(self, environments: Sequence[Any]):
        self.environments = environments
        self.shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.environments)

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Any]:
        """As `Environments.reset`."""
        return {number: self._reset(number, seed) for number, seed in seeds.items()}

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        """As `Environments.step`."""
        return {number: self._step(number, action) for number, action in actions.items()}

    def _reset(self, number, seed):
        with _told(self.environments[number], "reset"):
            observation, _ = self.environments[number].reset(seed=seed)
            self._check_shape(number, observation)
        return observation

    def _step(self, number, action):
        with _told(self.environments[number], "stepped"):
            observation, reward, terminated, truncated, info = self.environments[number].step(action)
            self._check_shape(number, observation)
            return Step(observation, float(reward), bool(terminated or truncated), _success(info), bool(terminated))

    def _check_shape(self, number, observation):
        """Refuses an observation of another shape than the first one."""
        shape = np.shape(observation)
        self.shape = shape if self.shape is None else self.shape
        if shape != self.shape:
            name = _name(self.environments[number])
            raise OSError(
                f"The environment {name} gave an observation of shape {shape}, where the first had {self.shape}."
            )

    def close(self) -> None:
        """As `Environments.close`."""
        for environment in self.environments:
            environment.close()


def as_environments(environments: "Environments | Sequence[Any]") -> "Environments":
    """The environments; a sequence of Gymnasium's as some that this process steps."""
    return SyncEnvironments(environments) if isinstance(environments, Sequence) else environments


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(descriptor: int) -> None:
    """A worker's life: it makes its environments, and answers until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        try:
            make, count = pipe.recv()
            mine = SyncEnvironments([make() for _ in range(count)])
            pipe.send(("ready", None))
            while True:
                what, argument = pipe.recv()
                pipe.send(("done", getattr(mine, what)(argument)))
        except EOFError:
            return
        except Exception as error:
            sentence = f"A process that steps environments failed ({type(error).__name__}: {error})."
            pipe.send(("failed", str(error) if _is_sentence(error) else sentence))


class AsyncEnvironments(Environments):
    """Environments in worker processes, which are dealt out in turn: `make()` makes one, and can be pickled.

    Raises OSError, with the reason, when a worker fails or dies.
    """

    def __init__(self, make: Callable[[], Any], count: int, workers: int):
        self.count, self.pipes, self.processes = count, [], []
        workers = min(workers, count)
        for i in range(workers):
            # not multiprocessing's own processes: they run the user's script again, and a fork would lose JAX's threads
            here, there = multiprocessing.Pipe()
            command = [sys.executable, "-c", f"from fdbook.rl.environments import _serve; _serve({there.fileno()})"]
            environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
            self.processes.append(subprocess.Popen(command, env=environment, pass_fds=[there.fileno()]))
            there.close()
            self.pipes.append(here)
            here.send((make, len(range(i, count, workers))))
        for number in range(workers):
            self._answer(number)

    @staticmethod
    def can_make(make: Callable[[], Any]) -> bool:
        """Whether workers can be told how to make an environment: what cannot be pickled is made in this process alone."""
        try:
            pickle.dumps(make)
        except (pickle.PicklingError, AttributeError, TypeError):
            return False
        return True

    def __len__(self) -> int:
        return self.count

    def _answer(self, number):
        try:
            word, result = self.pipes[number].recv()
        except (EOFError, ConnectionError):
            self.close()
            raise OSError("A process that steps environments has died, perhaps for want of memory.") from None
        if word == "failed":
            self.close()
            raise OSError(result)
        return result

    def _ask(self, what: str, arguments: Mapping[int, Any]) -> dict[int, Any]:
        """Hands each worker its share of the arguments, and gathers what they answer."""
        workers = len(self.pipes)
        shares = [{n // workers: value for n, value in arguments.items() if n % workers == i} for i in range(workers)]
        asked = [i for i, share in enumerate(shares) if share]
        for i in asked:
            with contextlib.suppress(BrokenPipeError):  # found out when it does not answer
                self.pipes[i].send((what, shares[i]))
        answers = {i: self._answer(i) for i in asked}
        return {number: answers[number % workers][number // workers] for number in arguments}

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Any]:
        """As `Environments.reset`."""
        return self._ask("reset", seeds)

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Step]:
        """As `Environments.step`."""
        return self._ask("step", actions)

    def close(self) -> None:
        """Ends the workers."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

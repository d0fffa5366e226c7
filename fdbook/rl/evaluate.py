"""Evaluation: many episodes at once, all seeds of a run in the same pass, one batched policy call a step.

An environment is anything with gymnasium's `reset(seed=...)` and `step(action)`. Each episode has a seed of its own, for the
environment and for the policy's noise, so that two evaluations of one agent agree.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from fdbook.rl.agents import Agent
from fdbook.rl.fourier_features import Normalizer


__all__ = ["Evaluation", "act", "evaluate", "film"]

FIRST_SEED = 1_000_000
"""Evaluation episode i resets its environment with this seed plus i, far from the seeds of recordings."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What the episodes of each seed came to."""

    returns: Float[np.ndarray, "seeds episodes"]
    successes: Bool[np.ndarray, "seeds episodes"]
    lengths: Int[np.ndarray, "seeds episodes"]
    tells_success: bool = True
    """Whether the environments said anything of success."""


@eqx.filter_jit
def act(agents: Agent, normalizer: Normalizer | None, observations, seeds, episodes, times):
    """Actions (seeds, slots, d) of stacked agents for observations (seeds, slots, ...), the noise fixed by the three numbers."""

    def act_one(agent, observation, seed, episode, time):
        key = jr.fold_in(jr.fold_in(jr.fold_in(jr.key(0), seed), episode), time)
        observation = observation if normalizer is None else normalizer(observation)
        return agent.act(observation, key=key)

    def slots(agent, observations, seed, episodes, times):
        return jax.vmap(lambda o, e, t: act_one(agent, o, seed, e, t))(observations, episodes, times)

    return eqx.filter_vmap(slots, in_axes=(eqx.if_array(0), 0, 0, 0, 0))(agents, observations, seeds, episodes, times)


def _succeeded(info: dict[str, Any]) -> bool | None:
    """What an environment says of success, as gymnasium-robotics calls it or as others do; None for nothing."""
    said = info.get("success", info.get("is_success"))
    return None if said is None else bool(np.any(said))


class _Slot:
    """One environment, and the episode that it is in."""

    def __init__(self, environment):
        self.environment, self.time, self.total = environment, 0, 0.0
        self.episode: int | None = None
        self.observation: Any = None

    def begin(self, episode: int | None):
        self.episode, self.time, self.total = episode, 0, 0.0
        if episode is not None:
            self.observation, _ = self.environment.reset(seed=FIRST_SEED + episode)

    def step(self, action) -> tuple[bool, bool | None]:
        """Whether the episode is over, and whether it succeeded, None if nothing says so."""
        self.observation, reward, terminated, truncated, info = self.environment.step(action)
        self.time, self.total = self.time + 1, self.total + float(reward)
        return bool(terminated or truncated), _succeeded(info)


def evaluate(
    agents: Agent,
    environments: Sequence,
    seeds: Sequence[int],
    *,
    episodes: int = 50,
    normalizer: Normalizer | None = None,
    progress: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """`episodes` episodes of each of several agents, stacked along the first axis of their arrays, one for each of `seeds`.

    The environments are shared out evenly, and reset with one seed for each episode, the same for all agents. Returns None as
    soon as `stopped()` is true. Raises ValueError for fewer environments than agents, or no episode.
    """
    seed_numbers = np.asarray(seeds, np.int32)
    share = min(len(environments) // max(1, len(seeds)), episodes)
    if share < 1 or episodes < 1:
        raise ValueError(
            f"evaluate takes an environment for each agent and at least one episode; got {len(environments)} environments "
            f"for {len(seeds)} agents, and {episodes} episodes."
        )
    slots = [[_Slot(environments[i * share + j]) for j in range(share)] for i in range(len(seeds))]
    shape = (len(seeds), episodes)
    result = Evaluation(np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, np.int64))
    told = False
    waiting = [iter(range(episodes)) for _ in seeds]
    for row, queue in zip(slots, waiting, strict=True):
        for slot in row:
            slot.begin(next(queue, None))
    with tqdm(total=len(seeds) * episodes, desc="evaluating", unit="episode", leave=False, disable=not progress) as bar:
        while any(slot.episode is not None for row in slots for slot in row):
            if stopped():
                return None
            observations = np.stack([[slot.observation for slot in row] for row in slots])
            numbers = np.array([[slot.episode or 0 for slot in row] for row in slots], np.int32)
            times = np.array([[slot.time for slot in row] for row in slots], np.int32)
            actions = np.asarray(act(agents, normalizer, observations, seed_numbers, numbers, times))
            for i, row in enumerate(slots):
                for j, slot in enumerate(row):
                    if slot.episode is None:
                        continue
                    over, success = slot.step(actions[i, j])
                    told |= success is not None
                    if over:
                        result.returns[i, slot.episode] = slot.total
                        result.successes[i, slot.episode] = bool(success)
                        result.lengths[i, slot.episode] = slot.time
                        bar.update()
                        slot.begin(next(waiting[i], None))
    return dataclasses.replace(result, tells_success=told)


def film(
    agents: Agent,
    environment,
    seed: int,
    *,
    episode: int = 0,
    index: int = 0,
    normalizer: Normalizer | None = None,
    every: int = 2,
) -> tuple[list[np.ndarray], bool]:
    """A picture of every second step (or as `every` says) of one evaluation episode, and whether it succeeded.

    The environment must render pictures (`render_mode="rgb_array"`); `index` is the agent's place among `agents`, `seed` its
    seed. The episode is the one that `evaluate` plays under the same number.
    """
    agent = jax.tree.map(lambda leaf: leaf[index : index + 1] if eqx.is_array(leaf) else leaf, agents)
    slot, over, success = _Slot(environment), False, False
    slot.begin(episode)
    frames = [environment.render()]
    while not over:
        numbers = (
            np.full((1,), seed, np.int32),
            np.full((1, 1), episode, np.int32),
            np.full((1, 1), slot.time, np.int32),
        )
        action = act(agent, normalizer, jnp.asarray(slot.observation)[None, None], *numbers)
        over, success = slot.step(np.asarray(action)[0, 0])
        if slot.time % every == 0 or over:
            frames.append(environment.render())
    return frames, bool(success)

"""The online phase of a run: one step in the environment and one update in turn, on the logged data and the new steps mixed.

This is the papers' protocol: each batch is drawn uniformly from all transitions, logged or new, and there is one update for each
step. The logged data stay where they are; new transitions are written into a buffer beside them, one for each seed, which is on
the device and as large as the phase is long.

A run that is carried on ends where an uninterrupted one does. What an environment is in the middle of an episode is not saved:
the episode is played again, from its seed and the actions in the buffer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fdbook.checks import free_memory
from fdbook.rl.agents import Agent
from fdbook.rl.environments import Environments, check_answer
from fdbook.rl.fourier_features import Normalizer
from fdbook.rl.precision import with_matmul_precision
from fdbook.rl.transitions import ACTION_BOUND, Batch, Transitions


__all__ = ["Online", "ReplayBuffer", "Transition"]

NEAR = 1e-4
"""How far an episode that is played again may end from where it ended before: another device rounds otherwise."""
COUNTED = ("online_reward", "online_episodes", "online_successes")
"""What the phase adds to a run's curves, for each update: the reward of its step, and whether an episode ended with it, and ended
in success. The mean of the last over that of the one before is the share of episodes that succeeded."""


class Transition(eqx.Module):
    """A step of every seed's environment, or with an axis more, of rows, several; observations are as the agent sees them."""

    observations: Float[Array, "seeds *rows width"]
    actions: Float[Array, "seeds *rows action"]
    next_observations: Float[Array, "seeds *rows width"]
    rewards: Float[Array, "seeds *rows"]
    masks: Float[Array, "seeds *rows"]
    """0 where the environment says that nothing follows (it terminated), 1 elsewhere, also where time ended the episode."""
    ends: Bool[Array, "seeds *rows"]


class ReplayBuffer(eqx.Module):
    """The transitions that each seed has collected, in their order, beside the logged ones."""

    rows: Transition
    """Of each seed `capacity`, of which the first `size` are filled."""
    size: Int[Array, ""]

    @classmethod
    def empty(cls, data: Transitions, seeds: int, capacity: int) -> "ReplayBuffer":
        """One of zeros, for observations and actions like those of the data, which are states."""
        like = {"observations": data.observations, "actions": data.actions, "next_observations": data.observations}
        like |= {"rewards": data.rewards, "masks": data.masks, "ends": data.ends}
        rows = {name: jnp.zeros((seeds, capacity, *leaf.shape[1:]), leaf.dtype) for name, leaf in like.items()}
        return cls(Transition(**rows), jnp.zeros((), jnp.int32))

    def add(self, transition: Transition) -> "ReplayBuffer":
        """The buffer with one more row of every seed."""
        rows = jax.tree.map(lambda all_rows, row: all_rows.at[:, self.size].set(row), self.rows, transition)
        return ReplayBuffer(rows, self.size + 1)

    def sample(
        self, data: Transitions, seed: Int[Array, ""], size: int, *, key: PRNGKeyArray
    ) -> tuple[Batch, Float[Array, ""]]:
        """`size` transitions of one seed (its place), drawn uniformly from the logged and its own, and the share of its own.

        The action that follows a row is that of the next row; at an episode's last row, and at the newest, the row's own.
        """
        index = jr.randint(key, (size,), 0, data.size + self.size, jnp.int32)
        new = index >= data.size
        logged, row = data.at(jnp.minimum(index, data.size - 1)), jnp.maximum(index - data.size, 0)
        own = jax.tree.map(lambda rows: rows[seed, row], self.rows)
        follows = jnp.where(own.ends | (row + 1 >= self.size), row, row + 1)
        next_actions = self.rows.actions[seed, follows]
        mine = Batch(own.observations, own.actions, own.next_observations, own.rewards, own.masks, next_actions)
        batch = jax.tree.map(lambda a, b: jnp.where(new.reshape(-1, *[1] * (a.ndim - 1)), a, b), mine, logged)
        return batch, jnp.mean(new.astype(jnp.float32))


@eqx.filter_jit
def _as_agents_see(normalizer, observations):
    """Observations (n, ...) as the agents take them."""
    return observations if normalizer is None else jax.vmap(normalizer)(observations)


@eqx.filter_jit
def _explore(agents, normalizer, seen, seeds, episodes, times):
    """Actions (seeds, d) with which stacked agents explore, the noise fixed by the three numbers, and what they have seen."""

    def of_one(agent, observation, seed, episode, time):
        key = jr.fold_in(jr.fold_in(jr.fold_in(jr.key(2), seed), episode), time)
        observation = observation if normalizer is None else normalizer(observation)
        action = agent.explore(observation, key=key)
        return jnp.clip(action, -ACTION_BOUND, ACTION_BOUND), observation

    of_all = eqx.filter_vmap(of_one, in_axes=(eqx.if_array(0), 0, 0, 0, 0))
    return with_matmul_precision(of_all, "float32")(agents, seen, seeds, episodes, times)


@eqx.filter_jit(donate="all-except-first")
def _learn(context, state):
    """Puts a transition of every seed into the buffer, and updates every agent once."""
    data, transition, seeds, key, number, precision = context
    agents, buffer = state
    buffer = buffer.add(transition)

    def update_one(agent, place, seed):
        batch_key, update_key = jr.split(jr.fold_in(jr.fold_in(key, number), seed))
        batch, share = buffer.sample(data, place, agent.config.batch_size, key=batch_key)
        agent, info = agent.update(batch, key=update_key)
        return agent, info | {"online_share": share}

    places = jnp.arange(len(seeds))
    update_all = eqx.filter_vmap(update_one, in_axes=(eqx.if_array(0), 0, 0))
    agents, info = with_matmul_precision(update_all, precision)(agents, places, seeds)
    return (agents, buffer), info


class Online:
    """The online phase: environments, one for each seed, what they have seen, and the buffer.

    `make()` makes the environments when they are first needed. `reward_shift` is added to every reward, as to the data's. `say`
    is told what the reader should know.
    """

    def __init__(
        self,
        make: Callable[[], Environments],
        seeds: Sequence[int],
        steps: int,
        *,
        normalizer: Normalizer | None = None,
        reward_shift: float = 0.0,
        say: Callable[[str], None] = lambda sentence: None,
    ):
        self.make, self.seeds, self.steps = make, np.asarray(seeds, np.int32), steps
        self.normalizer, self.reward_shift, self.say = normalizer, reward_shift, say
        self.buffer: Any = None  # a ReplayBuffer, and Environments, once there are data and a first step
        self.environments: Any = None
        self.episodes, self.times = (np.zeros(len(seeds), np.int32) for _ in range(2))
        self.seen: dict[int, np.ndarray] = {}

    def state(self, data: Transitions) -> tuple[ReplayBuffer, np.ndarray, np.ndarray]:
        """What a checkpoint keeps: the buffer, and for each seed the number of its episode and of the steps in it.

        The buffer is made by the first call. Raises MemoryError where there is no room for it.
        """
        if self.buffer is None:
            place = data, len(self.seeds), self.steps
            _check_room(eqx.filter_eval_shape(ReplayBuffer.empty, *place), self.steps)
            self.buffer = ReplayBuffer.empty(*place)
        return self.buffer, self.episodes, self.times

    def restore(self, state: tuple) -> None:
        """Takes what a checkpoint kept."""
        self.buffer, episodes, times = state
        self.episodes, self.times = np.array(episodes), np.array(times)

    def advance(
        self,
        agents: Agent,
        data: Transitions,
        *,
        key: PRNGKeyArray,
        first: int,
        count: int,
        matmul_precision: str = "float32",
    ) -> tuple[Agent, dict[str, np.ndarray]]:
        """`count` steps and updates, from number `first` on: the agents, and a row (seeds,) of scalars for each.

        `matmul_precision` is that of the updates (`fdbook.rl.precision`). The memory of the agents' arrays is used up. Raises
        FloatingPointError where an environment gives NaN or infinite values, and OSError where one fails.
        """
        self.state(data)
        if self.environments is None:
            self.environments = self.make()
            self._begin_again()
        rows, seeds = [], jnp.asarray(self.seeds)
        for number in range(first, first + count):
            transition, counted = self._step(agents, number)
            context = (data, transition, seeds, key, jnp.asarray(number), matmul_precision)
            (agents, self.buffer), info = _learn(context, (agents, self.buffer))
            rows.append(info | counted)
        return agents, {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}

    def _step(self, agents, number):
        """One step of every environment, and a new episode where one ended."""
        seen = np.stack([self.seen[place] for place in range(len(self.seeds))])
        actions, observations = _explore(agents, self.normalizer, seen, self.seeds, self.episodes, self.times)
        actions = np.asarray(actions)
        steps = self.environments.step(dict(enumerate(actions)))
        steps = [steps[place] for place in range(len(self.seeds))]
        for seed, step in zip(self.seeds, steps, strict=True):
            check_answer(step.observation, step.reward, f"The environment of seed {seed}, at update {number},")
        rewards = np.array([step.reward + self.reward_shift for step in steps], np.float32)
        ends = np.array([step.over for step in steps])
        masks = np.array([not step.terminated for step in steps], np.float32)
        reached = _as_agents_see(self.normalizer, np.stack([step.observation for step in steps]))
        rest = (jnp.asarray(values) for values in (rewards, masks, ends))
        transition = Transition(observations, jnp.asarray(actions), reached, *rest)
        successes = ends & np.array([bool(step.success) for step in steps])
        counted = dict(zip(COUNTED, (rewards, ends.astype(float), successes.astype(float)), strict=True))
        self.seen = {place: step.observation for place, step in enumerate(steps)}
        self.times += 1
        self._reset(np.flatnonzero(ends))
        return transition, counted

    def _reset(self, places):
        """Begins the next episode at these places."""
        self.episodes[places] += 1
        self.times[places] = 0
        self.seen |= self._first_observations(places)

    def _first_observations(self, places):
        seeds = {int(place): _episode_seed(int(self.seeds[place]), int(self.episodes[place])) for place in places}
        seen = self.environments.reset(seeds) if seeds else {}
        for place, observation in seen.items():
            check_answer(
                observation, 0.0, f"The environment of seed {self.seeds[place]}, reset with seed {seeds[place]},"
            )
        return seen

    def _begin_again(self):
        """Brings the environments to where they were: each episode from its seed, with the actions that were taken in it."""
        places = range(len(self.seeds))
        self.seen = self._first_observations(places)
        size, taken = int(self.buffer.size), np.asarray(self.buffer.rows.actions)
        for time in range(int(self.times.max())):
            at = {place: taken[place, size - self.times[place] + time] for place in places if time < self.times[place]}
            self.seen |= {place: step.observation for place, step in self.environments.step(at).items()}
        under_way = np.flatnonzero(self.times)
        if under_way.size:
            here = _as_agents_see(self.normalizer, np.stack([self.seen[place] for place in under_way]))
            there = np.asarray(self.buffer.rows.next_observations)[under_way, size - 1]
            lost = under_way[~np.all(np.isclose(here, there, rtol=NEAR, atol=NEAR), axis=1)]
            if lost.size:
                names = ", ".join(str(self.seeds[place]) for place in lost)
                self.say(
                    f"The environment does not repeat itself: the episodes of seeds {names} begin anew here, "
                    "and the run is not the one that it would have been without the break."
                )
                rows = self.buffer.rows
                ends = rows.ends.at[lost, size - 1].set(True)
                self.buffer = eqx.tree_at(lambda buffer: buffer.rows.ends, self.buffer, ends)
                self._reset(lost)


def _check_room(shapes, steps: int) -> None:
    """Refuses a buffer of these shapes that main memory has no room for: a system may end a process that fills it, unasked."""
    wanted, free = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)), free_memory()
    if jax.default_backend() == "cpu" and free is not None and wanted > free:
        raise MemoryError(
            f"The replay buffer of {steps:,} online steps takes {wanted / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB of memory "
            "are free: a shorter online phase (--online) or fewer seeds at once take less."
        )


def _episode_seed(seed: int, episode: int) -> int:
    """The seed with which an episode of training begins: another than those of evaluations and recordings, which are small."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])

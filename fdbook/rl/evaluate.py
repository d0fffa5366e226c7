"""Evaluation: many episodes at once, all seeds of a run in the same pass, one batched policy call a step.

An environment is anything with gymnasium's `reset(seed=...)` and `step(action)`. Each episode has a seed of its own, for the
environment and for the policy's noise, so that two evaluations of one agent agree.
"""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from tqdm.auto import tqdm

from fdbook.checks import Array
from fdbook.rl.agents import Agent
from fdbook.rl.agents.base import values
from fdbook.rl.environments import Environment, Environments, SyncEnvironments, as_environments, check_answer
from fdbook.rl.fourier_features import Normalizer
from fdbook.rl.precision import with_matmul_precision


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
    discounted: Float[np.ndarray, "seeds episodes"] | None = None
    """The discounted return; that of an episode which time ended is counted up to there."""
    estimates: Float[np.ndarray, "seeds episodes"] | None = None
    """What the agents' own critics, joined as in E16, say of each episode's first state and action."""


@eqx.filter_jit
def act(
    agents: Agent,
    normalizer: Normalizer | None,
    observations: Float[Array, "seeds slots *observation"] | UInt8[Array, "seeds slots *observation"],
    seeds: Int[Array, " seeds"],
    episodes: Int[Array, "seeds slots"],
    times: Int[Array, "seeds slots"],
) -> Float[Array, "seeds slots d"]:
    """Actions (seeds, slots, d) of stacked agents for observations (seeds, slots, ...), the noise fixed by the three numbers."""

    def act_one(agent, observation, seed, episode, time):
        key = jr.fold_in(jr.fold_in(jr.fold_in(jr.key(0), seed), episode), time)
        observation = observation if normalizer is None else normalizer(observation)
        return agent.act(observation, key=key)

    def slots(agent, observations, seed, episodes, times):
        return jax.vmap(lambda o, e, t: act_one(agent, o, seed, e, t))(observations, episodes, times)

    act_all = eqx.filter_vmap(slots, in_axes=(eqx.if_array(0), 0, 0, 0, 0))
    return with_matmul_precision(act_all, "float32")(agents, observations, seeds, episodes, times)


@eqx.filter_jit
def _estimates(agents, normalizer, observations, actions):
    """Q (seeds, slots) of stacked agents for observations (seeds, slots, ...) and actions (seeds, slots, d)."""

    def slots(agent, observations, actions):
        observations = observations if normalizer is None else jax.vmap(normalizer)(observations)
        critic = agent.networks["critic"]
        return agent.aggregate(values(critic, critic.features(observations), actions))

    return eqx.filter_vmap(slots, in_axes=(eqx.if_array(0), 0, 0))(agents, observations, actions)


def evaluate(
    agents: Agent,
    environments: Environments | Sequence,
    seeds: Sequence[int],
    *,
    episodes: int = 50,
    normalizer: Normalizer | None = None,
    progress: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    critics: bool = False,
    reward_shift: float = 0.0,
) -> Evaluation | None:
    """`episodes` episodes of each of several agents, stacked along the first axis of their arrays, one for each of `seeds`.

    The environments, a sequence of Gymnasium's or some of `fdbook.rl.environments`, are shared out evenly, and reset with one
    seed for each episode, the same for all agents. With `critics` the discounted returns, with the discount of the agents and
    `reward_shift` added to every reward, are kept beside what the agents' own critics estimate them to be. Returns None as soon
    as `stopped()` is true. Raises ValueError for fewer environments than agents, no episode, or agents without critics;
    FloatingPointError where an environment gives NaN or infinite values, and OSError where one fails.
    """
    share = min(len(environments) // max(1, len(seeds)), episodes)
    if share < 1 or episodes < 1:
        raise ValueError(
            f"evaluate takes an environment for each agent and at least one episode; got {len(environments)} environments "
            f"for {len(seeds)} agents, and {episodes} episodes."
        )
    if critics and "critic" not in agents.networks:
        raise ValueError(f"evaluate compares returns with critics, and {type(agents).__name__} has none.")
    playing = _Playing(as_environments(environments), len(seeds), share, episodes)
    if critics:
        playing.watch_critics(agents.config.discount, reward_shift)
    seed_numbers = np.asarray(seeds, np.int32)
    with tqdm(total=len(seeds) * episodes, desc="evaluating", unit="episode", leave=False, disable=not progress) as bar:
        while playing.going:
            if stopped():
                return None
            observations = playing.observations()
            actions = act(agents, normalizer, observations, seed_numbers, playing.episode, playing.time)
            if critics and playing.begun:
                playing.estimated(_estimates(agents, normalizer, observations, actions))
            bar.update(playing.step(np.asarray(actions)))
    return playing.result


class _Playing:
    """Episodes under way, one in each slot: `share` slots for each agent, whose numbers are agent * share + slot."""

    def __init__(self, environments, agents, share, episodes):
        self.environments, self.share, shape = environments, share, (agents, episodes)
        self.waiting = [iter(range(episodes)) for _ in range(agents)]
        self.episode, self.time = (np.zeros((agents, share), np.int32) for _ in range(2))
        self.total, self.seen = np.zeros((agents, share)), {}
        self.going: set[int] = set()
        self.begun: set[int] = set()
        """The slots whose episode has just begun."""
        self.discount, self.reward_shift, self.discounted = 1.0, 0.0, np.zeros((agents, share))
        self.result = Evaluation(np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, np.int64), tells_success=False)
        self._begin(range(agents * share))

    def _begin(self, numbers):
        """The next episodes in these slots; those for which there is none rest."""
        seeds = {}
        self.begun = set()
        for number in numbers:
            place = divmod(number, self.share)
            episode = next(self.waiting[place[0]], None)
            self.episode[place], self.time[place], self.total[place] = episode or 0, 0, 0.0
            self.discounted[place] = 0.0
            if episode is None:
                self.going.discard(number)
            else:
                self.going.add(number)
                self.begun.add(number)
                seeds[number] = FIRST_SEED + episode
        seen = self.environments.reset(seeds) if seeds else {}
        for number, observation in seen.items():
            self._check(number, observation)
        self.seen |= seen

    def _check(self, number, observation, reward=0.0):
        """Refuses NaN and infinite values."""
        place = divmod(number, self.share)
        seed, time = FIRST_SEED + self.episode[place], self.time[place]
        check_answer(
            observation, reward, f"The environment, at step {time} of the evaluation episode with seed {seed},"
        )

    def watch_critics(self, discount: float, reward_shift: float) -> None:
        """Has discounted returns and estimates kept."""
        self.discount, self.reward_shift = discount, reward_shift
        discounted, estimates = (np.zeros(self.result.returns.shape) for _ in range(2))
        self.result = dataclasses.replace(self.result, discounted=discounted, estimates=estimates)

    def estimated(self, values) -> None:
        """Keeps what critics say (agents, share) of the episodes that have just begun."""
        values = np.asarray(values)
        for number in self.begun:
            place = divmod(number, self.share)
            self.result.estimates[place[0], self.episode[place]] = values[place]

    def observations(self):
        """What is seen in each slot, (agents, share, ...); in those that rest, what was seen last."""
        flat = np.stack([self.seen[number] for number in range(self.time.size)])
        return flat.reshape(*self.time.shape, *flat.shape[1:])

    def step(self, actions) -> int:
        """One step in every slot that is going; the number of episodes that it ended."""
        result, over = self.result, []
        taken = {number: actions[divmod(number, self.share)] for number in sorted(self.going)}
        for number, step in self.environments.step(taken).items():
            place = divmod(number, self.share)
            self.seen[number] = step.observation
            self.discounted[place] += self.discount ** self.time[place] * (step.reward + self.reward_shift)
            self.time[place] += 1
            self._check(number, step.observation, step.reward)
            self.total[place] += step.reward
            if step.success is not None and not result.tells_success:
                self.result = result = dataclasses.replace(result, tells_success=True)
            if step.over:
                where = place[0], self.episode[place]
                result.returns[where], result.lengths[where] = self.total[place], self.time[place]
                result.successes[where] = bool(step.success)
                if result.discounted is not None:
                    result.discounted[where] = self.discounted[place]
                over.append(number)
        self._begin(over)
        return len(over)


def film(
    agents: Agent,
    environment: Environment,
    seed: int,
    *,
    episode: int = 0,
    index: int = 0,
    normalizer: Normalizer | None = None,
    every: int = 2,
) -> tuple[list[np.ndarray], list[int], bool]:
    """A picture of every second step (or as `every` says) of one evaluation episode, and of its last; their steps; success.

    The environment must render pictures (`render_mode="rgb_array"`); `index` is the agent's place among `agents`, `seed` its
    seed. The episode is the one that `evaluate` plays under the same number.
    """
    agent = jax.tree.map(lambda leaf: leaf[index : index + 1] if eqx.is_array(leaf) else leaf, agents)
    only, time, step = SyncEnvironments([environment]), 0, None
    seen = only.reset({0: FIRST_SEED + episode})[0]
    frames, steps = [environment.render()], [0]
    while step is None or not step.over:
        numbers = (
            np.full(shape, value, np.int32) for shape, value in (((1,), seed), ((1, 1), episode), ((1, 1), time))
        )
        action = act(agent, normalizer, jnp.asarray(seen)[None, None], *numbers)
        step = only.step({0: np.asarray(action)[0, 0]})[0]
        seen, time = step.observation, time + 1
        if time % every == 0 or step.over:
            frames.append(environment.render())
            steps.append(time)
    return frames, steps, bool(step.success)

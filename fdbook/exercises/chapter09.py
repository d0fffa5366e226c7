"""Checkers of chapter 09, offline RL from scratch: the value of k steps, one sweep of value iteration, the critic's target."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, close, exercise, refuse, same_shape


@exercise("09.1")
def _check_value_of_steps(answer):
    steps, discount = np.array([0.0, 1.0, 2.0, 7.0, 40.0]), 0.9
    value = same_shape(call(answer, jnp.asarray(steps), discount), (5,))
    truth = -(1 - discount**steps) / (1 - discount)
    if close(value, truth):
        return "However far the goal is, the value never falls below -1 / (1 - discount)."
    mistakes = (
        (-truth, "every step costs: the value of a place that is not the goal is negative."),
        (-steps, "that is the return without a discount."),
        (-(discount**steps), "that is what the last step is worth; all of them have to be added up."),
        (discount**steps, "that is the value of a reward of 1 at the goal; here every step before it earns -1."),
        (-(1 - discount ** (steps + 1)) / (1 - discount), "one step too many: at the goal itself nothing is paid."),
        (discount * truth, "the first step is not discounted."),
        (-(1 - discount**steps), "a sum of k terms, each at most 1, may be larger than 1 in size."),
        (np.full(5, -1 / (1 - discount)), "that is the value of a place from which the goal is never reached."),
        (-steps * discount**steps, "every step has a discount of its own: the first counts fully, the last least."),
    )
    refuse(value, mistakes)
    raise Wrong("add up -1 for each of k steps, each of them discounted once more than the one before.")


@exercise("09.2")
def _check_sweep(answer):
    values = np.array([-3.0, -1.0, -5.0, -2.0, -4.0, 0.5])
    neighbors = np.array([[0, 1], [3, 2], [4, 0], [3, 5], [2, 4], [1, 0]])
    met, discount = np.array([False, False, False, False, False, True]), 0.8
    value = same_shape(
        call(answer, jnp.asarray(values), jnp.asarray(neighbors), jnp.asarray(met), discount), (len(values),)
    )
    seen = values[neighbors]

    def swept(following, reward=-1.0):
        return np.where(met, 0.0, reward + discount * following)

    truth = swept(seen.max(axis=1))
    if close(value, truth):
        return "As many sweeps as the longest way has steps, and the values of a whole maze are exact."
    mistakes = (
        (swept(seen.min(axis=1)), "that is the value of walking away from the goal as well as one can."),
        (swept(seen.mean(axis=1)), "that is the value of a walk that turns at random; the best move is asked for."),
        (-1 + discount * seen.max(axis=1), "right, but for the goal: where it is met nothing more is paid."),
        (np.where(met, 0.0, -1 + seen.max(axis=1)), "the value of the next place is to be discounted."),
        (np.where(met, 0.0, discount * (seen.max(axis=1) - 1)), "the reward of this step is not discounted."),
        (swept(seen.max(axis=1), 0.0), "the step itself has to be paid for."),
        (swept(seen.max(axis=1), 1.0), "a step costs 1: its reward is negative."),
        (swept(values), "the place itself is not where a move leads: look up the values of its neighbors."),
        (np.where(met, -1.0, -1 + discount * seen.max(axis=1)), "the goal has a reward of 0 and a mask of 0."),
    )
    refuse(value, mistakes)
    raise Wrong("outside the goal: the reward of the step, and the discounted value of the best neighbor.")


@exercise("09.3")
def _check_targets(answer):
    rewards, masks = np.array([-1.0, -1.0, 0.0, -1.0]), np.array([1.0, 1.0, 0.0, 1.0])
    q, discount = np.array([[-10.0, -4.0, -2.0, -7.0], [-8.0, -5.0, -3.0, -1.0], [-12.0, -9.0, -1.0, -2.0]]), 0.9
    value = call(answer, jnp.asarray(rewards), jnp.asarray(masks), discount, jnp.asarray(q))
    value = same_shape(value, (4,))
    low = q.min(axis=0)
    truth = rewards + discount * masks * low
    if close(value, truth):
        return "The lowest critic keeps what no data contradict from growing; this chapter's task takes their mean."
    mistakes = (
        (
            rewards + discount * masks * q.mean(axis=0),
            "that is the mean over the critics; the careful form takes the lowest.",
        ),
        (rewards + discount * masks * q.max(axis=0), "the highest critic is the one that is wrong most cheerfully."),
        (rewards + discount * low, "at the goal the episode is over: the mask has not been used."),
        (rewards + discount * (1 - masks) * low, "the mask is 0 where nothing follows, not 1."),
        (rewards + masks * low, "the next value has not been discounted."),
        (discount * masks * low, "the reward of the step itself is missing."),
        (discount * (rewards + masks * low), "the reward comes now, and is not discounted."),
        (rewards + discount * masks * q[0], "only the first critic has been asked."),
        (
            rewards + discount * masks * q.min(),
            "the lowest is taken for each transition by itself, not over the batch.",
        ),
        (rewards - discount * masks * low, "the next value is added: a bad next state makes this one worse."),
    )
    refuse(value, mistakes)
    raise Wrong("reward, plus discount times mask times the lowest of the critics' values of what follows.")

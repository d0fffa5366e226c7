"""Checkers of chapter 09, offline RL from scratch: the value of k steps, one sweep of value iteration, the critic's target, and a
method that reads the curves of a training."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, close, exercise, refuse, same_shape


@exercise(
    "09.1",
    hints=(
        "write the sum out for k = 3: which power of the discount does the first step have, and which the last?",
        "it is a geometric series; multiply it by 1 - discount and see what is left.",
    ),
)
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


@exercise(
    "09.2",
    hints=(
        "`values[neighbors]` has a row for each place and a column for each move; which of its columns does a good walk take?",
        "the reward of the step, plus the discount times that best value; where the goal is met, neither is paid.",
    ),
)
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


@exercise(
    "09.3",
    hints=(
        "four things come together: what is paid now, whether anything follows, how much it counts, and what it is worth.",
        "only the last of them is discounted and masked. Along which axis of `q` do the critics lie?",
    ),
)
def _check_targets(answer):
    rewards, masks = np.array([-1.0, -1.0, 0.0, -1.0]), np.array([1.0, 1.0, 0.0, 1.0])
    q, discount = np.array([[-10.0, -4.0, -2.0, -7.0], [-8.0, -5.0, -3.0, -1.0], [-12.0, -9.0, -1.0, -2.0]]), 0.9
    value = call(answer, jnp.asarray(rewards), jnp.asarray(masks), discount, jnp.asarray(q))
    value = same_shape(value, (4,))
    low = q.min(axis=0)
    truth = rewards + discount * masks * low
    if close(value, truth):
        return "The lowest critic keeps what no data contradict from growing; this chapter's agent asks four of them."
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


_KINDS = ("sound", "not felt", "out of reach", "out of range")
_BUDGET, _DISCOUNT, _ROWS = 0.1, 0.99, 40


def _noisy(random, values, size=0.02):
    return values * np.exp(size * random.normal(size=len(values)))


def _training(kind, random):
    """Curves of a made-up training of one kind, row after row, with dual ascent on a response to the multiplier."""
    multiplier, penalty, wanted = np.zeros(_ROWS), np.zeros(_ROWS), np.log(0.02)
    log_multiplier = wanted + random.uniform(-1, 3)
    drift = random.uniform(-0.9, -0.5)
    for row in range(_ROWS):
        multiplier[row] = np.exp(log_multiplier)
        answer = _BUDGET * np.exp(-2 * (log_multiplier - wanted)) * (1 - np.exp(-(row + 1) / 4))
        if kind == "out of reach":
            answer = np.maximum(answer, _BUDGET * (1.5 + 0.4 * np.sin(row)))
        if kind == "not felt" and log_multiplier < wanted - 4:  # the box is full, and more costs nothing
            answer = _BUDGET * np.exp(0.1 * random.normal())
            log_multiplier += 0.3 * random.normal()
        elif kind == "not felt":
            answer, log_multiplier = _BUDGET * np.exp(-0.2 * (log_multiplier - wanted) - 0.8), log_multiplier + drift
        else:
            log_multiplier += np.clip(0.3 * (answer / _BUDGET - 1), -0.6, 0.6)
        penalty[row] = answer
    level = random.uniform(40, 60)
    q = -level * (1 - np.exp(-(np.arange(_ROWS) + 1) / 6))
    low = np.minimum(-1.5 * q, 95)
    if kind == "out of range":
        q, low = _beyond(q, low, random)
    noisy = {"multiplier": multiplier, "penalty": penalty, "q": q, "q_largest": low, "actor_q": q}
    return {name: _noisy(random, values) for name, values in noisy.items()} | {"q_largest": _noisy(random, low, 0.01)}


def _beyond(q, low, random):
    """Values that leave their range: of all of them, of the lowest alone, or to the other side of zero."""
    ramp = np.linspace(0, 1, _ROWS) ** 2
    return (
        (q - 100 * ramp, low + 150 * ramp),
        (q, low + 70 * ramp),
        (q * (1 - 1.3 * ramp) + 4 * ramp, low),
    )[random.integers(3)]


def _asked(kind, curves):
    """What in the curves says that they are of this kind."""
    penalty, multiplier, largest = (np.mean(curves[name][-5:]) for name in ("penalty", "multiplier", "q_largest"))
    gain = 2 * multiplier * penalty * abs(np.mean(curves["actor_q"][-5:]))
    return {
        "sound": f"its values end within {largest:.0f}, its penalty at {penalty / _BUDGET:.2f} budgets, its price at {gain:.2g}",
        "not felt": f"in the end its budget brings {gain:.1g} of Q",
        "out of reach": f"its penalty ends at {penalty / _BUDGET:.1f} times its budget",
        "out of range": f"its mean value ends at {np.mean(curves['q'][-5:]):.0f}, its largest in size at {largest:.0f}",
    }[kind]


@exercise(
    "09.4",
    hints=(
        "the beginning of a training says nothing: take means over the last few rows, and nothing else.",
        "ask in the chapter's order. Values: the mean and the largest in size, on both sides. Then the penalty over its budget, "
        "then 2 x multiplier x penalty x |Q|.",
    ),
)
def _check_reader(answer):
    random, missed, tries = np.random.default_rng(94), {}, 12
    for kind in _KINDS:
        for _ in range(tries):
            curves = _training(kind, random)
            said = call(answer, {name: values.copy() for name, values in curves.items()}, _BUDGET, _DISCOUNT)
            said = str(same_shape(said, ()))
            if said not in _KINDS:
                raise Wrong(f"it should return one of {', '.join(_KINDS)}; it returned {said}.")
            if said != kind:
                missed.setdefault(kind, []).append((said, _asked(kind, curves)))
    for kind, several in missed.items():
        if len(several) > 1:
            said, why = several[0]
            raise Wrong(
                f'{len(several)} of {tries} runs that are "{kind}" are called something else. One is called "{said}", but {why}.'
            )
    return (
        f"It names {len(_KINDS) * tries - sum(map(len, missed.values()))} of {len(_KINDS) * tries} fresh runs rightly."
    )

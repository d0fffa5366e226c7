"""Checkers of chapter 12, the metric under the microscope: promise and price, the blur, steps to a goal, what records carry."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, close, exercise, refuse, returns_nan, same_shape


def _situation(seed):
    """Displacements (5, 7, 3) of 5 states, true Fisher matrices (5, 3, 3), and the matrices (5, 3, 3) of a metric."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(2, 5, 3, 3))
    fisher, forms = factors @ np.swapaxes(factors, -1, -2) + 0.2 * np.eye(3)
    return 0.3 * rng.normal(size=(5, 7, 3)), fisher, forms


def _cost(deltas, forms):
    return np.einsum("ski,sij,skj->sk", deltas, forms, deltas)


@exercise(
    "12.1",
    hints=(
        "two means over all states and actions: of what the true matrices charge, and of what the metric's do.",
        "one jnp.einsum charges every action; a budget is one for all states, so the ratio comes last.",
    ),
)
def _check_overspent(answer):
    deltas, fisher, forms = _situation(0)
    value = same_shape(call(answer, *map(jnp.asarray, (deltas, fisher, forms))), ())
    spent, said = _cost(deltas, fisher), _cost(deltas, forms)
    truth = spent.mean() / said.mean()
    if not close(value, truth):
        mistakes = (
            (1 / truth, "that is what was said over what is spent."),
            (
                np.mean(spent / said),
                "that is the mean of ratios; a budget is one for all states: the means come first.",
            ),
            (truth / 2, "the half is in both."),
            (2 * truth, "the half is in both."),
            (spent.mean() / _cost(deltas, np.broadcast_to(np.eye(3), forms.shape)).mean(), "that is L2's promise."),
            (spent.sum() / said.mean(), "that is a sum over a mean."),
        )
        refuse(value, mistakes)
        raise Wrong("take the mean over states and actions of half of delta F delta, and of half of delta G delta.")
    return "A promise is kept only by the metric that is the true matrix."


@exercise(
    "12.2",
    hints=(
        "along an axis of width w, what is the ratio of the true precision to the one that is read at t?",
        "the condition number is the ratio of the two axes' ratios; E26's worst case is a function of its root.",
    ),
)
def _check_least_kept(answer):
    widths, t = (0.05, 0.4), 0.85
    value = same_shape(call(answer, *widths, t), ())
    thin, wide = (t**2 + (1 - t) ** 2 / width**2 for width in widths)
    k = thin / wide
    truth = 2 * k**0.5 / (1 + k)
    if not close(value, truth):
        flat = (widths[1] / widths[0]) ** 2
        seen = (t**2 * widths[1] ** 2 + (1 - t) ** 2) / (t**2 * widths[0] ** 2 + (1 - t) ** 2)
        mistakes = (
            (2 * flat**0.5 / (1 + flat), "that is what L2 keeps: the metric here is F read at t."),
            (2 * seen**0.5 / (1 + seen), "that is the condition number of F_t; it takes that of F_t^-1 F."),
            (k, "that is the condition number; what does the worst direction keep with it?"),
            (2 * k / (1 + k**2), "mind the root."),
        )
        refuse(value, mistakes)
        raise Wrong("E27 gives the condition number k of F_t^-1 F, and E26 what the worst direction keeps with it.")
    if not close(call(answer, 0.2, 0.2, t), 1):
        raise Wrong("right, but where all widths are alike nothing is lost.")
    return "At t = 0.97 the same widths lose almost nothing; there it is the network that is wrong."


@exercise(
    "12.3",
    hints=(
        "on which starts do both policies have a number of steps at all?",
        "a mean over a mask is a sum over a count; where the count is zero, 0 / 0 is already what is asked for.",
    ),
)
def _check_steps(answer):
    ours = np.array([40.0, 100.0, 55.0, 70.0, 100.0]), np.array([True, False, True, True, False])
    theirs = np.array([60.0, 90.0, 100.0, 71.0, 100.0]), np.array([True, True, False, True, False])
    value = same_shape(call(answer, *map(jnp.asarray, (*ours, *theirs))), ())
    both = ours[1] & theirs[1]
    truth = np.mean((ours[0] - theirs[0])[both])
    if not close(value, truth):
        mistakes = (
            (
                ours[0][ours[1]].mean() - theirs[0][theirs[1]].mean(),
                "each mean is over other starts: who solves more of them has the harder ones in it.",
            ),
            (np.mean(ours[0] - theirs[0]), "a start that was not solved has no steps to the goal."),
            (-truth, "that is theirs minus ours."),
            (
                np.mean((ours[0] - theirs[0])[ours[1] | theirs[1]]),
                "starts that only one of them solves have no two numbers to compare.",
            ),
            (np.sum((ours[0] - theirs[0])[both]), "that is the sum of the differences."),
        )
        refuse(value, mistakes)
        raise Wrong("take the starts that both solve, and on them the mean of our steps minus theirs.")
    if not returns_nan(answer, *map(jnp.asarray, (ours[0], np.zeros(5, bool), *theirs))):
        raise Wrong("right, but where no start was solved by both there is nothing to compare: return NaN.")
    return "The same starts, both solved: only then do steps compare policies."


_CARRIED = {  # what the records carry, and what to look at for whoever leaves it out
    "A": "look at the interval of the 25 agents of each: does it hold zero?",
    "C": "look at what the same ten seeds do with four critics and with ten.",
    "G": "set what was seen with flow and critics frozen beside what whole trainings did.",
}
_REFUSED = {
    "B": "B says more than was seen: with ten critics the same metric is level with L2, and with frozen critics it is ahead.",
    "D": "D takes not seen for not there: 20 fewer to 14 more leaves room for a difference that would matter.",
    "E": "E was not seen: the deblurred metric gains most in Q and reaches the fewest goals, an order that is not resolved.",
    "F": "F is not what the promises show: an agent that promises more does not reach fewer goals than the next of its kind.",
}


@exercise(
    "12.4",
    hints=(
        "for each statement, ask which comparison of the chapter it needs, and whether that comparison was made.",
        "three are carried; among the others look for a cause without its experiment, and for a zero that is only an interval.",
    ),
)
def _check_conclusions(answer):
    if callable(answer) or not isinstance(answer, str | set | frozenset | list | tuple):
        raise Wrong('the answer should be the letters of statements, as in "AB".')
    letters = {letter.upper() for each in answer for letter in str(each) if letter.isalpha()}
    unknown = sorted(letters - _CARRIED.keys() - _REFUSED.keys())
    if unknown or not letters:
        raise Wrong(f"the statements are A to G; you name {', '.join(unknown) or 'none'}.")
    for letter in sorted(letters & _REFUSED.keys()):
        raise Wrong(_REFUSED[letter])
    for letter in sorted(_CARRIED.keys() - letters):
        raise Wrong(f"what you name is carried, but something that is carried is left out: {_CARRIED[letter]}")
    return "What would settle F? Train with the same critics, and their promises lowered by hand."

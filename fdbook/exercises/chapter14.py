"""Checkers of chapter 14, at full size: a batch's share of one's own steps, hours, when a policy became reliable, conclusions."""

import numpy as np

from fdbook.exercises import Wrong, call, close, exercise, refuse, same_shape


@exercise(
    "14.1",
    hints=(
        "every transition, logged or new, is drawn with the same chance: how many of them are there after n steps?",
        "the share of new ones is n / (N + n); set it to the share that is asked for, and solve for n.",
    ),
)
def _check_steps(answer):
    for share, logged in ((0.25, 300_000), (0.5, 1000), (0.9, 20_000)):
        value, truth = same_shape(call(answer, share, logged), ()), share * logged / (1 - share)
        if close(value, truth):
            continue
        mistakes = (
            (share * logged, "the buffer grows with the steps: the share is of logged and new ones together."),
            (logged / (1 - share), "that is how many transitions there are in all; the new ones are asked for."),
            ((1 - share) / share * logged, "that is where the logged ones have this share."),
            (share / (1 - share), "that is in units of the logged ones; steps are asked for."),
        )
        refuse(value, mistakes)
        raise Wrong(
            f"after {float(value):,.0f} steps the share is {value / (value + logged):.2f}; {share} was asked for."
        )
    return "With a million logged transitions, half of a batch is one's own after a million steps."


@exercise(
    "14.2",
    hints=(
        "a run's operations over the operations that the machine really does in a second are seconds.",
        "the machine does a share of what its maker promises: divide by that share, too; and mind 10^15 and 10^12.",
    ),
)
def _check_hours(answer):
    for petaflop, teraflops, share in ((128.0, 60.0, 0.5), (0.2, 0.3, 0.7)):
        value = same_shape(call(answer, petaflop, teraflops, share), ())
        truth = petaflop * 1000 / (teraflops * share) / 3600
        if close(value, truth):
            continue
        mistakes = (
            (truth / 1000, "a PFLOP is a thousand TFLOP."),
            (truth * 3600, "those are seconds."),
            (truth * 60, "those are minutes."),
            (truth * share, "that is at the promised rate: only a share of it is reached."),
            (truth * share**2, "a machine that reaches less of its rate takes longer, not shorter."),
        )
        refuse(value, mistakes)
        raise Wrong(
            f"{petaflop} PFLOP at {teraflops * share:g} TFLOP a second take another time than {float(value):.4g} hours."
        )
    return "Evaluations, recording and compiling come on top."


_CASES, _LENGTH, _BEFORE, _AFTER = 60, 60, 0.3, 0.95
_WITHIN, _LEANING = 3.0, 2.5


def _learning_curves(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Successes (cases, episodes) of policies that became reliable at some episode, and which one that was."""
    rng = np.random.default_rng(seed)
    changes = rng.integers(8, _LENGTH - 8, _CASES)
    chance = np.where(np.arange(_LENGTH) < changes[:, None], _BEFORE, _AFTER)
    return rng.random((_CASES, _LENGTH)) < chance, changes


@exercise(
    "14.3",
    hints=(
        "one success proves little and one failure disproves little: use all episodes, before and after.",
        "score every possible change by the likelihood of the whole sequence, 30% before it and 95% after it, and take the best.",
    ),
)
def _check_change(answer):
    """Judges a method on fresh sequences: by its mean absolute error, and by which way it leans."""
    curves, changes = _learning_curves(14)
    found = np.array([float(same_shape(call(answer, curve), ())) for curve in curves])
    if np.any((found < 0) | (found > _LENGTH)):
        raise Wrong(f"the answer is the number of an episode, from 0 to {_LENGTH}; one of yours is {found.max():g}.")
    error, lean = np.mean(np.abs(found - changes)), np.mean(found - changes)
    if error <= _WITHIN:
        return f"On {_CASES} fresh sequences your method is off by {error:.1f} episodes."
    if lean < -_LEANING:
        raise Wrong(
            f"it is too hasty: {-lean:.1f} episodes too early on the average. An unreliable policy succeeds at times, too."
        )
    if lean > _LEANING:
        raise Wrong(
            f"it is too strict: {lean:.1f} episodes too late on the average. A reliable policy fails at times, too."
        )
    raise Wrong(
        f"it leans neither way, and is still off by {error:.1f} episodes; {_WITHIN:g} can be reached with all the data."
    )


_EVIDENCE = {
    "a": None,
    "b": "the first and the last of these six agents are both FiDec's, and three seeds with one start decide nothing about "
    "so little",
    "c": None,
    "d": "no run here began without the offline updates, so that what these are worth was not measured",
    "e": None,
    "f": None,
}
"""For each statement what speaks against it; None where the records bear it out."""


@exercise(
    "14.4",
    hints=(
        "ask of each statement which two runs would have to differ for it, and whether both are there.",
        "a statement about a cause needs a run without that cause; one about an order needs more seeds than three.",
    ),
)
def _check_conclusions(answer):
    if isinstance(answer, str) or not hasattr(answer, "__iter__"):
        raise Wrong('the answer should be a set of letters, as in {"a", "b"}.')
    chosen = {str(each).strip().lower() for each in answer}
    if unknown := sorted(chosen - _EVIDENCE.keys()):
        raise Wrong(f"there is no statement {unknown[0]!r}; there are a to {max(_EVIDENCE)}.")
    for letter in sorted(chosen):
        if _EVIDENCE[letter] is not None:
            raise Wrong(f"{letter} is not borne out: {_EVIDENCE[letter]}.")
    missing = sorted(letter for letter, against in _EVIDENCE.items() if against is None and letter not in chosen)
    if missing:
        raise Wrong(f"what you chose is borne out, and {len(missing)} more of the statements, too.")
    return "What was not varied cannot be concluded about."

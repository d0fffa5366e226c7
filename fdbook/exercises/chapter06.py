"""Checkers of chapter 06, decorating a flow: the density of a moved policy, the fold, the dual step."""

import math

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, exercise, same_shape


def _close(value, truth):
    return np.allclose(value, truth, rtol=2e-3, atol=1e-4)


_WIDTHS = np.array([0.8, 0.5])
"""The behavior: independent normal coordinates of these standard deviations; the map is T(a) = sinh(a) on each."""


def _normal(a):
    return jnp.sum(-0.5 * (a / _WIDTHS) ** 2) - float(np.log(2 * np.pi * _WIDTHS.prod()))


def _matrix(a):
    return jnp.diag(jnp.cosh(a) - 1)


def _by_counting(b, step=1e-4):
    """The log-density of the moved policy at b, as the slope of its distribution function: no determinant in it."""
    below, above = (
        np.array(
            [0.5 * (1 + math.erf(math.asinh(x + shift) / (w * math.sqrt(2)))) for x, w in zip(b, _WIDTHS, strict=True)]
        )
        for shift in (-step, step)
    )
    return np.sum(np.log((above - below) / (2 * step)))


@exercise(
    "06.1",
    hints=(
        "the density at b is that of the action which T sends there, less what T has stretched.",
        "with a = the inverse at b, subtract log |det(I + the matrix at a)| from the behavior's log-density at a.",
    ),
)
def _check_log_prob(answer):
    targets = [np.array([0.9, -0.4]), np.array([-1.3, 0.7])]
    values = [same_shape(call(answer, _normal, jnp.arcsinh, _matrix, jnp.asarray(b)), ()) for b in targets]
    if _close(values, [_by_counting(b) for b in targets]):
        return "Where T spreads the actions the density falls, and it all integrates to one."
    old = np.array([float(_normal(jnp.arcsinh(b))) for b in targets])
    here = np.array([np.sum(np.log(np.cosh(np.arcsinh(b)))) for b in targets])
    there = np.array([np.sum(np.log(np.cosh(b))) for b in targets])
    unmoved = np.array([float(_normal(jnp.asarray(b))) for b in targets])
    trace = np.array([np.sum(np.cosh(np.arcsinh(b)) - 1) for b in targets])
    mistakes = (
        (old, "the old density at the old action, and it does not integrate to one: T changes areas."),
        (old + here, "your density rises where T spreads the actions."),
        (old - there, "the change of area is taken at the new action, where the old one is asked for."),
        (unmoved - there, "the behavior never put this much at b; go back to where b came from."),
        (unmoved - here, "the behavior is asked at the new action; go back to where b came from."),
        (old - trace, "right for a small displacement: this is its divergence, the first order of the change of area."),
        (old - np.exp(here), "an area is subtracted from a logarithm."),
        (
            old - [np.sum(np.log(np.cosh(np.arcsinh(b)) - 1)) for b in targets],
            "T moves a by a itself plus delta: so do areas.",
        ),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    raise Wrong(f"at b = {targets[0]} the log-density is off by {values[0] - _by_counting(targets[0]):.3g} nats.")


def _first_fold(jacobians):
    """The first strength on a fine scale at which some determinant is no longer positive."""
    strengths = np.linspace(0, 4, 4001)
    eye = np.eye(jacobians.shape[-1])
    lowest = np.array([np.min(np.linalg.det(eye + s * jacobians)) for s in strengths])
    return strengths[np.argmax(lowest <= 0)]


def _strengths():
    """Two sets of matrices: one that mixes turns and stretches, one with a large turn that never folds."""
    turn = np.array([[-0.9, -3.0], [3.0, -0.9]])
    shear = np.array([[-0.5, 2.0], [0.1, 0.4]])
    squeeze = np.array([[-0.2, 0.0], [0.0, -0.4]])
    flip = np.array([[-1.1, 0.3, 0.0], [0.0, 0.5, 0.0], [0.0, 0.2, -0.3]])
    return [np.stack([shear, turn, squeeze]), np.stack([flip, 0.1 * np.eye(3)])]


@exercise(
    "06.2",
    hints=(
        "a map folds where det(I + s J) reaches zero: write it as a product over the eigenvalues of J.",
        "only a real, negative eigenvalue can do it, at s = -1 / eigenvalue; take the first such s over all actions.",
    ),
)
def _check_strength(answer):
    cases = _strengths()
    values = np.array([same_shape(call(answer, jnp.asarray(case)), ()) for case in cases])
    truth = np.array([_first_fold(case) for case in cases])
    if np.allclose(values, truth, atol=2e-3):
        return "Beyond it some action is turned over, and E9 is no longer the KL."

    def item(function):
        return np.array([function(case) for case in cases])

    mistakes = (
        (
            item(lambda j: 1 / np.linalg.norm(j, 2, axis=(-2, -1)).max()),
            "safe, and not the largest: a turn, however fast, does not fold.",
        ),
        (
            item(lambda j: 1 / np.abs(np.linalg.eigvals(j)).max()),
            "safe, and not the largest: a turn, however fast, does not fold.",
        ),
        (
            item(lambda j: -1 / np.linalg.eigvals(j).real.min()),
            "a pair of complex eigenvalues turns the plane and keeps its sign.",
        ),
        (
            item(lambda j: -1 / np.linalg.eigvalsh((j + np.swapaxes(j, -1, -2)) / 2).min()),
            "safe, and not the largest: a shear does not fold, and its symmetric part would.",
        ),
        (
            item(lambda j: -1 / np.trace(j, axis1=-2, axis2=-1).min()),
            "the divergence is only the first order of the determinant.",
        ),
    )
    for wrong, hint in mistakes:
        if np.allclose(values, wrong, atol=2e-3):
            raise Wrong(hint)
    if np.any(values <= 0):
        raise Wrong("a small enough strength never folds.")
    if np.any(values > truth):
        k = int(np.argmax(values - truth))
        raise Wrong(f"too large: at strength {values[k]:.2f} the map has folded already.")
    raise Wrong("safe, and not the largest.")


@exercise(
    "06.3",
    hints=(
        "differentiate the dual loss by log alpha; penalty and budget are held constant.",
        "the gradient is -(penalty - budget): descend along it, in the logarithm and not in alpha.",
    ),
)
def _check_dual(answer):
    cases = [(0.3, 0.02, 0.05, 0.1), (-1.2, 0.4, 0.1, 0.5)]
    values = np.array([same_shape(call(answer, *case), ()) for case in cases])
    log_alpha, penalty, budget, rate = np.array(cases).T
    loss_slope = [(-(x + 1e-3) * (p - e) + (x - 1e-3) * (p - e)) / 2e-3 for x, p, e, _ in cases]
    if _close(values, log_alpha - rate * loss_slope):
        return "Over budget, the multiplier grows; below it, it falls; it never becomes negative."
    excess = penalty - budget
    mistakes = (
        (log_alpha - rate * excess, "over budget your multiplier falls, and the penalty grows further."),
        (np.exp(log_alpha) + rate * excess, "this moves the multiplier; what is learned is its logarithm."),
        (
            np.maximum(log_alpha + rate * excess, 0),
            "a logarithm may be negative: cut off at 0, the multiplier cannot fall below 1.",
        ),
        (np.exp(log_alpha + rate * excess), "this is the next multiplier; its logarithm is asked for."),
        (log_alpha + excess, "the learning rate is missing."),
        (log_alpha + rate * penalty, "without the budget the multiplier never stops growing."),
        (log_alpha * (1 + rate * excess), "the slope of the loss does not depend on the multiplier."),
        (-log_alpha * excess, "this is the loss itself."),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    raise Wrong(
        "right when the penalty is at its budget; off elsewhere."
        if np.ptp(values) > 0
        else "it is the same everywhere."
    )


_BUDGETS = 10.0 ** np.linspace(-4, 2, 7)
_STEPS, _LAST = 200, 80


def _held(step, budget, slope, seed):
    """How far a penalty that falls as alpha^-slope stays from its budget: the mean of |log(penalty / budget)| at the end."""
    rng = np.random.default_rng(seed)
    log_multiplier, errors = 0.0, []
    scale = budget * np.exp(rng.uniform(-4, 4))
    for number in range(_STEPS):
        clean = scale * np.exp(-slope * np.clip(log_multiplier, -60, 60))
        penalty = clean * np.exp(0.2 * rng.normal())
        log_multiplier = float(same_shape(call(step, log_multiplier, penalty, budget), ()))
        if number >= _STEPS - _LAST:
            errors.append(abs(np.log(clean / budget)))
    return float(np.mean(errors))


@exercise(
    "06.4",
    hints=(
        "penalty minus budget is as small as the budget: measure how far off the penalty is in a way that has no unit.",
        "move the logarithm by a small multiple of log(penalty / budget), or by a small fixed step with the sign of it.",
    ),
)
def _check_rule(answer):
    """Judges a rule by how well it holds penalties of seven scales, each of which falls fast or slowly with the multiplier."""
    cases = [(budget, slope) for budget in _BUDGETS for slope in (0.7, 2.0)]
    errors = np.array([_held(answer, *case, seed) for seed, case in enumerate(cases)])
    if np.all(errors < 0.15):
        return "It knows no scale: neither the budget's nor the penalty's."
    if errors.min() > 5:
        raise Wrong("it loses its hold: over budget the multiplier has to rise, and under it to fall.")
    small, large = (_held(answer, budget, 2.0, 0) for budget in (1e-3, 10.0))
    if max(small, large) > 1.5 * min(small, large) + 0.05:
        raise Wrong(
            "it is too slow where budgets are small, or too fast where they are large: its steps have the budget's unit."
        )
    worst = int(np.argmax(errors))
    raise Wrong(
        f"it does not settle: at a budget of {cases[worst][0]:.2g} the penalty stays off by a factor of "
        f"{np.exp(errors[worst]):.2g} on the average."
    )

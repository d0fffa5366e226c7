"""Checkers of chapter 11, one switch changed: the efficiency of a metric over states, two curves at one KL, a KL spread."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, close, exercise, refuse, returns_nan, same_shape


def _states(seed):
    """Gradients (6, 2), Fisher matrices (6, 2, 2) and forms (6, 2, 2), all different."""
    rng = np.random.default_rng(seed)

    def matrices():
        factors = rng.normal(size=(6, 2, 2))
        return factors @ np.swapaxes(factors, 1, 2) + 0.3 * np.eye(2)

    return rng.normal(size=(6, 2)), matrices(), matrices()


def _gain(gradients, fisher, forms):
    steps = np.linalg.solve(forms, gradients[..., None])[..., 0]
    cost = np.einsum("si,sij,sj->s", steps, fisher, steps)
    return np.sum(gradients * steps, axis=-1), cost


@exercise("11.1")
def _check_efficiency(answer):
    gradients, fisher, forms = _states(0)
    value = same_shape(call(answer, *map(jnp.asarray, (gradients, fisher, forms))), ())
    (gain, cost), (best, least) = _gain(gradients, fisher, forms), _gain(gradients, fisher, fisher)
    truth = gain.sum() / np.sqrt(cost.sum()) / (best.sum() / np.sqrt(least.sum()))
    if not close(value, truth):
        own = gain / np.sqrt(cost) / np.sqrt(best)
        mistakes = (
            (
                gain.sum() / np.sqrt(cost.sum()),
                "that is the gain of the steps; it is to be compared with that of the best ones.",
            ),
            (1 / truth, "that is the best gain over the metric's: a share of at most 1 is asked for."),
            (
                np.mean(own),
                "every state has a budget of its own here; one multiplier spreads one KL over all of them.",
            ),
            (
                gain.sum() / best.sum(),
                "the two kinds of steps cost differently here: compare them at the same KL.",
            ),
            (truth**2, "a KL grows with the square of a step, a gain with the step: mind the root."),
        )
        refuse(value, mistakes)
        raise Wrong(
            "take the steps G^-1 g, their summed gain over the root of their summed cost in F, and the same for G = F."
        )
    (scaled,) = (call(answer, *map(jnp.asarray, (gradients, fisher, 7 * fisher))),)
    if not close(scaled, 1):
        raise Wrong("right, but F times a number should have the efficiency 1: the multiplier takes the number up.")
    return "A metric may be wrong by a factor, but by the same one in every state."


@exercise("11.2")
def _check_ratio(answer):
    ours = np.array([0.04, 0.16, 0.64]), np.array([0.5, 1.1, 2.0])
    theirs = np.array([0.01, 0.25, 1.0]), np.array([0.1, 0.8, 1.4])
    at = 0.09

    def curve(kl, gain, power):
        return np.interp(at**power, np.append(0, kl**power), np.append(0, gain))

    value = same_shape(call(answer, *map(jnp.asarray, (*ours, *theirs)), at), ())
    truth = curve(*ours, 0.5) / curve(*theirs, 0.5)
    if not close(value, truth):
        mistakes = (
            (
                curve(*ours, 1.0) / curve(*theirs, 1.0),
                "that is interpolated in the KL itself: a gain grows with its root.",
            ),
            (1 / truth, "that is the second curve over the first."),
            (
                curve(*ours, 0.5) - curve(*theirs, 0.5),
                "that is a difference; a ratio does not depend on the critic's unit.",
            ),
            (1.1 / 0.8, "those are the second rungs, which do not cost the same KL."),
            (0.5 / 0.1, "those are the first rungs, which do not cost the same KL."),
        )
        refuse(value, mistakes)
        raise Wrong("interpolate both gains, linearly in the root of the KL, at the KL that is asked for, and divide.")
    low = 0.0025
    value = call(answer, *map(jnp.asarray, (*ours, *theirs)), low)
    if not close(value, (0.5 / 0.2) / (0.1 / 0.1)):
        raise Wrong("right, but below the first rung a curve should start from no displacement, of no gain and no KL.")
    if not returns_nan(answer, *map(jnp.asarray, (*ours, *theirs)), 0.81):
        raise Wrong("right, but beyond the last rung of either curve nothing was measured: return NaN there.")
    return "Equal KL, not equal rungs, multipliers or budgets."


@exercise("11.3")
def _check_spread(answer):
    slopes, mean = np.array([1.0, 2.0, 0.5, 3.0]), 0.4
    value = same_shape(call(answer, jnp.asarray(slopes), mean), (4,))
    truth = mean * 4 * slopes**2 / np.sum(slopes**2)
    if not close(value, truth):
        mistakes = (
            (
                np.full(4, mean),
                "every state gets the same here; where the same KL gains more, more should be spent.",
            ),
            (
                mean * 4 * slopes / np.sum(slopes),
                "in proportion to the slopes is not enough: where is the derivative the same everywhere?",
            ),
            (mean * slopes**2 / np.sum(slopes**2), "these add up to the mean; their mean should be the mean."),
            (np.where(slopes == 3, 4 * mean, 0), "all for the steepest state: but its root grows ever more slowly."),
            (mean * 4 / slopes**2 / np.sum(1 / slopes**2), "the flattest state gets most here."),
        )
        refuse(value, mistakes)
        raise Wrong(
            "maximise the sum of c_s sqrt(KL_s) with the sum of KL_s given: what is the derivative in each KL_s?"
        )
    return "So the gain is the root mean square of the slopes, and not their mean."

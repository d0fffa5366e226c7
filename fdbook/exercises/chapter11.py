"""Checkers of chapter 11, one switch changed: efficiencies over states, two curves at one KL, a KL spread, an uncertain blur."""

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


@exercise(
    "11.1",
    hints=(
        "the steps of a metric are G^-1 g in every state; what do they gain together, and what do they cost in the true F?",
        "a gain grows with the step and a cost with its square: divide by a root. The best steps are those of another G.",
    ),
)
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


@exercise(
    "11.2",
    hints=(
        "a gain is nearly straight in the root of the KL; put a rung of no displacement in front of each ladder.",
        "jnp.interp takes what to return beyond the ends; which of the two ends is one of the measurement?",
    ),
)
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


@exercise(
    "11.3",
    hints=(
        "move a little KL from one state to another: when does it no longer pay?",
        "the derivative of c sqrt(x) should be the same in every state; the mean then fixes the one number that is left.",
    ),
)
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
            "maximize the sum of c_s sqrt(KL_s) with the sum of KL_s given: what is the derivative in each KL_s?"
        )
    return "So the gain is the root mean square of the slopes, and not their mean."


_CASES = {  # relative error of the matrices, time of reading, the share that is asked for
    "exact matrices, read at t = 0.9": (0.0, 0.9, 0.97),
    "matrices with an error of a tenth, read at t = 0.8": (0.1, 0.8, 0.55),
    "matrices with an error of a fifth, read at t = 0.8": (0.2, 0.8, 0.385),
}


def _blurred_states(error, t):
    """Fresh states with three coordinates: matrices as they are read at t, with an error, the true ones, and gradients."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(200, 3, 3)))[0]
    widths = np.exp(rng.uniform(np.log(0.02), np.log(0.3), size=(200, 3)))
    fisher = np.einsum("sij,sj,skj->sik", axes, widths**-2, axes)
    root = np.einsum("sij,sj,skj->sik", axes, (t**2 * widths**2 + (1 - t) ** 2) ** -0.5, axes)
    wrong = rng.normal(size=(200, 3, 3))
    wrong = np.eye(3) + error * (wrong + np.swapaxes(wrong, 1, 2)) / 2
    return root @ wrong @ root, fisher, rng.normal(size=(200, 3))


@exercise(
    "11.4",
    hints=(
        "write E29 in widths first: what does each eigenvalue of the matrix say the squared width is, and when is that nonsense?",
        "what is the error of that squared width, if that of the eigenvalue is known? No width should be believed below it.",
    ),
)
def _check_unblurred(answer):
    shares = {}
    for name, (error, t, asked) in _CASES.items():
        read, fisher, gradients = _blurred_states(error, t)
        forms = np.array([same_shape(call(answer, jnp.asarray(one), t, error), (3, 3)) for one in read])
        if not np.allclose(forms, np.swapaxes(forms, 1, 2), rtol=1e-3, atol=1e-3 * np.abs(forms).max()):
            raise Wrong("a metric is a symmetric matrix; yours is not.")
        if np.min(np.linalg.eigvalsh(forms)) <= 0:
            raise Wrong(
                f"for {name}, some of your matrices charge nothing, or less, for a direction: its width came out negative."
            )
        (gain, cost), (best, least) = _gain(gradients, fisher, forms), _gain(gradients, fisher, fisher)
        shares[name] = gain.sum() / np.sqrt(cost.sum()) / (best.sum() / np.sqrt(least.sum()))
        if shares[name] < asked:
            flat = _gain(gradients, fisher, np.broadcast_to(np.eye(3), fisher.shape))
            plain = flat[0].sum() / np.sqrt(flat[1].sum()) / (best.sum() / np.sqrt(least.sum()))
            raise Wrong(
                f"for {name}, your matrices gain {shares[name]:.2f} of what the true ones do; more than {asked:.2f} is in reach, "
                f"and L2 gains {plain:.2f}."
            )
    told = ", ".join(f"{share:.2f}" for share in shares.values())
    return f"Your matrices keep {told} of the gain; read at 0.8 with an error of a fifth, we found little more than L2's 0.36."

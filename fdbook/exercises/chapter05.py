"""Checkers of chapter 05, why L2 misleads: the best step, the gradient that L2 serves worst, the stretch it can bear, and a
step from a few scores."""

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, exercise, same_shape


def _close(value, truth):
    return np.allclose(value, truth, rtol=2e-3, atol=1e-5)


def _metric(d, seed):
    """A random positive definite matrix whose eigenvalues run from 0.5 to 20."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    return (axes * np.geomspace(0.5, 20, d)) @ axes.T


def _best_by_search(g, metric, epsilon):
    """E13 without its formula: in coordinates where the ellipsoid is a ball, the best point is the one along g."""
    root = np.linalg.cholesky(metric)
    push = np.linalg.solve(root, g)
    return np.linalg.solve(root.T, np.sqrt(2 * epsilon) * push / np.linalg.norm(push))


@exercise(
    "05.1",
    hints=(
        "first find the direction, then the length: at the best point the gradient of the cost is parallel to g.",
        "the direction solves F x = g; scale it until ½ xᵀF x is the budget.",
    ),
)
def _check_best_step(answer):
    cases = [(np.array([0.4, -1.0]), _metric(2, 1), 0.3), (np.array([1.0, 0.2, -2.0]), _metric(3, 2), 0.05)]
    steps = [same_shape(call(answer, jnp.asarray(g), jnp.asarray(f), eps), g.shape) for g, f, eps in cases]
    if all(_close(step, _best_by_search(*case)) for step, case in zip(steps, cases, strict=True)):
        return "This is one natural gradient step whose length is a KL and not a learning rate."
    (g, metric, epsilon), step = cases[0], steps[0]
    best, cost = _best_by_search(*cases[0]), 0.5 * step @ metric @ step

    def along(direction):
        return abs(step @ direction) > 0.9999 * np.linalg.norm(step) * np.linalg.norm(direction)

    if along(best):
        if step @ best < 0:
            raise Wrong("right line, but it walks downhill.")
        if not _close(cost, epsilon):
            raise Wrong(f"right direction, but it costs {cost:.3g} nats where {epsilon} may be spent.")
        raise Wrong("right for two dimensions, wrong for three.")
    if along(g):
        raise Wrong("this is the step along the gradient, E14 at best: it gains less than the budget can buy.")
    if along(metric @ g):
        raise Wrong("your step is longest where the metric is stiffest, which is the dear way round.")
    raise Wrong(f"it gains {g @ step:.3g} at a cost of {cost:.3g} nats; {g @ best:.3g} is possible for {epsilon}.")


def _kept(g, metric):
    """E15: the share of the best gain that the L2 step keeps."""
    return g @ g / np.sqrt((g @ metric @ g) * (g @ np.linalg.solve(metric, g)))


@exercise(
    "05.2",
    hints=(
        "look at panel A, and at what it says about 45 degrees: between which two axes?",
        "jnp.linalg.eigh returns the axes as columns, softest first. In higher dimensions most of them are not wanted.",
    ),
)
def _check_worst_gradient(answer):
    cases = [_metric(2, 10), _metric(4, 4)]
    gradients = [same_shape(call(answer, jnp.asarray(metric)), metric.shape[:1]) for metric in cases]
    lengths = [np.linalg.norm(g) for g in gradients]
    if min(lengths) < 1e-6:
        raise Wrong("a gradient of zero leaves nothing to gain.")
    kept = np.array([_kept(g, metric) for g, metric in zip(gradients, cases, strict=True)])
    worst = 2 / (np.sqrt(40) + 1 / np.sqrt(40))
    if _close(kept, worst) and _close(lengths, 1):
        return f"L2 keeps {worst:.0%} here: Kantorovich's bound is attained."
    if _close(kept, worst):
        raise Wrong(f"right direction, but its length is {lengths[0]:.3g} and not one.")
    if np.all(kept > 0.999):
        raise Wrong("L2 loses nothing for this gradient: it is an axis of the metric.")
    if _close(kept[0], worst):
        raise Wrong("right in two dimensions; in four your gradient leans on axes that spoil it.")
    at = 0 if kept[0] > worst * 1.002 else 1
    raise Wrong(
        f"in {len(gradients[at])} dimensions L2 keeps {kept[at]:.2f} of the gain here; it can be made {worst:.2f}."
    )


@exercise(
    "05.3",
    hints=(
        "set the lower end of E15 equal to q; with r = √κ it is a quadratic equation in r.",
        "it has two roots, one the inverse of the other; only one of them belongs to a condition number.",
    ),
)
def _check_largest_condition(answer):
    shares = np.array([0.95, 0.6, 0.11])
    values = np.array([same_shape(call(answer, share), ()) for share in shares])
    grid = np.geomspace(1, 1e4, 2_000_001)
    truth = np.array([grid[np.argmax(2 * np.sqrt(grid) / (1 + grid) <= share)] for share in shares])
    if _close(values, truth):
        return f"To be sure of 95%, κ may not pass {truth[0]:.2g}."
    mistakes = (
        (1 / truth, "this is below 1, and no condition number is: take the other root."),
        (np.sqrt(truth), "this is the square root of the answer: the axes' lengths, not the eigenvalues, in ratio."),
        (truth**2, "this is the square of the answer."),
        (2 * np.sqrt(shares) / (1 + shares), "you have put the share where the condition number goes."),
        (1 / shares, "the loss starts more slowly: near κ = 1 it is of second order."),
        (4 / shares**2, "right when very little is kept, wrong for shares near 1."),
    )
    for wrong, hint in mistakes:
        if _close(values, wrong):
            raise Wrong(hint)
    if np.any(values < 1):
        raise Wrong("no condition number is below 1.")
    share = 2 * np.sqrt(values[0]) / (1 + values[0])
    raise Wrong(f"for a share of 0.95 you allow κ = {values[0]:.3g}, where {share:.3g} is guaranteed.")


_STATES = 100
_GROUPS = {  # number of scores, condition number of the truth, the mean share that is asked for
    "round states with few scores": (8, 1.0, 0.82),
    "thin states with few scores": (8, 100.0, 0.63),
    "thin states with many scores": (256, 100.0, 0.95),
}


def _scores_of_states(count, condition):
    """Fresh states in five dimensions: their true metrics, `count` scores of each, and a gradient."""
    random, d = np.random.default_rng(55), 5
    for _ in range(_STATES):
        axes = np.linalg.qr(random.normal(size=(d, d)))[0]
        values = condition ** np.linspace(0, 1, d)
        scores = (random.normal(size=(count, d)) * np.sqrt(values)) @ axes.T
        yield (axes * values) @ axes.T, scores, random.normal(size=d)


@exercise(
    "05.4",
    hints=(
        "there are two extremes, the scores' own matrix and the identity; which one is right for few scores, which for many?",
        "add a multiple of the identity that is measured in the matrix's own mean eigenvalue and shrinks as K outgrows d.",
    ),
)
def _check_step_from_scores(answer):
    kept = {}
    for name, (count, condition, asked) in _GROUPS.items():
        shares, plain = [], []
        for metric, scores, g in _scores_of_states(count, condition):
            step = same_shape(call(answer, jnp.asarray(scores), jnp.asarray(g)), g.shape)
            cost, best = step @ metric @ step, np.sqrt(g @ np.linalg.solve(metric, g))
            shares.append(g @ step / np.sqrt(cost) / best if cost > 0 else 0.0)
            plain.append(_kept(g, metric))
        kept[name] = np.mean(shares)
        if kept[name] < 0:
            raise Wrong("your step walks downhill.")
        if kept[name] < asked:
            raise Wrong(
                f"on {name} it keeps {kept[name]:.2f} of the best gain, where {asked} is asked and L2 keeps {np.mean(plain):.2f}."
            )
    return "It keeps " + ", ".join(f"{share:.2f} on {name}" for name, share in kept.items()) + "."

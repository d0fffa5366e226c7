"""Checkers of chapter 10, a bandit with a known optimum: the tilted behavior, a KL cell by cell, two shifts, the best of n."""

import itertools

import jax.numpy as jnp
import numpy as np

from fdbook.exercises import Wrong, call, close, exercise, refuse, same_shape


@exercise(
    "10.1",
    hints=(
        "weigh each cell's mass by the exponential of its value over the temperature, and normalize.",
        "to be safe for large values subtract the largest one before the exponential: it cancels.",
    ),
)
def _check_tilted(answer):
    rng = np.random.default_rng(0)
    mass = rng.dirichlet(np.full(12, 0.7))
    mass[3] = 0.0
    mass /= mass.sum()
    values, temperature = rng.normal(size=12), 0.6
    value = same_shape(call(answer, jnp.asarray(mass), jnp.asarray(values), temperature), (12,))
    weights = mass * np.exp(values / temperature)
    truth = weights / weights.sum()
    if not close(value, truth):
        softmax = np.exp(values / temperature) / np.sum(np.exp(values / temperature))
        mistakes = (
            (weights, "the cells do not add up to 1."),
            (weights / weights.max(), "the largest cell is 1 here; it is the sum of the cells that should be 1."),
            (softmax, "the behavior has been forgotten: a cell that it never visits has a share here."),
            (_normal(mass * np.exp(values * temperature)), "a high temperature should leave the behavior as it is."),
            (_normal(mass * np.exp(-values / temperature)), "the cells of the lowest value have gained most."),
            (_normal(mass * np.exp(values)), "the temperature has not been used."),
            (mass + softmax, "mass and value are added here; E25 lets each cell's mass grow or shrink by a factor."),
            (np.eye(12)[np.argmax(np.where(mass > 0, values, -9))], "that is the limit of a temperature of 0."),
        )
        refuse(value, mistakes)
        raise Wrong("E25 weighs each cell's mass by a factor that depends on its value alone, and then normalizes.")
    try:
        far = call(answer, jnp.asarray(mass), jnp.asarray(values) + 1000, temperature)
    except Wrong:
        raise Wrong("right, but 1000 added to every value, which should change nothing, makes it overflow.") from None
    if not np.allclose(far, truth, rtol=1e-2, atol=1e-4):
        raise Wrong("right, but 1000 added to every value should change nothing, and does.")
    return "Only differences of value count, and a cell without mass stays without."


def _normal(weights):
    return weights / weights.sum()


@exercise(
    "10.2",
    hints=(
        "it is a sum over cells of the policy's share times the logarithm of a ratio.",
        "a cell that the policy leaves empty adds nothing: take care that 0 * log 0 is 0 and not NaN.",
    ),
)
def _check_kl(answer):
    rng = np.random.default_rng(1)
    share, mass = rng.dirichlet(np.full(8, 2.0)), rng.dirichlet(np.full(8, 2.0))
    value = same_shape(call(answer, jnp.asarray(share), jnp.asarray(mass)), ())
    log = np.log(share / mass)
    truth = np.sum(share * log)
    if not close(value, truth):
        mistakes = (
            (-np.sum(mass * log), "that is the KL of the behavior to the policy; the other direction is asked for."),
            (-truth, "a KL is never negative."),
            (np.sum((share - mass) * log) / 2, "both directions are averaged here; E25 limits one of them."),
            (truth / np.log(2), "these are bits; the book counts in nats."),
            (np.mean(log), "the cells are weighed alike; the policy visits some more often than others."),
            (np.sum(log), "every cell counts fully here, however rarely the policy visits it."),
            (truth / 8, "that is a mean over the cells; their shares are weights already."),
            (-np.sum(share * np.log(mass)), "that is the cross-entropy, which is not 0 where both agree."),
            (np.sum(share * np.log(share)), "the behavior has been forgotten: this is minus an entropy."),
            (np.sum(np.abs(share - mass)) / 2, "that is the total variation, which is not in nats."),
        )
        refuse(value, mistakes)
        raise Wrong("it is the mean of log(share / mass), taken over the policy's own cells.")
    share[2:5] = 0.0
    share /= share.sum()
    full = share > 0
    truth = np.sum(share[full] * np.log(share[full] / mass[full]))
    try:
        value = call(answer, jnp.asarray(share), jnp.asarray(mass))
    except Wrong:
        raise Wrong("right, unless the policy leaves a cell empty: 0 log 0 counts as 0.") from None
    if not close(value, truth):
        raise Wrong("right, unless the policy leaves a cell empty; then something is added or lost.")
    return "A policy may leave cells empty at a finite price; it may not visit cells that the behavior never visits."


@exercise(
    "10.3",
    hints=(
        "in both cases set a gradient to zero: the gain's is g, the price's is linear in the shift.",
        "E25 shifts a Gaussian by its covariance times g over lambda; E17 pays alpha times a mean square over d.",
    ),
)
def _check_shifts(answer):
    rng = np.random.default_rng(2)
    gradient, factor = rng.normal(size=3), rng.normal(size=(3, 3))
    covariance, alpha, temperature = factor @ factor.T + 0.1 * np.eye(3), 4.0, 2.5
    value = call(answer, jnp.asarray(gradient), jnp.asarray(covariance), alpha, temperature)
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Wrong("return two shifts: E17's and E25's.")
    ours, best = (same_shape(part, (3,)) for part in value)
    shift = gradient * 3 / (2 * alpha)
    mistakes = (
        (shift / 3, "E17's shift: the book's distance is a mean over the d coordinates, not a sum."),
        (2 * shift, "E17's shift: the slope of a square carries a factor."),
        (2 * shift / 3, "E17's shift: neither the slope of a square nor the mean over the d coordinates is in it."),
        (-shift, "E17's shift: this one lowers the value."),
        (gradient * 3 * alpha / 2, "E17's shift: a larger alpha should hold the policy back."),
        (covariance @ shift, "E17's shift: its distance does not know the behavior."),
        (_unit(gradient), "E17's shift: only the direction is left; a steeper value pulls further."),
    )
    refuse(ours, mistakes)
    if not close(ours, shift):
        raise Wrong("E17's shift is where the slope of alpha times the distance meets that of the value.")
    tilted = covariance @ gradient / temperature
    mistakes = (
        (gradient / temperature, "E25's shift: the behavior has been forgotten."),
        (-tilted, "E25's shift: this one lowers the value."),
        (
            np.linalg.solve(covariance, gradient) / temperature,
            "E25's shift: it goes furthest where there is least room.",
        ),
        (tilted / 2, "E25's shift: complete the square once more, and mind the factor 1/2 in the exponent."),
        (2 * tilted, "E25's shift: complete the square once more, and mind the factor 1/2 in the exponent."),
        (tilted * temperature**2, "E25's shift: a higher temperature should leave the behavior more as it is."),
        (np.diag(covariance) * gradient / temperature, "E25's shift: the coordinates of the behavior are correlated."),
        (shift, "E25's shift: that is E17's once more; now the price is a KL and not a distance."),
    )
    refuse(best, mistakes)
    if not close(best, tilted):
        raise Wrong(
            "E17's shift is right. For E25's multiply the Gaussian by exp(g . a / lambda): where is its mean now?"
        )
    return "One of the two knows where the behavior is wide, and goes there."


def _unit(vector):
    return vector / np.linalg.norm(vector)


def _played(mass, values, n):
    """The share of each cell by listing every way to draw n of them; winners that are equally good win alike."""
    share = np.zeros(len(mass))
    for drawn in map(list, itertools.product(range(len(mass)), repeat=n)):
        winners = [cell for cell in drawn if values[cell] == max(values[drawn])]
        np.add.at(share, winners, np.prod(mass[drawn]) / len(winners))
    return share


def _ranked(mass, values, n, *, flipped=False):
    """The best of n where equal cells are not equal: the one that stands later wins, or with `flipped` the earlier one."""
    order = (
        np.argsort(values, kind="stable") if not flipped else len(mass) - 1 - np.argsort(values[::-1], kind="stable")
    )
    return np.diff(np.cumsum(mass[order]) ** n, prepend=0.0)[np.argsort(order)]


def _best_of(answer, mass, values, n, cells):
    return same_shape(call(answer, jnp.asarray(mass), jnp.asarray(values), n), (cells,))


@exercise(
    "10.4",
    hints=(
        "when is the winner no better than a value q? When all n draws are: so begin with the mass of all cells up to q.",
        "a level of value wins with the chance that all draws are at or below it, less the chance that all are below; "
        "within the level the cells' masses say who it was. Take care of a level without mass.",
    ),
)
def _check_best_of_n(answer):
    rng = np.random.default_rng(104)
    for n in (3, 2, 4):  # no two cells alike
        mass, values = rng.dirichlet(np.full(5, 1.5)), rng.normal(size=5)
        value, truth = _best_of(answer, mass, values, n, 5), _played(mass, values, n)
        if not close(value, truth):
            upto = np.sum(mass * (values <= values[:, None]), axis=1)
            density = n * mass * upto ** (n - 1)
            mistakes = (
                (
                    density,
                    "n u^(n-1) is a density for actions without number; a cell is a piece of u, from one end to the other.",
                ),
                (
                    _normal(density),
                    "n u^(n-1) is a density; to normalize does not make up for taking it at one end of a cell.",
                ),
                (
                    n * mass * (upto - mass) ** (n - 1),
                    "a cell drawn twice may win as well: not only worse ones may be beside it.",
                ),
                (upto**n, "that is the chance that the winner is no better than the cell, not that it is the cell."),
                (_played(mass, -values, n), "the worst of the draws have been taken."),
                (_played(mass, values, n - 1), "that is one draw too few."),
                (_played(mass, values, n + 1), "that is one draw too many."),
                (np.eye(5)[np.argmax(values)], "that is the limit of very many draws."),
                (
                    _normal(mass * np.exp(n * values)),
                    "that is a tilt; the best of n sees which is better, and not by how much.",
                ),
                (mass, "nothing has been chosen."),
            )
            refuse(value, mistakes)
            raise Wrong(f"with {n} draws and no ties it is off: when is the winner among the k worst cells?")
    for n in (2, 3, 4):  # three cells alike, two others alike
        mass, values = rng.dirichlet(np.full(6, 1.5)), rng.permutation([0.3, 0.3, 0.3, -1.0, 2.0, 2.0])
        value, truth = _best_of(answer, mass, values, n, 6), _played(mass, values, n)
        if not close(value, truth):
            alike = values == values[:, None]
            level = alike @ truth
            mistakes = (
                (
                    _ranked(mass, values, n),
                    "right without ties; of equal cells the one that stands later is preferred.",
                ),
                (
                    _ranked(mass, values, n, flipped=True),
                    "right without ties; of equal cells the one that stands earlier is preferred.",
                ),
                (level, "right without ties; of equal cells each has here what belongs to all of them."),
                (level / alike.sum(1), "right without ties; equal cells share by their mass, not by their number."),
            )
            refuse(value, mistakes)
            raise Wrong("right without ties; where several cells are equally good it is off.")
    _check_ends(answer, rng)
    return "What the best of n does depends on the order of the values alone; E25 knows their distances as well."


def _check_ends(answer, rng):
    """One draw, empty cells, and so many draws that the rarest cell wins."""
    mass, values = rng.dirichlet(np.full(6, 1.5)), rng.permutation([0.3, 0.3, -0.5, -1.0, 2.0, 2.0])
    if not close(_best_of(answer, mass, values, 1, 6), mass):
        raise Wrong(
            "right for several draws; with one draw there is nothing to choose, and the behavior should be left."
        )
    empty = np.where(values == 2, 0.0, mass)
    empty[np.argmin(values)] = 0.0
    empty /= empty.sum()
    try:
        value = _best_of(answer, empty, values, 3, 6)
    except Wrong:
        raise Wrong("right, unless a level of value has no mass at all: 0 / 0 is asked for there.") from None
    if not close(value, _played(empty, values, 3)):
        raise Wrong("right, unless a cell has no mass; it can never be drawn.")
    rare = np.array([0.6, 1e-4, 0.3997, 2e-4])
    best = -np.expm1(10_000 * np.log1p(-3e-4))  # the chance that the two rare cells, which are the best, come at all
    truth = np.array([(1 - best), best / 3, 0.0, 2 * best / 3])
    value = _best_of(answer, rare, np.array([1.0, 5.0, 0.5, 5.0]), 10_000, 4)
    if not np.allclose(value, truth, atol=5e-3):
        raise Wrong("right for a few draws; with ten thousand even a cell of a ten-thousandth of the mass is found.")

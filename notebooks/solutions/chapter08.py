"""Worked solutions of chapter 08, and typical mistakes with a piece of what the checker says about them."""

import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree


def variogram(actions, pairs):
    first, second = actions[pairs[:, 0]], actions[pairs[:, 1]]
    return jnp.mean((first - second) ** 2) / 2


def episodes_needed(share, chance):
    # n episodes are all without success with chance (1 - share)^n, which may be 1 - chance at most.
    return jnp.ceil(jnp.log(1 - chance) / jnp.log(1 - share) - 1e-6)


def rewards_and_masks(met):
    return jnp.sum(met, axis=1) - met.shape[1], 1 - jnp.all(met, axis=1)


def _pairs(states, episodes, k, foreign=True):
    """Distances and rows of the k nearest rows of each row, from other episodes if `foreign`."""
    distances, found = cKDTree(states).query(states, k=min(len(states), 400))
    wanted = episodes[found] != episodes[:, None] if foreign else found != np.arange(len(states))[:, None]
    near = wanted & (np.cumsum(wanted, axis=1) <= k)
    return distances[near], np.stack([np.nonzero(near)[0], found[near]], axis=1)


def _halves(actions, pairs):
    return 0.5 * np.mean((actions[pairs[:, 0]] - actions[pairs[:, 1]]) ** 2, axis=1)


def width(states, actions, episodes, k=20, foreign=True):
    # The mean's change is linear in the states, and its square grows like r^2: a line against r^2 has the width at r = 0.
    distances, pairs = _pairs(states, episodes, k, foreign)
    columns = np.stack([np.ones_like(distances), distances**2], axis=1)
    return np.linalg.lstsq(columns, _halves(actions, pairs), rcond=None)[0][0]


def _closest(states, actions, episodes, foreign=True):
    return np.mean(_halves(actions, _pairs(states, episodes, 1, foreign)[1]))


answers = {"08.1": variogram, "08.2": episodes_needed, "08.3": rewards_and_masks, "08.4": width}


def _difference(actions, pairs):
    return actions[pairs[:, 0]] - actions[pairs[:, 1]]


mistakes = {
    "08.1": [
        (lambda a, p: jnp.mean(_difference(a, p) ** 2), "half of the square"),
        (lambda a, p: jnp.mean(jnp.sum(_difference(a, p) ** 2, axis=1)) / 2, "per dimension of the action"),
        (lambda a, p: jnp.mean(jnp.sum(_difference(a, p) ** 2, axis=1)), "not yet per dimension"),
        (lambda a, p: jnp.sqrt(variogram(a, p)), "that is a width"),
        (lambda a, p: jnp.mean(jnp.linalg.norm(_difference(a, p), axis=1)), "instead of their squares"),
        (lambda a, p: jnp.mean(jnp.var(a, axis=0)), "the pairs have not been used"),
        (lambda a, p: len(p) * variogram(a, p), "does not grow with their number"),
        (lambda a, p: jnp.mean(jnp.mean(_difference(a, p), axis=0) ** 2) / 2, "average last"),
        (lambda a, p: jnp.mean(_difference(a, p) ** 2, axis=0) / 2, "shape ()"),
        (lambda a, p: 7 * variogram(a, p), "per dimension, is asked for"),
    ],
    "08.2": [
        (lambda s, c: jnp.log(1 - c) / jnp.log(1 - s), "round up"),
        (lambda s, c: jnp.floor(jnp.log(1 - c) / jnp.log(1 - s)), "rounded down"),
        (lambda s, c: jnp.ceil(1 / s), "often none"),
        (lambda s, c: jnp.ceil(c / s), "do not add up"),
        (lambda s, c: jnp.ceil(jnp.log(c) / jnp.log(1 - s)), "no success at all"),
        (lambda s, c: jnp.ceil(jnp.log(1 - c) / jnp.log(s)), "an episode fails"),
        (lambda s, c: 10.0, "solve for n"),
    ],
    "08.3": [
        (lambda m: (jnp.sum(m, axis=1), 1 - jnp.all(m, axis=1)), "never above 0"),
        (lambda m: (jnp.all(m, axis=1) - 1, 1 - jnp.all(m, axis=1)), "better than none"),
        (lambda m: (jnp.mean(m, axis=1), 1 - jnp.all(m, axis=1)), "not a share"),
        (lambda m: (jnp.sum(m, axis=1) - 7, 1 - jnp.all(m, axis=1)), "minus the number of parts"),
        (lambda m: (rewards_and_masks(m)[0], jnp.all(m, axis=1)), "nothing is to follow"),
        (lambda m: (rewards_and_masks(m)[0], 1 - jnp.any(m, axis=1)), "one part is not the goal"),
        (lambda m: (rewards_and_masks(m)[0], jnp.ones(len(m))), "goes on counting"),
        (lambda m: (rewards_and_masks(m)[0], -jnp.ones(len(m))), "the mask is 0 where all parts are met"),
        (lambda m: rewards_and_masks(m)[0], "return two arrays"),
    ],
    "08.4": [
        (lambda s, a, e: np.mean(np.var(a, axis=0)), "0.75 to 1.25 is asked for"),
        (_closest, "the mean's change has to be taken out"),
        (lambda s, a, e: _closest(s, a, e, foreign=False), "share their noise"),
        (lambda s, a, e: width(s, a, e, foreign=False), "share their noise"),
        (lambda s, a, e: np.sqrt(width(s, a, e)), "that is a width"),
        (lambda s, a, e: np.var(a, axis=0), "shape ()"),
    ],
}

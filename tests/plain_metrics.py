"""What every metric charges, once more in NumPy, one action at a time, written from the equations (E11, E18 to E24, E28, E29).

FORMS has for each registered metric the matrix that each of k actions is charged with, from what was read: scores (m, d), or
matrices (m, d, d) with their times (m,).
"""

import numpy as np


LEAST_WIDTH = 0.01


def outer_mean(scores):
    return sum(np.outer(score, score) for score in scores) / len(scores)


def semidefinite(matrix):
    """What is left of a symmetric matrix when directions of negative curvature are free."""
    values, axes = np.linalg.eigh(matrix)
    return sum(max(value, 0.0) * np.outer(axis, axis) for value, axis in zip(values, axes.T, strict=True))


def deblurred(matrix, t):
    """E29, for H with eigenvalues from 0 up to that of actions as narrow as the least width."""
    values, axes = np.linalg.eigh(matrix)
    h = axes @ np.diag(np.clip(values, 0.0, 1 / (t**2 * LEAST_WIDTH**2 + (1 - t) ** 2))) @ axes.T
    return t**2 * h @ np.linalg.inv(np.eye(len(h)) - (1 - t) ** 2 * h)


def information_from_jacobian(jacobian, t):
    """E28, the symmetric part."""
    return (np.eye(len(jacobian)) - t * (jacobian + jacobian.T) / 2) / (1 - t)


def only_time(times):
    assert np.ptp(times) < 1e-9, "a mean has the blur of one time"
    return times[0]


FORMS = {
    "l2": lambda read, k, d: [np.eye(d)] * k,
    "fisher-paper": lambda read, k, d: [np.outer(score, score) for score in read],
    "fisher-released": lambda read, k, d: [outer_mean(read)] * k,
    "fisher-exact": lambda read, k, d: [outer_mean(read)] * k,
    "fisher-rao": lambda read, k, d: [np.outer(score, score) for score in read],
    "fisher-scale": lambda read, k, d: [np.trace(outer_mean(read)) / d * np.eye(d)] * k,
    "information": lambda read, k, d: [semidefinite(np.mean(read[0], axis=0))] * k,
    "information-local": lambda read, k, d: [semidefinite(matrix) for matrix in read[0]],
    "information-deblurred": lambda read, k, d: [deblurred(np.mean(read[0], axis=0), only_time(read[1]))] * k,
    "information-sharp": lambda read, k, d: [deblurred(matrix, t) for matrix, t in zip(*read, strict=True)],
}
DEFAULTS = {"l2": (0.0, False), "fisher-scale": (1e-3, False)}
"""Damping and trace normalization where they are not those of E20."""


def defaults(name):
    return DEFAULTS.get(name, (1e-3, True))


def cost(name, delta, divergence, read, damping, normalized):
    """The cost of each action."""
    assert name in FORMS, f"tests/plain_metrics.py: FORMS has no entry for {name!r}"
    k, d = delta.shape
    forms = FORMS[name](read, k, d)
    assert len(forms) == k
    scale = np.trace(np.mean(forms, axis=0) + damping * np.eye(d)) / d if normalized else 1.0
    raw = [e @ form @ e for e, form in zip(delta, forms, strict=True)]
    if name == "fisher-rao":
        raw = [(score @ e + spread) ** 2 for score, e, spread in zip(read, delta, divergence, strict=True)]
    return np.array([(c + damping * e @ e) / scale for c, e in zip(raw, delta, strict=True)])


def penalty(name, delta, divergence, read):
    """The mean cost over d, damped and normalized as the name says."""
    return np.mean(cost(name, delta, divergence, read, *defaults(name))) / delta.shape[1]

"""Worked solutions of chapter 05, and typical mistakes with a piece of what the checker says about them."""

import jax.numpy as jnp


def best_step(gradient, metric, epsilon):
    natural = jnp.linalg.solve(metric, gradient)
    return jnp.sqrt(2 * epsilon / (gradient @ natural)) * natural


def worst_gradient(metric):
    _, axes = jnp.linalg.eigh(metric)
    return (axes[:, 0] + axes[:, -1]) / jnp.sqrt(2)


def largest_condition(q):
    # With r = sqrt(condition), 2 r / (1 + r^2) = q is a quadratic equation; its larger root is the one.
    return ((1 + (1 - q**2) ** 0.5) / q) ** 2


def step_from_scores(scores, gradient):
    # A damping for the noise: a share d / K of the mean eigenvalue, large with few scores and gone with many.
    count, d = scores.shape
    matrix = scores.T @ scores / count
    damping = 0.5 * (d / count) * jnp.trace(matrix) / d
    return jnp.linalg.solve(matrix + damping * jnp.eye(d), gradient)


answers = {"05.1": best_step, "05.2": worst_gradient, "05.3": largest_condition, "05.4": step_from_scores}


def damped(share):
    """The plain average with a fixed damping, in units of its mean eigenvalue."""

    def step(scores, gradient):
        matrix = scores.T @ scores / len(scores)
        return jnp.linalg.solve(matrix + share * jnp.trace(matrix) / len(matrix) * jnp.eye(len(matrix)), gradient)

    return step


mistakes = {
    "05.1": [
        (lambda g, f, eps: jnp.linalg.solve(f, g), "right direction, but it costs"),
        (lambda g, f, eps: -best_step(g, f, eps), "downhill"),
        (lambda g, f, eps: best_step(g, f, eps / 2), "right direction, but it costs"),
        (lambda g, f, eps: jnp.sqrt(2 * eps / (g @ f @ g)) * g, "along the gradient"),
        (lambda g, f, eps: jnp.sqrt(2 * eps) * f @ g, "dear way round"),
        (lambda g, f, eps: jnp.sqrt(2 * eps) * g / jnp.sqrt(jnp.diag(f)), "is possible for"),
    ],
    "05.2": [
        (lambda f: jnp.linalg.eigh(f)[1][:, -1], "loses nothing"),
        (lambda f: jnp.ones(len(f)) / jnp.sqrt(len(f)), "of the gain here"),
        (lambda f: jnp.sum(jnp.linalg.eigh(f)[1], axis=1) / jnp.sqrt(len(f)), "right in two dimensions"),
        (lambda f: jnp.sqrt(2) * worst_gradient(f), "not one"),
        (lambda f: jnp.zeros(len(f)), "nothing to gain"),
    ],
    "05.3": [
        (lambda q: ((1 - (1 - q**2) ** 0.5) / q) ** 2, "the other root"),
        (lambda q: (1 + (1 - q**2) ** 0.5) / q, "square root of the answer"),
        (lambda q: 2 * q**0.5 / (1 + q), "where the condition number goes"),
        (lambda q: 4 / q**2, "very little is kept"),
        (lambda q: 2.0, "is guaranteed"),
    ],
    "05.4": [
        (lambda scores, g: g, "on thin states with few scores"),
        (damped(1e-3), "on round states with few scores"),
        (damped(0.15), "on thin states with many scores"),
        (damped(0.5), "on thin states with many scores"),
        (lambda scores, g: scores.T @ scores @ g, "on round states with few scores"),
        (lambda scores, g: g / jnp.mean(scores**2, axis=0), "on thin states with few scores"),
        (lambda scores, g: -step_from_scores(scores, g), "downhill"),
        (lambda scores, g: 0 * g, "it keeps 0.00"),
    ],
}

"""Worked solutions of chapter 06, and typical mistakes with a piece of what the checker says about them."""

import jax.numpy as jnp


def refined_log_prob(log_prob, inverse, jacobian, b):
    a = inverse(b)
    return log_prob(a) - jnp.log(jnp.linalg.det(jnp.eye(len(a)) + jacobian(a)))


def largest_strength(jacobians):
    # det(I + s J) is the product of 1 + s * eigenvalue: only a real, negative eigenvalue can bring it to zero.
    values = jnp.linalg.eigvals(jacobians)
    real = jnp.abs(values.imag) < 1e-6
    return -1 / jnp.min(jnp.where(real, values.real, 0.0))


def next_log_multiplier(log_multiplier, penalty, budget, learning_rate):
    return log_multiplier + learning_rate * (penalty - budget)


def next_step(log_multiplier, penalty, budget):
    # The logarithm of their ratio has no unit; a tenth of it settles slowly enough for the noise.
    return log_multiplier + 0.1 * jnp.log(penalty / budget)


answers = {"06.1": refined_log_prob, "06.2": largest_strength, "06.3": next_log_multiplier, "06.4": next_step}


def _log_det(matrix):
    return jnp.log(jnp.linalg.det(jnp.eye(len(matrix)) + matrix))


mistakes = {
    "06.1": [
        (lambda p, inv, jac, b: p(inv(b)), "does not integrate to one"),
        (lambda p, inv, jac, b: p(inv(b)) + _log_det(jac(inv(b))), "rises where T spreads"),
        (lambda p, inv, jac, b: p(inv(b)) - _log_det(jac(b)), "at the new action"),
        (lambda p, inv, jac, b: p(b) - _log_det(jac(b)), "go back to where b came from"),
        (lambda p, inv, jac, b: p(inv(b)) - jnp.trace(jac(inv(b))), "its divergence"),
        (lambda p, inv, jac, b: p(inv(b)) - jnp.log(jnp.linalg.det(jac(inv(b)))), "plus delta"),
    ],
    "06.2": [
        (lambda j: 1 / jnp.max(jnp.linalg.norm(j, 2, axis=(-2, -1))), "a turn, however fast"),
        (lambda j: -1 / jnp.min(jnp.linalg.eigvals(j).real), "complex eigenvalues"),
        (lambda j: -1 / jnp.min(jnp.linalg.eigvalsh((j + jnp.swapaxes(j, -1, -2)) / 2)), "a shear does not fold"),
        (lambda j: 3.0, "too large"),
        (lambda j: 0.01, "not the largest"),
    ],
    "06.3": [
        (lambda x, p, e, r: x - r * (p - e), "your multiplier falls"),
        (lambda x, p, e, r: jnp.exp(x) + r * (p - e), "its logarithm"),
        (lambda x, p, e, r: jnp.maximum(x + r * (p - e), 0), "may be negative"),
        (lambda x, p, e, r: x + (p - e), "learning rate is missing"),
        (lambda x, p, e, r: x + r * p, "never stops growing"),
    ],
    "06.4": [
        (lambda x, p, e: x + 0.1 * (p - e), "its steps have the budget's unit"),
        (lambda x, p, e: x - 0.1 * jnp.log(p / e), "it loses its hold"),
        (lambda x, p, e: x + 2.0 * jnp.sign(p - e), "it does not settle"),
        (lambda x, p, e: x + 0.001 * jnp.sign(p - e), "off"),
    ],
}

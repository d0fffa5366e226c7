"""The networks and losses of the agents once more, in NumPy and double precision, written from the equations."""

import numpy as np
import plain_metrics


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def mlp(model, x, member=None):
    """A multilayer perceptron, of Equinox or of fdbook.rl.networks, on rows; of an ensemble, one member."""

    def array(leaf):
        leaf = np.asarray(leaf, np.float64)
        return leaf if member is None else leaf[member]

    norms = getattr(model, "norms", ())
    for number, layer in enumerate(model.layers):
        x = x @ array(layer.weight).T + array(layer.bias)
        if number == len(model.layers) - 1:
            return x
        x = gelu(x)
        if norms:
            spread = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
            x = (x - x.mean(axis=-1, keepdims=True)) / spread * array(norms[number].weight) + array(norms[number].bias)
    raise AssertionError("a network without layers")


def velocity(field, t, s, x):
    return mlp(field.mlp, np.concatenate([s, x, np.broadcast_to(t, (len(x),))[:, None]], axis=1))


def flow(field, s, z, steps):
    """E3 by Euler: the clipped actions, and the last stage's points and velocities."""
    x = np.asarray(z, np.float64)
    for k in range(steps):
        v = velocity(field, k / steps, s, x)
        last, x = x, x + v / steps
    return np.clip(x, -1, 1), last, v


def q(critics, s, a):
    """Q of every member, shape (members, rows)."""
    pairs = np.concatenate([s, a], axis=1)
    return np.stack([mlp(critics.members, pairs, member)[:, 0] for member in range(critics.size)])


def flow_matching(field, s, a, t, z):
    x = (1 - t)[:, None] * z + t[:, None] * a
    return np.mean((velocity(field, t, s, x) - (a - z)) ** 2)


def critic(critics, batch, following, discount):
    bound = batch.rewards + discount * batch.masks * following
    return np.mean((q(critics, batch.observations, batch.actions) - bound) ** 2)


def displaced(delta, s, a):
    return mlp(delta.mlp, np.concatenate([s, a], axis=1))


def divergence(delta, s, a, step=1e-5):
    """div delta by central differences."""
    total = np.zeros(len(a))
    for i in range(a.shape[1]):
        move = np.zeros_like(a)
        move[:, i] = step
        total += (displaced(delta, s, a + move) - displaced(delta, s, a - move))[:, i] / (2 * step)
    return total


def curvatures(field, t, s, x, step=1e-4):
    """E28 at K points (K, d) of one time, (K, d, d), the velocity's Jacobian by central differences; and the times (K,)."""
    moves = step * np.eye(x.shape[1])
    columns = [(velocity(field, t, s, x + move) - velocity(field, t, s, x - move)) / (2 * step) for move in moves]
    jacobians = np.stack(columns, axis=-1)
    return np.array([plain_metrics.information_from_jacobian(each, t) for each in jacobians]), np.full(len(x), t)


def readings(name, reads, field, t, s, points, velocities):
    """What a metric takes from the flow at one state's points (K, d): scores of E5 or E7, or the matrices of E28."""
    if reads == "matrices":
        return curvatures(field, t, s, points)
    return velocities / (1 - t) if name == "fisher-released" else (t * velocities - points) / (1 - t)

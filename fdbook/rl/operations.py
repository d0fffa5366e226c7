"""Floating-point operations of an update, counted by hand: what a machine that only multiplies matrices would need for it."""

import itertools


__all__ = ["FLOW_PASSES", "update_products"]

FLOW_PASSES = {"fql": 1, "fidec": 2, "deflow on next states": 1}
"""Batches that an update takes through the flow's Euler steps: for FQL's imitation; for the actor and the target of E16; for
both at once."""


def update_products(
    name: str,
    observation_dim: int,
    action_dim: int,
    width: int,
    depth: int,
    *,
    batch: int = 256,
    steps: int = 10,
    critics: int = 2,
) -> float:
    """Floating-point operations in the matrix products of one update of "fql", of "fidec", or of "deflow" whose actor
    learns on next states, counted by hand.

    A network costs 2 operations for each weight and row: forward, once more for the gradient of the weights, and once more,
    its first layer left out, for the gradient of the layers' inputs.
    """

    def net(inputs, outputs):
        sizes = [inputs, *[width] * depth, outputs]
        return [2.0 * a * b for a, b in itertools.pairwise(sizes)]

    def forward(layers):
        return batch * sum(layers)

    def training(layers):
        return batch * (3 * sum(layers) - layers[0])

    s, a = observation_dim, action_dim
    field, policy, critic = net(s + a + 1, a), net(s + a, a), net(s + a, 1)
    judging = forward(critic) + batch * sum(critic)  # forward, and back to the action
    shared = (
        training(field) + critics * (judging + forward(critic) + training(critic)) + training(policy) + forward(policy)
    )
    return shared + FLOW_PASSES[name] * steps * forward(field)

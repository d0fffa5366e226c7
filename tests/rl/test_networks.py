"""First weights, forward passes against NumPy, the encoder of pictures, and random crops."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import plain_agents as plain
import pytest

from fdbook.rl import networks


def test_first_weights_are_glorots_and_biases_zero(budget):
    field = networks.velocity_field(60, 20, 256, 2, key=jr.key(0))
    for layer in field.mlp.layers:
        weight = np.asarray(layer.weight)
        bound = np.sqrt(6 / sum(weight.shape))
        assert np.abs(weight).max() <= bound
        assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=budget("spread_of_first_weights"))
        assert not np.any(layer.bias)
    assert len({float(layer.weight[0, 0]) for layer in field.mlp.layers}) == 3


def test_a_displacements_last_layer_starts_as_large_as_asked():
    scaled, whole, field = (
        networks.displacement(4, 2, 32, 2, last=0.01, key=jr.key(0)),
        networks.displacement(4, 2, 32, 2, key=jr.key(0)),
        networks.velocity_field(3, 2, 32, 2, key=jr.key(0)),
    )
    np.testing.assert_allclose(scaled.mlp.layers[-1].weight, 0.01 * field.mlp.layers[-1].weight, rtol=1e-6)
    np.testing.assert_array_equal(whole.mlp.layers[-1].weight, field.mlp.layers[-1].weight)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_forward_pass(budget, layer_norm):
    model = networks.MLP(5, 3, 16, 2, layer_norm=layer_norm, key=jr.key(0))
    model = jax.tree.map(lambda x: x + 0.1 if eqx.is_inexact_array(x) else x, model)
    x = jr.normal(jr.key(1), (7, 5), jnp.float32)
    wanted = plain.mlp(model, np.asarray(x, np.float64))
    np.testing.assert_allclose(jax.vmap(model)(x), wanted, rtol=budget("losses_in_single_precision"), atol=1e-5)


def test_an_ensemble_is_its_members(budget):
    critics = networks.Critics(4, 2, 16, 2, 3, key=jr.key(0))
    s, a = jr.normal(jr.key(1), (7, 4), jnp.float32), jr.normal(jr.key(2), (7, 2), jnp.float32)
    wanted = plain.q(critics, np.asarray(s, np.float64), np.asarray(a, np.float64))
    assert wanted.shape == (3, 7)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.1
    got = jax.vmap(critics, out_axes=1)(s, a)
    np.testing.assert_allclose(got, wanted, rtol=budget("losses_in_single_precision"), atol=1e-5)


def convolve(x, layer):
    """A 3 x 3 convolution of (channels, height, width), zero outside the picture."""
    weight, bias = np.asarray(layer.weight, np.float64), np.asarray(layer.bias, np.float64)
    channels, height, width = x.shape
    padded = np.zeros((channels, height + 2, width + 2))
    padded[:, 1:-1, 1:-1] = x
    windows = np.stack([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=1)
    return np.einsum("ocw,cwhk->ohk", weight.reshape(*weight.shape[:2], 9), windows) + bias


def pool(x):
    """The largest of 3 x 3, at every second place; an even side is padded at its end, an odd one on both sides."""
    height, width = x.shape[1:]
    found = np.full((len(x), -(-height // 2), -(-width // 2)), -np.inf)
    for i in range(found.shape[1]):
        for j in range(found.shape[2]):
            top, left = 2 * i - height % 2, 2 * j - width % 2
            found[:, i, j] = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3].max(axis=(1, 2))
    return found


@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 6, 9)])
def test_the_encoder_of_pictures(budget, shape):
    encoder = networks.Impala(shape, features=12, key=jr.key(0))
    picture = jr.randint(jr.key(1), shape, 0, 256, jnp.uint8)
    x, relu = np.moveaxis(np.asarray(picture, np.float64) / 255, -1, 0), lambda x: np.maximum(x, 0)
    for stage, block in zip(encoder.stages, encoder.blocks, strict=True):
        x = pool(convolve(x, stage))
        x = x + convolve(relu(convolve(relu(x), block.first)), block.second)
    wanted = plain.gelu(np.asarray(encoder.head.weight, np.float64) @ relu(x).reshape(-1))
    np.testing.assert_allclose(encoder(picture), wanted, rtol=budget("losses_in_single_precision"), atol=1e-5)


def test_random_crops_move_each_picture_by_at_most_three_pixels():
    pictures = jr.randint(jr.key(0), (40, 12, 10, 3), 0, 256, jnp.uint8)
    moved = np.asarray(networks.random_crop(pictures, key=jr.key(1)))
    seen = set()
    for before, after in zip(np.asarray(pictures), moved, strict=True):
        padded = np.pad(before, ((3, 3), (3, 3), (0, 0)), mode="edge")
        places = [(i, j) for i in range(7) for j in range(7) if np.array_equal(padded[i : i + 12, j : j + 10], after)]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) > 10


def test_states_go_to_a_network_as_they_are():
    made = networks.Encoded.of((4,), lambda width, *, key: networks.MLP(width, 2, 8, 1, key=key), key=jr.key(0))
    s = jr.normal(jr.key(1), (3, 4), jnp.float32)
    assert made.encoder is None
    assert made.features(s) is s

"""The papers' networks: their initialization, the MLP with layer normalization, critic ensembles, the encoder of pictures.

Velocity fields and displacements come from the geometry room; `initialize` gives them the papers' first weights. All networks
are written for one observation: use `jax.vmap` for a batch.
"""

import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray, PyTree, UInt8

from fdbook.checks import Array, check_shape
from fdbook.geometry.flow import VelocityField
from fdbook.geometry.transport import Displacement


__all__ = [
    "MLP",
    "Critics",
    "Encoded",
    "Impala",
    "displacement",
    "glorot",
    "initialize",
    "random_crop",
    "velocity_field",
]

LOWEST = np.float32(-np.inf)
FEATURES = 512
"""The width of an encoded picture."""
CROP = 3
"""Pixels by which random crops move a picture at most."""


def glorot(layer: PyTree, *, key: PRNGKeyArray) -> PyTree:
    """A linear or convolutional layer with weights drawn uniformly with variance 2 / (fan in + fan out), and zero biases."""
    weight = layer.weight
    receptive = weight[0, 0].size
    bound = (6 / ((weight.shape[0] + weight.shape[1]) * receptive)) ** 0.5
    layer = eqx.tree_at(lambda x: x.weight, layer, jr.uniform(key, weight.shape, weight.dtype, -bound, bound))
    return layer if layer.bias is None else eqx.tree_at(lambda x: x.bias, layer, jnp.zeros_like(layer.bias))


def initialize(model: PyTree, *, key: PRNGKeyArray, last: float = 1.0) -> PyTree:
    """The model with every linear and convolutional layer drawn anew by `glorot`; the last one times `last`."""

    def is_layer(node):
        return isinstance(node, eqx.nn.Linear | eqx.nn.Conv)

    def layers(tree):
        return [node for node in jax.tree.leaves(tree, is_leaf=is_layer) if is_layer(node)]

    old = layers(model)
    new = [glorot(layer, key=subkey) for layer, subkey in zip(old, jr.split(key, len(old)), strict=True)]
    new[-1] = jax.tree.map(lambda leaf: last * leaf, new[-1])
    return eqx.tree_at(layers, model, new)


def velocity_field(
    observation_dim: int, action_dim: int, width: int, depth: int, *, key: PRNGKeyArray
) -> VelocityField:
    """A velocity field with the papers' first weights."""
    return initialize(VelocityField(observation_dim, action_dim, width, depth, key=key), key=key)


def displacement(
    observation_dim: int, action_dim: int, width: int, depth: int, *, last: float = 1.0, key: PRNGKeyArray
) -> Displacement:
    """A displacement with the papers' first weights, its last layer `last` times as large: with a small one it starts near 0."""
    return initialize(Displacement(observation_dim, action_dim, width, depth, key=key), key=key, last=last)


class MLP(eqx.Module):
    """`depth` hidden layers of `width` units with GELU and, if asked for, layer normalization behind it; a linear output.

    The first weights are `glorot`'s; those of the output are times `last`.
    """

    layers: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        *,
        layer_norm: bool = False,
        activation: Callable = jax.nn.gelu,
        last: float = 1.0,
        key: PRNGKeyArray,
    ):
        sizes = [inputs, *[width] * depth, outputs]
        pairs = zip(itertools.pairwise(sizes), jr.split(key, depth + 1), strict=True)
        self.layers = tuple(
            glorot(eqx.nn.Linear(a, b, dtype=jnp.float32, key=subkey), key=subkey) for (a, b), subkey in pairs
        )
        self.layers = (
            *self.layers[:-1],
            eqx.tree_at(lambda x: x.weight, self.layers[-1], replace_fn=lambda w: last * w),
        )
        norm = eqx.nn.LayerNorm(width, eps=1e-6, dtype=jnp.float32)
        self.norms = (norm,) * depth if layer_norm else ()
        self.activation = activation

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """The outputs, in single precision."""
        for number, layer in enumerate(self.layers[:-1]):
            x = self.activation(layer(x))
            x = self.norms[number](x) if self.norms else x
        return self.layers[-1](x)


class Critics(eqx.Module):
    """An ensemble of action-value networks with layer normalization, their weights stacked along a first axis."""

    members: MLP
    size: int = eqx.field(static=True)

    def __init__(self, observation_dim: int, action_dim: int, width: int, depth: int, size: int, *, key: PRNGKeyArray):
        self.size = size
        self.members = eqx.filter_vmap(
            lambda subkey: MLP(observation_dim + action_dim, 1, width, depth, layer_norm=True, key=subkey)
        )(jr.split(key, size))

    def __call__(self, observation: Float[Array, " n"], action: Float[Array, " d"]) -> Float[Array, " size"]:
        """Q of each member for one observation (n,) and one action (d,)."""
        x = jnp.concatenate([observation, action])
        return eqx.filter_vmap(lambda member: member(x)[0], in_axes=eqx.if_array(0))(self.members)


class _Residual(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d

    def __call__(self, x):
        return x + self.second(jax.nn.relu(self.first(jax.nn.relu(x))))


def _conv(inputs, outputs, key):
    return glorot(eqx.nn.Conv2d(inputs, outputs, 3, padding="SAME", dtype=jnp.float32, key=key), key=key)


class Impala(eqx.Module):
    """The papers' `impala_small` encoder: three stages of a convolution, a pool that halves the picture, and a residual block."""

    stages: tuple[eqx.nn.Conv2d, ...]
    blocks: tuple[_Residual, ...]
    head: eqx.nn.Linear

    def __init__(self, shape: tuple[int, int, int], features: int = FEATURES, *, key: PRNGKeyArray):
        height, width, channels = shape
        sizes = (channels, 16, 32, 32)
        keys = jr.split(key, (len(sizes), 3))
        self.stages = tuple(_conv(a, b, keys[i, 0]) for i, (a, b) in enumerate(itertools.pairwise(sizes)))
        self.blocks = tuple(
            _Residual(_conv(size, size, keys[i, 1]), _conv(size, size, keys[i, 2])) for i, size in enumerate(sizes[1:])
        )
        for _ in self.stages:
            height, width = -(-height // 2), -(-width // 2)
        flat = sizes[-1] * height * width
        self.head = glorot(eqx.nn.Linear(flat, features, dtype=jnp.float32, key=keys[-1, 0]), key=keys[-1, 0])

    def __call__(self, picture: UInt8[Array, "height width channels"]) -> Float[Array, " features"]:
        """The features of one picture of bytes."""
        x = jnp.moveaxis(picture.astype(jnp.float32) / 255, -1, 0)
        for conv, block in zip(self.stages, self.blocks, strict=True):
            x = jax.lax.reduce_window(conv(x), LOWEST, jax.lax.max, (1, 3, 3), (1, 2, 2), "SAME")
            x = block(x)
        return jax.nn.gelu(self.head(jax.nn.relu(x).reshape(-1)))


class Encoded(eqx.Module):
    """A network behind an encoder of pictures; states go to the network as they are, and `encoder` is None."""

    encoder: Impala | None
    head: PyTree

    @classmethod
    def of(cls, observation_shape: tuple[int, ...], head: Callable, *, key: PRNGKeyArray) -> "Encoded":
        """`head(observation_dim, key=key)` behind the encoder that observations of that shape need."""
        encoder_key, head_key = jr.split(key)
        if len(observation_shape) == 1:
            return cls(None, head(observation_shape[0], key=head_key))
        return cls(Impala(observation_shape, key=encoder_key), head(FEATURES, key=head_key))

    def features(self, observations: Array) -> Float[Array, "batch features"]:
        """What the network sees of a batch of observations."""
        return observations if self.encoder is None else jax.vmap(self.encoder)(observations)


def random_crop(
    pictures: UInt8[Array, "batch height width channels"], *, key: PRNGKeyArray
) -> UInt8[Array, "batch height width channels"]:
    """Each picture moved by up to 3 pixels along both sides, its edge repeated where nothing is left.

    One key moves two batches alike, picture by picture.
    """
    check_shape(pictures, (None, None, None, None), "pictures", "random_crop")
    batch, *shape = pictures.shape
    padded = jnp.pad(pictures, ((0, 0), (CROP, CROP), (CROP, CROP), (0, 0)), mode="edge")
    corners = jr.randint(key, (batch, 2), 0, 2 * CROP + 1)
    return jax.vmap(lambda picture, at: jax.lax.dynamic_slice(picture, (at[0], at[1], 0), shape))(padded, corners)

"""Observations as networks see them: normalized, and with Fourier features if asked for."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from fdbook.checks import Array, check_range


__all__ = ["Normalizer"]


class Normalizer(eqx.Module):
    """Takes observations to mean 0 and standard deviation 1 under the data it was made from; for evaluation too.

    With `wavelengths` it puts Fourier features behind them: for each wavelength the sines, then the cosines, of all coordinates.
    A small network is smooth, and gives places nearby nearby values although a wall may stand between them; short wavelengths
    let it tell them apart.
    """

    mean: Float[Array, " observation"]
    scale: Float[Array, " observation"]
    wavelengths: tuple[float, ...] = eqx.field(static=True, default=(), converter=tuple)
    """In standard deviations, so that one number serves every coordinate."""

    def __check_init__(self):
        for wavelength in self.wavelengths:
            check_range(wavelength, "a wavelength", "Normalizer", open_low=True)

    @property
    def width(self) -> int:
        """The number of features of an observation."""
        return self.mean.size * (1 + 2 * len(self.wavelengths))

    def __call__(self, observation: Float[Array, "*batch observation"]) -> Float[Array, "*batch features"]:
        """The features of an observation, or of several."""
        shape = (1,) * (jnp.ndim(observation) - 1) + self.mean.shape
        normalized = (jnp.asarray(observation, self.mean.dtype) - self.mean.reshape(shape)) / self.scale.reshape(shape)
        phases = [2 * jnp.pi / wavelength * normalized for wavelength in self.wavelengths]
        features = [wave(phase) for phase in phases for wave in (jnp.sin, jnp.cos)]
        return jnp.concatenate([normalized, *features], axis=-1) if features else normalized

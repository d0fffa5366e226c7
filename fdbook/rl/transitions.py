"""Logged transitions on the device: built once, checked once, sampled inside `jax.jit` by key.

A transition is (observation, action, reward, mask, next observation), as the critic's E16 takes them. Rows of one episode
follow each other. There are two layouts, told apart by `next_observations`: with it, every row is a transition; without it,
row i + 1 holds the next observation of row i, and the last row of each episode is no transition (OGBench's compact layout,
which keeps every observation once instead of twice).
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray, UInt8

from fdbook.checks import Array, check_point, check_rows, check_shape
from fdbook.rl.arrays import ALIGNMENT, aligned, cast, clip_actions
from fdbook.rl.fourier_features import Normalizer


__all__ = ["ACTION_BOUND", "Batch", "Transitions"]

LARGE = 2**26
"""Bytes from which an array is shared where that can be done."""
ACTION_BOUND = 1 - 1e-5
"""Recorded actions are clipped to +-ACTION_BOUND, as the papers do."""


class Batch(NamedTuple):
    """Transitions drawn for one update: arrays with the batch in front.

    >>> seen, actions, numbers = jnp.zeros((8, 4)), jnp.zeros((8, 2)), jnp.ones(8)
    >>> transitions.Batch(seen, actions, seen, numbers, masks=numbers, next_actions=actions).rewards.shape
    (8,)
    """

    observations: Float[Array, "batch *observation"] | UInt8[Array, "batch *observation"]
    actions: Float[Array, "batch action"]
    next_observations: Float[Array, "batch *observation"] | UInt8[Array, "batch *observation"]
    rewards: Float[Array, " batch"]
    masks: Float[Array, " batch"]
    next_actions: Float[Array, "batch action"]
    """What was done next; where that is not known, at the last transition of an episode, the action itself."""


class Transitions(eqx.Module):
    """A data set as device arrays. Make one with `Transitions.of`, which checks what it is given.

    `observations` are float32 (rows, width) or uint8 pictures (rows, height, width, channels); `actions` float32 in
    +-ACTION_BOUND; `masks` 0 where the critic must not bootstrap (E16) and 1 elsewhere; `ends` the last row of each episode,
    whether the goal or the clock ended it.

    >>> zeros, ends = np.zeros(4, np.float32), np.array([False, True, False, True])
    >>> data = transitions.Transitions.of(zeros[:, None], zeros[:, None], zeros, zeros + 1, ends, zeros[:, None])
    >>> data.size, data.sample(16, key=jr.key(0)).actions.shape
    (4, (16, 1))
    """

    observations: Float[Array, "rows width"] | UInt8[Array, "rows height width channels"]
    actions: Float[Array, "rows action"]
    rewards: Float[Array, " rows"]
    masks: Float[Array, " rows"]
    ends: Bool[Array, " rows"]
    next_observations: Float[Array, "rows width"] | UInt8[Array, "rows height width channels"] | None
    usable: Int[Array, " transitions"] | None
    """Without `next_observations`: the rows that are transitions."""
    starts: Int[Array, " rows"] | None
    """With stacked pictures: the first row of each row's episode."""
    normalizer: Normalizer | None
    frame_stack: int = eqx.field(static=True)
    raw_fingerprint: str | None = eqx.field(static=True, default=None)
    """Of normalized observations: the fingerprint of the transitions that they were made from."""

    @classmethod
    def of(
        cls,
        observations: Array,
        actions: Array,
        rewards: Array,
        masks: Array,
        ends: Array,
        next_observations: Array | None = None,
        *,
        frame_stack: int = 1,
        padded: bool = False,
        where: str = "Transitions.of",
    ) -> "Transitions":
        """Checks arrays of the shapes above, casts them (`fdbook.rl.arrays.cast`), clips actions, and puts all on the device.

        Without `next_observations` the last row of an episode may still hold what was done there, as in OGBench's files, which
        is then the next action of the row before; `padded` says that it does not: that row's own action is taken. `frame_stack`
        pictures, the last ones of the same episode (its first one again where there are fewer), are joined along the channels
        when a batch is drawn. `where` begins every complaint. Raises ValueError on shapes that do not fit, what is not numbers,
        NaN or infinite values, actions outside [-1, 1] by more than rounding, masks and ends other than 0 and 1, and a last row
        that ends no episode. A large array in memory of `fdbook.rl.arrays.aligned` is shared on a CPU, and must not change.

        >>> zeros, ends = np.zeros(4, np.float32), np.array([False, True, False, True])
        >>> transitions.Transitions.of(zeros[:, None], zeros[:, None], zeros, zeros + 1, ends).size  # 2 episodes of 2 rows
        2
        """
        given = {"observations": observations, "actions": actions, "rewards": rewards, "masks": masks, "ends": ends}
        given |= {} if next_observations is None else {"next_observations": next_observations}
        arrays = _checked(given, frame_stack, where)
        ends = arrays["ends"]
        usable = None if "next_observations" in arrays else _usable(ends, where)
        if padded and usable is not None:
            arrays["actions"] = _without_padding(arrays["actions"], ends)
        bounded = jnp.clip(jnp.asarray(arrays.pop("actions")), -ACTION_BOUND, ACTION_BOUND)
        starts = _device(_first_rows(ends)) if frame_stack > 1 else None
        next_observations = arrays.pop("next_observations", None)
        return cls(
            actions=bounded,
            next_observations=None if next_observations is None else _device(next_observations),
            usable=None if usable is None else _device(usable),
            starts=starts,
            normalizer=None,
            frame_stack=frame_stack,
            **{name: _device(values) for name, values in arrays.items()},
        )

    @property
    def size(self) -> int:
        """The number of transitions."""
        return self.rewards.shape[0] if self.usable is None else self.usable.shape[0]

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of one observation of a batch."""
        *picture, last = self.observations.shape[1:]
        return (*picture, last * self.frame_stack)

    @property
    def action_dim(self) -> int:
        """The number of actions."""
        return self.actions.shape[1]

    def fingerprint(self) -> str:
        """A digest of the arrays. Normalized transitions have that of the raw ones, whose bits are the same on every device."""
        if self.raw_fingerprint is not None:
            return self.raw_fingerprint
        result = hashlib.sha256()
        for leaf in jax.tree.leaves(self):
            host = np.ascontiguousarray(leaf)
            result.update(f"{host.dtype} {host.shape}".encode())
            result.update(host.data)
        return result.hexdigest()[:16]

    def sample(self, size: int, *, key: PRNGKeyArray) -> Batch:
        """`size` transitions, drawn uniformly with replacement."""
        return self.at(jr.randint(key, (size,), 0, self.size))

    def at(self, index: Int[Array, " batch"]) -> Batch:
        """The transitions of the given numbers, from 0 to `size` - 1; not checked inside `jax.jit`, where others are clamped."""
        rows = jnp.asarray(index) if self.usable is None else self.usable[index]
        next_observations = self._stacked(rows + 1) if self.next_observations is None else self.next_observations[rows]
        next_rows = jnp.where(self.ends[rows], rows, jnp.minimum(rows + 1, self.rewards.shape[0] - 1))
        here = (self.actions[rows], next_observations, self.rewards[rows], self.masks[rows])
        return Batch(self._stacked(rows), *here, self.actions[next_rows])

    def _stacked(self, rows):
        """The observations of rows; with stacking, the last pictures up to each row, oldest first, along the channels."""
        if self.frame_stack == 1:
            return self.observations[rows]
        earlier = jnp.arange(self.frame_stack - 1, -1, -1, dtype=rows.dtype)
        frames = self.observations[jnp.maximum(rows[:, None] - earlier[None], self.starts[rows][:, None])]
        return jnp.moveaxis(frames, 1, -2).reshape(*frames.shape[:1], *frames.shape[2:-1], -1)

    def normalized(self, normalizer: Normalizer | None = None, *, wavelengths: Sequence[float] = ()) -> "Transitions":
        """The same with observations of mean 0 and standard deviation 1, and the statistics kept in `normalizer`.

        With `wavelengths`, in standard deviations, sines and cosines of the coordinates follow them (`Normalizer`). A given
        normalizer is used instead of the statistics of these data, as for a validation set. Standard deviations below 1e-3
        count as 1e-3. Raises ValueError for pictures, for transitions that are normalized already, and for a wavelength that is
        not positive.
        """
        if self.observations.ndim != 2:
            raise ValueError("Transitions.normalized takes observations that are states; these are pictures.")
        if self.normalizer is not None:
            raise ValueError("Transitions.normalized takes raw observations; these are normalized already.")
        if normalizer is None:
            mean = jnp.mean(self.observations, axis=0)
            normalizer = Normalizer(mean, jnp.maximum(jnp.std(self.observations, axis=0), 1e-3), wavelengths)
        check_point(normalizer.mean, self.observations.shape[1], "Transitions.normalized")
        next_observations = None if self.next_observations is None else normalizer(self.next_observations)
        changes = {"observations": normalizer(self.observations), "next_observations": next_observations}
        return dataclasses.replace(self, normalizer=normalizer, raw_fingerprint=self.fingerprint(), **changes)


def _checked(given, frame_stack, where):
    """The arrays with their shapes, dtypes and values checked."""
    pixels = np.ndim(given["observations"]) == 4
    if isinstance(frame_stack, bool) or frame_stack < 1 or (frame_stack > 1 and not pixels):
        asked, shape = f"{where} stacks at least one picture, and only pictures", np.shape(given["observations"])
        raise ValueError(f"{asked}; got frame_stack={frame_stack} for observations of shape {shape}.")
    if frame_stack > 1 and "next_observations" in given:
        raise ValueError(f"{where} stacks pictures in the layout without next_observations only; got both.")
    rows = np.shape(given["observations"])[0] if np.ndim(given["observations"]) else 0
    seen = np.uint8 if pixels else np.float32
    shapes = {"observations": (rows, None, None, None) if pixels else (rows, None), "actions": (rows, None)}
    shapes["next_observations"] = np.shape(given["observations"])
    arrays = {}
    for name, values in given.items():
        check_shape(values, shapes.get(name, (rows,)), name, where)
        kept = {"observations": seen, "next_observations": seen, "ends": bool}.get(name, np.float32)
        arrays[name] = cast(values, kept, name, where)
        if name == "actions":
            arrays[name] = clip_actions(arrays[name], where)
        elif arrays[name].dtype == np.float32 and name != "masks":
            check_rows(arrays[name], name, where)
    if not np.all((arrays["masks"] == 0) | (arrays["masks"] == 1)):
        raise ValueError(f"{where} takes masks that are 0 or 1; got {_other_than_0_or_1(arrays['masks']):g}.")
    if rows == 0 or not arrays["ends"][-1]:
        raise ValueError(f"{where} takes rows of whole episodes; the last of {rows} rows does not end one.")
    return arrays


def _usable(ends, where):
    """In the compact layout, the rows that are transitions."""
    usable = np.flatnonzero(~ends).astype(np.int32)
    if not usable.size:
        raise ValueError(
            f"{where} takes episodes of at least two observations; none of {len(ends)} rows has a next one."
        )
    return usable


def _without_padding(actions, ends):
    """In the compact layout, the actions with those of the last rows, which were never taken, replaced by the ones before."""
    last = np.flatnonzero(ends)
    actions = actions.copy()
    actions[last] = actions[np.maximum(last - 1, 0)]
    return actions


def _first_rows(ends):
    """The first row of each row's episode."""
    last = np.flatnonzero(ends)
    first = np.concatenate([[0], last[:-1] + 1])
    return np.repeat(first, last - first + 1).astype(np.int32)


def _other_than_0_or_1(masks):
    masks = np.asarray(masks)
    return masks[(masks != 0) & (masks != 1)][0]


def _device(array) -> jax.Array:
    """The array on the device. A large one is put where a CPU can share its memory: JAX would hold two copies more at first."""
    if not isinstance(array, np.ndarray) or array.nbytes < LARGE:
        return jnp.asarray(array)
    if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous:
        shared = aligned(array.shape, array.dtype)
        shared[...] = array
        array = shared
    return jax.device_put(array, may_alias=True)

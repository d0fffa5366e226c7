"""Transitions against the rows they were made from, sampled, stacked, normalized, and refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.rl import transitions
from fdbook.rl.arrays import aligned
from fdbook.rl.transitions import ACTION_BOUND, Transitions


LENGTHS = (4, 1, 6, 3)
ROWS = sum(LENGTHS)
ENDS = np.isin(np.arange(ROWS), np.cumsum(LENGTHS) - 1)


def rows(width=3, **changes):
    """Whole episodes whose every number tells the row that it stands in."""
    number = np.arange(ROWS, dtype=np.float32)
    arrays = {
        "observations": number[:, None] + np.arange(width, dtype=np.float32) / 10,
        "actions": np.stack([number / ROWS, -number / ROWS], axis=1),
        "rewards": -number,
        "masks": (number % 2).astype(np.float32),
        "ends": ENDS,
    }
    return arrays | changes


def pictures(**changes):
    return rows(observations=np.tile(np.arange(ROWS, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 3))) | changes


def everything(transitions):
    return transitions.at(jnp.arange(transitions.size))


def test_every_row_is_a_transition_where_the_next_observation_is_given():
    arrays = rows()
    following = arrays["observations"] + 100
    transitions = Transitions.of(**arrays, next_observations=following)
    batch = everything(transitions)
    assert (transitions.size, transitions.observation_shape, transitions.action_dim) == (ROWS, (3,), 2)
    ends = np.flatnonzero(arrays["ends"])
    after = arrays["actions"][[row if row in ends else row + 1 for row in range(ROWS)]]
    names = ("observations", "actions", "rewards", "masks")
    observations, actions, rewards, masks = (arrays[name] for name in names)
    for got, wanted in zip(batch, (observations, actions, following, rewards, masks, after), strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == np.float32


def test_in_the_compact_layout_the_last_row_of_an_episode_is_no_transition():
    arrays = rows()
    transitions = Transitions.of(**arrays)
    batch = everything(transitions)
    kept = [0, 1, 2, 5, 6, 7, 8, 9, 11, 12]  # episodes of 4, 1, 6 and 3 rows
    assert transitions.size == len(kept)
    np.testing.assert_array_equal(batch.observations, arrays["observations"][kept])
    np.testing.assert_array_equal(batch.next_observations, arrays["observations"][np.add(kept, 1)])
    np.testing.assert_array_equal(batch.actions, arrays["actions"][kept])
    np.testing.assert_array_equal(batch.next_actions, arrays["actions"][np.add(kept, 1)])
    np.testing.assert_array_equal(batch.rewards, arrays["rewards"][kept])
    np.testing.assert_array_equal(batch.masks, arrays["masks"][kept])


def test_where_the_last_row_of_an_episode_is_padding_the_next_action_is_the_action_itself():
    """D4RL's time-outs: the critic bootstraps there, and zeros that nobody did must not enter ReBRAC's target."""
    arrays = rows(masks=np.ones(ROWS, np.float32))
    padding = arrays["actions"].copy()
    padding[ENDS] = 0
    kept = [0, 1, 2, 5, 6, 7, 8, 9, 11, 12]
    after = [row if row + 1 in np.flatnonzero(ENDS) else row + 1 for row in kept]
    batch = everything(Transitions.of(**arrays | {"actions": padding}, padded=True))
    np.testing.assert_array_equal(batch.next_actions, arrays["actions"][after])
    np.testing.assert_array_equal(batch.actions, arrays["actions"][kept])


def test_pictures_have_next_pictures():
    following = np.flip(pictures()["observations"], axis=0)
    batch = everything(Transitions.of(**pictures(), next_observations=following))
    np.testing.assert_array_equal(batch.next_observations, following)
    assert batch.next_observations.dtype == np.uint8


OTHER_DTYPES = {
    "float64": lambda values: values.astype(np.float64),
    "big-endian": lambda values: values.astype(values.dtype.newbyteorder(">")),
    "columns first": np.asfortranarray,
    "every second row": lambda values: np.repeat(values, 2, axis=0)[::2],
    "numbers of JAX": jnp.asarray,
}


@pytest.mark.parametrize("kind", OTHER_DTYPES)
@pytest.mark.parametrize("compact", [True, False])
def test_numbers_in_another_form_are_the_same_numbers(kind, compact):
    arrays = rows() | ({} if compact else {"next_observations": rows()["observations"] + 1})
    others = {name: OTHER_DTYPES[kind](values) for name, values in arrays.items()}
    for got, wanted in zip(everything(Transitions.of(**others)), everything(Transitions.of(**arrays)), strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == np.float32


def test_rounding_is_said_and_actions_that_it_takes_out_of_the_box_are_clipped():
    arrays = rows(actions=np.full((ROWS, 2), -1.0000001))
    with pytest.warns(
        UserWarning, match=r"^Transitions.of has actions of float64, rounded to float32: by 1.9e-08 at most.$"
    ):
        batch = everything(Transitions.of(**arrays))
    assert float(jnp.min(batch.actions)) == -np.float32(ACTION_BOUND)
    edge = rows(actions=np.full((ROWS, 2), 1.00001, np.float32))
    assert float(jnp.max(everything(Transitions.of(**edge)).actions)) == np.float32(ACTION_BOUND)


def test_actions_at_the_bounds_are_clipped():
    actions = np.tile(np.array([[1.0, -1.0]], np.float32), (ROWS, 1))
    batch = everything(Transitions.of(**rows(actions=actions)))
    assert float(jnp.max(jnp.abs(batch.actions))) == np.float32(ACTION_BOUND) < 1


def test_pictures_are_kept_once():
    transitions = Transitions.of(**pictures(), frame_stack=3)
    held = [leaf for leaf in jax.tree.leaves(transitions) if eqx.is_array(leaf) and leaf.dtype == np.uint8]
    assert [leaf.shape for leaf in held] == [(ROWS, 2, 2, 3)]
    assert transitions.observation_shape == (2, 2, 9)


def test_stacked_pictures_are_the_last_ones_of_the_episode_oldest_first():
    transitions = Transitions.of(**pictures(), frame_stack=3)
    batch = everything(transitions)
    assert batch.observations.shape == (10, 2, 2, 9)
    assert batch.observations.dtype == np.uint8
    seen, following = (np.asarray(values)[:, 0, 1, ::3].tolist() for values in batch[0::2][:2])
    assert seen == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [5, 5, 5],
        [5, 5, 6],
        [5, 6, 7],
        [6, 7, 8],
        [7, 8, 9],
        [11, 11, 11],
        [11, 11, 12],
    ]
    assert following == [
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 3],
        [5, 5, 6],
        [5, 6, 7],
        [6, 7, 8],
        [7, 8, 9],
        [8, 9, 10],
        [11, 11, 12],
        [11, 12, 13],
    ]
    assert np.all(np.asarray(batch.observations)[..., 3:6] == np.asarray(batch.observations)[:, :1, :1, 3:4])


@pytest.mark.parametrize("compact", [True, False])
def test_samples_are_uniform_and_decided_by_the_key(compact, budget):
    arrays = rows()
    transitions = Transitions.of(**arrays, next_observations=None if compact else arrays["observations"])
    draw = eqx.filter_jit(lambda data, key: data.sample(20_000, key=key))
    batch = draw(transitions, jr.key(0))
    np.testing.assert_array_equal(batch.rewards, draw(transitions, jr.key(0)).rewards)
    assert not np.array_equal(batch.rewards, draw(transitions, jr.key(1)).rewards)
    np.testing.assert_array_equal(batch.observations[:, 0], -batch.rewards)
    numbers, counts = np.unique(-np.asarray(batch.rewards), return_counts=True)
    assert len(numbers) == transitions.size
    expected = 20_000 / transitions.size
    assert np.max(np.abs(counts - expected)) < budget("standard_errors") * np.sqrt(expected)


def test_sampling_in_a_loop_compiles_once():
    compiled = 0

    @eqx.filter_jit
    def total(data, key):
        nonlocal compiled
        compiled += 1
        step = lambda i, value: value + jnp.sum(data.sample(8, key=jr.fold_in(key, i)).rewards)  # noqa: E731
        return jax.lax.fori_loop(0, 5, step, jnp.float32(0))

    data = Transitions.of(**rows())
    assert float(total(data, jr.key(0))) != float(total(data, jr.key(1)))
    assert compiled == 1


@pytest.mark.parametrize("compact", [True, False])
def test_normalized_observations_and_their_statistics(compact, budget):
    observations = np.random.default_rng(0).normal([5, -2, 0], [3, 0.1, 0], (ROWS, 3)).astype(np.float32)
    arrays = rows(observations=observations)
    following = None if compact else np.roll(observations, -1, axis=0)
    raw = Transitions.of(**arrays, next_observations=following)
    transitions = raw.normalized()
    tolerance = budget("normalized_observations")
    np.testing.assert_allclose(np.mean(transitions.observations, axis=0), 0, atol=tolerance)
    np.testing.assert_allclose(np.std(transitions.observations, axis=0), [1, 1, 0], atol=tolerance)
    before, after = everything(raw), everything(transitions)
    np.testing.assert_allclose(
        transitions.normalizer(before.next_observations), after.next_observations, atol=tolerance
    )
    np.testing.assert_allclose(transitions.normalizer(observations[2]), transitions.observations[2], atol=tolerance)
    np.testing.assert_array_equal(before.actions, after.actions)
    other = Transitions.of(**rows()).normalized(transitions.normalizer)
    np.testing.assert_allclose(
        other.observations[:, 0],
        (np.arange(ROWS) - observations[:, 0].mean()) / observations[:, 0].std(),
        atol=tolerance,
    )


def test_waves_are_sines_and_cosines_of_normalized_coordinates(budget):
    observations = np.random.default_rng(1).normal([5, -2], [3, 0.5], (ROWS, 2)).astype(np.float32)
    transitions = Transitions.of(**rows(observations=observations)).normalized(wavelengths=(8.0, 2.5))
    normal = (observations - observations.mean(axis=0)) / observations.std(axis=0)
    parts = [normal]
    for wavelength in (8.0, 2.5):
        parts += [np.sin(2 * np.pi * normal / wavelength), np.cos(2 * np.pi * normal / wavelength)]
    tolerance = budget("normalized_observations")
    np.testing.assert_allclose(transitions.observations, np.concatenate(parts, axis=1), atol=3 * tolerance)
    assert transitions.observation_shape == (transitions.normalizer.width,) == (10,)
    np.testing.assert_allclose(transitions.normalizer(observations[3]), transitions.observations[3], atol=3 * tolerance)
    other = Transitions.of(**rows(observations=observations)).normalized(transitions.normalizer)
    np.testing.assert_array_equal(other.observations, transitions.observations)


def test_what_cannot_be_normalized():
    with pytest.raises(ValueError, match=r"^Normalizer takes a wavelength in \(0, inf\]; got 0.$"):
        Transitions.of(**rows()).normalized(wavelengths=(4.0, 0.0))
    with pytest.raises(
        ValueError, match=r"^Transitions.normalized takes observations that are states; these are pictures.$"
    ):
        Transitions.of(**pictures()).normalized()
    with pytest.raises(ValueError, match="takes raw observations; these are normalized already"):
        Transitions.of(**rows()).normalized().normalized()
    narrow = Transitions.of(**rows(width=2)).normalized().normalizer
    with pytest.raises(ValueError, match=r"takes one point of shape \(3,\); got shape \(2,\)"):
        Transitions.of(**rows()).normalized(narrow)


def broken(key, where, value):
    values = rows()[key].copy()
    values[where] = value
    return {key: values}


REFUSED = {
    "NaN": (
        broken("observations", (3, 1), np.nan),
        "file.npz has observations NaN or infinite in 1 of 14 rows, first in row 3 (nan).",
    ),
    "infinite reward": (
        broken("rewards", slice(2, 4), -np.inf),
        "file.npz has rewards NaN or infinite in 2 of 14 rows, first in row 2 (-inf).",
    ),
    "wide action": (
        broken("actions", (7, 0), 1.25),
        "file.npz has actions outside [-1, 1] in 1 of 14 rows, first in row 7 (1.25).",
    ),
    "mask": (broken("masks", 4, 0.5), "file.npz takes masks that are 0 or 1; got 0.5."),
    "open end": (
        broken("ends", -1, False),
        "file.npz takes rows of whole episodes; the last of 14 rows does not end one.",
    ),
    "barely wide action": (
        broken("actions", (7, 0), 1.0001),
        "file.npz has actions outside [-1, 1] in 1 of 14 rows, first in row 7 (1.0001).",
    ),
    "words": (
        {"observations": rows()["observations"].astype(str)},
        "file.npz has observations of <U32 (expected numbers, of float32).",
    ),
    "too large": (
        {"observations": np.full((ROWS, 3), 1e300)},
        "file.npz has observations too large for float32, first in row 0 (1e+300).",
    ),
    "twice an end": (
        {"ends": 2 * ENDS},
        "file.npz has ends other than 0 and 1, first in row 3 (2).",
    ),
    "bright pictures": (
        rows() | {"observations": np.full((ROWS, 2, 2, 3), 256)},
        "file.npz has observations other than whole numbers that uint8 holds, first in row 0 (256).",
    ),
    "few actions": ({"actions": rows()["actions"][1:]}, "file.npz takes actions of shape (14, n); got shape (13, 2)."),
    "rewards in a column": (
        {"rewards": rows()["rewards"][:, None]},
        "file.npz takes rewards of shape (14,); got shape (14, 1).",
    ),
    "next ones": (
        {"next_observations": np.zeros((ROWS, 2), np.float32)},
        "file.npz takes next_observations of shape (14, 3); got shape (14, 2).",
    ),
    "single rows": (
        {"ends": np.ones(ROWS, bool)},
        "file.npz takes episodes of at least two observations; none of 14 rows has a next one.",
    ),
    "stack": (
        {"frame_stack": 2},
        "file.npz stacks at least one picture, and only pictures; got frame_stack=2 for observations of shape (14, 3).",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_arrays_are_refused_in_one_sentence(kind):
    changes, sentence = REFUSED[kind]
    with pytest.raises(ValueError) as refusal:
        Transitions.of(**rows(**changes), where="file.npz")
    assert str(refusal.value) == sentence


def test_stacks_need_the_compact_layout():
    with pytest.raises(
        ValueError, match=r"^Transitions.of stacks pictures in the layout without next_observations only"
    ):
        Transitions.of(**pictures(next_observations=pictures()["observations"]), frame_stack=2)


def test_a_stack_of_none_is_refused():
    with pytest.raises(ValueError, match="stacks at least one picture, and only pictures; got frame_stack=0"):
        Transitions.of(**pictures(), frame_stack=0)


def test_a_large_array_is_not_copied_where_its_memory_can_be_shared(monkeypatch):
    """On a CPU JAX would copy it, twice for a while; what begins elsewhere is copied once, into memory that can be shared."""
    monkeypatch.setattr(transitions, "LARGE", 1000)
    count, ends = 300, np.arange(300) % 100 == 99
    apart = np.empty((count, 4), np.float32)[:, :3]
    for observations, is_shared in ((aligned((count, 3), np.float32), True), (apart, False)):
        observations[...] = np.arange(count * 3).reshape(count, 3)
        ones = np.ones(count, np.float32)
        data = Transitions.of(observations, np.zeros((count, 2), np.float32), ones, ones, ends)
        np.testing.assert_array_equal(data.observations, np.arange(count * 3, dtype=np.float32).reshape(count, 3))
        assert data.observations.unsafe_buffer_pointer() % 64 == 0
        assert (data.observations.unsafe_buffer_pointer() == observations.ctypes.data) == is_shared

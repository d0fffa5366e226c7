"""The training loop: the same numbers as a plain Python loop, however it is cut into chunks, and one compilation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fdbook.geometry import loop


class Walk(eqx.Module):
    """A state with an array, a constant and a function, as models have."""

    position: jax.Array
    scale: float
    wave: object = eqx.field(static=True)


class Stride:
    """One noisy step; counts how often it is traced."""

    def __init__(self, breaks_at=None):
        self.traced, self.breaks_at = 0, breaks_at

    def __call__(self, state, data, *, key):
        self.traced += 1
        step = state.scale * state.wave(jr.normal(key, (2,)) + data)
        position = state.position + step
        energy = jnp.sum(position**2)
        if self.breaks_at is not None:
            energy = jnp.where(position[0] > self.breaks_at, jnp.nan, energy)
        return eqx.tree_at(lambda s: s.position, state, position), {"energy": energy, "first": step[0]}


def start():
    return Walk(jnp.array([0.5, -0.5]), 0.1, jnp.sin)


DATA = np.array([0.3, -0.2])


def walk(steps, chunk, update=None, **options):
    return loop.run(
        update or Stride(), start(), DATA, key=jr.key(3), steps=steps, chunk=chunk, progress=False, **options
    )


def test_it_is_a_python_loop(budget):
    """Update i has the key fold_in(key, i)."""
    position, energies = np.array([0.5, -0.5]), []
    for i in range(20):
        position = position + 0.1 * np.sin(np.asarray(jr.normal(jr.fold_in(jr.key(3), i), (2,))) + DATA)
        energies.append(position @ position)
    state, history = walk(20, 6)
    np.testing.assert_allclose(state.position, position, rtol=budget("closed_form"))
    np.testing.assert_allclose(history["energy"], energies, rtol=budget("closed_form"))
    assert state.wave is jnp.sin
    assert state.scale == 0.1


@pytest.mark.parametrize("chunk", [1, 7, 20, 100])
def test_chunks_do_not_matter(chunk):
    state, history = walk(20, chunk)
    expected, whole = walk(20, 20)
    np.testing.assert_array_equal(state.position, expected.position)
    assert set(history) == {"energy", "first"}
    for name in history:
        assert history[name].shape == (20,)
        np.testing.assert_array_equal(history[name], whole[name])


def test_a_shorter_last_chunk_compiles_nothing():
    counts = {}
    for steps in (10, 20, 23):
        update = Stride()
        walk(steps, 10, update)
        counts[steps] = update.traced
    assert counts[10] == counts[20] == counts[23]


def test_the_same_training_again_compiles_nothing():
    update = Stride()
    walk(10, 10, update)
    first = update.traced
    walk(17, 10, update)
    assert update.traced == first


def test_the_caller_keeps_its_state():
    state, data = start(), jnp.asarray(DATA)
    loop.run(Stride(), state, data, key=jr.key(0), steps=3, progress=False)
    np.testing.assert_array_equal(state.position, [0.5, -0.5])
    np.testing.assert_array_equal(data, DATA)


def test_divergence_names_the_term_and_the_step():
    _, history = walk(30, 30)
    beyond = 0.5 + np.cumsum(history["first"])
    step = int(np.argmax(beyond > 0.6))
    with pytest.raises(FloatingPointError, match=rf"the walk broke at step {step}: energy became nan\."):
        walk(30, 4, Stride(breaks_at=0.6), label="the walk")


@pytest.mark.parametrize(("steps", "chunk"), [(0, 10), (-1, 10), (10, 0)])
def test_no_steps(steps, chunk, refused):
    refused(walk, steps, chunk, match=f"at least one step and a chunk of at least one; got {steps} and {chunk}")


def test_progress_is_shown_when_asked_for(capsys):
    loop.run(Stride(), start(), DATA, key=jr.key(0), steps=5, label="the walk")
    assert "the walk" in capsys.readouterr().err
    walk(5, 5)
    assert capsys.readouterr().err == ""


def test_apply_gradient_is_one_step_down():
    model, gradient = Walk(jnp.array([1.0, 2.0]), 0.1, jnp.sin), Walk(jnp.array([3.0, -1.0]), None, jnp.sin)
    optimizer = optax.sgd(0.1)
    moved, _ = loop.apply_gradient(optimizer, gradient, optimizer.init(eqx.filter(model, eqx.is_inexact_array)), model)
    np.testing.assert_allclose(moved.position, [0.7, 2.1])
    assert moved.scale == 0.1


def test_the_average_keeps_what_the_decay_says():
    """Steps of 1 down a slope of 1 from 7: each of 6, 5, 4, 3, 2 has 0.9 of the next one's share, and 7 has none."""
    options = {"decay": 0.9, "key": jr.key(0), "steps": 5, "progress": False}
    averaged, _ = loop.fit(
        lambda model, data, *, key: (model, {"loss": model}), jnp.array(7.0), DATA, lambda: optax.sgd(1.0), **options
    )
    assert float(averaged) == pytest.approx(np.average([6, 5, 4, 3, 2], weights=0.9 ** np.arange(4, -1, -1)))

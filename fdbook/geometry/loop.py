"""The training loop that flows and transport maps share: many updates per dispatch, one compilation, a progress bar."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree
from tqdm.auto import tqdm


__all__ = [
    "Adam",
    "Program",
    "Training",
    "advance",
    "apply_gradient",
    "copy",
    "fit",
    "incremental_update",
    "run",
    "training",
]


def apply_gradient(
    optimizer: optax.GradientTransformation, gradient: PyTree, state: PyTree, model: PyTree
) -> tuple[PyTree, PyTree]:
    """One optax step on a model's inexact arrays: the new model and the new optimizer state."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer counts with floats
        updates, state = optimizer.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state


def incremental_update(new: PyTree, old: PyTree, step_size: float) -> PyTree:
    """E16: `(1 - step_size) * old + step_size * new` on the inexact arrays of two models; what else is in `old` stays."""
    arrays, rest = eqx.partition(old, eqx.is_inexact_array)
    return eqx.combine(optax.incremental_update(eqx.filter(new, eqx.is_inexact_array), arrays, step_size), rest)


@eqx.filter_jit(donate="all-except-first")
def _chunk(context, state):
    """`count` updates from number `first` on, and `chunk` rows of metrics, of which the first `count` are filled."""
    update, key, data, first, count, chunk = context
    arrays, rest = eqx.partition(state, eqx.is_array)
    shapes = eqx.filter_eval_shape(lambda s, d, k: update(s, d, key=k)[1], state, data, key)
    rows = jax.tree.map(lambda shape: jnp.zeros((chunk, *shape.shape), shape.dtype), shapes)

    def body(i, carry):
        arrays, rows = carry
        state, metrics = update(eqx.combine(arrays, rest), data, key=jr.fold_in(key, first + i))
        rows = jax.tree.map(lambda row, value: row.at[i].set(value.astype(row.dtype)), rows, metrics)
        return eqx.filter(state, eqx.is_array), rows

    arrays, rows = jax.lax.fori_loop(0, count, body, (arrays, rows))
    return eqx.combine(arrays, rest), rows


def copy(state: PyTree) -> PyTree:
    """A copy of a state: `advance` reuses the memory of the one that it is given."""
    return jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, state)


def advance(
    update: Callable, state: PyTree, data: PyTree, *, key: PRNGKeyArray, first: int, count: int, chunk: int
) -> tuple[PyTree, dict[str, np.ndarray]]:
    """`count` <= `chunk` updates in one dispatch, from number `first` on: the new state, and a row of metrics for each of them.

    Update i is `update(state, data, key=fold_in(key, i))`. One compiled program serves every count up to `chunk`. The arrays of
    `state` are used up.
    """
    state, rows = _chunk((update, key, data, jnp.asarray(first), jnp.asarray(count), chunk), state)
    return state, {name: np.asarray(values)[:count] for name, values in rows.items()}


class Program:
    """The compiled program of `advance` for arguments of given shapes, and the bytes that it needs."""

    def __init__(self, update: Callable, state: PyTree, data: PyTree, *, key: PRNGKeyArray, chunk: int):
        self.context = (update, key, data)
        self.chunk = chunk
        program: Any = _chunk
        self.call = program.lower(self._arguments(0, 0), state).compile()

    def __call__(self, state: PyTree, first: int, count: int) -> PyTree:
        """The state after `count` <= `chunk` updates from number `first` on. Its arrays are used up."""
        return self.call(self._arguments(first, count), state)[0]

    @property
    def bytes(self) -> int:
        """Bytes of its arguments, its results and what it keeps in between, on the device."""
        memory = self.call.compiled.memory_analysis()
        shared = memory.alias_size_in_bytes
        return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes - shared

    def _arguments(self, first, count):
        return (*self.context, jnp.asarray(first), jnp.asarray(count), self.chunk)


def run(
    update: Callable,
    state: PyTree,
    data: PyTree,
    *,
    key: PRNGKeyArray,
    steps: int,
    chunk: int = 500,
    progress: bool = True,
    label: str = "training",
) -> tuple[PyTree, dict[str, np.ndarray]]:
    """Applies `update(state, data, key=key) -> (state, metrics)` `steps` times and returns the state and the metrics' history.

    `chunk` updates run per dispatch, and the number of a chunk's updates is an argument of the compiled code, so that a
    shorter last chunk compiles nothing anew. Update i uses `fold_in(key, i)`. `metrics` is a dict of scalars; the history holds
    one array of shape (steps,) for each. Raises ValueError for fewer than one step and FloatingPointError, naming the chunk
    and the term, when a metric is no longer finite.
    """
    if steps < 1 or chunk < 1:
        raise ValueError(f"Training takes at least one step and a chunk of at least one; got {steps} and {chunk}.")
    chunk, history, state = min(chunk, steps), [], copy(state)
    with tqdm(total=steps, desc=label, unit="step", leave=False, disable=not progress) as bar:
        for first in range(0, steps, chunk):
            count = min(chunk, steps - first)
            state, metrics = advance(update, state, data, key=key, first=first, count=count, chunk=chunk)
            history.append(metrics)
            _refuse_divergence(history[-1], first, label)
            bar.set_postfix({name: f"{values[-1]:.4g}" for name, values in history[-1].items()}, refresh=False)
            bar.update(count)
    return state, {name: np.concatenate([part[name] for part in history]) for name in history[0]}


class Adam(eqx.Module):
    """Adam with a learning rate that falls along a cosine to `final` of its first value: an optimizer as `fit` takes it."""

    learning_rate: float = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    final: float = eqx.field(static=True, default=0.0)

    def __call__(self) -> optax.GradientTransformation:
        """The optax optimizer."""
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.steps, self.final))


class Training(eqx.Module):
    """A model in training: itself, the moving average of its weights (itself where none is kept), and the states of the optimizer
    and of the average.
    """

    model: PyTree
    average: PyTree
    opt_state: optax.OptState
    ema_state: optax.OptState


class _Step(eqx.Module):
    """One step of an optimizer on a loss, and of the moving average."""

    loss: Callable
    optimizer: Callable
    decay: float | None = eqx.field(static=True)

    def __call__(self, state, data, *, key):
        (_, info), gradient = eqx.filter_value_and_grad(self.loss, has_aux=True)(state.model, data, key=key)
        model, opt_state = apply_gradient(self.optimizer(), gradient, state.opt_state, state.model)
        if self.decay is None:
            return Training(model, model, opt_state, state.ema_state), info
        arrays, rest = eqx.partition(model, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):
            averaged, ema_state = optax.ema(self.decay).update(arrays, state.ema_state)
        return Training(model, eqx.combine(averaged, rest), opt_state, ema_state), info


def training(
    loss: Callable, model: PyTree, optimizer: Callable, *, decay: float | None = None
) -> tuple[Callable, Training]:
    """The update and the first state with which `fit` trains: what `run` takes."""
    weights = eqx.filter(model, eqx.is_inexact_array)
    ema_state = optax.EmptyState() if decay is None else optax.ema(decay).init(weights)
    return _Step(loss, optimizer, decay), Training(model, model, optimizer().init(weights), ema_state)


def fit(
    loss: Callable, model: PyTree, data: PyTree, optimizer: Callable, *, decay: float | None = None, **options: Any
) -> tuple[PyTree, dict[str, np.ndarray]]:
    """Trains a model: `loss(model, data, key=key)` gives a scalar and a dict of scalars, whose history is returned too.

    `optimizer()` is an optax optimizer (`Adam` is one), made inside the compiled code, so that its numbers may be arrays. With a
    `decay` in [0, 1) the model returned is the exponential moving average of the trained weights, corrected for its bias
    (`optax.ema`): the weights at the start have no part in it. Loss and optimizer are Equinox modules, so that a second training
    of the same kind compiles nothing. Other `options` are those of `run`.
    """
    update, state = training(loss, model, optimizer, decay=decay)
    state, history = run(update, state, data, **options)
    return state.average, history


def _refuse_divergence(metrics, first, label):
    for name, values in metrics.items():
        if not np.all(np.isfinite(values)):
            step = first + int(np.argmax(~np.isfinite(values)))
            raise FloatingPointError(f"{label} broke at step {step}: {name} became {values[step - first]}.")

"""What metrics could gain on a data set, predicted by E26 from a fitted flow alone: no critic, no training of a policy.

The flow is fitted to the data, and judged on held-out states. Its true Fisher matrix in a state comes from gradients of the
exact log-density (E4), what a metric charges there from what it reads off the same flow. Values are unknown, so that their
gradients are drawn: every direction is as likely, and every state as steep.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array
from fdbook.experiment import measure
from fdbook.experiment.ladder import label
from fdbook.geometry import anisotropy, flow, metrics
from fdbook.geometry.metrics import Metric
from fdbook.rl.transitions import Transitions


__all__ = ["Prediction", "predict", "prediction_lines"]

TIMES = (0.8, 0.9, 0.97)
ROWS = 500_000
HELD_OUT_SHARE = 0.1
DIRECTIONS = 1000
QUANTILES = (0.1, 0.5, 0.9)


def _compared() -> tuple[Metric, ...]:
    """The scale alone, the direction alone (E24), both at the time in use (E21), and both deblurred (E29)."""
    raw = {"trace_normalized": False}
    return (
        metrics.make("scale"),
        metrics.make("exact"),
        metrics.make("exact", **raw),
        metrics.make("deblurred", **raw),
    )


class Prediction(NamedTuple):
    """Condition numbers in each held-out state, and ratios to L2: what E26 says that a metric gains at the same small KL."""

    condition: Float[np.ndarray, " states"]
    """Of the true Fisher matrix of the flow's law."""
    blurred: dict[float, Float[np.ndarray, " states"]]
    """Of the matrix of the exact score (E5, E21) read at several times."""
    ceiling: float
    """The true Fisher matrix's ratio: no metric of one matrix for each state gains more."""
    ratios: dict[str, float]
    """Of metrics, by label."""
    loss: float
    """E2 on the held-out rows."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with quantiles over the states."""

        def quantiles(values):
            return {f"{q:g}": float(f"{np.quantile(values, q):.5g}") for q in QUANTILES}

        blurred = {f"{t:g}": quantiles(values) for t, values in self.blurred.items()}
        ratios = {name: float(f"{ratio:.5g}") for name, ratio in self.ratios.items()}
        numbers = {"ceiling": float(f"{self.ceiling:.5g}"), "loss": float(f"{self.loss:.5g}")}
        return {"condition": quantiles(self.condition), "blurred": blurred, "ratios": ratios} | numbers


def predict(
    train: Transitions,
    validation: Transitions | None = None,
    *,
    compared: Sequence[Metric] | None = None,
    steps: int = 8000,
    states: int = 128,
    actions: int = 64,
    key: PRNGKeyArray,
    progress: Callable[[float], None] = lambda share: None,
) -> Prediction:
    """Fits a flow to the actions of `train` and predicts what metrics gain over L2 in `states` held-out states (E26).

    Those come from the validation data; where there are none, a tenth of the transitions is kept apart, of the same episodes.
    `actions` of the flow in each state make its matrices. Raises ValueError for pictures.
    """
    if train.observations.ndim != 2:
        raise ValueError("predict takes observations that are vectors; these are pictures.")
    split_key, fit_key, draw_key, direction_key = jr.split(key, 4)
    rows, held_out = _split(train, validation, split_key)
    scale = anisotropy.standardizer(rows[0])
    pairs = [(scale(part[0]), part[1]) for part in (rows, held_out)]
    field, curve = anisotropy.fit_held_out(*pairs, key=fit_key, steps=steps, progress=progress)
    chosen = jnp.asarray(pairs[1][0][np.linspace(0, len(pairs[1][0]) - 1, states).astype(int)])
    compared = _compared() if compared is None else tuple(compared)
    made = _forms(field, chosen, compared, actions, draw_key)
    information, seen, forms = jax.tree.map(np.asarray, made)
    slopes = np.asarray(jr.normal(direction_key, (DIRECTIONS, *information.shape[:2])))

    flat = np.broadcast_to(np.eye(field.action_dim), information.shape)

    def over_l2(forms):
        ours, theirs = (measure.predicted_gain(slopes, information[None], x[None]) for x in (forms, flat))
        return float(np.mean(ours / theirs))

    ratios = {label(metric): over_l2(form) for metric, form in zip(compared, forms, strict=True)}
    blurred = {t: np.linalg.cond(matrices) for t, matrices in zip(TIMES, seen, strict=True)}
    loss = curve["held_out"][curve["step"].index(curve["chosen"])]
    return Prediction(np.linalg.cond(information), blurred, over_l2(information), ratios, loss)


def _split(train, validation, key):
    """Observations and actions to fit to, and held-out ones, at most ROWS of each."""
    numbers = np.asarray(jr.permutation(key, train.size)[:ROWS])
    if validation is None:
        cut = max(1, int(HELD_OUT_SHARE * len(numbers)))
        batches = train.at(numbers[cut:]), train.at(numbers[:cut])
    else:
        batches = train.at(numbers), validation.at(np.arange(min(validation.size, ROWS)))
    return [(np.asarray(batch.observations, np.float32), np.asarray(batch.actions)) for batch in batches]


@eqx.filter_jit
def _forms(field, states, compared, count, key) -> tuple[Array, Array, tuple[Array, ...]]:
    """In each state the true Fisher matrix, those of the exact score at TIMES, and what metrics charge a translation with."""
    d = field.action_dim
    score = jax.grad(lambda state, action: flow.log_prob(field, state, action, steps=measure.SOLVER_STEPS), argnums=1)
    draw = functools.partial(flow.sample, field, solver=diffrax.Tsit5(), steps=measure.SOLVER_STEPS)

    def one(row):
        state, subkey = row
        noise_key, *read_keys = jr.split(subkey, 1 + len(TIMES) + len(compared))
        noises = jr.normal(noise_key, (count, d), jnp.float32)
        actions = jax.vmap(draw, in_axes=(None, 0))(state, noises)
        information = metrics.fisher_matrix(jax.vmap(score, in_axes=(None, 0))(state, actions))
        seen = [
            anisotropy.readings(field, state, actions, t, key=key).exact
            for t, key in zip(TIMES, read_keys, strict=False)
        ]
        forms = tuple(
            measure.metric_matrix(metric, metric.perturbed(field, state, actions, key=key), d)
            for metric, key in zip(compared, read_keys[len(TIMES) :], strict=True)
        )
        return information, jnp.stack(seen), forms

    information, seen, forms = jax.lax.map(one, (states, jr.split(key, len(states))), batch_size=4)
    return information, jnp.moveaxis(seen, 1, 0), forms


def prediction_lines(prediction: Prediction) -> str:
    """A prediction in lines for a terminal."""

    def three(values):
        return ", ".join(f"{value:.3g}" for value in np.quantile(values, QUANTILES))

    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in prediction.ratios.items())
    return "\n".join(
        [
            f"geometry of a flow fitted to the actions (E2 on held-out rows: {prediction.loss:.3g})",
            f"  condition number of its Fisher matrix in {len(prediction.condition)} states (10, 50, 90%): "
            + three(prediction.condition),
            *(f"  of the one that is read at t = {t:g}: {three(values)}" for t, values in prediction.blurred.items()),
            f"  gain over L2 at equal small KL, by E26, if all directions are as likely: {ratios};",
            f"  at most {prediction.ceiling:.2f}",
        ]
    )

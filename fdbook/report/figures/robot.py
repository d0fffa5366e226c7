"""Real robot actions: how anisotropic the behavior is in each state, what that is worth at most, and what E7 makes of it.

A flow is fitted to the recorded actions of cube-single. In each of many held-out states it draws actions, and E5 and E7 read
their scores off it at several perturbed times (E6). The matrices of these scores (E20, E21) are what the metrics charge.

Two controls say how far to trust them. Gaussians whose velocity is known exactly, with the means and covariances of the
drawn actions, pass through the same estimator. And the same network is trained, for as long, on actions whose law is a known
Gaussian in every state. Beside them stands Stein's identity, -E[score (x - E x)^T] = I, which any true score obeys.

Densities and scores are those of the flow before clipping. Recorded actions that sit at the bounds make the flow thin there.
"""

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from fdbook.checks import Array
from fdbook.geometry import anisotropy, metrics
from fdbook.report import style
from fdbook.report.figures import Context


__all__ = ["AXES", "band", "compute", "draw", "draw_state", "metric_handles"]

NAME = "ogbench/cube-single-play"
AXES = ("delta x", "delta y", "delta z", "delta yaw", "gripper")
TIMES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
HEADLINE = TIMES.index(0.9)
STEPS, STATES, ACTIONS, DRAWS, GRADIENTS = 16_000, 200, 512, 8, 64
QUANTILES = (0.1, 0.5, 0.9)
NEAR = 0.95
PLANES = ((1, 2), (3, 4))
COST, WINDOW = 0.04, 1.5
STATE_LEVELS = (0.5, 0.9, 1.0)
STATE_TITLES = ("median state", "state at 90%", "least round state", "E7 at its worst")
READ = {"fisher-exact": "E5", "fisher-released": "E7", "l2": "L2"}


def _times(times):
    return jnp.asarray(times, jnp.float32)


def _efficiencies(result, rng):
    """The mean over random directions of the gradient: for steps along L2 and E7, at every time and in every state."""
    directions = rng.normal(size=(*result.stein.shape, GRADIENTS, result.exact.shape[-1]))
    exact, released = (np.asarray(matrix, float)[:, :, None] for matrix in (result.exact, result.released))
    exact, released = (np.repeat(matrix, GRADIENTS, axis=2) for matrix in (exact, released))
    flat = np.broadcast_to(np.eye(exact.shape[-1]), exact.shape)
    l2, e7 = (anisotropy.efficiency(directions, exact, guess) for guess in (flat, released))
    return {"l2": l2.mean(axis=2), "e7": e7.mean(axis=2), "e7_below_l2": (e7 < l2).mean(axis=2)}


def _draw_gaussians(means, covariances, key):
    """ACTIONS draws (s, k, d) from a Gaussian in each state, in float32."""
    factors = np.linalg.cholesky(np.broadcast_to(covariances, (*means.shape, means.shape[-1])))
    noises = np.asarray(jr.normal(key, (len(means), ACTIONS, means.shape[-1]), jnp.float32))
    return jnp.asarray(means[:, None] + np.einsum("sij,skj->ski", factors, noises), jnp.float32)


def _exact_control(means, covariances, key):
    """The readings of Gaussians with known velocity, and the condition number that E5 should have at each time."""
    sample_key, read_key = jr.split(key)
    observations = np.concatenate([means, covariances.reshape(len(means), -1)], axis=1)
    actions = _draw_gaussians(means, covariances, sample_key)
    policy, observations = anisotropy.GaussianPolicy(means.shape[1]), jnp.asarray(observations, jnp.float32)
    result = anisotropy.survey(policy, observations, actions, _times(TIMES), draws=DRAWS, key=read_key)
    return {"condition": np.linalg.cond(result.exact), "truth": _blurred_conditions(covariances)}


def _blurred_conditions(covariances):
    return np.stack([np.linalg.cond(anisotropy.blurred(covariances, t)) for t in TIMES])


@eqx.filter_jit
def _centers(field, observations):
    """What a field takes for the mean action of each state: its velocity at t = 0 and z = 0 (E1)."""
    start = jnp.zeros(field.action_dim, jnp.float32)
    return jax.vmap(lambda s: field(0.0, s, start))(observations)


def _learned_control(field, train, held_out, rows, covariances, steps, progress, key):
    """The readings of a network trained like `field`, on actions that are Gaussian with a known covariance in every state,
    and whose means are those that `field` finds."""
    noise_key, fit_key, sample_key, read_key = jr.split(key, 4)
    covariance = covariances.mean(axis=0)
    factor = np.linalg.cholesky(covariance).astype(np.float32)
    pairs, means = [], []
    for (observations, actions), subkey in zip((train, held_out), jr.split(noise_key), strict=True):
        means.append(np.asarray(_centers(field, observations)))
        noises = np.asarray(jr.normal(subkey, actions.shape, jnp.float32))
        pairs.append((observations, means[-1] + noises @ factor.T))
    control, curve = anisotropy.fit_held_out(*pairs, key=fit_key, steps=steps, checks=1, progress=progress)
    drawn = _draw_gaussians(means[1][rows], covariance[None], sample_key)
    result = anisotropy.survey(control, jnp.asarray(held_out[0][rows]), drawn, _times(TIMES), draws=DRAWS, key=read_key)
    return {
        "condition": np.linalg.cond(result.exact),
        "truth": _blurred_conditions(covariance),
        "stein": result.stein,
        "loss": curve["held_out"][-1],
    }


def compute(context: Context) -> dict:
    """The numbers: conditions, spectra, ceilings, agreement of E5 and E7, controls, and a few states to draw."""
    recording = context.recordings(NAME)
    fit_key, sample_key, *control_keys = jr.split(jr.key(context.seed), 4)
    scale = anisotropy.standardizer(recording.train.observations)
    train, held_out = ((scale(part.observations), part.actions) for part in (recording.train, recording.validation))
    progress = _share(context, "training the flow", 0.0, 0.4)
    field, curve = anisotropy.fit_held_out(train, held_out, key=fit_key, steps=STEPS, progress=progress)
    rows = np.linspace(0, len(held_out[0]) - 1, STATES).astype(int)
    context.progress(0.4, "drawing actions and reading their scores")
    numbers, covariances = _behavior(field, jnp.asarray(held_out[0][rows]), context.seed, sample_key)
    context.progress(0.75, "checking with known Gaussians")
    progress, steps = _share(context, "checking with a second network", 0.8, 0.98), curve["chosen"]
    return numbers | {
        "recording": {"name": NAME, "train_rows": len(train[0]), "held_out_rows": len(held_out[0])},
        "at_bounds": np.mean(np.abs(recording.train.actions) >= 1, axis=0),
        "training": curve,
        "exact_control": _exact_control(numbers["means"], covariances, control_keys[0]),
        "learned_control": _learned_control(
            field, train, held_out, rows, covariances, steps, progress, control_keys[1]
        ),
    }


def _share(context, message, start, stop):
    """Reports a share of one part of the work as a share of all of it."""
    context.progress(start, message)
    return lambda share: context.progress(start + (stop - start) * share, message)


def _behavior(field, states, seed, key):
    """What the flow's actions and scores in these states say, and the covariances of the actions (states, d, d)."""
    draw_key, read_key = jr.split(key)
    drawn = {
        name: anisotropy.sample_actions(field, states, ACTIONS, key=draw_key, sampler=name)
        for name in anisotropy.SAMPLERS
    }
    means, covariances = anisotropy.moments(drawn["accurate"])
    result = anisotropy.survey(field, states, drawn["accurate"], _times(TIMES), draws=DRAWS, key=read_key)
    narrow = anisotropy.survey(field, states, drawn["reference"], _times([TIMES[HEADLINE]]), draws=DRAWS, key=read_key)
    numbers = {
        "times": TIMES,
        "means": means,
        **_anisotropy(result, means, covariances, np.random.default_rng(seed)),
        **_bounds(drawn["accurate"], result),
        "reference": _reference(drawn["reference"], narrow, covariances),
    }
    numbers["modes"] = np.array([anisotropy.modes(cloud) for cloud in np.asarray(drawn["accurate"])])
    numbers["examples"] = _examples(numbers, result, np.asarray(drawn["accurate"]))
    return numbers | {"summary": _summary(numbers)}, covariances


def _anisotropy(result, means, covariances, rng):
    """The spectra of E5, E7 and the sampled actions, what they are worth (E15), and how well E7 agrees with E5."""
    exact, released = np.asarray(result.exact, float), np.asarray(result.released, float)
    condition = {"condition_e5": np.linalg.cond(exact), "condition_e7": np.linalg.cond(released)}
    condition |= {
        "condition_covariance": np.linalg.cond(covariances),
        "condition_blurred": _blurred_conditions(covariances),
    }
    return condition | {
        "spectrum_e5": anisotropy.spectra(exact[HEADLINE]),
        "spectrum_e7": anisotropy.spectra(released[HEADLINE]),
        "spectrum_precision": anisotropy.spectra(np.linalg.inv(covariances)),
        "spread": np.sqrt(np.linalg.eigvalsh(covariances)),
        "stein": result.stein,
        "alignment": metrics.alignment(exact, released),
        "towards_mean": {
            "e5": anisotropy.stiff_axis_alignment(exact, means),
            "e7": anisotropy.stiff_axis_alignment(released, means),
        },
        "reversed": anisotropy.charges_reversed(exact, released),
        "efficiency": _efficiencies(result, rng),
    }


def _bounds(actions, result):
    """For each state and action axis: the share of drawn actions near the bounds or beyond, and E5's relative stiffness."""
    diagonal = np.diagonal(np.asarray(result.exact[HEADLINE], float), axis1=-2, axis2=-1)
    return {
        "near_bounds": np.mean(np.abs(actions) > NEAR, axis=1),
        "stiffness": diagonal / diagonal.mean(axis=-1, keepdims=True),
    }


def _reference(actions, result, covariances):
    """The same with the sampler of the reference setting (E3, 10 Euler steps): how much narrower its actions are."""
    per_state = anisotropy.moments(actions)[1]
    widths = [np.linalg.eigvalsh(matrix)[:, 0] for matrix in (per_state, covariances)]
    return {
        "condition_covariance": np.linalg.cond(per_state),
        "condition_e5": np.linalg.cond(result.exact[0]),
        "stein": result.stein[0],
        "thinnest_variance_ratio": widths[0] / widths[1],
    }


def _examples(numbers, result, actions):
    """States at the quantiles of E5's condition number, and one in which E7's step is worth least: what is drawn of them."""
    condition = numbers["condition_e5"][HEADLINE]
    chosen = [int(np.argmin(np.abs(condition - np.quantile(condition, level)))) for level in STATE_LEVELS]
    worth = np.array(numbers["efficiency"]["e7"][HEADLINE])
    worth[chosen] = np.inf
    chosen.append(int(np.argmin(worth)))
    return {
        "state": chosen,
        "actions": actions[chosen],
        "e5": result.exact[HEADLINE, chosen],
        "e7": result.released[HEADLINE, chosen],
        "condition": condition[chosen],
    }


def _quantiles(values):
    return np.quantile(np.asarray(values, float), QUANTILES, axis=-1)


def _summary(numbers):
    """The numbers that a sentence quotes: quantiles over states (10, 50, 90%) or shares of states, at t = 0.9 where one time."""
    at = {name: numbers[name][HEADLINE] for name in ("condition_e5", "condition_e7", "alignment", "reversed", "stein")}
    efficiency = {name: values[HEADLINE] for name, values in numbers["efficiency"].items()}
    return {
        "time": TIMES[HEADLINE],
        "condition_e5": _quantiles(at["condition_e5"]),
        "condition_e7": _quantiles(at["condition_e7"]),
        "condition_covariance": _quantiles(numbers["condition_covariance"]),
        "condition_blurred": _quantiles(numbers["condition_blurred"][HEADLINE]),
        "ceiling_e5": _quantiles(anisotropy.ceiling(at["condition_e5"])),
        "ceiling_covariance": _quantiles(anisotropy.ceiling(numbers["condition_covariance"])),
        "one_mode": np.mean(numbers["modes"] == 1),
        "alignment": _quantiles(at["alignment"]),
        "reversed": np.mean(at["reversed"]),
        "stein": _quantiles(at["stein"]),
        "towards_mean_e5": _quantiles(numbers["towards_mean"]["e5"][HEADLINE]),
        "towards_mean_e7": _quantiles(numbers["towards_mean"]["e7"][HEADLINE]),
        "efficiency_l2": _quantiles(efficiency["l2"]),
        "efficiency_e7": _quantiles(efficiency["e7"]),
        "e7_below_l2": np.mean(efficiency["e7_below_l2"]),
        "reference_stein": _quantiles(numbers["reference"]["stein"]),
        "reference_thinnest_variance_ratio": _quantiles(numbers["reference"]["thinnest_variance_ratio"]),
    }


def draw(numbers: dict) -> Figure:
    """Four states in two planes of the action box; conditions, ceilings and steps over time; spectra, bounds and checks."""
    fig = plt.figure(figsize=(style.WIDTH, 1.36 * style.WIDTH))
    pictures, panels = fig.subfigures(2, 1, height_ratios=(0.45, 0.55))
    axes = pictures.subplots(len(PLANES), len(STATE_TITLES))
    examples = numbers["examples"]
    for row, plane in zip(axes, PLANES, strict=True):
        for ax, actions, e5, e7 in zip(row, examples["actions"], examples["e5"], examples["e7"], strict=True):
            draw_state(ax, actions, {"l2": np.eye(len(e5)), "fisher-released": e7, "fisher-exact": e5}, plane)
        row[0].set_ylabel(f"{AXES[plane[1]]} (action units)")
    for i, title in enumerate(STATE_TITLES):
        axes[0, i].set_title(f"{title}\nE5 condition {examples['condition'][i]:.1f}")
    style.panel_label(axes[0, 0], "a")
    pictures.legend(handles=metric_handles(), loc="outside lower center", ncols=4)
    grid = panels.subplots(2, 3).ravel()
    painters = (_draw_conditions, _draw_ceilings, _draw_steps, _draw_spectra, _draw_bounds, _draw_checks)
    for ax, paint, letter in zip(grid, painters, "bcdefg", strict=True):
        paint(ax, numbers)
        style.panel_label(ax, letter)
    return fig


def draw_state(ax: Axes, actions: Float[Array, "k d"], matrices: dict, plane: tuple[int, int]) -> None:
    """One state's actions in the plane of two action axes, and the displacements that cost the same under each metric.

    `matrices` maps names of metrics to their matrices (d, d), each of which is normalized (E24) and cut with the plane
    through the mean action. The window is WINDOW wide; gray ground lies outside the action box.
    """
    points = np.asarray(actions, float)[:, plane]
    center = points.mean(axis=0)
    ax.plot(*points.T, ".", color=style.METRIC_COLORS["behavior"], markersize=3, alpha=0.5, markeredgewidth=0)
    for name, matrix in matrices.items():
        part = np.asarray(matrix, float)[np.ix_(plane, plane)] * len(matrix) / np.trace(matrix)
        look = {"edgecolor": style.METRIC_COLORS[name], "linestyle": style.METRIC_LINES[name], "zorder": 2.5}
        style.ellipse(ax, center, part, COST, linewidth=1.8 if name == "fisher-exact" else 1.3, **look)
    ax.add_patch(Rectangle((-1, -1), 2, 2, facecolor="white", edgecolor=style.GRAY, linewidth=0.8, zorder=-1))
    low, high = center - WINDOW / 2, center + WINDOW / 2
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", facecolor=style.PALE)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.5))
        axis.set_major_formatter("{x:g}")
    ax.set_xlabel(AXES[plane[0]])


def metric_handles() -> list[Line2D]:
    """What a legend says about the panels of `draw_state`."""
    dots = Line2D([], [], linestyle="", marker=".", color=style.METRIC_COLORS["behavior"], label="actions drawn")
    return [dots, *(Line2D([], [], **style.look(name, marker=None, label=label)) for name, label in READ.items())]


def band(
    ax: Axes, x: Sequence[float | int] | Num[Array, " n"], values: Float[Array, "n s"], name: str, label: str
) -> None:
    """The median over states and the band from 10% to 90%; values are (x, states)."""
    low, middle, high = _quantiles(values)
    ax.fill_between(x, low, high, color=style.METRIC_COLORS[name], alpha=0.22, linewidth=0)
    ax.plot(x, middle, **style.look(name, label=label, markersize=4.5))


def _logarithmic(axis, ticks):
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _draw_conditions(ax, numbers):
    for kind, name in (("e7", "fisher-released"), ("e5", "fisher-exact")):
        band(ax, TIMES, numbers[f"condition_{kind}"], name, READ[name])
    gaussian_like = _quantiles(numbers["condition_blurred"])[1]
    ax.plot(TIMES, gaussian_like, color=style.INK, linewidth=1, label="Gaussian as wide")
    low, middle, high = _quantiles(numbers["condition_covariance"])
    bar = {"color": style.METRIC_COLORS["behavior"], "marker": "_", "markersize": 8, "linewidth": 3, "alpha": 0.9}
    ax.errorbar([1.0], [middle], [[middle - low], [high - middle]], **bar)
    ax.text(1.03, np.sqrt(low * high), "covariance of actions", rotation=90, va="center", fontsize=8)
    ax.set(yscale="log", xlabel="perturbed time t", title="condition number", xlim=(0.47, 1.12), ylim=(0.95, 250))
    _logarithmic(ax.yaxis, (1, 2, 5, 10, 20, 50))
    ax.legend(loc="upper left")


def _draw_ceilings(ax, numbers):
    shares, look = np.linspace(0, 100, numbers["condition_e5"].shape[1]), style.look("fisher-exact", marker=None)
    for i, width in ((TIMES.index(0.8), 1.0), (HEADLINE, 2.0)):
        values = 100 * np.sort(anisotropy.ceiling(numbers["condition_e5"][i]))
        ax.plot(values, shares, **look | {"linestyle": "-", "linewidth": width, "label": f"E5, t = {TIMES[i]}"})
    values = 100 * np.sort(anisotropy.ceiling(numbers["condition_covariance"]))
    ax.plot(values, shares, **style.look("behavior", marker=None, label="covariance"))
    ax.set(xlim=(0, 60), ylim=(0, 102), xlabel="most that L2 can lose (% of gain)", ylabel="states below (%)")
    ax.set_title("ceiling on the gain (E15)")
    ax.legend(loc="lower right")


def _draw_steps(ax, numbers):
    for kind, name, label in (("e7", "fisher-released", "step by E7"), ("l2", "l2", "step by L2")):
        band(ax, TIMES, 100 * np.asarray(numbers["efficiency"][kind]), name, label)
    ax.axhline(100, **style.look("fisher-exact", marker=None, label="step by E5"))
    ax.set(xlabel="perturbed time t", ylabel="gain (% of best step)", title="steps of equal cost")
    ax.legend(loc="lower left")


def _draw_spectra(ax, numbers):
    ranks = np.arange(1, len(AXES) + 1)
    looks = {
        "precision": ("behavior", "1 / covariance"),
        "e7": ("fisher-released", "E7"),
        "e5": ("fisher-exact", "E5"),
    }
    for kind, (name, label) in looks.items():
        band(ax, ranks, numbers[f"spectrum_{kind}"].T, name, label)
    ax.set(yscale="log", xticks=ranks, xlabel="axis, softest to stiffest", ylabel="relative eigenvalue", ylim=(None, 7))
    ax.set_title(f"spectra at t = {TIMES[HEADLINE]}")
    _logarithmic(ax.yaxis, (0.1, 0.2, 0.5, 1, 2))
    cosines = [np.median(numbers["towards_mean"][kind][HEADLINE]) for kind in ("e5", "e7")]
    words = "|cos| of stiffest axis\nand mean action:\nE5 {:.2f}, E7 {:.2f}".format(*cosines)
    ax.text(0.04, 0.97, words, transform=ax.transAxes, va="top", fontsize=8)
    ax.legend(loc="lower right")


def _draw_bounds(ax, numbers):
    look = {"markersize": 4, "alpha": 0.5, "markeredgewidth": 0, "color": style.METRIC_COLORS["fisher-exact"]}
    share, stiffness = 100 * numbers["near_bounds"].ravel(), numbers["stiffness"].ravel()
    ax.plot(share, stiffness, ".", **look)
    edges = np.array([0, 1, 10, 30, 60, 100.001])
    groups = [(share >= low) & (share < high) for low, high in itertools.pairwise(edges)]
    middles = [(share[group].mean(), np.median(stiffness[group])) for group in groups if group.any()]
    ax.plot(*np.array(middles).T, color=style.INK, marker="o", label="median")
    ax.axhline(1, color=style.GRAY, linewidth=0.7, zorder=0)
    ax.set(xlabel=f"actions beyond ±{NEAR} (%)", ylabel="relative stiffness of the axis", title="E5 and the bounds")
    ax.legend(loc="lower right")


def _draw_checks(ax, numbers):
    """Three ratios that are 1 when E5 can be trusted, and one that is not."""
    exact, learned = (numbers[name] for name in ("exact_control", "learned_control"))
    truth = np.broadcast_to(np.reshape(learned["truth"], (-1, 1)), np.shape(learned["condition"]))
    band(ax, TIMES, exact["condition"] / exact["truth"], "exact", "condition, exact flow")
    band(ax, TIMES, learned["condition"] / truth, "fisher-rao", "condition, learned flow")
    band(ax, TIMES, numbers["stein"], "fisher-exact", "Stein, robot")
    low, middle, high = _quantiles(numbers["reference"]["stein"])
    look = {"color": style.METRIC_COLORS["l2"], "marker": "s", "markersize": 4}
    ax.errorbar([TIMES[HEADLINE]], [middle], [[middle - low], [high - middle]], **look)
    ax.annotate("Stein,\n10 Euler steps", (TIMES[HEADLINE] - 0.012, middle), ha="right", va="center", fontsize=8)
    ax.axhline(1, color=style.GRAY, linewidth=0.7, zorder=0)
    ax.set(xlabel="perturbed time t", ylabel="found / expected", title="checks: 1 is right", ylim=(0.6, 1.75))
    ax.legend(loc="upper left")

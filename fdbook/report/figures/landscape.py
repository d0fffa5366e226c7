"""Where the mass goes as the KL grows: L2, four Fisher metrics and FQL on two moons, beside the best that the KL can buy.

Every map is trained by `transport.fit` against the same value; only the metric differs. The scores that the metrics see are
read off a flow that is trained here on samples of the moons. FQL's one-step policy (E17) is taught by the exact flow of the
moons, as the maps move exact samples of them, so that its KL is that of the distillation and of what the value pulls. A ladder
of falling multipliers traces a frontier of value against KL; maps of equal KL are drawn side by side. The KL is E9 while the
map is one-to-one; where it folds E9 does not hold, and the KL of binned samples stands in for it, marked as such. The last
column is no method: it is E25, the best of all distributions, computed cell by cell.
"""

from collections.abc import Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from fdbook.checks import Array
from fdbook.geometry import densities, distillation, flow, frontier, metrics, transport
from fdbook.report import style
from fdbook.report.figures import Context


__all__ = ["GRID", "PEAK", "TARGETS", "compute", "draw", "value"]

PEAK = np.array([1.25, 0.75], np.float32)
TARGETS = (0.03, 0.15, 0.6)
LADDER = tuple(np.geomspace(300.0, 6.0, 8))
SHOWN, SHOWN_TARGETS = ("l2", "fisher-paper", "fisher-rao", "fql"), TARGETS[1:]
"""The maps that are drawn: those of the other two metrics look like L2's, and at the least KL no mass is seen to move."""
METHODS = ("l2", "fisher-paper", "fisher-released", "fisher-exact", "fisher-rao", "fql")
CURVE = tuple(np.geomspace(0.004, 2.0, 25))
GRID = frontier.Grid((-1.7, 1.7), (-1.15, 1.15), (136, 92))


def value(observation: Float[Array, " n"], action: Float[Array, "2"]) -> Float[Array, ""]:
    """A smooth cone around a peak that lies off the manifold: minus the distance to it, rounded at the tip."""
    return -jnp.sqrt(jnp.sum((action - PEAK.astype(action.dtype)) ** 2) + 0.05)


def compute(
    context: Context,
    names: Sequence[str] = METHODS,
    *,
    samples: int = 20_000,
    fit_steps: int = 8_000,
    ladder: Sequence[float] = LADDER,
    steps: int = 300,
    crowd: int = 400_000,
) -> dict:
    """Frontiers and panels of the named metrics and of "fql", and the best possible.

    Densities are per squared action unit, gains in action units (a distance).
    """
    context.progress(0.0, "training the flow")
    data_key, init_key, fit_key, yard_key, score_key, map_key = jr.split(jr.key(context.seed), 6)
    density = densities.make("moons")
    actions = density.sample(samples, key=data_key)
    field, _ = flow.fit(
        flow.VelocityField(0, 2, 128, 3, key=init_key),
        actions,
        key=fit_key,
        steps=fit_steps,
        batch_size=512,
        learning_rate=2e-3,
        progress=False,
    )
    yardstick = frontier.Yardstick(density, value, GRID, key=yard_key, order=12, crowd=crowd)
    none = transport.LocalTransport(lambda observation, action: jnp.zeros_like(action))
    numbers: dict[str, Any] = {"targets": list(TARGETS), "behavior": yardstick.mass / GRID.area, "metrics": {}}
    numbers["behavior_off"] = yardstick.measure(none).off
    for place, name in enumerate(names):

        def progress(message, place=place, name=name):
            context.progress(0.15 + 0.85 * place / len(names), f"{name}, {message}")

        options = {"ladder": ladder, "targets": TARGETS, "steps": steps, "progress": progress, "key": map_key}
        if name == "fql":
            result = _one_step(yardstick, density, samples, fit_steps, options, key=score_key)
        else:
            metric = metrics.make(name)
            readings = jax.tree.map(lambda x: x[None], metric.perturbed(field, flow.EMPTY, actions, key=score_key))
            base = transport.BaseActions(jnp.zeros((1, 0)), actions[None], readings)
            result = _entry(yardstick, *frontier.trace(yardstick, metric, base, **options))
        numbers["metrics"][name] = result
    best = [yardstick.best(kl) for kl in (*CURVE, *TARGETS)]
    curve, panels = best[: len(CURVE)], best[len(CURVE) :]
    numbers["optimum"] = {
        "kl": [item.kl for item in curve],
        "gain": [item.gain for item in curve],
        "panels": [{"kl": item.kl, "gain": item.gain} for item in panels],
        "densities": np.stack([item.density for item in panels]),
    }
    return numbers


def _entry(yardstick, rungs, met):
    """A frontier and its panels as numbers."""
    entry = {key: [float(getattr(rung, key)) for rung in rungs] for key in frontier.Measured._fields}
    entry["panels"] = [result._asdict() for _, result in met]
    entry["densities"] = np.stack([yardstick.density_of(moved) for moved, _ in met])
    return entry


def _one_step(yardstick, density, samples, fit_steps, options, *, key):
    """FQL's frontier, with what pure imitation comes to."""
    teacher = {"solver": diffrax.Heun(), "steps": 40}
    pairs = distillation.taught_by_flow(flow.ExactVelocity(density), flow.EMPTY, 2 * samples, key=key, **teacher)
    rungs, met, imitation = frontier.trace_one_step(yardstick, *pairs, imitation=fit_steps, **options)
    return _entry(yardstick, rungs, met) | {"imitation": {"kl": imitation.kl, "off": imitation.off}}


def _panel(ax, numbers, density, vmax):
    """A density over the value's level lines and its peak, with an outline of the behavior."""
    xs, ys = GRID.centers
    grid = np.stack(np.meshgrid(xs, ys), -1)
    image = style.density_panel(ax, xs, ys, np.asarray(density).T, vmax)
    levels = -np.sqrt(np.sum((grid - PEAK) ** 2, -1) + 0.05)
    ax.contour(xs, ys, levels, levels=np.arange(-3.2, 0, 0.4), colors=style.GRAY, linewidths=0.4, alpha=0.55)
    ax.contour(xs, ys, np.asarray(numbers["behavior"]).T, levels=[0.1], colors=style.INK, linewidths=0.6, alpha=0.7)
    ax.plot(*PEAK, marker="*", color="#e69f00", markersize=9, markeredgecolor=style.INK, markeredgewidth=0.5)
    ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], xlim=GRID.x, ylim=GRID.y)
    return image


def draw(numbers: dict) -> Figure:
    """Rows: maps of equal KL; columns: methods and the best possible; below: the behavior, value and strays against KL."""
    names = [name for name in METHODS if name in numbers["metrics"]]
    columns = [*(name for name in SHOWN if name in names), "optimum"]
    rows = [place for place, target in enumerate(numbers["targets"]) if target in SHOWN_TARGETS]
    fig = plt.figure(figsize=((0.3 + 0.25 * len(columns)) * style.WIDTH, 1.02 * style.WIDTH))
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.15, 1])
    axes = top.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    vmax = 1.25 * float(np.max(np.asarray(numbers["behavior"])))
    for column, name in enumerate(columns):
        entry = numbers["optimum"] if name == "optimum" else numbers["metrics"][name]
        for ax, row in zip(axes[:, column], rows, strict=True):
            image = _panel(ax, numbers, np.asarray(entry["densities"])[row], vmax)
            result = entry["panels"][row]
            text = f"KL {result['kl']:.2f}{'' if result.get('one_to_one', True) else ' (folds)'}\n"
            text += f"gain {result['gain']:+.2f}" + (f", off {100 * result['off']:.0f}%" if "off" in result else "")
            ax.set_title(text, fontsize=8, linespacing=1.15)
        axes[-1, column].set_xlabel("action $a_1$")
        label = {"color": style.text_color(name), "fontweight": "bold", "textcoords": "offset points"}
        axes[0, column].annotate(style.METRIC_LABELS[name], (0, 1), (0, 31), xycoords="axes fraction", **label)
    for ax, row in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(f"KL ≈ {numbers['targets'][row]:g} nats\n\naction $a_2$")
    style.shared_colorbar(top, image, axes.ravel(), "density (per squared action unit)")
    style.panel_label(axes[0, 0], "a")
    _draw_frontiers(bottom.subplots(1, 3, width_ratios=[1.05, 1, 1]), numbers, names, vmax)
    return fig


def _draw_frontiers(axes, numbers, names, vmax):
    _panel(axes[0], numbers, numbers["behavior"], vmax)
    axes[0].set(title="the behavior, the value's levels and peak", xlabel="action $a_1$ (action units)")
    axes[0].set_ylabel("action $a_2$ (action units)")
    for name in names:
        entry = numbers["metrics"][name]
        kl, gain, off = (np.asarray(entry[key], float) for key in ("kl", "gain", "off"))
        whole = np.asarray(entry["one_to_one"]).astype(bool)
        for ax, x, y in ((axes[1], kl, gain), (axes[2], gain, 100 * off)):
            ax.plot(x, y, **style.look(name, marker=""))
            look = style.look(name, linestyle="", label="_")
            ax.plot(x[whole], y[whole], **look)
            ax.plot(x[~whole], y[~whole], **look | {"markerfacecolor": "white", "markeredgecolor": look["color"]})
    best = numbers["optimum"]
    axes[1].plot(np.asarray(best["kl"]), np.asarray(best["gain"]), **style.look("optimum", marker=""))
    for target in SHOWN_TARGETS:
        axes[1].axvline(target, color=style.PALE, linewidth=0.8, zorder=0)
    axes[1].set(xscale="log", xlim=(0.004, 2), ylim=(0, 0.5), title="value against KL (open: the map folds)")
    axes[1].set(xlabel="KL to the behavior (nats)", ylabel="value gained (action units)")
    axes[2].axhline(100 * numbers["behavior_off"], color=style.GRAY, linewidth=0.8, zorder=0)
    axes[2].text(
        0.295, 100 * numbers["behavior_off"] + 0.4, "the behavior's own", ha="right", color=style.GRAY, fontsize=8
    )
    axes[2].set(xlim=(0, 0.3), ylim=(0, 30), title="mass off the manifold at equal gain")
    axes[2].set(xlabel="value gained (action units)", ylabel="mass off the manifold (%)")
    axes[1].legend(loc="upper left")
    for ax, letter in zip(axes, "bcd", strict=True):
        style.panel_label(ax, letter)

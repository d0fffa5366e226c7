"""One page that shows what is in a data set: where it has been, what its actions look like, and what each task rewards."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from fdbook.report import style


__all__ = ["coverage", "draw", "marginal"]

FILL = "#8cc6ea"
MET, UNMET = "#d9822b", "#e4e7ea"


def draw(summary: Any) -> Figure:
    """Draws a summary of `fdbook.data.summary`: coverage, marginals of the actions, their correlation, rewards by task."""
    with style.applied():
        fig = Figure(figsize=(style.WIDTH * 1.35, 6.2))
        top, middle, bottom = fig.subfigures(3, 1, height_ratios=(1.35, 0.9, 1.15), hspace=0.02)
        fig.suptitle(
            f"{summary.name}: {summary.transitions:,} transitions in {len(summary.lengths):,} episodes", fontsize=11
        )
        _top(top, summary)
        _marginals(middle, summary)
        _rewards(bottom, summary)
    return fig


def _top(fig, summary):
    """Coverage, the correlation of the actions, and, where episodes have returns of their own, those."""
    extra = [_correlation] + ([_returns] if summary.returns is not None else [])
    axes = fig.subplots(1, len(summary.coverage) + len(extra), squeeze=False)[0]
    for ax, plane in zip(axes, summary.coverage, strict=False):
        coverage(fig, ax, plane)
    for ax, panel in zip(axes[len(summary.coverage) :], extra, strict=True):
        panel(fig, ax, summary)


def coverage(fig: Any, ax: Axes, plane: Any) -> None:
    """How often places were visited, on a logarithmic scale, over the walls of a maze."""
    counts = np.ma.masked_equal(plane.counts, 0)
    image = ax.imshow(
        counts, origin="lower", extent=plane.extent, norm=LogNorm(1, max(2, counts.max())), cmap=style.DENSITY
    )
    if plane.walls is not None:
        walls = np.ma.masked_equal(plane.walls.astype(float), 0)
        ax.imshow(walls, origin="lower", extent=plane.extent, cmap="Grays", vmin=0, vmax=3.2)
    ax.set(title=plane.title, xlabel=f"{plane.axes[0]} (world units)", ylabel=f"{plane.axes[1]} (world units)")
    fig.colorbar(image, ax=ax, label="rows", shrink=0.8)


def _correlation(fig, ax, summary):
    deviation = np.sqrt(np.diag(summary.covariance))
    scale = np.where(deviation > 0, deviation, 1)
    correlation = summary.covariance / scale[:, None] / scale[None]
    image = ax.imshow(correlation, cmap=style.SIGNED, vmin=-1, vmax=1)
    size = len(correlation)
    ticks = range(size) if size <= 8 else range(0, size, 5)
    labels = [str(tick + 1) for tick in ticks]
    ax.set(title="correlation of actions", xticks=ticks, yticks=ticks, xticklabels=labels, yticklabels=labels)
    ax.set(xlabel="coordinate")
    if size <= 5:
        for i, j in np.ndindex(size, size):
            shade = "white" if abs(correlation[i, j]) > 0.6 else style.INK
            ax.text(j, i, f"{correlation[i, j]:.2f}", ha="center", va="center", fontsize=7, color=shade)
    fig.colorbar(image, ax=ax, shrink=0.8)


def _returns(fig, ax, summary):
    ax.hist(summary.returns, 40, color=FILL, histtype="stepfilled")
    ax.set(title="returns of episodes", xlabel="return, as recorded", ylabel="episodes")


def marginal(ax: Axes, summary: Any, coordinate: int) -> float:
    """One coordinate of the actions, with the Gaussian of the same mean and variance; returns a height that shows both."""
    counts = summary.actions[coordinate]
    edges, x = np.linspace(-1, 1, len(counts) + 1), np.linspace(-1, 1, 200)
    density = counts / counts.sum() / (edges[1] - edges[0])
    deviation = max(np.sqrt(summary.covariance[coordinate, coordinate]), 1e-3)
    gaussian = np.exp(-(((x - summary.mean[coordinate]) / deviation) ** 2) / 2) / deviation / np.sqrt(2 * np.pi)
    ax.stairs(density, edges, fill=True, color=FILL)
    ax.plot(x, gaussian, color=style.INK, linewidth=1)
    ax.set(xlabel="action units", xticks=(-1, 0, 1))
    return 1.35 * max(gaussian.max(), np.quantile(density, 0.95))


def _marginals(fig, summary):
    """The marginals of the first eight coordinates."""
    shown = min(8, len(summary.mean))
    axes = fig.subplots(1, shown, sharey=True, squeeze=False)[0]
    tallest = max(marginal(ax, summary, coordinate) for coordinate, ax in enumerate(axes))
    for coordinate, ax in enumerate(axes):
        share = f"{summary.at_bounds[coordinate]:.0%} at ±1" if shown <= 5 else f"{summary.at_bounds[coordinate]:.0%}"
        ax.set(title=f"action {coordinate + 1}: {share}")
    axes[0].set(ylabel="density (per unit)", ylim=(0, tallest))
    if shown < len(summary.mean):
        axes[-1].set_xlabel(f"(of {len(summary.mean)})")


def _rewards(fig, summary):
    """For each task, the share of transitions with each reward, and of episodes with a success."""
    left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
    tasks = [rewards for rewards in summary.rewards if len(rewards.values)]
    if not tasks:
        left.text(0.5, 0.5, "dense rewards", ha="center", va="center", transform=left.transAxes)
        for ax in (left, right):
            ax.set_axis_off()
        return
    names = [_short(rewards, index, len(tasks)) for index, rewards in enumerate(tasks, start=1)]
    rows = np.arange(len(tasks))[::-1]
    values = sorted({value for rewards in tasks for value in rewards.values}, reverse=True)
    ramp = list(style.DENSITY(np.linspace(0.85, 0.12, max(2, len(values)))))
    shades = ([MET, *ramp] if values[0] == 0 else ramp)[: len(values)]
    for row, rewards in zip(rows, tasks, strict=True):
        start, share = 0.0, dict(zip(rewards.values, rewards.counts / rewards.counts.sum(), strict=True))
        for value, shade in zip(values, shades, strict=True):
            left.barh(row, share.get(value, 0.0), left=start, color=shade, height=0.7)
            start += share.get(value, 0.0)
    left.set(yticks=rows, yticklabels=names, xlim=(0, 1), xlabel="share of transitions", title="rewards")
    handles = [left.barh(0, 0, color=shade) for shade in shades]
    shown = range(len(values)) if len(values) <= 6 else sorted({0, 1, len(values) // 2, len(values) - 1})
    left.legend(
        [handles[k] for k in shown],
        [f"{values[k]:g}" for k in shown],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        title="reward",
    )
    episodes = len(summary.lengths)
    right.barh(rows, [1] * len(tasks), color=UNMET, height=0.7)
    right.barh(rows, [rewards.episodes / episodes for rewards in tasks], color=MET, height=0.7)
    for row, rewards in zip(rows, tasks, strict=True):
        met = (
            f"{rewards.episodes:,} of {episodes:,}\n({rewards.successes:,} rows)" if rewards.successes else "no success"
        )
        right.text(1.02, row, met, va="center", fontsize=7)
    right.set(yticks=rows, yticklabels=names, xlim=(0, 1), xlabel="share of episodes", title="episodes with a success")


def _short(rewards, number, tasks):
    return f"task {number}{' *' if rewards.default and tasks > 1 else ''}" if tasks > 1 else "the task"

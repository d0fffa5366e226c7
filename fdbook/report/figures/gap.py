"""What a metric can gain at most over L2: the optimality gap against the condition number, on toys and on the robot.

E15 on its feasible region, with isotropic random gradients and the case in which the bound is attained; then the condition
numbers that occur. A toy's local matrix is E[score score^T] over the actions around a point of its manifold, its pooled one
over all actions. Each is taken of the density itself and, as a flow can read it, of the noised density at t = 0.9 (E5, E6).
The robot's come from the figure "robot": E5 at several times, and the inverse covariance of the flow's actions.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fdbook.checks import Array
from fdbook.geometry import densities, metrics, paths, trust_region
from fdbook.report import style
from fdbook.report.figures import Context


__all__ = ["compute", "draw", "local_matrices", "noised_scores", "random_gap_quantiles"]

TIME = 0.9
ROBOT_TIMES = (0.7, 0.8, 0.9, 0.95)
REACH = 0.15  # standard deviation of the neighborhood of a local matrix, in action units
CENTERS, SAMPLES, READ = 64, 16384, 4096
QUANTILES = (0.1, 0.5, 0.9)
CONDITIONS = np.geomspace(1, 1000, 151)
TIGHT = 10.0
KINDS = {
    "sharp": (style.INK, "of the density of actions itself"),
    "noised": (style.METRIC_COLORS["fisher-exact"], f"of the noised density, as E5 reads it (toys: t = {TIME:g})"),
}


def random_gap_quantiles(condition: Float[Array, "*b"], level: float) -> np.ndarray:
    """The quantile of E15's gap over gradients of random direction in two dimensions, in closed form.

    With the gradient at an angle phi to an axis the gap is (1 + sin^2(2 phi) (k - 1)^2 / (4 k))^(-1/2), phi uniform.
    """
    k = np.asarray(condition, float)
    return 1 / np.sqrt(1 + np.sin(np.pi / 2 * (1 - level)) ** 2 * (k - 1) ** 2 / (4 * k))


@jax.jit
def noised_scores(
    samples: Float[Array, "n d"], t: Float[Array, ""] | float, points: Float[Array, "k d"]
) -> Float[Array, "k d"]:
    """The score of p_t (E5) at each point x (k, d), from n samples of the actions: (t E[a | x] - x) / (1 - t)^2."""

    def score(x):
        distances = jnp.sum((x[None] - t * samples) ** 2, axis=-1)
        shares = jax.nn.softmax(-0.5 * distances / (1 - t) ** 2)
        return (t * (shares @ samples) - x) / (1 - t) ** 2

    return jax.lax.map(score, points, batch_size=256)


@jax.jit
def local_matrices(
    centers: Float[Array, "c d"],
    points: Float[Array, "n d"],
    scores: Float[Array, "n d"],
    reach: Float[Array, ""] | float,
) -> Float[Array, "c d d"]:
    """E[score score^T] around each center: an average over the points, whose weights are Gaussian with deviation `reach`."""

    def matrix(center):
        weights = jax.nn.softmax(-0.5 * jnp.sum((points - center[None]) ** 2, axis=-1) / reach**2)
        return (weights[:, None] * scores).T @ scores

    return jax.lax.map(matrix, centers)


def _measured(conditions, missed_by_random):
    """The quantiles over points or states of a condition number, of the share of the gain that L2 can miss, and the
    median share that it misses for a random gradient."""
    conditions = np.asarray(conditions, float)
    missed = 1 - np.asarray(trust_region.kantorovich_bound(conditions))
    return {
        "condition": np.quantile(conditions, QUANTILES),
        "missed_at_most": np.quantile(missed, QUANTILES),
        "missed_by_random": float(np.median(missed_by_random)),
    }


def _anisotropy(points, centers, scores, gradients):
    """Local and pooled matrices from scores at points; `points` are (condition, gap), one for each center."""
    local = local_matrices(centers, points, scores, REACH)
    conditions, gaps = (
        np.asarray(x, float) for x in (metrics.condition_number(local), trust_region.gap(gradients, local))
    )
    result = _measured(conditions, 1 - random_gap_quantiles(conditions, 0.5))
    pooled = metrics.condition_number(metrics.fisher_matrix(scores))[None]
    result = {
        name: _measured(k, 1 - random_gap_quantiles(k, 0.5)) for name, k in (("local", conditions), ("pooled", pooled))
    }
    return result | {"points": np.stack([np.asarray(conditions, float), gaps], axis=-1)}


def _toy(name, key):
    """A toy's matrices, of its own density ("sharp") and at the perturbed time ("noised")."""
    density = densities.make(name)
    sample_key, read_key, noise_key, gradient_key = jr.split(key, 4)
    samples, actions = density.sample(SAMPLES, key=sample_key), density.sample(READ, key=read_key)
    centers, gradients = actions[:CENTERS], jr.normal(gradient_key, (CENTERS, density.dim), actions.dtype)
    points = paths.interpolate(TIME, jr.normal(noise_key, actions.shape, actions.dtype), actions)
    sharp_scores = jax.jit(jax.vmap(density.score))(actions)
    noised = noised_scores(samples, TIME, points)
    return {
        "sharp": _anisotropy(actions, centers, sharp_scores, gradients),
        "noised": _anisotropy(points, TIME * centers, noised, gradients),
    }


def _random_points(spectra, rng):
    """The condition number of each spectrum (n, d), and the gap of one random gradient: only its lengths along the axes count."""
    spectra = np.asarray(spectra, float)
    weights = rng.normal(size=spectra.shape) ** 2
    gaps = weights.sum(-1) / np.sqrt((weights * spectra).sum(-1) * (weights / spectra).sum(-1))
    return np.stack([spectra.max(-1) / spectra.min(-1), gaps], axis=-1)


def _robot(numbers, rng):
    """The robot's condition numbers over states, from the numbers of the figure "robot": by time, and of its actions."""
    places = [int(np.argmin(np.abs(np.asarray(numbers["times"]) - t))) for t in ROBOT_TIMES]
    missed = 1 - np.asarray(numbers["efficiency"]["l2"], float)
    by_time = {
        f"{t:g}": _measured(numbers["condition_e5"][i], missed[i]) for t, i in zip(ROBOT_TIMES, places, strict=True)
    }
    noised, actions = (_random_points(numbers[name], rng) for name in ("spectrum_e5", "spectrum_precision"))
    sharp = _measured(actions[:, 0], 1 - actions[:, 1])
    return {"by_time": by_time, "sharp": sharp | {"points": actions}, "noised": {"points": noised}}


def _tight():
    """The case that attains the bound: a gradient with equal parts along the stiffest and the softest axis."""
    metric, gradient = jnp.diag(jnp.asarray([1.0, TIGHT])), jnp.asarray([1.0, 1.0])
    best, l2 = (step(gradient, metric, 0.5).delta for step in (trust_region.fisher_step, trust_region.l2_step))
    steps = {"fisher-exact": np.asarray(best), "l2": np.asarray(l2)}
    across = np.asarray([1.0, -1.0]) * 0.28
    return {
        "ellipse": metrics.ellipse(metric, 1.0),
        "steps": steps,
        "levels": {name: np.stack([step - across, step + across]) for name, step in steps.items()},
        "gap": float(trust_region.gap(gradient, metric)),
    }


def compute(context: Context) -> dict:
    """The numbers; those of the figure "robot" are asked for first."""
    robot = _robot(context.numbers("robot"), np.random.default_rng(context.seed))
    toys = {}
    for i, name in enumerate(densities.NAMES):
        context.progress((i + 1) / (len(densities.NAMES) + 1), name)
        toys[name] = _toy(name, key=jr.fold_in(jr.key(context.seed), i))
    return {
        "conditions": CONDITIONS,
        "bound": trust_region.kantorovich_bound(CONDITIONS),
        "random": {f"{level:g}": random_gap_quantiles(CONDITIONS, level) for level in QUANTILES},
        "tight": _tight(),
        "toys": toys,
        "robot": robot,
    }


def draw(numbers: dict) -> Figure:
    """E15's region with what was measured on it; the tight case; condition numbers; and the shares of the gain at stake."""
    fig = plt.figure(figsize=(style.WIDTH, 7.2))
    grid = fig.add_gridspec(2, 2, width_ratios=(1.6, 1), height_ratios=(1.05, 1))
    region, tight = fig.add_subplot(grid[0, 0]), fig.add_subplot(grid[0, 1])
    strips = fig.add_subplot(grid[1, 0], sharex=region)
    shares = fig.add_subplot(grid[1, 1], sharey=strips)
    _draw_region(region, numbers)
    _draw_tight(tight, numbers["tight"])
    rows = _rows(numbers)
    _draw_rows(strips, rows, "condition")
    _draw_rows(shares, rows, "missed_at_most")
    strips.set(xscale="log", xlim=(0.94, 1000), xlabel="condition number of the metric", yticks=range(len(rows)))
    strips.set_yticklabels([label for label, _ in rows])
    strips.set_ylim(len(rows) - 0.4, -0.6)
    strips.xaxis.set_major_formatter("{x:g}")
    shares.set(xlim=(-0.03, 1), xlabel="share of the gain that L2 can miss")
    shares.xaxis.set_major_formatter(PercentFormatter(1.0))
    region.tick_params(labelbottom=False), shares.tick_params(labelleft=False)
    region.set_title("what the L2 step keeps (E15)")
    strips.set_title("condition numbers that occur")
    shares.set_title("what they put at stake")
    for letter, ax in zip("abcd", (region, tight, strips, shares), strict=True):
        style.panel_label(ax, letter)
    _legend(fig)
    return fig


def _legend(fig):
    gray = {"linestyle": "", "color": style.GRAY}
    handles = [
        Line2D([], [], marker="o", label="local matrix: the actions around one point", **gray),
        Line2D([], [], marker="D", label="pooled matrix: all actions of a state", markerfacecolor="white", **gray),
    ]
    handles += [Line2D([], [], color=color, linewidth=3, label=label) for color, label in KINDS.values()]
    bar, tick = {"linestyle": "-", "color": style.GRAY}, {"marker": "|", "markersize": 7, **gray}
    handles.append(Line2D([], [], label="10% to 90% of points or states, and median", **bar))
    handles.append(Line2D([], [], label="d: missed for a random gradient (median)", **tick))
    fig.legend(handles=handles, loc="outside lower center", ncols=2)


def _draw_region(ax, numbers):
    k, bound, random = numbers["conditions"], numbers["bound"], numbers["random"]
    ax.fill_between(k, 0, bound, color=style.PALE, linewidth=0)
    ax.plot(k, bound, color=style.INK, linewidth=1.8)
    low, middle, high = (f"{level:g}" for level in QUANTILES)
    ax.fill_between(k, random[low], random[high], color=style.METRIC_COLORS["l2"], alpha=0.16, linewidth=0)
    ax.plot(k, random[middle], **style.look("l2", marker=None, linewidth=1.1))
    for name, (color, _) in KINDS.items():
        toys = np.concatenate([toy[name]["points"] for toy in numbers["toys"].values()])
        ax.plot(*toys.T, "o", color=color, markersize=2.2, alpha=0.5, markeredgewidth=0)
        robot = {"markerfacecolor": "white", "markeredgecolor": color, "markeredgewidth": 0.6}
        ax.plot(*numbers["robot"][name]["points"].T, "D", markersize=2.6, alpha=0.8, **robot)
    ax.plot([TIGHT], [numbers["tight"]["gap"]], **style.look("exact", markersize=12, linestyle=""))
    ax.set(ylim=(0, 1.02), ylabel="gain of the L2 step / gain of the best step")
    ax.text(1.2, 0.1, "no gradient gets here:\nbelow Kantorovich's bound", fontsize=8)
    ax.text(
        950, 0.69, "random gradients\nin the plane:\n10% to 90%,\nand median", ha="right", fontsize=8, color="#8f3f00"
    )
    ax.annotate(
        "tight case (b)",
        (TIGHT, numbers["tight"]["gap"]),
        (-6, -11),
        ha="right",
        textcoords="offset points",
        fontsize=8,
    )


def _draw_tight(ax, tight):
    ax.plot(*tight["ellipse"].T, color=style.GRAY, linewidth=1)
    for name, step in tight["steps"].items():
        color = style.METRIC_COLORS[name]
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", step, (0, 0), arrowprops=arrow)
        ax.plot(*tight["levels"][name].T, color=color, linewidth=1.1, linestyle=":")
    share = f"{100 * tight['gap']:.0f}%"
    ax.text(0.0, 0.62, f"L2 step, along the gradient:\n{share} of the best gain", ha="center", fontsize=8)
    ax.text(1.2, -0.42, "best step (E13)", ha="right", va="top", fontsize=8)
    ax.text(-1.0, -0.42, "equal KL", va="top", fontsize=8)
    ax.text(
        0.1, -0.85, f"condition number {TIGHT:.0f};\ndotted: lines of equal gain", ha="center", va="top", fontsize=8
    )
    ax.set(aspect="equal", xlim=(-1.1, 1.3), ylim=(-1.25, 1.15))
    ax.set_title("the tight case")
    ax.axis("off")


def _rows(numbers):
    """What each row shows, by its label, from the top."""
    robot = numbers["robot"]
    rows = list(numbers["toys"].items())
    rows += [("robot: actions", {"sharp": {"pooled": robot["sharp"]}})]
    return rows + [
        (f"robot: t = {t:g}", {"noised": {"pooled": robot["by_time"][f"{t:g}"]}}) for t in reversed(ROBOT_TIMES)
    ]


def _draw_rows(ax, rows, quantity):
    """Bars from 10 to 90% with the median over points or states, circles for local matrices and diamonds for pooled ones."""
    toys = sum(not name.startswith("robot") for name, _ in rows)
    ax.axhline(toys - 0.5, color=style.GRAY, linewidth=0.6, linestyle=":")
    for i, (_, row) in enumerate(rows):
        for name, result in row.items():
            for kind, marker in (("local", "o"), ("pooled", "D")):
                if kind in result:
                    _draw_bar(
                        ax, i + {"sharp": -0.17, "noised": 0.17}[name], result[kind], quantity, KINDS[name][0], marker
                    )


def _draw_bar(ax, y, result, quantity, color, marker):
    face = color if marker == "o" else "white"
    low, middle, high = result[quantity]
    ax.plot([low, high], [y, y], color=color, linewidth=1.6)
    ax.plot([middle], [y], marker, color=color, markerfacecolor=face, markersize=4.2, clip_on=False, zorder=3)
    if quantity == "missed_at_most":
        ax.plot([result["missed_by_random"]], [y], "|", color=color, markersize=7, clip_on=False)

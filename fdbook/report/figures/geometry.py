"""The idea in one look: a bent behavior, what a displacement costs there, and two maps of equal KL, under L2 and under Fisher.

A flow is trained here on samples of the banana. Panel a shows samples of it on the exact density; panel b the Fisher matrices
that its score (E5) gives near some actions, as curves of equal cost, beside L2 balls of the same mean cost; panels c and d the
displacements that `transport.fit` learns from one value function under L2 and under the per-action Fisher metric (E11).
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from fdbook.checks import Array
from fdbook.geometry import densities, flow, frontier, metrics, transport
from fdbook.report import style
from fdbook.report.figures import Context


__all__ = ["compute", "draw", "local_fisher", "value"]

PEAK = np.array([1.65, 1.65], np.float32)
TARGET_KL = 0.25
COST = 0.2  # nats, on the curves of panel b
TIME = 0.9
GRID = frontier.Grid((-1.95, 2.05), (-0.85, 2.05), (160, 116))
STRETCH = 2  # arrows are drawn this many times as long as the displacement
SHOWN = ("l2", "fisher-paper")


def value(observation: Float[Array, " n"], action: Float[Array, "2"]) -> Float[Array, ""]:
    """Minus the distance to a peak beyond the right arm, rounded at the tip."""
    return -jnp.sqrt(jnp.sum((action - PEAK.astype(action.dtype)) ** 2) + 0.05)


def local_fisher(
    scores: Float[Array, "n d"], actions: Float[Array, "n d"], center: Float[Array, " d"], bandwidth: float = 0.12
) -> Float[Array, "d d"]:
    """The mean of score score^T over actions near `center` (2,), with Gaussian weights of the given bandwidth (action units)."""
    weights = jnp.exp(-0.5 * jnp.sum((actions - center[None]) ** 2, -1) / bandwidth**2)
    return jnp.einsum("n,ni,nj->ij", weights / jnp.sum(weights), scores, scores)


def compute(
    context: Context, *, samples: int = 20_000, fit_steps: int = 8_000, steps: int = 300, crowd: int = 400_000
) -> dict:
    """Samples, local Fisher matrices (per squared action unit), and two maps of equal KL with their moved densities."""
    context.progress(0.0, "training the flow")
    data_key, init_key, fit_key, noise_key, score_key, yard_key, map_key = jr.split(jr.key(context.seed), 7)
    density = densities.make("banana")
    actions = density.sample(samples, key=data_key)
    field, losses = flow.fit(
        flow.VelocityField(0, 2, 128, 3, key=init_key),
        actions,
        key=fit_key,
        steps=fit_steps,
        batch_size=512,
        learning_rate=2e-3,
        progress=False,
    )
    noises = flow.noise(field, 800, key=noise_key)
    drawn = jax.jit(jax.vmap(lambda z: flow.sample(field, flow.EMPTY, z, steps=50)))(noises)
    # E5 gives the gradient with respect to x_t, close to t a: times t it is per action unit.
    scores = TIME * metrics.perturbed_scores(field, flow.EMPTY, actions, key=score_key, t=TIME)
    along = jnp.linspace(-1.14, 1.14, 7)
    centers = jax.vmap(density.warp.forward)(jnp.stack([along, jnp.zeros(7)], 1))
    matrices = jax.vmap(lambda center: local_fisher(scores, actions, center))(centers)
    numbers = {"behavior": None, "samples": np.asarray(drawn), "centers": np.asarray(centers)}
    numbers |= {"matrices": np.asarray(matrices), "condition": np.asarray(metrics.condition_number(matrices))}
    numbers |= {"ball": float(jnp.mean(jax.vmap(jnp.trace)(matrices)) / 2), "loss": float(np.mean(losses[-500:]))}
    yardstick = frontier.Yardstick(density, value, GRID, key=yard_key, crowd=crowd)
    numbers["behavior"] = yardstick.mass / GRID.area
    starts = jax.vmap(density.warp.forward)(jnp.stack([jnp.linspace(-1.3, 1.3, 11), jnp.zeros(11)], 1))
    numbers["starts"] = np.asarray(starts)
    for place, name in enumerate(SHOWN):

        def progress(message, place=place, name=name):
            context.progress(0.3 + 0.35 * place, f"{name}, {message}")

        base = transport.BaseActions(jnp.zeros((1, 0)), actions[None], scores[None])
        _, [(moved, result)] = frontier.trace(
            yardstick, metrics.make(name), base, key=map_key, targets=(TARGET_KL,), steps=steps, progress=progress
        )
        ends = jax.vmap(lambda a, moved=moved: moved(flow.EMPTY, a))(starts)
        numbers[name] = {"found": result._asdict(), "ends": np.asarray(ends), "density": yardstick.density_of(moved)}
    return numbers


def _axes(ax, numbers, density, vmax):
    xs, ys = GRID.centers
    image = style.density_panel(ax, xs, ys, np.asarray(density).T, vmax)
    ax.set(xticks=[-1, 0, 1, 2], yticks=[0, 1, 2], xlim=(-1.75, 1.85), ylim=(-0.6, GRID.y[1]))
    return image


def _outline(ax, numbers):
    xs, ys = GRID.centers
    ax.contour(xs, ys, np.asarray(numbers["behavior"]).T, levels=[0.06], colors=style.INK, linewidths=0.6, alpha=0.7)


def draw(numbers: dict) -> Figure:
    """Four panels on one density scale: samples, displacements of equal price, and two maps of equal KL."""
    fig, axes = plt.subplots(2, 2, figsize=(1.35 * style.WIDTH, 1.02 * style.WIDTH), sharex=True, sharey=True)
    vmax = float(np.max(np.asarray(numbers["behavior"])))
    (samples, costs), maps = axes
    image = _axes(samples, numbers, numbers["behavior"], vmax)
    samples.plot(
        *np.asarray(numbers["samples"]).T, ".", color="#d55e00", markersize=2.2, alpha=0.7, label="actions of the flow"
    )
    samples.legend(loc="upper center", markerscale=5)
    samples.set_title("the behavior: thin, bent")
    _axes(costs, numbers, numbers["behavior"], vmax)
    _costs(costs, numbers)
    for ax, name in zip(maps, SHOWN, strict=True):
        _map(ax, numbers, name, vmax)
        ax.set_xlabel("action $a_1$ (action units)")
    for ax in axes[:, 0]:
        ax.set_ylabel("action $a_2$ (action units)")
    style.shared_colorbar(fig, image, axes.ravel(), "density (per squared action unit)")
    for ax, letter in zip(axes.ravel(), "abcd", strict=True):
        style.panel_label(ax, letter)
    return fig


def _costs(ax, numbers):
    for center, matrix in zip(numbers["centers"], numbers["matrices"], strict=True):
        style.ellipse(
            ax, center, np.eye(2) * numbers["ball"], 2 * COST, edgecolor=style.METRIC_COLORS["l2"], linestyle="--"
        )
        style.ellipse(ax, center, matrix, 2 * COST, edgecolor=style.METRIC_COLORS["fisher-paper"], linewidth=1.6)
    for name, label in (("fisher-paper", "Fisher: cheap along, costly across"), ("l2", "L2: the same everywhere")):
        ax.plot([], [], color=style.METRIC_COLORS[name], linestyle="-" if name != "l2" else "--", label=label)
    ax.legend(loc="upper center")
    ax.set_title(f"displacements priced at {COST:g} nats")


def _map(ax, numbers, name, vmax):
    entry, starts = numbers[name], np.asarray(numbers["starts"])
    _axes(ax, numbers, entry["density"], vmax)
    _outline(ax, numbers)
    arrows = STRETCH * (np.asarray(entry["ends"]) - starts)
    ax.quiver(
        *starts.T,
        *arrows.T,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.006,
        headwidth=3,
        headlength=2.2,
        headaxislength=2.2,
        color=style.METRIC_COLORS[name],
        edgecolor="white",
        linewidth=0.4,
        zorder=3,
    )
    ax.plot(*PEAK, marker="*", color="#e69f00", markersize=12, markeredgecolor=style.INK, markeredgewidth=0.5)
    ax.annotate("value peaks here", PEAK, (-24, 0), textcoords="offset points", ha="right", va="center", fontsize=8)
    result = entry["found"]
    title = {"l2": "moved under L2", "fisher-paper": "moved under Fisher"}[name]
    ax.text(0.45, 0.93, f"arrows: displacement × {STRETCH}", transform=ax.transAxes, ha="center", fontsize=8)
    ax.set_title(f"{title}: KL {result['kl']:.2f} nats, gain {result['gain']:+.2f}", color=style.INK)

"""How good is the score that is read from a velocity: E5, learned and exact, by perturbed time, and E7 beside it.

On two mixtures, whose velocity and score are known: the error of the score at the actions, split into the blur of t (the
error with the exact velocity) and the network's own; its direction; and the error of the trace-normalized Fisher matrix
(E24) that a metric builds from noised actions. Then, in closed form, what E7 makes of Gaussians N(mu, Sigma).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from fdbook.checks import Array
from fdbook.geometry import densities, flow, metrics, paths
from fdbook.geometry.densities import GaussianMixture
from fdbook.report import style
from fdbook.report.figures import Context


__all__ = ["compute", "draw", "errors", "released_charges", "second_moments"]

MANIFOLDS = ("moons", "crossing")
TIMES = np.unique(np.concatenate([1 - np.geomspace(0.7, 0.01, 19), [0.9]]))
PAPER, RELEASED = (0.7, 0.9), (0.85, 0.90)  # perturbed times of the paper and of the released scripts
DATA, ACTIONS, DRAWS = 100_000, 4096, 8
WIDTH, DEPTH, STEPS, BATCH, RATE = 128, 3, 6000, 512, 2e-3
TIME = 0.9
STIFF, SOFT = 0.1, 0.3  # standard deviations of the Gaussian whose mean is moved
LENGTHS, ANGLES = np.linspace(0, 1.2, 121), np.linspace(0, 90, 91)
SHOWN_ANGLES = (0, 30, 60, 90)
PAPER_SHADE, RELEASED_SHADE = "#ececec", "#d2d2d2"
WIDTHS = np.geomspace(0.02, 1, 200)


def _directions(score, truth):
    """The mean cosine between two fields at the same points."""
    lengths = jnp.linalg.norm(score, axis=-1) * jnp.linalg.norm(truth, axis=-1)
    return jnp.mean(jnp.sum(score * truth, axis=-1) / lengths)


@eqx.filter_jit
def _at_actions(density, field, t, actions):
    """E5 and E7 in the units of actions, t times the field's score at x = t a: what they make of the score at a."""
    points = t * actions
    velocities = jax.vmap(lambda x: field(t, flow.EMPTY, x))(points)
    return t * paths.score_from_velocity(t, points, velocities), t * paths.released_score(t, velocities)


@eqx.filter_jit
def _matrices(field, t, actions, key):
    """The trace-normalized Fisher matrices of E5 and E7 at noised actions, DRAWS noises for each."""
    actions = jnp.tile(actions, (DRAWS, 1))
    points = paths.interpolate(t, jr.normal(key, actions.shape, actions.dtype), actions)
    velocities = jax.vmap(lambda x: field(t, flow.EMPTY, x))(points)
    scores = paths.score_from_velocity(t, points, velocities), paths.released_score(t, velocities)
    return tuple(metrics.normalize_trace(metrics.fisher_matrix(score)) for score in scores)


def errors(
    density: GaussianMixture,
    field: paths.Velocity,
    actions: Float[Array, "n d"],
    times: Sequence[float] | Float[Array, " times"],
    *,
    key: PRNGKeyArray,
) -> dict[str, np.ndarray]:
    """What E5 and E7 miss at each time, against the density's own score and Fisher matrix at the actions.

    `total` is the error of E5 from the field, `blur` from the exact velocity, `network` their difference, `released` that
    of E7 from the exact velocity: root mean squares over that of the true score. `cosine_*` are mean cosines, and
    `matrix_*` relative Frobenius errors, with the field, with the exact velocity, and of E7 with the exact velocity.
    """
    truth = jax.jit(jax.vmap(density.score))(actions)
    exact_matrix = metrics.normalize_trace(metrics.fisher_matrix(truth))
    size, exact = jnp.sqrt(jnp.mean(truth**2)), flow.ExactVelocity(density)
    rows = []
    for t in times:
        t = jnp.asarray(t, actions.dtype)
        (learned, _), (ideal, released) = (_at_actions(density, f, t, actions) for f in (field, exact))
        differences = {"total": learned - truth, "blur": ideal - truth, "network": learned - ideal}
        differences |= {"released": released - truth}
        row = {name: jnp.sqrt(jnp.mean(value**2)) / size for name, value in differences.items()}
        scores = {"learned": learned, "exact": ideal, "released": released}
        row |= {f"cosine_{name}": _directions(score, truth) for name, score in scores.items()}
        result = {"learned": _matrices(field, t, actions, key)[0]}
        result["exact"], result["released"] = _matrices(exact, t, actions, key)
        row |= {
            f"matrix_{name}": jnp.linalg.norm(m - exact_matrix) / jnp.linalg.norm(exact_matrix)
            for name, m in result.items()
        }
        rows.append(row)
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def second_moments(
    mean: Float[Array, "*b d"], variances: Float[Array, "*b d"], t: float
) -> tuple[Float[Array, "*b d d"], Float[Array, "*b d d"], Float[Array, "*b d d"]]:
    """For N(mean, diag(variances)): its Fisher matrix, and the second moments of E5 and of E7 at time t in (0, 1).

    With C = t^2 Sigma + (1 - t)^2 I they are Sigma^-1, C^-1 and ((t Sigma - (1 - t) I)^2 C^-1 + mean mean^T) / (1 - t)^2.
    """
    mean, variances = np.asarray(mean, float), np.asarray(variances, float)
    eye = np.eye(variances.shape[-1])
    noised = t**2 * variances + (1 - t) ** 2
    pull = (t * variances - (1 - t)) ** 2 / noised
    outer = mean[..., :, None] * mean[..., None, :]
    released = (pull[..., None] * eye + outer) / (1 - t) ** 2
    return eye / variances[..., None], eye / noised[..., None], released


def _sweep():
    """E7 on a Gaussian whose mean has each length, in action units, and each angle, in degrees, to the stiff axis."""
    lengths, angles = np.meshgrid(LENGTHS, np.radians(ANGLES))
    means = lengths[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    truth, exact, released = second_moments(means, np.broadcast_to([STIFF**2, SOFT**2], means.shape), TIME)
    stiffest = np.linalg.eigh(released)[1][..., -1]
    rows = [int(np.argmin(np.abs(ANGLES - angle))) for angle in SHOWN_ANGLES]
    ratio = {
        "truth": truth[..., 0, 0] / truth[..., 1, 1],
        "exact": exact[..., 0, 0] / exact[..., 1, 1],
        "released": released[..., 0, 0] / released[..., 1, 1],
    }
    return {
        "lengths": LENGTHS / SOFT,
        "angles": ANGLES,
        "ratio": ratio["released"],
        "ratio_truth": float(ratio["truth"][0, 0]),
        "ratio_exact": float(ratio["exact"][0, 0]),
        "alignment": np.abs(stiffest[rows, :, 0]),
    }


def released_charges(widths: Float[Array, " n"], t: float) -> dict[str, Array]:
    """What an axis of each standard deviation is charged at zero mean, per squared action unit: truly, by E5 and by E7."""
    truth, exact, released = second_moments(np.zeros((len(widths), 1)), np.asarray(widths)[:, None] ** 2, t)
    return {"truth": truth[:, 0, 0], "exact": exact[:, 0, 0], "released": released[:, 0, 0]}


def _learn(density, key):
    """A flow trained on samples of the density, and further samples."""
    data_key, network_key, fit_key, test_key = jr.split(key, 4)
    draw = eqx.filter_jit(lambda n, key: density.sample(n, key=key))
    field = flow.VelocityField(0, density.dim, WIDTH, DEPTH, key=network_key)
    options = {"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE, "progress": False}
    field, _ = flow.fit(field, draw(DATA, data_key), key=fit_key, **options)
    return field, draw(ACTIONS, test_key)


def compute(context: Context) -> dict:
    """The numbers, by manifold, and the closed forms of E7."""
    result: dict[str, dict] = {}
    for i, name in enumerate(MANIFOLDS):
        context.progress(i / len(MANIFOLDS), f"training on {name}")
        density, key = densities.make(name), jr.fold_in(jr.key(context.seed), i)
        field, actions = _learn(density, key)
        context.progress((i + 0.7) / len(MANIFOLDS), f"reading scores on {name}")
        result[name] = errors(density, field, actions, TIMES, key=key)
        best = int(np.argmin(result[name]["total"]))
        result[name] |= {"best_time": float(TIMES[best]), "best_error": float(result[name]["total"][best])}
    charges = {"widths": WIDTHS, **released_charges(WIDTHS, TIME), "turn": np.sqrt((1 - TIME) / TIME)}
    return {"times": TIMES, "manifolds": result, "sweep": _sweep(), "charges": charges}


LINES = {
    "exact": {"color": style.INK, "linestyle": "--", "linewidth": 1.1, "label": "E5, exact velocity: blur alone"},
    "learned": {"color": style.METRIC_COLORS["fisher-exact"], "linewidth": 2, "label": "E5, learned velocity"},
    "network": {
        "color": style.METRIC_COLORS["fisher-exact"],
        "linestyle": ":",
        "label": "the network's part of its error",
    },
    "released": {**style.look("fisher-released", marker=None), "label": "E7, exact velocity"},
}
PANELS = (
    (
        "the score",
        "relative error",
        {"exact": "blur", "network": "network", "learned": "total", "released": "released"},
    ),
    ("its direction", "mean cosine", {name: f"cosine_{name}" for name in ("exact", "learned", "released")}),
    (
        "its Fisher matrix",
        "relative error",
        {name: f"matrix_{name}" for name in ("exact", "learned", "released")},
    ),
)
AXES = ({"yscale": "log", "ylim": (0.004, 12)}, {"ylim": (-0.12, 1.04)}, {"ylim": (0, 0.78)})


def draw(numbers: dict) -> Figure:
    """Errors against time for two mixtures, and what E7 makes of a Gaussian's widths, its mean's length and direction."""
    fig, axes = plt.subplots(3, 3, figsize=(style.WIDTH, 7.2))
    for i, name in enumerate(MANIFOLDS):
        for ax, (title, label, lines), scale in zip(axes[i], PANELS, AXES, strict=True):
            _draw_times(ax, numbers["times"], numbers["manifolds"][name], lines)
            ax.set(title=f"{name}: {title}", ylabel=label, xlabel="perturbed time t", **scale)
    for ax, draw_one in zip(axes[2], (_draw_charges, _draw_phases, _draw_alignment), strict=True):
        draw_one(ax, numbers)
    for letter, ax in zip("abcdefghi", axes.ravel(), strict=True):
        style.panel_label(ax, letter)
    handles = [Line2D([], [], **line) for line in LINES.values()]
    shades = [
        Patch(color=PAPER_SHADE, label="times the paper uses"),
        Patch(color=RELEASED_SHADE, label="released scripts"),
    ]
    fig.legend(handles=[*handles, *shades], loc="outside upper center", ncols=3)
    return fig


def _draw_times(ax, times, result, lines):
    ax.axvspan(*PAPER, color=PAPER_SHADE, linewidth=0)
    ax.axvspan(*RELEASED, color=RELEASED_SHADE, linewidth=0)
    for line, quantity in lines.items():
        ax.plot(times, result[quantity], **LINES[line])
    if "total" in lines.values():
        ax.plot([result["best_time"]], [result["best_error"]], "o", color=LINES["learned"]["color"], markersize=5)
        text = f"smallest at t = {result['best_time']:.2f}"
        ax.annotate(text, (0.98, 0.03), xycoords="axes fraction", fontsize=7.5, ha="right")
    ax.set_xscale("function", functions=(lambda t: -np.log(1 - np.minimum(t, 0.999)), lambda u: 1 - np.exp(-u)))
    ticks = (0.5, 0.7, 0.9, 0.95, 0.99)
    ax.set_xlim(TIMES[0], TIMES[-1])
    ax.xaxis.set(major_locator=FixedLocator(ticks), minor_locator=NullLocator(), major_formatter="{x:g}")


def _draw_charges(ax, numbers):
    charges = numbers["charges"]
    for name, look in (("truth", "exact"), ("exact", "fisher-exact"), ("released", "fisher-released")):
        label = {"truth": "truth", "exact": "E5", "released": "E7"}[name]
        ax.plot(charges["widths"], charges[name], **style.look(look, marker=None, label=label, linewidth=1.8))
    ax.set(xscale="log", yscale="log", ylim=(0.05, 3000), xlim=(WIDTHS[0], WIDTHS[-1]))
    ax.set(xlabel="width of an axis (action units)", ylabel="stiffness (1 / action unit²)")
    ax.set_title(f"stiffness (mean 0, t = {TIME})")
    ax.xaxis.set(
        major_locator=FixedLocator((0.03, 0.1, 0.3, 1)), major_formatter="{x:g}", minor_formatter=NullFormatter()
    )
    ax.annotate(
        "E7 reads\nnothing here",
        (charges["turn"] * 0.97, 0.1),
        (0.065, 0.35),
        fontsize=7.5,
        ha="center",
        va="center",
        arrowprops={"arrowstyle": "-", "color": style.INK, "linewidth": 0.7, "shrinkA": 1},
    )
    ax.legend(loc="upper right")


def _draw_phases(ax, numbers):
    sweep, truth = numbers["sweep"], numbers["sweep"]["ratio_truth"]
    grid, line = (sweep["lengths"], sweep["angles"], sweep["ratio"]), {"linewidths": 1.1, "linestyles": "-"}
    ax.contourf(*grid, levels=(0, 1, truth, 1e4), colors=("#e8b9d1", "#f6f6f6", "#dedede"))
    ax.contour(*grid, levels=(1, truth), colors=style.INK, **line)
    ax.contour(*grid, levels=(sweep["ratio_exact"],), colors=style.METRIC_COLORS["fisher-exact"], **line)
    ax.set(xlabel=f"|mean| / soft width of {SOFT}", ylabel="angle to the stiff axis (°)")
    ax.set(title=f"E7: stiff / soft (truth {truth:.0f})", xlim=(0, 4), yticks=(0, 30, 60, 90))
    words = {
        "too large": (0.9, 10),
        "reversed:\nbelow 1": (3.2, 78),
        "too small": (3.2, 41),
        f"E5: {sweep['ratio_exact']:.1f}": (1.8, 62),
    }
    for text, place in words.items():
        ax.text(*place, text, fontsize=7.5, ha="center", va="center")
    ax.text(3.9, 18, f"right: {truth:.0f}", fontsize=7.5, ha="right", va="top")


def _draw_alignment(ax, numbers):
    sweep, color = numbers["sweep"], style.METRIC_COLORS["fisher-released"]
    for angle, row, dashes in zip(SHOWN_ANGLES, sweep["alignment"], ("-", "--", "-.", ":"), strict=True):
        ax.plot(sweep["lengths"], row, color=color, linestyle=dashes, label=f"{angle}°")
    ax.set(xlabel=f"|mean| / soft width of {SOFT}", ylabel="|cos| with the true one", ylim=(-0.03, 1.05))
    ax.set_title("E7's stiffest axis")
    ax.legend(title="mean's angle", title_fontsize=8)

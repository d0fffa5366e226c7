"""The exact KL of a displacement against its second-order forms and L2: the error by size, and where each form is blind.

Six displacements of two bent manifolds, scaled to a size, the root mean square length: E9 (exact), E10 (complete second
order), E11 (the paper's form) and L2, made comparable by the density's mean stiffness: 1/2 (tr F / d) E|delta|^2 in nats.
"""

from collections.abc import Callable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter

from fdbook.checks import Array
from fdbook.geometry import densities, metrics, transport
from fdbook.geometry.densities import Nodes, Shear, Warped
from fdbook.geometry.transport import LocalTransport
from fdbook.report import style
from fdbook.report.figures import Context


__all__ = ["compare", "compute", "displacements", "divergences", "draw", "grid", "slope"]

MANIFOLDS = ("banana", "ridge")
KINDS = ("translation", "tangent", "normal", "scaling", "learned, E10", "learned, E11")
LABELS = {
    "exact": "E9, exact KL",
    "l2": "L2 with the mean stiffness",
    "fisher-rao": "E10, complete (Fisher-Rao)",
    "fisher-paper": "E11, without div delta (paper)",
}
ERRORS = "error on the banana: E10's falls as size³ or faster, L2's and (but for translations) E11's only as size²"
RATIOS = "ratio: E11 and L2 misjudge motion along the manifold; training under E11 finds what it leaves out"
FORMS = ("fisher-rao", "fisher-paper", "l2")
SIZES = np.geomspace(1e-4, 0.3, 22)
GOALS = {"banana": (0.9, 0.4), "ridge": (0.45, 0.3)}
WINDOWS = {"banana": ((-1.7, 1.9), (-0.7, 1.8)), "ridge": ((-1.7, 1.9), (-0.95, 1.05))}
RAW, MULTIPLIER = {"damping": 0.0, "trace_normalized": False}, 1.0
FITTED = 3.5e-4  # slopes are those of sizes up to this one
EAST = (np.cos(np.pi / 6).item(), np.sin(np.pi / 6).item())  # of the translation
SPAN = 7.5  # standard deviations of a component that the quadrature covers


def grid(density: Warped, points: int = 110) -> Nodes:
    """The trapezoidal rule with `points` x `points` / 2 nodes in the straight plane of a bent density, which it carries over.

    Its error falls exponentially with `points` also where Gauss-Hermite suffers: at the poles of a unit tangent field.
    """
    points, weights = _straight(density, points)
    kept = weights > 1e-12 * jnp.max(weights)
    return Nodes(points[kept], weights[kept] / jnp.sum(weights[kept]))


@eqx.filter_jit
def _straight(density, points):
    """The nodes, and the density there."""
    base = density.base
    reach = SPAN * jnp.sqrt(jnp.diagonal(base.covariances, axis1=1, axis2=2))
    low, high = jnp.min(base.means - reach, axis=0), jnp.max(base.means + reach, axis=0)
    axes = jnp.meshgrid(jnp.linspace(low[0], high[0], points), jnp.linspace(low[1], high[1], points // 2))
    straight = jnp.stack(axes, axis=-1).reshape(-1, 2)
    return jax.vmap(density.warp.forward)(straight), jnp.exp(jax.vmap(base.log_prob)(straight))


def displacements(
    density: Warped, goal: tuple[float, float], *, key: PRNGKeyArray, steps: int = 2000
) -> dict[str, Callable]:
    """The six displacement fields delta(observation, action) of a sheared density, of any size.

    The learned ones are `transport.fit` for minus the squared distance to a goal, under E10 and under E11.
    """
    slope = jax.grad(cast(Shear, density.warp).bend)

    def tangent(observation, action):
        along = jnp.stack([jnp.ones_like(action[0]), slope(action[0])])
        return along / jnp.linalg.norm(along)

    def normal(observation, action):
        along = tangent(observation, action)
        return jnp.stack([-along[1], along[0]])

    return {
        "translation": lambda observation, action: jnp.asarray(EAST, action.dtype),
        "tangent": tangent,
        "normal": normal,
        "scaling": lambda observation, action: action,
        "learned, E10": _learned(density, metrics.FisherRao(**RAW), jnp.asarray(goal), key, steps),
        "learned, E11": _learned(density, metrics.Fisher(pooled=False, **RAW), jnp.asarray(goal), key, steps),
    }


def _learned(density, metric, goal, key, steps):
    network_key, base_key, fit_key = jr.split(key, 3)
    base = eqx.filter_jit(transport.base_from_density)(density, 4096, key=base_key)
    fitted, _ = transport.fit(
        LocalTransport(transport.Displacement(0, 2, 32, key=network_key)),
        lambda observation, action: -jnp.sum((action - goal) ** 2),
        metric,
        base,
        key=fit_key,
        multiplier=MULTIPLIER,
        steps=steps,
        batch_size=256,
        learning_rate=3e-3,
        progress=False,
    )
    weights, rest = eqx.partition(fitted.delta, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda leaf: leaf.astype(goal.dtype), weights), rest)


def divergences(density: Warped, field: Callable, sizes: Float[Array, " n"], nodes: Nodes) -> dict[str, np.ndarray]:
    """E9, E10, E11 and L2 in nats, one for each size, of a field scaled to that root mean square length in action units.

    NaN where the scaled map folds at a node.
    """
    result = {
        form: np.array(values) for form, values in _divergences(density, field, jnp.asarray(sizes), nodes).items()
    }
    folds = ~(result.pop("determinant") > 0)
    for values in result.values():
        values[folds] = np.nan
    return result


@eqx.filter_jit
def _divergences(density, field, sizes, nodes):
    """The forms of E9 to E11 and L2, and the smallest determinant of the map, which counts for nothing unless positive."""
    empty = jnp.zeros(0)
    lengths = jax.vmap(lambda a: jnp.sum(field(empty, a) ** 2))(nodes.points)
    stiffness = nodes.mean(jnp.sum(jax.vmap(density.score)(nodes.points) ** 2, axis=-1)) / 2
    unit = 1 / jnp.sqrt(nodes.mean(lengths))
    derivatives = unit * jax.vmap(lambda a: jax.jacfwd(field, argnums=1)(empty, a))(nodes.points)

    def at(size):
        determinant = jnp.min(jnp.linalg.det(jnp.eye(2)[None] + size * derivatives))
        allowed = unit * jnp.where(determinant > 0, size, 0.0)
        moved = LocalTransport(lambda observation, action: allowed * field(observation, action))
        some = (transport.kl_exact, transport.kl_second_order, transport.kl_fisher)
        exact, complete, paper = (form(moved, density, nodes, empty) for form in some)
        l2 = 0.5 * stiffness * size**2
        return {"exact": exact, "fisher-rao": complete, "fisher-paper": paper, "l2": l2, "determinant": determinant}

    return jax.lax.map(at, sizes)


def slope(sizes: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"]) -> float:
    """The least-squares slope of log error against log size; NaN where the error is rounding, or zero."""
    good = np.isfinite(errors) & (errors > 0)
    return float(np.polyfit(np.log(sizes[good]), np.log(errors[good]), 1)[0]) if good.sum() > 1 else float("nan")


def compare(density: Warped, field: Callable, sizes: Float[Array, " n"], nodes: Nodes) -> dict:
    """The KL by each form, its absolute error, its ratio to the exact KL, and the slopes of the errors at small sizes."""
    kl = divergences(density, field, sizes, nodes)
    errors = {form: np.abs(kl[form] - kl["exact"]) for form in FORMS}
    small = np.asarray(sizes) <= FITTED * (1 + 1e-9)
    return {
        "kl": kl,
        "error": errors,
        "ratio": {form: kl[form] / kl["exact"] for form in FORMS},
        "slope": {form: slope(np.asarray(sizes)[small], errors[form][small]) for form in FORMS},
    }


def _picture(density, fields, window, n=90):
    """The density on a grid, and arrows of each field, the longest of length 1, along the middle of the manifold."""
    (left, right), (low, high) = window
    xs, ys = np.linspace(left, right, n), np.linspace(low, high, round(n * (high - low) / (right - left)))
    points = jnp.asarray(np.stack(np.meshgrid(xs, ys), axis=-1))
    on, values, arrows = _sketch(density, fields, points)
    return {
        "xs": xs,
        "ys": ys,
        "density": np.asarray(values),
        "at": np.asarray(on),
        "arrows": {kind: np.asarray(arrow) for kind, arrow in arrows.items()},
    }


@eqx.filter_jit
def _sketch(density, fields, points):
    along = jnp.linspace(-1.3, 1.3, 9)
    on = jax.vmap(density.warp.forward)(jnp.stack([along, jnp.zeros_like(along)], axis=-1))
    arrows = {kind: jax.vmap(field, in_axes=(None, 0))(jnp.zeros(0), on) for kind, field in fields.items()}
    longest = {kind: jnp.max(jnp.linalg.norm(arrow, axis=-1)) for kind, arrow in arrows.items()}
    values = jnp.exp(jax.vmap(jax.vmap(density.log_prob))(points))
    return on, values, {kind: arrow / longest[kind] for kind, arrow in arrows.items()}


def compute(context: Context) -> dict:
    """The numbers, in float64 whatever the process's default is."""
    out = {"sizes": SIZES, "manifolds": {}}
    with jax.enable_x64(True):
        for i, name in enumerate(MANIFOLDS):
            context.progress(i / len(MANIFOLDS), name)
            density = densities.make(name)
            fields = displacements(density, GOALS[name], key=jr.fold_in(jr.key(context.seed), i))
            nodes = grid(density)
            result = {kind: compare(density, field, SIZES, nodes) for kind, field in fields.items()}
            out["manifolds"][name] = {"kinds": result, "picture": _picture(density, fields, WINDOWS[name])}
    return out


def draw(numbers: dict) -> Figure:
    """One column for each displacement: its pictures, the absolute errors, and the ratios to the exact KL."""
    fig, axes = plt.subplots(4, len(KINDS), figsize=(1.1 * style.WIDTH, 7.2), height_ratios=(0.75, 0.6, 1.75, 1.75))
    for column, kind in enumerate(KINDS):
        result = [numbers["manifolds"][name]["kinds"][kind] for name in MANIFOLDS]
        for ax, name in zip(axes[:2, column], MANIFOLDS, strict=True):
            _draw_field(ax, numbers["manifolds"][name]["picture"], kind)
        _draw_errors(axes[2, column], numbers["sizes"], result[0])
        _draw_ratios(axes[3, column], numbers["sizes"], *result)
        axes[0, column].set_title(kind)
        for ax in axes[2:, column]:
            ax.set(xscale="log", yscale="log", xticks=(1e-4, 1e-2))
            ax.xaxis.set(minor_locator=FixedLocator((1e-3, 1e-1)), minor_formatter=NullFormatter())
            ax.label_outer()
    for ax, label in zip(axes[:, 0], (*MANIFOLDS, "|form − exact KL| (nats)", "form / exact KL"), strict=True):
        ax.set_ylabel(label)
    _scale_bar(axes[0, 0])
    fig.align_ylabels(axes[2:, 0])
    for row, (letter, title) in {0: ("a", ""), 2: ("b", ERRORS), 3: ("c", RATIOS)}.items():
        style.panel_label(axes[row, 0], letter)
        place = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes[row, 0].annotate(title, (0, 1), (3, 5), **place).set_in_layout(False)
    fig.supxlabel("size of the displacement: root mean square length (units of the action box)", fontsize=9)
    _legend(fig)
    return fig


def _legend(fig):
    handles = [Line2D([], [], **style.look(form, marker=None, label=label)) for form, label in LABELS.items()]
    widths = {"banana": 1.6, "ridge": 0.8}
    handles += [Line2D([], [], color=style.GRAY, linewidth=width, label=name) for name, width in widths.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=3)


def _draw_field(ax, picture, kind):
    style.density_panel(ax, picture["xs"], picture["ys"], picture["density"], picture["density"].max())
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 2.0, "width": 0.02, "color": style.INK}
    ax.quiver(*picture["at"].T, *picture["arrows"][kind].T, **arrows)
    ax.set(xticks=[], yticks=[])


def _scale_bar(ax):
    ax.plot([-0.4, 0.6], [1.3, 1.3], color=style.INK, linewidth=1.5)
    ax.annotate("1 unit", (0.1, 1.22), ha="center", va="top", fontsize=6.5)


def _draw_errors(ax, sizes, result):
    ax.plot(sizes, result["kl"]["exact"], **style.look("exact", marker=None, linewidth=0.8))
    for form in FORMS:
        label = f"{result['slope'][form]:.1f}"
        ax.plot(sizes, result["error"][form], **style.look(form, marker=None, label=label))
    handles = ax.get_legend_handles_labels()[0][1:]
    tight = {"borderpad": 0.1, "labelspacing": 0.2, "handlelength": 1.9}
    ax.legend(handles=handles, title="slope", title_fontsize=8, loc="lower right", **tight)
    ax.set(ylim=(1e-15, 40))


def _draw_ratios(ax, sizes, main, other):
    ax.axhline(1, color=style.INK, linewidth=0.8)
    for form in FORMS:
        for result, width in ((main, 1.6), (other, 0.8)):
            ax.plot(sizes, result["ratio"][form], **style.look(form, marker=None, linewidth=width))
        _name_ratios(ax, sizes[0], main["ratio"][form][0], other["ratio"][form][0])
    ax.set(ylim=(0.035, 600))


def _name_ratios(ax, size, first, second):
    """Writes the ratios that differ from 1, and from each other, at the start of their curves: the larger one above its own."""
    named = [first] if abs(second / first - 1) < 0.15 else [first, second]
    named = sorted(ratio for ratio in named if abs(ratio - 1) > 0.15)
    for ratio in named:
        up = ratio == named[-1] if len(named) > 1 else ratio > 1
        text = f"{ratio:.0f}" if ratio > 10 else f"{ratio:.2f}"
        place = {"xytext": (0, 2 if up else -2), "va": "bottom" if up else "top"}
        ax.annotate(text, (size, ratio), textcoords="offset points", fontsize=7, **place)

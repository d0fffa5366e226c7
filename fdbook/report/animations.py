"""Short animations for the notebooks, as GIF files: a flow that moves mass, a crowd that slides along a manifold, two films.

The first two are solved to a solver's accuracy, and nothing is trained for them; the third shows films of two runs side by side.
Each plays three times, pauses before it starts again, and ends on its last picture.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from fdbook.geometry import densities, flow
from fdbook.geometry.densities import Nodes, Warped
from fdbook.report import style


__all__ = ["FILMS", "REGISTRY", "Film", "animation", "beside", "climb", "describe", "encode", "flowing", "sliding"]

Picture = UInt8[np.ndarray, "height width 3"]
DPI, COLORS, PLAYS = 100, 64, 3
FRAME, BEFORE, AFTER = 0.08, 0.8, 3.0
"""Seconds: of a picture, of the first one, of the last one."""
BANDS = (0.02, 0.06, 0.12, 0.25, 0.5, 1.0, 3.0)
"""Densities between which the shading has one color: even areas take less room than smooth ones."""
ENDINGS = {True: ("success", "#009e73"), False: ("no success", "#d55e00")}
"""How a film may end, and in which color that is said."""
AMBER, INDIGO = "#e69f00", "#3d2f7d"
FILMS = "arm"
"""The name of the animation that is made of two films."""
PEAK = np.array([1.65, 1.65])


class Film(NamedTuple):
    """One episode of a run: who acts, its pictures, the step that each one shows, and whether the goal was reached."""

    name: str
    pictures: Sequence[Picture]
    steps: Sequence[int]
    success: bool


def encode(pictures: Sequence[Picture], *, colors: int = COLORS) -> bytes:
    """A GIF of pictures of one size, with one palette for all, so that what stands still takes no room."""
    some = np.concatenate([*pictures[:: max(1, len(pictures) // 6)], pictures[-1]])
    palette = Image.fromarray(some).quantize(colors, Image.Quantize.MAXCOVERAGE)  # a thin line keeps its own color
    first, *rest = (Image.fromarray(each).quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures)
    seconds = np.full(len(pictures), FRAME)
    seconds[0], seconds[-1] = BEFORE, AFTER
    buffer, options = io.BytesIO(), {"append_images": rest, "duration": [round(1000 * each) for each in seconds]}
    first.save(buffer, "GIF", save_all=True, loop=PLAYS - 1, optimize=True, disposal=1, **options)
    return buffer.getvalue()


def _picture(figure: Figure) -> Picture:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def flowing(count: int = 38, crowd: int = 360) -> Iterator[Picture]:
    """Noise on its way to two moons under the exact velocity (E3); colors say on which moon a particle will arrive."""
    behavior = densities.make("moons")
    field, times = flow.ExactVelocity(behavior), jnp.linspace(0, 1, count)
    solver = {"solver": diffrax.Tsit5(), "stepsize_controller": diffrax.PIDController(rtol=1e-5, atol=1e-5)}
    noise = flow.noise(field, crowd, key=jr.key(1))
    tracks = np.asarray(jax.vmap(lambda z: flow.trajectory(field, flow.EMPTY, z, times, **solver))(noise))
    upper = jax.vmap(behavior.responsibilities)(jnp.asarray(tracks[:, -1]))[:, :12].sum(axis=1) > 0.5
    colors = np.where(upper, AMBER, INDIGO)
    axis = jnp.linspace(-2.3, 2.3, 116)
    plane = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density = jax.jit(lambda t: jnp.exp(jax.vmap(behavior.noised(t).log_prob)(plane)).reshape(116, 116))
    for n, t in enumerate(times):
        figure = Figure(figsize=(4.8, 4.4), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        ax.contourf(axis, axis, density(t), BANDS, colors=style.DENSITY(np.linspace(0.08, 0.42, len(BANDS) - 1)))
        tails = tracks[:, max(0, n - 3) : n + 1]
        ax.add_collection(LineCollection(tails, colors=colors, linewidths=0.8, alpha=0.5))
        ax.scatter(*tracks[:, n].T, s=8, c=colors, linewidths=0, zorder=3)
        ax.set(xlabel="action a₁ (action units)", ylabel="action a₂ (action units)", aspect="equal")
        ax.set(xlim=(-2.3, 2.3), ylim=(-2.3, 2.3), xticks=range(-2, 3), yticks=range(-2, 3))
        ax.set_title("noise" if n == 0 else "actions" if n == count - 1 else "on the way", fontsize=11)
        ax.text(0.98, 0.97, f"t = {t:.2f}", transform=ax.transAxes, ha="right", va="top", fontsize=11)
        yield _picture(figure)


def _value(action):
    return -jnp.sqrt(jnp.sum((action - PEAK.astype(action.dtype)) ** 2) + 0.05)


def climb(
    density: Warped, precise: bool, points: Float[np.ndarray, "n 2"], *, rate: float, steps: int = 120
) -> tuple[Float[np.ndarray, "k n 2"], Float[np.ndarray, "k n"]]:
    """Points that climb the value, and the logarithm of the determinant of their map, at `steps` times `rate` apart.

    Each follows the gradient g of the value (L2) or, if `precise`, F^-1 g, with F the Fisher matrix of small shifts of the warped
    Gaussian in its straight coordinates: J^-T Sigma^-1 J^-1, with J the Jacobian of the warp.
    """
    covariance = density.base.covariances[0]

    def velocity(action):
        gradient = jax.grad(_value)(action)
        if not precise:
            return gradient
        jacobian = jax.jacfwd(density.warp.forward)(density.warp.inverse(action))
        return jacobian @ covariance @ jacobian.T @ gradient

    def slopes(time, state, args):
        return jax.vmap(velocity)(state[0]), jax.vmap(lambda a: jnp.trace(jax.jacfwd(velocity)(a)))(state[0])

    start, times = (jnp.asarray(points), jnp.zeros(len(points), points.dtype)), rate * np.arange(steps + 1)
    control = diffrax.PIDController(rtol=1e-6, atol=1e-8)
    solver = {"saveat": diffrax.SaveAt(ts=jnp.asarray(times, points.dtype)), "stepsize_controller": control}
    track = diffrax.diffeqsolve(
        diffrax.ODETerm(slopes), diffrax.Tsit5(), times[0], times[-1], dt0=None, y0=start, **solver
    )
    places, spread = (np.asarray(part) for part in track.ys)
    return places, spread


def _paid(density: Warped, nodes: Nodes, precise: bool, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """The exact KL (E9) of a climb and its mean gain after each step."""
    places, spread = climb(density, precise, np.asarray(nodes.points), rate=rate)
    log_prob = jax.jit(jax.vmap(density.log_prob))
    lost = [nodes.mean(log_prob(places[0]) - log_prob(now) - log) for now, log in zip(places, spread, strict=True)]
    values = [nodes.mean(jax.vmap(_value)(now)) for now in places]
    return np.array(lost), np.array(values) - float(values[0])


def sliding(count: int = 40, crowd: int = 700, most: float = 2.0) -> Iterator[Picture]:
    """A banana's actions climb one value under L2 and under the Fisher metric, both at the same exact KL in every picture."""
    density = densities.make("banana")
    start = np.asarray(density.sample(crowd, key=jr.key(3)))
    hue, kls = np.argsort(np.argsort(start[:, 0])) / crowd, most * np.linspace(0, 1, count) ** 2
    xs, ys = np.linspace(-2.1, 2.1, 169), np.linspace(-0.75, 2.6, 135)
    plane = jnp.asarray(np.stack(np.meshgrid(xs, ys), axis=-1), start.dtype)
    level = float(jnp.quantile(jax.vmap(density.log_prob)(density.sample(20_000, key=jr.key(4))), 0.01))
    behavior = np.asarray(jax.vmap(jax.vmap(density.log_prob))(plane))
    climbs = {name: _at_kls(name != "l2", start, kls) for name in ("l2", "fisher-paper")}
    for n, kl in enumerate(kls):
        figure = Figure(figsize=(6.4, 2.95), dpi=DPI, layout="constrained")
        for ax, (name, (places, gains)) in zip(figure.subplots(1, 2, sharey=True), climbs.items(), strict=True):
            ax.contourf(xs, ys, behavior, [level, np.inf], colors=["#dedede"])
            off = np.asarray(jax.vmap(density.log_prob)(jnp.asarray(places[n]))) < level
            ax.scatter(*places[n].T, s=6, c=hue, cmap="viridis", linewidths=0, zorder=3)
            ax.scatter(*places[n][off].T, s=11, c=style.METRIC_COLORS["l2"], linewidths=0, zorder=4)
            ax.plot(*PEAK, "*", color=style.INK, markersize=11, zorder=5)
            ax.set(xlabel="action a₁ (action units)", xlim=(-2.0, 2.0), ylim=(-0.7, 2.5), aspect="equal")
            ax.set(xticks=range(-2, 3), yticks=range(3))
            ax.text(0.5, 0.97, f"exact KL {kl:.2f} nats", transform=ax.transAxes, ha="center", va="top")
            label = "L2" if name == "l2" else "Fisher"
            text = f"{label}: value {gains[n]:+.2f}, off {off.mean():.0%}"
            ax.set_title(text, color=style.METRIC_COLORS[name], fontsize=11)
        figure.axes[0].set_ylabel("action a₂ (action units)")
        yield _picture(figure)


def _at_kls(precise, start, kls):
    """Where a climb has brought the points when it has cost each KL, and what it has gained by then."""
    rate = 0.015 if precise else 0.00105
    with jax.enable_x64(True):  # the terms of E9 cancel at the first steps
        density = densities.make("banana")
        paid, gained = _paid(density, density.quadrature(96), precise, rate)
        places = climb(density, precise, np.asarray(start, float), rate=rate)[0]
    when = np.interp(np.sqrt(kls), np.sqrt(paid), np.arange(len(paid)))
    low = np.floor(when).astype(int)
    share = (when - low)[:, None, None]
    between = places[low] * (1 - share) + places[np.minimum(low + 1, len(places) - 1)] * share
    return between, np.interp(when, np.arange(len(paid)), gained)


def beside(films: Sequence[Film], count: int = 40) -> Iterator[Picture]:
    """Films side by side, step for step; one that is over stands still and says how it ended."""
    last = max(film.steps[-1] for film in films)
    for step in np.unique(np.linspace(0, last, count).round().astype(int)):
        figure = Figure(figsize=(2.5 * len(films), 2.9), dpi=DPI, layout="constrained")
        for ax, film in zip(np.atleast_1d(figure.subplots(1, len(films))), films, strict=True):
            at = int(np.searchsorted(film.steps, step, side="right")) - 1
            over = step >= film.steps[-1]
            ax.imshow(film.pictures[at], interpolation="antialiased")
            ax.set(xticks=[], yticks=[])
            ending, color = ENDINGS[film.success] if over else ("", style.GRAY)
            title = f"{film.name}: {ending}" if over else film.name
            ax.set_title(title, color=color if over else style.INK, fontsize=11)
            ax.set_xlabel(f"step {min(step, film.steps[-1])}")
            for side in ax.spines.values():
                side.set(visible=True, color=color, linewidth=3 if over else 1)
        yield _picture(figure)


REGISTRY: dict[str, Callable[..., Iterator[Picture]]] = {"flow": flowing, "sliding": sliding, FILMS: beside}
"""The animations, by the names of their files."""


def describe(name: str) -> str:
    """What an animation shows, in one line."""
    return str(REGISTRY[name].__doc__).partition("\n")[0]


def animation(name: str, *films: Film) -> bytes:
    """The GIF of one animation; that of films takes them."""
    with style.applied():
        return encode(list(REGISTRY[name](films) if name == FILMS else REGISTRY[name]()))

"""How metrics compare at equal exact KL: curves of rungs read off at a KL, and bootstrap intervals of what lies between two.

A curve is linear in the root of the KL between rungs, and from no displacement at all to the first one; beyond the last rung of
any agent it is unknown. Agents, and the states or episodes that were measured, are drawn anew in each resample, the same ones
for both metrics.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from fdbook.checks import Array
from fdbook.geometry import frontier


__all__ = ["AT", "Difference", "Ratio", "difference", "ladder_table", "ratio"]

MOST = 0.9
"""The share of resamples that must reach a KL for it to be compared."""
AT = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""The exact KLs, in nats, at which metrics are compared, as far as a ladder is to go beyond them."""
PLAYED = ("score", "length")
"""What is compared of episodes that were played."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The gain of a metric over that of L2 at equal exact KL, and an interval of it; NaN beyond the rungs of either."""

    kl: np.ndarray
    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Difference:
    """What a metric's displacements came to in the environment beyond those of L2 at equal exact KL, and an interval of it."""

    kl: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def ratio(
    ours: tuple[Float[Array, "rungs agents states"], Float[Array, "rungs agents states"]],
    theirs: tuple[Float[Array, "others agents states"], Float[Array, "others agents states"]],
    at: Sequence[float],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """The gain of `ours` over that of `theirs`: pairs of gain and KL (rungs, agents, states)."""
    draws = _draws(ours[0].shape[1:], resamples, seed)
    table = np.array([_curve(*ours, at, *draw) / _curve(*theirs, at, *draw) for draw in draws])
    return Ratio(np.asarray(at), *_interval(table, level))


def difference(
    ours: tuple[Float[Array, "rungs agents episodes"], Float[Array, "rungs agents states"]],
    theirs: tuple[Float[Array, "others agents episodes"], Float[Array, "others agents states"]],
    start: Float[np.ndarray, "agents episodes"],
    at: Sequence[float],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """What `ours` came to minus what `theirs` did: pairs of values (rungs, agents, episodes) and KL (rungs, agents, states).

    `start` is what the flow itself came to, at no KL.
    """
    draws = _draws(start.shape, resamples, seed)
    curves = [np.array([_play_curve(*side, start, at, *draw) for draw in draws]) for side in (ours, theirs)]
    return Difference(np.asarray(at), *_interval(curves[0] - curves[1], level))


def _draws(shape: tuple[int, int], resamples: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """All of two axes, and then as many of each with replacement, over and over."""
    generator, (rows, columns) = np.random.default_rng(seed), shape
    again = [(generator.integers(rows, size=rows), generator.integers(columns, size=columns)) for _ in range(resamples)]
    return [(np.arange(rows), np.arange(columns)), *again]


def _interval(table: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first row, and the quantiles of the others; NaN where too few of them are known."""
    finite = np.isfinite(table)
    known = finite[0] & (np.mean(finite, axis=0) > MOST)
    low, high = (np.full(len(known), np.nan) for _ in range(2))
    for i in np.flatnonzero(known):
        low[i], high[i] = np.nanquantile(table[1:, i], [(1 - level) / 2, (1 + level) / 2])
    return np.where(known, table[0], np.nan), low, high


def _curve(gain, kl, at, agents, states) -> np.ndarray:
    """The gain at some KLs in the mean over agents and states; NaN beyond any agent's last rung."""
    gain, kl = (x[:, :, states].mean(axis=2).T for x in (gain, kl))
    return np.mean([frontier.at_kl(kl[agent], gain[agent], at) for agent in agents], axis=0)


def _play_curve(values, kl, start, at, agents, episodes) -> np.ndarray:
    """What episodes came to at some KLs, in the mean over agents and episodes; NaN beyond any agent's last rung."""
    means, first, kl = values[:, :, episodes].mean(axis=2).T, start[:, episodes].mean(axis=1), kl.mean(axis=2).T
    return np.mean([frontier.at_kl(kl[agent], means[agent], at, first[agent]) for agent in agents], axis=0)


def ladder_table(tree: dict[str, Any]) -> str:
    """The record of a ladder, as `Ladder.to_dict` gives it, in lines: each metric's gain over that of L2 at equal exact KL."""
    first = tree["metrics"][0]
    heads = [f"{kl:g}" for kl in first["ratio"]["kl"]]
    width = max(len(entry["label"]) for entry in tree["metrics"]) + 2
    lines = ["gain in Q, in units of L2's, at an exact KL of", _row(" " * width + "   E26", heads, 18)]
    for entry in tree["metrics"]:
        cells = _cells(entry["ratio"], "ratio", "{:.2f} ({:.2f}-{:.2f})".format)
        lines.append(_row(f"{entry['label']:<{width}}{np.mean(entry['predicted']):6.2f}", cells, 18))
    for name in ("folded", "crossed"):
        if name in first:
            most = (f"{entry['label']} {np.max(entry[name]):.1%}" for entry in tree["metrics"])
            lines.append(f"{name}, at most: " + ", ".join(most))
    ceiling, condition = np.mean(tree["ceiling"]), np.mean(tree["condition"]["0.5"])
    lines.append(
        f"E26 allows {ceiling:.2f} at most; the flow's true Fisher matrix has the median condition number {condition:.3g}."
    )
    for name in PLAYED if "base" in tree else ():
        lines += [
            f"{name} beyond that of L2 (the flow: {np.mean(tree['base'][name]):.1f})",
            _row(" " * width, heads, 20),
        ]
        for entry in (each for each in tree["metrics"] if each["label"] != "l2"):
            cells = _cells(
                entry["difference"][name], "value", lambda *three: "{:+d} ({:+d} to {:+d})".format(*map(round, three))
            )
            lines.append(_row(entry["label"].ljust(width), cells, 20))
    return "\n".join(lines)


def _row(head: str, cells: Sequence[Any], wide: int) -> str:
    """A row of a table: its head, and its cells, `wide` characters each."""
    return head + "".join(str(cell).rjust(wide) for cell in cells)


def _cells(compared: dict[str, list[float | None]], middle: str, shown: Callable[..., str]) -> list[str]:
    """What was compared at each KL with its interval, as text; a dash where nothing was."""
    cells = zip(compared[middle], compared["low"], compared["high"], strict=True)
    return ["-" if cell[0] is None else shown(*cell) for cell in cells]

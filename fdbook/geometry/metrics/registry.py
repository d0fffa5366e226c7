"""The metrics by name: the command line, specifications and records know them by it."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fdbook.checks import unknown
from fdbook.geometry.metrics.base import L2, Metric
from fdbook.geometry.metrics.matrices import Information
from fdbook.geometry.metrics.scores import Fisher, FisherRao, FisherScale


__all__ = ["NAMES", "from_dict", "make", "register", "short_name", "summaries", "to_dict", "unusual"]


class _Entry(NamedTuple):
    """A metric by its name: its class with some options fixed, the name that the command line has for it, and a line about it."""

    kind: type[Metric]
    fixed: dict[str, Any]
    short: str
    summary: str


_REGISTRY: dict[str, _Entry] = {}
NAMES = _REGISTRY.keys()
"""The names of the registered metrics."""


def register(name: str, kind: type[Metric], *, short: str | None = None, summary: str, **fixed: Any) -> None:
    """Makes a metric known by a name, and by a `short` one on the command line: its class, with options `fixed` as they are said.

    Raises ValueError for a name that is taken.
    """
    taken = {item for other, entry in _REGISTRY.items() for item in (other, entry.short)}
    short = name if short is None else short
    if taken & {name, short}:
        raise ValueError(f"There is a metric called {(taken & {name, short}).pop()!r} already.")
    _REGISTRY[name] = _Entry(kind, fixed, short, summary)


register("l2", L2, summary="the length of the displacement (E18)")
register("fisher-paper", Fisher, short="paper", summary="one score for each action (E19)", pooled=False)
register(
    "fisher-released",
    Fisher,
    short="released",
    summary="one matrix for each state, scores by E7 (E20)",
    score="released",
)
register("fisher-exact", Fisher, short="exact", summary="one matrix for each state, exact scores (E21)")
register("fisher-rao", FisherRao, summary="scores and divergence, the complete second order (E22)")
register("fisher-scale", FisherScale, short="scale", summary="the size of each state's matrix, no directions (E21)")
register(
    "information",
    Information,
    summary="one matrix for each state, from the flow's Jacobian (E28)",
    pooled=True,
    deblurred=False,
)
register(
    "information-local",
    Information,
    short="local",
    summary="one matrix for each action, from the flow's Jacobian (E28)",
    pooled=False,
    deblurred=False,
)
register(
    "information-deblurred",
    Information,
    short="deblurred",
    summary="one matrix for each state, the blur taken out (E29)",
    pooled=True,
    deblurred=True,
)
register(
    "information-sharp",
    Information,
    short="sharp",
    summary="one matrix for each action, the blur taken out (E29)",
    pooled=False,
    deblurred=True,
)


def summaries() -> dict[str, str]:
    """The metrics by their short names, with a line about each."""
    return {entry.short: entry.summary for entry in _REGISTRY.values()}


def _options(kind: type[Metric]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]


def make(name: str, **options: Any) -> Metric:
    """The metric of that name, or short name, with its class's options. Raises ValueError with the nearest name otherwise.
    >>> float(metrics.make("l2").penalty(jnp.array([[3.0, 1.0]]), jnp.zeros(1), None))  # (3^2 + 1^2) / 2
    5.0
    """
    known = {entry.short: entry for entry in _REGISTRY.values()} | _REGISTRY
    if name not in known:
        raise ValueError(unknown("metric", name, _REGISTRY if "-" in name else summaries()))
    entry = known[name]
    for option in options:
        if option not in _options(entry.kind):
            raise ValueError(unknown(f"option of the metric {name}", option, _options(entry.kind)))
    return entry.kind(**(entry.fixed | options))


def _entry_of(metric: Metric) -> tuple[str, _Entry] | None:
    """The registered name whose class and fixed options are those of a metric; else one whose class is."""
    alike = {name: entry for name, entry in _REGISTRY.items() if entry.kind is type(metric)}
    decisive = {option for entry in alike.values() for option in entry.fixed}
    for name, entry in alike.items():
        plain = entry.kind(**entry.fixed)
        if all(getattr(plain, option) == getattr(metric, option) for option in decisive):
            return name, entry
    return None


def to_dict(metric: Metric) -> dict[str, Any]:
    """A metric as plain JSON: its name, and every option."""
    alike = [name for name, entry in _REGISTRY.items() if entry.kind is type(metric)]
    result = _entry_of(metric)
    name = result[0] if result else alike[0] if alike else _kebab(metric)
    values = {option: getattr(metric, option) for option in _options(type(metric))}
    return {"name": name} | {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def unusual(metric: Metric) -> dict[str, Any]:
    """The options of a metric that are not those that its name stands for."""
    result = _entry_of(metric)
    plain = None if result is None else result[1].kind(**result[1].fixed)
    values = {option: getattr(metric, option) for option in _options(type(metric))}
    return {option: value for option, value in values.items() if plain is None or getattr(plain, option) != value}


def from_dict(tree: Mapping[str, Any]) -> Metric:
    """The inverse of `to_dict`. Raises ValueError for a missing name, and for a name or an option that there is not."""
    if not isinstance(tree.get("name"), str):
        raise ValueError(f"metrics.from_dict takes a dict with the name of a metric under 'name'; got {dict(tree)}.")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items() if key != "name"}
    return make(tree["name"], **options)


def short_name(metric: Metric) -> str:
    """What a metric is called on the command line, whatever its other options; the name of its class if it has no such name."""
    result = _entry_of(metric)
    return result[1].short if result else _kebab(metric)


def _kebab(metric: Metric) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(metric).__name__).lower()

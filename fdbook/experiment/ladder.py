"""The frozen ladder: a trained run whose flow and critics stay, and displacements of its actions refit under several metrics.

Whole trainings differ in their flows, their critics and their luck. Here all of that is frozen: displacements start from the same
weights and see the same states, actions and draws; only the metric that charges them differs, and, from rung to rung, its
multiplier. Each is then measured on held-out states by what it gains in Q and what it costs in exact KL (E9), so
that metrics are compared at equal KL, as a ratio of their gain to that of L2.

The behavior is the flow's own law, integrated accurately and not clipped: that is the law of which E9 knows the density. Where
a displaced action leaves the box, the critics see the clipped one. E26 predicts the ratio from the flow and the critics alone.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import PyTree

from fdbook.checks import Array, check_kinds, check_range
from fdbook.data.load import Loaded
from fdbook.experiment import measure, refit
from fdbook.experiment.run import Run, data_of
from fdbook.geometry import frontier, metrics
from fdbook.geometry.metrics import Metric
from fdbook.rl.agents import Agent


__all__ = ["Ladder", "LadderSpec", "Ratio", "Rungs", "climb", "gain_ratio", "label", "ladder_table"]

NORMALIZED = ("fisher-paper", "fisher-released", "fisher-exact", "information-local")
RAW = ("fisher-paper", "fisher-exact", "fisher-rao", "fisher-scale", "information-local")
RAW += ("information-deblurred", "information-sharp")
FORMAT = 1
LEAST = {"rungs": 2.0, "seed": 0.0}
PARTS = ("flow", "critic")
MOST = 0.9
"""The share of resamples that must reach a KL for it to be compared."""
AT = (0.05, 0.1, 0.2, 0.5)
"""The exact KLs, in nats, at which metrics are compared."""


def _compared() -> tuple[Metric, ...]:
    """The metrics of the paper and its code with the trace normalized, as they have it, and what is there without."""
    made = [
        metrics.make(name, trace_normalized=normalized)
        for names, normalized in ((NORMALIZED, True), (RAW, False))
        for name in names
    ]
    return metrics.L2(), *made


def _metrics(given: Sequence[Metric | str]) -> tuple[Metric, ...]:
    """The metrics that are said, with L2 in front if it is not among them."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"A ladder takes several metrics, as in ('exact', 'deblurred'); got {given!r}.")
    chosen = tuple(metrics.make(each) if isinstance(each, str) else each for each in given)
    chosen = chosen if metrics.L2() in chosen else (metrics.L2(), *chosen)
    if len(set(chosen)) < len(chosen):
        raise ValueError("A ladder takes each metric once; two of those given are equal.")
    return chosen


@dataclasses.dataclass(frozen=True)
class LadderSpec:
    """How displacements are refit and measured. L2 is always among the metrics: it is what the others are compared with.

    Raises ValueError for values out of range and for two equal metrics.
    """

    metrics: Sequence[Metric | str] = dataclasses.field(default_factory=_compared)
    """Metrics, or names of them as they are registered."""
    rungs: int = 6
    """Multipliers of each metric, placed by a short pilot so that they span `kl`."""
    kl: tuple[float, float] = (0.02, 1.0)
    """The range of exact KL, in nats."""
    updates: int = 700
    """Of each displacement, by Adam with a rate that falls to 0 along a cosine."""
    learning_rate: float = 2e-3
    batch_states: int = 32
    states: int = 4096
    """States from which batches are drawn."""
    actions: int = 2
    """Actions of each of them, which the displacement moves."""
    readings: int = 32
    """Actions of each of them at which a pooled metric reads the flow."""
    held_out_states: int = 128
    held_out_actions: int = 16
    fisher_actions: int = 64
    """Actions of each held-out state whose exact scores make its true Fisher matrix, for the prediction."""
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "metrics", _metrics(self.metrics))
        check_kinds(self, "LadderSpec")
        for field in dataclasses.fields(self):
            if isinstance(field.default, int):
                low = LEAST.get(field.name, 1.0)
                check_range(getattr(self, field.name), field.name, "LadderSpec", low=low)
        check_range(self.learning_rate, "a learning rate", "LadderSpec", open_low=True)
        ends = self.kl if isinstance(self.kl, Sequence) else ()
        two = len(ends) == 2 and all(isinstance(end, float | int) for end in ends)
        if not two or not 0 < ends[0] < ends[1] < math.inf:
            raise ValueError(f"LadderSpec takes a range of KL, two rising numbers above 0; got {self.kl}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        tree = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return tree | {"metrics": [metrics.to_dict(metric) for metric in self.metrics], "kl": list(self.kl)}


class Rungs(NamedTuple):
    """What the displacements of one metric came to: arrays (rungs, agents), and of gain and KL (rungs, agents, states)."""

    multiplier: np.ndarray
    gain: np.ndarray
    """The mean change of Q, the critics' mean at the clipped action, in units of Q."""
    kl: np.ndarray
    """E9 in nats, over the samples at which the map is one-to-one."""
    folded: np.ndarray
    """The share of samples with det(I + grad delta) <= 0, where E9 does not hold."""
    clipped: np.ndarray
    """The part of the displacement that the action box cuts off."""
    off: np.ndarray
    """The share of displaced actions that the flow calls rarer than all but 1% of its own, relative to the state's mean."""
    predicted: np.ndarray
    """E26 for a translation of each state: the gain over that of L2 at the same small KL, (agents,)."""


@dataclasses.dataclass(frozen=True)
class Ladder:
    """All rungs of all metrics, in the order of the specification, and the displacements themselves."""

    spec: LadderSpec
    rungs: tuple[Rungs, ...]
    maps: tuple[PyTree, ...]
    """For each metric the displacements, their arrays stacked as (agents, rungs, ...)."""
    ceiling: np.ndarray
    """The prediction of E26 for the true Fisher matrix, (agents,)."""
    condition: np.ndarray
    """The condition number of the true Fisher matrix at each state, (agents, states)."""
    fingerprint: str
    """Twelve characters that tell the frozen networks from others."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: everything but the displacements and what single states came to."""
        return {
            "format": FORMAT,
            "ladder": self.spec.to_dict(),
            "fingerprint": self.fingerprint,
            "ceiling": _rounded(self.ceiling),
            "condition": {f"{q:g}": _rounded(np.quantile(self.condition, q, axis=1)) for q in (0.1, 0.5, 0.9)},
            "metrics": [self._entry(metric) for metric in self.spec.metrics],
        }

    def _entry(self, metric: Metric) -> dict[str, Any]:
        rungs, compared = self.of(metric), gain_ratio(self, metric)
        means = {
            name: _rounded(getattr(rungs, name)) for name in ("multiplier", "folded", "clipped", "off", "predicted")
        }
        means |= {name: _rounded(getattr(rungs, name).mean(axis=-1)) for name in ("gain", "kl")}
        about = {"label": label(metric), "metric": metrics.to_dict(metric)}
        return (
            about | means | {"ratio": {name: _rounded(value) for name, value in dataclasses.asdict(compared).items()}}
        )

    def of(self, metric: Metric) -> Rungs:
        """The rungs of one metric. Raises ValueError if it was not among those compared."""
        if metric not in self.spec.metrics:
            raise ValueError(f"The metric {metrics.short_name(metric)} is not on this ladder.")
        return self.rungs[self.spec.metrics.index(metric)]


def climb(
    run: Run,
    spec: LadderSpec | None = None,
    *,
    loaded: Loaded | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Ladder:
    """Refits displacements of a run's frozen flow under each metric of a ladder, and measures them on held-out states.

    `loaded` data stand in for those that the run was trained on; states to measure at come from its validation set where there
    is one. Takes any run whose agent has a flow and critics; raises ValueError for others, and what loading data raises.
    """
    spec = LadderSpec() if spec is None else spec
    missing = [name for name in PARTS if name not in run.agents.networks]
    if missing:
        raise ValueError(f"A ladder needs a frozen flow and critics; a run of {run.spec.method} has no {missing[0]}.")
    where, sample, judge, read, fit = jr.split(jr.key(spec.seed), 5)
    train, held = measure.observations(data_of(run.spec, loaded), spec.states, spec.held_out_states, key=where)
    progress("sampling the flow")
    agents, keys = run.agents, jr.split(sample, 3)
    frozen, slope = refit.freeze(agents, train, spec.actions, key=keys[0])
    pools = tuple(
        refit.sample(agents, states, spec.readings, key) for states, key in ((train, keys[1]), (held, keys[2]))
    )
    scene = _Scene(run, spec, train, held, frozen, pools, measure.held_out(agents, held, spec.held_out_actions, judge))
    progress("the true Fisher matrices")
    local = measure.local_geometry(agents, held, spec.fisher_actions, judge)
    rungs, maps = [], []
    for number, metric in enumerate(spec.metrics):
        progress(f"{label(metric)} ({number + 1} of {len(spec.metrics)})")
        made = scene.rungs(metric, slope, local, read=read, fit=fit)
        rungs.append(made[0])
        maps.append(made[1])
    values = np.linalg.eigvalsh(local.information)
    best = measure.predicted_ratio(local, local.information)
    return Ladder(spec, tuple(rungs), tuple(maps), best, values[..., -1] / values[..., 0], _fingerprint(agents))


class _Scene(NamedTuple):
    """What all metrics share: the run, states to learn and to measure at, what is frozen, and actions to read at of both."""

    run: Run
    spec: LadderSpec
    train: Array
    held: Array
    frozen: refit.Frozen
    pools: tuple[Array, Array]
    held_out: measure.HeldOut

    def rungs(self, metric: Metric, slope, local, *, read, fit) -> tuple[Rungs, PyTree]:
        """The rungs of one metric, and their displacements."""
        spec, agents = self.spec, self.run.agents
        readings = refit.read(agents, metric, self.train, self.pools[0] if metric.pooled else self.frozen.actions, read)
        options = {"updates": spec.updates, "learning_rate": spec.learning_rate, "batch_states": spec.batch_states}
        frozen = self.frozen._replace(readings=readings)
        refitting = refit.Refit(agents, metric, frozen, self.held_out, key=fit, **options)
        density = np.trace(local.information, axis1=-2, axis2=-1).mean(axis=1) / agents.action_dim
        multipliers = refitting.placed(np.geomspace(*spec.kl, spec.rungs), slope, density)
        deltas = refitting.fit(multipliers)
        forms = measure.charged(metric, refit.read(agents, metric, self.held, self.pools[1], read), self.held_out)
        return Rungs(multipliers.T, *refitting.measured(deltas), measure.predicted_ratio(local, forms)), deltas


def _fingerprint(agents: Agent) -> str:
    """Twelve characters that two frozen runs share only if their flows and critics are the same."""
    arrays = jax.tree.leaves(eqx.filter([agents.networks[name] for name in PARTS], eqx.is_array))
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in arrays)).hexdigest()[:12]


def _rounded(values) -> Any:
    """Nested lists of numbers with five digits; None where there is none."""
    if isinstance(values, np.ndarray | list | tuple):
        return [_rounded(value) for value in values]
    return float(f"{float(values):.5g}") if np.isfinite(values) else None


def label(metric: Metric) -> str:
    """The short name of a metric with what is unusual about it."""
    unusual = "".join(f" {name}={value}" for name, value in metrics.unusual(metric).items())
    return f"{metrics.short_name(metric)}{unusual}".replace(" trace_normalized=False", " raw")


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The gain of a metric over that of L2 at equal exact KL, and an interval of it; NaN beyond the rungs of either."""

    kl: np.ndarray
    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray


def gain_ratio(
    ladder: Ladder,
    metric: Metric,
    at: Sequence[float] = AT,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """The gain in Q over that of L2 at some exact KLs `at` in nats, both in the mean over agents, with a bootstrap interval.

    Between rungs, and from no displacement at all to the first one, the gain is linear in the root of the KL. Agents and states
    are drawn anew in each resample, the same for both metrics. With one agent the interval is one over states alone.
    """
    ours, theirs = ladder.of(metric), ladder.of(metrics.L2())
    generator, (_, agents, states) = np.random.default_rng(seed), ours.gain.shape
    draws = [(np.arange(agents), np.arange(states))]
    draws += [
        (generator.integers(agents, size=agents), generator.integers(states, size=states)) for _ in range(resamples)
    ]
    table = np.array([_curve(ours, at, *draw) / _curve(theirs, at, *draw) for draw in draws])
    finite = np.isfinite(table)
    known = finite[0] & (np.mean(finite, axis=0) > MOST)
    low, high = (np.full(len(known), np.nan) for _ in range(2))
    for i in np.flatnonzero(known):
        low[i], high[i] = np.nanquantile(table[1:, i], [(1 - level) / 2, (1 + level) / 2])
    return Ratio(np.asarray(at), np.where(known, table[0], np.nan), low, high)


def _curve(rungs: Rungs, at, agents, states) -> np.ndarray:
    """The gain at some KLs in the mean over agents and states, in units of Q; NaN beyond any agent's last rung."""
    gain, kl = (x[:, :, states].mean(axis=2).T for x in (rungs.gain, rungs.kl))
    return np.mean([frontier.at_kl(kl[agent], gain[agent], at) for agent in agents], axis=0)


def ladder_table(tree: dict[str, Any]) -> str:
    """The record of a ladder, as `Ladder.to_dict` gives it, in lines: each metric's gain over that of L2 at equal exact KL."""
    at = tree["metrics"][0]["ratio"]["kl"]
    lines = ["gain in Q over that of L2 at an exact KL of" + "".join(f"{kl:>19g}" for kl in at) + "   E26  folded"]
    for entry in tree["metrics"]:
        compared = entry["ratio"]
        cells = zip(compared["ratio"], compared["low"], compared["high"], strict=True)
        shown = "".join(
            "-".rjust(19) if mid is None else f"{mid:.2f} ({low:.2f}-{high:.2f})".rjust(19) for mid, low, high in cells
        )
        folded = max(max(row) for row in entry["folded"])
        lines.append(f"  {entry['label']:<41}{shown}{np.mean(entry['predicted']):6.2f} {folded:7.1%}")
    ceiling, condition = np.mean(tree["ceiling"]), np.mean(tree["condition"]["0.5"])
    lines.append(
        f"E26 allows {ceiling:.2f} at most; the flow's true Fisher matrix has the median condition number {condition:.3g}."
    )
    return "\n".join(lines)

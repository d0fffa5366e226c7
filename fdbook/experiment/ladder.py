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

from fdbook.checks import Array, check_kinds, check_range, unknown
from fdbook.data.load import STARTS, Loaded, environment
from fdbook.experiment import gains, measure, refit, rollouts
from fdbook.experiment.distance_critic import with_distance_critic
from fdbook.experiment.gains import AT, Difference, Ratio
from fdbook.experiment.rollouts import Played
from fdbook.experiment.run import Run
from fdbook.geometry import metrics
from fdbook.geometry.metrics import Metric
from fdbook.rl.agents import Agent


__all__ = [
    "Ladder",
    "LadderSpec",
    "Rungs",
    "gain_ratio",
    "label",
    "play_difference",
    "run_ladder",
]

NORMALIZED = ("fisher-paper", "fisher-released", "fisher-exact", "information-local")
RAW = ("fisher-paper", "fisher-exact", "fisher-rao", "fisher-scale", "information-local")
RAW += ("information-deblurred", "information-sharp")
FORMAT = 1
LEAST = {"rungs": 2.0, "seed": 0.0, "episodes": 0.0}
PARTS = ("flow", "critic")
CRITICS = ("trained", "distance", "discounted")


def _compared() -> tuple[Metric, ...]:
    """The metrics of the paper and its code with the trace normalized, as they have it, and what is there without."""
    made = [
        metrics.make(name, trace_normalized=normalized)
        for names, normalized in ((NORMALIZED, True), (RAW, False))
        for name in names
    ]
    return metrics.L2(), *made


def _metrics(given: Sequence[Metric | str]) -> tuple[Metric, ...]:
    """The metrics that are said, with L2 in front, wherever it was."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"A ladder takes several metrics, as in ('exact', 'deblurred'); got {given!r}.")
    chosen = tuple(metrics.make(each) if isinstance(each, str) else each for each in given)
    if len(set(chosen)) < len(chosen):
        raise ValueError("A ladder takes each metric once; two of those given are equal.")
    return metrics.L2(), *(metric for metric in chosen if metric != metrics.L2())


@dataclasses.dataclass(frozen=True)
class LadderSpec:
    """How displacements are refit and measured. L2 is always the first metric: it is what the others are compared with.

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
    episodes: int = 0
    """Episodes that each displacement plays in the task's environment; 0: none are played."""
    critic: str = "trained"
    """Whose Q is gained: that of the run's "trained" critics, or, in OGBench's point mazes, of one that knows the way to the
    goal: the "distance" that an action saves of it, or the "discounted" return of walking on in actions of length 1."""
    starts: str = "task"
    """Where they start: as the "task" says, or, in OGBench's mazes, "anywhere"."""
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "metrics", _metrics(self.metrics))
        check_kinds(self, "LadderSpec")
        for field in dataclasses.fields(self):
            if isinstance(field.default, int):
                low = LEAST.get(field.name, 1.0)
                check_range(getattr(self, field.name), field.name, "LadderSpec", low=low)
        check_range(self.learning_rate, "a learning rate", "LadderSpec", open_low=True)
        if self.starts not in STARTS:
            raise ValueError(unknown("kind of starts", self.starts, STARTS))
        if self.critic not in CRITICS:
            raise ValueError(unknown("critic", self.critic, CRITICS))
        if self.starts != "task" and not self.episodes:
            raise ValueError(
                f"LadderSpec takes starts = {self.starts} with a number of episodes to play; got episodes = 0."
            )
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
    crossed: np.ndarray
    """The share of pairs of one state's samples that the map brings past each other: a fold between samples shows here."""
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
    base: Played | None = None
    """What the flow itself came to in the environment, where episodes were played: arrays (agents, episodes)."""
    played: tuple[Played, ...] = ()
    """What the displacements of each metric came to there: arrays (rungs, agents, episodes)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: everything but the displacements, and what single states and episodes came to."""
        return {
            "format": FORMAT,
            "ladder": self.spec.to_dict(),
            "fingerprint": self.fingerprint,
            "ceiling": _rounded(self.ceiling),
            "condition": {f"{q:g}": _rounded(np.quantile(self.condition, q, axis=1)) for q in (0.1, 0.5, 0.9)},
            "metrics": [self._entry(metric) for metric in self.spec.metrics],
        } | ({} if self.base is None else {"base": _means(self.base)})

    def _entry(self, metric: Metric) -> dict[str, Any]:
        rungs, compared = self.of(metric), gain_ratio(self, metric)
        shares = ("folded", "crossed", "clipped", "off")
        means = {name: _rounded(getattr(rungs, name)) for name in ("multiplier", *shares, "predicted")}
        means |= {name: _rounded(getattr(rungs, name).mean(axis=-1)) for name in ("gain", "kl")}
        tree = {"label": label(metric), "metric": metrics.to_dict(metric)} | means | {"ratio": _plain(compared)}
        if self.base is None:
            return tree
        against = {name: _plain(play_difference(self, metric, name)) for name in Played._fields}
        return tree | {"played": _means(self.played[self.spec.metrics.index(metric)]), "difference": against}

    def of(self, metric: Metric) -> Rungs:
        """The rungs of one metric. Raises ValueError if it was not among those compared."""
        if metric not in self.spec.metrics:
            raise ValueError(f"The metric {metrics.short_name(metric)} is not on this ladder.")
        return self.rungs[self.spec.metrics.index(metric)]


def run_ladder(
    run: Run,
    spec: LadderSpec | None = None,
    *,
    loaded: Loaded | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Ladder:
    """Refits displacements of a run's frozen flow under each metric of a ladder, and measures them on held-out states.

    `loaded` data stand in for those that the run was trained on; states to measure at come from its validation set where there
    is one. Takes any run whose agent has a flow and, unless the specification has another critic, critics; raises ValueError for
    others, and what loading data raises.
    """
    spec = LadderSpec() if spec is None else spec
    needed = PARTS if spec.critic == "trained" else ("flow",)
    missing = [name for name in needed if name not in run.agents.networks]
    if missing:
        raise ValueError(f"A ladder needs a frozen flow and critics; a run of {run.spec.method} has no {missing[0]}.")
    if spec.critic != "trained":
        run = with_distance_critic(run, discounted=spec.critic == "discounted")
    if spec.episodes:
        environment(
            run.task, starts=spec.starts
        ).close()  # what cannot be played is refused before the hours of fitting
    where, sample, held_key, read, fit = jr.split(jr.key(spec.seed), 5)
    train, held = measure.observations(run.data(loaded), spec.states, spec.held_out_states, key=where)
    progress("sampling the flow")
    agents, keys = run.agents, jr.split(sample, 3)
    frozen, slope = refit.freeze(agents, train, spec.actions, key=keys[0])
    pools = tuple(
        refit.sample(agents, states, spec.readings, key) for states, key in ((train, keys[1]), (held, keys[2]))
    )
    scene = _Scene(
        run, spec, train, held, frozen, pools, measure.held_out(agents, held, spec.held_out_actions, held_key)
    )
    progress("the true Fisher matrices")
    local = measure.local_geometry(agents, held, spec.fisher_actions, held_key)
    rungs, maps = [], []
    for number, metric in enumerate(spec.metrics):
        progress(f"{label(metric)} ({number + 1} of {len(spec.metrics)})")
        made = scene.rungs(metric, slope, local, read=read, fit=fit)
        rungs.append(made[0])
        maps.append(made[1])
    values = np.linalg.eigvalsh(local.information)
    best = measure.predicted_ratio(local, local.information)
    made = Ladder(spec, tuple(rungs), tuple(maps), best, values[..., -1] / values[..., 0], _fingerprint(agents))
    return _played(made, run, progress) if spec.episodes else made


def _played(ladder: Ladder, run: Run, progress) -> Ladder:
    """The ladder with what its displacements, and the flow without any, come to in the task's environment."""
    with rollouts.player(run, ladder.spec.episodes, ladder.spec.starts) as play:
        progress("playing the flow")
        base, results = play(rollouts.zero_displacements(ladder.maps[0])), []
        for metric, maps in zip(ladder.spec.metrics, ladder.maps, strict=True):
            progress(f"playing {label(metric)}")
            results.append(play(maps))
    return dataclasses.replace(ladder, base=measure.take(base, 0), played=tuple(results))


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
        readings = refit.read_metric(
            agents, metric, self.train, self.pools[0] if metric.pooled else self.frozen.actions, read
        )
        options = {"updates": spec.updates, "learning_rate": spec.learning_rate, "batch_states": spec.batch_states}
        frozen = self.frozen._replace(readings=readings)
        refitting = refit.Refit(agents, metric, frozen, self.held_out, key=fit, **options)
        density = np.trace(local.information, axis1=-2, axis2=-1).mean(axis=1) / agents.action_dim
        multipliers = refitting.place_multipliers(np.geomspace(*spec.kl, spec.rungs), slope, density)
        deltas = refitting.fit(multipliers)
        forms = measure.metric_matrices(
            metric, refit.read_metric(agents, metric, self.held, self.pools[1], read), self.held_out
        )
        return Rungs(multipliers.T, *refitting.measured(deltas), measure.predicted_ratio(local, forms)), deltas


def _fingerprint(agents: Agent) -> str:
    """Twelve characters that two frozen runs share only if their flows and critics are the same."""
    arrays = jax.tree.leaves(eqx.filter([agents.networks[name] for name in PARTS], eqx.is_array))
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in arrays)).hexdigest()[:12]


def _means(played: Played) -> dict[str, Any]:
    """What episodes came to in the mean over them, (rungs, agents) or (agents,)."""
    return {name: _rounded(np.mean(values, axis=-1)) for name, values in played._asdict().items()}


def _plain(compared) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in dataclasses.asdict(compared).items()}


def _rounded(values) -> Any:
    """Nested lists of numbers with five digits; None where there is none."""
    if isinstance(values, np.ndarray | list | tuple):
        return [_rounded(value) for value in values]
    return float(f"{float(values):.5g}") if np.isfinite(values) else None


def label(metric: Metric) -> str:
    """The short name of a metric with what is unusual about it."""
    unusual = "".join(f" {name}={value}" for name, value in metrics.unusual(metric).items())
    return f"{metrics.short_name(metric)}{unusual}".replace(" trace_normalized=False", " raw")


def gain_ratio(ladder: Ladder, metric: Metric, at: Sequence[float] | None = None, **options: Any) -> Ratio:
    """The gain in Q over that of L2 at equal exact KL, both in the mean over agents, with a bootstrap interval.

    `at` are KLs in nats (None: those of `gains.AT` that lie within the range of the ladder's specification).
    Between rungs, and from no displacement at all to the first one, the gain is linear in the root of the KL. Agents and states
    are drawn anew in each resample, the same for both metrics; `options` are `resamples` (1000), `level` (0.95) and `seed` (0).
    With one agent the interval is one over states alone.
    """
    ours, theirs = ((rungs.gain, rungs.kl) for rungs in (ladder.of(metric), ladder.of(metrics.L2())))
    return gains.ratio(ours, theirs, _compared_at(ladder, at), **options)


def _compared_at(ladder: Ladder, at: Sequence[float] | None) -> Sequence[float]:
    return [kl for kl in AT if kl < ladder.spec.kl[1]] if at is None else at


def play_difference(
    ladder: Ladder, metric: Metric, quantity: str = "score", at: Sequence[float] | None = None, **options: Any
) -> Difference:
    """A metric's "score" or "length" of episodes minus that of L2 at some exact KLs `at`, with a bootstrap interval.

    Both in the mean over agents and episodes, linear in the root of the KL between the flow itself, at no KL, and the rungs.
    Agents and episodes are drawn anew in each resample, the same for both metrics; `at` and `options` are those of `gain_ratio`.
    Raises ValueError for a ladder of which nothing was played, and for another quantity.
    """
    if quantity not in Played._fields:
        raise ValueError(unknown("quantity of episodes", quantity, Played._fields))
    if ladder.base is None:
        raise ValueError("This ladder was not played: give its specification a number of episodes.")
    ours, theirs = (
        (getattr(ladder.played[ladder.spec.metrics.index(each)], quantity), ladder.of(each).kl)
        for each in (metric, metrics.L2())
    )
    return gains.difference(ours, theirs, getattr(ladder.base, quantity), _compared_at(ladder, at), **options)

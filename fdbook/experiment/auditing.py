"""What trained policies cost in KL, beside what their surrogates say: of decorated flows by E9, of one-step policies by samples.

A decorated flow is held at a budget of its metric's penalty, in the metric's own unit. Here its displacement is measured on
held-out states: the exact KL of the displaced law from the flow's (E9), and how much of it folds, is cut off by the action
box, or lies where the flow hardly ever is. The flow's law is that of its exact ODE; the few Euler steps that agents act with
follow it only nearly. A one-step policy has no density: its KL is estimated from nearest neighbors among samples.
"""

import dataclasses
import functools
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from fdbook.checks import Array, count
from fdbook.data.load import Loaded
from fdbook.experiment import measure, refit
from fdbook.experiment.run import Run
from fdbook.geometry import metrics
from fdbook.rl.agents import DecoratedFlow


__all__ = ["Audit", "audit", "audit_table", "neighbor_kl"]

NEIGHBORS = 5


@dataclasses.dataclass(frozen=True)
class Audit:
    """One value for each agent. `exact_kl` says whether `kl` is E9 or an estimate from nearest neighbors."""

    exact_kl: bool
    kl: np.ndarray
    """Nats, in the mean over states, of the policy before the box cuts it off from the flow's own law."""
    surrogate: np.ndarray | None
    """What the metric takes that KL to be, in nats: half the mean cost, with neither damping nor normalization (E11, E22)."""
    gain: np.ndarray
    """The mean change of Q against the flow's own actions, in units of Q."""
    folded: np.ndarray | None
    crossed: np.ndarray | None
    clipped: np.ndarray | None
    off: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if value is None or name == "exact_kl"}
        others = {name: value for name, value in dataclasses.asdict(self).items() if name not in plain}
        return plain | {name: np.asarray(value, float).tolist() for name, value in others.items()}


def audit(run: Run, *, loaded: Loaded | None = None, states: int = 128, actions: int = 32, seed: int = 0) -> Audit:
    """Audits the policies of a run of a decorated flow, or of a one-step policy (FQL), on held-out states.

    `loaded` data stand in for those that the run was trained on. Raises ValueError for other agents.
    """
    names = run.agents.networks.keys()
    if "flow" not in names or not {"delta", "actor"} & names:
        raise ValueError(
            f"An audit takes a run whose policy moves away from a flow, of fidec, deflow or fql; got {run.spec.method}."
        )
    state_key, action_key, read_key = jr.split(jr.key(seed), 3)
    observations = measure.observations(run.data(loaded), 0, states, key=state_key)[1]
    held_out = measure.held_out(run.agents, observations, actions, action_key)
    if "delta" in names:
        return _decorated(run, observations, held_out, read_key)
    return _one_step(run, held_out, read_key)


def _decorated(run: Run, observations, held_out, key) -> Audit:
    agents = cast(DecoratedFlow, run.agents)
    pairs = [(measure.take(agents, place), measure.take(held_out, place)) for place in range(len(run.spec.seeds))]
    table = measure.stack([measure.measured(one, one.networks["delta"].head, held, "delta") for one, held in pairs])
    plain = {"damping": 0.0, "trace_normalized": False}
    metric = dataclasses.replace(agents.metric, **plain)
    readings = refit.read_metric(agents, metric, observations, held_out.actions, key)
    surrogate = np.asarray(_surrogate(agents, metric, held_out, readings))
    return Audit(
        True,
        table.kl.mean(axis=1),
        surrogate,
        table.gain.mean(axis=1),
        table.folded,
        table.crossed,
        table.clipped,
        table.off,
    )


@eqx.filter_jit
def _surrogate(agents, metric, held_out, readings):
    """Half the metric's mean cost of each agent's displacement, (agents,)."""

    def one(agent, held_out, readings):
        moving = measure.moving_map(agent.networks["delta"].head, "delta")
        over_actions = jax.vmap(
            lambda inputs, a: (moving.delta(inputs, a), moving.divergence(inputs, a)), in_axes=(None, 0)
        )
        delta, divergence = jax.vmap(over_actions)(held_out.inputs, held_out.actions)
        return jnp.mean(jax.vmap(metric.cost)(delta, divergence, readings)) / 2

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0, 0))(agents, held_out, readings)


def _one_step(run: Run, held_out, key) -> Audit:
    policy, values, off = map(np.asarray, _sampled(run.agents, held_out, key))
    kl = [
        np.mean([neighbor_kl(p, q) for p, q in zip(*pair, strict=True)])
        for pair in zip(policy, held_out.actions, strict=True)
    ]
    return Audit(False, np.array(kl), None, values, None, None, None, off)


@eqx.filter_jit
def _sampled(agents, held_out, key):
    """As many actions of each one-step policy as of its flow, their gain in Q, and the share off the flow's manifold."""

    def one(agent, held_out):
        noises = jr.normal(key, held_out.actions.shape, jnp.float32)
        actor, unit = agent.networks["actor"].head, jnp.ones((), jnp.float32)

        def act(inputs, noise):
            return actor(jnp.concatenate([inputs["actor"], noise]))

        def value(inputs, action):
            return measure.mean_value(agent.networks["critic"], unit, inputs, action)

        over = functools.partial(_over_actions, held_out.inputs)
        actions = over(act, noises)
        gain = jnp.mean(over(value, actions)) - jnp.mean(over(value, held_out.actions))
        off = measure.log_probs(agent, held_out.inputs, actions) < held_out.threshold[:, None]
        return actions, gain, jnp.mean(off)

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0))(agents, held_out)


def _over_actions(inputs, function, actions):
    """A function of what is inputs and one action or noise, over all states (states, ...) and all actions of each."""
    return jax.vmap(jax.vmap(function, in_axes=(None, 0)))(inputs, actions)


def neighbor_kl(ours: Float[Array, "n d"], theirs: Float[Array, "m d"], k: int = NEIGHBORS) -> float:
    """An estimate of KL(p | q) in nats from samples of both: the k-th nearest neighbor's distance in each sample.

    Consistent, with a bias that fades slowly with n and m and is larger for thin laws; it can be negative. Raises ValueError for
    a k that is no whole number of at least 1, and for fewer than k + 1 samples.

    >>> ours, theirs = (np.random.default_rng(i).normal(i, 1, (4000, 1)) for i in (0, 1))  # N(0, 1) and N(1, 1): 1/2
    >>> abs(experiment.neighbor_kl(ours, theirs) - 0.5) < 0.1
    True
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"neighbor_kl takes a k that is a whole number of at least 1; got {k!r}.")
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    if min(len(ours), len(theirs)) <= k:
        raise ValueError(f"neighbor_kl takes more than {k} samples of both; got {len(ours)} and {len(theirs)}.")
    own = KDTree(ours).query(ours, [k + 1])[0][:, -1]
    other = KDTree(theirs).query(ours, [k])[0][:, -1]
    n, m, d = len(ours), len(theirs), ours.shape[1]
    return float(d * np.mean(np.log(np.maximum(other, 1e-12) / np.maximum(own, 1e-12))) + np.log(m / (n - 1)))


def audit_table(run: Run, audited: Audit) -> str:
    """An audit in lines: a row for each seed."""
    kind = "exact KL" if audited.exact_kl else "KL (neighbors)"
    columns = {
        kind: audited.kl,
        "metric says": audited.surrogate,
        "gain in Q": audited.gain,
        "folded": audited.folded,
        "crossed": audited.crossed,
        "clipped": audited.clipped,
    }
    columns = {name: column for name, column in (columns | {"off": audited.off}).items() if column is not None}
    shares = ("folded", "crossed", "clipped", "off")
    lines = ["  seed" + "".join(f"{name:>16}" for name in columns)]
    for i, seed in enumerate(run.spec.seeds):
        cells = (f"{column[i]:16.1%}" if name in shares else f"{column[i]:16.4g}" for name, column in columns.items())
        lines.append(f"  {seed:>4}" + "".join(cells))
    if audited.exact_kl:
        penalty = run.record.progress.curves.get("penalty")
        agents = cast(DecoratedFlow, run.agents)  # no other policy has a KL that is exact
        config = agents.config
        held = f"a budget of {config.budget:g}" if config.dual_ascent else f"a multiplier of {config.multiplier:g}"
        last = "" if not penalty else f"; its penalty was {np.mean(penalty[-1]):.3g} at the end of training"
        lines.append(
            f"{metrics.short_name(agents.metric)} was held at {held}{last} ({count(len(audited.kl), 'seed')})."
        )
    return "\n".join(lines)

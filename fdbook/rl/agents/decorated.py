"""Decorated: the flow stays as it is, and a small displacement of its actions climbs the critics under a metric (E18 to E24).

The metric is an argument: with `L2()` this is DeFlow (E18), with the others Fisher Decorator as its paper writes it (E19), as its
released code computes it (E20), with the exact score (E21), and with the complete second order (E22). Nothing else differs.

Fisher samples come for free by default: the flow's own last Euler stage, which every base action passes anyway, evaluates the
velocity at t = (T - 1) / T on a point that follows p_t, and E5 or E7 reads the score there. A batch of B states then becomes
B / K states with K actions each, so that the K scores of a state cost nothing. The released code's way, K fresh samples for each
state at perturbed times, is `fisher_samples="fresh"`.
"""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PRNGKeyArray

from fdbook.checks import Array, check_range, unknown
from fdbook.geometry import metrics, paths, transport
from fdbook.rl import networks
from fdbook.rl.agents import base, bc, iql


__all__ = ["Decorated"]

EXACT_DIVERGENCE = 8
"""Up to so many actions the divergence of E22 is exact; beyond, one random probe estimates it."""


@dataclasses.dataclass(frozen=True)
class DecoratedSettings(base.Settings):
    """The settings of a decorated flow."""

    budget: float = 0.001
    """What dual ascent holds the penalty at: for L2, E |delta|^2 / d."""
    multiplier: float = 10.0
    """The multiplier of the penalty: where dual ascent (E23) begins, or, without it, throughout."""
    dual_ascent: bool = True
    normalise_value: bool = True
    """Whether the value in the actor's loss is divided by its mean absolute value."""
    fisher_count: int = 8
    """K: Fisher samples of each state."""
    fisher_samples: str = "trajectory"
    """Where scores come from: "trajectory" (the flow's own last stage) or "fresh" (new samples, noised to the metric's times)."""
    candidates: int = 1
    """At evaluation: decorated samples of which the critics choose the best."""
    refinements: int = 1
    """At evaluation: how many times the displacement is applied."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("budget", "multiplier"):
            check_range(getattr(self, name), f"a {name}", "Decorated", open_low=True)
        for name in ("fisher_count", "candidates", "refinements"):
            check_range(getattr(self, name), name, "Decorated", low=1.0)
        if self.fisher_samples not in ("trajectory", "fresh"):
            raise ValueError(unknown("source of Fisher samples", self.fisher_samples, ("trajectory", "fresh")))
        if self.flow_steps < 2:
            raise ValueError(f"Decorated takes a flow of at least 2 steps; got {self.flow_steps}.")


class DecoratedDraws(NamedTuple):
    """Flow matching's draws; the noises of the base actions, K for each state; those of the next states; a key for the metric."""

    matching: bc.MatchingDraws
    noise: Float[Array, "states K d"]
    following: Float[Array, "batch d"]
    key: PRNGKeyArray


class Decorated(base.Agent):
    """A flow (E2), a displacement of its actions under a metric (E18 to E22) with its multiplier (E23), and critics (E16)."""

    Settings = DecoratedSettings
    metric: metrics.Metric = eqx.field(default_factory=metrics.L2)

    @classmethod
    def init(
        cls,
        observation_shape: tuple[int, ...],
        action_dim: int,
        *,
        key: PRNGKeyArray,
        metric: metrics.Metric | None = None,
        **settings,
    ) -> base.Agent:
        """As `Agent.init`, with a metric of `fdbook.geometry.metrics` (None: L2, which makes it DeFlow)."""
        made = super().init(observation_shape, action_dim, key=key, **settings)
        made = made if metric is None else dataclasses.replace(made, metric=metric)
        if made.settings.batch_size % made.count:
            batch = f"a batch of {made.settings.batch_size} is no multiple of fisher_count = {made.count}"
            raise ValueError(f"Decorated gives every state of its actor's batch fisher_count actions, but {batch}.")
        return made

    @classmethod
    def build(cls, observation_shape, action_dim, settings, *, key):
        flow_key, delta_key, critic_key = jr.split(key, 3)

        def head(width, *, key):
            return networks.displacement(width, action_dim, settings.width, settings.depth, key=key)

        return {
            "flow": bc.flow_network(observation_shape, action_dim, settings, key=flow_key),
            "delta": networks.Encoded.of(observation_shape, head, key=delta_key),
            "critic": iql.critic_network(observation_shape, action_dim, settings, key=critic_key),
            "log_multiplier": jnp.log(jnp.asarray(settings.multiplier, jnp.float32)),
        }

    @property
    def count(self) -> int:
        """How many base actions each state of the actor's batch gets: K where their scores are read off, and else 1."""
        pooled_afresh = self.settings.fisher_samples == "fresh" and _pooled(self.metric)
        return self.settings.fisher_count if self.metric.needs_scores and not pooled_afresh else 1

    def draw(self, batch, *, key):
        matching_key, noise_key, following_key, metric_key = jr.split(key, 4)
        size, d = batch.actions.shape
        noise = jr.normal(noise_key, (size // self.count, self.count, d), batch.actions.dtype)
        following = base.normals(batch, key=following_key)
        return DecoratedDraws(bc.matching(batch, key=matching_key), noise, following, metric_key)

    def carried(self, observations, next_observations, draws) -> tuple[transport.BaseActions, Float[Array, "batch d"]]:
        """The actor's base actions with the scores that the metric reads, and the flow's actions at the next states."""
        field, steps = self.networks["flow"], self.settings.flow_steps
        states, k, d = draws.noise.shape
        here = field.features(observations[:states])
        rows = jnp.concatenate([jnp.repeat(here, k, axis=0), field.features(next_observations)])
        noises = jnp.concatenate([draws.noise.reshape(-1, d), draws.following])
        both = base.carry(field.head, rows, noises, steps)
        actions = both.actions[: states * k].reshape(states, k, d)
        if not self.metric.needs_scores:
            scores = jnp.zeros_like(actions)
        elif self.settings.fisher_samples == "trajectory":
            points, velocities = (x[: states * k].reshape(states, k, d) for x in (both.points, both.velocities))
            scores = last_stage_scores(self.metric, both.time, points, velocities)
        else:
            scores = self._fresh_scores(field.head, here, actions, key=draws.key)
        return transport.BaseActions(here, actions, scores), both.actions[states * k :]

    def _fresh_scores(self, field, features, actions, *, key):
        """Scores of actions noised anew: for a pooled metric of K new samples of each state, else of the base actions."""
        noise_key, score_key = jr.split(key)
        states, _, d = actions.shape
        if _pooled(self.metric):
            k = self.settings.fisher_count
            noises = jr.normal(noise_key, (states * k, d), actions.dtype)
            drawn = base.carry(field, jnp.repeat(features, k, axis=0), noises, self.settings.flow_steps).actions
            actions = drawn.reshape(states, k, d)
        read = jax.vmap(lambda s, a, one: self.metric.scores(field, s, a, key=one))
        return read(features, actions, jr.split(score_key, states))

    def loss(self, trained, batch, draws):
        own, slow, settings = self.networks, self.targets["critic"], self.settings
        field = trained["flow"]
        matched = base.flow_loss(
            field.head, field.features(batch.observations), batch.actions, draws.matching.t, draws.matching.z
        )
        carried, after = jax.lax.stop_gradient(self.carried(batch.observations, batch.next_observations, draws))
        actor, terms = self.actor_loss(trained["delta"], own["log_multiplier"], batch, carried, key=draws.key)
        dual = jnp.zeros((), actor.dtype)
        if settings.dual_ascent:
            dual = transport.dual_loss(trained["log_multiplier"], terms["penalty"], settings.budget)
        delta = own["delta"]
        moved = jnp.clip(after + jax.vmap(delta.head)(delta.features(batch.next_observations), after), -1, 1)
        following = self.aggregate(base.values(slow, slow.features(batch.next_observations), moved))
        critic, info = base.critic_loss(trained["critic"], batch, following, settings.discount)
        info |= {"flow": matched, "actor": actor, "penalty": terms["penalty"], "actor_q": terms["value"]}
        return matched + actor + critic + dual, info | {"multiplier": jnp.exp(own["log_multiplier"])}

    def actor_loss(self, delta, log_multiplier, batch, carried, *, key) -> tuple[Array, dict[str, Array]]:
        """E18 to E22 for a displacement network: multiplier * penalty - value, the clipped actions judged by the agent."""
        judge, d = self.networks["critic"], self.action_dim
        states, k, _ = carried.actions.shape
        seen = delta.features(batch.observations[:states])
        judged = judge.features(batch.observations[:states])
        split = seen.shape[1]

        def value(both, action):
            return jnp.mean(judge.head(both[split:], jnp.clip(action, -1, 1)))

        def move(both, action):
            return delta.head(both[:split], action)

        base_actions = carried._replace(observations=jnp.concatenate([seen, judged], axis=1))
        probes = None
        if self.metric.needs_divergence and d > EXACT_DIVERGENCE:
            probes = jr.rademacher(jr.fold_in(key, 1), (states, k, d), carried.actions.dtype)
        return transport.actor_loss(
            transport.LocalTransport(move),
            value,
            self.metric,
            base_actions,
            jnp.exp(log_multiplier),
            normalise_value=self.settings.normalise_value,
            probes=probes,
        )

    def act(self, observation, *, key):
        """A sample of the flow, displaced; the best of several if `candidates` says so."""
        delta = self.networks["delta"]
        actions = base.propose(self, observation, self.settings.candidates, key=key)
        features = jnp.repeat(delta.features(observation[None]), len(actions), axis=0)
        for _ in range(self.settings.refinements):
            actions = jnp.clip(actions + jax.vmap(delta.head)(features, actions), -1, 1)
        return actions[0] if len(actions) == 1 else base.best(self, observation, actions)


def _pooled(metric) -> bool:
    return isinstance(metric, metrics.Fisher) and metric.pooled


def last_stage_scores(metric, time: float, points: Float[Array, "*b d"], velocities: Array) -> Float[Array, "*b d"]:
    """The scores that a metric reads off the flow's last stage: E7 for the released Fisher metric, E5 for the others."""
    if metric.score == "released":
        return paths.released_score(time, velocities)
    return paths.score_from_velocity(time, points, velocities)

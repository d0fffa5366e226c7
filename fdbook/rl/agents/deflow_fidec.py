"""Decorated: the flow stays as it is, and a small displacement of its actions climbs the critics under a metric (E18 to E24).

The metric is a value among the settings: with `L2()` this is DeFlow (E18), with the others Fisher Decorator as its paper writes
it (E19), as its released code computes it (E20), with the exact score (E21), and with the complete second order (E22); others
read matrices (E28, E29). Nothing else differs: every metric sees the same states, the same base actions of each, and the same
clip of the gradients.

Scores come for free by default: the flow's own Euler steps, which every base action passes anyway, evaluate the velocity at
t = (T - 1) / T, and E5 or E7 reads the score there. Matrices cost d forward derivatives of the velocity at that one time, about
as much as d more steps of the actor's base actions, and an eigendecomposition. The points follow p_t only as the steps model
it: for an exact Gaussian velocity ten of them keep 0.77 of its variance at a width of 0.3, and 0.98 at 0.03, so that the scores
belong to a wider law than the points. A batch of B states becomes B / K states with K actions each, so that the K readings of a
state cost no more than those of K states. The released code's way, a state for each row and K fresh samples of it at perturbed
times, is `actions_per_state=1, fisher_samples="fresh"`.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_range, unknown
from fdbook.geometry import metrics, transport
from fdbook.rl import networks
from fdbook.rl.agents import base, bc, iql
from fdbook.rl.transitions import Batch


__all__ = ["DecoratedFlow", "DecoratedFlowConfig", "DecoratedFlowDraws"]

EXACT_DIVERGENCE = 8
"""Up to so many actions the divergence of E22 is exact; beyond, one random probe estimates it."""
CHOICES = {
    "fisher_samples": ("trajectory", "fresh"),
    "dual": ("log", "relu"),
    "selection": ("displaced", "base"),
    "actor_states": ("current", "next"),
}


@dataclasses.dataclass(frozen=True)
class DecoratedFlowConfig(base.Config):
    """The settings of a decorated flow."""

    metric: metrics.Metric = dataclasses.field(default_factory=metrics.L2)
    """What a displacement costs."""
    max_grad_norm: float | None = 5.0
    budget: float = 0.001
    """What dual ascent holds the penalty at: for L2, E |delta|^2 / d."""
    multiplier: float = 10.0
    """The multiplier of the penalty: where dual ascent (E23) begins, or, without it, throughout."""
    dual_ascent: bool = True
    dual: str = "log"
    """How dual ascent moves the multiplier (E23): "log", by Adam on its logarithm, as the released code does, or "relu", by
    plain steps of `dual_rate` that stop at 0, as the paper writes it."""
    dual_rate: float = 1.0
    """eta of the paper's dual ascent."""
    normalize_q: bool = True
    """Whether the value in the actor's loss is divided by its mean absolute value."""
    actions_per_state: int = 4
    """Base actions of each state of the actor's batch, which then has batch_size / actions_per_state states. More of them make
    a pooled matrix better, fewer the actor's gradient quieter: in the medium point maze, batch 256, the noise of the exact
    metric's gradient is 1, 1.15, 1.35, 1.6 and 1.9 for 1, 2, 4, 8 and 16 of them, the error of a matrix 0.94, 0.81, 0.66, 0.53
    and 0.40 of its size."""
    actor_states: str = "current"
    """The states on which the displacement learns: the batch's own, or its "next" ones, with one action of each, which are the
    base actions of E16's target as well: then one pass of the flow serves both. For metrics that need no several actions of a
    state; `actions_per_state` says nothing then."""
    fisher_samples: str = "trajectory"
    """Where readings come from: "trajectory" (the flow's own steps) or "fresh" (new samples, noised to the metric's times)."""
    num_fisher_samples: int = 8
    """K: fresh samples of each state for a pooled metric."""
    perturbed_time: float | None = None
    """The time of the flow's step at which a trajectory is read, k / flow_steps (E6); None: that of the last step."""
    delta_scale: float = 0.01
    """The size of the displacement's last layer at first, as a factor on the papers' first weights; 1 in the released code."""
    num_samples: int = 1
    """At evaluation: samples of which the critics choose the best."""
    selection: str = "displaced"
    """What the critics choose among: all samples "displaced", or, as the released code does, the "base" ones, of which only the
    best is displaced; repeated displacements then keep the action of highest value on the way."""
    num_refinements: int = 1
    """At evaluation: how many times the displacement is applied."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("budget", "multiplier", "dual_rate", "delta_scale"):
            check_range(getattr(self, name), f"a {name}", "DecoratedFlow", open_low=True)
        for name in ("actions_per_state", "num_fisher_samples", "num_samples", "num_refinements"):
            check_range(getattr(self, name), name, "DecoratedFlow", low=1.0)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(unknown(f"value of {name}", getattr(self, name), known))
        if self.flow_steps < 2:
            raise ValueError(f"DecoratedFlow takes a flow of at least 2 steps; got {self.flow_steps}.")
        if self.batch_size % self.actions_per_state:
            batch = f"a batch of {self.batch_size} is no multiple of actions_per_state = {self.actions_per_state}"
            raise ValueError(f"DecoratedFlow gives every state of its actor's batch as many actions, but {batch}.")
        if self.actor_states == "next" and self.metric.pooled and self.metric.reads != "nothing":
            name = metrics.short_name(self.metric)
            raise ValueError(
                f"DecoratedFlow learns on next states with one action of each; the metric {name} pools several of a state."
            )
        self._check_time()

    def _check_time(self):
        if self.perturbed_time is None:
            return
        if self.fisher_samples == "fresh":
            raise ValueError(
                "perturbed_time is for fisher_samples = trajectory; fresh samples are noised to the metric's own t."
            )
        if not 0 < self.stage < self.flow_steps or abs(self.stage / self.flow_steps - self.perturbed_time) > 1e-9:
            raise ValueError(
                f"DecoratedFlow reads a trajectory at a step of its flow, k / {self.flow_steps} with k from 1 to "
                f"{self.flow_steps - 1}; got perturbed_time = {self.perturbed_time:g}."
            )

    @property
    def stage(self) -> int:
        """The number of the Euler step at which a trajectory is read."""
        return self.flow_steps - 1 if self.perturbed_time is None else round(self.perturbed_time * self.flow_steps)


class DecoratedFlowDraws(NamedTuple):
    """Flow matching's draws; the noises of the base actions, K for each state; those of the next states; a key for the metric.

    >>> agent = agents.make("fidec")((4,), 2, key=jr.key(0), width=8, depth=1, batch_size=8)
    >>> seen, actions, numbers = jnp.zeros((8, 4)), jnp.zeros((8, 2)), jnp.zeros(8)
    >>> draws = agent.draw(transitions.Batch(seen, actions, seen, numbers, numbers, actions), key=jr.key(1))
    >>> draws.noise.shape, draws.next_noise.shape  # 4 base actions in each of 8 / 4 states
    ((2, 4, 2), (8, 2))
    """

    matching: bc.MatchingDraws
    noise: Float[Array, "states K d"]
    next_noise: Float[Array, "batch d"]
    key: PRNGKeyArray


class DecoratedFlow(base.Agent):
    """A flow (E2), a displacement of its actions under a metric (E18 to E22) with its multiplier (E23), and critics (E16)."""

    config: DecoratedFlowConfig = eqx.field(static=True)

    Config: ClassVar[type[DecoratedFlowConfig]] = DecoratedFlowConfig

    @classmethod
    def build(
        cls, observation_shape: tuple[int, ...], action_dim: int, config: DecoratedFlowConfig, *, key: PRNGKeyArray
    ) -> dict[str, PyTree]:
        flow_key, delta_key, critic_key = jr.split(key, 3)

        def head(width, *, key):
            options = {"last": config.delta_scale, "key": key}
            return networks.displacement(width, action_dim, config.width, config.depth, **options)

        made = {
            "flow": bc.flow_network(observation_shape, action_dim, config, key=flow_key),
            "delta": networks.Encoded.of(observation_shape, head, key=delta_key),
            "critic": iql.critic_network(observation_shape, action_dim, config, key=critic_key),
        }
        multiplier = jnp.asarray(config.multiplier, jnp.float32)
        return made | ({"log_multiplier": jnp.log(multiplier)} if config.dual == "log" else {"multiplier": multiplier})

    @property
    def metric(self) -> metrics.Metric:
        """What a displacement costs."""
        return self.config.metric

    @property
    def multiplier(self) -> Float[Array, ""]:
        """What the penalty is multiplied by."""
        if self.config.dual == "log":
            return jnp.exp(self.networks["log_multiplier"])
        return self.networks["multiplier"]

    def draw(self, batch: Batch, *, key: PRNGKeyArray) -> DecoratedFlowDraws:
        matching_key, noise_key, next_key, metric_key = jr.split(key, 4)
        (size, d), k = batch.actions.shape, self.config.actions_per_state
        next_noise = base.normals(batch, key=next_key)
        if self.config.actor_states == "next":
            return DecoratedFlowDraws(bc.matching(batch, key=matching_key), next_noise[:, None], next_noise, metric_key)
        noise = jr.normal(noise_key, (size // k, k, d), batch.actions.dtype)
        return DecoratedFlowDraws(bc.matching(batch, key=matching_key), noise, next_noise, metric_key)

    def update(self, batch: Batch, *, key: PRNGKeyArray) -> tuple[base.Agent, dict[str, Float[Array, ""]]]:
        """As `Agent.update`; E23 as the paper writes it moves the multiplier by itself."""
        agent, info = super().update(batch, key=key)
        config = self.config
        if config.dual_ascent and config.dual == "relu":
            moved = jnp.maximum(self.multiplier + config.dual_rate * (info["penalty"] - config.budget), 0)
            agent = dataclasses.replace(agent, networks=agent.networks | {"multiplier": moved})
        return agent, info

    def base_actions(
        self, observations: Array, next_observations: Array, draws: DecoratedFlowDraws
    ) -> tuple[transport.BaseActions, Float[Array, "batch d"]]:
        """The actor's base actions with what the metric reads there, and the flow's actions at the next states."""
        field, config = self.networks["flow"], self.config
        states, k, d = draws.noise.shape
        if shared := config.actor_states == "next":
            rows, noises = field.features(next_observations), draws.next_noise
            here = rows
        else:
            here = field.features(observations[:states])
            rows = jnp.concatenate([jnp.repeat(here, k, axis=0), field.features(next_observations)])
            noises = jnp.concatenate([draws.noise.reshape(-1, d), draws.next_noise])
        both = base.integrate_flow(field.head, rows, noises, config.flow_steps, stage=config.stage)
        actions, points, velocities = (x[: states * k].reshape(states, k, d) for x in both[:3])
        if config.fisher_samples == "fresh":
            readings = self._fresh_readings(field.head, here, actions, key=draws.key)
        else:
            time = jnp.asarray(both.time, actions.dtype)
            read = jax.vmap(lambda s, x, v: self.metric.readings(field.head, s, time, x, v))
            readings = read(here, points, velocities)
        return transport.BaseActions(here, actions, readings), both.actions if shared else both.actions[states * k :]

    def _fresh_readings(self, field, features, actions, *, key):
        """Readings at actions noised anew: for a pooled metric of K new samples of each state, else of the base actions."""
        if self.metric.reads == "nothing":
            return None
        noise_key, read_key = jr.split(key)
        states, _, d = actions.shape
        if self.metric.pooled:
            k = self.config.num_fisher_samples
            noises = jr.normal(noise_key, (states * k, d), actions.dtype)
            drawn = base.integrate_flow(field, jnp.repeat(features, k, axis=0), noises, self.config.flow_steps).actions
            actions = drawn.reshape(states, k, d)
        read = jax.vmap(lambda s, a, subkey: self.metric.perturbed(field, s, a, key=subkey))
        return read(features, actions, jr.split(read_key, states))

    def loss(
        self, trained: dict[str, PyTree], batch: Batch, draws: DecoratedFlowDraws
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """E2 for the flow, E16 for the critics, E18 to E22 or E28, E29 for the displacement, E23 for the multiplier."""
        target, config = self.targets["critic"], self.config
        field = trained["flow"]
        flow_loss = base.flow_loss(
            field.head, field.features(batch.observations), batch.actions, draws.matching.t, draws.matching.z
        )
        base_actions, next_base = jax.lax.stop_gradient(
            self.base_actions(batch.observations, batch.next_observations, draws)
        )
        actor_loss, terms = self.actor_loss(trained["delta"], self.multiplier, batch, base_actions, key=draws.key)
        dual_loss = jnp.zeros((), actor_loss.dtype)
        if config.dual_ascent and config.dual == "log":
            dual_loss = transport.dual_loss(trained["log_multiplier"], terms["penalty"], config.budget)
        delta = self.networks["delta"]
        next_features = delta.features(batch.next_observations)
        next_actions = jnp.clip(next_base + jax.vmap(delta.head)(next_features, next_base), -1, 1)
        next_q = self.aggregate(base.values(target, target.features(batch.next_observations), next_actions))
        critic_loss, info = base.critic_loss(trained["critic"], batch, next_q, config.discount)
        info |= {"flow": flow_loss, "actor": actor_loss, "penalty": terms["penalty"], "actor_q": terms["value"]}
        return flow_loss + actor_loss + critic_loss + dual_loss, info | {"multiplier": self.multiplier}

    def actor_loss(
        self,
        delta: networks.Encoded,
        multiplier: Float[Array, ""] | float,
        batch: Batch,
        base_actions: transport.BaseActions,
        *,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """E18 to E22 for a displacement network: multiplier * penalty - value, the clipped actions judged by the agent."""
        critic, d = self.networks["critic"], self.action_dim
        states, k, _ = base_actions.actions.shape
        observations = batch.observations if self.config.actor_states == "current" else batch.next_observations
        seen = {
            "delta": delta.features(observations[:states]),
            "critic": critic.features(observations[:states]),
        }

        def value(features, action):
            return jnp.mean(critic.head(features["critic"], jnp.clip(action, -1, 1)))

        def move(features, action):
            return delta.head(features["delta"], action)

        base_actions = base_actions._replace(observations=seen)
        probes = None
        if self.metric.needs_divergence and d > EXACT_DIVERGENCE:
            probes = jr.rademacher(jr.fold_in(key, 1), (states, k, d), base_actions.actions.dtype)
        return transport.actor_loss(
            transport.LocalTransport(move),
            value,
            self.metric,
            base_actions,
            multiplier,
            normalize_q=self.config.normalize_q,
            probes=probes,
        )

    def act(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """A sample of the flow, displaced; the best of several if `num_samples` says so."""
        config = self.config
        actions = base.sample_actions(self, observation, config.num_samples, key=key)
        if config.selection == "base":
            return self._refined_best(observation, actions)
        for moved in self._refinements(observation, actions):
            actions = moved
        return actions[0] if len(actions) == 1 else base.best_action(self, observation, actions)

    def _refinements(self, observation, actions):
        """The actions (n, d) displaced once, twice, ..."""
        delta = self.networks["delta"]
        features = jnp.repeat(delta.features(observation[None]), len(actions), axis=0)
        for _ in range(self.config.num_refinements):
            actions = jnp.clip(actions + jax.vmap(delta.head)(features, actions), -1, 1)
            yield actions

    def _refined_best(self, observation, actions):
        """The released code's choice: by the critics' mean, the best base action, and the best place on its way."""

        def mean(q):
            return jnp.mean(q, axis=0)

        best = actions[0] if len(actions) == 1 else base.best_action(self, observation, actions, reduce=mean)
        way = [moved[0] for moved in self._refinements(observation, best[None])]
        return way[0] if len(way) == 1 else base.best_action(self, observation, jnp.stack([best, *way]), reduce=mean)

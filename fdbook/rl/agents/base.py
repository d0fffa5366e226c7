"""What every agent is: networks, target networks, one optimizer, and three functions, `init`, `update` and `act`.

An agent is an Equinox module, so that a training is `agent = agent.update(batch, key=key)[0]` over and over. All losses of one
update are added and descended together by one Adam, as in the papers' code: a term reaches only those networks that it names as
its own, because every other network in it is the agent's and not the one that is differentiated.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Float, PRNGKeyArray, PyTree

from fdbook.checks import Array, check_fields, check_kinds, check_range, unknown
from fdbook.geometry import flow, loop, paths
from fdbook.rl import networks
from fdbook.rl.transitions import Batch


__all__ = ["Agent", "Config", "FlowSamples", "critic_loss", "flow_loss", "integrate_flow", "values"]


@dataclasses.dataclass(frozen=True)
class Config:
    """What all agents can be told; the defaults are the papers'."""

    width: int = 512
    """Units of each hidden layer."""
    depth: int = 4
    """Hidden layers of each network."""
    batch_size: int = 256
    learning_rate: float = 3e-4
    max_grad_norm: float | None = None
    """Gradients longer than this are shortened to it, all networks taken together; None: never."""
    discount: float = 0.99
    q_agg: str = "mean"
    """How the target of E16 joins the critics: "mean" or "min"."""
    num_critics: int = 2
    """Critics in the ensemble of E16."""
    tau: float = 0.005
    """What part of the critics goes into their target networks at each update."""
    flow_steps: int = 10
    """Euler steps from noise to action (E3)."""

    def __post_init__(self):
        where = type(self).__name__.removesuffix("Config") or "An agent"
        check_kinds(self, where)
        for name in ("width", "depth", "batch_size", "num_critics", "flow_steps"):
            check_range(getattr(self, name), name, where, low=1.0)
        check_range(self.learning_rate, "a learning rate", where, open_low=True)
        check_range(self.discount, "a discount", where, high=1.0, open_high=True)
        check_range(self.tau, "tau", where, high=1.0, open_low=True)
        if self.max_grad_norm is not None:
            check_range(self.max_grad_norm, "max_grad_norm", where, open_low=True)
        if self.q_agg not in ("mean", "min"):
            raise ValueError(unknown("q_agg", self.q_agg, ("mean", "min")))

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam, behind the clipping of gradients if there is one."""
        adam = optax.adam(self.learning_rate)
        return adam if self.max_grad_norm is None else optax.chain(optax.clip_by_global_norm(self.max_grad_norm), adam)


class Agent(eqx.Module):
    """A policy that learns from batches. Make one with `init`.

    `networks` are the trained ones, by name; `targets` the target networks, slow copies of some; `opt_state` is the optimizer's.
    """

    networks: dict[str, PyTree]
    targets: dict[str, PyTree]
    opt_state: optax.OptState
    config: Config = eqx.field(static=True)
    action_dim: int = eqx.field(static=True)

    Config: ClassVar[type[Config]] = Config
    target_names: ClassVar[tuple[str, ...]] = ("critic",)
    """The networks that have target networks."""

    @classmethod
    def init(cls, observation_shape: tuple[int, ...], action_dim: int, *, key: PRNGKeyArray, **config: Any) -> "Agent":
        """A new agent for observations of a shape and `action_dim` actions in [-1, 1]; `config` as in `cls.Config`.

        Raises ValueError, with the nearest name, for a setting that there is not, and for values out of range.
        """
        chosen = cls.configure(**config)
        built = cls.build(observation_shape, action_dim, chosen, key=key)
        opt_state = chosen.optimizer.init(eqx.filter(built, eqx.is_inexact_array))
        targets = {name: jax.tree.map(lambda x: x, built[name]) for name in cls.target_names}
        return cls(built, targets, opt_state, chosen, action_dim)

    @classmethod
    def configure(cls, **config: Any) -> Config:
        """The settings by name, checked."""
        check_fields(cls.Config, config, f"setting of {cls.__name__}")
        return cls.Config(**config)

    @classmethod
    @abc.abstractmethod
    def build(
        cls, observation_shape: tuple[int, ...], action_dim: int, config: Any, *, key: PRNGKeyArray
    ) -> dict[str, PyTree]:
        """The networks, by name."""

    @abc.abstractmethod
    def draw(self, batch: Batch, *, key: PRNGKeyArray) -> tuple:
        """All the randomness of one update."""

    @abc.abstractmethod
    def loss(self, trained: dict[str, PyTree], batch: Batch, draws: Any) -> tuple[Array, dict[str, Array]]:
        """The sum of all losses with the networks `trained`, and scalars to log: each term, and what explains it."""

    @abc.abstractmethod
    def act(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """An action (d,) in [-1, 1] for one observation."""

    def explore(self, observation: Array, *, key: PRNGKeyArray) -> Float[Array, " d"]:
        """The action with which an online phase collects: that of `act`, unless the policy is played without its noise there."""
        return self.act(observation, key=key)

    def update(self, batch: Batch, *, key: PRNGKeyArray) -> tuple["Agent", dict[str, Float[Array, ""]]]:
        """The agent after one step on a batch of b transitions, and scalars () to log; `key` gives the draws of its losses."""
        draws = self.draw(batch, key=key)
        (_, info), gradient = eqx.filter_value_and_grad(self.loss, has_aux=True)(self.networks, batch, draws)
        trained, opt_state = loop.apply_gradient(self.config.optimizer, gradient, self.opt_state, self.networks)
        return dataclasses.replace(self, networks=trained, targets=self.updated_targets(), opt_state=opt_state), info

    def updated_targets(self) -> dict[str, PyTree]:
        """E16: the target networks, a little nearer to the networks as they are before the update, as in the published code."""
        tau = self.config.tau
        return {
            name: loop.incremental_update(self.networks[name], target, tau) for name, target in self.targets.items()
        }

    def aggregate(self, q: Float[Array, "critics *batch"]) -> Float[Array, " *batch"]:
        """E16: the mean or the minimum over the critics."""
        return jnp.mean(q, axis=0) if self.config.q_agg == "mean" else jnp.min(q, axis=0)


class FlowSamples(NamedTuple):
    """Where the flow carried some noises: the actions, clipped to the box, and one Euler stage on the way there."""

    actions: Float[Array, "batch d"]
    points: Float[Array, "batch d"]
    velocities: Float[Array, "batch d"]
    time: float


def integrate_flow(
    field: paths.Velocity,
    features: Float[Array, "batch n"],
    noises: Float[Array, "batch d"],
    steps: int,
    *,
    stage: int | None = None,
) -> FlowSamples:
    """E3 with `steps` Euler steps, those from number `stage` on (None: the last) in the open: there metrics read off the flow."""
    stage = steps - 1 if stage is None else stage
    points, velocity = noises, jax.vmap(field, in_axes=(None, 0, 0))
    if stage > 0:
        points = jax.vmap(lambda s, z: flow.sample(field, s, z, steps=stage, until=stage / steps))(features, noises)
    velocities = velocity(jnp.asarray(stage / steps, noises.dtype), features, points)
    actions = points + velocities / steps
    for later in range(stage + 1, steps):
        actions = actions + velocity(jnp.asarray(later / steps, noises.dtype), features, actions) / steps
    return FlowSamples(jnp.clip(actions, -1, 1), points, velocities, stage / steps)


def values(critic: networks.Encoded, features: Float[Array, "batch n"], actions: Float[Array, "batch d"]) -> Array:
    """Q of every critic, shape (critics, batch)."""
    return jax.vmap(critic.head, out_axes=1)(features, actions)


def critic_loss(
    critic: networks.Encoded,
    batch: Batch,
    next_q: Float[Array, " batch"],
    discount: float,
    *,
    reduce: Callable = jnp.mean,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """E16 against the value `next_q` of the next states, which is held constant; `reduce` makes one number of the critics'."""
    q = values(critic, critic.features(batch.observations), batch.actions)
    target = jax.lax.stop_gradient(batch.rewards + discount * batch.masks * next_q)
    loss = reduce(jnp.mean((q - target[None]) ** 2, axis=1))
    return loss, {"critic": loss, "q": jnp.mean(q), "q_largest": jnp.max(jnp.abs(q))}


def flow_loss(
    field: paths.Velocity,
    features: Float[Array, "batch n"],
    actions: Float[Array, "batch d"],
    t: Float[Array, " batch"],
    z: Array,
) -> Float[Array, ""]:
    """E2 with given times and noises, over d as in `fdbook.geometry.flow.flow_matching_loss`."""
    velocity = jax.vmap(field)(t, features, paths.interpolate(t, z, actions))
    return jnp.mean((velocity - paths.target_velocity(z, actions)) ** 2)


def normals(batch: Batch, *, key: PRNGKeyArray) -> Float[Array, "batch d"]:
    """One noise z ~ N(0, I) for each action of a batch."""
    return jr.normal(key, batch.actions.shape, batch.actions.dtype)


def sample_actions(agent: Agent, observation: Array, n: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
    """n samples (n, d) of an agent's flow for one observation."""
    field = agent.networks["flow"]
    features = jnp.repeat(field.features(observation[None]), n, axis=0)
    noises = jr.normal(key, (n, agent.action_dim), jnp.float32)
    return integrate_flow(field.head, features, noises, agent.config.flow_steps).actions


def best_action(
    agent: Agent, observation: Array, actions: Float[Array, "n d"], *, reduce: Callable | None = None
) -> Float[Array, " d"]:
    """The one of n actions that the agent's critics (critics, n) value most, joined by `reduce`, or as in their target."""
    reduce = agent.aggregate if reduce is None else reduce
    critic = agent.networks["critic"]
    features = jnp.repeat(critic.features(observation[None]), len(actions), axis=0)
    return actions[jnp.argmax(reduce(values(critic, features, actions)))]

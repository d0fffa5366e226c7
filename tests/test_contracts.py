"""One contract for every metric, agent, task and figure: newcomers are tested unasked, and a step that was forgotten is named.

Each check takes a name. The tests run it over all that is registered; the last ones run it on toys that break it, one step each.
What a metric costs and what a loss is, the other tests compare with NumPy: here is what all of a kind have in common.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import plain_metrics
import pytest

import fdbook
from fdbook.data.tasks import DATASETS, HYPERPARAMETERS, TASKS, Task, find_task
from fdbook.experiment import RunSpec
from fdbook.geometry import flow, metrics
from fdbook.geometry.densities import gaussian
from fdbook.geometry.metrics import registry
from fdbook.report import figures, published, style
from fdbook.report import numbers as files
from fdbook.report.figures import learning
from fdbook.rl import agents, records, train
from fdbook.rl.transitions import Batch, Transitions


ROOT = Path(fdbook.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
K, D, N, B = 8, 3, 4, 16
SEEDS = (3, 5)
SIZES = {"width": 8, "depth": 1, "batch_size": B, "flow_steps": 2}
TASK = "cube-single-play-singletask-task2-v0"
MOVE = np.array([0.3, -0.1, 0.2])
LOOKS = ("METRIC_COLORS", "METRIC_MARKERS", "METRIC_LINES", "METRIC_LABELS")
quickly_compiled = functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 0})
"""Most of the time of these tests is XLA's, which need not try hard for programs that run once or twice."""


def home(thing):
    """The file that a class or module is defined in, as seen from the root."""
    path = Path(inspect.getsourcefile(thing))
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def whole_classes(base):
    """The subclasses of the package that lack no method."""
    found = [each for kind in base.__subclasses__() for each in (kind, *whole_classes(kind))]
    return [kind for kind in found if kind.__module__.startswith("fdbook.") and not inspect.isabstract(kind)]


# Metrics


def check_metric_is_known(name):
    """Every step of "How to add a metric" was taken."""
    metric = metrics.make(name)
    short, where = metrics.short_name(metric), home(type(metric))
    assert metrics.summaries()[short].strip(), f"{where}: the call of register for {name!r} has an empty summary"
    assert metrics.make(short) == metric, f"{where}: {name!r} and its short name {short!r} make two metrics"
    for table in LOOKS:
        assert name in getattr(style, table), f"fdbook/report/style.py: {table} has no entry for {name!r}"
    assert name in plain_metrics.FORMS, f"tests/plain_metrics.py: FORMS has no entry for {name!r}"
    entry = {"agent": "fidec", "metric": short, "seeds": 1, "steps": [10], "score": [[20]]}
    (line,) = labeled({"tasks": {"somewhere": {short: entry}}})
    wanted, found = (style.METRIC_COLORS[name], style.METRIC_MARKERS[name]), (line.get_color(), line.get_marker())
    assert found == wanted, f"fdbook/report/figures/learning.py: _look does not find {name!r} by {short!r}"


def check_metric_is_told(name):
    """A reader of the documentation and of the README meets it."""
    where = "fdbook/geometry/metrics/__init__.py: the docstring's table"
    assert f"| `{name}` " in metrics.__doc__, f"{where} has no row for {name!r}"
    short = metrics.short_name(metrics.make(name))
    fixed = {entry.metric for entry in agents.AGENTS.values() if not entry.any_metric}
    told = short in fixed or re.search(rf"[` ]{short}`", README)
    assert told, f"README.md, Training: the metrics of `fidec` lack {short!r}"


def check_value(name):
    """Equal options are equal metrics, in a record as in a dictionary."""
    metric, again = metrics.make(name), metrics.make(name)
    where = home(type(metric))
    assert metric is not again
    back = metrics.from_dict(json.loads(json.dumps(metrics.to_dict(metric))))
    for other in (again, back):
        assert other == metric, f"{where}: {other} and {metric} should be equal"
        assert hash(other) == hash(metric), f"{where}: equal metrics {name!r} have different hashes"
    assert metrics.to_dict(metric)["name"] == name
    assert all(field.metadata.get("static") for field in dataclasses.fields(metric)), f"{where}: options are static"
    if "damping" in options(metric):
        other = metrics.make(name, damping=0.5)
        assert other != metric, f"{where}: {name!r} does not tell its damping apart"
        assert metrics.from_dict(metrics.to_dict(other)) == other


def options(metric):
    """The names of what can be said when a metric is made."""
    return {field.name for field in dataclasses.fields(metric) if field.init}


@functools.cache
def read(metric, k=K):
    """A skew Gaussian's flow read at k points of its path: at one time, at a time for each, and at points noised afresh."""
    field = flow.ExactVelocity(gaussian(jnp.asarray([0.5, -0.2, 0.1]), jnp.diag(jnp.asarray([0.4, 0.1, 0.02]))))
    points, times = jr.normal(jr.key(0), (k, D)), jnp.full(k, 0.85)
    velocities = jax.vmap(field, in_axes=(0, None, 0))(times, flow.EMPTY, points)
    one, several = (metric.readings(field, flow.EMPTY, t, points, velocities) for t in (times[0], times))
    return one, several, metric.perturbed(field, flow.EMPTY, points, key=jr.key(1))


def check_readings(name):
    """A reading for each action, of the announced kind; None exactly where nothing is read."""
    metric = metrics.make(name)
    says = f"{home(type(metric))}: {name!r} has reads = {metric.reads!r}"
    one, several, fresh = read(metric)
    for readings in (one, several, fresh):
        leaves = jax.tree.leaves(readings)
        assert (readings is None) == (metric.reads == "nothing"), f"{says}, but its readings are {readings}"
        assert all(leaf.shape[0] == K for leaf in leaves), f"{says}, but there is not a reading for each action"
        if metric.reads != "nothing":
            shape = (K, D) if metric.reads == "scores" else (K, D, D)
            shapes = [leaf.shape for leaf in leaves if leaf.shape != (K,)]  # times may come with matrices
            assert shapes == [shape], f"{says}, but its readings are not of shape {shape}"
            assert all(np.all(np.isfinite(leaf)) for leaf in leaves), f"{says}, but they are not finite"
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(several), strict=True):
        np.testing.assert_allclose(a, b, err_msg=f"{says}, which depend on whether t comes once or for each action")
    if metric.pooled:
        assert metric.cost(jnp.ones((K, D)), jnp.ones(K), read(metric, 2 * K)[0]).shape == (K,)


def moves():
    """Displacements (k, d) and their divergences (k,) of both signs."""
    return jr.normal(jr.key(2), (K, D)), jr.normal(jr.key(3), (K,))


def check_quadratic(name):
    """A penalty is a positive quadratic form of the displacement and its divergence, and the mean cost over d."""
    metric, (delta, divergence) = metrics.make(name), moves()
    readings, where = read(metric)[0], f"{home(type(metric))}: the penalty of {name!r}"
    cost, penalty = metric.cost(delta, divergence, readings), metric.penalty(delta, divergence, readings)
    assert (cost.shape, penalty.shape) == ((K,), ()), f"{where} has another shape"
    assert np.all(np.asarray(cost) >= 0), f"{where} is negative"
    assert float(penalty) > 0, f"{where} is 0 for a displacement"
    np.testing.assert_allclose(penalty, np.mean(cost) / D, err_msg=f"{where} is not the mean cost over d")
    nothing = metric.penalty(0 * delta, 0 * divergence, readings)
    assert float(nothing) == 0, f"{where} is not 0 without a displacement"
    twice = metric.penalty(2 * delta, 2 * divergence, readings)
    np.testing.assert_allclose(twice, 4 * penalty, err_msg=f"{where} is not quadratic")
    reacts = not np.allclose(cost, metric.cost(delta, 0 * divergence, readings))
    assert reacts == metric.needs_divergence, f"{where} contradicts needs_divergence = {metric.needs_divergence}"


def check_isotropic(name, budget):
    """E24: where the flow ends in a standard Gaussian, every direction costs its squared length over d."""
    chosen = {"trace_normalized": True} if "trace_normalized" in options(metrics.make(name)) else {}
    metric, n = metrics.make(name, **chosen), 40_000
    field = flow.ExactVelocity(gaussian(jnp.zeros(D), jnp.eye(D)))
    readings = metric.perturbed(field, flow.EMPTY, jr.normal(jr.key(4), (n, D)), key=jr.key(5))
    penalty = metric.penalty(jnp.broadcast_to(jnp.asarray(MOVE), (n, D)), jnp.zeros(n), readings)
    np.testing.assert_allclose(
        penalty,
        MOVE @ MOVE / D,
        rtol=budget("sampled_fisher"),
        err_msg=f"{home(type(metric))}: {name!r} does not cost abs(delta)^2 / d where the behavior is isotropic",
    )


def check_rotation(name, budget):
    """No axis is special: displacements and readings turned alike cost the same."""
    metric, (delta, divergence) = metrics.make(name), moves()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]

    def turned(reading):
        return {1: lambda x: x, 2: lambda x: x @ turn, 3: lambda x: turn.T @ x @ turn}[reading.ndim](reading)

    readings = read(metric)[0]
    np.testing.assert_allclose(
        metric.penalty(delta @ turn, divergence, jax.tree.map(turned, readings)),
        metric.penalty(delta, divergence, readings),
        rtol=budget("closed_form"),
        err_msg=f"{home(type(metric))}: {name!r} prefers an axis",
    )


def check_gradients(name):
    """The penalty can be descended, also from no displacement at all, where its gradient is 0."""
    metric, (delta, divergence) = metrics.make(name), moves()
    readings, where = read(metric)[0], f"{home(type(metric))}: the gradient of the penalty of {name!r}"
    gradient = jax.grad(metric.penalty)
    away, still = gradient(delta, divergence, readings), gradient(0 * delta, 0 * divergence, readings)
    assert np.all(np.isfinite(away)), f"{where} is not finite"
    assert np.any(np.asarray(away) != 0), f"{where} is 0 everywhere"
    assert np.all(np.asarray(still) == 0), f"{where} at delta = 0 is not 0"


@pytest.mark.parametrize("name", metrics.NAMES)
def test_metric_is_known_everywhere(name):
    check_metric_is_known(name)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_metric_is_told(name):
    check_metric_is_told(name)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_metric_is_a_value(name):
    check_value(name)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_metric_reads_what_it_says(name):
    check_readings(name)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_metric_is_a_quadratic_cost(name, budget):
    check_quadratic(name)
    check_rotation(name, budget)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_metric_knows_an_isotropic_behavior(name, budget):
    check_isotropic(name, budget)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_metric_has_gradients(name):
    check_gradients(name)


def test_every_metric_is_registered():
    known = {type(metrics.make(name)) for name in metrics.NAMES}
    missing = [kind for kind in whole_classes(metrics.Metric) if kind not in known]
    where = "fdbook/geometry/metrics/registry.py: there is no call of register for"
    assert [f"{where} {kind.__name__} (of {home(kind)})" for kind in missing] == []


def some_batch():
    keys = jr.split(jr.key(6), 4)
    seen = [jr.normal(key, (B, N), jnp.float32) for key in keys[:2]]
    done = [jr.uniform(key, (B, D), jnp.float32, -1, 1) for key in keys[2:]]
    return Batch(
        seen[0], done[0], seen[1], jnp.linspace(-1, 0, B, dtype=jnp.float32), jnp.ones(B, jnp.float32), done[1]
    )


@functools.cache
def decorated():
    return agents.make("fidec")((N,), D, key=jr.key(0), **SIZES)


def under(metric):
    """One and the same decorated flow under a metric: its base actions, the gradient of its displacement, its scalars."""
    agent = decorated()
    agent = dataclasses.replace(agent, config=dataclasses.replace(agent.config, metric=metric))

    @quickly_compiled
    def work(agent, batch, key):
        draws = agent.draw(batch, key=key)
        base, _ = agent.base_actions(batch.observations, batch.next_observations, draws)
        gradient, info = eqx.filter_grad(agent.loss, has_aux=True)(agent.networks, batch, draws)
        return base, gradient["delta"], info

    return work(agent, some_batch(), jr.key(7))


@functools.cache
def base_actions_of_l2():
    return np.asarray(under(metrics.L2())[0].actions)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_agent_gives_every_metric_the_same_base_actions(name, budget):
    """As many of each state, the very same ones, with a reading each; and the displacement learns from them."""
    metric, k = metrics.make(name), decorated().config.actions_per_state
    base, gradient, info = under(metric)
    where = f"{home(type(metric))}: under {name!r} a decorated flow"
    assert base.actions.shape == (B // k, k, D), f"{where} gets another number of base actions"
    tolerance, says = budget("single_precision"), f"{where} gets other base actions than under L2"
    np.testing.assert_allclose(base.actions, base_actions_of_l2(), rtol=0, atol=tolerance, err_msg=says)
    assert all(leaf.shape[:2] == (B // k, k) for leaf in jax.tree.leaves(base.readings)), f"{where} misses readings"
    assert all(np.isfinite(value) for value in info.values()), f"{where} logs {info}"
    assert float(info["penalty"]) > 0, f"{where} moves for free"
    slopes = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]
    assert all(np.all(np.isfinite(slope)) for slope in slopes), f"{where} has no finite gradient"
    assert any(np.any(slope != 0) for slope in slopes), f"{where} has a displacement that does not learn"


# Agents


def some_data(rows=100):
    rng = np.random.default_rng(0)
    seen, done = rng.normal(size=(rows, N)).astype(np.float32), rng.uniform(-1, 1, (rows, D)).astype(np.float32)
    rewards = rng.uniform(-1, 0, rows).astype(np.float32)
    return Transitions.of(seen, done, rewards, np.ones(rows, np.float32), np.arange(rows) % 50 == 49)


def arrays(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))


@functools.cache
def made(name):
    """New agents of two seeds."""
    check_agent_is_whole(name)
    return train.init(agents.make(name), (N,), D, SEEDS, **SIZES)


@functools.cache
def updated(name):
    """Those agents after one update, after the same once more, and what both seeds logged."""
    update, data = quickly_compiled(train.Update(jnp.asarray(SEEDS))), some_data()
    (after, info), (again, _) = (update(made(name), data, key=jr.key(8)) for _ in range(2))
    return after, again, {key: np.asarray(value) for key, value in info.items()}


def check_agent_is_whole(name):
    """Nothing of what an agent is made of is missing."""
    kind, summary = agents.AGENTS[name].kind, agents.AGENTS[name].summary
    assert issubclass(kind, agents.Agent), f"{home(kind)}: {kind.__name__} is no Agent"
    for method in ("build", "draw", "loss", "act"):
        missing = getattr(getattr(kind, method), "__isabstractmethod__", False)
        assert not missing, f"{home(kind)}: {kind.__name__} has no {method}"
    assert summary.strip(), f"fdbook/rl/agents/__init__.py: the summary of {name!r} in AGENTS is empty"
    assert issubclass(kind.Config, agents.Config), f"{home(kind)}: the Config of {kind.__name__} is no agents.Config"
    settings, known = ({field.name for field in dataclasses.fields(each)} for each in (kind.Config, Task))
    for setting, source in agents.AGENTS[name].of_task.items():
        where = f"fdbook/rl/agents/__init__.py: of_task of {name!r}"
        assert source in known, f"{where} asks for {source!r}, which a Task does not have"
        assert setting in settings | set(agents.OF_TASK), f"{where} sets {setting!r}, which its Config does not have"


def check_update(name):
    """Shapes and types stay, one seed or two; the networks do not; and a key decides everything."""
    start, (end, again, logged) = made(name), updated(name)
    where = f"{home(agents.family(name))}: an update of {name!r}"
    for before, after in zip(arrays(start), arrays(end), strict=True):
        kept = (before.shape, before.dtype) == (after.shape, after.dtype)
        assert kept, f"{where} makes {after.dtype} {after.shape} of {before.dtype} {before.shape}"
        assert before.shape[:1] == (len(SEEDS),), f"{where} has no axis of seeds"
    assert not same(start.networks, end.networks), f"{where} changes no network"
    assert same(end, again), f"{where} is not a function of batch and key alone"
    for key, value in logged.items():
        assert value.shape == (len(SEEDS),), f"{where} logs {key!r}, which is no scalar"
        assert np.issubdtype(value.dtype, np.floating), f"{where} logs {key!r} of type {value.dtype}"
        assert np.all(np.isfinite(value)), f"{where} logs {key!r}, which is {value}"
    assert any(np.ptp(value) > 0 for value in logged.values()), f"{where} does the same for every seed"
    alone = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, start)
    result, info = eqx.filter_eval_shape(lambda a, b, key: a.update(b, key=key), alone, some_batch(), jr.key(0))
    shapes = jax.tree.leaves(eqx.filter(result, lambda x: isinstance(x, jax.ShapeDtypeStruct)))
    pairs = zip(shapes, jax.tree.leaves(eqx.filter(alone, eqx.is_array)), strict=True)
    assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs), f"{where} of one seed changes shapes"
    assert {key: value.shape for key, value in info.items()} == dict.fromkeys(logged, ()), f"{where} of one seed"


def check_actions(name):
    """Actions of both seeds lie in the box; so far from the data an unclipped network leaves it."""
    where = f"{home(agents.family(name))}: {name!r}.act"

    @quickly_compiled
    def act(agents, observations, key):
        def one(agent):
            return jax.vmap(lambda s, key: agent.act(s, key=key))(observations, jr.split(key, B))

        return eqx.filter_vmap(one)(agents)

    observations = 10 * jr.normal(jr.key(10), (B, N), jnp.float32)
    actions, again = (np.asarray(act(made(name), observations, jr.key(9))) for _ in range(2))
    assert (actions.shape, actions.dtype) == ((len(SEEDS), B, D), np.float32), f"{where} gives {actions.shape}"
    assert np.all(np.abs(actions) <= 1), f"{where} leaves [-1, 1]: {np.abs(actions).max()}"
    assert np.ptp(actions, axis=1).max() > 0, f"{where} does the same everywhere"
    assert np.array_equal(actions, again), f"{where} is not a function of observation and key alone"


def check_refusal(name):
    """A setting that there is not is refused with the nearest, before and while an agent is built."""
    last = dataclasses.fields(agents.family(name).Config)[-1].name
    sentence = rf"called '{last}x'\. Did you mean '{last}'\?"
    with pytest.raises(ValueError, match=sentence):
        agents.check(name, **{f"{last}x": 1})
    with pytest.raises(ValueError, match=sentence):
        agents.make(name)((N,), D, key=jr.key(0), **{f"{last}x": 1})


def check_learning_figure(name):
    """A record of the agent, with the curves that its update logs, becomes a labeled line of the figure."""
    assert name in learning.LABELS, f"fdbook/report/figures/learning.py: LABELS has no entry for {name!r}"
    spec = RunSpec(TASK, name, seeds=SEEDS, updates=20, evaluations=(10, 20)).to_dict()
    progress = records.Progress(
        done=20,
        wall={"training": 60.0},
        curves={key: [value.tolist()] * 2 for key, value in updated(name)[2].items()},
        logged=[10, 20],
        scores=[{"step": 10, "score": [10.0, 20.0]}, {"step": 20, "score": [30.0, 50.0]}],
    )
    record = records.Record(spec, {"fingerprint": "0"}, "finished", progress=progress)
    context = figures.Context(0, str, dict, lambda share, message: None, lambda: [record])
    (mean,) = labeled(learning.compute(context))
    metric = agents.AGENTS[name].metric
    of = "" if metric is None or name in learning.LOOKS else f" ({metric})"
    assert mean.get_label() == f"{learning.LABELS[name]}{of}, 2 seeds"
    where = "fdbook/report/figures/learning.py: MARKS"
    if metric is None and name not in learning.LOOKS:
        assert name in learning.MARKS, f"{where} has no entry for {name!r}, which looks like others without a metric"
    marks = [tuple(sorted(mark.items())) for mark in learning.MARKS.values()]
    assert len(set(marks)) == len(marks), f"{where} are the same for two agents"
    np.testing.assert_allclose(mean.get_ydata()[1:], [15, 40])


def labeled(numbers):
    """The lines of the upper left panel that the legend names, drawn from the numbers as they come back from their file."""
    kept: dict = {}
    numbers = files.decode(json.loads(files.layout(files.encode(numbers, arrays=kept))), kept)
    with style.applied():
        fig = learning.draw(numbers)
        fig.draw_without_rendering()
        plt.close(fig)
    return fig.axes[0].get_legend_handles_labels()[0]


@pytest.mark.parametrize("name", agents.AGENTS)
def test_agent_is_whole(name):
    check_agent_is_whole(name)


def compared_with_numpy(source):
    """The strings in those tests of a module that compare the terms of a loss, which `terms` gives."""
    for function in ast.parse(source).body:
        called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
        if isinstance(function, ast.FunctionDef) and "terms" in called and any(name[:6] == "plain." for name in called):
            yield from (node.value for node in ast.walk(function) if isinstance(node, ast.Constant))


@pytest.mark.parametrize("name", agents.AGENTS)
def test_agent_is_told_and_its_loss_is_compared(name):
    assert f"`{name}`" in README, f"README.md, Training: the agents lack {name!r}"
    path = ROOT / "tests" / "rl" / "test_agents.py"
    says = f"tests/rl/test_agents.py: no test compares the terms of the loss of {name!r} with NumPy's"
    assert name in set(compared_with_numpy(path.read_text(encoding="utf-8"))), says


@pytest.mark.parametrize("name", agents.AGENTS)
def test_agent_learns(name):
    check_update(name)


@pytest.mark.parametrize("name", agents.AGENTS)
def test_agent_acts(name):
    check_actions(name)


@pytest.mark.parametrize("name", agents.AGENTS)
def test_agent_refuses_unknown_settings(name):
    check_refusal(name)


@pytest.mark.parametrize("name", agents.AGENTS)
def test_agent_has_its_line_in_the_figure_of_learning(name):
    check_learning_figure(name)


def test_every_agent_is_registered():
    for module in pkgutil.iter_modules(agents.__path__, f"{agents.__name__}."):
        importlib.import_module(module.name)
    known = {entry.kind for entry in agents.AGENTS.values()}
    missing = [kind for kind in whole_classes(agents.Agent) if kind not in known]
    assert [f"{agents.__name__}: AGENTS has no entry for {kind.__name__} of {home(kind)}" for kind in missing] == []


def test_every_agent_has_its_column():
    columns = published.METHODS
    where = "fdbook/report/published.py: METHODS"
    missing = [f"{where} has no entry for {name!r}" for name in agents.AGENTS if name not in columns]
    assert (
        missing + [f"{where} names {name!r}, which is no agent" for name in columns if name not in agents.AGENTS] == []
    )
    assert len(set(columns.values())) == len(columns), f"{where} calls two agents the same"


def test_the_figure_of_learning_draws_an_agent_that_it_has_not_heard_of():
    """Under its own name; and a penalty without a budget or a multiplier is no ratio."""
    entry = {"agent": "newcomer", "metric": "", "seeds": 2, "steps": [10, 20], "score": [[10, 20], [30, 50]]}
    entry |= {"logged": [10, 20], "penalty": [[1.0, 2.0]] * 2}
    (mean,) = labeled({"tasks": {"somewhere": {"newcomer": entry}}})
    assert mean.get_label() == "newcomer, 2 seeds"


# Tasks and figures


def check_task(name):
    """What an evaluation and an agent need to know is there, and makes sense."""
    task = TASKS[name]
    where = f"fdbook/data/tasks.py: the task {name!r}"
    assert DATASETS.get(task.dataset.name) is task.dataset, f"{where} has a data set that is not in DATASETS"
    assert task.horizon > 0, f"{where} has the horizon {task.horizon}"
    assert 0 < task.discount < 1, f"{where} has the discount {task.discount}"
    papers = task.name.startswith("D4RL/") or any(fact.tasks == 1 and fact.on(task.name) for fact in published.facts())
    assert papers or not task.published, f"{where} is in no paper's table: its world belongs into UNPUBLISHED"
    steps = task.evaluations
    assert steps, f"{where} is never evaluated"
    assert list(steps) == sorted(set(steps)), f"{where} is evaluated out of order: {steps}"
    assert 0 < steps[0] <= steps[-1] <= task.updates, f"{where} is evaluated beyond its {task.updates} updates: {steps}"
    for table in (task.hyperparameters, task.online_hyperparameters):
        for agent, settings in table.items():
            agents.check(agent, **settings)
    assert find_task(name.upper()) is task, f"{where} is found under another name"


@pytest.mark.parametrize("name", TASKS)
def test_task_is_sound(name):
    check_task(name)


def test_the_readme_counts_the_tasks():
    papers = sum(task.published is not None for task in TASKS.values())
    told = re.search(r"knows the (\d+) tasks of the papers, .*? and (\d+) more", README.replace("\n", " "))
    assert told, "README.md, Data: it should say how many tasks there are, as in 'knows the 73 tasks ..., and 96 more'"
    found, wanted = tuple(map(int, told.groups())), (papers, len(TASKS) - papers)
    assert found == wanted, f"README.md, Data: {found} tasks of the papers and more; there are {wanted}"


def test_no_row_of_the_tables_is_idle():
    used = {task.dataset.name for task in TASKS.values()}
    assert [f"fdbook/data/tasks.py: no task has the data set {name!r}" for name in DATASETS if name not in used] == []
    idle = [name for name in HYPERPARAMETERS if name not in TASKS]
    assert [f"fdbook/data/tasks.py: HYPERPARAMETERS are of no task: {name!r}" for name in idle] == []


def check_figure(name):
    """A line about it, `compute(context)` and `draw(numbers)`."""
    module = importlib.import_module(figures.REGISTRY[name])
    first, *rest = (inspect.getdoc(module) or "").split("\n")
    assert first.strip(), f"{home(module)}: the docstring's first line, which says what it shows, is missing"
    assert not rest or not rest[0], f"{home(module)}: what it shows takes more than the docstring's first line"
    assert figures.describe(name) == first
    assert first.endswith("."), f"{home(module)}: the docstring's first line is no sentence: {first!r} has no full stop"
    assert name.isalpha(), (
        f"fdbook/report/figures/__init__.py: the figure {name!r} in REGISTRY is not called by one word"
    )
    for function, argument in (("compute", "context"), ("draw", "numbers")):
        assert callable(getattr(module, function, None)), f"{home(module)}: there is no {function}"
        own, *others = inspect.signature(getattr(module, function)).parameters.values()
        assert own.name == argument, f"{home(module)}: {function} takes {own.name}, not {argument}"
        assert all(other.default is not other.empty for other in others), f"{home(module)}: {function} needs {others}"


@pytest.mark.parametrize("name", figures.REGISTRY)
def test_figure_has_its_parts(name):
    check_figure(name)


@pytest.mark.parametrize("name", figures.REGISTRY)
def test_figure_is_drawn_and_told(name):
    row = rf"(?m)^\| \[{name}\]\(figures/{name}\.png\) \| .+ \| .+ \|$"
    assert re.search(row, README), f"README.md, What the figures say: there is no row for [{name}](figures/{name}.png)"
    places = [f"figures/{name}.png", f"figures/{name}.pdf", f"figures/data/{name}.json"]
    missing = [place for place in places if not (ROOT / place).is_file()]
    assert missing == [], f"{missing} are not there; write them with: fdbook figures {name}"


@pytest.mark.parametrize("name", figures.REGISTRY)
def test_figure_is_drawn_from_the_numbers_that_are_kept(name):
    """Also from what lies in NAME.npz, which `load_numbers` misses where it was not committed."""
    figure = importlib.import_module(figures.REGISTRY[name]).draw(figures.load_numbers(name, ROOT / "figures"))
    assert isinstance(figure, plt.Figure), (
        f"{figures.REGISTRY[name]}: draw returns {type(figure).__name__}, not a Figure"
    )
    assert any(axes.has_data() for axes in figure.axes)
    plt.close(figure)


def records_read(name):
    """The kinds of records that a figure's `compute` asks its context for."""
    module = importlib.import_module(figures.REGISTRY[name])
    tree = ast.parse(inspect.getsource(module.compute))
    asked = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "context"
    }
    return asked & {"runs", "ladders", "bench", "matrix"}


@pytest.mark.parametrize("name", figures.REGISTRY)
def test_a_figure_that_reads_records_is_named_above_the_table(name):
    above = README.partition("## What the figures say")[2].partition("\n| ")[0]
    named = f"*{name}*" in above
    assert named == bool(records_read(name)), (
        f"README.md, What the figures say: {name} reads {sorted(records_read(name)) or 'no records'}, "
        f"and the paragraph above the table {'names' if named else 'does not name'} it"
    )


def test_every_figure_is_registered():
    files = [module.name for module in pkgutil.iter_modules(figures.__path__)]
    drawing = [name for name in files if hasattr(importlib.import_module(f"{figures.__name__}.{name}"), "compute")]
    missing = [name for name in drawing if f"{figures.__name__}.{name}" not in figures.REGISTRY.values()]
    assert [f"fdbook/report/figures/__init__.py: REGISTRY has no entry {name!r}" for name in missing] == []


# The contract bites


class Spread(metrics.Metric):
    """A sound newcomer with a matrix for each action, the score's outer square; the toys after it are wrong in one thing each."""

    reads: ClassVar[str] = "matrices"
    needs_divergence: ClassVar[bool] = False
    pooled: ClassVar[bool] = False
    t: float = eqx.field(default=0.85, static=True)
    damping: float = eqx.field(default=1e-3, static=True)
    trace_normalized: bool = eqx.field(default=True, static=True)

    def readings(self, field, observation, t, points, velocities):
        scores = metrics.Fisher().readings(field, observation, t, points, velocities)
        return scores[:, :, None] * scores[:, None, :]

    def raw_cost(self, delta, divergence, readings):
        return jnp.einsum("ki,kij,kj->k", delta, readings, delta)

    def level(self, readings):
        return jnp.trace(jnp.mean(readings, axis=0)) / readings.shape[-1]


class Halved(Spread):
    def penalty(self, delta, divergence, readings):
        return super().penalty(delta, divergence, readings) / 2


class Half(Spread):
    def raw_cost(self, delta, divergence, readings):
        return super().raw_cost(delta, divergence, readings) / 2


class Unsquared(Spread):
    def cost(self, delta, divergence, readings):
        return jnp.sqrt(super().cost(delta, divergence, readings))


class Crooked(Spread):
    def raw_cost(self, delta, divergence, readings):
        return 3 * delta[:, 0] ** 2 * self.level(readings)


class Silent(Spread):
    def readings(self, field, observation, t, points, velocities):
        return None


class Averaged(Spread):
    def readings(self, field, observation, t, points, velocities):
        return jnp.mean(super().readings(field, observation, t, points, velocities), axis=0, keepdims=True)


class Secretive(Spread):
    def raw_cost(self, delta, divergence, readings):
        return super().raw_cost(delta, divergence, readings) + divergence**2


@pytest.fixture
def toy_metric():
    """Registers a class as 'toy' for one test."""
    before = dict(registry._REGISTRY)

    def register(kind, summary="a toy"):
        metrics.register("toy", kind, summary=summary)

    yield register
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)
    assert "toy" not in metrics.NAMES


@pytest.fixture
def toy_looks(monkeypatch):
    """Gives 'toy' a place in the style for one test."""
    for table in LOOKS:
        monkeypatch.setitem(getattr(style, table), "toy", getattr(style, table)["fql"])
    monkeypatch.setitem(plain_metrics.FORMS, "toy", plain_metrics.FORMS["l2"])


@pytest.mark.parametrize("table", LOOKS)
def test_a_metric_without_a_look_is_told_which(toy_metric, toy_looks, monkeypatch, table):
    toy_metric(Spread)
    monkeypatch.delitem(getattr(style, table), "toy")
    with pytest.raises(AssertionError, match=rf"^fdbook/report/style\.py: {table} has no entry for 'toy'"):
        check_metric_is_known("toy")


def test_a_metric_without_a_summary_is_told(toy_metric, toy_looks):
    toy_metric(Spread, summary=" ")
    with pytest.raises(AssertionError, match="the call of register for 'toy' has an empty summary"):
        check_metric_is_known("toy")


def test_a_sound_newcomer_passes(toy_metric, toy_looks, budget):
    toy_metric(Spread)
    for check in (check_metric_is_known, check_value, check_readings, check_quadratic, check_gradients):
        check("toy")
    for check in (check_isotropic, check_rotation):
        check("toy", budget)


@pytest.mark.parametrize(
    ("kind", "check", "sentence"),
    [
        (Halved, check_quadratic, "the penalty of 'toy' is not the mean cost over d"),
        (Unsquared, check_quadratic, "the penalty of 'toy' is not quadratic"),
        (Secretive, check_quadratic, "the penalty of 'toy' contradicts needs_divergence = False"),
        (Half, check_isotropic, r"'toy' does not cost abs\(delta\)\^2 / d where the behavior is isotropic"),
        (Crooked, check_rotation, "'toy' prefers an axis"),
        (Unsquared, check_gradients, "the gradient of the penalty of 'toy' at delta = 0 is not 0"),
        (Silent, check_readings, "'toy' has reads = 'matrices', but its readings are None"),
        (Averaged, check_readings, "'toy' has reads = 'matrices', but there is not a reading for each action"),
    ],
)
def test_a_metric_that_breaks_the_contract_is_told_how(toy_metric, budget, kind, check, sentence):
    toy_metric(kind)
    with pytest.raises(AssertionError, match=sentence):
        check(*(["toy", budget] if "budget" in inspect.signature(check).parameters else ["toy"]))


class Mute(agents.Agent):
    """An agent without `act`."""

    build, draw, loss = agents.FlowBC.build, agents.FlowBC.draw, agents.FlowBC.loss


class Newcomer(agents.FlowBC):
    """A sound agent of which the figure has not heard."""


class Lazy(agents.FlowBC):
    def update(self, batch, *, key):
        return self, super().update(batch, key=key)[1]


class Wild(agents.FlowBC):
    def act(self, observation, *, key):
        return 1 + super().act(observation, key=key)


@pytest.fixture
def toy_agent(monkeypatch):
    """Registers a class as 'toy' for one test."""
    yield lambda kind, summary="a toy": monkeypatch.setitem(agents.AGENTS, "toy", agents.Entry(kind, summary))
    made.cache_clear()
    updated.cache_clear()


@pytest.mark.parametrize(
    ("kind", "check", "sentence"),
    [
        (Mute, check_update, "Mute has no act"),
        (Newcomer, check_learning_figure, r"^fdbook/report/figures/learning\.py: LABELS has no entry for 'toy'"),
        (Lazy, check_update, "an update of 'toy' changes no network"),
        (Wild, check_actions, r"'toy'\.act leaves \[-1, 1\]"),
    ],
)
def test_an_agent_that_breaks_the_contract_is_told_how(toy_agent, kind, check, sentence):
    toy_agent(kind)
    with pytest.raises(AssertionError, match=sentence):
        check("toy")


@pytest.mark.parametrize(
    ("of_task", "sentence"),
    [
        ({"alpha": "fql_alpha"}, "sets 'alpha', which its Config does not have"),
        ({"discount": "discuont"}, "asks for 'discuont', which a Task does not have"),
    ],
)
def test_settings_that_no_task_or_agent_has_are_told(toy_agent, monkeypatch, of_task, sentence):
    monkeypatch.setitem(agents.AGENTS, "toy", agents.Entry(Newcomer, "a toy", of_task=of_task))
    with pytest.raises(AssertionError, match=rf"of_task of 'toy' {sentence}"):
        check_agent_is_whole("toy")


def test_an_agent_whose_loss_is_nowhere_compared_is_found():
    source = 'def test_a():\n    terms(make("a")), plain.q(0)\n\n\ndef test_b():\n    make("b")\n'
    assert set(compared_with_numpy(source)) & {"a", "b"} == {"a"}


def test_an_agent_without_a_summary_is_told(toy_agent):
    toy_agent(Newcomer, summary="")
    with pytest.raises(AssertionError, match=r"agents/__init__\.py: the summary of 'toy' in AGENTS is empty"):
        check_agent_is_whole("toy")


def test_a_figure_without_its_parts_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(figures.REGISTRY, "toy", "toy_of_contracts")
    (tmp_path / "toy_of_contracts.py").write_text('"""What it shows."""\n\n\ndef compute(context):\n    return {}\n')
    with pytest.raises(AssertionError, match=r"toy_of_contracts\.py: there is no draw"):
        check_figure("toy")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"evaluations": (500, 2_000_000)}, r"is evaluated beyond its 1000000 updates: \(500, 2000000\)"),
        ({"discount": 1.0}, r"has the discount 1\.0"),
        ({"name": "cube-penta"}, "is in no paper's table: its world belongs into UNPUBLISHED"),
        ({"dataset": dataclasses.replace(TASKS[TASK].dataset, steps=7)}, "has a data set that is not in DATASETS"),
    ],
)
def test_a_task_that_makes_no_sense_is_told(monkeypatch, change, sentence):
    monkeypatch.setitem(TASKS, "toy", dataclasses.replace(TASKS[TASK], **change))
    with pytest.raises(AssertionError, match=rf"^fdbook/data/tasks\.py: the task 'toy' {sentence}"):
        check_task("toy")

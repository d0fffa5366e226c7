"""Agents: what their updates, their actions and their evaluations take."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fdbook.bench import timing
from fdbook.bench.timing import ACTION_DIM, OBSERVATION_DIM, Row
from fdbook.rl.operations import update_products


if TYPE_CHECKING:
    import fdbook.rl.agents
    import fdbook.rl.train
    import fdbook.rl.transitions


__all__ = ["measure_agents", "measure_data", "measure_evaluation", "measure_loop", "measure_methods"]

ROWS = 1_001_000
PAPER, LAPTOP, SMALL = (512, 4), (256, 3), (128, 2)
"""Width and depth of networks."""
PICTURES = 1_001_000
"""Frames, as many as the visual tasks of the papers have."""
UPDATES, AGENT_UPDATES, LOOP_UPDATES, EVALUATED = 20, 10, 100, 50
METRICS = ("scale", "local", "deblurred")
METHODS = ("paper", "released", "exact", "fisher-rao", "scale", "deblurred")
"""The metrics with which Fisher Decorator is a method of its own in `measure_methods`."""


def random_rows(size: int) -> "fdbook.rl.transitions.Transitions":
    """Random transitions with a robot's dimensions."""
    import numpy as np

    from fdbook.rl.transitions import Transitions

    rng, ends = np.random.default_rng(0), np.arange(size) % 1001 == 1000
    ends[-1] = True
    observations = rng.normal(size=(size, OBSERVATION_DIM)).astype(np.float32)
    actions = rng.uniform(-1, 1, (size, ACTION_DIM)).astype(np.float32)
    rewards = np.zeros(size, np.float32)
    return Transitions.of(observations, actions, rewards, rewards + 1, ends)


def stacked_agents(
    name: str, seeds: int = 1, **settings: Any
) -> tuple["fdbook.rl.train.Update", "fdbook.rl.agents.Agent"]:
    """An agent's update, and its first state, as `fdbook.rl.train` runs them."""
    import jax.numpy as jnp

    from fdbook.rl import agents, train

    made = train.init(agents.make(name), (OBSERVATION_DIM,), ACTION_DIM, range(seeds), **settings)
    return train.Update(jnp.arange(seeds)), made


def _work(update, state, data, count: int, chunk: int | None = None) -> Callable:
    """`count` updates in dispatches of `chunk`, from a copy of the state, as something to be timed."""
    import jax.random as jr

    from fdbook.geometry import loop

    chunk, key = chunk or count, jr.key(1)

    def work():
        current, metrics = loop.copy(state), {}
        for first in range(0, count, chunk):
            current, metrics = loop.advance(update, current, data, key=key, first=first, count=chunk, chunk=chunk)
        return metrics

    return work


def measure_data() -> list[Row]:
    """Drawing a batch from a million transitions inside jit, against an update of FQL at width 256 (best, in turns)."""
    import jax

    data = random_rows(ROWS)

    def draw(total, data, *, key):
        drawn = data.sample(256, key=key)
        return total + sum(leaf.sum() for leaf in jax.tree.leaves(drawn)), {"none": total}

    update, state = stacked_agents("fql", width=256, depth=3)
    works = {
        "draw": _work(draw, jax.numpy.float32(0), data, 50 * UPDATES),
        "update": _work(update, state, data, UPDATES),
    }
    best = timing.best(works, timing.ROUNDS)
    draw_, update_ = 1e3 * best["draw"] / (50 * UPDATES), 1e3 * best["update"] / UPDATES
    return [
        Row(f"drawing 256 of {data.size:,} transitions, inside jit", draw_, "ms"),
        Row("an FQL update on them, width 256, depth 3", update_, "ms"),
        Row("drawing over updating", draw_ / update_, "", "at most 0.03"),
    ]


def measure_pictures() -> list[Row]:
    """A million pictures held once, as they are for training, and batches drawn from them: takes 12 GB of memory."""
    import resource

    import jax.numpy as jnp
    import jax.random as jr
    import numpy as np

    from fdbook.geometry import loop
    from fdbook.rl.arrays import aligned
    from fdbook.rl.transitions import Transitions

    def peak():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before, ends = peak(), np.arange(PICTURES) % 1001 == 1000
    ends[-1] = True
    frames = aligned((PICTURES, 64, 64, 3), np.uint8)
    frames[...] = 1  # written, so that it is there
    ones = np.ones(PICTURES, np.float32)
    data = Transitions.of(frames, np.zeros((PICTURES, ACTION_DIM), np.float32), -ones, ones, ends, frame_stack=3)

    def draw(total, data, *, key):
        batch = data.sample(256, key=key)
        drawn = batch.observations.astype("float32").mean() + batch.next_observations.astype("float32").mean()
        return total + drawn, {"mean": drawn}

    def work():
        return loop.advance(draw, jnp.float32(0), data, key=jr.key(1), first=0, count=UPDATES, chunk=UPDATES)

    best = timing.best({"draw": work}, timing.ROUNDS)["draw"]
    held, taken = data.observations.nbytes, peak() - before
    return [
        Row(f"{PICTURES:,} pictures of 64 x 64 x 3, held once", held / 1e9, "GB"),
        Row("memory that was taken for them, over that", taken / held, "", "at most 1.1"),
        Row("drawing 256 stacks of three of them, and their successors", 1e3 * best / UPDATES, "ms"),
    ]


def measure_agents() -> list[Row]:
    """Updates at the papers' size, FiDec against FQL, both against the rate of matrix products (best, in turns)."""
    from fdbook.geometry import metrics

    data, (width, depth) = random_rows(20_020), PAPER
    names = {
        "fql": "an FQL update",
        "fidec": "a FiDec update, 4 actions a state",
        "deflow on next states": "a DeFlow update, its actor on next states",
    }
    sizes = {"width": width, "depth": depth}
    made = {name: stacked_agents(name, **sizes) for name in ("fql", "fidec")}
    made["deflow"] = stacked_agents("deflow", **sizes)
    made["deflow on next states"] = stacked_agents("deflow", **sizes, actor_states="next")
    made |= {name: stacked_agents("fidec", **sizes, metric=metrics.make(name)) for name in METRICS}
    works: dict[Any, Callable] = {name: _work(*made[name], data, AGENT_UPDATES) for name in made}
    flops: dict[Any, float] = {
        name: AGENT_UPDATES * update_products(name, OBSERVATION_DIM, ACTION_DIM, width, depth) for name in names
    }
    for shape in timing.PRODUCTS:
        works[shape], flops[shape] = timing.products(shape, flops["fidec"])
    best = timing.best(works, timing.ROUNDS)
    rates = {name: flops[name] / best[name] / 1e9 for name in flops}
    fastest = max(rates[shape] for shape in timing.PRODUCTS)
    rows = [Row("float32 matrix products, the faster shape", fastest, "GFLOP/s")]
    for name, what in names.items():
        rows.append(Row(f"{what}, width {width}, depth {depth}", 1e3 * best[name] / AGENT_UPDATES, "ms"))
        rows.append(Row(f"{what}: its matrix products over that rate", rates[name] / fastest, "", "at least 0.7"))
    rows.append(
        Row("a DeFlow update, its actor on the states of the batch", 1e3 * best["deflow"] / AGENT_UPDATES, "ms")
    )
    for name, what in names.items():
        rows.append(Row(f"{what}: its matrix products", flops[name] / AGENT_UPDATES / 1e9, "GFLOP"))
    plainly = timing.update_flops(*made["fidec"], data)
    for name in METRICS:
        rows.append(Row(f"a FiDec update with the metric {name}", 1e3 * best[name] / AGENT_UPDATES, "ms"))
        added = timing.update_flops(*made[name], data) - plainly
        rows.append(Row(f"{name}: what it computes beyond exact scores (E21)", added / 1e9, "GFLOP"))
    rows.append(Row("a FiDec update over an FQL update", best["fidec"] / best["fql"], "", "at most 1.22"))
    light = best["deflow on next states"]
    rows.append(Row("one on next states over an FQL update", light / best["fql"], "", "at most 0.75"))
    return rows


def measure_loop() -> list[Row]:
    """What the scanned loop saves for a heavy update (FiDec) and a light one (BC); what stacked seeds save (best, in turns)."""
    data, width, depth = random_rows(20_020), *SMALL
    sizes = {"width": width, "depth": depth}
    single, four, light = (stacked_agents(name, n, **sizes) for name, n in (("fidec", 1), ("fidec", 4), ("bc", 1)))
    works = {
        "fql": _work(*stacked_agents("fql", **sizes), data, LOOP_UPDATES),
        "scanned": _work(*single, data, LOOP_UPDATES),
        "dispatched": _work(*single, data, LOOP_UPDATES, chunk=1),
        "light scanned": _work(*light, data, LOOP_UPDATES),
        "light dispatched": _work(*light, data, LOOP_UPDATES, chunk=1),
        "four": _work(*four, data, LOOP_UPDATES),
    }
    best = {name: 1e3 * seconds / LOOP_UPDATES for name, seconds in timing.best(works, timing.ROUNDS).items()}
    rows = []
    for what, kind, bound in (("a FiDec update", "", "at least 2"), ("a BC update", "light ", "")):
        scanned, dispatched = best[f"{kind}scanned"], best[f"{kind}dispatched"]
        rows += [
            Row(f"{what}, width {width}, depth {depth}, one of {LOOP_UPDATES} in a dispatch", scanned, "ms"),
            Row("the same, a dispatch each", dispatched, "ms"),
            Row("a dispatch each over one for all", dispatched / scanned, "", bound),
        ]
    return [
        *rows,
        Row("four seeds of FiDec together", best["four"], "ms"),
        Row("four seeds over one", best["four"] / best["scanned"], "", "at most 4.2"),
        Row("a FiDec update over an FQL update, at this size", best["scanned"] / best["fql"], "", "at most 1.3"),
    ]


def measure_evaluation() -> list[Row]:
    """50 episodes of cube-single with a policy of the laptop's size, against as many bare steps of its environment."""
    import numpy as np

    from fdbook import experiment
    from fdbook.data.tasks import find_task
    from fdbook.rl.environments import cores
    from fdbook.rl.evaluate import evaluate

    task = find_task("cube-single-play-singletask")
    agents = stacked_agents("fidec", width=256, depth=3)[1]
    with experiment.environments(task, 1, EVALUATED, workers=0) as get:
        environments = get()
        evaluate(agents, environments, [0], episodes=len(environments))  # once to compile
        start = time.perf_counter()
        result = evaluate(agents, environments, [0], episodes=EVALUATED)
        assert result is not None
        whole = time.perf_counter() - start
        steps, rng = int(result.lengths.sum()), np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32)
        start, over = time.perf_counter(), True
        for action in actions:
            if over:
                environments.reset({0: 0})
            over = environments.step({0: action})[0].over
        bare = time.perf_counter() - start
    workers = max(2, cores() - 2)
    with experiment.environments(task, 1, EVALUATED, workers=workers) as get:
        evaluate(agents, get(), [0], episodes=len(environments))
        start = time.perf_counter()
        again = evaluate(agents, get(), [0], episodes=EVALUATED)
        shared = time.perf_counter() - start
    assert again is not None
    assert np.array_equal(again.returns, result.returns)
    return [
        Row(f"evaluating {EVALUATED} episodes of cube-single, {steps:,} steps", whole, "s"),
        Row("as many bare steps of one environment", bare, "s"),
        Row("evaluating over bare steps", whole / bare, "", "at most 1.5"),
        Row(f"the same evaluation by {workers} processes", shared, "s"),
        Row("that over the one in line", shared / whole, ""),
    ]


def measure_methods() -> list[Row]:
    """An update of every method at the laptop's size, and its actions for the states of 50 environments (best, in turns)."""
    import jax.numpy as jnp

    from fdbook.geometry import metrics
    from fdbook.rl import agents
    from fdbook.rl.evaluate import act

    data, sizes = random_rows(20_020), {"width": LAPTOP[0], "depth": LAPTOP[1]}
    made = {name: stacked_agents(name, **sizes) for name, entry in agents.AGENTS.items() if not entry.any_metric}
    chosen = {name: metrics.make(name) for name in METHODS}
    made |= {
        agents.method("fidec", name): stacked_agents("fidec", metric=metric, **sizes) for name, metric in chosen.items()
    }
    observations, numbers = jnp.ones((1, EVALUATED, OBSERVATION_DIM)), jnp.arange(EVALUATED)[None]

    def acting(state):
        return lambda: [act(state, None, observations, jnp.arange(1), numbers, numbers) for _ in range(AGENT_UPDATES)]

    works: dict[Any, Callable] = {("update", name): _work(*pair, data, AGENT_UPDATES) for name, pair in made.items()}
    works |= {("act", name): acting(state) for name, (_, state) in made.items()}
    best: dict[Any, float] = {
        key: 1e3 * seconds / AGENT_UPDATES for key, seconds in timing.best(works, timing.ROUNDS).items()
    }
    sized = f"width {LAPTOP[0]}, depth {LAPTOP[1]}"
    updates = [Row(f"{name}: an update, {sized}", best["update", name], "ms") for name in made]
    return updates + [Row(f"{name}: actions for {EVALUATED} states, {sized}", best["act", name], "ms") for name in made]

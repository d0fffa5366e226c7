"""Our agents beside the published ones: one set of weights, one batch, the same draws.

    python tests/published/compare.py --fql DIR --fidec DIR [--write] [NAME ...]

DIR are checkouts of github.com/seohongpark/fql and github.com/ARC0127/Fisher-Decorator; flax, distrax and ml_collections must be
installed. It prints, by agent and network, the largest difference of the two gradients over the gradient's largest entry, and the
largest difference of weights after six updates, in learning rates. With `--write` the published code's numbers go into
gradients.json, which `test_gradients.py` compares our losses with.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import recipe


GOLDEN = Path(__file__).with_name("gradients.json")
SCORE = (
    "score = v_t / jnp.maximum(1.0 - t_fisher",
    "score = (t_fisher * v_t - x_t_fisher) / jnp.maximum(1.0 - t_fisher",
)
"""The line of fidec.py that computes the released score, and the one that its comment calls the alternative: the exact score."""


def _paths(network, module: str) -> list[tuple[tuple[str, ...], bool]]:
    """Where the published code keeps the arrays that `recipe.arrays` lists, and whether they are transposed there."""
    if module == "log_alpha":
        return [(("value",), False)]
    norms = recipe.norms(network)
    layers = len(recipe.arrays(network)) // 2 - norms
    inner = {"critic": "value_net", "value": "value_net", "actor": "actor_net"}.get(module, "mlp")
    dense = [(inner, f"Dense_{i}") for i in range(layers)]
    if module == "actor":
        dense[-1] = ("mean_net",)
    found = [((*path, part), part == "kernel") for path in dense for part in ("kernel", "bias")]
    return found + [((inner, f"LayerNorm_{i}", part), False) for i in range(norms) for part in ("scale", "bias")]


def _published(network, module: str) -> dict:
    """The parameters of the published module that holds the same function as our network."""
    made: dict = {}
    for (path, turned), leaf in zip(_paths(network, module), recipe.arrays(network), strict=True):
        node = made
        for part in path[:-1]:
            node = node.setdefault(part, {})
        leaf = jnp.swapaxes(leaf, -1, -2) if turned else leaf
        node[path[-1]] = leaf[None] if module == "log_alpha" else leaf
    return made


def _row(parameters: dict, network, module: str) -> np.ndarray:
    """Parameters or gradients of a published module in one row, in our order."""
    row = []
    for path, turned in _paths(network, module):
        node = parameters
        for part in path:
            node = node[part]
        row.append(np.ravel(np.asarray(jnp.swapaxes(node, -1, -2) if turned else node, np.float64)))
    return np.concatenate(row)


def _load(folder: str, module: str, replaced: tuple[str, str] | None = None):
    """A module of a checkout, with one piece of its text replaced if asked for."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("agents", "utils")]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        found = importlib.import_module(module)
        if replaced is not None:
            text = Path(found.__file__).read_text(encoding="utf-8")
            assert text.count(replaced[0]) >= 1, f"{module} does not hold {replaced[0]!r}."
            exec(compile(text.replace(*replaced), found.__file__, "exec"), found.__dict__)
        return found
    finally:
        sys.path.remove(folder)


def _drawing(normals: list, uniforms: list):
    """Within it, the published code's calls for random numbers are answered from two lists, in order."""

    def answer(queue):
        def pop(key, shape=(), *args, **kwargs):
            value = jnp.asarray(queue.pop(0))
            assert value.shape == tuple(shape), f"a draw of shape {shape} was answered with {value.shape}."
            return value

        return pop

    return mock.patch.multiple(jax.random, normal=answer(normals), uniform=answer(uniforms))


class Pair:
    """A case's published agent with the weights of ours."""

    def __init__(self, case: str, kind, modules: dict[str, str], draws, **config):
        self.ours, self.modules, self.draws = recipe.agent(case), modules, draws
        options = kind[0].get_config().to_dict()
        config = self.ours.config
        hidden = (config.width,) * config.depth
        options.update(tau=config.tau, actor_hidden_dims=hidden, value_hidden_dims=hidden, **config)
        rows = recipe.batch(0)
        agent = getattr(kind[0], kind[1]).create(0, rows.observations, rows.actions, options)
        parameters = dict(agent.network.params)
        for name, module in modules.items():
            parameters[f"modules_{module}"] = _published(self.ours.networks[name], module)
            if name in self.ours.targets:
                parameters[f"modules_target_{module}"] = _published(self.ours.targets[name], module)
        same = jax.tree.map(lambda a, b: a.shape == b.shape, dict(agent.network.params), parameters)
        assert all(jax.tree.leaves(same)), same
        self.published = agent.replace(network=agent.network.replace(params=parameters))

    def gradients(self, **options) -> dict[str, np.ndarray]:
        """The gradient of the published loss at the first batch, by our network."""
        with jax.disable_jit(), _drawing(*self.draws(recipe.draws(0))):
            found = jax.grad(lambda p: self.published.total_loss(_batch(0), p, rng=jax.random.key(0), **options)[0])(
                dict(self.published.network.params)
            )
        return {name: _row(found[f"modules_{m}"], self.ours.networks[name], m) for name, m in self.modules.items()}

    def updated(self, options=lambda number: {}) -> dict[str, np.ndarray]:
        """What six updates add to the published networks and target networks."""
        agent = self.published
        for seed in range(recipe.UPDATES):
            with jax.disable_jit(), _drawing(*self.draws(recipe.draws(seed))):
                agent, _ = agent.update(_batch(seed), **options(seed + 1))
        return self._changes(agent.network.params, self.published.network.params)

    def _changes(self, after, before) -> dict[str, np.ndarray]:
        found = {}
        for name, module in self.modules.items():
            for prefix, label in (("", name), ("target_", f"target {name}")):
                if not prefix or name in self.ours.targets:
                    rows = (
                        _row(p[f"modules_{prefix}{module}"], self.ours.networks[name], module) for p in (after, before)
                    )
                    found[label] = next(rows) - next(rows)
        return found


def _batch(seed: int) -> dict:
    return {name: jnp.asarray(value) for name, value in recipe.batch(seed)._asdict().items()}


def _with_logged(drawn: recipe.Draws):
    """FQL and DeFlow draw next noises, matching, noises, and once more for a logged error."""
    return [drawn.following, drawn.z, drawn.noise, drawn.noise], [drawn.t[:, None]]


def _with_fisher(drawn: recipe.Draws):
    """FiDec draws Fisher samples besides: their noises, the noises of their times, and the times."""
    normals = [drawn.following, drawn.z, drawn.noise, drawn.fisher_noise, drawn.fisher_z, drawn.noise]
    return normals, [drawn.t[:, None], drawn.fisher_t[:, None]]


def fql(folders) -> tuple[Pair, dict, dict]:
    """Flow Q-Learning."""
    names = {"flow": "actor_bc_flow", "actor": "actor_onestep_flow", "critic": "critic"}
    kind = (_load(folders.fql, "agents.fql"), "FQLAgent")
    pair = Pair("fql", kind, names, _with_logged, alpha=10.0, normalize_q_loss=True)
    return pair, pair.gradients(), pair.updated()


def ifql(folders) -> tuple[Pair, dict, dict]:
    """Implicit flow Q-learning."""
    names = {"flow": "actor_flow", "critic": "critic", "value": "value"}
    kind = (_load(folders.fql, "agents.ifql"), "IFQLAgent")
    pair = Pair("ifql", kind, names, lambda drawn: ([drawn.z], [drawn.t[:, None]]))
    return pair, pair.gradients(), pair.updated()


def iql(folders) -> tuple[Pair, dict, dict]:
    """Implicit Q-learning."""
    names = {"actor": "actor", "critic": "critic", "value": "value"}
    kind = (_load(folders.fql, "agents.iql"), "IQLAgent")
    pair = Pair("iql", kind, names, lambda drawn: ([], []), alpha=3.0)
    return pair, pair.gradients(), pair.updated()


def rebrac(folders) -> tuple[Pair, dict, dict]:
    """ReBRAC; its gradient is that of an update at which the actor learns."""
    names = {"actor": "actor", "critic": "critic"}
    kind = (_load(folders.fql, "agents.rebrac"), "ReBRACAgent")
    pair = Pair("rebrac", kind, names, lambda drawn: ([drawn.following], []), alpha_actor=0.1, alpha_critic=0.1)
    return pair, pair.gradients(full_update=True), pair.updated(lambda number: {"full_update": number % 2 == 0})


DECORATED = {"flow": "actor_bc_flow", "delta": "refine_onestep_flow", "critic": "critic", "log_multiplier": "log_alpha"}


def deflow(folders) -> tuple[Pair, dict, dict]:
    """DeFlow."""
    kind = (_load(folders.fidec, "agents.deflow"), "DeFlowAgent")
    pair = Pair("deflow", kind, DECORATED, _with_logged, target_divergence=0.01, normalize_q_loss=True)
    return pair, pair.gradients(), pair.updated()


def fidec(folders, score: str = "released") -> tuple[Pair, dict, dict]:
    """Fisher Decorator as released, or with the score that its code has as a comment."""
    low, high = recipe.TIMES
    options = {"fisher_t": high, "fisher_t_width": high - low, "num_fisher_samples": recipe.K}
    kind = (_load(folders.fidec, "agents.fidec", None if score == "released" else SCORE), "FiDecAgent")
    options |= {"target_divergence": 0.01, "normalize_q_loss": True}
    pair = Pair(f"fidec-{score}", kind, DECORATED, _with_fisher, **options)
    return pair, pair.gradients(), pair.updated()


def fidec_exact(folders) -> tuple[Pair, dict, dict]:
    """Fisher Decorator with the exact score."""
    return fidec(folders, "exact")


CASES = dict(zip(recipe.CASES, (fql, ifql, iql, rebrac, deflow, fidec, fidec_exact), strict=True))


def compare(case: str, folders) -> dict:
    """Prints the differences of a case; the digest of the published numbers, and the largest differences."""
    pair, gradients, changes = CASES[case](folders)
    ours, after = recipe.gradient(recipe.at_a_turn(pair.ours), 0), recipe.updated(pair.ours)
    errors, moves = {}, {}
    for name, wanted in gradients.items():
        errors[name] = np.abs(recipe.vector(ours[name]) - wanted).max() / np.abs(wanted).max()
        print(f"{case:15} {name:16} gradient {errors[name]:.1e}", flush=True)
    for name, wanted in changes.items():
        got = recipe.change(after, pair.ours, name)
        moves[name] = np.abs(got - wanted).max() / pair.ours.config.learning_rate
        print(f"{case:15} {name:16} six updates {moves[name]:.1e} learning rates", flush=True)
    return {
        "gradient": {name: recipe.digest(row) for name, row in gradients.items()},
        "six updates": {name: recipe.digest(row) for name, row in changes.items()},
        "largest differences": [f"{max(found.values()):.1e}" for found in (errors, moves)],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fql", required=True, help="a checkout of FQL's repository")
    parser.add_argument("--fidec", required=True, help="a checkout of Fisher Decorator's repository")
    parser.add_argument("--write", action="store_true", help="keep the published numbers in gradients.json")
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)}; all by default")
    folders = parser.parse_args()
    found = {case: compare(case, folders) for case in folders.cases or CASES}
    if folders.write:
        old = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps(old | found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

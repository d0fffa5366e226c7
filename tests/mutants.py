"""Mistakes made on purpose, one at a time, and the tests that must notice each: a script, not collected by pytest.

    python tests/mutants.py [NUMBER | FILE ...] [--jobs N] [--baseline] [--list]

It copies fdbook/ and tests/ to a temporary folder, replaces one text there, and runs the named tests on the copy. NUMBER and FILE
(a part of its path) choose among the mutants; `--baseline` first runs the chosen tests on an unchanged copy. It exits 1 where a
mutant survives, where its text no longer occurs exactly once, and where its tests could not be run.
"""

import argparse
import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).parents[1]
LIMIT = 600
"""Seconds that the tests of a mutant may take."""


class Mutant(NamedTuple):
    """A mistake: a file under fdbook/, what it has exactly once, what stands there instead, who notices, what a reader loses."""

    file: str
    old: str
    new: str
    tests: str
    """Node ids under tests/, with blanks between them."""
    loss: str


AGENTS, UPDATES, TRAIN = "rl/test_agents.py::test_", "rl/test_updates.py::test_", "rl/test_train.py::test_"
COST = "geometry/test_metrics.py::test_cost_is_the_equation"
MATRICES = "geometry/test_matrices.py::test_"
SIX = "published/test_gradients.py::test_six_updates_arrive_where_the_published_ones_do"
PLACES = "rl/test_transitions.py::test_"
ONLINE = "rl/test_online.py::test_"
FOLLOW = f"{UPDATES}target_networks_follow_what_the_networks_were_before_each_update"
EPISODE = "rl/test_environments.py::test_an_episode_succeeds_by_its_last_step_and_returns_every_reward"
OVER = """            if step.over:
                where = place[0], self.episode[place]
                result.returns[where], result.lengths[where] = self.total[place], self.time[place]
"""

MUTANTS = [
    # paths, metrics, transport
    Mutant(
        "geometry/paths.py",
        "return (1 - t) * noise + t * action",
        "return t * noise + (1 - t) * action",
        "geometry/test_paths.py::test_path_and_its_speed",
        "the flow starts at the data and ends in noise",
    ),
    Mutant(
        "geometry/paths.py",
        "return (t * velocity - x) / (1 - t)",
        "return (x - t * velocity) / (1 - t)",
        "geometry/test_paths.py::test_the_velocity_holds_the_score",
        "E5 points away from the data",
    ),
    Mutant(
        "geometry/metrics/base.py",
        "return damped / self.scale(readings)",
        "return damped",
        COST,
        "E24: a budget means something else under every metric",
    ),
    Mutant(
        "geometry/metrics/base.py",
        " + self.damping * jnp.sum(delta**2, axis=-1)",
        "",
        COST,
        "E20: directions without scores are free",
    ),
    Mutant(
        "geometry/metrics/scores.py",
        "return (jnp.sum(readings * delta, axis=-1) + divergence) ** 2",
        "return jnp.sum(readings * delta, axis=-1) ** 2",
        COST,
        "E22: Fisher-Rao is the paper's metric under another name",
    ),
    Mutant(
        "geometry/metrics/scores.py",
        "        if self.pooled:\n",
        "        if True:\n",
        COST,
        "E19: the paper's metric for each action is the pooled one",
    ),
    Mutant(
        "geometry/metrics/base.py",
        "jr.normal(noise_key, actions.shape, actions.dtype)",
        "jr.normal(time_key, actions.shape, actions.dtype)",
        "geometry/test_metrics.py::test_times_and_noises_are_drawn_apart",
        "E6: the noise of a perturbed action depends on its time",
    ),
    Mutant(
        "geometry/metrics/matrices.py",
        "        if not self.deblurred:\n",
        "        if True:\n",
        f"{MATRICES}a_gaussian_at_several_times",
        "E29: the deblurred metrics charge what is blurred",
    ),
    Mutant(
        "geometry/metrics/matrices.py",
        "return information.nearest_semidefinite(matrices)",
        "return matrices",
        f"{MATRICES}negative_curvature_charges_nothing",
        "E28: a step along negative curvature is paid for",
    ),
    Mutant(
        "geometry/metrics/matrices.py",
        "        if self.pooled:\n",
        "        if False:\n",
        COST,
        "E28: the metrics of one matrix for each state are those of one for each action",
    ),
    Mutant(
        "geometry/transport.py",
        "density.log_prob(moved) - jnp.log(transport.determinant(observation, action))",
        "density.log_prob(moved)",
        "geometry/test_transport.py::TestSecondOrder::test_error_is_of_third_order[ring]",
        "E9: the KL forgets how the map spreads the actions",
    ),
    Mutant(
        "geometry/transport.py",
        "    elif metric.needs_divergence:",
        "    elif False:",
        f"{AGENTS}decorated[fisher-rao-current]",
        "E22: the agent charges no divergence, although the metric would",
    ),
    Mutant(
        "geometry/transport.py",
        "return -log_multiplier * (",
        "return log_multiplier * (",
        f"{AGENTS}decorated[l2-current]",
        "E23: the multiplier falls when the penalty is over budget",
    ),
    Mutant(
        "geometry/transport.py",
        "return -log_multiplier * (",
        "return -jax.lax.stop_gradient(log_multiplier) * (",
        f"{SIX}[deflow]",
        "E23: the multiplier never learns",
    ),
    Mutant(
        "geometry/distillation.py",
        "jax.lax.stop_gradient(taught)",
        "taught",
        "geometry/test_distillation.py::test_no_gradient_reaches_the_teacher_or_the_scale",
        "E17: the flow moves towards its one-step policy",
    ),
    Mutant(
        "geometry/loop.py",
        "averaged, ema_state = optax.ema(self.decay)",
        "averaged, ema_state = optax.ema(self.decay, debias=False)",
        "geometry/test_loop.py::test_the_average_keeps_what_the_decay_says",
        "after a few steps the moving average is nearly the random weights at the start, or zero",
    ),
    # agents
    Mutant(
        "rl/agents/base.py",
        "tau = self.config.tau",
        "tau = 1.0",
        f"{FOLLOW}[fql]",
        "E16: target networks without a lag",
    ),
    Mutant(
        "rl/agents/base.py",
        "tau = self.config.tau",
        "tau = 0.0",
        f"{FOLLOW}[fql]",
        "E16: target networks that never move",
    ),
    Mutant(
        "rl/agents/base.py",
        "discount * batch.masks * next_q",
        "discount * next_q",
        f"{AGENTS}flow_q_learning[True-mean]",
        "E16: the critic bootstraps beyond the goal",
    ),
    Mutant(
        "rl/agents/base.py",
        "discount * batch.masks * next_q",
        "discount**2 * batch.masks * next_q",
        f"{AGENTS}flow_q_learning[True-mean]",
        "E16: the future counts less than asked",
    ),
    Mutant(
        "rl/agents/base.py",
        'return jnp.mean(q, axis=0) if self.config.q_agg == "mean" else jnp.min(q, axis=0)',
        "return jnp.mean(q, axis=0)",
        f"{AGENTS}flow_q_learning[True-min]",
        "E16: q_agg is not heard",
    ),
    Mutant(
        "rl/agents/base.py",
        "return adam if self.max_grad_norm is None else",
        "return adam if True else",
        f"{SIX}[deflow]",
        "long gradients are not shortened",
    ),
    Mutant(
        "rl/agents/base.py",
        "stage = steps - 1 if stage is None else stage",
        "stage = steps - 1",
        f"{AGENTS}a_trajectory_is_read_at_the_step_that_was_asked_for",
        "E6: scores are read at another time than the one asked for",
    ),
    Mutant(
        "rl/agents/deflow_fidec.py",
        "next_actions = jnp.clip(next_base + jax.vmap(delta.head)(next_features, next_base), -1, 1)",
        "next_actions = next_base + jax.vmap(delta.head)(next_features, next_base)",
        f"{AGENTS}decorated[l2-current]",
        "the critic's target is read at actions that nobody can take",
    ),
    Mutant(
        "rl/agents/fql.py",
        'critic = self.networks["critic"]',
        'critic = trained["critic"]',
        "published/test_gradients.py::test_gradients_are_the_published_ones[fql]",
        "E17: the actor's loss flatters itself by moving the critic",
    ),
    Mutant(
        "rl/agents/fql.py",
        "for subkey in (noise_key, next_key)",
        "for subkey in (noise_key, noise_key)",
        f"{AGENTS}the_draws_of_an_update_are_independent[fql]",
        "one key for two draws: the states' noise and the next states' are the same",
    ),
    Mutant(
        "rl/agents/iql.py",
        "agent.config.expectile, 1 - agent.config.expectile",
        "1 - agent.config.expectile, agent.config.expectile",
        f"{AGENTS}implicit_q_learning",
        "V learns the low expectile",
    ),
    Mutant(
        "rl/agents/iql.py",
        "jnp.minimum(jnp.exp(self.config.alpha * advantages), LARGEST_WEIGHT)",
        "jnp.exp(self.config.alpha * advantages)",
        f"{AGENTS}implicit_q_learning",
        "a single action can take all the weight",
    ),
    Mutant(
        "rl/agents/rebrac.py",
        "% self.config.actor_freq == 0",
        "% self.config.actor_freq >= 0",
        f"{UPDATES}rebracs_actor_goes_on_by_its_momentum_between_its_turns",
        "ReBRAC's actor does not wait for its critics",
    ),
    # transitions
    Mutant(
        "rl/fourier_features.py",
        " - self.mean.reshape(shape))",
        ")",
        f"{PLACES}normalized_observations_and_their_statistics",
        "observations keep their mean",
    ),
    Mutant(
        "rl/fourier_features.py",
        "(jnp.sin, jnp.cos)",
        "(jnp.cos, jnp.cos)",
        f"{PLACES}waves_are_sines_and_cosines_of_normalized_coordinates",
        "a place and its mirror image look the same",
    ),
    Mutant(
        "rl/transitions.py",
        "self._stacked(rows + 1)",
        "self._stacked(rows)",
        f"{PLACES}in_the_compact_layout_the_last_row_of_an_episode_is_no_transition",
        "the next observation is the observation",
    ),
    Mutant(
        "rl/transitions.py",
        "np.flatnonzero(~ends)",
        "np.arange(len(ends) - 1)",
        f"{PLACES}in_the_compact_layout_the_last_row_of_an_episode_is_no_transition",
        "transitions lead from one episode into the next",
    ),
    # evaluation and training
    Mutant(
        "rl/evaluate.py",
        f"{OVER}                result.successes[where] = bool(step.success)\n",
        f"            result.successes[place[0], self.episode[place]] |= bool(step.success)\n{OVER}",
        EPISODE,
        "passing by the goal counts as success",
    ),
    Mutant(
        "rl/evaluate.py",
        "self.total[place] += step.reward",
        "self.total[place] += 0.0 if step.over else step.reward",
        EPISODE,
        "the reward of the last step, often the only one, is lost",
    ),
    Mutant(
        "rl/train.py",
        "agents, saved, complaints = stores.restore(agents)",
        "(restored, saved, complaints), fresh = stores.restore(agents), agents\n"
        "    agents = dataclasses.replace(restored, opt_state=fresh.opt_state)",
        f"{TRAIN}a_longer_run_carries_a_shorter_one_on_bit_for_bit",
        "a run that is carried on begins Adam anew",
    ),
    Mutant(
        "rl/train.py",
        'record.progress.scores = [item for item in scores if item["step"] <= record.done] or record.scores',
        'record.progress.scores = [item for item in scores if item["step"] <= record.done] + record.scores',
        f"{TRAIN}a_longer_run_carries_a_shorter_one_on_bit_for_bit",
        "evaluations count twice in the score of a run that was carried on",
    ),
    Mutant(
        "rl/train.py",
        "agents = loop.copy(self.agents)\n",
        "agents = self.agents\n",
        f"{TRAIN}an_evaluation_in_the_background_changes_nothing",
        "an evaluation in the background sees agents that go on learning",
    ),
    # online, estimates, D4RL's mazes
    Mutant(
        "rl/online.py",
        "0, data.size + self.size, jnp.int32)",
        "0, data.size, jnp.int32)",
        f"{ONLINE}batches_are_drawn_evenly_from_logged_and_own_transitions",
        "an online phase never learns from its own steps",
    ),
    Mutant(
        "rl/online.py",
        "not step.terminated for step in steps",
        "not step.over for step in steps",
        f"{ONLINE}the_buffer_holds_what_the_environment_answered",
        "time that runs out counts as a goal online",
    ),
    Mutant(
        "rl/online.py",
        "step.reward + self.reward_shift for step in steps",
        "step.reward for step in steps",
        f"{ONLINE}the_buffer_holds_what_the_environment_answered",
        "rewards online are other than those of the data",
    ),
    Mutant(
        "rl/online.py",
        "taken[place, size - self.times[place] + time]",
        "taken[place, time]",
        f"{ONLINE}a_run_that_was_broken_off_ends_bit_for_bit_the_same",
        "a run that is carried on plays another episode to its end",
    ),
    Mutant(
        "data/mazes.py",
        "return int(reached[0]) + 1 if reached.size",
        "return int(reached[-1]) + 1 if reached.size",
        "data/test_mazes.py::test_an_episode_up_to_its_goal",
        "what follows a goal is counted up to the last one",
    ),
    Mutant(
        "rl/operations.py",
        "loops=agent.config.flow_steps - 1)",
        "loops=1)",
        "test_estimate.py::test_operations_are_those_counted_by_hand",
        "an estimate forgets the flow's steps",
    ),
]


def copied(folder: Path) -> Path:
    """A copy of what the tests need, in a new folder."""
    for name in ("fdbook", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(folder: Path, tests: str) -> tuple[int | None, str]:
    """Pytest's exit status on the copy, None beyond the limit, and the last line that it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += [f"tests/{test}" for test in tests.split()]
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return None, f"took more than {LIMIT} s"
    return done.returncode, (done.stdout.strip() or done.stderr.strip() or "nothing was said").splitlines()[-1]


def verdict(mutant: Mutant, folder: Path) -> str:
    """What became of a mutant: "killed", "survived", "no longer applies", or why its tests told nothing."""
    path = folder / "fdbook" / mutant.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(mutant.old) != 1:
        return "no longer applies"
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        status, said = run(folder, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    return {0: "survived", 1: "killed"}.get(status, f"not tested: {said}")


def chosen(words: list[str]) -> list[int]:
    """The numbers of the mutants that the words name, from 1 on; of all without words."""
    known = range(1, len(MUTANTS) + 1)
    for word in words:
        if not any(
            word == str(number) or (not word.isdigit() and word in MUTANTS[number - 1].file) for number in known
        ):
            raise SystemExit(
                f"There is no mutant {word}: numbers go from 1 to {len(MUTANTS)}, files are parts of a path."
            )
    files = [word for word in words if not word.isdigit()]
    return [n for n in known if not words or str(n) in words or any(file in MUTANTS[n - 1].file for file in files)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mutants", nargs="*", help="numbers, or parts of a file's path; all by default")
    parser.add_argument("--jobs", type=int, default=1, help="how many are tried at the same time")
    parser.add_argument("--baseline", action="store_true", help="first run the tests without a mistake: they must pass")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    options = parser.parse_args()
    numbers = chosen(options.mutants)
    if options.list:
        for number in numbers:
            print(f"{number:3} {MUTANTS[number - 1].file}: {MUTANTS[number - 1].loss}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for job in range(max(1, options.jobs)):
            folders.put(copied(Path(scratch) / str(job)))
        if options.baseline:
            folder = folders.get()
            status, said = run(folder, " ".join(sorted({MUTANTS[number - 1].tests for number in numbers})))
            folders.put(folder)
            if status != 0:
                raise SystemExit(f"The tests fail without a mistake: {said}")

        def judge(number):
            folder = folders.get()
            try:
                return verdict(MUTANTS[number - 1], folder)
            finally:
                folders.put(folder)

        counts: dict[str, int] = {}
        with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs)) as pool:
            for number, came in zip(numbers, pool.map(judge, numbers), strict=True):
                counts[came] = counts.get(came, 0) + 1
                mutant = MUTANTS[number - 1]
                print(f"{number:3} {came:10} {mutant.file}: {mutant.loss}", flush=True)
    print(", ".join(f"{count} {came}" for came, count in counts.items()))
    sys.exit(set(counts) != {"killed"})


if __name__ == "__main__":
    main()

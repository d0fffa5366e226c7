"""The frozen ladder against closed forms: a behavior that is a Gaussian in every state, and a value that is linear in the action.

Then the best displacement of each state is the translation G^-1 g, its KL half its quadratic form in the precision, and the gain
at equal KL is E26, whatever the networks are.
"""

import dataclasses
import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_bandit import Bandit

from fdbook import cli, experiment
from fdbook.data import custom
from fdbook.data.load import load
from fdbook.experiment import RunSpec, ladder, measure, refit, rollouts
from fdbook.experiment.run import Run
from fdbook.geometry import metrics
from fdbook.geometry.anisotropy import GaussianPolicy
from fdbook.rl import agents, records, train
from fdbook.rl.networks import Encoded
from fdbook.rl.transitions import Transitions


pytestmark = pytest.mark.slow
D = 2
SLOPE = np.array([0.6, 0.8])
WIDTHS = ((0.3, 0.05), (0.1, 0.1))
"""Two kinds of state: a thin one, turned by 30 degrees, and a round one."""
L2 = metrics.L2()
RAW = metrics.make("fisher-exact", damping=0.0, t=0.97, trace_normalized=False)
DISGUISED = metrics.L2(damping=1.0, trace_normalized=True)
"""L2 by another formula: twice its cost, over two."""
SHARP = metrics.make("information-deblurred", damping=0.0, trace_normalized=False, least_width=1e-3)


def covariance(kind):
    angle = np.pi / 6 * (kind == 0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag(np.square(WIDTHS[kind])) @ turn.T


COVARIANCES = np.stack([covariance(0), covariance(1)])
STATES = np.array([[0.0, 0.0, *covariance(kind).ravel()] for kind in (0, 1)], np.float32)


class Critics(eqx.Module):
    """Two critics whose mean is 2 + the slope times the action; they disagree by a constant."""

    slope: jax.Array

    def features(self, observations):
        return observations

    def head(self, features, action):
        return 2 + self.slope @ action + jnp.array([0.1, -0.1], jnp.float32)


@pytest.fixture(scope="module")
def run():
    """Two agents alike in their flow, whose critics point the same way, one of them twice as steeply."""
    rng = np.random.default_rng(0)
    rows = STATES[rng.integers(2, size=1200)]
    actions = rng.normal(size=(1200, D)).astype(np.float32) * 0.1
    ends = np.arange(1200) % 300 == 299
    arrays = {"observations": rows, "actions": np.clip(actions, -1, 1), "terminals": ends}
    arrays |= {"next_observations": rows, "rewards": np.zeros(1200), "masks": np.ones(1200)}
    task = custom.from_arrays(arrays, Bandit, horizon=2)
    spec = RunSpec(
        task, "deflow", seeds=2, updates=1, config={"width": 16, "depth": 1, "batch_size": 16}, normalize=False
    )
    stacked = train.init(agents.make("deflow"), (6,), D, (0, 1), width=16, depth=1, batch_size=16)
    flow = Encoded(None, GaussianPolicy(D))
    slopes = jnp.asarray(np.stack([SLOPE, 2 * SLOPE]), jnp.float32)
    stacked = dataclasses.replace(stacked, networks=stacked.networks | {"flow": flow, "critic": Critics(slopes)})
    return Run(spec, records.Record(spec.to_dict(), {}), stacked, 1), load(task)


SPEC = {"updates": 1200, "learning_rate": 1e-2, "rungs": 5, "kl": (0.05, 0.5), "states": 64, "readings": 128}
SPEC |= {"episodes": 2, "held_out_states": 24, "held_out_actions": 8, "fisher_actions": 256}


@pytest.fixture(scope="module")
def climbed(run):
    return ladder.run_ladder(run[0], ladder.LadderSpec(metrics=(SHARP, DISGUISED), **SPEC), loaded=run[1])


def efficiency(forms, thin):
    """E26 by hand, for a share `thin` of thin states: what the steps G^-1 g gain at a mean KL of 1/2."""
    steps = [np.linalg.solve(form, SLOPE) for form in forms]
    shares = np.array([thin, 1 - thin])
    gains = np.array([SLOPE @ step for step in steps])
    costs = np.array([step @ np.linalg.solve(sigma, step) for step, sigma in zip(steps, COVARIANCES, strict=True)])
    return shares @ gains / np.sqrt(shares @ costs)


def thin_share(climbed):
    """The share of thin states among those held out: their Fisher matrix is that of the narrower Gaussian."""
    return float(np.mean(climbed.condition[0] > 10))


def best(climbed):
    thin = thin_share(climbed)
    assert 0.2 < thin < 0.8
    return efficiency(np.linalg.inv(COVARIANCES), thin) / efficiency([np.eye(D)] * 2, thin)


def test_the_ratio_at_equal_kl_is_the_closed_form(climbed, budget):
    """The fitted networks gain over L2 what E26 says, at every KL: the deblurred metric is the precision itself (E29)."""
    compared = ladder.gain_ratio(climbed, SHARP, (0.1, 0.2))
    np.testing.assert_allclose(compared.ratio, best(climbed), rtol=budget("ladder_ratio"))
    assert np.all(compared.low <= compared.ratio)
    assert np.all(compared.ratio <= compared.high)
    np.testing.assert_allclose(climbed.of(SHARP).predicted, best(climbed), rtol=budget("ladder_ratio"))
    np.testing.assert_allclose(climbed.ceiling, best(climbed), rtol=budget("ladder_ratio"))


def test_rungs_lie_where_they_are_wanted(climbed):
    wanted = np.geomspace(*climbed.spec.kl, climbed.spec.rungs)
    for metric, rungs in zip(climbed.spec.metrics, climbed.rungs, strict=True):
        kl = rungs.kl.mean(axis=-1)
        assert kl.shape == (5, 2)
        np.testing.assert_allclose(kl, np.broadcast_to(wanted[:, None], kl.shape), rtol=0.35)
        assert np.all(np.diff(rungs.multiplier, axis=0) < 0)
        assert not np.any(rungs.folded)
        assert not np.any(rungs.crossed)
        np.testing.assert_array_equal(rungs.predicted, 1) if metric == L2 else None
    np.testing.assert_array_equal(ladder.gain_ratio(climbed, L2, (0.1, 0.3)).ratio, 1)


def test_metrics_start_alike_and_see_the_same(climbed):
    """L2 in disguise climbs L2's own ladder: the same first weights, states, actions and draws, and the same resamples."""
    plain, disguised = climbed.of(L2), climbed.of(DISGUISED)
    for one, other in zip(plain, disguised, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=1e-4)  # rounding grows along hundreds of updates
    compared = ladder.gain_ratio(climbed, DISGUISED, (0.1, 0.2))
    for value in (compared.ratio, compared.low, compared.high):
        np.testing.assert_allclose(value, 1, rtol=1e-2)


def test_agents_differ_only_in_the_unit_of_their_value(climbed):
    """The second critic is twice as steep: it gains twice as much at the same KL."""
    at = np.array([0.1, 0.3])
    gains = [
        np.interp(at, climbed.of(SHARP).kl.mean(-1)[:, i], climbed.of(SHARP).gain.mean(-1)[:, i]) for i in range(2)
    ]
    np.testing.assert_allclose(gains[1] / gains[0], 2, rtol=0.1)


def test_the_record_says_what_was_measured(climbed):
    tree = json.loads(json.dumps(climbed.to_dict()))
    assert [entry["label"] for entry in tree["metrics"]] == ["l2", ladder.label(SHARP), ladder.label(DISGUISED)]
    assert metrics.from_dict(tree["metrics"][1]["metric"]) == SHARP
    np.testing.assert_allclose(tree["metrics"][1]["kl"], climbed.of(SHARP).kl.mean(axis=-1), rtol=1e-4)
    compared = tree["metrics"][1]["ratio"]
    np.testing.assert_allclose(compared["ratio"][:3], ladder.gain_ratio(climbed, SHARP).ratio[:3], rtol=1e-4)
    assert compared["kl"] == [0.05, 0.1, 0.2]
    lines = experiment.ladder_table(tree).splitlines()
    assert len(lines) == 2 + 3 + 3 + 2 * 4
    assert lines[1].split() == ["E26", "0.05", "0.1", "0.2"]
    assert lines[2].split()[:4] == ["l2", "1.00", "1.00", "(1.00-1.00)"]
    disguised = lines[4].removeprefix(tree["metrics"][2]["label"]).split()
    assert disguised[0] == f"{np.mean(tree['metrics'][2]['predicted']):.2f}"
    assert lines[5].startswith("folded, at most: l2 0.0%, ")
    assert lines[7].startswith("E26 allows ")
    assert lines[8].startswith("score beyond that of L2 (the flow: ")


def test_a_ladder_plays_its_own_displacements(run, climbed):
    """The record keeps the means of each rung, those of the flow, and what lies between two metrics at equal KL."""
    tree = json.loads(json.dumps(climbed.to_dict()))
    with rollouts.player(run[0], 2, "task") as play:
        entry, maps, played = (each[-1] for each in (tree["metrics"], climbed.maps, climbed.played))
        again, base = play(maps), play(rollouts.zero_displacements(maps))
    np.testing.assert_array_equal(played.score, again.score)
    np.testing.assert_allclose(entry["played"]["score"], again.score.mean(axis=2), rtol=1e-4)
    np.testing.assert_allclose(tree["base"]["score"], base.score[0].mean(axis=1), rtol=1e-4)
    assert (tree["ladder"]["episodes"], tree["base"]["length"]) == (2, [2.0, 2.0])
    compared = ladder.play_difference(climbed, DISGUISED, "score", entry["ratio"]["kl"])
    np.testing.assert_allclose(entry["difference"]["score"]["value"][:3], compared.value[:3], rtol=1e-3)
    assert entry["difference"].keys() == {"score", "length"}
    count = len(entry["ratio"]["kl"])
    entry["difference"]["score"] = {
        "value": [1.4] * count,
        "low": [-2.6] * count,
        "high": [None, *[12.3] * (count - 1)],
    }
    entry["difference"]["score"] |= {"value": [None, *[1.4] * (count - 1)]}  # at the first KL nothing is known
    entry["ratio"] |= {"ratio": [1.5] * count, "low": [1.25] * count, "high": [2.0] * count}
    rows = [line.split() for line in experiment.ladder_table(tree).splitlines() if line.startswith(entry["label"])]
    assert rows[0][-2:] == ["1.50", "(1.25-2.00)"]
    assert rows[1][-4:] == ["+1", "(-3", "to", "+12)"]
    assert "-" in rows[1]


def measured_translation(run, step, scale=0.0):
    """What a translation by `step`, and a stretch by `scale`, come to at 16 held-out states of the first agent."""
    stacked = run[0].agents
    states = jnp.asarray(np.repeat(STATES, 8, axis=0))
    judge = measure.held_out(stacked, states, 512, jax.random.key(0))
    first = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, (stacked, judge))
    return measure.measured(
        first[0], Stretch(jnp.asarray(step, jnp.float32), jnp.asarray(scale, jnp.float32)), first[1]
    )


class Stretch(eqx.Module):
    step: jax.Array
    scale: jax.Array

    def __call__(self, seen, action):
        return self.step + self.scale * action


def test_a_translation_is_measured_exactly(run):
    """KL and gain of both kinds of state; the mean log-ratio of n samples has variance 2 KL / n."""
    step = np.array([0.03, -0.02])
    got = measured_translation(run, step)
    for kind, sigma in enumerate(COVARIANCES):
        kl = 0.5 * step @ np.linalg.solve(sigma, step)
        assert np.mean(got.kl[8 * kind : 8 * kind + 8]) == pytest.approx(kl, abs=4 * np.sqrt(2 * kl / 4096))
        assert kl > 8 * np.sqrt(2 * kl / 4096)
    np.testing.assert_allclose(got.gain, SLOPE @ step, atol=2e-3)
    assert (float(got.folded), float(got.crossed), abs(float(got.clipped)) < 0.01) == (0, 0, True)


def test_what_leaves_the_box_is_cut_off_and_judged_where_it_ends(run):
    """Far beyond the edge: the critics see the corner, and most of the way is lost; all of it is off the manifold."""
    got = measured_translation(run, np.array([3.0, 3.0]))
    np.testing.assert_allclose(got.gain, SLOPE @ [1, 1], atol=0.08)
    assert float(got.clipped) == pytest.approx(1 - 1 / 3, abs=0.02)
    assert float(got.off) == 1
    still = measured_translation(run, np.zeros(2))
    assert float(still.off) == pytest.approx(0.01, abs=0.002)
    np.testing.assert_allclose(still.kl, 0, atol=2e-3)  # ten steps of the solver, there and back


def test_a_stretch_costs_its_determinant_and_a_reflection_folds(run):
    """KL of N(0, (1 + s)^2 Sigma) from N(0, Sigma) is d (s^2 / 2 + s - log(1 + s)); its samples deviate by 0.31."""
    got = measured_translation(run, np.zeros(2), 0.2)
    np.testing.assert_allclose(np.mean(got.kl), 2 * (0.02 + 0.2 - np.log(1.2)), atol=4 * 0.31 / np.sqrt(8192))
    folded = measured_translation(run, np.zeros(2), np.array([-2.0, 0.0]))
    assert float(folded.folded) == 1
    # a pair passes where it lies further apart along the mirrored axis: of Gaussians, the angle of that cone once whitened
    ends = np.linalg.solve(np.linalg.cholesky(COVARIANCES), np.array([[1.0, 1.0], [-1.0, 1.0]]))
    cosines = np.prod(ends, axis=-1).sum(axis=-1) / np.prod(np.linalg.norm(ends, axis=-2), axis=-1)
    assert float(folded.crossed) == pytest.approx(np.mean(np.arccos(cosines)) / np.pi, abs=0.03)


def test_one_mode_laid_upon_another_folds_nowhere_and_crosses():
    """Of six pairs, three between the modes end upon each other or the other way round; every determinant is 1."""
    actions = np.array([[0.0], [1.0], [10.0], [11.0]])
    assert float(measure.crossed_pairs(jnp.asarray(actions), jnp.asarray(actions % 10))) == 0.5
    assert float(measure.crossed_pairs(jnp.asarray(actions), jnp.asarray(actions + 3))) == 0


def test_the_ratio_of_curves_by_hand():
    """Gains that are 3 and 2 times the root of the KL, whatever the rungs; beyond the lower of the two there is nothing."""

    def rungs(factor, kl):
        kl = np.broadcast_to(np.asarray(kl)[:, None, None], (len(kl), 3, 4))
        nothing = np.zeros(kl.shape[:2])
        return ladder.Rungs(nothing, factor * np.sqrt(kl), kl, nothing, nothing, nothing, nothing, np.ones(3))

    spec = ladder.LadderSpec(metrics=(RAW,))
    made = ladder.Ladder(spec, (rungs(2, [0.1, 0.5]), rungs(3, [0.2, 0.9])), (), np.ones(3), np.ones((3, 4)), "x")
    got = ladder.gain_ratio(made, RAW, (0.05, 0.3, 0.6))
    np.testing.assert_allclose(got.ratio, [1.5, 1.5, np.nan])
    np.testing.assert_allclose(got.low[:2], 1.5)
    assert np.isnan(got.high[2])
    with pytest.raises(ValueError, match=r"^The metric scale is not on this ladder\."):
        made.of(metrics.make("scale"))


def test_multipliers_are_placed_by_interpolation():
    multipliers = np.array([8.0, 4.0, 2.0, 1.0])
    kl = 0.5 / multipliers**2
    np.testing.assert_allclose(
        refit.interpolate_multipliers(multipliers, kl, np.array([0.001, 0.01, 0.3, 2.0])) ** 2,
        0.5 / np.array([0.001, 0.01, 0.3, 2.0]),
    )
    odd = refit.interpolate_multipliers(multipliers, np.array([0.01, np.nan, 0.1, np.inf]), np.array([0.02, 0.05]))
    assert np.all(np.isfinite(odd))
    assert odd[0] > odd[1]


def rows(first, count):
    """Transitions whose observations are numbers from `first` on."""
    seen = np.arange(first, first + count, dtype=np.float32)[:, None]
    return Transitions.of(seen, 0 * seen, 0 * seen[:, 0], 1 + 0 * seen[:, 0], np.arange(count) == count - 1, seen)


def test_states_to_measure_at_are_others_than_those_to_learn_from(run):
    """From the validation set; where there is none, from the data, but never the same."""
    key = jax.random.key(0)

    def states(validation, *counts):
        loaded = dataclasses.replace(run[1], train=rows(0, 100), validation=validation)
        return (np.ravel(x) for x in measure.observations(loaded, *counts, key=key))

    train, held = states(rows(1000, 50), 60, 20)
    assert (len(set(train)), len(set(held)), train.max() < 100, held.min() >= 1000) == (60, 20, True, True)
    train, held = states(None, 60, 20)
    assert (len(set(train)), len(set(held)), set(train) & set(held)) == (60, 20, set())
    assert [len(part) for part in states(None, 500, 20)] == [80, 20]


def test_a_fingerprint_tells_frozen_networks_apart(run):
    agents_, changed = run[0].agents, jax.tree.map(lambda x: x, run[0].agents)
    changed = dataclasses.replace(
        changed, networks=changed.networks | {"critic": Critics(2 * agents_.networks["critic"].slope)}
    )
    moved = dataclasses.replace(agents_, networks=agents_.networks | {"delta": Moved(jnp.ones((2, 2)))})
    assert ladder._fingerprint(agents_) == ladder._fingerprint(moved) != ladder._fingerprint(changed)


def test_l2_comes_first_in_whatever_order_metrics_are_said(climbed):
    """The others are compared with it, and the table's rows of episodes are theirs."""
    assert ladder.LadderSpec(metrics=(RAW, L2, SHARP)).metrics == (L2, RAW, SHARP)
    assert ladder.LadderSpec(metrics=("exact", "l2")).metrics == (L2, metrics.make("exact"))
    with pytest.raises(ValueError, match="two of those given are equal"):
        ladder.LadderSpec(metrics=(RAW, L2, L2))
    tree = climbed.to_dict()
    turned = tree | {"metrics": [tree["metrics"][place] for place in (1, 0, 2)]}  # as records had it before
    usual, other = (sorted(experiment.ladder_table(each).splitlines()[8:]) for each in (tree, turned))
    assert usual == other


def test_bad_ladders_are_refused_in_one_sentence(run, unhooked):
    for options, sentence in (
        ({"metrics": (RAW, RAW)}, "A ladder takes each metric once; two of those given are equal."),
        ({"kl": (0.5, 0.1)}, "LadderSpec takes a range of KL, two rising numbers above 0; got (0.5, 0.1)."),
        ({"rungs": 1}, "rungs"),
        ({"updates": 0}, "updates"),
        ({"learning_rate": 0.0}, "a learning rate"),
        ({"kl": 0.5}, "LadderSpec takes a range of KL, two rising numbers above 0; got 0.5."),
        ({"kl": (0.1, "x")}, "two rising numbers above 0; got (0.1, 'x')."),
        ({"kl": (0.1, np.inf)}, "two rising numbers above 0"),
        ({"updates": "abc"}, "LadderSpec takes a whole number for updates; got 'abc'."),
        ({"rungs": 2.5}, "LadderSpec takes a whole number for rungs; got 2.5."),
        ({"states": None}, "LadderSpec takes a whole number for states; got None."),
        ({"seed": -1}, "LadderSpec takes seed in [0, inf]; got -1."),
        ({"learning_rate": "fast"}, "LadderSpec takes a number for learning_rate; got 'fast'."),
        ({"metrics": "exact"}, "A ladder takes several metrics, as in ('exact', 'deblurred'); got 'exact'."),
        ({"metrics": ("exakt",)}, "Did you mean 'exact'"),
    ):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            ladder.LadderSpec(**options)
    bare = dataclasses.replace(run[0].agents, networks={"flow": run[0].agents.networks["flow"]})
    with pytest.raises(ValueError, match=r"^A ladder needs a frozen flow and critics; a run of deflow has no critic\."):
        ladder.run_ladder(dataclasses.replace(run[0], agents=bare), loaded=run[1])


def test_the_command_writes_the_record_and_shows_it(run, climbed, tmp_path, monkeypatch, capsys, unhooked):
    asked = []
    (tmp_path / "record.json").write_text("{}")
    monkeypatch.setattr(experiment, "open_run", lambda folder: run[0])
    monkeypatch.setattr(experiment, "run_ladder", lambda run, spec, progress: asked.append(spec) or climbed)
    typed = ["ladder", str(tmp_path), "--metric", "exact,t=0.95,damping=0.0", "--set", "updates=20", "--no-progress"]
    assert cli.main(typed) == 0
    (spec,) = asked
    assert (spec.updates, spec.metrics) == (20, (L2, metrics.make("exact", t=0.95, damping=0.0)))
    shown = capsys.readouterr().out
    assert "deflow on " in shown
    assert "gain in Q, in units of L2" in shown
    tree = json.loads((tmp_path / "ladder.json").read_text())
    assert tree["fingerprint"] == climbed.fingerprint
    assert tree["run"] == run[0].spec.to_dict()
    for typed, sentence in (
        (["ladder", str(tmp_path), "--metric", "exakt"], "no metric called 'exakt'. Did you mean 'exact'"),
        (["ladder", str(tmp_path), "--set", "update=3"], "Did you mean 'updates'"),
        (["ladder", str(tmp_path), "--set", "updates"], "--set takes NAME=VALUE; got 'updates'"),
        (["ladder", str(tmp_path), "--set", "kl=0.5"], "fdbook: LadderSpec takes a range of KL"),
        (["ladder", str(tmp_path), "--metric", "exact,t=0.9,0.8"], "or an interval of such times; got (0.9, 0.8)"),
    ):
        assert cli.main(typed) != 0
        assert sentence in capsys.readouterr().err


def test_an_audit_knows_what_a_displacement_costs_and_what_its_metric_says(run, budget):
    """DeFlow's translation: the KL in closed form; L2 takes it for half its squared length, whatever the behavior is like."""
    step = jnp.asarray(np.array([[0.03, -0.02], [0.01, 0.02]]), jnp.float32)
    moves = Encoded(None, Stretch(step, jnp.zeros(2, jnp.float32)))
    made_run = dataclasses.replace(
        run[0], agents=dataclasses.replace(run[0].agents, networks=run[0].agents.networks | {"delta": moves})
    )
    made = experiment.audit(made_run, loaded=run[1], states=24, actions=256)
    costs = np.array([[0.5 * s @ np.linalg.solve(sigma, s) for sigma in COVARIANCES] for s in np.asarray(step)])
    assert made.exact_kl
    assert np.all((costs.min(axis=1) < made.kl) & (made.kl < costs.max(axis=1)))
    np.testing.assert_allclose(made.surrogate, np.sum(np.asarray(step) ** 2, axis=1) / 2, rtol=1e-5)
    np.testing.assert_allclose(made.gain, np.array([1, 2]) * (np.asarray(step) @ SLOPE), atol=2e-3)
    lines = experiment.audit_table(made_run, made).splitlines()
    assert lines[0].split() == [
        "seed",
        "exact",
        "KL",
        "metric",
        "says",
        "gain",
        "in",
        "Q",
        "folded",
        "crossed",
        "clipped",
        "off",
    ]
    assert lines[-1] == f"l2 was held at a budget of {run[0].agents.config.budget:g} (2 seeds)."
    assert json.loads(json.dumps(made.to_dict()))["kl"] == pytest.approx(made.kl)


def test_an_audit_of_a_one_step_policy_counts_neighbors(run):
    """A policy that is the behavior, moved: 1 nat in a round state, less in a thin one that it is moved along."""
    stacked = run[0].agents
    networks = {name: stacked.networks[name] for name in ("flow", "critic")}
    fql = train.init(agents.make("fql"), (6,), D, (0, 1), width=16, depth=1, batch_size=16)
    fql = dataclasses.replace(
        fql, networks=networks | {"actor": Encoded(None, Moved(jnp.full((2, 2), 0.1, jnp.float32)))}
    )
    made_run = dataclasses.replace(run[0], spec=RunSpec(run[0].spec.task, "fql", seeds=2, updates=1), agents=fql)
    made = experiment.audit(made_run, loaded=run[1], states=24, actions=256)
    assert not made.exact_kl
    assert made.surrogate is None
    thin = np.linalg.solve(COVARIANCES[0], [0.1, 0.1]) @ [0.1, 0.1] / 2
    assert np.all((made.kl > thin) & (made.kl < 1))
    assert "KL (neighbors)" in experiment.audit_table(made_run, made)
    bare = dataclasses.replace(made_run, agents=dataclasses.replace(fql, networks=networks))
    with pytest.raises(ValueError, match=r"^An audit takes a run whose policy moves away from a flow"):
        experiment.audit(bare, loaded=run[1])


class Moved(eqx.Module):
    """A one-step policy: the Gaussian that the observation describes, moved by a step."""

    step: jax.Array

    def __call__(self, inputs):
        mean, rows, noise = inputs[:2], inputs[2:6].reshape(2, 2), inputs[6:]
        return mean + jnp.linalg.cholesky(rows) @ noise + self.step


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.5, 0.5)])
def test_nearest_neighbors_estimate_the_kl_of_gaussians(shift, scale):
    rng = np.random.default_rng(1)
    ours, theirs = shift + scale * rng.normal(size=(6000, 2)), rng.normal(size=(6000, 2))
    truth = 2 * (np.log(1 / scale) + (scale**2 + shift**2 - 1) / 2)
    assert experiment.neighbor_kl(ours, theirs) == pytest.approx(truth, abs=0.08)
    with pytest.raises(ValueError, match=r"^neighbor_kl takes more than 5 samples of both; got 3 and 6000"):
        experiment.neighbor_kl(ours[:3], theirs)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_kth_neighbor_by_hand(k):
    """Samples on a line, each distance sorted by itself."""
    ours, theirs = (np.random.default_rng(seed).normal(size=(9, 1)) for seed in (0, 1))
    own = np.sort(np.abs(ours - ours.T), axis=1)[:, k]  # the nearest of all is the sample itself
    other = np.sort(np.abs(ours - theirs.T), axis=1)[:, k - 1]
    assert experiment.neighbor_kl(ours, theirs, k) == pytest.approx(np.mean(np.log(other / own)) + np.log(9 / 8))


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "5"])
def test_a_number_of_neighbors_that_is_none_is_refused(k, unhooked):
    with pytest.raises(ValueError, match=rf"^neighbor_kl takes a k that is a whole number of at least 1; got {k!r}\.$"):
        experiment.neighbor_kl(np.zeros((9, 1)), np.ones((9, 1)), k)

"""The specification of a run: what it fills in, what it refuses, and that it is the same value wherever it comes from."""

import itertools
import json
import re
import subprocess
import sys

import pytest

from fdbook import experiment
from fdbook.data.tasks import TASKS, find_task
from fdbook.experiment import DataSpec, RunSpec
from fdbook.geometry import metrics
from fdbook.rl import agents, records


TASK = "pointmaze-medium-navigate-singletask"
CUBE = "cube-single-play-singletask"
METRICS = ("paper", "released", "exact", "fisher-rao")


@pytest.mark.parametrize("preset", list(experiment.PRESETS))
def test_presets_fit_every_task_and_agent(preset):
    for task in TASKS.values():
        for agent in agents.AGENTS:
            spec = RunSpec(task, agent, preset=preset)
            assert spec.evaluations[-1] == spec.updates
            assert spec.config.discount == task.discount
            assert type(spec.config) is agents.family(agent).Config


def test_what_is_not_said_comes_from_the_registry_and_the_preset():
    """Written down from the papers' tables, not from the registry."""
    pen = RunSpec("D4RL/pen/human-v2", "fql", preset="paper")
    assert (pen.config.alpha, pen.config.q_agg, pen.updates) == (10_000, "min", 500_000)
    assert (pen.config.width, pen.config.depth, pen.config.learning_rate) == (512, 4, 3e-4)
    cube = RunSpec(CUBE, preset="paper")
    assert (cube.config.budget, cube.config.q_agg, cube.evaluations) == (
        0.001,
        "mean",
        (800_000, 900_000, 1_000_000),
    )
    assert RunSpec(CUBE, updates=25_000).evaluations == (10_000, 20_000, 25_000)
    assert RunSpec(TASK).normalize
    assert RunSpec(TASK).wavelengths == (8.0, 4.0, 2.0)
    assert RunSpec(TASK, normalize=False).wavelengths == ()
    assert RunSpec(CUBE, seeds=3).seeds == (0, 1, 2)


@pytest.mark.parametrize("preset", list(experiment.PRESETS))
@pytest.mark.parametrize("task", [TASK, CUBE])
def test_the_metric_is_all_that_differs_between_decorated_flows(preset, task):
    """The book's central comparison: every pair of methods, and nothing but agent and metric in the difference."""
    specs = [RunSpec(task, "deflow", preset=preset)]
    specs += [RunSpec(task, "fidec", metric=metric, preset=preset) for metric in METRICS]
    for one, other in itertools.combinations(specs, 2):
        names = {name.split(".")[0] for name in one.diff(other)}
        assert "metric" in names
        assert names <= {"agent", "metric"}
    assert "agent" not in specs[1].diff(specs[2])


@pytest.mark.parametrize(
    "spec",
    [
        RunSpec(CUBE),
        RunSpec(CUBE, "fql", preset="paper", seeds=(3, 5), config={"alpha": 30.0}),
        RunSpec(TASK, metric=metrics.make("exact", damping=0.25), data={"episodes": 60, "seed": 2}, wavelengths=(4.0,)),
        RunSpec(TASK, "deflow", evaluations=(), normalize=False, data=DataSpec(source="recorded")),
        RunSpec(TASK, data={"dose": {"along": 0.3, "across": 0.03, "heading": 0.5}}),
        *(RunSpec(TASK, metric=metric, preset="released") for metric in METRICS),
    ],
    ids=lambda spec: spec.method,
)
def test_it_comes_back_from_json(spec):
    back = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec
    assert back.to_dict() == spec.to_dict()
    assert (back.hash, hash(back), back.folder) == (spec.hash, hash(spec), spec.folder)
    assert spec.diff(back) == {}
    assert back.replace() == spec


def test_what_is_read_back_does_not_depend_on_todays_defaults(monkeypatch):
    tree = RunSpec(CUBE).to_dict()
    monkeypatch.setitem(experiment.PRESETS, "laptop", lambda task: experiment.Preset(7, (7,), {"width": 9}))
    assert RunSpec(CUBE).updates == 7
    back = RunSpec.from_dict(tree)
    assert (back.updates, back.config.width) == (60_000, 256)
    assert back.to_dict() == tree


def test_a_variation_is_filled_in_anew_and_keeps_what_was_said():
    spec = RunSpec(CUBE, config={"budget": 0.02}, updates=1000)
    other = spec.replace(task=TASK)
    assert (other.config.budget, other.updates, other.config.width) == (0.02, 1000, 64)
    assert other.wavelengths == (8.0, 4.0, 2.0)
    both = spec.replace(config={"width": 8})
    assert (both.config.budget, both.config.width) == (0.02, 8)
    assert spec.diff(both) == {"config.width": (256, 8)}
    assert spec.replace(agent="deflow").diff(spec).keys() >= {"agent"}
    assert spec.replace(data={"episodes": 20}).data == DataSpec(episodes=20)
    with pytest.raises(ValueError, match=r"There is no setting of fql called 'budget'"):
        spec.replace(agent="fql")


def test_a_hash_is_that_of_what_is_run_and_not_of_how_it_was_said():
    spec = RunSpec(CUBE)
    said = RunSpec(CUBE, config={"budget": spec.config.budget}, updates=spec.updates, episodes=50)
    assert said.hash == spec.hash
    assert said.folder != spec.folder
    others = [{"seeds": (1,)}, {"episodes": 49}, {"config": {"tau": 0.01}}, {"metric": "paper"}, {"data": {"seed": 1}}]
    assert len({spec.hash, *(spec.replace(**other).hash for other in others)}) == len(others) + 1


def test_folders_of_different_runs_differ():
    folders = {
        str(RunSpec(task, agent, metric=metric, preset=preset, seeds=seeds, config=config, data=data).folder)
        for task in (TASK, CUBE)
        for agent, metric in (
            ("fidec", None),
            ("fidec", "paper"),
            ("fidec", metrics.make("paper", damping=0.5)),
            ("deflow", None),
        )
        for preset in ("paper", "laptop")
        for seeds in ([0], [0, 1], [3])
        for config in ({}, {"budget": 0.1})
        for data in ({}, {"episodes": 20})
    }
    assert len(folders) == 2 * 4 * 2 * 3 * 2 * 2
    long = RunSpec(
        TASK, config={"budget": 0.1, "multiplier": 0.3, "max_grad_norm": 1.0, "selection": "base", "num_samples": 16}
    )
    longer = long.replace(config={"perturbed_time": 0.8, "tau": 0.01, "normalize_q": False})
    words = "fidec-exact-laptop-seed-0-budget=0.1-max_grad_norm=1-multiplier=0.3-normalize_q=False-num_samples=16"
    assert longer.folder.name == f"{words}-{longer.hash}"
    thin = RunSpec(TASK, data={"dose": {"along": 0.3}})
    assert thin.folder.name == "fidec-exact-laptop-seed-0-along-0.3-across-0.5-heading-1"
    assert RunSpec(TASK, data={"dose": {"along": 0.5}}) == RunSpec(TASK)
    assert f"runs/{find_task(TASK).name}/fidec-exact-laptop-2-seeds" in folders
    assert f"runs/{find_task(TASK).name}/fidec-exact-laptop-seed-0" in folders


def test_an_online_phase_is_part_of_what_is_run():
    """Without one a specification is written as before: the hashes and folders of older runs stay."""
    spec = RunSpec(TASK, updates=1000)
    online = spec.replace(online=400)
    assert "online" not in spec.to_dict()
    assert online.to_dict()["online"] == 400
    assert RunSpec.from_dict(online.to_dict()) == online
    assert online.hash != spec.hash
    assert online.folder.name == f"{spec.folder.name}-online=400"
    assert (online.updates, online.total_updates) == (1000, 1400)
    assert online.evaluations == (*spec.evaluations, 1100, 1200, 1300, 1400)
    assert online.replace(agent="bc").online == 400
    assert spec.diff(online)["online"] == (None, 400)


def test_the_papers_settings_of_online_runs_are_taken_there():
    """FQL's alpha for D4RL's cloned pen, from the paper's table of offline-to-online runs."""
    spec = RunSpec("D4RL/pen/cloned-v2", "fql")
    assert spec.replace(online=10).config.alpha == 1000.0 != spec.config.alpha
    assert spec.replace(online=10, config={"alpha": 5.0}).config.alpha == 5.0
    assert RunSpec("D4RL/pen/cloned-v2", "bc", online=10).config == RunSpec("D4RL/pen/cloned-v2", "bc").config


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "cube-singel-play"}, "There is no task called 'cube-singel-play'"),
        ({"agent": "fidek"}, "There is no agent called 'fidek'. Did you mean 'fidec'?"),
        ({"metric": "exakt"}, "There is no metric called 'exakt'. Did you mean 'exact'?"),
        ({"agent": "fql", "metric": "exact"}, "Only the agent 'fidec' takes a metric; got metric='exact' for 'fql'"),
        (
            {"agent": "deflow", "metric": "exact"},
            "The agent 'deflow' has the metric l2; got metric='exact': that is for 'fidec'",
        ),
        ({"preset": "laptopp"}, "There is no preset called 'laptopp'"),
        ({"config": {"budgte": 1}}, "There is no setting of fidec called 'budgte'. Did you mean 'budget'?"),
        ({"config": {"tau": 2.0}}, r"takes tau in \(0, 1\]; got 2"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, r"each of them once; got \[1, 1\]"),
        ({"seeds": (-1,)}, "a seed that is a whole number of at least 0; got -1"),
        ({"seeds": (2**31,)}, "a seed that is a whole number of at most 2147483647; got 2147483648"),
        ({"updates": 10**20}, "a number of updates that is a whole number of at most 2147483647; got 1000"),
        ({"updates": 0}, "a number of updates that is a whole number of at least 1; got 0"),
        ({"updates": 5, "evaluations": (6,)}, "A run of 5 updates cannot be evaluated after update 6"),
        ({"online": -1}, "a number of online updates that is a whole number of at least 0; got -1"),
        (
            {"task": "visual-cube-single-play-singletask-task1", "online": 10},
            "Online updates take observations that are states; those of visual-cube",
        ),
        ({"updates": 5, "online": 5, "evaluations": (11,)}, "A run of 10 updates cannot be evaluated after update 11"),
        ({"episodes": True}, "a number of episodes that is a whole number of at least 1; got True"),
        (
            {"config": {"metric": metrics.L2()}},
            "A run's metric is said as metric=..., not among the settings of its agent",
        ),
        (
            {"data": {"dose": {"along": 0.3}}},
            r"takes noise \(--noise\), smoothing \(.*; got along \(--noise-along\) 0\.3\.",
        ),
        ({"wavelengths": (8.0,)}, "Fourier features are of normalized observations"),
        ({"normalize": True, "wavelengths": (-1.0,)}, r"takes a wavelength in \(0, inf\]; got -1"),
        (
            {"task": "visual-cube-single-play-singletask-task1", "normalize": True},
            "are pictures, which are not normalized",
        ),
        ({"data": {"sourze": "auto"}}, "There is no part of a data specification called 'sourze'"),
        ({"data": {"source": "recordet"}}, "There is no source called 'recordet'. Did you mean 'recorded'?"),
        ({"data": {"episodes": -3}}, r"^A recording takes a number of episodes that is a .* at least 1; got -3\.$"),
        ({"data": {"seed": -1}}, r"^A recording takes a seed that is a whole number of at least 0; got -1\.$"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_made(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        RunSpec(**({"task": CUBE} | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": 5}, "A run takes a task, or the name of one; got 5."),
        ({"task": [CUBE]}, f"A run takes a task, or the name of one; got ['{CUBE}']."),
        ({"agent": ["bc"]}, "A run takes a word for agent; got ['bc']."),
        ({"agent": None}, "A run takes a word for agent; got None."),
        ({"preset": ["laptop"]}, "A run takes a word for preset; got ['laptop']."),
        ({"matmul_precision": ["tf32"]}, "A run takes a word for matmul_precision; got ['tf32']."),
        ({"normalize": "false"}, "A run takes true or false for normalize; got 'false'."),
        ({"normalize": 0}, "A run takes true or false for normalize; got 0."),
        ({"seeds": 3.0}, "A run takes seeds as in 3 or (0, 1, 2); got 3.0."),
        ({"seeds": "3"}, "A run takes seeds as in 3 or (0, 1, 2); got '3'."),
        ({"evaluations": 5}, "A run takes evaluations as in (500, 1000); got 5."),
        ({"normalize": True, "wavelengths": 1.0}, "A run takes wavelengths as in (4.0, 2.0); got 1.0."),
        ({"normalize": True, "wavelengths": ("x",)}, "A run takes wavelengths that are numbers; got 'x'."),
        ({"config": 3}, "A run takes its config as settings by name; got 3."),
        ({"data": 5}, "A run takes its data as a DataSpec or as parts of one by name; got 5."),
    ],
)
def test_values_of_another_kind_are_refused(changes, sentence, unhooked):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        RunSpec(**({"task": CUBE} | changes))
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        RunSpec(CUBE).replace(**changes)


def test_numbers_that_differ_give_folders_that_differ():
    names = {value: RunSpec(CUBE, config={"budget": value}).folder.name for value in (0.1, 0.1000001, 1e-7)}
    said = {value: name.rpartition("budget=")[2] for value, name in names.items()}
    assert said == {0.1: "0.1", 0.1000001: "0.1000001", 1e-7: "1e-07"}
    said = {value: RunSpec(CUBE, config={"max_grad_norm": value}).folder.name for value in (1.0, 100000.0, 1234567.0)}
    assert [name.rpartition("=")[2] for name in said.values()] == ["1", "100000", "1234567.0"]


@pytest.mark.parametrize("change", [{"format": 0}, {"agent": None, "config": 3}, {"strange": 1}])
def test_a_tree_that_is_no_specification_is_refused(change):
    with pytest.raises(ValueError, match=r"specification|agent"):
        RunSpec.from_dict(RunSpec(CUBE).to_dict() | change)


def test_a_specification_of_format_1_is_the_same_run():
    """As records had it before the names changed: written out by hand."""
    old = {"normalize_q": "normalise_value", "num_samples": "candidates", "num_refinements": "refinements"}
    old |= {"num_fisher_samples": "fisher_count", "num_critics": "critics", "q_agg": "aggregation"}
    old |= {"max_grad_norm": "clip_norm"}
    spec = RunSpec(CUBE, config={"num_samples": 16, "max_grad_norm": 2.0, "num_critics": 3, "q_agg": "min"})
    tree = spec.to_dict()
    before = tree | {"format": 1, "config": {old.get(name, name): value for name, value in tree["config"].items()}}
    before["overrides"] = ["config.candidates", "config.clip_norm", "config.critics", "config.aggregation"]
    assert "clip_norm" in before["config"]
    again = RunSpec.from_dict(before)
    assert (again, again.hash, again.overrides) == (spec, spec.hash, spec.overrides)
    assert (again.config.num_samples, again.config.max_grad_norm, again.config.q_agg) == (16, 2.0, "min")


def test_a_specification_of_format_2_is_the_same_run():
    """ReBRAC's settings as records had them before they were called as in FQL's published code: written out by hand."""
    spec = RunSpec(CUBE, agent="rebrac", config={"actor_noise": 0.3, "actor_noise_clip": 0.7, "actor_freq": 4})
    tree = spec.to_dict()
    config = {name: value for name, value in tree["config"].items() if not name.startswith("actor_")}
    config |= {"noise": 0.3, "noise_bound": 0.7, "actor_every": 4}
    before = tree | {"config": config, "overrides": ["config.noise", "config.noise_bound", "config.actor_every"]}
    again = RunSpec.from_dict(before)
    assert (again, again.hash, again.overrides) == (spec, spec.hash, spec.overrides)
    assert (again.config.actor_noise, again.config.actor_noise_clip, again.config.actor_freq) == (0.3, 0.7, 4)
    mine = {"format": 2, "agent": "mine", "config": {"noise": 1.0, "critics": 3}, "overrides": ["config.noise"]}
    assert records.upgraded(mine) == mine  # an agent of one's own may have such settings


def test_a_wrong_word_in_python_gets_one_sentence():
    """In a process of its own, where no type checker stands before the sentence."""
    said = {
        "spec.replace(agnet='bc')": "There is no part of a specification called 'agnet'. Did you mean 'agent'?",
        "spec.replace(config={'metric.damping': 1.0})": "'damping' is an option of a metric: say metric=metrics.make(name, ",
        "spec.diff('x')": "A specification is compared with another RunSpec; got a str.",
        "experiment.train('cube-single')": "train takes a specification, as in RunSpec('cube-single'); got 'cube-single'.",
        "RunSpec.from_dict(None)": "A specification is a mapping that says its format, 2; got 'None'.",
        "RunSpec.from_dict({})": "A specification is a mapping that says its format, 2; got '{}'.",
        "RunSpec.from_dict({'format': 0})": "A specification of format 2 was expected; this one, of 0, is another",
        "custom.from_arrays(None)": "from_arrays takes arrays by name, as in a dict; got a NoneType.",
        "custom.from_arrays(logs, horizn=3)": "There is no option of a task of one's own called 'horizn'. Did you mean",
        "custom.from_arrays(logs, pendulum)": "An environment is said as a Gymnasium id, module:function, or a function that "
        "makes one; got a TimeLimit.",
        "custom.from_arrays(logs, lambda: None)": "makes one; the function made a NoneType.",
        "DataSpec(episodes=3.5)": "A recording takes a number of episodes that is a whole number of at least 1; got 3.5.",
        "DataSpec(episodes='3')": "A recording takes a number of episodes that is a whole number of at least 1; got '3'.",
        "DataSpec(seed='a')": "A recording takes a seed that is a whole number of at least 0; got 'a'.",
        "DataSpec(seed=None)": "A recording takes a seed that is a whole number of at least 0; got None.",
        "DataSpec(dataset_dir=5)": "A choice of data takes a dataset_dir that is the path of a folder; got 5.",
        "DataSpec(dose=5)": "A dose is said as a mapping, as in {'noise': 0.2}; got 5.",
        "say(DataSpec(episodes=np.int64(20), seed=np.uint8(2)).to_dict())": '{"episodes": 20, "seed": 2}',
        **{f"custom.Options({options})": f"A task of one's own takes {told}" for options, told in OPTIONS.items()},
        "say(custom.Options(references=np.array([3.0, -3.0]), evaluations=np.arange(2)).told())": '{"evaluations": [0, 1], '
        '"references": [3.0, -3.0]}',
    }
    code = SENTENCES.format(calls=list(said))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(said)
    for line, (call, sentence) in zip(lines, said.items(), strict=True):
        assert line.startswith("ValueError: "), call
        assert sentence in line, call


REFERENCES = "references that are two finite returns, not the same; got"
BOUNDS = "action_bounds that are two, the lowest and the highest, of finite numbers; got"
OPTIONS = {
    "references=('a', 'b')": f"{REFERENCES} ('a', 'b').",
    "references=([0, 1], [2, 3])": f"{REFERENCES} ([0, 1], [2, 3]).",
    "references=5": "several values for references, as in a tuple; got 5.",
    "updates=2.5": "a whole number for updates; got 2.5.",
    "updates=None": "a whole number for updates; got None.",
    "horizon=2.5": "a horizon that is a whole number of at least 1; got 2.5.",
    "discount='0.9'": "a number for discount; got '0.9'.",
    "evaluations='abc'": "several values for evaluations, as in a tuple; got 'abc'.",
    "evaluations=(1, 2.5)": "a number of an update to evaluate after that is a whole number of at least 0; got 2.5.",
    "keys='place'": "several values for keys, as in a tuple; got 'place'.",
    "action_bounds=('a', 'b')": f"{BOUNDS} ('a', 'b').",
    "action_bounds=([[0], [0, 1]], 1)": f"{BOUNDS} ([[0], [0, 1]], 1).",
}
"""Options of a task of one's own, and what is said of them."""

SENTENCES = """
import json
import gymnasium, numpy as np
from fdbook import experiment
from fdbook.data import custom
from fdbook.experiment import DataSpec, RunSpec

def say(value):
    raise ValueError(json.dumps(value))

spec, pendulum = RunSpec("cube-single"), gymnasium.make("Pendulum-v1")
logs = dict(observations=np.zeros((4, 3)), actions=np.zeros((4, 1)), rewards=np.zeros(4), terminals=[0, 0, 0, 1])
for call in {calls}:
    try:
        eval(call)
    except Exception as error:
        print(type(error).__name__ + ": " + str(error).replace("\\n", " / "))
"""

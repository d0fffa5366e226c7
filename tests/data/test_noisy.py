"""OGBench's noisy sets: the law of their actions, seen by a spy on the controllers, and the way through files and loading."""

import dataclasses

import numpy as np
import ogbench
import pytest

from fdbook.data import controllers, load
from fdbook.data.dose import Dose
from fdbook.data.record import record
from fdbook.data.tasks import find, find_task


STEPS = 600


@pytest.mark.slow
@pytest.mark.parametrize(("name", "random"), [("cube-single", 0.1), ("scene", 0.1), ("puzzle-3x3", 0.2)])
def test_the_actions_are_the_controllers_with_noise_and_some_at_random(name, random, monkeypatch, budget):
    """The shares and deviations of OGBench's own commands: the noise is 1, 1, 1, 3 and 10 times one number below 0.1."""
    raw = {}

    def spy(build):
        oracles = build(find(f"ogbench/{name}-noisy"), environment)
        for oracle in oracles.values():
            plain = oracle.select_action

            def select(observation, info, plain=plain):
                raw[count[0]] = np.asarray(plain(observation, info), float)
                return raw[count[0]]

            oracle.select_action = select
        return oracles

    dataset = dataclasses.replace(find(f"ogbench/{name}-noisy"), steps=STEPS)
    build, count, steps = controllers._markov_oracles, [0], []
    with controllers.environment(dataset) as environment:
        step = environment.step

        def counted(action):
            count[0] += 1
            steps.append(np.array(action))
            return step(action)

        monkeypatch.setattr(environment, "step", counted)
        monkeypatch.setattr(controllers, "_markov_oracles", lambda dataset, environment: spy(build))
        rows = controllers.episode(dataset, environment, (0, 0, 3), lambda steps: None)
    np.testing.assert_array_equal(steps[-STEPS:], rows["actions"])  # before them, scenes that lost their cube
    told = sorted(number for number in raw if number >= len(steps) - STEPS)
    share = 1 - len(told) / STEPS
    assert abs(share - random) < budget("standard_errors") * np.sqrt(random * (1 - random) / STEPS)
    noisy = np.array([steps[number] for number in told])
    residual = np.where(np.abs(noisy) < 1, noisy - np.array([raw[number] for number in told]), np.nan)
    unit = np.nanstd(residual, axis=0)[:3].mean()
    assert 0 < unit < 0.1
    np.testing.assert_allclose(np.nanstd(residual, axis=0)[:4] / unit, [1, 1, 1, 3], rtol=budget("noise_ratio"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:None of the .* reaches the goal")
def test_a_noisy_set_is_recorded_loaded_and_evaluated_like_its_play_set(tmp_path, monkeypatch):
    monkeypatch.setenv("FDBOOK_DATA", str(tmp_path))
    folder = record("ogbench/cube-single-noisy", episodes=1, workers=1, progress=False)
    found = load.load("cube-single-noisy-task1", episodes=1)
    options = {"dataset_dir": str(folder), "compact_dataset": True, "dataset_only": True}
    with load.environment(found.task) as judge:
        train, _ = ogbench.make_env_and_datasets("cube-single-noisy-singletask-task1-v0", cur_env=judge, **options)
    np.testing.assert_array_equal(found.train.observations, train["observations"])
    np.testing.assert_array_equal(found.train.rewards, train["rewards"])
    with load.environment(found.task) as environment, load.environment(find_task("cube-single-task1")) as play:
        assert environment.spec.id == play.spec.id
    assert found.task.settings_from == "ours"
    with pytest.raises(ValueError, match=r"has a controller without such noise"):
        Dose.of(found.task.dataset, {"noise": 0.2})

"""The registry of data sets against the environments themselves."""

import gymnasium
import ogbench  # noqa: F401 (registers the environments)
import pytest

from fdbook.data.record import CONTROLLERS
from fdbook.data.tasks import DATASETS, find, recordable


pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting to float32", "ignore:.*DISPLAY")


@pytest.mark.parametrize("name", DATASETS)
def test_widths_are_those_of_the_environment(name):
    dataset = find(name)
    environment = gymnasium.make(dataset.environment)
    environment.reset(seed=0)
    model = getattr(environment.unwrapped, "_model", None) or environment.unwrapped.model
    (observation,), (action,) = environment.observation_space.shape, environment.action_space.shape
    assert dataset.widths == {"observations": observation, "actions": action, "qpos": model.nq, "qvel": model.nv}
    assert float(abs(environment.action_space.low).max()) == float(abs(environment.action_space.high).max()) == 1.0


def test_every_data_set_has_a_controller_and_a_line():
    assert {dataset.family for dataset in DATASETS.values()} == set(CONTROLLERS)
    assert list(recordable()) == list(DATASETS)
    assert all(line and "\n" not in line for line in recordable().values())


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"^There is no data set called 'ogbench/cube-single'. Did you mean 'ogbench/cube-si"
    ):
        find("ogbench/cube-single")

"""Names as a user says them: short, with a slip, in part; and never ninety names in answer."""

import re

import pytest

from fdbook.data.tasks import DATASETS, TASKS, find, find_task


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("cube-single", "cube-single-play-singletask-task2-v0"),
        ("CUBE-single ", "cube-single-play-singletask-task2-v0"),
        ("ogbench/cube-single", "cube-single-play-singletask-task2-v0"),
        ("cube-single-play-v0", "cube-single-play-singletask-task2-v0"),
        ("cube-single-task3", "cube-single-play-singletask-task3-v0"),
        ("visual-scene", "visual-scene-play-singletask-task1-v0"),
        ("antsoccer-arena", "antsoccer-arena-navigate-singletask-task4-v0"),
        ("pointmaze-medium", "pointmaze-medium-navigate-singletask-task1-v0"),
        ("D4RL/pointmaze/medium", "D4RL/pointmaze/medium-v2"),
        ("pointmaze/medium", "D4RL/pointmaze/medium-v2"),
        ("pen-human", "D4RL/pen/human-v2"),
    ],
)
def test_what_a_short_name_means(said, meant):
    assert find_task(said).name == meant
    assert find(said.replace("-task3", "")) is TASKS[meant].dataset


@pytest.mark.parametrize(
    ("said", "nearest"),
    [
        ("cube-singel", "cube-single"),
        ("ogbench/cube-singel-play", "cube-single-play"),
        ("cube-singel-task4", "cube-single-task4"),
        ("pen", "pen/human"),
        ("D4RL/pen/human-v7", "D4RL/pen/human-v2"),
        ("cube-single-v3", "cube-single-play-singletask-task2-v0"),
        ("antmaze-umaze-v9", "D4RL/antmaze/umaze-v1"),
    ],
)
def test_the_nearest_comes_first_and_at_most_five_are_named(said, nearest):
    with pytest.raises(ValueError, match=r"^There is no task called .* `fdbook data list` names them all\.$") as caught:
        find_task(said)
    offered = re.search("near it are (.*)\\. `", str(caught.value)).group(1).split(", ")
    assert offered[0] == nearest
    assert len(offered) <= 5
    assert all(find_task(name) for name in offered)
    assert len({find_task(name).name for name in offered}) == len(offered)


@pytest.mark.parametrize("said", ["D4RL/kitchen/partial-v2", "mujoco/halfcheetah/expert-v0"])
def test_a_set_of_minari_that_is_not_in_the_list_is_one_of_your_own(said):
    with pytest.raises(ValueError, match=r"names them all\. `fdbook train --data ID` reads any other set of Minari\.$"):
        find_task(said)


@pytest.mark.parametrize("said", ["", "-", "zzz", "singletask", "v0", "task2", "ogbench/", "D4RL/", "cube", "a"])
@pytest.mark.parametrize("look_up", [find, find_task])
def test_nonsense_finds_nothing_and_little_is_said(said, look_up):
    with pytest.raises(ValueError, match=r"^There is no ") as caught:
        look_up(said)
    assert len(str(caught.value)) < 300


def test_whole_names_mean_themselves():
    assert all(find(name) is dataset for name, dataset in DATASETS.items())
    assert all(find_task(name) is task for name, task in TASKS.items())


def test_the_papers_names_mean_their_tasks_but_no_data_set_of_another_version():
    """antmaze-umaze-v2 is the papers' task, here on Minari's antmaze/umaze-v1; a data set of that version would be another."""
    assert all(find_task(task.published) is task for task in TASKS.values() if task.published)
    with pytest.raises(ValueError, match="near it are D4RL/antmaze/umaze-v1"):
        find("antmaze-umaze-v2")

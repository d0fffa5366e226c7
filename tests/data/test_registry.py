"""The registry, row by row, against the commands that Flow Q-Learning's authors published (fql_settings.csv)."""

import csv
from pathlib import Path

import pytest

from fdbook.data.tasks import TASKS, Task, find_task
from fdbook.rl import train
from fdbook.rl.agents import family


with open(Path(__file__).with_name("fql_settings.csv"), newline="") as file:
    ROWS = list(csv.DictReader(file))
AGENTS = ("fql", "iql", "rebrac", "ifql")
WEIGHTS = {"alpha": "alpha", "alpha_actor": "alpha_actor", "alpha_critic": "alpha_critic", "num_samples": "num_samples"}


def task_of(row) -> Task:
    """By its own name or the papers', else OGBench's default task of that data set; `find_task` is not asked."""
    name = row["task"]
    (found,) = [
        task
        for task in TASKS.values()
        if name in (task.name, task.published)
        or (task.default and task.published and name == f"{task.dataset.name.removeprefix('ogbench/')}-singletask-v0")
    ]
    return found


def weight(task: Task, agent: str, name: str, online: bool) -> float:
    """What the registry gives an agent for a task, else the agent's default."""
    if online and name in task.online_hyperparameters.get(agent, {}):
        return task.online_hyperparameters[agent][name]
    if (agent, name) == ("fql", "alpha"):
        return task.fql_alpha
    return task.hyperparameters.get(agent, {}).get(name, getattr(family(agent).Config(), name))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['task']}-{row['agent']}-{row['phase']}")
def test_every_published_command(row):
    """Weights, discount, joining of critics and, offline, updates; pictures with their encoder, crops and stack."""
    task, online = task_of(row), row["phase"] == "offline-to-online"
    assert (task.discount, task.q_agg) == (float(row["discount"]), row["q_agg"])
    if not online:
        assert task.updates == int(row["updates"])
    assert task.dataset.pixels == (row["encoder"] == "impala_small")
    assert task.frame_stack == int(row["frame_stack"] or 1)
    if row["p_aug"]:
        assert float(row["p_aug"]) == train.CROPPED
    for column, name in WEIGHTS.items():
        if row[column] and row["agent"] in AGENTS:
            assert weight(task, row["agent"], name, online) == float(row[column])


def test_the_table_covers_all_that_is_published_and_nothing_online_is_made_up():
    offline = {task_of(row).name for row in ROWS if (row["agent"], row["phase"]) == ("fql", "offline")}
    ours = [task.name for task in TASKS.values() if task.published and task.name not in offline]
    assert ours == [], f"fdbook/data/tasks.py: no paper has {', '.join(ours)}: their world belongs into UNPUBLISHED"
    assert offline == {task.name for task in TASKS.values() if task.published}
    online = {task_of(row).name for row in ROWS if row["phase"] == "offline-to-online"}
    assert {agent for task in TASKS.values() for agent in task.hyperparameters} <= set(AGENTS)
    for task in TASKS.values():
        if not task.published:  # noisy twins are trained as the play sets are
            twin = TASKS[task.name.replace("-noisy-", "-play-")] if "-noisy-" in task.name else None
            assert task.hyperparameters == (twin.hyperparameters if twin is not None and twin.published else {})
        elif task.online_hyperparameters and task.group.startswith("d4rl"):
            assert task.name in online


@pytest.mark.parametrize("hand", ["pen", "door", "hammer", "relocate"])
@pytest.mark.parametrize("source", ["human", "cloned", "expert"])
def test_names_lead_to_the_rows(hand, source):
    assert find_task(f"{hand}-{source}-v1").published == f"{hand}-{source}-v1"

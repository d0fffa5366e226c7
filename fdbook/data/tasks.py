"""The data sets that fdbook knows: what an episode of each looks like, and which scripted controller records it."""

import dataclasses

from fdbook.checks import unknown


__all__ = ["DATASETS", "DataSet", "find", "recordable"]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One data set of a benchmark, in OGBench's layout of one row per step."""

    name: str
    """The benchmark and the benchmark's own name for the data set, as in ogbench/cube-single-play."""
    environment: str
    """The gymnasium id of the environment that the data come from."""
    family: str
    """The scripted controller that records it (a key of `fdbook.data.record.CONTROLLERS`)."""
    widths: dict[str, int]
    """The width of a row of each float32 array in a file: observations, actions, and the simulator's qpos and qvel."""
    description: str
    """What a reader is told about it, in one line."""
    steps: int = 1001
    """Rows of an episode."""

    @property
    def stem(self) -> str:
        """The data set's file name without its ending, as the benchmark's own loader wants it."""
        return f"{self.name.split('/')[1]}-v0"


DATASETS = {
    dataset.name: dataset
    for dataset in (
        DataSet(
            name="ogbench/cube-single-play",
            environment="cube-single-v0",
            family="cube",
            widths={"observations": 28, "actions": 5, "qpos": 21, "qvel": 20},
            description="a robot arm that carries one cube from place to place (28 observations, 5 actions)",
        ),
        DataSet(
            name="ogbench/pointmaze-medium-navigate",
            environment="pointmaze-medium-v0",
            family="maze",
            widths={"observations": 2, "actions": 2, "qpos": 2, "qvel": 2},
            description="a point that walks through a maze from goal to goal (2 observations, 2 actions)",
        ),
    )
}


def find(name: str) -> DataSet:
    """The data set of that name. Raises ValueError, with the nearest name, when there is none."""
    if name not in DATASETS:
        raise ValueError(unknown("data set", name, DATASETS))
    return DATASETS[name]


def recordable() -> dict[str, str]:
    """The names that `fdbook.data.record.record` takes, each with its description in one line."""
    return {name: dataset.description for name, dataset in DATASETS.items()}

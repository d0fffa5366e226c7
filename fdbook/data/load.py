"""One call from the name of a task to its transitions: what is on this machine, else downloaded, else how to record it."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fdbook.checks import unknown
from fdbook.data import downloads, simulators, sources
from fdbook.data.dose import Dose
from fdbook.data.files import LABEL, Place, check_recording, root
from fdbook.data.tasks import DataSet, Task, find, find_task
from fdbook.rl.transitions import Transitions


if TYPE_CHECKING:
    import gymnasium

    from fdbook.data.walls import Distances


__all__ = [
    "Loaded",
    "check_choice",
    "downloaded",
    "environment",
    "folder_of",
    "load",
    "recordings",
    "score",
    "shortest_ways",
    "special",
]

SOURCES = ("auto", "recorded", "download")
STARTS = ("task", "anywhere")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A task's transitions, and where they came from."""

    task: Task
    train: Transitions
    validation: Transitions | None
    """None where there are no validation data, as for D4RL."""
    folder: Path
    source: Literal["recorded", "downloaded", "dataset_dir", "own"]

    def environment(self) -> "gymnasium.Env":
        """A new environment to evaluate in; its observations are raw: apply `train.normalizer`, if there is one."""
        return environment(self.task, self.folder)


def environment(
    task: Task, folder: str | Path | None = None, *, render_mode: str | None = None, starts: str = "task"
) -> "gymnasium.Env":
    """A new environment to evaluate a task in: raw observations as those of its transitions, actions in [-1, 1].

    `folder` holds the task's data, from which D4RL's environments are recovered (None: those that the id names). Episodes start
    as the "task" says, or, in OGBench's mazes, "anywhere" in the maze. What renders is prepared for it, with or without a display
    (`fdbook.data.simulators`). Raises ValueError for starts that the task does not have, and for a task without an environment:
    logs alone are judged by `fdbook.rl.offline_evaluation`. Raises OSError, here or from `reset` and `render`, where nothing
    renders.
    """
    if starts not in STARTS:
        raise ValueError(unknown("kind of starts", starts, STARTS))
    source = sources.of(task.dataset)
    if task.dataset.pixels or render_mode is not None:
        simulators.prepare_pictures()
    made = source.environment(task, folder, render_mode=render_mode)
    return _quiet(made if starts == "task" else source.start_anywhere(task, made))


def shortest_ways(task: Task) -> "Distances":
    """How far it is from everywhere in a maze to the goal of a task, along the shortest way between the walls.

    Of OGBench's point mazes, where an action is a step; raises ValueError for other tasks.
    """
    return sources.of(task.dataset).shortest_ways(task)


def _quiet(environment):
    """The environment without gymnasium's notices at a reset, a picture and a look at its spaces; with one sentence where nothing
    renders; and whose end is that of its renderers, too.
    """
    import gymnasium

    reset, render, close = environment.reset, environment.render, environment.close

    def quiet_reset(*, seed=None, options=None):
        with simulators.simulating():
            return reset(seed=seed, options=options)

    def quiet_render():
        with simulators.simulating():
            return render()

    def whole_close():
        close()
        simulators.close_renderers(environment)

    environment.reset, environment.render, environment.close = quiet_reset, quiet_render, whole_close
    if isinstance(environment, gymnasium.Wrapper):
        with simulators.simulating():
            environment.action_space = environment.action_space  # OGBench's is built anew whenever it is asked for
    return environment


def score(task: Task, returns: float | np.ndarray, successes: float | np.ndarray) -> np.ndarray:
    """The score of episodes, in percent, element by element; of means over episodes it is the mean of their scores.

    By `task.score`: 100 for a success and 0 for none; the return between `task.references` as 0 to 100; or, for tasks of one's
    own without references, the return as it is, which is no percentage. Raises ValueError where references are missing.
    """
    return sources.of(task.dataset).score(task, returns, successes)


def load(
    task: str | Task,
    *,
    source: str = "auto",
    episodes: int | None = None,
    seed: int = 0,
    dose: Dose | Mapping[str, Any] | None = None,
    dataset_dir: str | Path | None = None,
    normalize: bool = False,
    wavelengths: Sequence[float] = (),
) -> Loaded:
    """The transitions of a task.

    `source` "auto" takes the published data if they are on this machine, else a recording of the standard size, else downloads;
    "recorded" and "download" allow only the one or the other. `episodes`, `seed` and `dose` choose another recording, which no
    download can be, and `dataset_dir` a folder with the benchmark's own files. Data of one's own are taken as they are.
    `normalize` takes observations to mean 0 and standard deviation 1, and `wavelengths` adds Fourier features to these
    (`Transitions.normalized`).

    A damaged download is set aside and downloaded once more, with a warning; a damaged file that was not downloaded from here is
    left as it is (`fdbook.data.downloads`). A process that needs what another one is downloading waits for it.

    Raises ValueError on an unknown task or source, wavelengths without `normalize`, what `check_choice` refuses, choices that
    contradict each other, and damaged data; FileNotFoundError when the data are not here and cannot be had, with the command that
    records them, or the reason why none can.
    """
    task = task if isinstance(task, Task) else find_task(task)
    check_choice(source, episodes, seed, dataset_dir)
    if wavelengths and not normalize:
        raise ValueError(
            "load adds Fourier features to normalized observations only; got wavelengths with normalize=False."
        )
    dose = dose if task.dataset.origin is not None else Dose.of(task.dataset, dose)
    asked = _Asked(episodes, seed, dose)
    result, folder = _find(task.dataset, source, asked, dataset_dir)
    train, validation = _read(task, folder, result, asked)
    if normalize:
        train = train.normalized(wavelengths=wavelengths)
        validation = None if validation is None else validation.normalized(train.normalizer)
    return Loaded(task, train, validation, folder, result)


def check_choice(source: str, episodes: int | None, seed: int, dataset_dir: str | Path | None) -> None:
    """Refuses what no data can be chosen by.

    Raises ValueError for a source that there is not, a number of episodes or a seed that no recording can have, and a folder that
    is neither text nor a path.
    """
    if source not in SOURCES:
        raise ValueError(unknown("source", source, SOURCES))
    check_recording(1 if episodes is None else episodes, seed)
    if not isinstance(dataset_dir, str | Path | None):
        raise ValueError(f"A choice of data takes a dataset_dir that is the path of a folder; got {dataset_dir!r}.")


def special(episodes: int | None = None, seed: int = 0, dose: Dose | Mapping[str, Any] | None = None) -> bool:
    """Whether a recording of another size, seed or dose than the published data are meant, so that no download can be."""
    return episodes is not None or seed != 0 or dose is not None


def _read(task, folder, result, asked):
    """The transitions; those of a damaged download after it was downloaded once more."""
    kind = sources.of(task.dataset)
    if result == "downloaded":
        return downloads.read_or_fetch_again(
            lambda: kind.transitions(task, folder), lambda: kind.download(task.dataset, again=True)
        )
    try:
        return kind.transitions(task, folder)
    except downloads.CorruptFileError as error:
        if result != "recorded":
            raise
        command = asked.place(task.dataset).command
        raise downloads.CorruptFileError(
            f"{str(error).rstrip('.')}; `{command}` records it anew.", error.path
        ) from error


def recordings(name: str) -> list[Place]:
    """The finished recordings of a data set on this machine, those of the published dose first, the largest first."""
    name, result = find(name).name, []
    for folder in sorted((root() / name).glob("*-episodes-seed-*")):
        words = folder.name.split("-")
        with contextlib.suppress(ValueError, IndexError):
            place = Place(name, int(words[0]), int(words[3]), dose=_dose_in(folder))
            if place.folder == folder and all(path.exists() for path in place.files.values()):
                result.append(place)
    return sorted(result, key=lambda place: (place.dose is not None, -place.episodes, place.seed, place.folder))


def _dose_in(folder: Path) -> dict[str, Any] | None:
    """The dose that a recording's own label names; None for the published one, or without a label."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / LABEL).read_text(encoding="utf-8")).get("dose")
    return None


def folder_of(name: str, place: Place | None = None) -> Path:
    """The folder with a data set's files: those of a recording, or, without one, what `load` would take without a download.

    Raises FileNotFoundError, with the command that records them or the reason why none can, when they are not here.
    """
    dataset = find(name)
    if place is not None:
        if all(path.exists() for path in place.files.values()):
            return place.folder
        raise FileNotFoundError(f"There is no recording in {place.folder}; `{place.command}` records it.")
    if result := downloaded(dataset):
        return result
    if dataset.controller and (standard := Place(name, dataset.episodes)).files["train"].exists():
        return standard.folder
    raise FileNotFoundError(f"{name} is not on this machine; {_instead(dataset)}")


@dataclasses.dataclass(frozen=True)
class _Asked:
    """Which recording was asked for; None and 0 are the standard one."""

    episodes: int | None
    seed: int
    dose: Dose | None

    @property
    def special(self) -> bool:
        """Whether no download can be meant."""
        return special(self.episodes, self.seed, self.dose)

    @property
    def told(self) -> str:
        """What was asked for that no download has."""
        usual = {"episodes": None, "seed": 0, "dose": None}
        return ", ".join(f"{name}={getattr(self, name)}" for name in usual if getattr(self, name) != usual[name])

    def place(self, dataset: DataSet) -> Place:
        """Where it lives."""
        episodes = dataset.episodes if self.episodes is None else self.episodes
        return Place(dataset.name, episodes, self.seed, dose=self.dose)


def _find(dataset, source, asked, dataset_dir):
    """Where a task's data come from, and the folder that holds them."""
    if dataset.origin is not None:
        return "own", _own(dataset, source, asked, dataset_dir)
    if dataset_dir is not None:
        if asked.special:
            raise ValueError(
                f"The load of {dataset.name} takes either dataset_dir or the episodes, seed and dose of a recording; got both, "
                f"{asked.told}."
            )
        return "dataset_dir", Path(dataset_dir).expanduser()
    if dataset.controller and source != "download":
        if not asked.special and source == "auto" and (published := downloaded(dataset)):
            return "downloaded", published
        place = asked.place(dataset)
        if asked.special or source == "recorded" or place.files["train"].exists():
            return "recorded", folder_of(dataset.name, place)
    elif asked.special or source == "recorded":
        raise ValueError(
            dataset.why_not_recordable or f"A download has one size, no seed and no dose; got {asked.told}."
        )
    return "downloaded", downloaded(dataset) or _download(dataset)


def _own(dataset, source, asked, dataset_dir):
    """The folder of data of one's own, which can be neither chosen nor recorded."""
    if source != "auto" or asked.special or dataset_dir is not None:
        raise ValueError(
            f"{dataset.name} is data of your own, taken as they are: source, episodes, seed, dose and dataset_dir choose "
            "among the benchmarks' data."
        )
    return downloaded(dataset) or _download(dataset)


def downloaded(dataset: DataSet) -> Path | None:
    """The folder that holds the published data, or one's own, if they are on this machine."""
    return sources.of(dataset).locate(dataset)


def _download(dataset):
    """Downloads the published data with the benchmark's own means, and returns their folder."""
    try:
        return sources.of(dataset).download(dataset)
    except OSError as error:
        missing = f"{dataset.name} is not on this machine and cannot be downloaded ({downloads.reason(error)})"
        raise FileNotFoundError(f"{missing}; {_instead(dataset)}") from error


def _instead(dataset):
    """What can be done without a download."""
    if not dataset.controller:
        return dataset.why_not_recordable
    here = [f"{place.episodes} episodes, seed {place.seed}" for place in recordings(dataset.name) if place.dose is None]
    smaller = f" (recorded here in other sizes: {'; '.join(here)})" if here else ""
    return f"`{Place(dataset.name, dataset.episodes).command}` records it{smaller}."

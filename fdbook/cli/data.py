"""`fdbook data list`, `fdbook data record` and `fdbook data inspect`."""

import argparse
import json
import os
from pathlib import Path

from fdbook.cli.common import Commands, UsageError, add, at_least, bars, check_device, check_out


__all__ = ["add_data", "add_dose", "dose_of"]


def add_data(commands: Commands) -> None:
    """`fdbook data list`, `fdbook data record NAME` and `fdbook data inspect NAME`: the data sets."""
    parser = commands.add_parser("data", help="list the tasks and their data, record data anew, or look at them")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = add(
        actions,
        "list",
        _list_data,
        summary="list the tasks and their settings, and what of their data is on this machine",
        examples=(
            "fdbook data list                    every data set, with the settings of its tasks",
            "fdbook data list --recordable       those that need no download",
            "fdbook data list cube               those whose name holds a word",
            "fdbook data list ogbench/scene-play everything that is known of one data set",
        ),
    )
    listing.add_argument(
        "names", metavar="NAME", nargs="*", help="data sets to describe in full, or parts of names to list them by"
    )
    listing.add_argument("--recordable", action="store_true", help="only what can be recorded without a download")
    record = add(
        actions,
        "record",
        _record,
        summary="record a data set with the scripted controller that comes with its environment",
        examples=(
            "fdbook data record ogbench/cube-single-play                      the standard size, 1000 episodes",
            "fdbook data record ogbench/cube-single-play --episodes 20        a small one, in a minute",
            "fdbook data record ogbench/scene-play --transitions 300000       as many episodes as that takes",
            "fdbook data record D4RL/pointmaze/umaze-v2 --workers 1           with one process",
            "fdbook data record pointmaze-medium --noise-along 0.3 --noise-across 0.03 --heading 0.5",
            "fdbook data record cube-single --noise 0.1 0.1 0.02 0.1 0.05     each coordinate of the arm",
        ),
    )
    _add_place(record)
    record.add_argument("--workers", metavar="N", type=at_least(1), help="processes (default: one for each core)")
    record.add_argument("--no-progress", action="store_true", help="show no progress bar")
    inspect = add(
        actions,
        "inspect",
        _inspect,
        summary="print and plot what is in the files of a data set",
        examples=(
            "fdbook data inspect ogbench/cube-single-play                     the one of the standard size",
            "fdbook data inspect ogbench/cube-single-play --episodes 20       a small recording",
            "fdbook data inspect ogbench/cube-single-play --out cube.png      and draw it",
            "fdbook data inspect ogbench/cube-single-play --geometry          what metrics could gain on it",
            "fdbook data inspect ogbench/antmaze-giant-navigate --dataset-dir ~/.ogbench/data",
        ),
    )
    _add_place(inspect)
    inspect.add_argument("--dataset-dir", metavar="DIR", type=Path, help="a folder with the benchmark's own files")
    inspect.add_argument(
        "--geometry",
        action="store_true",
        help="also fit a flow to the actions, and predict what metrics gain over L2 (minutes)",
    )
    inspect.add_argument("--json", metavar="FILE", type=Path, help="also write the main numbers to a file")
    inspect.add_argument("--out", metavar="FILE", type=Path, help="also draw it, into a PNG or PDF file")


def _add_place(parser):
    """The arguments that say which recording is meant."""
    parser.add_argument("name", metavar="NAME", help="a data set, as `fdbook data list` names it")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--transitions", metavar="N", type=at_least(1), help="size in transitions (default: as published)"
    )
    size.add_argument(
        "--episodes", metavar="N", type=at_least(1), help="size in training episodes (default: as published)"
    )
    parser.add_argument("--seed", metavar="N", type=at_least(0), default=0, help="seed of all randomness (default: 0)")
    add_dose(parser)
    parser.add_argument(
        "--folder", metavar="DIR", type=Path, help="folder of all recordings (default: as `fdbook data list` says)"
    )


DOSE = ("noise", "noise_smoothing", "noise_along", "noise_across", "heading")  # as argparse names dose.FLAGS


def add_dose(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how much noise a recording has."""
    dose = parser.add_argument_group("the dose: the noise of the controller (default: as published)")
    what = "arm: a factor on its noise, one or five of them; mazes: the deviation in every direction"
    dose.add_argument("--noise", metavar="X", type=float, nargs="+", help=what)
    dose.add_argument("--noise-smoothing", metavar="X", type=float, help="arm: width of the noise's filter, in steps")
    dose.add_argument("--noise-along", metavar="X", type=float, help="mazes: deviation along the way")
    dose.add_argument("--noise-across", metavar="X", type=float, help="mazes: deviation across it")
    dose.add_argument("--heading", metavar="X", type=float, help="OGBench's mazes: length of an action without noise")


def dose_of(arguments: argparse.Namespace) -> dict:
    """The parts of a dose that were typed."""
    said = {name.removeprefix("noise_"): getattr(arguments, name) for name in DOSE}
    return {name: value for name, value in said.items() if value is not None}


def _dataset(arguments):
    """The data set that was meant."""
    from fdbook.data import tasks

    try:
        return tasks.find(arguments.name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _dose(arguments, dataset):
    """The dose that was asked for; None for the published one."""
    from fdbook.data.dose import Dose

    try:
        return Dose.of(dataset, dose_of(arguments) or None)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _episodes(arguments):
    """The number of episodes that was asked for: enough for so many transitions, one less than rows in each episode."""
    dataset = _dataset(arguments)
    if arguments.transitions is not None:
        return -(-arguments.transitions // dataset.transitions_per_episode)
    return dataset.episodes if arguments.episodes is None else arguments.episodes


def _list_data(arguments):
    from fdbook.data import files, listing, tasks

    known = [name for name in arguments.names if name in tasks.DATASETS]
    parts = [name for name in arguments.names if name not in tasks.DATASETS]
    for part in parts:
        if not any(part.lower() in name.lower() for name in tasks.DATASETS):
            raise UsageError(
                f"No data set has {part!r} in its name; `fdbook data list` names them all, and "
                "`fdbook train --data ID` reads any other set of Minari"
            )
    if known:
        print("\n\n".join(listing.details(name) for name in known))
    if known and not parts:
        return
    print(listing.table(recordable_only=arguments.recordable, parts=parts))
    print(f"\nRecordings are kept in {files.root()} (set FDBOOK_DATA to keep them elsewhere).")


def _record(arguments):
    from fdbook.data.record import record

    dataset = _dataset(arguments)
    settings = {
        "seed": arguments.seed,
        "dose": _dose(arguments, dataset),
        "folder": arguments.folder,
        "workers": arguments.workers,
    }
    print(record(dataset.name, episodes=_episodes(arguments), progress=bars(arguments), **settings))


def _geometry(dataset, folder) -> dict:
    """What E26 says of a flow that is fitted to a data set, printed and as plain JSON."""
    import warnings

    import jax

    from fdbook import experiment
    from fdbook.data import sources, tasks

    task = next(task for task in tasks.TASKS.values() if task.dataset == dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # tasks without a success, which the summary has just told
        data = sources.of(dataset).transitions(task, folder)
    print("fitting a flow to the actions ...", flush=True)
    made = experiment.predict(*data, key=jax.random.key(0))
    print(experiment.prediction_lines(made))
    return made.to_dict()


def _inspect(arguments):
    from fdbook.data import files, load, summary

    dataset = _dataset(arguments)
    check_out(arguments.json, "--json")
    check_out(arguments.out)
    if arguments.geometry:
        check_device()
        if dataset.pixels:
            raise UsageError(f"--geometry takes data whose observations are vectors; {dataset.name} has pictures")
    name, dose = dataset.name, _dose(arguments, dataset)
    endings = (".png", ".pdf")
    if arguments.out is not None and arguments.out.suffix not in endings:
        raise UsageError(f"--out takes a file that ends in {', '.join(endings)}; got {arguments.out}")
    if arguments.dataset_dir is not None:
        folder = arguments.dataset_dir
    else:
        asked = arguments.transitions or arguments.episodes or arguments.folder or arguments.seed or dose
        place = files.Place(name, _episodes(arguments) or 1, arguments.seed, arguments.folder, dose) if asked else None
        folder = load.folder_of(name, place)
    result = summary.summarize(name, folder)
    print(summary.describe(result))
    content = summary.record(result)
    if arguments.geometry:
        content |= {"geometry": _geometry(dataset, folder)}
    if arguments.json is not None:
        from fdbook.report import numbers

        content = json.dumps(content, indent=2) + "\n"
        numbers.write_whole({arguments.json: content.encode()})
        print(f"Written to {arguments.json}.")
    if arguments.out is not None:
        os.environ.setdefault("MPLBACKEND", "Agg")
        from fdbook.report import inspection, numbers, style

        numbers.write_whole({arguments.out: style.render(inspection.draw(result), arguments.out.suffix[1:])})
        print(f"Drawn into {arguments.out}.")

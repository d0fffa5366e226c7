"""The command line: `fdbook figures`, `fdbook data` and `fdbook bench`.

Each command has one function that describes it (`add_...`) and one that runs it, and imports what it needs when it runs,
so that help comes at once. A wrong name or argument ends with exit code 2 and one sentence, a failure with 1, Ctrl-C
with 130.
"""

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path


__all__ = ["main"]


class _Misuse(Exception):
    """What was typed is wrong; the message is the sentence to say."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, names the nearest choice, and keeps the layout of an epilog."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message):
        raise _Misuse(f"{message} (see `{self.prog} --help`)")

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise _Misuse(_unknown("command", value, action.choices))


def _unknown(kind, name, names):
    from fdbook.checks import unknown

    return unknown(kind, name, names)


def _whole(low: int):
    """An argparse type: a whole number of at least `low`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text!r}")
        return value

    return convert


def _check_names(kind, names, known):
    for name in names:
        if name not in known:
            raise _Misuse(_unknown(kind, name, known))


def _bars(arguments) -> bool:
    """Whether to show progress bars: not when told so, and not into a file or a log."""
    return not arguments.no_progress and sys.stderr.isatty()


def _add(commands, name, run, *, summary, examples, **options):
    """A command with its help and the function that runs it."""
    epilog = "examples:\n" + "\n".join(f"  {example}" for example in examples)
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=epilog, **options
    )
    parser.set_defaults(run=run)
    return parser


def add_figures(commands) -> None:
    """`fdbook figures [NAME ...]`: compute and draw the figures of the book."""
    parser = _add(
        commands,
        "figures",
        _figures,
        summary="compute and draw the figures of the book",
        examples=(
            "fdbook figures                      every figure, into figures/",
            "fdbook figures --list               what there is",
            "fdbook figures kl gap --out /tmp/f  two of them, elsewhere",
            "fdbook figures robot --episodes 200 with more recorded robot data",
        ),
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="a figure (default: all of them)")
    parser.add_argument("--list", action="store_true", help="print the names and what each figure shows, and stop")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("figures"), help="folder (default: figures)")
    parser.add_argument("--seed", metavar="N", type=_whole(0), default=0, help="seed of all randomness (default: 0)")
    parser.add_argument(
        "--episodes",
        metavar="N",
        type=_whole(1),
        default=20,
        help="episodes of each data set, recorded at first use (default: 20)",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--fresh", action="store_true", help="compute anew what is already there and up to date")
    again.add_argument("--redraw", action="store_true", help="compute nothing: draw the numbers in DIR/data again")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _figures(arguments):
    os.environ.setdefault("MPLBACKEND", "Agg")
    from fdbook.report import figures

    _check_names("figure", arguments.names, figures.REGISTRY)
    names = arguments.names or list(figures.REGISTRY)
    if arguments.list:
        for name in names:
            print(f"{name:<10} {figures.describe(name)}")
        return
    settings = {"seed": arguments.seed, "episodes": arguments.episodes, "progress": _bars(arguments)}

    def recordings(name):
        from fdbook.data import ogbench

        return ogbench.load_or_record(name, **settings)

    redo = {"fresh": arguments.fresh, "redraw": arguments.redraw}
    figures.run(names, out=arguments.out, recordings=recordings, **settings, **redo)


def add_data(commands) -> None:
    """`fdbook data list`, `fdbook data record NAME` and `fdbook data inspect NAME`: the data sets."""
    parser = commands.add_parser("data", help="list the tasks and their data, record data anew, or look at them")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = _add(
        actions,
        "list",
        _list_data,
        summary="list the tasks and their settings, and what of their data is on this machine",
        examples=(
            "fdbook data list                    every data set, with the settings of its tasks",
            "fdbook data list --recordable       those that need no download",
            "fdbook data list ogbench/scene-play everything that is known of one data set",
        ),
    )
    listing.add_argument("names", metavar="NAME", nargs="*", help="data sets to describe in full")
    listing.add_argument("--recordable", action="store_true", help="only what can be recorded without a download")
    record = _add(
        actions,
        "record",
        _record,
        summary="record a data set with the scripted controller that comes with its environment",
        examples=(
            "fdbook data record ogbench/cube-single-play                      the standard size, 1000 episodes",
            "fdbook data record ogbench/cube-single-play --episodes 20        a small one, in a minute",
            "fdbook data record ogbench/scene-play --transitions 300000       as many episodes as that takes",
            "fdbook data record D4RL/pointmaze/umaze-v2 --workers 1           with one process",
        ),
    )
    _add_place(record)
    record.add_argument("--workers", metavar="N", type=_whole(1), help="processes (default: one for each core)")
    record.add_argument("--no-progress", action="store_true", help="show no progress bar")
    inspect = _add(
        actions,
        "inspect",
        _inspect,
        summary="print and plot what is in the files of a data set",
        examples=(
            "fdbook data inspect ogbench/cube-single-play                     the one of the standard size",
            "fdbook data inspect ogbench/cube-single-play --episodes 20       a small recording",
            "fdbook data inspect ogbench/cube-single-play --out cube.png      and draw it",
            "fdbook data inspect ogbench/antmaze-giant-navigate --dataset-dir ~/.ogbench/data",
        ),
    )
    _add_place(inspect)
    inspect.add_argument("--dataset-dir", metavar="DIR", type=Path, help="a folder with the benchmark's own files")
    inspect.add_argument("--json", metavar="FILE", type=Path, help="also write the main numbers to a file")
    inspect.add_argument("--out", metavar="FILE", type=Path, help="also draw it, into a PNG or PDF file")


def _add_place(parser):
    """The arguments that say which recording is meant."""
    parser.add_argument("name", metavar="NAME", help="a data set, as `fdbook data list` names it")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--transitions", metavar="N", type=_whole(1), help="size in transitions (default: as published)")
    size.add_argument(
        "--episodes", metavar="N", type=_whole(1), help="size in training episodes (default: as published)"
    )
    parser.add_argument("--seed", metavar="N", type=_whole(0), default=0, help="seed of all randomness (default: 0)")
    parser.add_argument(
        "--folder", metavar="DIR", type=Path, help="folder of all recordings (default: as `fdbook data list` says)"
    )


def _episodes(arguments):
    """The number of episodes that was asked for: enough for so many transitions, one less than rows in each episode."""
    from fdbook.data import tasks

    dataset = tasks.find(arguments.name)
    if arguments.transitions is not None:
        return -(-arguments.transitions // dataset.transitions_per_episode)
    return dataset.episodes if arguments.episodes is None else arguments.episodes


def _list_data(arguments):
    from fdbook.data import files, listing, tasks

    _check_names("data set", arguments.names, tasks.DATASETS)
    if arguments.names:
        print("\n\n".join(listing.details(name) for name in arguments.names))
        return
    print(listing.table(recordable_only=arguments.recordable))
    print(f"\nRecordings are kept in {files.root()} (set FDBOOK_DATA to keep them elsewhere).")


def _record(arguments):
    from fdbook.data import tasks
    from fdbook.data.record import record

    _check_names("data set", [arguments.name], tasks.DATASETS)
    settings = {"seed": arguments.seed, "folder": arguments.folder, "workers": arguments.workers}
    print(record(arguments.name, episodes=_episodes(arguments), progress=_bars(arguments), **settings))


def _inspect(arguments):
    from fdbook.data import files, load, summary, tasks

    _check_names("data set", [arguments.name], tasks.DATASETS)
    endings = (".png", ".pdf")
    if arguments.out is not None and arguments.out.suffix not in endings:
        raise _Misuse(f"--out takes a file that ends in {', '.join(endings)}; got {arguments.out}")
    if arguments.dataset_dir is not None:
        folder = arguments.dataset_dir
    else:
        asked = arguments.transitions or arguments.episodes or arguments.folder or arguments.seed
        place = files.Place(arguments.name, _episodes(arguments) or 1, arguments.seed, arguments.folder)
        folder = load.folder_of(arguments.name, place if asked else None)
    found = summary.summarise(arguments.name, folder)
    print(summary.describe(found))
    if arguments.json is not None:
        from fdbook.report import numbers

        numbers.check_writable(arguments.json.parent)
        content = json.dumps(summary.record(found), indent=2) + "\n"
        numbers.write_whole({arguments.json: content.encode()})
        print(f"Written to {arguments.json}.")
    if arguments.out is not None:
        os.environ.setdefault("MPLBACKEND", "Agg")
        from fdbook.report import inspection, numbers, style

        numbers.check_writable(arguments.out.parent)
        numbers.write_whole({arguments.out: style.render(inspection.draw(found), arguments.out.suffix[1:])})
        print(f"Drawn into {arguments.out}.")


def add_bench(commands) -> None:
    """`fdbook bench [NAME ...]`: how fast this machine runs the book."""
    parser = _add(
        commands,
        "bench",
        _bench,
        summary="measure how fast this machine runs the book",
        examples=("fdbook bench                  everything", "fdbook bench import           one measurement"),
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="a measurement (default: all of them)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write what was measured to a file")


def _bench(arguments):
    from fdbook import bench

    _check_names("measurement", arguments.names, bench.BENCHMARKS)
    bench.run(arguments.names, json=arguments.json)


def _parser():
    parser = _Parser(
        prog="fdbook",
        description="A book that runs: flow policies, their Fisher geometry, and how to improve them.",
        epilog="examples:\n  fdbook figures\n  fdbook data list\n  fdbook COMMAND --help",
    )
    version = importlib.metadata.version("fdbook")
    parser.add_argument("--version", action="version", version=f"fdbook {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for add in (add_figures, add_data, add_bench):
        add(commands)
    return parser


def _sentence(error) -> str:
    """What an error says; for one from the system, what happened to which file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 (failed), 2 (misuse) or 130 (Ctrl-C)."""
    try:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _Misuse as error:
        message, code = _sentence(error), 2
    except KeyboardInterrupt as stop:
        message, code = str(stop) or "Interrupted.", 130
    except (ValueError, OSError, ArithmeticError) as error:
        message, code = _sentence(error), 1
    print(f"fdbook: {message}", file=sys.stderr)
    return code

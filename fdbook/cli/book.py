"""`fdbook figures` and `fdbook bench`."""

import os
from pathlib import Path

from fdbook.cli.common import add, at_least, bars, check_names


__all__ = ["add_bench", "add_figures"]


def add_figures(commands) -> None:
    """`fdbook figures [NAME ...]`: compute and draw the figures of the book."""
    parser = add(
        commands,
        "figures",
        _figures,
        computes=True,
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
    parser.add_argument("--seed", metavar="N", type=at_least(0), default=0, help="seed of all randomness (default: 0)")
    parser.add_argument(
        "--episodes",
        metavar="N",
        type=at_least(1),
        default=20,
        help="episodes of each data set, recorded at first use (default: 20)",
    )
    parser.add_argument(
        "--runs",
        metavar="DIR",
        type=Path,
        help="folder with the folders of runs, for the figure of learning (default: figures/data/runs of the book)",
    )
    parser.add_argument(
        "--ladders",
        metavar="DIR",
        type=Path,
        help="folder with files of `fdbook ladder`, for the figure dose (default: figures/data/ladders of the book)",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--fresh", action="store_true", help="compute anew what is already there and up to date")
    again.add_argument("--redraw", action="store_true", help="compute nothing: draw the numbers in DIR/data again")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _figures(arguments):
    os.environ.setdefault("MPLBACKEND", "Agg")
    from fdbook.report import figures

    check_names("figure", arguments.names, figures.REGISTRY)
    names = arguments.names or list(figures.REGISTRY)
    if arguments.list:
        for name in names:
            print(f"{name:<10} {figures.describe(name)}")
        return
    settings = {"seed": arguments.seed, "episodes": arguments.episodes, "progress": bars(arguments)}

    def recordings(name):
        from fdbook.data import ogbench

        return ogbench.load_or_record(name, **settings)

    redo = {"fresh": arguments.fresh, "redraw": arguments.redraw, "runs": arguments.runs or figures.RUNS}
    redo["ladders"] = arguments.ladders or figures.LADDERS
    figures.run(names, out=arguments.out, recordings=recordings, **settings, **redo)


def add_bench(commands) -> None:
    """`fdbook bench [NAME ...]`: how fast this machine runs the book."""
    parser = add(
        commands,
        "bench",
        _bench,
        computes=True,
        summary="measure how fast this machine runs the book",
        examples=("fdbook bench                  everything", "fdbook bench import           one measurement"),
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="a measurement (default: all of them)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write what was measured to a file")


def _bench(arguments):
    from fdbook import bench

    check_names("measurement", arguments.names, bench.BENCHMARKS)
    bench.run(arguments.names, json=arguments.json)

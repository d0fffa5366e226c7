"""`fdbook figures`, `fdbook animations` and `fdbook bench`."""

import os
from pathlib import Path

from fdbook.cli.common import Commands, UsageError, add, at_least, bars, check_names, check_out


__all__ = ["add_animations", "add_bench", "add_figures"]


def add_figures(commands: Commands) -> None:
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


def add_animations(commands: Commands) -> None:
    """`fdbook animations [NAME ...]`: draw the animations that the notebooks show."""
    parser = add(
        commands,
        "animations",
        _animations,
        computes=True,
        summary="draw the animations that the notebooks show",
        examples=(
            "fdbook animations                            those that need no run, into notebooks/animations/",
            "fdbook animations --list                     what there is",
            "fdbook animations sliding --out /tmp/a       one of them, elsewhere",
            "fdbook animations arm --runs RUN RUN         one episode as two runs play it, the folders of `fdbook train`",
        ),
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="an animation (default: all that need no run)")
    parser.add_argument("--list", action="store_true", help="print the names and what each one shows, and stop")
    place = Path("notebooks", "animations")
    parser.add_argument("--out", metavar="DIR", type=Path, default=place, help=f"folder (default: {place})")
    parser.add_argument("--runs", metavar="RUN", type=Path, nargs=2, help="two runs of one task, for the animation arm")
    parser.add_argument("--episode", metavar="N", type=at_least(0), default=0, help="which episode (default: 0)")


def _animations(arguments):
    os.environ.setdefault("MPLBACKEND", "Agg")
    from fdbook.disk import check_writable, write_whole
    from fdbook.report import animations

    if arguments.list:
        for name in animations.REGISTRY:
            print(f"{name:<10} {animations.describe(name)}")
        return
    check_names("animation", arguments.names, animations.REGISTRY)
    names = arguments.names or [name for name in animations.REGISTRY if name != animations.FILMS]
    if (animations.FILMS in names) != (arguments.runs is not None):
        raise UsageError(f"the animation {animations.FILMS} and --runs RUN RUN go together: name both or neither")
    check_writable(arguments.out)
    for name in names:
        films = _films(arguments.runs, arguments.episode) if name == animations.FILMS else ()
        path, content = arguments.out / f"{name}.gif", animations.animation(name, *films)
        write_whole({path: content})
        print(f"{path}: {len(content) / 1000:.0f} kB")


def _films(folders, episode):
    """One episode as the first seeds of two runs of one task play it."""
    from fdbook import experiment
    from fdbook.cli.training import check_run
    from fdbook.report.animations import Film
    from fdbook.report.figures.learning import LABELS

    for folder in folders:
        check_run(folder)
    runs = [experiment.open_run(folder) for folder in folders]
    if runs[0].task.name != runs[1].task.name:
        raise UsageError(f"--runs takes two runs of one task; got {runs[0].task.name} and {runs[1].task.name}")
    agents = [run.spec.agent for run in runs]
    names = [run.spec.method for run in runs] if agents[0] == agents[1] else [LABELS[agent] for agent in agents]
    return [Film(name, *run.pictures(episode=episode)) for name, run in zip(names, runs, strict=True)]


def add_bench(commands: Commands) -> None:
    """`fdbook bench [NAME ...]`: how fast this machine runs the book."""
    parser = add(
        commands,
        "bench",
        _bench,
        computes=True,
        summary="measure how fast this machine runs the book",
        examples=(
            "fdbook bench                  everything but pictures, which takes 12 GB",
            "fdbook bench import           one measurement",
        ),
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="a measurement (default: all but pictures)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write what was measured to a file")


def _bench(arguments):
    from fdbook import bench

    check_names("measurement", arguments.names, bench.BENCHMARKS)
    check_out(arguments.json, "--json")
    bench.run(arguments.names, json=arguments.json)

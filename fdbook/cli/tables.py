"""`fdbook table` and `fdbook compare`."""

import sys
from pathlib import Path

from fdbook.cli.common import Commands, UsageError, add, check_out


__all__ = ["add_compare", "add_table"]


def add_table(commands: Commands) -> None:
    """`fdbook table [FOLDER ...]`: scores of tasks against methods, from run records."""
    parser = add(
        commands,
        "table",
        _table,
        summary="make a table of scores, tasks against methods, from run records, with published numbers beside them",
        examples=(
            "fdbook table                            the runs that are kept with the book's figures",
            "fdbook table runs --out table.tex       those below runs/, in LaTeX",
            "fdbook table runs --published all       with every published number on their tasks",
        ),
    )
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        nargs="*",
        type=Path,
        help="a folder with runs, however deep, or a record (default: figures/data/runs of the book)",
    )
    parser.add_argument(
        "--format", choices=("markdown", "latex", "csv"), help="the format (default: by FILE's suffix, else markdown)"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="the file to write (default: print it)")
    parser.add_argument(
        "--published",
        choices=("same", "all", "none"),
        default="same",
        help="published numbers to show: of the same methods, of all, or none (default: same)",
    )


def _table(arguments):
    from fdbook.disk import write_whole
    from fdbook.report import figures, layouts, runs, table

    check_out(arguments.out)
    suffix = "" if arguments.out is None else arguments.out.suffix
    form = arguments.format or layouts.SUFFIXES.get(suffix, "markdown")
    made = table.make(runs.find(arguments.folders or [figures.RUNS]), published=arguments.published)
    for sentence in made.left_out:
        print(f"fdbook: {sentence}", file=sys.stderr)
    text = layouts.FORMATS[form](made)
    if arguments.out is None:
        print(text, end="")
        return
    write_whole({arguments.out: text.encode()})
    print(f"The table is {arguments.out}.")


def add_compare(commands: Commands) -> None:
    """`fdbook compare RUN RUN ...`: what differs between runs of one task, and by how much their scores do."""
    parser = add(
        commands,
        "compare",
        _compare,
        summary="say what differs between runs of one task: their specifications, and their scores with an interval",
        examples=(
            "fdbook compare runs/A runs/B runs/C    B and C, each against A",
            "fdbook compare runs/A runs/B-seed-*    runs that are seeds of one are taken together",
        ),
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the folder of a run, or its record.json")


def _compare(arguments):
    from fdbook import experiment
    from fdbook.cli.training import check_run
    from fdbook.report import comparison
    from fdbook.report.runs import joined
    from fdbook.rl import records

    if len(arguments.runs) < 2:
        raise UsageError(f"fdbook compare takes at least two runs; got {arguments.runs[0]}")
    for place in arguments.runs:
        if place.is_dir():
            check_run(place)
    read = {place: records.read(place) for place in arguments.runs}
    print(comparison.describe(comparison.compare(joined(read), differ=experiment.differences)))

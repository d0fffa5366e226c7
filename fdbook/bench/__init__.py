"""`fdbook bench`: how fast this machine runs the book, each number beside what it is compared with in the same run.

Speeds differ from machine to machine, and on a shared one from minute to minute: compare the numbers of one run.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from fdbook.bench import agents, flow, seeds
from fdbook.bench.timing import Row
from fdbook.checks import unknown
from fdbook.report import numbers
from fdbook.rl import records


__all__ = ["BENCHMARKS", "Row", "run"]

BENCHMARKS: dict[str, Callable[[], Iterable[Row]]] = {
    "import": flow.measure_import,
    "flow": flow.measure_flow,
    "compile": flow.measure_compile,
    "data": agents.measure_data,
    "agents": agents.measure_agents,
    "methods": agents.measure_methods,
    "loop": agents.measure_loop,
    "evaluation": agents.measure_evaluation,
    "seeds": seeds.measure_seeds,
    "pictures": agents.measure_pictures,
}
LARGE = ("pictures",)
"""What is measured only where it is named: it takes much memory."""


def run(names: Iterable[str] = (), *, json: str | Path | None = None) -> dict[str, list[Row]]:
    """Runs the named benchmarks (all but `LARGE` by default) and prints a table; writes it to `json`, if given, as it grows.

    Raises ValueError for an unknown name, and OSError, before anything is measured, for a file that cannot be written.
    """
    names = list(dict.fromkeys(names)) or [name for name in BENCHMARKS if name not in LARGE]
    for name in names:
        if name not in BENCHMARKS:
            raise ValueError(unknown("measurement", name, BENCHMARKS))
    if json is not None:
        if Path(json).is_dir():
            raise IsADirectoryError(f"A file is wanted for what is measured; {json} is a folder.")
        numbers.check_writable(Path(json).parent)
    measured: dict[str, list[Row]] = {}
    about = records.about()
    for name in names:
        measured[name] = []
        for row in BENCHMARKS[name]():
            bound = f"  ({row.bound}{': missed' if row.missed else ''})" if row.bound else ""
            print(f"{name:<10} {row.what:<68} {row.value:>9.4g} {row.unit}{bound}".rstrip(), flush=True)
            measured[name].append(row)
            if json is not None:
                tree = {"about": about} | {each: [asdict(row) for row in rows] for each, rows in measured.items()}
                numbers.write_whole({Path(json): (numbers.layout(numbers.encode(tree)) + "\n").encode()})
    return measured

"""`fdbook sweep`."""

import math
import sys
import time
from pathlib import Path

from fdbook.cli.common import (
    Commands,
    UsageError,
    add,
    add_device,
    at_least,
    bars,
    check_device,
    choose_device,
    no_device,
)


__all__ = ["add_sweep"]

OFTEN = 30.0
"""Seconds between two lines on a cell, where lines are all there is."""


def add_sweep(commands: Commands) -> None:
    """`fdbook sweep FILE`: a matrix of runs."""
    parser = add(
        commands,
        "sweep",
        _sweep,
        summary="train a matrix of runs that one file describes, several at once, and carry on where it was",
        examples=(
            "fdbook sweep metrics.toml                        run what is not finished yet",
            "fdbook sweep metrics.toml --list                 which cells there are, and how far they are",
            "fdbook sweep metrics.toml --jobs 4               four at once",
            "fdbook sweep metrics.toml --engine ray           on the Ray cluster of RAY_ADDRESS",
            "fdbook sweep metrics.toml --estimate             time and memory of each cell, before anything is run",
            "fdbook sweep metrics.toml --records DIR          copy the finished records, which are small, to DIR",
            "a file to begin with: figures/data/sweeps/maze-metrics.toml",
        ),
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a TOML file with [base], [[methods]] and [axes]")
    parser.add_argument("--list", action="store_true", help="print the cells and how far they are, and run nothing")
    parser.add_argument(
        "--estimate", action="store_true", help="print what each cell will take, by counted operations, and run nothing"
    )
    rate = "operations a second, in units of 10^12, for --estimate (default: measured here, on the cheapest cell)"
    parser.add_argument("--rate", metavar="TFLOPS", type=float, help=rate)
    parser.add_argument(
        "--records", metavar="DIR", type=Path, help="copy the records of finished cells to DIR, and run nothing"
    )
    jobs = "runs at once (default: one for each two cores; one with an accelerator)"
    parser.add_argument("--jobs", metavar="N", type=at_least(1), help=jobs)
    engines = "where cells run: processes of this machine, or ray, a cluster (default: processes)"
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help=engines)
    parser.add_argument(
        "--record", action="store_true", help="record the data that are not here first, where that can be done"
    )
    add_device(parser)
    parser.add_argument("--no-progress", action="store_true", help="print lines instead of progress bars")


def _sweep(arguments):
    import jax

    _check(arguments)
    if arguments.estimate:
        check_device(arguments.device)
    else:
        jax.config.update("jax_platforms", "cpu")  # planning leaves the memory of an accelerator to the cells
    from fdbook import experiment

    try:
        sweep = experiment.read_sweep(arguments.file)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    if arguments.records is not None:
        copies, cells = len(experiment.copy_records(sweep, arguments.records)), len(sweep.cells)
        where = f"their records are in {arguments.records}" if copies else f"nothing is copied to {arguments.records}"
        print(f"{copies} of {cells} cells are finished; {where}.")
    if arguments.list:
        _print_table(sweep)
    choose_device(arguments.device)
    if arguments.estimate:
        _print_estimates(sweep, None if arguments.rate is None else 1e12 * arguments.rate)
    if arguments.list or arguments.estimate or arguments.records is not None:
        return
    experiment.states(sweep)  # refuses folders of other runs before a device is looked for
    if arguments.engine == "ray":
        from fdbook.experiment.ray_cluster import RayCluster

        engine = RayCluster(arguments.jobs)
    else:
        jobs = _default_jobs(arguments.device)  # refuses a device that is not here, before anything is recorded
        engine = experiment.Processes(arguments.jobs or jobs)
    if arguments.record:
        _record_data(sweep, bars(arguments))
    _run(sweep, engine, bars(arguments))


def _check(arguments):
    """Refuses options that do not fit, before anything is read."""
    if arguments.rate is not None and not (arguments.rate > 0 and math.isfinite(arguments.rate)):
        raise UsageError(f"--rate takes a finite number above 0; got {arguments.rate:g}")
    if arguments.rate is not None and not arguments.estimate:
        raise UsageError("--rate belongs to --estimate, which was not given")
    if arguments.records is not None and arguments.records.exists() and not arguments.records.is_dir():
        raise UsageError(f"--records takes a folder; {arguments.records} is a file")


def _default_jobs(device):
    from fdbook.experiment.engines import default_jobs

    try:
        return default_jobs()
    except ValueError as error:
        raise no_device(device) from error


def _record_data(sweep, with_bars):
    """Records the data that are neither recorded nor downloaded; of what cannot be recorded, training tells later."""
    from fdbook.data.load import downloaded, special
    from fdbook.data.record import record

    for cell in sweep.cells:
        dataset, data = cell.spec.task.dataset, cell.spec.data
        recording = data.source == "recorded" or special(data.episodes, data.seed, data.dose)
        here = data.dataset_dir is not None or (not recording and downloaded(dataset) is not None)
        if dataset.controller and not here and data.source != "download":
            record(dataset.name, episodes=data.episodes, seed=data.seed, dose=data.dose, progress=with_bars)


def _run(sweep, engine, with_bars):
    from fdbook import experiment
    from fdbook.checks import count

    board = (_Bars if with_bars else _Lines)(sweep, experiment.states(sweep), engine.jobs or len(sweep.cells))
    try:
        failures = experiment.run_sweep(sweep, engine, watch=board.hear, say=board.say)
    finally:
        board.close()
    _print_table(sweep, failures)
    for place, sentence in failures.items():
        print(f"{sweep.cells[place].label} failed: {sentence}")
    if failures:
        raise ValueError(
            f"{count(len(failures), 'cell')} of {len(sweep.cells)} failed; each has a sweep.log in its folder. "
            "The same command tries again."
        )


def _print_table(sweep, failures=()):
    """The cells, a line each: how far it is, its last score, where it is kept."""
    from fdbook.experiment.sweeping import state

    rows = [("", "status", "updates", "score", "cell", "folder")]
    for place, cell in enumerate(sweep.cells):
        each = state(cell)
        status = "failed" if place in failures else each.status
        updates, score = (
            f"{each.done:,} / {cell.spec.total_updates:,}",
            "" if each.score is None else f"{each.score:.1f}",
        )
        rows.append((f"{place + 1}", status, updates, score, cell.label, str(cell.folder)))
    _print_columns(rows, (True, False, True, True, False, False))


def _print_estimates(sweep, rate):
    """What each cell will take, a line each, and how that is known."""
    from fdbook.checks import memory_told
    from fdbook.experiment.estimate import estimate, measured_rates

    specs = [cell.spec for cell in sweep.cells]
    found = [estimate(spec) for spec in specs]
    with memory_told():
        rates = measured_rates(specs) if rate is None else [rate] * len(specs)
    how = "measured here, for each size of networks" if rate is None else "as was said; small networks stay below"
    hours = [each.seconds(pace) / 3600 for each, pace in zip(found, rates, strict=True)]
    rows = [("", "hours", "PFLOP", "agents", "data", "cell")]
    for place, (cell, each) in enumerate(zip(sweep.cells, found, strict=True)):
        data = "?" if each.data is None else f"{each.data / 1e9:.2f} GB"
        numbers = f"{hours[place]:.3g}", f"{each.operations / 1e15:.3g}", f"{each.agents / 1e9:.2f} GB"
        rows.append((f"{place + 1}", *numbers, data, cell.label))
    _print_columns(rows, (True,) * 5 + (False,))
    paces = " to ".join(dict.fromkeys(f"{pace / 1e12:.3g}" for pace in (min(rates), max(rates))))
    print(f"{sum(hours):.3g} hours of updates one after the other, at {paces} * 10^12 operations a second, {how}.")
    print(
        "Evaluations, compilation and data that have to be recorded come on top; on the device, a batch's activations, too."
    )


def _print_columns(rows, right):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        words = (f"{word:>{w}}" if r else f"{word:<{w}}" for word, w, r in zip(row, widths, right, strict=True))
        print("  ".join(words).rstrip())


class _Board:
    """What is known of the cells while they run."""

    def __init__(self, sweep, states, jobs):
        self.sweep, self.jobs = sweep, jobs
        self.done = [each.done for each in states]
        self.score = [each.score for each in states]
        self.paces = {place: each.pace for place, each in enumerate(states) if each.pace is not None}
        self.over = {place for place, each in enumerate(states) if each.status == "finished"}
        self.began = {}
        """By the cell: when its first updates of this session were heard of, and how many they were."""

    def hear(self, event):
        """Takes note of an event, and shows it."""
        place, now = event.index, time.monotonic()
        if event.done is not None:
            self.done[place] = event.done
            start, first = self.began.setdefault(place, (now, event.done))
            if event.done > first:
                self.paces[place] = (now - start) / (event.done - first)
        self.score[place] = self.score[place] if event.score is None else event.score
        if event.kind in ("finished", "failed"):
            self.over.add(place)
        self.show(event)

    def left(self) -> str:
        """About how long the rest takes, in words."""
        from fdbook.experiment.sweeping import seconds_left

        seconds = seconds_left(self.sweep, self.done, self.paces, self.jobs, self.over)
        return "" if seconds is None else f"about {_duration(seconds)} left"

    def describe(self, place) -> str:
        """How far a cell is, and its last score."""
        updates = f"{self.done[place]:,} of {self.sweep.cells[place].spec.total_updates:,} updates"
        return updates if self.score[place] is None else f"{updates}, score {self.score[place]:.1f}"

    def show(self, event):
        """Shows what happened."""

    def say(self, sentence):
        """Says something between."""

    def close(self):
        """Shows no more."""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Lines(_Board):
    """A line for what happens, and for each running cell now and then."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.last = {}

    def show(self, event):
        place, now = event.index, time.monotonic()
        if event.kind == "progress" and now - self.last.get(place, -OFTEN) < OFTEN:
            return
        self.last[place] = now
        number = f"[{len(self.over)}/{len(self.sweep.cells)} over]"
        words = [self.describe(place), event.note, self.left() if event.kind != "started" else ""]
        told = "; ".join(word.rstrip(".") for word in words if word)
        self.say(f"{number} {self.sweep.cells[place].label}: {event.kind}, {told}")

    def say(self, sentence):
        print(sentence, flush=True)


class _Bars(_Board):
    """A bar for all cells, and below it one for each that runs."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        from tqdm import tqdm

        self.tqdm, self.bars = tqdm, {}
        total = sum(cell.spec.total_updates for cell in self.sweep.cells)
        layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}{postfix}"
        self.all = tqdm(total=total, initial=sum(self.done), bar_format=layout, position=0, leave=False)
        self._refresh()

    def show(self, event):
        place = event.index
        if event.kind == "started":
            taken = {-bar.pos for bar in self.bars.values()}
            position = next(number for number in range(1, self.jobs + 1) if number not in taken)
            layout = "  {desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
            options = {"total": self.sweep.cells[place].spec.total_updates, "unit_scale": True, "leave": False}
            label = self.sweep.cells[place].label
            self.bars[place] = self.tqdm(desc=label, position=position, bar_format=layout, **options)
        bar = self.bars.get(place)
        if bar is not None:
            bar.n = self.done[place]
            bar.set_postfix_str("" if self.score[place] is None else f"score {self.score[place]:.1f}")
        if event.kind not in ("started", "progress"):
            if bar is not None:
                self.bars.pop(place).close()
            told = "; ".join(word for word in (self.describe(place), event.note) if word)
            self.say(f"{self.sweep.cells[place].label}: {event.kind}, {told}")
        self._refresh()

    def _refresh(self):
        self.all.n = sum(self.done)
        self.all.set_description_str(f"{len(self.over)} of {len(self.sweep.cells)} cells")
        self.all.set_postfix_str(self.left())

    def say(self, sentence):
        self.tqdm.write(sentence, file=sys.stdout)
        sys.stdout.flush()

    def close(self):
        for bar in (*self.bars.values(), self.all):
            bar.close()

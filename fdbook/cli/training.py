"""`fdbook train` and `fdbook evaluate`."""

import argparse
import dataclasses
import sys
from pathlib import Path

from fdbook.cli.common import Commands, UsageError, add, at_least, bars, check_out, keep, pairs
from fdbook.cli.data import add_dose, dose_of


__all__ = ["add_evaluate", "add_train", "check_run"]


def add_train(commands: Commands) -> None:
    """`fdbook train TASK`: train an agent on a task."""
    parser = add(
        commands,
        "train",
        _train,
        computes=True,
        summary="train an agent on a task, several seeds at once, and keep a record of the run",
        examples=(
            "fdbook train cube-single                         Fisher Decorator, half an hour",
            "fdbook train cube-single --agent deflow          the same with the L2 metric",
            "fdbook train pointmaze-medium --seeds 3          three seeds, trained together",
            "fdbook train cube-single --preset paper          the papers' sizes: for a GPU",
            "fdbook train cube-single --online 20000          and then online: a step, an update, 20,000 times",
            "fdbook train cube-single --set budget=0.01       another setting",
            "fdbook train cube-single --set metric.damping=0.01",
            "fdbook train --data log.npz --env MyRobot-v0     data and an environment of your own",
        ),
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="a task, as `fdbook data list` names them")
    parser.add_argument(
        "--agent", metavar="NAME", default="fidec", help="an agent, as --names lists them (default: fidec)"
    )
    parser.add_argument("--metric", metavar="NAME", help="of fidec, as --names lists them (default: the preset's)")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        default="laptop",
        help="sizes, updates and settings, as --names lists them (default: laptop)",
    )
    _add_seeds(parser)
    parser.add_argument(
        "--updates",
        "--steps",
        metavar="N",
        type=at_least(1),
        help="updates (default: the preset's); with the same --out and more of them a finished run is lengthened",
    )
    parser.add_argument(
        "--online",
        metavar="N",
        type=at_least(0),
        default=0,
        help="go on in the environment for N steps, one update after each (default: 0)",
    )
    parser.add_argument(
        "--evaluations",
        metavar="N,N,...",
        type=_numbers(int),
        help="updates after which to evaluate (default: the preset's)",
    )
    parser.add_argument(
        "--episodes", metavar="N", type=at_least(1), help="episodes of an evaluation (default: the preset's)"
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="take observations to mean 0 and deviation 1 (default: as the preset does)",
    )
    parser.add_argument(
        "--wavelengths", metavar="X,X,...", type=_numbers(float), help="add Fourier features to normalized observations"
    )
    parser.add_argument(
        "--matmul-precision",
        metavar="NAME",
        default="float32",
        help="of matrix products: float32 (default), tensorfloat32 or bfloat16, which a GPU computes faster",
    )
    _add_settings(parser, "a setting of the agent, or metric.NAME for one of the metric; can be given several times")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder of the run (default: runs/TASK/AGENT-PRESET-...)"
    )
    _add_data(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    _describe_names(parser)


def _add_seeds(parser):
    parser.add_argument(
        "--seeds", metavar="N", type=at_least(1), default=1, help="train seeds 0 to N - 1 together (default: 1)"
    )
    parser.add_argument(
        "--first-seed", metavar="N", type=at_least(0), default=0, help="begin with another seed (default: 0)"
    )


def _add_settings(parser, summary):
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help=summary)


def _add_data(parser):
    parser.add_argument(
        "--source",
        metavar="NAME",
        default="auto",
        help="where data come from: auto, recorded or download (default: auto)",
    )
    parser.add_argument("--data-episodes", metavar="N", type=at_least(1), help="use a recording of another size")
    parser.add_argument("--data-seed", metavar="N", type=at_least(0), default=0, help="use a recording of another seed")
    parser.add_argument("--dataset-dir", metavar="DIR", type=Path, help="a folder with the benchmark's own files")
    parser.add_argument(
        "--data",
        metavar="FILE|ID",
        help="data of your own instead of a task: an npz file in OGBench's layout, or a Minari id",
    )
    parser.add_argument("--until-goal", action="store_true", help="leave out what follows the goal, in D4RL's mazes")
    parser.add_argument(
        "--maze",
        metavar="WHOSE",
        default="data",
        help="of D4RL's mazes: episodes within the walls of the data (default), or of Minari's evaluation",
    )
    parser.add_argument(
        "--env", metavar="ID", help="the gymnasium id of the environment to evaluate such data in; none: logs alone"
    )
    bounds = "bounds of such actions, where no environment has them (default: -1 1)"
    parser.add_argument("--action-bounds", metavar=("LOW", "HIGH"), type=float, nargs=2, help=bounds)
    add_dose(parser)


class _Names(argparse.Action):
    """Prints the names that the registries hold, and stops."""

    def __call__(self, parser, namespace, values, option_string=None):
        from fdbook.experiment import PRESETS
        from fdbook.geometry import metrics
        from fdbook.rl import agents

        for name, entry in agents.AGENTS.items():
            print(f"agent   {name:<11} {entry.summary}")
        for name, summary in metrics.summaries().items():
            print(f"metric  {name:<11} {summary}")
        for name, make in PRESETS.items():
            print(f"preset  {name:<11} {str(make.__doc__).splitlines()[0]}")
        parser.exit()


def _describe_names(parser):
    parser.add_argument("--names", action=_Names, nargs=0, help="print the agents, metrics and presets, and stop")


def _numbers(kind):
    """An argparse type: numbers with commas between them; an empty text is none of them."""

    def convert(text: str) -> tuple:
        try:
            return tuple(kind(part) for part in text.split(",") if part)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected numbers with commas between them, got {text!r}") from None

    return convert


def _today(name: str, agent: str | None) -> str:
    """The name of a setting of an agent; an earlier one is still understood."""
    from fdbook.rl.records import RENAMED, RENAMED_OF

    renamed = RENAMED | RENAMED_OF.get(agent or "", {})
    if name in renamed:
        print(f"fdbook: the setting {name} is called {renamed[name]} now", file=sys.stderr)
    return renamed.get(name, name)


def _settings(arguments) -> tuple[dict, dict]:
    """The settings of --set: the agent's, and the metric's."""
    agent = getattr(arguments, "agent", None)
    said = {_today(name, agent): value for name, value in pairs(arguments.set, "--set").items()}
    metric = {name.removeprefix("metric."): value for name, value in said.items() if name.startswith("metric.")}
    return {name: value for name, value in said.items() if not name.startswith("metric.")}, metric


def _spec(arguments):
    """The specification that was typed."""
    from fdbook import experiment
    from fdbook.data import custom
    from fdbook.data.tasks import find_task
    from fdbook.experiment import DataSpec
    from fdbook.geometry import metrics

    config, options = _settings(arguments)
    if (arguments.task is None) == (arguments.data is None):
        raise UsageError("train takes the name of a task, or --data with data of your own")
    if arguments.env is not None and arguments.data is None:
        raise UsageError("--env belongs to --data: the tasks of the registry have their own environments")
    if arguments.action_bounds is not None and arguments.data is None:
        raise UsageError("--action-bounds belongs to --data: the tasks of the registry know their own")
    chosen = DataSpec.from_dict(_data_spec(arguments))
    if arguments.data is not None and chosen != DataSpec():
        raise UsageError(
            "--source, --data-episodes, --data-seed, --dataset-dir and doses are not for data of your own (--data)"
        )
    bounds = {} if arguments.action_bounds is None else {"action_bounds": tuple(arguments.action_bounds)}
    task = arguments.task or custom.from_source(arguments.data, arguments.env, **bounds)
    if arguments.until_goal or arguments.maze != "data":
        task = task if arguments.task is None else find_task(task)
        task = dataclasses.replace(task, after_goal=not arguments.until_goal, maze=arguments.maze)
    metric = arguments.metric
    if options:
        metric = metrics.make(metric or experiment.RunSpec(task, preset=arguments.preset).method.split()[1], **options)
    first = arguments.first_seed
    return experiment.RunSpec(
        task,
        arguments.agent,
        metric=metric,
        preset=arguments.preset,
        data=chosen,
        seeds=range(first, first + arguments.seeds),
        config=config,
        **{
            name: getattr(arguments, name)
            for name in ("updates", "evaluations", "episodes", "normalize", "wavelengths", "online", "matmul_precision")
        },
    )


def _data_spec(arguments) -> dict:
    """What --source and the options beside it say, without what they do not."""
    said = {"source": arguments.source, "episodes": arguments.data_episodes, "seed": arguments.data_seed}
    return said | {"dose": dose_of(arguments) or None, "dataset_dir": arguments.dataset_dir}


def _train(arguments):
    from fdbook import experiment

    try:
        spec = _spec(arguments)
    except ValueError as error:
        raise UsageError(str(error)) from error
    folder = arguments.out or spec.folder
    run = experiment.train(spec, folder, progress=bars(arguments))
    print(experiment.summary(run.record))


def add_evaluate(commands: Commands) -> None:
    """`fdbook evaluate RUN`: evaluate a trained agent again."""
    parser = add(
        commands,
        "evaluate",
        _evaluate,
        computes=True,
        summary="evaluate the newest checkpoint of a run, and film it",
        examples=(
            "fdbook evaluate runs/cube-single-play-singletask-task2-v0/fidec-exact-laptop-seed-0",
            "fdbook evaluate runs/... --episodes 200          with more episodes",
            "fdbook evaluate runs/... --starts anywhere       the share of starts in an OGBench maze that are solved",
            "fdbook evaluate runs/... --set num_samples=16    the best of 16 actions, as the critics judge them",
            "fdbook evaluate runs/... --video episode.gif     and film one episode",
            "fdbook evaluate runs/... --held-out              losses and likelihood on held-out data: nothing is played",
        ),
    )
    _add_settings(parser, "act with another setting: num_samples, num_refinements, selection, flow_steps, q_agg")
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run, as `fdbook train` named it")
    parser.add_argument("--episodes", metavar="N", type=at_least(1), help="episodes for each seed (default: the run's)")
    parser.add_argument(
        "--starts",
        choices=("task", "anywhere"),
        default="task",
        help="where episodes start (default: as the task says). anywhere: all over an OGBench maze, with the official score "
        "beside it. Use it where the score is all or nothing, because every episode starts in one place: success is then the "
        "share of starts that are solved, and solved length the steps to the goal from these",
    )
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="play nothing: what training logs, and the flow's likelihood, on the data's validation episodes",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="also write what came out to a file")
    parser.add_argument("--video", metavar="FILE", type=Path, help="write one episode of one seed into a GIF")
    parser.add_argument("--video-episode", metavar="N", type=at_least(0), help="which episode (default: 0)")
    parser.add_argument(
        "--video-seed", metavar="N", type=at_least(0), help="which seed of the run (default: its first)"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _place_of(seed: int | None, seeds) -> int:
    """The place of a seed among those of a run."""
    if seed is not None and seed not in seeds:
        raise UsageError(f"--video-seed takes a seed of the run, one of {', '.join(map(str, seeds))}; got {seed}")
    return 0 if seed is None else seeds.index(seed)


def check_run(folder: Path) -> None:
    """Refuses a file, and a folder that holds no run, and names those below it."""
    if folder.is_file():
        raise UsageError(f"RUN takes the folder of a run; {folder} is a file")
    below = [] if (folder / "record.json").exists() else sorted(folder.glob("**/record.json"))
    if below:
        near = ", ".join(str(record.parent) for record in below[:5])
        raise UsageError(f"{folder} holds no run itself; below it are {near}{' and others' if below[5:] else ''}")


def _show(seeds, result):
    """An evaluation in lines: a row for each seed."""
    columns = ("score", "success", "return", "length", "solved length", "discounted return", "value estimate")
    names = [name for name in columns if name in result]
    print("  seed" + "".join(f"{name:>{max(10, len(name) + 2)}}" for name in names))
    for i, seed in enumerate(seeds):
        values = ["none" if result[name][i] is None else f"{result[name][i]:.1f}" for name in names]
        row = "".join(f"{value:>{max(10, len(name) + 2)}}" for name, value in zip(names, values, strict=True))
        print(f"  {seed:>4}{row}")


def _official(run, episodes, config, progress):
    """What the run comes to from the task's own starts: as its record says, where it played the same."""
    kept = next((item for item in run.record.scores if item["step"] == run.step and "score" in item), None)
    if kept is None or config or episodes != run.spec.episodes:
        return run.evaluate(episodes=episodes, progress=progress)
    return {name: values for name, values in kept.items() if name != "step"}


def _say_unfinished(run):
    """Says so where a run has updates left to make."""
    if run.step < run.spec.total_updates:
        print(f"The run is not finished: {run.step:,} of {run.spec.total_updates:,} updates ({run.record.status}).")


def _held_out(arguments):
    """`--held-out`: what the run's held-out data say of it."""
    if arguments.episodes or arguments.video or arguments.set or arguments.starts != "task":
        raise UsageError("--held-out plays no episodes; leave --episodes, --starts, --set and --video out")
    from fdbook import experiment

    run = experiment.open_run(arguments.run_folder)
    found = run.held_out()
    print(f"{run.spec.method} on {run.task.name}, the checkpoint of update {run.step:,}, on held-out data")
    _say_unfinished(run)
    print(f"  {'seed':<16}" + "".join(f"{seed:>10}" for seed in run.spec.seeds))
    for name, values in found.items():
        told = ("none" if value is None else f"{value:.4g}" for value in values)
        print(f"  {name:<16}" + "".join(f"{value:>10}" for value in told))
    if arguments.out is not None:
        keep(arguments.out, run, held_out=found)


def _evaluate(arguments):
    if arguments.video is not None and arguments.video.suffix != ".gif":
        raise UsageError(f"--video takes a file that ends in .gif; got {arguments.video}")
    for name in ("episode", "seed") if arguments.video is None else ():
        if getattr(arguments, f"video_{name}") is not None:
            raise UsageError(f"--video-{name} belongs to --video, which says the file to film into")
    if arguments.video is not None and arguments.starts != "task":
        raise UsageError("--video films episodes that start as the task says; leave --starts out")
    from fdbook import experiment
    from fdbook.checks import count

    check_out(arguments.video, "--video")
    check_out(arguments.out)
    check_run(arguments.run_folder)
    if arguments.held_out:
        _held_out(arguments)
        return
    run = experiment.open_run(arguments.run_folder)
    index = _place_of(arguments.video_seed, run.spec.seeds)
    config, metric_options = _settings(arguments)
    if metric_options:
        raise UsageError("evaluate takes settings of acting; a metric is one of training")
    try:
        run = run.acting(**config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    episodes = arguments.episodes or run.spec.episodes
    success = None
    if arguments.video is not None:  # first: what cannot be filmed is told before every episode has been played
        success = run.film(arguments.video, episode=arguments.video_episode or 0, index=index)
    result = run.evaluate(episodes=episodes, starts=arguments.starts, progress=bars(arguments))
    where = "" if arguments.starts == "task" else ", started anywhere"
    played = f"{count(episodes, 'episode')}{where}"
    print(f"{run.spec.method} on {run.task.name}, the checkpoint of update {run.step:,}, {played}")
    _say_unfinished(run)
    _show(run.spec.seeds, result)
    kept = {"config": config, "episodes": episodes, "starts": arguments.starts, "evaluation": result}
    if arguments.starts != "task":
        kept["official"] = _official(run, episodes, config, bars(arguments))
        print(f"The official score: {count(episodes, 'episode')} that start as the task says")
        _show(run.spec.seeds, kept["official"])
    if arguments.out is not None:
        keep(arguments.out, run, **kept)
    if arguments.video is not None:
        print(f"Filmed into {arguments.video} ({'a success' if success else 'no success'}).")

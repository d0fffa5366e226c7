"""`fdbook train` and `fdbook evaluate`."""

import os
from pathlib import Path

from fdbook.cli.common import Misuse, add, bars, whole


__all__ = ["add_evaluate", "add_train"]


def add_train(commands) -> None:
    """`fdbook train TASK`: train an agent on a task."""
    parser = add(
        commands,
        "train",
        _train,
        summary="train an agent on a task, several seeds at once, and keep a record of the run",
        examples=(
            "fdbook train cube-single-play-singletask                         Fisher Decorator, half an hour",
            "fdbook train cube-single-play-singletask --agent deflow          the same with the L2 metric",
            "fdbook train pointmaze-medium-navigate-singletask --seeds 3      three seeds, trained together",
            "fdbook train cube-single-play-singletask --preset paper          the papers' sizes: for a GPU",
            "fdbook train cube-single-play-singletask --set budget=0.01       another setting",
        ),
    )
    parser.add_argument("task", metavar="TASK", help="a task, as `fdbook data list` names them")
    parser.add_argument(
        "--agent", metavar="NAME", default="fidec", help="bc, ifql, fql, deflow, fidec, iql or rebrac (default: fidec)"
    )
    parser.add_argument(
        "--metric", metavar="NAME", help="of fidec: paper, released, exact, fisher-rao or l2 (default: exact)"
    )
    parser.add_argument(
        "--preset", metavar="NAME", default="laptop", help="sizes and steps: laptop or paper (default: laptop)"
    )
    parser.add_argument(
        "--seeds", metavar="N", type=whole(1), default=1, help="train seeds 0 to N - 1 together (default: 1)"
    )
    parser.add_argument(
        "--first-seed", metavar="N", type=whole(0), default=0, help="begin with another seed (default: 0)"
    )
    parser.add_argument("--steps", metavar="N", type=whole(1), help="updates (default: the preset's)")
    parser.add_argument("--episodes", metavar="N", type=whole(1), help="episodes of an evaluation (default: 50)")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting of the agent; can be given several times",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder of the run (default: runs/TASK/AGENT-PRESET-...)"
    )
    parser.add_argument(
        "--source", metavar="NAME", default="auto", help="where data come from: auto, recorded or download"
    )
    parser.add_argument("--data-episodes", metavar="N", type=whole(1), help="use a recording of another size")
    parser.add_argument("--dataset-dir", metavar="DIR", type=Path, help="a folder with the benchmark's own files")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _value(text: str):
    """A setting's value: a number, true, false, none, or a word."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _overrides(arguments) -> dict:
    overrides = {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise Misuse(f"--set takes NAME=VALUE; got {text!r}")
        overrides[name] = _value(value)
    return overrides


def _train(arguments):
    overrides = _overrides(arguments)
    from fdbook import experiment
    from fdbook.data import tasks
    from fdbook.rl import agents

    try:
        task = tasks.find_task(arguments.task)
        agents.make(arguments.agent, arguments.metric)
        experiment.preset(arguments.preset, task)
        experiment.settings_of(task, arguments.agent, {}, overrides, arguments.metric)
    except ValueError as error:
        raise Misuse(str(error)) from error
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    sizes = {name: getattr(arguments, name) for name in ("steps", "episodes")}
    unusual = overrides | {name: value for name, value in sizes.items() if value is not None}
    folder = arguments.out or experiment.run_folder(
        task, arguments.agent, arguments.metric, arguments.preset, seeds, unusual
    )
    print(f"The run is kept in {folder}.", flush=True)
    _, record = experiment.train(
        task.name,
        arguments.agent,
        metric=arguments.metric,
        preset=arguments.preset,
        seeds=list(seeds),
        folder=folder,
        source=arguments.source,
        data_episodes=arguments.data_episodes,
        dataset_dir=arguments.dataset_dir,
        progress=bars(arguments),
        **sizes,
        **overrides,
    )
    print(experiment.summary(record))


def add_evaluate(commands) -> None:
    """`fdbook evaluate RUN`: evaluate a trained agent again."""
    parser = add(
        commands,
        "evaluate",
        _evaluate,
        summary="evaluate the newest checkpoint of a run, and film it",
        examples=(
            "fdbook evaluate runs/cube-single-play-singletask-task2-v0/fidec-exact-laptop-1-seeds",
            "fdbook evaluate runs/... --episodes 200          with more episodes",
            "fdbook evaluate runs/... --set candidates=16     the best of 16 actions, as the critics judge them",
            "fdbook evaluate runs/... --video episode.gif     and film one episode (needs EGL or a display)",
        ),
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="act with another setting: candidates, refinements",
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run, as `fdbook train` named it")
    parser.add_argument(
        "--episodes", metavar="N", type=whole(1), default=50, help="episodes for each seed (default: 50)"
    )
    parser.add_argument("--video", metavar="FILE", type=Path, help="write one episode of the first seed into a GIF")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _evaluate(arguments):
    if arguments.video is not None and arguments.video.suffix != ".gif":
        raise Misuse(f"--video takes a file that ends in .gif; got {arguments.video}")
    if arguments.video is not None:
        os.environ.setdefault("MUJOCO_GL", "egl")
    from fdbook import experiment
    from fdbook.disk import check_writable

    if arguments.video is not None:
        check_writable(arguments.video.parent)
    run = experiment.open_run(arguments.run_folder)
    try:
        run = run.acting(**_overrides(arguments))
    except ValueError as error:
        raise Misuse(str(error)) from error
    found = run.evaluate(episodes=arguments.episodes, progress=bars(arguments))
    print(
        f"{run.record.agent} on {run.record.task}, the checkpoint of update {run.step:,}, {arguments.episodes} episodes"
    )
    print("  seed     score   success    return    length")
    for i, seed in enumerate(run.record.seeds):
        row = "".join(f"{found[name][i]:10.1f}" for name in ("score", "success", "return", "length"))
        print(f"  {seed:>4}{row}")
    if arguments.video is not None:
        success = run.film(arguments.video)
        print(f"Filmed into {arguments.video} ({'a success' if success else 'no success'}).")

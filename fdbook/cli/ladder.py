"""`fdbook ladder` and `fdbook audit`: what is measured of trained runs, beside their scores."""

import re
from pathlib import Path

from fdbook.cli.common import Commands, add, at_least, check_out, keep, pairs


__all__ = ["add_audit", "add_ladder"]


def add_ladder(commands: Commands) -> None:
    """`fdbook ladder RUN`: metrics compared on one frozen run."""
    parser = add(
        commands,
        "ladder",
        _ladder,
        computes=True,
        summary="compare metrics on a trained run whose flow and critics stay: the gain in Q at equal exact KL",
        examples=(
            "fdbook ladder runs/...                                    what the book compares, against L2",
            "fdbook ladder runs/... --metric exact --metric deblurred  two of them",
            "fdbook ladder runs/... --metric exact,t=0.8 --set updates=2000",
            "fdbook ladder runs/... --set critic=distance              in a point maze of OGBench: by the way that is saved",
        ),
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run that has a flow and critics")
    parser.add_argument(
        "--metric",
        metavar="NAME[,OPTION=VALUE...]",
        action="append",
        help="a metric, as `fdbook train --names` lists them; can be given several times (default: all that the book compares)",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="updates, rungs, states, critic, seed and so on",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="the record to write (default: ladder.json in RUN)")
    parser.add_argument("--no-progress", action="store_true", help="say nothing on the way")


def _spec(arguments):
    from fdbook.checks import check_fields
    from fdbook.experiment import LadderSpec
    from fdbook.geometry import metrics

    chosen = pairs(arguments.set, "--set")
    check_fields(LadderSpec, chosen, "part of a ladder")
    if arguments.metric is not None:
        named = (re.split(r",(?=\w+=)", text) for text in arguments.metric)  # values may have commas, too
        chosen["metrics"] = tuple(metrics.make(name, **pairs(rest, "--metric NAME,")) for name, *rest in named)
    return LadderSpec(**chosen)


def _ladder(arguments):
    from fdbook import experiment
    from fdbook.checks import count
    from fdbook.cli.training import check_run

    check_run(arguments.run_folder)
    out = arguments.out or arguments.run_folder / "ladder.json"
    check_out(out)
    spec, run = _spec(arguments), experiment.open_run(arguments.run_folder)
    progress = (
        (lambda message: None) if arguments.no_progress else (lambda message: print(f"  {message} ...", flush=True))
    )
    agents = count(len(run.spec.seeds), "agent")
    print(f"{run.spec.method} on {run.task.name}, the checkpoint of update {run.step:,}, {agents}")
    ladder = experiment.run_ladder(run, spec, progress=progress)
    tree = ladder.to_dict()
    keep(out, run, **tree)
    print(experiment.ladder_table(tree))
    print(f"The record is {out}.")


def add_audit(commands: Commands) -> None:
    """`fdbook audit RUN`: the KL that trained policies spend."""
    parser = add(
        commands,
        "audit",
        _audit,
        computes=True,
        summary="measure the KL that the policies of a run spend, beside what their metric says",
        examples=("fdbook audit runs/...                on held-out states of its data",),
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run of fidec, deflow or fql")
    parser.add_argument("--states", metavar="N", type=at_least(1), default=128, help="held-out states (default: 128)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="also write what was measured to a file")


def _audit(arguments):
    from fdbook import experiment
    from fdbook.cli.training import check_run

    check_run(arguments.run_folder)
    check_out(arguments.out)
    run = experiment.open_run(arguments.run_folder)
    print(f"{run.spec.method} on {run.task.name}, the checkpoint of update {run.step:,}")
    audited = experiment.audit(run, states=arguments.states)
    print(experiment.audit_table(run, audited))
    if arguments.out is not None:
        keep(arguments.out, run, states=arguments.states, audit=audited.to_dict())

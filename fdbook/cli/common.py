"""What the commands share: a parser that says in one sentence what is wrong, and the types of arguments."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn


if TYPE_CHECKING:
    import fdbook.experiment


__all__ = [
    "Parser",
    "UsageError",
    "add",
    "add_device",
    "at_least",
    "bars",
    "check_device",
    "check_names",
    "check_out",
    "choose_device",
    "keep",
    "no_device",
    "pairs",
    "unknown_name",
]


DEVICES = {"cpu": "cpu", "gpu": "cuda"}
"""What can be asked for, and what JAX calls it."""
Commands = argparse._SubParsersAction
"""What `add_subparsers` gives: the place where commands are added."""


class UsageError(Exception):
    """What was typed is wrong; the message is the sentence to say."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, names the nearest choice, and keeps the layout of an epilog."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            kind = "command" if not action.option_strings else f"value of {action.option_strings[-1]}"
            raise UsageError(unknown_name(kind, value, action.choices))


def unknown_name(kind: str, name: str, names: Iterable[str]) -> str:
    """The sentence for a name that does not exist."""
    from fdbook.checks import unknown

    return unknown(kind, name, names)


def at_least(low: int) -> Callable[[str], int]:
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


def check_names(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuses the first name that is not known."""
    for name in names:
        if name not in known:
            raise UsageError(unknown_name(kind, name, known))


def bars(arguments: argparse.Namespace) -> bool:
    """Whether to show progress bars: not when told so, and not into a file or a log."""
    return not arguments.no_progress and sys.stderr.isatty()


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option that chooses a device."""
    parser.add_argument("--device", choices=DEVICES, help="where to compute (default: on a GPU, if JAX finds one)")


def choose_device(device: str | None) -> None:
    """Lets this process and those that it starts compute on one of `DEVICES`; None: as the environment says."""
    if device is not None:
        import jax

        os.environ["JAX_PLATFORMS"] = DEVICES[device]
        jax.config.update("jax_platforms", DEVICES[device])


def check_device(device: str | None = None) -> None:
    """Chooses a device, and refuses one that is not here, before anything is computed."""
    import jax

    choose_device(device)
    try:
        jax.devices()
    except Exception as error:  # what a missing backend raises depends on the backend
        raise no_device(device) from error


def no_device(device: str | None) -> UsageError:
    """What is wrong where JAX finds no device for `--device`, or without one for what the environment says."""
    asked = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}; unset it"
    asked = asked if device is None else f"--device {device}; leave it out"
    return UsageError(f"JAX finds no device for {asked}, or install fdbook[cuda] on a machine with an NVIDIA GPU")


def add(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    *,
    summary: str,
    examples: Iterable[str],
    computes: bool = False,
    **options: Any,
) -> argparse.ArgumentParser:
    """A command with its help and the function that runs it; one that `computes` needs a device of JAX."""
    epilog = "examples:\n" + "\n".join(f"  {example}" for example in examples)
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=epilog, **options
    )
    parser.set_defaults(run=run, computes=computes)
    if computes:
        add_device(parser)
    return parser


def check_out(path: Path | None, option: str = "--out") -> None:
    """Refuses, before the work, a folder, the record of a run and a place that cannot be written to; None is none of these."""
    from fdbook.disk import check_writable

    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{option} takes a file; {path} is a folder")
    if path.name == "record.json":
        raise UsageError(
            f"{option} takes another name than record.json, which is that of a run's own record; got {path}"
        )
    check_writable(path.parent)


def keep(path: Path, run: "fdbook.experiment.Run", **tree: Any) -> None:
    """Writes what was measured of a run to a file of JSON, with the run that it was measured of."""
    from fdbook.disk import write_whole
    from fdbook.rl import records

    about = {"run": run.record.spec, "step": run.step, "data": run.record.data, "about": records.about()}
    write_whole({path: (json.dumps(about | tree, indent=1) + "\n").encode()})


def _value(text: str):
    """A setting's value: a number, true, false, none, a word, or several with commas between them."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return tuple(_value(part) for part in text.split(","))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def pairs(texts: Iterable[str], option: str) -> dict[str, Any]:
    """NAME=VALUE, several times, as a mapping from names to values."""
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{option} takes NAME=VALUE; got {text!r}")
        result[name] = _value(value)
    return result

"""The command line: `fdbook doctor`, `fdbook notebooks`, `fdbook figures`, `fdbook data`, `fdbook train`, `fdbook evaluate`,
`fdbook ladder`, `fdbook audit`, `fdbook sweep`, `fdbook table`, `fdbook compare`, `fdbook animations` and `fdbook bench`.

Each command has one function that describes it (`add_...`) and one that runs it, and imports what it needs when it runs,
so that help comes at once. A wrong name or argument ends with exit code 2 and one sentence, a failure with 1, Ctrl-C
with 130; `fdbook doctor` ends with 1 when a chapter cannot run.
"""

import importlib.metadata
import os
import sys
import warnings
from collections.abc import Sequence

from fdbook.cli.book import add_animations, add_bench, add_figures
from fdbook.cli.common import Parser, UsageError, check_device
from fdbook.cli.data import add_data
from fdbook.cli.doctor import add_doctor
from fdbook.cli.ladder import add_audit, add_ladder
from fdbook.cli.notebooks import add_notebooks
from fdbook.cli.sweep import add_sweep
from fdbook.cli.tables import add_compare, add_table
from fdbook.cli.training import add_evaluate, add_train


__all__ = ["main"]


def _version() -> str:
    """The version that is installed; a package that only lies on Python's path has none."""
    try:
        return importlib.metadata.version("fdbook")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _parser():
    parser = Parser(
        prog="fdbook",
        description="A book that runs: flow policies, their Fisher geometry, and how to improve them.",
        epilog="examples:\n  fdbook doctor\n  fdbook figures\n  fdbook data list\n  fdbook COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"fdbook {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    rest = (add_ladder, add_audit, add_sweep, add_table, add_compare, add_animations, add_bench)
    for add in (add_doctor, add_notebooks, add_figures, add_data, add_train, add_evaluate, *rest):
        add(commands)
    return parser


def _sentence(error) -> str:
    """What an error says; for one from the system, what happened to which file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _note(message, category, filename, *place, **rest) -> str:
    """A warning as a user reads it: the sentence, without a line of code where it is the user's data that it is about."""
    if issubclass(category, UserWarning):
        return f"fdbook: {message}\n"
    return f"{filename}: {category.__name__}: {message}\n"


def _run(arguments) -> int | None:
    """Runs a command; one that computes on a device that is here, and says in a sentence if that is full."""
    if not arguments.computes:
        return arguments.run(arguments)
    check_device(arguments.device)
    from fdbook.checks import memory_told

    with memory_told():
        return arguments.run(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 (failed), 2 (misuse) or 130 (Ctrl-C)."""
    before, warnings.formatwarning = warnings.formatwarning, _note
    try:
        arguments = _parser().parse_args(argv)
        code = _run(arguments)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UsageError as error:
        message, code = _sentence(error), 2
    except KeyboardInterrupt as stop:
        message, code = str(stop) or "Interrupted.", 130
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        message, code = _sentence(error), 1
    finally:
        warnings.formatwarning = before
    print(f"fdbook: {message}", file=sys.stderr)
    return code

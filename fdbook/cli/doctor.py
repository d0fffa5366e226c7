"""`fdbook doctor`: what of the book can run here, what is missing, and the command that mends it."""

import json
import sys

from fdbook.cli.common import Commands, add


__all__ = ["add_doctor"]

WIDTH = 100
"""Of a row of the table."""


def add_doctor(commands: Commands) -> None:
    """`fdbook doctor`: looks at the installation, and at what each chapter needs of it."""
    parser = add(
        commands,
        "doctor",
        _doctor,
        summary="say what is installed and which chapters can run here, and how to mend what is missing",
        examples=(
            "fdbook doctor           exit code 0 if every chapter can run here, else 1",
            "fdbook doctor --json    the same for programs",
        ),
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _doctor(arguments):
    from fdbook.cli import checkup

    found = []
    for finding in checkup.findings():
        found.append(finding)
        if not arguments.json:
            print("\n".join(_row(finding)), flush=True)
    stopped = [finding.what for finding in found if finding.chapter and finding.state == "missing"]
    chapters = sum(finding.chapter for finding in found)
    if arguments.json:
        json.dump([finding.to_dict() for finding in found], sys.stdout, indent=1)
        print()
    elif stopped:
        print(f"\n{len(stopped)} of {chapters} chapters cannot run here: {', '.join(stopped)}.")
    elif chapters:
        print(f"\nAll {chapters} chapters can run here.")
    return 1 if stopped or not chapters else 0


def _row(finding) -> list[str]:
    """The lines of the table for one finding: what was found, and below it what mends it."""
    import textwrap

    first, indent = f"{finding.state:<8} {finding.what:<10} ", " " * 20
    lines = textwrap.wrap(finding.found, WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False)
    return lines + ([f"{indent}-> {finding.mend}"] if finding.mend else [])

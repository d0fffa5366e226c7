"""Tables written down: Markdown that is aligned in a terminal, LaTeX, and CSV with numbers in full."""

import csv
import io
import math
import textwrap
from collections.abc import Callable

from fdbook.report.table import Cell, Table


__all__ = ["FORMATS", "SUFFIXES", "latex", "markdown", "to_csv"]

WIDTH = 120
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
SPECIAL |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def _text(table: Table, row: str, column: str) -> str:
    return table.cells[row, column].text if (row, column) in table.cells else ""


def markdown(table: Table) -> str:
    """A Markdown table, its columns aligned, with the caption under it."""
    lines = [["task", *table.columns]]
    lines += [[row, *(_text(table, row, column) for column in table.columns)] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        [
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    rule = [f"{'-' * (width - 1)}:" if place else "-" * width for place, width in enumerate(widths)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in (shown[0], rule, *shown[1:]))
    return f"{text}\n\n{textwrap.fill(table.caption, WIDTH, break_on_hyphens=False)}\n"


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def latex(table: Table) -> str:
    """A LaTeX table that needs no package; a line stands between our columns and the published ones."""
    lines = [["task", *table.columns]]
    lines += [[row, *(_text(table, row, column) for column in table.columns)] for row in table.rows]
    body = [" & ".join(map(_escaped, line)) + r" \\" for line in lines]
    body.insert(1, r"\hline")
    if table.aggregate is not None:
        body.insert(len(body) - 1, r"\hline")
    columns = "l" + "r" * len(table.ours) + ("|" if table.published else "") + "r" * len(table.published)
    top = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(table.caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
    ]
    return "\n".join([*top, r"\hline", *body, r"\hline", r"\end{tabular}", r"\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """Comma-separated values in full precision: for each column its mean, std and, of ours, seeds and interval; no caption."""
    parts = [(column, part) for column in table.ours for part in ("mean", "std", "seeds", "low", "high")]
    parts += [(column, part) for column in table.published for part in ("mean", "std")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", *(f"{column} {part}" for column, part in parts)])
    for row in table.rows:
        writer.writerow([row, *(_number(table.cells.get((row, column)), part) for column, part in parts)])
    return file.getvalue()


def _number(cell: Cell | None, part: str) -> str:
    value = math.nan if cell is None else getattr(cell, part)
    return "" if math.isnan(value) or (part == "seeds" and value == 0) else repr(value)


FORMATS: dict[str, Callable[[Table], str]] = {"markdown": markdown, "latex": latex, "csv": to_csv}
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv"}

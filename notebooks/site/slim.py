"""Makes executed notebooks small enough to be committed: pictures of few colors, no progress bars, no widgets, no times.

    python notebooks/site/slim.py notebooks/05_why_l2_misleads.ipynb ...

A notebook of the book is at most 400 kB: its pictures keep as many colors as that allows. Text outputs stay as they are.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image


LARGEST = 400_000
"""Bytes of a notebook."""
COLORS = (None, 256, 192, 128, 96, 64)
"""Of its pictures, None for all: the first number with which it is small enough. With few, a map has shades that no scale has."""
RARE_TOO = Image.Quantize.MAXCOVERAGE
"""The palette covers the colors of a picture, and not its pixels: a thin line keeps its own."""
WIDGET = "application/vnd.jupyter.widget-view+json"


def smaller(picture: bytes, colors: int | None) -> bytes:
    """A PNG with a palette of that many colors, where that is smaller."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        whole = image.convert("RGB")
        few = whole if colors is None else whole.quantize(colors, RARE_TOO, dither=Image.Dither.NONE)
        few.save(buffer, "png", optimize=True)
    packed = buffer.getvalue()
    return packed if len(packed) < len(picture) else picture


def bare(path: Path) -> nbformat.NotebookNode:
    """A notebook without what tells of one execution only: progress, widgets and times."""
    book = nbformat.read(path, 4)
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            said = [each for each in cell.outputs if each.get("name") != "stderr"]
            cell.outputs = [each for each in said if WIDGET not in each.get("data", {})]
    return book


def slim(path: Path) -> int:
    """Rewrites one notebook and returns its size in bytes."""
    book = bare(path)
    datas = [each.get("data", {}) for cell in book.cells for each in cell.get("outputs", ())]
    shown = [(data, base64.b64decode(data["image/png"])) for data in datas if "image/png" in data]
    for colors in COLORS:
        for data, picture in shown:
            data["image/png"] = base64.b64encode(smaller(picture, colors)).decode()
        text = nbformat.writes(book) + "\n"
        if len(text.encode()) <= LARGEST:
            break
    path.write_text(text, encoding="utf-8")
    return len(text.encode())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {slim(Path(name)) / 1000:,.0f} kB")

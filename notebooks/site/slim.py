"""Makes executed notebooks small enough to be committed: pictures of few colors, no progress bars, no widgets, no times.

    python notebooks/site/slim.py notebooks/05_why_l2_misleads.ipynb ...

A notebook of the book is at most 400 kB. Text outputs stay as they are.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image


COLORS = 96
"""Of a picture: fewer show in shaded densities."""
RARE_TOO = Image.Quantize.MAXCOVERAGE
"""The palette covers the colors of a picture, and not its pixels: a thin line keeps its own."""
WIDGET = "application/vnd.jupyter.widget-view+json"


def smaller(picture: bytes) -> bytes:
    """A PNG with a palette, where that is smaller."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        few = image.convert("RGB").quantize(COLORS, RARE_TOO, dither=Image.Dither.NONE)
        few.save(buffer, "png", optimize=True)
    packed = buffer.getvalue()
    return packed if len(packed) < len(picture) else picture


def slim(path: Path) -> int:
    """Rewrites one notebook and returns its size in bytes."""
    book = nbformat.read(path, 4)
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        outputs = [each for each in cell.get("outputs", ()) if each.get("name") != "stderr"]
        outputs = [each for each in outputs if WIDGET not in each.get("data", {})]
        for each in outputs:
            if "image/png" in each.get("data", {}):
                picture = smaller(base64.b64decode(each["data"]["image/png"]))
                each["data"]["image/png"] = base64.b64encode(picture).decode()
        if cell.cell_type == "code":
            cell.outputs = outputs
    text = nbformat.writes(book) + "\n"
    path.write_text(text, encoding="utf-8")
    return len(text.encode())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {slim(Path(name)) / 1000:,.0f} kB")

"""Pictures that the reader moves: one frame for each value, drawn beforehand, and a slider that shows them.

The frames lie inside the notebook and the slider is a page's own, so it moves in JupyterLab, in the built book and on a machine
without a kernel; where scripts are not allowed, one frame stands still.
"""

import base64
import io
import uuid
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image


__all__ = ["Slider", "slider"]

QUALITY = 82
"""Of the frames, in WebP: below it lines fray, above it a notebook grows without looking better."""


class Slider:
    """Frames and the values that they belong to. A notebook shows it as a picture with a slider below."""

    def __init__(self, frames: Sequence[bytes], values: Sequence, *, label: str, start: int, width: int, play: bool):
        self.frames, self.values = tuple(frames), tuple(values)
        self.label, self.start, self.width, self.play = label, start, width, play

    def __repr__(self) -> str:
        return f"Slider({self.label}, {len(self.frames)} frames)"

    def _repr_html_(self) -> str:
        name = f"moving-{uuid.uuid4().hex[:12]}"
        pictures = [f"data:image/webp;base64,{base64.b64encode(frame).decode()}" for frame in self.frames]
        captions = [f"{self.label} = {value}" for value in self.values]
        stack = "".join(
            f'<img src="{picture}" alt="{caption}" style="width:100%;display:{"block" if n == self.start else "none"}">'
            for n, (picture, caption) in enumerate(zip(pictures, captions, strict=True))
        )
        show = (
            f"const box=document.getElementById('{name}'),n=+this.value;"
            "box.querySelectorAll('img').forEach((p,i)=>p.style.display=i===n?'block':'none');"
            "box.querySelector('output').textContent=box.querySelectorAll('img')[n].alt;"
        )
        button = (
            f"const box=document.getElementById('{name}'),bar=box.querySelector('input');"
            "if(box.timer){clearInterval(box.timer);box.timer=null;this.textContent='Play';return;}"
            "this.textContent='Stop';box.timer=setInterval(()=>{bar.value=(+bar.value+1)%(+bar.max+1);"
            "bar.dispatchEvent(new Event('input'));},250);"
        )
        play = f'<button type="button" onclick="{button}">Play</button>' if self.play else ""
        return (
            f'<div id="{name}" style="max-width:{self.width}px;font-family:sans-serif;font-size:13px">{stack}'
            f'<div style="display:flex;gap:0.8em;align-items:center;padding:0.3em 0">{play}'
            f'<input type="range" min="0" max="{len(self.frames) - 1}" value="{self.start}" step="1" '
            f'aria-label="{self.label}" style="flex:1" oninput="{show}">'
            f'<output style="min-width:9em">{captions[self.start]}</output></div></div>'
        )


def _picture(figure: Figure, dpi: int) -> tuple[bytes, int]:
    """A figure as WebP, and its width in pixels. The figure is closed."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)  # without a tight box: all frames have the same size
    plt.close(figure)
    with Image.open(drawn) as image:
        small = io.BytesIO()
        image.convert("RGB").save(small, "WEBP", quality=QUALITY, method=6)
        return small.getvalue(), image.width


def slider(
    draw: Callable[..., Figure], values: Sequence, *, label: str, start: int = 0, dpi: int = 100, play: bool = False
) -> Slider:
    """One frame for each value, and a slider over them.

    **Arguments:** `draw(value)` returns a new figure; give all frames the same limits and colors, and lay them out with
    `layout="constrained"` or by hand, since their edges are not cut. `label` names the value below the picture. `start` is the
    frame that is shown first, and the one that stays where nothing can move. With `play` a button runs through the frames.
    A value is shown as `str` does: round before.

    **Raises** ValueError without values or if `start` is none of their positions, TypeError if `draw` returns no figure.
    """
    if len(values) == 0:
        raise ValueError("a slider needs at least one value; got none.")
    if start not in range(len(values)):
        raise ValueError(
            f"start should be a position among the {len(values)} values, 0 to {len(values) - 1}; got {start}."
        )
    drawn = []
    for value in values:
        figure = draw(value)
        if not isinstance(figure, Figure):
            raise TypeError(
                f"draw should return a matplotlib figure; for {value!r} it returned {type(figure).__name__}."
            )
        drawn.append(_picture(figure, dpi))
    width = max(width for _, width in drawn)
    return Slider([frame for frame, _ in drawn], values, label=label, start=start, width=width, play=play)

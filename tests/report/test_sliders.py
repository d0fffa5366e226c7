"""Pictures with a slider: every value has its frame, one of them is seen without a script, and the slider knows them all."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from fdbook.report.sliders import slider


def bar(value):
    """A white figure with a black bar as wide as the value, in tenths of the figure."""
    figure = plt.figure(figsize=(2, 1))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    ax.set(xlim=(0, 10), ylim=(0, 1))
    ax.fill_between([0, value], 0, 1, color="black")
    return figure


def pictures(html):
    found = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]*)" style="[^"]*display:(\w+)"', html)
    return [(Image.open(io.BytesIO(base64.b64decode(data))), caption, shown) for data, caption, shown in found]


def test_each_value_has_its_frame_and_one_is_shown():
    """The share of dark pixels is that of the bar."""
    before = plt.get_fignums()
    made = slider(bar, [2, 5, 9], label="width", start=1)
    assert plt.get_fignums() == before
    found = pictures(made._repr_html_())
    assert [caption for _, caption, _ in found] == ["width = 2", "width = 5", "width = 9"]
    assert [shown for *_, shown in found] == ["none", "block", "none"]
    dark = [np.mean(np.asarray(picture.convert("L")) < 128) for picture, *_ in found]
    np.testing.assert_allclose(dark, [0.2, 0.5, 0.9], atol=0.02)
    assert {picture.size for picture, *_ in found} == {(200, 100)}


def test_the_slider_runs_over_all_frames_and_says_where_it_stands():
    html = slider(bar, range(4), label="t", start=2)._repr_html_()
    bar_of_html = re.search(r'<input type="range" min="0" max="(\d+)" value="(\d+)"', html)
    assert bar_of_html.groups() == ("3", "2")
    assert re.search(r"<output[^>]*>t = 2</output>", html)
    assert "Play" not in html
    assert "Play" in slider(bar, [1], label="t", play=True)._repr_html_()


def test_two_sliders_on_one_page_do_not_move_each_other():
    made = slider(bar, [1, 2], label="t")
    names = [re.search(r'<div id="([^"]+)"', made._repr_html_()).group(1) for _ in range(2)]
    assert names[0] != names[1]
    html = made._repr_html_()
    own = re.search(r'<div id="([^"]+)"', html).group(1)
    assert set(re.findall(r"getElementById\('([^']+)'\)", html)) == {own}


@pytest.mark.parametrize(
    ("draw", "values", "start", "error", "sentence"),
    [
        (bar, [], 0, ValueError, "a slider needs at least one value; got none"),
        (bar, [1, 2], 2, ValueError, "a position among the 2 values, 0 to 1; got 2"),
        (lambda value: None, [1], 0, TypeError, "draw should return a matplotlib figure; for 1 it returned NoneType"),
    ],
)
def test_what_is_no_slider_is_refused(draw, values, start, error, sentence):
    with pytest.raises(error, match=sentence):
        slider(draw, values, label="t", start=start)

"""Puts a picture into a notebook, with words for whoever can't see it."""

from __future__ import annotations

import html
import io
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from labkit.errors import InputError
from labkit.plots.style import DPI

MOST_WIDTH_IN = 9.0
#: So many colours hold every picture here, and make its file several times smaller.
PNG_COLOURS = 128

#: Out of sight, and still read out by a screen reader.
_UNSEEN = (
    "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"
)


def _figure(ax: Axes | Figure) -> Figure:
    figure: object = ax
    while isinstance(figure, Axes | SubFigure):
        figure = figure.figure
    if not isinstance(figure, Figure):
        raise InputError(
            "This is no picture.",
            f"a {type(ax).__name__}",
            "pass the Axes that a function of labkit.plots returns",
        )
    return figure


def png(ax: Axes | Figure) -> bytes:
    """The picture as the bytes of a PNG file: 100 pixels an inch, and small.

    Raises:
        InputError: `ax` is neither an Axes nor a Figure, or its figure is wider than 9 inches.
    """
    from PIL import Image

    figure = _figure(ax)
    if figure.get_figwidth() > MOST_WIDTH_IN:
        raise InputError(
            "The picture is too wide for a notebook.",
            f"{figure.get_figwidth():g} inches",
            f"make the figure at most {MOST_WIDTH_IN:g} inches wide",
        )
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor="white")
    image = Image.open(drawn).convert("RGB")
    image.quantize(PNG_COLOURS, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
    return packed.getvalue()


def show(ax: Axes | Figure, alt: str) -> None:
    """Displays a picture in the notebook.

    The words go with it in three ways: as `alt` in the output's metadata, which nbconvert, Sphinx
    and MyST put on the image; as the text that stands in for it where no image can be shown; and,
    since JupyterLab 4.6 still drops `alt` from PNG images, as a paragraph that only screen readers
    find.

    Args:
        ax: what a function of `labkit.plots` returned, or a figure.
        alt: what is to be seen, in a sentence or two. Write what holds on every run: the text is
            compared when the notebook is tested, the pixels are not.

    Raises:
        InputError: there are no words, or `ax` is no picture.
    """
    from IPython import display as ipython

    display: Callable[..., object] = ipython.display

    words = " ".join(alt.split()) if isinstance(alt, str) else ""
    if not words:
        raise InputError(
            "The picture has no words for those who can't see it.",
            f"alt={alt!r}",
            'say in a sentence what it shows: show(ax, alt="...")',
        )
    display(
        {"image/png": png(ax), "text/plain": f"[picture] {words}"},
        metadata={"image/png": {"alt": words}},
        raw=True,
    )
    display(
        {
            "text/html": f'<p style="{_UNSEEN}">{html.escape(words)}</p>',
            "text/plain": "[description of the picture above]",
        },
        raw=True,
    )

"""Pictures: the only module that imports matplotlib, and only when something is drawn.

Callers make a ``new_figure``, draw on its ``panels`` and ``save`` it.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distcnn.errors import InputError
from distcnn.system.files import write_atomically

Figure = Any
Axes = Any
"""matplotlib's classes, which are not imported until something is drawn."""

BLUE, LIGHT_BLUE, ORANGE, LIGHT_ORANGE = "#1f5fa8", "#9dc3ea", "#c25a11", "#f6bd8b"
GREEN, PURPLE, GOLD, TEAL, ROSE, GREY = (
    *("#3a7d44", "#7b4b94", "#d4a017", "#2a9d9d"),
    *("#c44e7b", "#8a8f98"),
)
LINES = (BLUE, ORANGE, GREEN, PURPLE, GREY, GOLD, TEAL, ROSE)
"""Colours of lines in one panel, in this order."""
SMALL = 9
"""Font size of labels and legends, in points."""
DPI = 130
DECADES_ONLY = 3
PICTURES = (".png", ".svg", ".pdf")
"""Suffixes of files that can be drawn."""


def has_matplotlib() -> bool:
    """Whether anything can be drawn. Does not import matplotlib."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Raise ``InputError`` if matplotlib is not installed. Does not import it."""
    if not has_matplotlib():
        raise InputError("drawing needs matplotlib: pip install matplotlib")


def require_picture(path: str | Path, flag: str) -> None:
    """Raise ``InputError`` unless the suffix of ``path`` is one of ``PICTURES``."""
    if Path(path).suffix.lower() not in PICTURES:
        raise InputError(f"{flag}: {path} must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}")


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure, in inches, with ``title`` above all panels."""
    require_matplotlib()
    with _no_backend():
        from matplotlib.figure import Figure  # not pyplot, which keeps figures and needs a display

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(literal(title), fontsize=11)
    return figure


@contextmanager
def _no_backend() -> Iterator[None]:
    """Hide MPLBACKEND, which a notebook sets for its own environment: importing matplotlib fails
    if it names a module that is missing here, and files need no backend.
    """
    kept = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ["MPLBACKEND"] = kept


def panels(figure: Figure, count: int, columns: int = 0) -> list[Axes]:
    """Divide ``figure`` into ``count`` axes, row by row; without ``columns`` all in one row."""
    columns = columns or count
    axes = list(figure.subplots(-(-count // columns), columns, squeeze=False).flat)
    for blank in axes[count:]:
        blank.set_axis_off()
    return axes[:count]


def tidy(axes: Axes, title: str = "", frame: str = "left bottom", grid: str = "") -> None:
    """Apply the common style to one panel: the sides of its ``frame`` that stay, and grid lines
    behind the data, "x", "y" or "both".
    """
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=SMALL)
    axes.set_axisbelow(True)
    for side, line in axes.spines.items():
        line.set_visible(side in frame.split())
    if grid:
        axes.grid(axis=grid, alpha=0.25)


def image(axes: Axes, pixels: Any) -> None:
    """Show uint8 pixels (H, W, C): in color for 3 or 4 channels, else the first one in gray."""
    gray = pixels.shape[-1] not in (3, 4)
    axes.imshow(
        pixels[..., 0] if gray else pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest"
    )


def log_ticks(axes: Axes, form: str = ",.0f") -> None:
    """Make the y axis logarithmic, with round numbers written out in the format ``form``.

    Over more than ``DECADES_ONLY`` decades they are powers of ten alone: others would collide.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axes.get_ylim()
    few = low <= 0 or high > 30 * low
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    subs = (1, 2, 5) if few else (1, 1.5, 2, 3, 5, 7)
    axes.yaxis.set_major_locator(
        LogLocator(10, subs=(1,) if high > 10**DECADES_ONLY * low else subs)
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: format(value, form))


def percent(axes: Axes) -> None:
    """Write fractions on the y axis as percentages."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def legend(figure: Figure, patches: Mapping[str, str], columns: int, lines: bool = False) -> None:
    """Put one legend below all panels: squares of the colours in ``patches`` by label, after the
    ``lines`` of the first panel if wanted.
    """
    from matplotlib.patches import Patch

    handles, labels = figure.axes[0].get_legend_handles_labels() if lines else ([], [])
    handles = [*handles, *(Patch(color=colour) for colour in patches.values())]
    look = {"ncols": columns, "frameon": False, "fontsize": SMALL}
    figure.legend(handles, [*labels, *patches], loc="outside lower center", **look)


def literal(text: str) -> str:
    """``text`` as matplotlib shows it unchanged: a dollar sign would begin a formula, and a legend
    leaves out labels that begin with an underscore.
    """
    shown = text.replace("$", "\\$")
    return f"$\\_${shown[1:]}" if shown.startswith("_") else shown


def png(figure: Figure) -> bytes:
    """Return ``figure`` as the content of a PNG file."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=DPI)
    return memory.getvalue()


def svg(figure: Figure, name: str, colours: Mapping[str, str]) -> str:
    """Return ``figure`` as an ``svg`` element for an HTML page, scaled by its style sheet.

    Text stays text. Ids begin with ``name``, which must be unique on the page. ``colours`` maps
    those that were drawn with, such as "#010203", to what CSS has for them.
    """
    from matplotlib import rc_context

    memory = io.StringIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has more fonts
        figure.savefig(memory, format="svg", transparent=True, metadata=none)
    text = memory.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, flags=re.DOTALL)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for drawn, css in colours.items():
        text = text.replace(drawn, css)
    return text


def save(figure: Figure, path: str | Path, flag: str = "--output") -> None:
    """Write ``figure`` to ``path``, which ``flag`` named, in the format of its suffix (.png, .svg,
    .pdf); ``InputError`` if that fails.
    """
    path, memory = Path(path), io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # it is drawn as a box
            figure.savefig(memory, dpi=DPI, format=path.suffix[1:].lower())
        write_atomically(path, memory.getvalue())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{path} cannot be written ({reason}): name another file with {flag}, such as"
            " picture.png"
        ) from error

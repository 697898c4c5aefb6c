"""How every picture looks: colours that people with any colour vision tell apart, and SVG that takes its colours from its page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from matplotlib import rc_context
from matplotlib.figure import Figure

from faithful_rl.metrics import CONSTRAINT_SIGNALS

T = TypeVar("T")

# Okabe and Ito's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
COLOUR_OF = dict(zip(CONSTRAINT_SIGNALS, COLOURS, strict=False))
# Colour and marker of a method, so that neither alone has to carry the meaning.
METHOD_STYLES = {
    "warm start": ("#8a8f98", "o"),
    "GRPO": ("#D55E00", "s"),
    "FGRPO, consistency only": ("#CC79A7", "v"),
    "FGRPO, fixed multipliers": ("#56B4E9", "D"),
    "FGRPO, adaptive": ("#0072B2", "^"),
}
# For methods that have no style of their own, in the order in which they come.
OTHER_STYLES = (
    ("#009E73", "P"),
    ("#E69F00", "X"),
    ("#8C6BB1", "h"),
    ("#B0762B", "<"),
    ("#6B8E23", ">"),
    ("#C2437B", "p"),
    ("#4A9C9C", "d"),
)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "faithful_rl",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e6e6e6",
}
INK, SOFT, LINE = "#010203", "#040506", "#070809"  # stand-ins that `as_svg` turns into the page's CSS variables
PAGE_STYLE: dict[Any, Any] = {
    **STYLE,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "grid.color": LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
PAPER_STYLE: dict[Any, Any] = {**STYLE, "axes.edgecolor": "#c8ccd2", "axes.labelcolor": "#4a5260", "xtick.labelcolor": "#4a5260",
                               "ytick.labelcolor": "#4a5260", "savefig.facecolor": "white"}  # fmt: skip
_VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"} | {
    colour.lower(): f"var(--c{index})" for index, colour in enumerate(COLOURS)
}


def method_styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each method in every picture of a page; unknown methods get what is left, in the order given."""
    left = iter(OTHER_STYLES * 4)
    return {method: METHOD_STYLES.get(method) or next(left, OTHER_STYLES[0]) for method in dict.fromkeys(methods)}


def page_colour(colour: str) -> str:
    """A colour as a page writes it: its variable, which is lighter on dark, where it has one."""
    return _VARIABLES.get(colour.lower(), colour)


def row_major(handles: Sequence[T], columns: int) -> list[T]:
    """Handles of a legend so that it reads from left to right: matplotlib fills the columns of a legend one after the other.

    Its first columns are the longer ones, as in a table whose last line is not full.
    """
    rows = -(-len(handles) // columns)
    return [handles[row * columns + column] for column in range(columns) for row in range(rows) if row * columns + column < len(handles)]


def legend_columns(labels: Sequence[str], inches: float, most: int = 4) -> int:
    """How many columns of these labels fit below a figure of that width: about ten signs to the inch, five for a handle and its space."""
    return max(1, min(len(labels), most, int(10 * inches) // (max(map(len, labels), default=0) + 5)))


def as_svg(figure: Figure, name: str) -> str:
    """SVG element in the page's colours; `name` keeps its ids apart from those of the page's other figures."""
    stream = io.StringIO()
    with rc_context(PAGE_STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)  # HTML knows SVG's namespaces
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)

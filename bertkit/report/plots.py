"""The drawings of a report: matplotlib's SVG, made to sit in a page.

matplotlib writes fixed colours, and a page has a light and a dark form. So everything is drawn in stand-in colours, and
each is replaced by a CSS variable of the page. Texts stay texts, in the page's font. The same numbers give the same
bytes: no dates, and ids that are salted by what is drawn.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from bertkit.metrics.calibration import Bin
from bertkit.metrics.classification import Array
from bertkit.report.parts import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, FIRST, SECOND = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", FIRST: "first", SECOND: "second"}
"""Stand-in colour -> the page's CSS variable."""
SIZE = (4.6, 3.1)
"""Inches of a plot; two stand side by side on a wide page, and one still reads on a telephone."""
MOST_POINTS = 2000
"""Points of a scatter plot; more are drawn from by lot."""
MOST_NUMBERS = 12
"""Classes up to which a confusion matrix has its numbers written in it."""
ROOM = 40
"""Characters that fit side by side below an axis."""
DASHES = ("-", "--", ":", "-.")
"""By which lines of one kind are told apart."""
LONGEST_NAME = 18
"""Characters of a class name on an axis."""
SHADES = {True: (0.06, 0.5), False: (0.1, 1.0)}
"""Opacity of a cell of the matrix, the least and the most. Where it holds a number, which is written in the page's
ink, light and dark, the contrast stays above 4.3 : 1."""
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    # A text with two $ in it is no formula.
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


class _Drawing:
    """A figure with one pair of axes, and the SVG that it becomes."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.axes: Axes = figure.add_subplot()
        self.svg = ""


@contextmanager
def _drawing(name: str, *, size: tuple[float, float] = SIZE) -> Iterator[_Drawing]:
    """Give axes to draw on, and make SVG of them; ``name`` says what is seen to who cannot see it.

    It must be another one for every drawing of a page: ids are made from it.
    """
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with style.context(["default", STYLE, {"svg.hashsalt": name}]), warnings.catch_warnings():
        # The page's font draws the texts; that the layout's own lacks a script is of no account.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        drawing = _Drawing(figure)
        yield drawing
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        drawing.svg = _embedded(buffer.getvalue(), name)


def _embedded(svg: str, name: str) -> str:
    """Return matplotlib's SVG file as an element of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # Groups are numbered anew in every file, and a page has each id once.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", _variable, svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(plain(name))}"', 1)


def _variable(match: re.Match[str]) -> str:
    found = VARIABLES.get(match[2])
    return f"{match[1]}: var(--{found})" if found else match[0]


def lines(
    x: Sequence[float], y: Sequence[float], *, name: str, labels: tuple[str, str], mark: float | None = None
) -> str:
    """Draw one line; ``mark`` is an x to point out, ``labels`` are those of x and y axis."""
    with _drawing(f"{name}: {_path(x, y)}") as drawing:
        axes = drawing.axes
        axes.plot(x, y, color=FIRST, linewidth=1.8, marker="o" if len(x) < 30 else None, markersize=4)
        if mark is not None and mark in x:
            axes.plot([mark], [y[list(x).index(mark)]], "o", color=SECOND, markersize=8, label="kept")
            axes.legend()
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.locator_params(axis="x", integer=True)
        _from_zero(axes, min(y))
    return drawing.svg


def families(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, name: str, labels: tuple[str, str]
) -> str:
    """Draw several lines of one kind, as those of several seeds; a few of them can be told apart."""
    said = "; ".join(f"{each}: {_path(*curve)}" for each, curve in curves.items())
    with _drawing(f"{name}: {said}") as drawing:
        axes = drawing.axes
        few = len(curves) <= len(DASHES)
        for number, (each, (x, y)) in enumerate(curves.items()):
            dashes = DASHES[number] if few else DASHES[0]
            axes.plot(x, y, dashes, color=FIRST, linewidth=1.6, marker="o", markersize=3.5, alpha=0.85, label=each)
        if few and len(curves) > 1:
            axes.legend(fontsize=8, handlelength=3)
        axes.set(title=name, xlabel=labels[0], ylabel=labels[1])
        axes.locator_params(axis="x", integer=True)
    return drawing.svg


def compared(
    names: Sequence[str], values: Sequence[Sequence[float]], beside: Mapping[str, Sequence[float | None]], *, name: str
) -> str:
    """Draw the values of each name on a line of its own: every one, their mean, and what stands beside them.

    Args:
        names: from top to bottom.
        values: of each, as of several seeds.
        beside: what is compared (``baseline``, ``published``; two at most) -> its value for each name that has one.
    """
    means = [sum(each) / len(each) for each in values]
    said = "; ".join(f"{each} {mean:.4g}" for each, mean in zip(names, means, strict=True))
    with _drawing(f"{name}: {said}", size=(SIZE[0], 1.2 + 0.27 * len(names))) as drawing:
        axes, places = drawing.axes, np.arange(len(names))
        for place, each in zip(places, values, strict=True):
            axes.plot(each, [place] * len(each), "o", color=FIRST, alpha=0.4, markersize=5, markeredgewidth=0)
        axes.plot(means, places, "|", color=FIRST, markersize=14, markeredgewidth=2.5, label="mean")
        for (side, found), shape in zip(beside.items(), ("x", "D"), strict=False):
            there = [(value, place) for value, place in zip(found, places, strict=True) if value is not None]
            axes.plot(*zip(*there, strict=True), shape, color=SECOND, markersize=6, fillstyle="none", label=side)
        axes.set_yticks(places, [_short(each, 30) for each in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        if beside:
            drawing.figure.legend(fontsize=8.5, loc="outside lower center", ncols=3)
    return drawing.svg


def intervals(
    names: Sequence[str],
    values: Sequence[float],
    bounds: Sequence[tuple[float, float] | None],
    *,
    name: str,
    labels: tuple[str, str],
    whole: float | None = None,
) -> str:
    """Draw a value with its interval for each of some groups, and the value of all of them as a line."""
    said = "; ".join(f"{each} {value:.4g}" for each, value in zip(names, values, strict=True))
    with _drawing(f"{name}: {said}") as drawing:
        axes, places = drawing.axes, range(len(names))
        if whole is not None:
            axes.axhline(whole, color=SECOND, linewidth=1.2, linestyle="--", label=f"all: {whole:.4g}")
            axes.legend(fontsize=8.5)
        for place, bound in zip(places, bounds, strict=True):
            if bound is not None:
                axes.plot([place, place], bound, color=FIRST, linewidth=2, solid_capstyle="round")
        axes.plot(places, values, "o", color=FIRST, markersize=6)
        shown = [_short(each) for each in names]
        axes.set_xticks(list(places), shown, rotation=_turn(shown), ha=_side(shown))
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.margins(y=0.15)
        _from_zero(axes, min(values))
    return drawing.svg


def reliability(bins: Sequence[Bin], *, name: str, labels: tuple[str, str]) -> str:
    """Draw a reliability diagram: the share that is right over the confidence, and where both are equal."""
    full = [each for each in bins if each.number]
    said = "; ".join(f"{each.accuracy:.2f} at {each.confidence:.2f}" for each in full)
    with _drawing(f"{name}: {labels[1]} {said}") as drawing:
        axes = drawing.axes
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="as sure as right")
        axes.bar(
            [each.low for each in full],
            [each.accuracy for each in full],
            width=[(each.high - each.low) * 0.92 for each in full],
            align="edge",
            color=FIRST,
            alpha=0.35,
        )
        axes.plot(
            [each.confidence for each in full], [each.accuracy for each in full], "o", color=FIRST, markersize=4.5
        )
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="upper left", fontsize=8.5)
    return drawing.svg


def histogram(values: Array, *, name: str, labels: tuple[str, str], bins: int = 30, zero: bool = False) -> str:
    """Draw how often values fall where; ``zero`` marks 0."""
    quarters = ", ".join(f"{each:.4g}" for each in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    with _drawing(f"{name}: least, quartiles and most {quarters}") as drawing:
        drawing.axes.hist(values, bins=bins, color=FIRST, alpha=0.75)
        if zero:
            drawing.axes.axvline(0, color=SECOND, linewidth=1.2, linestyle="--")
        drawing.axes.set(xlabel=labels[0], ylabel=labels[1])
    return drawing.svg


def scatter(x: Array, y: Array, *, name: str, labels: tuple[str, str]) -> str:
    """Draw points and the line where both are equal; at most :data:`MOST_POINTS` of them."""
    rows = np.arange(len(x))
    if len(x) > MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(len(x), MOST_POINTS, replace=False))
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    said = f"{labels[0]} {x.min():.4g} to {x.max():.4g}, {labels[1]} {y.min():.4g} to {y.max():.4g}"
    with _drawing(f"{name}: {len(rows):,} points, {said}") as drawing:
        axes = drawing.axes
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle="--", label="equal")
        axes.plot(x[rows], y[rows], "o", color=FIRST, alpha=0.4, markersize=4, markeredgewidth=0)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.legend(loc="upper left", fontsize=8.5)
    return drawing.svg


def matrix(counts: Array, labels: Sequence[str], *, name: str) -> str:
    """Draw a confusion matrix ``(K, K)``, truth down and prediction across, each row shaded by its shares."""
    size, numbered = len(labels), len(labels) <= MOST_NUMBERS
    least, most = SHADES[numbered]
    inches = max(SIZE[1] + 0.3, 1.6 + 0.22 * size)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    with _drawing(f"{name}: {_rows(counts, labels)}", size=(max(SIZE[0], inches + 0.5), inches)) as drawing:
        axes = drawing.axes
        for row, column in np.argwhere(counts > 0):
            strength = float(shares[row, column])
            cell: Any = {"facecolor": FIRST, "edgecolor": "none", "alpha": least + (most - least) * strength}
            axes.add_patch(_square(column, row, **cell))
            if numbered:
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=INK, fontsize=9)
        names = [_short(each) for each in labels]
        axes.set_xticks(range(size), names, rotation=_turn(names), ha=_side(names))
        axes.set_yticks(range(size), names)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="predicted", ylabel="true")
        axes.grid(visible=False)
        axes.tick_params(length=0)
    return drawing.svg


def _square(column: int, row: int, **settings: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, **settings)


def _path(x: Sequence[float], y: Sequence[float]) -> str:
    """Say how a line goes: ``60 points, 0.7 at 1 to 0.36 at 60, least 0.29, most 0.73``."""
    ends = f"{y[0]:.4g} at {x[0]:.4g} to {y[-1]:.4g} at {x[-1]:.4g}"
    return f"{len(x)} points, {ends}, least {min(y):.4g}, most {max(y):.4g}"


def _rows(counts: Array, labels: Sequence[str]) -> str:
    """Say what a confusion matrix shows: all of a small one, the share on the diagonal of a large one."""
    if len(labels) > MOST_NUMBERS:
        return f"{np.trace(counts):,} of {counts.sum():,} rows of the {len(labels)} classes on the diagonal"
    rows = ((name, zip(labels, row, strict=True)) for name, row in zip(labels, counts.tolist(), strict=True))
    return "; ".join(f"true {name}: {', '.join(f'{n:,} as {given}' for given, n in row if n)}" for name, row in rows)


def _from_zero(axes: Axes, least: float) -> None:
    """Leave out what is below 0 where no value is."""
    low, high = axes.get_ylim()
    if low < 0 <= least:
        axes.set_ylim(-0.03 * high, high)


def _turn(names: Sequence[str]) -> int:
    """Return the angle of names below an axis: level where they fit."""
    return 45 if max(map(len, names)) * len(names) > ROOM else 0


def _side(names: Sequence[str]) -> str:
    """Return the side of a name that stands at its place."""
    return "right" if _turn(names) else "center"


def _short(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a name for an axis: of a long one beginning and end, where names of one kind differ."""
    text = " ".join(plain(text).split())
    half = longest // 2
    return text if len(text) <= longest else f"{text[: longest - half - 1]}…{text[-half:]}"

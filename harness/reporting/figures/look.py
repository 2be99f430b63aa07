"""How figures look: colours for the colour-blind, markers and dashes that differ in grey, titles and scales."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Literal, TypeAlias

import altair

from harness.reporting.layout import clean

Spec: TypeAlias = dict[str, Any]
"""A chart as Vega-Lite."""

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"

# Ten colours for the colour-blind: Petroff 2021, https://arxiv.org/abs/2107.02270 (Okabe and Ito's are eight, one of
# which is the dense model's black and one a yellow that is faint on white).
COLORS = (
    *("#3f90da", "#bd1f01", "#ffa90e", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#92dadd", "#717581", "#94a4a2"),
)
PENTAGON = "M0,-1L0.95,-0.31L0.59,0.81L-0.59,0.81L-0.95,-0.31Z"
STAR = "M0,-1L0.25,-0.35L0.95,-0.31L0.4,0.13L0.59,0.81L0,0.43L-0.59,0.81L-0.4,0.13L-0.95,-0.31L-0.25,-0.35Z"
MARKERS = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross"),
    *("triangle-left", "triangle-right", PENTAGON, STAR),
)
DASHES = ((1, 0), (6, 2), (6, 2, 1, 2), (1, 2), (5, 2, 1, 2, 1, 2), (10, 2), (2, 1))
OTHER_COLOR = "#bbbbbb"
"""Of whatever has no colour of its own: all after the tenth."""
DENSE_COLOR = "#000000"
QUIET = "#555555"
PANEL_WIDTH, PANEL_HEIGHT = 340, 260
LETTER_WIDTH = 5.6
"""Pixels of a letter of the title."""

TWO_LINES: dict[str, Any] = {"labelAngle": 0, "labelExpr": "split(datum.label, ' ')"}
"""Of an axis of patterns: `channel 50%` is two lines, for its place is narrow."""

CONFIG: dict[str, Any] = {
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        **{"gridColor": "#dddddd", "domainColor": "#333333", "tickColor": "#333333", "titleFontWeight": "normal"},
        **{"labelFontSize": 10, "titleFontSize": 11, "labelLimit": 0, "titleLimit": 0},
    },
    "legend": {"title": None, "labelFontSize": 11, "labelLimit": 0, "symbolStrokeWidth": 1.5, "symbolSize": 60},
    "title": {"anchor": "start", "fontSize": 11, "fontWeight": "normal", "limit": 0, "offset": 6},
    "line": {"strokeWidth": 1.6},
    "point": {"filled": True, "opacity": 1},
}


@dataclass(frozen=True, slots=True)
class Style:
    """Colour, marker and dash of one method."""

    color: str
    marker: str
    dash: tuple[int, ...]


DENSE_STYLE = Style(DENSE_COLOR, STAR, (2, 3))


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """One style a label: the first ten have colours of their own, marker and dash differ for the first seventy."""
    colors = [*COLORS, *[OTHER_COLOR] * len(labels)]
    return {
        label: Style(colors[n], MARKERS[n % len(MARKERS)], DASHES[n % len(DASHES)]) for n, label in enumerate(labels)
    }


def file_name(value: str) -> str:
    """A file name out of a protocol key or a model's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", value).strip("-.") or "figure"


def place_width(places: Iterable[str]) -> float:
    """Pixels that every one of these patterns needs on an axis of `TWO_LINES`."""
    return LETTER_WIDTH * (2 + max((len(word) for place in places for word in place.split(" ")), default=0))


def told_apart(known: Mapping[str, Style], *channels: str) -> dict[str, Any]:
    """Encodings of the column `label` by these channels (color, shape, strokeDash), with one legend for all."""
    labels, styles = list(known), list(known.values())
    # The other way round, and not the same domain to Vega-Lite: in one legend, dashes would tear the markers' outlines.
    dashes = altair.Scale(domain=labels[::-1], range=[list(style.dash) for style in styles[::-1]])
    colors = altair.Scale(domain=labels, range=[style.color for style in styles])
    markers = altair.Scale(domain=labels, range=[style.marker for style in styles])
    looks = {
        "color": altair.Color("label:N", title=None, scale=colors),
        "shape": altair.Shape("label:N", title=None, scale=markers),
        "strokeDash": altair.StrokeDash("label:N", scale=dashes, legend=None),
    }
    return {channel: looks[channel] for channel in channels}


def value_scale(values: Iterable[float], *, linear: bool = False) -> tuple[altair.Scale, altair.Axis]:
    """A scale that holds all values, logarithmic where positive ones span more than a factor of ten, or linear."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    if not linear and low > 0 and high > 10 * low:
        margin = (high / low) ** 0.05
        ends = [low / margin, high * margin]
        subs = (1, 2, 5) if high < 200 * low else (1, 3) if high < 5000 * low else (1,)
        powers = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
        ticks = [sub * 10.0**power for power in powers for sub in subs]
        ticks = [tick for tick in ticks if ends[0] <= tick <= ends[1]]
        return altair.Scale(type="log", domain=ends, nice=False), altair.Axis(values=ticks, format=",.6~g")
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    scale = altair.Scale(domain=[low - margin, high + margin], nice=False, zero=False)
    return scale, altair.Axis(tickCount=6, format=",.6~g")


def composed(how: Literal["layer", "hconcat", "vconcat"], parts: Iterable[Any], **properties: Any) -> Spec:
    """Altair's charts, or what was composed of them before, as one: Altair's own way copies all parts at every step."""
    made = (part if isinstance(part, dict) else part.to_dict(validate=False) for part in parts)
    own = ("$schema", "config")
    return {how: [{name: value for name, value in part.items() if name not in own} for part in made], **properties}


def tooltip(*fields: str) -> list[altair.Tooltip]:
    """What a mark says under the pointer; Altair looks up a bare string in its whole schema, which takes 8 ms."""
    return [altair.Tooltip(field) for field in fields]


def with_datasets(spec: Spec) -> Spec:
    """The chart with its rows on top, under the names that its parts give them."""
    found: Spec = {}

    def without(part: Any) -> Any:
        if isinstance(part, list):
            return [without(one) for one in part]
        if isinstance(part, dict):
            found.update(part.get("datasets", {}))
            return {name: without(one) for name, one in part.items() if name != "datasets"}
        return part

    return {**without(spec), "datasets": found}


def titled(chart: Spec, title: str, lines: Sequence[str], width: float) -> Spec:
    """The chart with its title, and below it what a reader must know, wrapped to `width` pixels."""
    said = [part for line in lines if line for part in wrap(clean(line), int(width / LETTER_WIDTH))]
    head = {"text": title, "subtitle": said, "fontSize": 13, "fontWeight": "normal", "offset": 12}
    head |= {"subtitleFontSize": 10, "subtitleColor": QUIET}
    described = {"description": "; ".join(clean(line) for line in lines if line)}
    return {"$schema": SCHEMA} | chart | {"title": head, "config": CONFIG} | described

"""How figures look: eight styles that stay apart for the colour-blind and in grey, scales, captions, the sheet."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any, TypeAlias

from harness.reporting.layout import clean

Spec: TypeAlias = dict[str, Any]
"""A chart, or a part of one, as Vega-Lite."""
Row: TypeAlias = dict[str, Any]
"""A row of a chart's data."""

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"

# The first eight of ten colours for the colour-blind: Petroff 2021, https://arxiv.org/abs/2107.02270 (the other two are
# greys; Okabe and Ito's are eight, one of which is the dense model's black and one a yellow that is faint on white).
COLORS = ("#3f90da", "#bd1f01", "#ffa90e", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#92dadd")
PENTAGON = "M0,-1L0.95,-0.31L0.59,0.81L-0.59,0.81L-0.95,-0.31Z"
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-left", PENTAGON)
DASHES = ((1, 0), (6, 2), (6, 2, 1, 2), (1, 2), (5, 2, 1, 2, 1, 2), (10, 2), (2, 1), (10, 2, 2, 2))
DENSE_COLOR = "#000000"
INK, QUIET, FAINT = "#333333", "#555555", "#bbbbbb"
"""Of labels; of what stands behind; of the series that have no style of their own."""

COLUMN = 360
"""Pixels of a column of the sheet; in print as wide as a column of the paper (3.5 inches), letters have 8 points."""
AXIS_ROOM = 46
"""Pixels of the numbers beside a vertical axis."""
PANEL_HEIGHT = 300
GAP = 16
FONT, SMALL_FONT, TITLE_FONT = 11, 10, 13
LETTER = 0.5
"""Width of a letter of running text by the size of the font."""
LINE_HEIGHT = 13
"""Pixels from one label to the next."""
MARKER = 8
"""Pixels of a marker."""
FAINT_SIZE = 14
"""Area of the markers that only stand behind."""
NARROW = 4
"""Values within such a factor need no logarithm."""
MOST_NAMED = 8
"""Names in a list of the caption; of the rest the number is said."""

CONFIG: Spec = {
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "background": "white",
    "lineBreak": "\n",
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        **{"gridColor": "#dddddd", "domainColor": INK, "tickColor": INK, "titleFontWeight": "normal", "tickSize": 4},
        **{"labelFontSize": SMALL_FONT, "titleFontSize": FONT, "labelLimit": 0, "titleLimit": 0, "titlePadding": 4},
    },
    "title": {"anchor": "start", "frame": "group", "fontSize": FONT, "fontWeight": "normal", "limit": 0, "offset": 6},
    "line": {"strokeWidth": 1.6},
    "point": {"filled": True, "opacity": 1, "size": 45},
    "text": {"fontSize": FONT, "color": INK, "align": "left", "baseline": "middle"},
}


@dataclass(frozen=True, slots=True)
class Style:
    """Colour, marker and dash of a series."""

    color: str
    marker: str
    dash: tuple[int, ...]


STYLES = tuple(Style(*parts) for parts in zip(COLORS, MARKERS, DASHES, strict=True))
Looks: TypeAlias = Mapping[str, Style]
"""The series of one figure that are named, by label."""


def looks_of(chosen: Sequence[str], order: Sequence[str]) -> Looks:
    """A style for each of at most eight series; in another figure the same where no other has taken it.

    Args:
        order: all labels of all figures.
    """
    place = {label: number for number, label in enumerate(order)}
    free, found = list(STYLES), {}
    for label in sorted(chosen, key=place.__getitem__):
        wanted = STYLES[place[label] % len(STYLES)]
        found[label] = free.pop(free.index(wanted) if wanted in free else 0)
    return found


def told_apart(looks: Looks, *channels: str) -> Spec:
    """Encodings of the column `label` by these channels: color, shape, strokeDash."""
    ranges: dict[str, list[Any]] = {
        "color": [style.color for style in looks.values()],
        "shape": [style.marker for style in looks.values()],
        "strokeDash": [list(style.dash) for style in looks.values()],
    }
    return {
        channel: nominal("label", legend=None, scale={"domain": list(looks), "range": ranges[channel]})
        for channel in channels
    }


def nominal(name: str, **properties: Any) -> Spec:
    """The encoding of a field of names."""
    return {"field": name, "type": "nominal", **properties}


def file_name(value: str) -> str:
    """A file name out of a protocol key or a model's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", value).strip("-.") or "figure"


def text_width(text: str, size: float = FONT) -> float:
    """Pixels that a text needs at most, nearly: widths of Liberation Sans, which are Arial's, in three classes."""
    narrow = sum(letter in "fijlrtI.,:;|()[]'/- " for letter in text)
    wide = sum(letter in "mwMW%@=×—" or letter.isupper() for letter in text)
    return size * (0.34 * narrow + 0.86 * wide + 0.56 * (len(text) - narrow - wide))


def listed(names: Iterable[str]) -> str:
    """The names, of too many the first ones and how many more there are."""
    found = list(names)
    more = [f"{len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else []
    return ", ".join([*found[:MOST_NAMED], *more])


@dataclass(frozen=True, slots=True)
class Scale:
    """Values along `length` pixels, from `low` to `high`; of a vertical one pixels count from below.

    Args:
        axis: properties of Vega-Lite's axis.
    """

    low: float
    high: float
    length: float
    log: bool = False
    axis: Spec = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        length: float,
        /,
        *,
        log: bool = False,
        margin: float = MARKER,
        axis: Spec | None = None,
    ) -> "Scale":
        """The scale of all values with a margin in pixels; logarithmic only where they are positive and far apart."""
        found = list(values) or [0.0, 1.0]
        low, high = min(found), max(found)
        log = log and low > 0 and high > NARROW * low
        if low == high:
            low, high = (low / 1.2, high * 1.2) if log else (low - 1, high + 1)
        bare = cls(low, high, length - 2 * margin, log)
        return cls(bare.back(-margin), bare.back(bare.length + margin), length, log, axis or {})

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return self.length * (value - low) / (high - low)

    def back(self, pixel: float) -> float:
        """The value at a pixel."""
        share = pixel / self.length
        low, high = (self.low, self.high) if not self.log else (math.log(self.low), math.log(self.high))
        value = low + share * (high - low)
        return math.exp(value) if self.log else value

    @property
    def ticks(self) -> list[float] | None:
        """Of a logarithmic scale 1, 2, 5 of each power of ten, fewer of many; a linear one finds its own."""
        if not self.log:
            return None
        spans = math.log10(self.high / self.low)
        subs = (1, 2, 5) if spans < 2.5 else (1, 3) if spans < 4 else (1,)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [tick for power in powers for sub in subs if self.low <= (tick := sub * 10.0**power) <= self.high]

    def channel(self, name: str) -> Spec:
        """The encoding of a field along this scale, the same for all layers of a panel: else they lose their titles."""
        scale: Spec = {"domain": [self.low, self.high], "nice": False}
        scale |= {"type": "log"} if self.log else {"zero": False}
        ticks = {"tickCount": 5} if self.ticks is None else {"values": self.ticks}
        shown = {"format": ",.6~g", "title": None, **ticks, **self.axis}
        return {"field": name, "type": "quantitative", "title": shown["title"], "scale": scale, "axis": shown}


def drawn(mark: str, rows: Sequence[Row], encoding: Spec, **properties: Any) -> Spec:
    """One layer of a chart."""
    return {"data": {"values": list(rows)}, "mark": {"type": mark, **properties}, "encoding": encoding}


def tooltip(*fields: str) -> list[Spec]:
    """What a mark says under the pointer."""
    return [nominal(name, title=name) for name in fields]


def panel(layers: Sequence[Spec], across: Scale, up: Scale, title: str) -> Spec:
    """One panel of a sheet."""
    return {"layer": list(layers), "width": across.length, "height": up.length, "title": title}


def widths(panels: int, columns: int) -> list[float]:
    """Pixels inside the axes for each panel, names of its series included; those of a row share the sheet's width."""
    rows = [min(columns, panels - start) for start in range(0, panels, columns)]
    return [columns * COLUMN / count - AXIS_ROOM for count in rows for _ in range(count)]


def sheet(panels: Sequence[Spec], columns: int) -> Spec:
    """The panels in rows of so many."""
    starts = range(0, len(panels), columns)
    return {"vconcat": [{"hconcat": list(panels[start : start + columns]), "spacing": GAP} for start in starts]}


def titled(chart: Spec, title: str, lines: Iterable[str], width: float) -> Spec:
    """The chart under its question, and below that what a reader must know, wrapped to `width` pixels."""
    said = [clean(line) for line in lines if line]
    letters = int(width / (LETTER * SMALL_FONT))
    head: Spec = {"text": "\n".join(wrap(title, int(width / (LETTER * TITLE_FONT)))), "fontSize": TITLE_FONT}
    head |= {"subtitle": [part for line in said for part in wrap(line, letters)], "subtitleFontSize": SMALL_FONT}
    head |= {"subtitleColor": QUIET, "offset": 8, "subtitlePadding": 4, "frame": "bounds"}
    return {"$schema": SCHEMA, **chart, "title": head, "config": CONFIG, "description": "; ".join(said)}


def with_datasets(spec: Spec) -> Spec:
    """The chart with its rows on top under names, equal rows once."""
    found: Spec = {}
    names: dict[str, str] = {}

    def without(part: Any) -> Any:
        if isinstance(part, list):
            return [without(one) for one in part]
        if not isinstance(part, dict):
            return part
        if isinstance(rows := part.get("values"), list) and part.keys() == {"values"}:
            name = names.setdefault(json.dumps(rows), f"rows-{len(names) + 1}")
            found[name] = rows
            return {"name": name}
        found.update(part.get("datasets", {}))
        return {name: without(one) for name, one in part.items() if name != "datasets"}

    return {**without(spec), "datasets": found}


def paged(items: Sequence[Any], size: int) -> Iterator[tuple[str, Sequence[Any]]]:
    """The items in pages of at most `size`, each with what its file's name ends in."""
    pages = [items[start : start + size] for start in range(0, len(items), size)]
    for number, page in enumerate(pages, start=1):
        yield f"-page{number}" if len(pages) > 1 else "", page

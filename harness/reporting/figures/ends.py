"""Names of series at the ends of their lines, each with its marker, none on another name or a marker of the data."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.reporting.figures.look import (
    FONT,
    INK,
    LINE_HEIGHT,
    MARKER,
    QUIET,
    Looks,
    Row,
    Scale,
    Spec,
    drawn,
    nominal,
    text_width,
    told_apart,
    tooltip,
)
from harness.reporting.figures.places import Box, crosses, spread
from harness.reporting.figures.points import Point
from harness.reporting.layout import number

COUNT_WIDTH = 40
"""Pixels of the count of what lies beyond a panel."""
LEADER = 10
"""Pixels between the data and the names beside them."""
LONGEST = 26
"""Letters of a name."""


@dataclass(frozen=True, slots=True)
class End:
    """The last point of a series, in pixels.

    Args:
        last: whether the data end here, too; the name of another series may stand inside.
    """

    label: str
    x: float
    y: float
    jobs: tuple[str, ...]
    last: bool = True


def short_names(labels: Iterable[str]) -> Mapping[str, str]:
    """What is written at each line: the method, with its setting where several have it, as far as there is room."""
    found = list(labels)
    count = Counter(label.split(", ")[0] for label in found)
    names: dict[str, str] = {}
    for label in sorted(found, key=len):
        method, *_ = label.split(", ")
        bare = re.sub(r"\w+=", "", label)
        tries = [*([method] if count[method] == 1 else []), label, bare, f"{bare[: LONGEST - 1]}…"]
        names[label] = next((name for name in tries[:-1] if len(name) <= LONGEST), tries[-1])
    double = Counter(names.values())
    return {label: name if double[name] == 1 else label for label, name in names.items()}


def spelled(names: Mapping[str, str]) -> str:
    """Of the names that leave something out: the whole."""
    return "; ".join(f"{name}: {label.removeprefix(f'{name}, ')}" for label, name in names.items() if name != label)


def room(names: Iterable[str]) -> float:
    """Pixels that names need beside the data."""
    return max((text_width(name) for name in names), default=0.0) + LEADER + 2 * MARKER


def end_layers(
    ends: Sequence[End], names: Mapping[str, str], looks: Looks, across: Scale, up: Scale, markers: Iterable[Box] = ()
) -> list[Spec]:
    """Leaders, markers and names of these ends: beside the data, or inside where a series ends and nothing stands."""
    taken, within = list(markers), []
    for end in ends:
        for move in () if end.last else (0, -FONT / 2, FONT / 2, -FONT, FONT):
            left, middle = end.x + MARKER, end.y + move
            box = (left, middle - FONT / 2, left + text_width(names[end.label]), middle + FONT / 2)
            if box[2] < across.length and box[1] > 0 and box[3] < up.length and not crosses(box, taken):
                taken.append(box)
                within.append(_row(end, names, across, up, middle))
                break
    found = {row["label"] for row in within}
    beside = [end for end in ends if end.label not in found]
    heights = spread([end.y for end in beside], LINE_HEIGHT, LINE_HEIGHT / 2, up.length - LINE_HEIGHT / 2)
    rows = [_row(end, names, across, up, height) for end, height in zip(beside, heights, strict=True)]
    named = {"text": nominal("name"), "y": up.channel("beside")}
    start, marker = across.channel("x"), {"value": across.length + LEADER + MARKER / 2}
    keyed = [row for row in rows if row["label"] in looks]
    ink = {"color": {"value": INK}}
    return [
        drawn(
            "rule",
            keyed,
            {
                "x": start,
                "x2": {"value": across.length + LEADER},
                "y": up.channel("y"),
                "y2": {"field": "beside"},
                **told_apart(looks, "color"),
            },
            strokeWidth=0.8,
            opacity=0.7,
            clip=False,
        ),
        drawn("point", keyed, {"x": marker, "y": up.channel("beside"), **told_apart(looks, "color", "shape")}),
        drawn("text", rows, {"x": {"value": across.length + LEADER + MARKER}, **named, **ink}, dx=4),
        drawn("text", within, {"x": start, **named, **ink}, dx=MARKER),
    ]


def beyond_layer(far: Sequence[tuple[Point, float]], across: Scale, up: Scale) -> Spec:
    """Above the panel how many points lie beyond it, near where they would stand."""
    groups: dict[int, list[tuple[Point, float]]] = defaultdict(list)
    for point, x in far:
        groups[round(across.at(x) / COUNT_WIDTH)].append((point, x))
    rows = [
        {"x": fmean(x for _, x in some), "y": up.high, "count": f"▲ {len(some)}"}
        | {"who": ", ".join(f"{point.label} {number(point.value)}" for point, _ in some)}
        | {"jobs": [job for point, _ in some for job in point.jobs]}
        for some in groups.values()
    ]
    encoding = {"x": across.channel("x"), "y": up.channel("y"), "text": nominal("count"), "tooltip": tooltip("who")}
    return drawn("text", rows, encoding, align="center", dy=-8, color=QUIET)


def _row(end: End, names: Mapping[str, str], across: Scale, up: Scale, height: float) -> Row:
    here = {"x": across.back(end.x), "y": up.back(end.y), "beside": up.back(height)}
    return {"label": end.label, "name": names[end.label], **here, "jobs": list(end.jobs)}

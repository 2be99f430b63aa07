"""Quality against how much was removed: perplexity over sparsity, accuracy over compression."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import altair

from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, Looks, NotDrawn, Picture, Row, Sheet, rows_of
from harness.reporting.figures.data import Data
from harness.reporting.figures.points import Panel, Point
from harness.reporting.layout import clean
from harness.reporting.published import DENSE

MARKER_WIDTH = 9
"""Pixels of a pattern beside the lines for every series."""
TOOLTIP = ("label:N", "model:N", "place:N", "value:Q", "error:Q", "jobs:N")


@dataclass(frozen=True, slots=True)
class Across:
    """The horizontal axis: how much was removed."""

    title: str
    of: Callable[[Point], float]
    note: str = ""


SPARSITY = Across("sparsity [% zeros]", lambda point: 100 * point.sparsity)
COMPRESSION = Across(
    "compression [×]",
    lambda point: 1 / (1 - point.achieved),
    "compression: prunable weights / those that are not zero, counted",
)


@FIGURES.register("perplexity")
def perplexity(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol that the perplexity of pruned models was measured under."""
    return _curves(data, "perplexity", ("perplexity",), SPARSITY)


@FIGURES.register("accuracy")
def accuracy(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol that the accuracy of pruned models was measured under."""
    return _curves(data, "accuracy", ("zero_shot", "accuracy"), COMPRESSION)


def _curves(data: Data, name: str, kinds: tuple[str, ...], across: Across) -> Iterator[Picture | NotDrawn]:
    draw = partial(curve_panel, across=across)
    sheet = Sheet(name, f"What does pruning cost in {name}?", draw, lambda each: [across.note, errors(each.points)])
    return sheet.drawn(
        data, lambda each: each.kind in kinds and bool(each.points), f"no pruned model has a finite {name}"
    )


def curve_panel(panel: Panel, looks: Looks, across: Across) -> look.Spec:
    """Unstructured sparsities as lines; beside them every other pattern in a place of its own, for 2:4 is not 50 %."""
    looks = {label: replace(style, marker="stroke") if label == DENSE else style for label, style in looks.items()}
    lines = [point for point in panel.points if point.pattern == "unstructured"]
    rest = [point for point in panel.points if point.pattern != "unstructured"]
    ends = [min(end, panel.edge) for point in panel.drawn for end in (point.value, point.low, point.high)]
    scale, axis = look.value_scale((end for end in ends if end > 0), linear=panel.higher_is_better)
    quality, parts = partial(altair.Y, scale=scale, axis=axis, title=panel.label), []
    if lines or not rest:
        rows = [row | {"x": across.of(point)} for row, point in zip(rows_of(lines, panel), lines, strict=True)]
        x = altair.X(
            "x:Q", title=across.title, scale=altair.Scale(zero=False, nice=False, padding=8), axis={"tickCount": 5}
        )
        parts.append(_layers(panel, rows, looks, {"x": x}, quality) | {"width": look.PANEL_WIDTH})
    if rest:
        places = [place for place in panel.places if place in {point.place for point in rest}]
        labels = [label for label in looks if label in {point.label for point in rest}]
        where = {
            "x": altair.X("place:N", title="pattern", sort=places, axis=altair.Axis(grid=False, **look.TWO_LINES)),
            "xOffset": altair.XOffset("label:N", sort=labels),
        }
        empty = altair.Axis(values=axis["values"], labels=False, ticks=False, domain=False)
        bare = partial(altair.Y, scale=scale, axis=empty, title="")
        width = len(places) * max(look.place_width(places), MARKER_WIDTH * len(labels))
        beside = _layers(panel, rows_of(rest, panel), looks, where, bare if parts else quality)
        parts.append(beside | {"width": width})
    return look.composed("hconcat", parts, spacing=4, title=clean(panel.model))


def _layers(panel: Panel, rows: list[Row], looks: Looks, across: look.Spec, y: partial[altair.Y]) -> look.Spec:
    """Dense model, lines, error bars and points, the later over the earlier."""
    base = altair.Chart(altair.InlineData(values=rows)).encode(**across)
    dense = altair.Chart(altair.InlineData(values=rows_of([panel.dense], panel) if panel.dense else []))
    layers = [
        dense.mark_rect(color=look.DENSE_COLOR, opacity=0.08).encode(y=y("low:Q"), y2=altair.Y2("high:Q")),
        dense.mark_rule(size=1.3).encode(**look.told_apart(looks, "color", "strokeDash"), y=y("value:Q")),
    ]
    if "xOffset" not in across:
        lines = base.mark_line(clip=True).encode(**look.told_apart(looks, "color", "strokeDash"))
        layers.append(lines.encode(y=y("value:Q"), order=altair.Order("x:Q")))
    bars = base.transform_filter("datum.error > 0").mark_rule(opacity=0.7, clip=True)
    layers.append(bars.encode(**look.told_apart(looks, "color"), y=y("low:Q"), y2=altair.Y2("high:Q")))
    marks = base.mark_point(size=40).encode(**look.told_apart(looks, "color", "shape"))
    layers.append(marks.encode(y=y("shown:Q"), tooltip=look.tooltip(*TOOLTIP)))
    return look.composed("layer", layers, height=look.PANEL_HEIGHT)


def errors(points: list[Point]) -> str:
    """What the error bars of these points are."""
    jobs = {len(point.jobs) > 1 for point in points if point.error is not None}
    said = {False: "standard error", True: "standard deviation over seeds where there are several"}
    return f"error bars: {'; '.join(said[several] for several in sorted(jobs))}" if jobs else ""

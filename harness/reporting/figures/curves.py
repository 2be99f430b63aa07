"""Quality against how much was removed: perplexity over sparsity, accuracy over compression."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harness.reporting.axes import pattern_order
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.look import (
    DENSE_COLOR,
    DENSE_STYLE,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    Spec,
    composed,
    tooltip,
    value_scale,
)
from harness.reporting.figures.points import Data, Panel, Point, pattern_name
from harness.reporting.figures.sheet import Looks, Row, Sheet, row_of
from harness.reporting.frame import DENSE
from harness.reporting.layout import clean, unique

Across = Callable[[Point], float]
PLACE_WIDTH = 46
"""Pixels of a pattern beside the lines."""


def sparsity_percent(point: Point) -> float:
    """Zeros asked for, in percent."""
    return 100 * point.sparsity


def compression(point: Point) -> float:
    """How many times fewer prunable weights are not zero, counted."""
    return 1 / (1 - point.achieved)


@FIGURES.register("perplexity")
def perplexity(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol that the perplexity of pruned models was measured under."""
    return _curves(data, "perplexity", ("perplexity",), (sparsity_percent, "sparsity [% zeros]"))


@FIGURES.register("accuracy")
def accuracy(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol that the accuracy of pruned models was measured under."""
    return _curves(data, "accuracy", ("zero_shot", "accuracy"), (compression, "compression [×]"))


def _curves(data: Data, name: str, kinds: tuple[str, ...], x: tuple[Across, str]) -> Iterator[Picture | NotDrawn]:
    counted = x[0] is compression
    title = f"{name.capitalize()} against {'compression' if counted else 'sparsity'}"
    notes = ["compression: prunable weights / those that are not zero, counted"] if counted else []
    known = {**data.styles, DENSE: replace(DENSE_STYLE, marker="stroke")}
    drawn = False
    for each in data.measurements:
        if each.kind in kinds and any(one.series for one in each.panels.values()):
            drawn = True
            said = [*notes, *errors(each.panels.values())]
            yield from Sheet(name, title, partial(curve_panel, x=x), said).pages(each, known)
    if not drawn:
        yield NotDrawn(name, f"no pruned model has a {name} that is a finite number")


@dataclass(frozen=True, slots=True)
class Quality:
    """The upward axis of a panel: the same for all that is drawn in it."""

    scale: Any
    axis: Any
    title: str

    def __call__(self, field: str = "value") -> Any:
        import altair

        return altair.Y(f"{field}:Q", scale=self.scale, axis=self.axis, title=self.title)


def curve_panel(panel: Panel, looks: Looks, x: tuple[Across, str]) -> Spec:
    """Unstructured sparsities as lines; beside them every other pattern in a place of its own, for 2:4 is not 50 %."""
    import altair

    rows = [
        row_of(one, panel, point)
        | {"x": x[0](point), "place": pattern_name(point.pattern, point.sparsity), "order": order}
        for order, one in enumerate(panel.series)
        for point in one.points
    ]
    lines = [row for row in rows if row["pattern"] == "unstructured"]
    points = [point for one in panel.series for point in one.points if point.pattern != "unstructured"]
    ordered = sorted(points, key=lambda point: pattern_order(point.pattern, point.sparsity))
    patterns = unique([pattern_name(point.pattern, point.sparsity) for point in ordered])
    scale, axis = value_scale(
        row[end] for row in [*rows, *_dense(panel)] for end in ("value", "low", "high") if row[end] > 0
    )
    quality = Quality(scale, axis, panel.label)
    parts = []
    if lines or not patterns:
        across = altair.X(
            "x:Q", title=x[1], scale=altair.Scale(zero=False, nice=False, padding=8), axis=altair.Axis(tickCount=5)
        )
        parts.append(_layers(panel, lines, looks, {"x": across}, quality, PANEL_WIDTH))
    if patterns:
        place = {
            "x": altair.X("place:N", title="pattern", sort=patterns, axis=altair.Axis(labelAngle=0, grid=False)),
            "xOffset": altair.XOffset("label:N", sort=list(looks.labels)),
        }
        bare = altair.Axis(values=axis["values"], labels=False, ticks=False, domain=False)
        rest = [row for row in rows if row["pattern"] != "unstructured"]
        parts.append(
            _layers(
                panel, rest, looks, place, Quality(scale, bare, "") if parts else quality, PLACE_WIDTH * len(patterns)
            )
        )
    return composed("hconcat", parts, spacing=4, title=clean(panel.model))


def _dense(panel: Panel) -> list[Row]:
    return [row_of(None, panel, panel.dense)] if panel.dense else []


def _layers(panel: Panel, rows: list[Row], looks: Looks, across: dict[str, Any], y: "Quality", width: int) -> Spec:
    """Dense model, lines, error bars and points, the later over the earlier."""
    import altair

    base = altair.Chart(altair.InlineData(values=rows)).encode(**across)
    dense = altair.Chart(altair.InlineData(values=_dense(panel)))
    layers = [
        dense.mark_rect(color=DENSE_COLOR, opacity=0.08).encode(y=y("low"), y2=altair.Y2("high:Q")),
        dense.mark_rule(size=1.3).encode(**looks("color", "strokeDash"), y=y()),
    ]
    if "xOffset" not in across:
        layers.append(base.mark_line().encode(**looks("color", "strokeDash"), y=y(), order=altair.Order("x:Q")))
    said = tooltip("label:N", "model:N", "place:N", "value:Q", "error:Q", "jobs:N")
    bars = base.transform_filter("datum.error > 0")
    layers.append(bars.mark_rule(opacity=0.7).encode(**looks("color"), y=y("low"), y2=altair.Y2("high:Q")))
    layers.append(base.mark_point(size=36).encode(**looks("color", "shape"), y=y(), tooltip=said))
    return composed("layer", layers, width=width, height=PANEL_HEIGHT)


def errors(panels: Any) -> list[str]:
    """What the error bars of these panels are."""
    points: list[Point] = [point for one in panels for series in one.series for point in series.points]
    seeds = any(point.error is not None and len(point.job_ids) > 1 for point in points)
    single = any(point.error is not None and len(point.job_ids) == 1 for point in points)
    said = (["standard error"] if single else []) + (["standard deviation over seeds where there are several"] * seeds)
    return [f"error bars: {'; '.join(said)}"] if said else []

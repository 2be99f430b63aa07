"""Quality against what it costs: which jobs no other job beats in both."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from harness.record import EvalResult
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data, Measurement
from harness.reporting.figures.look import (
    PANEL_HEIGHT,
    PANEL_WIDTH,
    QUIET,
    Spec,
    composed,
    told_apart,
    tooltip,
    value_scale,
)
from harness.reporting.figures.points import Panel, Point
from harness.reporting.figures.sheet import Looks, Sheet, rows_of
from harness.reporting.layout import clean

SPEED_METRICS = ("tokens_per_second", "latency")
"""Metrics of a result that are a measured speed; others are none."""

QUALITY = ("perplexity", "zero_shot", "accuracy")
"""Kinds of evaluation that tell how good a model is."""

MILLION = 1e6
BEATEN_OPACITY = 0.4
NOTES = (
    "grey steps: Pareto front; pale: another job is at least as good in both, and better in one",
    "hollow: a pattern other than unstructured",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job costs, by job id.

    Args:
        name: part of the file name; label: of the axis, with its unit.
        less_is_better: direction.
    """

    name: str
    label: str
    values: Mapping[str, float]
    less_is_better: bool = True

    def of(self, point: Point) -> float | None:
        """The mean over the point's jobs."""
        known = [self.values[job_id] for job_id in point.jobs if job_id in self.values]
        return fmean(known) if known else None


@FIGURES.register("pareto-size")
def size_front(data: Data) -> Iterator[Picture | NotDrawn]:
    """Quality against the weights that are left, a figure for every protocol."""
    size = sizes(data)
    if size.values:
        yield from _of(size, data, "Which jobs have the best quality for their size?")
    else:
        yield NotDrawn("pareto-size", "no record lists the shapes of its layers")


@FIGURES.register("pareto-speed")
def speed_fronts(data: Data) -> Iterator[Picture | NotDrawn]:
    """Quality against every speed that was measured, a figure for every protocol."""
    found = list(speeds(data))
    for speed in found:
        yield from _of(speed, data, "Which jobs have the best quality for their speed?")
    if not found:
        yield NotDrawn("pareto-speed", "not measured: no record has a measured speed")


def sizes(data: Data) -> Cost:
    """Weights of the blocks that are not zero, in millions; the dense model's count is that of its pruned jobs."""
    prunable = {
        data.jobs[record.job_id].checkpoint: sum(layer.shape[0] * layer.shape[1] for layer in record.layers)
        + (record.unreached_weights or 0)
        for record in reversed(data.records)
        if record.layers
    }
    values = {}
    for job_id, job in data.jobs.items():
        if job.checkpoint in prunable and job.counted is not None:
            values[job_id] = prunable[job.checkpoint] * (1 - job.counted) / MILLION
    return Cost("size", "non-zero prunable weights [millions]", values)


def speeds(data: Data) -> Iterator[Cost]:
    """Every speed that was measured."""
    found: dict[tuple[str, str], dict[str, EvalResult]] = defaultdict(dict)
    for entry in data.entries:
        for result in entry.results:
            if result.metric in SPEED_METRICS and result.value is not None:
                found[result.metric, result.protocol][entry.job.job_id] = result
    for (metric, protocol), results in sorted(found.items()):
        values = {job_id: result.value for job_id, result in results.items() if result.value is not None}
        less = not next(iter(results.values())).higher_is_better
        yield Cost(f"{metric}-{protocol}", f"{metric} ({protocol})", values, less)


def front(costs: Sequence[float], values: Sequence[float], *, less: bool, higher: bool) -> list[int]:
    """Indices of the points that no other point beats in one coordinate and equals or beats in the other, by cost.

    Args:
        costs, values: coordinates; less: a smaller cost is better; higher: a larger value is better.
    """
    order = sorted(
        range(len(costs)), key=lambda n: (costs[n] if less else -costs[n], -values[n] if higher else values[n])
    )
    kept: list[int] = []
    for number in order:
        if not kept or (values[number] > values[kept[-1]] if higher else values[number] < values[kept[-1]]):
            kept.append(number)
    return kept


def _of(cost: Cost, data: Data, title: str) -> Iterator[Picture | NotDrawn]:
    def wanted(each: Measurement) -> bool:
        return each.kind in QUALITY and any(cost.of(point) is not None for point in each.points)

    sheet = Sheet(f"pareto-{cost.name}", title, partial(front_panel, cost=cost), lambda _: NOTES)
    return sheet.drawn(data, wanted, "no pruned model has both a finite quality and this cost")


def front_panel(panel: Panel, looks: Looks, cost: Cost) -> Spec:
    """One marker a point, and the front over all of them with the dense model."""
    import altair

    points = [point for point in panel.drawn if cost.of(point) is not None]
    costs = [value for value in map(cost.of, points) if value is not None]
    best = front(costs, [one.value for one in points], less=cost.less_is_better, higher=panel.higher_is_better)
    rows = rows_of(points, panel)
    for number, (row, spent) in enumerate(zip(rows, costs, strict=True)):
        row |= {"cost": spent, "leads": number in best}
        row["hollow"] = row["pattern"] not in ("unstructured", "dense")
    across, across_axis = value_scale(costs)
    up, up_axis = value_scale((row["shown"] for row in rows), linear=panel.higher_is_better)
    base = altair.Chart(altair.InlineData(values=rows)).encode(
        x=altair.X("cost:Q", title=cost.label, scale=across, axis=across_axis),
        y=altair.Y("shown:Q", title=panel.label, scale=up, axis=up_axis),
    )
    marks = base.encode(
        **told_apart(looks, "color", "shape"),
        opacity=altair.condition("datum.leads", altair.value(1), altair.value(BEATEN_OPACITY)),
        tooltip=tooltip("label:N", "model:N", "place:N", "cost:Q", "value:Q", "jobs:N"),
    )
    steps = base.transform_filter("datum.leads").mark_line(
        color=QUIET, strokeWidth=1, interpolate="step-after" if cost.less_is_better else "step-before"
    )
    solid = marks.transform_filter("!datum.hollow").mark_point(size=50, filled=True)
    hollow = marks.transform_filter("datum.hollow").mark_point(size=50, filled=False, strokeWidth=1.4)
    parts = (steps.encode(order=altair.Order("cost:Q")), solid, hollow)
    return composed("layer", parts, width=PANEL_WIDTH, height=PANEL_HEIGHT, title=clean(panel.model))

"""Quality against what it costs: which jobs no other job beats in both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import altair

from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, Looks, NotDrawn, Picture, Sheet, rows_of
from harness.reporting.figures.data import Data, Measurement
from harness.reporting.figures.points import Panel, Point
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
    values: dict[str, float]
    less_is_better: bool = True

    def of(self, point: Point) -> float | None:
        """The mean over the point's jobs."""
        known = [self.values[job_id] for job_id in point.jobs if job_id in self.values]
        return fmean(known) if known else None

    def fits(self, measured: Measurement) -> bool:
        """Whether it is the quality of some point with this cost."""
        return measured.kind in QUALITY and any(self.of(point) is not None for point in measured.points)


@FIGURES.register("pareto-size")
def size_front(data: Data) -> Iterator[Picture | NotDrawn]:
    """Quality against the weights that are left, a figure for every protocol."""
    size = sizes(data)
    return _fronts(data, "size", [size] if size.values else [], "no record lists the shapes of its layers")


@FIGURES.register("pareto-speed")
def speed_fronts(data: Data) -> Iterator[Picture | NotDrawn]:
    """Quality against every speed that was measured, a figure for every protocol."""
    return _fronts(data, "speed", speeds(data), "not measured: no record has a measured speed")


def _fronts(data: Data, name: str, costs: Sequence[Cost], why_not: str) -> Iterator[Picture | NotDrawn]:
    if not costs:
        yield NotDrawn(f"pareto-{name}", why_not)
    for cost in costs:
        title, draw = f"Which jobs have the best quality for their {name}?", partial(front_panel, cost=cost)
        sheet = Sheet(f"pareto-{cost.name}", title, draw, lambda _: NOTES)
        yield from sheet.drawn(data, cost.fits, "no pruned model has both a finite quality and this cost")


def sizes(data: Data) -> Cost:
    """Weights of the blocks that are not zero, in millions; the dense model's count is that of its pruned jobs."""
    prunable = {
        data.jobs[record.job_id].checkpoint: sum(layer.shape[0] * layer.shape[1] for layer in record.layers)
        + (record.unreached_weights or 0)
        for record in reversed(data.records)
        if record.layers
    }
    values = {
        job_id: prunable[job.checkpoint] * (1 - job.counted) / MILLION
        for job_id, job in data.jobs.items()
        if job.checkpoint in prunable and job.counted is not None
    }
    return Cost("size", "non-zero prunable weights [millions]", values)


def speeds(data: Data) -> list[Cost]:
    """Every speed that was measured, by metric and protocol."""
    found: dict[tuple[str, str], Cost] = {}
    for entry in data.entries:
        for result in entry.results:
            if result.metric in SPEED_METRICS and result.value is not None:
                metric, protocol = result.metric, result.protocol
                cost = Cost(f"{metric}-{protocol}", f"{metric} ({protocol})", {}, not result.higher_is_better)
                found.setdefault((metric, protocol), cost).values[entry.job.job_id] = result.value
    return [found[key] for key in sorted(found)]


def front(costs: Sequence[float], values: Sequence[float], *, less: bool, higher: bool) -> list[int]:
    """Indices of the points that no other point beats in one coordinate and equals or beats in the other, by cost.

    Args:
        costs, values: coordinates; less: a smaller cost is better; higher: a larger value is better.
    """
    points = [(cost if less else -cost, value if higher else -value) for cost, value in zip(costs, values, strict=True)]
    kept: list[int] = []
    for number in sorted(range(len(points)), key=lambda number: (points[number][0], -points[number][1])):
        if not kept or points[number][1] > points[kept[-1]][1]:
            kept.append(number)
    return kept


def front_panel(panel: Panel, looks: Looks, cost: Cost) -> look.Spec:
    """One marker a point, and the front over all of them with the dense model."""
    points = [point for point in panel.drawn if cost.of(point) is not None]
    costs = [value for value in map(cost.of, points) if value is not None]
    best = front(costs, [one.value for one in points], less=cost.less_is_better, higher=panel.higher_is_better)
    rows = rows_of(points, panel)
    for number, (row, spent) in enumerate(zip(rows, costs, strict=True)):
        row |= {"cost": spent, "leads": number in best}
        row["hollow"] = row["pattern"] not in ("unstructured", "dense")
    across, across_axis = look.value_scale(costs)
    up, up_axis = look.value_scale((row["shown"] for row in rows), linear=panel.higher_is_better)
    base = altair.Chart(altair.InlineData(values=rows)).encode(
        x=altair.X("cost:Q", title=cost.label, scale=across, axis=across_axis),
        y=altair.Y("shown:Q", title=panel.label, scale=up, axis=up_axis),
    )
    marks = base.encode(
        **look.told_apart(looks, "color", "shape"),
        opacity=altair.condition("datum.leads", altair.value(1), altair.value(BEATEN_OPACITY)),
        tooltip=look.tooltip("label:N", "model:N", "place:N", "cost:Q", "value:Q", "jobs:N"),
    )
    steps = base.transform_filter("datum.leads").mark_line(
        color=look.QUIET, strokeWidth=1, interpolate="step-after" if cost.less_is_better else "step-before"
    )
    solid = marks.transform_filter("!datum.hollow").mark_point(size=50, filled=True)
    hollow = marks.transform_filter("datum.hollow").mark_point(size=50, filled=False, strokeWidth=1.4)
    parts = (steps.encode(order=altair.Order("cost:Q")), solid, hollow)
    return look.composed("layer", parts, width=look.PANEL_WIDTH, height=look.PANEL_HEIGHT, title=clean(panel.model))

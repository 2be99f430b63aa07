"""Quality against size: which jobs no other job beats in both."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture, captioned
from harness.reporting.figures.data import Data
from harness.reporting.figures.ends import End, beyond_layer, end_layers, room, short_names
from harness.reporting.figures.look import MARKER, Looks, Scale, Spec, drawn
from harness.reporting.figures.places import Box, marker_boxes
from harness.reporting.figures.points import MOST_SERIES, Panel, Point, row_of
from harness.reporting.published import DENSE

MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Cost:
    """What quality is set against, the less the better.

    Args:
        name: of the figure; word: in its title.
        axis: its title.
        lacking: what was not found where there is no figure.
    """

    name: str
    word: str
    axis: str
    lacking: str


SIZE = Cost(
    "pareto-size",
    "size",
    "non-zero prunable weights [millions]",
    "no pruned model has a finite quality and lists the shapes of its layers",
)
TIME = Cost(
    "pareto-speed",
    "speed",
    "time to read a prompt [× dense]",
    "no pruned model has a finite quality and a speed (evaluation.efficiency=[speed])",
)


@FIGURES.register(SIZE.name)
def size_front(data: Data) -> Iterator[Picture | NotDrawn]:
    """Quality against the weights that are left, a figure for every model and protocol."""
    return _fronts(data, SIZE, sizes(data))


@FIGURES.register(TIME.name)
def speed_front(data: Data) -> Iterator[Picture | NotDrawn]:
    """Quality against the time that a prompt takes, over the dense model's: a figure for every model and protocol."""
    return _fronts(data, TIME, times(data))


def _fronts(data: Data, cost: Cost, known: Mapping[str, float]) -> Iterator[Picture | NotDrawn]:
    found = False
    for panel in data.panels:
        points = [point for point in panel.points if known.keys() & point.jobs]
        if points:
            found = True
            costs = {one: fmean(known[job] for job in one.jobs if job in known) for one in points}
            if panel.dense and known.keys() & panel.dense.jobs:
                costs[panel.dense] = fmean(known[job] for job in panel.dense.jobs)
            shown = replace(panel, points=tuple(points))
            chart = front_panel(shown, costs, cost.axis, look.widths(1, data.columns)[0])
            notes = ["grey: another job is as good in both and better in one; steps: the front"]
            notes += [panel.beyond_note] if any(point.value > panel.edge for point in costs) else []
            title = f"Which jobs have the best quality for their {cost.word}?"
            spec = captioned(look.sheet([chart], 1), title, data, panel, notes)
            yield Picture(data.named(cost.name, panel), spec)
    if not found:
        yield NotDrawn(cost.name, cost.lacking)


def sizes(data: Data) -> Mapping[str, float]:
    """Weights of the blocks that are not zero, in millions, by job; the dense model has those of its pruned jobs."""
    prunable = {
        data.jobs[record.job_id].checkpoint: sum(layer.shape[0] * layer.shape[1] for layer in record.layers)
        + (record.unreached_weights or 0)
        for record in reversed(data.records)
        if record.layers
    }
    return {
        job_id: prunable[job.checkpoint] * (1 - job.counted) / MILLION
        for job_id, job in data.jobs.items()
        if job.checkpoint in prunable and job.counted is not None
    }


def times(data: Data) -> Mapping[str, float]:
    """Time that a prompt takes over the dense model's, by job; of a dense model that is 1."""
    speeds = [(entry.job, one) for entry in data.entries for one in entry.results if one.metric == "prefill_speedup"]
    usual = Counter(one.protocol for _, one in speeds).most_common(1)  # of several prompts the one of most jobs
    found = {job.job_id: 1 / one.value for job, one in speeds if one.value and one.protocol == usual[0][0]}
    models = {data.jobs[job_id].checkpoint for job_id in found}
    dense = {job_id: 1.0 for job_id, job in data.jobs.items() if job.is_dense and job.checkpoint in models}
    return found | dense


def front(sizes: Sequence[float], values: Sequence[float], *, higher: bool) -> list[int]:
    """Indices of the points that no other point beats in one coordinate and equals or beats in the other, by size.

    Args:
        sizes: the smaller is the better; values: the larger where `higher`, else the smaller.
    """
    points = [(size, value if higher else -value) for size, value in zip(sizes, values, strict=True)]
    kept: list[int] = []
    for number in sorted(range(len(points)), key=lambda number: (points[number][0], -points[number][1])):
        if not kept or points[number][1] > points[kept[-1]][1]:
            kept.append(number)
    return kept


def front_panel(panel: Panel, costs: Mapping[Point, float], axis: str, width: float) -> Spec:
    """All jobs in grey, those of the front named."""
    points = [point for point in costs if point.value <= panel.edge]
    xs, ys = [costs[point] for point in points], [point.value for point in points]
    leaders = [points[number] for number in front(xs, ys, higher=panel.higher_is_better)]
    named = [point for point in leaders if point.label != DENSE][:MOST_SERIES]
    short = short_names({point.label: None for point in named})
    names = {_label(point): f"{short[point.label]} {point.place}" for point in named}
    names |= {DENSE: f"dense {panel.dense.value:.1f}"} if panel.dense else {}
    looks = look.looks_of([*map(_label, named)], [*map(_label, named)])
    width -= room([names.get(DENSE, "")])
    across = Scale.of(costs.values(), width, log=True, margin=2 * MARKER, axis={"title": axis})
    up = Scale.of(ys, look.PANEL_HEIGHT, log=not panel.higher_is_better)
    at = {point: (across.at(costs[point]), up.at(point.value)) for point in points}
    ends = [
        End(_label(point), *at[point], point.jobs, last=point.label == DENSE)
        for point in leaders
        if _label(point) in names
    ]
    layers = _layers([*at], costs, leaders, looks, across, up)
    layers.append(beyond_layer([(point, x) for point, x in costs.items() if point not in at], across, up))
    steps = _steps([at[point] for point in leaders])
    layers += end_layers(ends, names, looks, across, up, [*marker_boxes(at.values(), MARKER), *steps])
    return look.panel(layers, across, up, panel.label)


def _label(point: Point) -> str:
    return point.label if point.label == DENSE else f"{point.label}, {point.place}"


def _steps(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Boxes round the steps of the front, which no name may cross."""
    boxes = []
    for (left, y), (right, other) in pairwise(corners):
        boxes += [(left, y - 1, right, y + 1), (right - 1, min(y, other), right + 1, max(y, other))]
    return boxes


def _layers(
    points: Sequence[Point],
    costs: Mapping[Point, float],
    leaders: Sequence[Point],
    looks: Looks,
    across: Scale,
    up: Scale,
) -> list[Spec]:
    """The front, then all points: grey, those of the front, the dense model."""
    rows = {point: row_of(point, costs[point]) | {"label": _label(point)} for point in points}
    encoding = {"x": across.channel("x"), "y": up.channel("value")}
    said = encoding | {"tooltip": look.tooltip("label", "model", "place", "x", "value", "jobs")}
    grey, keyed, dense = (
        [row for row in rows.values() if kind == (row["label"] in looks) + 2 * (row["label"] == DENSE)]
        for kind in (0, 1, 2)
    )
    steps = [rows[point] for point in leaders]
    return [
        drawn("line", steps, encoding, interpolate="step-after", color=look.QUIET, strokeWidth=1),
        drawn("point", grey, said, color=look.FAINT, size=look.FAINT_SIZE),
        drawn("point", keyed, said | look.told_apart(looks, "color", "shape")),
        drawn("point", dense, said, color=look.DENSE_COLOR),
    ]

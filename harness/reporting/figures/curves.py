"""Which method, or which allocation, loses least: quality over sparsity, a panel for every kind of pattern."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.patterns import parse_n_of_m
from harness.reporting.axes import short_labels
from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture, captioned
from harness.reporting.figures.data import Data
from harness.reporting.figures.ends import End, beyond_layer, end_layers, room, short_names, spelled
from harness.reporting.figures.look import MARKER, Looks, Scale, Spec, drawn
from harness.reporting.figures.places import Pixel, marker_boxes, side_by_side
from harness.reporting.figures.points import MOST_FAINT, MOST_SERIES, Panel, Point, row_of
from harness.reporting.frame import JobRow
from harness.reporting.layout import number
from harness.reporting.published import DENSE, UNIFORM

N_OF_M = "N:M"


@dataclass(frozen=True, slots=True)
class Lines:
    """What one panel draws.

    Args:
        title: the kind of pattern, or the method.
        points: of all series that are drawn, named or not.
        whole: the panel of the measurement, which says what all panels of a figure have in common.
    """

    title: str
    points: Sequence[Point]
    whole: Panel

    @property
    def places(self) -> list[str]:
        """What stands along the axis where sparsities do not."""
        return replace(self.whole, points=tuple(self.points)).places

    def x(self, point: Point) -> float:
        """Sparsity in percent; patterns such as 2:4 have no order of size and stand one after the other."""
        return float(self.places.index(point.place)) if self.is_n_of_m else 100 * point.sparsity

    @property
    def beyond(self) -> list[Point]:
        """What the axis has no room for."""
        return [point for point in self.points if point.value > self.whole.edge]

    @property
    def is_n_of_m(self) -> bool:
        return parse_n_of_m(self.points[0].pattern) is not None

    def across(self, width: float) -> Scale:
        """The axis, whose ticks are what was run."""
        values = sorted({self.x(point) for point in self.points})
        axis: Spec = {"title": "sparsity [%]", "values": values}
        if self.is_n_of_m:
            axis |= {"title": "pattern", "labelExpr": f"{json.dumps(self.places)}[datum.value] || ''"}
        return Scale.of(values, width, margin=3 * MARKER, axis=axis)


@FIGURES.register("perplexity")
def perplexity(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every model and protocol that the perplexity of pruned models was measured under."""
    return _figures(data, "perplexity", ("perplexity",))


@FIGURES.register("accuracy")
def accuracy(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every model and protocol that the accuracy of pruned models was measured under."""
    return _figures(data, "accuracy", ("zero_shot", "accuracy"))


@FIGURES.register("allocation")
def allocation(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every model and protocol with two allocations of one method at one pattern and sparsity."""
    found = [(panel, parts) for panel in data.panels if (parts := _by_method(panel, data.jobs))]
    if not found:
        yield NotDrawn("allocation", "no method was run with two allocations at one sparsity")
    for panel, parts in found:
        points = tuple(point for part in parts for point in part.points)
        labels = sorted({point.label for point in points})
        chart, notes = _chart(parts, look.looks_of(labels[:MOST_SERIES], labels), data.columns)
        question = "Which allocation of the zeros loses least?"
        yield Picture(
            data.named("allocation", panel), captioned(chart, question, data, replace(panel, points=points), notes)
        )


def _figures(data: Data, name: str, kinds: Sequence[str]) -> Iterator[Picture | NotDrawn]:
    found = [panel for panel in data.panels if panel.kind in kinds and panel.points]
    if not found:
        yield NotDrawn(name, f"no pruned model has a finite {name}")
    for panel in found:
        chosen = panel.chosen(data.order, data.usual)
        labels = {point.label for point in panel.points}
        faint = [label for label in data.order if label in labels.difference(chosen)][:MOST_FAINT]
        parts: dict[str, list[Point]] = defaultdict(list)
        for point in panel.points:
            if point.label in chosen or point.label in faint:
                parts[N_OF_M if parse_n_of_m(point.pattern) else point.pattern].append(point)
        lines = [Lines(kind, points, panel) for kind, points in sorted(parts.items(), key=_kind_order)]
        left_out = len(labels) - len(chosen) - len(faint)
        note = f"{left_out} further settings are in the table only" if left_out else ""
        chart, notes = _chart(lines, data.looks(chosen), data.columns)
        spec = captioned(chart, "Which method loses least?", data, panel, [*notes, note])
        yield Picture(data.named(name, panel), spec)


def _kind_order(part: tuple[str, Sequence[Point]]) -> tuple[bool, bool, str]:
    return (part[0] != "unstructured", part[0] != N_OF_M, part[0])


def _by_method(panel: Panel, jobs: Mapping[str, JobRow]) -> list[Lines]:
    """Panels of the methods that differ in nothing but their allocation, each point labelled by that."""
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    short = short_labels(job.allocation for job in jobs.values())
    for point in panel.points:
        job = jobs[point.jobs[0]]
        same = (job.method, job.params, job.recovery, job.calibration, job.sampling, job.propagation, job.dtype)
        kind = N_OF_M if parse_n_of_m(point.pattern) else point.pattern
        groups[(*same, kind)].append(replace(point, label=short[job.allocation] or UNIFORM))
    found = []
    for (method, *_, kind), points in sorted(groups.items()):
        places = [point.place for point in points]
        if len(places) > len({*places}):
            found.append(Lines(method if kind == "unstructured" else f"{method}, {kind}", points, panel))
    return found


def _chart(parts: Sequence[Lines], looks: Looks, columns: int) -> tuple[Spec, list[str]]:
    """The panels that have anything on their axis, and what a reader must know of them."""
    panel = parts[0].whole
    shown = [part for part in parts if len(part.beyond) < len(part.points)] or parts
    points = [point for part in shown for point in part.points]
    ends = [min(end, panel.edge) for p in points for end in (p.value, p.low, p.high) if end > 0]
    ends += [panel.dense.low, panel.dense.high] if panel.dense else []
    up = Scale.of(ends, look.PANEL_HEIGHT, log=not panel.higher_is_better)
    names = dict(short_names(looks))
    notes, said = [], spelled(names)
    names |= {DENSE: f"dense {panel.dense.value:.1f}"} if panel.dense else {}
    widths = look.widths(len(shown), columns)
    panels = [lines_panel(part, looks, names, up, width) for part, width in zip(shown, widths, strict=True)]
    if any(part.beyond for part in shown):
        notes.append(panel.beyond_note)
    if far := [f"{p.label} {p.place} {number(p.value)}" for part in parts if part not in shown for p in part.points]:
        notes.append(f"all beyond it and not drawn: {look.listed(far)}")
    if grey := {point.label: point.method for point in points if point.label not in looks}:
        methods = sorted({*grey.values()} - {point.method for point in points if point.label in looks})
        notes.append(f"grey: {', '.join([*methods, ''])}in all {len(grey)} settings")
    return look.sheet(panels, columns), [*notes, errors(points), said]


def lines_panel(part: Lines, looks: Looks, names: Mapping[str, str], up: Scale, width: float) -> Spec:
    """Lines over sparsity, or patterns side by side; named points that would cover each other stand side by side."""
    written = {DENSE, *(point.label for point in part.points)} & names.keys()
    across, edge = part.across(width - room(names[label] for label in written)), part.whole.edge
    at = {point: (across.at(part.x(point)), up.at(point.value)) for point in part.points}
    near = sorted((one for one in at if one.label in looks and one.value <= edge), key=lambda point: point.value)
    moves = side_by_side([at[point] for point in near], MARKER + 1)
    at |= {point: (at[point][0] + move, at[point][1]) for point, move in zip(near, moves, strict=True)}
    far = [(point, part.x(point)) for point in part.beyond]
    boxes = marker_boxes((centre for point, centre in at.items() if point.value <= edge), MARKER)
    layers = [*_dense(part.whole, up), *_series(part, at, looks, across, up), beyond_layer(far, across, up)]
    layers += end_layers(_ends(part, at, looks, across, up), names, looks, across, up, boxes)
    return look.panel(layers, across, up, f"{part.title}: {part.whole.label}")


def _ends(part: Lines, at: Mapping[Point, Pixel], looks: Looks, across: Scale, up: Scale) -> list[End]:
    """The last point of every series that is named, and the dense model."""
    final = {point.label: point for point in sorted(part.points, key=part.x) if point.label in looks}
    final = dict(sorted(final.items(), key=lambda item: item[1].value))
    last = max(part.x(point) for point in part.points)
    found = [
        End(
            label=label,
            x=at[point][0],
            y=min(at[point][1], up.length),
            jobs=point.jobs,
            last=part.x(point) == last or point.value > part.whole.edge,
        )
        for label, point in final.items()
    ]
    dense = part.whole.dense
    return [*found, End(DENSE, across.length, up.at(dense.value), dense.jobs)] if dense else found


def _dense(panel: Panel, up: Scale) -> list[Spec]:
    rows = [row_of(panel.dense, 0)] if panel.dense else []
    band = {"y": up.channel("low"), "y2": {"field": "high"}}
    return [
        drawn("rect", rows, band, color=look.DENSE_COLOR, opacity=0.12),
        drawn("rule", rows, {"y": up.channel("value")}, color=look.DENSE_COLOR, strokeDash=[2, 3]),
    ]


def _series(part: Lines, at: Mapping[Point, Pixel], looks: Looks, across: Scale, up: Scale) -> list[Spec]:
    """Grey series behind; then lines, error bars and markers of those that are named."""
    rows = [row_of(point, across.back(x)) for point, (x, _) in at.items()]
    bold, pale = ([row for row in rows if (row["label"] in looks) == known] for known in (True, False))
    named, faint = ([row for row in some if row["value"] <= part.whole.edge] for some in (bold, pale))
    bold, pale = ([] if part.is_n_of_m else some for some in (bold, pale))
    x, y = across.channel("x"), up.channel("value")
    line = {"x": x, "y": y, "order": {"field": "x", "type": "quantitative"}}
    said = {"x": x, "y": y, "tooltip": look.tooltip("label", "model", "place", "value", "error", "jobs")}
    bars = {"x": x, "y": up.channel("low"), "y2": {"field": "high"}, **look.told_apart(looks, "color")}
    behind = {"color": look.FAINT, "strokeWidth": 0.7, "clip": True}
    return [
        drawn("line", pale, line | {"detail": look.nominal("label")}, **behind),
        drawn("point", faint, said, color=look.FAINT, size=look.FAINT_SIZE),
        drawn("line", bold, line | look.told_apart(looks, "color", "strokeDash"), clip=True),
        drawn("rule", [row for row in named if row["error"]], bars, clip=True),
        drawn("point", named, said | look.told_apart(looks, "color", "shape")),
    ]


def errors(points: Sequence[Point]) -> str:
    """What the error bars of these points are."""
    jobs = {len(point.jobs) > 1 for point in points if point.error is not None}
    said = {False: "standard error", True: "standard deviation over seeds where there are several"}
    return f"bars and band: {'; '.join(said[several] for several in sorted(jobs))}" if jobs else ""

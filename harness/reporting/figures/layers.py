"""What pruning did block by block: zeros and output error, the mean over a block's linears and over seeds."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.record import LayerReport, RunRecord
from harness.reporting.axes import pattern_name
from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data
from harness.reporting.figures.ends import End, end_layers, room, short_names, spelled
from harness.reporting.figures.look import Looks, Row, Scale, Spec, drawn
from harness.reporting.figures.points import MOST_SERIES
from harness.reporting.layout import clean
from harness.reporting.published import natural_key

MODELS = 6
"""So many models are drawn, those with most methods; all of them are in the records."""

USUAL_SPARSITY = 0.5
"""Of patterns with equally many methods the one nearest to this is drawn."""
SAME_ZEROS = 1.0
"""Percent: blocks that differ by less are the same picture."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is drawn of one model.

    Args:
        pattern: the one that most methods were run with.
        rows: a block of a method in its setting each; zeros in percent, counted; error None where none is known.
        left_out: how many further settings of the methods there are.
    """

    model: str
    pattern: str
    rows: tuple[Row, ...]
    left_out: int

    @property
    def labels(self) -> list[str]:
        return [*dict.fromkeys(row["label"] for row in self.rows)]


@FIGURES.register("layers")
def layer_figures(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every model, each with the pattern that most of its methods have."""
    chosen = select(data)
    if not chosen:
        yield NotDrawn("layers", "no record has reports on layers whose names number their blocks")
    for each in chosen:
        name = f"layers-{look.file_name(each.model)}" if len(chosen) > 1 else "layers"
        yield Picture(name, _chart(each, data))


def select(data: Data) -> list[Selection]:
    """The models with most methods and, of each, one pattern and its methods."""
    groups: dict[tuple[str, str, float], list[RunRecord]] = defaultdict(list)
    for record in data.records:
        job = data.jobs[record.job_id]
        if any(layer.place for layer in record.layers) and not job.is_dense:
            groups[job.model, job.pattern, job.sparsity].append(record)
    methods = {where: len({data.jobs[one.job_id].method for one in some}) for where, some in groups.items()}
    order = sorted(groups, key=lambda at: (methods[at], len(groups[at]), -abs(at[2] - USUAL_SPARSITY), at[1:]))
    selected = []
    for at in {at[0]: at for at in order}.values():  # of a model the last remains
        name = pattern_name(*at[1:])
        shown = name if name.startswith(at[1]) else f"{name} {at[1]}"
        selected.append(_selection(at[0], shown, groups[at], data))
    most = sorted(selected, key=lambda each: (-len(each.labels), natural_key(each.model)))[:MODELS]
    return sorted(most, key=lambda each: natural_key(each.model))


def _selection(model: str, pattern: str, records: Sequence[RunRecord], data: Data) -> Selection:
    """All labels, or of too many the usual one of each method and of these the best."""
    by_label: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_label[data.labels[record.job_id]].append(record)
    kept = [label for label in data.order if label in by_label]
    if len(kept) > MOST_SERIES:
        kept = [label for label in kept if label in data.usual][:MOST_SERIES]
    rows = [
        {"label": label, "model": clean(model), **row, "jobs": [record.job_id for record in by_label[label]]}
        for label in kept
        for row in _blocks([layer for record in by_label[label] for layer in record.layers])
    ]
    return Selection(model, pattern, tuple(rows), len(by_label) - len(kept))


def _blocks(layers: Sequence[LayerReport]) -> Iterator[Row]:
    """A row a block."""
    blocks: dict[int, list[LayerReport]] = defaultdict(list)
    for layer in layers:
        if layer.place is not None:
            blocks[layer.place[0]].append(layer)
    for block in sorted(blocks):
        weights = [layer.shape[0] * layer.shape[1] for layer in blocks[block]]
        zeros = sum(one.achieved_sparsity * count for one, count in zip(blocks[block], weights, strict=True))
        errors = [layer.relative_output_error for layer in blocks[block]]
        known = [error for error in errors if error is not None and math.isfinite(error)]
        yield {"block": block, "zeros": 100 * zeros / max(sum(weights), 1), "error": fmean(known) if known else None}


def _chart(selection: Selection, data: Data) -> Spec:
    looks = data.looks(selection.labels)
    names = short_names(looks)
    uneven = {label for label in selection.labels if _range(selection, label) >= SAME_ZEROS}
    parts = [("error", "relative output error, lower is better", [row for row in selection.rows if row["error"]])]
    if uneven:
        parts.append(("zeros", "zeros counted [%]", [row for row in selection.rows if row["label"] in uneven]))
    parts = [part for part in parts if part[-1]]
    panels = [
        layer_panel(rows, (field, title), looks, names, width - room(names.values()))
        for (field, title, rows), width in zip(parts, look.widths(len(parts), data.columns), strict=True)
    ]
    even = [names[label] for label in selection.labels if label not in uneven]
    jobs = {job for row in selection.rows for job in row["jobs"]}
    notes = ["error: mean over a block's linears of ||XW' - XW|| / ||XW|| on calibration data"]
    notes += [f"the same zeros in every block: {', '.join(even)}"] if uneven and even else []
    notes += [f"{selection.left_out} further settings are not drawn"] if selection.left_out else []
    notes += [spelled(names), *data.notes.get(selection.model, ())]
    said = [f"{selection.model}, {selection.pattern}, {len(jobs)} jobs", "; ".join(filter(None, notes))]
    question = "In which blocks does the output suffer, and where are the zeros?"
    chart = look.sheet(panels, data.columns)
    return look.titled(chart, question if uneven else question.split(",")[0] + "?", said, look.COLUMN * data.columns)


def _range(selection: Selection, label: str) -> float:
    zeros = [row["zeros"] for row in selection.rows if row["label"] == label]
    return float(max(zeros) - min(zeros))


def layer_panel(
    rows: Sequence[Row], what: tuple[str, str], looks: Looks, names: Mapping[str, str], width: float
) -> Spec:
    """A line for each series over the blocks of one model."""
    field, title = what
    rows = [row | {"x": row["block"], "y": row[field]} for row in rows]
    up = Scale.of([row["y"] for row in rows], look.PANEL_HEIGHT, log=field == "error")
    blocks = sorted({row["x"] for row in rows})
    axis: Spec = {"title": "block", "values": blocks[:: max(1, len(blocks) // 6)], "format": "d"}
    across = Scale.of(blocks, width, axis=axis)
    lasts = {row["label"]: row for row in rows}
    ends = [End(label, across.at(row["x"]), up.at(row["y"]), tuple(row["jobs"])) for label, row in lasts.items()]
    said = {"tooltip": look.tooltip("label", "model", "block", "zeros", "error", "jobs")}
    encoding = {"x": across.channel("x"), "y": up.channel("y")}
    layers = [
        drawn("line", rows, encoding | look.told_apart(looks, "color", "strokeDash")),
        drawn("point", rows, encoding | said, opacity=0),
        *end_layers(ends, names, looks, across, up),
    ]
    return look.panel(layers, across, up, title)

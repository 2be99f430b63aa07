"""What pruning did block by block: zeros and output error, the mean over a block's linears and over seeds."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import altair

from harness.record import LayerReport, RunRecord
from harness.reporting.axes import pattern_name
from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, Looks, NotDrawn, Picture, Row, paged
from harness.reporting.figures.data import Data
from harness.reporting.figures.points import MAX_SERIES
from harness.reporting.layout import clean
from harness.reporting.published import natural_key

MODELS, MODELS_A_SHEET = 6, 3
"""So many models are drawn, those with most methods; all of them are in the records."""

USUAL_SPARSITY = 0.5
"""Of patterns with equally many methods the one nearest to this is drawn."""
MARKS = 10
"""So many markers are on a line."""


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
    def labels(self) -> set[str]:
        return {row["label"] for row in self.rows}


@FIGURES.register("layers")
def layer_figures(data: Data) -> Iterator[Picture | NotDrawn]:
    """Pages of models, each with the pattern that most of its methods have."""
    chosen = select(data)
    if not chosen:
        yield NotDrawn("layers", "no record has reports on layers whose names number their blocks")
    for suffix, page in paged(chosen, MODELS_A_SHEET):
        yield Picture(f"layers{suffix}", _chart(page, data))


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
    """Every label, or of too many one a method: that which the other figures draw."""
    by_label: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_label[data.labels[record.job_id]].append(record)
    kept = [label for label in data.styles if label in by_label]
    if len(kept) > MAX_SERIES:
        kept = list({data.jobs[by_label[label][0].job_id].method: label for label in reversed(kept)}.values())
    rows = [
        {"label": label, "model": clean(model), **row, "jobs": [record.job_id for record in by_label[label]]}
        for label in sorted(kept, key=natural_key)
        for row in _blocks([layer for record in by_label[label] for layer in record.layers])
    ]
    return Selection(model, pattern, tuple(rows), len(by_label) - len(kept))


def _blocks(layers: Sequence[LayerReport]) -> Iterator[Row]:
    """A row a block; so many of them as have room are `marked`."""
    blocks: dict[int, list[LayerReport]] = defaultdict(list)
    for layer in layers:
        if layer.place is not None:
            blocks[layer.place[0]].append(layer)
    for place, block in enumerate(sorted(blocks)):
        weights = [layer.shape[0] * layer.shape[1] for layer in blocks[block]]
        zeros = sum(one.achieved_sparsity * count for one, count in zip(blocks[block], weights, strict=True))
        errors = [layer.relative_output_error for layer in blocks[block]]
        known = [error for error in errors if error is not None and math.isfinite(error)]
        yield {
            **{"block": block, "zeros": 100 * zeros / max(sum(weights), 1), "error": fmean(known) if known else None},
            "marked": place % max(1, len(blocks) // MARKS) == 0,
        }


def _chart(page: Sequence[Selection], data: Data) -> look.Spec:
    labels = set().union(*(each.labels for each in page))
    looks = {label: style for label, style in data.styles.items() if label in labels}
    chart = look.composed("hconcat", [layer_panel(each, looks) for each in page], spacing=24)
    notes = ["over the linears of a block: zeros weighted by their weights"]
    notes += ["output error: plain mean of ||XW' - XW|| / ||XW|| on calibration data (lower is better)"]
    notes += [note for note in data.notes if note.startswith(tuple(f"{each.model}: " for each in page))]
    notes += [f"{each.model}: {each.left_out} further settings are not drawn" for each in page if each.left_out]
    title = "In which blocks are the zeros, and what do they do to the output?"
    return look.titled(chart, title, notes, 1.6 * look.PANEL_WIDTH * len(page))


def layer_panel(selection: Selection, looks: Looks) -> look.Spec:
    """Zeros above, output error below, over the blocks of one model."""
    rows = selection.rows
    zeros = [row["zeros"] for row in rows]
    if max(zeros) - min(zeros) < 1:  # counts that differ by single weights are the same picture
        zeros = [max(fmean(zeros) - 5, 0), min(fmean(zeros) + 5, 100)]
    blocks = sorted({row["block"] for row in rows})
    ticks = altair.Axis(values=blocks[:: max(1, len(blocks) // 6)], format="d")
    block = altair.X("block:Q", title="block", axis=ticks, scale=altair.Scale(nice=False, padding=6))
    base = altair.Chart(altair.InlineData(values=list(rows))).encode(x=block)

    def part(field: str, title: str, scale: Any, axis: Any) -> look.Spec:
        one = base.encode(
            y=altair.Y(f"{field}:Q", title=title, scale=scale, axis=axis), **look.told_apart(looks, "color")
        )
        marks = one.transform_filter(f"datum.marked && isValid(datum.{field})").mark_point(size=40)
        shown = look.tooltip("label:N", "model:N", "block:Q", "zeros:Q", "error:Q", "jobs:N")
        drawn = (
            one.mark_line().encode(**look.told_apart(looks, "strokeDash")),
            marks.encode(**look.told_apart(looks, "shape"), tooltip=shown),
        )
        return look.composed("layer", drawn, width=look.PANEL_WIDTH, height=look.PANEL_HEIGHT)

    errors = [row["error"] for row in rows if row["error"] is not None]
    parts = [part("zeros", "zeros counted [%]", *look.value_scale(zeros, linear=True))]
    parts += [part("error", "relative output error", *look.value_scale(errors))] if errors else []
    return look.composed("vconcat", parts, title=clean(f"{selection.model}, {selection.pattern}"))

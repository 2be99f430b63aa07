"""What pruning did block by block: zeros and output error, the mean over a block's linears and over seeds."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from harness.record import RunRecord
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import (
    PANEL_HEIGHT,
    PANEL_WIDTH,
    Spec,
    composed,
    titled,
    told_apart,
    tooltip,
    value_scale,
)
from harness.reporting.figures.points import MAX_SERIES, pattern_name
from harness.reporting.figures.sheet import Looks, paged
from harness.reporting.layout import clean
from harness.reporting.published import natural_key

MODELS, MODELS_A_SHEET = 6, 3
"""So many models are drawn, those with most methods; all of them are in the records."""

USUAL_SPARSITY = 0.5
"""Of patterns with equally many methods the one nearest to this is drawn."""
MARKS = 10
"""So many markers are on a line."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One method in its setting over the blocks of a model.

    Args:
        blocks: numbers of the blocks; zeros: percent, counted; errors: relative output error, None where none is known.
        jobs: what was averaged.
    """

    label: str
    blocks: tuple[int, ...]
    zeros: tuple[float, ...]
    errors: tuple[float | None, ...]
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is drawn of one model: the pattern that most methods were run with; left_out: further settings of these."""

    model: str
    pattern: str
    profiles: tuple[Profile, ...]
    left_out: int


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
    groups: dict[str, dict[tuple[str, float], list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in data.records:
        job = data.jobs[record.job_id]
        if any(layer.place for layer in record.layers) and not job.is_dense:
            groups[job.model][job.pattern, job.sparsity].append(record)
    selected = []
    for model, patterns in groups.items():
        counts = {where: len({data.jobs[one.job_id].method for one in some}) for where, some in patterns.items()}
        pattern, sparsity = max(
            patterns,
            key=lambda where: (counts[where], len(patterns[where]), -abs(where[1] - USUAL_SPARSITY), where),
        )
        name = pattern_name(pattern, sparsity)
        shown = name if name.startswith(pattern) else f"{name} {pattern}"
        profiles, left_out = _profiles(patterns[pattern, sparsity], data)
        selected.append(Selection(model, shown, profiles, left_out))
    most = sorted(selected, key=lambda each: (-len(each.profiles), natural_key(each.model)))[:MODELS]
    return sorted(most, key=lambda each: natural_key(each.model))


def _profiles(records: Sequence[RunRecord], data: Data) -> tuple[tuple[Profile, ...], int]:
    """Every label's, or of too many one a method (that which the other figures draw), and how many are left out."""
    by_label: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_label[data.labels[record.job_id]].append(record)
    kept = [label for label in data.styles if label in by_label]
    if len(kept) > MAX_SERIES:
        kept = list({data.jobs[by_label[label][0].job_id].method: label for label in reversed(kept)}.values())
    made = tuple(_profile(label, by_label[label]) for label in sorted(kept, key=natural_key))
    return made, len(by_label) - len(kept)


def _profile(label: str, records: Sequence[RunRecord]) -> Profile:
    zeros: dict[int, list[tuple[float, int]]] = defaultdict(list)
    errors: dict[int, list[float]] = defaultdict(list)
    for layer in (layer for record in records for layer in record.layers):
        if layer.place is not None:
            block, error = layer.place[0], layer.relative_output_error
            zeros[block].append((layer.achieved_sparsity, layer.shape[0] * layer.shape[1]))
            errors[block] += [error] if error is not None and math.isfinite(error) else []
    blocks = tuple(sorted(zeros))
    counted = [100 * sum(s * w for s, w in zeros[b]) / max(sum(w for _, w in zeros[b]), 1) for b in blocks]
    means = tuple(fmean(errors[b]) if errors[b] else None for b in blocks)
    return Profile(label, blocks, tuple(counted), means, tuple(record.job_id for record in records))


def _chart(page: Sequence[Selection], data: Data) -> Spec:
    labels = {profile.label for each in page for profile in each.profiles}
    looks = {label: style for label, style in data.styles.items() if label in labels}
    chart = composed("hconcat", [layer_panel(each, looks) for each in page], spacing=24)
    notes = ["over the linears of a block: zeros weighted by their weights"]
    notes += ["output error: plain mean of ||XW' - XW|| / ||XW|| on calibration data (lower is better)"]
    notes += [note for note in data.notes if note.startswith(tuple(f"{each.model}: " for each in page))]
    notes += [f"{each.model}: {each.left_out} further settings are not drawn" for each in page if each.left_out]
    title = "In which blocks are the zeros, and what do they do to the output?"
    return titled(chart, title, notes, 1.6 * PANEL_WIDTH * len(page))


def layer_panel(selection: Selection, looks: Looks) -> Spec:
    """Zeros above, output error below, over the blocks of one model."""
    import altair

    rows: list[Mapping[str, Any]] = [
        {
            **{"label": profile.label, "model": clean(selection.model), "block": block, "zeros": zeros, "error": error},
            **{"marked": place % max(1, len(profile.blocks) // MARKS) == 0, "jobs": list(profile.jobs)},
        }
        for profile in selection.profiles
        for place, (block, zeros, error) in enumerate(zip(profile.blocks, profile.zeros, profile.errors, strict=True))
    ]
    zeros = [row["zeros"] for row in rows]
    if max(zeros) - min(zeros) < 1:  # counts that differ by single weights are the same picture
        zeros = [max(fmean(zeros) - 5, 0), min(fmean(zeros) + 5, 100)]
    blocks = sorted({row["block"] for row in rows})
    ticks = altair.Axis(values=blocks[:: max(1, len(blocks) // 6)], format="d")
    block = altair.X("block:Q", title="block", axis=ticks, scale=altair.Scale(nice=False, padding=6))
    base = altair.Chart(altair.InlineData(values=rows)).encode(x=block)

    def part(field: str, title: str, scale: Any, axis: Any) -> Spec:
        one = base.encode(y=altair.Y(f"{field}:Q", title=title, scale=scale, axis=axis), **told_apart(looks, "color"))
        marks = one.transform_filter(f"datum.marked && isValid(datum.{field})").mark_point(size=40)
        shown = tooltip("label:N", "model:N", "block:Q", "zeros:Q", "error:Q", "jobs:N")
        drawn = (
            one.mark_line().encode(**told_apart(looks, "strokeDash")),
            marks.encode(**told_apart(looks, "shape"), tooltip=shown),
        )
        return composed("layer", drawn, width=PANEL_WIDTH, height=PANEL_HEIGHT)

    errors = [row["error"] for row in rows if row["error"] is not None]
    parts = [part("zeros", "zeros counted [%]", *value_scale(zeros, linear=True))]
    parts += [part("error", "relative output error", *value_scale(errors))] if errors else []
    return composed("vconcat", parts, title=clean(f"{selection.model}, {selection.pattern}"))

"""What pruning did block by block: zeros and output error, the mean over a block's linears and over the jobs."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.record import RunRecord
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.look import PANEL_HEIGHT, PANEL_WIDTH, Spec, composed, titled, tooltip, value_scale
from harness.reporting.figures.points import Data, pattern_name
from harness.reporting.figures.sheet import Looks
from harness.reporting.frame import DENSE, JobRow, describe
from harness.reporting.layout import clean, unique
from harness.reporting.published import natural_key

MODELS = 6
"""So many models are drawn, those with most methods; all of them are in the records."""

MODELS_A_SHEET = 3
USUAL_SPARSITY = 0.5
"""Of patterns with equally many methods the one nearest to this is drawn."""
MARKS = 10
"""So many markers are on a line."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One method over the blocks of a model.

    Args:
        blocks: numbers of the blocks; zeros: percent, counted; errors: relative output error, NaN where none is known.
        job_ids: what was averaged.
    """

    label: str
    blocks: tuple[int, ...]
    zeros: tuple[float, ...]
    errors: tuple[float, ...]
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is drawn of one model: the pattern that most methods were run with."""

    model: str
    pattern: str
    profiles: tuple[Profile, ...]


@FIGURES.register("layers")
def layer_figures(data: Data) -> Iterator[Picture | NotDrawn]:
    """Pages of models, each with the pattern that most of its methods have."""
    chosen = select(data)
    if not chosen:
        yield NotDrawn("layers", "no record has reports on layers whose names number their blocks")
    pages = [chosen[start : start + MODELS_A_SHEET] for start in range(0, len(chosen), MODELS_A_SHEET)]
    for number, page in enumerate(pages, start=1):
        yield Picture("layers" + (f"-page{number}" if len(pages) > 1 else ""), _chart(page, data))


def select(data: Data) -> list[Selection]:
    """The models with most methods and, of each, one pattern and its methods."""
    groups: dict[str, dict[tuple[str, float], list[tuple[JobRow, RunRecord]]]] = defaultdict(lambda: defaultdict(list))
    for record in data.records:
        if record.layers:
            job = describe(record)
            if job.method != DENSE:
                groups[job.model][job.pattern, job.sparsity].append((job, record))
    selected = []
    for model, patterns in groups.items():
        pattern, sparsity = max(
            patterns,
            key=lambda where: (_methods(patterns[where]), len(patterns[where]), -abs(where[1] - USUAL_SPARSITY), where),
        )
        profiles = _profiles(patterns[pattern, sparsity], data)
        if profiles:
            name = pattern_name(pattern, sparsity)
            selected.append(Selection(model, name if name.startswith(pattern) else f"{name} {pattern}", profiles))
    most = sorted(selected, key=lambda each: (-len(each.profiles), natural_key(each.model)))[:MODELS]
    return sorted(most, key=lambda each: natural_key(each.model))


def _methods(jobs: Sequence[tuple[JobRow, RunRecord]]) -> int:
    return len({job.method for job, _ in jobs})


def _profiles(jobs: Sequence[tuple[JobRow, RunRecord]], data: Data) -> tuple[Profile, ...]:
    by_method: dict[str, list[RunRecord]] = defaultdict(list)
    for job, record in jobs:
        by_method[data.methods[job.job_id]].append(record)
    made = [_profile(label, by_method[label]) for label in sorted(by_method, key=natural_key)]
    return tuple(profile for profile in made if profile.blocks)


def _profile(label: str, records: Sequence[RunRecord]) -> Profile:
    zeros: dict[int, list[tuple[float, int]]] = defaultdict(list)
    errors: dict[int, list[float]] = defaultdict(list)
    for record in records:
        for layer in record.layers:
            if layer.place is None:
                continue
            block, weights = layer.place[0], layer.shape[0] * layer.shape[1]
            zeros[block].append((layer.achieved_sparsity, weights))
            error = layer.relative_output_error
            if error is not None and math.isfinite(error):
                errors[block].append(error)
    blocks = sorted(zeros)
    counted = [100 * sum(s * w for s, w in zeros[b]) / max(sum(w for _, w in zeros[b]), 1) for b in blocks]
    means = [math.fsum(errors[b]) / len(errors[b]) if errors[b] else math.nan for b in blocks]
    return Profile(label, tuple(blocks), tuple(counted), tuple(means), tuple(record.job_id for record in records))


def _chart(page: Sequence[Selection], data: Data) -> Spec:
    labels = unique(sorted((profile.label for each in page for profile in each.profiles), key=natural_key))
    chart = composed("hconcat", [layer_panel(each, Looks(labels, data.styles)) for each in page], spacing=24)
    most = max(len(profile.job_ids) for each in page for profile in each.profiles)
    notes = ["a block's linears: zeros weighted by their weights"]
    notes += ["output error: plain mean of ||XW' - XW|| / ||XW|| on calibration data (lower is better)"]
    notes += [f"mean over up to {most} jobs a method (seeds, calibration, parameters)"] if most > 1 else []
    return titled(chart, "Zeros and output error by block", notes, PANEL_WIDTH * max(len(page), 2))


def layer_panel(selection: Selection, looks: Looks) -> Spec:
    """Zeros above, output error below, over the blocks of one model."""
    import altair

    rows: list[dict[str, Any]] = [
        {
            **{"label": profile.label, "model": clean(selection.model), "block": block, "zeros": zeros},
            **{"error": None if math.isnan(error) else error, "marked": place % step == 0},
            "jobs": list(profile.job_ids),
        }
        for profile in selection.profiles
        for step in [max(1, len(profile.blocks) // MARKS)]
        for place, (block, zeros, error) in enumerate(zip(profile.blocks, profile.zeros, profile.errors, strict=True))
    ]
    zeros = [row["zeros"] for row in rows]
    if max(zeros) - min(zeros) < 1:  # counts that differ by single weights are the same picture
        middle = (max(zeros) + min(zeros)) / 2
        zeros = [max(middle - 5, 0), min(middle + 5, 100)]
    block = altair.X(
        "block:Q", title="block", axis=altair.Axis(tickMinStep=1, format="d"), scale=altair.Scale(nice=False, padding=6)
    )
    base = altair.Chart(altair.InlineData(values=rows)).encode(x=block)

    def part(field: str, title: str, values: Sequence[float]) -> Spec:
        scale, axis = value_scale(values)
        one = base.encode(y=altair.Y(f"{field}:Q", title=title, scale=scale, axis=axis), color=looks("color")["color"])
        drawn = (
            one.mark_line().encode(**looks("strokeDash")),
            one.transform_filter(f"datum.marked && isValid(datum.{field})")
            .mark_point(size=36)
            .encode(**looks("shape"), tooltip=tooltip("label:N", "model:N", "block:Q", "zeros:Q", "error:Q", "jobs:N")),
        )
        return composed("layer", drawn, width=PANEL_WIDTH, height=PANEL_HEIGHT)

    errors = [row["error"] for row in rows if row["error"] is not None]
    parts = [part("zeros", "zeros counted [%]", zeros)]
    parts += [part("error", "relative output error", errors)] if errors else []
    return composed("vconcat", parts, title=clean(f"{selection.model}, {selection.pattern}"))

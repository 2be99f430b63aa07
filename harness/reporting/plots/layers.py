"""What pruning did block by block: zeros and output error, the mean over a block's linears and over the jobs."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.record import RunRecord
from harness.reporting.axes import short_labels
from harness.reporting.frame import DENSE, JobRow, describe
from harness.reporting.layout import unique
from harness.reporting.plots.series import pattern_name
from harness.reporting.plots.sheet import PANEL_HEIGHT, PANEL_WIDTH, NotDrawn, Picture, line
from harness.reporting.plots.style import Style, finish, legend_width, log_axis, new_figure, text
from harness.reporting.published import natural_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODELS = 6
"""So many models are drawn, those with most methods; all of them are in the records."""

MODELS_A_SHEET = 3
USUAL_SPARSITY = 0.5
"""Of patterns with equally many methods the one nearest to this is drawn."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One method over the blocks of a model.

    Args:
        blocks: numbers of the blocks; zeros: percent, counted; errors: relative output error, NaN where none is known.
        jobs: how many were averaged.
    """

    label: str
    blocks: tuple[int, ...]
    zeros: tuple[float, ...]
    errors: tuple[float, ...]
    jobs: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What is drawn of one model: the pattern that most methods were run with."""

    model: str
    pattern: str
    profiles: tuple[Profile, ...]


def layer_figures(records: Sequence[RunRecord], known: Mapping[str, Style]) -> Iterator[Picture | NotDrawn]:
    """Pages of models, each with the pattern that most of its methods have."""
    chosen = select(records)
    if not chosen:
        yield NotDrawn("layers", "no record has reports on layers whose names number their blocks")
        return
    pages = [chosen[start : start + MODELS_A_SHEET] for start in range(0, len(chosen), MODELS_A_SHEET)]
    for number, page in enumerate(pages, start=1):
        name = "layers" + (f"-page{number}" if len(pages) > 1 else "")
        yield Picture(name, lambda page=page: _figure(page, known))  # type: ignore[misc]


def layer_labels(records: Sequence[RunRecord]) -> set[str]:
    """What `layer_figures` needs styles for."""
    jobs = [describe(record) for record in records if record.layers]
    return set(_labels(jobs).values())


def _labels(jobs: Sequence[JobRow]) -> dict[str, str]:
    """Method and allocation of every job by its id."""
    short = short_labels(job.allocation for job in jobs)
    return {job.job_id: ", ".join(filter(None, (job.method, short[job.allocation]))) for job in jobs}


def select(records: Sequence[RunRecord]) -> list[Selection]:
    """The models with most methods and, of each, one pattern and its methods."""
    groups: dict[str, dict[tuple[str, float], list[tuple[JobRow, RunRecord]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.layers:
            job = describe(record)
            if job.method != DENSE:
                groups[job.model][job.pattern, job.sparsity].append((job, record))
    labels = _labels([describe(record) for record in records if record.layers])
    selected = []
    for model, patterns in groups.items():
        pattern, sparsity = max(
            patterns,
            key=lambda where: (_methods(patterns[where]), len(patterns[where]), -abs(where[1] - USUAL_SPARSITY), where),
        )
        profiles = _profiles(patterns[pattern, sparsity], labels)
        if profiles:
            name = pattern_name(pattern, sparsity)
            selected.append(Selection(model, name if name.startswith(pattern) else f"{name} {pattern}", profiles))
    most = sorted(selected, key=lambda each: (-len(each.profiles), natural_key(each.model)))[:MODELS]
    return sorted(most, key=lambda each: natural_key(each.model))


def _methods(jobs: Sequence[tuple[JobRow, RunRecord]]) -> int:
    return len({job.method for job, _ in jobs})


def _profiles(jobs: Sequence[tuple[JobRow, RunRecord]], labels: Mapping[str, str]) -> tuple[Profile, ...]:
    by_method: dict[str, list[RunRecord]] = defaultdict(list)
    for job, record in jobs:
        by_method[labels[job.job_id]].append(record)
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
    return Profile(label, tuple(blocks), tuple(counted), tuple(means), len(records))


def _figure(page: Sequence[Selection], known: Mapping[str, Style]) -> "Figure":
    labels = unique(sorted((profile.label for each in page for profile in each.profiles), key=natural_key))
    handles = [line(label, known[label]) for label in labels]
    figure = new_figure(PANEL_WIDTH * len(page) + legend_width(handles), 1.8 * PANEL_HEIGHT + 0.6)
    axes = figure.subplots(2, len(page), squeeze=False, sharex="col")
    for column, each in enumerate(page):
        draw_layers(axes[0][column], axes[1][column], each, known)
    counts = {profile.jobs for each in page for profile in each.profiles}
    notes = [
        "a block's linears: zeros weighted by their weights, plain mean of ||XW' - XW|| / ||XW|| on calibration data"
    ]
    notes += (
        [f"mean over up to {max(counts)} jobs a method (seeds, calibration, parameters)"] if max(counts) > 1 else []
    )
    finish(figure, "Zeros and output error by block", "", notes, handles)
    return figure


def draw_layers(upper: "Axes", lower: "Axes", selection: Selection, known: Mapping[str, Style]) -> None:
    """Zeros above, output error below, over the blocks of one model."""
    from matplotlib.ticker import MaxNLocator

    for profile in selection.profiles:
        style = known[profile.label]
        look = {
            "color": style.color,
            "marker": style.marker,
            "markersize": style.size,
            "linestyle": style.line,
            "markevery": max(1, len(profile.blocks) // 10),
        }
        upper.plot(profile.blocks, profile.zeros, **look)
        lower.plot(profile.blocks, profile.errors, **look)
    zeros = [value for profile in selection.profiles for value in profile.zeros]
    if max(zeros) - min(zeros) < 1:  # counts that differ by single weights are the same picture
        middle = (max(zeros) + min(zeros)) / 2
        upper.set_ylim(max(middle - 5, 0), min(middle + 5, 100))
    upper.ticklabel_format(axis="y", useOffset=False)
    upper.set_title(f"{text(selection.model)}, {selection.pattern}", loc="left")
    upper.set_ylabel("zeros counted [%]")
    lower.set_ylabel("relative output error")
    lower.set_xlabel("block")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    log_axis(lower, [value for profile in selection.profiles for value in profile.errors if not math.isnan(value)])

"""Where the wall time goes: seconds a phase, the mean over a method's jobs."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.record import RunRecord
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.look import COLORS, Spec, composed, titled, tooltip
from harness.reporting.figures.points import Data
from harness.reporting.frame import DENSE, describe
from harness.reporting.layout import clean
from harness.reporting.published import natural_key

TOTAL = "total"
OTHER = "other"
OTHER_COLOR = "#bbbbbb"
PHASES = ("load", "calibrate", "allocate", "prune", "recover", "evaluate", "save")
"""In the order of a job; what else was timed follows by name, and what no phase claims comes last."""

BARS_A_SHEET = 30
WIDTH, BAR_HEIGHT = 420, 20


@dataclass(frozen=True, slots=True)
class Bar:
    """Mean seconds by phase of the jobs of one method on one model and device."""

    label: str
    seconds: dict[str, float]
    job_ids: tuple[str, ...]


@FIGURES.register("time")
def cost_figures(data: Data) -> Iterator[Picture | NotDrawn]:
    """Pages of bars, methods below each other by model and device."""
    bars = time_bars(data.records)
    if not bars:
        yield NotDrawn("time", "no record has timings")
    pages = [bars[start : start + BARS_A_SHEET] for start in range(0, len(bars), BARS_A_SHEET)]
    for number, page in enumerate(pages, start=1):
        yield Picture("time" + (f"-page{number}" if len(pages) > 1 else ""), _chart(page))


def time_bars(records: Sequence[RunRecord]) -> list[Bar]:
    """One bar a (model, device, method), in order."""
    groups: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.timings_s:
            job = describe(record)
            groups[job.model, job.device, job.method].append(record)
    several = len({device for _, device, _ in groups}) > 1
    bars = []
    for (model, device, method), some in sorted(groups.items(), key=lambda item: _order(*item[0])):
        where = f"{model} on {device}" if several else model
        ids = tuple(record.job_id for record in some)
        bars.append(Bar(clean(f"{where}: {method} (n = {len(some)})"), _means(some), ids))
    return bars


def _order(model: str, device: str, method: str) -> tuple[object, ...]:
    return natural_key(model), natural_key(device), method != DENSE, natural_key(method)


def _means(records: Sequence[RunRecord]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for record in records:
        phases = {phase: seconds for phase, seconds in record.timings_s.items() if phase != TOTAL}
        phases[OTHER] = max(record.timings_s.get(TOTAL, 0.0) - math.fsum(phases.values()), 0.0)
        for phase, seconds in phases.items():
            sums[phase] += seconds / len(records)
    return dict(sums)


def _chart(bars: Sequence[Bar]) -> Spec:
    import altair

    found = {phase for bar in bars for phase in bar.seconds}
    order = [phase for phase in PHASES if phase in found] + sorted(found - {*PHASES, OTHER}) + [OTHER]
    rows = [
        {"bar": bar.label, "phase": phase, "order": place, "seconds": bar.seconds[phase], "jobs": list(bar.job_ids)}
        for bar in bars
        for place, phase in enumerate(order)
        if phase in bar.seconds
    ]
    colors = [OTHER_COLOR if phase == OTHER else COLORS[place % len(COLORS)] for place, phase in enumerate(order)]
    drawn = (
        altair.Chart(altair.InlineData(values=rows))
        .mark_bar(stroke="white", strokeWidth=1)
        .encode(
            x=altair.X("sum(seconds):Q", title="wall time [s], mean over n jobs", stack=True),
            y=altair.Y("bar:N", title=None, sort=[bar.label for bar in bars], axis=altair.Axis(ticks=False)),
            color=altair.Color("phase:N", title=None, scale=altair.Scale(domain=order, range=colors)),
            order=altair.Order("order:Q"),
            tooltip=[*tooltip("bar:N", "phase:N"), altair.Tooltip("seconds:Q", format=".3g", title="seconds")],
        )
    )
    chart = composed("layer", [drawn], width=WIDTH, height={"step": BAR_HEIGHT})
    return titled(
        chart,
        "Where the wall time goes",
        ["a job that was measured further later has the times of its last run"],
        WIDTH,
    )

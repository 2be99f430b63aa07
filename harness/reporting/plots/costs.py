"""Where the wall time goes: seconds a phase, the mean over a method's jobs."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.record import RunRecord
from harness.reporting.frame import DENSE, describe
from harness.reporting.plots.sheet import NotDrawn, Picture
from harness.reporting.plots.style import COLORS, HATCHES, finish, new_figure, text
from harness.reporting.published import natural_key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOTAL = "total"
OTHER = "other"
PHASES = ("load", "calibrate", "allocate", "prune", "recover", "evaluate", "save")
"""In the order of a job; what else was timed follows by name, and what no phase claims comes last."""

BARS_A_SHEET = 30


@dataclass(frozen=True, slots=True)
class Bar:
    """Mean seconds by phase of the `jobs` jobs of one method on one model and device."""

    label: str
    seconds: dict[str, float]
    jobs: int


def cost_figures(records: Sequence[RunRecord]) -> Iterator[Picture | NotDrawn]:
    """Pages of bars, methods below each other by model and device."""
    bars = time_bars(records)
    if not bars:
        yield NotDrawn("time", "no record has timings")
        return
    pages = [bars[start : start + BARS_A_SHEET] for start in range(0, len(bars), BARS_A_SHEET)]
    for number, page in enumerate(pages, start=1):
        name = "time" + (f"-page{number}" if len(pages) > 1 else "")
        yield Picture(name, lambda page=page: _figure(page))  # type: ignore[misc]


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
        bars.append(Bar(f"{where}: {method} (n = {len(some)})", _means(some), len(some)))
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


def _figure(bars: Sequence[Bar]) -> "Figure":
    figure = new_figure(8.0, 0.28 * len(bars) + 1.7)
    axis = figure.subplots()
    found = {phase for bar in bars for phase in bar.seconds}
    order = [phase for phase in PHASES if phase in found] + sorted(found - {*PHASES, OTHER}) + [OTHER]
    places = list(range(len(bars)))
    start = [0.0] * len(bars)
    for number, phase in enumerate(order):
        seconds = [bar.seconds.get(phase, 0.0) for bar in bars]
        color = "#BBBBBB" if phase == OTHER else COLORS[number % len(COLORS)]
        look: dict[str, Any] = {
            "color": color,
            "hatch": HATCHES[number % len(HATCHES)],
            "edgecolor": "white",
            "linewidth": 0.5,
        }
        axis.barh(places, seconds, left=start, label=text(phase), **look)
        start = [before + more for before, more in zip(start, seconds, strict=True)]
    axis.set_yticks(places, [text(bar.label) for bar in bars])
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("wall time [s], mean over n jobs")
    handles, _ = axis.get_legend_handles_labels()
    notes = ["a job that was measured further later has the times of its last run"]
    finish(figure, "Where the wall time goes", "", notes, handles)
    return figure

"""Where the wall time goes: the share of every phase, and the mean over a method's jobs in seconds."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import COLORS, OTHER_COLOR, Spec, composed, titled, tooltip
from harness.reporting.figures.sheet import paged
from harness.reporting.frame import DENSE
from harness.reporting.layout import clean
from harness.reporting.published import natural_key

TOTAL, OTHER = "total", "other"
PHASES = ("load", "calibrate", "allocate", "prune", "recover", "evaluate", "save")
"""In the order of a job; what else was timed follows by name, and what no phase claims comes last."""

BARS_A_SHEET = 30
WIDTH, BAR_HEIGHT = 420, 22
NAMED = 0.12
"""A phase with at least this share has its name in the bar: colours alone tell nothing in grey."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Mean seconds by phase of the jobs of one method on one model and device."""

    label: str
    seconds: Mapping[str, float]
    jobs: tuple[str, ...]


@FIGURES.register("time")
def cost_figures(data: Data) -> Iterator[Picture | NotDrawn]:
    """Pages of bars, methods below each other by model and device."""
    bars = time_bars(data)
    if not bars:
        yield NotDrawn("time", "no record has timings")
    for suffix, page in paged(bars, BARS_A_SHEET):
        yield Picture(f"time{suffix}", _chart(page))


def time_bars(data: Data) -> list[Bar]:
    """One bar a (model, device, method), in order."""
    groups: dict[tuple[str, str, str], dict[str, Mapping[str, float]]] = defaultdict(dict)
    for record in data.records:
        if record.timings_s:
            job = data.jobs[record.job_id]
            groups[job.model, job.device, job.method][record.job_id] = record.timings_s
    several = len({device for _, device, _ in groups}) > 1
    bars = []
    for model, device, method in sorted(groups, key=lambda key: (*map(natural_key, key[:2]), key[2] != DENSE, key[2])):
        times = groups[model, device, method]
        where = f"{model} on {device}" if several else model
        bars.append(Bar(clean(f"{where}: {method} (n = {len(times)})"), _means(list(times.values())), tuple(times)))
    return bars


def _means(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for timings in times:
        phases = {phase: seconds for phase, seconds in timings.items() if phase != TOTAL}
        phases[OTHER] = max(timings.get(TOTAL, 0.0) - math.fsum(phases.values()), 0.0)
        for phase, seconds in phases.items():
            sums[phase] += seconds / len(times)
    return dict(sums)


def _chart(bars: Sequence[Bar]) -> Spec:
    import altair

    found = {phase for bar in bars for phase in bar.seconds}
    order = [phase for phase in PHASES if phase in found] + sorted(found - {*PHASES, OTHER}) + [OTHER]
    rows = []
    for bar in bars:
        total, before = math.fsum(bar.seconds.values()), 0.0
        for phase in [phase for phase in order if phase in bar.seconds]:
            share = bar.seconds[phase] / total if total else 0.0
            rows.append(
                {
                    **{"bar": bar.label, "phase": phase, "seconds": bar.seconds[phase], "total": ""},
                    **{"from": 100 * before, "to": 100 * (before + share), "jobs": list(bar.jobs)},
                    **{"middle": 100 * (before + share / 2), "name": phase if share >= NAMED else ""},
                }
            )
            before += share
        rows[-1]["total"] = f"{total:,.0f} s" if total >= 100 else f"{total:.3g} s"
    colors = [OTHER_COLOR if phase == OTHER else COLORS[place % len(COLORS)] for place, phase in enumerate(order)]
    base = altair.Chart(altair.InlineData(values=rows)).encode(
        y=altair.Y("bar:N", title=None, sort=[bar.label for bar in bars], axis=altair.Axis(ticks=False)),
    )
    whole = altair.Scale(domain=[0, 100], nice=False)
    parts = base.mark_bar(stroke="white", strokeWidth=1).encode(
        x=altair.X("from:Q", title="share of the wall time [%]; beside it the mean over n jobs", scale=whole),
        x2=altair.X2("to:Q"),
        color=altair.Color(
            "phase:N", title=None, scale=altair.Scale(domain=order, range=colors), legend=altair.Legend(orient="top")
        ),
        tooltip=[*tooltip("bar:N", "phase:N"), altair.Tooltip("seconds:Q", format=".3g", title="seconds")],
    )
    drawn = (
        parts,
        base.mark_text(fontSize=10, color="white").encode(x=altair.X("middle:Q"), text=altair.Text("name:N")),
        base.mark_text(fontSize=10, align="left", dx=6).encode(x=altair.datum(100), text=altair.Text("total:N")),
    )
    chart = composed("layer", drawn, width=WIDTH, height={"step": BAR_HEIGHT})
    note = "a job that was measured further later has the times of its last run"
    return titled(chart, "Where does the wall time of a job go?", [note], 1.5 * WIDTH)

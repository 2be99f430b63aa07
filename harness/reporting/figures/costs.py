"""Where the wall time goes: the share of every phase, and the mean over a method's jobs in seconds."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import altair

from harness.reporting.figures.base import FIGURES, NotDrawn, Picture, Row, paged
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import COLORS, OTHER_COLOR, Spec, composed, titled, tooltip
from harness.reporting.layout import clean
from harness.reporting.published import DENSE, natural_key

TOTAL, OTHER = "total", "other"
PHASES = ("load", "calibrate", "allocate", "prune", "recover", "evaluate", "save")
"""In the order of a job; what else was timed follows by name, and what no phase claims comes last."""

BARS_A_SHEET = 30
WIDTH, BAR_HEIGHT = 420, 22
NAMED = 0.12
"""A phase with at least this share has its name in the bar: colours alone tell nothing in grey."""


@FIGURES.register("time")
def cost_figures(data: Data) -> Iterator[Picture | NotDrawn]:
    """Pages of bars, methods below each other by model and device."""
    bars = time_bars(data)
    if not bars:
        yield NotDrawn("time", "no record has timings")
    for suffix, page in paged(bars, BARS_A_SHEET):
        yield Picture(f"time{suffix}", _chart([row for bar in page for row in bar]))


def time_bars(data: Data) -> list[list[Row]]:
    """The rows of every bar: the jobs of one method on one model and device."""
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
        bars.append(_bar(clean(f"{where}: {method} (n = {len(times)})"), times))
    return bars


def _bar(label: str, times: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """A row a phase, with its mean seconds over the jobs, from their times by job id."""
    seconds: dict[str, float] = defaultdict(float)
    for timings in times.values():
        phases = {phase: spent for phase, spent in timings.items() if phase != TOTAL}
        phases[OTHER] = max(timings.get(TOTAL, 0.0) - math.fsum(phases.values()), 0.0)
        for phase, spent in phases.items():
            seconds[phase] += spent / len(times)
    total, before, rows = math.fsum(seconds.values()), 0.0, []
    for phase in sorted(seconds, key=_phase_order):
        share = seconds[phase] / total if total else 0.0
        rows.append(
            {
                **{"bar": label, "phase": phase, "seconds": seconds[phase], "total": ""},
                **{"from": 100 * before, "to": 100 * (before + share), "jobs": list(times)},
                **{"middle": 100 * (before + share / 2), "name": phase if share >= NAMED else ""},
            }
        )
        before += share
    rows[-1]["total"] = f"{total:,.0f} s" if total >= 100 else f"{total:.3g} s"
    return rows


def _phase_order(phase: str) -> tuple[bool, int, str]:
    return (phase == OTHER, PHASES.index(phase) if phase in PHASES else len(PHASES), phase)


def _chart(rows: list[Row]) -> Spec:
    order = sorted({row["phase"] for row in rows}, key=_phase_order)
    colors = [OTHER_COLOR if phase == OTHER else COLORS[place % len(COLORS)] for place, phase in enumerate(order)]
    bars = [*dict.fromkeys(row["bar"] for row in rows)]
    base = altair.Chart(altair.InlineData(values=rows)).encode(
        y=altair.Y("bar:N", title=None, sort=bars, axis=altair.Axis(ticks=False)),
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

"""Where the wall time goes: seconds of every phase, the mean over a method's jobs."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import Row, Spec, drawn, text_width
from harness.reporting.layout import clean
from harness.reporting.published import DENSE, natural_key

TOTAL, OTHER = "total", "other"
PHASES = ("load", "calibrate", "allocate", "prune", "recover", "evaluate", "save")
"""In the order of a job; what else was timed follows by name, and what no phase claims comes last."""

BARS_A_SHEET = 30
BAR_HEIGHT, GAP = 16, 8
SHARE = 0.03
"""A phase that takes less than this of every job is part of the others."""


@FIGURES.register("time")
def cost_figures(data: Data) -> Iterator[Picture | NotDrawn]:
    """Pages of bars, methods below each other by model and device."""
    bars = time_bars(data)
    if not bars:
        yield NotDrawn("time", "no record has timings")
    for suffix, page in look.paged(bars, BARS_A_SHEET):
        where = f"{look.listed(sorted({job.model for job in data.jobs.values()}))}, {len(data.jobs)} jobs"
        yield Picture(f"time{suffix}", _chart([row for bar in page for row in bar], where))


def time_bars(data: Data) -> list[list[Row]]:
    """The rows of every bar: the jobs of one method on one model and device."""
    groups: dict[tuple[str, str, str], dict[str, Mapping[str, float]]] = defaultdict(dict)
    for record in data.records:
        if record.timings_s:
            job = data.jobs[record.job_id]
            groups[job.model, job.device, job.method][record.job_id] = record.timings_s
    models, devices = ({group[place] for group in groups} for place in (0, 1))
    bars = []
    for model, device, method in sorted(groups, key=lambda key: (*map(natural_key, key[:2]), key[2] != DENSE, key[2])):
        times = groups[model, device, method]
        where = [model] * (len(models) > 1) + [device] * (len(devices) > 1)
        spent = [phases.get(TOTAL, math.fsum(phases.values())) for phases in times.values()]
        bar = " ".join([*where, f"{method}, {len(times)} × {_said(fmean(spent))}"])
        bars.append(_bar(clean(bar), times))
    return bars


def _bar(label: str, times: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """A row a phase, with its mean seconds over the jobs, from their times by job id."""
    seconds: dict[str, float] = defaultdict(float)
    for timings in times.values():
        phases = {phase: spent for phase, spent in timings.items() if phase != TOTAL}
        phases[OTHER] = max(timings.get(TOTAL, 0.0) - math.fsum(phases.values()), 0.0)
        for phase, spent in phases.items():
            seconds[phase] += spent / len(times)
    total = math.fsum(seconds.values())
    return [
        {"bar": label, "phase": phase, "seconds": seconds[phase], "share": seconds[phase] / total if total else 0.0}
        | {"said": _said(seconds[phase]), "jobs": list(times)}
        for phase in sorted(seconds, key=_phase_order)
    ]


def _said(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"


def _phase_order(phase: str) -> tuple[bool, int, str]:
    return (phase == OTHER, PHASES.index(phase) if phase in PHASES else len(PHASES), phase)


def _chart(rows: Sequence[Row], where: str) -> Spec:
    """A column a phase, all to one scale: lengths compare across them, and no colour has to be remembered."""
    order = sorted({row["phase"] for row in rows if row["share"] >= SHARE}, key=_phase_order)
    bars = list(dict.fromkeys(row["bar"] for row in rows))
    columns = [[row for row in rows if row["phase"] == phase] for phase in order]
    longest = [max(row["seconds"] for row in column) for column in columns]
    texts = [
        max(text_width(one) for one in (phase, *(row["said"] for row in column)))
        for phase, column in zip(order, columns, strict=True)
    ]
    names = max(text_width(bar, look.SMALL_FONT) for bar in bars)
    left = 2 * look.COLUMN - names - math.fsum(texts) - len(order) * GAP
    a_second = max(left, look.COLUMN / 2) / (math.fsum(longest) or 1.0)
    panels: list[Spec] = []
    for phase, column, most, text in zip(order, columns, longest, texts, strict=True):
        axis = {"ticks": False, "domain": False, "labels": not panels}
        y = look.nominal("bar", title=None, sort=bars, axis=axis, scale={"domain": bars})
        width = most * a_second + text
        scale = {"domain": [0, width / a_second], "nice": False}
        x = {"field": "seconds", "type": "quantitative", "title": None, "axis": None, "scale": scale}
        said = {"tooltip": look.tooltip("bar", "phase", "seconds", "jobs")}
        layers = [
            drawn("bar", column, {"y": y, "x": x, **said}, color=look.COLORS[0], height=BAR_HEIGHT - 4),
            drawn("text", column, {"y": y, "x": x, "text": look.nominal("said")}, dx=3, fontSize=look.SMALL_FONT),
        ]
        size = {"width": width, "height": {"step": BAR_HEIGHT}, "title": {"text": phase, "offset": 4}}
        panels.append({"layer": layers, **size})
    few = sorted({row["phase"] for row in rows} - {*order}, key=_phase_order)
    notes = ["jobs × mean seconds of one, and of each phase; all bars have one scale"]
    notes += [f"below {SHARE:.0%} of every job: {', '.join(few)}"] if few else []
    notes += ["a job that was measured further later has the times of its last run"]
    chart = {"hconcat": panels, "spacing": GAP}
    return look.titled(chart, "Where does the wall time of a job go?", [where, "; ".join(notes)], 2 * look.COLUMN)

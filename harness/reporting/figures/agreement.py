"""Published numbers against measured ones, where model, method, pattern, protocol and metric agree."""

import math
from collections.abc import Iterator
from typing import Any

import altair

from harness.record import EvalResult
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture, Row
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import Spec, composed, file_name, titled, told_apart, tooltip, value_scale
from harness.reporting.figures.points import quantity
from harness.reporting.frame import Key, key_of
from harness.reporting.marks import Footnotes
from harness.reporting.tables import beside_published

SIDE = 300


@FIGURES.register("published")
def agreement(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol and metric with at least one pair."""
    found, examples = pairs(data)
    if not found:
        yield NotDrawn("published", "no measured number has the setting of a published one")
    for (protocol, metric), some in found.items():
        name = f"published-{file_name(protocol)}" + ("" if metric == "perplexity" else f"-{file_name(metric)}")
        yield Picture(name, _chart(data, some, examples[protocol, metric]))


def pairs(data: Data) -> tuple[dict[Key, list[Row]], dict[Key, EvalResult]]:
    """Rows of a published number and ours of one setting by (protocol, metric), and an example result of each."""
    found: dict[Key, list[Row]] = {}
    examples: dict[Key, EvalResult] = {}
    for entry in data.entries:
        for result in entry.results:
            cell = beside_published(entry, result, data.published, Footnotes())
            value, error = cell.measured, cell.stderr or 0.0
            if cell.published and value is not None and math.isfinite(value) and not entry.job.differs:
                row = {
                    **{"label": entry.job.method, "published": cell.published.value, "measured": value},
                    **{"low": value - error, "high": value + error, "job": entry.job.job_id},
                    "verified": cell.published.status != "unverified",
                }
                found.setdefault(key_of(result), []).append(row)
                examples.setdefault(key_of(result), result)
    return dict(sorted(found.items())), examples


def _chart(data: Data, some: list[Row], example: EvalResult) -> Spec:
    unit = quantity(example.metric)
    both, axis = value_scale(end for pair in some for end in (pair["published"], pair["measured"]))

    def up(field: str) -> Any:
        return altair.Y(f"{field}:Q", title=f"measured {unit}", scale=both, axis=axis)

    methods = {pair["label"] for pair in some}
    looks = told_apart({label: style for label, style in data.styles.items() if label in methods}, "color", "shape")
    across = altair.X("published:Q", title=f"published {unit}", scale=both, axis=axis)
    base = altair.Chart(altair.InlineData(values=some)).encode(x=across)
    shown = base.encode(**looks, y=up("measured"), tooltip=tooltip("label:N", "published:Q", "measured:Q", "job:N"))
    ends = altair.InlineData(values=[{"published": end, "measured": end} for end in both["domain"]])
    parts = (
        altair.Chart(ends).mark_line(color="#888888", strokeWidth=1).encode(x=across, y=up("measured")),
        base.mark_rule(clip=True).encode(color=looks["color"], y=up("low"), y2=altair.Y2("high:Q")),
        shown.transform_filter("datum.verified").mark_point(size=50, filled=True),
        shown.transform_filter("!datum.verified").mark_point(size=50, filled=False),
    )
    chart = composed("layer", parts, width=SIDE, height=SIDE)
    said = [f"{example.task}, n = {example.num_samples} [{example.protocol}]"]
    said += ["on the line: equal; hollow: the published value was not checked against its paper"]
    said += ["not drawn: jobs that compute something otherwise than the paper did (* in tables)"]
    said += (
        ["error bars: standard error of the measured value"] if any(pair["high"] > pair["low"] for pair in some) else []
    )
    return titled(chart, "Are measured numbers those that papers print?", said, 1.5 * SIDE)

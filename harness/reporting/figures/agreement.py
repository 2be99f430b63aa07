"""Published numbers against measured ones, where model, method, pattern, protocol and metric agree."""

import math
from collections.abc import Iterator, Sequence

from harness.record import EvalResult
from harness.reporting.axes import pattern_name
from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import MARKER, Row, Scale, Spec, drawn
from harness.reporting.frame import Key, key_of
from harness.reporting.layout import clean, number
from harness.reporting.marks import Footnotes
from harness.reporting.published import natural_key
from harness.reporting.tables import beside_published

ROWS_A_SHEET = 30
ROW_HEIGHT = 18


@FIGURES.register("published")
def agreement(data: Data) -> Iterator[Picture | NotDrawn]:
    """Pages for every protocol and metric with at least one pair."""
    found, examples = pairs(data)
    if not found:
        yield NotDrawn("published", "no measured number has the setting of a published one")
    for (protocol, metric), some in found.items():
        name = f"published-{look.file_name(protocol)}" + (
            "" if metric == "perplexity" else f"-{look.file_name(metric)}"
        )
        for suffix, page in look.paged(some, ROWS_A_SHEET):
            yield Picture(name + suffix, _chart(page, examples[protocol, metric]))


def pairs(data: Data) -> tuple[dict[Key, list[Row]], dict[Key, EvalResult]]:
    """Rows of a published number and ours of one setting by (protocol, metric), and an example result of each."""
    found: dict[Key, list[Row]] = {}
    examples: dict[Key, EvalResult] = {}
    for entry in data.entries:
        for result in entry.results:
            cell = beside_published(entry, result, data.published, Footnotes())
            value, error = cell.measured, cell.stderr or 0.0
            if cell.published and value is not None and math.isfinite(value) and not entry.job.differs:
                job, printed = entry.job, cell.published.value
                where = "" if job.is_dense else f" {pattern_name(job.pattern, job.sparsity)}"
                numbers = {"published": printed, "measured": value, "difference": _percent(value, printed)}
                row = {
                    **{"setting": clean(f"{job.model} {job.method}{where}"), **numbers, "job": job.job_id},
                    **{"low": _percent(value - error, printed), "high": _percent(value + error, printed)},
                    **{"label": job.method, "verified": cell.published.status != "unverified"},
                    **{"said": f"{number(value)} / {cell.published.text}"},
                }
                found.setdefault(key_of(result), []).append(row)
                examples.setdefault(key_of(result), result)
    for rows in found.values():
        rows.sort(key=lambda row: natural_key(row["setting"]))
    return dict(sorted(found.items())), examples


def _percent(value: float, printed: float) -> float:
    return 100 * (value / printed - 1)


def _chart(rows: Sequence[Row], example: EvalResult) -> Spec:
    """A row a setting: how far ours is from the printed number, and both of them."""
    numbers = max(look.text_width(row["said"]) for row in rows)
    names = max(look.text_width(row["setting"], look.SMALL_FONT) for row in rows)
    width = max(2 * look.COLUMN - names - numbers - 3 * MARKER, 0.6 * look.COLUMN)
    ends = [end for row in rows for end in (row["low"], row["high"])]
    title = "measured above published [% of it]"
    across = Scale.of([*ends, 0.0], width, margin=2 * MARKER, axis={"title": title, "orient": "top"})
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    y = look.nominal("setting", title=None, sort=settings, axis={"ticks": False, "domain": False, "grid": True})
    said = {"tooltip": look.tooltip("setting", "published", "measured", "job")}
    layers = [drawn("rule", [{"x": 0}], {"x": across.channel("x")}, color=look.QUIET)]
    layers.append(
        drawn("rule", rows, {"y": y, "x": across.channel("low"), "x2": {"field": "high"}}, color=look.COLORS[0])
    )
    for verified in (True, False):
        some = [row for row in rows if row["verified"] == verified]
        encoding = {"y": y, "x": across.channel("difference"), **said}
        layers.append(drawn("point", some, encoding, color=look.COLORS[0], filled=verified))
    beside = {"y": y, "x": {"value": width + MARKER}, "text": look.nominal("said")}
    layers.append(drawn("text", rows, beside))
    chart = {"layer": layers, "width": width, "height": {"step": ROW_HEIGHT}}
    notes = [f"{example.task}, {example.metric}, n = {example.num_samples} [{example.protocol}]; {len(rows)} jobs"]
    notes += ["at the right: measured / published; hollow: not checked against its paper; bars: standard error"]
    notes += ["not drawn: jobs that compute something otherwise than the paper did (* in tables)"]
    return look.titled(chart, "Are measured numbers those that papers print?", notes, 2 * look.COLUMN)

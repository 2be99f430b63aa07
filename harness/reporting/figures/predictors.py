"""Which cheap measure predicts the expensive ones: rank correlations between all measures of a model's pruned jobs."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import inf, isfinite, isnan
from statistics import median
from typing import TYPE_CHECKING

from harness.record import EvalResult
from harness.reporting.figures import look
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import Row, Spec, drawn, text_width
from harness.reporting.frame import Measured
from harness.reporting.layout import clean
from harness.reporting.published import natural_key
from harness.reporting.tables import columns_of, value_columns

if TYPE_CHECKING:
    import pandas as pd

FEWEST_JOBS, FEWEST_METRICS = 8, 3
"""Less is no ranking, and nothing to choose from."""
LAYER_ERROR = "output error of layers"
"""The median over them, which pruning leaves in the record: no evaluation is needed."""
SIZE_AND_SPEED = "efficiency"
"""The kind of evaluation that measures no quality."""
CELL, ROW = 30, 26
"""Pixels of a cell at least."""
FEW_ROWS = 150
"""Pixels that few rows share."""
TINY_FONT = 8
SPACE = 4
"""Pixels between a name and its row."""
COLORS = (look.COLORS[1], "#ffffff", look.COLORS[0])
"""Of the correlations -1, 0 and 1."""


@FIGURES.register("predictors")
def rank_correlations(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every model with enough pruned jobs that were measured in several ways."""
    models = sorted({job.model for job in data.jobs.values()}, key=natural_key)
    found = {model: table for model in models if not (table := measures(data, model)).empty}
    for model, table in found.items():
        name = f"predictors-{look.file_name(model)}" if len(models) > 1 else "predictors"
        yield Picture(name, _chart(data, model, table))
    if not found:
        yield NotDrawn("predictors", f"no model has {FEWEST_JOBS} pruned jobs with {FEWEST_METRICS} metrics in common")


def measures(data: Data, model: str) -> "pd.DataFrame":
    """What was measured of the pruned jobs of a model, a row a job, the larger the better, from cheap to expensive.

    Only what at least two others were measured with on enough jobs.  An infinite perplexity is the worst; what could
    not be measured is NaN.
    """
    import pandas as pd

    entries = [entry for entry in data.entries if entry.job.model == model and not entry.job.is_dense]
    values: dict[str, dict[str, float]] = {LAYER_ERROR: _layer_errors(data, entries)}
    seconds: dict[str, list[float]] = defaultdict(list)
    examples = columns_of(entries)
    for (key, example), column in zip(examples.items(), value_columns(examples), strict=True):
        if example.kind == SIZE_AND_SPEED:
            continue
        found = {entry.job.job_id: entry.by_key[key] for entry in entries if key in entry.by_key}
        texts = Counter(result.data_fingerprint for result in found.values())
        same = {
            job: result for job, result in found.items() if result.data_fingerprint == max(texts, key=texts.__getitem__)
        }
        sign = 1 if example.higher_is_better else -1
        values[column.header] = {job: sign * one.value for job, one in same.items() if one.value is not None}
        seconds[column.header] = [spent for one in same.values() if (spent := _seconds(one)) is not None]
    costs = {name: 0.0 if name == LAYER_ERROR else median(seconds[name]) if seconds[name] else inf for name in values}
    table = pd.DataFrame({_label(name, costs[name]): values[name] for name in sorted(values, key=costs.__getitem__)})
    shared = counts(table) >= FEWEST_JOBS
    kept = table.loc[:, shared.sum() >= FEWEST_METRICS]
    return kept if kept.shape[1] >= FEWEST_METRICS else pd.DataFrame()


def _layer_errors(data: Data, entries: Sequence[Measured]) -> dict[str, float]:
    """Less the median relative output error of its layers, for every job that lists one."""
    asked = {entry.job.job_id for entry in entries}
    errors = {
        record.job_id: [one.relative_output_error for one in record.layers if one.relative_output_error is not None]
        for record in data.records
        if record.job_id in asked
    }
    return {job: -median(found) for job, found in errors.items() if found}


def _seconds(result: EvalResult) -> float | None:
    """Wall time of a measurement; of tasks that were scored together an equal share."""
    alone, together = result.details.get("seconds"), result.details.get("seconds_of_all_tasks")
    if isinstance(alone, int | float):
        return float(alone)
    tasks = result.details.get("scored_together")
    return (
        float(together) / len(tasks) if isinstance(together, int | float) and isinstance(tasks, list | tuple) else None
    )


def _label(name: str, seconds: float) -> str:
    return clean(f"{name}, {seconds:.0f} s" if isfinite(seconds) else name)


def counts(table: "pd.DataFrame") -> "pd.DataFrame":
    """How many jobs have both of two measures."""
    known = table.notna().astype(int)
    return known.T @ known


def correlations(table: "pd.DataFrame") -> "pd.DataFrame":
    """Spearman's rank correlation of every two measures over the jobs that have both; NaN where these are too few."""
    return table.rank().corr(method="spearman", min_periods=FEWEST_JOBS)  # ranks first: pandas passes over infinities


def destroyed(data: Data, model: str) -> set[str]:
    """The jobs of a model that are no language models any more: a perplexity beyond the edge, or none."""
    panels = [panel for panel in data.panels if panel.model == model]
    beyond = {job for panel in panels for point in panel.points if point.value > panel.edge for job in point.jobs}
    results = [(entry.job.job_id, one) for entry in data.entries for one in entry.results if one.kind != SIZE_AND_SPEED]
    return beyond | {job for job, result in results if result.value is None or not isfinite(result.value)}


def _chart(data: Data, model: str, table: "pd.DataFrame") -> Spec:
    """One staircase of all jobs, and below it one of those that still are language models."""
    alive = table.drop(index=[*destroyed(data, model) & {*table.index}])
    parts = {f"all {len(table)} pruned jobs": table}
    if FEWEST_JOBS <= len(alive) < len(table):
        parts[f"the {len(alive)} of them that still are language models"] = alive
    width = look.COLUMN * data.columns
    half = (width - look.GAP) / 2
    beside = len(parts) == 2 and _cell([*table.columns], 1, half) >= CELL
    panels = [_staircase(part, title, half if beside else width) for title, part in parts.items()]
    notes = ["Spearman's rank correlation, 1 = the same order; small: the number of jobs that have both"]
    notes += ["from cheap (above, left) to expensive, by the median of their seconds where these are recorded"]
    notes += ["jobs of all patterns and sparsities: more zeros make all measures worse together"]
    chart = {"hconcat" if beside else "vconcat": panels, "spacing": look.GAP}
    said = [f"{model}, {len(table)} jobs", "; ".join(notes)]
    return look.titled(chart, "Which cheap measure predicts the expensive ones?", said, width)


def _staircase(table: "pd.DataFrame", title: str, width: float) -> Spec:
    """A row a measure, a column for each that is more expensive; where a row begins, below its column, stands its name.

    Where the cells of all do not fit into the width, only the most expensive measures have columns.
    """
    names = [str(name) for name in table.columns]
    rho, both = correlations(table).to_numpy(), counts(table).to_numpy()
    fits = (first for first in range(1, len(names)) if _cell(names, first, width) >= CELL)
    first = next(fits, len(names) - 1)
    cell, high = _cell(names, first, width), max(ROW, FEW_ROWS / len(names))
    left = width - cell * (len(names) - first)
    cells: list[Row] = [
        {
            **{"row": names[row], "column": names[column], "rho": float(rho[row, column])},
            **{"said": f"{rho[row, column]:.2f}".replace("-0.00", "0.00"), "n": str(both[row, column])},
            **{"left": left + cell * (column - first), "right": left + cell * (column - first + 1)},
            **{"top": -high * row, "bottom": -high * (row + 1)},
            **{"x": left + cell * (column - first + 0.5), "y": -high * (row + 0.5)},
        }
        for row in range(len(names) - 1)
        for column in range(max(row + 1, first), len(names))
        if not isnan(rho[row, column])
    ]
    starts = [left + cell * max(row + 1 - first, 0) - SPACE for row in range(len(names))]
    ends = [
        {"name": name, "jobs": list(table.index), "x": start, "y": -high * (row + 0.5)}
        for row, (name, start) in enumerate(zip(names, starts, strict=True))
    ]
    return _drawn(cells, ends, (width, high * len(names)), title)


def _cell(names: Sequence[str], first: int, width: float) -> float:
    """The widest cell with which the names and the columns from measure `first` on fit into this many pixels."""
    columns = [len(names) - max(row + 1, first) for row in range(len(names))]
    return min((width - text_width(name) - 2 * SPACE) / n for name, n in zip(names, columns, strict=True) if n)


def _drawn(cells: Sequence[Row], ends: Sequence[Row], size: tuple[float, float], title: str) -> Spec:
    def along(field: str, low: float, high: float) -> Spec:
        scale = {"domain": [low, high], "nice": False, "zero": False}
        return {"field": field, "type": "quantitative", "axis": None, "scale": scale}

    def written(rows: Sequence[Row], field: str, align: str, **properties: object) -> Spec:
        encoding = {"x": along("x", 0, width), "y": along("y", -height, 0), "text": look.nominal(field)}
        return drawn("text", rows, encoding, align=align, **properties)

    width, height = size
    scale = {"domain": [-1, 0, 1], "range": [*COLORS], "interpolate": "rgb"}
    boxes: Spec = {"color": {"field": "rho", "type": "quantitative", "legend": None, "scale": scale}}
    boxes |= {"x": along("left", 0, width), "x2": {"field": "right"}}
    boxes |= {"y": along("bottom", -height, 0), "y2": {"field": "top"}}
    boxes |= {"tooltip": look.tooltip("row", "column", "said", "n")}
    layers = [
        drawn("rect", cells, boxes, stroke="#ffffff"),
        written(cells, "said", "center", fontSize=look.SMALL_FONT, dy=-4),
        written(cells, "n", "center", fontSize=TINY_FONT, dy=7),
        written(ends, "name", "right"),
    ]
    return {"layer": layers, "width": width, "height": height, "title": title}

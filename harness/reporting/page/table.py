"""What the page's table, facets and plots are made from: every job as one row, stored column by column."""

import re
from collections.abc import Mapping, Sequence

from harness.record import EvalResult, RunRecord
from harness.reporting.axes import AXES, Axis, job_order
from harness.reporting.frame import JobRow, Measured, describe
from harness.reporting.layout import Cell, Column, json_number, rounded
from harness.reporting.marks import Footnotes, last_line
from harness.reporting.published import Published
from harness.reporting.standings import Metric, Standings
from harness.reporting.tables import (
    beside_published,
    columns_of,
    protocol_notes,
    value_columns,
)

SHORT = {"arc_easy": "ARC-e", "arc_challenge": "ARC-c", "hellaswag": "HellaSwag"}
SHORT |= {"winogrande": "WinoGrande", "openbookqa": "OBQA", "acc_norm": "acc norm"}

NAMED = {axis.key: axis for axis in AXES if axis.key in ("model", "method", "pattern", "sparsity", "params")}

FAILED_NOTE = "‡ the job failed; its row says why"


def in_order(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records as the tables order them, each job once: a done record before a failed one."""
    by_id: dict[str, RunRecord] = {}
    for record in sorted(records, key=lambda record: record.status != "done"):
        by_id.setdefault(record.job_id, record)
    return sorted(by_id.values(), key=lambda record: job_order(describe(record)))


def table(records: Sequence[RunRecord], entries: Sequence[Measured], published: Published) -> dict[str, object]:
    """Every job as a row of columns of plain data.

    Text columns are coded: `values` in the order they sort by, and a code a row.  Accuracies are in percent, numbers
    that JSON has not are the strings "Infinity", "-Infinity" and "NaN", and what is missing is None.

    Args:
        records: as `in_order` gives them; entries: the same, measured.
        published: see `harness.reporting.tables.comparison`.
    """
    jobs = [entry.job for entry in entries]
    results = columns_of(entries)
    found = [entry.by_key for entry in entries]
    notes = Footnotes()
    for line in protocol_notes(entries, results):
        notes.add(line)
    for entry in entries:
        notes.dirty(entry)
    if any(job.status == "failed" for job in jobs):
        notes.add(FAILED_NOTE)
    columns = value_columns(results)
    short = _short([column.header for column in columns])
    metrics = []
    for (key, example), column, label in zip(results.items(), columns, short, strict=True):
        values = [_cell(entry, row.get(key), published, notes) for entry, row in zip(entries, found, strict=True)]
        metrics.append(_metric(column, label, example, values))
    return {
        "id": [job.job_id for job in jobs],
        "dense": [int(job.is_dense) for job in jobs],
        "dirty": [int(job.dirty) for job in jobs],
        "error": [last_line(entry.error) if entry.job.status == "failed" else None for entry in entries],
        "ended": [record.provenance.created for record in records],
        "sparsity": [job.sparsity for job in jobs],
        "achieved": [job.achieved_sparsity for job in jobs],
        "seconds": [rounded(entry.timings_s.get("total"), 4) for entry in entries],
        "axes": [_axis(axis, jobs) for axis in AXES],
        "metrics": metrics,
        "notes": notes.lines(),
    }


def _axis(axis: Axis, jobs: Sequence[JobRow]) -> dict[str, object]:
    texts = [axis.value(job) for job in jobs]
    values = sorted(set(texts) - {""}, key=lambda text: (axis.order(text), text))
    values = ([""] if "" in texts else []) + values
    codes = {value: code for code, value in enumerate(values)}
    return {
        "key": axis.key,
        "label": axis.header,
        "within": axis.within,
        "values": values,
        "codes": [codes[text] for text in texts],
    }


def _cell(entry: Measured, result: EvalResult | None, published: Published, notes: Footnotes) -> Cell:
    """A number, with footnotes where it stands beside a published one."""
    own = Footnotes()
    cell = beside_published(entry, result, published, own) if result else Cell()
    for line in own.lines() if cell.published else ():
        notes.add(line)
    return cell


def _metric(column: Column, short: str, example: EvalResult, cells: Sequence[Cell]) -> dict[str, object]:
    direction = "higher is better" if example.higher_is_better else "lower is better"
    return {
        "key": column.key,
        "label": column.header,
        "short": short,
        "says": f"{column.header}: {example.protocol}, {example.metric}, {direction}",
        "unit": column.unit,
        "higher": example.higher_is_better,
        "values": [json_number(cell.measured) for cell in cells],
        "published": {
            index: {"text": cell.written("measured first"), "source": cell.published.paper_table}
            for index, cell in enumerate(cells)
            if cell.published
        },
    }


def _short(headers: Sequence[str]) -> list[str]:
    """Headers without the names of data and subsets where they tell apart without them, and with tasks' short names."""
    short = list(headers)
    for part in (r" data \S+", r" first \d+", r" %"):
        shorter = [re.sub(part, "", header) for header in short]
        short = shorter if len(set(shorter)) == len(headers) else short
    return [" ".join(SHORT.get(word, word) for word in header.split(" ")) for header in short]


def ranking(found: Standings, rows: Mapping[str, int]) -> dict[str, object]:
    """The standings as columns of plain data, and by metric one number a standing; None where it was not measured.

    Args:
        rows: of every job in `table`, by its id.
    """
    jobs = [row.entry.job for row in found.rows]
    leading = found.leading
    return {
        "label": [row.label for row in found.rows],
        **{key: [axis.value(job) for job in jobs] for key, axis in NAMED.items()},
        "place": [found.places.index(row.place) if row.place else None for row in found.rows],
        "places": found.places,
        "jobs": [[rows[job] for job in row.entry.jobs] for row in found.rows],
        "metrics": {metric.column.key: _numbers(metric) for metric in found.metrics},
        "chosen": leading[0].column.key if leading else "",
        "notes": found.notes,
    }


def _numbers(metric: Metric) -> dict[str, object]:
    cells = [cell or Cell() for cell in metric.cells]
    return {
        "value": [json_number(cell.measured) for cell in cells],
        "error": [rounded(cell.interval if cell.samples else cell.stderr, 6) for cell in cells],
        "distance": [rounded(cell.distance, 6) for cell in cells],
        "kept": [rounded(cell.kept, 3) for cell in cells],
        "rank": [cell and cell.rank for cell in metric.cells],
        "marks": {place: cell.marks for place, cell in enumerate(cells) if cell.marks},
        "published": {
            place: {"text": ", ".join(cell.beside), "source": cell.published.paper_table}
            for place, cell in enumerate(cells)
            if cell.published
        },
        "notes": metric.notes,
    }

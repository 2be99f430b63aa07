"""What the page's table, facets and plots are made from: every job as one row, stored column by column."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from harness.record import EvalResult, RunRecord
from harness.reporting.axes import AXES, Axis, job_order
from harness.reporting.frame import JobRow, Key, Measured, describe
from harness.reporting.layout import Cell, Column, json_number, rounded
from harness.reporting.marks import Footnotes, last_line
from harness.reporting.published import Published
from harness.reporting.tables import (
    beside_published,
    columns_of,
    protocol_notes,
    unit_of,
    value_columns,
)

SHORT = {"arc_easy": "ARC-e", "arc_challenge": "ARC-c", "hellaswag": "HellaSwag"}
SHORT |= {"winogrande": "WinoGrande", "openbookqa": "OBQA", "acc_norm": "acc norm"}

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
    first = next((place for place, metric in enumerate(metrics) if metric["unit"] == "%"), len(metrics))
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
        "metrics": [*metrics[:first], *_means(results, found), *metrics[first:]],
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


def _means(results: Mapping[Key, EvalResult], found: Sequence[Mapping[Key, EvalResult]]) -> Iterator[dict[str, object]]:
    """The mean of every accuracy over the tasks that were asked equally many questions, of jobs that have them all."""
    suites: dict[str, list[Key]] = defaultdict(list)
    for key, example in results.items():
        if example.kind == "zero_shot" and unit_of(example.metric) == "%":
            limit = re.search(r":first(\d+)", example.protocol)
            suites[example.metric + (f" first {limit[1]}" if limit else "")].append(key)
    for name, keys in suites.items():
        if len(keys) > 1:
            label = f"mean {name} % of {len(keys)} tasks"
            tasks = ", ".join(results[key].task for key in keys)
            known = [[row[key].value for key in keys if key in row] for row in found]
            rows = [[value for value in row if value is not None] for row in known]
            values = [100 * fmean(row) if len(row) == len(keys) else None for row in rows]
            column = {"key": f"mean:{name}", "label": label, "short": f"mean {name.split(' ')[0]}", "unit": "%"}
            yield column | {"says": f"{label}: {tasks}", "higher": True, "values": values, "published": {}}

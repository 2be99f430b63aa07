"""What the page's table, facets and plots are made from: every job as one row, stored column by column."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from harness.record import EvalResult, RunRecord
from harness.reporting.axes import AXES, Axis, job_order
from harness.reporting.frame import JobRow, Measured, describe
from harness.reporting.layout import Column, json_number
from harness.reporting.marks import Footnotes
from harness.reporting.published import Published
from harness.reporting.tables import (
    column_key,
    columns_of,
    compared,
    in_unit,
    protocol_notes,
    unit_of,
    value_columns,
)

SHORT = {"arc_easy": "ARC-e", "arc_challenge": "ARC-c", "hellaswag": "HellaSwag"}
SHORT |= {"winogrande": "WinoGrande", "openbookqa": "OBQA", "acc_norm": "acc norm"}

Key = tuple[str, str]
"""Protocol and metric."""

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
    found = [{column_key(result): result for result in entry.results} for entry in entries]
    notes = Footnotes()
    for line in protocol_notes(entries, results):
        notes.add(line)
    for entry in entries:
        notes.dirty(entry)
    if any(job.status == "failed" for job in jobs):
        notes.add(FAILED_NOTE)
    columns = value_columns(results)
    short = _short([column.header for column in columns])
    metrics = [
        _metric(column, label, example, [row.get(key) for row in found])
        | {"published": dict(_published(entries, key, found, published, notes))}
        for (key, example), column, label in zip(results.items(), columns, short, strict=True)
    ]
    first = next((place for place, metric in enumerate(metrics) if metric["unit"] == "%"), len(metrics))
    return {
        "id": [job.job_id for job in jobs],
        "dense": [int(job.is_dense) for job in jobs],
        "dirty": [int(job.dirty) for job in jobs],
        "error": [_last_line(entry.error) for entry in entries],
        "ended": [record.provenance.created for record in records],
        "sparsity": [job.sparsity for job in jobs],
        "achieved": [job.achieved_sparsity for job in jobs],
        "seconds": [_rounded(entry.timings_s.get("total"), 4) for entry in entries],
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


def _metric(column: Column, short: str, example: EvalResult, rows: Sequence[EvalResult | None]) -> dict[str, object]:
    direction = "higher is better" if example.higher_is_better else "lower is better"
    return {
        "key": column.key,
        "label": column.header,
        "short": short,
        "says": f"{column.header}: {example.protocol}, {example.metric}, {direction}",
        "unit": column.unit,
        "higher": example.higher_is_better,
        "values": [json_number(in_unit(row.value, column.unit)) if row else None for row in rows],
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


def _published(
    entries: Sequence[Measured],
    key: Key,
    found: Sequence[Mapping[Key, EvalResult]],
    published: Published,
    notes: Footnotes,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Of each row that has one: its number beside the most trusted published one."""
    for index, (entry, results) in enumerate(zip(entries, found, strict=True)):
        setting = entry.setting(results[key]) if key in results else None
        first = next(iter(published.lookup(setting) if setting else ()), None)
        if first:
            text = compared(entry, results[key], first, notes).written("measured first")
            source = f"{first.table_id}: {first.paper}" + (f", arXiv {first.arxiv}" if first.arxiv else "")
            yield index, {"text": text, "source": source}


def _rounded(value: float | None, digits: int) -> float | str | None:
    """`value` to so many significant digits."""
    return json_number(value if value is None else float(f"{value:.{digits}g}"))


def _last_line(error: str | None) -> str | None:
    return None if error is None else ((error.strip().splitlines() or ["no traceback recorded"])[-1])

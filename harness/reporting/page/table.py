"""What the page's table, facets and plots are made from: every job as one row, stored column by column."""

from collections.abc import Iterator, Mapping, Sequence

from harness.record import EvalResult, RunRecord
from harness.reporting.axes import AXES, Axis, job_order
from harness.reporting.frame import JobRow, Measured, describe
from harness.reporting.layout import Column, json_number
from harness.reporting.marks import DIRTY_NOTE
from harness.reporting.published import Published
from harness.reporting.tables import (
    column_key,
    columns_of,
    in_unit,
    protocol_notes,
    unit_of,
    value_columns,
)

STEPS = ("load", "calibrate", "prune", "recover", "evaluate", "total")
"""Steps of a job in the order they are taken; others follow by name."""

FAILED_NOTE = "‡ the job failed; its row says why"


def in_order(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records as the tables order them, each job once: a done record before a failed one.

    Raises:
        UserError: a record's job lacks a field of its identity.
    """
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
    notes = protocol_notes(entries, results)
    notes += [DIRTY_NOTE] if any(job.dirty for job in jobs) else []
    notes += [FAILED_NOTE] if any(job.status == "failed" for job in jobs) else []
    timed = {step for entry in entries for step in entry.timings_s}
    steps = [step for step in STEPS if step in timed] + sorted(timed - set(STEPS))
    return {
        "id": [job.job_id for job in jobs],
        "dense": [int(job.is_dense) for job in jobs],
        "dirty": [int(job.dirty) for job in jobs],
        "error": [_last_line(entry.error) for entry in entries],
        "ended": [record.provenance.created for record in records],
        "sparsity": [job.sparsity for job in jobs],
        "achieved": [job.achieved_sparsity for job in jobs],
        "memory": [max(record.peak_memory_bytes.values(), default=None) for record in records],
        "steps": {step: [_rounded(entry.timings_s.get(step), 4) for entry in entries] for step in steps},
        "axes": [_axis(axis, jobs) for axis in AXES],
        "metrics": [
            _metric(column, key, example, found) | {"published": dict(_published(entries, found, key, published))}
            for (key, example), column in zip(results.items(), value_columns(results), strict=True)
        ],
        "notes": notes,
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


def _metric(
    column: Column,
    key: tuple[str, str],
    example: EvalResult,
    found: Sequence[Mapping[tuple[str, str], EvalResult]],
) -> dict[str, object]:
    unit = unit_of(example.metric)
    rows = [results.get(key) for results in found]
    return {
        "key": column.key,
        "label": column.header,
        "protocol": example.protocol,
        "kind": example.kind,
        "task": example.task,
        "metric": example.metric,
        "unit": unit,
        "higher": example.higher_is_better,
        "values": [json_number(in_unit(row.value, unit)) if row else None for row in rows],
        "stderr": [_rounded(in_unit(row.stderr, unit), 4) if row else None for row in rows],
    }


def _published(
    entries: Sequence[Measured],
    found: Sequence[Mapping[tuple[str, str], EvalResult]],
    key: tuple[str, str],
    published: Published,
) -> Iterator[tuple[int, dict[str, object]]]:
    """The most trusted published number of each row that has one."""
    for index, (entry, results) in enumerate(zip(entries, found, strict=True)):
        setting = entry.setting(results[key]) if key in results else None
        rows = published.lookup(setting) if setting else ()
        if rows:
            first = rows[0]
            source = f"{first.table_id}: {first.paper}" + (f", arXiv {first.arxiv}" if first.arxiv else "")
            mark = "?" if first.status == "unverified" else ""
            yield index, {"text": first.text + mark, "value": first.value, "source": source}


def _rounded(value: float | None, digits: int) -> float | str | None:
    """`value` to so many significant digits."""
    return json_number(value if value is None else float(f"{value:.{digits}g}"))


def _last_line(error: str | None) -> str | None:
    return None if error is None else ((error.strip().splitlines() or ["no traceback recorded"])[-1])

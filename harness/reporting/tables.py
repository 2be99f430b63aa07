"""The comparison table: every job against every metric that was measured."""

import re
from collections.abc import Mapping, Sequence

from harness.record import EvalResult, RunRecord
from harness.reporting.axes import SETTINGS, Axis, distinguishing_axes, job_order
from harness.reporting.frame import JobRow, Key, Measured, Spread, key_of, measured
from harness.reporting.layout import SPEEDUPS, UNITS, Cell, Column, Table, metric_header, percent
from harness.reporting.marks import Footnotes, ranked
from harness.reporting.published import DENSE, NO_RECOVERY, UNIFORM, Published, PublishedRow, natural_key
from harness.reporting.statistics import MEAN_NOTE, TASK_MEAN, mean_over_seeds

COUNTED_NOTE = "sparsity in brackets: zeros counted, where they differ from the fraction asked for"

TASK_ORDER = (
    *("wikitext2", "ptb", "ptb_unk", "ptb-validation", "c4", "wikipedia-sample"),
    *("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"),
)
"""Columns in the order of the LLM-Pruner tables; what is not here follows by name."""

SAID_ONCE = ("dtype", "allocation", "recovery", "calibration", "propagation", "seed")
"""Axes that a footnote states when they are the same everywhere."""
UNSAID = {"", UNIFORM, NO_RECOVERY}
"""What every reader takes for granted."""


def comparison(records: Sequence[RunRecord], published: Published, *, mean_over_seed: bool = False) -> Table:
    """Every job against every metric, one column a protocol; published value and difference where they compare.

    Rows: by model, dense first, then method, pattern (unstructured by sparsity, then N:M from the widest group).
    A column appears for seed, calibration, parameters, ... only where jobs differ in it.

    Args:
        records: jobs in any order; failed ones get a row of dashes.
        published: see `harness.reporting.published.load`.
        mean_over_seed: one row for all jobs that differ in nothing but the seed, see `mean_over_seeds`.
    """
    entries = mean_over_seeds(records) if mean_over_seed else measured(records)
    entries = sorted(entries, key=lambda entry: job_order(entry.job))
    axes = distinguishing_axes([entry.job for entry in entries])
    results = columns_of(entries)
    notes = Footnotes()
    if any(entry.spreads for entry in entries):
        notes.add(MEAN_NOTE)
    rows = []
    for entry in entries:
        found = entry.by_key
        said = [Cell(entry.job.model), Cell(entry.job.method, marks=notes.job(entry))]
        said += [Cell(entry.job.shown_pattern), Cell(_sparsity(entry.job, notes))]
        said += [Cell(axis.value(entry.job)) for axis in axes]
        values = (beside_published(entry, found[key], published, notes) if key in found else Cell() for key in results)
        rows.append((*said, *values))
    labels = [Column(header) for header in ("model", "method", "pattern", "sparsity")]
    labels += [Column(axis.header, setting=True) for axis in axes]
    table = Table(
        title="Measured results",
        columns=(*labels, *value_columns(results)),
        rows=tuple(rows),
        footnotes=(*_said_once(axes, entries), *protocol_notes(entries, results), *notes.lines()),
    )
    return ranked(table)


def beside_published(entry: Measured, result: EvalResult, published: Published, notes: Footnotes) -> Cell:
    """The cell of a measured number, beside the most trusted published one of its setting, if there is one."""
    rows = published.lookup(entry.setting(result))
    if len({row.value for row in rows}) > 1:
        how = "" if rows[0].pattern == DENSE else f" {rows[0].pattern} {percent(rows[0].sparsity)}"
        where = f"{rows[0].model} {rows[0].method}{how}, {result.task}"
        values = dict.fromkeys(f"{row.text} ({row.table_id})" for row in rows)
        notes.add(f"published values differ for {where}: {', '.join(values)}; the first is shown")
    return compared(entry, result, rows[0] if rows else None, notes)


def compared(entry: Measured, result: EvalResult, row: PublishedRow | None, notes: Footnotes) -> Cell:
    """The cell of a measured number beside this published one; no verdict where the two are not of one computation."""
    value = in_unit(result.value, result.metric)
    spread = entry.spreads.get(key_of(result), Spread(0, None))
    return Cell(
        measured=value,
        stderr=in_unit(result.stderr, result.metric),
        published=row,
        marks=notes.number(entry.job, value, row),
        interval=in_unit(spread.interval, result.metric),
        samples=spread.samples or None,
        inside=notes.verdict(value, row) if row and value is not None and not entry.job.differs else None,
    )


def in_unit(value: float | None, metric: str) -> float | None:
    """Accuracies are stored as fractions and printed in percent."""
    return value if value is None or unit_of(metric) != "%" else 100 * value


def unit_of(metric: str) -> str:
    """Unit that a measured metric is printed in."""
    return UNITS.get(metric, metric)


def _sparsity(job: JobRow, notes: Footnotes) -> str:
    if job.is_dense or job.counted in (None, job.sparsity):
        return percent(job.sparsity)
    notes.add(COUNTED_NOTE)
    return f"{percent(job.sparsity)} ({percent(job.counted)})"


def columns_of(entries: Sequence[Measured], *, everything: bool = False) -> dict[Key, EvalResult]:
    """One example result a (protocol, metric): perplexities first, then tasks, as the papers order them.

    Args:
        everything: also the measures of efficiency that no table has room for, see `is_tabled`.
    """
    examples = {
        key: result
        for entry in reversed(entries)
        for key, result in entry.by_key.items()
        if everything or is_tabled(result)
    }

    def order(item: tuple[Key, EvalResult]) -> tuple[object, ...]:
        task = item[1].task
        place = TASK_ORDER.index(task) if task in TASK_ORDER else len(TASK_ORDER)
        place = -1 if item[0][0].startswith(TASK_MEAN) else place
        return (item[1].kind != "perplexity", place, natural_key(task), natural_key(item[0][0]), item[0][1])

    return dict(sorted(examples.items(), key=order))


def is_tabled(result: EvalResult) -> bool:
    """Whether tables show it unasked: of the measures of efficiency those that say × dense."""
    return result.kind != "efficiency" or result.metric in SPEEDUPS


def value_columns(results: Mapping[Key, EvalResult]) -> list[Column]:
    """Headers of `columns_of`: task, metric and options of the protocol; the whole key where that does not tell."""
    headers = []
    for result in results.values():
        seq_len, rest = protocol_parts(result.protocol)
        headers.append(" ".join([metric_header(result.task, result.metric, unit_of(result.metric), seq_len), *rest]))
    return [
        Column(
            header=header if headers.count(header) == 1 else f"{header} ({result.protocol})",
            key=f"{result.protocol}/{result.metric}",
            unit=unit_of(result.metric),
            higher_is_better=result.higher_is_better,
        )
        for header, result in zip(headers, results.values(), strict=True)
    ]


def protocol_parts(protocol: str) -> tuple[int | None, list[str]]:
    """Window length and the options that the protocol key names beside kind, task and version."""
    parts = protocol.split(":")[2:]
    seq_len = next((int(part[3:]) for part in parts if part.startswith("seq") and part[3:].isdigit()), None)
    options = [part for part in parts if part != f"seq{seq_len}" and not part.startswith("v")]
    return seq_len, [re.sub(r"^first(?=\d)", "first ", option).replace("data-", "data ") for option in options]


def _said_once(axes: Sequence[Axis], entries: Sequence[Measured]) -> list[str]:
    shown = {axis.header for axis in axes}
    once = [axis for axis in SETTINGS if axis.header in SAID_ONCE and axis.header not in shown]
    values = [(axis.header, {axis.value(entry.job) for entry in entries} - UNSAID) for axis in once]
    said = [f"{header} {value}" for header, found in values for value in sorted(found)]
    return [f"all rows: {', '.join(said)}"] if said else []


def protocol_notes(entries: Sequence[Measured], results: Mapping[Key, EvalResult]) -> list[str]:
    """Subsets, data that are not the published ones, and data that differ under one name: always said."""
    notes: dict[str, None] = {}
    for key, example in results.items():
        found = [result for entry in entries for result in entry.results if key_of(result) == key]
        seq_len, options = protocol_parts(example.protocol)
        name = " ".join([example.task, *([f"@{seq_len}"] if seq_len else []), *options])
        said = [*dict.fromkeys(result.subset for result in found if result.subset)]
        if ":data-" in example.protocol:
            sources = dict.fromkeys(result.data_source for result in found)
            said.append(f"not a published evaluation set, from {', '.join(sources)}")
        said += dict.fromkeys(text for result in found if isinstance(text := result.details.get("said"), str))
        if len({result.data_fingerprint for result in found}) > 1:
            what = "on different machines" if example.kind == "efficiency" else "on different data"
            said.append(f"the rows were measured {what}; do not compare them")
        if said:
            notes.setdefault(f"{name}: {'; '.join(said)}")
    return list(notes)

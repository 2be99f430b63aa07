"""The standings: what every method in its setting keeps of the dense model, at each pattern and sparsity."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.errors import UserError
from harness.record import EvalResult, RunRecord
from harness.reporting.axes import job_order, pattern_name, pattern_order, setting_labels
from harness.reporting.frame import JobRow, Key, Measured, measured
from harness.reporting.layout import Cell, Column, Table, percent
from harness.reporting.marks import Footnotes, ranks
from harness.reporting.published import DENSE, Published
from harness.reporting.statistics import MEAN_NOTE, TASK_MEAN, mean_over_seeds, with_task_means
from harness.reporting.tables import beside_published, columns_of, is_tabled, protocol_notes, value_columns


@dataclass(frozen=True, slots=True)
class Standing:
    """One job, or jobs that differ in the seed only, with what it is called among those on its model.

    Args:
        entry: its numbers, or their means over seeds and tasks; `jobs` are the ids of all its jobs.
        label: the method and what of its setting tells it apart; the dense model is `dense`.
        place: pattern and sparsity as columns name them; the dense model has none.
    """

    entry: Measured
    label: str
    place: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric under its protocol: a cell for every standing, ranked in its place; None where it was not measured."""

    column: Column
    example: EvalResult
    cells: tuple[Cell | None, ...]
    notes: tuple[str, ...]

    @property
    def is_mean(self) -> bool:
        """Whether it is a mean over tasks."""
        return self.example.protocol.startswith(TASK_MEAN)


@dataclass(frozen=True, slots=True)
class Standings:
    """All standings, ordered as the tables are, and what was measured.

    Args:
        places: in the order of papers.
        notes: what methods differ in without their labels saying so, and zeros counted that were not asked for.
    """

    rows: tuple[Standing, ...]
    places: tuple[str, ...]
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]

    @property
    def leading(self) -> list[Metric]:
        """Those that no mean over tasks sums up."""
        summed = {each.example.metric for each in self.metrics if each.is_mean}
        single = [each for each in self.metrics if each.example.kind == "zero_shot" and not each.is_mean]
        return [
            each
            for each in self.metrics
            if is_tabled(each.example) and (each not in single or each.example.metric not in summed)
        ]


def standings(records: Sequence[RunRecord], published: Published) -> Standings:
    """The standings of all jobs that are done.

    Args:
        records: in any order; means over tasks are measured like any metric, see `with_task_means`.
        published: see `harness.reporting.tables.comparison`.
    """
    done = with_task_means([record for record in records if record.status == "done"])
    single = {entry.job.job_id: entry for entry in measured(done)}
    means = mean_over_seeds(done)
    entries = [replace(single[one.jobs[0]], jobs=one.jobs) if len(one.jobs) == 1 else one for one in means]
    entries.sort(key=lambda entry: job_order(entry.job))
    labels, notes = _labels(entries)
    rows = tuple(Standing(entry, label, _place(entry.job)) for entry, label in zip(entries, labels, strict=True))
    order = {row.place: pattern_order(row.entry.job.pattern, row.entry.job.sparsity) for row in rows if row.place}
    results = columns_of(entries, everything=True)
    columns = zip(results.items(), value_columns(results), strict=True)
    metrics = tuple(_metric(rows, key, example, column, published) for (key, example), column in columns)
    return Standings(rows, tuple(sorted(order, key=order.__getitem__)), metrics, (*notes, *_counted(rows)))


def _place(job: JobRow) -> str:
    return "" if job.is_dense else pattern_name(job.pattern, job.sparsity)


def _labels(entries: Sequence[Measured]) -> tuple[list[str], list[str]]:
    """The label of every entry, and notes; the end of a job's id where two would share a label and a place."""
    labels, notes = [DENSE] * len(entries), []
    for model in dict.fromkeys(entry.job.model for entry in entries):
        ours = [n for n, entry in enumerate(entries) if entry.job.model == model and not entry.job.is_dense]
        found, said = setting_labels([entries[n].job for n in ours])
        notes += [f"{model}: {note}" for note in said]
        for n, label in zip(ours, found, strict=True):
            labels[n] = label
    seen: set[tuple[str, str, str]] = set()
    for n, (entry, label) in enumerate(zip(entries, labels, strict=True)):
        if (at := (entry.job.model, label, _place(entry.job))) in seen:
            labels[n] = f"{label}, {entry.job.job_id.rpartition('__')[2]}"
        seen.add(at)
    return labels, notes


def _counted(rows: Iterable[Standing]) -> list[str]:
    jobs = [(row, row.entry.job) for row in rows if row.place and row.entry.job.counted is not None]
    found = [
        f"{row.label} {row.place} ({percent(job.counted or 0.0)})" for row, job in jobs if job.counted != job.sparsity
    ]
    said = "; ".join(dict.fromkeys(found))
    return [f"zeros counted, where they differ from the fraction asked for: {said}"] if found else []


def _metric(rows: Sequence[Standing], key: Key, example: EvalResult, column: Column, published: Published) -> Metric:
    notes, rivals = Footnotes(), dict[tuple[str, str], list[int]]()
    cells: list[Cell | None] = [None] * len(rows)
    dense: dict[tuple[str, str, str], float | None] = {}
    for n, (row, job) in enumerate((row, row.entry.job) for row in rows):
        if result := row.entry.by_key.get(key):
            cell = beside_published(row.entry, result, published, notes)
            subject = (job.model, job.checkpoint, job.dtype)
            if job.is_dense:  # which stands before the others of its model
                dense[subject] = cell.measured
            else:
                rivals.setdefault((job.model, row.place), []).append(n)
            cell = replace(cell, marks=notes.dirty(row.entry) + cell.marks)
            cells[n] = _beside_dense(cell, dense.get(subject), example)
    for members in rivals.values():
        found = [(n, one) for n in members if (one := cells[n])]
        places = ranks([one.measured for _, one in found], higher_is_better=example.higher_is_better)
        for (n, one), rank in zip(found, places, strict=True):
            cells[n] = replace(one, rank=rank)
    if any(cell and cell.samples for cell in cells):
        notes.add(MEAN_NOTE)
    said = protocol_notes([row.entry for row in rows], {key: example})
    return Metric(column, example, tuple(cells), (*said, *notes.lines()))


def _beside_dense(cell: Cell, dense: float | None, example: EvalResult) -> Cell:
    value = cell.measured
    if value is None or dense is None:
        return cell
    part, whole = (value, dense) if example.higher_is_better else (dense, value)
    if example.metric == "kl":
        kept = math.exp(dense - value)
    else:
        kept = part / whole if whole else math.nan
    return replace(cell, distance=value - dense, kept=min(1.0, max(0.0, kept)) if math.isfinite(kept) else None)


def matrices(found: Standings, named: str | None = None) -> list[Table]:
    """Methods by pattern and sparsity, one table a metric.

    Args:
        named: a part of one metric's header, or its key; None = all that no other sums up.

    Raises:
        UserError: no metric has this name, or several have.
    """
    headers = [metric.column.header for metric in found.metrics]
    if named is None:
        leading = found.leading
        others = [metric.column.header for metric in found.metrics if metric not in leading]
        hint = [f"further metrics, by --matrix NAME or --rows: {', '.join(others)}"] if others else []
        tables = [_matrix(found, metric) for metric in leading]
        return [*tables[:-1], *(replace(one, footnotes=(*one.footnotes, *hint)) for one in tables[-1:])]
    chosen = [one for one in found.metrics if named in (one.column.header, one.column.key)]
    chosen = chosen or [one for one in found.metrics if named in one.column.header]
    if len(chosen) != 1:
        how = "is no metric" if not chosen else f"is the name of {len(chosen)} metrics"
        raise UserError(f"--matrix {named!r} {how}; allowed: {', '.join(headers)}")
    return [_matrix(found, chosen[0])]


def _matrix(found: Standings, metric: Metric) -> Table:
    """Rows are models and methods in their settings; the dense model's number stands in every column."""
    places, rows = found.places or (DENSE,), dict[tuple[str, str], dict[str, Cell]]()
    for row, cell in zip(found.rows, metric.cells, strict=True):
        if cell:
            cells = rows.setdefault((row.entry.job.model, row.label), {})
            cells |= dict.fromkeys([row.place] if row.place else places, cell)
    column = metric.column
    columns = (Column(place, f"{column.key}@{place}", column.unit) for place in places)
    return Table(
        title=column.title,
        columns=(Column("model"), Column("method"), *columns),
        rows=tuple((*map(Cell, key), *(cells.get(place, Cell()) for place in places)) for key, cells in rows.items()),
        footnotes=(*found.notes, *metric.notes),
    )

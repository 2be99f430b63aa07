"""A paper's own table by its id: published, measured, difference in each cell."""

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, replace

from harness.record import EvalResult, RunRecord
from harness.reporting.frame import JobRow, Measured, measured
from harness.reporting.layout import LOWER_IS_BETTER, Cell, Column, Table, metric_header, percent
from harness.reporting.marks import Footnotes, ranked
from harness.reporting.published import DENSE, PLAIN_VARIANTS, Published, PublishedRow, Setting, normal_name
from harness.reporting.statistics import MEAN_NOTE, mean_over_seeds
from harness.reporting.tables import compared

Found = tuple[Measured, EvalResult]
LEGEND = "each cell: published / measured / measured minus published; a dash where nothing was measured"
PUBLISHED_CALIBRATION = "c4 128×2048"
"""What SparseGPT, Wanda and their successors calibrate on: preferred where several jobs fit one cell."""


def paper_table(
    table_id: str, records: Sequence[RunRecord], published: Published, *, mean_over_seed: bool = False
) -> Table:
    """The table `table_id` in the layout of its paper, with what was measured beside it.

    Columns are the models where the table holds one metric, else the metrics; rows are the methods with their
    pattern and sparsity, in the paper's order.  A measured value stands beside a published one only where model,
    method, pattern, sparsity, protocol and metric agree and the job has no recovery.

    Args:
        table_id: one of `published.table_ids()`.
        records: any records; those that fit no cell are left out.
        published: see `harness.reporting.published.load`.
        mean_over_seed: measured values are means over the jobs that differ in nothing but the seed.

    Raises:
        UserError: no table has this id.
    """
    rows = published.table(table_id)
    models = {normal_name(row.model) for row in rows if row.protocol}  # other records need not be looked at
    wanted = [record for record in records if normal_name(record.defaults.paper_name or "") in models]
    entries = mean_over_seeds(wanted) if mean_over_seed else measured(wanted)
    one_metric = len({(row.task, row.metric, row.unit) for row in rows}) == 1
    by_model = one_metric and len({row.model for row in rows}) > 1
    headers = ["model"] if len({row.model for row in rows}) > 1 and not by_model else []
    headers += ["method", *(["variant"] if any(row.variant for row in rows) else []), "pattern", "sparsity"]
    notes, found = Footnotes(), _index(entries)
    notes.add(LEGEND)
    shown: list[JobRow] = []
    columns: dict[str, Column] = {}
    lines: dict[tuple[str, ...], dict[str, Cell]] = {}
    for row in rows:
        matches = found.get(row.setting, []) if row.protocol and row.variant in PLAIN_VARIANTS else []
        column = _column(row, by_model, {other.seq_len for other in rows})
        columns.setdefault(column.key, column)
        pattern = "" if row.pattern == DENSE else row.pattern
        texts = {**asdict(row), "pattern": pattern, "sparsity": percent(row.sparsity)}
        lines.setdefault(tuple(texts[header] for header in headers), {})[column.key] = _cell(row, matches, notes)
        shown += [matches[0][0].job] if matches else []
    means = [MEAN_NOTE] if any(entry.spreads for entry in entries) else []
    for line in (*means, *_conditions(shown), *_common_notes(rows)):
        notes.add(line)
    return ranked(
        Table(
            title=_title(rows, by_model),
            columns=(*map(Column, headers), *columns.values()),
            rows=tuple(
                (*map(Cell, labels), *(cells.get(key, Cell()) for key in columns)) for labels, cells in lines.items()
            ),
            footnotes=tuple(notes.lines()),
            order="published first",
        )
    )


def _title(rows: Sequence[PublishedRow], by_model: bool) -> str:
    """Id and captions, and what all columns or all rows share."""
    captions = "; ".join(dict.fromkeys(row.table_caption for row in rows))
    lengths, models = {row.seq_len for row in rows}, {row.model for row in rows}
    subject = f" [{rows[0].model}]" if len(models) == 1 else ""
    if by_model:
        subject = f" [{_quantity(rows[0], rows[0].seq_len if len(lengths) == 1 else None)}]"
    return f"{rows[0].table_id}: {captions}{subject}"


def _column(row: PublishedRow, by_model: bool, lengths: Set[int | None]) -> Column:
    """Window length and unit are part of the key: two protocols never share a column."""
    key = "/".join([*([row.model] if by_model else []), row.task, row.metric, row.unit, str(row.seq_len or "")])
    header = _quantity(row, row.seq_len)
    if by_model:
        header = row.model + (f" @{row.seq_len}" if len(lengths) > 1 and row.seq_len else "")
    return Column(header, key, row.unit, row.metric not in LOWER_IS_BETTER)


def _quantity(row: PublishedRow, seq_len: int | None) -> str:
    """Header of a metric; the protocol's corpus, not the table's word for it (`ptb-validation` is not `ptb`)."""
    corpus = row.protocol.split(":")[1] if row.protocol else row.task
    return metric_header(corpus, row.metric, row.unit, seq_len)


def _index(entries: Sequence[Measured]) -> dict[Setting, list[Found]]:
    """Results by the setting they were measured in: clean before dirty, the published calibration before others, then
    the lowest seed; those without a number last.
    """

    def order(entry: Measured) -> tuple[object, ...]:
        job = entry.job
        return (job.dirty, job.calibration != PUBLISHED_CALIBRATION, job.seed or 0, job.job_id)

    found: dict[Setting, list[Found]] = {}
    for entry in sorted(entries, key=order):
        for result in entry.results:
            if setting := entry.setting(result):
                found.setdefault(setting, []).append((entry, result))
    return {key: sorted(some, key=lambda one: one[1].value is None) for key, some in found.items()}


def _cell(row: PublishedRow, matches: Sequence[Found], notes: Footnotes) -> Cell:
    if not matches:
        notes.published(row)
        return Cell(published=row)
    entry, result = matches[0]
    if len(matches) > 1:
        others = ", ".join(other.job.job_id for other, _ in matches[1:])
        notes.add(f"{row.model}, {row.method}: shown is {entry.job.job_id}; also measured by {others}")
    cell = compared(entry, result, row, notes)
    return replace(cell, marks=notes.dirty(entry) + cell.marks)


def _conditions(jobs: Sequence[JobRow]) -> Iterable[str]:
    """How the measured numbers were made: the reader must see a calibration that is not the paper's."""
    for name, values in (
        ("calibrated on", [job.calibration for job in jobs]),
        ("weights in", [job.dtype for job in jobs]),
        ("seed", ["" if job.seed is None else str(job.seed) for job in jobs]),
    ):
        if any(values):
            yield f"measured values: {name} {', '.join(sorted(set(values) - {''}))}"


def _common_notes(rows: Sequence[PublishedRow]) -> list[str]:
    """The remarks that hold for every row of the table."""
    split = [re.split(r"; (?![^(]*\))", row.note) for row in rows]  # a remark in brackets is one
    return [note for note in split[0] if note and all(note in notes for notes in split)]

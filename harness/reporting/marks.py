"""What is marked in a table: what lies inside a tolerance, the best numbers, and footnotes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from harness.reporting.frame import JobRow, Measured
from harness.reporting.layout import Cell, Column, Table
from harness.reporting.published import DENSE, PLAIN_VARIANTS, PublishedRow, experiments_folder, read_facts

DIRTY_NOTE = "† recorded with uncommitted changes to code or configuration"
UNVERIFIED_NOTE = "? published value not checked against its paper"
NO_NUMBER, NO_NUMBER_NOTE = "¶", "¶ no number: the model's outputs overflowed or were not numbers (NaN)"
DIFFERS = "*"

GROUPED_BY = ("model", "checkpoint", "variant", "pattern", "sparsity", "recovery")
"""Labels that rows must share to be ranked against each other: methods compete at one sparsity of one model."""

FORMS = frozenset({"row-wise"})
"""Variants that are forms of a method, which compete with the others; the rest are other settings."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The spread that was seen between careful measurements of one thing under one protocol.

    Args:
        protocol: key without its version.
        max_sparsity: the largest sparsity it was seen at; above, results differ by tens of percent.
        relative: most distance, as a fraction of the published number.
        seen: on what; source: where that is written.
    """

    protocol: str
    metric: str
    max_sparsity: float
    relative: float
    seen: str
    source: str

    @property
    def note(self) -> str:
        return (
            f"≈ / ≠: inside / outside {100 * self.relative:.2g}% of the published number, the spread seen under "
            f"{self.protocol}, {self.seen} ({self.source})"
        )

    def holds(self, measured: float, row: PublishedRow) -> bool:
        """Whether `measured`, in the row's unit, lies inside.

        A number is as good as its printed digits: 5.56 may have been anything from 5.555 to 5.565.
        """
        return abs(measured - row.value) <= self.relative * row.value + _rounding(row.text)


def tolerance_for(row: PublishedRow) -> Tolerance | None:
    """The tolerance that applies to a published number; None when nobody has seen one.

    A dense model has none: nothing in it depends on a seed.
    """
    for known in load_tolerances() if row.pattern != DENSE else ():
        if (row.protocol, row.metric) == (known.protocol, known.metric) and row.sparsity <= known.max_sparsity:
            return known
    return None


@cache
def load_tolerances() -> Sequence[Tolerance]:
    """The tolerances that come with the published numbers.

    Raises:
        UserError: a row cannot be read.
    """
    return read_facts(experiments_folder() / "tolerances.csv", Tolerance)


def _rounding(text: str) -> float:
    """Half a unit of the last printed digit: 0.005 for `36.85`, 500 for `1.7e4`."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(0.5 * 10.0 ** (int(exponent or 0) - decimals))


class Footnotes:
    """Collects the footnotes of one table."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def add(self, line: str) -> None:
        self._lines.setdefault(line)

    def lines(self) -> list[str]:
        """Every footnote, the papers last."""
        return sorted(self._lines, key=lambda line: line.startswith("published, "))

    def job(self, entry: Measured) -> str:
        """Marks of a job: † for a dirty checkout, ‡ for a failure, whose last line becomes a footnote."""
        marks = self.dirty(entry)
        if entry.job.status == "failed":
            self.add(f"‡ {entry.job.job_id} failed: {last_line(entry.error)}")
            marks += "‡"
        return marks

    def dirty(self, entry: Measured) -> str:
        if not entry.job.dirty:
            return ""
        self.add(DIRTY_NOTE)
        return "†"

    def number(self, job: JobRow, value: float | None, row: PublishedRow | None) -> str:
        """Marks of a measured number beside the published one: ¶ where there is none, * where the two differ."""
        marks = ""
        if value is None:
            self.add(NO_NUMBER_NOTE)
            marks += NO_NUMBER
        if row:
            self.published(row)
        if row and job.differs:
            self.add(f"{DIFFERS} {row.method}: {job.differs}")
            marks += DIFFERS
        return marks

    def verdict(self, value: float, row: PublishedRow) -> bool | None:
        """Whether the number lies inside the tolerance, which a footnote names; None when none is known."""
        known = tolerance_for(row)
        if known is None:
            return None
        self.add(known.note)
        return known.holds(value, row)

    def published(self, row: PublishedRow) -> None:
        """Name the table that a published value comes from, and say it when nobody has checked the value."""
        self.add(f"published, {row.paper_table}")
        if row.status == "unverified":
            self.add(UNVERIFIED_NOTE)


def last_line(error: str | None) -> str:
    """Of a traceback: what went wrong."""
    return ((error or "").strip().splitlines() or ["no traceback recorded"])[-1]


def ranked(table: Table) -> Table:
    """The table with the ranks of its numbers, measured and published apart; dense rows do not compete.

    A group needs two different numbers; equal numbers share a rank.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(table.rows):
        if (group := _group(table.columns, row)) is not None:
            groups.setdefault(group, []).append(index)
    rows = [list(row) for row in table.rows]
    for position, column in enumerate(table.columns):
        if column.is_label or column.higher_is_better is None:
            continue
        for members in groups.values():
            cells = [rows[index][position] for index in members]
            printed = [cell.published.value if cell.published else None for cell in cells]
            measured_ranks = ranks([cell.measured for cell in cells], higher_is_better=column.higher_is_better)
            printed_ranks = ranks(printed, higher_is_better=column.higher_is_better)
            for index, cell, *found in zip(members, cells, measured_ranks, printed_ranks, strict=True):
                if any(found):
                    rows[index][position] = replace(cell, rank=found[0], published_rank=found[1])
    return replace(table, rows=tuple(map(tuple, rows)))


def _group(columns: Sequence[Column], row: Sequence[Cell]) -> tuple[str, ...] | None:
    """What the row shares with its rivals; None for a dense one."""
    labels = {column.header: cell.text for column, cell in zip(columns, row, strict=True) if column.is_label}
    if not labels.get("pattern"):
        return None
    variant = labels.get("variant", "")
    if variant in PLAIN_VARIANTS | FORMS:
        labels["variant"] = ""
    elif variant == "trained" or variant.startswith("w/ "):
        labels["variant"] = "tuned"
    return tuple(labels.get(header, "").split(" (")[0] for header in GROUPED_BY)


def ranks(values: Sequence[float | None], *, higher_is_better: bool) -> list[int]:
    """1 for the best number, 2 for the second best, else 0; all 0 where there are no two different ones."""
    known = {number for number in values if number is not None and number == number}
    best = sorted(known, reverse=higher_is_better)[:2]
    return [best.index(number) + 1 if number in best and len(best) == 2 else 0 for number in values]

"""Footnotes that cells ask for: each is written once, in the order of the first cell that needs it."""

from harness.reporting.frame import Measured
from harness.reporting.layout import Cell
from harness.reporting.published import PublishedRow
from harness.reporting.tolerances import tolerance_for

DIRTY_NOTE = "† recorded with uncommitted changes to code or configuration"
UNVERIFIED_NOTE = "? published value not checked against its paper"


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
            lines = (entry.error or "").strip().splitlines() or ["no traceback recorded"]
            self.add(f"‡ {entry.job.job_id} failed: {lines[-1]}")
            marks += "‡"
        return marks

    def dirty(self, entry: Measured) -> str:
        if not entry.job.dirty:
            return ""
        self.add(DIRTY_NOTE)
        return "†"

    def verdict(self, cell: Cell) -> None:
        """Say which tolerance a cell's verdict rests on."""
        known = tolerance_for(cell.published) if cell.published and cell.inside is not None else None
        if known:
            self.add(known.note)

    def published(self, row: PublishedRow) -> None:
        """Name the table that a published value comes from, and say it when nobody has checked the value."""
        arxiv = f", arXiv {row.arxiv}" if row.arxiv else ""
        self.add(f"published, {row.table_id}: {row.paper}{arxiv}")
        if row.status == "unverified":
            self.add(UNVERIFIED_NOTE)

"""Tables as CSV: full precision, empty where there is no number."""

import csv
import io

from harness.reporting.formats.base import FORMATS
from harness.reporting.layout import Cell, Table, clean

VALUE_PARTS = ("", " published", " difference", " tolerance")
MEAN_PARTS = (" ±95%", " n")


@FORMATS.register("csv")
def write_csv(table: Table, _: int = 0) -> str:
    """One column a label; measured, published, difference and verdict of each value column, spread where means are."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    means = any(cell.samples for row in table.rows for cell in row)
    parts = (*VALUE_PARTS, *(MEAN_PARTS if means else ()))
    header: list[str] = []
    for column in table.columns:
        name = _spreadsheet(column.header)
        header += [name] if column.is_label else [f"{name}{part}" for part in parts]
    writer.writerow(header)
    for row in table.rows:
        fields: list[str] = []
        for column, cell in zip(table.columns, row, strict=True):
            fields += [_spreadsheet(cell.text + cell.marks)] if column.is_label else _csv_numbers(cell)[: len(parts)]
        writer.writerow(fields)
    return stream.getvalue()


def _csv_numbers(cell: Cell) -> list[str]:
    difference = cell.difference
    return [
        "" if cell.measured is None else repr(cell.measured),
        cell.published.text if cell.published else "",
        "" if difference is None else f"{difference:.6g}",
        {True: "inside", False: "outside", None: ""}[cell.inside],
        "" if cell.interval is None else f"{cell.interval:.6g}",
        "" if cell.samples is None else str(cell.samples),
    ]


def _spreadsheet(text: str) -> str:
    """A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    text = clean(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text

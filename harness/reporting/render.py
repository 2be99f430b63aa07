"""Tables as text: terminal, Markdown, CSV, LaTeX, HTML and JSON.  Hostile strings stay strings."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from harness.errors import unknown
from harness.reporting.html import html
from harness.reporting.latex import latex
from harness.reporting.layout import Cell, Column, Table
from harness.reporting.terminal import terminal
from harness.reporting.text import clean

Format = Literal["terminal", "md", "csv", "latex", "html", "json"]


def write(table: Table, format: Format, width: int = 80) -> str:
    """The table as text, ending in a newline.

    Args:
        table: what to write.
        format: ``terminal`` (plain text that fits `width`, in several parts where it is wider), ``md``, ``csv``
            (full precision, empty where there is no number), ``latex`` (a fragment that names the packages it
            needs), ``html`` (a fragment) or ``json``.  The best number of a group is bold, the second underlined.
        width: characters a line of ``terminal``.

    Raises:
        UserError: the format is not one of these.
    """
    if format == "terminal":
        return terminal(table, width)
    writers: Mapping[str, Callable[[Table], str]] = {
        "md": _markdown,
        "csv": _csv,
        "latex": latex,
        "html": html,
        "json": _json,
    }
    if format not in writers:
        raise unknown("format", format, get_args(Format))
    return writers[format](table)


def _markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    header = line([_md(column.title) for column in table.columns])
    rule = line(["---" if column.is_label else "---:" for column in table.columns])
    rows = [line([_md_cell(cell, table) for cell in row]) for row in table.rows]
    notes = [f"- {_md(note)}" for note in table.footnotes]
    return "\n".join([f"**{_md(table.title)}**", "", header, rule, *rows, *([""] if notes else []), *notes]) + "\n"


def _md_cell(cell: Cell, table: Table) -> str:
    marks = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}  # Markdown has no underlining
    return "".join(marks[rank].format(_md(text)) for text, rank in cell.parts(table.order))


def _md(text: str) -> str:
    """Escape what Markdown or HTML would read; underscores inside words need nothing."""
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", clean(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


VALUE_PARTS = ("", " published", " difference", " tolerance")
MEAN_PARTS = (" ±95%", " n")


def _csv(table: Table) -> str:
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


def _json(table: Table) -> str:
    document = {
        "title": table.title,
        "columns": [_json_column(column) for column in table.columns],
        "rows": [
            [_json_cell(column, cell) for column, cell in zip(table.columns, row, strict=True)] for row in table.rows
        ],
        "footnotes": list(table.footnotes),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _json_column(column: Column) -> dict[str, object]:
    if column.is_label:
        return {"header": column.header, "label": True}
    return {
        "header": column.header,
        "label": False,
        "key": column.key,
        "unit": column.unit,
        "higher_is_better": column.higher_is_better,
    }


def _json_cell(column: Column, cell: Cell) -> dict[str, object]:
    if column.is_label:
        return {"text": cell.text, "marks": cell.marks}
    row = cell.published
    return {
        "measured": _json_number(cell.measured),
        "stderr": _json_number(cell.stderr),
        "published": row.text if row else None,
        "difference": _json_number(cell.difference),
        "inside_tolerance": cell.inside,
        "interval_95": _json_number(cell.interval),
        "samples": cell.samples,
        "rank": cell.rank,
        "published_rank": cell.published_rank,
        "source": {name: getattr(row, name) for name in ("table_id", "status", "source", "note")} if row else None,
        "marks": cell.marks,
    }


def _json_number(value: float | None) -> float | str | None:
    """JSON has no infinity: it is the string that records use."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

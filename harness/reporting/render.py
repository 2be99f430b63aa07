"""Tables as text: terminal, Markdown, CSV, LaTeX (booktabs) and JSON.  Hostile strings stay strings."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from harness.errors import unknown
from harness.reporting.layout import Cell, Column, Table
from harness.reporting.terminal import terminal
from harness.reporting.text import DASH, clean

Format = Literal["terminal", "md", "csv", "latex", "json"]


def write(table: Table, format: Format, width: int = 80) -> str:
    """The table as text, ending in a newline.

    Args:
        table: what to write.
        format: ``terminal`` (plain text that fits `width`, in several parts where it is wider), ``md``, ``csv``
            (full precision, empty where there is no number), ``latex`` (needs booktabs) or ``json``.
        width: characters a line of ``terminal``.

    Raises:
        UserError: the format is not one of these.
    """
    if format == "terminal":
        return terminal(table, width)
    writers: Mapping[str, Callable[[Table], str]] = {"md": _markdown, "csv": _csv, "latex": _latex, "json": _json}
    if format not in writers:
        raise unknown("format", format, get_args(Format))
    return writers[format](table)


def _markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    header = line([_md(column.title) for column in table.columns])
    rule = line(["---" if column.is_label else "---:" for column in table.columns])
    rows = [line([_md(cell.written(table.order)) for cell in row]) for row in table.rows]
    notes = [f"- {_md(note)}" for note in table.footnotes]
    return "\n".join([f"**{_md(table.title)}**", "", header, rule, *rows, *([""] if notes else []), *notes]) + "\n"


def _md(text: str) -> str:
    """Escape what Markdown or HTML would read; underscores inside words need nothing."""
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", clean(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _csv(table: Table) -> str:
    """One column a label; measured, published and difference of each value column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    header: list[str] = []
    for column in table.columns:
        name = _spreadsheet(column.header)
        header += [name] if column.is_label else [name, f"{name} published", f"{name} difference"]
    writer.writerow(header)
    for row in table.rows:
        fields: list[str] = []
        for column, cell in zip(table.columns, row, strict=True):
            fields += [_spreadsheet(cell.text + cell.marks)] if column.is_label else _csv_numbers(cell)
        writer.writerow(fields)
    return stream.getvalue()


def _csv_numbers(cell: Cell) -> list[str]:
    difference = cell.difference
    return [
        "" if cell.measured is None else repr(cell.measured),
        cell.published.text if cell.published else "",
        "" if difference is None else f"{difference:.6g}",
    ]


def _spreadsheet(text: str) -> str:
    """A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    text = clean(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _latex(table: Table) -> str:
    alignment = "".join("l" if column.is_label else "r" for column in table.columns)

    def line(cells: list[str]) -> str:
        return "    " + " & ".join(cells) + r" \\"

    return (
        "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{_tex(table.title)}}}",
                rf"  \begin{{tabular}}{{{alignment}}}",
                r"    \toprule",
                line([_tex(column.title) for column in table.columns]),
                r"    \midrule",
                *(line([_tex(cell.written(table.order)) for cell in row]) for row in table.rows),
                r"    \bottomrule",
                r"  \end{tabular}",
                *(rf"  \par\footnotesize {_tex(note)}" for note in table.footnotes),
                r"\end{table}",
            ]
        )
        + "\n"
    )


TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    DASH: "--",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
}
"""`[` and `*` are braced because they would be read as arguments of a row's end `\\\\`."""


def _tex(text: str) -> str:
    text = "".join(TEX.get(character, character) for character in clean(text))
    return re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", text)


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
        "source": {name: getattr(row, name) for name in ("table_id", "status", "source", "note")} if row else None,
        "marks": cell.marks,
    }


def _json_number(value: float | None) -> float | str | None:
    """JSON has no infinity: it is the string that records use."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

"""Tables as HTML: a fragment to paste, that needs no style of its own; texts are escaped."""

from html import escape

from harness.reporting.formats.base import FORMATS
from harness.reporting.layout import Cell, Table, clean

RANK_TAGS = {1: "b", 2: "u"}


@FORMATS.register("html")
def html(table: Table, _: int = 0) -> str:
    """A ``figure`` with the table, its title as caption and its footnotes as a list."""
    head = "".join(
        f'<th scope="col"{_side(is_label=column.is_label)}>{_text(column.title)}</th>' for column in table.columns
    )
    rows = [
        "<tr>"
        + "".join(
            f"<td{_side(is_label=column.is_label)}>{_cell(cell, table)}</td>"
            for column, cell in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    ]
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.footnotes)
    lines = ["<figure>", "<table>", f"<caption>{_text(table.title)}</caption>", f"<thead><tr>{head}</tr></thead>"]
    lines += ["<tbody>", *rows, "</tbody>", "</table>"]
    lines += [f"<figcaption><ul>{notes}</ul></figcaption>"] if notes else []
    return "\n".join([*lines, "</figure>"]) + "\n"


def _cell(cell: Cell, table: Table) -> str:
    return "".join(_ranked(_text(text), rank) for text, rank in cell.parts(table.order))


def _ranked(text: str, rank: int) -> str:
    tag = RANK_TAGS.get(rank)
    return f"<{tag}>{text}</{tag}>" if tag else text


def _side(*, is_label: bool) -> str:
    return "" if is_label else ' style="text-align: right"'


def _text(text: str) -> str:
    return escape(clean(text))

"""Tables as HTML: a fragment to paste, that needs no style of its own; texts are escaped."""

from html import escape

from harness.reporting.formats.base import FORMATS
from harness.reporting.layout import Table, clean

RANKS = {0: "{}", 1: "<b>{}</b>", 2: "<u>{}</u>"}


@FORMATS.register("html")
def html(table: Table, _: int = 0) -> str:
    """A ``figure`` with the table, its title as caption and its footnotes as a list."""
    sides = ["" if column.is_label else ' style="text-align: right"' for column in table.columns]
    columns = zip(table.columns, sides, strict=True)
    head = "".join(f'<th scope="col"{side}>{_text(column.title)}</th>' for column, side in columns)
    rows = [
        "".join(f"<td{side}>{cell}</td>" for cell, side in zip(row, sides, strict=True))
        for row in table.marked(_text, RANKS)
    ]
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.footnotes)
    lines = ["<figure>", "<table>", f"<caption>{_text(table.title)}</caption>", f"<thead><tr>{head}</tr></thead>"]
    lines += ["<tbody>", *(f"<tr>{row}</tr>" for row in rows), "</tbody>", "</table>"]
    lines += [f"<figcaption><ul>{notes}</ul></figcaption>"] if notes else []
    return "\n".join([*lines, "</figure>"]) + "\n"


def _text(text: str) -> str:
    return escape(clean(text))

"""Tables as Markdown."""

import re

from harness.reporting.formats.base import FORMATS
from harness.reporting.layout import Table, clean

RANKS = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}
"""Best and second; Markdown has no underlining."""


@FORMATS.register("md")
def markdown(table: Table, _: int = 0) -> str:
    """A title, a table and a list of footnotes; the best number is bold, the second underlined."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    header = line([_md(column.title) for column in table.columns])
    rule = line(["---" if column.is_label else "---:" for column in table.columns])
    rows = map(line, table.marked(_md, RANKS))
    notes = [f"- {_md(note)}" for note in table.footnotes]
    return "\n".join([f"**{_md(table.title)}**", "", header, rule, *rows, *([""] if notes else []), *notes]) + "\n"


def _md(text: str) -> str:
    """Escape what Markdown or HTML would read; underscores inside words need nothing."""
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", clean(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

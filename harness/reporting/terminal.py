"""Tables for people at a terminal: readable at 80 columns, plain when piped."""

import io
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from harness.reporting.layout import Column, Table
from harness.reporting.text import clean

SHORT = {
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "hellaswag": "Hella Swag",
    "winogrande": "Wino Grande",
    "openbookqa": "OBQA",
    "wikipedia-sample": "wiki sample",
    "ptb-validation": "ptb valid.",
    "sparsity": "zeros",
    "acc_norm": "acc norm",
    "acc/acc_norm": "acc/ norm",
}
"""Words of a header that would make a column wider than its numbers."""

NARROWEST_LABEL = 6


def terminal(table: Table, width: int) -> str:
    """Plain text of at most `width` columns; see `renderable`."""
    return plain(renderable(table, width), width)


def plain(content: RenderableType, width: int) -> str:
    """What a console of this width without colours would print, without trailing blanks."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, force_terminal=False, legacy_windows=False).print(content)
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n"))


def renderable(table: Table, width: int) -> RenderableType:
    """The table for a rich console.

    A table that is too wide becomes several, one below the other, each with the label columns; a label column
    that says the same in every row is said once above.

    Args:
        table: what to show.
        width: columns of the terminal.
    """
    said, labels = _labels(table)
    parts, gap = _parts(table, labels, width, 2), 2
    if len(parts) > 1 and len(_parts(table, labels, width, 1)) == 1:
        parts, gap = _parts(table, labels, width, 1), 1
    blocks: list[RenderableType] = [Text(clean(table.title), style="bold")]
    blocks += [Text(clean(said))] if said else []
    widths = _widths(table, labels, width, gap)
    for part in parts:
        blocks += [Text(""), _grid(table, {index: widths[index] for index in [*labels, *part]}, gap)]
    blocks += [Text("")] if table.footnotes else []
    return Group(*blocks, *(Text(clean(note), style="dim") for note in table.footnotes))


def _labels(table: Table) -> tuple[str, list[int]]:
    """What is the same in every row, and the label columns that remain."""
    said, remaining = [], []
    for index, column in enumerate(table.columns):
        texts = {row[index].written(table.order) for row in table.rows}
        if column.is_label and column.header != "method" and len(texts) == 1 and len(table.rows) > 1:
            said.append(f"{column.header} {texts.pop()}")
        elif column.is_label:
            remaining.append(index)
    return ", ".join(said), remaining


def _parts(table: Table, labels: Sequence[int], width: int, gap: int) -> list[list[int]]:
    """The value columns, cut where a line would be longer than `width`; every part has at least one."""
    widths = _widths(table, labels, width, gap)
    label_width = sum(widths[index] + gap for index in labels)
    parts: list[list[int]] = []
    used = width
    for index, column in enumerate(table.columns):
        if column.is_label:
            continue
        needed = widths[index] + gap
        if used + needed > width + gap:
            parts.append([])
            used = label_width
        parts[-1].append(index)
        used += needed
    return parts or [[]]


def _widths(table: Table, labels: Sequence[int], width: int, gap: int) -> dict[int, int]:
    """Width of every column; long labels are folded where they would leave no room for the widest value."""
    widths = {index: _natural_width(table, index) for index in range(len(table.columns))}
    values = [widths[index] for index, column in enumerate(table.columns) if not column.is_label]
    room = width - max(values, default=0) - gap * len(labels)
    while labels and sum(widths[index] for index in labels) > room:
        widest = max(labels, key=lambda index: widths[index])
        if widths[widest] <= NARROWEST_LABEL:
            break
        widths[widest] -= 1
    return widths


def _natural_width(table: Table, index: int) -> int:
    words = _short(table.columns[index]).split()
    cells = [clean(row[index].written(table.order)) for row in table.rows]
    return max(Text(text).cell_len for text in [*words, *cells, ""])


def _short(column: Column) -> str:
    return " ".join(SHORT.get(word, word) for word in clean(column.title).split(" "))


def _grid(table: Table, widths: Mapping[int, int], gap: int) -> RichTable:
    grid = RichTable(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for index, width in widths.items():
        column = table.columns[index]
        justify: JustifyMethod = "left" if column.is_label else "right"
        grid.add_column(Text(_short(column)), justify=justify, vertical="bottom", overflow="fold", width=width)
    for row in table.rows:
        grid.add_row(*(Text(clean(row[index].written(table.order))) for index in widths))
    return grid

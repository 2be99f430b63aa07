"""Tables for people at a terminal: readable at 80 columns, plain when piped."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from rich.cells import cell_len

from harness.reporting.formats.base import FORMATS, in_parts
from harness.reporting.layout import Cell, Column, Table, clean
from harness.reporting.tables import UNSAID

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
WIDEST_TEXT = 36
"""Columns of a text that only describes its row; longer ones fold."""


@FORMATS.register("terminal")
def terminal(table: Table, width: int) -> str:
    """Plain text of at most `width` columns.

    A label column that says the same in every row is said once above; the settings are one column.  A table that is
    too wide becomes several, one below the other, each with the label columns.  Numbers are never cut: labels fold
    instead.
    """
    return "\n".join(line.rstrip() for line in _Sheet(_settings_joined(table), width).lines()) + "\n"


def _settings_joined(table: Table) -> Table:
    """The table with one column for all settings in which its rows differ; what goes without saying is left out."""
    told = range(len(table.columns))
    joined = [n for n in told if table.columns[n].setting and len({row[n].text for row in table.rows}) > 1]
    if len(joined) < 2:
        return table
    kept = [n for n in told if n not in joined[1:]]

    def said(row: Sequence[Cell]) -> Cell:
        texts = [(table.columns[n].header, row[n].text) for n in joined if row[n].text not in UNSAID]
        return Cell(", ".join(f"{header} {text}" if text.isdigit() else text for header, text in texts))

    columns = (Column("settings") if n == joined[0] else table.columns[n] for n in kept)
    rows = (tuple(said(row) if n == joined[0] else row[n] for n in kept) for row in table.rows)
    return replace(table, columns=tuple(columns), rows=tuple(rows))


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, broken between words, within a word where one is longer."""
    if _length(text) <= width:
        return [text]
    lines: list[str] = []
    current = ""
    for word in text.split(" "):
        longer = f"{current} {word}" if current else word
        if _length(longer) <= width:
            current = longer
            continue
        lines += [current] if current else []
        *full, current = _chopped(word, width)
        lines += full
    return [*lines, current]


def _chopped(word: str, width: int) -> list[str]:
    """A word in pieces of at most `width` columns.  Rich's own function drops a combining sign at a piece's start."""
    pieces = [""]
    for character in word:
        if pieces[-1] and cell_len(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


@dataclass
class _Sheet:
    """One table laid out for one width.  Rich's own tables take a millisecond a row: too long for thousands."""

    table: Table
    width: int

    @cached_property
    def texts(self) -> list[list[str]]:
        return [[clean(cell.written(self.table.order)) for cell in row] for row in self.table.rows]

    @cached_property
    def headers(self) -> list[str]:
        return [_short(column) for column in self.table.columns]

    @cached_property
    def natural(self) -> list[int]:
        """Width that every column asks for: its longest cell, or word of its header."""
        words = [max(map(_length, header.split()), default=0) for header in self.headers]
        cells = [max(map(_length, {row[i] for row in self.texts}), default=0) for i in range(len(self.headers))]
        told = self.table.columns
        limits = [WIDEST_TEXT if column.is_label and not column.tells else self.width for column in told]
        return [max(word, min(cell, limit)) for word, cell, limit in zip(words, cells, limits, strict=True)]

    @cached_property
    def values(self) -> list[int]:
        """Columns that stand in one part each."""
        return [index for index, column in enumerate(self.table.columns) if not _is_label(column)]

    def lines(self) -> Iterator[str]:
        said, labels = self._labels()
        gap = 1 if len(self._parts(labels, 2)) > 1 and len(self._parts(labels, 1)) == 1 else 2
        parts, widths = self._parts(labels, gap), self._widths(labels, gap)
        yield from wrapped(clean(self.table.title), self.width)
        yield from wrapped(clean(said), self.width) if said else ()
        for part in parts:
            yield ""
            yield from self._grid([*labels, *part], widths, gap)
        if self.table.footnotes:
            yield ""
        for note in self.table.footnotes:
            yield from wrapped(clean(note), self.width)

    def _labels(self) -> tuple[str, list[int]]:
        """What is the same in every row, and the label columns that remain."""
        said, remaining = [], []
        for index, column in enumerate(self.table.columns):
            if not _is_label(column):
                continue
            texts = {row[index] for row in self.texts}
            if column.header != "method" and len(texts) == 1 and len(self.texts) > 1:
                said.append(f"{column.header} {texts.pop()}")
            else:
                remaining.append(index)
        return ", ".join(said), remaining

    def _parts(self, labels: Sequence[int], gap: int) -> list[list[int]]:
        """The value columns, cut where a line would be longer than `width`; every part has at least one."""
        widths = self._widths(labels, gap)
        values = [(index, widths[index] + gap) for index in self.values]
        return in_parts(values, sum(widths[index] + gap for index in labels), self.width + gap)

    def _widths(self, labels: Sequence[int], gap: int) -> list[int]:
        """Width of every column.  Labels are folded between words where that leaves room for all values; where it does
        not, within words as far as the widest value needs it.
        """
        values = [self.natural[index] + gap for index in self.values]
        words = {n: max((_length(word) for row in self.texts for word in row[n].split()), default=0) for n in labels}
        for taken, least in ((sum(values), words), (max(values, default=0), dict.fromkeys(labels, NARROWEST_LABEL))):
            widths, room = list(self.natural), self.width - taken - gap * (len(labels) - 1)
            while sum(widths[index] for index in labels) > room:
                foldable = [index for index in labels if widths[index] > least[index]]
                if not foldable:
                    break
                widths[max(foldable, key=lambda index: widths[index])] -= 1
            else:
                break
        return widths

    def _grid(self, columns: Sequence[int], widths: Sequence[int], gap: int) -> Iterator[str]:
        """Header and rows of some columns, labels to the left and numbers to the right."""
        heads = {index: wrapped(self.headers[index], widths[index]) for index in columns}
        height = max(map(len, heads.values()), default=0)
        above = {index: [""] * (height - len(lines)) + lines for index, lines in heads.items()}
        yield from self._lines(above, widths, gap)
        for texts in self.texts:
            yield from self._lines({index: wrapped(texts[index], widths[index]) for index in columns}, widths, gap)

    def _lines(self, cells: Mapping[int, Sequence[str]], widths: Sequence[int], gap: int) -> Iterator[str]:
        """A row, whose cells may take several lines."""
        for line in zip_longest(*cells.values(), fillvalue=""):
            yield (" " * gap).join(map(self._padded, line, cells, (widths[index] for index in cells)))

    def _padded(self, text: str, index: int, width: int) -> str:
        blanks = " " * (width - _length(text))
        return text + blanks if self.table.columns[index].is_label else blanks + text


def _is_label(column: Column) -> bool:
    """Whether the column stands in every part of a table that is too wide."""
    return column.is_label and column.tells


def _length(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _short(column: Column) -> str:
    return " ".join(SHORT.get(word, word) for word in clean(column.title).split(" "))

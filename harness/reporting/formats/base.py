"""What a format of tables is: a function that writes a table as text."""

from collections.abc import Callable, Iterable

from harness.registry import Registry
from harness.reporting.layout import Table

Writer = Callable[[Table, int], str]
"""Writes a table, ending in a newline, in lines of so many characters where the format has lines."""

FORMATS: Registry[Writer] = Registry("format", "harness.reporting.formats")
"""Formats by name."""


def write(table: Table, format: str, width: int = 80) -> str:
    """The table as text in a format of the registry; the best number of a group stands out, hostile text stays text.

    Raises:
        UserError: there is no such format.
    """
    return FORMATS.get(format)(table, width)


def in_parts(columns: Iterable[tuple[int, float]], beside: float, room: float) -> list[list[int]]:
    """Columns (number, width) in parts of at most `room`, each beside labels and with at least one column."""
    parts: list[list[int]] = []
    used = room
    for index, width in columns:
        if not parts or used + width > room:
            parts.append([])
            used = beside
        parts[-1].append(index)
        used += width
    return parts or [[]]

"""The best and the second best number of every column, among the rows that may be compared."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.reporting.layout import Cell, Column, Table
from harness.reporting.published import PLAIN_VARIANTS

GROUPED_BY = ("model", "checkpoint", "variant", "pattern", "sparsity", "recovery")
"""Labels that rows must share to be ranked against each other: methods compete at one sparsity of one model."""

FORMS = frozenset({"layer-wise", "row-wise"})
"""Variants that are forms of a method, which compete with the others; the rest are other settings."""


def ranked(table: Table) -> Table:
    """The table with the ranks of its numbers, measured and published apart; dense rows do not compete.

    A group needs two different numbers; equal numbers share a rank.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(table.rows):
        if (group := _group(table.columns, row)) is not None:
            groups.setdefault(group, []).append(index)
    rows = [list(row) for row in table.rows]
    for position, column in enumerate(table.columns):
        if column.is_label or column.higher_is_better is None:
            continue
        for members in groups.values():
            cells = [rows[index][position] for index in members]
            measured = _ranks(cells, lambda cell: cell.measured, higher_is_better=column.higher_is_better)
            published = _ranks(cells, _published, higher_is_better=column.higher_is_better)
            for index, cell, rank, printed in zip(members, cells, measured, published, strict=True):
                if rank or printed:
                    rows[index][position] = replace(cell, rank=rank, published_rank=printed)
    return replace(table, rows=tuple(map(tuple, rows)))


def _group(columns: Sequence[Column], row: Sequence[Cell]) -> tuple[str, ...] | None:
    """What the row shares with its rivals; None for a dense one."""
    labels = {column.header: cell.text for column, cell in zip(columns, row, strict=True) if column.is_label}
    if not labels.get("pattern"):
        return None
    labels["variant"] = _setting(labels.get("variant", ""))
    return tuple(labels.get(header, "").split(" (")[0] for header in GROUPED_BY)


def _setting(variant: str) -> str:
    """What of a variant keeps rows apart: tuned ones compete with tuned ones."""
    if variant in PLAIN_VARIANTS | FORMS:
        return ""
    return "tuned" if variant == "trained" or variant.startswith("w/ ") else variant


def _published(cell: Cell) -> float | None:
    return cell.published.value if cell.published else None


def _ranks(cells: Sequence[Cell], value: Callable[[Cell], float | None], *, higher_is_better: bool) -> list[int]:
    values = [value(cell) for cell in cells]
    known = {number for number in values if number is not None and number == number}
    best = sorted(known, reverse=higher_is_better)[:2]
    if len(best) < 2:
        return [0] * len(cells)
    return [best.index(number) + 1 if number in best else 0 for number in values]

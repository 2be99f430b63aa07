"""What commands are made of and print: rich tables and text, without colour codes where nobody looks."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Run = Callable[[argparse.Namespace, Sequence[str]], int]
"""Runs a command with its options and overrides; the exit code."""
AddCommand = Callable[[str, Run, str], argparse.ArgumentParser]
"""Adds a command by name, function and help text."""
WIDTH = 160
"""Columns where the output is no terminal."""


def table_of(*columns: str) -> "Table":
    """An empty table whose first column is never broken."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table


def print_rich(content: Any) -> None:
    """Print something that rich can draw, or plain text as it is."""
    from rich.console import Console

    Console(width=width(), highlight=False, markup=False).print(content)


def width() -> int:
    """Columns that fit."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else WIDTH

"""What commands have in common: options, and rich tables and text, without colour codes where nobody looks."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.registry import load_folder

Run = Callable[[argparse.Namespace, Sequence[str]], int]
"""Runs a command with its options and overrides; the exit code."""
AddCommand = Callable[[str, Run, str], argparse.ArgumentParser]
"""Adds a command by name, function and help text."""
WIDTH = 160
"""Columns where the output is no terminal."""


def add_results_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where records lie."""
    parser.add_argument("--results-dir", type=Path, default=Path("results"), metavar="DIR")


def add_json(parser: argparse.ArgumentParser, what: str = "JSON") -> None:
    """Add the option for output that programs read."""
    parser.add_argument("--json", action="store_true", help=f"print {what}")


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add the option that names folders of plug-ins; `load_plugins` loads them."""
    parser.add_argument(
        "--plugins", metavar="DIR", action="append", default=[], help="a folder of plug-ins; repeatable"
    )


def load_plugins(options: argparse.Namespace) -> None:
    """Load the folders that the command line names.

    Raises:
        UserError: one cannot be loaded.
    """
    for folder in options.plugins:
        load_folder(Path(folder))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, unbroken: int = 1) -> None:
    """Print a table whose first `unbroken` columns are never broken; close together, for job ids are long."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index < unbroken)
    for row in rows:
        table.add_row(*map(str, row))
    print_rich(table)


def print_rich(content: Any) -> None:
    """Print something that rich can draw, or plain text as it is."""
    from rich.console import Console

    Console(width=width(), highlight=False, markup=False).print(content)


def width() -> int:
    """Columns that fit."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else WIDTH

"""The facts that come with the package: CSV files below `experiments/`, one typed row a line."""

import csv
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.errors import UserError

Fact = TypeVar("Fact")


def experiments_folder() -> Path:
    """`experiments/` of the checkout, else the copy inside the installed package."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent / "experiments"
    return checkout if any(checkout.glob("*/published.csv")) else package / "_experiments"


def read_facts(file: Path, kind: type[Fact]) -> list[Fact]:
    """Every line of a file as a dataclass, whose fields are its columns.

    Raises:
        UserError: the file is not there, or a line is no such fact; the message names file, line and column.
    """
    row, found = TypeAdapter(kind), []
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            for line, fields in enumerate(csv.DictReader(stream), start=2):
                try:
                    found.append(row.validate_python(fields))
                except ValidationError as error:
                    column, problem = str(error.errors()[0]["loc"][0]), error.errors()[0]["msg"]
                    raise UserError(f"{file}, line {line}: {column}={fields.get(column)!r}: {problem}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    return found

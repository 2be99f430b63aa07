"""How far a reproduced number may lie from the published one, where anybody has seen it."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import UserError
from harness.reporting.published import DENSE_PATTERN, PublishedRow, experiments_folder

FILE = "tolerances.csv"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The spread that was seen between careful measurements of one thing under one protocol.

    Args:
        protocol: key without its version.
        max_sparsity: the largest sparsity it was seen at; above, results differ by tens of percent.
        relative: most distance, as a fraction of the published number.
        seen: on what; source: where that is written.
    """

    protocol: str
    metric: str
    max_sparsity: float
    relative: float
    seen: str
    source: str

    @property
    def note(self) -> str:
        return (
            f"≈ / ≠: inside / outside {100 * self.relative:.2g}% of the published number, the spread seen under "
            f"{self.protocol}, {self.seen} ({self.source})"
        )


def tolerance_for(row: PublishedRow) -> Tolerance | None:
    """The tolerance that applies to a published number; None when nobody has seen one.

    A dense model has none: nothing in it depends on a seed.
    """
    if row.pattern == DENSE_PATTERN:
        return None
    for known in load_tolerances():
        if (row.protocol, row.metric) == (known.protocol, known.metric) and row.sparsity <= known.max_sparsity:
            return known
    return None


def inside(measured: float, row: PublishedRow) -> bool | None:
    """Whether `measured`, in the row's unit, lies inside the tolerance; None when none is known."""
    known = tolerance_for(row)
    # A number is as good as its printed digits: 5.56 may have been anything from 5.555 to 5.565.
    return None if known is None else abs(measured - row.value) <= known.relative * row.value + _rounding(row.text)


@cache
def load_tolerances() -> Sequence[Tolerance]:
    """The tolerances that come with the published numbers.

    Raises:
        UserError: a row cannot be read.
    """
    return read_tolerances(experiments_folder() / FILE)


def read_tolerances(file: Path) -> Sequence[Tolerance]:
    """Every row of such a file.

    Raises:
        UserError: a row cannot be read; the message names file and line.
    """
    found = []
    with file.open(newline="", encoding="utf-8") as stream:
        for line, fields in enumerate(csv.DictReader(stream), start=2):
            try:
                numbers = {name: float(fields.pop(name)) for name in ("max_sparsity", "relative")}
                found.append(Tolerance(**fields, **numbers))  # type: ignore[arg-type]  # the rest is text
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{file}, line {line} is not a tolerance: {error}") from error
    return tuple(found)


def _rounding(text: str) -> float:
    """Half a unit of the last printed digit: 0.005 for `36.85`, 500 for `1.7e4`."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(0.5 * 10.0 ** (int(exponent or 0) - decimals))

"""All figures that a set of records allows, written to a folder as PNG and PDF."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.record import RunRecord
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data
from harness.reporting.published import Published

PIXELS_A_POINT = 2.5


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure and its two files."""

    name: str
    png: Path
    pdf: Path


def pictures(records: Sequence[RunRecord], published: Published) -> Iterator[Picture | NotDrawn]:
    """Every figure that these records allow, and every kind that they do not; no two of one name."""
    data = Data.of(records, published)
    taken: set[str] = set()
    for figure in FIGURES.all().values():
        for found in figure(data):
            name = found.name
            while isinstance(found, Picture) and name.casefold() in taken:  # two keys may make one file name
                name += "-2"
            taken.add(name.casefold())
            yield Picture(name, found.chart) if isinstance(found, Picture) else found


def draw_all(records: Sequence[RunRecord], published: Published, folder: Path) -> Iterator[Drawn | NotDrawn]:
    """Draw every figure into `folder`; equal records give equal files.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for found in pictures(records, published):
            yield found if isinstance(found, NotDrawn) else draw(found, folder)
    except OSError as error:
        raise UserError(f"cannot write figures into the folder {folder}: {error.strerror or error}") from error


def draw(picture: Picture, folder: Path) -> Drawn:
    """Write NAME.png and NAME.pdf."""
    import vl_convert

    spec, png, pdf = picture.spec(), folder / f"{picture.name}.png", folder / f"{picture.name}.pdf"
    png.write_bytes(vl_convert.vegalite_to_png(spec, scale=PIXELS_A_POINT))
    pdf.write_bytes(_ordered(vl_convert.vegalite_to_pdf(spec)))
    return Drawn(picture.name, png, pdf)


def _ordered(pdf: bytes) -> bytes:
    """The PDF with the resources of each page by name: vl-convert writes them in an order that changes by run.

    So it does with fonts, of which a figure therefore has one.
    """
    entries = re.compile(rb"(?:^ +/\w+ \d+ 0 R\n){2,}", re.MULTILINE)
    return entries.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), pdf)

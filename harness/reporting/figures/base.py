"""Figures: functions from the records' data to charts, known under names; and all of them, written to a folder.

A figure of one's own is one file, in this folder or in one that ``report --plugins DIR`` names::

    @FIGURES.register("seconds")
    def seconds(data: Data) -> Iterator[Picture | NotDrawn]:
        yield Picture("seconds", altair.Chart(data.frame).mark_bar().encode(x="seconds", y="method"))
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.errors import UserError
from harness.record import RunRecord
from harness.registry import Registry
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import COLUMN, Spec, titled, with_datasets
from harness.reporting.figures.points import Panel
from harness.reporting.published import Published

if TYPE_CHECKING:
    import altair

PIXELS = 2.5
"""Of a PNG for each of the chart."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure.

    Args:
        name: of its files, without ending.
        chart: a row of its data that has `job`, or a list `jobs`, belongs to these jobs: the page hides it with them.
    """

    name: str
    chart: "Spec | altair.TopLevelMixin"

    def spec(self) -> Spec:
        """The chart as Vega-Lite; what no Vega-Lite can say is found when it is drawn."""
        return with_datasets(self.chart if isinstance(self.chart, dict) else self.chart.to_dict(validate=False))

    def write(self, folder: Path) -> None:
        """Draw NAME.png and NAME.pdf."""
        import vl_convert

        spec = self.spec()
        (folder / f"{self.name}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=PIXELS))
        (folder / f"{self.name}.pdf").write_bytes(_ordered(vl_convert.vegalite_to_pdf(spec)))


@dataclass(frozen=True, slots=True)
class NotDrawn:
    """A figure that the records do not allow, and why."""

    name: str
    why: str


Figure: TypeAlias = Callable[[Data], Iterator[Picture | NotDrawn]]

FIGURES: Registry[Figure] = Registry("figure", "harness.reporting.figures")


def captioned(chart: Spec, title: str, data: Data, panel: Panel, notes: Sequence[str]) -> Spec:
    """The chart of one panel: its question, what was measured of how many jobs, and notes."""
    jobs = {job for point in panel.all for job in point.jobs}
    said = f"{panel.model}, {len(jobs)} jobs: {panel.title}"
    lost = f"{panel.lost} values are infinite or missing" if panel.lost else ""
    notes = [*notes, *data.notes.get(panel.model, ()), lost]
    spec = titled(chart, title, [said, "; ".join(filter(None, notes))], COLUMN * data.columns)
    return spec | {"description": f"{spec['description']} [{panel.key}]"}


def pictures(records: Sequence[RunRecord], published: Published, columns: int = 2) -> Iterator[Picture | NotDrawn]:
    """Every figure that these records allow, and every kind that they do not; no two of one name."""
    data = Data.of(records, published, columns)
    taken: set[str] = set()
    for figure in FIGURES.all().values():
        for found in figure(data):
            name = found.name
            while isinstance(found, Picture) and name.casefold() in taken:  # two keys may make one file name
                name += "-2"
            taken.add(name.casefold())
            yield Picture(name, found.chart) if isinstance(found, Picture) else found


def draw_all(
    records: Sequence[RunRecord], published: Published, folder: Path, columns: int = 2
) -> Iterator[Picture | NotDrawn]:
    """Draw every figure into `folder`, as wide as one or two columns of a paper; equal records give equal files.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for found in pictures(records, published, columns):
            if isinstance(found, Picture):
                found.write(folder)
            yield found
    except OSError as error:
        raise UserError(f"cannot write figures into the folder {folder}: {error.strerror or error}") from error


def _ordered(pdf: bytes) -> bytes:
    """The PDF with the resources of each page by name: vl-convert writes them in an order that changes by run.

    So it does with fonts, of which a figure therefore has one.
    """
    entries = re.compile(rb"(?:^ +/\w+ \d+ 0 R\n){2,}", re.MULTILINE)
    return entries.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), pdf)

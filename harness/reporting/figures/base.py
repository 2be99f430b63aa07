"""Figures: functions from the records' data to charts, known under names; and all of them, written to a folder.

A figure of one's own is one file, in this folder or in one that ``report --plugins DIR`` names::

    @FIGURES.register("seconds")
    def seconds(data: Data) -> Iterator[Picture | NotDrawn]:
        yield Picture("seconds", altair.Chart(data.frame).mark_bar().encode(x="seconds", y="method"))
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import altair

from harness.errors import UserError
from harness.record import RunRecord
from harness.registry import Registry
from harness.reporting.figures.data import Data, Measurement
from harness.reporting.figures.look import PANEL_WIDTH, Spec, Style, composed, file_name, titled, with_datasets
from harness.reporting.figures.points import Panel, Point
from harness.reporting.published import Published, natural_key

PIXELS_A_POINT = 2.5
MODELS_A_SHEET = 4

Row = dict[str, Any]
Looks = Mapping[str, Style]
"""How the series of one figure are told apart, by label in the order of the legend."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure.

    Args:
        name: of its files, without ending.
        chart: a row of its data that has `job`, or a list `jobs`, belongs to these jobs: the page hides it with them.
    """

    name: str
    chart: Spec | altair.TopLevelMixin

    def spec(self) -> Spec:
        """The chart as Vega-Lite; what no Vega-Lite can say is found when it is drawn."""
        return with_datasets(self.chart if isinstance(self.chart, dict) else self.chart.to_dict(validate=False))

    def write(self, folder: Path) -> None:
        """Draw NAME.png and NAME.pdf."""
        import vl_convert

        spec = self.spec()
        (folder / f"{self.name}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=PIXELS_A_POINT))
        (folder / f"{self.name}.pdf").write_bytes(_ordered(vl_convert.vegalite_to_pdf(spec)))


@dataclass(frozen=True, slots=True)
class NotDrawn:
    """A figure that the records do not allow, and why."""

    name: str
    why: str


Figure: TypeAlias = Callable[[Data], Iterator[Picture | NotDrawn]]

FIGURES: Registry[Figure] = Registry("figure", "harness.reporting.figures")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A figure for every protocol, and what its panels have in common.

    Args:
        name: with the protocol and the page it makes the file name.
        title: the question that the figure answers.
        draw: a panel's chart.
        notes: what a reader must know of a protocol's figure beside the protocol and what the panels leave out.
        colors: one scale for all panels, or one a panel.
    """

    name: str
    title: str
    draw: Callable[[Panel, Looks], Spec]
    notes: Callable[[Measurement], Sequence[str]]
    colors: Literal["shared", "independent"] = "shared"

    def drawn(self, data: Data, wanted: Callable[[Measurement], bool], why_not: str) -> Iterator[Picture | NotDrawn]:
        """The figures of all protocols that are wanted: metrics are their rows, models their columns."""
        found = [each for each in data.measurements if wanted(each)]
        if not found:
            yield NotDrawn(self.name, why_not)
        for each in found:
            found_models = sorted({model for _, model in each.panels}, key=natural_key)
            for suffix, models in paged(found_models, MODELS_A_SHEET):
                name = f"{self.name}-{file_name(each.key.split(':', 1)[1])}{suffix}"
                yield Picture(name, self._chart(each, models, data))

    def _chart(self, measured: Measurement, models: Sequence[str], data: Data) -> Spec:
        panels = {where: one for where, one in measured.panels.items() if where[1] in models}
        labels = {point.label for each in panels.values() for point in each.drawn}
        looks = {label: style for label, style in data.styles.items() if label in labels}
        rows = [
            [self.draw(panels[metric, model], looks) for model in models if (metric, model) in panels]
            for metric in sorted({metric for metric, _ in panels})
        ]
        resolve = {"scale": {"color": self.colors}}
        drawn = [composed("hconcat", row, spacing=24, resolve=resolve) for row in rows if row]
        chart = composed("vconcat", drawn, resolve=resolve)
        left_out = [note for each in panels.values() for note in each.notes]
        notes = [note for note in data.notes if note.startswith(tuple(f"{model}: " for model in models))]
        below = dict.fromkeys(filter(None, [*self.notes(measured), *notes, *left_out]))
        said = [f"{measured.title} [{measured.key}]", "; ".join(below)]
        said = [text.replace(f"{models[0]}: ", "") for text in said] if len(models) == 1 else said
        return titled(chart, self.title, said, 1.6 * PANEL_WIDTH * len(models))


def paged(items: Sequence[Any], size: int) -> Iterator[tuple[str, Sequence[Any]]]:
    """The items in pages of at most `size`, each with what its file's name ends in."""
    pages = [items[start : start + size] for start in range(0, len(items), size)]
    for number, page in enumerate(pages, start=1):
        yield f"-page{number}" if len(pages) > 1 else "", page


def rows_of(points: Sequence[Point], panel: Panel) -> list[Row]:
    """Points as rows of a chart's data; what lies beyond the axis is `shown` at its edge."""
    return [asdict(point) | {"jobs": list(point.jobs), "shown": min(point.value, panel.edge)} for point in points]


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


def draw_all(records: Sequence[RunRecord], published: Published, folder: Path) -> Iterator[Picture | NotDrawn]:
    """Draw every figure into `folder`; equal records give equal files.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for found in pictures(records, published):
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

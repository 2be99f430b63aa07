"""A panel for every model and metric of a protocol, as one chart with one legend; several pages of many models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.reporting.figures.base import NotDrawn, Picture
from harness.reporting.figures.data import Data, Measurement
from harness.reporting.figures.look import PANEL_WIDTH, Spec, Style, composed, file_name, titled
from harness.reporting.figures.points import Panel, Point

MODELS_A_SHEET = 4

Row = dict[str, Any]
Looks = Mapping[str, Style]
"""How the series of one figure are told apart, by label in the order of the legend."""


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
            for suffix, models in paged(each.models, MODELS_A_SHEET):
                name = f"{self.name}-{file_name(each.key.split(':', 1)[1])}{suffix}"
                yield Picture(name, self._chart(each, models, data))

    def _chart(self, measured: Measurement, models: Sequence[str], data: Data) -> Spec:
        panels = {where: one for where, one in measured.panels.items() if where[1] in models}
        labels = {point.label for each in panels.values() for point in each.drawn}
        looks = {label: style for label, style in data.styles.items() if label in labels}
        rows = [
            [self.draw(panels[metric, model], looks) for model in models if (metric, model) in panels]
            for metric in measured.metrics
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

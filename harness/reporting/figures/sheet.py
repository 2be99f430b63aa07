"""A panel for every model and metric of a protocol, as one chart with one legend; several pages of many models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.reporting.figures.base import Picture
from harness.reporting.figures.look import PANEL_WIDTH, Spec, Style, composed, file_name, titled, told_apart
from harness.reporting.figures.points import Measurement, Panel, Point, Series
from harness.reporting.frame import DENSE
from harness.reporting.layout import clean, unique
from harness.reporting.published import natural_key

MODELS_A_SHEET = 4
CHANNELS = ("color", "shape", "strokeDash")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Looks:
    """How the series of one figure are told apart: its labels in order, and the styles of all figures."""

    labels: Sequence[str]
    known: Mapping[str, Style]

    def __call__(self, *channels: str) -> dict[str, Any]:
        """Encodings of the column `label`; without names, all channels."""
        return told_apart(self.labels, self.known, channels or CHANNELS)


@dataclass(frozen=True, slots=True)
class Sheet:
    """What the panels of a figure have in common.

    Args:
        name: with the protocol and the page it makes the file name.
        draw: a panel's chart.
        notes: what a reader must know beside the protocol and what the panels leave out.
        colors: one scale for all panels, or one a panel.
    """

    name: str
    title: str
    draw: Callable[[Panel, Looks], Spec]
    notes: Sequence[str] = ()
    colors: Literal["shared", "independent"] = "shared"

    def pages(self, measured: Measurement, known: Mapping[str, Style]) -> Iterator[Picture]:
        """The figure of a protocol: metrics are its rows, models its columns."""
        models = measured.models
        pages = [models[start : start + MODELS_A_SHEET] for start in range(0, len(models), MODELS_A_SHEET)]
        for number, page in enumerate(pages, start=1):
            suffix = f"-page{number}" if len(pages) > 1 else ""
            name = f"{self.name}-{file_name(measured.key.split(':', 1)[1])}{suffix}"
            yield Picture(name, self._chart(measured, page, known))

    def _chart(self, measured: Measurement, models: Sequence[str], known: Mapping[str, Style]) -> Spec:
        panels = {where: one for where, one in measured.panels.items() if where[1] in models}
        labels = unique(sorted((one.label for each in panels.values() for one in each.series), key=natural_key))
        looks = Looks([*labels, DENSE] if any(each.dense for each in panels.values()) else labels, known)
        rows = [
            [self.draw(panels[metric, model], looks) for model in models if (metric, model) in panels]
            for metric in measured.metrics
        ]
        resolve = {"scale": {"color": self.colors}}
        drawn = [composed("hconcat", row, spacing=24, resolve=resolve) for row in rows if row]
        chart = composed("vconcat", drawn, resolve=resolve)
        left_out = [note for each in panels.values() for note in each.notes]
        said = unique([measured.title, f"[{measured.key}]", *self.notes, *left_out])
        return titled(chart, self.title, said, 1.3 * PANEL_WIDTH * len(models))


def row_of(one: Series | None, panel: Panel, point: Point) -> Row:
    """A point as a row of a chart's data; the dense model's when it is of no series."""
    spread = point.error or 0.0
    return {
        "label": one.label if one else DENSE,
        "model": clean(panel.model),
        "pattern": point.pattern,
        "value": point.value,
        "low": point.value - spread,
        "high": point.value + spread,
        "error": point.error,
        "jobs": list(point.job_ids),
    }

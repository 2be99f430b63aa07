"""One figure with a panel for every model and metric of a protocol, and one legend for all of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.reporting.frame import DENSE
from harness.reporting.layout import unique
from harness.reporting.plots.series import Measurement, Panel, Point
from harness.reporting.plots.style import DENSE_COLOR, Style, file_name, finish, legend_width, new_figure, styles, text
from harness.reporting.published import natural_key

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

MODELS_A_SHEET = 4
PANEL_WIDTH, PANEL_HEIGHT = 3.1, 2.7


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure to be: its file name without ending, and what draws it."""

    name: str
    draw: Callable[[], "Figure"]


@dataclass(frozen=True, slots=True)
class NotDrawn:
    """A figure that the records do not allow, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """A figure of panels: metrics are its rows, models its columns.

    Args:
        name: what kind of figure; with the protocol and the page it makes the file name.
        draw: draws one panel into its part of the figure.
        handles: what the legend shows beside the methods.
        notes: for the foot of the figure.
        legend: methods have entries in the legend; bars: points have error bars; joined: and lines between them.
        size: of a panel, in inches.
    """

    name: str
    title: str
    measurement: Measurement
    models: Sequence[str]
    styles: Mapping[str, Style]
    draw: Callable[["SubFigure", Panel, Mapping[str, Style]], None]
    handles: Sequence[Any] = ()
    notes: Sequence[str] = ()
    legend: bool = True
    bars: bool = False
    joined: bool = True
    size: tuple[float, float] = (PANEL_WIDTH, PANEL_HEIGHT)

    def figure(self) -> "Figure":
        measured = self.measurement
        panels = {index: one for index, one in measured.panels.items() if index[1] in self.models}
        metrics = [metric for metric in measured.metrics if any(index[0] == metric for index in panels)]
        wide, high = self.size
        handles = [*self._methods(panels.values()), *self.handles] if self.legend else []
        width = wide * len(self.models) + (legend_width(handles) or 0.2)
        figure = new_figure(max(width, 5.4), high * len(metrics) + 0.9)
        parts = figure.subfigures(len(metrics), len(self.models), squeeze=False)
        for (metric, model), one in panels.items():
            part = parts[metrics.index(metric)][list(self.models).index(model)]
            self.draw(part, one, self.styles)
        said = [note for one in panels.values() for note in one.notes]
        notes = unique([*self.notes, *said, *(_errors(panels) if self.bars else [])])
        finish(figure, self.title, f"{measured.title}\n[{measured.key}]", notes, handles)
        return figure

    def _methods(self, panels: Any) -> list[Any]:
        from matplotlib.lines import Line2D

        labels = unique(sorted((one.label for panel in panels for one in panel.series), key=natural_key))
        handles = [line(label, self.styles[label], joined=self.joined) for label in labels]
        if any(panel.dense for panel in panels):
            handles.append(Line2D([], [], color=DENSE_COLOR, linestyle=":", linewidth=1.2, label="dense"))
        return handles


def sheets(name: str, measurement: Measurement, make: Callable[[Sequence[str]], Sheet]) -> Iterator[Picture]:
    """The figure of a protocol, in several pages where there are many models."""
    models = measurement.models
    pages = [models[start : start + MODELS_A_SHEET] for start in range(0, len(models), MODELS_A_SHEET)]
    for number, page in enumerate(pages, start=1):
        suffix = f"-page{number}" if len(pages) > 1 else ""
        yield Picture(f"{name}-{file_name(measurement.key.split(':', 1)[1])}{suffix}", make(page).figure)


def method_styles(measured: Sequence[Measurement], others: Iterable[str] = ()) -> dict[str, Style]:
    """Styles of all series of a report, and of other labels: one looks the same in all figures."""
    labels = {one.label for each in measured for panel in each.panels.values() for one in panel.series}
    return styles((labels | set(others)) - {DENSE}) | {DENSE: Style(DENSE_COLOR, "*", "none")}


def line(label: str, style: Style, *, joined: bool = True) -> Any:
    """The legend's entry of a series; its points are `joined` by lines or stand alone."""
    from matplotlib.lines import Line2D

    stroke = style.line if joined else "none"
    look: dict[str, Any] = {"color": style.color, "marker": style.marker, "markersize": style.size, "linestyle": stroke}
    return Line2D([], [], label=text(label), **look)


def value_label(panel: Panel) -> str:
    """Metric, unit and direction."""
    unit = "perplexity" if panel.metric == "perplexity" else f"{panel.metric} [%]"
    return f"{unit} ({'higher' if panel.higher_is_better else 'lower'} is better)"


def _errors(panels: Mapping[tuple[str, str], Panel]) -> list[str]:
    points: list[Point] = [point for one in panels.values() for series in one.series for point in series.points]
    seeds = any(point.error is not None and len(point.job_ids) > 1 for point in points)
    single = any(point.error is not None and len(point.job_ids) == 1 for point in points)
    said = (["standard error"] if single else []) + (["standard deviation over seeds where there are several"] * seeds)
    return [f"error bars: {'; '.join(said)}"] if said else []

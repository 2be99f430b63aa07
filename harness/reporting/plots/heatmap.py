"""Method by pattern, every value written into its field."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.reporting.axes import pattern_order
from harness.reporting.layout import number, unique
from harness.reporting.plots.series import Measurement, Panel, Point, pattern_name
from harness.reporting.plots.sheet import NotDrawn, Picture, Sheet, sheets, value_label
from harness.reporting.plots.style import Style, text

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

DARK = 0.55
"""Fields darker than this have white text."""


def heat_maps(measured: Sequence[Measurement], styles: Mapping[str, Style]) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol under which two methods or two patterns were measured."""
    drawn = False
    for each in measured:
        if any(len(fields(one)) > 1 for one in each.panels.values()):
            drawn = True
            yield from sheets("heatmap", each, lambda models, each=each: _sheet(each, models, styles))  # type: ignore[misc]
    if not drawn:
        yield NotDrawn("heatmap", "no protocol has two methods or two patterns to lay side by side")


def _sheet(measurement: Measurement, models: Sequence[str], styles: Mapping[str, Style]) -> Sheet:
    shapes = [(len(one.series), len({column for _, column in fields(one)})) for one in measurement.panels.values()]
    label = max((len(series.label) for one in measurement.panels.values() for series in one.series), default=0)
    rows, columns = (max(counts) for counts in zip(*shapes, strict=True))
    notes = ["darker is better; an empty field was not measured"]
    size = (0.5 * columns + 0.075 * label + 0.5, 0.27 * rows + 1.0)
    return Sheet(
        "heatmap", "Method by pattern", measurement, models, styles, draw_heat_map, notes=notes, legend=False, size=size
    )


def fields(panel: Panel) -> dict[tuple[str, str], Point]:
    """Points by (series, pattern)."""
    return {
        (one.label, pattern_name(point.pattern, point.sparsity)): point for one in panel.series for point in one.points
    }


def _short(value: float) -> str:
    """Two decimals below a hundred, fewer above: a field is half an inch wide."""
    return f"{value:.0f}" if 1000 <= value < 1e4 else f"{value:.1f}" if 100 <= value < 1000 else number(value)


def draw_heat_map(part: "SubFigure", panel: Panel, styles: Mapping[str, Style]) -> None:
    """Rows are series, columns patterns; darker is better, and an empty field was not measured."""
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    del styles  # colours say the value here
    axis = part.subplots()
    points = sorted(
        {(p.pattern, p.sparsity) for one in panel.series for p in one.points}, key=lambda where: pattern_order(*where)
    )
    columns = unique([pattern_name(*where) for where in points])
    rows = [one.label for one in panel.series]
    known = fields(panel)
    values = np.full((len(rows), len(columns)), np.nan)
    for (label, column), point in known.items():
        values[rows.index(label), columns.index(column)] = point.value
    low, high = float(np.nanmin(values)) if known else 0.0, float(np.nanmax(values)) if known else 1.0
    norm = LogNorm(low, high) if low > 0 and high / low > 10 else Normalize(low, high)
    axis.imshow(values, cmap="Blues" if panel.higher_is_better else "Blues_r", norm=norm, aspect="auto")
    for (label, column), point in known.items():
        share = float(norm(point.value)) if high > low else 0.0
        dark = share if panel.higher_is_better else 1 - share
        color = "white" if dark > DARK and high > low else "black"
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": color}
        written = axis.text(columns.index(column), rows.index(label), _short(point.value), **look)
        written.set_in_layout(False)  # it lies inside its field: hundreds need not be measured to place the panel
    axis.set_xticks(range(len(columns)), columns, rotation=45 if len(columns) > 5 else 0)
    axis.set_yticks(range(len(rows)), [text(label) for label in rows])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    dense = "" if panel.dense is None else f", dense {number(panel.dense.value)}"
    axis.set_title(f"{text(panel.model)}{dense}\n{value_label(panel)}", loc="left")

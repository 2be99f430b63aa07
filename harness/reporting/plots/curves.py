"""Quality against how much was removed: perplexity over sparsity, accuracy over compression."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.reporting.axes import pattern_order
from harness.reporting.layout import unique
from harness.reporting.plots.series import Measurement, Panel, Point, pattern_name
from harness.reporting.plots.sheet import NotDrawn, Picture, Sheet, sheets, value_label
from harness.reporting.plots.style import DENSE_COLOR, Style, log_axis, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

Across = Callable[[Point], float]
COMPRESSION_NOTE = "compression: prunable weights / those that are not zero, counted"
SPREAD = 0.7
"""Part of a pattern's place that the methods side by side in it take."""


def sparsity_percent(point: Point) -> float:
    """Zeros asked for, in percent."""
    return 100 * point.sparsity


def compression(point: Point) -> float:
    """How many times fewer prunable weights are not zero, counted."""
    return 1 / (1 - point.achieved)


def curves(measured: Sequence[Measurement], styles: Mapping[str, Style]) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol that pruned models were measured under."""
    accuracies = ("zero_shot", "accuracy")
    for kinds, name, title, across, label in (
        (("perplexity",), "perplexity", "Perplexity against sparsity", sparsity_percent, "sparsity [% zeros]"),
        (accuracies, "accuracy", "Accuracy against compression", compression, "compression [×]"),
    ):
        drawn = 0
        for each in measured:
            if each.kind in kinds and any(one.series for one in each.panels.values()):
                yield from sheets(name, each, _sheet(name, title, each, styles, (across, label)))
                drawn += 1
        if not drawn:
            yield NotDrawn(name, f"no pruned model has a {name} that is a finite number")


def _sheet(
    name: str, title: str, measurement: Measurement, styles: Mapping[str, Style], x: tuple[Across, str]
) -> Callable[[Sequence[str]], Sheet]:
    def make(models: Sequence[str]) -> Sheet:
        def draw(part: "SubFigure", one: Panel, known: Mapping[str, Style]) -> None:
            draw_curves(part, one, known, x)

        notes = [COMPRESSION_NOTE] if x[0] is compression else []
        return Sheet(name, title, measurement, models, styles, draw, notes=notes, bars=True)

    return make


def draw_curves(part: "SubFigure", panel: Panel, styles: Mapping[str, Style], x: tuple[Across, str]) -> None:
    """Unstructured sparsities as lines; beside them every other pattern in a place of its own, for 2:4 is not 50 %."""
    from matplotlib.ticker import MaxNLocator

    points = [point for one in panel.series for point in one.points]
    named = [point for point in points if point.pattern != "unstructured"]
    ordered = sorted(named, key=lambda point: pattern_order(point.pattern, point.sparsity))
    patterns = unique([pattern_name(point.pattern, point.sparsity) for point in ordered])
    lines = len(named) < len(points) or not points
    if lines and patterns:
        ratios = [3.0, max(1.0, 0.75 * len(patterns))]
        left, right = part.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": ratios, "wspace": 0.03})
        right.tick_params(left=False, which="both")
        right.spines["left"].set_visible(False)
    else:
        left = right = part.subplots()
    _dense(panel, unique_axes(left, right))
    if lines:
        across, label = x
        _lines(left, panel, styles, across)
        left.set_xlabel(label)
        left.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if patterns:
        _places(right, panel, styles, patterns)
        right.set_xlabel("pattern")
    left.set_title(text(panel.model), loc="left")
    left.set_ylabel(value_label(panel))
    log_axis(left, panel.values)


def unique_axes(*axes: "Axes") -> list["Axes"]:
    """Each axis once."""
    return list(dict.fromkeys(axes))


def _lines(axis: "Axes", panel: Panel, styles: Mapping[str, Style], across: Across) -> None:
    for one in panel.series:
        points = sorted((point for point in one.points if point.pattern == "unstructured"), key=across)
        if points:
            _draw(axis, [across(point) for point in points], points, styles[one.label], joined=True)


def _places(axis: "Axes", panel: Panel, styles: Mapping[str, Style], patterns: Sequence[str]) -> None:
    count = len(panel.series)
    for number, one in enumerate(panel.series):
        points = [point for point in one.points if point.pattern != "unstructured"]
        shift = SPREAD * ((number + 0.5) / count - 0.5)
        if points:
            xs = [patterns.index(pattern_name(point.pattern, point.sparsity)) + shift for point in points]
            _draw(axis, xs, points, styles[one.label], joined=False)
    axis.set_xticks(range(len(patterns)), patterns)
    axis.set_xlim(-0.6, len(patterns) - 0.4)
    axis.grid(visible=False, axis="x")


def _draw(axis: "Axes", xs: Sequence[float], points: Sequence[Point], style: Style, *, joined: bool) -> None:
    ys = [point.value for point in points]
    line: Any = style.line if joined else "none"
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.3, "markersize": style.size}
    axis.plot(xs, ys, color=style.color, marker=style.marker, linestyle=line, **edge)
    bars = [(x, point.value, point.error) for x, point in zip(xs, points, strict=True) if point.error]
    if bars:
        where, middle, error = zip(*bars, strict=True)
        axis.errorbar(where, middle, yerr=error, fmt="none", ecolor=style.color, elinewidth=0.8, capsize=2, alpha=0.7)


def _dense(panel: Panel, axes: Sequence["Axes"]) -> None:
    if panel.dense is None:
        return
    value, error = panel.dense.value, panel.dense.error
    for axis in axes:
        axis.axhline(value, color=DENSE_COLOR, linestyle=":", linewidth=1.2, zorder=1)
        if error:
            axis.axhspan(value - error, value + error, color=DENSE_COLOR, alpha=0.08, linewidth=0, zorder=0)

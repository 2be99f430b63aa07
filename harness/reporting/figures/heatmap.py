"""Method by pattern, every value written into its field."""

from collections.abc import Iterator

from harness.reporting.axes import pattern_order
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.look import Spec, composed, tooltip
from harness.reporting.figures.points import Data, Panel, Point, pattern_name
from harness.reporting.figures.sheet import Looks, Sheet, row_of
from harness.reporting.layout import clean, number, unique

FIELD_WIDTH, FIELD_HEIGHT = 42, 22
DARK = 0.55
"""Fields darker than this have white text."""
NOTES = ("darker is better; an empty field was not measured",)


@FIGURES.register("heatmap")
def heat_maps(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol under which two methods or two patterns were measured."""
    drawn = False
    for each in data.measurements:
        if any(len(fields(one)) > 1 for one in each.panels.values()):
            drawn = True
            yield from Sheet("heatmap", "Method by pattern", heat_panel, NOTES, "independent").pages(each, data.styles)
    if not drawn:
        yield NotDrawn("heatmap", "no protocol has two methods or two patterns to lay side by side")


def fields(panel: Panel) -> dict[tuple[str, str], Point]:
    """Points by (series, pattern)."""
    return {
        (one.label, pattern_name(point.pattern, point.sparsity)): point for one in panel.series for point in one.points
    }


def _short(value: float) -> str:
    """Two decimals below a hundred, fewer above: a field is narrow."""
    return f"{value:.0f}" if 1000 <= value < 1e4 else f"{value:.1f}" if 100 <= value < 1000 else number(value)


def heat_panel(panel: Panel, looks: Looks) -> Spec:
    """Rows are series, columns patterns."""
    import altair

    del looks  # colours say the value here
    points = sorted(
        {(p.pattern, p.sparsity) for one in panel.series for p in one.points}, key=lambda where: pattern_order(*where)
    )
    rows = [
        row_of(one, panel, point)
        | {"place": pattern_name(point.pattern, point.sparsity), "written": _short(point.value)}
        for one in panel.series
        for point in one.points
    ]
    values = [row["value"] for row in rows]
    low, high = min(values, default=0.0), max(values, default=1.0)
    scale = altair.Scale(
        type="log" if low > 0 and high > 10 * low else "linear",
        domain=[low, high] if high > low else [low, low + 1],
        scheme="blues",
        reverse=not panel.higher_is_better,
    )
    share = DARK if panel.higher_is_better else 1 - DARK
    limit = low * (high / low) ** share if scale["type"] == "log" else low + share * (high - low)
    dark = f"datum.value {'>' if panel.higher_is_better else '<'} {limit}"
    base = altair.Chart(altair.InlineData(values=rows)).encode(
        x=altair.X("place:N", title=None, sort=unique([pattern_name(*where) for where in points]), axis=_AXIS),
        y=altair.Y("label:N", title=None, sort=[one.label for one in panel.series], axis=_AXIS),
        tooltip=tooltip("label:N", "model:N", "place:N", "value:Q", "error:Q", "jobs:N"),
    )
    dense = "" if panel.dense is None else f", dense {number(panel.dense.value)}"
    size = {"width": {"step": FIELD_WIDTH}, "height": {"step": FIELD_HEIGHT}}
    parts = (
        base.mark_rect().encode(color=altair.Color("value:Q", scale=scale, legend=None)),
        base.mark_text(fontSize=10).encode(
            text=altair.Text("written:N"), color=altair.condition(dark, altair.value("white"), altair.value("black"))
        ),
    )
    return composed("layer", parts, title=[f"{clean(panel.model)}{dense}", panel.label], **size)


_AXIS = {"grid": False, "domain": False, "ticks": False, "labelAngle": 0}

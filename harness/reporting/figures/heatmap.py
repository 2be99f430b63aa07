"""Method by pattern, every value written into its field."""

from collections.abc import Iterator

import altair

from harness.reporting.figures.base import FIGURES, Looks, NotDrawn, Picture, Sheet, rows_of
from harness.reporting.figures.curves import TOOLTIP
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import TWO_LINES, Spec, composed, place_width, tooltip
from harness.reporting.figures.points import Panel
from harness.reporting.layout import clean, number

FIELD_WIDTH, FIELD_HEIGHT = 48, 22
DARK = 0.55
"""Fields darker than this have white text."""
NOTES = ("darker is better; an empty field was not measured",)


@FIGURES.register("heatmap")
def heat_maps(data: Data) -> Iterator[Picture | NotDrawn]:
    """A figure for every protocol under which two methods or two patterns were measured."""
    title = "Which method is best at which pattern and sparsity?"
    sheet = Sheet("heatmap", title, heat_panel, lambda _: NOTES, "independent")
    why_not = "no protocol has two methods or two patterns to lay side by side"
    return sheet.drawn(data, lambda each: any(len(one.points) > 1 for one in each.panels.values()), why_not)


def _short(value: float) -> str:
    """Two decimals below a hundred, fewer above: a field is narrow."""
    return f"{value:.0f}" if 1000 <= value < 1e4 else f"{value:.1f}" if 100 <= value < 1000 else number(value)


def heat_panel(panel: Panel, looks: Looks) -> Spec:
    """Rows are series, the best above, columns patterns."""
    rows = [row | {"written": _short(row["value"])} for row in rows_of(panel.points, panel)]
    values = [row["shown"] for row in rows]
    low, high = min(values, default=0.0), max(values, default=1.0)
    scale = altair.Scale(
        type="log" if low > 0 and high > 10 * low and not panel.higher_is_better else "linear",
        domain=[low, high] if high > low else [low, low + 1],
        scheme="blues",
        reverse=not panel.higher_is_better,
    )
    share = DARK if panel.higher_is_better else 1 - DARK
    limit = low * (high / low) ** share if scale["type"] == "log" else low + share * (high - low)
    dark = f"datum.shown {'>' if panel.higher_is_better else '<'} {limit}"
    axis = {"grid": False, "domain": False, "ticks": False}
    base = altair.Chart(altair.InlineData(values=rows)).encode(
        x=altair.X("place:N", title=None, sort=panel.places, axis=altair.Axis(**axis, **TWO_LINES)),
        y=altair.Y("label:N", title=None, sort=list(looks), axis=axis),
        tooltip=tooltip(*TOOLTIP),
    )
    dense = "" if panel.dense is None else f", dense {number(panel.dense.value)}"
    parts = (
        base.mark_rect().encode(color=altair.Color("shown:Q", scale=scale, legend=None)),
        base.mark_text(fontSize=10).encode(
            text=altair.Text("written:N"), color=altair.condition(dark, altair.value("white"), altair.value("black"))
        ),
    )
    size = {"width": {"step": max(FIELD_WIDTH, place_width(panel.places))}, "height": {"step": FIELD_HEIGHT}}
    return composed("layer", parts, title=[f"{clean(panel.model)}{dense}", panel.label], **size)

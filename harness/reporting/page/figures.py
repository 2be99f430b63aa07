"""The page's figures: the charts of `report --plots` as they are, and one for the layers of a job."""

import json
from collections.abc import Mapping, Sequence

from harness.record import RunRecord
from harness.reporting.figures.base import FIGURES, NotDrawn, pictures
from harness.reporting.figures.look import COLORS, CONFIG, DENSE_COLOR, PANEL_HEIGHT, QUIET, Spec
from harness.reporting.page.details import packed
from harness.reporting.published import Published

FIRST = ("perplexity", "accuracy")
"""Figures that most readers came for."""

LIGHTER = ("#62a8ea", "#f2644f", "#ffb93c", "#c487e8", "#cf9584", "#ff8a3d", "#d6cb8e", "#a8e6ea")
ON_DARK: Mapping[str, str] = {
    **{DENSE_COLOR: "#e8eaed", QUIET: "#a3abb5", "#333333": "#a3abb5", "#dddddd": "#363c45"},
    **dict(zip(COLORS, LIGHTER, strict=True)),
}
"""What the charts' colours become on a dark ground: each keeps its hue and has a contrast of 3 at least."""


def packed_figures(records: Sequence[RunRecord], published: Published) -> tuple[dict[str, object], dict[str, str]]:
    """Names and titles of the figures, and why others are not drawn; the charts as blocks ``figure-N``."""
    found = sorted(pictures(records, published), key=lambda each: not each.name.startswith(FIRST))
    listed, blocks = [], {}
    for place, each in enumerate(each for each in found if not isinstance(each, NotDrawn)):
        spec = each.spec()
        title = spec.get("title", each.name)
        kind = next((kind for kind in FIGURES.all() if each.name.startswith(kind)), each.name)
        text = title["text"] if isinstance(title, dict) else title
        listed.append({"name": each.name, "kind": kind, "title": text, "view": _view(each.name)})
        blocks[f"figure-{place}"] = packed(json.dumps(spec, separators=(",", ":")).encode())
    left_out = [
        {"why": f"{each.name}: {each.why}", "view": _view(each.name)} for each in found if isinstance(each, NotDrawn)
    ]
    return {"figures": listed, "not_drawn": left_out, "on_dark": ON_DARK, "layer_chart": layer_chart()}, blocks


def _view(name: str) -> str:
    """The tab that shows a figure."""
    return "layers" if name.startswith("layers") else "tradeoffs"


def layer_chart() -> Spec:
    """Output error and counted zeros of the layers of one job, whose rows the page puts in."""

    def part(field: str, title: str, scale: Spec) -> Spec:
        kind = {"field": "kind", "type": "nominal", "title": None}
        said = [{"field": name, "title": name} for name in ("layer", "error", "zeros")]
        place = {"field": "number", "type": "quantitative", "title": "layer, in model order"}
        value = {"field": field, "type": "quantitative", "title": title, "scale": scale}
        encoding = {"x": place, "y": value, "color": kind, "shape": kind, "tooltip": said}
        mark = {"type": "point", "filled": True}
        return {"mark": mark, "encoding": encoding, "width": 640, "height": PANEL_HEIGHT}

    parts = [
        part("error", "relative output error", {"zero": True}),
        part("zeros", "zeros counted [%]", {"zero": False}),
    ]
    return {"data": {"name": "layers"}, "vconcat": parts, "config": dict(CONFIG)}

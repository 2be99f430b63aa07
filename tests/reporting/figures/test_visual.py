"""What a reader sees of every figure of the kept records: no covered name, series that differ, a sheet full of data."""

import re
from collections.abc import Iterator
from itertools import combinations
from math import sqrt
from typing import Any, TypeAlias

import pytest
import vl_convert

from harness.reporting.figures.base import FIGURES, Picture, pictures
from harness.reporting.figures.data import Data
from harness.reporting.figures.look import COLUMN, DENSE_COLOR, FAINT, STYLES, text_width
from harness.reporting.figures.places import Box, crosses
from harness.reporting.published import experiments_folder, load
from harness.tracking.store import RecordStore
from tests.reporting.conftest import contrast, measured_often

LEAST_SHARE = 0.6
"""Of the sheet that data fill: the axes' frames, with the names of the series."""
OFTEN = "tasks"
"""Jobs that were measured in more ways than the kept ones."""
MOST_LINES = {1: 8, 2: 4}
"""Of the caption, by columns of the paper."""

Sheets: TypeAlias = dict[str, tuple[int, dict[str, Any], dict[str, Any]]]
"""Of each figure by name the columns of its paper, its specification, and where everything lies on its sheet."""


@pytest.fixture(scope="module")
def sheets() -> Sheets:
    """Every figure of the kept records, and one of many measures; as wide as one column and as two."""
    found = {}
    for sweep in ("methods_smollm2", "digits", OFTEN):
        kept = RecordStore(experiments_folder().parent / "results" / sweep).all()
        for columns in (1, 2):
            often = FIGURES.get("predictors")(Data.of(measured_often(), load(), columns))
            for each in often if sweep == OFTEN else pictures(kept, load(), columns):
                if isinstance(each, Picture):
                    spec = each.spec()
                    sheet = vl_convert.vegalite_to_scenegraph(spec)
                    found[f"{sweep} {each.name} {columns}"] = (columns, spec, sheet)
    return found


Item = tuple[dict[str, Any], dict[str, Any], Box, dict[str, Any]]
"""A mark, one of its items with its box on the sheet, and the item around it."""


def items(sheet: dict[str, Any]) -> Iterator[Item]:
    """Everything on a sheet."""

    def walk(mark: dict[str, Any], around: dict[str, Any], x: float, y: float) -> Iterator[Item]:
        for item in mark.get("items", []):
            here = x + item.get("x", 0), y + item.get("y", 0)
            yield mark, item, box_of(mark["marktype"], item, *here), around
            for inner in item.get("items", []):
                yield from walk(inner, item, *here)

    yield from walk(sheet["scenegraph"], {}, *sheet["origin"])


def box_of(kind: str, item: dict[str, Any], x: float, y: float) -> Box:
    """Left, top, right, bottom of a text or a symbol; of other marks their frame."""
    if kind == "symbol":
        half = sqrt(item["size"]) / 2
        return (x - half, y - half, x + half, y + half)
    if kind != "text":
        return (x, y, x + item.get("width", 0), y + item.get("height", 0))
    lines = item["text"] if isinstance(item["text"], list) else [item["text"]]
    size, width = item["fontSize"], max(text_width(line, item["fontSize"]) for line in lines)
    x, y = x + item.get("dx", 0), y + item.get("dy", 0)
    x -= {"center": width / 2, "right": width}.get(item.get("align", "left"), 0)
    y -= size * {"middle": 0.5, "top": 0.0}.get(item.get("baseline", "alphabetic"), 0.8)
    return (x, y, x + width, y + size * (1.2 * len(lines) - 0.2))


def texts(sheet: dict[str, Any]) -> list[tuple[str, Box]]:
    """Every text that is seen."""
    return [(str(item["text"]), box) for mark, item, box, _ in items(sheet) if mark["marktype"] == "text"]


def markers(sheet: dict[str, Any]) -> list[tuple[str, Box]]:
    """Every marker that is seen, by its colour."""
    found = [(item, box) for mark, item, box, _ in items(sheet) if mark["marktype"] == "symbol"]
    return [(item["fill"], box) for item, box in found if item.get("opacity", 1)]


def covered(sheet: dict[str, Any]) -> list[str]:
    """Texts that lie on another text or on a marker."""
    found, marks = texts(sheet), [box for _, box in markers(sheet)]
    pairs = [f"{one[0]} on {other[0]}" for one, other in combinations(found, 2) if crosses(one[1], [other[1]])]
    return pairs + [f"{text} on a marker" for text, box in found if crosses(box, marks)]


def test_no_text_lies_on_another_or_on_a_marker(sheets: Sheets) -> None:
    """Names of series, numbers of axes, counts, titles and captions; markers of all series, the grey ones too."""
    assert {name: found for name, (*_, sheet) in sheets.items() if (found := covered(sheet))} == {}


def test_markers_of_named_series_do_not_cover_each_other(sheets: Sheets) -> None:
    """Where values are nearly equal they stand side by side; the dense model's may be touched."""
    for name, (*_, sheet) in sheets.items():
        named = [box for color, box in markers(sheet) if color not in (FAINT, DENSE_COLOR)]
        assert [pair for pair in combinations(named, 2) if crosses(pair[0], [pair[1]])] == [], name


def test_no_two_series_look_alike(sheets: Sheets) -> None:
    """At most eight have a style; no two share a colour, a marker or a dash, and grey belongs to the rest."""
    for name, (_, spec, _) in sheets.items():
        found = list(scales(spec))
        for scale in found:
            looks = [str(value) for value in scale["range"]]
            assert len(looks) == len(scale["domain"]) == len(set(looks)) <= len(STYLES), name
            assert FAINT not in looks
        assert found or " time" in name or " predictors" in name


def scales(part: Any) -> Iterator[dict[str, Any]]:
    """Every scale that tells series apart."""
    if isinstance(part, dict):
        yield from [part["scale"]] if part.get("field") == "label" and "scale" in part else []
        for each in part.values():
            yield from scales(each)
    elif isinstance(part, list):
        for each in part:
            yield from scales(each)


def test_data_fill_the_sheet(sheets: Sheets) -> None:
    """Frames of the axes with the names of the series, in and beside them, take 60 % of the sheet and more."""
    shares = {name: filled(sheet) / (sheet["width"] * sheet["height"]) for name, (*_, sheet) in sheets.items()}
    assert {name: share for name, share in shares.items() if not LEAST_SHARE <= share <= 1} == {}


def filled(sheet: dict[str, Any]) -> float:
    """Pixels of the panels."""
    frames: dict[int, list[Box]] = {}
    for mark, item, box, around in items(sheet):
        if mark["role"] == "scope" and item.get("height") and id(around) not in frames:
            frames.setdefault(id(item), []).append(box)
        if mark["marktype"] == "text" and mark["role"] == "mark":
            frames[id(around)].append(box)
    names = [box for mark, item, box, _ in items(sheet) if mark["role"] == "axis-label" and "×" in item["text"]]
    next(iter(frames.values())).extend(names)
    return sum(
        (max(box[2] for box in boxes) - min(box[0] for box in boxes))
        * (max(box[3] for box in boxes) - min(box[1] for box in boxes))
        for boxes in frames.values()
    )


def test_sheets_are_as_wide_as_a_paper_and_their_text_is_short(sheets: Sheets) -> None:
    """One column or two, but for bars of times; the caption names model and jobs in few lines."""
    for name, (columns, spec, sheet) in sheets.items():
        assert sheet["width"] <= 1.03 * COLUMN * (2 if " time" in name else columns), name
        assert len(spec["title"]["text"].split("\n")) <= 3 - columns
        assert len(spec["title"]["subtitle"]) <= MOST_LINES[columns], name
        assert re.search(r"^(smollm2-135m|digits-cnn|opt-125m), .*\d+ jobs", spec["description"])


def test_series_differ_in_grey() -> None:
    """No two styles share a marker or a dash, and a marker differs in lightness from the paper."""
    assert len({style.marker for style in STYLES}) == len({style.dash for style in STYLES}) == len(STYLES) == 8
    assert all(contrast(style.color, "#ffffff") > 1.5 for style in STYLES)


def test_the_eye_sees_what_is_covered() -> None:
    """A chart whose names lie on each other and on markers fails, so that the tests above can."""
    rows = [{"x": place, "y": 0, "name": "a long name"} for place in (0, 1e-3, 1)]
    place = {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "y", "type": "quantitative"}}
    layers = [{"mark": "point", "encoding": place}, {"mark": "text", "encoding": place | {"text": {"field": "name"}}}]
    spec = {"data": {"values": rows}, "layer": layers, "config": {"point": {"filled": True}, "text": {"fontSize": 11}}}
    found = covered(vl_convert.vegalite_to_scenegraph(spec))
    assert {"a long name on a long name", "a long name on a marker"} <= set(found)

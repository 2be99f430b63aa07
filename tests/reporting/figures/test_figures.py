"""Figures draw the numbers of the frame, one protocol each, and say what they do not draw."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair
import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.patterns import Channels, Pattern, SemiStructured, Structured, Unstructured
from harness.record import EvalResult, LayerReport, RunRecord
from harness.reporting.figures.agreement import pairs
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture, draw_all, pictures
from harness.reporting.figures.costs import time_bars
from harness.reporting.figures.curves import COMPRESSION, SPARSITY, Across, curve_panel
from harness.reporting.figures.data import Data, Measurement
from harness.reporting.figures.heatmap import heat_panel
from harness.reporting.figures.layers import select
from harness.reporting.figures.look import LETTER_WIDTH, PANEL_WIDTH, file_name, styles
from harness.reporting.figures.pareto import front, sizes
from harness.reporting.figures.points import FARTHEST, Panel
from harness.reporting.frame import to_frame
from harness.reporting.published import Published
from tests.reporting.conftest import C4, make_accuracy, make_perplexity, make_record

PATTERNS: tuple[Pattern, ...] = (Unstructured(0.5), Unstructured(0.7), SemiStructured(4, 8), SemiStructured(2, 4))


def layers(pattern: Pattern) -> tuple[LayerReport, ...]:
    """Two linears in each of three blocks."""
    return tuple(
        LayerReport(f"model.layers.{block}.{name}", (4, rows), 0.5, pattern.sparsity, 0.1 * (block + 1), 64)
        for block in range(3)
        for name, rows in (("q_proj", 8), ("fc1", 24))
    )


@pytest.fixture
def sweep() -> list[RunRecord]:
    """A dense model and two methods in four patterns, with a perplexity and an accuracy each."""
    records = [make_record("dense", None, (make_perplexity(20.0), make_accuracy(0.7)))]
    for number, method in enumerate(("magnitude", "wanda")):
        for place, pattern in enumerate(PATTERNS):
            results = (make_perplexity(30.0 + 10 * place - number), make_accuracy(0.6 - 0.05 * place + 0.01 * number))
            records.append(make_record(method, pattern, results, layers=layers(pattern)))
    return records


def measured(records: Sequence[RunRecord], published: Published) -> Sequence[Measurement]:
    """What the figures of these records draw."""
    return Data.of(records, published).measurements


def panel_of(records: Sequence[RunRecord], published: Published, kind: str = "perplexity") -> Panel:
    """The only panel of a kind of measurement."""
    (found,) = (each for each in measured(records, published) if each.kind == kind)
    (panel,) = found.panels.values()
    return panel


def looks_of(panel: Panel) -> dict[str, Any]:
    """Styles for all that is drawn in a panel."""
    return styles(list(dict.fromkeys(point.label for point in panel.drawn)))


def parts_of(panel: Panel, across: Across) -> list[dict[str, Any]]:
    """The specification of a panel's curves: lines first, then the places of patterns, whichever there are."""
    spec = Picture("curves", curve_panel(panel, looks_of(panel), across)).spec()
    for part in spec["hconcat"]:
        part["rows"] = {layer["mark"]["type"]: spec["datasets"][layer["data"]["name"]] for layer in part["layer"]}
    return list(spec["hconcat"])


def points_of(part: dict[str, Any], label: str, across: str) -> list[tuple[Any, float]]:
    """What is drawn of one series."""
    return [(row[across], row["value"]) for row in part["rows"]["point"] if row["label"] == label]


def test_curves_draw_the_frame(sweep: list[RunRecord], published: Published) -> None:
    """Every perplexity of the frame is a point: unstructured at its sparsity, N:M in the place of its pattern."""
    frame = to_frame(sweep)
    perplexities = frame[frame["metric"] == "perplexity"]
    left, right = parts_of(panel_of(sweep, published), SPARSITY)
    for method in ("magnitude", "wanda"):
        rows = perplexities[perplexities["method"] == method]
        plain = rows[rows["pattern"] == "unstructured"].sort_values("sparsity")
        assert points_of(left, method, "x") == list(zip(100 * plain["sparsity"], plain["value"], strict=True))
        named = rows.set_index("pattern")["value"]
        assert dict(points_of(right, method, "place")) == {"4:8": named["4:8"], "2:4": named["2:4"]}
    assert [row["value"] for row in left["rows"]["rule"] if row["label"] == "dense"] == []  # its rows are of their own
    assert [row["value"] for row in left["rows"]["rect"]] == [20.0]
    assert right["layer"][-1]["encoding"]["x"]["sort"] == ["4:8", "2:4"]
    assert left["layer"][0]["encoding"]["y"]["scale"] == right["layer"][0]["encoding"]["y"]["scale"]


def test_accuracy_is_in_percent_over_compression(sweep: list[RunRecord], published: Published) -> None:
    """Accuracies come as fractions and errors with them; half of the weights left is twofold compression."""
    panel = panel_of(sweep, published, "zero_shot")
    left, _ = parts_of(panel, COMPRESSION)
    assert points_of(left, "wanda", "x") == [(2.0, pytest.approx(61.0)), (pytest.approx(10 / 3), pytest.approx(56.0))]
    assert [point.error for point in panel.points if point.label == "wanda"] == [pytest.approx(1.0)] * 4
    assert panel.dense is not None
    assert (panel.dense.value, panel.dense.error) == (pytest.approx(70.0), pytest.approx(1.0))


def test_two_protocols_never_share_a_figure(published: Published) -> None:
    """Another window length, a subset, or other data under the same key: a figure each, named by its protocol."""
    results = [make_perplexity(20.0), make_perplexity(25.0, seq_len=512), make_perplexity(30.0, max_windows=64)]
    results += [make_accuracy(0.5), make_accuracy(0.5, limit=20)]
    records = [make_record("wanda", pattern, tuple(results)) for pattern in PATTERNS]
    other = replace(make_perplexity(22.0), data_fingerprint="sha256:other")
    records.append(make_record("wanda", Unstructured(0.3), (other,)))
    found = measured(records, published)
    assert len({each.key for each in found}) == len(found) == 6
    titles = {each.title for each in found}
    assert "perplexity on wikitext2, 512-token windows, all of n = 166 windows" in titles
    assert "perplexity on wikitext2, 2048-token windows, first 64 of 334 windows" in titles
    assert "boolq, zero-shot accuracy, first 20 of 3270 questions" in titles
    for each in found:
        assert {panel.metric for panel in each.panels.values()} <= {"perplexity", "acc"}
    names = [each.name for each in pictures(records, published) if isinstance(each, Picture)]
    assert len(set(names)) == len(names)


def test_seeds_are_averaged_and_settings_are_not(published: Published) -> None:
    """Jobs that differ in the seed are one point with a standard deviation; other parameters make another line."""
    records = [make_record("wanda", results=(make_perplexity(value),), seed=n) for n, value in enumerate((10.0, 14.0))]
    records.append(make_record("wanda", results=(make_perplexity(20.0),), params={"block": 128}))
    panel = panel_of(records, published)
    points = {point.label: (point.value, point.error) for point in panel.points}
    assert points == {"wanda": (12.0, pytest.approx(math.sqrt(8))), "wanda, block=128": (20.0, None)}


def test_many_settings_are_reduced_in_the_open(published: Published) -> None:
    """With too many lines every method keeps one, and the figure says how many it leaves to the table."""
    records = [
        make_record(method, results=(make_perplexity(10.0 + block),), params={"block": block})
        for method in ("wanda", "sparsegpt")
        for block in range(9)
    ]
    panel = panel_of(records, published)
    assert [point.method for point in panel.points] == ["sparsegpt", "wanda"]
    assert panel.notes == ("opt-125m: 16 further settings of the methods are in the table only",)


def test_what_is_not_finite_is_said(published: Published) -> None:
    """An infinite or missing perplexity has no place in an axis, and the figure says how many there are."""
    values = (10.0, math.inf, None)
    records = [make_record("wanda", p, (make_perplexity(v),)) for p, v in zip(PATTERNS, values, strict=False)]
    panel = panel_of(records, published)
    assert [point.value for point in panel.drawn] == [10.0]
    assert panel.notes == ("opt-125m: 2 of 3 values are infinite or missing and are not drawn",)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1), st.booleans(), st.booleans())
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]], less: bool, higher: bool) -> None:
    """By the definition: no other point is at least as good in both coordinates and better in one."""
    sign = (1 if less else -1, -1 if higher else 1)
    bad = [(sign[0] * x, sign[1] * y) for x, y in points]
    best = {p for p in bad if not any(o != p and o[0] <= p[0] and o[1] <= p[1] for o in bad)}
    kept = front([x for x, _ in points], [y for _, y in points], less=less, higher=higher)
    assert [bad[n] for n in kept] == sorted(best)


def test_sizes_count_what_is_left(sweep: list[RunRecord], published: Published) -> None:
    """The dense model has all prunable weights, 2:4 half of them, in millions."""
    values = sizes(Data.of(sweep, published)).values
    weights = 3 * (4 * 8 + 4 * 24) / 1e6
    by_method = {record.job["pattern"]: values[record.job_id] for record in sweep}
    assert by_method["dense"] == weights
    assert by_method["2:4"] == pytest.approx(weights / 2)


def test_speed_is_drawn_only_where_it_was_measured(sweep: list[RunRecord], published: Published) -> None:
    """Without a measured speed a line says so; with one there is a figure."""
    missing = [each for each in pictures(sweep, published) if each.name == "pareto-speed"]
    assert missing == [NotDrawn("pareto-speed", "not measured: no record has a measured speed")]
    speed = EvalResult("efficiency:cpu:v1", "perplexity", "cpu", "latency", 3.0, None, 5, False, None, "x", "f")
    timed = [replace(record, results=(*record.results, speed)) for record in sweep]
    names = [each.name for each in pictures(timed, published)]
    assert any(name.startswith("pareto-latency") for name in names)
    assert "pareto-speed" not in names


def test_heat_maps_hold_every_value(sweep: list[RunRecord], published: Published) -> None:
    """A field a method and pattern, with the number written into it."""
    panel = panel_of(sweep, published)
    spec = Picture("heat", heat_panel(panel, looks_of(panel))).spec()
    (rows,) = spec["datasets"].values()
    assert [row["value"] for row in rows] == [30.0, 40.0, 50.0, 60.0, 29.0, 39.0, 49.0, 59.0]
    assert [row["written"] for row in rows] == [f"{row['value']:.2f}" for row in rows]
    assert spec["layer"][0]["encoding"]["x"]["sort"] == ["50%", "70%", "4:8", "2:4"]
    assert len(panel.points) == 8


def test_layers_are_averaged_by_block(sweep: list[RunRecord], published: Published) -> None:
    """Of the pattern that most methods have; zeros in percent, errors as recorded."""
    (selection,) = select(Data.of(sweep, published))
    assert selection.labels == {"magnitude", "wanda"}
    for label in selection.labels:
        rows = [row for row in selection.rows if row["label"] == label]
        assert [row["block"] for row in rows] == [0, 1, 2]
        assert [row["error"] for row in rows] == pytest.approx([0.1, 0.2, 0.3])
        assert len({row["zeros"] for row in rows}) == 1


def test_published_numbers_meet_measured_ones(published: Published) -> None:
    """A pair where the setting is that of a paper; none where the windows are a subset or the computation differs."""
    record = make_record("magnitude", Unstructured(0.5), (make_perplexity(190.0),))
    found, _ = pairs(Data.of([record], published))
    ((pair,),) = found.values()
    assert (pair["label"], pair["measured"]) == ("magnitude", 190.0)
    subset = make_record("magnitude", Unstructured(0.5), (make_perplexity(190.0, max_windows=64),))
    other = make_record("dsnot", Unstructured(0.6), (make_perplexity(10.0),), model="llama-7b")
    assert pairs(Data.of([subset, other], published))[0] == {}


def test_time_bars_add_up(sweep: list[RunRecord], published: Published) -> None:
    """Phases and what no phase claims are the total, averaged over a method's jobs."""
    data = Data.of(sweep, published)
    bars = time_bars(data)
    assert [bar[0]["bar"] for bar in bars] == [
        "opt-125m: dense (n = 1)",
        "opt-125m: magnitude (n = 4)",
        "opt-125m: wanda (n = 4)",
    ]
    for bar in bars:
        assert {row["phase"]: row["seconds"] for row in bar} == pytest.approx({"load": 1.0, "prune": 2.0, "other": 0.0})
    (picture,) = FIGURES.get("time")(data)
    assert isinstance(picture, Picture)
    (rows,) = picture.spec()["datasets"].values()
    shown = [
        (row["phase"], row["name"], row["to"] - row["from"], row["total"]) for row in rows if "dense" in row["bar"]
    ]
    assert [share for _, _, share, _ in shown] == pytest.approx([100 / 3, 200 / 3, 0.0])
    assert [(phase, name, total) for phase, name, _, total in shown] == [
        ("load", "load", ""),
        ("prune", "prune", ""),
        ("other", "", "3 s"),
    ]


def test_all_figures_are_written_and_again_the_same(
    sweep: list[RunRecord], published: Published, tmp_path: Path
) -> None:
    """PNG and PDF of each, without a date or a version, and a line for every kind that is not drawn."""
    outcomes = list(draw_all(sweep, published, tmp_path / "a"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    figures = [each for each in outcomes if isinstance(each, Picture)]
    assert files.keys() == {f"{each.name}.{ending}" for each in figures for ending in ("png", "pdf")}
    for name, content in files.items():
        assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[name.rsplit(".", 1)[1]])
    kinds = {each.name.split("-")[0] for each in figures}
    assert kinds == {"perplexity", "accuracy", "pareto", "heatmap", "layers", "published", "time"}
    assert [each.name for each in outcomes if isinstance(each, NotDrawn)] == ["pareto-speed"]
    assert [each.name for each in draw_all(sweep, published, tmp_path / "b")] == [each.name for each in outcomes]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}


@pytest.mark.parametrize("name", FIGURES.all())
def test_every_figure_is_valid_and_its_rows_name_their_jobs(
    name: str, sweep: list[RunRecord], published: Published
) -> None:
    """By the schema of Vega-Lite; the page hides rows by the jobs they name."""
    ids = {record.job_id for record in sweep}
    for found in FIGURES.get(name)(Data.of(sweep, published)):
        if isinstance(found, NotDrawn):
            continue
        spec = found.spec()
        altair.Chart.from_dict(spec, validate=True)
        rows = [row for rows in spec["datasets"].values() for row in rows]
        named = [job for row in rows for job in row.get("jobs", [row.get("job")]) if job]
        assert named
        assert set(named) <= ids


def test_records_that_allow_nothing_say_why(published: Published, tmp_path: Path) -> None:
    """A dense job with an accuracy: every kind but the times has its line; a file in the way is the user's mistake."""
    outcomes = list(draw_all([make_record("dense", None)], published, tmp_path))
    why = {each.name: each.why for each in outcomes if isinstance(each, NotDrawn)}
    assert set(why) == {"perplexity", "accuracy", "pareto-size", "pareto-speed", "heatmap", "layers", "published"}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write figures into the folder"):
        list(draw_all([], published, tmp_path / "file"))


def test_styles_tell_methods_apart_in_grey() -> None:
    """Of ten methods no two have the same marker or colour; of seventy no two the same marker and line."""
    ten = styles([f"method{n}" for n in range(10)]).values()
    assert len({style.marker for style in ten}) == len({style.color for style in ten}) == 10
    many = styles([f"method{n}" for n in range(70)]).values()
    assert len({(style.marker, style.dash) for style in many}) == 70


def test_what_is_drawn_has_colours_of_its_own(published: Published) -> None:
    """Settings that are left to the table take no colour from those that are drawn; the better come first."""
    records = [
        make_record(f"method{n}", pattern, (make_perplexity(20.0 - n + block),), params={"block": block})
        for n in range(10)
        for block in range(3)
        for pattern in (Unstructured(0.5), Unstructured(0.7))
    ]
    data = Data.of(records, published)
    (panel,) = data.measurements[0].panels.values()
    drawn = {point.label for point in panel.points}
    assert len(drawn) == len({data.styles[label].color for label in drawn}) == 10
    assert [label.split(",")[0] for label in data.styles][:2] == ["method9", "method8"]


def test_markers_of_a_legend_are_whole(sweep: list[RunRecord], published: Published) -> None:
    """A legend's entries have a colour and a marker; the dashes of lines would tear the marker's outline."""
    for name in ("perplexity", "layers"):
        (picture,) = FIGURES.get(name)(Data.of(sweep, published))
        assert isinstance(picture, Picture)
        legends = vl_convert.vegalite_to_vega(picture.spec())["legends"]
        assert [sorted(legend) for legend in legends] == [["encode", "fill", "shape", "stroke", "symbolType"]]


def test_a_destroyed_model_does_not_press_the_others_together(published: Published) -> None:
    """What is far beyond all others is drawn at the edge of the axis, counted in a note, and keeps its value."""
    values = {"magnitude": 1e8, "wanda": 40.0, "sparsegpt": 30.0}
    records = [make_record(method, results=(make_perplexity(value),)) for method, value in values.items()]
    panel = panel_of(records, published)
    assert panel.edge == FARTHEST * 30.0
    assert panel.notes == ("opt-125m: 1 values above 9,000 are drawn at it",)
    (left,) = parts_of(panel, SPARSITY)
    rows = {row["label"]: (row["value"], row["shown"]) for row in left["rows"]["point"]}
    assert rows == {"magnitude": (1e8, 9000.0), "wanda": (40.0, 40.0), "sparsegpt": (30.0, 30.0)}
    assert max(left["layer"][0]["encoding"]["y"]["scale"]["domain"]) < 20_000


def test_settings_that_only_methods_differ_in_are_said_once(published: Published) -> None:
    """A legend names what tells apart jobs of a method; another origin of inputs stands below the title."""
    records = [
        make_record(method, results=(make_perplexity(30.0),), calibration=replace(C4, propagation=how), seed=seed)
        for seed, (method, how) in enumerate((("obc", "dense"), ("wanda", "pruned"), ("sparsegpt", "pruned")))
    ]
    data = Data.of(records, published)
    assert sorted(data.labels.values()) == ["obc", "sparsegpt", "wanda"]
    assert data.notes == ["opt-125m: dense calibration: obc; sequential calibration: the others"]


@given(st.text())
def test_file_names_are_plain(text: str) -> None:
    """Any key makes a name that every file system takes."""
    name = file_name(text)
    assert name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
    assert not name.startswith(".")


def test_hostile_names_are_drawn_as_text(published: Published, tmp_path: Path) -> None:
    """Mathematics and control characters in a model's name neither fail nor do anything."""
    records = [make_record("wanda", p, (make_perplexity(9.0),), model="a$\\frac{b$\u202e") for p in PATTERNS]
    assert any(isinstance(each, Picture) for each in draw_all(records, published, tmp_path))


def test_a_label_has_one_style_in_all_figures(sweep: list[RunRecord], published: Published) -> None:
    """Styles are made once for all protocols; the dense model is black."""
    known = Data.of(sweep, published).styles
    assert list(known) == ["wanda", "magnitude", "dense"]
    found = set()
    for picture in pictures(sweep, published):
        if isinstance(picture, Picture):
            found |= {tuple(pair) for pair in colors(picture.spec())}
    assert found == {(label, style.color) for label, style in known.items()}


def colors(spec: Any) -> list[tuple[str, str]]:
    """Labels and their colours, wherever a chart tells series apart."""
    if isinstance(spec, list):
        return [pair for part in spec for pair in colors(part)]
    if not isinstance(spec, dict):
        return []
    color = spec.get("encoding", {}).get("color", {})
    own = zip(color["scale"]["domain"], color["scale"]["range"], strict=True) if color.get("field") == "label" else ()
    return [*own, *(pair for part in spec.values() for pair in colors(part))]


def test_a_dense_model_alone_makes_no_figure_and_no_error(published: Published) -> None:
    """Nor does one whose pruned rivals have no finite value under the protocol."""
    dense = make_record("dense", None, (make_perplexity(20.0),))
    for others in ([], [make_record("wanda", results=(make_perplexity(math.inf),))]):
        (only,) = measured([dense, *others], published)
        panel = only.panels["perplexity", "opt-125m"]
        assert panel.points == ()
        assert panel.dense is not None
        found = list(pictures([dense, *others], published))
        assert "perplexity" in {each.name for each in found if isinstance(each, NotDrawn)}
        assert all(each.spec() for each in found if isinstance(each, Picture))


def test_every_ratio_of_a_structured_pattern_has_a_place(published: Published) -> None:
    """20 % and 50 % of the channels are two columns, not one whose last value wins."""
    records = [
        make_record("channel-magnitude", Channels(share), (make_perplexity(100 * share),)) for share in (0.2, 0.5)
    ]
    panel = panel_of(records, published)
    known = {point.place: point.value for point in panel.points}
    assert known == {"channel 20%": pytest.approx(20.0), "channel 50%": pytest.approx(50.0)}
    (only,) = parts_of(panel, SPARSITY)
    assert only["layer"][-1]["encoding"]["x"]["sort"] == ["channel 20%", "channel 50%"]


def test_names_of_patterns_have_room(published: Published) -> None:
    """`channel 25%` stands in two lines, each narrower than its place, beside the lines and in the heat map."""
    patterns = (Channels(0.25), Channels(0.5), Structured(0.5))
    records = [make_record("channel-magnitude", pattern, (make_perplexity(30.0),)) for pattern in patterns]
    panel = panel_of(records, published)
    (only,) = parts_of(panel, SPARSITY)
    heat = heat_panel(panel, looks_of(panel))
    widest = max(len(word) for place in panel.places for word in place.split(" "))
    for place_width, layer in ((only["width"] / 3, only["layer"][-1]), (heat["width"]["step"], heat["layer"][0])):
        assert layer["encoding"]["x"]["axis"]["labelExpr"] == "split(datum.label, ' ')"
        assert widest * LETTER_WIDTH < place_width


def test_long_settings_that_differ_at_their_start_are_two_series(published: Published) -> None:
    """A label is cut only where what is left still tells settings apart."""
    records = [
        make_record("wanda", results=(make_perplexity(value),), params={"a_first": value, "z": "x" * 60})
        for value in (1.0, 2.0)
    ]
    panel = panel_of(records, published)
    assert len({point.label for point in panel.points}) == 2


def test_images_are_images(published: Published) -> None:
    """The accuracy on an image set is no zero-shot accuracy, and it is drawn like any other."""
    digits = replace(make_accuracy(0.9), kind="accuracy", task="digits", protocol="accuracy:digits:v1", num_samples=360)
    records = [
        make_record("dense", None, (digits,)),
        make_record("obc", results=(digits,), layers=layers(Unstructured(0.5))),
    ]
    (only,) = measured(records, published)
    assert only.title == "digits, accuracy, all of n = 360 images"
    names = [each.name for each in pictures(records, published) if isinstance(each, Picture)]
    assert any(name.startswith("accuracy") for name in names)
    assert any(name.startswith("pareto-size") for name in names)


def test_long_names_do_not_squeeze_the_panels(published: Published) -> None:
    """The figure grows by what the legend needs; the axes keep their width."""
    sheets, areas = [], []
    for name in ("short", "a_long_name_of_a_hyperparameter_that_differs"):
        records = [
            make_record("wanda", Unstructured(share), (make_perplexity(10.0),), params={name: value})
            for value in (1.0, 2.0)
            for share in (0.5, 0.7)
        ]
        (picture,) = FIGURES.get("perplexity")(Data.of(records, published))
        assert isinstance(picture, Picture)
        svg = vl_convert.vegalite_to_svg(picture.spec())
        sheets.append(float(re.search(r'<svg[^>]* width="([\d.]+)"', svg)[1]))  # type: ignore[index]
        areas.append(re.findall(r'class="background"[^>]* d="M[^"]*?h([\d.]+)v', svg))
    assert areas[0].count(str(PANEL_WIDTH)) == areas[1].count(str(PANEL_WIDTH)) > 0
    assert sheets[1] > sheets[0] + 150

"""Figures draw the numbers of the frame, one protocol each, and say what they do not draw."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.patterns import Channels, Pattern, SemiStructured, Unstructured
from harness.record import EvalResult, LayerReport, RunRecord
from harness.reporting.figures.agreement import pairs
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture, draw_all, pictures
from harness.reporting.figures.costs import time_bars
from harness.reporting.figures.data import Data
from harness.reporting.figures.ends import LONGEST, short_names
from harness.reporting.figures.layers import select
from harness.reporting.figures.look import STYLES, Scale, file_name
from harness.reporting.figures.pareto import front, sizes
from harness.reporting.figures.places import side_by_side, spread
from harness.reporting.figures.points import CONTEXT_FREE, MOST_SERIES, Panel
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


def panel_of(records: Sequence[RunRecord], published: Published, kind: str = "perplexity") -> Panel:
    """The only panel of a kind of measurement."""
    (found,) = (each for each in Data.of(records, published).panels if each.kind == kind)
    return found


def drawn(name: str, records: Sequence[RunRecord], published: Published) -> dict[str, Any]:
    """The specification of the only figure of a kind."""
    (picture,) = FIGURES.get(name)(Data.of(records, published))
    assert isinstance(picture, Picture)
    return picture.spec()


def parts_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a sheet."""
    return [panel for row in spec["vconcat"] for panel in row["hconcat"]]


def points_of(spec: dict[str, Any], part: dict[str, Any], label: str) -> dict[str, float]:
    """What is marked of one series, by its place."""
    marks = [layer for layer in part["layer"] if layer["mark"]["type"] == "point"]
    rows = [row for layer in marks for row in spec["datasets"][layer["data"]["name"]] if "value" in row]
    return {row["place"]: row["value"] for row in rows if row["label"] == label}


def said(spec: dict[str, Any]) -> str:
    """The whole caption."""
    return " ".join(spec["title"]["subtitle"])


def test_lines_draw_the_frame(sweep: list[RunRecord], published: Published) -> None:
    """Every perplexity of the frame is a marker: unstructured ones in one panel, N:M in another, on one scale."""
    frame = to_frame(sweep)
    frame = frame[frame["metric"] == "perplexity"]
    spec = drawn("perplexity", sweep, published)
    left, right = parts_of(spec)
    for method in ("magnitude", "wanda"):
        rows = frame[frame["method"] == method]
        plain = rows[rows["pattern"] == "unstructured"]
        known = {f"{100 * row.sparsity:g}%": row.value for row in plain.itertuples()}
        assert points_of(spec, left, method) == known
        assert points_of(spec, right, method) == dict(zip(("4:8", "2:4"), rows["value"].tail(2), strict=True))
    assert [part["title"].split(":")[0] for part in (left, right)] == ["unstructured", "N"]
    scales = {str(layer["encoding"]["y"]["scale"]) for part in (left, right) for layer in part["layer"]}
    assert len(scales) == 1
    assert said(spec).startswith("opt-125m, 9 jobs: perplexity on wikitext2, 2048-token windows")


def test_the_dense_model_is_a_band_with_its_error(sweep: list[RunRecord], published: Published) -> None:
    """Accuracies come as fractions and errors with them; the band spans both sides of the dense accuracy."""
    spec = drawn("accuracy", sweep, published)
    for part in parts_of(spec):
        (band,) = (layer for layer in part["layer"] if layer["mark"]["type"] == "rect")
        (row,) = spec["datasets"][band["data"]["name"]]
        assert (row["low"], row["value"], row["high"]) == pytest.approx((69.0, 70.0, 71.0))
    assert points_of(spec, parts_of(spec)[0], "wanda") == {"50%": pytest.approx(61.0), "70%": pytest.approx(56.0)}


def test_two_protocols_never_share_a_figure(published: Published) -> None:
    """Another window length, a subset, or other data under the same key: a figure each, named by its protocol."""
    results = [make_perplexity(20.0), make_perplexity(25.0, seq_len=512), make_perplexity(30.0, max_windows=64)]
    results += [make_accuracy(0.5), make_accuracy(0.5, limit=20)]
    records = [make_record("wanda", pattern, tuple(results)) for pattern in PATTERNS]
    other = replace(make_perplexity(22.0), data_fingerprint="sha256:other")
    records.append(make_record("wanda", Unstructured(0.3), (other,)))
    found = Data.of(records, published).panels
    assert len({each.key for each in found}) == len(found) == 6
    titles = {each.title for each in found}
    assert "perplexity on wikitext2, 512-token windows, all of n = 166 windows" in titles
    assert "perplexity on wikitext2, 2048-token windows, first 64 of 334 windows" in titles
    assert "boolq, zero-shot accuracy, first 20 of 3270 questions" in titles
    names = [each.name for each in pictures(records, published) if isinstance(each, Picture)]
    assert len(set(names)) == len(names)


def test_seeds_are_averaged_and_settings_are_not(published: Published) -> None:
    """Jobs that differ in the seed are one point with a standard deviation; other parameters make another line."""
    records = [make_record("wanda", results=(make_perplexity(value),), seed=n) for n, value in enumerate((10.0, 14.0))]
    records.append(make_record("wanda", results=(make_perplexity(20.0),), params={"block": 128}))
    panel = panel_of(records, published)
    points = {point.label: (point.value, point.error) for point in panel.points}
    assert points == {"wanda": (12.0, pytest.approx(math.sqrt(8))), "wanda, block=128": (20.0, None)}


def test_what_is_not_finite_is_said(published: Published) -> None:
    """An infinite or missing perplexity has no place in an axis, and the figure says how many there are."""
    values = (10.0, math.inf, None)
    records = [make_record("wanda", p, (make_perplexity(v),)) for p, v in zip(PATTERNS, values, strict=False)]
    panel = panel_of(records, published)
    assert [point.value for point in panel.all] == [10.0]
    assert panel.lost == 2
    assert "2 values are infinite or missing" in said(drawn("perplexity", records, published))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1), st.booleans())
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]], higher: bool) -> None:
    """By the definition: no other point is at least as good in both coordinates and better in one."""
    bad = [(x, -y if higher else y) for x, y in points]
    best = {p for p in bad if not any(o != p and o[0] <= p[0] and o[1] <= p[1] for o in bad)}
    kept = front([x for x, _ in points], [y for _, y in points], higher=higher)
    assert [bad[n] for n in kept] == sorted(best)


def test_sizes_count_what_is_left(sweep: list[RunRecord], published: Published) -> None:
    """The dense model has all prunable weights, 2:4 half of them, in millions."""
    values = sizes(Data.of(sweep, published))
    weights = 3 * (4 * 8 + 4 * 24) / 1e6
    by_method = {record.job["pattern"]: values[record.job_id] for record in sweep}
    assert by_method["dense"] == weights
    assert by_method["2:4"] == pytest.approx(weights / 2)


def test_layers_are_averaged_by_block(sweep: list[RunRecord], published: Published) -> None:
    """Of the pattern that most methods have; zeros in percent, errors as recorded."""
    (selection,) = select(Data.of(sweep, published))
    assert {*selection.labels} == {"magnitude", "wanda"}
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
    assert [bar[0]["bar"] for bar in bars] == ["dense, 1 × 3", "magnitude, 4 × 3", "wanda, 4 × 3"]
    for bar in bars:
        assert {row["phase"]: row["seconds"] for row in bar} == pytest.approx({"load": 1.0, "prune": 2.0, "other": 0.0})
    spec = drawn("time", sweep, published)
    lengths = {
        panel["title"]["text"]: panel["layer"][0]["encoding"]["x"]["scale"]["domain"][1] / panel["width"]
        for panel in spec["hconcat"]
    }
    assert list(lengths) == ["load", "prune"]
    assert lengths["load"] == pytest.approx(lengths["prune"])
    assert said(spec).startswith("opt-125m, 9 jobs")
    assert "below 3% of every job: other" in said(spec)


def test_all_figures_are_written_and_again_the_same(
    sweep: list[RunRecord], published: Published, tmp_path: Path
) -> None:
    """PNG and PDF of each with its fonts, without a date or a version; a line for every kind that is not drawn."""
    outcomes = list(draw_all(sweep, published, tmp_path / "a"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    figures = [each for each in outcomes if isinstance(each, Picture)]
    assert files.keys() == {f"{each.name}.{ending}" for each in figures for ending in ("png", "pdf")}
    for name, content in files.items():
        assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[name.rsplit(".", 1)[1]])
        assert name.endswith(".png") or b"/FontFile" in content, "a PDF whose fonts are not embedded"
    kinds = {each.name.split("-")[0] for each in figures}
    assert kinds == {"perplexity", "accuracy", "pareto", "layers", "published", "time", "predictors"}
    assert [each.name for each in outcomes if isinstance(each, NotDrawn)] == ["allocation", "pareto-speed"]
    assert [each.name for each in draw_all(sweep, published, tmp_path / "b")] == [each.name for each in outcomes]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}


@pytest.mark.parametrize("name", FIGURES.all())
def test_every_figure_is_valid_and_its_rows_name_their_jobs(
    name: str, sweep: list[RunRecord], published: Published
) -> None:
    """By the schema of Vega-Lite; the page hides rows by the jobs they name."""
    speed = ("efficiency:speed:v1", "efficiency", "speed", "prefill_speedup", 1.5, 0.1, 7, True, None, "cpu", "cpu")
    results = (make_perplexity(40.0), EvalResult(*speed))
    allocated = [*sweep, make_record(results=results, allocation="owl")]
    found = next(FIGURES.get(name)(Data.of(allocated, published)))
    assert isinstance(found, Picture)
    spec = found.spec()
    altair.Chart.from_dict(spec, validate=True)
    rows = [row for rows in spec["datasets"].values() for row in rows]
    named = [job for row in rows for job in row.get("jobs", [row.get("job")]) if job]
    assert {*named} <= {record.job_id for record in allocated}
    assert named


def test_records_that_allow_nothing_say_why(published: Published, tmp_path: Path) -> None:
    """A dense job with an accuracy: every kind but the times has its line; a file in the way is the user's mistake."""
    outcomes = list(draw_all([make_record("dense", None)], published, tmp_path))
    why = {each.name: each.why for each in outcomes if isinstance(each, NotDrawn)}
    usual = {"perplexity", "accuracy", "allocation", "pareto-size", "pareto-speed", "layers", "published"}
    assert set(why) == {*usual, "predictors"}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write figures into the folder"):
        list(draw_all([], published, tmp_path / "file"))


def test_a_destroyed_model_does_not_press_the_others_together(published: Published) -> None:
    """The axis ends where a model knows no more than frequencies; what lies beyond is counted, with its value."""
    values = {"magnitude": 1e8, "wanda": 40.0, "sparsegpt": 30.0}
    records = [make_record(method, results=(make_perplexity(value),)) for method, value in values.items()]
    assert panel_of(records, published).edge == CONTEXT_FREE
    spec = drawn("perplexity", records, published)
    (part,) = parts_of(spec)
    assert points_of(spec, part, "wanda") == {"50%": 40.0}
    assert points_of(spec, part, "magnitude") == {}
    counts = [row for rows in spec["datasets"].values() for row in rows if "count" in row]
    assert [(row["count"], row["who"], row["jobs"]) for row in counts] == [
        ("▲ 1", "magnitude 1.00e8", [records[0].job_id])
    ]
    assert max(part["layer"][0]["encoding"]["y"]["scale"]["domain"]) < 1.2 * CONTEXT_FREE
    assert "▲ n: n values beyond 1,000" in said(spec)


def test_a_panel_of_destroyed_models_is_said_instead(published: Published) -> None:
    """A pattern of which nothing is on the axis has no panel; the caption has its numbers."""
    records = [make_record(results=(make_perplexity(30.0),))]
    records.append(make_record("channel-magnitude", Channels(0.5), (make_perplexity(1e6),)))
    spec = drawn("perplexity", records, published)
    assert len(parts_of(spec)) == 1
    assert "channel-magnitude channel 50% 1.00e6" in said(spec)


def test_at_most_eight_are_named_the_winners_first(published: Published) -> None:
    """Whatever is best at some sparsity is named, then one setting of each method; the rest is grey and counted."""
    records = [
        make_record(f"method{n}", pattern, (make_perplexity(20.0 + n - 30 * (n == 9 and block == 2) + block),),
                    params={"block": block})
        for n in range(10)
        for block in range(3)
        for pattern in (Unstructured(0.5), Unstructured(0.7))
    ]  # fmt: skip
    data = Data.of(records, published)
    (panel,) = data.panels
    chosen = panel.chosen(data.order, data.usual)
    assert len(chosen) == MOST_SERIES == len(data.looks(chosen))
    assert chosen[0] == "method9, block=2"
    assert len({label.split(",")[0] for label in chosen}) == MOST_SERIES
    spec = drawn("perplexity", records, published)
    assert "grey: method" in said(spec)
    assert "in all 16 settings" in said(spec)
    assert "6 further settings are in the table only" in said(spec)


def test_a_label_keeps_its_style_where_it_can(published: Published) -> None:
    """Two figures that name the same two series give them the same looks, whatever else one of them names."""
    records = [make_record(f"m{n}", results=(make_perplexity(20.0 + n),)) for n in range(12)]
    data = Data.of(records, published)
    both = data.looks(data.order[:8]), data.looks(data.order[6:8])
    assert all(both[0][label] == style for label, style in both[1].items())
    crowded = data.looks([data.order[0], data.order[8]])
    assert len({*crowded.values()}) == 2
    assert {*crowded.values()} <= {*STYLES}


def test_allocations_are_compared_within_a_method(published: Published) -> None:
    """A panel a method that has two at one sparsity; another method's allocation is none of its rivals."""
    records = [
        make_record(method, results=(make_perplexity(20.0 + n),), allocation=allocation)
        for n, (method, allocation) in enumerate((("wanda", "owl"), ("wanda", "uniform"), ("sparsegpt", "owl")))
    ]
    spec = drawn("allocation", records, published)
    (part,) = parts_of(spec)
    assert part["title"].startswith("wanda")
    assert [points_of(spec, part, label) for label in ("owl", "uniform")] == [{"50%": 20.0}, {"50%": 21.0}]
    assert "2 jobs" in said(spec)
    assert isinstance(next(FIGURES.get("allocation")(Data.of(records[1:], published))), NotDrawn)


def test_settings_that_only_methods_differ_in_are_said_once(published: Published) -> None:
    """A legend names what tells apart jobs of a method; another origin of inputs stands below the title."""
    records = [
        make_record(method, results=(make_perplexity(30.0),), calibration=replace(C4, propagation=how), seed=seed)
        for seed, (method, how) in enumerate((("obc", "dense"), ("wanda", "pruned"), ("sparsegpt", "pruned")))
    ]
    data = Data.of(records, published)
    assert sorted(data.labels.values()) == ["obc", "sparsegpt", "wanda"]
    assert data.notes == {"opt-125m": ["dense calibration: obc; sequential calibration: the others"]}


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


def test_a_dense_model_alone_makes_no_figure_and_no_error(published: Published) -> None:
    """Nor does one whose pruned rivals have no finite value under the protocol."""
    dense = make_record("dense", None, (make_perplexity(20.0),))
    for others in ([], [make_record("wanda", results=(make_perplexity(math.inf),))]):
        (panel,) = Data.of([dense, *others], published).panels
        assert panel.points == ()
        assert panel.dense is not None
        found = list(pictures([dense, *others], published))
        assert "perplexity" in {each.name for each in found if isinstance(each, NotDrawn)}
        assert all(each.spec() for each in found if isinstance(each, Picture))


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
    (only,) = Data.of(records, published).panels
    assert only.title == "digits, accuracy, all of n = 360 images"
    names = [each.name for each in pictures(records, published) if isinstance(each, Picture)]
    assert any(name.startswith("accuracy") for name in names)
    assert any(name.startswith("pareto-size") for name in names)


@given(st.lists(st.floats(-50, 350), min_size=1, max_size=20))
def test_names_are_spread_in_order_and_inside(wanted: list[float]) -> None:
    """A line's height apart, in the order of what they name, none outside where there is room for all."""
    found = spread(wanted, 13, 0, 300)
    ordered = [found[n] for n in sorted(range(len(wanted)), key=lambda n: wanted[n])]
    assert all(later - one >= 13 - 1e-6 for one, later in pairwise(ordered))
    assert ordered[0] >= -1e-6
    assert ordered[-1] <= 300 + 1e-6


def test_a_lone_name_stays_where_it_belongs() -> None:
    """Only names that would cover each other move, by as little as they can."""
    assert spread([100.0, 50.0, 52.0], 13, 0, 300) == pytest.approx([100.0, 44.5, 57.5])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
def test_markers_stand_side_by_side(points: list[tuple[int, int]]) -> None:
    """None covers another, and none moves up or down: its value is read there."""
    moved = [(x + move, y) for (x, y), move in zip(points, side_by_side(points, 9), strict=True)]
    pairs = [(one, other) for place, one in enumerate(moved) for other in moved[:place]]
    assert all(max(abs(a - c), abs(b - d)) >= 9 - 1e-5 for (a, b), (c, d) in pairs)


@given(st.floats(0.1, 1e6), st.floats(1.1, 1e4), st.booleans())
def test_a_scale_is_its_own_inverse(low: float, factor: float, log: bool) -> None:
    """A pixel's value has that pixel, the ends lie inside by the margin, and ticks lie between them."""
    scale = Scale.of([low, low * factor], 300, log=log)
    assert [scale.at(low), scale.at(low * factor)] == pytest.approx([8, 292], abs=1e-3)
    assert scale.at(scale.back(123.0)) == pytest.approx(123.0, abs=1e-3)
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks or ())


def test_names_are_short_and_apart() -> None:
    """A method alone in a figure is called by its name; with its setting where several have it."""
    labels = ("wanda", "dsnot, accept=better_rows, initial=wanda", "sparsegpt", "sparsegpt, owl")
    assert dict(short_names(labels)) == {
        "wanda": "wanda",
        "dsnot, accept=better_rows, initial=wanda": "dsnot",
        "sparsegpt": "sparsegpt",
        "sparsegpt, owl": "sparsegpt, owl",
    }
    long = [f"magnitude, granularity={'x' * 40}{n}" for n in range(2)]
    assert len({*short_names(long).values()}) == 2
    assert max(map(len, short_names(["a, b", f"a, {'c' * 40}"]).values())) <= LONGEST

"""Tables as text: every format holds every cell, and hostile strings stay strings."""

import csv
import html
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.record import LayerReport
from harness.reporting.formats.base import write
from harness.reporting.layout import Cell, Column, Table, clean, number, percent, signed
from harness.reporting.papers import paper_table
from harness.reporting.show import render_record
from harness.reporting.tables import comparison
from tests.reporting.conftest import printed

HOSTILE = st.one_of(st.text(max_size=30), st.text(alphabet="|\\_*`[]<>&%$#{}~^\"'\n\r\t=+-@\x1b\u202e", max_size=20))


def table_of(title: str, header: str, label: str, note: str) -> Table:
    """A label column with a given text, a number and a dash."""
    columns = (Column(header or "x"), Column("ppl", "k", "ppl", False))
    rows = ((Cell(label), Cell(measured=1.5)), (Cell("plain"), Cell()))
    return Table(title, columns, rows, (note,))


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_markdown_keeps_its_shape(title: str, header: str, label: str, note: str) -> None:
    """No text opens a cell, a line, a tag or a link: each row has exactly its unescaped bars."""
    lines = write(table_of(title, header, label, note), "md").split("\n")
    assert len(lines) == 9
    for line in lines[2:6]:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
    assert not re.search(r"<|[\x00-\x1f\x7f-\x9f]", "".join(lines))


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_csv_reads_back(title: str, header: str, label: str, note: str) -> None:
    """A reader gets the texts back; nothing begins a spreadsheet formula."""
    rows = list(csv.reader(io.StringIO(write(table_of(title, header, label, note), "csv"))))
    assert [len(row) for row in rows] == [5, 5, 5]
    assert rows[1][0].removeprefix("'") == clean(label).removeprefix("'")
    assert rows[1][1:] == ["1.5", "", "", ""]
    assert rows[2] == ["plain", "", "", "", ""]
    assert not any(row[0].startswith(("=", "+", "-", "@")) for row in rows)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_latex_keeps_its_shape(title: str, header: str, label: str, note: str) -> None:
    """Braces balance, a row has one `&` a gap, and no text starts a comment, a command or mathematics."""
    text = write(table_of(title, header, label, note), "latex")
    lines = text.rstrip("\n").split("\n")
    rows = [line for line in lines if line.endswith(r" \\")]
    assert (len(lines), len(rows)) in ((15, 3), (16, 4))  # a header may take two lines
    body = "\n".join(lines[1:])
    bare = body.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[%#~^]", body)
    for line in rows:
        assert len(re.findall(r"(?<!\\)&", line)) == 1
        assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_html_keeps_its_shape(title: str, header: str, label: str, note: str) -> None:
    """No text opens a tag or an entity: the tags are the table's own, and the texts come back."""
    text = write(table_of(title, header, label, note), "html")
    assert len(re.findall(r"<[^>]*>", text)) == text.count("<") == text.count(">") == 34
    cells = [html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", text)]
    assert cells == [clean(header or "x"), "ppl ↓", clean(label) or "–", "1.50", "plain", "–"]
    assert clean(note) in html.unescape(text)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_json_holds_the_texts_themselves(title: str, header: str, label: str, note: str) -> None:
    """JSON needs no cleaning: it gives back exactly what went in."""
    document = json.loads(write(table_of(title, header, label, note), "json"))
    assert document["title"] == title
    assert document["rows"][0][0]["text"] == label
    assert document["rows"][0][1]["measured"] == 1.5
    assert document["rows"][1][1]["measured"] is None
    assert document["footnotes"] == [note]


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_the_terminal_gets_no_control_characters(title: str, header: str, label: str, note: str) -> None:
    """An escape sequence in a record cannot colour, move or retitle a terminal; markup is not interpreted."""
    text = write(table_of(title, header, label, note), "terminal")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "1.50" in text


def test_rich_markup_in_a_record_is_text() -> None:
    """`[bold]` is a name like any other."""
    assert "[bold]x[/bold]" in write(table_of("[bold]x[/bold]", "h", "l", "n"), "terminal")


@given(st.one_of(st.floats(-1e300, 1e300), st.sampled_from([float("inf"), float("-inf"), float("nan")])))
def test_numbers_are_short_and_read_back(value: float) -> None:
    """Whatever the number, it is written in two decimals or scientific, and differences carry their sign."""
    text = number(value)
    assert float(text) == pytest.approx(value, rel=5e-3, abs=5e-3, nan_ok=True)
    assert len(text) <= 10
    assert signed(value)[0] in "+-"


def test_numbers_look_as_the_papers_print_them() -> None:
    """Two decimals, from 1e4 on scientific."""
    assert [number(value) for value in (27.656, 9999.0, 12345.0, 1e10)] == ["27.66", "9999.00", "1.23e4", "1.00e10"]
    assert [signed(value) for value in (0.06, -0.312, 0.0)] == ["+0.06", "-0.31", "+0.00"]
    assert [percent(value) for value in (0.5, 0.176542, 0.0)] == ["50%", "17.65%", "0%"]


def test_every_format_shows_a_dash_or_its_own_nothing(published) -> None:
    """People see a dash; CSV is empty and JSON null, so that a program does not read a dash as a value."""
    table = paper_table("SGPT-T1", [], published)
    for format in ("terminal", "md"):
        assert "27.66 / – / –" in write(table, format)
    assert "27.66 / -- / --" in write(table, "latex")
    assert write(table, "csv").splitlines()[1].startswith("Dense,,0%,,27.66,,")
    first = json.loads(write(table, "json"))["rows"][0][3]
    assert (first["measured"], first["published"], first["source"]["table_id"]) == (None, "27.66", "SGPT-T1")


def test_infinity_is_a_string_in_json(record, perplexity, published) -> None:
    """JSON knows no infinity; the table says it as the record does."""
    table = comparison([record(results=(perplexity(float("inf")),))], published)
    assert json.loads(write(table, "json"))["rows"][0][-1]["measured"] == "Infinity"


def test_an_unknown_format_names_the_known_ones(published) -> None:
    """A wrong format is the user's mistake."""
    with pytest.raises(UserError, match="unknown format 'xls'; choose from: csv, html, json, latex, md, terminal"):
        write(table_of("t", "h", "l", "n"), "xls")  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [80, 120, 160])
@pytest.mark.parametrize("table_id", ["SGPT-T1", "SLIM-LLAMA7B", "LLMPRUNER-MORE", "DSNOT-T60"])
def test_the_terminal_width_is_kept(published, table_id: str, width: int) -> None:
    """A wide table becomes several narrow ones; no value is folded or lost."""
    lines = write(paper_table(table_id, [], published), "terminal", width).splitlines()
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert all(
        f"{row.text}{'?' if row.status == 'unverified' else ''} / – / –" in text for row in published.table(table_id)
    )


def test_the_demo_s_table_fits_80_columns_in_one_piece(record, perplexity, accuracy, published) -> None:
    """Perplexity and four tasks with both metrics: one table, the model said once above."""
    results = [perplexity(24.61, "wikipedia-sample", 512, data="x", max_windows=64), accuracy(0.6, limit=100)]
    tasks = ("piqa", "arc_easy", "arc_challenge")
    results += [accuracy(0.5, task, metric, 100) for task in tasks for metric in ("acc", "acc_norm")]
    jobs = [
        record(m, model="smollm2-135m", results=tuple(results)) for m in ("dense", "magnitude", "sparsegpt", "wanda")
    ]
    text = write(comparison(jobs, published), "terminal")
    assert len(re.findall(r"^method", text, re.MULTILINE)) == 1
    assert re.search(r"^sparsegpt unstructured 50% +24\.61 60\.00 50\.00", text, re.MULTILINE)
    assert "model smollm2-135m" in text


def test_a_record_is_shown_whole(record, perplexity, accuracy) -> None:
    """Job, results, layers, times, provenance and the error stand in plain text of 80 columns."""
    layers = tuple(LayerReport(f"blocks.{i}.q", (8, 8), 0.5, 0.5, None if i == 0 else i / 10, 9) for i in range(8))
    shown = record(
        results=(perplexity(7.5), accuracy(0.25)), layers=layers, error="Traceback\nValueError: [red]no\x1b[2J"
    )
    text = printed(render_record(shown), 80)
    for part in (
        shown.job_id,
        "failed",
        "c4",
        "7.50",
        "25.00%",
        "layers (8)",
        "blocks.7.q",
        "0.7000",
        "abc123",
        "3.0 s",
    ):
        assert part in text
    assert "[red]no" in text
    assert "\x1b" not in text
    assert "blocks.0.q" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_record_says_why_a_number_is_missing(record, perplexity) -> None:
    """A dash with a mark, explained below; a record whose numbers are all there has neither."""
    for value in (None, 7.5):
        text = printed(render_record(record(results=(perplexity(value), perplexity(8.0, "c4")))), 100)
        assert ("–¶" in text) == ("¶ no number: the model's outputs overflowed" in text) == (value is None)

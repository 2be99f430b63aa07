"""Every table of the survey material, by id: what each format prints is the CSV's, cell by cell."""

import csv
import html.parser
import io
import json
import re
from collections.abc import Mapping
from functools import cache

import pytest

from harness.reporting.formats.base import write
from harness.reporting.papers import paper_table
from harness.reporting.published import experiments_folder, load

TABLE_IDS = load().table_ids()


@cache
def _printed() -> dict[str, list[dict[str, str]]]:
    """The rows of all CSV files by table, read without the code under test."""
    tables: dict[str, list[dict[str, str]]] = {}
    for file in sorted(experiments_folder().glob("*/published.csv")):
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                tables.setdefault(row["table_id"], []).append(row)
    return tables


def _labels(row: Mapping[str, str], headers: list[str]) -> tuple[str, ...]:
    texts = {**row, "pattern": "" if row["pattern"] == "dense" else row["pattern"]}
    texts["sparsity"] = f"{round(100 * float(row['sparsity']), 2):g}%"
    return tuple(texts[header] for header in headers)


def _key(row: Mapping[str, str], *, by_model: bool) -> str:
    parts = [row["model"]] if by_model else []
    return "/".join([*parts, row["task"], row["metric"], row["unit"], row["seq_len"]])


class _Cells(html.parser.HTMLParser):
    """Texts of the cells of an HTML table, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, _: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def _grid(text: str, format: str) -> list[list[str]]:
    """The body of a rendered table: texts of labels, published numbers of values; a dash is nothing."""
    if format == "json":
        return [
            [cell["text"] if "text" in cell else cell["published"] or "" for cell in row]
            for row in json.loads(text)["rows"]
        ]
    if format == "csv":
        reader = csv.DictReader(io.StringIO(text))
        names = [
            name for name in reader.fieldnames or [] if not name.endswith((" published", " difference", " tolerance"))
        ]
        return [[row.get(f"{name} published", row[name]).removeprefix("'") for name in names] for row in reader]
    if format == "html":
        parser = _Cells()
        parser.feed(text)
        rows = parser.rows[1:]
    else:
        lines = [line for line in text.split("\n") if line.startswith("| ")][2:]
        rows = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines]
        rows = [
            [_unescaped(re.sub(r"^\*\*(.*?)\*\*|^<ins>(.*?)</ins>", r"\1\2", cell)) for cell in row] for row in rows
        ]
    return [["" if cell == "–" else cell.split(" / ")[0].removesuffix("?") for cell in row] for row in rows]


def _unescaped(text: str) -> str:
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return re.sub(r"\\([\\`*\[\]|~$_])", r"\1", text)


@pytest.mark.parametrize("format", ["json", "csv", "md", "html"])
@pytest.mark.parametrize("table_id", TABLE_IDS)
def test_rendered_table_equals_its_csv_cell_by_cell(published, table_id: str, format: str) -> None:
    """Each number of the CSV stands in the row and the column that it belongs to, and nothing else stands anywhere."""
    table = paper_table(table_id, [], published)
    columns = json.loads(write(table, "json"))["columns"]
    headers = [column["header"] for column in columns if column["label"]]
    keys = [column["key"] for column in columns if not column["label"]]
    printed = _printed()[table_id]
    by_model = "model" not in headers and len({row["model"] for row in printed}) > 1
    expected = {(_labels(row, headers), _key(row, by_model=by_model)): row["value"] for row in printed}
    assert len(expected) == len(printed)
    found = {}
    for row in _grid(write(table, format), format):  # type: ignore[arg-type]
        labels, values = row[: len(headers)], row[len(headers) :]
        # a label's own " / " was cut above for the formats that join numbers with it
        assert len(values) == len(keys)
        found |= {(tuple(labels), key): value for key, value in zip(keys, values, strict=True) if value}
    cut = format in ("md", "html")
    shortened = {
        (tuple(text.split(" / ")[0] if cut else text for text in labels), key): value
        for (labels, key), value in expected.items()
    }
    assert found == shortened


def test_all_numbers_are_in_the_tables() -> None:
    """The 44 ids hold the 1,398 numbers."""
    assert (len(TABLE_IDS), sum(len(rows) for rows in _printed().values())) == (44, 1398)
    assert sorted(_printed()) == sorted(TABLE_IDS)


@pytest.mark.parametrize("table_id", TABLE_IDS)
def test_a_mean_over_mixed_metrics_says_so(published, table_id: str) -> None:
    """A mean over acc and acc_norm is called mixed, in its header or in the title of its table; nothing else is."""
    table = paper_table(table_id, [], published)
    for column in table.columns:
        assert ("mixed" in f"{table.title} {column.header}") == ("/acc_mixed/" in f"/{column.key}/") or column.is_label


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("table_id", TABLE_IDS)
def test_terminal_fits_and_cuts_no_number(published, table_id: str, width: int) -> None:
    """No line is longer than the terminal is wide, and every number stands whole on one line."""
    text = write(paper_table(table_id, [], published), "terminal", width)
    assert max(map(len, text.split("\n"))) <= width
    for row in _printed()[table_id]:
        assert re.search(rf"(?<![\w.]){re.escape(row['value'])}(?![\w.])", text)


def test_a_remark_in_brackets_stays_whole(published) -> None:
    """Remarks are apart by semicolons, those within brackets excepted."""
    notes = paper_table("WANDA-PPL-LLAMA2", [], published).footnotes
    assert "sequence length 4096 (dense 7B 5.12; 5.47 at 2048)" in notes

"""The comparison table and the papers' tables."""

import csv
import io
from collections import Counter
from dataclasses import replace

import pytest

from harness.errors import UserError
from harness.job import CalibrationSpec, TrainingSpec
from harness.patterns import SemiStructured, Unstructured
from harness.reporting.formats.base import write
from harness.reporting.layout import Table
from harness.reporting.papers import paper_table
from harness.reporting.published import experiments_folder, load
from harness.reporting.tables import comparison

TRAINING = TrainingSpec("c4", "x", 512, 1024, "stream", 10**6)
TABLE_IDS = load().table_ids()


def headers(table: Table) -> list[str]:
    """Headers of all columns."""
    return [column.header for column in table.columns]


def column(table: Table, header: str) -> list[str]:
    """The cells below a header, as people read them."""
    index = headers(table).index(header)
    return [row[index].written(table.order) for row in table.rows]


def test_sparsegpt_table_1_equals_its_csv_cell_by_cell(published) -> None:
    """Every cell of SGPT-T1 is the CSV's value of that model, method, pattern and sparsity, and nothing else is."""
    with (experiments_folder() / "sparsegpt" / "published.csv").open(newline="", encoding="utf-8") as stream:
        printed = [row for row in csv.DictReader(stream) if row["table_id"] == "SGPT-T1"]
    expected = {
        (row["method"], row["pattern"], f"{100 * float(row['sparsity']):g}%", row["model"]): row["value"]
        for row in printed
    }
    table = paper_table("SGPT-T1", [], published)
    labels = headers(table)[:3]
    assert labels == ["method", "pattern", "sparsity"]
    found = {
        (row[0].text, row[1].text or "dense", row[2].text, head): cell.published.text
        for row in table.rows
        for head, cell in zip(headers(table)[3:], row[3:], strict=True)
        if cell.published
    }
    assert found == expected
    assert column(table, "OPT-125M") == ["27.66 / – / –", "193 / – / –", "58.66 / – / –", "36.85 / – / –", "–", "–"]


@pytest.mark.parametrize("table_id", TABLE_IDS)
def test_every_published_value_stands_in_its_table(published, table_id: str) -> None:
    """As many cells as rows, each value as often as printed, in the rendered CSV too; one protocol a column."""
    rows, table = published.table(table_id), paper_table(table_id, [], published)
    cells = [(index, cell.published) for row in table.rows for index, cell in enumerate(row) if cell.published]
    assert Counter(cell for _, cell in cells) == Counter(rows)
    protocols = {(index, cell.protocol, cell.metric, cell.unit, cell.seq_len) for index, cell in cells}
    assert len(protocols) == len({index for index, _ in cells})
    assert len(set(headers(table))) == len(headers(table))
    rendered = list(csv.DictReader(io.StringIO(write(table, "csv"))))
    printed = Counter(value for row in rendered for name, value in row.items() if name.endswith(" published") and value)
    assert printed == Counter(row.text for row in rows)
    for format in ("terminal", "md", "latex", "json"):
        text = write(table, format)
        assert all(row.text in text for row in rows)


@pytest.mark.parametrize("table_id", TABLE_IDS)
def test_rows_of_a_table_are_told_apart(published, table_id: str) -> None:
    """No two rows have the same labels."""
    table = paper_table(table_id, [], published)
    labels = [
        tuple(cell.text for cell, col in zip(row, table.columns, strict=True) if col.is_label) for row in table.rows
    ]
    assert len(set(labels)) == len(labels)


def test_a_measured_value_stands_beside_the_published_one(record, perplexity, published) -> None:
    """Published, measured, difference; the rest keeps its dashes."""
    jobs = [record("sparsegpt", results=(perplexity(36.91),)), record("dense", results=(perplexity(27.65),))]
    table = paper_table("SGPT-T1", jobs, published)
    assert column(table, "OPT-125M")[0] == "27.66 / 27.65 / -0.01"
    assert column(table, "OPT-125M")[3] == "36.85 / 36.91 / +0.06≈"
    assert column(table, "OPT-350M")[3] == "31.58 / – / –"
    assert "measured values: calibrated on c4 128×2048" in table.footnotes


@pytest.mark.parametrize("options", [{"seq_len": 1024}, {"max_windows": 4}, {"data": "mine"}, {"corpus": "ptb"}])
def test_another_protocol_never_enters_a_paper_s_table(record, perplexity, published, options) -> None:
    """Another window length, a subset, other data or another corpus leaves the dash."""
    jobs = [record("sparsegpt", results=(perplexity(36.91, **options),))]
    assert column(paper_table("SGPT-T1", jobs, published), "OPT-125M")[3] == "36.85 / – / –"


def test_several_jobs_for_one_cell_are_said(record, perplexity, published) -> None:
    """The clean job with the papers' calibration is shown, the others are named."""
    other = CalibrationSpec("wikitext2", "x", 128, 2048, "stream", "pruned")
    jobs = [
        record("sparsegpt", results=(perplexity(1.0),), dirty=True, seed=0),
        record("sparsegpt", results=(perplexity(2.0),), calibration=other),
        record("sparsegpt", results=(perplexity(3.0),), seed=2),
    ]
    table = paper_table("SGPT-T1", jobs, published)
    assert column(table, "OPT-125M")[3].startswith("36.85 / 3.00 /")
    assert any(jobs[0].job_id in note and jobs[1].job_id in note for note in table.footnotes)


def test_unverified_values_are_marked(published) -> None:
    """A value that nobody checked carries a question mark and a footnote."""
    table = paper_table("SLIM-LLAMA2-7B", [], published)
    assert column(table, "boolq acc %")[0] == "71.04? / – / –"
    assert any(note.startswith("? ") for note in table.footnotes)


def test_an_unknown_paper_table_lists_the_ids(published) -> None:
    """A wrong id is answered with the known ones."""
    with pytest.raises(UserError, match="choose from: ALS-T1"):
        paper_table("SGPT-T99", [], published)


def test_rows_are_ordered_whatever_the_order_of_the_records(record, perplexity, published) -> None:
    """Models by number, dense first, methods by name, unstructured by sparsity, then 4:8 before 2:4."""
    jobs = [
        record("wanda", SemiStructured(2, 4), model="opt-1.3b"),
        record("wanda", SemiStructured(4, 8), model="opt-1.3b"),
        record("wanda", Unstructured(0.6), model="opt-1.3b"),
        record("wanda", Unstructured(0.5), model="opt-1.3b"),
        record("magnitude", SemiStructured(2, 4), model="opt-1.3b"),
        record("dense", model="opt-1.3b"),
        record("wanda", model="opt-13b"),
    ]
    table = comparison(jobs, published)
    assert table == comparison(jobs[::-1], published)
    assert column(table, "model") == ["opt-1.3b"] * 6 + ["opt-13b"]
    assert column(table, "method")[:2] == ["dense", "magnitude"]
    assert column(table, "pattern") == ["–", "2:4", "unstructured", "unstructured", "4:8", "2:4", "unstructured"]
    assert column(table, "sparsity") == ["0%", "50%", "50%", "60%", "50%", "50%", "50%"]


def test_published_value_and_difference_stand_in_the_comparison(record, perplexity, published) -> None:
    """Measured (published, difference), and the table that it comes from."""
    table = comparison([record("sparsegpt", results=(perplexity(36.91),))], published)
    assert column(table, "wikitext2 ppl @2048") == ["36.91 (36.85, +0.06≈)"]
    assert any("SGPT-T1" in note for note in table.footnotes)


def test_papers_that_disagree_are_named(record, perplexity, published) -> None:
    """OPT-125M dense is 27.66 in SparseGPT and 27.76 in AST: one is shown, both are said."""
    table = comparison([record("dense", results=(perplexity(27.65),))], published)
    assert column(table, "wikitext2 ppl @2048") == ["27.65 (27.66, -0.01)"]
    assert any("27.66 (SGPT-T1), 27.76 (AST-T1)" in note for note in table.footnotes)


def test_two_protocols_never_share_a_column(record, perplexity, accuracy, published) -> None:
    """Window length, subset, data, BOS, metric and task version each make their own column."""
    results = (
        perplexity(1.0),
        perplexity(2.0, seq_len=128),
        perplexity(3.0, max_windows=64),
        perplexity(4.0, data="mine"),
        perplexity(5.0, bos_every_window=True),
        replace(perplexity(6.0), protocol="perplexity:wikitext2:seq2048:v2"),
        accuracy(0.1),
        accuracy(0.2, metric="acc_norm"),
        accuracy(0.3, limit=100),
    )
    table = comparison([record(results=results)], published)
    values = headers(table)[4:]
    assert len(values) == len(set(values)) == len(results)
    assert {"wikitext2 ppl @128", "wikitext2 ppl @2048 first 64", "boolq acc_norm %", "boolq acc % first 100"} <= set(
        values
    )
    assert "wikitext2 @2048 first 64: first 64 of 334 windows" in table.footnotes
    assert any("not a published evaluation set, from folder/wt2" in note for note in table.footnotes)


def test_data_that_differ_under_one_protocol_are_said(record, perplexity, published) -> None:
    """The same key over another text (WikiText-103 for WikiText-2, say) must not pass unnoticed."""
    one, other = perplexity(1.0), replace(perplexity(2.0), data_fingerprint="zz")
    table = comparison([record(results=(one,)), record("magnitude", results=(other,))], published)
    assert any("measured on different data" in note for note in table.footnotes)


@pytest.mark.parametrize(
    ("header", "one", "other"),
    [
        ("seed", {"seed": 0}, {"seed": 1}),
        ("params", {"params": {"damping": 0.01}}, {"params": {"damping": 0.1}}),
        ("calibration", {}, {"calibration": CalibrationSpec("ptb", "x", 8, 64, "stream", "pruned")}),
        ("calibration data", {}, {"calibration": CalibrationSpec("c4", "sample", 128, 2048, "documents", "pruned")}),
        ("propagation", {}, {"calibration": CalibrationSpec("c4", "c4-shard-0", 128, 2048, "documents", "dense")}),
        ("recovery", {}, {"recovery": "lora"}),
        ("recovery", {"recovery": "lora"}, {"recovery": "lora", "training": TRAINING}),
        ("recovery", *({"recovery": "lora", "training": replace(TRAINING, tokens=most)} for most in (10**6, None))),
        ("training data", *({"recovery": "lora", "training": replace(TRAINING, data=data)} for data in ("x", "y"))),
        ("allocation", {}, {"allocation": "owl"}),
        ("job", {"dtype": "auto"}, {"dtype": "float32"}),
    ],
)
def test_jobs_that_differ_are_told_apart(record, published, header: str, one: dict, other: dict) -> None:
    """A column appears for what differs, and only then."""
    alone = comparison([record(**one)], published)
    both = comparison([record(**one), record(**other), record("dense")], published)
    assert headers(alone) == ["model", "method", "pattern", "sparsity"]
    assert headers(both) == ["model", "method", "pattern", "sparsity", header]
    assert len(set(column(both, header))) > 1


def test_what_is_the_same_everywhere_is_said_once(record, published) -> None:
    """Calibration, dtype and seed of all rows stand in a footnote."""
    table = comparison([record(), record("magnitude")], published)
    said = "all rows: dtype float32, calibration c4 128×2048, propagation sequential calibration, seed 0"
    assert table.footnotes[0] == said


def test_only_the_parameters_that_differ_are_shown(record, published) -> None:
    """What all jobs of a method share is not repeated in every row; another method's parameters do not count."""
    jobs = [record("dsnot", params={"cycles": 50, "start": start}) for start in ("magnitude", "wanda")]
    table = comparison([*jobs, record("sparsegpt", params={"damping": 0.01})], published)
    assert column(table, "params") == ["start=magnitude", "start=wanda", "–"]


def test_an_allocation_and_a_recovery_of_all_rows_are_said_once(record, published) -> None:
    """A table of spread or retrained models must say so, also where every row is one; the usual ones go unsaid."""
    jobs = [record(method, allocation="owl", recovery="masked_finetune") for method in ("ria", "wanda")]
    said = comparison(jobs, published).footnotes[0]
    assert "allocation owl, recovery masked_finetune" in said
    said = comparison([record(recovery="lora", training=TRAINING)], published).footnotes[0]
    assert "recovery lora (training=c4 512×1024 stream, training.tokens=1000000)" in said
    assert "uniform" not in "".join(comparison([record()], published).footnotes)


def test_dirty_and_failed_jobs_are_marked(record, perplexity, published) -> None:
    """† for uncommitted changes, ‡ with the reason for a failure, dashes for what a failed job lacks."""
    jobs = [
        record("magnitude", results=(perplexity(9.0),), dirty=True),
        record("wanda", error="Traceback\n  x\nValueError: weights of q_proj hold NaN\n"),
    ]
    table = comparison(jobs, published)
    assert column(table, "method") == ["magnitude†", "wanda‡"]
    assert column(table, "wikitext2 ppl @2048")[1] == "–"
    assert any(note.startswith("† ") for note in table.footnotes)
    assert any(note.endswith("failed: ValueError: weights of q_proj hold NaN") for note in table.footnotes)


def test_counted_zeros_show_where_they_are_not_what_was_asked(record, published) -> None:
    """One weight too many is the request; 53 % at 2:4 is not."""
    table = comparison([record(achieved=0.50001), record("magnitude", achieved=0.5333)], published)
    assert column(table, "sparsity") == ["50% (53.33%)", "50%"]


def test_a_value_that_could_not_be_measured_is_a_dash(record, perplexity, published) -> None:
    """None is a dash with its mark, an overflow is inf, and a large perplexity is scientific."""
    jobs = [record(m, results=(perplexity(v),)) for m, v in (("a", None), ("b", float("inf")), ("c", 12345.6))]
    assert column(comparison(jobs, published), "wikitext2 ppl @2048") == ["–¶", "inf", "1.23e4"]


def test_accuracy_is_in_percent(record, accuracy, published) -> None:
    """0.6231 is 62.31."""
    assert column(comparison([record(results=(accuracy(0.6231),))], published), "boolq acc %") == ["62.31"]


def test_no_records_make_an_empty_table(published) -> None:
    """A report of nothing is a header."""
    assert write(comparison([], published), "md").splitlines()[2] == "| model | method | pattern | sparsity |"

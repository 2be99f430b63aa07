"""Tolerances: a verdict where a spread was seen, none where not."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.patterns import Unstructured
from harness.reporting.formats.base import write
from harness.reporting.marks import Footnotes, Tolerance, load_tolerances, tolerance_for
from harness.reporting.papers import paper_table
from harness.reporting.published import Published, read_facts
from harness.reporting.tables import comparison


def _row(published: Published, method: str, pattern: str = "unstructured", table: str = "SGPT-T1"):
    return next(
        row for row in published.table(table) if (row.method, row.pattern, row.model) == (method, pattern, "OPT-125M")
    )


def inside(measured: float, row) -> bool | None:
    """The verdict."""
    return Footnotes().verdict(measured, row)


def test_every_tolerance_says_where_it_was_seen() -> None:
    """No number without its source; none wider than what was seen at 50 %."""
    for known in load_tolerances():
        assert known.seen
        assert known.source
        assert 0 < known.relative < 0.02
        assert known.max_sparsity <= 0.5


def test_verdict_needs_a_protocol_that_somebody_repeated(published: Published) -> None:
    """WikiText-2 at 2,048 tokens has one; the dense model, another window and higher sparsities have none."""
    sparsegpt = _row(published, "SparseGPT")
    assert tolerance_for(sparsegpt) is not None
    assert inside(36.91, sparsegpt) is True
    assert inside(38.0, sparsegpt) is False
    assert inside(float("inf"), sparsegpt) is False
    assert inside(27.66, _row(published, "Dense", "dense")) is None
    high = next(row for row in published.rows if row.sparsity == 0.7 and row.protocol == sparsegpt.protocol)
    assert inside(high.value, high) is None
    assert {tolerance_for(row) for row in published.rows if "seq128" in row.protocol or not row.protocol} == {None}


def test_printed_digits_are_no_error(published: Published) -> None:
    """A number printed as 1.7e4 is anything from 16,500 to 17,500."""
    row = next(row for row in published.table("SGPT-T1") if row.text == "1.7e4")
    assert inside(16_400.0, row) is True
    assert inside(16_200.0, row) is False


def test_verdict_stands_in_the_tables(record, perplexity, published: Published) -> None:
    """≈ inside, ≠ outside, with the tolerance and its source in a footnote, in both tables and in the data formats."""
    jobs = [record("sparsegpt", results=(perplexity(36.91),)), record("magnitude", results=(perplexity(300.0),))]
    paper = write(paper_table("SGPT-T1", jobs, published), "md")
    assert "36.85** / 36.91 / +0.06≈" in paper or "36.85** / **36.91** / +0.06≈" in paper
    assert "+107.00≠" in paper
    assert "two standard deviations over seeds" in paper
    mine = comparison(jobs, published)
    assert "+0.06≈" in write(mine, "terminal")
    assert ",inside\n" in write(mine, "csv")
    assert '"inside_tolerance": true' in write(mine, "json")


def test_no_verdict_without_a_tolerance(record, perplexity, published: Published) -> None:
    """A difference alone, and no footnote about tolerances."""
    jobs = [
        record("sparsegpt", Unstructured(0.7), results=(perplexity(1.0),)),
        record("dense", results=(perplexity(27.65),)),
    ]
    text = write(comparison(jobs, published), "md")
    assert "≈" not in text
    assert "≠" not in text


def test_a_broken_tolerance_is_named(tmp_path: Path) -> None:
    """File, line and column."""
    file = tmp_path / "tolerances.csv"
    file.write_text("protocol,metric,max_sparsity,relative,seen,source\na,b,much,0.1,c,d\n")
    with pytest.raises(UserError, match=r"tolerances.csv, line 2: max_sparsity='much': "):
        read_facts(file, Tolerance)


@pytest.mark.parametrize("value", [None, float("inf")])
def test_a_missing_number_is_a_dash_that_says_why(record, perplexity, published: Published, value) -> None:
    """An overflow to NaN is not the same as nothing measured; an infinite perplexity is a number."""
    jobs = [record("sparsegpt", results=(perplexity(value),))]
    for table in (comparison(jobs, published), paper_table("SGPT-T1", jobs, published)):
        text = write(table, "terminal", 160)
        assert ("–¶" in text) == ("¶ no number: the model's outputs overflowed" in text) == (value is None)
        assert ("inf" in text.replace("information", "")) == (value is not None)


@pytest.mark.parametrize(
    ("method", "params", "allocation", "table_id", "printed"),
    [
        ("dsnot", {}, "uniform", "DSNOT-T60", "10.22"),
        ("dsnot", {"accept": "all_rows", "initial": "sparsegpt"}, "uniform", "DSNOT-T60", "9.65"),
        ("wanda", {}, "besa", "BESA-WT2", "7.04"),
    ],
)
def test_a_computation_that_differs_is_compared_and_marked(
    record, perplexity, published: Published, method: str, params: dict, allocation: str, table_id: str, printed: str
) -> None:
    """DSnoT and BESA stand beside their papers' numbers, with what is computed otherwise, and get no verdict."""
    pattern = Unstructured(0.6 if method == "dsnot" else 0.5)
    result = perplexity(float(printed) + 1)
    job = record(method, pattern, (result,), model="llama-7b", params=params, allocation=allocation)
    for table in (comparison([job], published), paper_table(table_id, [job], published)):
        (cell,) = (cell for row in table.rows for cell in row if cell.measured is not None)
        assert cell.published is not None
        assert (cell.published.text, cell.marks, cell.inside) == (printed, "*", None)
        assert any(note.startswith(f"* {cell.published.method}: here ") for note in table.footnotes)


def test_other_hyperparameters_of_a_named_method_compare_with_nothing(record, perplexity, published) -> None:
    """Only the settings that a paper prints have a name in it."""
    job = record("dsnot", Unstructured(0.6), (perplexity(10.0),), model="llama-7b", params={"max_cycles": 9})
    (cell,) = (cell for row in comparison([job], published).rows for cell in row if cell.measured is not None)
    assert cell.published is None

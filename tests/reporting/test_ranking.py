"""The best and second best numbers: of what may be compared, and marked in every format."""

import pytest

from harness.patterns import Unstructured
from harness.reporting.formats.base import write
from harness.reporting.papers import paper_table
from harness.reporting.tables import comparison


def ranks(table, header: str) -> list[int]:
    """Ranks of the measured numbers below a header."""
    index = [column.header for column in table.columns].index(header)
    return [row[index].rank for row in table.rows]


def jobs_of(record, results: dict[str, tuple]) -> list:
    """One job a method."""
    return [record(method, results=found) for method, found in results.items()]


def test_lower_perplexity_and_higher_accuracy_win(record, perplexity, accuracy, published) -> None:
    """The direction is the metric's; the dense model does not compete."""
    results = {
        "dense": (perplexity(1.0), accuracy(0.9)),
        "magnitude": (perplexity(9.0), accuracy(0.3)),
        "sparsegpt": (perplexity(7.0), accuracy(0.2)),
        "wanda": (perplexity(8.0), accuracy(0.1)),
    }
    table = comparison(jobs_of(record, results), published)
    assert ranks(table, "wikitext2 ppl @2048") == [0, 0, 1, 2]
    assert ranks(table, "boolq acc %") == [0, 1, 2, 0]


def test_only_equal_settings_compete(record, perplexity, published) -> None:
    """Another sparsity or another model is another contest; one runner is none."""
    jobs = [
        record("magnitude", results=(perplexity(9.0),)),
        record("wanda", results=(perplexity(8.0),)),
        record("wanda", Unstructured(0.6), results=(perplexity(2.0),)),
        record("wanda", results=(perplexity(1.0),), model="opt-1.3b"),
    ]
    table = comparison(jobs, published)
    assert sorted(ranks(table, "wikitext2 ppl @2048")) == [0, 0, 1, 2]


def test_equal_and_missing_numbers(record, perplexity, published) -> None:
    """Equals share the rank, what was not measured has none, infinity can only lose."""
    results = {
        name: (perplexity(value),) for name, value in zip("abcde", (5.0, 5.0, float("inf"), None, 9.0), strict=True)
    }
    assert ranks(comparison(jobs_of(record, results), published), "wikitext2 ppl @2048") == [1, 1, 0, 0, 2]


@pytest.mark.parametrize(
    ("format", "best", "second"),
    [
        ("md", "**7.00**", "<ins>8.00</ins>"),
        ("html", "<b>7.00</b>", "<u>8.00</u>"),
        ("latex", r"\textbf{7.00}", r"\underline{8.00}"),
        ("csv", "7.0,", "8.0,"),
        ("terminal", "  7.00", "  8.00"),
    ],
)
def test_marks_of_every_format(record, perplexity, published, format: str, best: str, second: str) -> None:
    """Bold and underlined where the format can; plain text and data stay plain."""
    results = {"magnitude": (perplexity(7.0),), "wanda": (perplexity(8.0),)}
    text = write(comparison(jobs_of(record, results), published), format)
    assert best in text
    assert second in text


def test_published_numbers_have_their_own_contest(published) -> None:
    """A paper's table is bold where the paper's best is, whatever was measured."""
    table = paper_table("SGPT-T1", [], published)
    index = [column.header for column in table.columns].index("OPT-125M")
    by_method = {row[0].text: row[index].published_rank for row in table.rows if row[1].text == "unstructured"}
    assert (by_method["SparseGPT"], by_method["AdaPrune"], by_method["Magnitude"]) == (1, 2, 0)

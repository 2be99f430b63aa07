"""Means over seeds: of jobs that differ in nothing else, with n and the interval."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.patterns import Unstructured
from harness.reporting.formats.base import write
from harness.reporting.layout import Table
from harness.reporting.papers import paper_table
from harness.reporting.statistics import mean_interval, mean_over_seeds
from harness.reporting.tables import comparison


def column(table: Table, header: str) -> list[str]:
    """The cells below a header, as people read them."""
    index = [column.header for column in table.columns].index(header)
    return [row[index].written(table.order) for row in table.rows]


def test_jobs_that_differ_in_the_seed_are_one_row(record, perplexity, published) -> None:
    """Mean, half the width of the interval by Student's t with n-1 degrees of freedom (2.776 for 4), and n."""
    values = (36.5, 36.7, 36.9, 37.1, 37.3)
    jobs = [
        record("sparsegpt", results=(perplexity(value),), model="mine", seed=seed) for seed, value in enumerate(values)
    ]
    table = comparison(jobs, published, mean_over_seed=True)
    half = 2.7764451051977987 * math.sqrt(0.1) / math.sqrt(5)
    assert column(table, "wikitext2 ppl @2048") == [f"36.90 ±{half:.2f} (n=5)"]
    assert "seed" not in [column.header for column in table.columns]
    assert any("95% interval" in note for note in table.footnotes)


def test_everything_else_keeps_rows_apart(record, perplexity, published) -> None:
    """Another sparsity, parameter, allocation or type of weights is never averaged."""
    plain = record("sparsegpt", results=(perplexity(1.0),))
    others = [
        record("sparsegpt", Unstructured(0.6), results=(perplexity(2.0),), seed=1),
        record("sparsegpt", results=(perplexity(3.0),), params={"damping": 0.1}, seed=2),
        record("sparsegpt", results=(perplexity(4.0),), allocation="owl", seed=3),
        replace(plain, job_id="x", provenance=replace(plain.provenance, dtype="float16")),
    ]
    entries = mean_over_seeds([plain, *others])
    assert len(entries) == 5
    assert {spread.samples for entry in entries for spread in entry.spreads.values()} == {1}
    assert all(
        "(n=1)" in text
        for text in column(comparison([plain, *others], published, mean_over_seed=True), "wikitext2 ppl @2048")
    )


def test_what_is_missing_is_not_averaged(record, perplexity, published) -> None:
    """A value that could not be measured lowers n; a failed job stays a row of its own."""
    jobs = [
        record(results=(perplexity(4.0),)),
        record(results=(perplexity(None),), seed=1),
        record(results=(perplexity(6.0),), seed=2),
        record(error="ValueError: no", seed=3),
    ]
    text = column(comparison(jobs, published, mean_over_seed=True), "wikitext2 ppl @2048")
    assert sorted(cell.split(" ")[0] for cell in text) == ["5.00", "–"]
    assert any("(n=2)" in cell for cell in text)


def test_means_stand_in_a_paper_s_table(record, perplexity, published) -> None:
    """Published, mean with its interval, difference and verdict."""
    jobs = [record("sparsegpt", results=(perplexity(value),), seed=seed) for seed, value in enumerate((36.8, 37.0))]
    table = paper_table("SGPT-T1", jobs, published, mean_over_seed=True)
    assert column(table, "OPT-125M")[3] == "36.85 / 36.90 ±1.27 (n=2) / +0.05≈"
    header = write(table, "csv").splitlines()[0]
    assert "OPT-125M ±95%,OPT-125M n" in header


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.inf]])
def test_no_interval_of_one_value(values: list[float]) -> None:
    """Nor of numbers that overflowed."""
    assert mean_interval(values) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_interval_is_scipy_s(values: list[float]) -> None:
    """The same half width as scipy.stats gives for the t distribution."""
    import numpy as np
    from scipy import stats

    mine = mean_interval(values)
    error = float(stats.sem(np.array(values)))
    assert mine == pytest.approx(stats.t.ppf(0.975, len(values) - 1) * error, rel=1e-6, abs=1e-6)

"""The terminal at 80 and 160 columns: nothing is wider, no number is cut, and thousands of jobs come at once."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from harness.patterns import SemiStructured, Unstructured
from harness.record import LayerReport
from harness.reporting.formats.base import write
from harness.reporting.formats.terminal import wrapped
from harness.reporting.layout import number
from harness.reporting.show import render_record
from harness.reporting.tables import comparison
from tests.reporting.conftest import printed

TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
WIDTHS = pytest.mark.parametrize("width", [80, 160])


def _jobs(record, perplexity, accuracy) -> list:
    """Two models, four methods, three patterns, two seeds, ten metrics, long parameters."""
    jobs = []
    for place, model in enumerate(("opt-125m", "llama-7b")):
        for method in ("magnitude", "wanda", "sparsegpt", "a-method-with-a-very-long-name-of-its-own"):
            for pattern in (Unstructured(0.5), SemiStructured(4, 8), SemiStructured(2, 4)):
                for seed in (0, 1):
                    value = 1234.56 + 1000 * place + len(jobs)
                    results = [perplexity(value), perplexity(value * 1e4, "c4"), perplexity(float("inf"), "ptb")]
                    results += [accuracy(0.001 * len(jobs) + 0.1, task) for task in TASKS]
                    params = {"damping": 0.01, "block_size": 128} if method == "sparsegpt" else {}
                    jobs.append(record(method, pattern, tuple(results), model=model, seed=seed, params=params))
    return jobs


@WIDTHS
@pytest.mark.parametrize("means", [False, True])
def test_comparison_fits_and_cuts_no_number(record, perplexity, accuracy, published, width: int, means: bool) -> None:
    """Every measured number stands whole on a line that fits."""
    table = comparison(_jobs(record, perplexity, accuracy), published, mean_over_seed=means)
    text = write(table, "terminal", width)
    assert max(map(cell_len, text.split("\n"))) <= width
    for row in table.rows:
        for cell in row:
            if cell.measured is not None:
                assert re.search(rf"(?<![\w.]){re.escape(number(cell.measured))}(?![\w.])", text)
    assert "…" not in text


@WIDTHS
def test_record_fits_and_cuts_no_number(record, perplexity, accuracy, width: int) -> None:
    """`show` of a record with long names, at both widths."""
    layers = tuple(
        LayerReport(f"model.decoder.layers.{i}.self_attn.out_proj", (4096, 11008), 0.5, 0.512345, 0.1 * i, 9)
        for i in range(4)
    )
    results = (perplexity(1.2345e9, "wikipedia-sample", 2048, data="x", max_windows=64), accuracy(0.123456, limit=100))
    text = printed(render_record(record(results=results, layers=layers)), width)
    assert max(map(cell_len, text.split("\n"))) <= width
    for value in ("1.23e9", "12.35%", "1.00%", "4096×11008", "0.3000", "51.23%"):
        assert value in text
    assert "…" not in text


def test_thousands_of_jobs_are_shown_in_seconds(record, perplexity, published) -> None:
    """Table and layout take seconds of processor time, not a quarter of a minute."""
    one = perplexity(30.0)
    jobs = [
        record(method, Unstructured(s / 1000), (one,), seed=seed, model=f"model-{m}")
        for m in range(2)
        for method in ("magnitude", "wanda")
        for s in range(100, 900, 16)
        for seed in range(10)
    ]
    start = time.process_time()
    text = write(comparison(jobs, published), "terminal", 80)
    assert time.process_time() - start < 5  # for 2,000; measured: 0.4 s
    assert text.count("30.00") == len(jobs) == 2000


@given(st.text(alphabet="ab –×中\u0301", max_size=60), st.integers(2, 20))
def test_wrapping_loses_nothing(text: str, width: int) -> None:
    """Whatever is folded fits, and its letters are all there in order."""
    lines = wrapped(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")

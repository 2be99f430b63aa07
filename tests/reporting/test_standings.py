"""The standings of methods, and the matrix that is printed of them."""

import math
import re

import pytest

from harness.cli.main import main
from harness.errors import UserError
from harness.patterns import SemiStructured, Unstructured
from harness.record import EvalResult
from harness.reporting.formats.base import write
from harness.reporting.layout import number
from harness.reporting.published import experiments_folder, load
from harness.reporting.standings import matrices, standings
from harness.reporting.tables import comparison
from harness.tracking.store import RecordStore


@pytest.fixture
def sweep(record, perplexity, accuracy) -> list:
    """A dense model, Wanda with two seeds and another hyperparameter, magnitude, at 50 % and 2:4."""
    jobs = [record("dense", results=(perplexity(20.0, seq_len=64), accuracy(0.8), accuracy(0.6, "piqa")))]
    for place, pattern in enumerate((SemiStructured(2, 4), Unstructured(0.5))):
        jobs += [
            record(pattern=pattern, seed=seed, results=(perplexity(40.0 + seed + place, seq_len=64),))
            for seed in (0, 1)
        ]
        jobs.append(record(pattern=pattern, params={"power": 2.0}, results=(perplexity(float("inf"), seq_len=64),)))
        jobs.append(
            record("magnitude", pattern, results=(perplexity(50.0, seq_len=64), accuracy(0.4), accuracy(0.3, "piqa")))
        )
    return jobs


def test_a_divergence_stands_as_the_share_of_a_tokens_probability(record, published) -> None:
    """exp(-KL), as 1 / perplexity is; the dense model, at exactly 0, keeps all."""
    found = [
        record(method, pattern, (EvalResult("kl:c4:seq64:v1", "kl", "c4", "kl", kl, None, 8, False, None, "c4", "aa"),))
        for method, pattern, kl in (("dense", None, 0.0), ("wanda", Unstructured(0.5), 0.25))
    ]
    (metric,) = standings(found, published).metrics
    assert metric.column.title == "c4 kl @64 nats ↓"
    assert [cell and cell.kept for cell in metric.cells] == [1.0, math.exp(-0.25)]


def test_a_number_stands_with_its_distance_its_share_and_its_rank(sweep, published) -> None:
    """Against the dense model, and among those of its model, pattern and sparsity; jobs of other seeds are one mean."""
    found = standings(sweep, published)
    assert found.places == ("50%", "2:4")
    perplexity, mean, *single = found.metrics
    rows = dict(zip([(row.label, row.place) for row in found.rows], perplexity.cells, strict=True))
    wanda = rows["wanda", "2:4"]
    assert (wanda.measured, wanda.samples, wanda.rank) == (40.5, 2, 1)
    assert (wanda.distance, wanda.kept) == (20.5, 20.0 / 40.5)
    assert {row.label: len(row.entry.jobs) for row in found.rows}["wanda"] == 2
    lost, dense = rows["wanda, power=2.0", "50%"], rows["dense", ""]
    assert (lost.kept, lost.rank, lost.samples) == (0.0, 0, None)
    assert (dense.distance, dense.kept, dense.rank) == (0.0, 1.0, 0)
    assert mean.column.header == "mean of 2 tasks acc %"
    accuracies = dict(zip([(row.label, row.place) for row in found.rows], mean.cells, strict=True))
    assert accuracies["magnitude", "50%"].measured == pytest.approx(35.0)
    assert accuracies["magnitude", "50%"].kept == pytest.approx(0.5)
    assert accuracies["magnitude", "50%"].stderr == pytest.approx(100 * (2 * 0.01**2) ** 0.5 / 2)
    assert accuracies["wanda", "2:4"] is None
    assert [metric.column.header for metric in single] == ["boolq acc %", "piqa acc %"]


def test_without_the_dense_model_there_is_no_distance(sweep, published) -> None:
    """Nothing stands in for it; nor does the dense model of another type of weights."""
    (metric, *_) = standings(sweep[1:], published).metrics
    assert {(number.distance, number.kept) for number in metric.cells} == {(None, None)}


def test_a_matrix_is_printed_for_every_metric_that_no_other_sums_up(sweep, published) -> None:
    """Methods by pattern and sparsity; the others are named, and one of them is shown when asked for."""
    tables = matrices(standings(sweep, published))
    assert [table.title for table in tables] == ["wikitext2 ppl @64 ↓", "mean of 2 tasks acc % ↑"]
    lines = [re.split(r"  +", line.strip()) for line in write(tables[0], "terminal", 80).splitlines()]
    assert ["dense", "20.00", "20.00"] in lines
    assert ["magnitude", "50.00", "50.00"] in lines
    assert ["wanda, power=2.0", "inf", "inf"] in lines
    assert tables[1].footnotes[-1] == "further metrics, by --matrix NAME or --rows: boolq acc %, piqa acc %"
    (asked,) = matrices(standings(sweep, published), "piqa")
    assert asked.title == "piqa acc % ↑"
    for name in ("acc", "nothing"):
        with pytest.raises(UserError, match=r"allowed: wikitext2 ppl @64, mean of 2 tasks acc %, boolq acc %, piqa"):
            matrices(standings(sweep, published), name)


def test_of_a_dense_model_alone_the_matrix_is_its_number(record, perplexity, published) -> None:
    """There is no pattern to lay it under."""
    (table,) = matrices(standings([record("dense", results=(perplexity(20.0, seq_len=64),))], published))
    assert [cell.written("measured first") for cell in table.rows[0]] == ["opt-125m", "dense", "20.00"]


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_kept_numbers_are_in_one_table_each(width: int) -> None:
    """Of the kept records every number stands in the matrices, and the long table is one: no setting splits it."""
    for name in ("methods_smollm2", "digits"):
        records = RecordStore(experiments_folder().parent / "results" / name).all()
        text = "\n".join(write(table, "terminal", width) for table in matrices(standings(records, load())))
        rows = write(comparison(records, load()), "terminal", width)
        assert max(map(len, (text + rows).split("\n"))) <= width
        assert len(re.findall("^method ", rows, re.MULTILINE)) == 1
        assert len(re.findall("^method ", text, re.MULTILINE)) == len({one.task for one in records[0].results})
        for record in records:
            for result in record.results:
                value = number(100 * result.value if result.metric == "acc" else result.value)
                assert re.search(rf"(?<![\d.]){re.escape(value)}(?![\d.])", text), record.job_id


def test_the_terminal_shows_the_matrix_and_rows_when_asked(sweep, tmp_path, capsys) -> None:
    """`report`, `report --rows`, and `report --matrix METRIC` in a format that holds rows otherwise."""
    store = RecordStore(tmp_path)
    for job in sweep:
        store.save(job)

    def report(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["report", *options, "--results-dir", str(tmp_path)])
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    assert report().startswith("wikitext2 ppl @64 ↓\n")
    assert report("--rows").startswith("Measured results\n")
    assert report("--mean-over", "seed").startswith("Measured results\n")
    assert report("--format", "csv").startswith("model,method,pattern,sparsity,")
    assert report("--format", "csv", "--matrix", "boolq").splitlines()[0].startswith("model,method,50%,")

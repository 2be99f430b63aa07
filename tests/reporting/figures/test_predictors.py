"""Rank correlations between measures: of ranks, over the jobs that have both, from cheap to expensive."""

import math
from dataclasses import replace

import pytest
from scipy.stats import spearmanr

from harness.patterns import Unstructured
from harness.record import LayerReport, RunRecord
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture
from harness.reporting.figures.data import Data
from harness.reporting.figures.predictors import FEWEST_JOBS, correlations, counts, destroyed, measures
from harness.reporting.published import Published
from tests.reporting.conftest import make_accuracy, make_perplexity, make_record, measured_often

MODEL = "opt-125m"


def test_numbers_are_scipys_over_the_jobs_that_have_both(published: Published) -> None:
    """A perplexity counts as the better the lower it is; a job that lacks one of two measures counts for others."""
    table = measures(Data.of(measured_often(), published), MODEL)
    perplexity, lacking, other = "wikitext2 ppl @2048, 30 s", "task3 acc %, 35 s", "task9 acc %, 95 s"
    both = table[[lacking, other]].dropna()
    assert (len(table), len(both)) == (12, 8)
    assert counts(table).loc[lacking, other] == 8
    assert correlations(table).loc[lacking, other] == pytest.approx(spearmanr(both[lacking], both[other]).statistic)
    assert correlations(table).loc[perplexity, "task0 acc %, 5 s"] == pytest.approx(1)


def test_cheap_measures_come_first(published: Published) -> None:
    """By their seconds, of tasks that were scored together a share; the layers' error costs nothing."""
    layer = LayerReport("model.layers.0.fc1", (4, 4), 0.5, 0.5, 0.2, 64)
    records = [replace(record, layers=(layer,)) for record in measured_often(tasks=3)]
    names = list(measures(Data.of(records, published), MODEL).columns)
    assert names[0].startswith("output error of layers, 0 s")
    assert [name.rpartition(", ")[2] for name in names[1:]] == ["5 s", "15 s", "25 s", "30 s"]


def test_size_and_speed_are_no_quality(published: Published) -> None:
    """What a kind measures that asks for no quality has no row."""
    size = replace(make_perplexity(5.0), protocol="efficiency:size:v1", kind="efficiency", metric="parameters")
    records = [replace(record, results=(*record.results, size)) for record in measured_often(tasks=3)]
    assert measures(Data.of(records, published), MODEL).shape[1] == 4


def test_an_infinite_perplexity_is_the_worst_and_a_missing_one_no_rank(published: Published) -> None:
    """Ranks need no finite number; what could not be measured is left out."""
    records = [job(number, math.inf if number == 9 else None if number == 8 else 10.0 + number) for number in range(10)]
    data = Data.of(records, published)
    table = measures(data, MODEL)
    (perplexity,) = (name for name in table if "ppl" in name)
    assert table[perplexity].isna().sum() == 1
    assert correlations(table).loc[perplexity, "boolq acc %"] == pytest.approx(1)
    assert destroyed(data, MODEL) == {records[8].job_id, records[9].job_id}


def test_jobs_that_are_language_models_have_a_ranking_of_their_own(published: Published) -> None:
    """Destroyed models agree on everything; without them measures may not."""
    (picture,) = FIGURES.get("predictors")(Data.of(measured_often(20), published))
    assert isinstance(picture, Picture)
    titles = [part["title"] for part in picture.spec()["vconcat"]]
    assert titles == ["all 20 pruned jobs", "the 12 of them that still are language models"]


@pytest.mark.parametrize(("jobs", "tasks"), [(FEWEST_JOBS - 1, 3), (FEWEST_JOBS, 1)])
def test_few_jobs_or_measures_are_no_figure(jobs: int, tasks: int, published: Published) -> None:
    """It says why."""
    (found,) = FIGURES.get("predictors")(Data.of(measured_often(jobs, tasks), published))
    assert isinstance(found, NotDrawn)
    assert "8 pruned jobs with 3 metrics" in found.why


def job(number: int, perplexity: float | None) -> RunRecord:
    """A job whose accuracies fall with its number."""
    results = (replace(make_perplexity(1.0), value=perplexity), make_accuracy(0.9 - 0.01 * number))
    return make_record(
        "wanda", Unstructured(0.1 + 0.05 * number), (*results, make_accuracy(0.5 - 0.01 * number, "piqa"))
    )

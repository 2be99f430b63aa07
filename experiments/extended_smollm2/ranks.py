"""Which cheap measure predicts the expensive ones: Spearman's rank correlations over the kept jobs, with intervals."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import spearmanr

from harness.record import RunRecord
from harness.tracking.store import RecordStore

FOLDER = Path(__file__).parents[2] / "results" / "extended_smollm2"
ZERO_SHOT = ("boolq", "piqa", "arc_easy", "arc_challenge", "hellaswag")
MOST = 1000.0
"""Perplexity of a model that knows how frequent each token is, and nothing else."""


def measures(record: RunRecord) -> dict[str, float]:
    """All that is ranked; lower is better."""
    found = {(each.task, each.metric): each.value for each in record.results if each.value is not None}
    return {
        "KL": found["wikitext2", "kl"],
        "1 - agreement": 1 - found["wikitext2", "agreement"],
        "perplexity, WikiText-2": found["wikitext2", "perplexity"],
        "perplexity, PTB": found["ptb", "perplexity"],
        "bits per byte, six sets": fmean(value for (_, metric), value in found.items() if metric == "bits_per_byte"),
        "error, five tasks": 1 - fmean(found[task, "acc"] for task in ZERO_SHOT),
        "error, MMLU": 1 - found["mmlu", "acc"],
    }


def correlation(one: np.ndarray, other: np.ndarray) -> str:
    """Spearman's rank correlation, and the interval that holds it in 95 % of samples of the jobs."""
    samples = []
    for chosen in np.random.default_rng(0).integers(len(one), size=(2000, len(one))):
        if len(set(one[chosen])) > 1 and len(set(other[chosen])) > 1:  # of equal values there are no ranks
            samples.append(spearmanr(one[chosen], other[chosen]).statistic)
    low, high = np.percentile(samples, [2.5, 97.5])
    return f"{spearmanr(one, other).statistic:.2f} [{low:.2f}, {high:.2f}]"


def table(jobs: Mapping[str, Mapping[str, float]]) -> None:
    """Every cheap measure beside the three expensive ones."""
    names = list(next(iter(jobs.values())))
    columns = {name: np.array([each[name] for each in jobs.values()]) for name in names}
    cheap, expensive = names[:-3], names[-3:]
    print(f"{len(jobs)} jobs:", *jobs, sep="\n  ")
    print("", *expensive, sep=" | ")
    for name in cheap:
        print(name, *(correlation(columns[name], columns[other]) for other in expensive), sep=" | ")


def main() -> None:
    """All pruned jobs, then those that still are language models."""
    pruned = [record for record in RecordStore(FOLDER).all() if record.job["method"]["name"] != "dense"]
    jobs = {record.job_id: measures(record) for record in pruned}
    table(jobs)
    table({name: each for name, each in jobs.items() if each["perplexity, WikiText-2"] < MOST})


if __name__ == "__main__":
    main()

"""Statistics of measured numbers: means over seeds, quantiles, paired differences and McNemar's test."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.record import EvalResult, RunRecord
from harness.reporting.frame import Key, Measured, Spread, key_of, measured
from harness.reporting.layout import UNITS

CONFIDENCE = 0.95
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TASK_MEAN = "mean:"
"""What the protocol of a mean over tasks begins with."""
MEAN_NOTE = (
    "means over seeds; n values each, ± half the width of the 95% interval of Student's t distribution "
    "(none for n=1); every other setting is the same"
)


def mean_over_seeds(records: Sequence[RunRecord]) -> list[Measured]:
    """One entry for all done jobs that differ in the seed only, in one type of weights; failed jobs stay as they are.

    A result that one of the jobs lacks, or could not measure, is a mean over the others.
    """
    groups: dict[str, list[Measured]] = {}
    for record, entry in zip(records, measured(records), strict=True):
        job = {name: value for name, value in record.job.items() if name != "seed"}
        groups.setdefault(json.dumps([job, entry.job.dtype, entry.job.status], sort_keys=True), []).append(entry)
    entries: list[Measured] = []
    for members in groups.values():
        first = min(members, key=lambda entry: (entry.job.seed or 0, entry.job.job_id))
        if first.job.status == "failed":
            entries += members
            continue
        results: dict[Key, list[EvalResult]] = {}
        for entry in members:
            for key, result in entry.by_key.items():
                results.setdefault(key, []).append(result)
        means, spreads = [], {}
        for key, found in results.items():
            values = [result.value for result in found if result.value is not None]
            spreads[key] = Spread(len(values), mean_interval(values))
            means.append(replace(found[0], value=math.fsum(values) / len(values) if values else None, stderr=None))
        mean = replace(first.job, seed=None, dirty=any(entry.job.dirty for entry in members))
        jobs = tuple(entry.job.job_id for entry in members)
        entries.append(replace(first, job=mean, results=tuple(means), spreads=spreads, jobs=jobs))
    return entries


def with_task_means(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records with every accuracy's mean over the tasks that were asked equally many questions, as a result more.

    A record that lacks one of the tasks has no mean.  The standard error takes the tasks as independent.
    """
    suites: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        for result in record.results:
            if result.kind == "zero_shot" and UNITS.get(result.metric) == "%":
                limit = re.search(r":first\d+", result.protocol)
                suites.setdefault((result.metric, limit[0] if limit else ""), {})[result.protocol] = result.task
    several = {suite: protocols for suite, protocols in suites.items() if len(protocols) > 1}
    return [
        replace(record, results=(*record.results, *_task_means({key_of(one): one for one in record.results}, several)))
        for record in records
    ]


def _task_means(
    found: Mapping[Key, EvalResult], suites: Mapping[tuple[str, str], Mapping[str, str]]
) -> Iterator[EvalResult]:
    for (metric, limit), tasks in suites.items():
        results = [found[key] for protocol in sorted(tasks) if (key := (protocol, metric)) in found]
        values = [result.value for result in results if result.value is not None]
        if len(values) == len(tasks):
            errors = [result.stderr for result in results if result.stderr is not None]
            yield replace(
                results[0],
                protocol=f"{TASK_MEAN}{'+'.join(result.task for result in results)}{limit}",
                task=f"mean of {len(tasks)} tasks",
                value=math.fsum(values) / len(tasks),
                stderr=math.hypot(*errors) / len(tasks) if len(errors) == len(tasks) else None,
                num_samples=sum(result.num_samples for result in results),
                subset=None,
                data_source="",
                data_fingerprint="",
            )


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and the 5, 25, 50, 75 and 95 % quantiles of `count` finite numbers; all None when there is none."""

    count: int
    mean: float | None
    quantiles: tuple[float | None, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Distribution":
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if not finite:
            return cls(0, None, (None,) * len(QUANTILES))
        import numpy as np

        return cls(len(finite), math.fsum(finite) / len(finite), tuple(np.quantile(finite, QUANTILES).tolist()))


def mean_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean, by Student's t; None for fewer than two finite values."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    from scipy.special import stdtrit  # the t distribution's quantile, without the second that scipy.stats takes

    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * deviation / math.sqrt(len(values))


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value of McNemar's test: flips in both directions are equally likely (binomial, p = 1/2).

    Source: McNemar 1947, doi:10.1007/BF02295996; the exact form is the sign test on the discordant pairs.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def paired_interval(only_a: int, only_b: int, questions: int) -> tuple[float, float]:
    """Paired percentile bootstrap interval (95 %) of the accuracy of b minus that of a, over all resamples.

    A question counts -1, 0 or +1; the distribution of the sum over as many drawn questions is that of one, convolved
    with itself (by FFT).  It is written down, not sampled: no seed, and the same numbers wherever it is computed.

    Args:
        only_a, only_b: questions that only this job answers rightly.
        questions: all of them, >= 1.

    Returns:
        The smallest differences that at least 2.5 % and 97.5 % of all resamples do not exceed.
    """
    import numpy as np

    step_D = np.zeros(2 * questions + 1)  # differences 0, 1, ..., questions, -questions, ..., -1
    step_D[0], step_D[1], step_D[-1] = (part / questions for part in (questions - only_a - only_b, only_b, only_a))
    chance_D = np.fft.fftshift(np.fft.irfft(np.fft.rfft(step_D) ** questions, len(step_D)))
    below_D, tail = np.cumsum(chance_D), (1 - CONFIDENCE) / 2
    low, high = ((int(np.searchsorted(below_D, share)) - questions) / questions for share in (tail, 1 - tail))
    return low, high

"""Means over jobs that differ in nothing but the seed, with 95 % intervals."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.record import EvalResult, RunRecord
from harness.reporting.frame import Measured, measured

CONFIDENCE = 0.95
NOTE = (
    "means over seeds; n values each, ± half the width of the 95% interval of Student's t distribution "
    "(none for n=1); every other setting is the same"
)


@dataclass(frozen=True, slots=True)
class Spread:
    """How a mean is spread: over `samples` values; `interval` is None for a single one."""

    samples: int
    interval: float | None


Spreads = Mapping[tuple[str, str, str], Spread]
"""By job id of the mean's first job, protocol and metric."""


def mean_over_seeds(records: Sequence[RunRecord]) -> tuple[list[Measured], Spreads]:
    """One entry for all done jobs that differ in the seed only; failed jobs stay as they are.

    A result that one of the jobs lacks, or could not measure, is a mean over the others.

    Raises:
        UserError: a record's job lacks a field of its identity.
    """
    entries: list[Measured] = []
    spreads: dict[tuple[str, str, str], Spread] = {}
    for group in _groups(records):
        members = measured(group)
        first = min(members, key=lambda entry: (entry.job.seed or 0, entry.job.job_id))
        if first.job.status == "failed":
            entries += members
            continue
        results: dict[tuple[str, str], list[EvalResult]] = {}
        for entry in members:
            for result in entry.results:
                results.setdefault((result.protocol, result.metric), []).append(result)
        means = []
        for (protocol, metric), found in results.items():
            values = [result.value for result in found if result.value is not None]
            spreads[first.job.job_id, protocol, metric] = Spread(len(values), interval(values))
            means.append(replace(found[0], value=math.fsum(values) / len(values) if values else None, stderr=None))
        dirty = any(entry.job.dirty for entry in members)
        entries.append(replace(first, job=replace(first.job, seed=None, dirty=dirty), results=tuple(means)))
    return entries, spreads


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean, by Student's t; None for fewer than two finite values."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    from scipy.special import stdtrit  # the t distribution's quantile, without the second that scipy.stats takes

    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * deviation / math.sqrt(len(values))


def _groups(records: Sequence[RunRecord]) -> Iterable[list[RunRecord]]:
    """Records whose jobs are the same but for the seed and that ran in one type of weights; failures apart."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        job = {name: value for name, value in record.job.items() if name != "seed"}
        key = json.dumps([job, record.provenance.dtype, record.status], sort_keys=True)
        groups.setdefault(key, []).append(record)
    return groups.values()

"""Records as rows: one a job, or one a (job, metric) as a pandas frame.  Pure; reads nothing from disk."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.record import ChoiceFields, EvalResult, JsonValue, RunRecord, TrainingFields
from harness.reporting.paper_names import not_defaults, paper_name
from harness.reporting.published import DENSE, Setting

if TYPE_CHECKING:
    import pandas as pd

COUNTED_TOLERANCE = 5e-4
"""Counted zeros this close to the request are the request: exact counts round to whole weights."""
PARAMS_SEPARATOR = ", "
"""Between the hyperparameters of one method; none of their values has it."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """What a table says of one job.  Empty text and None mean that it does not apply (a dense job's calibration).

    Args:
        sparsity: fraction of zeros asked for; achieved_sparsity: counted over all prunable weights.
        params, allocation, recovery: name and hyperparameters as ``name (key=value, ...)``, of a recovery also what it
            trains on, where that is not just the calibration.
        calibration: corpus, sequences × tokens; calibration_data, training_data: identity of their content.
        dtype: type of the weights, resolved; device: where it ran.
        changed: hyperparameters of the method that were not its defaults when the job ran.
        paper_name: of the model in papers; paper_method: of method, hyperparameters, allocation and recovery in
            papers; empty where none prints them.
        differs: what the code computes otherwise than those papers' authors did.
    """

    job_id: str
    model: str
    checkpoint: str
    method: str
    params: str
    pattern: str
    sparsity: float
    achieved_sparsity: float | None
    allocation: str
    recovery: str
    training_data: str
    calibration: str
    calibration_data: str
    sampling: str
    propagation: str
    seed: int | None
    dtype: str
    device: str
    status: str
    dirty: bool
    changed: str
    paper_name: str
    paper_method: str
    differs: str

    @property
    def is_dense(self) -> bool:
        return self.method == DENSE

    @property
    def shown_pattern(self) -> str:
        """The pattern, of which a dense model has none."""
        return "" if self.is_dense else self.pattern

    @property
    def counted(self) -> float | None:
        """Zeros counted; those asked for where the two only differ by the rounding to whole weights."""
        achieved = self.achieved_sparsity
        near = achieved is not None and abs(achieved - self.sparsity) < COUNTED_TOLERANCE
        return self.sparsity if near else achieved


@dataclass(frozen=True, slots=True)
class Spread:
    """How a mean is spread: over `samples` values; `interval` is None for a single one."""

    samples: int
    interval: float | None


Key = tuple[str, str]


def key_of(result: EvalResult) -> Key:
    """What a column is of: protocol and metric."""
    return (result.protocol, result.metric)


@dataclass(frozen=True, slots=True)
class Measured:
    """A job and all its results, or the means over several jobs, with their spreads by `key_of` and their ids."""

    job: JobRow
    results: tuple[EvalResult, ...]
    timings_s: Mapping[str, float]
    error: str | None
    spreads: Mapping[Key, Spread] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()

    @property
    def by_key(self) -> dict[Key, EvalResult]:
        """Every result by its key."""
        return {key_of(result): result for result in self.results}

    def setting(self, result: EvalResult) -> Setting | None:
        """The published setting this result may be compared with; None when there cannot be one.

        Published numbers are of methods and allocations with their defaults when the job ran, propagation among them:
        a job with another value compares with none, nor does a method that is ours under a published name.  Only
        results on all of the official data compare: a subset, other data or an option such as a BOS in every window is
        part of the protocol key, which then equals no published one.
        """
        job = self.job
        if not job.paper_name or not job.paper_method or result.subset is not None:
            return None
        protocol = re.sub(r":v[^:]+$", "", result.protocol)
        return Setting(job.paper_name, job.paper_method, job.pattern, job.sparsity, protocol, result.metric)


def measured(records: Sequence[RunRecord]) -> list[Measured]:
    """One entry a record, in the given order."""
    return [Measured(describe(record), record.results, record.timings_s, record.error) for record in records]


def describe(record: RunRecord) -> JobRow:
    """The job of a record, flat."""
    job = record.job
    model, method, calibration, training = job["model"], job["method"], job["calibration"], job.get("training")
    changed = _params(not_defaults(method, record.defaults.method))
    paper_method, differs = paper_name(record, changed)
    return JobRow(
        job_id=record.job_id,
        model=model["name"],
        checkpoint=model["checkpoint"],
        method=method["name"],
        params=_params(method["params"]),
        pattern=job["pattern"],
        sparsity=job["sparsity"],
        achieved_sparsity=record.achieved_sparsity,
        allocation=_choice(job["allocation"]),
        recovery=_choice(_recovery(job["recovery"], training)),
        training_data=training["data"] if training else "",
        calibration="{corpus} {num_sequences}×{seq_len}".format_map(calibration) if calibration else "",
        calibration_data=calibration["data"] if calibration else "",
        sampling=calibration["sampling"] if calibration else "",
        propagation=calibration["propagation"] if calibration else "",
        seed=None if method["name"] == DENSE else job["seed"],
        dtype=record.provenance.dtype,
        device=record.provenance.device,
        status=record.status,
        dirty=record.provenance.dirty,
        changed=changed,
        paper_name=record.defaults.paper_name or "",
        paper_method=paper_method,
        differs=differs,
    )


RESULT_COLUMNS = (
    *("protocol", "task", "metric", "value", "stderr", "num_samples", "subset", "higher_is_better"),
    *("data_source", "data_fingerprint"),
)
SECONDS_COLUMNS = ("seconds", "seconds_load", "seconds_calibrate", "seconds_prune", "seconds_evaluate")


def to_frame(records: Sequence[RunRecord]) -> "pd.DataFrame":
    """One row a (job, metric), tidy; a job without results has one row whose metric is missing.

    Columns: those of `JobRow`, then protocol, task, metric, value (perplexity, or accuracy as a fraction), stderr,
    num_samples, subset, higher_is_better, data_source, data_fingerprint, then seconds (total) and
    seconds_load / _calibrate / _prune / _evaluate.
    """
    import pandas as pd  # here, because `list` and `plan` must not wait for it

    rows = []
    for entry in measured(records):
        job = {name: getattr(entry.job, name) for name in JobRow.__slots__}
        for step, spent in entry.timings_s.items():
            job["seconds" if step == "total" else f"seconds_{step}"] = spent
        rows += [
            job | {name: getattr(result, name, None) for name in RESULT_COLUMNS} for result in entry.results or (None,)
        ]
    fixed = [*JobRow.__slots__, *RESULT_COLUMNS, *SECONDS_COLUMNS]  # which an empty frame has, too
    return pd.DataFrame(rows, columns=fixed + sorted({name for row in rows for name in row} - set(fixed)))


def _params(params: Mapping[str, JsonValue]) -> str:
    return PARAMS_SEPARATOR.join(f"{name}={params[name]}" for name in sorted(params))


def _recovery(choice: ChoiceFields, training: TrainingFields | None) -> ChoiceFields:
    """With what it trains on among its parameters, by the fields of ``training``."""
    if training is None:
        return choice
    own = {"training": "{corpus} {num_sequences}×{seq_len} {sampling}".format_map(training)}
    budget = {} if training["tokens"] is None else {"training.tokens": training["tokens"]}
    return {"name": choice["name"], "params": {**choice["params"], **own, **budget}}


def _choice(choice: ChoiceFields) -> str:
    params = _params(choice["params"])
    return f"{choice['name']} ({params})" if params else choice["name"]

"""The wall time of a job, estimated before it starts: from finished jobs like it, else from its work and a rate.

The work is a multiplication for every token that goes through the model and every weight of it: calibration sequences
as often as the method has them pass, and the windows that perplexity is measured on.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

from harness.config.request import JobRequest
from harness.evaluation.base import EVALUATIONS
from harness.jobs.peak_memory import calibration_tokens
from harness.jobs.plan import PlannedJob
from harness.models.dimensions import dimensions_of
from harness.pruning.allocations.base import UNIFORM
from harness.pruning.methods.base import METHODS
from harness.record import RunRecord

TRIAL_WIDTH, TRIALS = 512, 5
LIKE_IT = "finished jobs like it"
SAME_WORK = ("model", "method", "calibration", "allocation", "recovery", "training")


@dataclass(frozen=True, slots=True)
class WallTime:
    """Seconds that a job takes, and what says so."""

    seconds: float
    basis: str


def measured_seconds(job: PlannedJob, records: Iterable[RunRecord]) -> float | None:
    """Wall time of the like of this job: the median over finished ones of the same work.

    That is the same model, method, calibration, allocation, recovery, training and evaluations; the sparsity may be
    another.
    None when nothing like it has finished, and 0 when it is done.
    """
    if not job.needs_run:
        return 0.0
    spec = job.request.spec
    wanted = {protocol.key for protocol in spec.evaluation}
    identity = spec.identity()
    alike = [
        record.timings_s["total"]
        for record in records
        if all(record.job.get(axis) == identity.get(axis) for axis in SAME_WORK)
        and wanted == {result.protocol for result in record.results}
    ]
    return median(alike) if alike else None


def estimated(job: PlannedJob, records: Sequence[RunRecord]) -> WallTime | None:
    """The wall time of a job; None where its work is not known, such as that of training, or of zero-shot tasks."""
    if (seconds := measured_seconds(job, records)) is not None:
        return WallTime(seconds, LIKE_IT)
    work = _work(job.request)
    if work is None:
        return None
    rates = [rate for record in records for rate in _rates(record)]
    if rates:
        return WallTime(work * median(rates), "tokens times weights, at the rate of finished jobs here")
    return WallTime(work * _trial(), "tokens times weights, at this processor's rate in a short trial")


def _work(request: JobRequest) -> float | None:
    """Tokens times weights."""
    dimensions, spec = dimensions_of(request.checkpoint), request.spec
    if dimensions is None and request.size_b is None:
        return None
    tokens = 0.0
    if spec.pruning is not None:
        method, calibration = METHODS.build(spec.pruning.method), spec.pruning.calibration
        passes = method.passes
        if passes is None or spec.pruning.allocation.name != UNIFORM or spec.pruning.recovery.name != "none":
            return None
        every = calibration.num_sequences * calibration.seq_len
        tokens += every if calibration.sampling == "sampled" else 0
        tokens += passes * (every if method.uses_gradients else calibration_tokens(request))
    for protocol in spec.evaluation:
        kind, data = EVALUATIONS.get(protocol.kind), request.evaluation.get(protocol.key)
        need = kind.needs(protocol, data, request.options)
        if not need.tokens_together:
            return None
        tokens += need.tokens_together + need.tokens_of_dense
    return tokens * (dimensions.num_weights if dimensions else float(request.size_b or 0) * 1e9)


def _rates(record: RunRecord) -> list[float]:
    """Seconds a token and a weight, of the perplexities that a job measured."""
    weights = sum(math.prod(layer.shape) for layer in record.layers)
    found = []
    for result in record.results:
        seconds, tokens = result.details.get("seconds"), result.details.get("predicted_tokens")
        if weights and isinstance(seconds, float) and isinstance(tokens, int):
            found.append(seconds / tokens / weights)
    return found


@cache
def _trial() -> float:
    """Seconds a multiplication in a matrix product of float32 on this processor."""
    import numpy as np  # here: few plans need it

    square = np.ones((TRIAL_WIDTH, TRIAL_WIDTH), np.float32)
    seconds = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        square @ square
        seconds.append(time.perf_counter() - start)
    return min(seconds) / TRIAL_WIDTH**3

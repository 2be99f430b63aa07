"""The knee of a sweep over sparsity: up to where a model can be pruned before it falls apart.

Essential Sparsity reads it off a plot (Jaiswal et al. 2023, https://arxiv.org/abs/2306.03805); here it is a rule.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.errors import UserError
from harness.record import EvalResult, RunRecord
from harness.reporting.axes import differing, job_order
from harness.reporting.frame import Key, Measured, measured
from harness.reporting.layout import Cell, Column, Table, percent
from harness.reporting.marks import Footnotes
from harness.reporting.tables import columns_of, protocol_notes, value_columns

LEAST = 4
"""Fewer sparsities, the dense model's among them, make no sweep."""
DELTA = 0.01
RULE = (
    "each number: the last sparsity [% zeros] before the metric gets worse, in one step of the sweep, by more than "
    f"{percent(DELTA)} of itself; the dense model is the first step where it was measured"
)
UNREACHED = ("§", "no step of this sweep loses more: its largest sparsity")


def knee(
    sparsities: Sequence[float], scores: Sequence[float], *, higher_is_better: bool, delta: float = DELTA
) -> float | None:
    """The last sparsity before the score gets worse, in one step of the sweep, by more than `delta` of itself.

    A step goes from one sparsity to the next larger one; its loss is relative to the score that it starts from.

    Args:
        sparsities: of the sweep, distinct, in any order; 0 (the dense model) may be among them.
        scores: one a sparsity, in the same order; a number that is not finite is worse than any.
        delta: most relative loss of a step, >= 0.

    Returns:
        The largest sparsity when no step loses more, None when already the first score is not finite.

    Raises:
        UserError: nothing to look at, a sparsity twice, or a `delta` below 0.
    """
    if not sparsities or len(sparsities) != len(scores) or len(set(sparsities)) != len(sparsities):
        raise UserError(
            f"{len(sparsities)} sparsities ({len(set(sparsities))} distinct) and {len(scores)} scores make no knee; "
            "allowed: one score for every distinct sparsity, at least one"
        )
    if not delta >= 0.0:
        raise UserError(f"delta={delta:g} is not allowed; allowed: delta >= 0")
    steps = sorted(zip(sparsities, scores, strict=True))
    last, before = steps[0]
    if not math.isfinite(before):
        return None
    for sparsity, score in steps[1:]:
        loss = before - score if higher_is_better else score - before
        if not math.isfinite(score) or loss > delta * abs(before):
            break
        last, before = sparsity, score
    return last


def knees(records: Sequence[RunRecord]) -> Table:
    """The knee of every unstructured sweep under every metric: rows are methods in one setting, columns metrics.

    Raises:
        UserError: no sweep has enough sparsities.
    """
    done = [one for one in measured(records) if one.job.status == "done"]
    entries = sorted(done, key=lambda one: job_order(one.job))
    dense = {(one.job.model, one.job.checkpoint, one.job.dtype): one for one in entries if one.job.is_dense}
    unstructured = [one for one in entries if one.job.pattern == "unstructured"]
    axes = differing([one.job for one in unstructured])
    sweeps: dict[tuple[str, ...], list[Measured]] = {}
    for one in unstructured:
        job, first = one.job, dense.get((one.job.model, one.job.checkpoint, one.job.dtype))
        shared = (job.model, job.method, *(axis.value(job) for axis in axes))
        sweeps.setdefault(shared, [first] if first else []).append(one)
    kept = {shared: found for shared, found in sweeps.items() if len(found) >= LEAST}
    if not kept:
        most = max(map(len, sweeps.values()), default=0)
        raise UserError(f"{most} sparsities of one method in one setting are no sweep; allowed: at least {LEAST}")
    used = [one for found in kept.values() for one in found]
    results, notes = columns_of(used), Footnotes()
    notes.add(RULE)
    rows = [
        (*map(Cell, key), *(_cell(found, column, example, notes) for column, example in results.items()))
        for key, found in kept.items()
    ]
    columns = [replace(column, unit="%", higher_is_better=True) for column in value_columns(results)]
    labels = ["model", "method", *(axis.header for axis in axes)]
    footnotes = (*protocol_notes(used, results), *notes.lines())
    return Table("Knees of sweeps over sparsity", (*map(Column, labels), *columns), tuple(rows), footnotes)


def _cell(found: Sequence[Measured], column: Key, example: EvalResult, notes: Footnotes) -> Cell:
    results = {one.job.sparsity: one.by_key[column] for one in found if column in one.by_key}
    if len(results) < LEAST:
        return Cell()
    scores = [math.nan if result.value is None else result.value for result in results.values()]
    at = knee(list(results), scores, higher_is_better=example.higher_is_better)
    if at is None or at < max(results):
        return Cell(measured=None if at is None else 100 * at)
    notes.add(" ".join(UNREACHED))
    return Cell(measured=100 * at, marks=UNREACHED[0])

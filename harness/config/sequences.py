"""The sequences that a job draws, as `calibration` and `training` say: to calibrate it, and for its recovery."""

from dataclasses import asdict
from typing import cast

from harness.config.schema import Configuration, SequenceFields
from harness.data.corpora.base import CORPORA
from harness.data.places import DataRef, Role
from harness.data.sources import resolve
from harness.errors import UserError, unknown
from harness.job import CalibrationSpec, Propagation, SequencesSpec, TrainingSpec
from harness.pruning.allocations.base import Allocation
from harness.pruning.methods.base import PruningMethod
from harness.recovery.base import Recovery


def calibration_of(
    config: Configuration, method: PruningMethod, allocation: Allocation
) -> tuple[CalibrationSpec, DataRef]:
    """What the statistics are taken from.

    Raises:
        UserError: there are no such data, or not so many.
    """
    drawn, data = _sequences(config.calibration, "calibration")
    shape, count = CORPORA.get(drawn.corpus).shape(data), drawn.num_sequences
    if allocation.measures_trials and shape is not None and count == shape[0]:
        raise UserError(
            f"calibration.num_sequences={count} leaves none of {count} sequences for allocation="
            f"{config.allocation['name']} to measure on; allowed: 1 to {count - 1}"
        )
    # A method that sees the whole model makes no difference between the two: one job, whatever is asked for.
    wanted = config.calibration.propagation
    own = wanted == "auto" or method.needs_whole_model
    propagation = cast("Propagation", method.propagation if own else wanted)
    return CalibrationSpec(**asdict(drawn), propagation=propagation), data


def training_of(
    config: Configuration, recovery: Recovery, calibration: CalibrationSpec, calibration_data: DataRef
) -> tuple[TrainingSpec | None, DataRef | None]:
    """What the recovery trains on; None where that is what it trains on when nothing is said.

    Raises:
        UserError: there are no such data, or not so many; or the budget counts nothing, or ends before the first step.
    """
    own, tokens, name = config.training, config.training.tokens, config.recovery["name"]
    drawn, data = calibration.drawn, calibration_data
    if any(getattr(own, each) != getattr(config.calibration, each) for each in SequenceFields.model_fields):
        drawn, data = _sequences(own, "training")
    if tokens is not None:
        budget = recovery.training(drawn.num_sequences, drawn.seq_len)
        if budget is None or CORPORA.get(drawn.corpus).reads == "images":
            counted = f"recovery={name} counts none" if budget is None else f"{drawn.corpus} has images"
            raise UserError(f"training.tokens={tokens}, but {counted}; allowed: training.tokens=null")
        if tokens < budget.step:
            raise UserError(
                f"training.tokens={tokens} ends before the first step of recovery={name}, which sees {budget.step}; "
                f"allowed: null, or an integer >= {budget.step}"
            )
        tokens = tokens if tokens < budget.all_steps else None  # one job with those that are not cut short
    if tokens is None and drawn == calibration.drawn:
        return None, None
    return TrainingSpec(**asdict(drawn), tokens=tokens), data


def _sequences(wanted: SequenceFields, role: Role) -> tuple[SequencesSpec, DataRef]:
    """The sequences that the fields of ``calibration`` or ``training`` ask for."""
    data = resolve(wanted.corpus, role, path=wanted.path, source=wanted.source)
    corpus = CORPORA.get(wanted.corpus)
    sampling = corpus.sampling(data) if wanted.sampling == "auto" else wanted.sampling
    if sampling not in corpus.samplings:
        raise unknown(f"{role}.sampling", sampling, corpus.samplings)
    most_sequences, longest = corpus.shape(data) or (None, None)
    num_sequences = _extent(f"{role}.num_sequences", wanted.num_sequences, 1, most_sequences)
    seq_len = _extent(f"{role}.seq_len", wanted.seq_len, 2, longest)
    if not corpus.cuts_rows and seq_len != longest:
        raise unknown(f"{role}.seq_len", seq_len, (None, longest))
    return SequencesSpec(wanted.corpus, data.identity, num_sequences, seq_len, sampling), data


def _extent(field: str, value: int | None, least: int, most: int | None) -> int:
    """A size; of an array that has `most`, null means all."""
    size = most if value is None else value
    if size is None:
        raise UserError(f"{field}=null is not allowed; allowed: an integer >= {least}")
    if most is not None and size > most:
        raise UserError(f"{field}={size} is more than the array has; allowed: {least} to {most}")
    return size

"""The sequences of a job: those that calibrate it, held-out ones that candidates are measured on, and training ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.blocks.trial import Edited, Edits, Trials
from harness.config.request import JobRequest
from harness.data.arrays import check_ids
from harness.data.corpora.base import CORPORA, ArrayCorpus, TextCorpus
from harness.data.corpora.self_generated import SelfGenerated
from harness.data.places import DataRef
from harness.data.sequences import RandomWindows
from harness.errors import UserError
from harness.evaluation.base import check_length
from harness.evaluation.kinds.accuracy import accuracy
from harness.evaluation.perplexity import TrialLoss
from harness.job import SequencesSpec
from harness.jobs.context import JobContext
from harness.models.loading import LoadedModel
from harness.models.sampling import sampled
from harness.progress import Reporter


@dataclass(frozen=True, slots=True)
class Draw:
    """What decides sequences.

    Args:
        data: behind the spec.
        seed: of the job.
    """

    spec: SequencesSpec
    data: DataRef
    seed: int


def calibration_draw(request: JobRequest) -> Draw:
    """Of the sequences that the job is calibrated on."""
    assert request.calibration is not None, "calibration has data"
    return Draw(request.pruning.calibration.drawn, request.calibration, request.pruning.seed)


def training_draw(request: JobRequest) -> Draw:
    """Of the sequences that the job's recovery trains on."""
    training = request.pruning.training
    if training is None:
        return calibration_draw(request)
    assert request.training is not None, "training has data"
    return Draw(training.drawn, request.training, request.pruning.seed)


def kept_tokens(draw: Draw, loaded: LoadedModel, job: JobContext) -> Tensor:
    """The sequences, made once for all jobs of the model that share them."""
    return loaded.cache.of(draw, lambda: drawn_tokens(draw, loaded, job.device, job.reporter)[0])


def drawn_tokens(
    draw: Draw, loaded: LoadedModel, device: torch.device, reporter: Reporter, *, more: int = 0
) -> tuple[Tensor, Tensor]:
    """The sequences, and up to `more` held-out ones that share no row and no token with them; of images all.

    Args:
        loaded: still dense, where its own sequences are asked for.
        device: where such sequences are sampled.
    """
    spec, data = draw.spec, draw.data
    check_length(f"{data.role}.seq_len", spec.seq_len, loaded)
    count, seq_len = spec.num_sequences, spec.seq_len
    corpus = CORPORA.get(spec.corpus)
    if isinstance(corpus, SelfGenerated):
        rows_NL = sampled(loaded, (count + more, seq_len), draw.seed, device, reporter)
        return rows_NL[:count], rows_NL[count:]
    if isinstance(corpus, ArrayCorpus):
        are_tokens = corpus.reads == "text"
        rows = corpus.token_rows(data, loaded.vocab_size) if are_tokens else corpus.rows(data)
        end = count + more if are_tokens else len(rows)
        drawn, apart = rows[:count, :seq_len], rows[count:end, :seq_len]
    else:
        assert isinstance(corpus, TextCorpus), f"{spec.corpus} is neither text nor an array"
        documents = corpus.documents(data)
        text = RandomWindows(
            documents, loaded.tokenizer, seq_len=seq_len, seed=draw.seed, sampling=spec.sampling, role=data.role
        )
        drawn, places = text.draw(count)
        check_ids(drawn, loaded.vocab_size, f"{data.role}={spec.corpus}")
        apart, _ = text.draw_apart(more, places)
    return torch.from_numpy(drawn.copy()), torch.from_numpy(apart.copy())


def held_out_trials(job: JobContext, loaded: LoadedModel, num_sequences: int) -> Trials:
    """Measures candidates on sequences that the job's own do not touch.

    Raises:
        UserError: there are none.
    """
    request, device = job.request, job.device
    calibration = request.pruning.calibration
    is_labelled = request.checkpoint.kind.labelled
    _, tokens_BL = drawn_tokens(calibration_draw(request), loaded, device, job.reporter, more=num_sequences)
    if not len(tokens_BL):
        raise UserError(
            "candidates are measured on sequences that calibration leaves over, and "
            f"calibration.num_sequences={calibration.num_sequences} leaves none; allowed: fewer"
        )
    if not is_labelled:
        batch_tokens = request.options.batch_tokens
        return TrialLoss(loaded.model, loaded.offloading, tokens_BL, batch_tokens=batch_tokens, device=device)

    def wrong(edits: Edits, base: Edits = {}) -> float:  # noqa: B006  # nobody writes to it
        right = accuracy(loaded.model, Edited(loaded.offloading, {**base, **edits}), tokens_BL, device).value
        return math.inf if right is None else 1.0 - right

    return wrong

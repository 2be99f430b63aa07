"""The sequences of a job: those that calibrate it, and held-out ones that candidates are measured on."""

import math
from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from harness.blocks.trial import Edited, Edits, Trials
from harness.config.request import JobRequest
from harness.data.arrays import check_ids
from harness.data.corpora.base import CORPORA, ArrayCorpus, TextCorpus
from harness.data.sequences import RandomWindows
from harness.errors import UserError
from harness.evaluation.base import check_length
from harness.evaluation.kinds.accuracy import accuracy
from harness.evaluation.perplexity import TrialLoss
from harness.models.loading import LoadedModel


def drawn_with(request: JobRequest) -> Hashable:
    """What decides the calibration sequences."""
    pruning = request.pruning
    return replace(pruning.calibration, propagation="pruned"), request.calibration, pruning.seed


def kept_calibration(request: JobRequest, loaded: LoadedModel) -> Tensor:
    """The job's calibration sequences, made once for all jobs of the model that share them."""
    return loaded.cache.of(drawn_with(request), lambda: calibration_tokens(request, loaded)[0])


def calibration_tokens(request: JobRequest, loaded: LoadedModel, *, more: int = 0) -> tuple[Tensor, Tensor]:
    """The job's sequences, and up to `more` held-out ones that share no row and no token with them; of images all."""
    calibration, data = request.pruning.calibration, request.calibration
    assert data is not None, "calibration has data"
    check_length("calibration.seq_len", calibration.seq_len, loaded)
    count, seq_len = calibration.num_sequences, calibration.seq_len
    corpus = CORPORA.get(calibration.corpus)
    if isinstance(corpus, ArrayCorpus):
        are_tokens = corpus.reads == "text"
        rows = corpus.token_rows(data, loaded.vocab_size) if are_tokens else corpus.rows(data)
        end = count + more if are_tokens else len(rows)
        drawn, apart = rows[:count, :seq_len], rows[count:end, :seq_len]
    else:
        assert isinstance(corpus, TextCorpus), f"{calibration.corpus} is neither text nor an array"
        text = RandomWindows(
            corpus.documents(data),
            loaded.tokenizer,
            seq_len=seq_len,
            seed=request.pruning.seed,
            sampling=calibration.sampling,
        )
        drawn, places = text.draw(count)
        check_ids(drawn, loaded.vocab_size, f"calibration={calibration.corpus}")
        apart, _ = text.draw_apart(more, places)
    return torch.from_numpy(drawn.copy()), torch.from_numpy(apart.copy())


def held_out_trials(request: JobRequest, loaded: LoadedModel, device: torch.device, num_sequences: int) -> Trials:
    """Measures candidates on sequences that the job's own do not touch.

    Raises:
        UserError: there are none.
    """
    calibration = request.pruning.calibration
    is_labelled = request.checkpoint.kind.labelled
    _, tokens_BL = calibration_tokens(request, loaded, more=num_sequences)
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

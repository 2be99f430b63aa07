"""Token-window perplexity of a language model on a corpus."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.evaluation.base import EVALUATIONS, EvaluationContext, Measured, Ready
from harness.evaluation.windows import OnWindows, WindowProtocol, Windows
from harness.job import Identity
from harness.record import EvalResult


@dataclass(frozen=True, slots=True)
class PerplexityProtocol(WindowProtocol):
    """Token-window perplexity: non-overlapping windows, exp of the mean negative log-likelihood."""

    kind: ClassVar[str] = "perplexity"

    @property
    def version(self) -> int:
        """Raised when the computation changes: version 1 put BOS twice where the tokenizer adds one, too."""
        return 2 if self.bos_every_window else 1


@EVALUATIONS.register(PerplexityProtocol.kind)
@dataclass(frozen=True, slots=True)
class WindowPerplexity(OnWindows[PerplexityProtocol]):
    """Perplexity on windows of a corpus.

    Args:
        corpora: names of corpora.
    """

    called: ClassVar[str] = "perplexity corpora"
    asks: ClassVar[str] = "corpora"
    measures: ClassVar[str] = "perplexity"

    corpora: Identity[tuple[str, ...]] = ()

    @classmethod
    def measure(cls, asked: Sequence[Ready[PerplexityProtocol]], context: EvaluationContext) -> Measured:
        return Measured(tuple(_measured(each, context) for each in asked))


def _measured(asked: Ready[PerplexityProtocol], context: EvaluationContext) -> EvalResult:
    from harness.blocks.runner import BlockRunner, in_batches
    from harness.evaluation.perplexity import perplexity, perplexity_from

    protocol, loaded, reporter, options = asked.protocol, context.loaded, context.reporter, context.options
    prepared: Windows = asked.prepared
    windows_NL, tokens = prepared.windows_NL, prepared.tokens
    start, count = time.perf_counter(), len(windows_NL)
    step = f"evaluate: perplexity on {protocol.corpus}"
    if options.offload == "none":
        reporter.start(step, count)
        measured = perplexity(
            loaded.model,
            windows_NL,
            batch_tokens=options.batch_tokens,
            device=context.device,
            reporter=reporter,
            compiled=options.compile,
        )
    else:
        reporter.start(f"{step}, block by block", loaded.num_blocks)
        batches = in_batches(windows_NL, options.batch_tokens)
        measured = perplexity_from(BlockRunner(loaded.model, batches, loaded.offloading, context.device), reporter)
    return asked.result(
        "perplexity",
        prepared.said(measured, protocol),
        {
            "seq_len": protocol.seq_len,
            "predicted_tokens": count * (protocol.seq_len - 1),
            "compiled": options.compile,
            "unk_tokens": tokens.num_unk,
            "seconds": round(time.perf_counter() - start, 4),
        },
        higher_is_better=False,
        fingerprint=tokens.fingerprint,
    )

"""KL divergence of a pruned model's next tokens from the dense model's, on token windows of a corpus.

What is kept of the dense model are its hidden states behind the last block, once for all jobs on the model that share
a process and a protocol.  Its logits are made again from these, which is exact: full log-probabilities of SmolLM2's
49,152 tokens in float32 would be 85 times as large.  Both models go through their blocks in the same way and in the
same batches, wherever these are, so that the dense model's own divergence is exactly 0.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from harness.data.places import DataRef
from harness.evaluation.base import EVALUATIONS, EvaluationContext, Measured, MemoryNeed, Ready
from harness.evaluation.windows import OnWindows, WindowProtocol, Windows
from harness.job import Identity, RunOptions
from harness.record import EvalResult, JsonValue

if TYPE_CHECKING:
    from harness.blocks.runner import Behind
    from harness.models.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class DivergenceProtocol(WindowProtocol):
    """Mean KL(dense || pruned) of the next token, in nats, and how often both models' likeliest token is the same."""

    kind: ClassVar[str] = "kl"


@EVALUATIONS.register(DivergenceProtocol.kind)
@dataclass(frozen=True, slots=True)
class WindowDivergence(OnWindows[DivergenceProtocol]):
    """KL divergence from the dense model, and agreement with it, on windows of a corpus.

    Args:
        kl: names of corpora.
    """

    called: ClassVar[str] = "KL corpora"
    asks: ClassVar[str] = "kl"
    measures: ClassVar[str] = "KL"
    needs_dense: ClassVar[bool] = True

    kl: Identity[tuple[str, ...]] = ()

    @classmethod
    def measure(cls, asked: Sequence[Ready[DivergenceProtocol]], context: EvaluationContext) -> Measured:
        return Measured(tuple(result for each in asked for result in _measured(each, context)))

    @classmethod
    def needs(cls, protocol: DivergenceProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        need = super(WindowDivergence, cls).needs(protocol, data, options)
        return replace(need, tokens_of_dense=need.tokens_together)


def _behind(loaded: "LoadedModel", windows: Windows, context: EvaluationContext, step: str) -> "Behind":
    from harness.blocks.runner import BlockRunner, in_batches

    batches = in_batches(windows.windows_NL, context.options.batch_tokens)
    context.reporter.start(f"{step}, block by block", loaded.num_blocks)
    return BlockRunner(loaded.model, batches, loaded.offloading, context.device).behind(context.reporter.advance)


def _measured(asked: Ready[DivergenceProtocol], context: EvaluationContext) -> list[EvalResult]:
    from harness.evaluation.divergence import divergence, estimate

    protocol, loaded, dense, reporter = asked.protocol, context.loaded, context.dense, context.reporter
    assert dense is not None, "a kind that needs the dense model is given it"
    windows: Windows = asked.prepared
    start, count, step = time.perf_counter(), len(windows.windows_NL), f"evaluate: KL on {protocol.corpus}"
    was = loaded.cache.of((protocol, asked.data, "dense"), lambda: _behind(dense, windows, context, f"{step}, dense"))
    now = _behind(loaded, windows, context, step)
    reporter.start(f"{step}, windows", count)
    both = (dense.model, was), (loaded.model, now)
    found = divergence(*both, windows.windows_NL, device=context.device, reporter=reporter)
    details: dict[str, JsonValue] = {
        "seq_len": protocol.seq_len,
        "positions": count * (protocol.seq_len - 1),
        "right_to_wrong": estimate(found.lost).value,
        "wrong_to_right": estimate(found.gained).value,
        "seconds": round(time.perf_counter() - start, 4),
    }
    kl = windows.said(estimate(found.kl), protocol)
    agreement = windows.said(estimate(found.agreement), protocol)
    if kl.value is None:  # an argmax over NaN would still name a token
        agreement = replace(agreement, value=None, stderr=None)
    fingerprint = windows.tokens.fingerprint
    return [
        asked.result("kl", kl, details, higher_is_better=False, fingerprint=fingerprint),
        asked.result("agreement", agreement, details, fingerprint=fingerprint),
    ]

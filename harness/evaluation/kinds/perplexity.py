"""Token-window perplexity of a language model on a corpus."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from harness.data.arrays import EvaluationTokens, windows
from harness.data.corpora.base import CORPORA
from harness.data.places import DataRef
from harness.errors import UserError
from harness.evaluation.base import (
    EVALUATIONS,
    Evaluation,
    EvaluationContext,
    Measured,
    MemoryNeed,
    Ready,
    check_length,
    corpora_for,
)
from harness.job import Count, EvaluationProtocol, Identity, RunOptions, protocol_key
from harness.record import EvalResult

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loading import LoadedModel

    Windows = tuple[Tensor, EvaluationTokens]
    """Token windows of one protocol, [windows, seq_len], and the tokens that they were cut out of."""

MANY_TOKENS = 300 * 1024
"""Of a text whose length is not known before it is tokenised: about what WikiText-2 has."""


@dataclass(frozen=True, slots=True)
class PerplexityProtocol(EvaluationProtocol):
    """Token-window perplexity: non-overlapping windows, exp of the mean negative log-likelihood.

    Args:
        corpus: name of the corpus.
        data: identity of the text when it is not the published evaluation text, else None.
        seq_len: tokens a window; each window predicts its last seq_len - 1.
        max_windows: only the first so many windows, None = all.
        bos_every_window: the first token of every window is BOS (Gemma needs it).
    """

    kind: ClassVar[str] = "perplexity"

    corpus: str
    data: str | None
    seq_len: int
    max_windows: int | None = None
    bos_every_window: bool = False

    @property
    def version(self) -> int:
        """Raised when the computation changes: version 1 put BOS twice where the tokenizer adds one, too."""
        return 2 if self.bos_every_window else 1

    @property
    def name(self) -> str:
        return self.corpus

    @property
    def key(self) -> str:
        parts = [self.kind, self.corpus, f"seq{self.seq_len}"]
        if self.max_windows is not None:
            parts.append(f"first{self.max_windows}")
        if self.bos_every_window:
            parts.append("bos")
        return protocol_key([*parts, f"v{self.version}"], self.data)


@EVALUATIONS.register(PerplexityProtocol.kind)
@dataclass(frozen=True, slots=True)
class WindowPerplexity(Evaluation[PerplexityProtocol]):
    """Perplexity on windows of a corpus.

    Args:
        corpora: names of corpora.
        seq_len: tokens a window.
        max_windows: only the first so many windows, None = all.
        bos_every_window: every window starts with BOS.
    """

    called: ClassVar[str] = "perplexity corpora"
    asks: ClassVar[str] = "corpora"

    corpora: Identity[tuple[str, ...]] = ()
    seq_len: Identity[Annotated[int, Field(ge=2)]] = 2048
    max_windows: Identity[Count | None] = None
    bos_every_window: Identity[bool] = False

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"perplexity corpus: {about}" for name, about in corpora_for(cls.takes).items()}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[PerplexityProtocol, DataRef | None]]:
        options = (self.seq_len, self.max_windows, self.bos_every_window)
        found = map(find, self.corpora)
        return [(PerplexityProtocol(ref.name, ref.unpublished, *options), ref) for ref in found]

    @classmethod
    def needs_tokenizer(cls, protocol: PerplexityProtocol) -> bool:
        return CORPORA.get(protocol.corpus).needs_tokenizer

    @classmethod
    def prepare(cls, protocol: PerplexityProtocol, data: DataRef | None, loaded: "LoadedModel") -> "Windows":
        import torch

        assert data is not None, "perplexity is measured on a corpus"
        check_length("evaluation.seq_len", protocol.seq_len, loaded)
        text_len = protocol.seq_len - protocol.bos_every_window
        bos_once = not protocol.bos_every_window
        corpus = CORPORA.get(protocol.corpus)
        tokens = corpus.tokens(data, loaded.tokenizer, text_len, loaded.vocab_size, bos=bos_once)
        tokens_NL = torch.from_numpy(windows(tokens.ids, text_len, protocol.max_windows))
        if protocol.bos_every_window:
            bos = getattr(loaded.tokenizer, "bos_token_id", None)
            if bos is None:
                raise UserError("evaluation.bos_every_window=true needs a tokenizer with a BOS token; allowed: false")
            tokens_NL = torch.cat([torch.full((len(tokens_NL), 1), bos), tokens_NL], dim=1)
        return tokens_NL, tokens

    @classmethod
    def measure(cls, asked: Sequence[Ready[PerplexityProtocol]], context: EvaluationContext) -> Measured:
        return Measured(tuple(_measured(each, context) for each in asked))

    @classmethod
    def needs(cls, protocol: PerplexityProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        assert data is not None, "perplexity is measured on a corpus"
        shape = CORPORA.get(protocol.corpus).shape(data)
        count = (MANY_TOKENS if shape is None else shape[0] * shape[1]) // protocol.seq_len
        if protocol.max_windows is not None:
            count = min(count, protocol.max_windows)
        tokens = count * protocol.seq_len
        return MemoryNeed(min(tokens, max(options.batch_tokens, protocol.seq_len)), tokens)


def _measured(asked: Ready[PerplexityProtocol], context: EvaluationContext) -> EvalResult:
    from harness.blocks.runner import BlockRunner, in_batches
    from harness.evaluation.perplexity import perplexity, perplexity_from

    protocol, loaded, reporter, options = asked.protocol, context.loaded, context.reporter, context.options
    windows_NL, tokens = asked.prepared
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
    total = len(tokens.ids) // (protocol.seq_len - protocol.bos_every_window)
    return asked.result(
        "perplexity",
        replace(measured, subset=None if count == total else f"first {count} of {total} windows"),
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

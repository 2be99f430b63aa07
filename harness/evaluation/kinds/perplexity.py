"""Token-window perplexity of a language model on a corpus."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from harness.data.catalogue import DataRef
from harness.data.corpora import evaluation_ids, load_tokens, read_array, windows
from harness.data.sources import TOKENS
from harness.data.texts import evaluation_text, text_identity
from harness.errors import UserError, unknown
from harness.evaluation.base import (
    EVALUATIONS,
    Evaluation,
    EvaluationContext,
    FindData,
    Measured,
    MemoryNeed,
    Ready,
    check_length,
)
from harness.evaluation.protocols import CORPORA
from harness.job import Count, EvaluationProtocol, FilePath, Identity, RunOptions, Runtime, protocol_key
from harness.record import EvalResult

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loading import LoadedModel

MANY_WINDOWS = 300
"""Windows of a text whose length is not known: about what WikiText-2 has at 1,024 tokens."""


@dataclass(frozen=True, slots=True)
class PerplexityProtocol(EvaluationProtocol):
    """Token-window perplexity: non-overlapping windows, exp of the mean negative log-likelihood.

    Args:
        corpus: name of the corpus, or ``tokens`` for an array of token ids.
        data: identity of the text when it is not the published evaluation text, else None.
        seq_len: tokens a window; each window predicts its last seq_len - 1.
        max_windows: only the first so many windows, None = all.
        bos_every_window: the first token of every window is BOS (Gemma needs it).
        version: raised when the computation changes.
    """

    kind: ClassVar[str] = "perplexity"

    corpus: str
    data: str | None
    seq_len: int
    max_windows: int | None = None
    bos_every_window: bool = False
    version: int = 1

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


def perplexity_protocol(
    corpus: str, ref: DataRef, seq_len: int, max_windows: int | None, bos_every_window: bool
) -> PerplexityProtocol:
    """The protocol of a token-window perplexity on the data that `ref` found.

    Raises:
        UserError: unknown corpus, seq_len < 2 or max_windows < 1.
    """
    if corpus not in CORPORA:
        raise unknown("evaluation corpus", corpus, CORPORA)
    if seq_len < 2:
        raise UserError(f"evaluation.seq_len={seq_len} leaves no token to predict; allowed: seq_len >= 2")
    if max_windows is not None and max_windows < 1:
        raise UserError(f"evaluation.max_windows={max_windows} measures nothing; allowed: >= 1, or null for all")
    assert ref.name == corpus, f"protocol of {corpus} on data of {ref.name}"
    data = None if ref.official else ref.identity
    return PerplexityProtocol(corpus, data, seq_len, max_windows, bos_every_window)


@dataclass(frozen=True, slots=True)
class Windows:
    """Token windows of one protocol.

    Args:
        tokens_NL: [windows, seq_len].
        total: windows that the whole corpus has.
        fingerprint: of the text or array they come from.
        num_unk: unknown tokens among them.
    """

    tokens_NL: "Tensor"
    total: int
    fingerprint: str
    num_unk: int


@EVALUATIONS.register(PerplexityProtocol.kind)
@dataclass(frozen=True, slots=True)
class WindowPerplexity(Evaluation[PerplexityProtocol]):
    """Perplexity on windows of a corpus.

    Args:
        corpora: names of corpora, or ``tokens``.
        seq_len: tokens a window.
        max_windows: only the first so many windows, None = all.
        bos_every_window: every window starts with BOS.
        tokens_path: the .npy file behind corpus ``tokens``.
    """

    called: ClassVar[str] = "perplexity corpora"

    corpora: Identity[tuple[str, ...]] = ()
    seq_len: Identity[Annotated[int, Field(ge=2)]] = 2048
    max_windows: Identity[Count | None] = None
    bos_every_window: Identity[bool] = False
    tokens_path: Runtime[FilePath | None] = None

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"perplexity corpus: {text}" for name, text in CORPORA.items()}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        return {"evaluation.corpora": self.corpora}

    def ask(self, find: FindData) -> list[tuple[PerplexityProtocol, DataRef | None]]:
        found = [find(name, self.tokens_path if name == TOKENS else None) for name in self.corpora]
        options = (self.seq_len, self.max_windows, self.bos_every_window)
        return [(perplexity_protocol(ref.name, ref, *options), ref) for ref in found]

    @classmethod
    def needs_tokenizer(cls, protocol: PerplexityProtocol) -> bool:
        return protocol.corpus != TOKENS

    @classmethod
    def prepare(cls, protocol: PerplexityProtocol, data: DataRef | None, loaded: "LoadedModel") -> Windows:
        import torch

        assert data is not None, "perplexity is measured on a corpus"
        check_length("evaluation.seq_len", protocol.seq_len, loaded)
        num_unk, text_len = 0, protocol.seq_len
        if protocol.bos_every_window:
            text_len -= 1
        if protocol.corpus == TOKENS:
            ids, fingerprint = load_tokens(data.path, loaded.vocab_size).reshape(-1), data.identity
        else:
            text = evaluation_text(data)
            tokens = evaluation_ids(text, protocol.corpus, loaded.tokenizer, text_len)
            ids, num_unk, fingerprint = tokens.ids, tokens.num_unk, text_identity(text)
        tokens_NL = torch.from_numpy(windows(ids, text_len, protocol.max_windows))
        if protocol.bos_every_window:
            bos = getattr(loaded.tokenizer, "bos_token_id", None)
            if bos is None:
                raise UserError("evaluation.bos_every_window=true needs a tokenizer with a BOS token; allowed: false")
            tokens_NL = torch.cat([torch.full((len(tokens_NL), 1), bos), tokens_NL], dim=1)
        return Windows(tokens_NL, len(ids) // text_len, fingerprint, num_unk)

    @classmethod
    def measure(cls, asked: Sequence[Ready[PerplexityProtocol]], context: EvaluationContext) -> Measured:
        return Measured(tuple(_measured(each, context) for each in asked))

    @classmethod
    def needs(cls, protocol: PerplexityProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        count = MANY_WINDOWS  # how many a text has is known once it is tokenised
        if protocol.corpus == TOKENS and data is not None:
            count = read_array(data.path).size // protocol.seq_len
        if protocol.max_windows is not None:
            count = min(count, protocol.max_windows)
        tokens = count * protocol.seq_len
        return MemoryNeed(min(tokens, max(options.batch_tokens, protocol.seq_len)), tokens)


def _measured(asked: Ready[PerplexityProtocol], context: EvaluationContext) -> EvalResult:
    from harness.evaluation.perplexity import perplexity, perplexity_by_blocks

    protocol, loaded, reporter, options = asked.protocol, context.loaded, context.reporter, context.options
    prepared: Windows = asked.prepared
    start = time.perf_counter()
    count, windows_NL = len(prepared.tokens_NL), prepared.tokens_NL
    batch_tokens, device = options.batch_tokens, context.device
    step = f"evaluate: perplexity on {protocol.corpus}"
    if options.offload == "none":
        reporter.start(step, count)
        measured = perplexity(
            loaded.model,
            windows_NL,
            batch_tokens=batch_tokens,
            device=device,
            reporter=reporter,
            compiled=options.compile,
        )
    else:
        reporter.start(f"{step}, block by block", loaded.num_blocks)
        measured = perplexity_by_blocks(
            loaded.model, loaded.offloading, windows_NL, batch_tokens=batch_tokens, device=device, reporter=reporter
        )
    return EvalResult(
        protocol=protocol.key,
        kind=protocol.kind,
        task=protocol.corpus,
        metric="perplexity",
        value=measured.value,
        stderr=measured.stderr,
        num_samples=measured.num_windows,
        higher_is_better=False,
        subset=None if count == prepared.total else f"first {count} of {prepared.total} windows",
        data_source=asked.source.origin,
        data_fingerprint=prepared.fingerprint,
        details={
            "seq_len": protocol.seq_len,
            "predicted_tokens": count * (protocol.seq_len - 1),
            "compiled": options.compile,
            "unk_tokens": prepared.num_unk,
            "seconds": round(time.perf_counter() - start, 4),
        },
    )

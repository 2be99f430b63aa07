"""What is measured on token windows of a corpus: the fields and the protocol that such kinds share, and their windows.

Windows do not overlap and have one length; every window predicts its last seq_len - 1 tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, TypeVar

from pydantic import Field

from harness.data.arrays import EvaluationTokens, windows
from harness.data.corpora.base import CORPORA
from harness.data.places import DataRef
from harness.errors import UserError
from harness.evaluation.base import (
    Estimate,
    Evaluation,
    MemoryNeed,
    check_length,
    corpora_for,
)
from harness.job import Count, EvaluationProtocol, Identity, RunOptions, protocol_key

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loading import LoadedModel

MANY_TOKENS = 300 * 1024
"""Of a text whose length is not known before it is tokenised: about what WikiText-2 has."""


@dataclass(frozen=True, slots=True)
class WindowProtocol(EvaluationProtocol):
    """Token windows of a corpus.

    Args:
        corpus: name of the corpus.
        data: identity of the text when it is not the published evaluation text, else None.
        seq_len: tokens a window; each window predicts its last seq_len - 1.
        max_windows: only the first so many windows, None = all.
        bos_every_window: the first token of every window is BOS (Gemma needs it).
    """

    corpus: str
    data: str | None
    seq_len: int
    max_windows: int | None = None
    bos_every_window: bool = False

    @property
    def version(self) -> int:
        """Raised when the computation changes."""
        return 1

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


@dataclass(frozen=True, slots=True)
class Windows:
    """Token windows of one protocol.

    Args:
        windows_NL: [windows, seq_len].
        tokens: that they were cut out of.
    """

    windows_NL: "Tensor"
    tokens: EvaluationTokens

    def said(self, estimate: Estimate, protocol: WindowProtocol) -> Estimate:
        """The estimate with the subset that these windows are, where they are not all."""
        count = len(self.windows_NL)
        total = len(self.tokens.ids) // (protocol.seq_len - protocol.bos_every_window)
        return replace(estimate, subset=None if count == total else f"first {count} of {total} windows")


WindowsT = TypeVar("WindowsT", bound=WindowProtocol)


@dataclass(frozen=True, slots=True)
class OnWindows(Evaluation[WindowsT], Generic[WindowsT]):
    """What is measured on windows of corpora.

    Args:
        seq_len: tokens a window.
        max_windows: only the first so many windows, None = all.
        bos_every_window: every window starts with BOS.

    Attributes:
        measures: what is measured, in the words of a list.
    """

    measures: ClassVar[str]

    seq_len: Identity[Annotated[int, Field(ge=2)]] = 2048
    max_windows: Identity[Count | None] = None
    bos_every_window: Identity[bool] = False

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"{cls.measures} corpus: {about}" for name, about in corpora_for(cls.takes).items()}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[WindowsT, DataRef | None]]:
        options = (self.seq_len, self.max_windows, self.bos_every_window)
        found = map(find, getattr(self, self.asks))
        protocol = self.protocol()
        return [(protocol(ref.name, ref.unpublished, *options), ref) for ref in found]

    @classmethod
    def needs_tokenizer(cls, protocol: WindowsT) -> bool:
        return CORPORA.get(protocol.corpus).needs_tokenizer

    @classmethod
    def prepare(cls, protocol: WindowsT, data: DataRef | None, loaded: "LoadedModel") -> Windows:
        return cut(protocol, data, loaded)

    @classmethod
    def needs(cls, protocol: WindowsT, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        assert data is not None, "windows are those of a corpus"
        shape = CORPORA.get(protocol.corpus).shape(data)
        count = (MANY_TOKENS if shape is None else shape[0] * shape[1]) // protocol.seq_len
        if protocol.max_windows is not None:
            count = min(count, protocol.max_windows)
        tokens = count * protocol.seq_len
        return MemoryNeed(min(tokens, max(options.batch_tokens, protocol.seq_len)), tokens)


def cut(protocol: WindowProtocol, data: DataRef | None, loaded: "LoadedModel") -> Windows:
    """The windows of a corpus.

    Raises:
        UserError: there are none, or the model cannot take them.
    """
    import torch

    assert data is not None, "windows are those of a corpus"
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
    return Windows(tokens_NL, tokens)

"""Text becomes token ids, and ids become windows that do not overlap."""

from dataclasses import dataclass
from typing import Any

from harness.data.arrays import Ids
from harness.errors import UserError

Tokenizer = Any
"""A transformers tokenizer; Any, because this room must not import transformers."""


@dataclass(frozen=True, slots=True)
class EvaluationTokens:
    """What perplexity is measured on, before it is cut into windows.

    Args:
        ids: token ids, [tokens].
        fingerprint: of the text or array that they come from.
        num_unk: how many of them are the tokenizer's unknown token; 0 when it has none.
    """

    ids: Ids
    fingerprint: str
    num_unk: int = 0


def windows(ids: Ids, seq_len: int, max_windows: int | None = None) -> Ids:
    """Non-overlapping windows, [windows, seq_len]; the tail that fills none is dropped.

    Raises:
        UserError: fewer ids than one window.
    """
    count = len(ids) // seq_len
    if count == 0:
        raise UserError(f"the corpus has {len(ids)} tokens, less than one window of seq_len={seq_len}")
    count = count if max_windows is None else min(count, max_windows)
    return ids[: count * seq_len].reshape(count, seq_len)


def tokenise(text: str, tokenizer: Tokenizer | None, purpose: str, split_special_tokens: bool = False) -> Ids:
    """Token ids of one text; `verbose=False` keeps back the warning that it is longer than the model's window."""
    import numpy as np  # here: planning imports this room and tokenises nothing

    if tokenizer is None:
        raise UserError(f"the model has no tokenizer, which {purpose} needs; give token arrays (corpus tokens) instead")
    options = {"split_special_tokens": True} if split_special_tokens else {}
    return np.asarray(tokenizer(text, verbose=False, **options)["input_ids"], dtype=np.int64)

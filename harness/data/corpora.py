"""Token windows: evaluation windows of one long text, and arrays of given ids."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError

Tokenizer = Any
"""A transformers tokenizer; Any, because this room must not import transformers."""
Ids = NDArray[np.int64]

C4_EVALUATION_WINDOWS = 256
"""SparseGPT and Wanda keep so many windows of C4's evaluation text."""


@dataclass(frozen=True, slots=True)
class EvaluationTokens:
    """A tokenised evaluation text.

    Args:
        ids: token ids, [tokens].
        num_unk: how many of them are the tokenizer's unknown token; 0 when it has none.
    """

    ids: Ids
    num_unk: int


def evaluation_ids(
    text: str, corpus: str, tokenizer: Tokenizer | None, seq_len: int, max_windows: int | None = None
) -> EvaluationTokens:
    """Tokenise the evaluation text once, with the tokenizer's default special tokens.

    In ``ptb`` the literal ``<unk>`` is text like any other; in ``ptb_unk`` it becomes the unknown token of tokenizers
    that have one (CONTRACTS C8).  ``c4`` keeps 256 windows.  `max_windows` cuts the ids, never the text: the
    tokens at a cut in the text could differ.

    Raises:
        UserError: the model has no tokenizer.
    """
    ids = tokenise(text, tokenizer, f"corpus {corpus}", split_special_tokens=corpus == "ptb")
    most = C4_EVALUATION_WINDOWS if corpus == "c4" else None
    if max_windows is not None:
        most = max_windows if most is None else min(most, max_windows)
    ids = ids if most is None else ids[: most * seq_len]
    unk = getattr(tokenizer, "unk_token_id", None)
    return EvaluationTokens(ids, 0 if unk is None else int((ids == unk).sum()))


def windows(ids: Ids, seq_len: int, max_windows: int | None = None) -> Ids:
    """Non-overlapping windows, [windows, seq_len]; the tail that fills none is dropped.

    Raises:
        UserError: seq_len < 2, max_windows < 1, or fewer ids than one window.
    """
    if seq_len < 2:
        raise UserError(f"seq_len={seq_len} leaves no token to predict; allowed: seq_len >= 2")
    if max_windows is not None and max_windows < 1:
        raise UserError(f"max_windows={max_windows} measures nothing; allowed: max_windows >= 1, or null for all")
    count = len(ids) // seq_len
    if count == 0:
        raise UserError(f"the corpus has {len(ids)} tokens, less than one window of seq_len={seq_len}")
    count = count if max_windows is None else min(count, max_windows)
    return ids[: count * seq_len].reshape(count, seq_len)


def tokenise(text: str, tokenizer: Tokenizer | None, purpose: str, split_special_tokens: bool = False) -> Ids:
    """Token ids of one text; `verbose=False` keeps back the warning that it is longer than the model's window."""
    if tokenizer is None:
        raise UserError(f"the model has no tokenizer, which {purpose} needs; give token arrays (corpus tokens) instead")
    options = {"split_special_tokens": True} if split_special_tokens else {}
    return np.asarray(tokenizer(text, verbose=False, **options)["input_ids"], dtype=np.int64)


def load_tokens(path: Path, vocab_size: int) -> Ids:
    """Token ids from a ``.npy`` file, [sequences, length]; a flat array is one sequence.

    Raises:
        UserError: no such file, not an array of integers with one or two dimensions, or ids outside 0..vocab_size-1.
    """
    array = read_array(path)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocab_size:
        raise UserError(f"{path} has token id {low if low < 0 else high}; allowed: 0 to {vocab_size - 1}")
    return array


def read_array(path: Path) -> Ids:
    """`load_tokens` without the check against a vocabulary."""
    if not path.is_file():
        raise UserError(f"token array {path} does not exist")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a .npy array ({error})") from error
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.integer) or array.ndim not in (1, 2):
        found = f"{array.dtype}, {array.ndim} dimensions" if isinstance(array, np.ndarray) else "an archive"
        raise UserError(f"{path} holds {found}; allowed: an integer array [sequences, length] or [length]")
    if array.size == 0:
        raise UserError(f"{path} holds an empty array of shape {array.shape}; allowed: at least one token")
    return np.atleast_2d(array).astype(np.int64)


def fingerprint_array(array: Ids) -> str:
    """`sha256:` and the digest of shape and ids, whatever integer type and byte order they are stored in."""
    content = np.ascontiguousarray(array, dtype="<i8")
    return f"sha256:{sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()}"

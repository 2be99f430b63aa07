"""Token windows: evaluation windows of one long text, calibration sequences, and arrays of given ids."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.texts import evaluation_text as evaluation_text  # re-exported: text and its tokens belong together
from harness.data.texts import load_documents as load_documents
from harness.errors import UserError
from harness.job import Sampling

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
    ids = _tokenise(text, tokenizer, f"corpus {corpus}", split_special_tokens=corpus == "ptb")
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


def calibration_sequences(
    documents: Sequence[str],
    tokenizer: Tokenizer | None,
    *,
    num_sequences: int,
    seq_len: int,
    seed: int,
    sampling: Sampling,
) -> Ids:
    """Random calibration sequences, [sequences, seq_len], drawn as SparseGPT and Wanda do (CONTRACTS C1).

    ``documents``: draw documents until one has more than `seq_len` tokens, then a window of it; repeat.
    ``stream``: join all documents with a blank, tokenise once, draw windows.

    Raises:
        UserError: no tokenizer, a number out of range, or no document (or stream) is long enough.
    """
    if num_sequences < 1 or seq_len < 2:
        raise UserError(f"calibration of {num_sequences} x {seq_len} tokens; allowed: num_sequences >= 1, seq_len >= 2")
    stream = random.Random(seed)  # the published codes seed Python's global generator: the same numbers
    if sampling == "stream":
        ids = _tokenise(" ".join(documents), tokenizer, "text calibration")
        if len(ids) <= seq_len:
            raise UserError(f"the calibration text has {len(ids)} tokens; allowed: calibration.seq_len < {len(ids)}")
        return np.stack([_window(ids, seq_len, stream) for _ in range(num_sequences)])
    assert sampling == "documents", f"{sampling} sequences are not drawn from text"
    return _from_documents(documents, tokenizer, num_sequences, seq_len, stream)


def _from_documents(
    documents: Sequence[str], tokenizer: Tokenizer | None, num_sequences: int, seq_len: int, stream: random.Random
) -> Ids:
    @cache
    def length(number: int) -> int:
        return len(tokens(number))

    def tokens(number: int) -> Ids:
        return _tokenise(documents[number], tokenizer, "text calibration")

    drawn: list[Ids] = []
    checked = False
    while len(drawn) < num_sequences:
        number = stream.randint(0, len(documents) - 1)
        if length(number) > seq_len:
            drawn.append(_window(tokens(number), seq_len, stream))
        elif not checked:
            # Once, before drawing on: without a long document the published loop would never end.
            if not any(length(other) > seq_len for other in range(len(documents))):
                longest = max(map(length, range(len(documents))))
                raise UserError(
                    f"no calibration document has more than seq_len={seq_len} tokens (the longest has {longest}); "
                    f"choose calibration.seq_len < {longest}, or calibration.sampling=stream"
                )
            checked = True
    return np.stack(drawn)


def _window(ids: Ids, seq_len: int, stream: random.Random) -> Ids:
    start = stream.randint(0, len(ids) - seq_len - 1)
    return ids[start : start + seq_len]


def _tokenise(text: str, tokenizer: Tokenizer | None, purpose: str, split_special_tokens: bool = False) -> Ids:
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

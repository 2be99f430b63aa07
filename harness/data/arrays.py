"""Token ids (or other given numbers, [rows, columns]): read from ``.npy`` files, made of text, cut into windows."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import UserError

if TYPE_CHECKING:  # planning imports this, reads no array and tokenises nothing
    import numpy as np
    from numpy.typing import NDArray

Ids: TypeAlias = "NDArray[np.int64]"
Tokenizer = Any
"""A transformers tokenizer; Any, because this room must not import transformers."""


def read_array(path: Path) -> Ids:
    """Integers from a ``.npy`` file, [sequences, length]; a flat array is one sequence.

    Raises:
        UserError: no such file, or not an array of integers with one or two dimensions.
    """
    import numpy as np

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


def check_ids(ids: Ids, vocab_size: int, origin: str) -> Ids:
    """The ids, each of them one of the model's.

    Raises:
        UserError: one is outside 0..vocab_size-1.
    """
    low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
    if low < 0 or high >= vocab_size:
        raise UserError(f"{origin} has token id {low if low < 0 else high}; allowed: 0 to {vocab_size - 1}")
    return ids


def fingerprint_array(array: Ids) -> str:
    """`sha256:` and the digest of shape and ids, whatever integer type and byte order they are stored in."""
    import numpy as np

    content = np.ascontiguousarray(array, dtype="<i8")
    return f"sha256:{sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()}"


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


def tokenise(text: str, tokenizer: Tokenizer | None, purpose: str, **options: bool) -> Ids:
    """Token ids of one text; `verbose=False` keeps back the warning that it is longer than the model's window.

    Args:
        options: of the tokenizer, for those that its own defaults are not good for.
    """
    import numpy as np

    if tokenizer is None:
        raise UserError(f"the model has no tokenizer, which {purpose} needs; give token arrays (corpus tokens) instead")
    return np.asarray(tokenizer(text, verbose=False, **options)["input_ids"], dtype=np.int64)

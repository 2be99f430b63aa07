"""Arrays of given numbers, [rows, columns]: token ids from ``.npy`` files, and their fingerprints."""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.errors import UserError

if TYPE_CHECKING:  # planning imports this and reads no array
    import numpy as np
    from numpy.typing import NDArray

Ids: TypeAlias = "NDArray[np.int64]"


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


def fingerprint_array(array: Ids) -> str:
    """`sha256:` and the digest of shape and ids, whatever integer type and byte order they are stored in."""
    import numpy as np

    content = np.ascontiguousarray(array, dtype="<i8")
    return f"sha256:{sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()}"

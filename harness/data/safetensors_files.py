"""Headers of safetensors files: names, types, shapes and sizes, without a weight read or a library loaded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UserError


def safetensors_header(file: Path) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Name, type and shape of every tensor: a safetensors file begins with the length of a JSON header and with it."""
    for name, facts in _header(file).items():
        if name != "__metadata__":
            yield name, (facts["dtype"], tuple(facts["shape"]))


def check_whole(file: Path) -> None:
    """Raise `UserError` when a file is missing, is a Git LFS pointer, or has not the size that its header says."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
        end = max((facts["data_offsets"][1] for facts in _header(file).values() if "data_offsets" in facts), default=0)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); allowed: all files of the checkpoint") from error
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        if start == b"version ":
            raise UserError(f"{file} is a Git LFS pointer, not the file; allowed: the file (git lfs pull)") from error
        raise UserError(
            f"{file} is no safetensors file, or a cut one ({size:,} bytes); allowed: a whole one"
        ) from error
    whole = 8 + int.from_bytes(start, "little") + end
    if size != whole:
        raise UserError(f"{file} has {size:,} bytes, and {whole:,} by its header; allowed: a whole file")


def tensor_bytes(file: Path) -> int:
    """Bytes of the tensors of a safetensors file: what follows the header, whose length is its first eight bytes."""
    with file.open("rb") as stream:
        return file.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError("the header ends behind the file")
        header: dict[str, Any] = json.loads(stream.read(length))
    return header

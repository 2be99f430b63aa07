"""Headers of safetensors files: names, types, shapes and sizes, without a weight read or a library loaded."""

import json
from collections.abc import Iterator
from pathlib import Path


def safetensors_header(file: Path) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Name, type and shape of every tensor: a safetensors file begins with the length of a JSON header and with it."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    for name, facts in header.items():
        if name != "__metadata__":
            yield name, (facts["dtype"], tuple(facts["shape"]))


def tensor_bytes(file: Path) -> int:
    """Bytes of the tensors of a safetensors file: what follows the header, whose length is its first eight bytes."""
    with file.open("rb") as stream:
        return file.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")

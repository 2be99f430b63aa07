"""Safetensors from the pickles of an old checkpoint: run as `python -m harness.models.pickles FROM TO`, in a process of
its own, so that what is wrong with a pickle stays there.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file
from torch import Tensor

CONVERTED = "converted.json"
"""In the folder that is made: the sha256 of every file that was read, and of every file that was written."""


def convert(source: Path, target: Path) -> None:
    """Write every `pytorch_model*.bin` of `source` as safetensors, and copy what else there is.

    Raises:
        UnpicklingError: a pickle holds more than tensors.
    """
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".bin" and not file.name.startswith("pytorch_model"):
            shutil.copyfile(file, target / file.name)
    pickles = sorted(source.glob("pytorch_model*.bin"))
    hashes: dict[str, dict[str, str]] = {"from": {}, "to": {}}
    weight_map: dict[str, str] = {}
    for number, pickle in enumerate(pickles, 1):
        try:
            tensors = torch.load(pickle, map_location="cpu", weights_only=True, mmap=True)
        except UnpicklingError as error:
            raise UnpicklingError(f"{pickle.name} holds more than tensors, or is no checkpoint of torch") from error
        name = "model.safetensors" if len(pickles) == 1 else f"model-{number:05d}-of-{len(pickles):05d}.safetensors"
        save_file(_apart(tensors), target / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        hashes["from"][pickle.name], hashes["to"][name] = _sha256(pickle), _sha256(target / name)
    if len(pickles) > 1:
        index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (target / CONVERTED).write_text(json.dumps(hashes, indent=2) + "\n")


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each with memory of its own: tied weights share theirs in a pickle, and must not in safetensors."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen or not tensor.is_contiguous() else tensor
        seen.add(place)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except UnpicklingError as error:
        sys.exit(str(error))

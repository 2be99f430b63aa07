"""Tensors in safetensors shards under a model's own names: read a few at a time, written a file at a time."""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from harness.data.safetensors_files import tensor_bytes
from harness.errors import UserError


class Shards:
    """The tensors of a checkpoint that a model needs, by the model's names.

    Checkpoints may spell names otherwise than the model does (with or without the base model's prefix, or as an older
    release did); transformers' own renamings are applied, and what was found is kept in `key_of`.

    Args:
        files: safetensors files of the checkpoint.
        model: with parameters on any device, also ``meta``.
    """

    def __init__(self, files: Iterable[Path], model: PreTrainedModel) -> None:
        self.key_of: dict[str, str] = {}
        """The checkpoint's name of a tensor by the model's name."""
        self._file_of: dict[str, Path] = {}
        self._converted: set[str] = set()
        wanted = model.state_dict()
        transforms = get_model_conversion_mapping(model)
        renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
        for file in files:
            with safe_open(file, framework="pt") as shard:
                keys = list(shard.keys())
            for key in keys:
                name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, wanted)
                if name not in wanted and key in wanted:
                    name, pattern = key, None
                if pattern is not None:  # several tensors make one, or one is changed: a matter of the whole model
                    self._converted.add(name)
                elif name in wanted:
                    self.key_of[name] = key
                    self._file_of[name] = file

    def __contains__(self, name: str) -> bool:
        return name in self.key_of

    def check(self, names: Iterable[str]) -> None:
        """Raise `UserError` naming the first of `names` that the checkpoint does not hold as one tensor."""
        for name in names:
            if name in self._converted and name not in self:
                raise UserError(
                    f"offload=disk cannot map {name}: this checkpoint stores it in parts; allowed: offload=none or cpu"
                )
            if name not in self:
                raise UserError(
                    f"offload=disk cannot map {name}: the checkpoint lacks it; allowed: a complete checkpoint"
                )

    def equal(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """Names of the tensors that the checkpoint stores with these very values, be it in another type."""
        found = set()
        for name in (name for name in tensors if name in self):
            # Opened for each: the pages that were read are let go with the file, and would count as our memory.
            with safe_open(self._file_of[name], framework="pt") as shard:
                stored, tensor = shard.get_tensor(self.key_of[name]), tensors[name]
                if stored.shape == tensor.shape and torch.equal(stored.to(tensor.dtype), tensor):
                    found.add(name)
                del stored
        return found

    def read(self, slots: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Copies on `device` of the tensors named by `slots`, in the type of the slot.

        The files are memory-mapped; each is closed before the next is opened, and nothing that is returned refers to
        the mapping, so that its pages can go.

        Raises:
            UserError: a tensor has another shape than its slot, or is not finite.
        """
        by_file: defaultdict[Path, list[str]] = defaultdict(list)
        for name in slots:
            by_file[self._file_of[name]].append(name)
        found = {}
        for file, names in by_file.items():
            with safe_open(file, framework="pt") as shard:
                for name in names:
                    mapped = shard.get_tensor(self.key_of[name])
                    slot = slots[name]
                    if mapped.shape != slot.shape:
                        shapes = f"{tuple(mapped.shape)} in the checkpoint and {tuple(slot.shape)} in the model"
                        raise UserError(f"offload=disk cannot map {name}: it is {shapes}; allowed: equal shapes")
                    found[name] = mapped.to(device=device, dtype=slot.dtype, copy=True)
                    del mapped
        return found

    def write(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write `tensors` under the checkpoint's names; from now on they are read from `file`.

        The file is complete or not there at all.
        """
        partial = file.with_suffix(".partial")
        on_cpu = {self.key_of[name]: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(on_cpu, partial, metadata={"format": "pt"})
        os.replace(partial, file)
        self._file_of |= dict.fromkeys(tensors, file)

    def write_index(self, folder: Path, files: Mapping[Path, str]) -> None:
        """Move `files` to their names in `folder` and write the index that makes the folder a checkpoint."""
        total = 0
        weight_map: dict[str, str] = {}
        for file, name in files.items():
            target = folder / name
            shutil.move(file, target)
            with safe_open(target, framework="pt") as shard:
                weight_map |= dict.fromkeys(shard.keys(), name)
            total += tensor_bytes(target)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def shard_files(folder: str, options: Mapping[str, Any]) -> list[Path]:
    """The safetensors files of a model folder or hub repository, downloaded where they have to be.

    Raises:
        OSError: there are none, or they cannot be had.
    """
    place = {name: options[name] for name in ("revision", "local_files_only") if name in options}
    single = cached_file(folder, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **place)
    if single is not None:
        return [Path(single)]
    index = cached_file(folder, SAFE_WEIGHTS_INDEX_NAME, **place)
    files, _ = get_checkpoint_shard_files(folder, index, **place)
    return [Path(file) for file in files]


def stored_dtype(files: Iterable[Path]) -> torch.dtype:
    """Type of the first tensor of floating point."""
    for file in files:
        with safe_open(file, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118  # a shard is no dictionary
                dtype = shard.get_slice(key)[:0].dtype if shard.get_slice(key).get_shape() else torch.float32
                if dtype.is_floating_point:
                    return dtype
    return torch.float32

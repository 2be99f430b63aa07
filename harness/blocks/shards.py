"""Tensors in safetensors shards under a model's own names: read a few at a time, written a file at a time."""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from harness.blocks.experts import experts_of_stacks
from harness.data.safetensors_files import tensor_bytes
from harness.errors import UserError

EXPERT = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class _Part:
    """A stored tensor, or the slice at `place` of a stored stack, that makes the rows of a tensor of the model."""

    file: Path
    key: str
    place: int | None = None


class Shards:
    """The tensors of a checkpoint that a model needs, by the model's names.

    Checkpoints may spell names otherwise than the model does (with or without the base model's prefix, or as an older
    release did); transformers' own renamings are applied.  The matrices of experts may be stored in stacks or one by
    one, gate and up apart.

    Args:
        files: safetensors files of the checkpoint.
        model: with parameters on any device, also ``meta``.
    """

    def __init__(self, files: Iterable[Path], model: PreTrainedModel) -> None:
        self._parts: dict[str, list[_Part]] = {}
        self._converted: set[str] = set()
        self.unexpected: list[str] = []
        """Stored tensors that the model does not have, by the names that the model would give them."""
        experts = experts_of_stacks(model)
        wanted = model.state_dict() | dict.fromkeys(experts, torch.empty(0))
        transforms = get_model_conversion_mapping(model)
        renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
        rows: defaultdict[str, dict[int, _Part]] = defaultdict(dict)
        for file in files:
            with safe_open(file, framework="pt") as shard:
                keys = list(shard.keys())
            for key in keys:
                name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, wanted)
                if name not in wanted and key in wanted:
                    name, pattern = key, None
                if pattern is None and name in wanted:
                    for place, tensor in enumerate(experts.get(name, ())):
                        self._parts[tensor] = [_Part(file, key, place)]
                    self._parts.setdefault(name, [_Part(file, key)])
                elif pattern is not None:
                    converter = next(each for each in converters if pattern in each.source_patterns)
                    if name in experts and _puts_experts_together(converter):
                        tensor = experts[name][int(EXPERT.findall(key)[-1])]
                        rows[tensor][converter.source_patterns.index(pattern)] = _Part(file, key)
                    else:  # several tensors make one, or one is changed: a matter of the whole model
                        self._converted |= {name, *experts.get(name, ())}
                else:
                    self.unexpected.append(name)
        self._parts |= {name: [parts[place] for place in sorted(parts)] for name, parts in rows.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._parts

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

    def read(self, slots: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Copies on `device` of the tensors named by `slots`, in the type of the slot.

        Raises:
            UserError: a tensor has another shape than its slot.
        """
        found = self.stored(slots, device)
        for name, slot in slots.items():
            if found[name].shape != slot.shape:
                shapes = f"{tuple(found[name].shape)} in the checkpoint and {tuple(slot.shape)} in the model"
                raise UserError(f"offload=disk cannot map {name}: it is {shapes}; allowed: equal shapes")
        return found

    def stored(self, slots: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The same in the shapes that the checkpoint has.

        The files are memory-mapped; each is closed before the next is opened, and nothing that is returned refers to
        the mapping, so that its pages can go.
        """
        by_file: defaultdict[Path, list[_Part]] = defaultdict(list)
        dtype = {part: slot.dtype for name, slot in slots.items() for part in self._parts[name]}
        for part in dtype:
            by_file[part.file].append(part)
        copies: dict[_Part, Tensor] = {}
        for file, parts in by_file.items():
            with safe_open(file, framework="pt") as shard:
                for part in parts:
                    whole = part.place is None
                    mapped = shard.get_tensor(part.key) if whole else shard.get_slice(part.key)[part.place]
                    copies[part] = mapped.to(device=device, dtype=dtype[part], copy=True)
                    del mapped
        return {
            name: copies[parts[0]] if len(parts) == 1 else torch.cat([copies[part] for part in parts])
            for name in slots
            for parts in [self._parts[name]]
        }

    def write(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write `tensors` as the checkpoint has them, or by the model's names; from now on they are read from `file`.

        The file is complete or not there at all.
        """
        stored: dict[str, Tensor] = {}
        stacks: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            parts, on_cpu = self._parts.setdefault(name, [_Part(file, name)]), tensor.detach().cpu()
            for part, rows in zip(parts, [on_cpu] if len(parts) == 1 else on_cpu.chunk(len(parts)), strict=True):
                if part.place is not None:
                    stacks[part.key][part.place] = rows
                else:
                    stored[part.key] = rows.contiguous() if len(parts) == 1 else rows.clone()
        stored |= {key: torch.stack([each[place] for place in sorted(each)]) for key, each in stacks.items()}
        partial = file.with_suffix(".partial")
        save_file(stored, partial, metadata={"format": "pt"})
        os.replace(partial, file)
        self._parts |= {name: [replace(part, file=file) for part in self._parts[name]] for name in tensors}

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


def stored_dtype(files: Iterable[Path]) -> torch.dtype:
    """Type of the first tensor of floating point."""
    for file in files:
        with safe_open(file, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118  # a shard is no dictionary
                dtype = shard.get_slice(key)[:0].dtype if shard.get_slice(key).get_shape() else torch.float32
                if dtype.is_floating_point:
                    return dtype
    return torch.float32


def _puts_experts_together(converter: WeightConverter) -> bool:
    """Whether it stacks matrices of experts, with the rows of several of one expert one below the other."""
    first, *then = converter.operations
    return (
        isinstance(first, MergeModulelist)
        and first.dim == 0
        and (not then or (len(then) == 1 and isinstance(then[0], Concatenate) and then[0].dim == 1))
    )

"""Where the blocks of a model are, and how one of them at a time comes to the device that computes it.

Pruning and block-by-block perplexity see a model through a `Offloading` only, so that they do the same whether all
blocks are in memory or none is.
"""

import math
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.experts import stacked_again
from harness.blocks.layers import decoder_blocks
from harness.blocks.prefetch import Prefetcher
from harness.blocks.shards import Shards
from harness.blocks.slots import Slot, check_finite, like, replaced, slots_of


class Offloading(Protocol):
    """Gives out the blocks of one model."""

    def block(self, index: int, device: torch.device, *, writes: bool = False) -> AbstractContextManager[nn.Module]:
        """The block with that index, all of it on `device`.

        With `writes` its weights are kept as they are when the body ends without an error, also where they have become
        smaller; otherwise a change to them is lost or kept as it happens, and nobody should make one.
        """
        ...

    def activations(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for hidden states that `device` works on: there while they fit, else in main memory, pinned.

        What is in it is not defined.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write configuration and weights into the empty `folder`, so that transformers loads the model from it.

        Blocks that lie in files of their own are moved there: it is the last thing to ask for.
        """
        ...


class _Blocks(ABC):
    """What both ways to give out blocks have in common.

    Args:
        reserved: bytes of an accelerator's memory that are not for hidden states, since blocks and solves need them;
            None = half of what is free.
    """

    def __init__(self, model: nn.Module, reserved: int | None = None) -> None:
        self._model, self._reserved = model, reserved
        self._prefix, self._blocks = decoder_blocks(model)
        self._prefetcher = Prefetcher(self._tensors, len(self._blocks))

    @contextmanager
    def block(self, index: int, device: torch.device, *, writes: bool = False) -> Iterator[nn.Module]:
        block = self._blocks[index]
        slots = list(slots_of(block))
        moved = self._prefetcher.take(index, device)
        with replaced(slots, lambda slot: moved.pop(slot.path)):
            yield block
            if writes:
                with torch.no_grad():
                    self._keep(index, slots)

    def activations(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        if device.type != "cpu":
            free = free_memory(device)
            reserved = free // 2 if self._reserved is None else self._reserved
            if math.prod(shape) * dtype.itemsize <= free - reserved:
                return torch.empty(shape, dtype=dtype, device=device)
        return self._in_main_memory(shape, dtype, pinned=device.type == "cuda")

    @abstractmethod
    def _tensors(self, index: int) -> dict[str, Tensor]:
        """The block's parameters and buffers by path, as they are now, on the CPU."""

    @abstractmethod
    def _keep(self, index: int, slots: list[Slot]) -> None:
        """Take over what hangs in the slots of a block."""

    @abstractmethod
    def _in_main_memory(self, shape: tuple[int, ...], dtype: torch.dtype, *, pinned: bool) -> Tensor: ...


class InMemory(_Blocks):
    """All blocks are in memory, where the model was loaded to; one goes to another device and comes back."""

    def _tensors(self, index: int) -> dict[str, Tensor]:
        return {slot.path: slot.tensor for slot in slots_of(self._blocks[index])}

    def _keep(self, index: int, slots: list[Slot]) -> None:
        for slot in slots:
            if slot.now.shape != slot.tensor.shape:
                slot.tensor = like(slot.tensor, slot.now.to(slot.tensor.device))
            elif slot.now is not slot.tensor:
                slot.tensor.copy_(slot.now)

    def _in_main_memory(self, shape: tuple[int, ...], dtype: torch.dtype, *, pinned: bool) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=pinned)

    def save(self, folder: Path) -> None:
        assert isinstance(self._model, PreTrainedModel), "only a transformers model can be saved"
        with stacked_again(self._model):
            self._model.save_pretrained(folder)


class OnDisk(_Blocks):
    """Blocks have no memory: each is read when it is needed and dropped after; changed ones are written.

    Args:
        model: its blocks on the ``meta`` device, all else real.
        shards: where the tensors of the blocks are read from.
        folder: for blocks that were changed and for activations; its owner removes it.
    """

    def __init__(self, model: PreTrainedModel, shards: Shards, folder: Path, reserved: int | None = None) -> None:
        super().__init__(model, reserved)
        self._model: PreTrainedModel = model
        self._shards = shards
        self._folder = folder
        self._written: dict[int, Path] = {}

    def _keep(self, index: int, slots: list[Slot]) -> None:
        prefix, stored = f"{self._prefix}.{index}", _stored_names(self._blocks[index])
        file = self._folder / f"block-{index:05d}.safetensors"
        self._shards.write(file, {f"{prefix}.{slot.path}": slot.now for slot in slots if slot.path in stored})
        self._written[index] = file
        for slot in slots:
            if slot.now.shape != slot.tensor.shape:
                slot.tensor = like(slot.tensor, torch.empty_like(slot.now, device=slot.tensor.device))

    def _tensors(self, index: int) -> dict[str, Tensor]:
        """The block's tensors, those that a checkpoint holds read from it; rotary tables and the like are in memory."""
        block, prefix = self._blocks[index], f"{self._prefix}.{index}"
        stored = _stored_names(block)
        tensors = {slot.path: slot.tensor for slot in slots_of(block)}
        wanted = {f"{prefix}.{path}": tensor for path, tensor in tensors.items() if path in stored}
        read = self._shards.read(wanted, torch.device("cpu"))
        if index not in self._written:
            check_finite(read)
        return tensors | {name.removeprefix(f"{prefix}."): tensor for name, tensor in read.items()}

    def _in_main_memory(self, shape: tuple[int, ...], dtype: torch.dtype, *, pinned: bool) -> Tensor:
        """A memory-mapped file, which cannot be pinned: the system can write its pages out and take their memory."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="activations-") as file:
            # The file has no name after this and lives as long as the tensor: nothing is left to remove.
            return torch.from_file(file.name, shared=True, size=torch.Size(shape).numel(), dtype=dtype).view(shape)

    def save(self, folder: Path) -> None:
        cpu = torch.device("cpu")
        for index in range(len(self._blocks)):
            if index not in self._written:  # as it was, but in the type that was asked for
                with self.block(index, cpu, writes=True):
                    pass
        rest = self._folder / "rest.safetensors"
        state = self._model.state_dict()
        self._shards.write(rest, {name: state[name] for name in state if self._is_rest(name)})
        files = [rest, *(self._written[index] for index in range(len(self._blocks)))]
        names = {file: f"model-{place:05d}-of-{len(files):05d}.safetensors" for place, file in enumerate(files, 1)}
        self._shards.write_index(folder, names)
        self._model.config.architectures = [type(self._model).__name__]
        self._model.config.save_pretrained(folder)
        if self._model.can_generate() and self._model.generation_config is not None:
            self._model.generation_config.save_pretrained(folder)

    def _is_rest(self, name: str) -> bool:
        return name in self._shards and not name.startswith(f"{self._prefix}.")


def free_memory(device: torch.device) -> int:
    """Bytes of an accelerator that tensors can have, those that torch keeps for the next ones with them."""
    if device.type != "cuda":  # of another one torch knows nothing
        return sys.maxsize
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _stored_names(module: nn.Module) -> set[str]:
    """Paths of the parameters and buffers that a checkpoint holds."""
    return set(module.state_dict())

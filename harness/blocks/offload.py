"""Where the blocks of a model are, and how one of them at a time comes to the device that computes it.

Pruning and block-by-block perplexity see a model through a `Offloading` only, so that they do the same whether all
blocks are in memory or none is.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.experts import stacked_again
from harness.blocks.layers import decoder_blocks
from harness.blocks.prefetch import Prefetcher
from harness.blocks.shards import Shards
from harness.errors import UserError


class Offloading(Protocol):
    """Gives out the blocks of one model."""

    def block(self, index: int, device: torch.device, *, writes: bool = False) -> AbstractContextManager[nn.Module]:
        """The block with that index, all of it on `device`.

        With `writes` its weights are kept as they are when the body ends without an error, also where they have become
        smaller; otherwise a change to them is lost or kept as it happens, and nobody should make one.
        """
        ...

    def activations(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room for hidden states of many sequences, on the CPU; what is in it is not defined."""
        ...

    def save(self, folder: Path) -> None:
        """Write configuration and weights into the empty `folder`, so that transformers loads the model from it.

        Blocks that lie in files of their own are moved there: it is the last thing to ask for.
        """
        ...


class InMemory:
    """All blocks are in memory, where the model was loaded to; one goes to another device and comes back."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = decoder_blocks(model)[1]
        self._prefetcher = Prefetcher(self._tensors, len(self._blocks))

    @contextmanager
    def block(self, index: int, device: torch.device, *, writes: bool = False) -> Iterator[nn.Module]:
        block = self._blocks[index]
        slots = list(_slots(block))
        moved = self._prefetcher.take(index, device)
        with _replaced(slots, lambda slot: moved[slot.path]):
            yield block
            if writes:
                with torch.no_grad():
                    for slot in slots:
                        if slot.now.shape != slot.tensor.shape:
                            slot.tensor = _like(slot.tensor, slot.now.to(slot.tensor.device))
                        elif slot.now is not slot.tensor:
                            slot.tensor.copy_(slot.now)

    def _tensors(self, index: int) -> dict[str, Tensor]:
        return {slot.path: slot.tensor for slot in _slots(self._blocks[index])}

    def activations(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def save(self, folder: Path) -> None:
        assert isinstance(self._model, PreTrainedModel), "only a transformers model can be saved"
        with stacked_again(self._model):
            self._model.save_pretrained(folder)


class OnDisk:
    """Blocks have no memory: each is read when it is needed and dropped after; changed ones are written.

    Args:
        model: its blocks on the ``meta`` device, all else real.
        shards: where the tensors of the blocks are read from.
        folder: for blocks that were changed and for activations; its owner removes it.
    """

    def __init__(self, model: PreTrainedModel, shards: Shards, folder: Path) -> None:
        self._model = model
        self._prefix, self._blocks = decoder_blocks(model)
        self._shards = shards
        self._folder = folder
        self._written: dict[int, Path] = {}
        self._prefetcher = Prefetcher(self._tensors, len(self._blocks))

    @contextmanager
    def block(self, index: int, device: torch.device, *, writes: bool = False) -> Iterator[nn.Module]:
        block = self._blocks[index]
        slots = list(_slots(block))
        moved = self._prefetcher.take(index, device)
        with _replaced(slots, lambda slot: moved.pop(slot.path)):
            yield block
            if writes:
                prefix, stored = f"{self._prefix}.{index}", _stored_names(block)
                file = self._folder / f"block-{index:05d}.safetensors"
                named = {f"{prefix}.{slot.path}": slot.now for slot in slots if slot.path in stored}
                self._shards.write(file, named)
                self._written[index] = file
                for slot in slots:
                    if slot.now.shape != slot.tensor.shape:
                        slot.tensor = _like(slot.tensor, torch.empty_like(slot.now, device=slot.tensor.device))

    def _tensors(self, index: int) -> dict[str, Tensor]:
        """The block's tensors, those that a checkpoint holds read from it; rotary tables and the like are in memory."""
        block, prefix = self._blocks[index], f"{self._prefix}.{index}"
        stored = _stored_names(block)
        tensors = {slot.path: slot.tensor for slot in _slots(block)}
        wanted = {f"{prefix}.{path}": tensor for path, tensor in tensors.items() if path in stored}
        read = self._shards.read(wanted, torch.device("cpu"))
        if index not in self._written:
            _check_finite(read)
        return tensors | {name.removeprefix(f"{prefix}."): tensor for name, tensor in read.items()}

    def activations(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A memory-mapped file: the system can write its pages out and take their memory."""
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


@dataclass(slots=True)
class _Slot:
    """A parameter or buffer of a module tree: where it hangs, and what hung there first."""

    path: str
    owner: dict[str, Tensor | None]
    name: str
    tensor: Tensor

    @property
    def now(self) -> Tensor:
        tensor = self.owner[self.name]
        assert tensor is not None, f"{self.path} is gone"
        return tensor


@contextmanager
def outside_on(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Everything of `model` but its blocks on `device`, for the time of the body."""
    prefix, _ = decoder_blocks(model)
    slots = [slot for slot in _slots(model) if not slot.path.startswith(f"{prefix}.")]
    with _replaced(slots, _mover(device)):
        yield


def materialise_outside(model: PreTrainedModel, shards: Shards) -> None:
    """Give everything of a ``meta`` model but its blocks its weights from `shards`; tied weights stay tied.

    Raises:
        UserError: the checkpoint lacks a tensor of the model, in a block or outside, or holds one that is not finite.
    """
    prefix, _ = decoder_blocks(model)
    names = list(model.state_dict())
    missing = {name for name in names if name not in shards}
    slots = {slot.path: slot for slot in _slots(model) if slot.path in names and slot.path in shards}
    outside = {path: slot for path, slot in slots.items() if not path.startswith(f"{prefix}.")}
    read = shards.read({path: slot.tensor for path, slot in outside.items()}, torch.device("cpu"))
    _check_finite(read)
    for path, slot in outside.items():
        slot.owner[slot.name] = _like(slot.tensor, read[path])
    model.tie_weights(missing_keys=missing, recompute_mapping=False)  # takes what it ties out of `missing`
    shards.check(name for name in names if name in missing)


def _slots(module: nn.Module) -> Iterator[_Slot]:
    for path, part in module.named_modules():
        for owner in (part._parameters, part._buffers):
            for name, tensor in owner.items():
                if tensor is not None:
                    yield _Slot(f"{path}.{name}" if path else name, owner, name, tensor)


@contextmanager
def _replaced(slots: list[_Slot], replacement: Callable[[_Slot], Tensor]) -> Iterator[None]:
    """Hang another tensor into every slot and put the first one back in the end."""
    try:
        for slot in slots:
            slot.owner[slot.name] = _like(slot.tensor, replacement(slot))
        yield
    finally:
        for slot in slots:
            slot.owner[slot.name] = slot.tensor


def _mover(device: torch.device) -> Callable[[_Slot], Tensor]:
    """Moves the tensor of a slot; one that hangs in two slots stays one tensor."""
    moved: dict[int, Tensor] = {}

    def move(slot: _Slot) -> Tensor:
        if slot.tensor.device == device:
            return slot.tensor
        if id(slot.tensor) not in moved:
            moved[id(slot.tensor)] = _like(slot.tensor, slot.tensor.to(device))
        return moved[id(slot.tensor)]

    return move


def _like(old: Tensor, new: Tensor) -> Tensor:
    """`new` as a parameter where `old` was one."""
    if not isinstance(old, nn.Parameter) or isinstance(new, nn.Parameter):
        return new
    return nn.Parameter(new, requires_grad=False)


def _stored_names(module: nn.Module) -> set[str]:
    """Paths of the parameters and buffers that a checkpoint holds."""
    return set(module.state_dict())


def _check_finite(tensors: dict[str, Tensor]) -> None:
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if floating and not torch.stack([torch.isfinite(tensor).all() for tensor in floating.values()]).all():
        first = next(name for name, tensor in floating.items() if not torch.isfinite(tensor).all())
        raise UserError(f"the model has weights that are not finite, first in {first}; allowed: finite weights")

"""Where the parameters and buffers of a model hang, to put them elsewhere; those outside of its blocks go together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.layers import decoder_blocks
from harness.blocks.shards import Shards
from harness.errors import UserError


@dataclass(slots=True)
class Slot:
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
    slots = [slot for slot in slots_of(model) if not slot.path.startswith(f"{prefix}.")]
    with replaced(slots, _mover(device)):
        yield


def materialise_outside(model: PreTrainedModel, shards: Shards) -> None:
    """Give everything of a ``meta`` model but its blocks its weights from `shards`; tied weights stay tied.

    Raises:
        UserError: the checkpoint lacks a tensor of the model, in a block or outside, or holds one that is not finite;
            or blocks share a tensor.
    """
    prefix, blocks = decoder_blocks(model)
    names = list(model.state_dict())
    missing = {name for name in names if name not in shards}
    slots = {slot.path: slot for slot in slots_of(model) if slot.path in names and slot.path in shards}
    outside = {path: slot for path, slot in slots.items() if not path.startswith(f"{prefix}.")}
    read = shards.read({path: slot.tensor for path, slot in outside.items()}, torch.device("cpu"))
    check_finite(read)
    for path, slot in outside.items():
        slot.owner[slot.name] = like(slot.tensor, read[path])
    model.tie_weights(missing_keys=missing, recompute_mapping=False)  # takes what it ties out of `missing`
    shards.check(name for name in names if name in missing)
    block_of: dict[int, str] = {}
    for path, weight in blocks.named_parameters(remove_duplicate=False):
        if block_of.setdefault(id(weight), index := path.partition(".")[0]) != index:  # a change would reach one only
            raise UserError(
                f"offload=disk cannot map {prefix}.{path}: block {block_of[id(weight)]} has the same tensor; allowed: "
                "offload=none or cpu"
            )


def slots_of(module: nn.Module) -> Iterator[Slot]:
    """All parameters and buffers of a module tree."""
    for path, part in module.named_modules():
        for owner in (part._parameters, part._buffers):
            for name, tensor in owner.items():
                if tensor is not None:
                    yield Slot(f"{path}.{name}" if path else name, owner, name, tensor)


@contextmanager
def replaced(slots: list[Slot], replacement: Callable[[Slot], Tensor]) -> Iterator[None]:
    """Hang another tensor into every slot and put the first one back in the end."""
    try:
        for slot in slots:
            slot.owner[slot.name] = like(slot.tensor, replacement(slot))
        yield
    finally:
        for slot in slots:
            slot.owner[slot.name] = slot.tensor


def _mover(device: torch.device) -> Callable[[Slot], Tensor]:
    """Moves the tensor of a slot; one that hangs in two slots stays one tensor."""
    moved: dict[int, Tensor] = {}

    def move(slot: Slot) -> Tensor:
        if slot.tensor.device == device:
            return slot.tensor
        if id(slot.tensor) not in moved:
            moved[id(slot.tensor)] = like(slot.tensor, slot.tensor.to(device))
        return moved[id(slot.tensor)]

    return move


def like(old: Tensor, new: Tensor) -> Tensor:
    """`new` as a parameter where `old` was one."""
    if not isinstance(old, nn.Parameter) or isinstance(new, nn.Parameter):
        return new
    return nn.Parameter(new, requires_grad=False)


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Raise `UserError` naming the first weight that is not finite."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if floating and not torch.stack([torch.isfinite(tensor).all() for tensor in floating.values()]).all():
        first = next(name for name, tensor in floating.items() if not torch.isfinite(tensor).all())
        raise UserError(f"the model has weights that are not finite, first in {first}; allowed: finite weights")

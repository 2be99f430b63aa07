"""Channels or heads of a block change places or are cut out, in every layer that makes, passes on or reads them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from harness.blocks.changes import ModelChange, Shape
from harness.blocks.layers import PrunableLinear, weight_view
from harness.surgery.dependencies import DependencyGroup
from harness.surgery.influence import Run, row_tensors, scratch_copy

NO_EFFECT = 1e-3
"""Of the change that a wrong block makes: less is rounding."""
ROUNDINGS = 4
"""So many last bits of a block's output may differ where the channels that go change nothing."""


def channel_order(group: DependencyGroup, order_I: Tensor) -> Tensor | None:
    """The order [C] of channels that makes `order_I` of the consumer's columns, None where no order of channels does.

    Args:
        order_I: place i is to hold what column `order_I[i]` holds now.
    """
    channel_of_I = torch.empty(group.columns_CK.numel(), dtype=torch.long)
    channel_of_I[group.columns_CK.reshape(-1)] = torch.arange(group.num_channels).repeat_interleave(
        group.columns_CK.shape[1]
    )
    wanted_CK = order_I.cpu()[group.columns_CK]
    order_C = channel_of_I[wanted_CK[:, 0]]
    return order_C if torch.equal(group.columns_CK[order_C], wanted_CK) else None


@torch.no_grad()
def reorder(block: nn.Module, group: DependencyGroup, order_C: Tensor) -> ModelChange:
    """Let channels change places, in place: channel c becomes what channel `order_C[c]` is now."""
    _reorder_made(block, group, order_C)
    _reorder_read(block, group, order_C)
    shapes = _shapes(block, group)
    return _change(block, group, shapes)


def _reorder_made(block: nn.Module, group: DependencyGroup, order_C: Tensor) -> None:
    for name, rows_CM in {**group.producers, **group.norms}.items():
        for tensor in row_tensors(block.get_submodule(name)).values():
            old = tensor.clone()
            tensor[rows_CM.to(tensor.device)] = old[rows_CM[order_C].to(tensor.device)]


def _reorder_read(block: nn.Module, group: DependencyGroup, order_C: Tensor) -> None:
    weight_OI = weight_view(linear_at(block, group.consumer))
    old_OI = weight_OI.clone()
    columns_CK = group.columns_CK.to(weight_OI.device)
    weight_OI[:, columns_CK] = old_OI[:, columns_CK[order_C.to(weight_OI.device)]]


@torch.no_grad()
def reorders_cleanly(block: nn.Module, run: Run, group: DependencyGroup, order_C: Tensor) -> bool:
    """Whether the block computes the same after `reorder`, and something else after half of it.

    Channels that feed anything but the consumer, and those of different attention heads, cannot change places.
    """
    scratch = scratch_copy(block)
    before = run(scratch)
    _reorder_made(scratch, group, order_C)
    half = run(scratch)
    _reorder_read(scratch, group, order_C)
    return same(before, run(scratch), half)


@torch.no_grad()
def cut(block: nn.Module, group: DependencyGroup, kept_C: Tensor) -> ModelChange:
    """Cut out all channels but those with the numbers `kept_C`, in ascending order; layers shrink, order stays."""
    before = _shapes(block, group)
    kept_C = kept_C.cpu()
    for name, rows_CM in {**group.producers, **group.norms}.items():
        _keep_rows(block.get_submodule(name), rows_CM[kept_C].reshape(-1).sort().values)
    _keep_columns(linear_at(block, group.consumer), group.columns_CK[kept_C].reshape(-1).sort().values)
    for path, names in group.sizes.items():
        part = block.get_submodule(path)
        for name in names:
            setattr(part, name, getattr(part, name) // group.num_channels * len(kept_C))
    return _change(block, group, before)


@torch.no_grad()
def cuts_cleanly(block: nn.Module, run: Run, group: DependencyGroup, kept_C: Tensor) -> bool:
    """Whether the block computes after `cut` what it computes when the consumer does not read the other channels.

    To rounding, where it computes that anyway, since what goes is dead.
    """
    scratch = scratch_copy(block)
    dense = run(scratch)
    gone_C = torch.ones(group.num_channels, dtype=torch.bool)
    gone_C[kept_C.cpu()] = False
    weight_OI = weight_view(linear_at(scratch, group.consumer))
    weight_OI[:, group.columns_CK[gone_C].reshape(-1).to(weight_OI.device)] = 0.0
    blind = run(scratch)
    cut(scratch, group, kept_C)
    try:
        after = run(scratch)
    except (RuntimeError, ValueError):  # the block's own code counts on the old shape
        return False
    if same(blind, after, dense):
        return True
    rounding = ROUNDINGS * torch.finfo(blind.dtype).eps * float(blind.norm())
    return after.shape == blind.shape and float((after - blind).norm()) <= rounding


def slices_of(group: DependencyGroup, matrices: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What of the layers' matrices [O, I] belongs to each channel: [C, M, I] of every producer, then the consumer's
    columns, [C, K, O].
    """
    made = [matrices[name][rows_CM.to(matrices[name].device)] for name, rows_CM in group.producers.items()]
    read_OI = matrices[group.consumer]
    return (*made, read_OI[:, group.columns_CK.to(read_OI.device)].permute(1, 2, 0))


@torch.no_grad()
def add_bias(block: nn.Module, name: str, bias_O: Tensor) -> ModelChange:
    """Add to the bias of a linear; one that has none gets one, which a plain checkpoint may have no place for."""
    linear = linear_at(block, name)
    if linear.bias is not None:
        linear.bias += bias_O.to(linear.bias)
    else:
        linear.bias = nn.Parameter(bias_O.to(linear.weight), requires_grad=linear.weight.requires_grad)
    return ModelChange(tensors=frozenset({f"{name}.bias"}))


def _shapes(block: nn.Module, group: DependencyGroup) -> dict[str, Shape]:
    """Shapes [O, I] of the linears that have the channels."""
    found = {}
    for name in (*group.producers, group.consumer):
        rows, columns = weight_view(linear_at(block, name)).shape
        found[name] = (rows, columns)
    return found


def _change(block: nn.Module, group: DependencyGroup, before: Mapping[str, Shape]) -> ModelChange:
    """What changes in a block whose channels were changed."""
    now = _shapes(block, group)
    beside = {
        f"{name}.{tensor}"
        for name in (*group.producers, *group.norms)
        for tensor in row_tensors(block.get_submodule(name))
        if name in group.norms or tensor != "weight"
    }
    return ModelChange({name: (shape, now[name]) for name, shape in before.items()}, frozenset(beside))


def linear_at(block: nn.Module, name: str) -> PrunableLinear:
    """The linear at a path in the block."""
    part = block.get_submodule(name)
    assert isinstance(part, PrunableLinear), f"{name} is a {type(part).__name__}"
    return part


def _keep_rows(part: nn.Module, rows: Tensor) -> None:
    for name, tensor in row_tensors(part).items():
        _replace(part, name, tensor[rows.to(tensor.device)])
    for attribute in ("out_features", "nf", "out_channels") if isinstance(part, PrunableLinear) else ("num_features",):
        if hasattr(part, attribute):
            setattr(part, attribute, len(rows))


def _keep_columns(part: PrunableLinear, columns: Tensor) -> None:
    weight_OI = weight_view(part)
    kernel = part.kernel_size[0] * part.kernel_size[1] if isinstance(part, nn.Conv2d) else 1
    _replace(part, "weight", weight_OI[:, columns.to(weight_OI.device)])
    for attribute in ("in_features", "nx", "in_channels"):
        if hasattr(part, attribute):
            setattr(part, attribute, len(columns) // kernel)


def _replace(part: nn.Module, name: str, tensor: Tensor) -> None:
    """Hang a tensor of another size into a layer; a weight is given as [O, I]."""
    if name == "weight" and isinstance(part, Conv1D):
        tensor = tensor.T
    elif name == "weight" and isinstance(part, nn.Conv2d):
        tensor = tensor.reshape(len(tensor), -1, *part.kernel_size)
    tensor = tensor.contiguous()
    if name in part._parameters:
        old = part._parameters[name]
        assert old is not None, f"{name} was there a moment ago"
        part._parameters[name] = nn.Parameter(tensor, requires_grad=old.requires_grad)
    else:
        part._buffers[name] = tensor


def same(before: Tensor, after: Tensor, wrong: Tensor) -> bool:
    """Whether `after` is `before` to rounding, beside the difference that a wrong block makes."""
    if after.shape != before.shape:
        return False
    effect = float((wrong - before).norm())
    return effect > 0 and float((after - before).norm()) <= NO_EFFECT * effect

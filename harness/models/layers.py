"""Decoder blocks and prunable linears, found without a line of code per model family."""

from collections.abc import Iterator

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from harness.errors import UserError

PrunableLinear = nn.Linear | Conv1D


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's stack of decoder blocks and its path: the outermost ModuleList with the most weights.

    Raises:
        UserError: the model keeps no blocks in a ModuleList.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = {
        name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)
    }
    if not outermost:
        raise UserError(f"{type(model).__name__} keeps its blocks in no ModuleList; decoder-only models do")
    return max(outermost.items(), key=lambda item: sum(weight.numel() for weight in item[1].parameters()))


def prunable_linears(block: nn.Module) -> dict[str, PrunableLinear]:
    """Every linear layer of a block by its path in the block, in the order of definition."""
    return {name: module for name, module in block.named_modules() if isinstance(module, PrunableLinear)}


def weight_view(linear: PrunableLinear) -> Tensor:
    """The weight as `weight_OI`; a view, so that writing to it writes to the layer (Conv1D stores it transposed)."""
    return linear.weight.data.T if isinstance(linear, Conv1D) else linear.weight.data


def unreached_weights(block: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Matrices of a block that are not the weight of a prunable linear, such as experts in one stacked parameter."""
    reached = {id(linear.weight) for linear in prunable_linears(block).values()}
    for name, weight in block.named_parameters():
        if weight.dim() >= 2 and id(weight) not in reached:
            yield name, tuple(weight.shape)


def prunable_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of every prunable linear by its path in the model."""
    prefix, blocks = decoder_blocks(model)
    shapes = {}
    for index, block in enumerate(blocks):
        for name, linear in prunable_linears(block).items():
            rows, columns = weight_view(linear).shape
            shapes[f"{prefix}.{index}.{name}"] = (rows, columns)
    return shapes

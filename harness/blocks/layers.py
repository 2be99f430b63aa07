"""Blocks and prunable linears, found without a line of code per model family.

A convolution is a linear layer, too: of the patches that its kernel sees.  Its weight is pruned as the matrix
[C_out, C_in * kh * kw], in the order that PyTorch stores it, and one token of its input is one patch (im2col).
"""

from collections.abc import Collection, Iterator

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.errors import UserError

PrunableLinear = nn.Linear | Conv1D | nn.Conv2d
Unfolding = tuple[object, ...]
"""How a convolution cuts patches; equal for two that see the same patches of one input.  Empty for a linear."""
_LEFT_OUT = "_linears_left_out"
"""Attribute of a block: the paths of linears that are not pruned there."""


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's stack of decoder blocks and its path: the outermost ModuleList with the most weights.

    Of a model of text and images it is one of the part that text goes through.

    Raises:
        UserError: the model keeps no blocks in a ModuleList.
    """
    decoder = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    of_text = {id(module) for module in decoder.modules()}
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and id(module) in of_text
    }
    outermost = {
        name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)
    }
    if not outermost:
        raise UserError(f"{type(model).__name__} keeps its blocks in no ModuleList; decoder-only models do")
    return max(outermost.items(), key=lambda item: sum(weight.numel() for weight in item[1].parameters()))


def prunable_linears(block: nn.Module) -> dict[str, PrunableLinear]:
    """Every linear layer of a block by its path in the block, in the order of definition, but those left out.

    Grouped convolutions are none: their filters see different inputs, so they are no one matrix.
    """
    left_out = getattr(block, _LEFT_OUT, ())
    return {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, PrunableLinear) and getattr(module, "groups", 1) == 1 and name not in left_out
    }


def leave_out(block: nn.Module, names: Collection[str]) -> None:
    """Take linears that the model does not call, or that an earlier block has pruned, from a block's prunable ones."""
    setattr(block, _LEFT_OUT, frozenset(names))


def weight_view(linear: PrunableLinear) -> Tensor:
    """The weight as `weight_OI`; a view, so that writing to it writes to the layer (Conv1D stores it transposed).

    Of a convolution I = C_in * kh * kw, in that order: N:M groups lie along it, too.  (The published OBC reorders to
    kh, kw, C_in for N:M; that is no view of how PyTorch stores a filter.)
    """
    return as_matrix(linear, linear.weight.data)


def as_matrix(linear: PrunableLinear, stored: Tensor) -> Tensor:
    """A view as [O, I] of what lies as the layer's weight does, such as its gradient."""
    if isinstance(linear, nn.Conv2d):
        return stored.view(len(stored), -1)
    return stored.T if isinstance(linear, Conv1D) else stored


def unfolding(linear: PrunableLinear) -> Unfolding:
    """How `input_rows` cuts the layer's input."""
    if not isinstance(linear, nn.Conv2d):
        return ()
    return (linear.kernel_size, linear.stride, linear.padding, linear.dilation, linear.padding_mode)


def input_rows(linear: PrunableLinear, x: Tensor) -> Tensor:
    """The layer's input as `x_TI`, so that `x_TI @ weight_view(linear).T` is its output, a row a token or position.

    Args:
        x: [..., I] of a linear; [B, C_in, height, width] of a convolution.
    """
    if not isinstance(linear, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    # Padded here, as the layer does it itself: `unfold` knows neither padding="same" nor modes other than zeros.
    mode = "constant" if linear.padding_mode == "zeros" else linear.padding_mode
    padded = functional.pad(x, linear._reversed_padding_repeated_twice, mode=mode)
    patches_BIT = functional.unfold(padded, linear.kernel_size, linear.dilation, stride=linear.stride)
    return patches_BIT.transpose(1, 2).reshape(-1, patches_BIT.shape[1])


def matrices(blocks: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter of blocks that is a matrix, or several in one: more than one of its sizes is more than 1."""
    for name, weight in blocks.named_parameters():
        if sum(size > 1 for size in weight.shape) >= 2:
            yield name, weight


def unpruned_weights(blocks: nn.ModuleList) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Matrices of the blocks that are not the weight of a prunable linear, such as that of a router."""
    reached = {id(linear.weight) for block in blocks for linear in prunable_linears(block).values()}
    for name, weight in matrices(blocks):
        if id(weight) not in reached:
            yield name, tuple(weight.shape)


def prunable_layers(model: nn.Module) -> dict[str, PrunableLinear]:
    """Every prunable linear of every block by its path in the model, in model order."""
    prefix, blocks = decoder_blocks(model)
    return {
        f"{prefix}.{index}.{name}": linear
        for index, block in enumerate(blocks)
        for name, linear in prunable_linears(block).items()
    }


def prunable_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of every prunable linear by its path in the model."""
    shapes = {}
    for name, linear in prunable_layers(model).items():
        rows, columns = weight_view(linear).shape
        shapes[name] = (rows, columns)
    return shapes

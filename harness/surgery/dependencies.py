"""Which layers' outputs are another layer's inputs, channel by channel; found by trying, with no code per family.

The rows of one layer after the other are scaled on a copy of the block, and the inputs of all other layers are
watched: where exactly the channels of those rows change, nothing between the two layers mixes channels.  Letters:
`C` channels, `M` rows of a producer a channel, `K` columns of the consumer a channel.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.blocks.layers import PrunableLinear, prunable_linears, weight_view

Run = Callable[[nn.Module], Tensor]
"""Runs a float32 block on one fixed input; its output."""

SCALE = 1.5  # of the rows that are tried
UNCHANGED = 1e-5  # of the largest input: less is rounding


@dataclass(frozen=True, slots=True)
class DependencyGroup:
    """Channels that `producers` make, `norms` pass on, and `consumer` reads.

    Args:
        consumer: path in the block of the layer that reads the channels.
        columns_CK: columns of the consumer's weight [O, I] that belong to each channel: one of a linear; kh * kw of a
            convolution; height * width behind a flattened image; a value of every query head that shares it.
        producers: rows of the weight [O, I] that make each channel, [C, M], by path in the block; M is 2 where one
            linear holds the halves of a gated layer.
        norms: the same of batch normalisations in between.
    """

    consumer: str
    columns_CK: Tensor
    producers: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]

    @property
    def num_channels(self) -> int:
        return len(self.columns_CK)


def scratch_copy(block: nn.Module) -> nn.Module:
    """A float32 copy to try things on: in half precision rounding looks like a change."""
    return copy.deepcopy(block).float().eval()


@torch.no_grad()
def find_dependency_groups(block: nn.Module, run: Run) -> list[DependencyGroup]:
    """All dependency groups inside a block, in the order of their consumers; `block` is left as it is.

    In a dependency group, channel c of the consumer's input changes with row c of each producer and with no other row.
    That is not yet that channels may change places: heads of an attention have their own weights for their values.
    """
    block = scratch_copy(block)
    linears = prunable_linears(block)
    norms = {name: part for name, part in block.named_modules() if isinstance(part, _BatchNorm)}
    with _watched(linears) as seen:
        run(block)
        before = _taken(seen)
        found: dict[str, dict[str, _Layout]] = {name: {} for name in linears}
        for name, part in {**linears, **norms}.items():
            changes = [_changes(block, run, part, rows_R, before, seen) for rows_R in _two_halves(_num_rows(part))]
            for consumer, linear in linears.items():
                layout = None if consumer == name else _layout(part, linear, [each[consumer] for each in changes])
                if layout is not None:
                    found[consumer][name] = layout
    return [
        dependency_group
        for consumer, layouts in found.items()
        if (dependency_group := _coupling(linears[consumer], consumer, layouts, norms)) is not None
    ]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Rows [C, M] of a producer, and channels [C, K'] of a consumer's input, that belong to each channel."""

    rows_CM: Tensor
    inputs_CK: Tensor


@dataclass(frozen=True, slots=True)
class _Change:
    """The rows that were scaled, and the channels of an input that changed; None = the input has another shape."""

    rows_R: Tensor
    inputs_J: Tensor | None


def _two_halves(num_rows: int) -> tuple[Tensor, Tensor]:
    """A random half of the rows, and the other half."""
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))
    half_R = torch.zeros(num_rows, dtype=torch.bool)
    half_R[order[: (num_rows + 1) // 2]] = True
    return half_R, ~half_R


def _num_rows(part: nn.Module) -> int:
    return part.num_features if isinstance(part, _BatchNorm) else len(weight_view(part))  # type: ignore[arg-type]


def _changes(
    block: nn.Module,
    run: Run,
    part: nn.Module,
    rows_R: Tensor,
    before: Mapping[str, Tensor],
    seen: dict[str, list[Tensor]],
) -> dict[str, _Change]:
    """What scaling `rows_R` of a layer changes in the inputs of all layers."""
    tensors = _row_tensors(part)
    kept = [tensor_R.clone() for tensor_R in tensors]
    for tensor_R in tensors:
        tensor_R[rows_R.to(tensor_R.device)] *= SCALE
    try:
        run(block)
        now = _taken(seen)
    finally:
        for tensor_R, old_R in zip(tensors, kept, strict=True):
            tensor_R.copy_(old_R)
    return {name: _Change(rows_R, _changed(old_NJ, now.get(name))) for name, old_NJ in before.items()}


def _row_tensors(part: nn.Module) -> list[Tensor]:
    """Views of a layer's tensors that have one row an output."""
    if isinstance(part, _BatchNorm):
        scale = part.weight if part.affine else part.running_var
        assert scale is not None, "a batch normalisation in evaluation mode has running statistics or a scale"
        return [scale.data]
    bias = [part.bias.data] if isinstance(part.bias, Tensor) else []
    return [weight_view(part), *bias]  # type: ignore[arg-type]


def _changed(old_NJ: Tensor, new_NJ: Tensor | None) -> Tensor | None:
    if new_NJ is None or new_NJ.shape != old_NJ.shape:  # tokens were routed otherwise
        return None
    return ((new_NJ - old_NJ).abs().amax(dim=0) > UNCHANGED * old_NJ.abs().max()).cpu()


def _layout(part: nn.Module, consumer: PrunableLinear, changes: list[_Change]) -> _Layout | None:
    """How the rows of `part` lie in the inputs of `consumer`, if they do so channel by channel."""
    inputs = [change.inputs_J for change in changes if change.inputs_J is not None]
    if len(inputs) < len(changes) or not any(bool(inputs_J.any()) for inputs_J in inputs):
        return None
    for layout in _layouts(_num_rows(part), _num_inputs(consumer)):
        if all(_explains(layout, change.rows_R, inputs_J) for change, inputs_J in zip(changes, inputs, strict=True)):
            return layout
    return None


def _layouts(rows: int, inputs: int) -> Iterator[_Layout]:
    """The ways in which rows are known to lie in inputs."""
    if rows % inputs == 0:  # a row an input; or the parts of a fused layer, one after the other
        yield _Layout(torch.arange(rows).view(-1, inputs).T, torch.arange(inputs)[:, None])
    elif inputs % rows == 0:  # a row feeds several inputs: a flattened image (width 1), values shared by query heads
        for width in (width for width in range(1, rows + 1) if rows % width == 0):
            heads_HKW = torch.arange(inputs).view(rows // width, inputs // rows, width)
            yield _Layout(torch.arange(rows)[:, None], heads_HKW.transpose(1, 2).reshape(rows, -1))


def _explains(layout: _Layout, rows_R: Tensor, inputs_J: Tensor) -> bool:
    """Whether no input changed but those of the rows that were scaled; dead features may stay as they are."""
    expected_J = torch.zeros_like(inputs_J)
    expected_J[layout.inputs_CK[rows_R[layout.rows_CM].any(dim=1)].reshape(-1)] = True
    return not bool((inputs_J & ~expected_J).any())


def _coupling(
    consumer: PrunableLinear, name: str, layouts: Mapping[str, _Layout], norms: Mapping[str, nn.Module]
) -> DependencyGroup | None:
    """The dependency group of one consumer; None where there are no producers or they see its inputs differently."""
    producers = [path for path in layouts if path not in norms]
    if not producers:
        return None
    first = layouts[producers[0]]
    if not all(torch.equal(layout.inputs_CK, first.inputs_CK) for layout in layouts.values()):
        return None
    # A convolution's weight has the kernel's columns of one input channel side by side.
    kernel = weight_view(consumer).shape[1] // _num_inputs(consumer)
    columns_CK = (first.inputs_CK[..., None] * kernel + torch.arange(kernel)).flatten(1)
    return DependencyGroup(
        name,
        columns_CK,
        {path: layouts[path].rows_CM for path in producers},
        {path: layout.rows_CM for path, layout in layouts.items() if path in norms},
    )


def _num_inputs(linear: PrunableLinear) -> int:
    return linear.in_channels if isinstance(linear, nn.Conv2d) else weight_view(linear).shape[1]


@contextmanager
def _watched(linears: Mapping[str, PrunableLinear]) -> Iterator[dict[str, list[Tensor]]]:
    """The inputs that the layers are given inside the body, by path, a tensor a call."""
    seen: dict[str, list[Tensor]] = {}

    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].movedim(1, -1) if isinstance(module, nn.Conv2d) else args[0]
            seen.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).clone())

        return hook

    handles = [linear.register_forward_pre_hook(watcher(name)) for name, linear in linears.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _taken(seen: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """What was seen, [N, J] by path; nothing is seen any more."""
    inputs = {name: torch.cat(parts) for name, parts in seen.items()}
    seen.clear()
    return inputs

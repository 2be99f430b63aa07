"""Dependency groups: which layers' outputs are another layer's inputs, channel by channel; with no code per family.

The rows of one layer after the other are scaled on a copy of the block, and the inputs of all other layers are
watched: where exactly the channels of those rows change, nothing between the two layers mixes channels.  Letters:
`C` channels (or heads), `M` rows of a producer a channel, `K` columns of the consumer a channel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.blocks.layers import PrunableLinear, weight_view
from harness.patterns import Unit
from harness.surgery.influence import Influence, Run, num_inputs

SCALE = 1.5
"""Of rows that are tried."""
Trials = list[tuple[Tensor, Mapping[str, Tensor | None]]]
"""Rows that were scaled, and which features of every linear's input changed."""


@dataclass(frozen=True, slots=True)
class DependencyGroup:
    """Channels or heads that `producers` make, `norms` pass on, and `consumer` reads.

    Args:
        unit: what one of them is; a `head` is a key/value head with all of its query heads.
        consumer: path in the block of the layer that reads them.
        columns_CK: columns of the consumer's weight [O, I] that belong to each: one of a linear; kh * kw of a
            convolution; height * width behind a flattened image; a value of every query head that shares it.
        producers: rows of the weight [O, I] that make each, [C, M], by path in the block; M is 2 where one linear holds
            the halves of a gated layer.
        norms: the same of batch normalisations in between.
        sizes: attributes of modules, by the module's path, that are a multiple of the number of heads.
    """

    unit: Unit
    consumer: str
    columns_CK: Tensor
    producers: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]
    sizes: Mapping[str, tuple[str, ...]]

    @property
    def num_channels(self) -> int:
        return len(self.columns_CK)


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows [C, M] of a producer, and features [C, K'] of a consumer's input, that belong together."""

    rows_CM: Tensor
    inputs_CK: Tensor


@torch.no_grad()
def find_dependency_groups(block: nn.Module, run: Run) -> list[DependencyGroup]:
    """The dependency groups of channels inside a block, in the order of their consumers; `block` is left as it is.

    In a dependency group, channel c of the consumer's input changes with row c of each producer and with no other row.
    That is not yet that channels may change places: heads of an attention have their own weights for their values.
    """
    influence = Influence(block, run)
    changes = {name: _of_halves(influence, name) for name in (*influence.linears, *influence.norms)}
    found = []
    for consumer, linear in influence.linears.items():
        layouts = {
            name: layout
            for name, halves in changes.items()
            if name != consumer
            and (layout := _channels(influence.num_rows(name), num_inputs(linear), halves, consumer)) is not None
        }
        if (group := as_group("channel", consumer, linear, layouts, influence.norms)) is not None:
            found.append(group)
    return found


def _of_halves(influence: Influence, name: str) -> Trials:
    """What a random half of a layer's rows changes, and what the other half does."""
    half_R = _random_half(influence.num_rows(name))
    return [(rows_R, influence.of_rows(name, torch.where(rows_R, SCALE, 1.0))) for rows_R in (half_R, ~half_R)]


def _random_half(size: int) -> Tensor:
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    half = torch.zeros(size, dtype=torch.bool)
    half[order[: (size + 1) // 2]] = True
    return half


def _channels(rows: int, inputs: int, halves: Trials, consumer: str) -> Layout | None:
    """How the rows of a layer lie in the inputs of a consumer, if they do so channel by channel."""
    return next((layout for layout in _channel_layouts(rows, inputs) if explains(layout, halves, consumer)), None)


def _channel_layouts(rows: int, inputs: int) -> Iterator[Layout]:
    """The ways in which rows are known to lie in inputs."""
    if rows % inputs == 0:  # a row an input; or the parts of a fused layer, one after the other
        yield Layout(torch.arange(rows).view(-1, inputs).T, torch.arange(inputs)[:, None])
    elif inputs % rows == 0:  # a row feeds several inputs: a flattened image (width 1), values shared by query heads
        for width in (width for width in range(1, rows + 1) if rows % width == 0):
            heads_HKW = torch.arange(inputs).view(rows // width, inputs // rows, width)
            yield Layout(torch.arange(rows)[:, None], heads_HKW.transpose(1, 2).reshape(rows, -1))


def explains(layout: Layout, trials: Trials, consumer: str) -> bool:
    """Whether something, and nothing but the features of the scaled rows changed; dead ones may stay as they are."""
    something = False
    for rows_R, changed in trials:
        inputs_J = changed[consumer]
        if inputs_J is None:
            return False
        expected_J = torch.zeros_like(inputs_J)
        expected_J[layout.inputs_CK[rows_R[layout.rows_CM].any(dim=1)].reshape(-1)] = True
        if bool((inputs_J & ~expected_J).any()):
            return False
        something = something or bool(inputs_J.any())
    return something


def as_group(
    unit: Unit, name: str, consumer: PrunableLinear, layouts: Mapping[str, Layout], norms: Mapping[str, nn.Module]
) -> DependencyGroup | None:
    """The dependency group of one consumer; None where there are no producers or they see its inputs differently."""
    producers = [path for path in layouts if path not in norms]
    if not producers:
        return None
    first = layouts[producers[0]]
    if not all(torch.equal(layout.inputs_CK, first.inputs_CK) for layout in layouts.values()):
        return None
    # A convolution's weight has the kernel's columns of one input channel side by side.
    kernel = weight_view(consumer).shape[1] // num_inputs(consumer)
    columns_CK = (first.inputs_CK[..., None] * kernel + torch.arange(kernel)).flatten(1)
    return DependencyGroup(
        unit,
        name,
        columns_CK,
        {path: layouts[path].rows_CM for path in producers},
        {path: layout.rows_CM for path, layout in layouts.items() if path in norms},
        {},
    )

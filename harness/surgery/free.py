"""What of a block can be cut: channels and heads that are all alike, and the attributes that a cut must change.

Heads are found by trying, with no code per family: where the rows of all layers in front of another one change whole
slices of its input and nothing else, the slices are heads, and the layers make queries, keys and values.  Query heads
that share keys and values are one slice: the smallest part of an attention that can be cut out.  Every cut is proved on
a copy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.patterns import Unit
from harness.surgery.channels import cuts_cleanly, reorders_cleanly
from harness.surgery.configuration import subsets
from harness.surgery.dependencies import (
    SCALE,
    DependencyGroup,
    Layout,
    Trials,
    as_group,
    explains,
    find_dependency_groups,
)
from harness.surgery.influence import Influence, Run, num_inputs

STRONGLY = -2 * SCALE
"""What rows are scaled by: a changed key moves the attention's weights only a little."""


def free_dependency_groups(block: nn.Module, run: Run, units: tuple[Unit, ...] = ("channel",)) -> list[DependencyGroup]:
    """Groups whose channels or heads are all alike: any order of them makes the same block, so that any of them may go.

    Values of an attention are no such channels, since a head sees its own positions.  What cannot be cut, since the
    block's own code counts on its size, is left out.
    """
    free = {group.consumer: group for group in find_dependency_groups(block, run) if _is_free(block, run, group)}
    if "head" in units:
        heads = [group for group in find_heads(block, run) if group.consumer not in free]
        free |= {group.consumer: group for group in heads if _is_free(block, run, group)}
    sized = [_with_sizes(block, run, group) for group in free.values() if group.unit in units]
    return [group for group in sized if group is not None]


def _is_free(block: nn.Module, run: Run, group: DependencyGroup) -> bool:
    if group.unit == "head":
        order_C = torch.arange(group.num_channels).flip(0)
    else:
        order_C = torch.randperm(group.num_channels, generator=torch.Generator().manual_seed(0))
    return reorders_cleanly(block, run, group, order_C)


def _with_sizes(block: nn.Module, run: Run, group: DependencyGroup) -> DependencyGroup | None:
    """The group with the attributes of modules that a cut must change; None where it cannot be cut."""
    if group.num_channels < 2:
        return None
    half_C = torch.arange(group.num_channels // 2)
    for sizes in _sets_of_sizes(block, group):
        sized = replace(group, sizes=sizes)
        if cuts_cleanly(block, run, sized, half_C):
            return sized
    return None


def _sets_of_sizes(block: nn.Module, group: DependencyGroup) -> Iterator[dict[str, tuple[str, ...]]]:
    """No attribute; for heads also each alone and two together, of the modules around the consumer."""
    parts = group.consumer.split(".")[:-1]
    candidates = [
        (path, name)
        for path in (".".join(parts[:depth]) for depth in range(len(parts), -1, -1))
        for name, value in vars(block.get_submodule(path)).items()
        if type(value) is int and value > 0 and value % group.num_channels == 0
    ]
    for chosen in subsets(candidates, 0, 2 if group.unit == "head" else 0):
        yield {path: tuple(name for owner, name in chosen if owner == path) for path, _ in chosen}


@torch.no_grad()
def find_heads(block: nn.Module, run: Run) -> list[DependencyGroup]:
    """The heads of every attention inside a block that has several; `block` is left as it is."""
    influence = Influence(block, run)
    first = {name: _changes(influence, name, torch.arange(influence.num_rows(name)) == 0) for name in influence.linears}
    found = []
    for consumer, linear in influence.linears.items():
        before = {name: first[name][consumer] for name in influence.linears if name != consumer}
        layouts = _heads(influence, consumer, before)
        if layouts is not None and (group := as_group("head", consumer, linear, layouts, {})) is not None:
            found.append(group)
    return found


def _changes(influence: Influence, name: str, rows_R: Tensor) -> dict[str, Tensor | None]:
    return influence.of_rows(name, torch.where(rows_R, STRONGLY, 1.0))


def _heads(influence: Influence, consumer: str, before: Mapping[str, Tensor | None]) -> dict[str, Layout] | None:
    """How the rows of all layers in front of a consumer lie in the most slices of its input; None where they do not.

    Args:
        before: what the first row of each other layer changes of that input.
    """
    if any(inputs_J is None for inputs_J in before.values()):
        return None
    widths = {name: int(inputs_J.sum()) for name, inputs_J in before.items() if inputs_J is not None}
    makers, inputs = [name for name, width in widths.items() if width], num_inputs(influence.linears[consumer])
    if not makers:
        return None
    # One row of a query changes its own head alone: where heads share keys and values, slices are several heads wide.
    for count in (count for count in range(inputs // max(widths.values()), 1, -1) if inputs % count == 0):
        found: dict[str, Layout] = {}
        for name in makers:
            layout = _slices(influence, name, consumer, torch.arange(inputs).view(count, -1))
            if layout is None:
                break
            found[name] = layout
        else:
            return found
    return None


def _slices(influence: Influence, name: str, consumer: str, slices_CK: Tensor) -> Layout | None:
    """How the rows of a layer lie in slices of the consumer's input, if they do."""
    rows, number_C = influence.num_rows(name), torch.arange(len(slices_CK))
    halves = [number_C >> bit & 1 == side for bit in range((len(slices_CK) - 1).bit_length()) for side in (0, 1)]
    for rows_CM in _layouts(rows, len(slices_CK), slices_CK.numel()):
        trials: Trials = []
        for heads_C in halves:  # so many that any two heads are once in different ones
            rows_R = torch.zeros(rows, dtype=torch.bool)
            rows_R[rows_CM[heads_C].reshape(-1)] = True
            # Not all rows of a head alike: its own normalisation would undo that.
            trials.append((rows_R, _changes(influence, name, rows_R & (torch.arange(rows) % 2 == 0))))
        layout = Layout(rows_CM, slices_CK)
        if explains(layout, trials, consumer):
            return layout
    return None


def _layouts(rows: int, count: int, inputs: int) -> Iterator[Tensor]:
    """The ways in which rows [C, M] of queries, keys and values are known to lie."""
    if rows % count:
        return
    yield torch.arange(rows).view(count, -1)  # one head after the other, be it with all of its parts
    shared = rows - inputs  # a fused layer: all queries, then the keys, then the values
    if shared > 0 and shared % (2 * count) == 0:
        parts = torch.arange(rows).split([inputs, shared // 2, shared // 2])
        yield torch.cat([part.view(count, -1) for part in parts], dim=1)

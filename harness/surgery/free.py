"""The dependency groups of a block that can be cut, and the attributes that a cut must change; proved by cutting."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, islice

import torch
from torch import nn

from harness.patterns import Unit
from harness.surgery.channels import cuts_cleanly, reorders_cleanly
from harness.surgery.dependencies import DependencyGroup, find_dependency_groups
from harness.surgery.heads import find_heads
from harness.surgery.influence import Run

MOST_TRIES = 64
"""Sets of attributes that are tried before a group is taken to be none that can be cut."""


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
    for sizes in islice(_sets_of_sizes(block, group), MOST_TRIES):
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
    for count in range(3 if group.unit == "head" else 1):
        for chosen in combinations(candidates, count):
            yield {path: tuple(name for owner, name in chosen if owner == path) for path, _ in chosen}

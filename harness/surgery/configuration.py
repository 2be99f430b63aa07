"""The configuration of a model whose layers have shrunk, found by trying fields, with no code per family."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, islice
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from harness.blocks.experts import split_experts
from harness.blocks.layers import decoder_blocks
from harness.blocks.probe import Probe
from harness.errors import UserError
from harness.surgery.channels import cut, same
from harness.surgery.dependencies import DependencyGroup
from harness.surgery.influence import scratch_copy

MOST_TRIES = 64
"""Models built on the meta device before the search is given up; a field that fits is among the first few."""

Shapes = dict[str, tuple[int, ...]]
BlockCuts = Sequence[tuple[DependencyGroup, int]]
"""What is cut in one block: dependency groups, and how many of their channels or heads stay."""
Fields = dict[str, Any]
T = TypeVar("T")


def subsets(items: Sequence[T], least: int, most: int) -> Iterator[tuple[T, ...]]:
    """Sets of `least` to `most` of the items, small ones first, and not more than are worth a try."""
    return islice((each for size in range(least, most + 1) for each in combinations(items, size)), MOST_TRIES)


def fields_after(model: PreTrainedModel, cuts: Sequence[BlockCuts], first: nn.Module, probe: Probe) -> Fields:
    """The fields of the configuration, with their new values, that make a model as it is after `cuts`.

    A field is tried where its value is the number of channels of a dependency group, a list of such numbers, or unset,
    or is a multiple of the number of heads.  The model that the changed configuration makes must have the wanted shape
    in every tensor, and its first block must compute what the first one does after its cuts.

    Args:
        model: on any device; it is left as it is.
        cuts: of every block, in order.
        first: the first block with its weights, on the device of its probe.

    Raises:
        UserError: no fields make such a model.
    """
    found: Fields = {}
    done: list[list[tuple[DependencyGroup, int]]] = [[] for _ in cuts]
    for unit, candidates in (("channel", _channel_fields), ("head", _head_fields)):
        sizes = {group.num_channels: kept for block in cuts for group, kept in block if group.unit == unit}
        if not sizes:
            continue
        for of_block, block in zip(done, cuts, strict=True):
            of_block += [each for each in block if each[0].unit == unit]
        wanted = _shapes_after(model, done)
        tried = (found | fields for fields in candidates(model, found, sizes, wanted))
        so_far = first_that_makes(model, tried, wanted, partial(_computes, first, done[0], probe))
        if so_far is None:
            old, new = next(iter(sizes.items()))
            raise UserError(
                f"{type(model).__name__} cannot be saved with {new} of {old} {unit}s: no field of its configuration is "
                "their number; allowed: models whose configuration has one"
            )
        found = so_far
    return found


def first_that_makes(
    model: PreTrainedModel,
    tried: Iterable[Fields],
    wanted: Shapes,
    computes: Callable[[PreTrainedModel], bool] = lambda _: True,
) -> Fields | None:
    """The first fields with which the configuration makes a model of the wanted shapes that computes what it should."""
    for fields in islice(tried, MOST_TRIES):
        made = made_with(model, fields)
        if made is not None and shapes_of(made) == wanted and computes(made):
            return fields
    return None


def shapes_of(model: nn.Module) -> Shapes:
    """Shape of every tensor that a checkpoint holds, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shapes_after(model: PreTrainedModel, cuts: Sequence[BlockCuts]) -> Shapes:
    skeleton = made_with(model, {})
    assert skeleton is not None, "the model has been made of its configuration"
    for block, block_cuts in zip(decoder_blocks(skeleton)[1], cuts, strict=True):
        for group, kept in block_cuts:
            cut(block, group, torch.arange(kept))
    return shapes_of(skeleton)


def made_with(model: PreTrainedModel, fields: Mapping[str, Any]) -> PreTrainedModel | None:
    """A model of the same class on the meta device; None where its configuration with `fields` makes none."""
    try:
        config: PreTrainedConfig = copy.deepcopy(model.config)
        for name, value in fields.items():
            setattr(config.get_text_config(), name, value)
        with torch.device("meta"):
            made = type(model)(type(config).from_dict(config.to_dict()))  # as a folder that was saved would be loaded
        split_experts(made)
        return made
    except Exception:  # whatever a family's own code says of a configuration that it cannot build
        return None


@torch.no_grad()
def _computes(first: nn.Module, cuts: BlockCuts, probe: Probe, made: PreTrainedModel) -> bool:
    """Whether the first block of a new model computes what `first` does after its cuts, with the same weights."""
    shrunk = scratch_copy(first)
    dense = probe(shrunk)
    for group, kept in cuts:
        cut(shrunk, group, torch.arange(kept))
    block = decoder_blocks(made)[1][0].float().to_empty(device=probe.device).eval()
    block.load_state_dict(shrunk.state_dict())
    buffers = dict(shrunk.named_buffers())
    for name, buffer in block.named_buffers():
        buffer.copy_(buffers[name])
    try:
        return same(probe(shrunk), probe(block), dense)
    except (RuntimeError, ValueError):
        return False


def _channel_fields(
    model: PreTrainedModel, found: Fields, sizes: Mapping[int, int], wanted: Shapes
) -> Iterator[Fields]:
    """Changes to try: every field that names the sizes, alone and then together; then every unset field."""
    values = model.config.get_text_config().to_dict()
    named = {name: new for name, value in values.items() if (new := _resized(value, sizes)) is not None}
    for names in subsets(list(named), 1, len(named)):
        yield {name: named[name] for name in names}
    if len(set(sizes.values())) == 1:
        (kept,) = set(sizes.values())
        for name, value in values.items():
            if value is None:
                yield {name: kept}


def _resized(value: object, sizes: Mapping[int, int]) -> object | None:
    """The value after the cuts; None where it is no number of channels, or a list of them."""
    if isinstance(value, list | tuple) and value:
        parts = [_resized(part, sizes) for part in value]
        return None if None in parts else type(value)(parts)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return sizes.get(value)


def _head_fields(model: PreTrainedModel, found: Fields, sizes: Mapping[int, int], wanted: Shapes) -> Iterator[Fields]:
    """Changes to try: of the multiples of the number of heads those that leave all other tensors as they are."""
    if len(sizes) > 1:
        return
    ((heads, kept),) = sizes.items()
    before = made_with(model, found)
    assert before is not None, "fields that were found make a model"
    now = shapes_of(before)
    multiples = {
        name: value // heads * kept
        for name, value in model.config.get_text_config().to_dict().items()
        if type(value) is int and value > 0 and value % heads == 0
    }
    fitting = []
    for name, value in multiples.items():
        made = made_with(model, found | {name: value})
        shapes = None if made is None else shapes_of(made)
        if shapes is None or all(shapes.get(each) == now[each] for each in now if now[each] == wanted[each]):
            fitting.append(name)  # alone it may make no model, such as fewer queries than keys
    for names in subsets(fitting, 1, 3):
        yield {name: multiples[name] for name in names}

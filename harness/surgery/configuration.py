"""The configuration of a model whose layers have shrunk, found by trying fields, with no code per family."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from harness.blocks.changes import ModelChange
from harness.blocks.experts import split_experts
from harness.blocks.layers import decoder_blocks
from harness.errors import UserError
from harness.surgery.channels import cut
from harness.surgery.dependencies import DependencyGroup

MOST_TRIES = 64
"""Models built on the meta device before the search is given up; a field that fits is among the first few."""

Shapes = dict[str, tuple[int, ...]]
BlockCuts = Sequence[tuple[DependencyGroup, int]]
"""What is cut in one block: dependency groups, and how many of their channels stay."""


def fields_after(model: PreTrainedModel, cuts: Sequence[BlockCuts]) -> dict[str, Any]:
    """The fields of the configuration, with their new values, that make a model of the shapes after `cuts`.

    A field is tried where its value is the number of channels of a dependency group, a list of such numbers, or unset;
    the model that the changed configuration makes must have the wanted shape in every tensor.

    Args:
        model: on any device; it is left as it is.
        cuts: of every block, in order.

    Raises:
        UserError: no fields make these shapes.
    """
    wanted = _shapes_after(model, cuts)
    sizes = {dependency_group.num_channels: kept for block in cuts for dependency_group, kept in block}
    for fields in islice(_candidates(model.config.get_text_config(), sizes), MOST_TRIES):
        try:
            shapes = shapes_of(_empty(model, _with(model.config, fields)))
        except Exception:  # whatever a family's own code says of a configuration that it cannot build
            continue
        if shapes == wanted:
            return fields
    old, new = next(iter(sizes.items()), (0, 0))
    raise UserError(
        f"{type(model).__name__} cannot be saved with {new} of {old} channels: no field of its configuration is their "
        "number; allowed: models whose configuration has one"
    )


def apply_fields(model: PreTrainedModel, fields: Mapping[str, Any]) -> ModelChange:
    """Write `fields` into the model's configuration, and see that it is the one of the model as it is now."""
    for name, value in fields.items():
        setattr(model.config.get_text_config(), name, value)
    expected = shapes_of(_empty(model, copy.deepcopy(model.config)))
    assert shapes_of(model) == expected, "a block was cut otherwise than planned"
    return ModelChange(configuration=dict(fields))


def shapes_of(model: torch.nn.Module) -> Shapes:
    """Shape of every tensor that a checkpoint holds, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shapes_after(model: PreTrainedModel, cuts: Sequence[BlockCuts]) -> Shapes:
    skeleton = _empty(model, copy.deepcopy(model.config))
    for block, block_cuts in zip(decoder_blocks(skeleton)[1], cuts, strict=True):
        for dependency_group, kept in block_cuts:
            cut(block, dependency_group, torch.arange(kept))
    return shapes_of(skeleton)


def _empty(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of the same class on the meta device."""
    with torch.device("meta"):
        empty = type(model)(config)
    split_experts(empty)
    return empty


def _with(config: PreTrainedConfig, fields: Mapping[str, Any]) -> PreTrainedConfig:
    changed = copy.deepcopy(config)
    for name, value in fields.items():
        setattr(changed.get_text_config(), name, value)
    return changed


def _candidates(config: PreTrainedConfig, sizes: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    """Changes to try: every field that names the sizes, alone and then together; then every unset field."""
    values = config.to_dict()
    named = {name: new for name, value in values.items() if (new := _resized(value, sizes)) is not None}
    for count in range(1, len(named) + 1):
        for names in combinations(named, count):
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

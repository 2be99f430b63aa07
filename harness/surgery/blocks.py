"""Whole blocks are taken out of a model, and its configuration says so."""

from collections.abc import Collection

from transformers import PreTrainedModel

from harness.blocks.changes import ModelChange
from harness.blocks.layers import decoder_blocks
from harness.errors import UserError
from harness.surgery.configuration import Fields, first_that_makes, made_with, shapes_of, subsets
from harness.surgery.declaration import declare


def remove_blocks(model: PreTrainedModel, gone: Collection[int]) -> ModelChange:
    """Take the blocks with these indices out; the others move up and know their new places.

    Raises:
        UserError: no configuration says that they are gone.
    """
    prefix, blocks = decoder_blocks(model)
    count, fields = len(blocks), _fields_without(model, gone)
    stays = [index for index in range(count) if index not in gone]
    for place, index in enumerate(stays):
        for part in blocks[index].modules():  # where a cache looks its keys and values up
            if getattr(part, "layer_idx", None) == index:
                setattr(part, "layer_idx", place)  # noqa: B010  # torch types attributes of modules as tensors
    for index in sorted(gone, reverse=True):
        del blocks[index]
    moved = {f"{prefix}.{index}": f"{prefix}.{place}" for place, index in enumerate(stays) if place != index}
    change = ModelChange(gone=frozenset(f"{prefix}.{index}" for index in gone), moved=moved)
    return change.then(declare(model, fields))


def _fields_without(model: PreTrainedModel, gone: Collection[int]) -> Fields:
    """The fields of the configuration, with their new values, that make the model without these blocks."""
    skeleton = made_with(model, {})
    assert skeleton is not None, "the model has been made of its configuration"
    blocks = decoder_blocks(skeleton)[1]
    count = len(blocks)
    for index in sorted(gone, reverse=True):
        del blocks[index]
    wanted = shapes_of(skeleton)
    values = model.config.get_text_config().to_dict()
    shorter = {name: new for name, value in values.items() if (new := _shortened(value, count, gone)) is not None}
    lists = {name: value for name, value in shorter.items() if isinstance(value, list)}  # always: of single blocks
    numbers = [name for name in shorter if name not in lists]
    tried = (lists | {name: shorter[name] for name in names} for names in subsets(numbers, 1, len(numbers)))
    fields = first_that_makes(model, tried, wanted)
    if fields is None:
        raise UserError(
            f"{type(model).__name__} cannot be made with {count - len(gone)} of {count} blocks: no field of its "
            "configuration is their number; allowed: models whose configuration has one"
        )
    return fields


def _shortened(value: object, count: int, gone: Collection[int]) -> object | None:
    """A number of blocks, or a list with an entry a block, without those that are gone; None where it is neither."""
    if isinstance(value, list) and len(value) == count:
        return [each for index, each in enumerate(value) if index not in gone]
    return count - len(gone) if type(value) is int and value == count else None

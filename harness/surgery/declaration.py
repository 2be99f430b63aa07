"""What became of a model beside what its configuration's fields say: found by comparing, and declared there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from harness.blocks.changes import ModelChange
from harness.blocks.experts import experts_of_stacks, stacked_again
from harness.blocks.pruned import KEY, Declaration, Factors, Removed, declare_in, family_of
from harness.errors import UserError
from harness.surgery.configuration import made_with, shapes_of

REPLACEMENTS = Factors | Removed
"""What stands in the place of a module of the family's own."""


def declare(model: PreTrainedModel, fields: Mapping[str, Any] | None = None) -> ModelChange:
    """Have the model's configuration say what became of it: by `fields` of its own where these say it all.

    What they leave open is declared beside them, see `harness.blocks.pruned`; not where transformers loads no such
    model by its type, so that none could be loaded.
    """
    for name, value in (fields or {}).items():
        setattr(model.config.get_text_config(), name, value)
    change = ModelChange(configuration=dict(fields or {}))
    family, config = family_of(model)
    if not _can_be_stacked(model):
        return change
    with torch.device("meta"):
        plain = family(config)
    with stacked_again(model):
        said = _differences(plain, model)
    if not said and type(model) is family:
        return change
    if not _is_declarable(family, config):
        assert not fields, "these were to say it all"
        return change
    model.__class__ = declare_in(model.config, family, said)
    made = made_with(model, {})
    assert made is not None, "a model of its own configuration can be made"
    assert shapes_of(model) == shapes_of(made), "what was declared is another model"
    return change.then(ModelChange(configuration={KEY: said}))


def check_declarable(model: PreTrainedModel, *, experts_differ: bool = False) -> None:
    """Raise `UserError` where a model can be saved only if the fields of its configuration say what became of it.

    Args:
        experts_differ: whether experts of one block get sizes of their own, which no stack of them holds.
    """
    if not _is_declarable(*family_of(model)) or (experts_differ and experts_of_stacks(model)):
        raise UserError(
            f"{type(model).__name__} cannot be saved with sizes that its configuration has no fields for; allowed: no "
            "save_model, or a causal language model that transformers has"
        )


def _is_declarable(family: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    known: object = AutoModelForCausalLM._model_mapping.get(type(config), None)
    return known is family


def _can_be_stacked(model: PreTrainedModel) -> bool:
    """Whether the experts of every stack have one size."""
    state = model.state_dict()
    return all(len({state[name].shape for name in names}) == 1 for names in experts_of_stacks(model).values())


def declared_note(model: PreTrainedModel, change: ModelChange) -> str:
    """What a record says of how the model can be loaded again."""
    if KEY in change.configuration:
        return "no fields of the model's configuration say what became of it: declared in it for harness.blocks.pruned"
    if not change.configuration:
        return f"nothing says what became of this {type(model).__name__}: it cannot be saved"
    sizes = ", ".join(f"{name}={value}" for name, value in change.configuration.items())
    return f"the model's configuration has now {sizes}"


def _differences(plain: nn.Module, model: nn.Module) -> Declaration:
    """What makes `model` of `plain`, as `reshape` takes it."""
    modules = dict(model.named_modules())
    replaced = {path: part for path, part in modules.items() if isinstance(part, REPLACEMENTS)}
    now, before = (_shapes(each, tuple(f"{path}." for path in replaced)) for each in (model, plain))
    gone = before.keys() - now.keys()
    assert not gone, f"{min(gone)} is not there, and nothing in its place"
    attributes: dict[str, Any] = {}
    for path, part in plain.named_modules():
        if path in modules and path not in replaced:
            has = vars(modules[path])
            changed = {name: has[name] for name, value in vars(part).items() if _is_size(value) and has[name] != value}
            attributes |= {path: changed} if changed else {}
    said: Declaration = {
        "removed": {path: part.outputs for path, part in replaced.items() if isinstance(part, Removed)},
        "factors": {path: part.says for path, part in replaced.items() if isinstance(part, Factors)},
        "tensors": {name: list(shape) for name, shape in now.items() if before.get(name) != shape},
    }
    if not any(said.values()):  # numbers that nobody reads may be those of the model before
        return {}
    return {name: entries for name, entries in (said | {"attributes": attributes}).items() if entries}


def _shapes(model: nn.Module, without: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in model.state_dict().items() if not name.startswith(without)}


def _is_size(value: object) -> bool:
    """Whether an attribute of a module is a whole number, or several."""
    return type(value) is int or (type(value) is tuple and all(type(each) is int for each in value))

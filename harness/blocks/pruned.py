"""A pruned model that its family's configuration cannot say, as a folder that transformers loads.

Blocks with widths of their own, branches that are gone, linears as two factors, new biases: `config.json` of such a
folder has the model type ``prunebench_pruned`` and one key, ``pruned``:

    config      the family's own configuration, of the model before
    removed     modules that are gone, by path: how many values they returned in a tuple, 0 = they returned a tensor
    factors     linears that are two, by path: [out_features, in_features, rank, whether there is a bias]
    tensors     shape of every other parameter and buffer that has another one than `config` says, or is new, by name
    attributes  whole numbers of modules that differ, such as how many heads an attention has, by path

Once this module is imported, ``AutoConfig`` and ``AutoModelForCausalLM`` know the type: the model is one of its
family's own class, made of `config` and then changed as the key says.  Elsewhere the folder loads as nothing:
transformers does not know the type, and a family's own class stops at a ``dtype`` that torch does not have.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, Cache, PreTrainedConfig, PreTrainedModel

MODEL_TYPE = "prunebench_pruned"
KEY = "pruned"
Declaration = dict[str, Any]
"""What the key holds beside `config`."""


class Factors(nn.Module):
    """A linear whose weight is a product, left [O, R] times right [R, I]."""

    def __init__(self, out_features: int, in_features: int, rank: int, bias: bool, like: Tensor) -> None:
        super().__init__()
        place = {"device": like.device, "dtype": like.dtype}
        self.right = nn.utils.skip_init(nn.Linear, in_features, rank, bias=False, **place)
        self.left = nn.utils.skip_init(nn.Linear, rank, out_features, bias=bias, **place)

    @property
    def weight(self) -> Tensor:
        """The product [O, I], for code of a family that looks at its linears' weights."""
        product_OI: Tensor = self.left.weight @ self.right.weight
        return product_OI

    @property
    def says(self) -> list[int | bool]:
        """Its entry of a declaration."""
        return [self.left.out_features, self.right.in_features, self.left.in_features, self.left.bias is not None]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.left(self.right(x))
        return out


class Removed(nn.Module):
    """An attention or a feed-forward network that is gone: it adds nothing.

    Args:
        outputs: how many values it returned in a tuple, the hidden state first; 0 = it returned a tensor.
        layer_idx: where a cache looks its keys and values up; None = it had none.
    """

    def __init__(self, outputs: int, layer_idx: int | None) -> None:
        super().__init__()
        self.outputs, self.layer_idx = outputs, layer_idx

    @classmethod
    def of(cls, module: nn.Module, outputs: int) -> Self:
        """In the place of `module`."""
        layer_idx = getattr(module, "layer_idx", None)
        return cls(outputs, layer_idx if isinstance(layer_idx, int) else None)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor | None, ...]:
        hidden_BLH = args[0] if args else kwargs["hidden_states"]
        if self.layer_idx is not None:
            for past in [each for each in (*args, *kwargs.values()) if isinstance(each, Cache)]:
                empty_BKL1 = hidden_BLH.new_zeros(len(hidden_BLH), 1, hidden_BLH.shape[1], 1)
                past.update(empty_BKL1, empty_BKL1, self.layer_idx)  # a cache counts positions by its first layer
        nothing_BLH = torch.zeros_like(hidden_BLH)
        return (nothing_BLH, *[None] * (self.outputs - 1)) if self.outputs else nothing_BLH


class PrunedConfig(PreTrainedConfig):
    """Reads what such a folder says; what comes out is a configuration of the model's family that says more."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration, with the arguments that it does not take where `return_unused_kwargs` asks for them."""
        said = dict(config_dict[KEY])
        stored = dict(said.pop("config"))
        with_unused = kwargs.pop("return_unused_kwargs", False)
        config, unused = CONFIG_MAPPING[stored["model_type"]].from_dict(stored, return_unused_kwargs=True, **kwargs)
        family: Any = AutoModelForCausalLM._model_mapping[type(config)]
        declare_in(config, family, said)
        return (config, unused) if with_unused else config


AutoConfig.register(MODEL_TYPE, PrunedConfig, exist_ok=True)


class _SaysMore:
    """What goes in front of a family's configuration: it is written with the declaration around it."""

    from_dict = PrunedConfig.from_dict

    def to_dict(self) -> dict[str, Any]:
        own: dict[str, Any] = super().to_dict()  # type: ignore[misc]  # of the family
        said = own.pop(KEY)
        named = {name: own[name] for name in ("architectures", "transformers_version")}
        return named | {"model_type": MODEL_TYPE, "dtype": MODEL_TYPE, KEY: {"config": own, **said}}

    def to_diff_dict(self) -> dict[str, Any]:
        return self.to_dict()


class _Changed:
    """What goes in front of a family's class: made of its configuration, a model is changed as that declares."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]  # of the family
        assert isinstance(self, PreTrainedModel), "it goes in front of a model's class"
        reshape(self, getattr(config, KEY))
        self.tie_weights()


@cache
def _classes(config: Any, model: Any) -> tuple[Any, type]:
    """The configuration and the model of a family that declare more; its own code takes them for its own."""
    says_more = type(f"Pruned{config.__name__}", (_SaysMore, config), {"__module__": config.__module__})
    body = {"__module__": model.__module__, "config_class": says_more}
    changed = type(f"Pruned{model.__name__}", (_Changed, model), body)
    AutoModelForCausalLM.register(says_more, changed, exist_ok=True)
    return says_more, changed


def family_of(model: PreTrainedModel) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """The class of the model's family, and its configuration without what it declares beside."""
    config = copy.deepcopy(model.config)
    if not isinstance(config, _SaysMore):
        return type(model), config
    delattr(config, KEY)
    config.__class__ = type(config).__mro__[2]
    return type(model).__mro__[2], config


def declare_in(config: PreTrainedConfig, model: type[PreTrainedModel], said: Mapping[str, Any]) -> type:
    """Have a configuration declare what it cannot say by its fields; the class of such models of the family `model`."""
    setattr(config, KEY, dict(said))
    own: Any = type(config).__mro__[2] if isinstance(config, _SaysMore) else type(config)
    family: Any = model
    says_more, changed = _classes(own, family)
    config.__class__ = says_more
    return changed


def reshape(model: nn.Module, said: Mapping[str, Any]) -> None:
    """Give a model as its family makes it the modules and shapes of a declaration; what is new is 0, to be loaded."""
    for path, outputs in said.get("removed", {}).items():
        model.set_submodule(path, Removed.of(model.get_submodule(path), outputs))
    for path, (rows, columns, rank, bias) in said.get("factors", {}).items():
        like = next(model.get_submodule(path).parameters())
        model.set_submodule(path, Factors(rows, columns, rank, bias, like))
    for name, shape in said.get("tensors", {}).items():
        path, _, last = name.rpartition(".")
        part = model.get_submodule(path)
        old = getattr(part, last, None)
        like = next(part.parameters()) if old is None else old
        new = torch.zeros(shape, dtype=like.dtype, device=like.device)
        if last in part._buffers:
            part._buffers[last] = new
        else:
            part._parameters[last] = nn.Parameter(new, requires_grad=like.requires_grad)
    for path, values in said.get("attributes", {}).items():
        for name, value in values.items():
            setattr(model.get_submodule(path), name, tuple(value) if isinstance(value, list) else value)

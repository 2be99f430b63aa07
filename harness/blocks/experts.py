"""Experts of a mixture as the linear layers that they are.

transformers keeps a matrix of all experts stacked in one parameter [experts, O, I] and multiplies in groups.  A method
has to see every expert's matrix and the tokens that are routed to it: so the stack gives way to one linear an expert
and matrix, `experts.3.gate_up_proj`, whose weight is a view of its slice, and tokens go through the experts one after
the other.  That serves every family whose experts have the form of transformers' exchangeable implementations; other
stacks are left as they are, and counted as not reached.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_STACKS = "_names_of_stacks"
"""Attribute of a module whose stacks were split: the names of these parameters."""


def split_experts(model: nn.Module) -> None:
    """Put linears in the place of every stack of experts in `model`; no weight is copied."""
    for module in list(model.modules()):
        stacks = dict(module.named_parameters(recurse=False))
        if not _can_be_split(module, stacks):
            continue
        for name in stacks:
            del module._parameters[name]
        matrices = [name for name in stacks if not name.endswith("_bias")]
        for index in range(module.num_experts):  # type: ignore[arg-type]  # torch knows no such attribute
            expert = nn.Module()
            for name in matrices:
                bias = stacks[f"{name}_bias"].data[index] if module.has_bias else None
                expert.add_module(name, _linear(stacks[name].data[index], bias, transposed=bool(module.is_transposed)))
            module.add_module(str(index), expert)
        setattr(module, _STACKS, tuple(stacks))
        module.forward = MethodType(_forward, module)


def is_routed(block: nn.Module, path: str) -> bool:
    """Whether the module at `path` is chosen by its place in a list, as experts are: it may get no token at all."""
    steps = path.split(".")
    parents = [block.get_submodule(".".join(steps[:depth])) for depth in range(len(steps))]
    return any(isinstance(parent, nn.ModuleList) or hasattr(parent, _STACKS) for parent in parents)


def experts_of_stacks(model: nn.Module) -> dict[str, list[str]]:
    """The names in `state_dict` of the experts' tensors, in order, by the name of the stack that transformers keeps."""
    return {
        f"{path}.{stack}": [f"{path}.{index}.{_tensor_of(stack)}" for index in range(module.num_experts)]
        for path, module in model.named_modules()
        for stack in getattr(module, _STACKS, ())
    }


@contextmanager
def stacked_again(model: nn.Module) -> Iterator[None]:
    """The model with the parameters that transformers knows, to be saved; split again afterwards.

    One stack at a time is put together and the linears become views of it, so that the memory holds no second model.
    """
    split = [module for module in model.modules() if hasattr(module, _STACKS)]
    children = [{name: part for name, part in module._modules.items() if name.isdigit()} for module in split]
    for module, experts in zip(split, children, strict=True):
        for stack in getattr(module, _STACKS):
            slots = [module.get_parameter(f"{index}.{_tensor_of(stack)}") for index in experts]
            whole = torch.stack([slot.data for slot in slots])
            for slot, part in zip(slots, whole, strict=True):
                slot.data = part
            module.register_parameter(stack, nn.Parameter(whole, requires_grad=slots[0].requires_grad))
        for index in experts:
            del module._modules[index]
    try:
        yield
    finally:
        for module, experts in zip(split, children, strict=True):
            for stack in getattr(module, _STACKS):
                del module._parameters[stack]
            module._modules.update(experts)


def _can_be_split(module: nn.Module, stacks: Mapping[str, Tensor]) -> bool:
    """Whether it has the form that transformers' exchangeable implementations share, with plain weights."""
    if not all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "num_experts")):
        return False
    if module.has_post_expert_norm or (module.is_transposed and not module.has_bias):
        return False
    matrices = {"gate_up_proj" if module.has_gate else "up_proj", "down_proj"}
    wanted = matrices | ({f"{name}_bias" for name in matrices} if module.has_bias else set())
    return set(stacks) == wanted and all(stacks[name].dim() == 3 for name in matrices)


def _linear(weight: Tensor, bias: Tensor | None, *, transposed: bool) -> nn.Linear | Conv1D:
    """A layer of these very tensors; a weight that is kept as [I, O] is a `Conv1D`'s."""
    with torch.device("meta"):
        rows, columns = weight.shape
        linear = Conv1D(columns, rows) if transposed else nn.Linear(columns, rows, bias=bias is not None)
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _tensor_of(stack: str) -> str:
    """The path in an expert of the tensor that is a slice of `stack`."""
    return f"{stack.removesuffix('_bias')}.{'bias' if stack.endswith('_bias') else 'weight'}"


def _forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Every token's experts, summed by weight; the sums are made as transformers' grouped products make them.

    Args:
        hidden_states: [T, H].
        top_k_index, top_k_weights: the experts of every token and their weights, [T, K].
    """
    expert_S, k = top_k_index.reshape(-1), top_k_index.shape[-1]
    first, activate = ("gate_up_proj", self._apply_gate) if self.has_gate else ("up_proj", self.act_fn)
    parts, order = [], []
    for index in range(self.num_experts):
        slots_R = (expert_S == index).nonzero()[:, 0]
        if len(slots_R):
            expert, x_RH = self.get_submodule(str(index)), hidden_states[slots_R // k]
            parts.append(expert.down_proj(activate(expert.get_submodule(first)(x_RH))))
            order.append(slots_R)
    out_SH = torch.cat(parts)[torch.cat(order).argsort()]
    weighted_TKH = (out_SH * top_k_weights.reshape(-1, 1)).view(*top_k_index.shape, -1)
    return weighted_TKH.sum(dim=1).to(hidden_states.dtype)

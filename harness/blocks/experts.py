"""Experts of a mixture as the linear layers that they are.

transformers keeps a matrix of all experts stacked in one parameter [experts, O, I] and multiplies in groups.  A method
has to see every expert's matrix and the tokens that are routed to it: so the stack gives way to one linear an expert
and matrix, `experts.3.gate_up_proj`, whose weight is a view of its slice, and tokens go through the experts one after
the other.  That serves every family whose experts have the form of transformers' exchangeable implementations, and
those of Llama 4 and JetMoE; other stacks are left as they are, and counted as not reached.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
        form = _form_of(module, stacks)
        if form is None:
            continue
        for name in stacks:
            del module._parameters[name]
        matrices = [name for name in stacks if not name.endswith("_bias")]
        for index in range(module.num_experts):  # type: ignore[arg-type]  # torch knows no such attribute
            expert = nn.Module()
            for name in matrices:
                bias = stacks[f"{name}_bias"].data[index] if f"{name}_bias" in stacks else None
                expert.add_module(name, _linear(stacks[name].data[index], bias, transposed=form.is_transposed))
            module.add_module(str(index), expert)
        setattr(module, _STACKS, tuple(stacks))
        module.forward = MethodType(form.forward, module)


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


@dataclass(frozen=True, slots=True)
class _Form:
    """How a module uses its stacks.

    Args:
        forward: of the module once its experts are linears.
        is_transposed: matrices are [I, O].
    """

    forward: Callable[..., Tensor]
    is_transposed: bool


def _form_of(module: nn.Module, stacks: Mapping[str, Tensor]) -> _Form | None:
    """The form of a module with plain weights, None of one that is not known."""
    if (name := type(module).__name__) in _FORMS:
        return _FORMS[name]
    if not all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "num_experts")):
        return None
    if module.has_post_expert_norm:
        return None
    matrices = {"gate_up_proj" if module.has_gate else "up_proj", "down_proj"}
    wanted = matrices | ({f"{name}_bias" for name in matrices} if module.has_bias else set())
    if set(stacks) != wanted or not all(stacks[name].dim() == 3 for name in matrices):
        return None
    return _Form(_forward, bool(module.is_transposed))


class _Transposed(Conv1D):
    """A linear layer that keeps its weight as [I, O], and has a bias or none."""

    bias: nn.Parameter | None  # type: ignore[assignment]  # transformers always has one

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x @ self.weight
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return out


def _linear(weight: Tensor, bias: Tensor | None, *, transposed: bool) -> nn.Linear | Conv1D:
    """A layer of these very tensors."""
    with torch.device("meta"):
        rows, columns = weight.shape
        linear: nn.Linear | Conv1D = nn.Linear(columns, rows)
        if transposed:
            linear = _Transposed(columns, rows)  # type: ignore[no-untyped-call]
    linear.weight = nn.Parameter(weight)
    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias))
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


def _forward_of_llama_4(self: Any, hidden_states: Tensor) -> Tensor:
    """Every expert is given all tokens, times their scores: those that are not its own are zeros, and stay zeros.

    Args:
        hidden_states: [experts * T, H].
    """
    out_ETH = torch.zeros_like(hidden_states).view(self.num_experts, -1, hidden_states.shape[-1])
    for index, x_TH in enumerate(hidden_states.view_as(out_ETH)):
        routed_T = x_TH.any(dim=1)
        if routed_T.any():
            expert = self.get_submodule(str(index))
            gate, up = expert.gate_up_proj(x_TH[routed_T]).chunk(2, dim=-1)
            out_ETH[index, routed_T] = expert.down_proj(up * self.act_fn(gate))
    return out_ETH.view_as(hidden_states)


def _forward_of_jetmoe(self: Any, inputs: Tensor, expert_size: list[int]) -> Tensor:
    """The tokens lie in the order of the experts, each of which has so many."""
    parts = zip(range(self.num_experts), inputs.split(expert_size), strict=True)
    return torch.cat([self.get_submodule(f"{index}.weight")(x_TI) for index, x_TI in parts])


_FORMS = {
    "Llama4TextExperts": _Form(_forward_of_llama_4, is_transposed=True),
    "JetMoeParallelExperts": _Form(_forward_of_jetmoe, is_transposed=False),
}
"""By the name of the module's class."""

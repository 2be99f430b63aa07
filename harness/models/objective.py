"""What a model is trained on, and the state that it is trained in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.models.kinds.base import Objective, kind_of


def objective_of(model: nn.Module) -> Objective:
    """What models of this one's kind are trained on."""
    return kind_of(getattr(getattr(model, "config", None), "model_type", None)).objective


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Every parameter, and every batch norm's statistics, in float32 for the time of the body, then in its own type.

    Gradients of half-precision weights underflow, and small steps of them are lost.  Running statistics must have the
    type of what they are applied to; other buffers, such as rotary frequencies, stay as they are.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept: list[tuple[Tensor, torch.dtype]]
    kept = [(weight, weight.dtype) for weight in model.parameters() if weight.dtype != torch.float32]
    kept += [(each, each.dtype) for norm in norms for each in norm.buffers() if each.dtype.is_floating_point]
    try:
        for weight, _ in kept:
            weight.data = weight.data.float()
        yield
    finally:
        for weight, dtype in kept:
            weight.data = weight.data.to(dtype)


@contextmanager
def trainable(model: nn.Module, weights: Callable[[str], bool]) -> Iterator[None]:
    """Gradients are recorded, for the parameters whose path `weights` accepts and no other."""
    before = {weight: weight.requires_grad for weight in model.parameters()}
    try:
        for name, weight in model.named_parameters():
            weight.requires_grad_(weights(name))
        with torch.enable_grad():
            yield
    finally:
        for weight, flag in before.items():
            weight.requires_grad_(flag)
            weight.grad = None

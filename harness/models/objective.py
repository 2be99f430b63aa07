"""What a model is trained on: the one loss that pruning by gradients, training and fine-tuning share.

A language model's objective is the next token.  A model of another kind brings its own, as `training_loss`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

Objective = Callable[[nn.Module, Tensor], Tensor]
"""`objective(model, batch)`: the mean loss, a scalar with a gradient, of a batch of calibration rows."""


@runtime_checkable
class OwnObjective(Protocol):
    """A model that is no language model says itself what it is trained on."""

    def training_loss(self, batch: Tensor) -> Tensor:
        """The mean loss of a batch of calibration rows; labels, where there are any, belong to the model's data."""
        ...


def next_token_loss(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    """Mean cross-entropy in float32 of every token but the first, given those before it."""
    logits_BLV = model(input_ids=tokens_BL, use_cache=False).logits
    predicted_TV = logits_BLV[:, :-1].reshape(-1, logits_BLV.shape[-1])
    return functional.cross_entropy(predicted_TV.float(), tokens_BL[:, 1:].reshape(-1))


def own_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """The loss that the model brings."""
    assert isinstance(model, OwnObjective), f"{type(model).__name__} has no training_loss"
    return model.training_loss(batch)


def objective_of(model: nn.Module) -> Objective:
    """The model's own objective where it has one, else the next token."""
    return own_loss if isinstance(model, OwnObjective) else next_token_loss


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

"""Gradients of the loss that a model was trained on, as criteria read them: moments over the calibration sequences."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.blocks.layers import as_matrix, prunable_layers
from harness.models.objective import in_float32, objective_of, trainable

if TYPE_CHECKING:
    from harness.pruning.context import PruningContext


def gradient_moments(context: PruningContext, names: Collection[str], count: int) -> list[dict[str, Tensor]]:
    """The mean over the calibration sequences of the gradient of a sequence's mean loss; the mean of its square.

    Every sequence has a backward pass of its own, since the gradient of a batch says nothing of the squares of its
    sequences'; no layer's gradient outlives the moment that it is added.  The model is on the context's device then.

    Args:
        names: linears of the model, by path.
        count: 1 = the mean alone, 2 = both.

    Returns:
        Each moment as [O, I] in float32 by path in the model; zero where the loss does not depend on the weight.
    """
    model, rows_BL = context.model, context.tokens_BL
    objective = objective_of(model)
    model.to(context.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
    linears = {name: linear for name, linear in prunable_layers(model).items() if name in names}
    weights = {f"{name}.weight" for name in linears}
    context.reporter.start("prune: gradients, sequences", len(rows_BL))
    with in_float32(model), trainable(model, weights.__contains__):
        sums = {name: [torch.zeros_like(linear.weight.data) for _ in range(count)] for name, linear in linears.items()}
        handles = [
            linear.weight.register_post_accumulate_grad_hook(_adds(sums[name], len(rows_BL)))
            for name, linear in linears.items()
        ]
        try:
            for row_L in rows_BL:
                objective(model, row_L[None].to(context.device)).backward()
                context.reporter.advance()
        finally:
            for handle in handles:
                handle.remove()
    return [{name: as_matrix(linear, sums[name][each]) for name, linear in linears.items()} for each in range(count)]


def _adds(sums: list[Tensor], num_sequences: int) -> Callable[[Tensor], None]:
    """Adds a weight's gradient of one of so many sequences to its moments, and drops it."""

    def add(weight: Tensor) -> None:
        gradient = weight.grad
        assert gradient is not None, "the hook runs when there is one"
        sums[0].add_(gradient, alpha=1 / num_sequences)
        for squares in sums[1:]:
            squares.addcmul_(gradient, gradient, value=1 / num_sequences)
        weight.grad = None

    return add

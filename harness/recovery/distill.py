"""Distillation: train the weights that pruning left to say what the dense model says.

Hinton et al. 2015, https://arxiv.org/abs/1503.02531: the loss is T^2 KL(dense || pruned) of the two models' predictions
at temperature T, over all positions of the training sequences.  The dense model goes through its blocks once, one at a
time and without gradients; what comes out of the last one is kept for all sequences, and its logits are made from that
when a batch needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.job import Positive
from harness.recovery.base import RECOVERIES, MaskedTraining, Recovered, RecoveryContext

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.models.loading import LoadedModel


@RECOVERIES.register("distill")
@dataclass(frozen=True, slots=True)
class Distill(MaskedTraining):
    """Adam on the weights of the prunable layers; zeros, norms, biases and embeddings stay as they are.

    Args:
        steps: optimiser steps, >= 1.
        batch: sequences a step, >= 1; all, where there are not so many.
        learning_rate: constant, > 0.
        temperature: that both models' logits are divided by, > 0.
    """

    temperature: Positive = 2.0
    needs_teacher = True

    def recover(self, context: RecoveryContext) -> Recovered:
        import torch

        from harness.blocks.slots import outside_on

        assert context.teacher is not None, "a recovery that needs a teacher is given one"
        teacher = Teacher(context.teacher, context)
        rows_BL, device = context.rows_BL, context.device

        def objective(model: nn.Module, chosen_B1: Tensor) -> Tensor:
            numbers_B = chosen_B1[:, 0].cpu()
            logits = model(input_ids=rows_BL[numbers_B].to(device)).logits
            return divergence(teacher.logits(numbers_B), logits, self.temperature)

        with outside_on(context.teacher.model, device):
            return self.trained(
                context, torch.arange(len(rows_BL))[:, None], objective, "distilled from the dense model"
            )


class Teacher:
    """The dense model's logits on the training sequences.

    Args:
        dense: with its blocks wherever its offloading has them.
    """

    def __init__(self, dense: LoadedModel, context: RecoveryContext) -> None:
        from harness.blocks.runner import BlockRunner, in_batches

        self._rows_BL, self._device, self._model = context.rows_BL, context.device, dense.model
        batches = in_batches(context.rows_BL, context.batch_tokens)
        runner = BlockRunner(dense.model, batches, dense.offloading, context.device)
        context.reporter.start("recover: blocks of the dense model", len(runner.blocks))
        self._behind = runner.behind(context.reporter.advance)

    def logits(self, numbers_B: Tensor) -> Tensor:
        """Of the sequences with these numbers; the model outside of its blocks is on the context's device."""
        import torch

        hidden = self._behind.hidden_NLH[numbers_B].to(self._device)
        with torch.no_grad(), self._behind.returning(self._model, hidden):
            logits: Tensor = self._model(input_ids=self._rows_BL[numbers_B].to(self._device)).logits
        return logits


def divergence(dense: torch.Tensor, pruned: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(dense || pruned) in nats at temperature T, the mean over all positions; logits are [..., V]."""
    from torch.nn import functional

    target, said = (
        functional.log_softmax(each.float() / temperature, dim=-1).flatten(0, -2) for each in (dense, pruned)
    )
    return temperature**2 * functional.kl_div(said, target, reduction="batchmean", log_target=True)

"""Masked fine-tuning: train the weights that pruning left, and nothing else.

Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878, section 3: the masks are applied after every step, so that what was
pruned stays pruned.  The data are the job's calibration sequences; the loss is what the model is trained on, which is
the next token for language models and cross-entropy for image classifiers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from harness.progress import Reporter


@dataclass(frozen=True, slots=True)
class MaskedFinetune:
    """Adam on the weights of the prunable layers; norms, biases, embeddings and running statistics stay as they are.

    Args:
        steps: optimiser steps, >= 1.
        batch: calibration sequences a step, >= 1.
        learning_rate: constant, > 0.
    """

    steps: int
    batch: int
    learning_rate: float

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"recovery.{name}={getattr(self, name)} is not allowed; allowed: {name} >= 1")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(
                f"recovery.learning_rate={self.learning_rate:g} is not allowed; allowed: a finite number > 0"
            )

    def recover(
        self, model: PreTrainedModel, rows_BL: Tensor, seed: int, device: torch.device, reporter: Reporter
    ) -> str:
        """Train `model` in place and in float32, on `device`, where it stays; a line for the record.

        Raises:
            ArithmeticError: the loss is not finite any more.
        """
        from harness.models.layers import prunable_layers, weight_view
        from harness.models.objective import in_float32
        from harness.models.training import Schedule, train

        model.to(device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        reporter.start("recover: fine-tune, steps", self.steps)
        with in_float32(model):
            removed = {linear: weight_view(linear) == 0 for linear in prunable_layers(model).values()}
            schedule = Schedule(self.steps, self.batch, self.learning_rate, seed)
            loss = train(model, rows_BL, schedule, removed, only_these=True, after_step=reporter.advance)
        return f"fine-tuned under its masks to a loss of {loss:.4g}; the layers' output errors are those before it"

"""Masked fine-tuning: train the weights that pruning left, and nothing else.

Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878, section 3: the masks are applied after every step, so that what was
pruned stays pruned.  The data are the job's calibration sequences; the loss is what the model is trained on, which is
the next token for language models and cross-entropy for image classifiers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.blocks.changes import ModelChange
from harness.errors import UserError
from harness.recovery.base import RECOVERIES, Recovered, Recovery, RecoveryContext


@RECOVERIES.register("masked_finetune")
@dataclass(frozen=True, slots=True)
class MaskedFinetune(Recovery):
    """Adam on the weights of the prunable layers; norms, biases, embeddings and running statistics stay as they are.

    Args:
        steps: optimiser steps, >= 1.
        batch: calibration sequences a step, >= 1.
        learning_rate: constant, > 0.
    """

    steps: int = 200
    batch: int = 64
    learning_rate: float = 0.001

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"recovery.{name}={getattr(self, name)} is not allowed; allowed: {name} >= 1")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(
                f"recovery.learning_rate={self.learning_rate:g} is not allowed; allowed: a finite number > 0"
            )

    def recover(self, context: RecoveryContext) -> Recovered:
        """Train the model in place and in float32."""
        from harness.blocks.layers import prunable_layers, prunable_shapes, weight_view
        from harness.models.objective import in_float32
        from harness.models.training import Schedule, train

        model = context.model
        model.to(context.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        context.reporter.start("recover: fine-tune, steps", self.steps)
        with in_float32(model):
            removed = {linear: weight_view(linear) == 0 for linear in prunable_layers(model).values()}
            schedule = Schedule(self.steps, self.batch, self.learning_rate, context.seed)
            loss = train(
                model, context.rows_BL, schedule, removed, only_these=True, after_step=context.reporter.advance
            )
        note = f"fine-tuned under its masks to a loss of {loss:.4g}; the layers' output errors are those before it"
        return Recovered(ModelChange.of_weights(prunable_shapes(model)), note)

"""Masked fine-tuning: train the weights that pruning left, and nothing else.

Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878, section 3: the masks are applied after every step, so that what was
pruned stays pruned.  The data are the job's calibration sequences; the loss is what the model is trained on, which is
the next token for language models and cross-entropy for image classifiers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.blocks.changes import ModelChange
from harness.job import Count, Positive
from harness.recovery.base import RECOVERIES, Recovered, Recovery, RecoveryContext

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.kinds.base import Objective


@RECOVERIES.register("masked_finetune")
@dataclass(frozen=True, slots=True)
class MaskedFinetune(Recovery):
    """Adam on the weights of the prunable layers; norms, biases, embeddings and running statistics stay as they are.

    Args:
        steps: optimiser steps, >= 1.
        batch: calibration sequences a step, >= 1.
        learning_rate: constant, > 0.
    """

    steps: Count = 200
    batch: Count = 64
    learning_rate: Positive = 0.001
    done: ClassVar[str] = "fine-tuned"

    def recover(self, context: RecoveryContext) -> Recovered:
        """Train the model in place and in float32."""
        from harness.blocks.layers import prunable_layers, prunable_shapes, weight_view
        from harness.models.objective import in_float32
        from harness.models.training import Schedule, train

        model, advance = context.model, context.reporter.advance
        model.to(context.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        with self.lesson(context) as (rows_BL, objective), in_float32(model):
            context.reporter.start("recover: train under the masks, steps", self.steps)
            removed = {linear: weight_view(linear) == 0 for linear in prunable_layers(model).values()}
            schedule = Schedule(self.steps, self.batch, self.learning_rate, context.seed, only_removed=True)
            loss = train(model, rows_BL, schedule, removed, after_step=advance, objective=objective)
        note = f"{self.done} under its masks to a loss of {loss:.4g}; the layers' output errors are those before it"
        return Recovered(ModelChange.of_weights(prunable_shapes(model)), note)

    @contextmanager
    def lesson(self, context: RecoveryContext) -> Iterator[tuple[Tensor, Objective | None]]:
        """What batches are drawn from, and what is minimised on them; None = what the model is trained on."""
        yield context.rows_BL, None

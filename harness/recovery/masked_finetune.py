"""Masked fine-tuning: train the weights that pruning left, and nothing else.

Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878, section 3: the masks are applied after every step, so that what was
pruned stays pruned.  The loss is what the model is trained on, which is the next token for language models and
cross-entropy for image classifiers.
"""

from dataclasses import dataclass

from harness.recovery.base import RECOVERIES, MaskedTraining, Recovered, RecoveryContext


@RECOVERIES.register("masked_finetune")
@dataclass(frozen=True, slots=True)
class MaskedFinetune(MaskedTraining):
    """Adam on the weights of the prunable layers; norms, biases, embeddings and running statistics stay as they are.

    Args:
        steps: optimiser steps, >= 1.
        batch: sequences a step, >= 1; all, where there are not so many.
        learning_rate: constant, > 0.
    """

    def recover(self, context: RecoveryContext) -> Recovered:
        return self.trained(context, context.rows_BL, None, "fine-tuned")

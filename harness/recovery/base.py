"""What a recovery is: what is done to a pruned model before it is measured.

A recovery is a frozen dataclass of its hyperparameters and has no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.blocks.changes import ModelChange
from harness.job import Count, Positive
from harness.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from harness.models.kinds.base import Objective
    from harness.models.loading import LoadedModel
    from harness.progress import Reporter

NO_RECOVERY = "none"
"""The recovery that leaves the pruned weights as they are."""


@dataclass(frozen=True, slots=True)
class RecoveryContext:
    """What a recovery works on.

    Args:
        model: pruned; changed in place.
        rows_BL: the sequences that it is trained on.
        seed: of the job, for whatever the recovery draws.
        device: where the model is trained.
        batch_tokens: most tokens in one forward pass of the dense model, >= 1.
        teacher: the dense model, its blocks given out by its offloading; None where the recovery asks for none.
    """

    model: PreTrainedModel
    rows_BL: Tensor
    seed: int
    device: torch.device
    reporter: Reporter
    batch_tokens: int
    teacher: LoadedModel | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery did.

    Args:
        change: of the pruned model.
        note: a line for the record.
    """

    change: ModelChange
    note: str


@dataclass(frozen=True, slots=True)
class Recovery(ABC):
    """Base of all recoveries.

    Attributes:
        needs_teacher: whether it looks at the dense model, which is then opened before the pruning.
        changes_model: whether it does anything; one that does needs the whole model in memory.
    """

    needs_teacher: ClassVar[bool] = False
    changes_model: ClassVar[bool] = True

    @abstractmethod
    def recover(self, context: RecoveryContext) -> Recovered:
        """Recover the model in place, on the context's device, where it stays.

        Raises:
            ArithmeticError: the loss is not finite any more.
        """


@dataclass(frozen=True, slots=True)
class MaskedTraining(Recovery):
    """What trains the weights of the prunable layers that pruning left; its fields are those of every such recovery."""

    steps: Count = 200
    batch: Count = 64
    learning_rate: Positive = 0.001

    def trained(self, context: RecoveryContext, rows_BL: Tensor, objective: Objective | None, how: str) -> Recovered:
        """Train the model in place and in float32: Adam, with the masks applied after every step.

        Args:
            rows_BL: what batches are drawn from.
            objective: what is minimised on them; None = what the model is trained on.
            how: for the record.
        """
        from harness.blocks.layers import prunable_layers, prunable_shapes, weight_view
        from harness.models.objective import in_float32
        from harness.models.training import Schedule, train

        model, advance = context.model, context.reporter.advance
        model.to(context.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        with in_float32(model):
            context.reporter.start("recover: train under the masks, steps", self.steps)
            removed = {linear: weight_view(linear) == 0 for linear in prunable_layers(model).values()}
            schedule = Schedule(self.steps, self.batch, self.learning_rate, context.seed, only_removed=True)
            loss = train(model, rows_BL, schedule, removed, after_step=advance, objective=objective)
        note = f"{how} under its masks to a loss of {loss:.4g}; the layers' output errors are those before it"
        return Recovered(ModelChange.of_weights(prunable_shapes(model)), note)


RECOVERIES: Registry[type[Recovery]] = Registry("recovery", "harness.recovery")
"""Recoveries by name."""

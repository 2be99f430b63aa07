"""What a recovery is: what is done to a pruned model before it is measured.

A recovery is a frozen dataclass of its hyperparameters and has no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.blocks.changes import ModelChange
from harness.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

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
    """

    needs_teacher: ClassVar[bool] = False

    @property
    def changes_model(self) -> bool:
        """Whether it does anything; one that does needs the whole model in memory."""
        return True

    @abstractmethod
    def recover(self, context: RecoveryContext) -> Recovered:
        """Recover the model in place, on the context's device, where it stays.

        Raises:
            ArithmeticError: the loss is not finite any more.
        """


RECOVERIES: Registry[type[Recovery]] = Registry("recovery", "harness.recovery")
"""Recoveries by name."""

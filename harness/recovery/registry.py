"""The table of recoveries; their fields and defaults are in conf/recovery."""

from dataclasses import dataclass

from harness.job import Choice
from harness.pruning.registry import build_entry
from harness.recovery.masked_finetune import MaskedFinetune

NONE = "none"
"""The recovery that leaves the pruned weights as they are."""


@dataclass(frozen=True, slots=True)
class NoRecovery:
    """Has no hyperparameters."""


RECOVERIES: dict[str, type[MaskedFinetune] | type[NoRecovery]] = {NONE: NoRecovery, "masked_finetune": MaskedFinetune}


def build_recovery(choice: Choice) -> MaskedFinetune | None:
    """The recovery that a job names, with its hyperparameters; None for `none`.

    Raises:
        UserError: unknown recovery or hyperparameter, or a value of the wrong type or out of range.
    """
    built = build_entry("recovery", RECOVERIES, choice)
    return None if isinstance(built, NoRecovery) else built

"""The table of recoveries; their fields and defaults are in conf/recovery."""

from dataclasses import fields
from typing import Any, get_type_hints

from harness.errors import UserError, unknown
from harness.job import Choice
from harness.recovery.masked_finetune import MaskedFinetune

NONE = "none"
"""The recovery that leaves the pruned weights as they are."""
RECOVERIES = {"masked_finetune": MaskedFinetune}


def build_recovery(choice: Choice) -> MaskedFinetune | None:
    """The recovery that a job names, with its hyperparameters; None for `none`.

    Raises:
        UserError: unknown recovery, or a value of the wrong type or out of range.
    """
    if choice.name == NONE:
        if choice.params:
            raise unknown("parameter of recovery none", next(iter(choice.params)), ["(it has none)"])
        return None
    if choice.name not in RECOVERIES:
        raise unknown("recovery", choice.name, [NONE, *RECOVERIES])
    kind = RECOVERIES[choice.name]
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in choice.params:
        if name not in names:
            raise unknown(f"parameter of recovery {choice.name}", name, names)
    assert set(choice.params) == set(names), f"conf/recovery/{choice.name}.yaml must have {', '.join(names)}"
    for name, value in choice.params.items():
        accepted = (int, float) if hints[name] is float else hints[name]
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise UserError(f"recovery.{name}={value!r} is not of type {hints[name].__name__}")
    params: dict[str, Any] = {
        name: float(value) if isinstance(value, int) and hints[name] is float else value
        for name, value in choice.params.items()
    }
    return kind(**params)

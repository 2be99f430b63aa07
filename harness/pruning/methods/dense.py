"""The model as it is: the line that every table is read against."""

from dataclasses import dataclass

from harness.pruning.methods.base import METHODS, PruningMethod


@METHODS.register("dense")
@dataclass(frozen=True, slots=True)
class Dense(PruningMethod):
    """Prunes nothing; takes no pattern and no calibration."""

"""What an allocation is: how the sparsity of a model is spread over its layers.

An allocation is a frozen dataclass of its hyperparameters and has no state.  It has its say at two moments: `spread`
before the first block is pruned, and `refine` once a block was observed.  Both give layers a `Pattern`, so every
allocation goes with every method that prunes layer by layer.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.calibration.statistics import Statistic
from harness.patterns import Pattern, Unstructured
from harness.registry import Registry

if TYPE_CHECKING:
    import torch

    from harness.job import CalibrationSpec
    from harness.pruning.dense_analysis import DenseAnalysis
    from harness.pruning.sequential import ObservedBlock

UNIFORM = "uniform"
"""The allocation that leaves every layer the requested pattern."""


@dataclass(frozen=True, slots=True)
class Allocation(ABC):  # noqa: B024  # an allocation overrides one of its two moments, or both
    """Base of all allocations.

    Attributes:
        patterns: the kinds of requested pattern that it can spread.
        measures_trials: whether it measures pruned layers on sequences that calibration leaves over.
        refines: whether it has a say once a block was observed; only then are the block's inputs kept until then.
        needs: the statistics of every linear's input that `refine` reads, beside those of the method.
    """

    patterns: ClassVar[tuple[type[Pattern], ...]] = (Unstructured,)
    measures_trials: ClassVar[bool] = False
    refines: ClassVar[bool] = False
    needs: ClassVar[tuple[type[Statistic], ...]] = ()

    def refuses(self, pattern: Pattern) -> str | None:
        """Why this allocation cannot spread `pattern`, or None when it can."""
        if isinstance(pattern, self.patterns):
            return None
        taken = ", ".join(kind.choice for kind in self.patterns)
        return f"it spreads {taken}, not {pattern.label}"

    def spread(self, analysis: DenseAnalysis) -> dict[str, Pattern]:
        """The pattern of every prunable linear by its path in the model; the model is left dense.

        Raises:
            UserError: the requested total cannot be met.
        """
        return dict.fromkeys(analysis.shapes, analysis.pattern)

    def warning(
        self, shapes: Mapping[str, tuple[int, int]], device: torch.device, calibration: CalibrationSpec
    ) -> str | None:
        """What a user must know before the sparsity of layers of these shapes (O, I) is spread, such as the time."""
        return None

    def refine(self, block: ObservedBlock, patterns: Mapping[str, Pattern], deficit: float) -> Mapping[str, Pattern]:
        """The patterns of one block's linears, by path in the model; its weights are left as they are.

        Args:
            block: still dense, observed with the inputs that it will have, one sequence at a time.
            patterns: of its linears by path in the model, as `spread` gave them.
            deficit: zeros that the patterns of the blocks before have too few, or below 0 too many.
        """
        return patterns


ALLOCATIONS: Registry[type[Allocation]] = Registry("allocation", "harness.pruning.allocations")
"""Allocations by name."""

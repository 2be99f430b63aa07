"""What a structured pruning method is; `harness.pruning.structured` finds, cuts and makes up for what it scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.calibration.statistics import Statistics
from harness.patterns import Pattern, Structured, Unit
from harness.pruning.methods.base import PruningMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.pruning.context import PruningContext, PruningOutcome
    from harness.pruning.cutting import Adapted, Candidates
    from harness.pruning.shares import Cuttable
    from harness.record import JsonValue


@dataclass(frozen=True, slots=True)
class Compensation:
    """What makes up for the columns that a consumer loses.

    Args:
        bias_O: added to its bias; None = nothing.
        weight_OK: its columns that stay, in the order of the dense ones; None = as they are.
        details: facts for the layer's report.
    """

    bias_O: Tensor | None = None
    weight_OK: Tensor | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)


class StructuredMethod(PruningMethod):
    """Scores channels and heads; the least important are cut out of all layers that make, pass on or read them.

    The statistics that it needs are those of the consumer's input.  Gradients, where it takes moments of them, are the
    dense model's, and all of the model is in memory and in float32 for them.

    Attributes:
        units: what it cuts; a head is a key/value head with all of its query heads.
        heads_first: whether channels are judged by the inputs that the block has once its heads are cut (with
            `propagation=pruned`), else both by those of the dense block.
    """

    __slots__ = ()
    patterns: ClassVar[tuple[type[Pattern], ...]] = (Structured,)
    updates_weights = False
    units: ClassVar[tuple[Unit, ...]] = ("channel", "head")
    heads_first: ClassVar[bool] = False

    @property
    def scope(self) -> Literal["block", "model"]:
        """Whether channels and heads of one `block` compete, from the inputs behind the cut blocks before it (but not
        with gradients) and with the same numbers in blocks of one shape, or those of the whole `model`, from its inputs
        when it is dense.
        """
        return "block"

    @property
    def needs_whole_model(self) -> bool:
        return self.uses_gradients

    @property
    def comparison_group(self) -> str:
        return "channels of a block" if self.scope == "block" else "model"

    @property
    def decides_layer_sparsities(self) -> bool:
        return self.scope == "model"

    @property
    def complexity(self) -> str:
        return "passes over the model" if self.uses_gradients else super().complexity

    def run(self, context: PruningContext) -> PruningOutcome:
        from harness.pruning.structured import prune_structured

        return prune_structured(self, context)

    @property
    def passes(self) -> float | None:
        return 4.0 if self.uses_gradients else None  # measured: docs/performance.md

    def losses(self, context: PruningContext, num_blocks: int) -> Sequence[float]:
        """How much every block is to lose of what can be cut there, beside the others; 0 = nothing of it may go."""
        return [1.0] * num_blocks

    def adapt(
        self, context: PruningContext, found: Sequence[Sequence[Cuttable]], counts: Sequence[Sequence[int]]
    ) -> Adapted | None:
        """Train the model for the cut, in place, and find all importances on the way; None = they are of the inputs.

        Args:
            found: what can be cut, by block.
            counts: how many of each stay.
        """
        return None

    @abstractmethod
    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        """Importance [C] of every channel or head of a dependency group, finite, higher = keep."""

    def kept(self, candidates: Candidates, stats: Statistics, count: int) -> Tensor:
        """Numbers, ascending, of so many channels or heads of a dependency group that stay, where a block decides."""
        from harness.pruning.shares import most_important

        return most_important(self.importance(candidates, stats), count)

    def choose(
        self, importances: Sequence[Sequence[Tensor]], sizes: Sequence[Sequence[int]], fraction: float
    ) -> list[list[Tensor]]:
        """Numbers, ascending, of what stays of every group of every block, where all of the model competes.

        Args:
            importances: [C] of every group.
            sizes: parameters that one channel or head of it takes along.
            fraction: of all these parameters that is to go.
        """
        from harness.pruning.shares import kept_over_model

        return kept_over_model(importances, sizes, fraction)

    def compensation(self, weight_OI: Tensor, kept: Tensor, stats: Statistics) -> Compensation:
        """What makes up for the columns of a consumer that go, in a bias or in the columns that stay.

        Args:
            weight_OI: dense.
            kept: numbers of the columns that stay, ascending.
        """
        return Compensation()

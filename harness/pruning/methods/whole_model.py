"""What a method is that needs all of the model in memory: it takes whole blocks out, or prunes all layers together."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from harness.patterns import SemiStructured, Structured, Unstructured
from harness.pruning.methods.base import PruningMethod

if TYPE_CHECKING:
    from harness.pruning.context import GlobalOutcome, PruningContext, PruningOutcome


class WholeModelMethod(PruningMethod):
    """Decides with all of the model in memory, from passes over it, what goes where."""

    __slots__ = ()
    decides_layer_sparsities = True
    needs_whole_model = True
    reads_data = True
    complexity = "passes over the model"


class DepthMethod(WholeModelMethod):
    """Takes whole blocks out of the model: as many as come closest to the requested fraction of all parameters."""

    __slots__ = ()
    patterns = (Structured,)
    updates_weights = False
    propagation = "dense"
    comparison_group = "model"

    def run(self, context: PruningContext) -> PruningOutcome:
        from harness.pruning.depth import prune_blocks

        return prune_blocks(self, context)

    @abstractmethod
    def removals(self, context: PruningContext, count: int) -> tuple[list[int], list[str]]:
        """Indices of `count` blocks in the order in which they go, and notes; the model is left dense."""


class GlobalMethod(WholeModelMethod):
    """Prunes all linears of a model together, having seen the whole of it: gradients, one threshold, several shots.

    The model is on the device and in float32 while it is pruned, whatever the job's type: gradients of half-precision
    weights underflow.  Afterwards it is in its own type again.  Where the inputs of a block come from is the method's
    affair, so `calibration.propagation` makes no difference.
    """

    __slots__ = ()
    uses_gradients = True
    patterns = (Unstructured, SemiStructured)

    def run(self, context: PruningContext) -> PruningOutcome:
        from harness.pruning.global_pruning import prune_globally

        return prune_globally(self, context)

    @property
    def comparison_group(self) -> Literal["matrix", "model"]:
        """The weights that compete where any may go."""
        return "model"

    @abstractmethod
    def prune_model(self, context: PruningContext) -> GlobalOutcome:
        """Prune the context's model in place, and say what else of it changed.

        Masks have exactly `int(weights * sparsity)` zeros in all prunable weights together (or in every layer, for a
        method that ranks within layers), or are N:M in every layer.
        """

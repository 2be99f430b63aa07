"""What a pruning method is.

Shape letters, used as suffixes of tensor names throughout: `O` out_features, `I` in_features, `T` tokens,
`B` sequences, `L` sequence length, `H` hidden size, `V` vocabulary.

A method is a frozen dataclass of its hyperparameters and has no state.  "Higher = keep" holds for every score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.calibration.statistics import Statistic, Statistics
from harness.job import Propagation
from harness.patterns import Pattern, SemiStructured, Structured, Unit, Unstructured
from harness.pruning.numerics.masks import ComparisonGroup, keep_mask
from harness.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from harness.pruning.context import GlobalOutcome, PruningContext, PruningOutcome
    from harness.pruning.cutting import Candidates
    from harness.pruning.dense_analysis import DenseAnalysis
    from harness.record import JsonValue


@dataclass(frozen=True, slots=True)
class PrunedWeight:
    """A layer's new weight, its zeros being the mask, and what the record should say of it.

    Args:
        weight_OI: in any floating type; it is cast to the layer's.
        details: facts for the layer's report, e.g. the damping that made a factorisation succeed.
        permutation_I: the order of columns in which N:M groups lie, None where they lie as the columns do; `weight_OI`
            has its columns in the original order all the same.  Linears of one input have the same.
    """

    weight_OI: Tensor
    details: Mapping[str, JsonValue] = field(default_factory=dict)
    permutation_I: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PruningMethod(ABC):  # noqa: B024  # what every method must have is said by the two kinds below
    """Base of all methods.

    Attributes:
        patterns: the kinds of pattern it takes; none for the dense model, which is one job whatever the pattern.
        needs: the statistics of inputs that it reads; none makes a method that looks at weights, or at gradients, only.
        propagation: its authors' choice, which `calibration.propagation=auto` stands for.
        has_published_numbers: whether what papers print under its name is of this computation.
        updates_weights: whether it changes weights that it keeps.
        uses_gradients: whether it looks at gradients of the loss.
        needs_whole_model: whether all of the model must be in memory, so that only `offload=none` fits.
    """

    patterns: ClassVar[tuple[type[Pattern], ...]] = ()
    needs: ClassVar[tuple[type[Statistic], ...]] = ()
    propagation: ClassVar[Propagation] = "pruned"
    has_published_numbers: ClassVar[bool] = True
    updates_weights: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False
    needs_whole_model: ClassVar[bool] = False

    @property
    def decides_layer_sparsities(self) -> bool:
        """Whether it spreads the requested sparsity over layers by itself, so that only `allocation=uniform` fits."""
        return False

    @property
    def unsaveable(self) -> str | None:
        """Why no plain checkpoint can hold what it makes of a model, known before it runs; None where one may."""
        return None

    @property
    def reads_data(self) -> bool:
        """Whether calibration sequences decide which weights go."""
        return bool(self.needs)

    @property
    def passes(self) -> float | None:
        """What pruning takes, in times that its calibration sequences take to go through the blocks once.

        None where more decides it, such as training or a search.
        """
        return None

    @property
    def comparison_group(self) -> str:
        """The weights or channels that compete, where the pattern does not say it."""
        return ""

    @property
    def complexity(self) -> str:
        """What it costs for a layer of width d, in the method tables' words."""
        return " to ".join(sorted({kind.complexity for kind in self.needs})) or "O(1)"

    def refuses(self, pattern: Pattern) -> str | None:
        """Why this method cannot make `pattern`, or None when it can."""
        if isinstance(pattern, self.patterns):
            return None
        taken = ", ".join(kind.choice for kind in self.patterns)
        return f"it takes {taken}, not {pattern.label}"

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        """The hyperparameters that make no difference to `pattern`: jobs that differ in them only are one."""
        return frozenset()

    def run(self, context: PruningContext) -> PruningOutcome:
        """Prune the context's model in place.  Every kind of method does it once; a single method says what differs.

        Raises:
            UserError: a layer cannot take its pattern, or no calibration token reaches it.
        """
        raise AssertionError(f"{type(self).__name__} prunes nothing")

    def warning(self, shapes: Mapping[str, tuple[int, int]], device: torch.device) -> str | None:
        """What a user must know before layers of these shapes (O, I) are pruned there, such as the time it takes."""
        return None


METHODS: Registry[type[PruningMethod]] = Registry("method", "harness.pruning.methods")
"""Pruning methods by name."""


class LayerwiseMethod(PruningMethod):
    """Prunes one linear after the other from statistics of its input."""

    __slots__ = ()
    patterns = (Unstructured, SemiStructured)

    def run(self, context: PruningContext) -> PruningOutcome:
        from harness.pruning.layerwise import prune_layers

        return prune_layers(self, context)

    @property
    def comparison_group(self) -> ComparisonGroup:
        """The weights that an unstructured pattern counts its zeros over."""
        return "matrix"

    @property
    def permutes(self) -> bool:
        """Whether its weights may come with a permutation."""
        return False

    def spread(self, analysis: DenseAnalysis) -> dict[str, Pattern]:
        """The pattern of every layer by its path in the model, where no allocation says it: all alike."""
        return dict.fromkeys(analysis.shapes, analysis.pattern)

    @abstractmethod
    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        """The pruned weight of one linear; `weight_OI` is left as it is."""

    def prune_group(
        self, weights: Sequence[Tensor], stats: Statistics, patterns: Sequence[Pattern]
    ) -> list[PrunedWeight]:
        """The pruned weights of linears with one input; override it where they can share a factorisation."""
        return [self.prune(weight_OI, stats, pattern) for weight_OI, pattern in zip(weights, patterns, strict=True)]


class MaskMethod(LayerwiseMethod):
    """Chooses a mask and changes no weight that it keeps."""

    __slots__ = ()
    updates_weights = False

    @property
    def comparison_group(self) -> ComparisonGroup:
        return "row"


class ScoreMethod(MaskMethod):
    """Keeps the weights of the highest score; `comparison_group` are the weights ranked against each other."""

    __slots__ = ()

    @property
    def passes(self) -> float | None:
        return 1.72  # Wanda's, measured: docs/performance.md

    @abstractmethod
    def score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
        """Importance [O, I] of every weight, finite, higher = keep."""

    def finite_score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
        """The scores, seen to be finite: NaN has no rank, and masks would be silently wrong."""
        scores_OI = self.score(weight_OI, stats)
        if not scores_OI.isfinite().all():
            raise ArithmeticError("scores are not finite: the calibration activations overflowed")
        return scores_OI

    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        scores_OI = self.finite_score(weight_OI, stats)
        return PrunedWeight(weight_OI * keep_mask(scores_OI, pattern, self.comparison_group))


class StructuredMethod(PruningMethod):
    """Scores channels and heads; the least important are cut out of all layers that make, pass on or read them.

    Attributes:
        units: what it cuts; a head is a key/value head with all of its query heads.
        scope: whether those of one `block` compete, from the inputs behind the cut blocks before it and with the same
            numbers in blocks of one shape, or those of the whole `model`, from the dense model's inputs.

    The statistics that it needs are those of the consumer's input.
    """

    __slots__ = ()
    patterns: ClassVar[tuple[type[Pattern], ...]] = (Structured,)
    updates_weights = False
    units: ClassVar[tuple[Unit, ...]] = ("channel", "head")
    scope: ClassVar[Literal["block", "model"]] = "block"

    @property
    def comparison_group(self) -> str:
        return "channels of a block" if self.scope == "block" else "model"

    @property
    def decides_layer_sparsities(self) -> bool:
        return self.scope == "model"

    @property
    def unsaveable(self) -> str | None:
        return "every block gets sizes of its own" if self.scope == "model" else None

    def run(self, context: PruningContext) -> PruningOutcome:
        from harness.pruning.structured import prune_structured

        return prune_structured(self, context)

    @abstractmethod
    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        """Importance [C] of every channel or head of a dependency group, finite, higher = keep."""

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

    def compensation(self, weight_OI: Tensor, kept: Tensor, stats: Statistics) -> Tensor | None:
        """What is added to the bias [O] of a consumer to make up for the columns that go; None = nothing.

        Args:
            weight_OI: dense.
            kept: numbers of the columns that stay.
        """
        return None


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

"""What a pruning method is, and the kinds that prune layer by layer.

Shape letters, used as suffixes of tensor names throughout: `O` out_features, `I` in_features, `T` tokens,
`B` sequences, `L` sequence length, `H` hidden size, `V` vocabulary.

A method is a frozen dataclass of its hyperparameters and has no state.  "Higher = keep" holds for every score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from harness.calibration.statistics import Statistic, Statistics
from harness.job import Propagation
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.numerics.masks import ComparisonGroup, keep_mask
from harness.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from harness.pruning.context import PruningContext, PruningOutcome
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
class PruningMethod(ABC):  # noqa: B024  # what every method must have is said by its kinds
    """Base of all methods.

    Attributes:
        patterns: the kinds of pattern it takes; none for the dense model, which is one job whatever the pattern.
        needs: the statistics of inputs that it reads; none makes a method that looks at weights, or at gradients, only.
        propagation: its authors' choice, which `calibration.propagation=auto` stands for.
        has_published_numbers: whether what papers print under its name is of this computation.
        updates_weights: whether it changes weights that it keeps.
    """

    patterns: ClassVar[tuple[type[Pattern], ...]] = ()
    needs: ClassVar[tuple[type[Statistic], ...]] = ()
    propagation: ClassVar[Propagation] = "pruned"
    has_published_numbers: ClassVar[bool] = True
    updates_weights: ClassVar[bool] = True

    @property
    def needs_whole_model(self) -> bool:
        """Whether all of the model must be in memory, so that only `offload=none` fits."""
        return False

    @property
    def decides_layer_sparsities(self) -> bool:
        """Whether it spreads the requested sparsity over layers by itself, so that only `allocation=uniform` fits."""
        return False

    @property
    def gradient_moments(self) -> int:
        """Moments over calibration sequences that its engine takes of the loss's gradient: 1 = the mean, 2 = also the
        mean square.
        """
        return 0

    @property
    def uses_gradients(self) -> bool:
        """Whether it looks at gradients of the loss."""
        return self.gradient_moments > 0

    @property
    def reads_data(self) -> bool:
        """Whether calibration sequences decide which weights go."""
        return bool(self.needs) or self.uses_gradients

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

"""What a pruning method is.

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
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.masks import ComparisonGroup, keep_mask

if TYPE_CHECKING:
    from torch import Tensor

    from harness.record import JsonValue


@dataclass(frozen=True, slots=True)
class PrunedWeight:
    """A layer's new weight, its zeros being the mask, and what the record should say of it.

    Args:
        weight_OI: in any floating type; the engine casts it to the layer's.
        details: facts for the layer's report, e.g. the damping that made a factorisation succeed.
    """

    weight_OI: Tensor
    details: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PruningMethod(ABC):  # noqa: B024  # what every method must have is said by the two kinds below
    """Base of all methods.

    Attributes:
        patterns: the kinds of pattern it takes; none for the dense model, which is one job whatever the pattern.
    """

    patterns: ClassVar[tuple[type[Pattern], ...]] = ()

    def refuses(self, pattern: Pattern) -> str | None:
        """Why this method cannot make `pattern`, or None when it can."""
        if isinstance(pattern, self.patterns):
            return None
        taken = ", ".join(kind.__name__ for kind in self.patterns)
        return f"it takes {taken}, not {pattern.label}"


class LayerwiseMethod(PruningMethod):
    """Prunes one linear after the other from statistics of its input.

    Attributes:
        needs: the statistics to collect; none makes a method that looks at weights only.
    """

    __slots__ = ()
    patterns: ClassVar[tuple[type[Pattern], ...]] = (Unstructured, SemiStructured)
    needs: ClassVar[tuple[type[Statistic], ...]] = ()

    @abstractmethod
    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        """The pruned weight of one linear; `weight_OI` is left as it is."""

    def prune_group(
        self, weights: Sequence[Tensor], stats: Statistics, patterns: Sequence[Pattern]
    ) -> list[PrunedWeight]:
        """The pruned weights of linears with one input; override it where they can share a factorisation."""
        return [self.prune(weight_OI, stats, pattern) for weight_OI, pattern in zip(weights, patterns, strict=True)]


class ScoreMethod(LayerwiseMethod):
    """Keeps the weights of the highest score and changes none of them.

    Attributes:
        comparison_group: the weights that are ranked against each other in an unstructured pattern.
    """

    __slots__ = ()

    @property
    def comparison_group(self) -> ComparisonGroup:
        return "row"

    @abstractmethod
    def score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
        """Importance [O, I] of every weight, finite, higher = keep."""

    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        scores_OI = self.score(weight_OI, stats)
        if not scores_OI.isfinite().all():  # activations overflowed; NaN has no rank, and masks would be silently wrong
            raise ArithmeticError("scores are not finite: the calibration activations overflowed")
        return PrunedWeight(weight_OI * keep_mask(scores_OI, pattern, self.comparison_group))

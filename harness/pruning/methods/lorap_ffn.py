"""LoRAP's rule for feed-forward layers: cut channels of small norms, but not the smallest.  Li et al. 2024

https://arxiv.org/abs/2404.09695

With d_x and d_h the norms of the features of the inputs of the layers that make channels and of the one that reads them
(sqrt(mean over sequences of the sum of squares over tokens), 1e-4 where a feature is dead), channel k counts
|| gate_k d_x || + || up_k d_x || + || down_:,k || d_h,k.  Sorted ascending, the lowest hundredth stays on purpose, and
what goes lies behind it, as in https://github.com/lihuang258/LoRAP (`utils/prune.py`).

The other half of LoRAP makes factors of low rank of an attention's layers; here attentions are left as they are, so
that what papers print as LoRAP is not of this.  Other than the published code: the same part of all blocks goes that
meets the share of all parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from harness.calibration.statistics import FeatureNorm, Statistic, Statistics
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.structured import StructuredMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.pruning.cutting import Candidates

Spared = Annotated[float, Field(ge=0, lt=1)]
DEAD = 1e-4
"""What the norm of a feature counts that is always 0."""


@METHODS.register("lorap-ffn")
@dataclass(frozen=True, slots=True)
class LorapFfn(StructuredMethod):
    """Keeps the channels of the largest norms, weights and inputs together, and the lowest hundredth.

    Args:
        spared: part of the channels, of the lowest importance, that stay, rounded down, 0 <= it < 1.
    """

    spared: Spared = 0.01
    units = ("channel",)
    has_published_numbers = False
    needs: ClassVar[tuple[type[Statistic], ...]] = (FeatureNorm,)

    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        norms = [its[FeatureNorm].l2_I for its in (*candidates.made_from, stats)]
        *made_from, read = (norm_I.where(norm_I > 0, DEAD) for norm_I in norms)
        read_CK: Tensor = candidates.consumer_COK.to(read.dtype).norm(dim=1) * read[candidates.columns_CK]
        return norms_of_rows(candidates, made_from) + read_CK.sum(dim=1)

    def kept(self, candidates: Candidates, stats: Statistics, count: int) -> Tensor:
        from harness.pruning.shares import all_but_a_slice

        importance_C = self.importance(candidates, stats)
        return all_but_a_slice(importance_C, count, int(self.spared * len(importance_C)))


def norms_of_rows(candidates: Candidates, norms: Sequence[Tensor]) -> Tensor:
    """The sum [C] of the norms of the rows that make every channel, each weight times the norm [I] of its feature."""
    import torch

    rows = [
        (made_CMI.to(norm_I.dtype) * norm_I).norm(dim=2).sum(dim=1)
        for made_CMI, norm_I in zip(candidates.producers, norms, strict=True)
    ]
    return torch.stack(rows).sum(dim=0)

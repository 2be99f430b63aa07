"""LLM-Pruner: cut the channels and heads that the loss needs least.  Ma et al. 2023, https://arxiv.org/abs/2305.11627

With g the gradient of the mean loss of the calibration sequences and h the mean over sequences of its square, a weight
w counts |w g| (`param_first`, Element^1), w^2 h (`param_second`, Element^2) or |w g - w^2 h / 2| (`param_mix`), a whole
row or column |sum w g| (`vectorize`, Vector).  A channel's importance is the sum over its row of every layer that makes
it and over its column of the layer that reads it, reduced over these layers; a head's is the sum over its features.
Every block that may lose something loses the same fraction, and nothing makes up for it.

This is what https://github.com/horseee/LLM-Pruner computes.  The paper's formula of second order is `param_mix`, with a
sum over samples where the code has a mean; `param_second` drops the first order and the half.  `l1` and `l2` are sums
of |w|^p without a root.  The README's run leaves the first 4 and the last 2 of 32 blocks alone and calibrates on 10
windows of 64 tokens.

Other than the published code: grouped queries count for the key and value that they share (there a strided view scores
the wrong ones); sparsity is the share of all parameters, met as closely as can be, and not a ratio of the listed blocks
that is rounded down; in the ranking over the whole model heads count by their parameters, there as one channel.  The
reduction `second`, of whatever layer tracing finds second, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.pruning.fingerprints import uniform_like
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.structured import StructuredMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.calibration.statistics import Statistics
    from harness.patterns import Pattern
    from harness.pruning.context import PruningContext
    from harness.pruning.cutting import Candidates

Part = Annotated[float, Field(ge=0, lt=1)]
MOMENTS = {"param_first": 1, "vectorize": 1, "param_second": 2, "param_mix": 2}
"""How many moments of the gradient a criterion reads; the others read none."""


@METHODS.register("llm-pruner")
@dataclass(frozen=True, slots=True)
class LlmPruner(StructuredMethod):
    """Keeps the channels and heads with the largest estimated change of the loss.

    Args:
        criterion: what a weight counts, see above; `l1`, `l2` and `random` are the paper's baselines.
        reduction: over the layers of a channel: `sum`, `mean` (the released code's for `l1` and `l2`), `max`, `prod`,
            or the `first` in the model's order (of a LLaMA the query or gate projection).
        scope: whether those of one `block` compete, or those of the whole `model`.
        protect_first: part of the blocks, from the first on, that lose nothing; rounded to whole blocks, 0 <= it < 1.
        protect_last: the same from the last on.
        seed: of `random`, >= 0.  The job's, unless it is given.
    """

    criterion: Literal["param_first", "param_second", "param_mix", "vectorize", "l1", "l2", "random"] = "param_first"
    reduction: Literal["sum", "mean", "max", "prod", "first"] = "sum"
    scope: Literal["block", "model"] = "block"
    protect_first: Part = 0.125
    protect_last: Part = 0.0625
    seed: Annotated[int, Field(ge=0)] = 0
    propagation = "dense"

    @property
    def gradient_moments(self) -> int:
        return MOMENTS.get(self.criterion, 0)

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        return frozenset({"reduction"} if self.criterion == "random" else {"seed"})

    def losses(self, context: PruningContext, num_blocks: int) -> Sequence[float]:
        return losses_between(self.protect_first, self.protect_last, num_blocks)

    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        import torch

        if self.criterion == "random":
            consumer_OI = candidates.consumer_COK.flatten(1)
            return uniform_like(consumer_OI, (len(consumer_OI),), self.seed)
        gradients = zip(*candidates.gradients, strict=True) if candidates.gradients else [()] * len(candidates.slices)
        layers = [
            self._of_rows(weight_CMI.float(), *moments)
            for weight_CMI, moments in zip(candidates.slices, gradients, strict=True)
        ]
        # Query heads, and the parts of a fused layer, are added up to the features of one head before layers are.
        features = math.gcd(*(each_CM.shape[1] for each_CM in layers))
        layers_LCF = torch.stack([each_CM.unflatten(1, (-1, features)).sum(dim=1) for each_CM in layers])
        return self._reduced(layers_LCF).sum(dim=1)

    def _of_rows(self, weight_CMI: Tensor, *moments: Tensor) -> Tensor:
        """What each row [C, M] of a layer that makes channels counts, or each column of the one that reads them."""
        if self.criterion in ("l1", "l2"):
            return weight_CMI.abs().pow(int(self.criterion[1])).sum(dim=2)
        change_CMI = weight_CMI * moments[0]
        if self.criterion == "vectorize":
            return change_CMI.sum(dim=2).abs()
        if self.criterion == "param_second":
            change_CMI = weight_CMI.square() * moments[1]
        elif self.criterion == "param_mix":
            change_CMI = change_CMI - 0.5 * weight_CMI.square() * moments[1]
        return change_CMI.abs().sum(dim=2)

    def _reduced(self, layers_LCF: Tensor) -> Tensor:
        if self.reduction == "max":
            return layers_LCF.amax(dim=0)
        if self.reduction == "first":
            return layers_LCF[0]
        reduced: Tensor = getattr(layers_LCF, self.reduction)(dim=0)
        return reduced


def losses_between(protect_first: float, protect_last: float, num_blocks: int) -> list[float]:
    """The same of all blocks, but nothing of these parts of them at both ends."""
    first, last = round(protect_first * num_blocks), num_blocks - round(protect_last * num_blocks)
    return [float(first <= index < last) for index in range(num_blocks)]

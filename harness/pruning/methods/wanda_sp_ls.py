"""Wanda-sp with least squares: what stays of a layer that loses columns is solved anew, for the output that it had.

Channels and heads are chosen as `wanda-sp` does.  With X the inputs of the layer that read them, W its weight, K the
columns that stay and P those that go, the new weight V minimises ||X W^T - X_K V^T||^2:  V = W_K + W_P H_PK H_KK^-1
with H = X^T X.  No paper's: it is optimal brain surgery on whole columns at once (compare OBC,
https://arxiv.org/abs/2208.11580, which takes groups of weights so).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.calibration.statistics import FeatureNorm, InputHessian, Statistics
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.structured import Compensation
from harness.pruning.methods.wanda_sp import WandaSp

if TYPE_CHECKING:
    from torch import Tensor

DAMPINGS = [0.0, 1e-6, 1e-4, 1e-2]
"""Ridges in fractions of H_KK's mean diagonal: the first that lets it be inverted is taken."""


@METHODS.register("wanda-sp-ls")
@dataclass(frozen=True, slots=True)
class WandaSpLeastSquares(WandaSp):
    """Keeps what `wanda-sp` keeps; the layers that read it are solved for their dense outputs."""

    updates_weights = True
    has_published_numbers = False
    needs = (FeatureNorm, InputHessian)

    def compensation(self, weight_OI: Tensor, kept: Tensor, stats: Statistics) -> Compensation:
        from harness.pruning.numerics.least_squares import positive_definite

        hessian_II, dense_OI = stats[InputHessian].hessian_II.double(), weight_OI.double()
        hessian_KK = hessian_II[kept][:, kept]
        _, inverse_KK, damping = positive_definite(hessian_KK, DAMPINGS)
        lost_OI = dense_OI.clone()
        lost_OI[:, kept] = 0.0
        weight_OK = dense_OI[:, kept] + lost_OI @ hessian_II[:, kept] @ inverse_KK
        return Compensation(weight_OK=weight_OK, details={"damping": damping})

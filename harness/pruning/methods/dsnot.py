"""DSnoT: swap kept and pruned weights of a row until the mean of its output is right again; weights stay as they are.

Zhang et al. 2023, https://arxiv.org/abs/2310.08915.  With D_ij = W_ij * s_j, s_j the mean over sequences of the sum of
input j, a row's expected output error is e = sum of D over its pruned weights.  A cycle of a row with |e| > threshold:

* grow the pruned weight with the most extreme D_ij / Var(x_j)^p of the sign of e, which takes its D from e;
* prune the kept weight with the smallest |W_ij| ||x_j|| whose D has the other sign, which moves e the same way; in
  N:M the one with the smallest in the group of the grown weight, and then the row ends where e would change its sign.
  (In N:M the published code takes the smallest score of the first mask, which is this one for `initial=wanda`.)

A grown weight is not pruned again, nor the other way round.  Each cycle grows one weight and prunes one: counts stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.calibration.statistics import FeatureMoments, FeatureNorm, InputHessian, Statistics
from harness.job import NotNegative
from harness.patterns import Pattern
from harness.pruning.methods.base import METHODS, MaskMethod, PrunedWeight
from harness.pruning.numerics.masks import decision_width, keep_mask, ranks_in_groups

if TYPE_CHECKING:
    from torch import Tensor

    from harness.record import JsonValue


@METHODS.register("dsnot")
@dataclass(frozen=True, slots=True)
class DSnoT(MaskMethod):
    """Refines a mask without training, in every layer; the published scripts leave the MLP's layers unrefined.

    Args:
        initial: the scores that the first mask is made from, within rows: `wanda`, `magnitude`, or `sparsegpt`
            (W^2 / U_jj^2 with SparseGPT's factor; its weight update is not made).
        max_cycles: most swaps of a row, >= 0.
        update_threshold: a row with |e| up to this is left alone, >= 0; it grows with the length of the sequences.
        variance_power: p above, 0 to 8; an input that never changes has its variance taken as the smallest number.
        accept: `all_rows` takes every refined row, as published, also one whose squared output error grew;
            `better_rows` keeps a row's first mask unless the refined one has the smaller squared output error.
    """

    initial: Literal["wanda", "magnitude", "sparsegpt"] = "wanda"
    max_cycles: Annotated[int, Field(ge=0)] = 50
    update_threshold: NotNegative = 0.1
    variance_power: Annotated[float, Field(ge=0, le=8)] = 1.0  # the smallest variance to the 8th is still a number
    accept: Literal["better_rows", "all_rows"] = "better_rows"
    needs = (FeatureMoments, FeatureNorm, InputHessian)

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        return frozenset() if self.max_cycles else frozenset({"update_threshold", "variance_power", "accept"})

    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        import torch

        moments = stats[FeatureMoments]
        variance_I = moments.variance_I.double().clamp_min(torch.finfo(torch.float32).tiny)
        weight64_OI = weight_OI.double()
        contribution_OI = weight64_OI * moments.mean_sum_I.double()
        growth_OI = contribution_OI / variance_I.pow(self.variance_power)
        norm_OI = weight_OI.abs() * stats[FeatureNorm].l2_I
        scores_OI, details = self._initial_scores(weight_OI, norm_OI, stats)
        if not (scores_OI.isfinite().all() and norm_OI.isfinite().all() and growth_OI.isfinite().all()):
            raise ArithmeticError("scores are not finite: the calibration activations overflowed")
        first_OI = keep_mask(scores_OI, pattern, "row")
        rows = _Rows(first_OI, contribution_OI, growth_OI, norm_OI, self.max_cycles)
        keep_OI = rows.refine(self.update_threshold, pattern)
        changed_O = (keep_OI != first_OI).any(dim=1)
        hessian_II = stats[InputHessian].hessian_II.double()
        before_O = _squared_error(weight64_OI * ~first_OI, hessian_II)
        worse_O = _squared_error(weight64_OI * ~keep_OI, hessian_II) >= before_O
        worse_O &= changed_O
        if self.accept == "better_rows":
            keep_OI = torch.where(worse_O[:, None], first_OI, keep_OI)
        details |= {"refined_rows": int(changed_O.sum()), "rows_that_got_worse": int(worse_O.sum())}
        return PrunedWeight(weight_OI * keep_OI, details)

    def _initial_scores(
        self, weight_OI: Tensor, norm_OI: Tensor, stats: Statistics
    ) -> tuple[Tensor, dict[str, JsonValue]]:
        """Scores of the first mask, higher = keep, and what the report says of them."""
        import torch

        from harness.pruning.numerics.least_squares import positive_definite

        if self.initial == "wanda":
            return norm_OI, {}
        if self.initial == "magnitude":
            return weight_OI.abs(), {}
        hessian_II = stats[InputHessian].hessian_II
        dead_I = hessian_II.diagonal() == 0
        hessian_II.diagonal()[dead_I] = 1.0
        hessian_II, _, damping = positive_definite(hessian_II, [0.01, 0.1, 1.0])
        # H = R R^T with R upper triangular gives H^-1 = U^T U with U = R^-1, so that U_jj = 1 / R_jj.
        diagonal_I = torch.linalg.cholesky(hessian_II.flip(0, 1)).diagonal().flip(0)
        return (weight_OI.double().masked_fill(dead_I, 0.0) * diagonal_I).square(), {"damping": damping}


class _Rows:
    """Rows of a layer while their masks are refined; index 1 of a pair is for rows with e > 0, index 0 for e < 0.

    Attributes:
        grown, pruned: the candidates of each side in the order in which they are taken, columns [2, O, C].
        grow_count, prune_count: how many there are, [2, O].
    """

    def __init__(
        self, keep_OI: Tensor, contribution_OI: Tensor, growth_OI: Tensor, norm_OI: Tensor, cycles: int
    ) -> None:
        import torch

        self._keep_OI = keep_OI.clone()
        self._contribution_OI = contribution_OI
        self._error_O = (contribution_OI * ~keep_OI).sum(dim=1)
        self._rows_O = torch.arange(len(keep_OI), device=keep_OI.device)
        self._free_OI = norm_OI.double().masked_fill(~keep_OI, torch.inf)  # of the weights that may be pruned
        negative_OI, positive_OI = contribution_OI < 0, contribution_OI > 0
        growable = [
            _ranked(growth_OI, ~keep_OI & negative_OI, cycles),
            _ranked(-growth_OI, ~keep_OI & positive_OI, cycles),
        ]
        prunable = [
            _ranked(self._free_OI, keep_OI & positive_OI, cycles),
            _ranked(self._free_OI, keep_OI & negative_OI, cycles),
        ]
        self._grown, self._grow_count = (torch.stack(parts) for parts in zip(*growable, strict=True))
        self._pruned, self._prune_count = (torch.stack(parts) for parts in zip(*prunable, strict=True))
        self._cycles = cycles

    def refine(self, threshold: float, pattern: Pattern) -> Tensor:
        """The refined mask [O, I]."""
        import torch

        first_sign_O = self._error_O.sign()
        active_O = torch.ones_like(self._rows_O, dtype=torch.bool)
        grow_next, prune_next = torch.zeros_like(self._grow_count), torch.zeros_like(self._prune_count)
        for _ in range(self._cycles):
            side_O = (self._error_O > 0).long()
            grow_at_O, prune_at_O = grow_next[side_O, self._rows_O], prune_next[side_O, self._rows_O]
            active_O = (
                active_O & (self._error_O.abs() > threshold) & (grow_at_O < self._grow_count[side_O, self._rows_O])
            )
            if ranks_in_groups(pattern):
                grow_O = self._take(self._grown, side_O, grow_at_O)
                prune_O, found_O = self._smallest_in_group(grow_O, decision_width(pattern, self._keep_OI.shape[1]))
                after_O = self._error_after(grow_O, prune_O)
                active_O = active_O & (~found_O | (after_O.sign() == first_sign_O))
                swaps_O = active_O & found_O  # a group with no weight to give leaves the row to its next cycle
            else:
                active_O = active_O & (prune_at_O < self._prune_count[side_O, self._rows_O])
                grow_O = self._take(self._grown, side_O, grow_at_O)
                prune_O = self._take(self._pruned, side_O, prune_at_O)
                after_O = self._error_after(grow_O, prune_O)
                swaps_O = active_O
            if not active_O.any():
                break
            rows_R = self._rows_O[swaps_O]
            self._keep_OI[rows_R, grow_O[swaps_O]] = True
            self._keep_OI[rows_R, prune_O[swaps_O]] = False
            self._free_OI[rows_R, prune_O[swaps_O]] = torch.inf
            self._error_O = torch.where(swaps_O, after_O, self._error_O)
            grow_next[side_O, self._rows_O] += active_O.long()
            prune_next[side_O, self._rows_O] += swaps_O.long()
        return self._keep_OI

    def _take(self, columns_2OC: Tensor, side_O: Tensor, at_O: Tensor) -> Tensor:
        """The next candidate of every row; any column where there is none."""
        return columns_2OC[side_O, self._rows_O, at_O.clamp(max=columns_2OC.shape[2] - 1)]

    def _smallest_in_group(self, grow_O: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """The weight to prune for the grown one, and whether its group has one."""
        start_O = grow_O - grow_O % group
        least_O, place_O = self._free_OI.unflatten(1, (-1, group))[self._rows_O, grow_O // group].min(dim=1)
        return start_O + place_O, least_O.isfinite()

    def _error_after(self, grow_O: Tensor, prune_O: Tensor) -> Tensor:
        taken_O = self._contribution_OI[self._rows_O, grow_O]
        return self._error_O + self._contribution_OI[self._rows_O, prune_O] - taken_O


def _ranked(values_OI: Tensor, eligible_OI: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Columns [O, C] of the up to `most` smallest eligible values of each row in ascending order, and their number."""
    import torch

    ranked = values_OI.masked_fill(~eligible_OI, torch.inf).argsort(dim=1, stable=True)[:, : max(most, 1)]
    return ranked, eligible_OI.sum(dim=1)


def _squared_error(removed_OI: Tensor, hessian_II: Tensor) -> Tensor:
    """Squared output error [O] of removing these weights, up to the factor of H."""
    return ((removed_OI @ hessian_II) * removed_OI).sum(dim=1)

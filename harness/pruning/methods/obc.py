"""OBC (ExactOBS): remove weight after weight, always the cheapest, and let the rest of its row make up for it.

Frantar, Singh & Alistarh 2022, https://arxiv.org/abs/2208.11580, algorithm 1 and section 4.  With H = 2/n X^T X, a row
w and the inverse A of H restricted to the columns that the row still has: the weight j with the smallest w_j^2 / A_jj
goes and leaves the loss w_j^2 / (2 A_jj); then w -= A_j: w_j / A_jj and A -= A_:j A_j: / A_jj.  Rows are independent.
A layer's zeros go to the rows with the cheapest steps: of all steps of all rows the smallest are counted, and a row
loses as many weights as it has steps among them.

H is summed up in float32 (the published code: float64), so that a badly conditioned one may need damping that it would
not need there; all after it is float64.  The downdates of A are gathered and applied some steps at a time, as one
matrix product: the same numbers with a fraction of the memory traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from harness.calibration.statistics import InputHessian, Statistics
from harness.job import NotNegative
from harness.patterns import Pattern, Unstructured
from harness.pruning.fingerprints import layer_fingerprint
from harness.pruning.methods.base import METHODS, LayerwiseMethod, PrunedWeight
from harness.pruning.numerics.masks import decision_width, keep_mask, ranks_in_groups, removable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STEPS = 64
"""Removals whose downdates are applied together."""
ROWS_BYTES = 128 * 2**20
"""Memory for the inverses of the rows that are worked on together."""
COMFORTABLE_WIDTH = 2048
"""Most in_features that it is meant for; above, the time it takes is always said."""
LONG_HOURS = 1.0
"""A time that is said however narrow the layers are."""


@dataclass(frozen=True, slots=True)
class Trace:
    """In which order the weights of every row go; S steps, all I of them or as many as N:M removes.

    Args:
        order_OS: column of the k-th removal.
        increments_OS: loss of the k-th removal, float32; they may fall along a row.
    """

    order_OS: Tensor
    increments_OS: Tensor


@METHODS.register("obc")
@dataclass(frozen=True, slots=True)
class OBC(LayerwiseMethod):
    """Greedy exact optimal brain surgery; one trace of a layer serves every sparsity.

    Time grows with out_features * in_features^3.  Inputs that are always 0 are taken out before H is damped, and their
    weights go first.  With dense propagation a layer's inputs do not depend on the sparsity: jobs of one process that
    differ in it share traces, cached with the inputs' statistics.

    Args:
        rel_damp: fraction of the mean diagonal of H added to its diagonal, >= 0, as published 0.  Where H cannot be
            inverted in float64 it is tried again with 0.01, 0.1 and 1.0; the layer's report says which was used.
    """

    rel_damp: NotNegative = 0.0
    needs = (InputHessian,)
    propagation = "dense"
    complexity = "O(d_out d_in³)"

    def warning(self, shapes: Mapping[str, tuple[int, int]], device: torch.device) -> str | None:
        widest = max(in_features for _, in_features in shapes.values())
        hours = sum(out * width**3 for out, width in shapes.values()) * _seconds_per_unit(device) / 3600
        if widest <= COMFORTABLE_WIDTH and hours < LONG_HOURS:
            return None
        return (
            f"obc works in the cube of in_features, and this model has up to {widest}: about {hours:.1f} hours on "
            f"{device.type}, from a short trial; meant for in_features <= {COMFORTABLE_WIDTH}"
        )

    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        key = (self, pattern if ranks_in_groups(pattern) else "unstructured", layer_fingerprint(weight_OI))
        trace = stats.cached(key, lambda: self.trace(weight_OI, stats, pattern))
        return self.cut(weight_OI, stats, trace, pattern)

    def trace(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> Trace:
        """The order in which the weights of one linear go; on the CPU, and small, since it is kept."""
        import torch

        weight_OI, hessian_II, inverse_II, _ = self._prepare(weight_OI, stats)
        rows = max(ROWS_BYTES // (8 * inverse_II.numel()), 1)
        parts = [_trace_rows(part_RI, hessian_II, inverse_II, pattern) for part_RI in weight_OI.split(rows)]
        dtype = torch.int16 if weight_OI.shape[1] <= torch.iinfo(torch.int16).max else torch.int32
        return Trace(
            torch.cat([order_RS.to("cpu", dtype) for order_RS, _ in parts]),
            torch.cat([increments_RS.to("cpu", torch.float32) for _, increments_RS in parts]),
        )

    def cut(self, weight_OI: Tensor, stats: Statistics, trace: Trace, pattern: Pattern) -> PrunedWeight:
        """The pruned weight at the sparsity of `pattern`."""
        import torch

        from harness.pruning.numerics.least_squares import solve_survivors

        weight_OI, hessian_II, inverse_II, details = self._prepare(weight_OI, stats)
        steps = trace.order_OS.shape[1]
        if ranks_in_groups(pattern):
            count_O1 = torch.full((len(weight_OI), 1), steps)
        else:
            count_O1 = (~keep_mask(trace.increments_OS, pattern, "matrix")).sum(dim=1, keepdim=True)
        keep_OI = torch.ones(weight_OI.shape, dtype=torch.bool)
        keep_OI.scatter_(1, trace.order_OS.long(), torch.arange(steps)[None, :] >= count_O1)
        new_OI = solve_survivors(weight_OI, keep_OI.to(weight_OI.device), hessian_II, inverse_II)
        return PrunedWeight(new_OI, details)

    def _prepare(self, weight_OI: Tensor, stats: Statistics) -> tuple[Tensor, Tensor, Tensor, dict[str, int | float]]:
        """The weight in float64 without dead inputs, the damped H, its inverse, and what the report says of them."""
        from harness.pruning.numerics.least_squares import positive_definite

        hessian_II = stats[InputHessian].hessian_II
        dead_I = hessian_II.diagonal() == 0
        hessian_II.diagonal()[dead_I] = 1.0
        ladder = [self.rel_damp] + [step for step in (0.01, 0.1, 1.0) if step > self.rel_damp]
        hessian_II, inverse_II, damping = positive_definite(hessian_II, ladder)
        details: dict[str, int | float] = {"rel_damp": damping, "dead_features": int(dead_I.sum())}
        return weight_OI.double().masked_fill(dead_I, 0.0), hessian_II, inverse_II, details


def _trace_rows(weight_RI: Tensor, hessian_II: Tensor, inverse_II: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Columns and losses [R, S] of the removals of some rows, which all go at the same pace."""
    import torch

    rows = _Rows(weight_RI, hessian_II, inverse_II, pattern)
    width = weight_RI.shape[1]
    steps = width // decision_width(pattern, width) * removable(pattern, width)
    columns, increments = [], []
    for start in range(0, steps, STEPS):
        for _ in range(min(STEPS, steps - start)):
            column_R, increment_R = rows.remove_cheapest()
            columns.append(column_R)
            increments.append(increment_R)
        rows.apply_downdates()
    return torch.stack(columns, dim=1), torch.stack(increments, dim=1)


class _Rows:
    """Rows of a layer, each with its own inverse; W of the I columns are still looked at, the same number in each row.

    A_RWW lacks the downdates u u^T of `factors_RBW`.
    """

    def __init__(self, weight_RI: Tensor, hessian_II: Tensor, inverse_II: Tensor, pattern: Pattern) -> None:
        import torch

        count, width = weight_RI.shape
        self._all_R = torch.arange(count, device=weight_RI.device)
        self._weight_RW = weight_RI.clone()
        self._inverse_RWW = inverse_II.repeat(count, 1, 1)
        self._diagonal_RW = inverse_II.diagonal().repeat(count, 1)
        # What a diagonal of the inverse comes down to when all other columns are gone; below it is rounding.
        self._least_RW = hessian_II.diagonal().reciprocal().repeat(count, 1)
        self._column_RW = torch.arange(width, device=weight_RI.device).repeat(count, 1)
        self._gone_RW = torch.zeros_like(weight_RI, dtype=torch.bool)
        self._group = decision_width(pattern, width) if ranks_in_groups(pattern) else 0
        if self._group:
            self._room_RG = torch.full_like(self._column_RW[:, :: self._group], removable(pattern, width))
        self._factors_RBW = torch.empty(count, STEPS, width, dtype=weight_RI.dtype, device=weight_RI.device)
        self._pending = self._removed = 0

    def remove_cheapest(self) -> tuple[Tensor, Tensor]:
        """Remove one weight of every row; their columns and losses [R].  Among equal ones the first column goes."""
        import torch

        closed_RW = self._gone_RW
        if self._group:
            closed_RW = closed_RW | (self._room_RG.gather(1, self._column_RW // self._group) == 0)
        score_RW = (self._weight_RW.square() / self._diagonal_RW).masked_fill_(closed_RW, torch.inf)
        place_R = score_RW.argmin(dim=1)
        factor_RW = self._inverse_RWW[self._all_R, place_R]
        if self._pending:
            past_RBW = self._factors_RBW[:, : self._pending]
            factor_RW -= torch.bmm(past_RBW[self._all_R, :, place_R][:, None], past_RBW)[:, 0]
        pivot_R1 = self._diagonal_RW[self._all_R, place_R][:, None].sqrt()
        factor_RW /= pivot_R1
        self._weight_RW -= factor_RW * (self._weight_RW[self._all_R, place_R][:, None] / pivot_R1)
        self._diagonal_RW -= factor_RW.square()
        torch.maximum(self._diagonal_RW, self._least_RW, out=self._diagonal_RW)
        self._factors_RBW[:, self._pending] = factor_RW
        self._gone_RW[self._all_R, place_R] = True
        column_R = self._column_RW[self._all_R, place_R]
        if self._group:
            self._room_RG[self._all_R, column_R // self._group] -= 1
        self._pending += 1
        self._removed += 1
        return column_R, score_RW[self._all_R, place_R] / 2

    def apply_downdates(self) -> None:
        """Bring the inverses up to date; once a quarter of the columns is gone, go on without them."""
        factors_RBW = self._factors_RBW[:, : self._pending]
        self._inverse_RWW.baddbmm_(factors_RBW.mT, factors_RBW, alpha=-1)
        self._pending = 0
        width = self._weight_RW.shape[1]
        if self._removed >= width / 4 and self._removed < width:
            left_RW = self._gone_RW.byte().argsort(dim=1, stable=True)[:, : width - self._removed]
            self._inverse_RWW = self._inverse_RWW[self._all_R[:, None, None], left_RW[:, :, None], left_RW[:, None, :]]
            for name in ("_weight_RW", "_diagonal_RW", "_least_RW", "_column_RW", "_gone_RW"):
                setattr(self, name, getattr(self, name).gather(1, left_RW))
            self._factors_RBW = self._factors_RBW[:, :, : width - self._removed].contiguous()
            self._removed = 0


@cache
def _seconds_per_unit(device: torch.device) -> float:
    """Seconds of a trace for every out_features * in_features^3, from the trace of a few rows of 512 inputs."""
    import torch

    from harness.pruning.numerics.speed import seconds_of

    width, rows = 512, 16
    identity_II = torch.eye(width, dtype=torch.float64, device=device)
    weight_RI = torch.linspace(1.0, 2.0, width, dtype=torch.float64, device=device).repeat(rows, 1)
    return seconds_of(lambda: _trace_rows(weight_RI, identity_II, identity_II, Unstructured(0.5))[0]) / (
        rows * width**3
    )

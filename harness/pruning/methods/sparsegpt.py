"""SparseGPT: remove weights column by column and let the columns to the right make up for them.

Frantar & Alistarh 2023, https://arxiv.org/abs/2301.00774, algorithm 1.  With H = 2/n X^T X + damping and U the upper
Cholesky factor of its inverse (H^-1 = U^T U), the score of weight j is W_j^2 / U_jj^2; a removed weight leaves the
error e = W_j / U_jj, and every column k > j is changed by -e U_jk.  All rows share U.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.calibration.statistics import InputHessian, Statistics
from harness.job import Count, Positive
from harness.patterns import Pattern
from harness.pruning.methods.base import METHODS, LayerwiseMethod, PrunedWeight
from harness.pruning.numerics.masks import decision_width, keep_mask, ranks_in_groups

if TYPE_CHECKING:
    from torch import Tensor


@METHODS.register("sparsegpt")
@dataclass(frozen=True, slots=True)
class SparseGPT(LayerwiseMethod):
    """One-shot pruning with weight reconstruction.

    Args:
        damping: fraction of the mean diagonal of H added to its diagonal, > 0.  Where the factorisation fails it is
            tried again with 0.1 and 1.0; the layer's report says which was used.
        block_size: columns that one unstructured mask is chosen over and that updates are delayed by, >= 1.
    """

    damping: Positive = 0.01
    block_size: Count = 128
    needs = (InputHessian,)

    @property
    def passes(self) -> float | None:
        return 2.32  # measured: docs/performance.md

    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        return self.prune_group([weight_OI], stats, [pattern])[0]

    def prune_group(
        self, weights: Sequence[Tensor], stats: Statistics, patterns: Sequence[Pattern]
    ) -> list[PrunedWeight]:
        """All linears with one input go through the columns together; masks are chosen for each alone."""
        import torch

        hessian_II = stats[InputHessian].hessian_II
        dead_I = hessian_II.diagonal() == 0
        hessian_II.diagonal()[dead_I] = 1.0
        # Columns are rows here: the loop below reads and writes them one at a time, contiguous in memory.
        weight_IO = torch.cat([weight_OI.T for weight_OI in weights], dim=1).float()
        weight_IO[dead_I] = 0.0
        upper_II, damping = self._factor(hessian_II)
        _sweep(weight_IO, upper_II, [len(weight_OI) for weight_OI in weights], patterns, self.block_size)
        details = {"damping": damping, "dead_features": int(dead_I.sum())}
        return [
            PrunedWeight(part_IO.T, details) for part_IO in weight_IO.split([len(weight) for weight in weights], dim=1)
        ]

    def _factor(self, hessian_II: Tensor) -> tuple[Tensor, float]:
        """Upper Cholesky factor of the damped inverse, and the damping that it took."""
        import torch

        mean_diagonal = hessian_II.diagonal().mean()
        ladder = [self.damping] + [step for step in (0.1, 1.0) if step > self.damping]
        for damping in ladder:
            damped_II = hessian_II.clone()
            damped_II.diagonal().add_(damping * mean_diagonal)
            lower_II, failed = torch.linalg.cholesky_ex(damped_II)
            if failed.item():
                continue
            upper_II, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_II), upper=True)
            if not failed.item():
                return upper_II, damping
        raise ArithmeticError(f"the Hessian is not positive definite with dampings {ladder} of its mean diagonal")


def _sweep(
    weight_IO: Tensor, upper_II: Tensor, row_counts: list[int], patterns: Sequence[Pattern], block_size: int
) -> None:
    """Prune `weight_IO` in place, left to right; `row_counts` are the outputs of each linear, in order."""
    num_columns = weight_IO.shape[0]
    for start, stop in _blocks(num_columns, patterns, block_size):
        block_CO = weight_IO[start:stop]
        factor_CC = upper_II[start:stop, start:stop]
        error_CO = _sweep_block(block_CO, factor_CC, row_counts, patterns)
        if stop < num_columns:
            weight_IO[stop:].addmm_(upper_II[start:stop, stop:].T, error_CO, alpha=-1)


def _blocks(num_columns: int, patterns: Sequence[Pattern], block_size: int) -> list[tuple[int, int]]:
    """Column ranges of at most `block_size` columns that cut no N:M group."""
    group = math.lcm(*(decision_width(pattern, 1) for pattern in patterns))
    block_size = max(block_size // group, 1) * group
    return [(start, min(start + block_size, num_columns)) for start in range(0, num_columns, block_size)]


def _sweep_block(block_CO: Tensor, factor_CC: Tensor, row_counts: list[int], patterns: Sequence[Pattern]) -> Tensor:
    """Prune the columns of one block in place; the errors that the columns to its right must make up for."""
    import torch

    diagonal_C1 = factor_CC.diagonal()[:, None]
    removed_CO = torch.empty_like(block_CO)  # 1 where a weight goes, 0 where it stays
    error_CO = torch.empty_like(block_CO)
    # Tensors that hold the parts' columns of the same storage: masks are chosen within one part.
    part_rows, part_patterns = _parts(row_counts, patterns)
    parts = list(zip(block_CO.split(part_rows, dim=1), removed_CO.split(part_rows, dim=1), part_patterns, strict=True))
    for column in range(len(block_CO)):
        for part_CO, part_removed_CO, pattern in parts:
            width = decision_width(pattern, len(block_CO))
            if column % width == 0:
                span = slice(column, column + width)
                scores_CO = part_CO[span].square() / diagonal_C1[span].square()
                part_removed_CO[span] = ~keep_mask(scores_CO.T, pattern, "matrix").T
        error_O = torch.div(block_CO[column], diagonal_C1[column], out=error_CO[column]).mul_(removed_CO[column])
        block_CO[column + 1 :].addr_(factor_CC[column, column + 1 :], error_O, alpha=-1)
    block_CO.masked_fill_(removed_CO.bool(), 0.0)  # no later column reads them
    return error_CO


def _parts(row_counts: list[int], patterns: Sequence[Pattern]) -> tuple[list[int], list[Pattern]]:
    """Rows that choose their masks together: of one linear, or of neighbours with one N:M, which ranks row by row."""
    rows: list[int] = []
    kinds: list[Pattern] = []
    for count, pattern in zip(row_counts, patterns, strict=True):
        if kinds and kinds[-1] == pattern and ranks_in_groups(pattern):
            rows[-1] += count
        else:
            rows.append(count)
            kinds.append(pattern)
    return rows, kinds

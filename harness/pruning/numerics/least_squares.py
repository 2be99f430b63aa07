"""The weights that survive a mask, solved so that the layer's output changes least: exact, row by row, in float64.

With H = c X^T X the squared output error of a row w -> v is (v - w) H (v - w)^T / c.  For a mask with kept columns K
and removed columns P its minimum is  v_K = w_K + H_KK^-1 H_KP w_P  or, with the inverse of H,
v_K = w_K - (H^-1)_KP [(H^-1)_PP]^-1 w_P.  The smaller of the two systems is solved.
"""

import torch
from torch import Tensor

INVERSE_TOLERANCE = 1e-3
"""Most that an element of H H^-1 may be off: in float64 H's condition number is then below about 1e13."""
SOLVE_BYTES = 64 * 2**20
"""Memory for the systems of the rows that are solved together."""


def positive_definite(hessian_II: Tensor, dampings: list[float]) -> tuple[Tensor, Tensor, float]:
    """H with the first of `dampings` (fractions of its mean diagonal) that makes it invertible, H^-1, that damping.

    Invertible means in float64: H and its inverse have Cholesky factors, and their product is the identity to 1e-3.

    Raises:
        ArithmeticError: none of them does, as with activations that overflowed.
    """
    hessian_II = hessian_II.double()
    mean_diagonal = hessian_II.diagonal().mean()
    for damping in dampings:
        damped_II = hessian_II.clone()
        damped_II.diagonal().add_(damping * mean_diagonal)
        lower_II, failed = torch.linalg.cholesky_ex(damped_II)
        if failed.item():
            continue
        inverse_II = torch.cholesky_inverse(lower_II)
        inverse_II = (inverse_II + inverse_II.T) / 2
        product_II = damped_II @ inverse_II
        product_II.diagonal().sub_(1.0)
        inverts = bool(product_II.abs().max() <= INVERSE_TOLERANCE)  # False for NaN too
        if inverts and not torch.linalg.cholesky_ex(inverse_II).info.item():
            return damped_II, inverse_II, damping
    raise ArithmeticError(f"the Hessian is not positive definite with dampings {dampings} of its mean diagonal")


def solve_survivors(weight_OI: Tensor, keep_OI: Tensor, hessian_II: Tensor, inverse_II: Tensor) -> Tensor:
    """The best weights [O, I] with zeros where `keep_OI` is False.

    Args:
        weight_OI: float64, dense.
        hessian_II: float64, positive definite.
        inverse_II: its inverse.

    Raises:
        ArithmeticError: a row's system has no Cholesky factor.
    """
    kept_O, removed_O = keep_OI.sum(dim=1), (~keep_OI).sum(dim=1)
    by_kept = float(kept_O.double().pow(3).sum()) <= float(removed_O.double().pow(3).sum())
    matrix_II = hessian_II if by_kept else inverse_II
    chosen_OI = keep_OI if by_kept else ~keep_OI
    size_O = kept_O if by_kept else removed_O
    new_OI = torch.empty_like(weight_OI)
    for rows in _batches(size_O):
        weight_RI, removed_RI = weight_OI[rows], ~keep_OI[rows]
        right_RI = (weight_RI * removed_RI) @ hessian_II if by_kept else weight_RI
        solution_RI = _solve(matrix_II, right_RI, chosen_OI[rows], int(size_O[rows].max()))
        change_RI = solution_RI if by_kept else -(solution_RI @ inverse_II)
        new_OI[rows] = (weight_RI + change_RI).masked_fill_(removed_RI, 0.0)
    return new_OI


def _batches(size_O: Tensor) -> list[Tensor]:
    """Rows in batches of similar size, each batch's systems within `SOLVE_BYTES`."""
    order = size_O.argsort(stable=True, descending=True)
    batches, start = [], 0
    while start < len(order):
        most = max(int(size_O[order[start]]), 1)
        count = max(SOLVE_BYTES // (8 * most * most), 1)
        batches.append(order[start : start + count])
        start += count
    return batches


def _solve(matrix_II: Tensor, right_RI: Tensor, chosen_RI: Tensor, most: int) -> Tensor:
    """The x [R, I] with M_SS x_S = right_S for the at most `most` chosen columns S of each row, and 0 elsewhere."""
    solution_RI = torch.zeros_like(right_RI)
    if most == 0:
        return solution_RI
    # The chosen columns first, in order; rows with fewer are filled up with columns of the identity.
    columns_RS = chosen_RI.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    real_RS = chosen_RI.gather(1, columns_RS)
    system_RSS = matrix_II[columns_RS[:, :, None], columns_RS[:, None, :]]
    if not real_RS.all():
        system_RSS.masked_fill_(~(real_RS[:, :, None] & real_RS[:, None, :]), 0.0)
        system_RSS.diagonal(dim1=1, dim2=2).masked_fill_(~real_RS, 1.0)
    right_RS = right_RI.gather(1, columns_RS) * real_RS
    lower_RSS, failed_R = torch.linalg.cholesky_ex(system_RSS)
    if failed_R.any():
        raise ArithmeticError("the surviving inputs of a row are linearly dependent within rounding")
    solved_RS = torch.cholesky_solve(right_RS[:, :, None], lower_RSS)[:, :, 0]
    return solution_RI.scatter_(1, columns_RS, solved_RS)

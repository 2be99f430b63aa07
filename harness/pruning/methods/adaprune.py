"""AdaPrune (ours): the magnitude mask, and the surviving weights solved anew against the layer's inputs.

Hubara et al. 2021, https://arxiv.org/abs/2102.08124.  For every row the weights v with zeros outside of the mask that
minimise ||X (v - w)||^2, that is (v - w) H (v - w)^T with H = 2/n X^T X.

Their published code prunes no linear layer; what SparseGPT's tables call AdaPrune was never published.  So this is our
AdaPrune, to be labelled so: the mask is that of our `magnitude`; there is no step that adds the removed weights of a
group to the kept ones; biases stay; and the least squares problem, which they approach with Adam on samples of
outputs, is solved.  Inputs are those of the dense model, as theirs; `calibration.propagation=pruned` takes the pruned
prefix, as SparseGPT does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.calibration.statistics import InputHessian, Statistics
from harness.job import Count, Positive
from harness.patterns import Pattern
from harness.pruning.methods.base import METHODS, LayerwiseMethod, PrunedWeight
from harness.pruning.numerics.masks import ComparisonGroup, keep_mask, ranks_in_groups

if TYPE_CHECKING:
    from torch import Tensor

    from harness.record import JsonValue

CLOSED_FORM_FLOPS = 1e8
"""Most work of a layer's Cholesky factors for which `solver=auto` takes the closed form: a moment's."""
DAMPINGS = [0.0, 1e-6, 1e-4, 1e-2, 1.0]
"""Ridges of the closed form in fractions of H's mean diagonal, the first that makes H invertible; it is reported."""


@METHODS.register("adaprune")
@dataclass(frozen=True, slots=True)
class AdaPrune(LayerwiseMethod):
    """Magnitude pruning with least-squares reconstruction.

    The report's `residual` is the gradient that is left over the gradient at the start, in the norm in which every
    input has the same strength: 0 = solved.

    Args:
        granularity: weights that magnitudes are ranked within: those of a `tensor` or of a `row`.
        solver: `closed_form` = Cholesky in float64, row by row; `conjugate_gradients` = preconditioned with H's
            diagonal, all rows at once in float32; `adam` = Adam on the same objective, gradients masked; `auto` = the
            closed form where it is little work, else conjugate gradients.
        tolerance: residual at which conjugate gradients stop, > 0.
        steps: of Adam, and most of conjugate gradients, >= 1.
        learning_rate: of Adam, > 0.
    """

    granularity: Literal["tensor", "row"] = "tensor"
    solver: Literal["auto", "closed_form", "conjugate_gradients", "adam"] = "auto"
    tolerance: Positive = 0.003
    steps: Count = 1000
    learning_rate: Positive = 0.001
    needs = (InputHessian,)
    propagation = "dense"
    has_published_numbers = False

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        idle = {"closed_form": {"tolerance", "steps", "learning_rate"}, "adam": {"tolerance"}}
        in_groups = {"granularity"} if ranks_in_groups(pattern) else set()
        return frozenset(in_groups | idle.get(self.solver, {"learning_rate"}))

    @property
    def comparison_group(self) -> ComparisonGroup:
        return "matrix" if self.granularity == "tensor" else "row"

    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        keep_OI = keep_mask(weight_OI.abs(), pattern, self.comparison_group)
        hessian_II = stats[InputHessian].hessian_II
        if not hessian_II.isfinite().all():
            raise ArithmeticError("the Hessian is not finite: the calibration activations overflowed")
        dead_I = hessian_II.diagonal() <= 0
        hessian_II.diagonal()[dead_I] = 1.0  # the weights of inputs that are always 0 stay as they are
        solver = self._solver(keep_OI)
        details: dict[str, JsonValue] = {"solver": solver}
        if solver == "closed_form":
            new_OI, details["damping"] = _closed_form(weight_OI, keep_OI, hessian_II)
        elif solver == "adam":
            new_OI = _adam(weight_OI.float(), keep_OI, hessian_II, self.steps, self.learning_rate)
        else:
            new_OI, details["iterations"] = _conjugate_gradients(
                weight_OI.float(), keep_OI, hessian_II, self.steps, self.tolerance
            )
        details["residual"] = _residual(new_OI, weight_OI, keep_OI, hessian_II)
        return PrunedWeight(new_OI, details)

    def _solver(self, keep_OI: Tensor) -> str:
        if self.solver != "auto":
            return self.solver
        kept_O = keep_OI.sum(dim=1).double()
        flops = float(min(kept_O.pow(3).sum(), (keep_OI.shape[1] - kept_O).pow(3).sum())) / 3
        return "closed_form" if flops <= CLOSED_FORM_FLOPS else "conjugate_gradients"


def _closed_form(weight_OI: Tensor, keep_OI: Tensor, hessian_II: Tensor) -> tuple[Tensor, float]:
    """The solution, and the ridge that it took."""
    from harness.pruning.numerics.least_squares import positive_definite, solve_survivors

    damped_II, inverse_II, damping = positive_definite(hessian_II, DAMPINGS)
    return solve_survivors(weight_OI.double(), keep_OI, damped_II, inverse_II), damping


def _conjugate_gradients(
    weight_OI: Tensor, keep_OI: Tensor, hessian_II: Tensor, steps: int, tolerance: float
) -> tuple[Tensor, int]:
    """Solve H_KK change = H_KP w_P of all rows, and say in how many steps; a row that is done stays as it is.

    Every step makes the output error smaller, so that it needs no ridge, also where H is singular.
    """
    import torch

    scale_I = hessian_II.diagonal().reciprocal()
    new_OI, rows_R = weight_OI * keep_OI, torch.arange(len(weight_OI), device=weight_OI.device)
    keep_RI, change_RI = keep_OI, torch.zeros_like(weight_OI)
    gradient_RI = ((weight_OI * ~keep_OI) @ hessian_II) * keep_OI
    direction_RI = gradient_RI * scale_I
    size_R1 = (gradient_RI * direction_RI).sum(dim=1, keepdim=True)
    goal_R1 = size_R1 * tolerance**2
    for step in range(steps):
        going_R = (size_R1 > goal_R1)[:, 0]
        if 2 * int(going_R.sum()) <= len(rows_R):  # half of the rows are done: go on without them
            new_OI[rows_R] += change_RI
            rows_R, keep_RI, gradient_RI = rows_R[going_R], keep_RI[going_R], gradient_RI[going_R]
            direction_RI, size_R1, goal_R1 = direction_RI[going_R], size_R1[going_R], goal_R1[going_R]
            change_RI = torch.zeros_like(gradient_RI)
            if not len(rows_R):
                return new_OI, step
            going_R = going_R[going_R]
        along_RI = (direction_RI @ hessian_II) * keep_RI
        curvature_R1 = (direction_RI * along_RI).sum(dim=1, keepdim=True)
        going_R1 = going_R[:, None] & (curvature_R1 > 0)  # 0 or less is rounding: there is nothing to be had
        length_R1 = torch.where(going_R1, size_R1 / curvature_R1, 0.0)
        change_RI.addcmul_(length_R1, direction_RI)
        gradient_RI.addcmul_(length_R1, along_RI, value=-1)
        scaled_RI = gradient_RI * scale_I
        next_R1 = torch.where(going_R1, (gradient_RI * scaled_RI).sum(dim=1, keepdim=True), 0.0)
        direction_RI = scaled_RI.addcmul_(torch.where(going_R1, next_R1 / size_R1, 0.0), direction_RI)
        size_R1 = next_R1
    new_OI[rows_R] += change_RI
    return new_OI, steps


def _adam(weight_OI: Tensor, keep_OI: Tensor, hessian_II: Tensor, steps: int, learning_rate: float) -> Tensor:
    """Adam (https://arxiv.org/abs/1412.6980) with its usual constants; moments are masked with the gradient."""
    import torch

    new_OI = (weight_OI * keep_OI).requires_grad_()
    optimizer = torch.optim.Adam([new_OI], lr=learning_rate)
    for _ in range(steps):
        new_OI.grad = ((new_OI.detach() - weight_OI) @ hessian_II) * keep_OI
        optimizer.step()
    return new_OI.detach()


def _residual(new_OI: Tensor, weight_OI: Tensor, keep_OI: Tensor, hessian_II: Tensor) -> float:
    """Gradient with the new weights over that with the kept ones as they were; 0 where there was none."""
    change_OI = new_OI.float() - weight_OI.float()
    scale_I = hessian_II.diagonal().rsqrt()
    before = float((((weight_OI.float() * ~keep_OI) @ hessian_II) * keep_OI * scale_I).norm())
    return float(((change_OI @ hessian_II) * keep_OI * scale_I).norm()) / before if before else 0.0

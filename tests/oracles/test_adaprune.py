"""AdaPrune against `lstsq` on the raw inputs, one row at a time."""

import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import InputHessian, Statistics
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.adaprune import AdaPrune
from harness.pruning.numerics.masks import keep_mask

OUT, IN, TOKENS = 10, 32, 200
PATTERNS: list[Pattern] = [
    Unstructured(0.3),
    Unstructured(0.5),
    Unstructured(0.8),
    SemiStructured(2, 4),
    SemiStructured(1, 8),
]
SOLVERS = ["closed_form", "conjugate_gradients", "adam"]


def weight() -> Tensor:
    """A random weight."""
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))


def inputs(dead: tuple[int, ...] = (), tokens: int = TOKENS) -> Tensor:
    """Correlated inputs of uneven scale; the features `dead` are always 0."""
    stream = torch.Generator().manual_seed(1)
    mixing = torch.eye(IN) + 0.3 * torch.randn(IN, IN, generator=stream)
    x_TI = torch.randn(tokens, IN, generator=stream) @ mixing * torch.linspace(0.1, 4.0, IN)
    x_TI[:, list(dead)] = 0.0
    return x_TI


def statistics(x_TI: Tensor) -> Statistics:
    """The Hessian of inputs that are one sequence."""
    hessian = InputHessian(IN, torch.device("cpu"))
    hessian.update(x_TI, 1)
    return Statistics([hessian])


def oracle(weight_OI: Tensor, keep_OI: Tensor, x_TI: Tensor) -> Tensor:
    """Best weights for a mask in float64; where inputs are missing the ones that change least."""
    new_OI = torch.zeros(weight_OI.shape, dtype=torch.float64)
    x_TI = x_TI.double()
    for row, keep, new in zip(weight_OI.double(), keep_OI, new_OI, strict=True):
        missing = x_TI @ (row * ~keep)
        change = torch.linalg.lstsq(x_TI[:, keep], missing[:, None], driver="gelsd").solution[:, 0]
        new[keep] = row[keep] + change
    return new_OI


def error(new_OI: Tensor, x_TI: Tensor) -> float:
    """Squared output error."""
    return float((x_TI.double() @ (new_OI.double() - weight().double()).T).square().sum())


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_the_closed_form_is_the_least_squares_solution(pattern: Pattern, granularity: str) -> None:
    """The mask of magnitude, and `lstsq` of the kept columns of X; what it says: no ridge, no gradient left."""
    method = AdaPrune(granularity=granularity, solver="closed_form")  # type: ignore[arg-type]
    outcome = method.prune(weight(), statistics(inputs()), pattern)
    keep_OI = keep_mask(weight().abs(), pattern, "matrix" if granularity == "tensor" else "row")
    assert torch.equal(outcome.weight_OI != 0, keep_OI)
    torch.testing.assert_close(outcome.weight_OI, oracle(weight(), keep_OI, inputs()), rtol=1e-3, atol=1e-4)
    assert outcome.details["damping"] == 0.0
    assert outcome.details["residual"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_conjugate_gradients_come_as_close_as_they_are_told(pattern: Pattern) -> None:
    """A smaller tolerance is a smaller error, down to the least squares solution."""
    keep_OI = keep_mask(weight().abs(), pattern, "matrix")
    best = error(oracle(weight(), keep_OI, inputs()), inputs())
    errors, steps = [], []
    for tolerance in (0.3, 0.03, 1e-4):
        method = AdaPrune(solver="conjugate_gradients", tolerance=tolerance)
        outcome = method.prune(weight(), statistics(inputs()), pattern)
        assert torch.equal(outcome.weight_OI != 0, keep_OI)
        assert 0.0 <= float(str(outcome.details["residual"])) <= 1.5 * tolerance
        errors.append(error(outcome.weight_OI, inputs()))
        steps.append(int(str(outcome.details["iterations"])))
    assert steps == sorted(steps)
    assert best * 0.999 <= errors[2] <= errors[1] <= errors[0]
    assert errors[2] <= best * 1.001


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_makes_the_error_smaller(solver: str) -> None:
    """Smaller than that of the mask alone; Adam with its published 1000 steps of 0.001 gets most of the way."""
    pattern = Unstructured(0.5)
    keep_OI = keep_mask(weight().abs(), pattern, "matrix")
    before, best = error(weight() * keep_OI, inputs()), error(oracle(weight(), keep_OI, inputs()), inputs())
    outcome = AdaPrune(solver=solver).prune(weight(), statistics(inputs()), pattern)  # type: ignore[arg-type]
    assert outcome.details["solver"] == solver
    assert error(outcome.weight_OI, inputs()) - best <= 0.2 * (before - best)


@pytest.mark.parametrize("solver", SOLVERS)
def test_inputs_that_are_always_0_keep_their_weights(solver: str) -> None:
    """They make no difference to the output; the others are solved as if they were not there."""
    x_TI = inputs(dead=(4, 9))
    outcome = AdaPrune(solver=solver, tolerance=1e-5).prune(weight(), statistics(x_TI), Unstructured(0.5))  # type: ignore[arg-type]
    keep_OI = keep_mask(weight().abs(), Unstructured(0.5), "matrix")
    torch.testing.assert_close(outcome.weight_OI[:, [4, 9]].float(), (weight() * keep_OI)[:, [4, 9]])
    if solver != "adam":
        torch.testing.assert_close(outcome.weight_OI.double(), oracle(weight(), keep_OI, x_TI), rtol=1e-3, atol=1e-3)


def test_few_tokens_take_a_ridge_in_the_open_or_none_at_all() -> None:
    """10 tokens for 32 inputs: the closed form says its ridge; conjugate gradients solve it without one."""
    x_TI = inputs(tokens=10)
    closed = AdaPrune(solver="closed_form").prune(weight(), statistics(x_TI), Unstructured(0.5))
    assert float(str(closed.details["damping"])) > 0
    steps = AdaPrune(solver="conjugate_gradients", tolerance=1e-4).prune(weight(), statistics(x_TI), Unstructured(0.5))
    before = error(weight() * keep_mask(weight().abs(), Unstructured(0.5), "matrix"), x_TI)
    assert error(closed.weight_OI, x_TI) < 0.05 * before
    assert error(steps.weight_OI, x_TI) < 1e-4 * before


def test_the_solver_is_chosen_by_the_work_it_is() -> None:
    """A small layer is solved exactly, a large one by conjugate gradients; the report says which."""
    assert AdaPrune().prune(weight(), statistics(inputs()), Unstructured(0.5)).details["solver"] == "closed_form"
    chosen = [AdaPrune()._solver(torch.arange(width).expand(576, width) % 2 == 0) for width in (64, 576)]
    assert chosen == ["closed_form", "conjugate_gradients"]

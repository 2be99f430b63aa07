"""Least squares for a layer that lost columns: its error is the smallest that there is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.blocks.layers import decoder_blocks, prunable_linears, weight_view
from harness.calibration.statistics import InputHessian, Statistics
from harness.patterns import Structured
from harness.pruning.methods.wanda_sp import WandaSp
from harness.pruning.methods.wanda_sp_ls import WandaSpLeastSquares
from tests.contexts import a_context
from tests.families import tiny_model

OUT, IN, TOKENS = 5, 12, 200
KEPT = torch.tensor([0, 2, 3, 7, 8, 11])


def a_layer() -> tuple[Tensor, Tensor]:
    """A weight [O, I] and correlated inputs [T, I] in float64."""
    generator = torch.Generator().manual_seed(0)
    mixing_II = torch.randn(IN, IN, generator=generator, dtype=torch.float64)
    x_TI = torch.randn(TOKENS, IN, generator=generator, dtype=torch.float64) @ mixing_II
    return torch.randn(OUT, IN, generator=generator, dtype=torch.float64), x_TI


def statistics_of(x_TI: Tensor) -> Statistics:
    """Of two sequences."""
    statistics = Statistics([InputHessian(IN, torch.device("cpu"))])
    statistics.update(x_TI.float(), 2)
    return statistics


def test_the_residual_is_the_closed_form_minimum() -> None:
    """Tr W_P (H_PP - H_PK H_KK^-1 H_KP) W_P^T; and the weight is what a solver finds that is given the inputs."""
    weight_OI, x_TI = a_layer()
    found = WandaSpLeastSquares().compensation(weight_OI, KEPT, statistics_of(x_TI))
    assert found.weight_OK is not None
    assert (found.bias_O, found.details) == (None, {"damping": 0.0})
    residual = float((x_TI @ weight_OI.T - x_TI[:, KEPT] @ found.weight_OK.T).square().sum())
    gone = torch.tensor([i for i in range(IN) if i not in KEPT.tolist()])
    hessian_II, lost_OP = x_TI.T @ x_TI, weight_OI[:, gone]
    among_PK = hessian_II[gone][:, KEPT]
    schur_PP = hessian_II[gone][:, gone] - among_PK @ torch.linalg.inv(hessian_II[KEPT][:, KEPT]) @ among_PK.T
    assert residual == pytest.approx(float((lost_OP @ schur_PP @ lost_OP.T).trace()), rel=1e-6)
    solved_KO = torch.linalg.lstsq(x_TI[:, KEPT], x_TI @ weight_OI.T).solution
    torch.testing.assert_close(found.weight_OK, solved_KO.T, rtol=1e-4, atol=1e-4)
    assert residual < 0.9 * float((x_TI[:, gone] @ lost_OP.T).square().sum())


def test_inputs_that_determine_nothing_leave_the_weight_near_what_it_was() -> None:
    """Fewer tokens than columns: it takes a ridge, the record says which, and outputs are those of the dense layer."""
    weight_OI, x_TI = a_layer()
    few_TI = x_TI[:4]
    found = WandaSpLeastSquares().compensation(weight_OI, KEPT, statistics_of(few_TI))
    assert found.weight_OK is not None
    assert isinstance(found.details["damping"], float)
    assert found.details["damping"] > 0
    torch.testing.assert_close(few_TI[:, KEPT] @ found.weight_OK.T, few_TI @ weight_OI.T, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("family", ["llama-gqa", "opt", "gpt2", "qwen3", "gpt-neox"])
def test_the_model_s_layers_are_the_repaired_ones(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Of the first block the same goes as without repair, and every layer that lost columns errs less."""
    plain, repaired = tiny_model(family), tiny_model(family)
    outcomes = [
        method.run(a_context(model, random_tokens(12), Structured(0.3)))
        for method, model in ((WandaSp(), plain), (WandaSpLeastSquares(), repaired))
    ]
    before, anew = (
        {name: weight_view(linear) for name, linear in prunable_linears(decoder_blocks(model)[1][0]).items()}
        for model in (plain, repaired)
    )
    errors = [
        {
            report.name.partition(".0.")[2]: report.relative_output_error
            for report in outcome.layers
            if ".0." in report.name
        }
        for outcome in outcomes
    ]
    consumers = [name for name, error in errors[0].items() if error]
    assert len(consumers) == 2
    for name in before:
        assert torch.equal(before[name], anew[name]) == (name not in consumers)
    for name in consumers:
        with_gaps, solved = errors[0][name], errors[1][name]
        assert with_gaps is not None
        assert solved is not None
        assert solved < with_gaps

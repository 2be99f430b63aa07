"""Fine-tuning under masks: zeros stay zeros, nothing but the pruned layers changes, and the loss falls."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.errors import UserError
from harness.job import Choice
from harness.models.layers import prunable_layers, weight_view
from harness.models.objective import next_token_loss
from harness.progress import Silent
from harness.record import LayerReport
from harness.recovery.masked_finetune import MaskedFinetune
from harness.recovery.recount import recounted
from harness.recovery.registry import build_recovery
from tests.families import tiny_model

CPU = torch.device("cpu")


def pruned(family: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A tiny model with every second column of every layer zero."""
    model = tiny_model(family)
    for linear in prunable_layers(model).values():
        weight_view(linear)[:, ::2] = 0.0
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
def test_zeros_stay_and_the_loss_falls(family: str, dtype: torch.dtype, random_tokens: Callable[..., Tensor]) -> None:
    """Exactly the weights that were zero are zero; all other parameters have the bits that they had; the model is in
    its own type and in evaluation mode.
    """
    model, rows_BL = pruned(family, dtype), random_tokens(4)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trained = {f"{name}.weight" for name in prunable_layers(model)}
    with torch.no_grad():
        loss = float(next_token_loss(model, rows_BL))
    note = MaskedFinetune(steps=20, batch=4, learning_rate=1e-2).recover(model, rows_BL, 0, CPU, Silent())
    assert "fine-tuned" in note
    with torch.no_grad():
        assert float(next_token_loss(model, rows_BL)) < 0.9 * loss
    for name, weight in model.named_parameters():
        assert weight.dtype == dtype
        if name in trained:
            assert torch.equal(weight == 0, before[name] == 0)
            assert not torch.equal(weight, before[name])
        else:
            assert torch.equal(weight, before[name])
    assert not model.training


def test_equal_seeds_give_equal_weights(random_tokens: Callable[..., Tensor]) -> None:
    """Two runs agree to the bit; another seed draws other batches."""

    def outcome(seed: int) -> Tensor:
        model = pruned("llama")
        MaskedFinetune(steps=3, batch=2, learning_rate=1e-2).recover(model, random_tokens(6), seed, CPU, Silent())
        return weight_view(next(iter(prunable_layers(model).values()))).clone()

    assert torch.equal(outcome(0), outcome(0))
    assert not torch.equal(outcome(0), outcome(1))


def test_zeros_are_counted_again() -> None:
    """Reports have the sparsities of the weights as they are now; zeros that are gone are our bug, and fail."""
    model = pruned("llama")
    shapes = {name: tuple(weight_view(linear).shape) for name, linear in prunable_layers(model).items()}
    reports = [LayerReport(name, (shape[0], shape[1]), 0.5, 0.25, None, 0) for name, shape in shapes.items()]
    assert {report.achieved_sparsity for report in recounted(reports, model)} == {0.5}
    weight_view(next(iter(prunable_layers(model).values()))).fill_(1.0)
    with pytest.raises(AssertionError, match="brought weights"):
        recounted(reports, model)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"steps": 0, "batch": 1, "learning_rate": 0.1}, r"recovery.steps=0 is not allowed"),
        ({"steps": 1, "batch": 1, "learning_rate": -1.0}, r"recovery.learning_rate=-1 is not allowed"),
        ({"steps": "many", "batch": 1, "learning_rate": 0.1}, r"recovery.steps='many' is not of type int"),
        ({"steps": True, "batch": 1, "learning_rate": 0.1}, r"recovery.steps=True is not of type int"),
    ],
)
def test_bad_values_are_refused(params: dict[str, object], says: str) -> None:
    """One line with the value."""
    with pytest.raises(UserError, match=says):
        build_recovery(Choice("masked_finetune", params))  # type: ignore[arg-type]


def test_an_unknown_recovery_names_the_known_ones() -> None:
    """And `none` is nothing to do."""
    assert build_recovery(Choice("none")) is None
    with pytest.raises(UserError, match=r"unknown recovery 'lora'.*none.*masked_finetune"):
        build_recovery(Choice("lora"))

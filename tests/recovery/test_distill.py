"""Distillation: the pruned model comes to say what the dense one says; its zeros stay."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.blocks.layers import prunable_layers
from harness.blocks.offload import InMemory
from harness.models.loading import LoadedModel
from harness.progress import Silent
from harness.recovery.base import RecoveryContext
from harness.recovery.distill import Distill, Teacher, divergence
from tests.families import tiny_model
from tests.recovery.test_masked_finetune import CPU, pruned


def a_context(model: Any, rows_BL: Tensor, dense: Any) -> RecoveryContext:
    """On the CPU, with a dense model in memory as the teacher."""
    return RecoveryContext(model, rows_BL, 0, CPU, Silent(), 48, LoadedModel(dense, None, InMemory(dense)))


@torch.no_grad()
def apart(dense: Any, model: Any, rows_BL: Tensor) -> float:
    """How far the models' predictions are apart."""
    return float(divergence(dense(input_ids=rows_BL).logits, model(input_ids=rows_BL).logits, 1.0))


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "gemma-3"])
def test_zeros_stay_and_the_models_come_closer(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Also on sequences that were not trained on; the teacher is left as it was, and nothing but layers is trained."""
    model, dense, rows_BL = pruned(family), tiny_model(family), random_tokens(16)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    first, other = apart(dense, model, rows_BL), apart(dense, model, random_tokens(4, seed=9))
    recovered = Distill(steps=40, batch=8, learning_rate=3e-3).recover(a_context(model, rows_BL, dense))
    assert "distilled from the dense model" in recovered.note
    trained = {f"{name}.weight" for name in prunable_layers(model)}
    assert recovered.change.names == trained
    assert apart(dense, model, rows_BL) < 0.8 * first
    assert apart(dense, model, random_tokens(4, seed=9)) < other
    for name, weight in model.named_parameters():
        same = torch.equal(weight == 0, before[name] == 0) if name in trained else torch.equal(weight, before[name])
        assert same, name
    fresh = tiny_model(family).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in dense.state_dict().items())


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "gemma-2"])
def test_the_teacher_says_what_the_dense_model_says(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Of any sequences in any order, though its blocks ran once and before."""
    dense: Any = tiny_model(family)
    rows_BL = random_tokens(6)
    teacher = Teacher(LoadedModel(dense, None, InMemory(dense)), a_context(pruned(family), rows_BL, dense))
    numbers_B = torch.tensor([4, 0, 5])
    with torch.no_grad():
        expected = dense(input_ids=rows_BL[numbers_B]).logits
    torch.testing.assert_close(teacher.logits(numbers_B), expected, rtol=1e-5, atol=1e-5)


def test_the_divergence_is_the_sum_over_tokens_of_the_vocabulary() -> None:
    """T^2 sum p (log p - log q), by loops."""
    generator = torch.Generator().manual_seed(0)
    dense, model = (torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for row in range(2):
        for place in range(3):
            p, q = ((each[row, place] / 2.0).exp() for each in (dense, model))
            p, q = p / p.sum(), q / q.sum()
            total += sum(float(p[v] * (p[v].log() - q[v].log())) for v in range(5))
    assert float(divergence(dense, model, 2.0)) == pytest.approx(4.0 * total / 6, rel=1e-5)

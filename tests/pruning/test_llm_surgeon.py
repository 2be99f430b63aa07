"""LLM Surgeon over whole models: families, shots, biases, warnings."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.layers import prunable_layers, weight_view
from harness.models.kinds.causal_lm import next_token_loss
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.context import PruningOutcome
from harness.pruning.methods.llm_surgeon import LLMSurgeon
from tests.contexts import a_context
from tests.families import tiny_model

CPU = torch.device("cpu")


def prune(
    model: PreTrainedModel, rows_BL: Tensor, pattern: Pattern | None = None, *, batch: int = 2, **parameters: object
) -> PruningOutcome:
    """Prune `model` in place with few shots."""
    method = LLMSurgeon(**{"shots": 2, "max_correlate": 200, **parameters})  # type: ignore[arg-type]
    batch_tokens = batch * rows_BL.shape[1]
    return method.run(a_context(model, rows_BL, pattern or Unstructured(0.5), batch_tokens=batch_tokens))


def test_every_family_is_pruned(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Half of all weights, spread unevenly over the layers, and the model still computes."""
    model = tiny_model(family)
    outcome = prune(model, random_tokens(4, 10), shots=1)
    zeros = [int((weight_view(linear) == 0).sum()) for linear in prunable_layers(model).values()]
    total = sum(weight_view(linear).numel() for linear in prunable_layers(model).values())
    assert sum(zeros) == total // 2
    assert len({report.achieved_sparsity for report in outcome.layers}) > 1
    with torch.no_grad():
        assert model(input_ids=random_tokens(2), use_cache=False).logits.isfinite().all()


def test_batches_do_not_matter(random_tokens: Callable[..., Tensor]) -> None:
    """Gradients are of every sequence's own loss: one or three sequences at a time, the same weights go, and the others
    move to the same values.
    """
    models = [tiny_model("llama-gqa") for _ in range(2)]
    for model, batch in zip(models, (1, 3), strict=True):
        prune(model, random_tokens(4, 10), batch=batch, shots=1)
    for first, second in zip(*(prunable_layers(model).values() for model in models), strict=True):
        first_OI, second_OI = weight_view(first), weight_view(second)
        apart_OI = (first_OI == 0) != (second_OI == 0)
        assert int(apart_OI.sum()) <= 2  # rounding may swap neighbours in the ranking
        same_O = ~apart_OI.any(dim=1)
        # What is removed in one row moves all rows of its layer a little.
        most = 1e-4 if bool(same_O.all()) else 0.05
        change_O = (first_OI - second_OI).norm(dim=1)
        assert bool((change_O <= most * first_OI.norm(dim=1))[same_O].all())


def test_the_surgeon_loses_less_than_damage_and_magnitude(random_tokens: Callable[..., Tensor]) -> None:
    """The loss on the calibration tokens ranks the criteria as theory does, with a model that was trained on them."""
    tokens_BL = random_tokens(16, 12)
    losses = {}
    for criterion in ("surgeon", "damage"):
        model = trained(tokens_BL)
        prune(model, tokens_BL, criterion=criterion, batch=16)
        losses[criterion] = loss_of(model, tokens_BL)
    model = trained(tokens_BL)
    for linear in prunable_layers(model).values():
        weight_OI = weight_view(linear)
        weight_OI[weight_OI.abs() <= weight_OI.abs().median()] = 0.0
    losses["magnitude"] = loss_of(model, tokens_BL)
    assert losses["surgeon"] < losses["damage"]
    assert losses["surgeon"] < losses["magnitude"]


def test_more_shots_are_other_weights(random_tokens: Callable[..., Tensor]) -> None:
    """Curvature is estimated again after every shot."""
    models = [tiny_model("opt") for _ in range(2)]
    for model, shots in zip(models, (1, 3), strict=True):
        outcome = prune(model, random_tokens(4, 10), shots=shots)
        assert {report.details["shots"] for report in outcome.layers} == {shots}
    first, second = (weight_view(next(iter(prunable_layers(model).values()))) for model in models)
    assert not torch.equal(first == 0, second == 0)


@pytest.mark.parametrize("criterion", ["surgeon", "damage"])
def test_layers_that_the_loss_does_not_see_go_first(criterion: str, random_tokens: Callable[..., Tensor]) -> None:
    """Where a shot has taken all values of an attention, nothing reaches its output projection, and no gradient its
    queries and keys: they cost nothing, nothing need make up for them, and the count is exact.
    """
    model = tiny_model("llama-gqa")
    layers = prunable_layers(model)
    weight_view(layers["model.layers.0.self_attn.v_proj"]).zero_()
    prune(model, random_tokens(4, 10), Unstructured(0.6), shots=3, criterion=criterion)
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert not weight_view(layers[f"model.layers.0.self_attn.{part}"]).any()
    assert weight_view(layers["model.layers.1.self_attn.o_proj"]).any()
    total = sum(weight_view(linear).numel() for linear in layers.values())
    assert sum(int((weight_view(linear) == 0).sum()) for linear in layers.values()) == int(total * 0.6)


def test_biases_count_and_go_when_asked_for(random_tokens: Callable[..., Tensor]) -> None:
    """The published way: exactly half of weights and biases together, with the biases counted in the report."""
    model = tiny_model("opt")
    outcome = prune(model, random_tokens(4, 10), prune_bias=True)
    linears = prunable_layers(model).values()
    weights = sum(weight_view(linear).numel() for linear in linears)
    biases = sum(linear.bias.numel() for linear in linears if linear.bias is not None)
    zeros = sum(int((weight_view(linear) == 0).sum()) for linear in linears)
    gone = sum(int((linear.bias == 0).sum()) for linear in linears if linear.bias is not None)
    assert zeros + gone == (weights + biases) // 2
    assert gone == sum(int(str(report.details["removed_biases"])) for report in outcome.layers)
    assert gone > 0


def test_biases_are_in_no_group(random_tokens: Callable[..., Tensor]) -> None:
    """In N:M they are updated and never removed; groups are aligned with the weight's columns."""
    model = tiny_model("opt")
    before = [linear.bias.clone() for linear in prunable_layers(model).values() if linear.bias is not None]
    prune(model, random_tokens(4, 10), SemiStructured(2, 4), prune_bias=True)
    after = [linear.bias for linear in prunable_layers(model).values() if linear.bias is not None]
    assert all(bool((bias != 0).all()) for bias in after)
    assert not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_long_job_says_so() -> None:
    """Tiny layers need no warning; those of a large model do, with hours and what takes less; brain damage never."""
    large = {"layer": (11008, 4096)}
    assert LLMSurgeon().warning({"layer": (64, 64)}, CPU) is None
    assert LLMSurgeon(criterion="damage").warning(large, CPU) is None
    said = LLMSurgeon().warning(large, CPU)
    assert said is not None
    for part in ("hours", "method.shots", "method.max_correlate"):
        assert part in said


def trained(tokens_BL: Tensor) -> PreTrainedModel:
    """A tiny LLaMA that knows these sequences a little."""
    model = tiny_model("llama")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        next_token_loss(model, tokens_BL).backward()
        optimizer.step()
    return model


@torch.no_grad()
def loss_of(model: PreTrainedModel, tokens_BL: Tensor) -> float:
    """Mean loss of a token."""
    return float(next_token_loss(model, tokens_BL))

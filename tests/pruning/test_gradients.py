"""Gradients for structured methods: their moments against plain autograd, and what LLM-Pruner makes of them."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.layers import decoder_blocks, prunable_layers, weight_view
from harness.calibration.statistics import Statistics
from harness.models.kinds.causal_lm import next_token_loss
from harness.patterns import Structured
from harness.pruning import structured
from harness.pruning.cutting import Candidates
from harness.pruning.gradients import gradient_moments
from harness.pruning.methods.llm_pruner import LlmPruner
from harness.pruning.shares import num_parameters
from tests.contexts import a_context
from tests.families import tiny_model

CRITERIA = ("param_first", "param_second", "param_mix", "vectorize", "l1", "l2")


def matrices(model: PreTrainedModel, moment: dict[str, Tensor]) -> dict[str, Tensor]:
    """The moment's matrices as the layers store them."""
    return {name: moment[name].T if "c_" in name else moment[name] for name in prunable_layers(model)}


@pytest.mark.parametrize("family", ["llama-gqa", "opt", "gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_the_sequences_gradients(
    family: str, dtype: torch.dtype, random_tokens: Callable[..., Tensor]
) -> None:
    """By autograd of each sequence's loss in float32, whatever the model's type and batches; the model is as before."""
    model = tiny_model(family).to(dtype)
    plain, tokens_BL = copy.deepcopy(model).float(), random_tokens(5)
    before = {name: (weight.dtype, weight.requires_grad) for name, weight in model.named_parameters()}
    mean, square = (
        matrices(model, each)
        for each in gradient_moments(a_context(model, tokens_BL, Structured(0.5)), list(prunable_layers(model)), 2)
    )
    means = {name: torch.zeros_like(linear.weight) for name, linear in prunable_layers(plain).items()}
    squares = copy.deepcopy(means)
    for row_L in tokens_BL:
        plain.zero_grad()
        next_token_loss(plain, row_L[None]).backward()
        for name, linear in prunable_layers(plain).items():
            if linear.weight.grad is not None:  # None of an expert that no token reached
                means[name] += linear.weight.grad / len(tokens_BL)
                squares[name] += linear.weight.grad.square() / len(tokens_BL)
    torch.testing.assert_close(mean, means)
    torch.testing.assert_close(square, squares)
    assert any(bool((squares[name] > means[name].square() * 1.01).any()) for name in means)  # else one would do
    assert {name: (weight.dtype, weight.requires_grad) for name, weight in model.named_parameters()} == before
    assert all(weight.grad is None for weight in model.parameters())


# --------------------------------------------------------------------------------------------------- the criteria


def counted(criterion: str, rows: list[tuple[float, float, float]]) -> float:
    """What one row or column counts, weight by weight: of (w, g, h)."""
    if criterion == "vectorize":
        return abs(sum(w * g for w, g, _ in rows))
    of_one: dict[str, Callable[[float, float, float], float]] = {
        "param_first": lambda w, g, h: abs(w * g),
        "param_second": lambda w, g, h: w * w * h,
        "param_mix": lambda w, g, h: abs(w * g - 0.5 * w * w * h),
        "l1": lambda w, g, h: abs(w),
        "l2": lambda w, g, h: w * w,
    }
    return sum(of_one[criterion](*each) for each in rows)


def reduced(reduction: str, layers: list[float]) -> float:
    """Of what the layers of a feature count."""
    ways: dict[str, Callable[[list[float]], float]] = {
        "sum": sum,
        "mean": lambda each: sum(each) / len(each),
        "max": max,
        "prod": math.prod,
        "first": lambda each: each[0],
    }
    return ways[reduction](layers)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "prod", "first"])
def test_a_key_value_head_counts_with_all_of_its_queries(criterion: Any, reduction: Any) -> None:
    """By loops: two query heads a key/value head are added up feature by feature before layers are reduced."""
    heads, queries, features, width = 2, 2, 3, 4
    generator = torch.Generator().manual_seed(0)
    sizes = [queries * features, features, features, queries * features]  # q, k, v, o
    drawn = [[torch.randn(heads, size, width, generator=generator) for size in sizes] for _ in range(3)]
    drawn[2] = [each.square() for each in drawn[2]]
    method = LlmPruner(criterion, reduction)
    moments = tuple(map(tuple, drawn[1 : 1 + method.gradient_moments]))
    candidates = Candidates("head", tuple(drawn[0]), torch.arange(12).view(2, 6), gradients=moments)
    importance_C = method.importance(candidates, Statistics([]))
    for head in range(heads):
        expected = 0.0
        for feature in range(features):
            layers = []
            for layer, size in enumerate(sizes):
                of_layer = 0.0
                for row in range(feature, size, features):
                    triples = [[float(each[layer][head, row, i]) for each in drawn] for i in range(width)]
                    of_layer += counted(criterion, [(w, g, h) for w, g, h in triples])
                layers.append(of_layer)
            expected += reduced(reduction, layers)
        assert float(importance_C[head]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA[:4])
@pytest.mark.parametrize("family", ["llama-gqa", "opt", "gpt2", "qwen3", "gpt-neox"])
def test_a_channel_and_a_head_that_the_loss_does_not_see_are_found(
    criterion: Any, family: str, random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large weights make them, and nothing reads them: magnitudes would keep them, gradients do not."""
    model = tiny_model(family)
    found: list[tuple[str, Tensor]] = []
    own = LlmPruner.importance

    def importance(self: LlmPruner, candidates: Candidates, stats: Any) -> Tensor:
        found.append((candidates.unit, own(self, candidates, stats)))
        return found[-1][1]

    groups, _ = structured.find_cuttable(a_context(model, random_tokens(2), Structured(0.5)), ("channel", "head"))
    for block, of_block in zip(decoder_blocks(model)[1], groups, strict=True):
        for each in of_block:
            for name, rows_CM in each.group.producers.items():
                weight_view(block.get_submodule(name))[rows_CM[0]] *= 3  # type: ignore[arg-type]
            weight_view(block.get_submodule(each.group.consumer))[:, each.group.columns_CK[0]] = 0.0  # type: ignore[arg-type]
    monkeypatch.setattr(LlmPruner, "importance", importance)
    LlmPruner(criterion).run(a_context(model, random_tokens(4), Structured(0.1)))  # though they do nothing
    assert {unit for unit, _ in found} == {"channel", "head"}
    for _, importance_C in found:
        assert float(importance_C[0]) == 0.0
        assert float(importance_C[1:].median()) > 0.0  # a ReLU has dead channels of its own


# ----------------------------------------------------------------------------------------------------- the engine


def test_protected_blocks_lose_nothing_and_the_others_more(random_tokens: Callable[..., Tensor]) -> None:
    """A quarter of 8 at the front and an eighth at the end, in both scopes; the share of the whole model is met."""
    scopes: tuple[Any, ...] = ("block", "model")
    for scope in scopes:
        model = tiny_model("llama", num_hidden_layers=8, intermediate_size=512)
        dense = copy.deepcopy(model)
        method = LlmPruner(scope=scope, protect_first=0.25, protect_last=0.125)
        method.run(a_context(model, random_tokens(4), Structured(0.3)))
        assert 1 - num_parameters(model) / num_parameters(dense) == pytest.approx(0.3, abs=0.01)
        sizes = [num_parameters(block) for block in decoder_blocks(model)[1]]
        (whole,) = {num_parameters(block) for block in decoder_blocks(dense)[1]}
        assert [size == whole for size in sizes] == [True, True, *[False] * 5, True]
        if scope == "block":
            assert len(set(sizes[2:7])) == 1


def test_a_sweep_scores_once_and_shares_nothing_else(
    random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of another sparsity take importances from the cache, and cut what they would cut alone."""
    calls: list[object] = []
    cached: dict[Any, Any] = {}

    def counted_moments(*arguments: Any) -> Any:
        calls.append(arguments)
        return gradient_moments(*arguments)

    def cache(key: Any, find: Callable[[], Any]) -> Any:
        return cached[key] if key in cached else cached.setdefault(key, find())

    monkeypatch.setattr(structured, "gradient_moments", counted_moments)
    for share in (0.2, 0.4):
        together, alone = tiny_model("llama-gqa", intermediate_size=512), tiny_model("llama-gqa", intermediate_size=512)
        LlmPruner().run(a_context(together, random_tokens(4), Structured(share), cache=cache))
        assert len(calls) == (1 if share == 0.2 else 2)
        LlmPruner().run(a_context(alone, random_tokens(4), Structured(share)))
        for name, tensor in alone.state_dict().items():
            assert torch.equal(together.state_dict()[name], tensor)

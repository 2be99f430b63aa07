"""Permutations in the walk: what is absorbed, what is recorded, and who can verify it."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from harness.blocks.layers import prunable_linears, weight_view
from harness.calibration.statistics import Statistics
from harness.job import Choice
from harness.patterns import Pattern, SemiStructured
from harness.pruning.context import PruningOutcome
from harness.pruning.methods.base import METHODS, LayerwiseMethod, PrunedWeight
from harness.pruning.numerics.masks import keep_mask
from harness.pruning.numerics.permutation import (
    Permutation,
    describe,
    keep_mask_permuted,
)
from harness.record import LayerReport
from tests.contexts import a_context
from tests.families import tiny_model
from tests.permutations import layers_that_are_not, recorded_permutations

TWO_OF_FOUR = SemiStructured(2, 4)


def prune(model: nn.Module, method: object, tokens_BL: Tensor) -> PruningOutcome:
    """2:4 in every layer, on the CPU, from the pruned prefix."""
    assert isinstance(method, LayerwiseMethod)
    return method.run(a_context(model, tokens_BL, TWO_OF_FOUR))


def ria(permutation: Permutation) -> object:
    """RIA as published, with that permutation."""
    return METHODS.build(Choice("ria", {"permutation": permutation}))


ABSORBED = {
    "opt": {"fc2"},
    "gpt-neox": {"dense_4h_to_h"},
    "gpt2": {"mlp.c_proj"},
    "phi": {"fc2"},
    "bloom": {"dense_4h_to_h"},
    "falcon": {"dense_4h_to_h"},
}


@pytest.mark.parametrize("permutation", ["heuristic", "assignment"])
def test_every_family_verifies_from_its_reports(
    family: str, permutation: Permutation, random_tokens: Callable[..., Tensor]
) -> None:
    """Feed-forward inputs are absorbed, all others recorded; with the records every layer is N:M, without it is not."""
    model = tiny_model(family)
    layers = prune(model, ria(permutation), random_tokens(4)).layers
    assert layers_that_are_not(TWO_OF_FOUR, layers, model) == []
    said = {report.name: report.details.get("permuted") for report in layers}
    ends = ABSORBED.get(family, {"down_proj"})
    for name, how in said.items():
        assert how in (None, "absorbed" if any(name.endswith(end) for end in ends) else "virtual")
    assert "virtual" in said.values()
    assert ("absorbed" in said.values()) == bool(ends)
    virtual = {name for name, how in said.items() if how == "virtual"}
    plain = [replace(report, details={}) for report in layers]
    assert set(layers_that_are_not(TWO_OF_FOUR, plain, model)) == virtual


def test_the_function_is_that_of_the_permuted_weights(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """A model with the same zeros and nothing absorbed gives the same logits."""
    tokens_BL = random_tokens(4)
    absorbed, plain = tiny_model(family), tiny_model(family)
    prune(absorbed, ria("assignment"), tokens_BL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.surgery.dependencies.find_dependency_groups", lambda *_: [])
        layers = prune(plain, ria("assignment"), tokens_BL).layers
    assert "absorbed" not in {report.details.get("permuted") for report in layers}
    with torch.no_grad():
        ours, expected = (model(input_ids=random_tokens(3, seed=5)).logits for model in (absorbed, plain))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True, slots=True)
class Reversed(LayerwiseMethod):
    """2:4 by magnitude, in the order that is backwards within every 8 columns: within every head."""

    @property
    def permutes(self) -> bool:
        return True

    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        return self.prune_group([weight_OI], stats, [pattern])[0]

    def prune_group(
        self, weights: Sequence[Tensor], stats: Statistics, patterns: Sequence[Pattern]
    ) -> list[PrunedWeight]:
        order_I = torch.arange(weights[0].shape[1]).view(-1, 8).flip(1).roll(1, 1).reshape(-1)
        return [
            PrunedWeight(each * keep_mask_permuted(each.abs(), TWO_OF_FOUR, order_I), {}, order_I) for each in weights
        ]


@pytest.mark.parametrize("family", ["llama", "llama-gqa", "opt"])
def test_an_order_within_the_heads_is_absorbed_by_the_values(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """The rows of v change places, a head at a time; with grouped queries all heads of a group alike."""
    model = tiny_model(family)
    layers = prune(model, Reversed(), random_tokens(3)).layers
    said = {report.name.rpartition(".")[2]: report.details["permuted"] for report in layers}
    output = "out_proj" if family == "opt" else "o_proj"
    assert said[output] == "absorbed"
    assert said["v_proj"] == "virtual"
    linears = prunable_linears(model)
    for report in layers:
        if report.name.endswith(output):
            kept = (weight_view(linears[report.name]) != 0).reshape(-1, 4).sum(dim=1)
            assert kept.unique().tolist() == [2]
    assert layers_that_are_not(TWO_OF_FOUR, layers, model) == []


def test_linears_of_one_input_write_their_permutation_once(random_tokens: Callable[..., Tensor]) -> None:
    """Of q, k and v, q says it; k and v name q, and the sha256 is that of all three."""
    layers = prune(tiny_model("llama"), ria("heuristic"), random_tokens(4)).layers
    q, k, v = layers[:3]
    assert "permutation" in q.details
    for other in (k, v):
        assert other.details["permutation_of"] == q.name
        assert other.details["permutation_sha256"] == q.details["permutation_sha256"]
        assert "permutation" not in other.details
    orders = recorded_permutations(layers)
    assert torch.equal(orders[q.name], orders[v.name])


def report_of(details: dict[str, object], width: int = 12) -> LayerReport:
    """A report that says nothing but these details."""
    return LayerReport("layer", (4, width), 0.5, 0.5, None, 0, details)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [12, 70_000])
def test_a_permutation_reads_back(width: int) -> None:
    """In 16 bits, or in 32 where it is too wide for them."""
    order_I = torch.randperm(width, generator=torch.Generator().manual_seed(0))
    report = report_of(dict(describe(order_I, absorbed=False)), width)
    assert torch.equal(recorded_permutations([report])["layer"], order_I)
    assert report.details["permutation_bits"] == (16 if width == 12 else 32)


def test_a_permutation_that_was_tampered_with_is_found() -> None:
    """By its sha256, or by not being one."""
    said = describe(torch.arange(12), absorbed=False)
    other = describe(torch.arange(12).flip(0), absorbed=False)
    with pytest.raises(ValueError, match="sha256"):
        recorded_permutations([report_of(dict(said) | {"permutation": other["permutation"]})])
    with pytest.raises(ValueError, match="not a permutation of 12 columns"):
        recorded_permutations([report_of(dict(describe(torch.zeros(12, dtype=torch.long), absorbed=False)))])


def test_one_weight_too_many_is_found(random_tokens: Callable[..., Tensor]) -> None:
    """The verification can fail, in absorbed and in virtual layers."""
    model = tiny_model("llama")
    layers = prune(model, ria("heuristic"), random_tokens(4)).layers
    for report in layers:
        spoiled = copy.deepcopy(model)
        weight_OI = weight_view(prunable_linears(spoiled)[report.name])
        row, column = (weight_OI == 0).nonzero()[0].tolist()
        weight_OI[row, column] = 1.0
        assert layers_that_are_not(TWO_OF_FOUR, layers, spoiled) == [report.name]


def test_without_a_permutation_nothing_is_said(random_tokens: Callable[..., Tensor]) -> None:
    """Weights lie as they do and are N:M as they lie."""
    model = tiny_model("llama")
    layers = prune(model, ria("none"), random_tokens(4)).layers
    assert all(report.details == {} for report in layers)
    assert layers_that_are_not(TWO_OF_FOUR, layers, model) == []
    weight_OI = weight_view(prunable_linears(model)[layers[0].name])
    assert torch.equal(weight_OI != 0, keep_mask(weight_OI.abs(), TWO_OF_FOUR, "row"))

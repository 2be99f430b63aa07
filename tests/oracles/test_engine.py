"""The walk over the blocks against obvious code: whole forward passes of the model with hooks on its linears."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.layers import prunable_shapes
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.wanda import Wanda
from tests.contexts import a_context
from tests.families import tiny_model
from tests.oracles.test_masks import oracle as mask_oracle

NUM_SEQUENCES = 5


def inputs_of(model: nn.Module, names: Sequence[str], tokens_BL: Tensor) -> dict[str, list[Tensor]]:
    """What each linear is given in whole forward passes of the model, one [L, I] tensor a sequence."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0][0].clone())
        )
        for name in names
    ]
    with torch.no_grad():
        for sequence_L in tokens_BL:
            model(input_ids=sequence_L[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def wanda_layer(linear: nn.Linear, inputs: list[Tensor], pattern: Pattern) -> float:
    """Prune one layer in place, in float64; the relative output error on its inputs."""
    x_TI = torch.cat(inputs).double()
    norms_I = [math.sqrt(float(x_T.square().sum()) / len(inputs)) for x_T in x_TI.T]
    old_OI = linear.weight.data.clone()
    scores = [[abs(weight) * norm for weight, norm in zip(row, norms_I, strict=True)] for row in old_OI.tolist()]
    linear.weight.data *= torch.tensor(mask_oracle(scores, pattern, "row"))
    dense_TO, sparse_TO = x_TI @ old_OI.double().T, x_TI @ linear.weight.data.double().T
    return float((dense_TO - sparse_TO).norm() / dense_TO.norm())


def prune_obviously(
    model: PreTrainedModel, tokens_BL: Tensor, pattern: Pattern, propagation: Literal["pruned", "dense"]
) -> dict[str, float]:
    """Prune block after block in place; relative output errors by name."""
    names = list(prunable_shapes(model))
    dense_inputs = inputs_of(model, names, tokens_BL)
    errors = {}
    for block in range(len(model.model.layers)):
        of_block = [name for name in names if name.startswith(f"model.layers.{block}.")]
        inputs = dense_inputs if propagation == "dense" else inputs_of(model, of_block, tokens_BL)
        for name in of_block:
            errors[name] = wanda_layer(model.get_submodule(name), inputs[name], pattern)  # type: ignore[arg-type]
    return errors


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """The prunable weights by name."""
    return {name: model.get_submodule(name).weight.data for name in prunable_shapes(model)}  # type: ignore[misc]


@pytest.mark.parametrize("propagation", ["pruned", "dense"])
@pytest.mark.parametrize("pattern", [SemiStructured(2, 4), Unstructured(0.6)], ids=str)
@pytest.mark.parametrize(("family", "batch_tokens"), [("llama-gqa", 1), ("llama-gqa", 24), ("gemma-3", 1000)])
def test_sequential_pruning(
    family: str,
    pattern: Pattern,
    propagation: Literal["pruned", "dense"],
    batch_tokens: int,
    random_tokens: Callable[..., Tensor],
) -> None:
    """Weights to the bit and output errors agree, for every batching: each layer sees the dense block on the inputs
    that the pruned blocks before it (or the dense model) give.
    """
    model, tokens_BL = tiny_model(family), random_tokens(NUM_SEQUENCES)
    expected = copy.deepcopy(model)
    errors = prune_obviously(expected, tokens_BL, pattern, propagation)
    context = a_context(model, tokens_BL, pattern, propagation=propagation, batch_tokens=batch_tokens)
    outcome = Wanda().run(context)
    for name, weight_OI in weights_of(expected).items():
        assert torch.equal(weights_of(model)[name], weight_OI), name
    assert [report.name for report in outcome.layers] == list(prunable_shapes(model))
    for report in outcome.layers:
        assert report.error_tokens == tokens_BL.numel()
        assert report.relative_output_error == pytest.approx(errors[report.name], rel=1e-4)


def test_the_two_propagations_differ(random_tokens: Callable[..., Tensor]) -> None:
    """The oracle can tell them apart: the first block's weights agree, the second block's do not."""
    pattern, tokens_BL = SemiStructured(2, 4), random_tokens(NUM_SEQUENCES)
    models = [tiny_model("llama-gqa"), tiny_model("llama-gqa")]
    prune_obviously(models[0], tokens_BL, pattern, "pruned")
    prune_obviously(models[1], tokens_BL, pattern, "dense")
    one, other = (weights_of(model) for model in models)
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    assert differ
    assert all(name.startswith("model.layers.1.") for name in differ)


def test_errors_are_measured_on_the_first_1024_tokens(random_tokens: Callable[..., Tensor]) -> None:
    """Of more calibration tokens than that, the report's error is that of the first 1024, and it says so."""
    model, tokens_BL = tiny_model("llama"), random_tokens(50, 24)
    name = "model.layers.0.self_attn.q_proj"
    x_TI = torch.cat(inputs_of(model, [name], tokens_BL)[name])[:1024]
    old_OI = model.get_submodule(name).weight.data.clone()
    report = Wanda().run(a_context(model, tokens_BL, Unstructured(0.5), batch_tokens=240)).layers[0]
    new_OI = model.get_submodule(name).weight.data
    expected = float((x_TI @ (old_OI - new_OI).T).norm() / (x_TI @ old_OI.T).norm())
    assert (report.name, report.error_tokens) == (name, 1024)
    assert report.relative_output_error == pytest.approx(expected, rel=1e-4)

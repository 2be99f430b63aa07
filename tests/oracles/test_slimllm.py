"""SlimLLM beside its formulas: what blocks lose, and what its scores are of."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.blocks.layers import decoder_blocks
from harness.calibration.statistics import FeatureNorm, Statistics
from harness.patterns import Structured
from harness.pruning.cutting import Candidates
from harness.pruning.methods.slimllm import SlimLlm
from harness.pruning.shares import num_parameters
from tests.contexts import a_context
from tests.families import tiny_model


def cosines(model: Any, tokens_BL: Tensor) -> list[float]:
    """Of every block's input and output, the mean over tokens, by the model's own hidden states."""
    found: list[float] = []

    def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(float(torch.cosine_similarity(args[0], output, dim=-1).double().mean()))

    handles = [block.register_forward_hook(hook) for block in decoder_blocks(model)[1]]
    with torch.no_grad():
        model(tokens_BL)
    for handle in handles:
        handle.remove()
    return found


def test_blocks_lose_by_the_softmax_of_their_cosines(random_tokens: Callable[..., Tensor]) -> None:
    """Three of four, those of the largest; the share of the model is met."""
    model = tiny_model("llama", num_hidden_layers=4, intermediate_size=512)
    for block, scale in zip(decoder_blocks(model)[1], (1.0, 0.9, 0.8, 0.7), strict=True):
        mlp: Any = block.mlp
        mlp.down_proj.weight.data *= scale
    tokens_BL = random_tokens(4)
    before = [num_parameters(block) for block in decoder_blocks(model)[1]]
    cosine, total = cosines(model, tokens_BL), num_parameters(model)
    SlimLlm(blocks=0.75, alpha=5.0).run(a_context(model, tokens_BL, Structured(0.2)))
    gone = [old - num_parameters(new) for old, new in zip(before, decoder_blocks(model)[1], strict=True)]
    added = [bias.numel() for name, bias in model.named_parameters() if name.endswith("proj.bias")]
    assert sum(gone) + sum(added) == pytest.approx(0.2 * total, abs=0.01 * total)
    worst = min(range(4), key=cosine.__getitem__)
    assert gone[worst] == 0
    weights = [math.exp(5.0 * value) if index != worst else 0.0 for index, value in enumerate(cosine)]
    expected = [weight / sum(weights) for weight in weights]
    assert [each / sum(gone) for each in gone] == pytest.approx(expected, abs=0.01)
    assert max(expected) > 0.37  # of a third


def test_channels_are_judged_behind_the_heads_that_were_cut(
    random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norms of the first feed-forward layer's input are those that it has in the pruned model."""
    model, tokens_BL = tiny_model("llama"), random_tokens(4)
    seen: list[Tensor] = []

    def kept(self: SlimLlm, candidates: Candidates, stats: Statistics, count: int) -> Tensor:
        if candidates.unit == "channel":
            seen.append(candidates.made_from[0][FeatureNorm].l2_I.clone())
        return own(self, candidates, stats, count)

    own = SlimLlm.kept
    monkeypatch.setattr(SlimLlm, "kept", kept)
    dense: Any = tiny_model("llama")
    SlimLlm(blocks=1.0, alpha=0.0).run(a_context(model, tokens_BL, Structured(0.3)))
    norms = []
    for each in (model, dense):
        mlp: Any = decoder_blocks(each)[1][0].mlp
        inputs: list[Tensor] = []
        handle = mlp.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
        with torch.no_grad():
            each(tokens_BL)
        handle.remove()
        norms.append((inputs[0].square().sum(dim=(0, 1)) / len(tokens_BL)).sqrt())
    torch.testing.assert_close(seen[0], norms[0], rtol=1e-4, atol=0.0)
    assert not torch.allclose(norms[0], norms[1], rtol=1e-3)

"""Methods that cut, beside the authors' own code on the same tiny models, ours on stock ones.

FLAP is CASIA-IVA-Lab/FLAP@3bb57db, ShortGPT icip-cas/ShortGPT@9a2ee8d, SLEB jiwonsong-dev/SLEB@d07129a.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from harness.blocks.layers import decoder_blocks, weight_view
from harness.blocks.offload import InMemory
from harness.blocks.trial import Edits
from harness.evaluation.perplexity import TrialLoss
from harness.patterns import Structured
from harness.pruning.methods.flap import Flap
from harness.pruning.methods.shortgpt import block_influence
from harness.pruning.methods.sleb import Sleb
from harness.pruning.shares import num_parameters, of_the_cuttable
from harness.pruning.structured import find_cuttable
from tests.contexts import a_context

Arrays = Mapping[str, Tensor]


def arrays_of(golden_dir: Path, name: str) -> Arrays:
    """All inputs and outcomes by name."""
    with np.load(golden_dir / "layers" / name / "tiny_llama.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def stock_llama(arrays: Arrays) -> LlamaForCausalLM:
    """The model of the stored weights, of sizes vocabulary, hidden, intermediate, layers, heads; SLEB's are hidden,
    intermediate, layers, heads, key/value heads, vocabulary.
    """
    sizes = arrays["config"].tolist()
    if len(sizes) == 6:
        hidden, intermediate, layers, heads, shared, vocab = sizes
    else:
        (vocab, hidden, intermediate, layers, heads), shared = sizes, sizes[-1]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    weights = {name.removeprefix("w."): tensor for name, tensor in arrays.items() if name.startswith("w.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("rotary" in name for name in missing)
    return model


@pytest.mark.parametrize("percent", [20, 50])
def test_flap_cuts_what_its_authors_cut(golden_dir: Path, percent: int) -> None:
    """Heads and channels of every block identical, the biases that replace the others to the authors' float16."""
    arrays = arrays_of(golden_dir, "flap")
    model, dense = stock_llama(arrays), stock_llama(arrays)
    tokens_BL = arrays["tokens"]
    found, _ = find_cuttable(a_context(dense, tokens_BL, Structured(0.5)), ("channel", "head"))
    cuttable = 1 / of_the_cuttable(dense, found, 1.0 / num_parameters(dense)) / num_parameters(dense)
    share = percent / 100 * cuttable
    Flap(as_released=True).run(a_context(model, tokens_BL, Structured(share), batch_tokens=tokens_BL.shape[1]))
    for index, (old, new) in enumerate(zip(decoder_blocks(dense)[1], decoder_blocks(model)[1], strict=True)):
        heads_H, channels_C = (arrays[f"ALAM_{percent}.{kind}_mask"][index] for kind in ("head", "channel"))
        old_mlp, new_mlp, old_attention, new_attention = (
            part for each in ("mlp", "self_attn") for part in (old.get_submodule(each), new.get_submodule(each))
        )
        for name in ("gate_proj", "up_proj"):
            assert torch.equal(weight_of(new_mlp, name), weight_of(old_mlp, name)[channels_C])
        assert torch.equal(weight_of(new_mlp, "down_proj"), weight_of(old_mlp, "down_proj")[:, channels_C])
        rows_O = heads_H.repeat_interleave(weight_of(old_attention, "q_proj").shape[0] // len(heads_H))
        for name in ("q_proj", "k_proj", "v_proj"):
            assert torch.equal(weight_of(new_attention, name), weight_of(old_attention, name)[rows_O])
        for part, name, kind in ((new_attention, "o_proj", "o"), (new_mlp, "down_proj", "down")):
            expected_O = arrays[f"ALAM_{percent}.{kind}_bias.{index}"]
            bias = part.get_submodule(name).bias
            if bias is None:  # nothing went
                assert not expected_O.any()
            else:
                assert isinstance(bias, Tensor)
                torch.testing.assert_close(bias.data, expected_O, rtol=2e-3, atol=2e-4)


def weight_of(part: Any, name: str) -> Tensor:
    """The weight [O, I] of a linear."""
    return weight_view(part.get_submodule(name))


def test_the_influence_of_blocks_is_the_published_one(golden_dir: Path) -> None:
    """With states before the final normalisation, and windows of the published stride: 1e-5 of each block's."""
    arrays = arrays_of(golden_dir, "depth_scores")
    stride = int(arrays["stride"])
    tokens_BL = arrays["tokens"].reshape(-1, stride)
    influence_N = block_influence(a_context(stock_llama(arrays), tokens_BL, Structured(0.3)))
    torch.testing.assert_close(
        influence_N, arrays["bi_sum_prenorm"].double() / int(arrays["n_tokens"]), rtol=1e-5, atol=0.0
    )


@pytest.mark.parametrize(("tag", "first", "last", "count"), [("b11", 1, 1, 4), ("b32", 3, 2, 2)])
def test_sleb_tries_and_removes_what_its_authors_do(
    golden_dir: Path, tag: str, first: int, last: int, count: int
) -> None:
    """Every candidate's loss in the order of trial, and the order of removal; the searched model is left dense."""
    arrays = arrays_of(golden_dir, "sleb")
    model, windows_NL = stock_llama(arrays), arrays["ids"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure = TrialLoss(model, InMemory(model), windows_NL, batch_tokens=64, device=torch.device("cpu"))
    losses: list[float] = []

    def spy(edits: Edits, base: Edits) -> float:
        losses.append(measure(edits, base))
        return losses[-1]

    context = a_context(model, windows_NL, Structured(0.5), held_out=lambda _: spy)
    order, _ = Sleb(first=first, last=last).removals(context, count)
    assert order == arrays[f"{tag}_order"].tolist()
    expected = arrays[f"{tag}_losses"].double() / windows_NL.numel()
    torch.testing.assert_close(torch.tensor(losses, dtype=torch.float64), expected, rtol=1e-5, atol=0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

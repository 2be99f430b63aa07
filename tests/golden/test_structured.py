"""Methods that cut, beside the authors' own code on the same tiny models, ours on stock ones.

EvoPress is IST-DASLab/EvoPress@50888a0, FLAP CASIA-IVA-Lab/FLAP@3bb57db, LLM-Pruner horseee/LLM-Pruner@128a07d, PruneMe
arcee-ai/PruneMe@faee6c9, ShortGPT icip-cas/ShortGPT@9a2ee8d, SLEB jiwonsong-dev/SLEB@d07129a.
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
from harness.calibration.statistics import Statistics
from harness.evaluation.perplexity import TrialLoss
from harness.patterns import Structured
from harness.pruning.cutting import Candidates
from harness.pruning.methods.evopress_depth import EvoPressDepth
from harness.pruning.methods.flap import Flap
from harness.pruning.methods.llm_pruner import LlmPruner
from harness.pruning.methods.pruneme import angular_distances
from harness.pruning.methods.shortgpt import block_influence
from harness.pruning.methods.sleb import Sleb
from harness.pruning.shares import num_parameters, of_the_cuttable
from harness.pruning.structured import find_cuttable
from tests.contexts import a_context

Arrays = Mapping[str, Tensor]


def arrays_of(golden_dir: Path, name: str, file: str = "tiny_llama") -> Arrays:
    """All inputs and outcomes by name."""
    with np.load(golden_dir / "layers" / name / f"{file}.npz") as stored:
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


LLM_PRUNER: tuple[Any, ...] = ("param_first", "param_second", "param_mix", "vectorize", "l1", "l2")


@pytest.mark.parametrize("criterion", LLM_PRUNER)
@pytest.mark.parametrize("percent", [25, 50])
def test_llm_pruner_cuts_what_its_authors_cut(
    golden_dir: Path, criterion: Any, percent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importances of heads and channels to 1e-4, and the same of them kept, where the authors' outcome says which."""
    arrays = arrays_of(golden_dir, "llm_pruner")
    check_llm_pruner(arrays, criterion, percent, monkeypatch)


def check_llm_pruner(arrays: Arrays, criterion: Any, percent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all blocks but the first, a fraction of each."""
    model, dense = stock_llama(arrays), stock_llama(arrays)
    blocks = arrays["layers"].tolist()
    found, _ = find_cuttable(a_context(dense, arrays["tokens"], Structured(0.5)), ("channel", "head"))
    cuttable = sum(each.total for index in blocks for each in found[index]) / num_parameters(dense)
    reduction: Any = "mean" if criterion in ("l1", "l2") else "sum"
    method = LlmPruner(criterion, reduction, protect_first=1 / len(found), protect_last=0.0)
    importances = []

    def importance(self: LlmPruner, candidates: Candidates, stats: Statistics) -> Tensor:
        importances.append(own(self, candidates, stats))
        return importances[-1]

    own = LlmPruner.importance
    monkeypatch.setattr(LlmPruner, "importance", importance)
    method.run(a_context(model, arrays["tokens"], Structured(percent / 100 * cuttable)))
    expected = [
        arrays[f"{criterion}.{name}"].float()
        for index in blocks
        for name in (f"ffn.{index}.channel_importance", f"attn.{index}.head_importance")
    ]
    torch.testing.assert_close(importances, expected, rtol=1e-4, atol=0.0)
    for index in blocks if f"{criterion}.r{percent}.heads_kept.{blocks[0]}" in arrays else ():
        heads, channels = (arrays[f"{criterion}.r{percent}.{kind}_kept.{index}"] for kind in ("heads", "ffn"))
        old, new = (decoder_blocks(each)[1][index] for each in (dense, model))
        rows_OI = weight_of(old, "self_attn.k_proj").unflatten(0, (int(arrays["config"][-1]), -1))
        assert torch.equal(weight_of(new, "self_attn.k_proj"), rows_OI[heads].flatten(0, 1))
        assert torch.equal(weight_of(new, "mlp.gate_proj"), weight_of(old, "mlp.gate_proj")[channels])


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


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_angles_of_runs_of_blocks_are_the_published_ones(golden_dir: Path, count: int) -> None:
    """At the last token that is no padding, with states before the final normalisation: 1e-5 of each run's."""
    arrays = arrays_of(golden_dir, "depth_scores")
    model, found = stock_llama(arrays), []
    for row_L, mask_L in zip(arrays["tokens"], arrays["attention_mask_pruneme"], strict=True):
        tokens_1L = row_L[None, mask_L.bool()]  # padding is behind, where nothing before it sees it
        found.append(angular_distances(a_context(model, tokens_1L, Structured(0.3)), count))
    expected_N = arrays[f"angular_n{count}_paper"].double()
    torch.testing.assert_close(torch.stack(found).mean(dim=0), expected_N, rtol=1e-5, atol=0.0)


def test_the_evolution_of_depth_is_its_authors(golden_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate, survivor and perplexity of four generations; the searched model is left dense."""
    arrays = arrays_of(golden_dir, "evopress", "depth")
    hidden, intermediate, layers, heads, shared, vocab = arrays["config"].tolist()
    model = stock_llama({**arrays, "config": torch.tensor([hidden, intermediate, layers, heads, shared, vocab])})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trials = TrialLoss(model, InMemory(model), arrays["ids"], batch_tokens=64, device=torch.device("cpu"))
    asked: list[list[list[int]]] = []
    losses: list[list[float]] = []
    own = TrialLoss.on

    def on(self: TrialLoss, windows: Any, tokens: int) -> Any:
        measure = own(self, windows, tokens)
        asked.append([])
        losses.append([])

        def loss(edits: Edits, base: Edits = {}) -> float:  # noqa: B006  # nobody writes to it
            asked[-1].append(sorted(edits))
            losses[-1].append(measure(edits, base))
            return losses[-1][-1]

        return loss

    monkeypatch.setattr(TrialLoss, "on", on)
    method = EvoPressDepth(
        offspring=6, initial=5, initial_tokens=80, survivors=2, first_tokens=48, last_tokens=160, generations=4,
        seed=int(arrays["run_seed"]),
    )  # fmt: skip
    context = a_context(model, arrays["ids"], Structured(0.34), held_out=lambda _: trials)
    survivor, _ = method.removals(context, 2)
    assert len(asked) == 1 + 2 * 4
    for call, (candidates, found) in enumerate(zip(asked, losses, strict=True)):
        expected = [row[:layers].nonzero().flatten().tolist() for row in arrays[f"block_call{call}_candidates"]]
        assert candidates == expected, call
        fitness = arrays[f"block_call{call}_fitness"].tolist()
        assert np.exp(sorted(found)[: len(fitness)]) == pytest.approx(fitness, rel=1e-5)
    assert survivor == arrays["block_call8_survivors"][0, :layers].nonzero().flatten().tolist()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

"""Experts of a mixture as linears: the same model, pruned as the matrices that they are."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from harness.blocks.experts import split_experts, stacked_again
from harness.blocks.layers import decoder_blocks, prunable_layers, prunable_shapes, weight_view
from harness.blocks.runner import BlockRunner, in_batches
from harness.evaluation.perplexity import perplexity_from
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel
from harness.models.model_cache import ModelCache
from harness.models.saving import save_model
from harness.patterns import Unstructured
from harness.progress import Silent
from harness.pruning.methods.wanda import Wanda
from tests.contexts import a_context
from tests.families import MIXTURES, plain_model

CPU = torch.device("cpu")
every_mixture = pytest.mark.parametrize("family", sorted(MIXTURES))


def logits(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    """What the model says."""
    with torch.no_grad():
        out: Tensor = model(input_ids=tokens_BL, use_cache=False).logits
    return out


def prune(model: PreTrainedModel, tokens_BL: Tensor) -> None:
    """Half of every row by Wanda, two sequences at a time."""
    Wanda().run(a_context(model, tokens_BL, Unstructured(0.5), batch_tokens=2 * tokens_BL.shape[1]))


@every_mixture
def test_the_model_is_the_same_and_stacks_come_back(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Logits are those of transformers' own code, before, while and after it is put together; no weight is copied."""
    model, tokens = plain_model(family), random_tokens(3)
    plain, before, state = copy.deepcopy(model), logits(model, tokens), dict(model.named_parameters())
    split_experts(model)
    names = [name for name in prunable_shapes(model) if ".experts." in name and "shared" not in name]
    assert len(names) == 2 * 4 * (1 if family == "deepseek-v3" else 2)
    shapes = {name: tensor.shape for name, tensor in state.items()}
    addresses = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert {weight.untyped_storage().data_ptr() for weight in model.parameters()} == addresses
    torch.testing.assert_close(logits(model, tokens), before)
    weight_view(prunable_layers(model)[names[-1]]).zero_()
    changed = logits(model, tokens)
    with stacked_again(model):
        assert {name: tensor.shape for name, tensor in model.named_parameters()} == shapes
        plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(plain, tokens), changed)
    assert torch.equal(logits(model, tokens), changed)
    assert torch.equal(logits(copy.deepcopy(model), tokens), changed)


@every_mixture
def test_experts_are_pruned_as_wanda_on_plain_transformers_prunes_them(
    family: str, tmp_path: Path, random_tokens: Callable[..., Tensor]
) -> None:
    """Every zero, and perplexity to 1e-5, of a computation that knows nothing of ours; saved, it reloads as that."""
    tokens = random_tokens(8)
    plain = plain_model(family, _experts_implementation="eager")
    ours = copy.deepcopy(plain)
    split_experts(ours)
    prune(ours, tokens)
    plain_wanda(plain, tokens)
    save_model(LoadedModel(ours, None), tmp_path / "pruned")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").state_dict()
    for name, expected in plain.state_dict().items():
        assert torch.equal(saved[name] == 0, expected == 0), name
        assert torch.equal(saved[name], expected), name
    windows = random_tokens(6, seed=1)
    runner = BlockRunner(ours, in_batches(windows, 24), LoadedModel(ours, None).offloading, CPU)
    measured = perplexity_from(runner, Silent())
    with torch.no_grad():
        loss = plain(input_ids=windows, labels=windows, use_cache=False).loss
    assert measured.value == pytest.approx(float(loss.exp()), rel=1e-5)


def plain_wanda(model: PreTrainedModel, tokens_BL: Tensor) -> None:
    """Wanda at 50 % a row, written for transformers' own modules: block after block, each with its pruned past."""
    for block in decoder_blocks(model)[1]:
        inputs: dict[tuple[nn.Module, str], list[Tensor]] = {}
        mixtures = [
            module for module in block.modules() if hasattr(module, "down_proj") and hasattr(module, "has_gate")
        ]
        linears = [module for module in block.modules() if isinstance(module, nn.Linear)]

        def of_linear(module: nn.Module, args: tuple[Tensor, ...], inputs: dict = inputs) -> None:
            inputs.setdefault((module, ""), []).append(args[0].flatten(0, -2))

        def of_mixture(module: nn.Module, args: tuple[Tensor, ...], inputs: dict = inputs) -> None:
            for expert in range(4):
                x_TI = args[0][(args[1] == expert).any(dim=1)]
                up = module.gate_up_proj[expert] if module.is_transposed else module.gate_up_proj[expert].T
                inner = x_TI @ up + (module.gate_up_proj_bias[expert] if module.has_bias else 0)
                inputs.setdefault((module, f"gate_up_proj {expert}"), []).append(x_TI)
                inputs.setdefault((module, f"down_proj {expert}"), []).append(module._apply_gate(inner))

        handles = [module.register_forward_pre_hook(of_linear) for module in linears]
        handles += [module.register_forward_pre_hook(of_mixture) for module in mixtures]
        with torch.no_grad():
            model(input_ids=tokens_BL, use_cache=False)
        for handle in handles:
            handle.remove()
        for (module, name), seen in inputs.items():
            weight = module.weight.data if not name else getattr(module, name.split()[0]).data[int(name.split()[1])]
            weight_OI = weight.T if name and module.is_transposed else weight
            score_OI = weight_OI.abs() * torch.cat(seen).square().sum(dim=0).sqrt()
            lowest = score_OI.argsort(dim=1, stable=True)[:, : weight_OI.shape[1] // 2]
            weight_OI.scatter_(1, lowest, 0.0)


@pytest.mark.parametrize("family", ["mixtral", "gpt-oss", "granite-moe"])
def test_the_next_job_finds_the_dense_experts_again(
    family: str, tmp_path: Path, random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checkpoint's own tensors, be they stacked or one an expert: the model is not loaded twice."""
    plain_model(family).save_pretrained(tmp_path / "model")
    cache, checkpoint = ModelCache(), Checkpoint("local", "tiny", str(tmp_path / "model"), None, False)
    loaded = cache.take(checkpoint, "same", None)
    dense = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    outcome = Wanda().run(a_context(loaded.model, random_tokens(8), Unstructured(0.5)))
    assert any(not torch.equal(tensor, dense[name]) for name, tensor in loaded.model.state_dict().items())
    cache.give_back(outcome.change)
    monkeypatch.setattr("harness.models.model_cache.load_model", None)
    again = cache.take(checkpoint, "same", None)
    assert all(torch.equal(tensor, dense[name]) for name, tensor in again.model.state_dict().items())

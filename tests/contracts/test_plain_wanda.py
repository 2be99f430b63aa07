"""Every family pruned as a computation prunes it that knows transformers' modules, and nothing of ours."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.blocks.layers import decoder_blocks
from harness.blocks.runner import BlockRunner, in_batches
from harness.evaluation.perplexity import perplexity_from
from harness.models.checkpoint import Checkpoint
from harness.models.loading import load_model
from harness.models.saving import save_model
from harness.patterns import Unstructured
from harness.progress import Silent
from harness.pruning.methods.wanda import Wanda
from tests.contexts import a_context
from tests.families import EVERY, plain_model

CPU = torch.device("cpu")


def test_twenty_families_are_tried() -> None:
    """Distinct ones by what transformers calls them."""
    assert len({make().model_type for make in EVERY.values()}) >= 20


@pytest.mark.parametrize("family", sorted(EVERY))
def test_wanda_prunes_what_it_prunes_on_plain_transformers(
    family: str, tmp_path: Path, random_tokens: Callable[..., Tensor]
) -> None:
    """Every zero and weight, and perplexity to 1e-5; the folder that is saved reloads as that."""
    tokens = random_tokens(8)
    plain = plain_model(family, _experts_implementation="eager", rescale_every=0)
    plain_model(family).save_pretrained(tmp_path / "dense")
    ours = load_model(Checkpoint("local", family, str(tmp_path / "dense"), None, False), None)
    Wanda().run(a_context(ours.model, tokens, Unstructured(0.5), batch_tokens=2 * tokens.shape[1]))
    plain_wanda(plain, tokens)
    save_model(ours, tmp_path / "pruned")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").state_dict()
    for name, expected in plain.state_dict().items():
        assert torch.equal(saved[name] == 0, expected == 0), name
        assert torch.equal(saved[name], expected), name
    windows = random_tokens(6, seed=1)
    measured = perplexity_from(BlockRunner(ours.model, in_batches(windows, 24), ours.offloading, CPU), Silent())
    with torch.no_grad():
        loss = plain(input_ids=windows, labels=windows, use_cache=False).loss
    assert measured.value == pytest.approx(float(loss.exp()), rel=1e-5)


def plain_wanda(model: PreTrainedModel, tokens_BL: Tensor) -> None:
    """Wanda at 50 % a row, written for transformers' own modules: block after block, each with its pruned past.

    What a block does not call stays, and a weight that two blocks share is pruned in the first.
    """
    pruned = set()
    for block in decoder_blocks(model)[1]:
        inputs: dict[tuple[nn.Module, str], list[Tensor]] = {}
        mixtures = [
            module for module in block.modules() if hasattr(module, "down_proj") and hasattr(module, "has_gate")
        ]
        linears = [module for module in block.modules() if isinstance(module, nn.Linear | Conv1D)]

        def of_linear(module: nn.Module, args: tuple[Tensor, ...], inputs: dict = inputs) -> None:
            inputs.setdefault((module, ""), []).append(args[0].flatten(0, -2))

        def of_mixture(module: nn.Module, args: tuple[Tensor, ...], inputs: dict = inputs) -> None:
            for expert in range(4):
                x_TI = args[0][(args[1] == expert).any(dim=1)]
                up = module.gate_up_proj[expert] if module.is_transposed else module.gate_up_proj[expert].T
                inner = x_TI @ up + (module.gate_up_proj_bias[expert] if module.has_bias else 0)
                inputs.setdefault((module, f"gate_up_proj {expert}"), []).append(x_TI)
                inputs.setdefault((module, f"down_proj {expert}"), []).append(module._apply_gate(inner))

        def of_llama_4(module: nn.Module, args: tuple[Tensor], inputs: dict = inputs) -> None:
            module.is_transposed = True
            for expert, x_TI in enumerate(args[0].view(4, -1, args[0].shape[-1])):
                gate, up = (x_TI @ module.gate_up_proj[expert]).chunk(2, dim=-1)
                inputs.setdefault((module, f"gate_up_proj {expert}"), []).append(x_TI)
                inputs.setdefault((module, f"down_proj {expert}"), []).append(up * module.act_fn(gate))

        def of_jetmoe(module: nn.Module, args: tuple[Tensor, list[int]], inputs: dict = inputs) -> None:
            module.is_transposed = False
            for expert, x_TI in enumerate(args[0].split(args[1])):
                inputs.setdefault((module, f"weight {expert}"), []).append(x_TI)

        watched = {"Llama4TextExperts": of_llama_4, "JetMoeParallelExperts": of_jetmoe}
        handles = [module.register_forward_pre_hook(of_linear) for module in linears]
        handles += [module.register_forward_pre_hook(of_mixture) for module in mixtures]
        handles += [
            module.register_forward_pre_hook(watched[type(module).__name__])
            for module in block.modules()
            if type(module).__name__ in watched
        ]
        with torch.no_grad():
            model(input_ids=tokens_BL, use_cache=False)
        for handle in handles:
            handle.remove()
        for (module, name), seen in inputs.items():
            weight = module.weight.data if not name else getattr(module, name.split()[0]).data[int(name.split()[1])]
            if weight.data_ptr() in pruned:
                continue
            pruned.add(weight.data_ptr())
            weight_OI = weight.T if isinstance(module, Conv1D) or (name and module.is_transposed) else weight
            score_OI = weight_OI.abs() * torch.cat(seen).square().sum(dim=0).sqrt()
            lowest = score_OI.argsort(dim=1, stable=True)[:, : weight_OI.shape[1] // 2]
            weight_OI.scatter_(1, lowest, 0.0)

"""Training under masks, of the weights and of adapters: zeros stay, nothing but layers changes, and the loss falls."""

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from harness.blocks.changes import ModelChange
from harness.blocks.layers import prunable_layers, weight_view
from harness.data.corpora.digits import digit_rows
from harness.errors import UserError
from harness.job import Choice
from harness.models import training, training_state
from harness.models.digits import DigitsCnn, DigitsConfig
from harness.models.kinds.causal_lm import next_token_loss
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.progress import Silent
from harness.pruning.context import PruningOutcome
from harness.pruning.methods.base import METHODS, LayerwiseMethod
from harness.record import LayerReport
from harness.recovery.base import RECOVERIES, MaskedTraining, RecoveryContext
from harness.recovery.lora import Lora
from harness.recovery.masked_finetune import MaskedFinetune
from harness.recovery.sparsity import recomputed_sparsity
from tests.contexts import a_context
from tests.families import tiny_model
from tests.permutations import layers_that_are_not

CPU = torch.device("cpu")
TWO_OF_FOUR = SemiStructured(2, 4)


def pruned(family: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A tiny model with every second column of every layer zero."""
    model = tiny_model(family)
    for linear in prunable_layers(model).values():
        weight_view(linear)[:, ::2] = 0.0
    return model.to(dtype)


@pytest.mark.parametrize("recovery", [MaskedFinetune, Lora])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
def test_zeros_stay_and_the_loss_falls(
    family: str, dtype: torch.dtype, recovery: type[MaskedTraining], random_tokens: Callable[..., Tensor]
) -> None:
    """Exactly the weights that were zero are zero; all other parameters have the bits that they had; the model is in
    its own type and in evaluation mode.
    """
    model, rows_BL = pruned(family, dtype), random_tokens(4)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trained = {f"{name}.weight" for name in prunable_layers(model)}
    with torch.no_grad():
        loss = float(next_token_loss(model, rows_BL))
    modules = {name: type(module) for name, module in model.named_modules()}
    flags = [weight.requires_grad for weight in model.parameters()]
    recovered = recovery(steps=20, batch=4, learning_rate=1e-2).recover(
        RecoveryContext(model, rows_BL, 0, CPU, Silent(), 48)
    )
    assert re.search(r"under its masks from a loss of \d\S* to \d", recovered.note)
    assert {name: type(module) for name, module in model.named_modules()} == modules
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert recovered.change.names == trained
    with torch.no_grad():
        assert float(next_token_loss(model, rows_BL)) < 0.9 * loss
    for name, weight in model.named_parameters():
        assert weight.dtype == dtype
        if name in trained:
            assert torch.equal(weight == 0, before[name] == 0)
            assert not torch.equal(weight, before[name])
        else:
            assert torch.equal(weight, before[name])
    assert not model.training


def pruned_by(
    method: Choice, network: str, pattern: Pattern, random_tokens: Callable[..., Tensor]
) -> tuple[PreTrainedModel, Tensor, PruningOutcome]:
    """A tiny network that a method of the harness has pruned, with the rows that it saw."""
    rows_BL = random_tokens(4)
    model: PreTrainedModel
    if network == "digits":
        torch.manual_seed(0)
        model = DigitsCnn(DigitsConfig(widths=(4, 8), inner_widths=(8, 12), hidden_width=12)).eval()
        rows_BL = torch.from_numpy(digit_rows("calibration")[:24].copy())
    else:
        model = tiny_model(network)
    of_layers = METHODS.build(method)
    assert isinstance(of_layers, LayerwiseMethod)
    return model, rows_BL, of_layers.run(a_context(model, rows_BL, pattern, batch_tokens=48))


@pytest.mark.parametrize("recovery", [MaskedFinetune, Lora])
@pytest.mark.parametrize("pattern", [TWO_OF_FOUR, Unstructured(0.5)], ids=lambda pattern: pattern.label)
@pytest.mark.parametrize("network", ["llama-gqa", "gpt2", "mixtral", "digits"])
def test_the_masks_of_a_pruned_network_stay(
    network: str, pattern: Pattern, recovery: type[MaskedTraining], random_tokens: Callable[..., Tensor]
) -> None:
    """Every zero is where it was and no other weight is zero, whatever form a layer stores its weight in; the kept
    weights of every layer have changed, and nothing else in the model has: no norm, no statistics, no stacked expert.
    """
    model, rows_BL, _ = pruned_by(Choice("wanda"), network, pattern, random_tokens)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    linears = prunable_layers(model)
    pruned_OI = {name: weight_view(linear).clone() for name, linear in linears.items()}
    for name, weight_OI in pruned_OI.items():
        kept_OI = weight_OI != 0
        if isinstance(pattern, SemiStructured):
            assert kept_OI.reshape(-1, 4).sum(dim=1).unique().tolist() == [2], name
        else:
            assert len(kept_OI.sum(dim=0).unique()) > 1, name
    recovery(steps=6, batch=8, learning_rate=1e-3).recover(RecoveryContext(model, rows_BL, 0, CPU, Silent(), 48))
    for name, linear in linears.items():
        kept_OI = pruned_OI[name] != 0
        assert torch.equal(weight_view(linear) != 0, kept_OI), name
        changed_K = (weight_view(linear) != pruned_OI[name])[kept_OI]
        # A ReLU that no image opens has no gradient: of a network of random weights those are some.
        assert float(changed_K.float().mean()) > (0.3 if network == "digits" else 0.9), name
    for name, value in model.state_dict().items():
        if name.removesuffix(".weight") not in linears:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
@torch.no_grad()
def test_a_permuted_pattern_stays_in_its_order(
    family: str, random_tokens: Callable[..., Tensor], tmp_path: Path
) -> None:
    """Tuned after RIA's permuted 2:4, every layer is 2:4 in the order that it was pruned in; those whose order is only
    recorded are it in no other.  Plain transformers loads the saved model, which says the same to the bit.
    """
    method = Choice("ria", {"permutation": "assignment"})
    model, rows_BL, outcome = pruned_by(method, family, TWO_OF_FOUR, random_tokens)
    pruned_OI = {name: weight_view(linear).clone() for name, linear in prunable_layers(model).items()}
    MaskedFinetune(steps=4, batch=4, learning_rate=1e-3).recover(RecoveryContext(model, rows_BL, 0, CPU, Silent(), 48))
    layers = recomputed_sparsity(outcome.layers, model, outcome.change)
    as_they_lie = [replace(layer, details={}) for layer in layers]
    how = {layer.name: layer.details.get("permuted") for layer in layers}
    assert set(how.values()) == {"absorbed", "virtual"}
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for each in (model, loaded):
        assert layers_that_are_not(TWO_OF_FOUR, layers, each) == []
        assert layers_that_are_not(TWO_OF_FOUR, as_they_lie, each) == [name for name in how if how[name] == "virtual"]
        for name, linear in prunable_layers(each).items():
            assert torch.equal(weight_view(linear) == 0, pruned_OI[name] == 0), name
            assert not torch.equal(weight_view(linear), pruned_OI[name]), name
    ours, theirs = (each(input_ids=random_tokens(2, seed=3)).logits for each in (model, loaded))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("recovery", [MaskedFinetune, Lora])
def test_equal_seeds_give_equal_weights(recovery: type[MaskedTraining], random_tokens: Callable[..., Tensor]) -> None:
    """Two runs agree to the bit; another seed draws other batches."""

    def outcome(seed: int) -> Tensor:
        model = pruned("llama")
        recovery(steps=3, batch=2, learning_rate=1e-2).recover(
            RecoveryContext(model, random_tokens(6), seed, CPU, Silent(), 48)
        )
        return weight_view(next(iter(prunable_layers(model).values()))).clone()

    assert torch.equal(outcome(0), outcome(0))
    assert not torch.equal(outcome(0), outcome(1))


def test_a_budget_ends_training_before_a_step_that_would_see_more(random_tokens: Callable[..., Tensor]) -> None:
    """It goes the steps that it pays for, to the bit as if there were no others, and says what it used of it."""
    rows_BL = random_tokens(6)  # of 12 tokens: a step on 2 of them sees 24
    assert MaskedFinetune(steps=5, batch=2).training(6, 12) == (24, 120)
    assert MaskedFinetune(steps=5, batch=64).training(6, 12) == (72, 360)

    def outcome(steps: int, tokens: int | None) -> tuple[Tensor, str]:
        model = pruned("llama")
        context = RecoveryContext(model, rows_BL, 0, CPU, Silent(), 48, tokens=tokens)
        note = MaskedFinetune(steps, batch=2, learning_rate=1e-2).recover(context).note
        return weight_view(next(iter(prunable_layers(model).values()))).clone(), note

    cut_OI, note = outcome(5, 71)
    assert torch.equal(cut_OI, outcome(2, None)[0])
    assert note.startswith("fine-tuned on 48 of at most 71 tokens under its masks")
    assert not torch.equal(cut_OI, outcome(5, 72)[0])
    assert torch.equal(outcome(5, 10**6)[0], outcome(5, None)[0])


def test_zeros_are_counted_again() -> None:
    """Reports have the sparsities of the weights as they are now; zeros that are gone are our bug, and fail."""
    model = pruned("llama")
    shapes = {name: tuple(weight_view(linear).shape) for name, linear in prunable_layers(model).items()}
    reports = [LayerReport(name, (shape[0], shape[1]), 0.5, 0.25, None, 0) for name, shape in shapes.items()]
    assert {report.achieved_sparsity for report in recomputed_sparsity(reports, model, ModelChange())} == {0.5}
    weight_view(next(iter(prunable_layers(model).values()))).fill_(1.0)
    with pytest.raises(AssertionError, match="brought weights"):
        recomputed_sparsity(reports, model, ModelChange())


def test_an_unknown_recovery_names_the_known_ones() -> None:
    """And `none` is nothing to do."""
    assert not RECOVERIES.build(Choice("none")).changes_model
    with pytest.raises(UserError, match=r"unknown recovery 'lore'.*distill, lora, masked_finetune, none"):
        RECOVERIES.build(Choice("lore"))


class Killer(Silent):
    """Counts steps, and at one of them kills the process that it is in."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.steps = at, 0

    def advance(self, parts: int = 1) -> None:
        self.steps += parts
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("recovery", [MaskedFinetune, Lora])
def test_a_training_that_was_killed_goes_on_and_ends_in_the_same_weights(
    recovery: type[MaskedTraining],
    random_tokens: Callable[..., Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after seven of twelve steps, which are not computed again; a state of another training is not taken up."""
    monkeypatch.setattr(training_state, "EVERY_S", 0.0)
    computed: list[int] = []

    def recovered(kept: Path | None, at: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        def loss(model: torch.nn.Module, batch_BL: Tensor) -> Tensor:
            computed.append(1)
            return next_token_loss(model, batch_BL)

        monkeypatch.setattr(training, "objective_of", lambda _: loss)
        model, rows_BL = pruned("llama-gqa"), random_tokens(6)
        context = RecoveryContext(model, rows_BL, seed, CPU, Killer(at), 48, kept=kept)
        recovery(steps=12, batch=2, learning_rate=1e-2).recover(context)
        return {name: weight.detach().clone() for name, weight in model.named_parameters()}

    kept = tmp_path / "state"
    process = get_context("fork").Process(target=recovered, args=(kept, 7))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert kept.is_file()
    expected, other = recovered(None), recovered(None, seed=1)
    for seed, weights, steps in ((0, expected, 12 - 7), (1, other, 12)):
        computed.clear()
        found = recovered(kept, seed=seed)
        assert len(computed) == steps
        assert all(torch.equal(found[name], weight) for name, weight in weights.items())

"""What every method that prunes a whole model keeps to, generated over the registry as for layerwise methods."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.changes import ModelChange
from harness.blocks.layers import decoder_blocks, prunable_layers, prunable_shapes, weight_view
from harness.job import Choice
from harness.models.objective import in_float32
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.progress import Clock
from harness.pruning.context import GlobalOutcome, PruningContext, PruningOutcome
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.whole_model import GlobalMethod
from harness.record import JsonValue
from tests.contexts import a_context
from tests.families import tiny_model

PATTERNS: tuple[Pattern, ...] = (Unstructured(0.5), Unstructured(0.7), SemiStructured(2, 4), SemiStructured(5, 8))
QUICK = {"shots": 2, "rounds": 2, "steps": 2, "batch": 2}
"""Small values of parameters that decide how long a method works, by their names."""
QUICK_TICKET: dict[str, JsonValue] = {"rounds": 2, "steps": 2, "batch": 2}
CPU = torch.device("cpu")


def choices_of(name: str) -> list[Choice]:
    """A method with its defaults, and once with every value of every parameter that is a choice; always quick."""
    method = METHODS.all()[name]
    hints = get_type_hints(method)
    parameters = fields(method)  # type: ignore[arg-type]  # the contract of all methods tests that it is a dataclass
    quick = {parameter.name: QUICK[parameter.name] for parameter in parameters if parameter.name in QUICK}
    choices = [Choice(name, quick)]
    for parameter in parameters:
        if get_origin(hints[parameter.name]) is Literal:
            values = [value for value in get_args(hints[parameter.name]) if value != parameter.default]
            choices += [Choice(name, quick | {parameter.name: value}) for value in values]
    return choices


def modelwise(choice: Choice) -> GlobalMethod:
    """The method of a case."""
    method = METHODS.build(choice)
    assert isinstance(method, GlobalMethod)
    return method


CHOICES = [
    choice for name, method in METHODS.all().items() if issubclass(method, GlobalMethod) for choice in choices_of(name)
]


def label(case: object) -> str:
    """The name of a parameter in a test's id."""
    if isinstance(case, Choice):
        return "-".join([case.name, *(str(value) for key, value in case.params.items() if key not in QUICK)])
    return case.slug if isinstance(case, Unstructured | SemiStructured) else str(case)


every_choice = pytest.mark.parametrize("choice", CHOICES, ids=label)
every_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=label)


def run(choice: Choice, pattern: Pattern, model: PreTrainedModel, rows_BL: Tensor, **fields: object) -> PruningOutcome:
    """Prune on the CPU, two sequences at a time."""
    return modelwise(choice).run(a_context(model, rows_BL, pattern, batch_tokens=2 * rows_BL.shape[1], **fields))


def state(model: PreTrainedModel) -> dict[str, Tensor]:
    """All parameters and buffers, as they are now."""
    return {name: value.clone() for name, value in model.state_dict().items()}


@every_pattern
@every_choice
def test_counts_over_the_model_are_exact(
    choice: Choice, pattern: Pattern, random_tokens: Callable[..., Tensor]
) -> None:
    """N:M in every group of every layer; unstructured `int(size * sparsity)` zeros of the model, or of every layer for
    a method that was told to rank within layers.  Reports say what the weights are.
    """
    model, clock = tiny_model("llama-gqa"), Clock()
    outcome = run(choice, pattern, model, random_tokens(4, 8), clock=clock)
    weights = {name: weight_view(linear) for name, linear in prunable_layers(model).items()}
    zeros = {name: int((weight_OI == 0).sum()) for name, weight_OI in weights.items()}
    if isinstance(pattern, SemiStructured):
        for weight_OI in weights.values():
            assert (weight_OI != 0).reshape(-1, pattern.group).sum(dim=1).unique().tolist() == [pattern.keep]
    elif getattr(modelwise(choice), "granularity", "model") == "layer":
        assert zeros == {name: int(weight_OI.numel() * pattern.sparsity) for name, weight_OI in weights.items()}
    else:
        total = sum(weight_OI.numel() for weight_OI in weights.values())
        assert sum(zeros.values()) == int(total * pattern.sparsity)
    assert [(report.name, report.shape) for report in outcome.layers] == list(prunable_shapes(model).items())
    for report in outcome.layers:
        assert report.achieved_sparsity == pytest.approx(zeros[report.name] / weights[report.name].numel(), abs=1e-12)
        assert report.requested_sparsity == pattern.sparsity
        assert report.error_tokens == 32
        assert report.relative_output_error is not None
        assert 0.0 < report.relative_output_error < 10.0
        json.dumps(dict(report.details), allow_nan=False)
    assert min(clock.seconds["calibrate"], clock.seconds["prune"]) > 0.0


@every_choice
def test_two_runs_agree_to_the_bit(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """Equal inputs, equal bits, whatever the global random state; which is left as it was."""
    models = [tiny_model("opt"), tiny_model("opt")]
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        run(choice, Unstructured(0.5), model, random_tokens(4, 8))
        assert torch.equal(torch.random.get_rng_state(), before)
    first, second = map(state, models)
    assert all(torch.equal(first[name], second[name]) for name in first)


@every_choice
def test_all_else_stays_and_the_model_is_as_it_was_found(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """Embeddings, head, norms and biases to the bit, unless the outcome names them as changed; every type and
    flag, evaluation mode, no gradient and no hook is left.
    """
    model = tiny_model("opt").bfloat16()
    before = state(model)
    flags = [weight.requires_grad for weight in model.parameters()]
    outcome = run(choice, Unstructured(0.5), model, random_tokens(4, 8))
    after = model.state_dict()
    linears = {f"{name}.weight" for name in prunable_layers(model)}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert linears <= changed
    assert changed <= outcome.change.names
    assert outcome.change.keeps_shapes
    assert {name: (value.dtype, value.shape) for name, value in after.items()} == {
        name: (value.dtype, value.shape) for name, value in before.items()
    }
    assert all(value.isfinite().all() for value in after.values())
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert all(weight.grad is None for weight in model.parameters())
    assert not model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert any("float32" in note for note in outcome.notes)


@every_choice
def test_overflow_fails_loudly(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """A model whose loss is no number cannot be pruned by its loss; nothing is made up."""
    if choice.params.get("start") == "random":
        pytest.skip("it starts from other weights than the broken ones")
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.inf)
    with pytest.raises(ArithmeticError):
        run(choice, Unstructured(0.5), model, random_tokens(4, 8))


@every_choice
def test_it_needs_the_whole_model_and_decides_itself(choice: Choice) -> None:
    """What the configuration reads to refuse offloading and allocations before anything runs."""
    method = modelwise(choice)
    assert method.needs_whole_model
    assert method.decides_layer_sparsities


def test_new_weights_are_a_change_of_more_than_the_linears(random_tokens: Callable[..., Tensor]) -> None:
    """The next job of the process must not start from random embeddings."""

    def changed(**params: JsonValue) -> set[str]:
        model = tiny_model("llama")
        outcome = run(Choice("lottery", QUICK_TICKET | params), Unstructured(0.5), model, random_tokens(4, 8))
        return set(outcome.change.names) - {f"{name}.weight" for name in prunable_layers(model)}

    for params in (
        {"train": "all"},
        {"train": "linears", "start": "random"},
        {"train": "linears", "control": "random_weights"},
    ):
        assert "model.embed_tokens.weight" in changed(**params)
    assert not changed(train="linears")


def test_half_precision_statistics_are_trained_in_float32() -> None:
    """A batch norm's running mean has the type of its input, and its own type again afterwards."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).bfloat16()
    with in_float32(model):
        assert model(torch.ones(2, 1, 4, 4)).dtype == torch.float32
        assert {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()} == {torch.float32}
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.bfloat16}


@dataclass(frozen=True, slots=True)
class WithoutFirstBlock(GlobalMethod):
    """Takes the first block away, halves a layer of the second, and says so."""

    def prune_model(self, context: PruningContext) -> GlobalOutcome:
        _, blocks = decoder_blocks(context.model)
        del blocks[0]
        linear: Any = blocks[0].get_submodule("mlp.up_proj")
        linear.weight = torch.nn.Parameter(linear.weight[::2].clone())
        cut = ModelChange({"model.layers.1.mlp.up_proj": ((48, 32), (24, 32))})
        gone = ModelChange(gone=frozenset({"model.layers.0"}), moved={"model.layers.1": "model.layers.0"})
        return GlobalOutcome(change=cut.then(gone))


def test_a_global_method_may_cut(random_tokens: Callable[..., Tensor]) -> None:
    """Reports are of the dense model's layers: what is gone, what shrank, and the errors of what can be compared."""
    model = tiny_model("llama")
    shapes = prunable_shapes(model)
    outcome = WithoutFirstBlock().run(a_context(model, random_tokens(4, 8), Unstructured(0.5)))
    reports = {report.name: report for report in outcome.layers}
    assert {name: report.shape for name, report in reports.items()} == shapes
    for name, report in reports.items():
        is_gone, is_cut = name.startswith("model.layers.0."), name == "model.layers.1.mlp.up_proj"
        assert report.achieved_sparsity == (1.0 if is_gone else 0.5 if is_cut else 0.0)
        assert report.relative_output_error == (None if is_gone or is_cut else 0.0)
    assert outcome.change.layers["model.layers.1.mlp.up_proj"] == ((48, 32), (24, 32))
    assert outcome.change.gone == {"model.layers.0"}
    assert not outcome.change.keeps_shapes

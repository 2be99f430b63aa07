"""What every registered allocation keeps to, generated over the registry: a new file in `allocations/` is tested
unasked.
"""

import json
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.layers import decoder_blocks, prunable_linears, prunable_shapes, weight_view
from harness.blocks.offload import InMemory
from harness.blocks.trial import Edited, Edits
from harness.cli.main import main
from harness.errors import UserError
from harness.job import Choice
from harness.patterns import Channels, Pattern, SemiStructured, Unstructured
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM, Allocation
from harness.pruning.context import PruningOutcome
from harness.pruning.dense_analysis import DenseAnalysis
from harness.pruning.layer_reports import achieved_sparsity
from harness.pruning.layerwise import check_patterns
from harness.pruning.methods.base import METHODS, LayerwiseMethod
from harness.pruning.sequential import ObservedBlock
from tests.contexts import a_context, prune_to
from tests.contracts.test_methods import check_zeros, choices_of, label, layerwise
from tests.families import tiny_model

CPU = torch.device("cpu")
PATTERNS: tuple[Pattern, ...] = (Unstructured(0.7), SemiStructured(2, 4), SemiStructured(4, 8))
PRUNED_BY = ("magnitude", "wanda", "sparsegpt")
WIDE = {"num_hidden_layers": 2, "hidden_size": 160, "intermediate_size": 320, "head_dim": 40}
"""So that int(in_features * 0.7) is exact and a whole number a row comes within 0.1 % of any total."""
NARROW = {"num_hidden_layers": 2, "hidden_size": 76, "intermediate_size": 74, "head_dim": 18}
"""Widths of 76, 74 and 72, of which 30 % and 80 % are no whole numbers.  A block of 38,760 weights is as small as may
be: one more zero in half of the most rows that a layer has, 38, is 0.098 % of it."""
FRACTIONS = (0.3, 0.8)
LEARNS_SOON: dict[str, dict[str, float]] = {"besa": {"epochs": 5, "d_coef": 50.0}}
"""Parameters with which two short sequences teach an allocation something."""
AS_RANKED = frozenset({"solver"})
"""Choices that make no difference to how weights are ranked."""

every_allocation = pytest.mark.parametrize("name", ALLOCATIONS.all())


def accepted() -> list[tuple[str, Pattern]]:
    """Every allocation with every pattern that it takes."""
    return [
        (name, pattern)
        for name in ALLOCATIONS.all()
        for pattern in PATTERNS
        if ALLOCATIONS.build(Choice(name)).refuses(pattern) is None
    ]


every_case = pytest.mark.parametrize(
    ("name", "pattern"), accepted(), ids=lambda value: value if isinstance(value, str) else value.slug
)


def rankings() -> list[Choice]:
    """Every layerwise method that leaves sparsities to an allocation, with each way of ranking that it has."""
    methods = [(choice, METHODS.build(choice)) for name in METHODS.all() for choice in choices_of(name)]
    return [
        choice
        for choice, method in methods
        if isinstance(method, LayerwiseMethod)
        and not method.decides_layer_sparsities
        and method.refuses(Unstructured(0.5)) is None
        and not AS_RANKED & set(choice.params)
    ]


every_ranking = pytest.mark.parametrize("choice", rankings(), ids=label)


def pairs() -> list[Any]:
    """Every way of ranking with one allocation, and every other allocation with a method of each kind of ranking: that
    a layer's own count is met is a contract of methods, and what is asked of layers is the allocation's affair.
    """
    spreading = [name for name, pattern in accepted() if pattern == PATTERNS[0] and name != UNIFORM]
    of_each_kind = [Choice(name) for name in ("magnitude", "wanda", "sparsegpt", "obc")]
    assert all(choice in rankings() for choice in of_each_kind)
    return [
        pytest.param(name, choice, id=f"{name}-{label(choice)}")
        for name in spreading
        for choice in (rankings() if name == "owl" else of_each_kind)
    ]


def a_model(widths: Mapping[str, int] = WIDE) -> PreTrainedModel:
    """A model whose layers differ: weights of the second block have heavier tails."""
    model = tiny_model("llama", **widths)
    for linear in prunable_linears(decoder_blocks(model)[1][1]).values():
        linear.weight.data.pow_(3).mul_(30)
    return model


def spread(
    model: torch.nn.Module,
    method: LayerwiseMethod,
    allocation: Allocation,
    pattern: Pattern,
    tokens_BL: Tensor,
    kept: dict[Hashable, Any] | None = None,
) -> dict[str, Pattern]:
    """What the allocation says before the walk; the held-out loss is a stand-in that every lost weight raises.

    Args:
        kept: of earlier calls with the same model and tokens, and other sparsities.
    """
    kept = {} if kept is None else kept

    def keep(key: Hashable, find: Callable[[], Any]) -> Any:
        if key not in kept:
            kept[key] = find()
        return kept[key]

    names = list(prunable_shapes(model))
    dense = sum(float(weight_view(model.get_submodule(name)).abs().sum()) for name in names)  # type: ignore[arg-type]

    def loss(edits: Edits) -> float:
        left, edited = 0.0, Edited(InMemory(model), edits)
        for index in range(len(decoder_blocks(model)[1])):
            with edited.block(index, CPU) as block:
                left += sum(float(weight_view(linear).abs().sum()) for linear in prunable_linears(block).values())
        return 1.0 - left / dense

    context = a_context(model, tokens_BL, pattern, batch_tokens=1000, held_out=lambda num_sequences: loss, cache=keep)
    return allocation.spread(DenseAnalysis(context, method))


def prune(name: str, method_name: str, pattern: Pattern, tokens_BL: Tensor) -> tuple[PruningOutcome, list[Tensor]]:
    """Spread, then walk; what the walk reports and the weights that it leaves."""
    model, method, allocation = a_model(), METHODS.build(Choice(method_name)), ALLOCATIONS.build(Choice(name))
    assert isinstance(method, LayerwiseMethod)
    patterns = spread(model, method, allocation, pattern, tokens_BL)
    outcome = prune_to(patterns, method, a_context(model, tokens_BL, pattern, batch_tokens=1000, allocation=allocation))
    return outcome, [weight.detach() for weight in model.parameters()]


@every_case
@pytest.mark.parametrize("method", PRUNED_BY)
def test_the_total_is_the_request(
    name: str, pattern: Pattern, method: str, random_tokens: Callable[..., Tensor]
) -> None:
    """Counted zeros over counted weights, within 0.1 % of all weights, with every way of ranking weights."""
    outcome, _ = prune(name, method, pattern, random_tokens(4))
    assert achieved_sparsity(outcome.layers) == pytest.approx(pattern.sparsity, abs=1e-3)


@pytest.mark.parametrize(("name", "choice"), pairs())
def test_the_total_is_the_request_whatever_the_widths_and_the_method(
    name: str, choice: Choice, random_tokens: Callable[..., Tensor]
) -> None:
    """Where no row can have the requested fraction of zeros, layers get whole numbers a row that make up the total
    within 0.1 %, and every way of ranking weights makes exactly these; layers differ, since an allocation spreads.
    """
    method, allocation = layerwise(choice), ALLOCATIONS.build(Choice(name, LEARNS_SOON.get(name, {})))
    kept: dict[Hashable, Any] = {}
    for sparsity in FRACTIONS:
        model = a_model(NARROW)
        patterns = spread(model, method, allocation, Unstructured(sparsity), random_tokens(2), kept)
        context = a_context(model, random_tokens(2), Unstructured(sparsity), batch_tokens=1000, allocation=allocation)
        layers = prune_to(patterns, method, context).layers
        counts = {report.name: round(report.requested_sparsity * report.shape[1]) for report in layers}
        for report in layers:
            zeros_OI = weight_view(model.get_submodule(report.name)) == 0  # type: ignore[arg-type]
            check_zeros(method, zeros_OI, Unstructured.of_count(counts[report.name], report.shape[1]))
            assert int(zeros_OI.sum()) == report.shape[0] * counts[report.name]
        assert achieved_sparsity(layers) == pytest.approx(sparsity, abs=1e-3)
        shares = [counts[report.name] / report.shape[1] for report in layers]
        assert max(shares) - min(shares) > 0.02, "this is more than rounding, which is 1 / 72 at most"


@every_ranking
def test_uniform_rounds_every_row_down(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """As published: a method that ranks within rows removes `int(in_features * sparsity)` of each, which may be less
    than was asked for by almost one weight a row; one that ranks within matrices, by less than one weight each.
    """
    method = layerwise(choice)
    for sparsity in FRACTIONS:
        model = a_model(NARROW)
        patterns = spread(model, method, ALLOCATIONS.build(Choice(UNIFORM)), Unstructured(sparsity), random_tokens(2))
        assert set(patterns.values()) == {Unstructured(sparsity)}
        context = a_context(model, random_tokens(2), Unstructured(sparsity), batch_tokens=1000)
        layers = prune_to(patterns, method, context).layers
        for report in layers:
            rows, columns = report.shape
            zeros_OI = weight_view(model.get_submodule(report.name)) == 0  # type: ignore[arg-type]
            check_zeros(method, zeros_OI, Unstructured(sparsity))
            by_row = method.comparison_group == "row"
            floor = rows * int(columns * sparsity) if by_row else int(rows * columns * sparsity)
            assert int(zeros_OI.sum()) == floor
            assert (floor / (rows * columns) > sparsity - 1e-3) != by_row
        assert achieved_sparsity(layers) < sparsity


@every_case
def test_two_runs_agree_to_the_bit(name: str, pattern: Pattern, random_tokens: Callable[..., Tensor]) -> None:
    """Equal inputs, equal weights."""
    first, second = (prune(name, "wanda", pattern, random_tokens(4))[1] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@every_case
def test_spreading_leaves_the_model_as_it_is(name: str, pattern: Pattern, random_tokens: Callable[..., Tensor]) -> None:
    """Patterns for all prunable linears, in model order and such that layers can take them; no parameter, gradient or
    mode has changed.
    """
    model, before = a_model(), a_model()
    method = METHODS.build(Choice("wanda"))
    assert isinstance(method, LayerwiseMethod)
    patterns = spread(model, method, ALLOCATIONS.build(Choice(name)), pattern, random_tokens(4))
    assert list(patterns) == list(prunable_shapes(model))
    check_patterns(patterns, prunable_shapes(model))
    for after, old in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(after, old)
        assert after.grad is None
    assert not model.training


# ------------------------------------------------------------------------------------------ what an allocation is


@every_allocation
def test_an_allocation_is_a_frozen_dataclass_with_defaults(name: str) -> None:
    """Its state is its hyperparameters, each with a default; it cannot be changed, and equal ones are equal."""
    assert is_dataclass(ALLOCATIONS.all()[name])
    built = ALLOCATIONS.build(Choice(name))
    defaults = {field.name: getattr(built, field.name) for field in fields(built)}
    assert ALLOCATIONS.build(Choice(name, defaults)) == built
    assert hash(ALLOCATIONS.build(Choice(name, defaults))) == hash(built)
    json.dumps(defaults, allow_nan=False)
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        built.anything = 1  # type: ignore[attr-defined]
    for parameter in defaults:
        with pytest.raises(FrozenInstanceError):
            setattr(built, parameter, None)


@every_allocation
def test_an_allocation_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    """The file's first line is what `list allocations` shows; the class and each parameter are documented; one that
    spreads names its source.
    """
    allocation = ALLOCATIONS.all()[name]
    module = sys.modules[allocation.__module__]
    assert module.__doc__
    assert len(module.__doc__.strip().splitlines()[0]) > len(name) + 5
    assert allocation.__doc__
    assert not allocation.__doc__.startswith(f"{allocation.__name__}("), "dataclass wrote this docstring"
    for parameter in fields(allocation):
        assert f"{parameter.name}:" in allocation.__doc__
    if name != UNIFORM:
        assert "https://" in module.__doc__


@every_allocation
def test_patterns_that_it_does_not_spread_are_refused_with_a_reason(name: str) -> None:
    """`refuses` is None exactly for the kinds of pattern that it names."""
    allocation = ALLOCATIONS.build(Choice(name))
    for pattern in (*PATTERNS, Channels(0.3)):
        reason = allocation.refuses(pattern)
        assert (reason is None) == isinstance(pattern, allocation.patterns)
        assert reason is None or pattern.label in reason


@every_allocation
def test_parameters_are_checked(name: str) -> None:
    """An unknown name is answered with the known ones; no value is taken in silence for one of another type."""
    with pytest.raises(UserError, match=rf"unknown parameter of allocation {name} 'no_such'") as caught:
        ALLOCATIONS.build(Choice(name, {"no_such": 1}))
    for parameter in fields(ALLOCATIONS.all()[name]):
        assert parameter.name in str(caught.value)
        for wrong in ("no-such-value", None, True):
            with pytest.raises(UserError, match=f"allocation.{parameter.name}"):
                ALLOCATIONS.build(Choice(name, {parameter.name: wrong}))


def test_an_unknown_allocation_names_the_known_ones() -> None:
    """The error lists what there is."""
    with pytest.raises(UserError, match=r"unknown allocation 'owll'.*besa.*owl.*uniform"):
        ALLOCATIONS.build(Choice("owll"))


def test_the_allocations_of_this_version() -> None:
    """These are registered and no others; a new one is added here knowingly."""
    assert list(ALLOCATIONS.all()) == ["alphapruning", "besa", "owl", "sensitivity", "uniform"]


# --------------------------------------------------------------------------------------------- a new allocation


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the registry that is thrown away after the test, without a trace in the real one."""
    before = dict(ALLOCATIONS.all())
    monkeypatch.setattr(ALLOCATIONS, "_entries", ALLOCATIONS.all())
    yield
    monkeypatch.undo()
    assert ALLOCATIONS.all() == before


def add_first_block_dense() -> None:
    """Register an allocation that leaves the first block dense and takes twice as much from the second, which it
    learns only at the block's turn.
    """

    @ALLOCATIONS.register("first-dense")
    @dataclass(frozen=True, slots=True)
    class FirstDense(Allocation):
        """Spares the first block."""

        refines = True

        def refine(self, block: ObservedBlock, patterns: Mapping[str, Pattern], deficit: float) -> dict[str, Pattern]:
            factor = 0.0 if block.step.path.endswith(".0") else 2.0
            return {name: Unstructured(pattern.sparsity * factor) for name, pattern in patterns.items()}


@pytest.mark.usefixtures("fresh_registry")
def test_a_new_allocation_is_found_by_everything(
    capsys: pytest.CaptureFixture[str], random_tokens: Callable[..., Tensor]
) -> None:
    """Registering is all: contract cases, `list allocations`, `ALLOCATIONS.build` and the walk find it."""
    add_first_block_dense()
    assert [pattern for name, pattern in accepted() if name == "first-dense"] == list(PATTERNS[:1])
    outcome, _ = prune("first-dense", "wanda", Unstructured(0.4), random_tokens(4))
    half = len(outcome.layers) // 2
    assert {report.achieved_sparsity for report in outcome.layers[:half]} == {0.0}
    assert {report.achieved_sparsity for report in outcome.layers[half:]} == {0.8}
    with pytest.raises(SystemExit) as ended:
        main(["list", "allocations", "--json"])
    assert ended.value.code == 0
    assert "first-dense" in [row["name"] for row in json.loads(capsys.readouterr().out)]


@pytest.mark.usefixtures("fresh_registry")
def test_two_allocations_of_one_name_are_refused() -> None:
    """A name is taken once, by a plug-in, too."""
    with pytest.raises(UserError, match="two entries of the axis allocation are called 'owl'"):
        ALLOCATIONS.register("owl")(ALLOCATIONS.all()["uniform"])

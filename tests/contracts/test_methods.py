"""What every registered method keeps to, generated over the registry: a new file in `methods/` is tested unasked."""

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import Statistics
from harness.cli.main import main
from harness.errors import UserError
from harness.job import Choice
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.base import METHODS, LayerwiseMethod, MaskMethod, PrunedWeight, PruningMethod, ScoreMethod

PATTERNS: tuple[Pattern, ...] = (
    Unstructured(0.5),
    Unstructured(0.7),
    SemiStructured(2, 4),
    SemiStructured(4, 8),
    SemiStructured(1, 4),
    SemiStructured(5, 8),
)
OUT, IN = 12, 48
CPU = torch.device("cpu")


def choices_of(name: str) -> list[Choice]:
    """A method with its defaults, and once with every value of every parameter that is a choice."""
    method = METHODS.all()[name]
    hints = get_type_hints(method)
    choices = [Choice(name)]
    for parameter in fields(method):  # type: ignore[arg-type]  # a test below checks that it is a dataclass
        if get_origin(hints[parameter.name]) is Literal:
            values = [value for value in get_args(hints[parameter.name]) if value != parameter.default]
            choices += [Choice(name, {parameter.name: value}) for value in values]
    return choices


def cases() -> list[tuple[Choice, Pattern]]:
    """Every layerwise method with every pattern that it takes."""
    return [
        (choice, pattern)
        for name in METHODS.all()
        for choice in choices_of(name)
        for pattern in PATTERNS
        if isinstance(METHODS.build(choice), LayerwiseMethod) and METHODS.build(choice).refuses(pattern) is None
    ]


def label(case: object) -> str:
    """The name of a parameter in a test's id."""
    if isinstance(case, Choice):
        return "-".join([case.name, *map(str, case.params.values())])
    return case.slug if isinstance(case, Unstructured | SemiStructured) else str(case)


every_case = pytest.mark.parametrize(("choice", "pattern"), cases(), ids=label)
every_method = pytest.mark.parametrize("name", METHODS.all())


def a_layer(out_features: int = OUT, *, seed: int = 0) -> Tensor:
    """A weight without zeros and without ties."""
    return torch.randn(out_features, IN, generator=torch.Generator().manual_seed(seed))


def its_statistics(method: LayerwiseMethod) -> Statistics:
    """Statistics of three sequences of correlated inputs of uneven scale."""
    stream = torch.Generator().manual_seed(1)
    mixing = torch.randn(IN, IN, generator=stream) * torch.linspace(0.2, 3.0, IN)
    statistics = Statistics(kind(IN, CPU) for kind in method.needs)
    for _ in range(3):
        statistics.update(torch.randn(40, IN, generator=stream) @ mixing, 1)
    return statistics


def layerwise(choice: Choice) -> LayerwiseMethod:
    """The method of a case."""
    method = METHODS.build(choice)
    assert isinstance(method, LayerwiseMethod)
    return method


def pruned(choice: Choice, pattern: Pattern, weight_OI: Tensor) -> Tensor:
    """The new weight, as a layer would hold it."""
    method = layerwise(choice)
    return method.prune(weight_OI, its_statistics(method), pattern).weight_OI.to(weight_OI.dtype)


def as_grouped(outcome: PrunedWeight) -> Tensor:
    """The new weight with its columns in the order that N:M groups lie in."""
    return outcome.weight_OI if outcome.permutation_I is None else outcome.weight_OI[:, outcome.permutation_I]


# ------------------------------------------------------------------------------------------------- what is pruned


def check_zeros(method: LayerwiseMethod, zeros_OI: Tensor, pattern: Pattern) -> None:
    """Exactly as many zeros as asked for, in every group that is ranked by itself.

    Args:
        zeros_OI: where the new weight is zero, its columns in the order that N:M groups lie in.
    """
    if isinstance(pattern, SemiStructured):
        kept = (~zeros_OI).reshape(-1, pattern.group).sum(dim=1)
        assert kept.unique().tolist() == [pattern.keep]
    elif method.comparison_group == "row":
        assert zeros_OI.sum(dim=1).unique().tolist() == [int(zeros_OI.shape[1] * pattern.sparsity)]
    else:  # SparseGPT chooses one mask for so many columns at a time
        blocks = zeros_OI.split(getattr(method, "block_size", zeros_OI.shape[1]), dim=1)
        assert [int(block.sum()) for block in blocks] == [int(block.numel() * pattern.sparsity) for block in blocks]


def check_counts(choice: Choice, pattern: Pattern) -> None:
    """Exactly as many zeros as asked for in a layer of few columns."""
    method = layerwise(choice)
    check_zeros(method, as_grouped(method.prune(a_layer(), its_statistics(method), pattern)) == 0, pattern)


@every_case
def test_counts_are_exact(choice: Choice, pattern: Pattern) -> None:
    """N:M keeps N of every M; unstructured removes `int(size * sparsity)` of every comparison group."""
    check_counts(choice, pattern)


@every_case
def test_equal_weights_are_pruned_in_exact_counts_too(choice: Choice, pattern: Pattern) -> None:
    """A layer of nothing but ties gets the exact number of zeros: no `<= threshold`."""
    method = layerwise(choice)
    statistics = Statistics(kind(IN, CPU) for kind in method.needs)
    for token in torch.eye(IN):  # every feature is as strong as any other, and none is correlated
        statistics.update(token[None], 1)
    zeros_OI = as_grouped(method.prune(torch.ones(OUT, IN), statistics, pattern)) == 0
    if isinstance(pattern, SemiStructured):
        assert (~zeros_OI).reshape(-1, pattern.group).sum(dim=1).unique().tolist() == [pattern.keep]
    else:
        rounding = OUT  # less than one weight a comparison group, of which a row is the smallest
        assert OUT * IN * pattern.sparsity - rounding < int(zeros_OI.sum()) <= OUT * IN * pattern.sparsity + 1e-6


@every_case
def test_the_result_has_the_layers_shape_and_is_finite(choice: Choice, pattern: Pattern) -> None:
    """Float32 and half-precision layers come back in their shape, floating and finite."""
    method = layerwise(choice)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        outcome = method.prune(a_layer().to(dtype), its_statistics(method), pattern)
        assert isinstance(outcome, PrunedWeight)
        assert outcome.weight_OI.shape == (OUT, IN)
        assert outcome.weight_OI.is_floating_point()
        assert outcome.weight_OI.isfinite().all()
        json.dumps(dict(outcome.details), allow_nan=False)


@every_case
def test_mask_methods_keep_weights_as_they_are(choice: Choice, pattern: Pattern) -> None:
    """A method that only chooses a mask changes no weight that it keeps; one that reconstructs changes some."""
    weight_OI = a_layer()
    new_OI = pruned(choice, pattern, weight_OI)
    kept_OI = new_OI != 0
    same = torch.equal(new_OI[kept_OI], weight_OI[kept_OI])
    assert same == isinstance(layerwise(choice), MaskMethod)


@every_case
def test_two_runs_agree_to_the_bit(choice: Choice, pattern: Pattern) -> None:
    """Equal inputs, equal bits."""
    assert torch.equal(pruned(choice, pattern, a_layer()), pruned(choice, pattern, a_layer()))


@every_case
def test_inputs_are_left_as_they_are(choice: Choice, pattern: Pattern) -> None:
    """Neither the weight nor the statistics change: the other linears of the same input read them too."""
    method = layerwise(choice)
    weight_OI, statistics = a_layer(), its_statistics(method)
    weight_before, statistics_before = weight_OI.clone(), copy.deepcopy(statistics)
    outcome = method.prune(weight_OI, statistics, pattern)
    outcome.weight_OI.zero_()
    assert torch.equal(weight_OI, weight_before)
    for kind in method.needs:
        for attribute, value in vars(statistics[kind]).items():
            before = vars(statistics_before[kind])[attribute]
            assert torch.equal(value, before) if isinstance(value, Tensor) else value == before


@pytest.mark.parametrize(("choice", "pattern"), [case for case in cases() if layerwise(case[0]).permutes], ids=label)
def test_linears_of_one_input_share_a_permutation(choice: Choice, pattern: Pattern) -> None:
    """Their columns are one input's channels: N:M groups lie in one order in all of them, and counts are exact."""
    assert isinstance(pattern, SemiStructured), "unstructured patterns have no groups to order"
    method = layerwise(choice)
    weights = [a_layer(12, seed=1), a_layer(4, seed=2), a_layer(8, seed=3)]
    outcomes = method.prune_group(weights, its_statistics(method), [pattern, Unstructured(0.25), pattern])
    order_I = outcomes[0].permutation_I
    assert order_I is not None
    assert order_I.sort().values.tolist() == list(range(IN))
    assert outcomes[1].permutation_I is None
    for outcome in (outcomes[0], outcomes[2]):
        assert outcome.permutation_I is order_I
        kept = (as_grouped(outcome) != 0).reshape(-1, pattern.group).sum(dim=1)
        assert kept.unique().tolist() == [pattern.keep]


@pytest.mark.parametrize(
    ("choice", "pattern"), [case for case in cases() if not layerwise(case[0]).permutes], ids=label
)
def test_linears_of_one_input_are_pruned_as_if_alone(choice: Choice, pattern: Pattern) -> None:
    """`prune_group` is `prune` of each linear, whatever the patterns of the others."""
    method = layerwise(choice)
    statistics = its_statistics(method)
    weights = [a_layer(12, seed=1), a_layer(4, seed=2), a_layer(8, seed=3)]
    patterns = [pattern, Unstructured(0.25), pattern]
    together = method.prune_group(weights, statistics, patterns)
    assert len(together) == 3
    for weight_OI, wanted, outcome in zip(weights, patterns, together, strict=True):
        alone = method.prune(weight_OI, statistics, wanted)
        assert torch.equal(outcome.weight_OI == 0, alone.weight_OI == 0)
        torch.testing.assert_close(outcome.weight_OI, alone.weight_OI, rtol=1e-4, atol=1e-5)
        assert outcome.details == alone.details


@pytest.mark.parametrize(("choice", "pattern"), [case for case in cases() if layerwise(case[0]).needs], ids=label)
def test_statistics_that_overflowed_fail_loudly(choice: Choice, pattern: Pattern) -> None:
    """Infinite activations make scores that are no numbers: an error, never a quietly wrong mask."""
    method = layerwise(choice)
    statistics = its_statistics(method)
    x_TI = torch.ones(4, IN)
    x_TI[0, 5] = torch.inf
    statistics.update(x_TI, 1)
    weight_OI = a_layer()
    weight_OI[3, 5] = 0.0
    with pytest.raises(ArithmeticError):
        method.prune(weight_OI, statistics, pattern)


# ------------------------------------------------------------------------------------------ what a method is


@every_method
def test_a_method_is_a_frozen_dataclass_with_defaults(name: str) -> None:
    """Its state is its hyperparameters, each with a default; it cannot be changed, and equal ones are equal."""
    method = METHODS.all()[name]
    assert is_dataclass(method)
    built = METHODS.build(Choice(name))
    defaults = {field.name: getattr(built, field.name) for field in fields(built)}  # type: ignore[arg-type]
    assert METHODS.build(Choice(name, defaults)) == built
    assert hash(METHODS.build(Choice(name, defaults))) == hash(built)
    json.dumps(defaults, allow_nan=False)
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        built.anything = 1  # type: ignore[attr-defined]
    for parameter in defaults:
        with pytest.raises(FrozenInstanceError):
            setattr(built, parameter, None)


@every_method
def test_a_method_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    """The file's first line is what `list methods` shows; the class and each parameter are documented; a method that
    prunes names its paper.
    """
    method = METHODS.all()[name]
    module = sys.modules[method.__module__]
    assert module.__doc__
    assert len(module.__doc__.strip().splitlines()[0]) > len(name) + 5
    assert method.__doc__
    assert not method.__doc__.startswith(f"{method.__name__}("), "dataclass wrote this docstring"
    for parameter in fields(method):  # type: ignore[arg-type]
        assert f"{parameter.name}:" in method.__doc__
    if method.patterns:
        assert "https://" in module.__doc__


@every_method
def test_patterns_that_a_method_does_not_take_are_refused_with_a_reason(name: str) -> None:
    """`refuses` is None exactly for the kinds of pattern that the method names."""
    method = METHODS.build(Choice(name))
    for pattern in PATTERNS:
        reason = method.refuses(pattern)
        assert (reason is None) == isinstance(pattern, method.patterns)
        assert reason is None or pattern.label in reason


@every_method
def test_an_unknown_parameter_names_the_known_ones(name: str) -> None:
    """The error holds the wrong name and all right ones."""
    with pytest.raises(UserError, match=rf"unknown parameter of method {name} 'no_such'") as caught:
        METHODS.build(Choice(name, {"no_such": 1}))
    for parameter in fields(METHODS.all()[name]):  # type: ignore[arg-type]
        assert parameter.name in str(caught.value)


@every_method
def test_a_value_of_the_wrong_type_is_refused(name: str) -> None:
    """No value is taken in silence for another: text and null are no numbers, a truth value is no number."""
    for parameter in fields(METHODS.all()[name]):  # type: ignore[arg-type]
        for wrong in ("no-such-value", None, True):
            if type(wrong) is type(parameter.default) and not isinstance(wrong, str):
                continue
            with pytest.raises(UserError, match=parameter.name):
                METHODS.build(Choice(name, {parameter.name: wrong}))


def test_the_methods_of_this_version() -> None:
    """These are registered and no others; a new one is added here knowingly."""
    assert list(METHODS.all()) == [
        "adaprune",
        "channel-magnitude",
        "dense",
        "dsnot",
        "evopress-depth",
        "flap",
        "llm-pruner",
        "llm_surgeon",
        "lorap-ffn",
        "loraprune",
        "lottery",
        "magnitude",
        "minitron",
        "obc",
        "pruneme",
        "random",
        "ria",
        "shortened",
        "shortgpt",
        "sleb",
        "slimllm",
        "sparsegpt",
        "venum",
        "wanda",
        "wanda-sp",
        "wanda-sp-ls",
    ]


def test_an_unknown_method_names_the_known_ones() -> None:
    """The error lists what there is."""
    with pytest.raises(UserError, match=r"unknown method 'wandda'.*dense.*magnitude.*sparsegpt.*wanda"):
        METHODS.build(Choice("wandda"))


# ------------------------------------------------------------------------------------------ a new method


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the registry that is thrown away after the test, without a trace in the real one."""
    before = dict(METHODS.all())
    monkeypatch.setattr(METHODS, "_entries", METHODS.all())
    yield
    monkeypatch.undo()
    assert METHODS.all() == before


def add_last_columns(*, spare: int) -> type[PruningMethod]:
    """Register a method that keeps the right-most weights, `spare` more of them in every row than it should."""

    @METHODS.register("last-columns")
    @dataclass(frozen=True, slots=True)
    class LastColumns(ScoreMethod):
        """Keeps what is to the right."""

        variant: Literal["a", "b"] = "a"

        def score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
            return torch.arange(weight_OI.shape[1]).expand_as(weight_OI).float()

        def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
            new_OI = ScoreMethod.prune(self, weight_OI, stats, pattern).weight_OI
            new_OI[:, :spare] = weight_OI[:, :spare]
            return PrunedWeight(new_OI)

    return LastColumns


@pytest.mark.usefixtures("fresh_registry")
def test_a_new_method_is_found_by_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """Registering is all: contract cases (with each of its choices), `list methods` and `build_method` find it."""
    method = add_last_columns(spare=0)
    added = [case for case in cases() if case[0].name == "last-columns"]
    assert len(added) == 2 * len(PATTERNS)
    assert type(METHODS.build(Choice("last-columns"))) is method
    for choice, pattern in added:
        check_counts(choice, pattern)
    with pytest.raises(SystemExit) as ended:
        main(["list", "methods", "--json"])
    assert ended.value.code == 0
    assert "last-columns" in [row["name"] for row in json.loads(capsys.readouterr().out)]


@pytest.mark.usefixtures("fresh_registry")
def test_the_contract_catches_a_method_that_prunes_too_little() -> None:
    """The suite can fail: one weight too many kept in a row is found for every pattern."""
    add_last_columns(spare=1)
    added = [case for case in cases() if case[0].name == "last-columns"]
    assert added
    for choice, pattern in added:
        with pytest.raises(AssertionError):
            check_counts(choice, pattern)


@pytest.mark.usefixtures("fresh_registry")
def test_two_methods_of_one_name_are_our_bug() -> None:
    """A name is taken once."""
    with pytest.raises(UserError, match="two entries of the axis method are called 'wanda'"):
        METHODS.register("wanda")(METHODS.all()["magnitude"])

"""How layers' sparsities make up a total, what each allocation wants, and what a block is asked at its turn."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.blocks.layers import decoder_blocks, prunable_linears, prunable_shapes, weight_view
from harness.blocks.offload import InMemory
from harness.calibration.statistics import FeatureNorm
from harness.errors import UserError
from harness.evaluation.perplexity import TrialLoss, perplexity
from harness.job import Choice, Propagation
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.progress import Silent
from harness.pruning.allocations.base import ALLOCATIONS
from harness.pruning.allocations.besa import Besa
from harness.pruning.allocations.owl import Owl, block_sparsities
from harness.pruning.context import PruningOutcome
from harness.pruning.dense_analysis import DenseAnalysis
from harness.pruning.layer_reports import achieved_sparsity
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.wanda import Wanda
from harness.pruning.numerics.budget import meet_n_of_m, meet_total, shift_to_mean, spread_blocks, whole_counts
from harness.pruning.numerics.learned_rates import RatedWeight
from harness.pruning.sequential import ObservedBlock
from tests.contexts import a_context, prune_to
from tests.families import tiny_model

CPU = torch.device("cpu")
MODEL = {"num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 160, "head_dim": 24}
"""Wide enough that whole weights a row come within 0.1 % of any total."""


def an_analysis(model: nn.Module, tokens_BL: Tensor, pattern: Pattern) -> DenseAnalysis:
    """An analysis of a model in memory, whose trials are measured on the calibration tokens."""

    def held_out(num_sequences: int) -> TrialLoss:
        return TrialLoss(model, InMemory(model), tokens_BL[:num_sequences], batch_tokens=48, device=CPU)  # type: ignore[arg-type]

    return DenseAnalysis(a_context(model, tokens_BL, pattern, held_out=held_out), Wanda())


# ---------------------------------------------------------------------------------------------------- the total

LAYERS = st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(1, 64), st.integers(1, 256)), min_size=1, max_size=8)


@given(layers=LAYERS, total=st.floats(0.05, 0.95))
def test_whole_weights_a_row_make_up_the_total(layers: list[tuple[float, int, int]], total: float) -> None:
    """Counted zeros are within half a layer's rows of the total, however narrow the layers are; a layer that should be
    sparser than another of its shape is not denser.
    """
    wanted = {str(index): sparsity for index, (sparsity, _, _) in enumerate(layers)}
    shapes = {str(index): (rows, columns) for index, (_, rows, columns) in enumerate(layers)}
    size = sum(math.prod(shape) for shape in shapes.values())
    patterns = meet_total(wanted, shapes, total)
    counts = {name: int(shapes[name][1] * pattern.sparsity) for name, pattern in patterns.items()}
    zeros = sum(counts[name] * shapes[name][0] for name in counts)
    assert abs(zeros - total * size) <= max(rows for rows, _ in shapes.values()) / 2 + 1e-6 * size
    for one in wanted:
        for other in wanted:
            if shapes[one] == shapes[other] and wanted[one] > wanted[other] + 1e-9:
                assert counts[one] >= counts[other]


@given(
    values=st.lists(st.floats(-2.0, 3.0), min_size=1, max_size=6),
    weights=st.lists(st.integers(1, 1000), min_size=6, max_size=6),
    mean=st.floats(0.0, 1.0),
)
def test_shifting_meets_the_mean_within_bounds(values: list[float], weights: list[int], mean: float) -> None:
    """The weighted mean is met; what no bound cuts is shifted by one amount."""
    wanted = {str(index): value for index, value in enumerate(values)}
    sizes = {str(index): weights[index] for index in range(len(values))}
    found = shift_to_mean(wanted, sizes, mean, (0.0, 1.0))
    assert sum(sizes[name] * value for name, value in found.items()) == pytest.approx(
        mean * sum(sizes.values()), abs=1e-6 * sum(sizes.values())
    )
    inside = [name for name, value in found.items() if 1e-9 < value < 1 - 1e-9]
    shifts = [found[name] - wanted[name] for name in inside]
    assert shifts == pytest.approx([shifts[0]] * len(shifts), abs=1e-9) if shifts else True


def test_what_meets_the_total_already_is_not_shifted() -> None:
    """Wanted values with the right mean come back to the bit."""
    wanted = {"a": 0.25, "b": 0.75}
    assert shift_to_mean(wanted, {"a": 7, "b": 7}, 0.5, (0.0, 1.0)) == wanted


def test_the_largest_remainders_are_rounded_up() -> None:
    """Three layers of one size miss one weight a row: the one with the largest remainder gets it, and of ties the
    first.
    """
    rows = dict.fromkeys("abc", 4)
    assert whole_counts({"a": 1.3, "b": 2.4, "c": 3.3}, rows, 4 * 7.0) == {"a": 1, "b": 3, "c": 3}
    assert whole_counts({"a": 1.5, "b": 2.5, "c": 3.0}, rows, 4 * 7.0) == {"a": 2, "b": 2, "c": 3}


def test_parts_that_no_n_of_m_adds_up_for_are_refused() -> None:
    """Two parts of which one is larger cannot both leave their 2 of 4 and have that mean."""
    with pytest.raises(UserError, match=r"a whole number of every 4, .*2:4.*allowed: allocation=uniform"):
        meet_n_of_m({"a": 1.5, "b": 3.0}, {"a": 100, "b": 30}, SemiStructured(2, 4))


@given(
    wanted=st.lists(st.floats(-1.0, 9.0), min_size=1, max_size=40),
    pattern=st.sampled_from([SemiStructured(2, 4), SemiStructured(4, 8), SemiStructured(1, 4), SemiStructured(7, 8)]),
)
def test_n_of_m_keeps_its_mean(wanted: list[float], pattern: SemiStructured) -> None:
    """Parts of one size get whole numbers from 1 to M - 1 with exactly the requested mean."""
    names = {str(index): value for index, value in enumerate(wanted)}
    found = meet_n_of_m(names, dict.fromkeys(names, 100), pattern)
    assert {each.group for each in found.values()} == {pattern.group}
    assert sum(each.keep for each in found.values()) == pattern.keep * len(found)


# ------------------------------------------------------------------------------------------------------------ OWL


def test_owl_sparsities_are_the_published_formula() -> None:
    """Densities are the outlier shares, stretched to a band of 2 lambda, shifted to the mean density 1 - s."""
    ratios = [0.04, 0.01, 0.02]
    stretched = [0.16, 0.0, 0.16 / 3]
    mean = sum(stretched) / 3
    assert block_sparsities(ratios, 0.7, 0.08) == pytest.approx([1 - (part - mean + 0.3) for part in stretched])
    assert block_sparsities([0.02, 0.02], 0.7, 0.08) == [0.7, 0.7]


def test_owl_gives_the_linears_of_a_block_one_sparsity(random_tokens: Callable[..., Tensor]) -> None:
    """Up to the rounding to whole weights, and blocks differ by no more than the band."""
    model = tiny_model("llama", **MODEL)
    analysis = an_analysis(model, random_tokens(4), Unstructured(0.6))
    patterns = Owl(3.0, 0.1).spread(analysis)
    assert list(patterns) == list(analysis.shapes)
    middles = []
    for names in analysis.blocks:
        values = [patterns[name].sparsity for name in names]
        assert max(values) - min(values) <= 2 / 96
        middles.append(sum(values) / len(values))
    assert 0.2 - 2 / 96 <= max(middles) - min(middles) <= 0.2 + 2 / 96
    assert Owl(3.0, 0.05).spread(analysis) != patterns


def test_owl_mixes_n_of_m_by_blocks(random_tokens: Callable[..., Tensor]) -> None:
    """Every block has an N of its own, and the mean is the requested one: 2 of 8 columns around 4:8."""
    model = tiny_model("llama", **MODEL)
    analysis = an_analysis(model, random_tokens(4), SemiStructured(4, 8))
    patterns = Owl(3.0, 0.25).spread(analysis)
    keeps = []
    for names in analysis.blocks:
        (pattern,) = {patterns[name] for name in names}
        assert isinstance(pattern, SemiStructured)
        keeps.append(pattern.keep)
    assert sum(keeps) == 4 * len(keeps)
    assert max(keeps) > 4 > min(keeps)
    assert achieved_sparsity(prune_to(patterns, Wanda(), analysis.context).layers) == 0.5


def test_owl_leaves_no_block_dense_and_none_empty() -> None:
    """Where the band would leave 0 to 1, it is cut, and the total is met all the same."""
    blocks, shapes = [["a"], ["b"], ["c"]], dict.fromkeys("abc", (64, 500))
    for total in (0.1, 0.9):
        wanted = block_sparsities([0.01, 0.03, 0.02], total, 0.4)
        patterns = spread_blocks(wanted, blocks, shapes, Unstructured(total))
        values = [pattern.sparsity for pattern in patterns.values()]
        assert min(values) >= 0.01 - 1e-9
        assert max(values) <= 0.99 + 1e-9
        assert sum(values) / 3 == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("name", ["owl", "alphapruning"])
def test_very_narrow_models_come_as_near_to_the_total_as_their_rows_let(
    name: str, random_tokens: Callable[..., Tensor]
) -> None:
    """Eight columns a layer: 0.6 of them is no whole number, and rows of a layer have the same number of zeros."""
    model = tiny_model("llama", hidden_size=8, intermediate_size=8, head_dim=2, num_hidden_layers=2)
    allocation = ALLOCATIONS.build(Choice(name))
    layers = Wanda().run(a_context(model, random_tokens(4), Unstructured(0.6), allocation=allocation)).layers
    size, rows = sum(math.prod(report.shape) for report in layers), max(report.shape[0] for report in layers)
    assert abs(achieved_sparsity(layers) - 0.6) <= rows / 2 / size
    assert len({report.achieved_sparsity for report in layers}) > 1


# ------------------------------------------------------------------------------------------------------ the analysis


def test_an_analysis_sees_the_dense_model(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Blocks come in order, with the statistics that hooks on the running model find, and are left as they are."""
    model = tiny_model(family)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    tokens_BL = random_tokens(3)
    sums: dict[str, Tensor] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            sums[name] = args[0].reshape(-1, args[0].shape[-1]).square().sum(dim=0)

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in prunable_shapes(model)]
    with torch.no_grad():
        model(input_ids=tokens_BL, use_cache=False)
    for handle in handles:
        handle.remove()
    analysis = an_analysis(model, tokens_BL, Unstructured(0.5))
    seen: list[str] = []
    for index, block in enumerate(analysis.observed_blocks((FeatureNorm,))):
        assert block.step.index == index
        assert list(block.weights) == analysis.blocks[index]
        for name, weight_OI in block.weights.items():
            assert torch.equal(weight_OI, weight_view(model.get_submodule(name)))  # type: ignore[arg-type]
            found_I = block.statistics[name][FeatureNorm].sum_of_squares_I
            torch.testing.assert_close(found_I, sums[name], rtol=1e-4, atol=1e-5)
            seen.append(name)
    assert seen == list(analysis.shapes)
    assert all(torch.equal(model.state_dict()[name], old) for name, old in before.items())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_trial_measures_other_weights_and_leaves_the_model(name: str, random_tokens: Callable[..., Tensor]) -> None:
    """The loss of a trial is that of a model that has these weights; afterwards the model is dense, also in error."""
    model, tokens_BL = tiny_model(name), random_tokens(4)
    analysis = an_analysis(model, tokens_BL, Unstructured(0.5))
    before = {path: weight.clone() for path, weight in model.state_dict().items()}
    trial_loss = analysis.trials(3)
    dense = trial_loss({})
    for block in (0, 1, 1, 0):  # forwards, at the same place again, and back
        path = analysis.blocks[block][0]
        measured = trial_loss({path: torch.zeros(analysis.shapes[path])})
        with pytest.raises(RuntimeError):
            trial_loss({path: torch.zeros(3, 3)})
        assert all(torch.equal(model.state_dict()[path], old) for path, old in before.items())
        changed = tiny_model(name)
        weight_view(changed.get_submodule(path)).zero_()  # type: ignore[arg-type]
        expected = perplexity(changed, tokens_BL[:3], batch_tokens=48, device=CPU, reporter=Silent()).value
        assert expected is not None
        assert measured == pytest.approx(math.log(expected), rel=1e-5)
        assert measured != pytest.approx(dense, rel=1e-4)
        assert trial_loss({}) == pytest.approx(dense, rel=1e-6)


# ----------------------------------------------------------------------------------------------------------- BESA


def learned(
    model: nn.Module, tokens_BL: Tensor, besa: Besa | None, sparsity: float = 0.6, method: str = "wanda", **fields: Any
) -> PruningOutcome:
    """Prune with rates that are learned, or without."""
    context = a_context(model, tokens_BL, Unstructured(sparsity), batch_tokens=1000, allocation=besa, **fields)
    return METHODS.build(Choice(method)).run(context)


def besa_patterns(
    model: nn.Module, tokens_BL: Tensor, propagation: Propagation, besa: Besa, sparsity: float = 0.6
) -> list[float]:
    """The sparsities that the layers were given, in model order, after pruning with Wanda."""
    outcome = learned(model, tokens_BL, besa, sparsity, propagation=propagation)
    size = sum(math.prod(report.shape) for report in outcome.layers)
    rows = max(report.shape[0] for report in outcome.layers)
    blocks = len(decoder_blocks(model)[1])
    assert abs(achieved_sparsity(outcome.layers) - sparsity) <= max(0.001, blocks * rows / 2 / size)
    return [report.requested_sparsity for report in outcome.layers]


FAST = Besa(epochs=3, d_coef=1000.0)
"""Prodigy's step grows from almost nothing: a test has no time for that."""


def test_besa_learns_rates_that_differ(random_tokens: Callable[..., Tensor]) -> None:
    """Rates leave 0.5, layers of one block differ, and with dense propagation other rates are learned in later blocks,
    but not in the first.
    """
    pruned = besa_patterns(tiny_model("llama", **MODEL), random_tokens(8), "pruned", FAST)
    dense = besa_patterns(tiny_model("llama", **MODEL), random_tokens(8), "dense", FAST)
    assert len({round(value, 2) for value in pruned[:7]}) >= 3
    assert pruned[:7] == dense[:7]
    assert pruned[7:] != dense[7:]


def test_besa_with_a_sigmoid_hardly_leaves_the_middle(random_tokens: Callable[..., Tensor]) -> None:
    """The published smoothing keeps rates from 0.376 to 0.624, before they are shifted to the total."""
    values = besa_patterns(tiny_model("llama", **MODEL), random_tokens(8), "pruned", replace(FAST, smoothing="sigmoid"))
    assert max(values) - min(values) <= 0.624 - 0.376 + 0.02
    logits = torch.zeros(1, 101)
    for side, extreme in ((slice(0, 38), 0.624), (slice(63, 101), 0.376)):
        logits[:] = -1000.0
        logits[:, side] = 1000.0
        weight = RatedWeight(torch.ones(2, 100), torch.ones(2, 100), 1)
        weight.logits_RD = logits
        assert weight.learned_rate("sigmoid") == pytest.approx(extreme, abs=1e-3)
        assert abs(weight.learned_rate("none") - 0.5) > 0.24


def test_besa_lowers_the_error_of_a_block(random_tokens: Callable[..., Tensor]) -> None:
    """Learned rates lose less of the first block's output than even ones with the same number of zeros."""
    errors = []
    tokens_BL = random_tokens(16)
    for besa in (None, FAST):
        model, dense = tiny_model("llama", **MODEL), tiny_model("llama", **MODEL)
        learned(model, tokens_BL, besa)
        outputs = []
        for each in (model, dense):
            with torch.no_grad():
                found = each.model(input_ids=tokens_BL, use_cache=False, output_hidden_states=True).hidden_states[1]
            outputs.append(found.flatten(0, 1))
        errors.append(float(((outputs[0] - outputs[1]) / outputs[1].norm(dim=0)).square().sum()))
    assert errors[1] < 0.97 * errors[0]


def test_besa_leaves_the_block_and_its_gradients_alone(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Every family can be learned; weights, buffers and gradients are as before, and the mode too."""
    model = tiny_model(family)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    seen: list[str] = []

    class Watched(Besa):
        """Looks at the block after learning."""

        __slots__ = ()

        def refine(self, block: ObservedBlock, patterns: Mapping[str, Pattern], deficit: float) -> dict[str, Pattern]:
            step, hidden = block.step, [part.clone() for part in block.step.hidden]
            found = Besa.refine(self, block, patterns, deficit)
            assert list(found) == list(patterns)
            assert all(torch.equal(part, old) for part, old in zip(step.hidden, hidden, strict=True))
            for name, weight in step.block.state_dict().items():
                assert torch.equal(weight, before[f"{step.path}.{name}"])
            assert all(weight.grad is None for weight in step.block.parameters())
            assert not torch.is_grad_enabled()
            seen.append(step.path)
            return dict.fromkeys(patterns, Unstructured(0.5))

    learned(model, random_tokens(2), Watched(), 0.5)
    assert seen == [f"{decoder_blocks(model)[0]}.{index}" for index in range(len(decoder_blocks(model)[1]))]


def test_besa_sees_one_sequence_at_a_time(random_tokens: Callable[..., Tensor]) -> None:
    """However many tokens may be run at once."""
    sizes: list[int] = []

    class Watched(Besa):
        """Counts sequences."""

        __slots__ = ()

        def refine(
            self, block: ObservedBlock, patterns: Mapping[str, Pattern], deficit: float
        ) -> Mapping[str, Pattern]:
            sizes.extend(len(part) for part in block.step.hidden)
            return patterns

    learned(tiny_model("llama"), random_tokens(5), Watched())
    assert sizes == [1] * 5 * 2


def test_besa_gives_a_method_without_statistics_its_own(random_tokens: Callable[..., Tensor]) -> None:
    """Magnitude reads no data; the rates are learned from all of it."""
    model = tiny_model("llama", **MODEL)
    outcome = learned(model, random_tokens(4), FAST, 0.5, "magnitude")
    assert len({report.requested_sparsity for report in outcome.layers}) > 2


def test_half_precision_blocks_can_be_learned(random_tokens: Callable[..., Tensor]) -> None:
    """bfloat16 weights and activations, float32 logits and loss."""
    model = tiny_model("llama", **MODEL).to(torch.bfloat16)
    values = besa_patterns(model, random_tokens(4), "pruned", FAST)
    assert len(set(values)) > 2
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_activations_that_overflow_fail_loudly(random_tokens: Callable[..., Tensor]) -> None:
    """No rates are made of infinities, by either allocation."""
    model = tiny_model("llama", **MODEL)
    first = next(iter(prunable_linears(decoder_blocks(model)[1][0]).values()))
    first.weight.data[0, 0] = torch.inf
    with pytest.raises(UserError, match="overflow float32"):
        Owl().spread(an_analysis(model, random_tokens(2), Unstructured(0.5)))
    with pytest.raises(UserError, match="overflow float32"):
        besa_patterns(model, random_tokens(2), "pruned", FAST)


@given(count=st.integers(0, 200), size=st.integers(1, 200))
def test_counts_survive_as_patterns(count: int, size: int) -> None:
    """The pattern of a count removes that count of every row, in `int(size * sparsity)`."""
    assume(count <= size)
    assert int(size * Unstructured.of_count(count, size).sparsity) == count

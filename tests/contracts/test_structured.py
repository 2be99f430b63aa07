"""What every structured method keeps to, and channel magnitude against plain loops."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from harness.blocks.layers import decoder_blocks, prunable_shapes, weight_view
from harness.calibration.statistics import Statistics
from harness.errors import UserError
from harness.job import Choice
from harness.models.digits import DigitsCnn, DigitsConfig
from harness.patterns import Channels, SemiStructured, Structured, Unstructured
from harness.pruning.context import PruningOutcome
from harness.pruning.cutting import Candidates
from harness.pruning.fingerprints import weights_fingerprint
from harness.pruning.layer_reports import achieved_sparsity
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.channel_magnitude import ChannelMagnitude
from harness.pruning.methods.structured import StructuredMethod
from harness.pruning.methods.whole_model import DepthMethod
from harness.pruning.shares import most_important, num_kept
from tests.contexts import a_context
from tests.contracts.test_methods import choices_of, label
from tests.families import HIDDEN, INNER, tiny_model
from tests.models.convolutions import ConvConfig, ConvModel, randomised

LAYERS: dict[str, tuple[tuple[str, ...], str, int]] = {
    "llama-gqa": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", INNER),
    "opt": (("fc1",), "fc2", INNER),
    "gpt2": (("mlp.c_fc",), "mlp.c_proj", INNER),
    "gemma-3": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", INNER),
    "falcon": (("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", 4 * HIDDEN),
}
"""Layers that make the channels, the layer that reads them, and how many there are."""


def structured_choices() -> list[Choice]:
    """Every method that cuts a fraction of the channels, with each of its choices."""
    return [
        choice
        for name in METHODS.all()
        for choice in choices_of(name)
        if METHODS.build(choice).refuses(Channels(0.5)) is None
    ]


every_choice = pytest.mark.parametrize("choice", structured_choices(), ids=label)
every_family = pytest.mark.parametrize("family", LAYERS)


def shrink(model: Any, choice: Choice, tokens_BL: Tensor, ratio: float = 0.5) -> PruningOutcome:
    """Cut that part of the channels of every block, on the CPU; the model will be saved."""
    return METHODS.build(choice).run(a_context(model, tokens_BL, Channels(ratio), saves=True))


def logits(model: Any, tokens_BL: Tensor) -> Tensor:
    """What the model says."""
    with torch.no_grad():
        output: Tensor = model(input_ids=tokens_BL).logits
    return output


def kept_rows(new_OI: Tensor, dense_OI: Tensor) -> list[int]:
    """Which rows of the dense weight the rows that are left were."""
    return [next(row for row in range(len(dense_OI)) if torch.equal(dense_OI[row], new_I)) for new_I in new_OI]


@every_choice
@every_family
def test_the_model_is_the_dense_one_that_does_not_read_the_cut_channels(
    choice: Choice, family: str, random_tokens: Callable[..., Tensor]
) -> None:
    """Exact counts, kept channels in their order, smaller tensors, unchanged weights, and the outputs say it."""
    dense, model = tiny_model(family), tiny_model(family)
    outcome = shrink(model, choice, random_tokens(4), 0.3)
    producers, consumer, channels = LAYERS[family]
    count = round(channels * 0.7)
    for old, new in zip(decoder_blocks(dense)[1], decoder_blocks(model)[1], strict=True):
        of_old: dict[str, Any] = {name: old.get_submodule(name) for name in (*producers, consumer)}
        of_new: dict[str, Any] = {name: new.get_submodule(name) for name in (*producers, consumer)}
        kept = kept_rows(weight_view(of_new[producers[0]]), weight_view(of_old[producers[0]]))
        assert len(kept) == count
        assert kept == sorted(kept)
        for name in producers:
            assert torch.equal(weight_view(of_new[name]), weight_view(of_old[name])[kept])
        assert torch.equal(weight_view(of_new[consumer]), weight_view(of_old[consumer])[:, kept])
        gone = sorted(set(range(channels)) - set(kept))
        weight_view(of_old[consumer])[:, gone] = 0.0
    torch.testing.assert_close(
        logits(model, random_tokens(3, seed=1)), logits(dense, random_tokens(3, seed=1)), rtol=1e-4, atol=1e-5
    )
    assert sum(each.numel() for each in model.parameters()) < sum(each.numel() for each in dense.parameters())
    check_reports(outcome, prunable_shapes(dense), prunable_shapes(model))


def check_reports(outcome: PruningOutcome, dense: dict[str, tuple[int, int]], left: dict[str, tuple[int, int]]) -> None:
    """Old shapes, new shapes, the part that is gone, and errors where outputs can be compared."""
    assert [(report.name, report.shape) for report in outcome.layers] == list(dense.items())
    for report in outcome.layers:
        rows, columns = left[report.name]
        assert report.details == {"shape_left": [rows, columns]}
        assert report.achieved_sparsity == (math.prod(report.shape) - rows * columns) / math.prod(report.shape)
        if rows < report.shape[0]:
            assert (report.relative_output_error, report.error_tokens) == (None, 0)
            assert report.requested_sparsity == 0.3
        elif columns < report.shape[1]:
            assert report.relative_output_error is not None
            assert 0.0 < report.relative_output_error < 1.0
            assert report.requested_sparsity == 0.3
        else:
            assert (report.relative_output_error, report.requested_sparsity) == (0.0, 0.0)
    gone = 1 - sum(map(math.prod, left.values())) / sum(map(math.prod, dense.values()))
    assert achieved_sparsity(outcome.layers) == pytest.approx(gone, abs=1e-12)
    assert gone > 0


@every_choice
@every_family
def test_the_saved_model_is_the_model(
    choice: Choice, family: str, random_tokens: Callable[..., Tensor], tmp_path: Path
) -> None:
    """Plain transformers loads it, without a word about shapes, and its logits are equal to the bit."""
    model = tiny_model(family)
    outcome = shrink(model, choice, random_tokens(4))
    (note,) = outcome.notes
    assert note.startswith("the model's configuration has now ")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, random_tokens(2)), logits(model, random_tokens(2)))


@every_choice
def test_two_runs_agree_to_the_bit(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """Equal fingerprints and reports; another ratio gives another."""
    prints = []
    for ratio in (0.5, 0.5, 0.25):
        model = tiny_model("llama-gqa")
        layers = shrink(model, choice, random_tokens(4), ratio).layers
        prints.append((weights_fingerprint(model), layers))
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[2][0]


@every_choice
def test_half_precision_models_keep_their_type(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """What is left is what was there, in its type."""
    model = tiny_model("llama-gqa").to(torch.bfloat16)
    shrink(model, choice, random_tokens(4))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.config.intermediate_size == INNER // 2
    assert logits(model, random_tokens(2)).isfinite().all()


@every_choice
def test_models_without_a_field_for_it_declare_their_size(
    choice: Choice, random_tokens: Callable[..., Tensor], tmp_path: Path
) -> None:
    """BLOOM's channels are four times its hidden size; the folder loads where this package is imported."""
    model = tiny_model("bloom")
    before = sum(each.numel() for each in model.parameters())
    outcome = shrink(model, choice, random_tokens(4))
    assert "declared" in outcome.notes[0]
    assert sum(each.numel() for each in model.parameters()) < before
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, random_tokens(2)), logits(model, random_tokens(2)))


@every_choice
def test_convolutions_shrink(choice: Choice, tmp_path: Path) -> None:
    """Blocks of different widths, normalisations in between, a linear behind a flattened image; saved and loaded."""
    model, dense = (randomised(ConvModel(ConvConfig())) for _ in range(2))
    assert isinstance(model, ConvModel)
    rows = torch.arange(16 * 12).view(12, 16) % 11
    outcome = shrink(model, choice, rows)
    assert (model.config.inner_widths, model.config.flat_width) == ([3, 4], 3)
    left, shapes = prunable_shapes(model), prunable_shapes(dense)
    assert left["blocks.0.conv_a"] == (3, 36)
    assert left["blocks.0.conv_b"] == (4, 27)
    assert left["blocks.2.linear"] == (5, 48)
    assert [(report.name, report.shape) for report in outcome.layers] == list(shapes.items())
    model.save_pretrained(tmp_path)
    loaded = ConvModel.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, rows), logits(model, rows))
    assert not torch.equal(logits(model, rows), logits(dense, rows))


@every_choice
def test_only_structured_patterns_are_taken(choice: Choice) -> None:
    """The refusal names what it takes."""
    method = METHODS.build(choice)
    assert method.refuses(Channels(0.5)) is None
    for pattern in (Unstructured(0.5), SemiStructured(2, 4)):
        reason = method.refuses(pattern)
        assert reason is not None
        assert "it takes channel" in reason


def test_no_other_method_takes_a_structured_pattern() -> None:
    """A mask does not make a layer smaller."""
    for name in METHODS.all():
        method = METHODS.build(Choice(name))
        cuts = isinstance(method, StructuredMethod | DepthMethod)
        assert cuts == (method.refuses(Structured(0.5)) is None)
        assert cuts or method.refuses(Channels(0.5)) is not None


# ------------------------------------------------------------------------------------------ counts and importance


@pytest.mark.parametrize(("channels", "ratio", "kept"), [(48, 0.5, 24), (48, 0.3, 34), (7, 0.5, 4), (5, 0.01, 5)])
def test_the_number_kept_is_rounded(channels: int, ratio: float, kept: int) -> None:
    """`round(channels * (1 - ratio))`."""
    assert num_kept(channels, ratio) == kept


def test_a_layer_without_channels_is_refused() -> None:
    """The line holds the fraction."""
    with pytest.raises(UserError, match=r"sparsity=0\.9 leaves none of 4 channels; allowed"):
        num_kept(4, 0.9)


def test_of_equal_channels_the_lower_goes_first() -> None:
    """Stable, and in ascending order."""
    assert most_important(torch.tensor([2.0, 1.0, 1.0, 1.0, 3.0]), 3).tolist() == [0, 3, 4]
    assert most_important(torch.ones(6), 2).tolist() == [4, 5]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_importance_that_is_no_number_fails_loudly(value: float) -> None:
    """NaN has no rank."""
    with pytest.raises(ArithmeticError, match="not finite"):
        most_important(torch.tensor([1.0, value, 2.0]), 2)


@pytest.mark.parametrize(
    ("norm_of", "are_maps"), [("coupled", True), ("consumer", False), ("auto", False), ("auto", True)]
)
def test_channel_magnitude_is_the_norm_of_the_slices(norm_of: Any, are_maps: bool) -> None:
    """||gate_k|| + ||up_k|| + ||down_:,k||, or the last alone, as it is for maps; one number at a time."""
    generator = torch.Generator().manual_seed(0)
    gate_CN, up_CN, down_CN = (torch.randn(6, width, generator=generator) for width in (4, 4, 5))
    slices = tuple(each_CN[:, None] for each_CN in (gate_CN, up_CN, down_CN))
    candidates = Candidates("channel", slices, torch.arange(6)[:, None], are_maps)
    importance_C = ChannelMagnitude(norm_of).importance(candidates, Statistics([]))
    for channel in range(6):
        slices = [down_CN[channel].tolist()]
        if norm_of == "coupled" or (norm_of == "auto" and not are_maps):
            slices += [gate_CN[channel].tolist(), up_CN[channel].tolist()]
        expected = sum(math.sqrt(sum(value * value for value in each)) for each in slices)
        assert float(importance_C[channel]) == pytest.approx(expected, rel=1e-5)


def test_the_method_sees_the_slices_of_the_layers(random_tokens: Callable[..., Tensor]) -> None:
    """The channels that are left in a LLaMA are those of the largest norms, by loops over the dense model."""
    dense = tiny_model("llama")
    model = copy.deepcopy(dense)
    shrink(model, Choice("channel-magnitude"), random_tokens(4))
    for old, new in zip(decoder_blocks(dense)[1], decoder_blocks(model)[1], strict=True):
        mlp: Any = old.mlp
        gate_CN, up_CN, down_CN = mlp.gate_proj.weight.data, mlp.up_proj.weight.data, mlp.down_proj.weight.data.T
        norms = [sum(float(each[k].double().norm()) for each in (gate_CN, up_CN, down_CN)) for k in range(INNER)]
        best = sorted(sorted(range(INNER), key=lambda k: norms[k])[INNER // 2 :])
        new_mlp: Any = new.mlp
        assert kept_rows(new_mlp.gate_proj.weight, mlp.gate_proj.weight) == best


# -------------------------------------------------------------------------------------------------- convolutions

Chain = tuple[Any, Any, Any]
"""The layer that makes a block's channels, the normalisation behind it, and the layer that reads them."""
CHAINS: dict[str, tuple[tuple[str, str | None, str], ...]] = {
    "maps": (("conv_a", "norm_a", "conv_b"), ("conv_a", "norm_a", "conv_b"), ("conv", "norm", "linear")),
    "digits": (("conv_a", "norm_a", "conv_b"), ("conv_a", "norm_a", "conv_b"), ("linear_a", None, "linear_b")),
}
"""Their names in the blocks of two small networks."""
every_network = pytest.mark.parametrize("network", CHAINS)
every_norm = pytest.mark.parametrize("norm_of", ["auto", "coupled", "consumer"])


def convolutions(network: str) -> Any:
    """A network whose weights, biases and normalisations are random; the same on every call."""
    if network == "maps":
        return randomised(ConvModel(ConvConfig(inner_widths=(12, 16), flat_width=12)))
    return randomised(DigitsCnn(DigitsConfig(widths=(4, 8), inner_widths=(12, 16), hidden_width=20)))


def without_two_fifths(network: str, norm_of: str) -> Any:
    """The network after 40 % of its channels were cut out."""
    model = convolutions(network)
    rows = torch.randint(0, 10, (8, 16 if network == "maps" else 65), generator=torch.Generator().manual_seed(0))
    shrink(model, Choice("channel-magnitude", {"norm_of": norm_of}), rows, 0.4)
    return model


def chains(network: str, model: Any) -> list[Chain]:
    """The chain of every block; where nothing normalises, it has an identity."""
    blocks = decoder_blocks(model)[1]
    return [
        (block.get_submodule(made), block.get_submodule(norm) if norm else nn.Identity(), block.get_submodule(read))
        for block, (made, norm, read) in zip(blocks, CHAINS[network], strict=True)
    ]


def slices(consumer: Any, channels: int) -> Tensor:
    """A view of the consumer's weight, [O, C, K]: K positions of the kernel, or of the image that a linear reads."""
    view: Tensor = consumer.weight.data.view(len(consumer.weight), channels, -1)
    return view


def largest(chain: Chain, norm_of: str) -> list[int]:
    """Numbers of the 60 % of the channels that have the largest norms, in ascending order."""
    producer, _, consumer = chain
    if norm_of == "auto":
        norm_of = "consumer" if isinstance(producer, nn.Conv2d) else "coupled"
    count, norms = len(producer.weight), []
    for channel in range(count):
        norm = math.hypot(*slices(consumer, count)[:, channel].flatten().tolist())
        if norm_of == "coupled":
            norm += math.hypot(*producer.weight[channel].flatten().tolist())
        norms.append(norm)
    return sorted(sorted(range(count), key=lambda channel: -norms[channel])[: round(0.6 * count)])


@every_network
@every_norm
def test_the_filters_of_the_largest_norms_stay(network: str, norm_of: str) -> None:
    """Number by number in the dense network; their biases and normalisations stay with them, and so do the weights that
    read them: of a linear behind an image, the columns of all positions.
    """
    dense, model = convolutions(network), without_two_fifths(network, norm_of)
    for old, new in zip(chains(network, dense), chains(network, model), strict=True):
        kept, count = largest(old, norm_of), len(old[0].weight)
        assert kept_rows(new[0].weight, old[0].weight) == kept
        for before, after in zip(old[:2], new[:2], strict=True):
            for name, tensor in before.state_dict().items():
                assert torch.equal(after.state_dict()[name], tensor[kept] if tensor.dim() else tensor), name
        assert torch.equal(slices(new[2], len(kept)), slices(old[2], count)[:, kept])
    by_norm = [[largest(chain, norm) for chain in chains(network, dense)] for norm in ("coupled", "consumer")]
    assert by_norm[0] != by_norm[1]  # else neither would show that the other was not taken


@torch.no_grad()
def seen_by(model: Any) -> Tensor:
    """What the blocks make of random images, in float64."""
    side = 4 if isinstance(model, ConvModel) else 8
    hidden = torch.randn(5, 4, side, side, generator=torch.Generator().manual_seed(1)).double()
    for block in decoder_blocks(model.double())[1]:
        hidden = block(hidden)
    return hidden


@every_network
@every_norm
@torch.no_grad()
def test_a_cut_network_is_the_dense_one_with_those_channels_zero(network: str, norm_of: str) -> None:
    """Exactly (to rounding in float64) where nothing arrives at the reader: its weights are zero there, or the filter
    is together with its bias and with the mean and the shift of its normalisation.  A filter of zeros alone makes
    another network: its normalisation turns it into a constant that is read.
    """
    unread, silent, no_filter = (convolutions(network) for _ in range(3))
    for old in zip(*(chains(network, model) for model in (unread, silent, no_filter)), strict=True):
        count = len(old[0][0].weight)
        gone = sorted(set(range(count)) - set(largest(old[0], norm_of)))
        slices(old[0][2], count)[:, gone] = 0.0
        for producer, norm, _ in old[1:]:
            producers = [producer.weight, producer.bias]
            if norm is old[1][1]:
                producers += [getattr(norm, "running_mean", None), getattr(norm, "bias", None)]
            for tensor in producers:
                if tensor is not None:
                    tensor[gone] = 0.0
    outputs = seen_by(without_two_fifths(network, norm_of))
    for model in (unread, silent):
        torch.testing.assert_close(outputs, seen_by(model), rtol=1e-11, atol=1e-11)
    assert float((seen_by(no_filter) - outputs).abs().max()) > 1e-2


def test_a_structured_pattern_names_itself() -> None:
    """Label and slug are part of records and file names."""
    pattern = Channels(0.5)
    assert (pattern.label, pattern.slug, pattern.sparsity) == ("channel", "channel-0.5", 0.5)
    assert replace(pattern, ratio=0.25).slug == "channel-0.25"
    for ratio in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(UserError, match=r"not a fraction of channels to cut out; allowed: 0 < sparsity < 1"):
            Channels(ratio)
    share = Structured(0.2)
    assert (share.label, share.slug, share.sparsity) == ("structured", "structured-0.2", 0.2)
    with pytest.raises(UserError, match=r"not a fraction of the parameters to cut out; allowed: 0 < sparsity < 1"):
        Structured(1.0)

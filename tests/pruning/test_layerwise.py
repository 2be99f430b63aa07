"""Layerwise pruning of real architectures, and what it reports and refuses."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DbrxConfig

from harness.blocks.layers import decoder_blocks, prunable_linears, prunable_shapes, weight_view
from harness.errors import UserError
from harness.job import Choice
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.context import PruningOutcome
from harness.pruning.fingerprints import weights_fingerprint
from harness.pruning.layer_reports import achieved_sparsity, unpruned_note
from harness.pruning.layerwise import check_patterns
from harness.pruning.methods.base import METHODS
from tests.contexts import a_context
from tests.families import tiny_model


def prune(
    model: nn.Module,
    tokens_BL: Tensor,
    *,
    method: str = "wanda",
    pattern: Pattern | None = None,
    batch_tokens: int = 24,
) -> PruningOutcome:
    """Prune every layer alike, on the CPU, from the pruned prefix."""
    context = a_context(model, tokens_BL, pattern or SemiStructured(2, 4), batch_tokens=batch_tokens)
    return METHODS.build(Choice(method)).run(context)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_what_pruning_reports(method: str, random_tokens: Callable[..., Tensor]) -> None:
    """Layers in model order with what was asked for, what they have, their errors and what the method says; that every
    family is pruned where it should be, by every method, is a contract.
    """
    model = tiny_model("llama-gqa")
    outcome = prune(model, random_tokens(3), method=method)
    assert [(report.name, report.shape) for report in outcome.layers] == list(prunable_shapes(model).items())
    for report in outcome.layers:
        assert (report.requested_sparsity, report.achieved_sparsity) == (0.5, 0.5)
        assert report.relative_output_error is not None
        assert 0.0 < report.relative_output_error < 1.0
        assert report.error_tokens == 36
        assert ("damping" in report.details) == (method == "sparsegpt")
    assert achieved_sparsity(outcome.layers) == 0.5


def test_sparsegpt_reports_smaller_errors_than_magnitude(random_tokens: Callable[..., Tensor]) -> None:
    """The reports' errors rank the methods as the papers do."""
    errors = {}
    for method in ("magnitude", "sparsegpt"):
        layers = prune(tiny_model("llama-gqa"), random_tokens(40, 24), method=method).layers
        errors[method] = sum(report.relative_output_error or 0.0 for report in layers)
    assert errors["sparsegpt"] < 0.95 * errors["magnitude"]


def test_half_precision_models_keep_their_type(random_tokens: Callable[..., Tensor]) -> None:
    """Weights are written in the layer's own type, with zeros that are zeros."""
    model = tiny_model("llama-gqa").to(torch.bfloat16)
    outcome = prune(model, random_tokens(3), method="sparsegpt")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {report.achieved_sparsity for report in outcome.layers} == {0.5}


def test_a_method_without_statistics_runs_only_the_tokens_of_the_error(random_tokens: Callable[..., Tensor]) -> None:
    """Magnitude looks at no data, so only the sequences that errors are measured on are run."""
    layers = prune(tiny_model("llama"), random_tokens(100, 24), method="magnitude").layers
    assert {report.error_tokens for report in layers} == {1024}
    first = prune(tiny_model("llama"), random_tokens(100, 24)[:43], method="magnitude").layers
    assert [report.relative_output_error for report in layers] == [report.relative_output_error for report in first]


def test_equal_runs_give_equal_bits(random_tokens: Callable[..., Tensor]) -> None:
    """The fingerprint of the pruned weights is the same twice, and another for another pattern."""
    prints = []
    for pattern in (SemiStructured(2, 4), SemiStructured(2, 4), Unstructured(0.5)):
        model = tiny_model("gemma-3")
        prune(model, random_tokens(4), method="sparsegpt", pattern=pattern)
        prints.append(weights_fingerprint(model))
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fingerprint_sees_every_prunable_weight(dtype: torch.dtype) -> None:
    """One changed weight in any linear changes it; the embedding does not."""
    model = tiny_model("gpt2").to(dtype)
    prints = {weights_fingerprint(model)}
    linears = [linear for block in decoder_blocks(model)[1] for linear in prunable_linears(block).values()]
    for linear in linears:
        weight_view(linear)[0, 0] += 1.0
        prints.add(weights_fingerprint(model))
    assert len(prints) == 1 + len(linears)
    model.get_input_embeddings().weight.data += 1.0
    assert weights_fingerprint(model) in prints


@pytest.mark.parametrize(
    ("dtype", "wider"), [("float16", "dtype=bfloat16 or dtype=float32"), ("bfloat16", "dtype=float32")]
)
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "dsnot", "obc"])
def test_inputs_that_overflow_are_one_line(
    method: str, dtype: str, wider: str, random_tokens: Callable[..., Tensor]
) -> None:
    """It names the first layer, its type and wider ones, before a weight is changed; whatever the method looks at."""
    model = tiny_model("llama").to(getattr(torch, dtype))
    up = model.model.layers[1].mlp.up_proj.weight
    up.data *= torch.finfo(up.dtype).max / float(up.detach().abs().max())
    before = [weight.clone() for weight in model.model.layers[1].parameters()]
    line = rf"^the calibration inputs of model\.layers\.1\.mlp\.down_proj overflow {dtype}; allowed: {wider}$"
    with pytest.raises(UserError, match=line):
        prune(model, random_tokens(4), method=method)
    assert all(torch.equal(weight, old) for weight, old in zip(model.model.layers[1].parameters(), before, strict=True))


class LazyBlock(nn.Module):
    """A block that leaves one of its linears out."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor) -> Tensor:
        output: Tensor = self.used(hidden_states)
        return output


class LazyModel(nn.Module):
    """A model of such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        self.layers = nn.ModuleList([LazyBlock()])

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        output: Tensor = self.layers[0](self.embed(input_ids))
        return output


def test_a_layer_that_no_token_reaches_is_refused(random_tokens: Callable[..., Tensor]) -> None:
    """An expert without calibration is named; it is never left dense in silence."""
    with pytest.raises(UserError, match=r"no calibration token reached layers\.0\.idle"):
        prune(LazyModel(), random_tokens(2))


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_a_method_that_reads_no_data_prunes_it_all_the_same(method: str, random_tokens: Callable[..., Tensor]) -> None:
    """What decides are the weights; the report has no output error, and says that no token measured one."""
    model = LazyModel()
    idle = model.layers[0].idle.weight
    outcome = prune(model, random_tokens(2), method=method)
    assert int((idle == 0).sum()) == idle.numel() // 2
    used, unreached = outcome.layers
    assert (used.name, unreached.name) == ("layers.0.used", "layers.0.idle")
    assert used.relative_output_error is not None
    assert (unreached.relative_output_error, unreached.error_tokens) == (None, 0)


def test_a_group_that_does_not_divide_the_width_is_refused() -> None:
    """The line names the layer and its width, before anything is computed."""
    shapes = {"a": (4, 48), "b": (4, 20)}
    check_patterns(dict.fromkeys(shapes, SemiStructured(2, 4)), shapes)
    check_patterns(dict.fromkeys(shapes, Unstructured(0.5)), shapes)
    with pytest.raises(UserError, match=r"4:8.*divisible by 8; b has 20"):
        check_patterns(dict.fromkeys(shapes, SemiStructured(4, 8)), shapes)


def test_unpruned_experts_are_said_before_the_job() -> None:
    """The note counts tensors and weights and names the first; models that are reached whole have none."""
    note = unpruned_note(tiny_model("mixtral"))
    assert note is not None
    model = tiny_model("mixtral")
    _, blocks = decoder_blocks(model)
    linears = {id(linear.weight) for block in blocks for linear in prunable_linears(block).values()}
    missed = [weight for weight in blocks.parameters() if weight.dim() >= 2 and id(weight) not in linears]
    assert f"{len(missed)} tensors" in note
    assert f"{sum(weight.numel() for weight in missed):,} weights" in note
    assert "model.layers.0.mlp." in note
    assert unpruned_note(tiny_model("llama")) is None


def test_experts_whose_stack_is_one_matrix_are_said_too() -> None:
    """DBRX keeps the rows of all experts in one; no linear multiplies with it."""
    attention = {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}
    routed = {"ffn_hidden_size": 48, "hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "vocab_size": 64}
    config = DbrxConfig(**sizes, attn_config=attention, ffn_config=routed)
    note = unpruned_note(AutoModelForCausalLM.from_config(config))
    assert note is not None
    assert note.endswith(f"6 tensors of {6 * 4 * 48 * 32:,} weights, first transformer.blocks.0.ffn.experts.mlp.w1")

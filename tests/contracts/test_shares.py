"""What every method keeps to that cuts a share of all parameters: width by width, or whole blocks."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.blocks.layers import decoder_blocks, prunable_layers, prunable_shapes, weight_view
from harness.blocks.offload import InMemory
from harness.blocks.pruned import KEY
from harness.errors import UserError
from harness.evaluation.perplexity import TrialLoss
from harness.job import Choice
from harness.patterns import Structured
from harness.pruning.context import PruningOutcome
from harness.pruning.fingerprints import weights_fingerprint
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.structured import StructuredMethod
from harness.pruning.methods.whole_model import DepthMethod
from harness.pruning.shares import Cuttable, fractions_of_blocks, kept_over_model, num_parameters
from harness.surgery.dependencies import DependencyGroup
from tests.contexts import a_context
from tests.contracts.test_methods import choices_of, label
from tests.families import tiny_model

FAMILIES = ("llama-gqa", "opt", "gpt2", "qwen3", "gpt-neox", "gemma-3", "mixtral")
PLAIN = ("llama-gqa", "qwen3", "gemma-3", "mixtral")
"""Families whose configuration has a size of a head of its own, so that it can say that heads are gone."""
WIDE = {"intermediate_size": 512}
"""So many channels that a share of the parameters can be met to a hundredth by tiny models."""


def methods_of(kind: type[Any]) -> list[Choice]:
    """Every method of a kind with each of its choices."""
    return [choice for name in METHODS.all() for choice in choices_of(name) if isinstance(METHODS.build(choice), kind)]


WIDTHS, DEPTHS = methods_of(StructuredMethod), methods_of(DepthMethod)
WIDTHS.append(Choice("llm-pruner", {"protect_first": 0.0, "protect_last": 0.0}))
SHORT = {"loraprune": {"steps": 12, "batch": 2}}
"""Parameters with which training is soon over."""
WIDTHS = [Choice(each.name, {**SHORT.get(each.name, {}), **each.params}) for each in WIDTHS]
EVERY_FAMILY = Choice("wanda-sp")
"""Cuts channels and heads: what holds for the engine is held on every family by this one, on one family by all."""
BY_FAMILY = [(choice, family) for choice in WIDTHS for family in FAMILIES[: None if choice == EVERY_FAMILY else 1]]
DECLARING = ("opt", "gpt2", "gpt-neox")
"""Families whose configuration has none: the size of a head is the hidden size divided by their number."""
RELOADED = [
    (choice, family)
    for choice in WIDTHS
    if not choice.params or "protect_first" in choice.params
    for family in ((*PLAIN, *DECLARING) if choice == EVERY_FAMILY else PLAIN[:1])
]
RELOADED += [(Choice("flap"), family) for family in DECLARING]
SPARING = ("slimllm", "lorap-ffn")
LOOKING = [choice for choice in WIDTHS if choice.params.get("criterion") != "random" and choice.name not in SPARING]
LOOKING += [Choice(name, {"spared": 0.0}) for name in SPARING]  # else some of the least important stay on purpose
every_depth = pytest.mark.parametrize("choice", DEPTHS, ids=label)
every_one = pytest.mark.parametrize("choice", [*WIDTHS, *DEPTHS], ids=label)


def cut(model: Any, choice: Choice, tokens_BL: Tensor, share: float, **fields: Any) -> PruningOutcome:
    """Cut a share of all parameters out."""

    def held_out(num_sequences: int) -> TrialLoss:
        windows_NL = tokens_BL[-num_sequences:]
        return TrialLoss(model, InMemory(model), windows_NL, batch_tokens=24, device=torch.device("cpu"))

    return METHODS.build(choice).run(a_context(model, tokens_BL, Structured(share), held_out=held_out, **fields))


def logits(model: Any, tokens_BL: Tensor) -> Tensor:
    """What the model says."""
    with torch.no_grad():
        output: Tensor = model(input_ids=tokens_BL).logits
    return output


def a_wide_model(family: str) -> Any:
    """A tiny model with so many channels that a share can be met."""
    field = {"opt": "ffn_dim", "gpt2": "n_inner"}.get(family, "intermediate_size")
    return tiny_model(family, **{field: 512})


@pytest.mark.parametrize(
    ("choice", "family", "share"),
    [(*each, share) for each in BY_FAMILY for share in ((0.2, 0.5) if each[1] == FAMILIES[0] else (0.2,))],
    ids=label,
)
def test_the_share_is_met_to_a_hundredth(
    choice: Choice, family: str, share: float, random_tokens: Callable[..., Tensor]
) -> None:
    """Of all parameters, embeddings included; reports have the old shapes and what is left, and the model runs."""
    model = a_wide_model(family)
    shapes, before = prunable_shapes(model), num_parameters(model)
    outcome = cut(model, choice, random_tokens(4), share)
    assert 1 - num_parameters(model) / before == pytest.approx(share, abs=0.01)
    left = prunable_shapes(model)
    assert {report.name: report.shape for report in outcome.layers} == shapes
    for report in outcome.layers:
        rows, columns = left[report.name]
        assert report.details["shape_left"] == [rows, columns]
        assert report.achieved_sparsity == 1 - rows * columns / (report.shape[0] * report.shape[1])
        if report.shape != left[report.name]:
            assert outcome.change.layers[report.name] == (report.shape, left[report.name])
    assert not outcome.change.keeps_shapes
    assert logits(model, random_tokens(3)).isfinite().all()


@pytest.mark.parametrize(("choice", "family"), RELOADED, ids=label)
def test_a_saved_model_reloads_with_equal_logits(
    choice: Choice, family: str, random_tokens: Callable[..., Tensor], tmp_path: Path
) -> None:
    """In plain transformers where all blocks lose the same and the family has fields for it; else it is declared."""
    model = a_wide_model(family)
    outcome = cut(model, choice, random_tokens(4), 0.4, saves=True)
    assert outcome.change.configuration
    if choice == EVERY_FAMILY:
        assert (KEY in outcome.change.configuration) == (family in DECLARING)
    InMemory(model).save(tmp_path)
    # The grouped products of experts take widths that are multiples of 16 bytes only.
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    torch.testing.assert_close(logits(loaded, random_tokens(2)), logits(model, random_tokens(2)), rtol=0, atol=1e-5)


@every_one
def test_two_runs_agree_to_the_bit(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """Equal fingerprints, reports and notes."""
    found = []
    for _ in range(2):
        model = tiny_model("llama-gqa", num_hidden_layers=3)
        outcome = cut(model, choice, random_tokens(4), 0.2)
        found.append((weights_fingerprint(model), outcome.layers, outcome.notes))
    assert found[0] == found[1]


@every_one
def test_more_than_there_is_is_refused(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """The line says how much there is."""
    with pytest.raises(UserError, match=r"sparsity=0\.99 .*allowed: ") as caught:
        cut(tiny_model("llama-gqa"), choice, random_tokens(4), 0.99)
    assert "\n" not in str(caught.value)


@every_depth
@pytest.mark.parametrize("family", [*FAMILIES, "bloom", "falcon", "phi", "gemma-2"])
def test_a_model_without_blocks_is_the_dense_one_that_skips_them(
    choice: Choice, family: str, random_tokens: Callable[..., Tensor], tmp_path: Path
) -> None:
    """Its logits are those of the dense model whose removed blocks hand on their input; plain transformers loads it."""
    field = {"gpt2": "n_layer", "bloom": "n_layer"}.get(family, "num_hidden_layers")
    more: dict[str, Any] = {field: 6}
    if family in ("gemma-2", "gemma-3", "qwen3"):
        kinds = ["full_attention"] * 6 if family == "qwen3" else ["sliding_attention", "full_attention"] * 3
        more["layer_types"] = kinds
    model = tiny_model(family, **more)
    dense = copy.deepcopy(model)
    share = 2 * num_parameters(decoder_blocks(model)[1][0]) / num_parameters(model)
    outcome = cut(model, choice, random_tokens(4), share)
    prefix, blocks = decoder_blocks(dense)
    gone = sorted(int(path.removeprefix(f"{prefix}.")) for path in outcome.change.gone)
    assert len(gone) == 2
    for index in gone:
        blocks[index].forward = lambda hidden_states, *_, **__: (  # type: ignore[assignment]
            (hidden_states,) if family in ("bloom", "falcon") else hidden_states
        )
    tokens_BL = random_tokens(3)
    torch.testing.assert_close(logits(model, tokens_BL), logits(dense, tokens_BL), rtol=1e-5, atol=1e-5)
    for report in outcome.layers:
        index = int(report.name.removeprefix(f"{prefix}.").partition(".")[0])
        assert report.achieved_sparsity == float(index in gone)
    now = prunable_layers(model)
    for name, linear in prunable_layers(dense).items():
        place = outcome.change.place_of(name)
        assert place is None or torch.equal(weight_view(now[place]), weight_view(linear))
    InMemory(model).save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, tokens_BL), logits(model, tokens_BL), rtol=0, atol=1e-5)


@every_depth
def test_a_planted_block_that_does_nothing_goes_first(choice: Choice, random_tokens: Callable[..., Tensor]) -> None:
    """Its output is its input, up to a whisper."""
    model = tiny_model("llama-gqa", num_hidden_layers=5)
    idle: Any = decoder_blocks(model)[1][3]
    with torch.no_grad():
        idle.self_attn.o_proj.weight.mul_(1e-4)
        idle.mlp.down_proj.weight.mul_(1e-4)
    share = num_parameters(idle) / num_parameters(model)
    # What the dense model says itself is what another one says worse, whatever blocks of random weights do.
    own_BL = model.generate(random_tokens(4)[:, :4], max_new_tokens=20, min_new_tokens=20, do_sample=False)
    assert isinstance(own_BL, Tensor)
    assert cut(model, choice, own_BL, share).change.gone == {"model.layers.3"}


@pytest.mark.parametrize("choice", LOOKING, ids=label)
def test_a_planted_channel_and_a_planted_head_that_nobody_reads_go_first(
    choice: Choice, random_tokens: Callable[..., Tensor]
) -> None:
    """Neither made nor read: what a criterion can look at is near zero."""
    model = a_wide_model("llama")
    block: Any = decoder_blocks(model)[1][1]
    with torch.no_grad():
        for channel in range(40, 80):
            for weight_I in (block.mlp.gate_proj.weight[channel], block.mlp.up_proj.weight[channel]):
                weight_I.mul_(1e-3)
            block.mlp.down_proj.weight[:, channel] *= 1e-3
        block.self_attn.v_proj.weight[8:16] *= 1e-3
        block.self_attn.o_proj.weight[:, 8:16] *= 1e-3
    before = block.mlp.gate_proj.weight.clone(), block.self_attn.q_proj.weight.clone()
    cut(model, choice, random_tokens(4), 0.15)
    gates, queries = block.mlp.gate_proj.weight, block.self_attn.q_proj.weight
    left = {tuple(row.tolist()) for row in gates}
    assert not [channel for channel in range(40, 80) if tuple(before[0][channel].tolist()) in left]
    if "head" in METHODS.build(choice).units and len(queries) < len(before[1]):  # type: ignore[attr-defined]
        assert not (queries[:, None] == before[1][None, 8:16]).all(dim=-1).any()


def test_blocks_lose_what_they_are_to_lose_and_no_more_than_they_have() -> None:
    """As 1 to 3 to 6; one that has not so much loses all but one channel, and the others the rest, as 1 to 3."""
    columns_CK = torch.arange(10)[:, None]
    block = [Cuttable(DependencyGroup("channel", "down", columns_CK, {}, {}, {}), 2)]
    model = torch.nn.Linear(20, 10, bias=False)  # of so many parameters is the share
    losses = [1.0, 3.0, 6.0]
    assert fractions_of_blocks(model, [block] * 3, 0.1, losses) == pytest.approx([0.1, 0.3, 0.6])
    assert fractions_of_blocks(model, [block] * 3, 0.2, losses) == pytest.approx([1.1 / 4, 3.3 / 4, 0.9])
    assert fractions_of_blocks(model, [[], block, block], 0.1, [0.0, 1.0, 1.0]) == pytest.approx([0.0, 0.5, 0.5])
    with pytest.raises(UserError, match=r"27\.0%"):
        fractions_of_blocks(model, [block] * 3, 0.28, losses)


def test_the_least_important_go_until_the_share_is_closest() -> None:
    """Over groups of other sizes; the best of every group stays, however bad it is."""
    importances = [[torch.tensor([5.0, 1.0]), torch.tensor([0.1, 0.2, 0.3])], [torch.tensor([3.0, 4.0])]]
    sizes = [[10, 2], [10]]
    kept = kept_over_model(importances, sizes, 14 / 46)
    assert [[kept_C.tolist() for kept_C in block] for block in kept] == [[[0], [2]], [[0, 1]]]
    kept = kept_over_model(importances, sizes, 5 / 46)
    assert [[kept_C.tolist() for kept_C in block] for block in kept] == [[[0, 1], [2]], [[0, 1]]]

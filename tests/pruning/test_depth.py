"""Depth pruning: a block that does nothing goes first, whatever the criterion, and searches keep to their budgets."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.blocks.layers import decoder_blocks, weight_view
from harness.blocks.offload import InMemory
from harness.errors import UserError
from harness.evaluation.perplexity import TrialLoss
from harness.job import Choice
from harness.models.training import Schedule, train
from harness.patterns import Structured
from harness.pruning.context import PruningContext
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.evopress_depth import EvoPressDepth
from harness.pruning.methods.shortened import Shortened
from harness.pruning.methods.whole_model import DepthMethod
from tests.contexts import a_context
from tests.families import tiny_model

CPU = torch.device("cpu")
NOT_PROTECTED: dict[str, Any] = {"protect_first": 0.0, "protect_last": 0.0}
EVERY = [
    *(Choice(name) for name in ("shortgpt", "sleb", "pruneme")),
    *(Choice("shortened", {"criterion": each, **NOT_PROTECTED}) for each in ("perplexity", "taylor", "magnitude")),
    Choice("evopress-depth", {"offspring": 3, "initial": 4, "generations": 3}),
]


def context_of(model: Any, tokens_BL: Tensor) -> PruningContext:
    """That of a job whose held-out sequences are those that it is calibrated on."""
    trials = TrialLoss(model, InMemory(model), tokens_BL, batch_tokens=24, device=CPU)
    return a_context(model, tokens_BL, Structured(0.2), held_out=lambda _: trials)


@pytest.fixture(scope="module")
def redundant() -> tuple[Any, Tensor]:
    """A model that learnt to read the sequences, but for block 2: it writes zeros to the residual stream."""
    model: Any = tiny_model("llama-gqa", num_hidden_layers=5)
    tokens_BL = torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(0))
    train(model, tokens_BL, Schedule(60, 4, 1e-2, 0), {}, after_step=lambda: None)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weight_view(decoder_blocks(model)[1][2].get_submodule(name)).zero_()  # type: ignore[arg-type]
    return model, tokens_BL


@pytest.mark.parametrize("choice", EVERY, ids=lambda choice: "-".join([choice.name, *map(str, choice.params.values())]))
def test_a_block_that_does_nothing_goes_first(choice: Choice, redundant: tuple[Any, Tensor]) -> None:
    """By every criterion, and by every search."""
    method = METHODS.build(choice)
    assert isinstance(method, DepthMethod)
    order, notes = method.removals(context_of(*redundant), 1)
    assert order == [2]
    assert notes


def test_protected_blocks_stay_and_too_many_are_refused(random_tokens: Callable[..., Tensor]) -> None:
    """The first quarter and the last one of four blocks leave two."""
    model: Any = tiny_model("llama-gqa", num_hidden_layers=4)
    context = context_of(model, random_tokens(2))
    method = Shortened("magnitude", protect_first=0.25, protect_last=0.25)
    assert sorted(method.removals(context, 2)[0]) == [1, 2]
    with pytest.raises(UserError, match="leave 2 of 4 blocks to take 3 of"):
        method.removals(context, 3)


def test_trials_on_some_windows_count_every_token_the_same(random_tokens: Callable[..., Tensor]) -> None:
    """Two windows and the first part of a third: the mean over their predicted tokens; one alone predicts nothing."""
    model: Any = tiny_model("llama-gqa")
    tokens_BL = random_tokens(4)
    length = tokens_BL.shape[1]
    trials = TrialLoss(model, InMemory(model), tokens_BL, batch_tokens=24, device=CPU)
    assert trials.shape == tuple(tokens_BL.shape)
    parts = [tokens_BL[[3]], tokens_BL[[0]], tokens_BL[[2], :5]]
    with torch.no_grad():
        sums = [
            float(torch.nn.functional.cross_entropy(model(each).logits[0, :-1], each[0, 1:], reduction="sum"))
            for each in parts
        ]
    assert trials.on([3, 0, 2], 2 * length + 5)({}) == pytest.approx(sum(sums) / (2 * (length - 1) + 4), rel=1e-5)
    assert trials.on([3, 0, 2], 2 * length + 1)({}) == pytest.approx(sum(sums[:2]) / (2 * (length - 1)), rel=1e-5)


def test_an_evolution_ends_with_its_tokens_and_is_the_same_again(random_tokens: Callable[..., Tensor]) -> None:
    """It begins no generation that the budget does not pay for; equal seeds find equal blocks."""
    model: Any = tiny_model("llama-gqa", num_hidden_layers=6)
    context = context_of(model, random_tokens(4))
    length = context.tokens_BL.shape[1]
    sizes = {"initial_tokens": length, "first_tokens": length, "last_tokens": 2 * length}
    of_generation = 3 * length + 2 * 2 * length
    method = EvoPressDepth(
        offspring=3, initial=4, survivors=1, generations=9, trial_tokens=4 * length + 2 * of_generation, **sizes
    )
    (first, (note,)), (again, _) = (method.removals(context, 2) for _ in range(2))
    assert first == again
    assert note.startswith(f"2 of 9 generations, {4 * length + 2 * of_generation:,} tokens")


def test_an_evolution_of_hours_says_so_at_planning() -> None:
    """Of SmolLM2's shapes with the published numbers; a budget makes it short."""
    shapes = {f"model.layers.{index}.mlp.up_proj": (1536, 2300) for index in range(30)}
    said = EvoPressDepth().warning(shapes, CPU)
    assert said is not None
    assert "hours on cpu" in said
    assert EvoPressDepth(trial_tokens=100_000).warning(shapes, CPU) is None

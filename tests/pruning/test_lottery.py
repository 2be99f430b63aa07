"""Lottery tickets: what is rewound, what is pruned, and what the controls differ in."""

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.layers import PrunableLinear, prunable_layers, weight_view
from harness.models import training
from harness.models.digits import DigitsCnn, DigitsConfig
from harness.models.objective import Objective, objective_of
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.context import PruningOutcome
from harness.pruning.methods import lottery as lottery_module
from harness.pruning.methods.lottery import Lottery, initialise
from tests.contexts import a_context
from tests.families import tiny_model
from tests.models.convolutions import randomised


def draw_ticket(
    model: PreTrainedModel, rows_BL: Tensor, pattern: Pattern | None = None, **parameters: object
) -> PruningOutcome:
    """Few rounds of few steps."""
    method = Lottery(**{"rounds": 2, "steps": 3, "batch": 2, **parameters})  # type: ignore[arg-type]
    return method.run(a_context(model, rows_BL, pattern or Unstructured(0.75), batch_tokens=64))


def masks(model: PreTrainedModel) -> list[Tensor]:
    """Where the weights are zero, layer by layer."""
    return [weight_view(linear) == 0 for linear in prunable_layers(model).values()]


def network_named(name: str) -> PreTrainedModel:
    """A tiny language model, or a network of images whose running statistics are not those of a new one."""
    if name != "digits":
        return tiny_model(name)
    model = digits_model()
    randomised(model)
    return model


def watch_starts(monkeypatch: pytest.MonkeyPatch, steps: int) -> list[dict[str, Tensor]]:
    """The whole state of the model when the first loss of every training from now on is about to be computed."""
    starts: list[dict[str, Tensor]] = []
    calls = 0

    def watched(trained: nn.Module) -> Objective:
        loss_of = objective_of(trained)

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            nonlocal calls
            if calls % steps == 0:
                starts.append({name: value.clone() for name, value in model.state_dict().items()})
            calls += 1
            return loss_of(model, batch)

        return loss

    monkeypatch.setattr(training, "objective_of", watched)
    return starts


@pytest.mark.parametrize("start", ["checkpoint", "random"])
@pytest.mark.parametrize("network", ["llama-gqa", "gpt2", "digits"])
def test_every_training_starts_where_the_first_did(
    network: str, start: str, random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewinding: at the first step of every training, the survivors and all else that the model has, embeddings, norms
    and their running statistics, are what they were in the first one; no weight that was removed once comes back, and
    every round removes the same fraction of what is left.
    """
    model = network_named(network)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = copy.deepcopy(model)
    if start == "random":
        initialise(first, 0)
    expected = first.state_dict()
    pruned = {f"{name}.weight" for name in prunable_layers(model)}
    assert all(torch.equal(expected[name], before[name]) == (start == "checkpoint") for name in pruned)
    starts = watch_starts(monkeypatch, steps=3)
    rows_BL = digit_like_rows() if network == "digits" else random_tokens(6, 8)
    draw_ticket(model, rows_BL, granularity="model", start=start)
    zeros = [{name: state[name] == 0 for name in pruned} for state in starts]
    for state, removed in zip(starts, zeros, strict=True):
        assert state.keys() == expected.keys()
        for name, value in state.items():
            wanted = expected[name].masked_fill(removed[name], 0.0) if name in pruned else expected[name]
            assert torch.equal(value, wanted), name
    total = sum(expected[name].numel() for name in pruned)
    counts = [sum(int(mask.sum()) for mask in removed.values()) for removed in zeros]
    assert counts == [0, int(total * 0.5), int(total * 0.75)]
    assert all(bool(new[name][old[name]].all()) for old, new in pairwise(zeros) for name in pruned)
    after = model.state_dict()
    assert all(torch.equal(after[name] == 0, zeros[-1][name]) for name in pruned)
    # Training moves everything there is, so that whatever was not rewound would have been seen.
    assert not [name for name, value in after.items() if torch.equal(value, expected[name])]


def test_the_smallest_trained_weights_go(random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """One round with a training that sets known weights: the mask is theirs, and the survivors are the first ones."""
    model = tiny_model("llama")
    start = [weight_view(linear).clone() for linear in prunable_layers(model).values()]
    trained = [torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) for weight in start]
    calls = 0

    def fake(self: Lottery, linears: dict[str, PrunableLinear], removed: dict[str, Tensor], *_: object) -> float:
        nonlocal calls
        calls += 1
        for linear, new_OI, mask_OI in zip(linears.values(), trained, removed.values(), strict=True):
            weight_view(linear).copy_(new_OI if calls == 1 else weight_view(linear).masked_fill(mask_OI, 0.0))
        return 0.0

    monkeypatch.setattr(lottery_module.Lottery, "_train", fake)
    draw_ticket(model, random_tokens(2, 8), rounds=1, granularity="layer")
    for linear, first_OI, trained_OI in zip(prunable_layers(model).values(), start, trained, strict=True):
        limit = trained_OI.abs().flatten().sort().values[int(trained_OI.numel() * 0.75)]
        torch.testing.assert_close(weight_view(linear), first_OI * (trained_OI.abs() >= limit), rtol=0, atol=0)


def test_groups_lose_one_weight_after_the_other(random_tokens: Callable[..., Tensor]) -> None:
    """4:8 in two rounds is 6:8 and then 4:8; more rounds than there are weights to remove are not made."""
    assert [pattern for pattern, _ in Lottery(rounds=2)._targets(SemiStructured(4, 8))] == [
        SemiStructured(6, 8),
        SemiStructured(4, 8),
    ]
    assert [pattern for pattern, _ in Lottery(rounds=9)._targets(SemiStructured(1, 4))] == [
        SemiStructured(3, 4),
        SemiStructured(2, 4),
        SemiStructured(1, 4),
    ]
    model = tiny_model("llama")
    outcome = draw_ticket(model, random_tokens(4, 8), SemiStructured(2, 4))
    assert all(mask.reshape(-1, 4).sum(dim=1).unique().tolist() == [2] for mask in masks(model))
    assert len(outcome.notes) == 3


def test_controls_differ_in_what_they_should(random_tokens: Callable[..., Tensor]) -> None:
    """New weights under the ticket's mask; another mask of the same size, for which nothing is trained before."""
    found = {}
    for control in ("none", "random_weights", "random_mask"):
        model = tiny_model("llama")
        found[control] = (masks_after := draw_ticket(model, random_tokens(4, 8), control=control)), masks(model), model
        assert masks_after.layers
    (ticket, ticket_masks, ticket_model), (_, same, other_model), (random, other, _) = found.values()
    assert all(torch.equal(first, second) for first, second in zip(ticket_masks, same, strict=True))
    assert not torch.equal(*(next(model.parameters()) for model in (ticket_model, other_model)))
    assert not all(torch.equal(first, second) for first, second in zip(ticket_masks, other, strict=True))
    assert sum(int(mask.sum()) for mask in other) == sum(int(mask.sum()) for mask in ticket_masks)
    assert (len(ticket.notes), len(random.notes)) == (3, 1)
    assert "random mask" in random.notes[0]


def test_only_linears_are_trained_when_asked_for(random_tokens: Callable[..., Tensor]) -> None:
    """Nothing else changes, running statistics of normalisation included."""
    for model, rows in ((tiny_model("opt"), random_tokens(4, 8)), (digits_model(), digit_like_rows())):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        draw_ticket(model, rows, train="linears")
        linears = {f"{name}.weight" for name in prunable_layers(model)}
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == linears


def test_images_are_trained_on_too() -> None:
    """A network of another kind brings its own loss; its normalisation learns the images' statistics."""
    model = digits_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    draw_ticket(model, digit_like_rows())
    total = sum(mask.numel() for mask in masks(model))
    assert sum(int(mask.sum()) for mask in masks(model)) == int(total * 0.75)
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])


def test_new_weights_are_those_of_a_new_model(random_tokens: Callable[..., Tensor]) -> None:
    """The same for equal seeds, others for another; the global random state stays."""
    models = [tiny_model("opt") for _ in range(3)]
    state = torch.random.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        initialise(model, seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, second, third = (weight_view(next(iter(prunable_layers(model).values()))) for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_learning_rate_that_is_too_high_fails_loudly(random_tokens: Callable[..., Tensor]) -> None:
    """A loss that is no number ends the job; no ticket is made of it."""
    with pytest.raises(ArithmeticError, match="learning rate"):
        draw_ticket(tiny_model("llama"), random_tokens(4, 8), learning_rate=1e30, steps=10)


def digits_model() -> DigitsCnn:
    """A small network of random weights."""
    torch.manual_seed(0)
    return DigitsCnn(DigitsConfig(widths=(4, 8), hidden_width=8)).eval()


def digit_like_rows() -> Tensor:
    """Twelve random images with labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 17, (12, 64), generator=generator)
    return torch.cat([pixels, torch.randint(0, 10, (12, 1), generator=generator)], dim=1)

"""Blocks are replayed with the model's own calls, and inputs are observed where they are."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.blocks.calls import BlockCall
from harness.blocks.inputs import InputObserver
from harness.blocks.layers import decoder_blocks, prunable_linears
from harness.blocks.offload import InMemory
from harness.blocks.runner import BlockRunner
from harness.calibration.statistics import FeatureNorm, InputHessian
from tests.families import tiny_model


def recorded_by(model: nn.Module, batches: list[Tensor]) -> BlockRunner:
    """In front of the first block, with the recorded calls of all."""
    return BlockRunner(model, batches, InMemory(model), torch.device("cpu"))


@contextmanager
def blocks_watched(blocks: nn.ModuleList) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(input, output) of every block in the order in which the model runs them."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append((hidden.clone(), (output[0] if isinstance(output, tuple) else output).clone()))

    handles = [block.register_forward_hook(hook, with_kwargs=True) for block in blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def test_replayed_blocks_compute_what_the_model_computes(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """For every family, replaying the recorded calls block by block gives the bits of the model's own forward pass,
    also for batches of different sizes.
    """
    model = tiny_model(family)
    _, blocks = decoder_blocks(model)
    batches = list(random_tokens(3).split(2))
    recorded = recorded_by(model, batches)
    for place, batch in enumerate(batches):
        with blocks_watched(blocks) as real:
            model(input_ids=batch, use_cache=False)
        hidden = recorded.hidden[place]
        assert len(real) == len(blocks)
        for block, calls, (expected_in, expected_out) in zip(blocks, recorded.calls, real, strict=True):
            assert torch.equal(hidden, expected_in)
            hidden = calls[place].replay(block, hidden)
            assert torch.equal(hidden, expected_out)


@torch.no_grad()
def test_recording_leaves_the_model_as_it_was(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Afterwards the model computes the same bits, with no forward or hook of ours left on it."""
    model = tiny_model(family)
    tokens = random_tokens(2)
    before = model(input_ids=tokens, use_cache=False).logits
    recorded_by(model, [tokens])
    assert torch.equal(model(input_ids=tokens, use_cache=False).logits, before)
    assert not any("forward" in vars(block) for block in decoder_blocks(model)[1])


def test_a_failing_model_is_left_as_it_was() -> None:
    """An error inside a block comes out as itself, and the blocks' forwards come back."""
    model = tiny_model("llama")
    _, blocks = decoder_blocks(model)
    with pytest.raises(IndexError):
        recorded_by(model, [torch.tensor([[1, 10_000]])])
    assert not any("forward" in vars(block) for block in blocks)


def test_sliding_and_full_attention_keep_their_own_masks(random_tokens: Callable[..., Tensor]) -> None:
    """Gemma-3's blocks alternate between two masks; each block's call holds its own."""
    model = tiny_model("gemma-3")
    recorded = recorded_by(model, [random_tokens(1)])
    masks = [calls[0].kwargs["attention_mask"] for calls in recorded.calls]
    assert masks[0] is masks[2]
    assert masks[1] is masks[3]
    assert masks[0] is not masks[1]


def test_equal_arguments_of_many_batches_are_kept_once(random_tokens: Callable[..., Tensor]) -> None:
    """Masks and rotary tables of equal batches are one tensor in memory, not one a batch and block."""
    recorded = recorded_by(tiny_model("gemma-2"), list(random_tokens(6).split(1)))

    def tensors(value: Any) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            for item in value.values():
                yield from tensors(item)
        elif isinstance(value, tuple | list):
            for item in value:
                yield from tensors(item)

    one_batch = {id(tensor) for calls in recorded.calls for tensor in tensors(calls[0].kwargs)}
    all_batches = {
        id(tensor) for calls in recorded.calls for call in calls for tensor in tensors((call.args, call.kwargs))
    }
    assert all_batches == one_batch


class Shared(nn.Module):
    """Two linears on one input, a third on another tensor of the same shape, which often reuses freed memory."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.o = (nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states * 1.0
        mixed = self.q(x) + self.k(x)
        del x
        gc.collect()
        output: Tensor = self.o(mixed * 3.0)
        return output


def observe(block: nn.Module, inputs: list[Tensor], *, sample_tokens: int = 100, stop_early: bool = False) -> Any:
    """An observer that has seen `block` run on `inputs`."""
    observer = InputObserver(
        prunable_linears(block), (FeatureNorm, InputHessian), sample_tokens=sample_tokens, stop_early=stop_early
    )
    for hidden in inputs:
        observer.forward(block, BlockCall((), {}, True), hidden)
    return observer


@torch.no_grad()
def test_only_the_very_same_input_is_shared() -> None:
    """Linears q and k see one tensor and share a statistic; o sees another of equal shape and has its own."""
    torch.manual_seed(0)
    block = Shared()
    inputs = [torch.randn(2, 3, 4), torch.randn(1, 3, 4)]
    groups = observe(block, inputs).groups
    assert [group.names for group in groups] == [["q", "k"], ["o"]]
    x_TI = torch.cat([part.reshape(-1, 4) for part in inputs])
    mixed_TI = (x_TI @ block.q.weight.T + x_TI @ block.k.weight.T) * 3.0
    for group, expected_TI in zip(groups, (x_TI, mixed_TI), strict=True):
        norm = group.statistics[FeatureNorm]
        assert (norm.num_tokens, norm.num_sequences) == (9, 3)
        torch.testing.assert_close(norm.sum_of_squares_I, expected_TI.square().sum(0))
        torch.testing.assert_close(group.sample_TI, expected_TI)


@torch.no_grad()
def test_grouped_query_attention_gives_every_input_its_own_statistic(random_tokens: Callable[..., Tensor]) -> None:
    """q/k/v share one, gate/up share one, o_proj and down_proj have their own, equal to what a plain hook sees."""
    model = tiny_model("llama-gqa")
    _, blocks = decoder_blocks(model)
    seen: dict[str, list[Tensor]] = {}
    handles = [
        linear.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0].clone()))
        for name, linear in prunable_linears(blocks[0]).items()
    ]
    batches = list(random_tokens(4).split(1))
    for batch in batches:
        model(input_ids=batch, use_cache=False)
    for handle in handles:
        handle.remove()
    recorded = recorded_by(model, batches)
    observer = InputObserver(prunable_linears(blocks[0]), (FeatureNorm,), sample_tokens=1, stop_early=True)
    for call, hidden in zip(recorded.calls[0], recorded.hidden, strict=True):
        assert observer.forward(blocks[0], call, hidden) is None
    assert [group.names for group in observer.groups] == [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]
    for group in observer.groups:
        for name in group.names:
            expected = sum((part.square().sum((0, 1)) for part in seen[name]), torch.zeros(1))
            torch.testing.assert_close(group.statistics[FeatureNorm].sum_of_squares_I, expected)


def test_the_sample_is_the_first_tokens() -> None:
    """Errors are measured on the first tokens of the calibration, whatever the batches."""
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 4), torch.randn(2, 3, 4)]
    sample_TI = observe(Shared(), inputs, sample_tokens=8).groups[0].sample_TI
    assert torch.equal(sample_TI, torch.cat(inputs).reshape(-1, 4)[:8])


@torch.no_grad()
def test_hooks_change_nothing_and_come_off() -> None:
    """The observed output is the plain output, and no hook stays, also when the block fails or is ended early."""
    torch.manual_seed(0)
    block = Shared()
    x = torch.randn(1, 3, 4)
    observer = InputObserver(prunable_linears(block), (FeatureNorm,), sample_tokens=1, stop_early=False)
    output = observer.forward(block, BlockCall((), {}, True), x)
    assert output is not None
    assert torch.equal(output, block(x))
    with pytest.raises(RuntimeError):
        observer.forward(block, BlockCall((), {}, True), torch.randn(1, 3, 5))
    observe(block, [x], stop_early=True)
    assert not any(module._forward_pre_hooks for module in block.modules())


class Parting(nn.Module):
    """Linears a and b are given the same input, another one each, or a alone is given one: as each pass says."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(4, 4, bias=False) for _ in range(2))
        self.given = "both"

    def forward(self, hidden_states: Tensor) -> Tensor:
        output: Tensor = self.a(hidden_states)
        if self.given != "first":
            output = output + self.b(hidden_states if self.given == "both" else hidden_states * 2.0)
        return output


@pytest.mark.parametrize("passes", [("both", "each"), ("both", "first", "both"), ("first", "both"), ("each", "both")])
@torch.no_grad()
def test_an_input_counts_once_for_each_linear_that_is_given_it(passes: tuple[str, ...]) -> None:
    """Linears that part after having shared go on alone, without what the other one was given meanwhile."""
    torch.manual_seed(0)
    block = Parting()
    observer = InputObserver(prunable_linears(block), (FeatureNorm,), sample_tokens=100, stop_early=False)
    given: dict[str, list[Tensor]] = {"a": [], "b": []}
    for block.given in passes:
        x = torch.randn(1, 3, 4)
        observer.forward(block, BlockCall((), {}, True), x)
        given["a"].append(x[0])
        if block.given != "first":
            given["b"].append(x[0] if block.given == "both" else x[0] * 2.0)
    groups = {name: group for group in observer.groups for name in group.names}
    assert groups["a"] is not groups["b"]
    for name, parts in given.items():
        norm = groups[name].statistics[FeatureNorm]
        assert (norm.num_tokens, norm.num_sequences) == (3 * len(parts), len(parts))
        torch.testing.assert_close(norm.sum_of_squares_I, torch.cat(parts).square().sum(0))
        assert torch.equal(groups[name].sample_TI, torch.cat(parts))


class Skipping(Shared):
    """Its last linear sees a token only in some passes."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.q(hidden_states)


def test_a_linear_that_no_token_reaches_is_in_no_group() -> None:
    """A layer without calibration is left out, so that the walk can refuse it by name."""
    assert [group.names for group in observe(Skipping(), [torch.randn(1, 3, 4)]).groups] == [["q"]]


def test_no_token_is_no_observation() -> None:
    """An expert that no token of a batch is sent to has seen nothing yet, and says nothing of its inputs."""
    some, none = torch.randn(1, 3, 4), torch.randn(1, 0, 4)
    block = Shared()
    assert observe(block, [none]).groups == []
    with_empty, without = observe(block, [none, some]).groups, observe(block, [some]).groups
    assert [group.names for group in with_empty] == [group.names for group in without]
    for one, other in zip(with_empty, without, strict=True):
        found_I, expected_I = (each.statistics[FeatureNorm].sum_of_squares_I for each in (one, other))
        assert torch.equal(found_I, expected_I)

"""Sizes are those that a loop counts and a file has; speeds are of the same work, alternating with the dense model."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.blocks.layers import prunable_layers, weight_view
from harness.evaluation.kinds.efficiency import Efficiency, EfficiencyProtocol
from harness.evaluation.sizes import is_two_of_four, sizes_of
from harness.evaluation.speed import Pass, median, semi_structured, threads, timings
from tests.families import tiny_model

CPU = torch.device("cpu")


def with_zeros(name: str) -> Any:
    """The first linear is 2:4, and of the others every third column is zero."""
    model = tiny_model(name)
    for number, linear in enumerate(prunable_layers(model).values()):
        weight_OI = weight_view(linear)
        if number:
            weight_OI[:, ::3] = 0.0
        else:
            weight_OI.view(len(weight_OI), -1, 4)[:, :, 1:3] = 0.0
    return model


@pytest.mark.parametrize("name", ["llama-gqa", "opt", "mixtral"])
def test_sizes_are_counted(name: str, tmp_path: Path) -> None:
    """By loops over the weights of a model in float32, and by the file that transformers writes of it."""
    model = with_zeros(name)
    found = sizes_of(model, CPU)
    weights: list[Tensor] = [weight.data for weight in model.parameters()]
    linears = [weight_view(linear) for linear in prunable_layers(model).values()]
    rest = 4 * (sum(each.numel() for each in weights) - sum(each.numel() for each in linears))
    kept = [sum(value != 0.0 for value in each.flatten().tolist()) for each in linears]
    assert found["parameters"] == sum(each.numel() for each in weights)
    assert found["nonzeros"] == sum(value != 0.0 for each in weights for value in each.flatten().tolist())
    assert found["bytes_dense"] == 4 * found["parameters"]
    bits = [math.ceil(each.numel() / 8) for each in linears]
    assert found["bytes_bitmap"] == rest + sum(4 * count + more for count, more in zip(kept, bits, strict=True))
    rows = sum(len(each) + 1 for each in linears)
    assert found["bytes_csr"] == rest + 8 * sum(kept) + 4 * rows
    first, *others = linears
    assert is_two_of_four(first)
    assert not any(map(is_two_of_four, others))
    halved = 4 * first.numel() // 2 + first.numel() // 8
    assert found["bytes_2_4"] == rest + halved + 4 * sum(each.numel() for each in others)
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    room = 2048 if name == "mixtral" else 64  # whose experts have names of their own in the file's header
    assert abs(found["bytes_on_disk"] - file.stat().st_size) <= room
    if name == "llama-gqa":
        head = model.lm_head.weight
        assert found["macs_per_token"] == sum(each.numel() for each in linears) + head.numel()


@pytest.mark.parametrize("name", ["llama-gqa", "gpt2", "qwen3"])
def test_what_is_timed_is_greedy_decoding_from_a_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens that go in one after the other are those that transformers generates."""
    model: Any = tiny_model(name)
    prompt_BL = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    lengths, fed = [], []
    own = type(model).forward

    def forward(self: Any, input_ids: Tensor, logits_to_keep: int = 0, **options: Any) -> Any:
        lengths.append(input_ids.shape[1])
        fed.append(input_ids)
        return own(self, input_ids=input_ids, logits_to_keep=logits_to_keep, **options)

    monkeypatch.setattr(type(model), "forward", forward)
    first, further = Pass(prompt_BL, 5)(model)
    assert first > 0
    assert further > 0
    assert lengths == [9, 1, 1, 1, 1, 1]
    monkeypatch.undo()
    expected = model.generate(prompt_BL, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(torch.cat(fed, dim=1), expected)


def test_a_model_without_a_cache_has_no_speed_of_decoding() -> None:
    """Its first token has one all the same."""
    first, further = Pass(torch.ones(1, 8, dtype=torch.long), 3)(tiny_model("mamba"))  # type: ignore[arg-type]
    assert 0 < first < math.inf
    assert further == math.inf


def test_rounds_alternate_and_the_first_does_not_count() -> None:
    """Each contender goes first in turn."""
    order: list[str] = []
    clock = itertools.count(1)

    def contender(name: str) -> Any:
        def one() -> tuple[float, float]:
            order.append(name)
            return float(next(clock)), 1.0

        return one

    found = timings({name: contender(name) for name in "ab"}, 4, lambda: None)
    assert "".join(order) == "baabbaabba"[: len(order)]
    assert len(order) == 10
    assert found.first == {"a": [3.0, 6.0, 7.0, 10.0], "b": [4.0, 5.0, 8.0, 9.0]}
    assert (median([1.0, 5.0, 2.0]).value, median([1.0]).stderr) == (2.0, None)
    assert median([1.0, 5.0, 2.0]).stderr == pytest.approx(1.2533 * 2.0817 / 3**0.5, rel=1e-4)


def test_the_fullest_moment_has_the_weights_and_what_a_longer_prompt_adds() -> None:
    """Counted from the tensors that are alive."""
    model: Any = tiny_model("llama-gqa")
    weights = sum(each.numel() * 4 for each in model.parameters())
    short, long = (Pass(torch.ones(1, size, dtype=torch.long), 4).peak_memory(model) for size in (8, 32))
    states = 32 * 4 * model.config.hidden_size
    assert weights + 8 * 4 * model.config.hidden_size < short < long
    assert long - weights > states


def test_threads_are_given_back_and_nothing_is_made_sparse_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an accelerator no weight takes the form of its kernels."""
    asked, before = list[int](), torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", asked.append)  # which would break tests that fork
    for count, expected in ((before + 1, before + 1), (None, before), (before, before)):
        with threads(count) as known:
            assert known == expected
    assert asked == [before + 1, before]
    model = with_zeros("llama-gqa")
    held = [linear.weight.data_ptr() for linear in prunable_layers(model).values()]
    with semi_structured(model):
        assert [linear.weight.data_ptr() for linear in prunable_layers(model).values()] == held


def test_the_key_says_what_decides_a_speed() -> None:
    """Batch, lengths and threads; the rounds decide its error alone."""
    asked = Efficiency(("size", "speed"), speed_batch=4, prompt_tokens=128, new_tokens=8, speed_threads=2)
    keys = [protocol.key for protocol, _ in asked.ask(lambda name: pytest.fail(name))]
    assert keys == ["efficiency:size:v1", "efficiency:speed:batch4:prompt128:new8:threads2:v1"]
    assert EfficiencyProtocol("speed", rounds=3).key == EfficiencyProtocol("speed", rounds=9).key

"""KL divergence from the dense model against code that spells it out."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.blocks.layers import prunable_layers
from harness.blocks.offload import InMemory
from harness.blocks.runner import Behind, BlockRunner, in_batches
from harness.evaluation.divergence import ROWS, Divergence, divergence, estimate
from harness.progress import Silent
from tests.families import tiny_model

CPU = torch.device("cpu")


def behind(model: Any, windows_NL: Tensor) -> Behind:
    """The windows behind the blocks of a model in memory, in batches of two."""
    batches = in_batches(windows_NL, 2 * windows_NL.shape[1])
    return BlockRunner(model, batches, InMemory(model), CPU).behind(lambda: None)


def damaged(family: str) -> Any:
    """The tiny model with the half of every layer's weights gone that is smaller."""
    model = tiny_model(family)
    with torch.no_grad():
        for layer in prunable_layers(model).values():
            layer.weight[layer.weight.abs() < layer.weight.abs().median()] = 0.0
    return model


@torch.no_grad()
def obvious(dense: Any, pruned: Any, windows_NL: Tensor) -> list[list[tuple[float, float, float, float]]]:
    """(KL, same likeliest token, lost, gained) of every position of every window: whole softmaxes in float64, loops."""
    found = []
    for window_L in windows_NL:
        p_LV, q_LV = (each(input_ids=window_L[None]).logits[0].double().softmax(-1) for each in (dense, pruned))
        of_window = []
        for place in range(len(window_L) - 1):
            p, q, following = p_LV[place].tolist(), q_LV[place].tolist(), int(window_L[place + 1])
            kl = math.fsum(one * (math.log(one) - math.log(other)) for one, other in zip(p, q, strict=True))
            was, now = p.index(max(p)), q.index(max(q))
            of_window.append((kl, was == now, was == following != now, now == following != was))
        found.append(of_window)
    return found


def measure(dense: Any, pruned: Any, windows_NL: Tensor) -> Divergence:
    """On the CPU."""
    both = ((each, behind(each, windows_NL)) for each in (dense, pruned))
    return divergence(*both, windows_NL, device=CPU, reporter=Silent())


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "gemma-2"])
def test_it_is_what_whole_softmaxes_say(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """To 1e-6 nats, over more positions than are compared at a time; so are the tokens that changed."""
    dense, pruned, windows_NL = tiny_model(family), damaged(family), random_tokens(5)
    expected = torch.tensor(obvious(dense, pruned, windows_NL), dtype=torch.float64).mean(dim=1)
    found = measure(dense, pruned, windows_NL)
    torch.testing.assert_close(torch.stack(list(found), dim=1), expected, rtol=0.0, atol=1e-6)
    assert float(found.kl.min()) > 1e-4
    mean = estimate(found.kl)
    assert mean.value == pytest.approx(float(expected[:, 0].mean()), abs=1e-6)
    assert mean.stderr == pytest.approx(float(expected[:, 0].std()) / math.sqrt(5), abs=1e-6)
    assert mean.count == 5


def test_long_windows_are_compared_in_parts(random_tokens: Callable[..., Tensor]) -> None:
    """Windows of more positions than go through the head at a time."""
    long = {"max_position_embeddings": 4 * ROWS}
    dense, windows_NL = tiny_model("llama", **long), random_tokens(2, 2 * ROWS + 7)
    pruned = tiny_model("llama", **long)
    with torch.no_grad():
        next(iter(prunable_layers(pruned).values())).weight.zero_()
    expected = torch.tensor(obvious(dense, pruned, windows_NL), dtype=torch.float64).mean(dim=1)
    found = torch.stack(list(measure(dense, pruned, windows_NL)), dim=1)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_nowhere_from_itself(dtype: torch.dtype, random_tokens: Callable[..., Tensor]) -> None:
    """Exactly 0 nats, exactly all tokens."""
    windows_NL = random_tokens(3)
    one, same = (tiny_model("llama-gqa").to(dtype) for _ in range(2))
    found = measure(one, same, windows_NL)
    assert found.kl.tolist() == [0.0] * 3
    assert found.agreement.tolist() == [1.0] * 3
    assert found.lost.tolist() == found.gained.tolist() == [0.0] * 3


def test_logits_that_are_no_numbers_have_no_divergence(random_tokens: Callable[..., Tensor]) -> None:
    """None, not NaN; and one window has no error."""
    dense, broken, windows_NL = tiny_model("llama"), tiny_model("llama"), random_tokens(2)
    with torch.no_grad():
        list(prunable_layers(broken).values())[-1].weight.fill_(math.nan)
    assert estimate(measure(dense, broken, windows_NL).kl).value is None
    assert estimate(torch.tensor([0.5])).stderr is None

"""Hidden states stay on the device while they fit there; elsewhere they come and go, and no number depends on it."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.blocks import offload
from harness.blocks.activations import Activations
from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import InMemory
from harness.blocks.runner import BlockRunner, in_batches
from harness.job import Choice
from harness.patterns import SemiStructured
from harness.pruning.fingerprints import weights_fingerprint
from harness.pruning.methods.base import METHODS, LayerwiseMethod
from tests.accelerator import CPU, DEVICE, Accelerator
from tests.contexts import a_context
from tests.families import tiny_model

MIB = 2**20


@pytest.mark.parametrize(
    ("free", "reserved", "place"),
    [(100, None, DEVICE), (50, None, CPU), (100, 70, DEVICE), (100, 75, CPU), (sys.maxsize, None, DEVICE)],
)
def test_they_are_on_the_device_while_they_fit(
    free: int, reserved: int | None, place: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what is reserved for blocks and solves; half of what is free where nobody says how much that is."""
    monkeypatch.setattr(offload, "free_memory", lambda device: free * MIB)
    blocks = InMemory(tiny_model("llama"), reserved if reserved is None else reserved * MIB)
    with Accelerator():
        assert blocks.activations((15, MIB), torch.bfloat16, DEVICE).device == place
    assert blocks.activations((15, MIB), torch.bfloat16, CPU).device == CPU


@pytest.mark.parametrize("propagation", ["pruned", "dense"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_what_does_not_fit_gives_the_same_weights(
    method: str, propagation: str, random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From main memory, batch by batch, as from the device."""
    outcomes, copies = [], []
    for free in (sys.maxsize, 0):
        monkeypatch.setattr(offload, "free_memory", lambda device, free=free: free)
        model, built = tiny_model("llama-gqa", _attn_implementation="eager"), METHODS.build(Choice(method))
        assert isinstance(built, LayerwiseMethod)
        with Accelerator() as accelerator:
            context = a_context(model, random_tokens(4), SemiStructured(2, 4), propagation=propagation, device=DEVICE)
            outcome = built.run(context)
        outcomes.append((outcome.layers, weights_fingerprint(model)))
        copies.append(accelerator.waits.count("aten.copy_.default"))
    assert outcomes[0] == outcomes[1]
    num_weights = sum(len(list(block.parameters())) for block in decoder_blocks(model)[1])
    assert copies[0] == num_weights, "weights go back, and nothing else does"
    assert copies[1] > num_weights


def test_the_first_block_runs_once_on_one_sequence_before_its_turn(random_tokens: Callable[..., Tensor]) -> None:
    """To see the form of its output; on the device, as all that comes before the blocks."""
    model = tiny_model("llama", _attn_implementation="eager")
    seen: list[tuple[torch.Size, torch.device]] = []
    first = decoder_blocks(model)[1][0].get_submodule("mlp")
    first.register_forward_pre_hook(lambda _, args: seen.append((args[0].shape, args[0].device)))
    with Accelerator(), torch.no_grad():
        runner = BlockRunner(model, in_batches(random_tokens(6), 24), InMemory(model), DEVICE)
        assert [(shape[0], device) for shape, device in seen] == [(1, DEVICE)]
        assert all(hidden.device == DEVICE for hidden in runner.hidden)
    assert all(tensor.device == CPU for tensor in model.state_dict().values())


def test_an_output_of_another_shape_has_memory_of_its_own() -> None:
    """As behind a convolution with pooling; one of the same shape overwrites the buffer."""
    held = Activations(3, lambda shape, dtype, device: torch.zeros(shape, dtype=dtype), CPU)
    held.append(torch.ones(2, 4))
    held.append(torch.ones(1, 4))
    buffer = held[0]
    held.put(0, torch.full((2, 4), 2.0))
    held.put(1, torch.full((1, 2), 3.0))
    assert buffer.tolist() == [[2.0] * 4] * 2
    assert [part.tolist() for part in held.on_device()] == [[[2.0] * 4] * 2, [[3.0] * 2]]
    twin = held.clone()
    twin.put(0, torch.zeros(2, 4))
    assert held[0].tolist() == [[2.0] * 4] * 2
    with pytest.raises(AssertionError, match=r"made torch\.float64"):
        held.put(0, torch.zeros(2, 4, dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("reserved", [0, sys.maxsize], ids=["on the device", "in main memory"])
def test_cuda_computes_on_what_was_put_there(reserved: int) -> None:
    """Ten rounds of copies there and back, one batch ahead, beside work long enough for a race to be seen."""
    device, blocks = torch.device("cuda:0"), InMemory(tiny_model("llama"), reserved)
    held = Activations(8, blocks.activations, device)
    for number in range(8):
        held.append(torch.full((1, 512, 512), float(number), device=device))
    assert held[0].is_pinned() == (reserved > 0)
    ones = torch.eye(512, device=device)
    for _ in range(10):
        for place, here in enumerate(held.on_device()):
            for _ in range(20):
                here = here @ ones
            held.put(place, here + 1)
    assert [float(part.mean()) for part in held] == [number + 10.0 for number in range(8)]

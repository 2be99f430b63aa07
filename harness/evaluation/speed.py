"""How fast a model reads a prompt and writes on, in rounds that alternate with the dense model in one process."""

import inspect
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import PreTrainedModel

from harness.blocks.layers import PrunableLinear, prunable_layers
from harness.blocks.slots import outside_on
from harness.evaluation.base import Estimate
from harness.evaluation.sizes import is_two_of_four
from harness.models.loading import LoadedModel

ERROR_OF_MEDIAN = 1.2533
"""Standard error of a median over that of a mean, of values that are spread normally."""
Contender = Callable[[], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Pass:
    """What is timed: a prompt is read, then tokens are written one after the other from the keys and values kept.

    Args:
        prompt_BL: tokens, on the device.
        new_tokens: of every sequence, each the likeliest.
    """

    prompt_BL: Tensor
    new_tokens: int

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel) -> tuple[float, float]:
        """Seconds until the first token is there, and of the further ones: infinite of a model that keeps no cache."""
        last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        start = self._now()
        said = model(input_ids=self.prompt_BL, use_cache=True, **last)
        next_B1 = said.logits[:, -1:].argmax(dim=-1)
        first = self._now()
        if (kept := getattr(said, "past_key_values", None)) is None:
            return first - start, float("inf")
        for _ in range(self.new_tokens):
            said = model(input_ids=next_B1, past_key_values=kept, use_cache=True, **last)
            next_B1 = said.logits[:, -1:].argmax(dim=-1)
        return first - start, self._now() - first

    def _now(self) -> float:
        if self.prompt_BL.device.type == "cuda":
            torch.cuda.synchronize(self.prompt_BL.device)
        return time.perf_counter()

    def peak_memory(self, model: PreTrainedModel) -> int:
        """Bytes of the model's weights and of all tensors at the fullest moment of reading the prompt."""
        device, read = self.prompt_BL.device, replace(self, new_tokens=0)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            read(model)
            weights = sum(each.numel() * each.itemsize for each in (*model.parameters(), *model.buffers()))
            return weights + torch.cuda.max_memory_allocated(device) - before
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            read(model)
        return int(tracker.get_tracker_snapshot("peak")[device]["Total"])


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds a round of every contender, by name: until the first token, and of the further ones."""

    first: Mapping[str, list[float]] = field(default_factory=dict)
    further: Mapping[str, list[float]] = field(default_factory=dict)


def timings(contenders: Mapping[str, Contender], rounds: int, advance: Callable[[], None]) -> Timings:
    """Every contender once a round, each time another one first, after a round that does not count."""
    found = Timings({name: [] for name in contenders}, {name: [] for name in contenders})
    names = list(contenders)
    for number in range(-1, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            first, further = contenders[name]()
            if number >= 0:
                found.first[name].append(first)
                found.further[name].append(further)
        advance()
    return found


def median(values: Sequence[float]) -> Estimate:
    """The median with its standard error."""
    spread = statistics.stdev(values) / len(values) ** 0.5 * ERROR_OF_MEDIAN if len(values) > 1 else None
    return Estimate(statistics.median(values), spread, len(values))


@contextmanager
def whole(loaded: LoadedModel, device: torch.device) -> Iterator[PreTrainedModel]:
    """All of a model on the device, wherever its blocks are."""
    with ExitStack() as stack:
        stack.enter_context(outside_on(loaded.model, device))
        for index in range(loaded.num_blocks):
            stack.enter_context(loaded.offloading.block(index, device))
        yield loaded.model


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """So many threads compute on the processor; None = as many as the process has."""
    before = torch.get_num_threads()
    if count in (None, before):  # to set them again breaks processes that are forked later
        yield before
        return
    try:
        torch.set_num_threads(count)
        yield count
    finally:
        torch.set_num_threads(before)


@contextmanager
def semi_structured(model: nn.Module) -> Iterator[None]:
    """The linears that are 2:4 in torch's form for the accelerator's sparse kernels, as far as it takes them."""
    from torch.sparse import to_sparse_semi_structured

    dense: dict[PrunableLinear, Tensor] = {}
    try:
        for linear in two_of_four(model):
            dense[linear] = linear.weight.data
            linear.weight = nn.Parameter(to_sparse_semi_structured(linear.weight.data), requires_grad=False)
        yield
    finally:
        for linear, weight in dense.items():
            linear.weight = nn.Parameter(weight, requires_grad=False)


def two_of_four(model: nn.Module) -> list[PrunableLinear]:
    """The linears that sparse kernels of CUDA take: 2:4 in half precision, with sides that are multiples of 64."""
    return [
        linear
        for linear in prunable_layers(model).values()
        if isinstance(linear, nn.Linear)
        and linear.weight.is_cuda
        and linear.weight.dtype in (torch.float16, torch.bfloat16)
        and all(side % 64 == 0 for side in linear.weight.shape)
        and is_two_of_four(linear.weight.data)
    ]

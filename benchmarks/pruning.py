"""The cost of a pruning job against the least that its walk could cost: two forward passes of all blocks.

    python -m benchmarks pruning [--dtype float32] [--sequences 32] [--seq-len 1024] [--rounds 2]
                                [--jobs 'wanda 2:4' ...]

Bare passes and jobs alternate in one process, on the same tokens, in the same type; the ratio of the medians counts.
`gradients` are those that structured methods read, `gradients and squares` with the second moment.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.setting import DTYPES, embedded_model, embedded_tokens
from harness.blocks.layers import decoder_blocks, prunable_linears, prunable_shapes, weight_view
from harness.blocks.runner import BlockRunner, in_batches
from harness.job import Choice
from harness.models.loading import LoadedModel
from harness.patterns import Pattern, SemiStructured, Structured, Unstructured
from harness.pruning.context import PruningContext
from harness.pruning.gradients import gradient_moments
from harness.pruning.methods.base import METHODS

BATCH_TOKENS = 4096
JOBS: dict[str, tuple[str, Pattern]] = {
    "wanda 2:4": ("wanda", SemiStructured(2, 4)),
    "wanda 50 %": ("wanda", Unstructured(0.5)),
    "sparsegpt 2:4": ("sparsegpt", SemiStructured(2, 4)),
    "sparsegpt 50 %": ("sparsegpt", Unstructured(0.5)),
}
MOMENTS = {"gradients": 1, "gradients and squares": 2}


def main(arguments: list[str]) -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(prog="benchmarks pruning")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS, *MOMENTS], default=list(JOBS))
    options = parser.parse_args(arguments)
    loaded = embedded_model(DTYPES[options.dtype])
    tokens_BL = embedded_tokens(loaded, options.sequences, options.seq_len)
    dense = [weight_view(linear).clone() for linear in _linears(loaded)]
    seconds: dict[str, list[float]] = {name: [] for name in ("two bare passes", *options.jobs)}
    for _ in range(options.rounds):
        seconds["two bare passes"].append(_timed(lambda: two_bare_passes(loaded, tokens_BL)))
        for name in options.jobs:
            seconds[name].append(_timed(lambda: run(loaded, name, tokens_BL)))  # noqa: B023  # called here
            for linear, weight_OI in zip(_linears(loaded), dense, strict=True):
                weight_view(linear).copy_(weight_OI)
    bare = statistics.median(seconds["two bare passes"])
    size = f"{options.sequences} x {options.seq_len} tokens"
    print(f"SmolLM2-135M {options.dtype}, {size}, {torch.get_num_threads()} threads")
    for name, values in seconds.items():
        print(f"{name:16s} {statistics.median(values):7.1f} s  {statistics.median(values) / bare:5.2f} x  {values}")


@torch.no_grad()
def two_bare_passes(loaded: LoadedModel, tokens_BL: Tensor) -> None:
    """Every block on every batch, twice, and nothing else."""
    batches = in_batches(tokens_BL, BATCH_TOKENS)
    recorded = BlockRunner(loaded.model, batches, loaded.offloading, torch.device("cpu"))
    _, blocks = decoder_blocks(loaded.model)
    hidden = list(recorded.hidden)
    for block, calls in zip(blocks, recorded.calls, strict=True):
        for _ in range(2):
            outputs = [call.replay(block, state) for call, state in zip(calls, hidden, strict=True)]
        hidden = outputs


def run(loaded: LoadedModel, name: str, tokens_BL: Tensor) -> None:
    """A whole pruning job, without loading and evaluation, or the gradients that one would read."""
    method_name, pattern = JOBS.get(name, ("llm-pruner", Structured(0.5)))
    cpu = torch.device("cpu")
    context = PruningContext(loaded.model, loaded.offloading, tokens_BL, pattern, "pruned", cpu, BATCH_TOKENS)
    if name in MOMENTS:
        gradient_moments(context, list(prunable_shapes(loaded.model)), MOMENTS[name])
    else:
        METHODS.build(Choice(method_name)).run(context)


def _linears(loaded: LoadedModel) -> list:  # type: ignore[type-arg]
    _, blocks = decoder_blocks(loaded.model)
    return [linear for block in blocks for linear in prunable_linears(block).values()]


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 2)

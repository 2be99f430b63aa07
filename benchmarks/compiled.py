"""Whether `torch.compile` pays: blocks compiled against blocks as they are, compilation included and not.

    python -m benchmarks compiled [--dtype float32] [--windows 8] [--seq-len 1024]

A job makes about three passes of every block over its calibration tokens and one over its evaluation windows; the
compilation of a block is spread over that.  All blocks of a model share one compiled graph where their code and shapes
are the same.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from benchmarks.setting import DTYPES, embedded_model, embedded_tokens
from harness.blocks.layers import decoder_blocks
from harness.blocks.runner import BlockRunner


def main(arguments: list[str]) -> None:
    """Time both ways, alternating, and print what the compilation took."""
    parser = argparse.ArgumentParser(prog="benchmarks compiled")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    loaded = embedded_model(DTYPES[options.dtype])
    tokens_BL = embedded_tokens(loaded, options.windows, options.seq_len)
    with torch.no_grad():
        recorded = BlockRunner(loaded.model, list(tokens_BL.split(4)), loaded.offloading, torch.device("cpu"))
        _, blocks = decoder_blocks(loaded.model)
        compiled = [torch.compile(block) for block in blocks]
        start = time.perf_counter()
        _pass(compiled, recorded.calls, list(recorded.hidden))
        first = time.perf_counter() - start
        seconds: dict[str, list[float]] = {"eager": [], "compiled": []}
        for _ in range(options.rounds):
            for name, ways in (("eager", list(blocks)), ("compiled", compiled)):
                start = time.perf_counter()
                _pass(ways, recorded.calls, list(recorded.hidden))
                seconds[name].append(time.perf_counter() - start)
    eager, later = (statistics.median(values) for values in seconds.values())
    print(f"SmolLM2-135M {options.dtype}, {options.windows} x {options.seq_len} tokens, all blocks")
    print(f"eager {eager:.2f} s, compiled {later:.2f} s ({later / eager:.2f} x), first compiled pass {first:.1f} s")
    saved = eager - later
    print("never pays" if saved <= 0 else f"pays after {(first - later) / saved:.0f} passes over these tokens")


def _pass(blocks: list[nn.Module], calls: list, hidden: list[Tensor]) -> None:  # type: ignore[type-arg]
    states = hidden
    for block, block_calls in zip(blocks, calls, strict=True):
        states = [call.replay(block, state) for call, state in zip(block_calls, states, strict=True)]


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])

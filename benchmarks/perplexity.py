"""Perplexity against the bare forward pass that it needs: the model's body and its head, on the same windows.

    python -m benchmarks perplexity [--dtype float32] [--windows 8] [--seq-len 2048] [--rounds 3]

The bare pass makes the logits of every position at once and reads none of them.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from benchmarks.setting import DTYPES, embedded_model, embedded_tokens
from harness.evaluation.perplexity import perplexity
from harness.models.loading import LoadedModel
from harness.progress import Silent

BATCH_TOKENS = 4096


def main(arguments: list[str]) -> None:
    """Run the benchmark and print its ratio, and how far the value is from the plain computation."""
    parser = argparse.ArgumentParser(prog="benchmarks perplexity")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    loaded = embedded_model(DTYPES[options.dtype])
    windows_NL = embedded_tokens(loaded, options.windows, options.seq_len)
    bare_s, ours_s = [], []
    for _ in range(options.rounds):
        start = time.perf_counter()
        bare_pass(loaded, windows_NL)
        middle = time.perf_counter()
        measured = perplexity(
            loaded.model, windows_NL, batch_tokens=BATCH_TOKENS, device=torch.device("cpu"), reporter=Silent()
        )
        bare_s.append(middle - start)
        ours_s.append(time.perf_counter() - middle)
    ratio = statistics.median(ours_s) / statistics.median(bare_s)
    print(f"SmolLM2-135M {options.dtype}, {options.windows} x {options.seq_len}, {torch.get_num_threads()} threads")
    print(f"bare {statistics.median(bare_s):.1f} s, perplexity {statistics.median(ours_s):.1f} s: {ratio:.2f} x")
    expected = float(plain_losses(loaded, windows_NL).double().mean().exp())
    assert measured.value is not None, "the model's logits are numbers"
    print(f"value {measured.value:.6f}, plain {expected:.6f}, difference {abs(measured.value / expected - 1):.1e}")


@torch.no_grad()
def bare_pass(loaded: LoadedModel, windows_NL: Tensor) -> None:
    """Logits of every window, and nothing done with them."""
    for batch_BL in windows_NL.split(max(1, BATCH_TOKENS // windows_NL.shape[1])):
        loaded.model(input_ids=batch_BL, use_cache=False)


@torch.no_grad()
def plain_losses(loaded: LoadedModel, windows_NL: Tensor) -> Tensor:
    """Mean negative log-likelihood of every window, computed one window at a time from all of its logits."""
    losses = []
    for window_L in windows_NL:
        logits_LV = loaded.model(input_ids=window_L[None], use_cache=False).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits_LV[:-1].float(), window_L[1:]))
    return torch.stack(losses)

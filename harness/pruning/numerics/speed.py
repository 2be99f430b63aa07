"""How fast a device is, from a short trial: what warnings about long jobs are estimated from."""

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

ROUNDS = 3


def seconds_of(work: Callable[[], Tensor]) -> float:
    """The least seconds of a few runs of `work`, whose outcome is waited for; a first run sets the libraries up."""
    work().cpu()
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work().cpu()
        found.append(time.perf_counter() - start)
    return min(found)


@cache
def seconds_per_flop(device: torch.device) -> float:
    """Of a matrix product in float32."""
    size = 1024
    matrix = torch.ones(size, size, device=device)
    return seconds_of(lambda: (matrix @ matrix).sum()) / (2 * size**3)

"""Blocks through `torch.compile`, for passes that are many and all alike."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.blocks.layers import decoder_blocks
from harness.errors import UserError


@contextmanager
def compiled_blocks(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Compile the blocks of `model`, all of it on `device`, for the time of the body.

    Sums are made in another order than without: results agree to rounding, not to the bit.

    Raises:
        UserError: the CPU's code needs a C++ compiler, and there is none.
    """
    compilers = [os.environ.get("CXX", "g++"), "clang++"]
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        absent = " and no ".join(compilers)
        raise UserError(f"compile=true needs a C++ compiler, and there is no {absent}; allowed: compile=false")
    _, blocks = decoder_blocks(model)
    try:
        for block in blocks:
            block.compile()
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None

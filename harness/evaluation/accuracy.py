"""Accuracy of an image classifier on labelled rows: the share of images whose highest logit is their label's."""

import math
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import Offloading, outside_on

BATCH = 512


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy as a fraction and its standard error, sqrt(p (1 - p) / (n - 1)), as lm-eval has it.

    The value is None where logits are no numbers; then and for a single image there is no error.
    """

    value: float | None
    stderr: float | None
    num_images: int


@torch.no_grad()
def accuracy(model: PreTrainedModel, offloading: Offloading, rows_NR: Tensor, device: torch.device) -> Accuracy:
    """Accuracy of `model`, computed on `device`.

    Args:
        offloading: gives out the blocks of `model`; all of them are on the device at once, classifiers being small.
        rows_NR: images, each with its label as the last entry.
    """
    num_blocks = len(decoder_blocks(model)[1])
    right, finite = 0, True
    with ExitStack() as stack:
        stack.enter_context(outside_on(model, device))
        for index in range(num_blocks):
            stack.enter_context(offloading.block(index, device))
        for rows_BR in rows_NR.to(device).split(BATCH):
            logits_BV = model(input_ids=rows_BR).logits
            finite = finite and bool(logits_BV.isfinite().all())
            right += int((logits_BV.argmax(dim=1) == rows_BR[:, -1]).sum())
    count = len(rows_NR)
    if not finite:
        return Accuracy(None, None, count)
    share = right / count
    return Accuracy(share, math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None, count)

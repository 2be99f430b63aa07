"""Accuracy of an image classifier on labelled rows: the share of images whose highest logit is their label's."""

import math
from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import Offloading, outside_on
from harness.evaluation.base import Estimate

BATCH = 512


@torch.no_grad()
def accuracy(model: PreTrainedModel, offloading: Offloading, rows_NR: Tensor, device: torch.device) -> Estimate:
    """Accuracy of `model` as a fraction, computed on `device`; its error is lm-eval's, sqrt(p (1 - p) / (n - 1)).

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
        return Estimate(None, None, count)
    share = right / count
    return Estimate(share, math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None, count)

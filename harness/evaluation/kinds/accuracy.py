"""Accuracy of image classifiers on labelled images."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.data.corpora.base import CORPORA, ArrayCorpus
from harness.data.places import DataRef
from harness.evaluation.base import EVALUATIONS, Estimate, Evaluation, EvaluationContext, Measured, Ready, corpora_for
from harness.job import EvaluationProtocol, Identity, protocol_key
from harness.record import EvalResult

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from harness.blocks.offload import Offloading

BATCH = 512
"""Images in one forward pass."""


@dataclass(frozen=True, slots=True)
class AccuracyProtocol(EvaluationProtocol):
    """Accuracy of an image classifier on one labelled set; higher is better.

    Args:
        task: name of the set.
        version: raised when the computation changes.
    """

    kind: ClassVar[str] = "accuracy"

    task: str
    version: int = 1

    @property
    def name(self) -> str:
        return self.task

    @property
    def key(self) -> str:
        return protocol_key([self.kind, self.task, f"v{self.version}"], None)


@EVALUATIONS.register(AccuracyProtocol.kind)
@dataclass(frozen=True, slots=True)
class ImageAccuracy(Evaluation[AccuracyProtocol]):
    """The share of images whose highest logit is their label's.

    Args:
        images: names of image sets.
    """

    called: ClassVar[str] = "image sets"
    asks: ClassVar[str] = "images"
    takes: ClassVar[Literal["text", "images"]] = "images"

    images: Identity[tuple[str, ...]] = ()

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"image set: {about}" for name, about in corpora_for(cls.takes).items()}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[AccuracyProtocol, DataRef | None]]:
        return [(AccuracyProtocol(name), find(name)) for name in self.images]

    @classmethod
    def measure(cls, asked: Sequence[Ready[AccuracyProtocol]], context: EvaluationContext) -> Measured:
        return Measured(tuple(_measured(each, context) for each in asked))


def _measured(asked: Ready[AccuracyProtocol], context: EvaluationContext) -> EvalResult:
    import torch

    corpus, loaded = CORPORA.get(asked.protocol.task), context.loaded
    assert isinstance(corpus, ArrayCorpus), f"{asked.protocol.task} has no rows"
    start = time.perf_counter()
    context.reporter.start(f"evaluate: accuracy on {asked.protocol.task}", 1)
    rows_NR = torch.from_numpy(corpus.rows(asked.source).copy())
    measured = accuracy(loaded.model, loaded.offloading, rows_NR, context.device)
    context.reporter.advance()
    return asked.result("acc", measured, {"seconds": round(time.perf_counter() - start, 4)})


def accuracy(model: "PreTrainedModel", offloading: "Offloading", rows_NR: "Tensor", device: "torch.device") -> Estimate:
    """Accuracy of `model` as a fraction, computed on `device`; its error is lm-eval's, sqrt(p (1 - p) / (n - 1)).

    Args:
        offloading: gives out the blocks of `model`; all of them are on the device at once, classifiers being small.
        rows_NR: images, each with its label as the last entry.
    """
    import torch

    from harness.blocks.layers import decoder_blocks
    from harness.blocks.slots import outside_on

    right, finite, count = 0, True, len(rows_NR)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(outside_on(model, device))
        for index in range(len(decoder_blocks(model)[1])):
            stack.enter_context(offloading.block(index, device))
        for rows_BR in rows_NR.to(device).split(BATCH):
            logits_BV = model(input_ids=rows_BR).logits
            finite = finite and bool(logits_BV.isfinite().all())
            right += int((logits_BV.argmax(dim=1) == rows_BR[:, -1]).sum())
    if not finite:
        return Estimate(None, None, count)
    share = right / count
    return Estimate(share, math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None, count)

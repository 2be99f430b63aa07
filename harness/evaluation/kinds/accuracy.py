"""Accuracy of image classifiers on labelled images."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness.data.catalogue import DataRef
from harness.data.digits import DIGITS, digit_rows
from harness.evaluation.base import EVALUATIONS, Evaluation, EvaluationContext, FindData, Measured, Ready
from harness.job import EvaluationProtocol, Identity, protocol_key
from harness.record import EvalResult

IMAGES: dict[str, str] = {
    DIGITS: "scikit-learn's digits of 8 x 8 pixels, the last 360 of 1,797: the share that is classified right",
}
"""Labelled image sets, with a line each; higher is better."""


@dataclass(frozen=True, slots=True)
class AccuracyProtocol(EvaluationProtocol):
    """Accuracy of an image classifier on one labelled set.

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
    takes: ClassVar[Literal["text", "images"]] = "images"

    images: Identity[tuple[str, ...]] = ()

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"image set: {text}" for name, text in IMAGES.items()}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        return {"evaluation.images": self.images}

    def ask(self, find: FindData) -> list[tuple[AccuracyProtocol, DataRef | None]]:
        return [(AccuracyProtocol(name), find(name)) for name in self.images]

    @classmethod
    def measure(cls, asked: Sequence[Ready[AccuracyProtocol]], context: EvaluationContext) -> Measured:
        return Measured(tuple(_measured(each, context) for each in asked))


def _measured(asked: Ready[AccuracyProtocol], context: EvaluationContext) -> EvalResult:
    import torch

    from harness.evaluation.accuracy import accuracy

    protocol, loaded = asked.protocol, context.loaded
    assert protocol.task == DIGITS, f"no rows of {protocol.task}"
    start = time.perf_counter()
    context.reporter.start(f"evaluate: accuracy on {protocol.task}", 1)
    rows_NR = torch.from_numpy(digit_rows("evaluation").copy())
    measured = accuracy(loaded.model, loaded.offloading, rows_NR, context.device)
    context.reporter.advance()
    return EvalResult(
        protocol=protocol.key,
        kind=protocol.kind,
        task=protocol.task,
        metric="acc",
        value=measured.value,
        stderr=measured.stderr,
        num_samples=measured.num_images,
        higher_is_better=True,
        subset=None,
        data_source=asked.source.origin,
        data_fingerprint=asked.source.identity,
        details={"seconds": round(time.perf_counter() - start, 4)},
    )

"""Accuracy of image classifiers on labelled images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness.data.corpora.base import CORPORA, ArrayCorpus
from harness.data.places import DataRef
from harness.evaluation.base import EVALUATIONS, Evaluation, EvaluationContext, Measured, Ready, corpora_for
from harness.job import EvaluationProtocol, Identity, protocol_key
from harness.record import EvalResult


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
    takes: ClassVar[Literal["text", "images"]] = "images"

    images: Identity[tuple[str, ...]] = ()

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"image set: {about}" for name, about in corpora_for(cls.takes).items()}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        return {"evaluation.images": self.images}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[AccuracyProtocol, DataRef | None]]:
        return [(AccuracyProtocol(name), find(name)) for name in self.images]

    @classmethod
    def measure(cls, asked: Sequence[Ready[AccuracyProtocol]], context: EvaluationContext) -> Measured:
        return Measured(tuple(_measured(each, context) for each in asked))


def _measured(asked: Ready[AccuracyProtocol], context: EvaluationContext) -> EvalResult:
    import torch

    from harness.evaluation.accuracy import accuracy

    corpus, loaded = CORPORA.get(asked.protocol.task), context.loaded
    assert isinstance(corpus, ArrayCorpus), f"{asked.protocol.task} has no rows"
    start = time.perf_counter()
    context.reporter.start(f"evaluate: accuracy on {asked.protocol.task}", 1)
    rows_NR = torch.from_numpy(corpus.rows(asked.source).copy())
    measured = accuracy(loaded.model, loaded.offloading, rows_NR, context.device)
    context.reporter.advance()
    return asked.result("acc", measured, {"seconds": round(time.perf_counter() - start, 4)})

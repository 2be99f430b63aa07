"""Bits per byte of gold answers: reasoning, code and knowledge by likelihood alone, nothing being chosen or written.

Of an answer, -log2 of its likelihood behind its prompt by the bytes of its UTF-8, the blank before it counted; of a
set, the mean over its answers.  That is `bpb_v2` of OLMo's evaluations in the loop (`ai2-olmo-eval` 0.9.0,
`metrics.py`), but for the tokens: there prompt and answer are tokenised apart, here together, as lm-eval does it, which
also asks for a line feed that ends a prompt (code) together with the answer; its byte is not counted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, log, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, ClassVar

from harness.data.formats import Row
from harness.data.places import DataRef
from harness.data.tasks.base import GOLD_ANSWERS
from harness.evaluation.base import EVALUATIONS, Estimate, Evaluation, EvaluationContext, Measured, MemoryNeed, Ready
from harness.evaluation.kinds.zero_shot import TASK_LIBRARIES
from harness.evaluation.task_protocol import TaskProtocol
from harness.job import Count, Identity, RunOptions
from harness.record import EvalResult

if TYPE_CHECKING:
    from harness.evaluation.scoring.lm import PackedLM
    from harness.models.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class BitsPerByteProtocol(TaskProtocol):
    """Mean bits per byte of one set of gold answers; lower is better.

    Args:
        documents: only the first so many answers, None = all.
    """

    kind: ClassVar[str] = "bits_per_byte"

    documents: int | None = None

    @property
    def first(self) -> int | None:
        return self.documents


@EVALUATIONS.register(BitsPerByteProtocol.kind)
@dataclass(frozen=True, slots=True)
class BitsPerByte(Evaluation[BitsPerByteProtocol]):
    """Bits per byte of gold answers.

    Args:
        bits_per_byte: names of sets.
        documents: only the first so many answers of a set, None = all.
    """

    called: ClassVar[str] = "sets of gold answers"
    asks: ClassVar[str] = "bits_per_byte"
    needs_whole_model: ClassVar[bool] = True

    bits_per_byte: Identity[tuple[str, ...]] = ()
    documents: Identity[Count | None] = None

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"bits per byte of gold answers: {each.about}" for name, each in GOLD_ANSWERS.all().items()}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[BitsPerByteProtocol, DataRef | None]]:
        return [
            (BitsPerByteProtocol(name, GOLD_ANSWERS.get(name).version, ref.unpublished, self.documents), ref)
            for name in self.bits_per_byte
            for ref in [find(name)]
        ]

    @classmethod
    def prepare(cls, protocol: BitsPerByteProtocol, data: DataRef | None, loaded: "LoadedModel") -> list[Row]:
        assert data is not None, "a set has answers"
        return GOLD_ANSWERS.get(protocol.task).rows(data)

    @classmethod
    def measure(cls, asked: Sequence[Ready[BitsPerByteProtocol]], context: EvaluationContext) -> Measured:
        from harness.evaluation.scoring.lm import packed
        from harness.evaluation.upstream import nothing_changed, quiet

        with quiet(), nothing_changed(context.loaded.model):
            lm = packed(context, "evaluate: bits per byte, answers")
            return Measured(tuple(_measured(each, lm) for each in asked))

    @classmethod
    def needs(cls, protocol: BitsPerByteProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        return MemoryNeed(tokens_at_once=options.zero_shot_token_budget, libraries=TASK_LIBRARIES)


def _measured(asked: Ready[BitsPerByteProtocol], lm: "PackedLM") -> EvalResult:
    from lm_eval.api.instance import Instance

    start, rows = time.perf_counter(), asked.prepared[: asked.protocol.documents]
    pairs = [(row["context"], row["continuation"]) for row in rows]
    requests = [Instance("loglikelihood", row, pair, 0) for row, pair in zip(rows, pairs, strict=True)]
    scores = [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]
    bits = [bits_per_byte(score, answer) for score, (_, answer) in zip(scores, pairs, strict=True)]
    count, total = len(bits), len(asked.prepared)
    subset = None if count == total else f"first {count} of {total} answers"
    estimate = Estimate(None, None, count, subset)
    if all(map(isfinite, bits)):
        estimate = Estimate(fmean(bits), stdev(bits) / sqrt(count) if count > 1 else None, count, subset)
    return asked.result(
        "bits_per_byte",
        estimate,
        {
            "scoring": lm.details,
            "log_probabilities": "float32",
            "requests_cut_to_max_length": len(lm.cut),
            "seconds": round(time.perf_counter() - start, 4),
        },
        higher_is_better=False,
    )


def bits_per_byte(log_likelihood: float, answer: str) -> float:
    """Bits that an answer of that log-likelihood (in nats) costs, by its bytes."""
    return -log_likelihood / log(2) / len(answer.encode())

"""A kind of evaluation, and the table of all kinds; a new one is one file in `kinds` or among the plug-ins.

Nothing here imports torch: planning asks kinds for their protocols and for the memory that they need.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, get_args, get_type_hints

from harness.answers import TaskAnswers
from harness.data.corpora.base import CORPORA
from harness.data.places import DataRef
from harness.errors import UserError
from harness.job import EvaluationProtocol, RunOptions
from harness.progress import Reporter
from harness.record import EvalResult, JsonValue
from harness.registry import Registry

if TYPE_CHECKING:
    import torch

    from harness.models.loading import LoadedModel

HEAD_ROWS = 256
"""Hidden states that go through the head at a time where text is scored: bounds the logits in memory."""

ProtocolT = TypeVar("ProtocolT", bound=EvaluationProtocol)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its standard error, and how many windows, questions or images it was measured on.

    The value is None where the model's outputs are no numbers, and infinite where it overflows; neither has an error.
    `subset` says which they were, where they were not all.
    """

    value: float | None
    stderr: float | None
    count: int
    subset: str | None = None


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """What a kind measures with.

    Args:
        loaded: the model as it is now, on `device` unless its blocks are offloaded.
        dense: the model before it was pruned, where a kind asks for it: its blocks are given out by its offloading,
            and all else of it is on the CPU.  Of a job that prunes nothing it is `loaded`.
    """

    loaded: "LoadedModel"
    device: "torch.device"
    reporter: Reporter
    options: RunOptions
    dense: "LoadedModel | None" = None


@dataclass(frozen=True, slots=True)
class Ready(Generic[ProtocolT]):
    """A protocol with the data behind it and what its kind prepared before pruning."""

    protocol: ProtocolT
    data: DataRef | None
    prepared: Any

    @property
    def source(self) -> DataRef:
        assert self.data is not None, f"{self.protocol.key} has no data"
        return self.data

    def result(
        self,
        metric: str,
        estimate: Estimate,
        details: Mapping[str, JsonValue],
        *,
        higher_is_better: bool = True,
        fingerprint: str | None = None,
    ) -> EvalResult:
        """The number as records have it; `fingerprint` of the content, where it is not the identity of the data."""
        return EvalResult(
            protocol=self.protocol.key,
            kind=self.protocol.kind,
            task=self.protocol.name,
            metric=metric,
            value=estimate.value,
            stderr=estimate.stderr,
            num_samples=estimate.count,
            higher_is_better=higher_is_better,
            subset=estimate.subset,
            data_source=self.source.origin,
            data_fingerprint=fingerprint or self.source.identity,
            details=details,
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Numbers, and what was answered to single questions where a kind asks any."""

    results: tuple[EvalResult, ...]
    answers: tuple[TaskAnswers, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a protocol takes beside the model.

    Args:
        tokens_at_once: in one forward pass.
        tokens_together: whose hidden states are held at once where blocks are offloaded.
        libraries: bytes.
        tokens_cached: whose keys and values are held in every block.
        tokens_of_dense: whose hidden states are kept of the dense model, beside all of that but its blocks.
        dense_models: how many times all the weights of the dense model are there beside those that are measured.
    """

    tokens_at_once: int = 0
    tokens_together: int = 0
    libraries: int = 0
    tokens_cached: int = 0
    tokens_of_dense: int = 0
    dense_models: int = 0


class Evaluation(ABC, Generic[ProtocolT]):
    """One kind of evaluation: a frozen dataclass whose fields, all with defaults, are those of ``evaluation.*``.

    Values are held against the fields' types by pydantic, strictly; `Annotated` says the range, and by `Runtime` that a
    field is no part of the protocol.  By default nothing is asked for.

    Attributes:
        called: what its data are called in sentences, e.g. "zero-shot tasks".
        asks: the field that names them, where there is one.
        takes: which models it measures.
        needs_whole_model: it cannot measure a model whose blocks are offloaded.
        needs_dense: it looks at the dense model, too, which is then opened before the pruning.
    """

    __slots__ = ()
    called: ClassVar[str]
    asks: ClassVar[str]
    takes: ClassVar[Literal["text", "images"]] = "text"
    needs_whole_model: ClassVar[bool] = False
    needs_dense: ClassVar[bool] = False

    @classmethod
    def protocol(cls) -> type[ProtocolT]:
        """The class of its protocols: what it is generic in."""
        found: type[ProtocolT] = get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]  # of generic classes
        return found

    @classmethod
    @abstractmethod
    def choices(cls) -> dict[str, str]:
        """All names that `names` may hold, with a line each for people."""

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The corpora, tasks or sets asked for, by the field that asks."""
        return {f"evaluation.{self.asks}": getattr(self, self.asks)}

    @abstractmethod
    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[ProtocolT, DataRef | None]]:
        """The protocols asked for, each with its data (None where it needs none).

        Args:
            find: finds the evaluation data of a name where the configuration says, or in the usual places.

        Raises:
            UserError: a field is out of range, or data cannot be found.
        """

    @classmethod
    def needs_tokenizer(cls, protocol: ProtocolT) -> bool:
        """Whether the model must have a tokenizer."""
        return cls.takes == "text"

    @classmethod
    def prepare(cls, protocol: ProtocolT, data: DataRef | None, loaded: "LoadedModel") -> Any:
        """What can be made before pruning, so that bad data cost nothing; kept for later jobs with the model.

        Raises:
            UserError: the data cannot be had, or do not fit the model.
        """
        return None

    @classmethod
    @abstractmethod
    def measure(cls, asked: Sequence[Ready[ProtocolT]], context: EvaluationContext) -> Measured:
        """Measure all protocols of this kind; the model stays as it is."""

    @classmethod
    def needs(cls, protocol: ProtocolT, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        """Memory beside the model, from sizes alone."""
        return MemoryNeed()


def fields_of(entry: type[Evaluation[Any]]) -> dict[str, tuple[Any, Any]]:
    """The fields of ``evaluation`` that a kind has: their types and defaults."""
    hints = get_type_hints(entry, include_extras=True)
    return {
        each.name: (hints[each.name], each.default)
        for each in fields(entry)  # type: ignore[arg-type]  # kinds are dataclasses, their base is none
    }


def corpora_for(reads: Literal["text", "images"]) -> dict[str, str]:
    """What models of a kind can be measured on, with a line each."""
    found = CORPORA.all().items()
    return {name: each.evaluation.about for name, each in found if each.evaluation and each.reads == reads}


def check_length(field: str, seq_len: int, loaded: "LoadedModel") -> None:
    """Raise `UserError` when sequences are longer than the model has positions."""
    if loaded.max_length is not None and seq_len > loaded.max_length:
        raise UserError(
            f"{field}={seq_len} is more than the model's {loaded.max_length} positions; allowed: up to that"
        )


EVALUATIONS: Registry[type[Evaluation[Any]]] = Registry("evaluation", "harness.evaluation.kinds")

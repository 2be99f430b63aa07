"""What a job is: everything that decides its weights and its numbers, and nothing else.

The identity has two parts.  What decides the *weights* makes the `job_id`; each result is keyed by its
evaluation protocol.  So an existing job that is asked for one more evaluation runs only that.  Devices, paths,
tracking and verbosity are `RunOptions`: they never make a new job.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, InstanceOf, PlainValidator

from harness.patterns import Pattern

JOB_ID_VERSION = 1
"""Part of every identity; raise it only together with the frozen ids in tests/test_job.py."""

Scalar = str | int | float | bool | None
DType = Literal["auto", "float32", "bfloat16", "float16"]
Propagation = Literal["pruned", "dense"]
Sampling = Literal["documents", "stream", "given", "sampled"]
Offload = Literal["auto", "none", "cpu", "disk"]

T = TypeVar("T")
Identity = Annotated[T, "identity"]
"""Marks a field of the configuration that decides weights or numbers."""
Runtime = Annotated[T, "runtime"]
"""Marks a field of the configuration that decides how and where a job runs."""
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


def _path(value: object) -> Path:
    if isinstance(value, bool | dict | list) or value in ("", None):
        raise ValueError("a path")
    return Path(str(value)).expanduser()


FilePath = Annotated[Path, PlainValidator(_path)]
"""With `~` expanded."""
Text = Annotated[str, Field(strict=False, coerce_numbers_to_str=True)]
"""Such as a name or a revision, which may look like a number."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which weights are pruned.

    Args:
        name: short name for people, part of the job id.
        checkpoint: what pins the weights: ``embedded:PACKAGE==VERSION/MEMBER``, ``hub:ORG/NAME@COMMIT``,
            ``local:FINGERPRINT``, ``trained:NAME@RECIPE`` or ``random:NAME@DIGEST``.  A folder that moves stays the
            same model, one whose weights change does not.
        dtype: the type asked for; `auto` is resolved on the machine and the record says to what.
    """

    name: str
    checkpoint: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Choice:
    """A named choice on one axis (method, allocation, recovery) with all of its hyperparameters."""

    name: str
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SequencesSpec:
    """Sequences that are drawn from a corpus, by the job's seed.

    Args:
        corpus: name of the corpus, ``tokens`` for an array of token ids, or ``digits`` for labelled images.
        data: identity of its content (see `harness.data`).
        num_sequences: how many sequences, >= 1.
        seq_len: tokens a sequence, >= 2.
        sampling: ``documents`` (one window a random document that is long enough, the published way for C4),
            ``stream`` (windows of the joined text, the published way for WikiText-2 and PTB), ``given`` or ``sampled``
            (from the dense model).
    """

    corpus: str
    data: str
    num_sequences: int
    seq_len: int
    sampling: Sampling

    @property
    def drawn(self) -> "SequencesSpec":
        """What decides the sequences, without what is done with them: equal where the sequences are."""
        return SequencesSpec(self.corpus, self.data, self.num_sequences, self.seq_len, self.sampling)


@dataclass(frozen=True, slots=True)
class CalibrationSpec(SequencesSpec):
    """The sequences that the statistics are taken from.

    Args:
        propagation: inputs of block i+1 come from the ``pruned`` prefix or from the ``dense`` model.
    """

    propagation: Propagation


@dataclass(frozen=True, slots=True)
class TrainingSpec(SequencesSpec):
    """The sequences that a recovery trains on.

    Args:
        tokens: the most that it sees in all its steps, which end before one that would see more; None = all steps.
    """

    tokens: int | None


class EvaluationProtocol(ABC):
    """What is measured and how; two protocols with different keys are never compared.

    Attributes:
        kind: the kind of evaluation, see `harness.evaluation`.
    """

    __slots__ = ()
    kind: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the corpus, task or set that is measured on."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Everything that decides the number, as text; begins with ``KIND:NAME:``."""


def protocol_key(parts: Sequence[str], data: str | None) -> str:
    """The key of a protocol; `data` is the identity of data that are not the published ones."""
    return ":".join([*parts, *([f"data-{_digest(data)}"] if data else [])])


@dataclass(frozen=True, slots=True)
class PruningSpec:
    """What is done to a model's weights.

    Args:
        seed: of whatever is drawn, the calibration sequences among it.
        training: None where the recovery goes all its steps on the calibration sequences, or does not train.
    """

    method: Choice
    pattern: Pattern
    allocation: Choice
    calibration: CalibrationSpec
    recovery: Choice
    seed: int
    training: TrainingSpec | None = None


_DENSE = {
    "method": {"name": "dense", "params": {}},
    "allocation": {"name": "uniform", "params": {}},
    "recovery": {"name": "none", "params": {}},
    "calibration": None,
    "seed": 0,
}
"""What identities say of the dense model, which has no pruning: its records are found by this."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job.  `pruning` is None for the dense model."""

    model: ModelSpec
    pruning: PruningSpec | None
    evaluation: tuple[InstanceOf[EvaluationProtocol], ...]

    def identity(self) -> dict[str, object]:
        """What decides the weights, as plain data."""
        fields = asdict(self.pruning) if self.pruning else _DENSE
        if self.pruning and self.pruning.training is None:
            del fields["training"]  # ids are older than it
        named = {"pattern": self.pattern_label, "sparsity": self.requested_sparsity}
        return {"model": asdict(self.model), **fields, **named, "job_id_version": JOB_ID_VERSION}

    @property
    def job_id(self) -> str:
        """For example ``opt-125m__wanda__nm-2-4__1b6f78fd``: three names for people and a digest that decides."""
        names = [self.model.name, self.method] + ([self.pruning.pattern.slug] if self.pruning else [])
        return "__".join([*names, _digest(self.identity())])

    @property
    def method(self) -> str:
        """Name of the method, ``dense`` where there is none."""
        return self.pruning.method.name if self.pruning else "dense"

    @property
    def requested_sparsity(self) -> float:
        return self.pruning.pattern.sparsity if self.pruning else 0.0

    @property
    def pattern_label(self) -> str:
        return self.pruning.pattern.label if self.pruning else "dense"


@dataclass(frozen=True, slots=True)
class TrackingOptions:
    """Where the mirror of a record goes.

    Args:
        mode: ``auto`` is online when logged in.
        project, entity: of Weights & Biases; entity None = the user's default.
        log_model: the saved model goes along as an artifact.
    """

    name: Literal["none", "wandb"]
    mode: Literal["auto", "online", "offline", "disabled"]
    project: Text
    entity: Text | None
    log_model: bool = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How and where a job runs; no field decides a number.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        results_dir: folder of the records.
        save_model: folder for the pruned model, None = it is not kept.
        force: run the job although its record is complete.
        batch_tokens: most tokens in one forward pass of calibration and perplexity, >= 1.
        zero_shot_token_budget: padded tokens in one forward pass of the zero-shot tasks, >= 1.
        sweep: name of the sweep that the job belongs to.
        plugins: folders of Python files that add methods and the like.
        in_sweep: the job is one of a sweep: it saves its model below `save_model`, and its failure ends no other job.
        offload: where the model's blocks are while they are not computed: ``none`` = they are pruned one by one, and
            the whole model is on the device when it is measured; ``cpu`` = in main memory, one at a time on the device;
            ``disk`` = in the checkpoint's shards, one at a time in memory; ``auto`` = the first of these that fits.
        compile: run the blocks through `torch.compile` while perplexity is measured.
    """

    device: str
    results_dir: Path
    save_model: Path | None
    force: bool
    batch_tokens: int
    zero_shot_token_budget: int
    tracking: TrackingOptions
    sweep: str
    in_sweep: bool = False
    plugins: tuple[Path, ...] = ()
    offload: Offload = "auto"
    compile: bool = False


def canonical_json(value: object) -> str:
    """One spelling for equal data: sorted keys, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]

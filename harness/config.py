"""From overrides to jobs: Hydra composes, this module checks and builds.

OmegaConf is imported here, Hydra in `compose.py`, `launch.py` and the sweeper plugin only.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from omegaconf import DictConfig, OmegaConf

from harness.data.catalogue import DataRef
from harness.data.corpora import read_array
from harness.data.sources import default_sampling, resolve
from harness.errors import UserError, unknown
from harness.evaluation.protocols import CORPORA, TASKS, perplexity_protocol, zero_shot_protocol
from harness.job import (
    CalibrationSpec,
    Choice,
    DType,
    EvaluationProtocol,
    JobSpec,
    ModelSpec,
    Offload,
    Propagation,
    RunOptions,
    Sampling,
    TrackingOptions,
)
from harness.models.checkpoint import SOURCES, Checkpoint
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.registry import build_method
from harness.request import JobRequest

FieldRole = Literal["identity", "runtime"]
FIELD_ROLES: dict[str, FieldRole] = {
    **dict.fromkeys(
        ("model.name", "model.source", "model.repository", "model.revision", "sparsity", "seed", "dtype"), "identity"
    ),
    **dict.fromkeys(("method", "pattern", "allocation", "recovery"), "identity"),
    **dict.fromkeys(
        ("calibration.corpus", "calibration.num_sequences", "calibration.seq_len", "calibration.sampling"), "identity"
    ),
    "calibration.propagation": "identity",
    **dict.fromkeys(
        ("evaluation.corpora", "evaluation.seq_len", "evaluation.max_windows", "evaluation.bos_every_window"),
        "identity",
    ),
    **dict.fromkeys(("evaluation.tasks", "evaluation.limit"), "identity"),
    # Paths and sources of data and local models are runtime: the content that they lead to is identity.
    **dict.fromkeys(("model.path", "model.trust_remote_code", "model.size_b", "model.paper_name"), "runtime"),
    **dict.fromkeys(("calibration.path", "calibration.source"), "runtime"),
    **dict.fromkeys(("evaluation.tokens_path", "evaluation.source", "evaluation.token_budget", "data"), "runtime"),
    **dict.fromkeys(("device", "batch_tokens", "results_dir", "save_model", "force", "tracking", "offload"), "runtime"),
}
"""Every field of the configuration, or the group it lies in: does it decide weights or numbers, or not?"""


@dataclass(frozen=True, slots=True)
class Planned:
    """One composition of a sweep: the job it asks for, or why there is none."""

    overrides: tuple[str, ...]
    request: JobRequest | None
    refusal: str | None


def build(cfg: DictConfig, overrides: tuple[str, ...]) -> Planned:
    """Check a composed configuration and build its job.

    Raises:
        UserError: a value is missing, unknown or out of range, or data cannot be found.
    """
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        raise UserError(f"{', '.join(sorted(missing))} must be given, for example {min(missing)}=VALUE")
    method = _choice(cfg.method)
    built = build_method(method)
    pattern: Pattern | None = _pattern(cfg) if built.patterns else None
    if pattern is not None and (refusal := built.refuses(pattern)) is not None:
        return Planned(overrides, None, f"method {method.name} with pattern {pattern.label}: {refusal}")
    checkpoint = _checkpoint(cfg.model)
    calibration, calibration_data = _calibration(cfg) if pattern is not None else (None, None)
    evaluation, evaluation_data = _evaluation(cfg)
    spec = JobSpec(
        model=ModelSpec(checkpoint.name, checkpoint.identity, _one_of("dtype", cfg.dtype, get_args(DType))),
        method=method,
        pattern=pattern,
        allocation=_choice(cfg.allocation),
        calibration=calibration,
        recovery=_choice(cfg.recovery),
        seed=_integer("seed", cfg.seed, least=0) if pattern is not None else 0,
        evaluation=evaluation,
    )
    command = tuple(text.replace("\\:", ":") for text in overrides)  # Hydra escapes what it hands on
    request = JobRequest(spec, _options(cfg, overrides), checkpoint, calibration_data, evaluation_data, command)
    return Planned(overrides, request, None)


def _pattern(cfg: DictConfig) -> Pattern:
    if cfg.pattern.kind == "unstructured":
        return Unstructured(_number("sparsity", cfg.sparsity))
    return SemiStructured(
        _integer("pattern.keep", cfg.pattern.keep, least=0), _integer("pattern.group", cfg.pattern.group, least=0)
    )


def _checkpoint(model: DictConfig) -> Checkpoint:
    source = _one_of("model.source", model.source, SOURCES)
    location = {"embedded": None, "local": model.path, "hub": model.repository or model.name}[source]
    name = model.name or Path(str(location)).absolute().name
    revision = None if model.revision is None else str(model.revision)
    return Checkpoint(
        source, _slug(name), None if location is None else str(location), revision, bool(model.trust_remote_code)
    )


def _calibration(cfg: DictConfig) -> tuple[CalibrationSpec, DataRef]:
    wanted = cfg.calibration
    data = resolve(wanted.corpus, "calibration", path=_path(wanted.path), source=wanted.source)
    sampling = default_sampling(data) if wanted.sampling == "auto" else wanted.sampling
    most: tuple[int | None, int | None] = (None, None)
    if sampling == "given":
        most = cast("tuple[int, int]", read_array(data.path).shape)
    spec = CalibrationSpec(
        corpus=wanted.corpus,
        data=data.identity,
        num_sequences=_extent("calibration.num_sequences", wanted.num_sequences, 1, most[0]),
        seq_len=_extent("calibration.seq_len", wanted.seq_len, 2, most[1]),
        sampling=_one_of("calibration.sampling", sampling, get_args(Sampling)),
        propagation=_one_of("calibration.propagation", wanted.propagation, get_args(Propagation)),
    )
    return spec, data


def _evaluation(cfg: DictConfig) -> tuple[tuple[EvaluationProtocol, ...], dict[str, DataRef]]:
    wanted = cfg.evaluation
    protocols: list[EvaluationProtocol] = []
    data: dict[str, DataRef] = {}
    max_windows = _optional("evaluation.max_windows", wanted.max_windows, 1)
    for corpus in _names("evaluation.corpora", wanted.corpora, CORPORA):
        path = wanted.tokens_path if corpus == "tokens" else cfg.data.get(corpus)
        found = resolve(corpus, "evaluation", path=_path(path), source=wanted.source if path is None else "auto")
        seq_len = _integer("evaluation.seq_len", wanted.seq_len, least=2)
        protocol: EvaluationProtocol = perplexity_protocol(
            corpus, found, seq_len, max_windows, bool(wanted.bos_every_window)
        )
        protocols.append(protocol)
        data[protocol.key] = found
    limit = _optional("evaluation.limit", wanted.limit, 1)
    for task in _names("evaluation.tasks", wanted.tasks, TASKS):
        path = cfg.data.get(task)
        found = resolve(task, "evaluation", path=_path(path), source=wanted.source if path is None else "auto")
        protocol = zero_shot_protocol(task, found, limit)
        protocols.append(protocol)
        data[protocol.key] = found
    return tuple(protocols), data


def _options(cfg: DictConfig, overrides: Sequence[str]) -> RunOptions:
    tracking = cfg.tracking
    experiment = next((text.partition("=")[2] for text in overrides if text.startswith("+experiment=")), None)
    return RunOptions(
        device=_device(cfg.device),
        results_dir=Path(cfg.results_dir),
        save_model=_path(cfg.save_model),
        force=bool(cfg.force),
        batch_tokens=_integer("batch_tokens", cfg.batch_tokens, least=1),
        zero_shot_token_budget=_integer("evaluation.token_budget", cfg.evaluation.token_budget, least=1),
        tracking=TrackingOptions(
            _one_of("tracking", tracking.name, ("none", "wandb")),
            _one_of("tracking.mode", tracking.mode, ("auto", "online", "offline", "disabled")),
            str(tracking.project),
            tracking.entity,
        ),
        sweep=experiment or "runs",
        offload=_offload(cfg),
    )


def _offload(cfg: DictConfig) -> Offload:
    """Zero-shot tasks need the whole model: said now, and not after hours of pruning."""
    offload: Offload = _one_of("offload", cfg.offload, get_args(Offload))
    if offload != "none" and cfg.evaluation.tasks:
        tasks = ",".join(cfg.evaluation.tasks)
        raise UserError(f"offload={offload} cannot run zero-shot tasks ({tasks}); allowed: offload=none")
    return offload


def _device(value: object) -> str:
    if not re.fullmatch(r"auto|cpu|cuda|cuda:\d+", str(value)):
        raise unknown("device", value, ("auto", "cpu", "cuda", "cuda:N"))
    return str(value)


def _choice(node: DictConfig) -> Choice:
    values = cast("dict[str, Any]", OmegaConf.to_container(node))
    return Choice(values.pop("name"), values)


def _slug(name: str) -> str:
    """A model's name as part of a file name: the last part of ORG/NAME, lower case, no separator of job ids."""
    return re.sub(r"[^a-z0-9.]+", "-", name.rpartition("/")[2].lower()).strip("-.") or "model"


def _path(value: object) -> Path | None:
    return None if value is None else Path(str(value)).expanduser()


def _names(field: str, value: object, allowed: Iterable[str]) -> list[str]:
    """A list of distinct known names."""
    if not OmegaConf.is_list(value):
        raise UserError(f"{field}={value!r} is not a list; write {field}=[{value}]")
    names = dict.fromkeys(str(name) for name in cast("Iterable[object]", value))
    return [_one_of(field, name, allowed) for name in names]


def _one_of(field: str, value: Any, allowed: Iterable[Any]) -> Any:
    if value not in (choices := list(allowed)):
        raise unknown(field, value, choices)
    return value


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{field}={value!r} is not a number")
    return float(value)


def _integer(field: str, value: object, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{field}={value} is not allowed; allowed: an integer >= {least}")
    return value


def _optional(field: str, value: object, least: int) -> int | None:
    return None if value is None else _integer(field, value, least=least)


def _extent(field: str, value: object, least: int, most: int | None) -> int:
    """A size; of an array that has `most`, null means all."""
    if value is None and most is not None:
        return most
    number = _integer(field, value, least=least)
    if most is not None and number > most:
        raise UserError(f"{field}={number} is more than the array has; allowed: {least} to {most}")
    return number

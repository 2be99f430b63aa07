"""From a checked configuration to a job, or to the reason why its parts do not go together."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from harness.config.request import JobRequest, Refusal
from harness.config.schema import Configuration, PatternFields, SemiStructuredFields
from harness.config.sequences import calibration_of, training_of
from harness.data.places import DataRef, Role
from harness.data.sources import entries, resolve
from harness.errors import UserError, unknown
from harness.evaluation.base import EVALUATIONS, Evaluation, fields_of
from harness.job import (
    Choice,
    EvaluationProtocol,
    JobSpec,
    ModelSpec,
    PruningSpec,
    RunOptions,
)
from harness.models.checkpoint import Checkpoint
from harness.patterns import Channels, Pattern, SemiStructured, Structured, Unstructured
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM, Allocation
from harness.pruning.methods.base import METHODS, PruningMethod
from harness.recovery.base import RECOVERIES
from harness.registry import Registry

OneT = TypeVar("OneT")
LONGEST_NAME = 100
"""Characters of a model's name: with method, pattern and digest a file's name stays below its 255 bytes."""
FRACTIONS: dict[str, Callable[[float], Pattern]] = {
    "unstructured": Unstructured.requested,
    "channel": Channels,
    "structured": Structured,
}
"""Patterns that are said by `sparsity` alone, by `pattern.kind`."""


def build(config: Configuration, overrides: tuple[str, ...], *, in_sweep: bool) -> JobRequest | Refusal:
    """The job of a configuration, or why its parts do not go together.

    Raises:
        UserError: a value is unknown or out of range, or data cannot be found.
    """
    method, pruner = _chosen(METHODS, config.method, config.seed)
    allocation, allocator = _chosen(ALLOCATIONS, config.allocation, config.seed)
    pattern = _pattern(config.pattern, config.sparsity) if pruner.patterns else None
    if pattern is not None:
        refusal = _refusal((method.name, pruner), (allocation.name, allocator), pattern)
        if refusal is not None:
            return Refusal(overrides, refusal)
        idle = pruner.without_effect(pattern)
        defaults: dict[str, Any] = {each.name: each.default for each in fields(type(pruner)) if each.name in idle}
        method = replace(method, params={**method.params, **defaults})
    checkpoint, asked = _checkpoint(config), _evaluations(config)
    recovery, recoverer = _chosen(RECOVERIES, config.recovery, config.seed)
    trains = pattern is not None and recoverer.changes_model
    _check_kind(checkpoint, config, asked, calibrates=pattern is not None, trains=trains)
    pruning, calibration_data, training, training_data = None, None, None, None
    if pattern is not None:  # the dense model is one job, whatever is said of pruning
        calibration, calibration_data = calibration_of(config, pruner, allocator)
        if trains:
            training, training_data = training_of(config, recoverer, calibration, calibration_data)
        pruning = PruningSpec(method, pattern, allocation, calibration, recovery, config.seed, training)
    evaluation, evaluation_data = _evaluation(config, asked)
    request = JobRequest(
        spec=JobSpec(ModelSpec(checkpoint.name, checkpoint.identity, config.dtype), pruning, evaluation),
        options=_options(config, overrides, in_sweep),
        checkpoint=checkpoint,
        calibration=calibration_data,
        training=training_data,
        evaluation=evaluation_data,
        command=tuple(text.replace("\\:", ":") for text in overrides),  # Hydra escapes what it hands on
        paper_name=config.model.paper_name,
        size_b=config.model.size_b,
    )
    _check_runtime(request)
    return request


def _chosen(table: Registry[type[OneT]], asked: Mapping[str, Any], seed: int) -> tuple[Choice, OneT]:
    """What is chosen of an axis, with its parameters as they were taken: 5 for 5.0 is no other job.

    Args:
        seed: of the job, which the entry draws by unless it is given one of its own.
    """
    name, params = asked["name"], {key: value for key, value in asked.items() if key != "name"}
    if "seed" in (each.name for each in fields(cast("Any", table.get(name)))):
        params.setdefault("seed", seed)
    built = table.build(Choice(name, params))
    return Choice(name, {key: getattr(built, key) for key in params}), built


def _refusal(method: tuple[str, PruningMethod], allocation: tuple[str, Allocation], pattern: Pattern) -> str | None:
    """Why these do not go together, or None when they do."""
    for axis, (name, built) in (("method", method), ("allocation", allocation)):
        if (refusal := built.refuses(pattern)) is not None:
            return f"{axis} {name} with pattern {pattern.label}: {refusal}"
    if method[1].decides_layer_sparsities and allocation[0] != UNIFORM:
        return (
            f"method {method[0]} with allocation {allocation[0]}: it decides the sparsity of every layer itself; "
            f"allowed: allocation={UNIFORM}"
        )
    return None


def _pattern(pattern: PatternFields, sparsity: float) -> Pattern:
    if isinstance(pattern, SemiStructuredFields):
        return SemiStructured(pattern.keep, pattern.group)
    return FRACTIONS[pattern.kind](round(sparsity, 12))  # 0.1 + 0.2 is 0.3


def _checkpoint(config: Configuration) -> Checkpoint:
    model = config.model
    place = {"local": model.path, "hub": model.repository or model.name}.get(model.source)
    location = None if place is None else str(place)
    name = _slug(model.name or Path(str(location)).absolute().name)
    if len(name) > LONGEST_NAME:
        raise UserError(
            f"model.name={name} has {len(name)} characters, and names the record's file; allowed: up to {LONGEST_NAME}"
        )
    return Checkpoint(
        model.source, name, location, model.revision, model.trust_remote_code, convert=model.convert
    ).resolved()


def _check_kind(
    checkpoint: Checkpoint, config: Configuration, asked: Sequence[Evaluation[Any]], *, calibrates: bool, trains: bool
) -> None:
    """A model is given what its kind takes: said before any data are looked for."""
    kind, found = checkpoint.kind, list[tuple[Role, str, bool]]()
    if calibrates:
        found.append(("calibration", config.calibration.corpus, kind.takes(config.calibration.corpus)))
    if trains:
        found.append(("training", config.training.corpus, kind.takes(config.training.corpus)))
    found += [("evaluation", name, each.takes == kind.reads) for each in asked for name in _names(each)]
    for role, name, is_taken in found:
        if not is_taken:
            raise UserError(
                f"{role} on {name}, but model {checkpoint.name} is {kind.title}; allowed: {kind.allowed(role)}"
            )


def _check_runtime(request: JobRequest) -> None:
    """What cannot be run in the way that is asked for is said now, and not after hours of pruning."""
    options, whole = request.options, request.needs_whole_model
    if whole and options.offload not in ("auto", "none"):
        raise UserError(f"offload={options.offload} cannot run {whole}; allowed: offload=none")
    if options.tracking.log_model and options.save_model is None:
        raise UserError("tracking.log_model=true needs a saved model; add save_model=DIR")


def _evaluations(config: Configuration) -> list[Evaluation[Any]]:
    """Every kind of evaluation with its own fields of ``evaluation``.

    Raises:
        UserError: a name that the kind does not know.
    """
    asked = []
    for entry in EVALUATIONS.all().values():
        evaluation = entry(**{name: getattr(config.evaluation, name) for name in fields_of(entry)})
        for field, names in evaluation.names.items():
            for name in names:
                if name not in entry.choices():
                    raise unknown(field, name, entry.choices())
        asked.append(evaluation)
    return asked


def _names(evaluation: Evaluation[Any]) -> list[str]:
    return [name for names in evaluation.names.values() for name in names]


def _evaluation(
    config: Configuration, asked: Sequence[Evaluation[Any]]
) -> tuple[tuple[EvaluationProtocol, ...], dict[str, DataRef]]:
    known = entries("evaluation")
    for name in config.data:
        if name not in known:
            raise unknown("field", f"data.{name}", [f"data.{each}" for each in known])

    def find(name: str) -> DataRef:
        path = config.data.get(name)
        return resolve(name, "evaluation", path=path, source=config.evaluation.source if path is None else "auto")

    found = [each for evaluation in asked for each in evaluation.ask(find)]
    data = {protocol.key: ref for protocol, ref in found if ref is not None}
    return tuple(protocol for protocol, _ in found), data


def _options(config: Configuration, overrides: Sequence[str], in_sweep: bool) -> RunOptions:
    experiment = next((text.partition("=")[2] for text in overrides if text.startswith("+experiment=")), None)
    same = {each.name: getattr(config, each.name) for each in fields(RunOptions) if hasattr(config, each.name)}
    token_budget = config.evaluation.token_budget
    return RunOptions(**same, zero_shot_token_budget=token_budget, sweep=experiment or "runs", in_sweep=in_sweep)


def _slug(name: str) -> str:
    """A model's name as part of a file name: the last part of ORG/NAME, lower case, no separator of job ids."""
    return re.sub(r"[^a-z0-9.]+", "-", name.rpartition("/")[2].lower()).strip("-.") or "model"

"""From overrides to jobs: Hydra composes, this module checks and builds.

OmegaConf is imported here, Hydra in `compose.py`, `launch.py` and the sweeper plugin only.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from omegaconf import DictConfig, OmegaConf

from harness.config import values
from harness.config.request import JobRequest, Refusal
from harness.data.catalogue import DataRef
from harness.data.corpora import read_array
from harness.data.digits import DIGITS, ROW, TRAINING_ROWS
from harness.data.sources import TOKENS, default_sampling, resolve
from harness.errors import UserError, unknown
from harness.evaluation.base import EVALUATIONS, Evaluation, fields_of
from harness.job import (
    CalibrationSpec,
    Choice,
    DType,
    EvaluationProtocol,
    JobSpec,
    ModelSpec,
    Offload,
    Propagation,
    PruningSpec,
    RunOptions,
    TrackingOptions,
)
from harness.models.checkpoint import SOURCES, Checkpoint
from harness.patterns import Pattern, SemiStructured, Structured, Unstructured
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM, Allocation
from harness.pruning.methods.base import METHODS, PruningMethod
from harness.recovery.base import RECOVERIES

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
    **dict.fromkeys(("evaluation.tasks", "evaluation.limit", "evaluation.images"), "identity"),
    # Paths and sources of data and local models are runtime: the content that they lead to is identity.
    **dict.fromkeys(("model.path", "model.trust_remote_code", "model.size_b", "model.paper_name"), "runtime"),
    **dict.fromkeys(("calibration.path", "calibration.source"), "runtime"),
    **dict.fromkeys(("evaluation.tokens_path", "evaluation.source", "evaluation.token_budget", "data"), "runtime"),
    **dict.fromkeys(("device", "batch_tokens", "results_dir", "save_model", "force", "tracking", "offload"), "runtime"),
    "compile": "runtime",
    "plugins": "runtime",
}
"""Every field of the configuration, or the group it lies in: does it decide weights or numbers, or not?"""


MOST_SEED = 2**63 - 1
"""What torch's generators take."""


def build(cfg: DictConfig, overrides: tuple[str, ...], *, in_sweep: bool) -> JobRequest | Refusal:
    """Check a composed configuration and build its job, or say why its parts do not go together.

    Raises:
        UserError: a value is missing, unknown or out of range, or data cannot be found.
    """
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        raise UserError(f"{', '.join(sorted(missing))} must be given, for example {min(missing)}=VALUE")
    _check_fields(cfg)
    method = _choice(cfg.method)
    built = METHODS.build(method)
    method = _as_built(method, built)
    pattern: Pattern | None = _pattern(cfg) if built.patterns else None
    allocation = _choice(cfg.allocation)
    allocated = ALLOCATIONS.build(allocation)
    allocation = _as_built(allocation, allocated)
    if built.needs_whole_model and cfg.offload != "none":
        raise UserError(f"offload={cfg.offload} cannot run method={method.name}; allowed: offload=none")
    if (
        pattern is not None
        and (refusal := _refusal(method.name, built, allocation.name, allocated, pattern)) is not None
    ):
        return Refusal(overrides, refusal)
    checkpoint = _checkpoint(cfg.model)
    asked = _evaluations(cfg)
    _check_kind(checkpoint, cfg, asked, calibrates=pattern is not None)
    pruning, calibration_data = None, None
    if pattern is not None:  # the dense model is one job, whatever is said of pruning
        recovery = _recovery(cfg)
        calibration, calibration_data = _calibration(cfg, built, allocated)
        seed = values.integer("seed", cfg.seed, least=0, most=MOST_SEED)
        pruning = PruningSpec(method, pattern, allocation, calibration, recovery, seed)
    evaluation, evaluation_data = _evaluation(cfg, asked)
    spec = JobSpec(
        model=ModelSpec(checkpoint.name, checkpoint.identity, values.one_of("dtype", cfg.dtype, get_args(DType))),
        pruning=pruning,
        evaluation=evaluation,
    )
    command = tuple(text.replace("\\:", ":") for text in overrides)  # Hydra escapes what it hands on
    options, paper_name = _options(cfg, asked, overrides, in_sweep), cfg.model.paper_name
    return JobRequest(spec, options, checkpoint, calibration_data, evaluation_data, command, paper_name)


def _refusal(
    method_name: str, method: PruningMethod, allocation_name: str, allocation: Allocation, pattern: Pattern
) -> str | None:
    """Why these do not go together, or None when they do."""
    if (refusal := method.refuses(pattern)) is not None:
        return f"method {method_name} with pattern {pattern.label}: {refusal}"
    if (refusal := allocation.refuses(pattern)) is not None:
        return f"allocation {allocation_name} with pattern {pattern.label}: {refusal}"
    if method.decides_layer_sparsities and allocation_name != UNIFORM:
        return (
            f"method {method_name} with allocation {allocation_name}: it decides the sparsity of every layer itself; "
            f"allowed: allocation={UNIFORM}"
        )
    return None


def _pattern(cfg: DictConfig) -> Pattern:
    if cfg.pattern.kind in ("unstructured", "structured"):
        sparsity = round(values.number("sparsity", cfg.sparsity), 12)  # 0.1 + 0.2 is 0.3
        if cfg.pattern.kind == "unstructured":
            return Unstructured.requested(sparsity)
        return Structured(sparsity, str(cfg.pattern.unit))
    return SemiStructured(
        values.integer("pattern.keep", cfg.pattern.keep, least=0),
        values.integer("pattern.group", cfg.pattern.group, least=0),
    )


def _checkpoint(model: DictConfig) -> Checkpoint:
    source = values.one_of("model.source", model.source, SOURCES)
    location = {"local": model.path, "hub": model.repository or model.name}.get(source)
    name = model.name or Path(str(location)).absolute().name
    revision = None if model.revision is None else str(model.revision)
    remote_code = values.boolean("model.trust_remote_code", model.trust_remote_code)
    location = None if location is None else str(location)
    return Checkpoint(source, _slug(str(name)), location, revision, remote_code).resolved()


def _check_kind(checkpoint: Checkpoint, cfg: DictConfig, asked: Sequence[Evaluation[Any]], *, calibrates: bool) -> None:
    """A model is given what its kind takes: said before any data are looked for."""
    kind, corpus = checkpoint.kind, cfg.calibration.corpus
    found = [("calibration", corpus, kind.takes(corpus))] if calibrates else []
    for evaluation in asked:
        names = [name for names in evaluation.names.values() for name in names]
        found += [("evaluation", name, evaluation.takes == kind.reads) for name in names]
    for axis, name, is_taken in found:
        if not is_taken:
            raise UserError(
                f"{axis} on {name}, but model {checkpoint.name} is {kind.title}; allowed: {kind.allowed(axis)}"
            )


def _recovery(cfg: DictConfig) -> Choice:
    """Fine-tuning needs the whole model: said now, and not after hours of pruning."""
    recovery = _choice(cfg.recovery)
    built = RECOVERIES.build(recovery)
    if not built.changes_model:
        return recovery
    if cfg.offload != "none":
        raise UserError(f"offload={cfg.offload} cannot run recovery={recovery.name}; allowed: offload=none")
    return _as_built(recovery, built)


def _calibration(cfg: DictConfig, method: PruningMethod, allocation: Allocation) -> tuple[CalibrationSpec, DataRef]:
    wanted = cfg.calibration
    path = values.path("calibration.path", wanted.path)
    data = resolve(wanted.corpus, "calibration", path=path, source=wanted.source)
    sampling = default_sampling(data) if wanted.sampling == "auto" else wanted.sampling
    arrays = wanted.corpus in (TOKENS, DIGITS)
    sampling = values.one_of("calibration.sampling", sampling, ("given",) if arrays else ("documents", "stream"))
    most: tuple[int | None, int | None] = (None, None)
    if wanted.corpus == DIGITS:
        most = (TRAINING_ROWS, ROW)
        values.one_of("calibration.seq_len", wanted.seq_len, (None, ROW))
    elif sampling == "given":
        most = cast("tuple[int, int]", read_array(data.path).shape)
    num_sequences = values.extent("calibration.num_sequences", wanted.num_sequences, 1, most[0])
    if allocation.measures_trials and num_sequences == most[0]:
        raise UserError(
            f"calibration.num_sequences={num_sequences} leaves none of {most[0]} sequences for allocation="
            f"{cfg.allocation.name} to measure on; allowed: 1 to {num_sequences - 1}"
        )
    propagation = values.one_of("calibration.propagation", wanted.propagation, ("auto", *get_args(Propagation)))
    spec = CalibrationSpec(
        corpus=wanted.corpus,
        data=data.identity,
        num_sequences=num_sequences,
        seq_len=values.extent("calibration.seq_len", wanted.seq_len, 2, most[1]),
        sampling=sampling,
        # A method that sees the whole model makes no difference between the two: one job, whatever is asked for.
        propagation=method.propagation if propagation == "auto" or method.needs_whole_model else propagation,
    )
    return spec, data


def _evaluation(
    cfg: DictConfig, asked: Sequence[Evaluation[Any]]
) -> tuple[tuple[EvaluationProtocol, ...], dict[str, DataRef]]:
    if not OmegaConf.is_dict(cfg.data):
        raise UserError(f"data={cfg.data} is not allowed; allowed: data.NAME=FILE, or PRUNEBENCH_DATA for a folder")

    def find(name: str, path: Path | None = None) -> DataRef:
        path = values.path(f"data.{name}", cfg.data.get(name)) if path is None else path
        return resolve(name, "evaluation", path=path, source=cfg.evaluation.source if path is None else "auto")

    found = [each for evaluation in asked for each in evaluation.ask(find)]
    data = {protocol.key: ref for protocol, ref in found if ref is not None}
    return tuple(protocol for protocol, _ in found), data


def _evaluations(cfg: DictConfig) -> list[Evaluation[Any]]:
    """Every kind of evaluation with its own fields of ``evaluation``; those that are not given keep their defaults.

    Raises:
        UserError: a value of the wrong type or out of range, or a name that the kind does not know.
    """
    asked = []
    for entry in EVALUATIONS.all().values():
        evaluation = entry(
            **{
                name: _READERS[of_type](f"evaluation.{name}", cfg.evaluation[name], least)
                for name, (of_type, least) in fields_of(entry).items()
                if name in cfg.evaluation
            }
        )
        for field, names in evaluation.names.items():
            for name in names:
                values.one_of(field, name, entry.choices())
        asked.append(evaluation)
    return asked


_READERS: dict[Any, Callable[[str, Any, int], Any]] = {
    tuple[str, ...]: lambda field, value, _: values.names(field, value),
    int: lambda field, value, least: values.integer(field, value, least=least),
    int | None: values.optional,
    bool: lambda field, value, _: values.boolean(field, value),
    str: lambda _, value, __: str(value),
    Path | None: lambda field, value, _: values.path(field, value),
}
"""How a field of an evaluation is read, by its type."""


def _options(cfg: DictConfig, asked: Sequence[Evaluation[Any]], overrides: Sequence[str], in_sweep: bool) -> RunOptions:
    tracking = cfg.tracking
    experiment = next((text.partition("=")[2] for text in overrides if text.startswith("+experiment=")), None)
    return RunOptions(
        device=_device(cfg.device),
        results_dir=values.folder("results_dir", cfg.results_dir),
        save_model=values.path("save_model", cfg.save_model),
        force=values.boolean("force", cfg.force),
        batch_tokens=values.integer("batch_tokens", cfg.batch_tokens, least=1),
        zero_shot_token_budget=values.integer("evaluation.token_budget", cfg.evaluation.token_budget, least=1),
        tracking=TrackingOptions(
            values.one_of("tracking", tracking.name, ("none", "wandb")),
            values.one_of("tracking.mode", tracking.mode, ("auto", "online", "offline", "disabled")),
            str(tracking.project),
            tracking.entity,
            _log_model(cfg),
        ),
        sweep=experiment or "runs",
        in_sweep=in_sweep,
        plugins=values.folders("plugins", cfg.plugins),
        offload=_offload(cfg, asked),
        compile=_compile(cfg),
    )


def _log_model(cfg: DictConfig) -> bool:
    """Whether the saved model goes to W&B; there must be one."""
    log_model = values.boolean("tracking.log_model", cfg.tracking.log_model)
    if log_model and cfg.save_model is None:
        raise UserError("tracking.log_model=true needs a saved model; add save_model=DIR")
    return log_model


def _compile(cfg: DictConfig) -> bool:
    compiles = values.boolean("compile", cfg.compile)
    if compiles and cfg.offload != "none":
        raise UserError(f"compile=true cannot run with offload={cfg.offload}; allowed: offload=none")
    return compiles


def _offload(cfg: DictConfig, asked: Sequence[Evaluation[Any]]) -> Offload:
    """Some evaluations need the whole model: said now, and not after hours of pruning."""
    offload: Offload = values.one_of("offload", cfg.offload, get_args(Offload))
    for evaluation in asked:
        names = ",".join(name for names in evaluation.names.values() for name in names)
        if offload != "none" and evaluation.needs_whole_model and names:
            raise UserError(f"offload={offload} cannot run {evaluation.called} ({names}); allowed: offload=none")
    return offload


def _device(value: object) -> str:
    if not re.fullmatch(r"auto|cpu|cuda|cuda:\d+", str(value)):
        raise unknown("device", value, ("auto", "cpu", "cuda", "cuda:N"))
    return str(value)


def _check_fields(cfg: DictConfig) -> None:
    """`+` and the files of experiments can add any field; one that nobody reads would be believed."""
    tree = cast("dict[str, Any]", OmegaConf.to_container(cfg))
    of_evaluations = {f"evaluation.{name}" for entry in EVALUATIONS.all().values() for name in fields_of(entry)}
    for name, node in tree.items():
        for path in [f"{name}.{field}" for field in node] if isinstance(node, dict) else [name]:
            if name not in FIELD_ROLES and path not in FIELD_ROLES and path not in of_evaluations:
                siblings = [known for known in FIELD_ROLES if known.startswith(f"{name}.")]
                raise unknown("field", path, siblings or FIELD_ROLES)


def _choice(node: DictConfig) -> Choice:
    values = cast("dict[str, Any]", OmegaConf.to_container(node))
    return Choice(values.pop("name"), values)


def _as_built(choice: Choice, built: object) -> Choice:
    """The choice with its parameters as they were taken: 5 for 5.0 is no other job."""
    return Choice(choice.name, {name: getattr(built, name) for name in choice.params})


def _slug(name: str) -> str:
    """A model's name as part of a file name: the last part of ORG/NAME, lower case, no separator of job ids."""
    return re.sub(r"[^a-z0-9.]+", "-", name.rpartition("/")[2].lower()).strip("-.") or "model"

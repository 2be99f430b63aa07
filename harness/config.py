"""From overrides to jobs: Hydra composes, this module checks and builds.

Hydra and OmegaConf are imported here, in `launch.py` and in the sweeper plugin only.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import harness
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
from harness.patterns import Pattern, SemiStructured, Unstructured, parse_n_of_m
from harness.pruning.registry import build_method, load_methods
from harness.request import JobRequest

CONFIG_NAME = "config"
COMMON_N_OF_M = ("2:4", "4:8", "1:4", "3:4", "2:8", "6:8", "8:16")
"""N:M patterns that sweeps in configuration files may name; on the command line any N:M works."""

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


def conf_dir() -> Path:
    """The configuration folder: of the checkout, or the copy inside an installed package."""
    package = Path(harness.__file__).parent
    checkout = package.parent / "conf"
    return checkout if checkout.is_dir() else package / "_conf"


def register(overrides: Sequence[str]) -> None:
    """Make methods and N:M patterns known to Hydra.

    Raises:
        UserError: an override names an N:M that is no pattern.
    """
    store = ConfigStore.instance()
    for name, method in load_methods().items():
        defaults = {field.name: field.default for field in fields(method)}
        assert MISSING not in defaults.values(), f"every hyperparameter of {name} needs a default"
        store.store(group="method", name=name, node={"name": name, **defaults})
    asked = [text for override in overrides if override.startswith("pattern=") for text in override[8:].split(",")]
    for text in {*COMMON_N_OF_M, *asked}:
        pattern = parse_n_of_m(text)
        if pattern is not None:
            node = {"kind": "n_of_m", "keep": pattern.keep, "group": pattern.group}
            store.store(group="pattern", name=pattern.label, node=node)


@contextmanager
def hydra_session() -> Iterator[None]:
    """Hydra's compose API over the configuration folder, with its errors turned into `UserError`."""
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"), user_errors():
        yield


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors of Hydra and OmegaConf about the user's overrides, as one line."""
    try:
        yield
    except MissingConfigException as error:
        if error.missing_cfg_file and error.options is not None:
            group, _, name = error.missing_cfg_file.rpartition("/")
            raise unknown(group or "configuration", name, error.options) from error
        raise UserError(_one_line(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error)) from error


def expand(arguments: Sequence[str], params: Mapping[str, Any], *, multirun: bool) -> list[tuple[str, ...]]:
    """The overrides of every job of a sweep: the product of all comma-separated values.

    Args:
        arguments: overrides of the command line.
        params: the sweep of an experiment (`hydra.sweeper.params`); an override of the same key replaces it.
        multirun: several values are allowed.

    Raises:
        UserError: several values without `multirun`.
    """
    parsed = OverridesParser.create().parse_overrides(
        [f"{key}={value}" for key, value in params.items()] + [*arguments]
    )
    swept = next((override for override in parsed if override.is_sweep_override()), None)
    if swept is not None and not multirun:
        raise UserError(f"{swept.get_key_element()} has several values; add -m to run a sweep")
    return [tuple(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]


def plan(arguments: Sequence[str], *, multirun: bool) -> list[Planned]:
    """Every job that these overrides ask for, in order; call it inside `hydra_session`.

    Raises:
        UserError: an override that cannot be composed or a value that is not allowed.
    """
    plain = [text for text in arguments if not OverridesParser.create().parse_override(text).is_sweep_override()]
    base = hydra.compose(CONFIG_NAME, overrides=plain, return_hydra_config=True)
    params = cast("dict[str, Any]", OmegaConf.to_container(base.hydra.sweeper.params or OmegaConf.create({})))
    return plan_jobs(expand(arguments, params, multirun=multirun))


def plan_jobs(jobs: Iterable[Sequence[str]]) -> list[Planned]:
    """Compose and build the job of every list of overrides."""
    composer = _Composer()
    return [build(composer.compose(overrides), tuple(overrides)) for overrides in jobs]


class _Composer:
    """Composes the jobs of one sweep, which differ in few overrides, with few of Hydra's slow compositions.

    A choice of a group decides that group's node and nothing else (no file of a group has a package of its own), so
    the node is composed once a choice and put in place; plain values are set on top, as Hydra does.
    """

    def __init__(self) -> None:
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._parser = OverridesParser.create()
        self._groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} | {"method"}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What `hydra.compose` gives for these overrides."""
        shared, choices, values = [], [], []
        for text in overrides:
            override = self._parser.parse_override(text)
            if override.is_add() or override.is_force_add() or override.is_delete() or text.startswith("hydra"):
                shared.append(text)
            elif override.get_key_element() in self._groups:
                choices.append((override.get_key_element(), text))
            else:
                values.append(override)
        cfg = copy.deepcopy(self._compose(shared))
        for group, text in choices:
            with open_dict(cfg):
                cfg[group] = copy.deepcopy(self._compose([*shared, text])[group])
        for override in values:
            OmegaConf.update(cfg, override.get_key_element(), override.value(), merge=True, force_add=False)
        return cfg

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        key = tuple(overrides)
        if key not in self._composed:
            self._composed[key] = hydra.compose(CONFIG_NAME, overrides=list(overrides))
        return self._composed[key]


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


def experiments() -> dict[str, Path]:
    """The named sweeps by name."""
    return {path.stem: path for path in sorted((conf_dir() / "experiment").glob("*.yaml"))}


@cache
def descriptions(group: str) -> dict[str, str]:
    """The choices of a configuration group with the first comment line of their files."""
    found = {}
    for path in sorted((conf_dir() / group).glob("*.yaml")):
        comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        found[path.stem] = next((line for line in comments if line and not line.startswith("@")), "")
    return found


def paper_names() -> dict[str, str]:
    """How the published tables spell our models, by our name."""
    names = {}
    for path in (conf_dir() / "model").glob("*.yaml"):
        spelling = cast("DictConfig", OmegaConf.load(path)).get("paper_name")
        if spelling:
            names[path.stem] = str(spelling)
    return names


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


def _one_line(error: Exception) -> str:
    """A library's message about an override as one line."""
    unknown_field = re.search(r"Could not override '([^']*)'|Key '([^']*)' is not in struct", str(error))
    if unknown_field:
        field = unknown_field[1] or unknown_field[2]
        return f"unknown field {field!r}; `prunebench run --help` lists the axes, conf/config.yaml the fields"
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip(" ^")]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "See https"))]
    text = "; ".join(lines[:2])
    return f"cannot read the override: {text}" if isinstance(error, OverrideParseException) else text

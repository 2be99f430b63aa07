"""From overrides to compositions: Hydra's sessions, sweeps and errors, and what there is to choose from."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import harness
from harness.config import values
from harness.config.build import build
from harness.config.request import JobRequest, Refusal
from harness.errors import UserError, unknown
from harness.patterns import parse_n_of_m
from harness.pruning.allocations.base import ALLOCATIONS
from harness.pruning.methods.base import METHODS
from harness.recovery.base import RECOVERIES
from harness.registry import Registry, load_folder

CONFIG_NAME = "config"
COMMON_N_OF_M = ("2:4", "4:8", "1:4", "3:4", "2:8", "6:8", "8:16")
"""N:M patterns that sweeps in configuration files may name; on the command line any N:M works."""


def conf_dir() -> Path:
    """The configuration folder: of the checkout, or the copy inside an installed package."""
    package = Path(harness.__file__).parent
    checkout = package.parent / "conf"
    return checkout if checkout.is_dir() else package / "_conf"


def register(overrides: Sequence[str]) -> None:
    """Load plug-ins, make registered entries and N:M patterns known to Hydra, and check what the overrides choose.

    Raises:
        UserError: an override names an N:M that is no pattern, or chooses a group by no name.
    """
    with user_errors():
        parsed = OverridesParser.create().parse_overrides([text for text in overrides if text[:1] != "-"])
        _check_choices(parsed)
    for override in parsed:  # before the configuration is composed, which may choose what they add
        if override.key_or_group == "plugins" and not override.is_sweep_override():
            for folder in values.folders("plugins", override.value()):
                load_folder(folder)
    store = ConfigStore.instance()
    tables: tuple[Registry[Any], ...] = (METHODS, ALLOCATIONS, RECOVERIES)
    for table in tables:
        for name, entry in table.all().items():
            defaults = {field.name: field.default for field in fields(entry)}
            assert MISSING not in defaults.values(), f"every hyperparameter of {name} needs a default"
            store.store(group=table.axis, name=name, node={"name": name, **defaults})
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


@dataclass(frozen=True, slots=True)
class Sweep:
    """What an experiment sweeps over, from its `hydra.sweeper`; without an experiment, nothing.

    Args:
        params: comma-separated values by key, of every job.
        products: such tables, swept one after the other, each with `params`: for fields that only some of the methods
            have.  None is one table without entries.
    """

    params: Mapping[str, Any] | None = None
    products: Sequence[Mapping[str, Any]] | None = None

    def overrides(self, arguments: Sequence[str]) -> Iterator[list[str]]:
        """The overrides of each product, with those of the command line, which win.

        A key of the command line replaces that key, and the fields below it: a method's fields go with the method.
        """
        parser = OverridesParser.create()
        given = {parser.parse_override(text).key_or_group for text in arguments}
        for product in self.products or [{}]:
            entries = {**(self.params or {}), **product}
            kept = {key: value for key, value in entries.items() if not {key, key.partition(".")[0]} & given}
            yield [f"{key}={value}" for key, value in kept.items()] + [*arguments]


def expand(arguments: Sequence[str], sweep: Sweep, *, multirun: bool) -> list[tuple[str, ...]]:
    """The overrides of every job of a sweep: the product of all comma-separated values.

    Args:
        arguments: overrides of the command line.
        sweep: the sweep of an experiment.
        multirun: several values are allowed.

    Raises:
        UserError: several values without `multirun`.
    """
    jobs: list[tuple[str, ...]] = []
    for overrides in sweep.overrides(arguments):
        parsed = OverridesParser.create().parse_overrides(overrides)
        if any(each.key_or_group == "experiment" and each.is_sweep_override() for each in parsed):
            raise UserError("+experiment takes one name, for each has a sweep of its own; run one after the other")
        swept = next((override.get_key_element() for override in parsed if override.is_sweep_override()), None)
        if (swept is not None or jobs) and not multirun:
            raise UserError(f"{swept or 'the experiment'} has several values; add -m to run a sweep")
        jobs += [tuple(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]
    return jobs


def _check_choices(overrides: Iterable[Override]) -> None:
    """A group is chosen by one of its names.

    Raises:
        UserError: a group is null or deleted, or the name in it is changed, which leaves it with another's fields.
    """
    known = groups()
    for override in overrides:
        group = override.key_or_group
        if override.is_delete():
            if "." not in group or group.endswith(".name"):
                raise UserError(f"{override.input_line} is not allowed; allowed: {group.partition('.')[0]}=NAME")
            continue
        if group in known and override.value() is None:
            raise UserError(f"{group}=null is not allowed; allowed: a name that `prunebench list` shows")
        if group in ("method.name", "allocation.name", "recovery.name"):
            axis = group.partition(".")[0]
            raise UserError(f"{override.input_line} is not allowed; allowed: {axis}=NAME, which brings its fields")


def groups() -> set[str]:
    """The axes whose values are names of files or registered entries."""
    return {path.name for path in conf_dir().iterdir() if path.is_dir()} | {"method", "allocation", "recovery"}


def plan(arguments: Sequence[str], *, multirun: bool) -> list[JobRequest | Refusal]:
    """What every composition of these overrides asks for, in order; call it inside `hydra_session`.

    Raises:
        UserError: an override that cannot be composed or a value that is not allowed.
    """
    sweeper = cast("dict[str, Any]", OmegaConf.to_container(compose_whole(arguments).hydra.sweeper))
    jobs = expand(arguments, Sweep(sweeper["params"], sweeper["products"]), multirun=multirun)
    composer = _Composer(jobs)
    return [build(composer.compose(overrides), overrides, in_sweep=multirun) for overrides in jobs]


def compose_whole(arguments: Sequence[str]) -> DictConfig:
    """The configuration of a sweep with Hydra's own part, without the values that are swept over."""
    plain = [text for text in arguments if not OverridesParser.create().parse_override(text).is_sweep_override()]
    return hydra.compose(CONFIG_NAME, overrides=plain, return_hydra_config=True)


class _Composer:
    """Composes the jobs of one sweep, which differ in few overrides, with few of Hydra's slow compositions.

    A choice of a group decides that group's node and nothing else (no file of a group has a package of its own), so
    one composition gives the nodes of a choice of every group at once; they are put in place, and plain values are set
    on top, as Hydra does.

    Args:
        jobs: the overrides of all jobs that will be composed.
    """

    def __init__(self, jobs: Iterable[Sequence[str]]) -> None:
        self._parser = OverridesParser.create()
        self._groups = groups()
        self._split: dict[str, tuple[str | None, Override]] = {}
        self._whole: dict[tuple[str, ...], DictConfig] = {}
        self._nodes: dict[tuple[tuple[str, ...], str], DictConfig] = {}
        wanted: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
        for overrides in jobs:
            shared, choices, _ = self._parts(overrides)
            of_group = wanted.setdefault(shared, {})
            for group, text in choices:
                of_group.setdefault(group, {})[text] = None
        for shared, of_group in wanted.items():
            self._whole[shared] = hydra.compose(CONFIG_NAME, overrides=list(shared))
            for texts in zip_longest(*of_group.values()):
                chosen = {group: text for group, text in zip(of_group, texts, strict=True) if text is not None}
                composed = hydra.compose(CONFIG_NAME, overrides=[*shared, *chosen.values()])
                self._nodes |= {(shared, text): composed[group] for group, text in chosen.items()}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What `hydra.compose` gives for these overrides."""
        shared, choices, plain = self._parts(overrides)
        nodes = dict(self._whole[shared].items_ex(resolve=False)) | {
            group: self._nodes[shared, text] for group, text in choices
        }
        cfg = OmegaConf.create(nodes)  # copies every node once
        OmegaConf.set_struct(cfg, True)
        for override in plain:
            OmegaConf.update(cfg, override.get_key_element(), override.value(), merge=True, force_add=False)
        return cfg

    def _parts(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, str]], list[Override]]:
        """Overrides that change what there is, choices of groups, and plain values."""
        shared, choices, plain = [], [], []
        for text in overrides:
            if text not in self._split:
                override = self._parser.parse_override(text)
                adds = override.is_add() or override.is_force_add() or override.is_delete() or text.startswith("hydra")
                group = None if adds else override.get_key_element()
                self._split[text] = group, override
            group, override = self._split[text]
            if group is None:
                shared.append(text)
            elif group in self._groups:
                choices.append((group, text))
            else:
                plain.append(override)
        return tuple(shared), choices, plain


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


def _one_line(error: Exception) -> str:
    """A library's message about an override as one line."""
    unknown_field = re.search(r"Could not override '([^']*)'|Key '([^']*)' is not in struct", str(error))
    if unknown_field:
        field = unknown_field[1] or unknown_field[2]
        return (
            f"unknown field {field!r}; `prunebench run --help` lists the axes, `prunebench list methods NAME` the "
            "fields of a method, conf/ all others"
        )
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip(" ^")]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "See https"))]
    text = "; ".join(lines[:2])
    return f"cannot read the override: {text}" if isinstance(error, OverrideParseException) else text

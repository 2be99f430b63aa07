"""From overrides to jobs: Hydra composes what groups choose, sweeps are expanded, and values are put in place.

Hydra and OmegaConf are known here, in `choices`, in `launcher` and in the sweeper plugin only.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.build import build
from harness.config.choices import choice, conf_dir, experiments, groups, load_plugins, offer_choices
from harness.config.request import JobRequest, Refusal
from harness.config.schema import checked
from harness.errors import UserError, unknown

CONFIG_NAME = "config"


@dataclass(frozen=True, slots=True)
class Composed:
    """What a command line asks for.

    Args:
        jobs: of every composition, in order.
        hydra: the configuration with Hydra's own part, without the values that are swept over; for launchers.
    """

    jobs: Sequence[JobRequest | Refusal]
    hydra: DictConfig


def compose(arguments: Sequence[str], *, multirun: bool) -> Composed:
    """Compose and check all that these overrides ask for.

    Raises:
        UserError: an override cannot be composed, or a value is not allowed.
    """
    given = [parsed(text) for text in arguments]
    load_plugins(given)
    offer_choices(given)
    with hydra_session():
        composer = Composer(arguments)
        jobs = expand(arguments, composer.sweep, multirun=multirun)
        composer.choose(jobs)
        documents = [composer.document(overrides) for overrides in jobs]
    requests = [build(checked(text), job, in_sweep=multirun) for job, text in zip(jobs, documents, strict=True)]
    return Composed(requests, composer.whole)


@contextmanager
def hydra_session() -> Iterator[None]:
    """Hydra's compose API over the configuration folder; its errors, which are about the overrides, are one line."""
    try:
        with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            yield
    except MissingConfigException as error:
        if error.missing_cfg_file and error.options is not None:
            group, _, name = error.missing_cfg_file.rpartition("/")
            raise unknown(group or "configuration", name, error.options) from error
        raise UserError(_one_line(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error)) from error


@cache
def parsed(text: str) -> Override:
    """One override.

    Raises:
        UserError: it cannot be read; the line says how to quote a value, where that would help.
    """
    read = OverridesParser.create().parse_override
    try:
        override = read(text)
        if override.key_or_group.strip():
            return override
    except HydraException:
        pass
    key, sign, value = text.partition("=")
    escaped = value.replace("'", "\\'")
    quoted = f"{key}='{escaped}'"
    try:
        helps = bool(sign and key.strip()) and read(quoted).value() == value
    except HydraException:
        helps = False
    allowed = f'"{quoted}", with both quotes' if helps else "FIELD=VALUE"
    raise UserError(f"cannot read the override {text}; allowed: {allowed}")


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
        given = {parsed(text).key_or_group for text in arguments}
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
        several = [each for text in overrides if (each := parsed(text)).is_sweep_override()]
        if (several or jobs) and not multirun:
            what = several[0].get_key_element() if several else "the experiment"
            raise UserError(f"{what} has several values; add -m to run a sweep, or quote a value with a comma")
        jobs += [tuple(job) for job in BasicSweeper.split_arguments([parsed(text) for text in overrides], None)[0]]
    return jobs


class Composer:
    """Composes the jobs of one sweep, which differ in few overrides, with one of Hydra's slow compositions.

    A choice of a group decides that group's node and nothing else (no file of a group has a package or defaults of its
    own), so its node, with what the experiment sets in the group, is put in place; plain values are set on top, as
    Hydra does.

    Args:
        arguments: overrides of the command line; those of the whole sweep (the experiment, and what is a matter of
            Hydra's own) are composed now.

    Attributes:
        whole: the configuration with Hydra's own part, without the choices and values of single jobs.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._groups = groups()
        self._shared = [text for text in arguments if _is_shared(parsed(text))]
        self.whole = hydra.compose(CONFIG_NAME, overrides=self._shared, return_hydra_config=True)
        self._tree = cast("dict[str, Any]", OmegaConf.to_container(self.whole))
        sweeper = self._tree.pop("hydra")["sweeper"]
        self.sweep = Sweep(sweeper.get("params"), sweeper.get("products"))
        named = next((each.value() for each in map(parsed, self._shared) if each.key_or_group == "experiment"), None)
        self._experiment: Any = OmegaConf.load(experiments()[str(named)]) if named else {}
        self._nodes: dict[str, Any] = {}

    def choose(self, jobs: Iterable[Sequence[str]]) -> None:
        """Look up all choices of the jobs that `document` will be asked for.

        Raises:
            UserError: a group has no choice of that name.
        """
        for text in dict.fromkeys(text for overrides in jobs for text in overrides if text not in self._shared):
            override = parsed(text)
            if (group := override.key_or_group) in self._groups:
                chosen = OmegaConf.create(choice(group, str(override.value())))
                self._nodes[text] = OmegaConf.to_container(OmegaConf.merge(chosen, self._experiment.get(group) or {}))

    def document(self, overrides: Sequence[str]) -> str:
        """What `hydra.compose` gives for these overrides, as JSON.

        Raises:
            UserError: a value is missing, or lies below one that holds no fields.
        """
        own = [parsed(text) for text in overrides if text not in self._shared]
        chosen = {
            each.key_or_group: self._nodes[str(each.input_line)] for each in own if each.input_line in self._nodes
        }
        tree = deepcopy(self._tree | chosen)
        for override in own:
            if override.input_line not in self._nodes:
                _put(tree, override)
        text = json.dumps(tree)
        if "${" in text:
            text = json.dumps(OmegaConf.to_container(OmegaConf.create(tree), resolve=True))
        if '"???"' in text:
            missing = sorted(OmegaConf.missing_keys(OmegaConf.create(tree)))
            raise UserError(f"{', '.join(missing)} must be given, for example {missing[0]}=VALUE")
        return text


def _is_shared(override: Override) -> bool:
    """Whether it is of the whole sweep.

    Raises:
        UserError: it has several values.
    """
    shared = re.match(r"experiment$|hydra\b", override.key_or_group) is not None
    if shared and override.is_sweep_override():
        raise UserError(f"{override.get_key_element()} takes one name a sweep; run one after the other")
    return shared


def _put(tree: dict[str, Any], override: Override) -> None:
    """Set or delete a value, as Hydra does; fields that there are not are found when all are checked."""
    *parents, last = override.key_or_group.split(".")
    node: Any = tree
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise UserError(f"unknown field {override.key_or_group!r}: {name} holds no fields")
    value = override.value()
    if override.is_delete():
        node.pop(last, None)
    else:
        node[last] = {**node[last], **value} if isinstance(value, dict) and isinstance(node.get(last), dict) else value


def _one_line(error: Exception) -> str:
    """A library's message about an override as one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip(" ^")]
    return "; ".join([line for line in lines if not line.startswith(("full_key:", "object_type=", "See https"))][:2])

"""What there is to choose from: the files of the configuration folder, and what registries and plug-ins add to them."""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

import harness
from harness.config.schema import Folders
from harness.data.corpora.base import CORPORA
from harness.errors import UserError, unknown
from harness.patterns import parse_n_of_m
from harness.pruning.allocations.base import ALLOCATIONS
from harness.pruning.methods.base import METHODS
from harness.recovery.base import RECOVERIES
from harness.registry import Registry, load_folder

COMMON_N_OF_M = ("2:4", "4:8", "1:4", "3:4", "2:8", "6:8", "8:16")
"""N:M patterns that sweeps in configuration files may name; on the command line any N:M works."""
OF_CORPORA: dict[str, dict[str, object]] = {"calibration": {"propagation": "auto"}, "training": {"tokens": None}}
"""Groups that corpora are chosen in, which have no files either, with the field that each adds."""
REGISTERED: tuple[Registry[Any], ...] = (METHODS, ALLOCATIONS, RECOVERIES)
"""Groups that have no files, and whose entries have fields of their own."""


def conf_dir() -> Path:
    """The configuration folder: of the checkout, or the copy inside an installed package."""
    package = Path(harness.__file__).parent
    checkout = package.parent / "conf"
    return checkout if checkout.is_dir() else package / "_conf"


def groups() -> set[str]:
    """The axes whose values are names of files or registered entries."""
    return {path.name for path in conf_dir().iterdir() if path.is_dir()} | {
        *OF_CORPORA,
        *(table.axis for table in REGISTERED),
    }


def choice(group: str, name: str) -> Any:
    """The fields that a choice of a group stands for.

    Raises:
        UserError: the group has no choice of that name.
    """
    files = {path.stem: path for path in (conf_dir() / group).glob("*.yaml")}
    if name in files:
        return OmegaConf.load(files[name])
    store = ConfigStore.instance()
    stored = [each.removesuffix(".yaml") for each in store.list(group)] if group in store.repo else []
    if name in stored:
        return store.load(f"{group}/{name}.yaml").node
    raise unknown(group, name, sorted({*stored, *files}))


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


def load_plugins(overrides: Iterable[Override]) -> None:
    """Load the plug-ins that the command line or else the experiment names: what is composed may be of them.

    Raises:
        UserError: a plug-in cannot be loaded.
    """
    given = {each.key_or_group: each.value() for each in overrides if not each.is_sweep_override()}
    named = given.get("plugins")
    if "plugins" not in given and (file := experiments().get(str(given.get("experiment")))):
        named = OmegaConf.to_container(OmegaConf.load(file)).get("plugins")  # type: ignore[union-attr]  # a mapping
    try:
        folders = TypeAdapter(Folders).validate_python(named)
    except ValidationError:
        return  # said with the other fields, when they are checked
    for folder in folders:
        load_folder(folder)


def offer_choices(overrides: Sequence[Override]) -> None:
    """Make registered entries and N:M patterns known to Hydra, and check what the overrides choose.

    Raises:
        UserError: an override names an N:M that is no pattern, or chooses a group by no name.
    """
    store = ConfigStore.instance()
    for table in REGISTERED:
        for name, entry in table.all().items():
            defaults = {field.name: field.default for field in fields(entry)}
            assert MISSING not in defaults.values(), f"every hyperparameter of {name} needs a default"
            defaults.pop("seed", None)  # what an entry draws is drawn by the job's seed, unless one is given
            store.store(group=table.axis, name=name, node={"name": name, **defaults})
    for name, corpus in CORPORA.all().items():
        if (node := corpus.sequence_fields(name)) is not None:
            for group, own in OF_CORPORA.items():
                store.store(group=group, name=name, node=node | own)
    store.store(group="training", name="calibration", node=OF_CORPORA["training"])  # its other fields are that one's
    asked = [each.input_line or "" for each in overrides if each.key_or_group == "pattern"]
    for text in {*COMMON_N_OF_M, *(name for line in asked for name in line.partition("=")[2].split(","))}:
        if (pattern := parse_n_of_m(text)) is not None:
            node = {"kind": "n_of_m", "keep": pattern.keep, "group": pattern.group}
            store.store(group="pattern", name=pattern.label, node=node)
    _check_choices(overrides)


def _check_choices(overrides: Iterable[Override]) -> None:
    """A group is chosen by one of its names.

    Raises:
        UserError: a group is null or deleted, or the name in it is changed, which leaves it with another's fields.
    """
    known, named = groups() - {"experiment"}, {f"{table.axis}.name" for table in REGISTERED}
    for override in overrides:
        group, text = override.key_or_group, override.input_line
        axis = group.partition(".")[0]
        if override.is_delete():
            if "." not in group or group.endswith(".name"):
                raise UserError(f"{text} is not allowed; allowed: {axis}=NAME")
        elif group in known and (override.is_add() or override.is_force_add() or override.package):
            raise UserError(f"{text} is not allowed; allowed: {axis}=NAME")
        elif group in known and override.value() is None:
            raise UserError(f"{group}=null is not allowed; allowed: a name that `prunebench list` shows")
        elif group in named:
            raise UserError(f"{text} is not allowed; allowed: {axis}=NAME, which brings its fields")

"""Published numbers, read from `experiments/*/published.csv`, with the status and the source of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from harness.errors import UserError, unknown
from harness.reporting.facts import experiments_folder, read_facts

PLAIN_VARIANTS = frozenset({"", "w/o tune", "re-evaluated (*)", "all layers 2:4", "layer-wise"})
"""Variants that name the method with its defaults and without recovery: what a plain job may be compared with."""

UNSURE = {"verified": 0, "corrected": 0, "single_source": 1, "unverified": 2}
"""How far a value is not to be trusted, by its status (experiments/README.md)."""

DENSE_PATTERN = "dense"
"""The pattern of a model that nothing has pruned."""

UNIFORM = "uniform"
"""The allocation that papers do not mention: every layer gets the same sparsity."""

REPRODUCTION = "REPRO-"
"""Tables of users' reproductions: printable by id, never the published value of a comparison."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published number.

    Args:
        sparsity: fraction of zeros (of parameters, for structured rows) as the table names it.
        text: the value as printed; value: the same as a number.
        unit: ``ppl``, ``word_ppl``, ``%``, ``x``, ``ms`` or ``s``.
        seq_len: tokens a window, None where it does not apply or is not known.
        protocol: key, without its version, of the protocol whose results may be compared with this number;
            empty when none may.
    """

    table_id: str
    paper: str
    arxiv: str
    table_caption: str
    model: str
    method: str
    variant: str
    sparsity: float
    pattern: str
    metric: str
    task: str
    text: Annotated[str, Field(validation_alias="value")]
    value: float
    unit: str
    seq_len: Annotated[int | None, BeforeValidator(lambda text: text or None)]
    protocol: str
    status: Literal["verified", "corrected", "single_source", "unverified"]
    source: str
    note: str

    @property
    def setting(self) -> "Setting":
        return Setting(self.model, self.method, self.pattern, self.sparsity, self.protocol, self.metric)


@dataclass(frozen=True, slots=True)
class Setting:
    """What must agree for two numbers to be compared; names are equal whatever their case and punctuation.

    Args:
        model, method: the paper's spelling, or any that differs in case, blanks, hyphens and underscores only.
        sparsity: fraction of zeros; equal to four decimals is equal.
        protocol: protocol key without its version, e.g. ``perplexity:wikitext2:seq2048``.
    """

    model: str
    method: str
    pattern: str
    sparsity: float
    protocol: str
    metric: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", normal_name(self.model))
        object.__setattr__(self, "method", normal_name(self.method))
        object.__setattr__(self, "sparsity", round(self.sparsity, 4))


@dataclass(frozen=True)
class Published:
    """Every published number, in the order of the files."""

    rows: tuple[PublishedRow, ...]

    @cached_property
    def _by_setting(self) -> Mapping[Setting, tuple[PublishedRow, ...]]:
        found: dict[Setting, list[PublishedRow]] = {}
        for row in self.rows:
            if row.protocol and row.variant in PLAIN_VARIANTS and not row.table_id.startswith(REPRODUCTION):
                found.setdefault(row.setting, []).append(row)
        return {key: tuple(sorted(rows, key=_trust)) for key, rows in found.items()}

    @cached_property
    def _by_table(self) -> Mapping[str, tuple[PublishedRow, ...]]:
        found: dict[str, list[PublishedRow]] = {}
        for row in self.rows:
            found.setdefault(row.table_id, []).append(row)
        return {table_id: tuple(rows) for table_id, rows in found.items()}

    def table_ids(self) -> list[str]:
        return sorted(self._by_table, key=natural_key)

    def table(self, table_id: str) -> tuple[PublishedRow, ...]:
        """The rows of one table, in the order of the paper.

        Raises:
            UserError: no table has this id.
        """
        if table_id not in self._by_table:
            raise unknown("table", table_id, self.table_ids())
        return self._by_table[table_id]

    def lookup(self, setting: Setting) -> tuple[PublishedRow, ...]:
        """Numbers for exactly this setting, the most trusted first: the method's own paper, then by status.

        Only rows of the method with its defaults and without recovery count, and no user's reproduction.
        """
        return self._by_setting.get(setting, ())


def load(folder: Path | None = None) -> Published:
    """Read every `*/published.csv` under `folder`, by default the experiments that come with the package.

    Raises:
        UserError: there is no such file, or a row in one cannot be read.
    """
    folder = folder or experiments_folder()
    files = sorted(folder.glob("*/published.csv"))
    if not files:
        raise UserError(f"no */published.csv under {folder}; the published numbers are part of the checkout")
    return Published(tuple(row for file in files for row in read_facts(file, PublishedRow)))


@dataclass(frozen=True, slots=True)
class PaperName:
    """How papers name what our jobs of one setting compute.

    Args:
        changed: the method's hyperparameters that are not its defaults, as `JobRow.changed` spells them.
        allocation: its name; its hyperparameters are the defaults.
        paper_method: the papers' name of all that.
        differs: what we compute otherwise than they did; empty where nothing is known.
    """

    method: str
    changed: str
    allocation: str
    paper_method: str
    differs: str


def paper_name(method: str, changed: str, allocation: str) -> PaperName | None:
    """How papers name a method in a setting; None where none of them prints that setting.

    The rule is that hyperparameters are the defaults and an allocation is written before the method, ``owl w. wanda``;
    the exceptions are facts that come with the package.
    """
    if exception := _exceptions().get((method, changed, allocation)):
        return exception
    named = method if allocation in ("", UNIFORM) else f"{allocation} w. {method}"
    return None if changed else PaperName(method, changed, allocation, named, "")


@cache
def _exceptions() -> Mapping[tuple[str, str, str], PaperName]:
    found = read_facts(experiments_folder() / "paper_names.csv", PaperName)
    return {(one.method, one.changed, one.allocation): one for one in found}


@lru_cache(maxsize=4096)
def normal_name(name: str) -> str:
    """One spelling for a name: lower case, only letters, digits, dots (OPT-1.3B) and pluses (Wanda++)."""
    return re.sub(r"[^a-z0-9.+]", "", name.casefold())


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which `opt-1.3b` comes before `opt-13b` and `T9` before `T10`."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    return tuple((0, int(part), "") if re.fullmatch("[0-9]+", part) else (1, 0, part) for part in parts)


def _trust(row: PublishedRow) -> tuple[bool, int]:
    parts = {normal_name(part) for part in row.method.split(" w. ")}  # "OWL w. Wanda" is of the OWL paper
    own_paper = normal_name(row.paper.split(":")[0]) in parts
    return (not own_paper, UNSURE[row.status])

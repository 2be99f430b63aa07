"""Published numbers with status and source, and the other facts of the package: CSV files below `experiments/`."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from harness.errors import UserError, unknown

Fact = TypeVar("Fact")

PLAIN_VARIANTS = frozenset({"", "w/o tune", "re-evaluated (*)", "all layers 2:4", "layer-wise"})
"""Variants that name the method with its defaults and without recovery: what a plain job may be compared with."""

UNSURE = {"verified": 0, "corrected": 0, "single_source": 1, "unverified": 2}
"""How far a value is not to be trusted, by its status (experiments/README.md)."""

DENSE = "dense"
"""Method and pattern of a model that nothing has pruned."""

UNIFORM = "uniform"
"""The allocation that papers do not mention: every layer gets the same sparsity."""

NO_RECOVERY = "none"
"""The recovery that published numbers are without, where they do not say another."""

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
    def paper_table(self) -> str:
        """The table and its paper, for people."""
        return f"{self.table_id}: {self.paper}" + (f", arXiv {self.arxiv}" if self.arxiv else "")

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

    def table_ids(self) -> list[str]:
        return sorted({row.table_id for row in self.rows}, key=natural_key)

    def table(self, table_id: str) -> tuple[PublishedRow, ...]:
        """The rows of one table, in the order of the paper.

        Raises:
            UserError: no table has this id.
        """
        found = tuple(row for row in self.rows if row.table_id == table_id)
        if not found:
            raise unknown("table", table_id, self.table_ids())
        return found

    def lookup(self, setting: Setting | None) -> tuple[PublishedRow, ...]:
        """Numbers for exactly this setting, if any, the most trusted first: the method's own paper, then by status.

        Only rows of the method with its defaults and without recovery count, and no user's reproduction.
        """
        return self._by_setting.get(setting, ()) if setting else ()


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


def experiments_folder() -> Path:
    """`experiments/` of the checkout, else the copy inside the installed package."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent / "experiments"
    return checkout if any(checkout.glob("*/published.csv")) else package / "_experiments"


def read_facts(file: Path, kind: type[Fact]) -> list[Fact]:
    """Every line of a file as a dataclass, whose fields are its columns.

    Raises:
        UserError: the file is not there, or a line is no such fact; the message names file, line and column.
    """
    row, found = TypeAdapter(kind), []
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            for line, fields in enumerate(csv.DictReader(stream), start=2):
                try:
                    found.append(row.validate_python(fields))
                except ValidationError as error:
                    column, problem = str(error.errors()[0]["loc"][0]), error.errors()[0]["msg"]
                    raise UserError(f"{file}, line {line}: {column}={fields.get(column)!r}: {problem}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    return found


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

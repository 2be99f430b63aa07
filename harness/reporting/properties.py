"""The properties of every method, read from its class, beside what a survey prints of it."""

import csv
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.patterns import SemiStructured, Structured, Unstructured
from harness.pruning.methods.base import (
    METHODS,
    LayerwiseMethod,
    ModelwiseMethod,
    PruningMethod,
    StructuredMethod,
    TracedMethod,
)
from harness.reporting.footnotes import Footnotes
from harness.reporting.layout import Cell, Column, Table
from harness.reporting.published import experiments_folder

TABLE_ID = "METHODS"
SURVEY = Path("sconce") / "properties.csv"
DIFFERS = "≠"
PATTERN_NAMES = {Unstructured: "unstructured", SemiStructured: "N:M", Structured: "structured"}
COSTS = {"InputHessian": "O(d³)"}
"""What a statistic of a layer of width d costs to use; every other one is looked up weight by weight."""

HEADERS = (
    *("method", "patterns", "weight update", "calibration data", "statistics", "ranked within", "gradients"),
    *("complexity", "idea"),
)


@dataclass(frozen=True, slots=True)
class SurveyRow:
    """What the survey prints of a method; `name` is the method's here, `note` what is known of its errors."""

    method: str
    name: str
    weight_update: str
    calibration_data: str
    pruning_metric: str
    complexity: str
    fine_tuning: str
    note: str


def property_table(survey: Mapping[str, SurveyRow] | None = None) -> Table:
    """Every method but the dense model, from its class attributes; ≠ marks what the survey prints otherwise.

    Args:
        survey: the survey's rows by the method's name here, by default those that come with the package.
    """
    survey = load_survey() if survey is None else survey
    notes = Footnotes()
    rows = []
    for name, method in METHODS.all().items():
        if method.patterns:
            rows.append(_row(name, method, survey.get(name), notes))
    for missing in sorted(set(survey) - set(METHODS.all())):
        notes.add(f"not here: {survey[missing].method}")
    notes.add("complexity: of a layer of width d, as the survey writes it; O(1): nothing but the weight is looked at")
    return Table(
        title=f"{TABLE_ID}: properties of the methods, from their code",
        columns=tuple(Column(header, tells=header == HEADERS[0]) for header in HEADERS),
        rows=tuple(rows),
        footnotes=tuple(notes.lines()),
    )


def load_survey(file: Path | None = None) -> dict[str, SurveyRow]:
    """The survey's property table as printed, by the method's name here.

    Raises:
        UserError: the file is not there or has other columns.
    """
    file = file or experiments_folder() / SURVEY
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = [SurveyRow(**fields) for fields in csv.DictReader(stream)]
    except (OSError, TypeError) as error:
        raise UserError(f"{file} is not the survey's property table: {error}") from error
    return {row.name: row for row in rows}


def _row(name: str, method: type[PruningMethod], printed: SurveyRow | None, notes: Footnotes) -> tuple[Cell, ...]:
    found = {
        "weight update": _yes_no(method.updates_weights),
        "calibration data": _yes_no(bool(_needs(method)) or issubclass(method, ModelwiseMethod)),
        "complexity": _complexity(method),
    }
    expected = {
        "weight update": printed.weight_update if printed else "",
        "calibration data": printed.calibration_data if printed else "",
        "complexity": _plain(printed.complexity) if printed else "",
    }
    wrong = [header for header in found if expected[header] and expected[header] != found[header]]
    if printed and wrong:
        said = ", ".join(f"{header} {expected[header]}" for header in wrong)
        notes.add(f"{DIFFERS} {printed.method}: the survey prints {said}; {printed.note or 'the code does otherwise'}")
    cells = {header: Cell(text, marks=DIFFERS if header in wrong else "") for header, text in found.items()}
    cells |= {
        "method": Cell(name),
        "patterns": Cell(", ".join(PATTERN_NAMES.get(kind, kind.__name__) for kind in method.patterns)),
        "statistics": Cell(", ".join(_words(kind.__name__) for kind in _needs(method))),
        "ranked within": Cell(_ranked_within(method)),
        "gradients": Cell(_yes_no(method.uses_gradients)),
        "idea": Cell(_idea(method)),
    }
    return tuple(cells[header] for header in HEADERS)


def _idea(method: type[PruningMethod]) -> str:
    """The first line of the method's file, without addresses."""
    line = (sys.modules[method.__module__].__doc__ or "").strip().splitlines()[0]
    return re.sub(r"[,\s]*https?://[^\s)]*", "", line)


def _needs(method: type[PruningMethod]) -> tuple[type, ...]:
    return method.needs if issubclass(method, LayerwiseMethod | StructuredMethod) else ()


def _ranked_within(method: type[PruningMethod]) -> str:
    """The weights or channels that compete in an unstructured or structured pattern, with the method's defaults."""
    if issubclass(method, StructuredMethod):
        return "channels of a block"
    if issubclass(method, LayerwiseMethod | ModelwiseMethod):
        return method().comparison_group
    return "model"


def _complexity(method: type[PruningMethod]) -> str:
    if issubclass(method, ModelwiseMethod):
        return "passes over the model"
    if issubclass(method, TracedMethod):
        return "O(d_out d_in³)"
    costs = sorted({COSTS.get(kind.__name__, "O(d²)") for kind in _needs(method)})
    return " to ".join(costs) or "O(1)"


def _plain(complexity: str) -> str:
    """`O(d^2 hidden)` -> `O(d²)`."""
    return complexity.replace(" hidden", "").replace("^2", "²").replace("^3", "³")


def _words(name: str) -> str:
    """`FeatureNorm` -> `feature norm`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"

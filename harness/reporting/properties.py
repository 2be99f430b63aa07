"""The table of properties: what the code says of every method, beside what a survey prints of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from harness.reporting.layout import Cell, Column, Table
from harness.reporting.marks import Footnotes
from harness.reporting.published import experiments_folder, read_facts

TABLE_ID = "METHODS"
SURVEY = Path("sconce") / "properties.csv"
DIFFERS = "≠"


@dataclass(frozen=True, slots=True)
class Properties:
    """What a method is, in words: a column each, in this order.

    Args:
        ranked_within: the weights or channels that compete, with the method's defaults.
        complexity: of a layer of width d.
        idea: one line.
    """

    method: str
    patterns: str
    weight_update: str
    calibration_data: str
    statistics: str
    ranked_within: str
    gradients: str
    complexity: str
    idea: str


COMPARED = ("weight_update", "calibration_data", "complexity")
"""What the survey prints, too."""


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


def property_table(methods: Sequence[Properties], survey: Mapping[str, SurveyRow] | None = None) -> Table:
    """A row a method; ≠ marks what the survey prints otherwise.

    Args:
        survey: the survey's rows by the method's name here, by default those that come with the package.
    """
    survey = load_survey() if survey is None else survey
    notes = Footnotes()
    rows = [tuple(_row(method, survey.get(method.method), notes)) for method in methods]
    for missing in sorted(set(survey) - {method.method for method in methods}):
        notes.add(f"not here: {survey[missing].method}")
    notes.add("complexity: of a layer of width d, as the survey writes it; O(1): nothing but the weight is looked at")
    return Table(
        title=f"{TABLE_ID}: properties of the methods, from their code",
        columns=tuple(Column(_words(field.name), tells=field.name == "method") for field in fields(Properties)),
        rows=tuple(rows),
        footnotes=tuple(notes.lines()),
    )


def load_survey(file: Path | None = None) -> dict[str, SurveyRow]:
    """The survey's property table as printed, by the method's name here.

    Raises:
        UserError: the file is not there or has other columns.
    """
    return {row.name: row for row in read_facts(file or experiments_folder() / SURVEY, SurveyRow)}


def _row(method: Properties, printed: SurveyRow | None, notes: Footnotes) -> Iterator[Cell]:
    plain = {" hidden": "", "^2": "²", "^3": "³"}  # `O(d^2 hidden)` is O(d²)
    expected = {name: getattr(printed, name, "") for name in COMPARED}
    for written, sign in plain.items():
        expected = {name: value.replace(written, sign) for name, value in expected.items()}
    wrong = [name for name, value in expected.items() if value and value != getattr(method, name)]
    if printed and wrong:
        said = ", ".join(f"{_words(name)} {expected[name]}" for name in wrong)
        notes.add(f"{DIFFERS} {printed.method}: the survey prints {said}; {printed.note or 'the code does otherwise'}")
    for name, value in asdict(method).items():
        yield Cell(value, marks=DIFFERS if name in wrong else "")


def _words(name: str) -> str:
    return name.replace("_", " ")

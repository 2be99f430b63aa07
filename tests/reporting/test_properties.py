"""The table of properties: from the methods' own classes, the survey's errors marked."""

from pathlib import Path

import pytest

from harness.cli.properties import method_properties
from harness.errors import UserError
from harness.pruning.methods.base import METHODS
from harness.reporting.formats.base import write
from harness.reporting.properties import load_survey, property_table


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    """Texts with their marks by method and header."""
    table = property_table(method_properties())
    return {
        row[0].text: {column.header: cell.text + cell.marks for column, cell in zip(table.columns, row, strict=True)}
        for row in table.rows
    }


def test_every_method_but_the_dense_model_has_a_row(rows) -> None:
    """A new method appears by itself."""
    assert set(rows) == set(METHODS.all()) - {"dense"}
    assert all(row["idea"] and row["patterns"] for row in rows.values())


def test_properties_are_those_of_the_papers(rows) -> None:
    """Wanda looks at norms and keeps weights as they are; SparseGPT needs the Hessian and moves them."""
    wanda, sparsegpt, magnitude = rows["wanda"], rows["sparsegpt"], rows["magnitude"]
    assert (wanda["weight update"], wanda["statistics"], wanda["complexity"]) == ("no", "feature norm", "O(d²)")
    assert wanda["ranked within"] == "row"
    assert (rows["lottery"]["ranked within"], rows["llm_surgeon"]["ranked within"]) == ("matrix", "model")
    assert (sparsegpt["weight update"], sparsegpt["complexity"]) == ("yes", "O(d³)")
    assert (magnitude["calibration data"], magnitude["statistics"], magnitude["complexity"]) == ("no", "", "O(1)")
    assert rows["channel-magnitude"]["patterns"] == "channel, structured"
    assert [rows[name]["ranked within"] for name in ("wanda-sp", "flap", "shortgpt")] == [
        "channels of a block", "model", "model"
    ]  # fmt: skip
    assert rows["shortgpt"]["calibration data"] == "yes"
    assert rows["llm_surgeon"]["gradients"] == "yes"


def test_the_survey_s_errors_are_marked_and_explained(rows) -> None:
    """OBC does update weights, at a higher cost; channel-wise magnitude is not Wanda.  The rest agrees."""
    assert rows["obc"]["weight update"] == "yes≠"
    assert rows["obc"]["complexity"].endswith("≠")
    assert rows["channel-magnitude"]["calibration data"] == "no≠"
    assert rows["channel-magnitude"]["complexity"] == "O(1)≠"
    marked = {name for name, row in rows.items() if any(text.endswith("≠") for text in row.values())}
    assert marked == {"obc", "channel-magnitude"}
    notes = "\n".join(property_table(method_properties()).footnotes)
    assert "Optimal Brain Compression: the survey prints weight update no, complexity O(d²)" in notes
    assert "copy of Wanda's row" in notes


@pytest.mark.parametrize("format", ["terminal", "md", "csv", "latex", "html", "json"])
def test_every_format_has_every_method(rows, format: str) -> None:
    """No number is needed to make a table."""
    text = write(property_table(method_properties()), format, 160).replace(r"\_", "_")
    assert all(name in text for name in rows)


def test_a_survey_method_that_is_not_here_is_said() -> None:
    """Its row is not made up."""
    from dataclasses import replace

    survey = load_survey()
    survey["nowhere"] = replace(survey["wanda"], method="Nowhere", name="nowhere")
    assert "not here: Nowhere" in property_table(method_properties(), survey).footnotes


def test_a_broken_survey_is_named(tmp_path: Path) -> None:
    """A file with other columns is the user's to mend."""
    (tmp_path / "properties.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"properties\.csv, line 2: method=None: Field required"):
        load_survey(tmp_path / "properties.csv")

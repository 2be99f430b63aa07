"""The records in the repository, and the pages that are made from them."""

from pathlib import Path

import pytest

from harness.reporting.formats.base import write
from harness.reporting.published import experiments_folder, load
from harness.reporting.tables import comparison
from harness.tracking.store import RecordStore

EXPERIMENTS = experiments_folder()
KEPT = sorted(path.parent.name for path in EXPERIMENTS.glob("*/table.md"))


def test_there_are_kept_sweeps() -> None:
    """Else the tests below would hold for nothing."""
    assert "methods_smollm2" in KEPT


@pytest.mark.parametrize("name", KEPT)
def test_the_kept_table_is_that_of_the_kept_records(name: str) -> None:
    """`prunebench report --results-dir results/NAME --format md --output experiments/NAME/table.md` makes it again."""
    records = RecordStore(EXPERIMENTS.parent / "results" / name).all()
    table = (EXPERIMENTS / name / "table.md").read_text(encoding="utf-8")
    assert write(comparison(records, load()), "md") == table


@pytest.mark.parametrize("name", KEPT)
def test_kept_records_are_clean_and_name_no_place(name: str) -> None:
    """Made from a commit, by commands that hold no path of the machine that ran them."""
    for record in RecordStore(EXPERIMENTS.parent / "results" / name).all():
        assert record.status == "done"
        assert not record.provenance.dirty
        assert record.provenance.commit
        assert not any(Path(text.partition("=")[2]).is_absolute() for text in record.provenance.command)
        assert all(not Path(result.data_source).is_absolute() for result in record.results)

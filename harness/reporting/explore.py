"""What a notebook needs beside tables and figures: the records of a folder."""

from collections.abc import Sequence
from pathlib import Path

from harness.record import RunRecord
from harness.reporting.frame import model_name
from harness.tracking.store import RecordStore


def load_records(folder: Path) -> list[RunRecord]:
    """Every done record below a results folder, ordered by job id; none when there is no such folder.

    Raises:
        UserError: a file is not a readable record.
    """
    return RecordStore(folder).all()


def own_names(records: Sequence[RunRecord]) -> dict[str, str]:
    """Every model under its own name: it is compared with the papers' model of that name, whatever its case."""
    return {name: name for name in sorted({model_name(record) for record in records})}

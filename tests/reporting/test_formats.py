"""A format of tables is one file, also outside of the repository."""

from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import UserError
from harness.reporting.formats.base import FORMATS, write
from harness.reporting.layout import Table
from harness.tracking.store import RecordStore

TABS = """
from harness.reporting.formats.base import FORMATS

@FORMATS.register("tabs")
def tabs(table, width):
    rows = [[cell.written(table.order) for cell in row] for row in table.rows]
    return "".join("\\t".join(row) + "\\n" for row in [[column.header for column in table.columns], *rows])
"""


def test_one_file_in_a_folder_adds_a_format(record, perplexity, tmp_path: Path, capsys, monkeypatch) -> None:
    """`report --plugins DIR --format NAME` writes with it, by way of the command line."""
    monkeypatch.setattr(FORMATS, "_entries", dict(FORMATS.all()))
    store = RecordStore(tmp_path / "results")
    store.save(record(results=(perplexity(7.5),), model="mine"))
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "tabs.py").write_text(TABS)
    options = ["--format", "tabs", "--results-dir", str(store.root)]
    with pytest.raises(SystemExit) as ended:
        main(["report", "--plugins", str(tmp_path / "plugins"), *options])
    assert ended.value.code in (0, None), capsys.readouterr().err
    assert capsys.readouterr().out.splitlines()[1] == "mine\twanda\tunstructured\t50%\t7.50"


def test_an_unknown_format_costs_no_table(tmp_path: Path, capsys) -> None:
    """The line names those that there are, before anything is read."""
    with pytest.raises(SystemExit) as ended:
        main(["report", "--format", "word", "--results-dir", str(tmp_path)])
    assert ended.value.code == 2
    assert "csv, html, json, latex, md, terminal" in capsys.readouterr().err


def test_every_format_writes_an_empty_table() -> None:
    """And ends in a newline."""
    for name in FORMATS.all():
        assert write(Table("t", (), ()), name).endswith("\n")
    with pytest.raises(UserError, match="format"):
        write(Table("t", (), ()), "word")

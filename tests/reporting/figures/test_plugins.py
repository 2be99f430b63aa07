"""A researcher's own figure needs no fork."""

from pathlib import Path

import pytest

from harness.cli.main import main
from harness.reporting.figures.base import FIGURES, PIXELS
from harness.reporting.figures.look import COLUMN
from harness.tracking.store import RecordStore

SECONDS = """
import altair
from harness.reporting.figures.base import FIGURES, NotDrawn, Picture

@FIGURES.register("seconds")
def seconds(data):
    rows = data.frame[["method", "seconds"]]
    yield Picture("my-seconds", altair.Chart(rows).mark_bar().encode(x="seconds", y="method"))
    yield NotDrawn("my-energy", "no record has it")
"""


def test_one_file_in_a_folder_adds_a_figure(record, perplexity, tmp_path: Path, capsys, monkeypatch) -> None:
    """`report --plots OUT --plugins DIR` draws it beside the others, and says what it does not draw."""
    monkeypatch.setattr(FIGURES, "_entries", dict(FIGURES.all()))
    store = RecordStore(tmp_path / "results")
    store.save(record(results=(perplexity(7.5),)))
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "seconds_of_methods.py").write_text(SECONDS)
    folders = ["--plugins", str(tmp_path / "plugins"), "--results-dir", str(store.root)]
    with pytest.raises(SystemExit) as ended:
        main(["report", "--plots", str(tmp_path / "out"), "--columns", "1", *folders])
    assert ended.value.code in (0, None), capsys.readouterr().err
    said = capsys.readouterr().out.splitlines()
    assert f"{tmp_path / 'out' / 'my-seconds.png'} and .pdf" in said
    assert "not drawn: my-energy: no record has it" in said
    assert (tmp_path / "out" / "my-seconds.png").read_bytes().startswith(b"\x89PNG")
    width = int.from_bytes((tmp_path / "out" / "perplexity-wikitext2-seq2048-v1.png").read_bytes()[16:20], "big")
    assert 0.8 * COLUMN * PIXELS < width < 1.03 * COLUMN * PIXELS
    assert (tmp_path / "out" / "perplexity-wikitext2-seq2048-v1.pdf").read_bytes().startswith(b"%PDF")

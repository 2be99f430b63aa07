"""Records back from W&B: what goes in comes out, from folders of offline runs and from a server."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.record import EvalResult, LayerReport, RunRecord, to_json
from harness.tracking.wandb import content
from harness.tracking.wandb.client import id_in
from harness.tracking.wandb.mirror import Destination, rebuild
from harness.tracking.wandb.read import STAMP, read_back, read_stamp
from tests.tracking.wandb_server import WandbServer

pytestmark = pytest.mark.usefixtures("nobody")
RecordMaker = Callable[..., RunRecord]


def _records(make_record: RecordMaker) -> list[RunRecord]:
    """A plain record, one of 300 layers (several blocks of the log), one with odd numbers and text, a failed one."""
    layers = tuple(LayerReport(f"model.layers.{i}.q", (8, 8), 0.5, 0.5, 1 / (i + 3), 9) for i in range(300))
    odd = EvalResult(
        "perplexity:c4:v1", "perplexity", "c4", "perplexity", math.inf, None, 7, False, None, "x\u2028", "f"
    )
    return [
        make_record(),
        make_record(seed=1, layers=layers),
        make_record(seed=2, results=(odd,), notes=("näïve \u202e \x1b[2J",)),
        make_record(seed=3, status="failed"),
    ]


def test_offline_runs_give_the_records_back(folder: Path, make_record: RecordMaker) -> None:
    """Every done record, equal to the byte; and W&B's own log carries the same one."""
    records = _records(make_record)
    assert {outcome.state for outcome in rebuild(records, Destination(folder, "bench", "someone"))} == {"written"}
    found = read_back(str(folder))
    expected = sorted(records[:3], key=lambda record: record.job_id)
    assert [to_json(record) for record in found] == [to_json(record) for record in expected]
    run = next(folder.glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(next(run.glob("*.wandb")))]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    record, project, entity = read_stamp(run)
    assert (id_in(run), project, entity) == (shown["run_id"], shown["project"], shown["entity"])
    assert content.unpacked(shown["config"], "W&B's own log") == record


def test_project_gives_the_records_back(make_record: RecordMaker, server: WandbServer) -> None:
    """The runs of a server, asked for through W&B's own client, are the records again."""
    records = sorted(_records(make_record)[:3], key=lambda record: record.job_id)
    for record in records:
        config = {name: {"value": value} for name, value in content.config_of(record).items()}
        server.runs.append({"name": record.job_id, "displayName": record.job_id, "config": json.dumps(config)})
    assert [to_json(record) for record in read_back("wandb:someone/bench")] == [to_json(record) for record in records]


@pytest.mark.parametrize("source", ["wandb:bench", "wandb:/bench", "wandb:a/b/c"])
def test_project_needs_its_entity(source: str) -> None:
    """The line says what is expected."""
    with pytest.raises(UserError, match="expected wandb:ENTITY/PROJECT"):
        read_back(source)


def test_folder_without_runs_is_said(tmp_path: Path) -> None:
    """No table of nothing."""
    with pytest.raises(UserError, match="no offline-run-"):
        read_back(str(tmp_path))


def test_run_of_somebody_else_is_said(
    make_record: RecordMaker, server: WandbServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A run without a record is named and set aside; one whose record was changed is an error."""
    server.runs.append({"name": "r1", "displayName": "r1", "config": json.dumps({"lr": {"value": 1}})})
    assert read_back("wandb:someone/bench") == []
    assert "run r1 of someone/bench carries no record" in caplog.text
    config = content.config_of(make_record())
    with pytest.raises(UserError, match="damaged record: it is not the one that record_sha256"):
        content.unpacked(config | {content.RECORD: content.packed(make_record(seed=1))[content.RECORD]}, "a run")
    with pytest.raises(UserError, match="damaged record"):
        content.unpacked(config | {content.RECORD: "%%%"}, "a run")


def test_no_damage_passes_unseen(make_record: RecordMaker, tmp_path: Path) -> None:
    """A flipped bit in the record and a file that is cut short are errors that name the run, never another content."""
    whole = content.stamp_of(make_record(), "bench", None)
    record = whole.index(b"record")

    @given(st.data())
    def damaged(data: st.DataObject) -> None:
        flipped = bytearray(whole)
        flipped[data.draw(st.integers(record, len(whole) - 3))] ^= 1 << data.draw(st.integers(0, 7))
        cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
        for content_ in (bytes(flipped), cut):
            (tmp_path / STAMP).write_bytes(content_)
            try:
                found = read_stamp(tmp_path)[0]
            except UserError as error:
                names_the_run, found = str(tmp_path) in str(error), make_record()
            else:
                names_the_run = True
            assert names_the_run
            assert found == make_record()

    damaged()


def test_run_that_was_killed_is_named(folder: Path, make_record: RecordMaker, caplog: pytest.LogCaptureFixture) -> None:
    """Without its stamp, which is written last, it is not whole: the user is told which; mirrored again, it is."""
    list(rebuild([make_record()], Destination(folder, "bench")))
    next(folder.glob(f"offline-run-*/{STAMP}")).unlink()
    assert read_back(str(folder)) == []
    assert re.search(r"offline-run-.* carries no record", caplog.text)
    assert [outcome.state for outcome in rebuild([make_record()], Destination(folder, "bench"))] == ["written"]
    assert read_back(str(folder)) == [make_record()]

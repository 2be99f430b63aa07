"""Uploading to a stand-in server: serially, within its limits, checked on arrival."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import UserError
from harness.record import RunRecord
from harness.tracking.wandb import client as wandb_client
from harness.tracking.wandb import upload as wandb_upload
from harness.tracking.wandb.mirror import Destination, mirror, rebuild
from harness.tracking.wandb.upload import sync
from tests.tracking.conftest import KEY
from tests.tracking.wandb_server import WandbServer

pytestmark = pytest.mark.usefixtures("nobody")
RecordMaker = Callable[..., RunRecord]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server here has every run as soon as it has it."""
    monkeypatch.setattr(wandb_upload, "ARRIVAL_WAITS_S", (0.0,))


def _write(records: list[RunRecord], folder: Path) -> None:
    assert {outcome.state for outcome in rebuild(records, Destination(folder, "bench"))} == {"written"}


def test_online_run_is_uploaded_once(
    folder: Path, make_record: RecordMaker, server: WandbServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The server gets id, group, tags, config, summary and table, also from a relative path; a later sync is idle."""
    record = make_record()
    with caplog.at_level(logging.WARNING):
        mirror(record, "online", Destination(folder.relative_to(Path.cwd()), "bench"))
    assert [entry.getMessage() for entry in caplog.records if entry.name.startswith("harness")] == []
    created = server.runs[0]
    assert (created["name"], created["groupName"], created["project"]) == (record.job_id, "runs", "bench")
    assert "wanda" in created["tags"]
    assert json.loads(created["config"])["job_id"] == {"value": record.job_id}
    assert server.summaries[record.job_id]["perplexity/wikitext2:seq2048:v1"] == 31.5
    assert list(sync(folder)) == []


@pytest.mark.slow
def test_sync_uploads_what_waits_and_says_what_it_could_not_read(
    folder: Path, make_record: RecordMaker, server: WandbServer
) -> None:
    """A damaged and an empty folder are reported, the run after them still goes up and is checked."""
    records = sorted((make_record(seed=seed) for seed in range(3)), key=lambda record: record.job_id)
    _write(records, folder)
    damaged, empty = (next(folder.glob(f"offline-run-*-{record.job_id}")) for record in records[:2])
    next(damaged.glob("*.wandb")).write_bytes(b"not a log")
    shutil.rmtree(empty)
    empty.mkdir()
    outcomes = {outcome.run: outcome for outcome in sync(folder)}
    assert [outcomes[record.job_id].state for record in records] == ["failed", "failed", "uploaded"]
    assert "header" in outcomes[records[0].job_id].message
    assert "no .wandb file" in outcomes[records[1].job_id].message
    assert {run["name"] for run in server.runs} == {records[2].job_id}


@pytest.mark.slow
def test_run_that_did_not_arrive_whole_is_not_uploaded(
    folder: Path, make_record: RecordMaker, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that the server lost is named, and the next sync sends the run again, under the same id; for what was
    uploaded long ago nobody waits.
    """
    _write([make_record()], folder)
    server.loses = {"achieved_sparsity"}
    (outcome,) = sync(folder)
    assert outcome.state == "failed"
    assert "lacks achieved_sparsity" in outcome.message
    server.loses = set()
    (outcome,) = sync(folder)
    assert outcome.state == "uploaded"
    server.summaries[make_record().job_id].pop("seconds/total")  # lost later: nobody knows until it is looked for
    assert list(sync(folder)) == []
    slept: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(wandb_upload, "ARRIVAL_WAITS_S", (0.0, 20.0))
        patch.setattr(wandb_upload, "time", SimpleNamespace(sleep=slept.append))
        (outcome,) = sync(folder, check_all=True)
    assert sum(slept) == 0
    assert "lacks seconds/total" in outcome.message
    (outcome,) = sync(folder)
    assert (outcome.state, outcome.message) == ("uploaded", "")
    assert {run["name"] for run in server.runs} == {make_record().job_id}


def test_sync_stops_asking_a_server_that_does_not_answer(
    folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not there costs one time limit and no more; the other runs are not tried, and each says so."""
    _write([make_record(seed=seed) for seed in range(3)], folder)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_upload, "SYNC_TIMEOUT_S", 1.0)
    outcomes = list(sync(folder))
    assert {outcome.state for outcome in outcomes} == {"failed"}
    assert [outcome.message for outcome in outcomes] == [
        "no answer within 1 s",
        *["not tried, for the server does not answer"] * 2,
    ]


@pytest.mark.slow
def test_rate_limit_is_waited_out(folder: Path, make_record: RecordMaker, server: WandbServer) -> None:
    """W&B's client stands back by itself when the server says that it was asked too often."""
    _write([make_record()], folder)
    server.too_many = 1
    (outcome,) = sync(folder)
    assert (outcome.state, server.too_many) == ("uploaded", 0)


def test_key_that_is_wrong_is_said(
    folder: Path, make_record: RecordMaker, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason has the server's own words, though W&B's client goes on trying until the time is over."""
    _write([make_record()], folder)
    monkeypatch.setattr(wandb_upload, "SYNC_TIMEOUT_S", 5.0)
    server.refuses = "the key is wrong"
    (outcome,) = sync(folder)
    assert (outcome.state, server.runs) == ("failed", [])
    assert "the key is wrong" in outcome.message


def test_sync_without_login_says_how(folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the command and the variable; with nothing to upload nobody need be logged in."""
    assert list(sync(folder)) == []
    _write([make_record()], folder)
    monkeypatch.setattr(wandb_client, "logged_in", lambda: False)
    with pytest.raises(UserError, match=r"`wandb login`, or set WANDB_API_KEY"):
        list(sync(folder))


@pytest.mark.slow
def test_a_server_that_cannot_be_asked_takes_no_mark_away(
    folder: Path, make_record: RecordMaker, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known then: the run counts as uploaded, the line says that it was not checked."""
    _write([make_record()], folder)
    list(sync(folder))

    def silent(*_: object) -> None:
        raise UserError("no answer")

    monkeypatch.setattr(wandb_upload, "runs_of", silent)
    (outcome,) = sync(folder, check_all=True)
    assert (outcome.state, outcome.message) == ("uploaded", "uploaded, but not checked: no answer")
    assert list(sync(folder)) == []


@pytest.mark.slow
def test_two_folders_of_one_run_are_both_checked(folder: Path, make_record: RecordMaker, server: WandbServer) -> None:
    """Folders of two machines, copied together, may hold the same job."""
    _write([make_record()], folder)
    (run,) = folder.glob("offline-run-*")
    shutil.copytree(run, folder / run.name.replace("offline-run-20", "offline-run-19"))
    outcomes = list(sync(folder))
    assert [outcome.state for outcome in outcomes] == ["uploaded"] * 2, outcomes

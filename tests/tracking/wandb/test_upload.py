"""Uploading to a stand-in server: serially, within its limits, checked on arrival."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.record import RunRecord
from harness.tracking.wandb import client as wandb_client
from harness.tracking.wandb import upload as wandb_upload
from harness.tracking.wandb.mirror import Destination, mirror, rebuild
from harness.tracking.wandb.upload import Pace, SyncOutcome, sync
from tests.tracking.conftest import KEY
from tests.tracking.wandb_server import WandbServer

pytestmark = pytest.mark.usefixtures("nobody")
RecordMaker = Callable[..., RunRecord]
AT_ONCE = Pace(requests_a_minute=1e9)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server here has every run as soon as it has it."""
    monkeypatch.setattr(wandb_upload, "ARRIVAL_WAITS_S", (0.0,))


def _write(records: list[RunRecord], folder: Path) -> None:
    assert {outcome.state for outcome in rebuild(records, Destination(folder, "bench", group="sweep"))} == {"written"}


def _fake_upload(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> list[str]:
    """Uploads that only say how they ended; returns the runs that were tried."""
    tried: list[str] = []

    def upload(run: Path, *_: object) -> SyncOutcome:
        tried.append(wandb_client.id_in(run))
        message = messages.pop(0)
        return SyncOutcome(tried[-1], run, message == "uploaded", message)

    monkeypatch.setattr(wandb_upload, "upload", upload)
    monkeypatch.setattr(wandb_upload, "require_login", lambda: None)
    monkeypatch.setattr(wandb_upload, "verify", lambda runs, **_: (_done(run) for run in runs))
    return tried


def _done(run: Path) -> SyncOutcome:
    return SyncOutcome(wandb_client.id_in(run), run, True, "uploaded")


def _folders(folder: Path, count: int) -> None:
    for index in range(count):
        (folder / f"offline-run-20260101_00000{index}-job{index}").mkdir(parents=True)


def test_online_run_is_uploaded_once(
    folder: Path, make_record: RecordMaker, server: WandbServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The server gets id, group, tags, config, summary and table, also from a relative path; a later sync is idle."""
    record = make_record()
    with caplog.at_level(logging.WARNING):
        mirror(record, "online", Destination(folder.relative_to(Path.cwd()), "bench", group="sweep"))
    assert [entry.getMessage() for entry in caplog.records if entry.name.startswith("harness")] == []
    created = server.runs[0]
    assert (created["name"], created["groupName"], created["project"]) == (record.job_id, "sweep", "bench")
    assert "wanda" in created["tags"]
    assert json.loads(created["config"])["job_id"] == {"value": record.job_id}
    assert server.summaries[record.job_id]["perplexity/wikitext2:seq2048:v1"] == 31.5
    assert len(server.requests) <= wandb_upload.REQUESTS_A_RUN
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
    outcomes = {outcome.run: outcome for outcome in sync(folder, pace=AT_ONCE)}
    assert [outcomes[record.job_id].uploaded for record in records] == [False, False, True]
    assert "header" in outcomes[records[0].job_id].message
    assert "no .wandb file" in outcomes[records[1].job_id].message
    assert {run["name"] for run in server.runs} == {records[2].job_id}


@pytest.mark.slow
def test_run_that_did_not_arrive_whole_is_not_uploaded(
    folder: Path, make_record: RecordMaker, server: WandbServer
) -> None:
    """A number that the server lost is named, and the next sync sends the run again, under the same id."""
    _write([make_record()], folder)
    server.loses = {"achieved_sparsity"}
    (outcome,) = sync(folder, pace=AT_ONCE)
    assert not outcome.uploaded
    assert "lacks achieved_sparsity" in outcome.message
    server.loses = set()
    (outcome,) = sync(folder, pace=AT_ONCE)
    assert outcome.uploaded
    server.summaries[make_record().job_id].pop("seconds/total")  # lost later: nobody knows until it is looked for
    assert list(sync(folder, pace=AT_ONCE)) == []
    (outcome,) = sync(folder, pace=AT_ONCE, check_all=True)
    assert "lacks seconds/total" in outcome.message
    (outcome,) = sync(folder, pace=AT_ONCE)
    assert (outcome.uploaded, outcome.message) == (True, "uploaded")
    assert {run["name"] for run in server.runs} == {make_record().job_id}


def test_sync_stops_asking_a_server_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first run that ran out of time the others are not tried, and each says so."""
    _folders(folder, 3)
    tried = _fake_upload(monkeypatch, ["no answer within 2 s"])
    outcomes = list(sync(folder, pace=AT_ONCE))
    assert tried == ["job0"]
    assert [outcome.uploaded for outcome in outcomes] == [False] * 3
    assert ["not tried" in outcome.message for outcome in outcomes] == [False, True, True]


def test_upload_ends_at_its_limit(folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there costs the time limit and no more."""
    _write([make_record()], folder)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    outcome = wandb_upload.upload(next(folder.glob("offline-run-*")), None, None, 1.0)
    assert (outcome.uploaded, outcome.message) == (False, "no answer within 1 s")


def test_rate_limit_is_waited_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is tried again after longer and longer waits; one that never gets through does not stop the next."""
    _folders(folder, 2)
    limited = "the server's rate limit was met (429)"
    tried = _fake_upload(monkeypatch, [limited, limited, "uploaded", limited, limited, limited])
    slept: list[float] = []
    monkeypatch.setattr(wandb_upload.time, "sleep", slept.append)
    outcomes = {outcome.run: outcome for outcome in sync(folder, pace=Pace(1e9, waits_s=(1.0, 2.0)))}
    assert tried == ["job0"] * 3 + ["job1"] * 3
    assert [wait for wait in slept if wait >= 1.0] == [1.0, 2.0, 1.0, 2.0]
    assert (outcomes["job0"].uploaded, outcomes["job1"].uploaded) == (True, False)
    assert "rate limit" in outcomes["job1"].message


def test_uploads_keep_the_pace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs start as far apart as the server's limit on requests asks for."""
    _folders(folder, 4)
    _fake_upload(monkeypatch, ["uploaded"] * 4)
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr(wandb_upload.time, "sleep", sleep)
    monkeypatch.setattr(wandb_upload.time, "monotonic", lambda: now[0])
    list(sync(folder, pace=Pace(requests_a_minute=60.0)))
    assert slept == [0.0, *[float(wandb_upload.REQUESTS_A_RUN)] * 3]


@pytest.mark.parametrize("text", ["HTTP 429", "Too Many Requests", "rate limit exceeded", "rate-limited"])
def test_every_word_for_too_often_is_known(text: str) -> None:
    """W&B's client says it in several ways."""
    assert wandb_upload.LIMITED.search(f"wandb: ERROR {text} (<html>)")


def test_sync_without_login_says_how(folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the command and the variable; with nothing to upload nobody need be logged in."""
    assert list(sync(folder)) == []
    _folders(folder, 1)
    monkeypatch.setattr(wandb_client, "logged_in", lambda: False)
    with pytest.raises(UserError, match=r"`wandb login`, or set WANDB_API_KEY"):
        list(sync(folder))


def test_silent_standing_back_is_known_from_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's client waits without a word when it is told 429; its log of this upload tells, an older one does not."""
    _folders(folder, 1)
    run = next(folder.glob("offline-run-*"))
    (run / "run-job0.wandb").touch()
    logs = folder / "logs"
    logs.mkdir()
    (logs / "debug-sync.1.log").write_text('{"msg":"api: retrying HTTP error","status":429}')
    monkeypatch.setattr(wandb_upload, "_run_with_limit", lambda *_: ("", False))
    assert "rate limit" in wandb_upload.upload(run, None, None, 1.0).message
    os.utime(logs / "debug-sync.1.log", (0, 0))
    assert wandb_upload.upload(run, None, None, 1.0).message == "no answer within 1 s"


@pytest.mark.slow
def test_a_server_that_cannot_be_asked_takes_no_mark_away(
    folder: Path, make_record: RecordMaker, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known then: the run counts as uploaded, the line says that it was not checked."""
    _write([make_record()], folder)
    list(sync(folder, pace=AT_ONCE))

    def silent(*_: object) -> None:
        raise UserError("no answer")

    monkeypatch.setattr(wandb_upload, "runs_of", silent)
    (outcome,) = sync(folder, pace=AT_ONCE, check_all=True)
    assert (outcome.uploaded, outcome.message) == (True, "uploaded, but not checked: UserError: no answer")
    assert list(sync(folder, pace=AT_ONCE)) == []


@pytest.mark.slow
def test_two_folders_of_one_run_are_both_checked(folder: Path, make_record: RecordMaker, server: WandbServer) -> None:
    """Folders of two machines, copied together, may hold the same job."""
    _write([make_record()], folder)
    (run,) = folder.glob("offline-run-*")
    shutil.copytree(run, folder / run.name.replace("offline-run-20", "offline-run-19"))
    outcomes = list(sync(folder, pace=AT_ONCE))
    assert [outcome.uploaded for outcome in outcomes] == [True, True], outcomes

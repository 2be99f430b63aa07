"""The mirror in W&B, read back with W&B's own tools and uploaded to a stand-in for its server."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.record import RunRecord
from harness.tracking import wandb_mirror
from harness.tracking.wandb_mirror import SyncOutcome, mirror, sync
from tests.tracking.wandb_server import WandbServer, wandb_server

RecordMaker = Callable[..., RunRecord]
KEY = "0" * 40


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, whoever runs the tests, and W&B finds none of their settings."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """W&B's folder below a results folder."""
    return tmp_path / "results" / "wandb"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that takes everything, and somebody logged in to it."""
    with wandb_server() as up:
        monkeypatch.setenv("WANDB_BASE_URL", up.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(wandb_mirror, "logged_in", lambda: True)
        yield up


def _mirror(record: RunRecord, folder: Path, mode: str = "offline") -> None:
    mirror(record, mode=mode, project="bench", entity=None, group="sweep", folder=folder)


def _inspect(run: Path, *options: str) -> str:
    """What W&B's own viewer reads in a run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("harness")]


def _runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("offline-run-*"))


def test_offline_run_holds_the_whole_record(folder: Path, make_record: RecordMaker) -> None:
    """Config, summary, tags, group, notes and the table of layers come back from the .wandb file."""
    record = make_record()
    _mirror(record, folder)
    (run,) = _runs(folder)
    shown = json.loads(_inspect(run, "--summary"))
    assert (shown["run_id"], shown["name"], shown["project"]) == (record.job_id, record.job_id, "bench")
    assert (shown["state"], shown["exit_code"]) == ("finished", 0)
    assert shown["tags"] == ["wanda", "2:4", "sparsity=0.5", "opt-125m"]
    assert shown["notes"] == "piqa: first 100 questions"
    assert shown["config"]["job_id"] == record.job_id
    assert shown["config"]["method.params.block_size"] == 128
    assert shown["summary"]["perplexity/wikitext2:seq2048:v1"] == 31.5
    assert shown["summary"]["acc_norm/piqa:first100:v1.0"] == 0.62
    assert shown["summary"]["made/commit"] == "c0ffee"
    log = [json.loads(line) for line in _inspect(run).splitlines()]
    assert [entry["run"]["run_group"] for entry in log if entry["type"] == "run"] == ["sweep"]
    table = json.loads((run / "files" / shown["summary"]["layers"]["path"]).read_text())
    assert table["columns"][:3] == ["layer", "out_features", "in_features"]
    assert table["data"][1] == ["model.layers.0.k_proj", 2, 8, 0.5, 0.5, None]


def test_failed_job_is_a_failed_run(folder: Path, make_record: RecordMaker) -> None:
    """The viewer shows it as failed, by tag and by exit code."""
    _mirror(make_record(status="failed"), folder)
    shown = json.loads(_inspect(_runs(folder)[0], "--summary"))
    assert shown["exit_code"] == 1
    assert "failed" in shown["tags"]


def test_mirroring_again_leaves_one_run(folder: Path, make_record: RecordMaker) -> None:
    """A job that got one more evaluation is still one run; another job's run stays."""
    record, other = make_record(), make_record(seed=1)
    for each in (record, other, record):
        _mirror(each, folder)
    assert sorted(run.name.split("-", 3)[3] for run in _runs(folder)) == sorted([record.job_id, other.job_id])


def test_nothing_is_written_elsewhere_or_on_the_terminal(
    folder: Path, make_record: RecordMaker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """W&B's files stay below its folder, the table's staged file among them; the console stays silent."""
    _mirror(make_record(), folder)
    assert capfd.readouterr() == ("", "")
    outside = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert outside <= {"results", "cache"}
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"wandb"}


def test_auto_is_offline_when_nobody_is_logged_in(folder: Path, make_record: RecordMaker) -> None:
    """In a process with a terminal and no credentials it asks nothing, uses no network and writes the run offline."""
    code = (
        "import pickle, sys; from pathlib import Path; from harness.tracking.wandb_mirror import logged_in, mirror;"
        "print(logged_in());"
        "mirror(pickle.loads(sys.stdin.buffer.read()), mode='auto', project='p', entity=None, group=None,"
        " folder=Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], input=pickle.dumps(make_record()), capture_output=True, check=True
    )
    assert done.stdout == b"False\n"
    assert len(_runs(folder)) == 1


def test_key_in_the_environment_is_being_logged_in() -> None:
    """W&B's own rules decide; the key is not sent anywhere to find out."""
    code = "from harness.tracking.wandb_mirror import logged_in; print(logged_in())"
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize(("mode", "variable"), [("disabled", None), ("auto", "disabled")])
def test_disabled_writes_nothing(
    folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch, mode: str, variable: str | None
) -> None:
    """Neither by our setting nor by W&B's own variable."""
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    _mirror(make_record(), folder, mode)
    assert not folder.exists()


def test_unknown_mode_is_a_user_error(folder: Path, make_record: RecordMaker) -> None:
    """The line has the value and what is allowed."""
    with pytest.raises(UserError, match="'on'; choose from: auto, online, offline, disabled"):
        _mirror(make_record(), folder, "on")


def test_broken_tracker_is_one_warning(
    folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever W&B raises, the job goes on; the line names the job and the reason."""
    import wandb

    def broken(**_: Any) -> None:
        raise RuntimeError("the service is gone\nsecond line")

    monkeypatch.setattr(wandb, "init", broken)
    with caplog.at_level(logging.WARNING):
        _mirror(make_record(), folder)
    (line,) = _warnings(caplog)
    assert make_record().job_id in line
    assert "the service is gone" in line
    assert "\n" not in line


def test_folder_that_cannot_be_written_is_one_warning(
    tmp_path: Path, make_record: RecordMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """A file where W&B's folder should be costs the mirror and nothing else."""
    (tmp_path / "wandb").write_text("in the way")
    _mirror(make_record(), tmp_path / "wandb")
    assert len(_warnings(caplog)) == 1


def test_server_that_never_answers_holds_a_job_up_for_the_limit_only(
    folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Online without a server: one warning after the time limit, and the run waits for `sync`."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_mirror, "UPLOAD_TIMEOUT_S", 2.0)
    start = time.monotonic()
    _mirror(make_record(), folder, "online")
    assert time.monotonic() - start < 10
    assert "no answer within 2 s" in _warnings(caplog)[0]
    assert len(_warnings(caplog)) == 1
    assert len(_runs(folder)) == 1


def test_online_run_is_uploaded_once(
    folder: Path, make_record: RecordMaker, server: WandbServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The server gets id, group, tags, config and summary, also from a relative path; a later sync is idle."""
    record = make_record()
    _mirror(record, folder.relative_to(Path.cwd()), "online")
    assert _warnings(caplog) == []
    created = server.runs[0]
    assert (created["name"], created["groupName"], created["project"]) == (record.job_id, "sweep", "bench")
    assert "wanda" in created["tags"]
    assert json.loads(created["config"])["job_id"] == {"value": record.job_id}
    assert server.summaries[record.job_id]["perplexity/wikitext2:seq2048:v1"] == 31.5
    assert sync(folder) == []


def test_sync_uploads_what_waits_and_says_what_it_could_not_read(
    folder: Path, make_record: RecordMaker, server: WandbServer
) -> None:
    """A damaged and an empty folder are reported and the run after them still goes up."""
    records = sorted((make_record(seed=seed) for seed in range(3)), key=lambda record: record.job_id)
    for record in records:
        _mirror(record, folder)
    damaged, empty = (next(folder.glob(f"offline-run-*-{record.job_id}")) for record in records[:2])
    next(damaged.glob("*.wandb")).write_bytes(b"not a log")
    shutil.rmtree(empty)
    empty.mkdir()
    outcomes = {outcome.run: outcome for outcome in sync(folder)}
    assert [outcomes[record.job_id].uploaded for record in records] == [False, False, True]
    assert "header" in outcomes[records[0].job_id].message
    assert "no .wandb file" in outcomes[records[1].job_id].message
    assert {run["name"] for run in server.runs} == {records[2].job_id}


def test_sync_stops_asking_a_server_that_does_not_answer(
    folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first run that ran out of time the others are not tried, and each says so."""
    for seed in range(3):
        _mirror(make_record(seed=seed), folder)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_mirror, "logged_in", lambda: True)
    outcomes: list[SyncOutcome] = sync(folder, timeout_s=2.0)
    assert [outcome.uploaded for outcome in outcomes] == [False] * 3
    assert ["not tried" in outcome.message for outcome in outcomes] == [False, True, True]


def test_sync_without_login_says_how(folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the command and the variable; with nothing to upload nobody need be logged in."""
    assert sync(folder) == []
    _mirror(make_record(), folder)
    monkeypatch.setattr(wandb_mirror, "logged_in", lambda: False)
    with pytest.raises(UserError, match=r"`wandb login`, or set WANDB_API_KEY"):
        sync(folder)

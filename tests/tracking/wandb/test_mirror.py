"""The mirror in W&B, read back with W&B's own tools and uploaded to a stand-in for its server."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from harness.errors import UserError
from harness.record import RunRecord
from harness.tracking.wandb import mirror as wandb_mirror
from harness.tracking.wandb.mirror import Destination, mirror, rebuild
from harness.tracking.wandb.read import STAMP
from tests.tracking.conftest import KEY

RecordMaker = Callable[..., RunRecord]


pytestmark = pytest.mark.usefixtures("nobody")


def _mirror(record: RunRecord, folder: Path, mode: str = "offline") -> None:
    mirror(record, mode, Destination(folder, "bench"))


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
    assert shown["notes"] == f"piqa: first 100 questions\nrecord: {record.job_id}.json"
    assert shown["config"]["job_id"] == record.job_id
    assert shown["config"]["method"]["params"]["block_size"] == 128
    assert shown["summary"]["perplexity/wikitext2:seq2048:v1"] == 31.5
    assert shown["summary"]["acc_norm/piqa:first100:v1.0"] == 0.62
    assert shown["summary"]["made/commit"] == "c0ffee"
    log = [json.loads(line) for line in _inspect(run).splitlines()]
    assert [entry["run"]["run_group"] for entry in log if entry["type"] == "run"] == ["runs"]
    lines = [entry["history"]["item"] for entry in log if entry["type"] == "history"]
    assert lines[0] | {"block": 0, "layer_error/q_proj": 0.125, "layer_sparsity/k_proj": 0.5} == lines[0]
    assert not [name for name in shown["summary"] if name == "block" or name.startswith("layer_error/")]
    table = json.loads((run / "files" / shown["summary"]["layers"]["path"]).read_text())
    assert table["columns"][:3] == ["layer", "out_features", "in_features"]
    assert table["data"][1] == ["model.layers.0.k_proj", 2, 8, 0.5, 0.5, None]


def test_failed_job_is_a_failed_run(folder: Path, make_record: RecordMaker) -> None:
    """The viewer shows it as failed, by tag and by exit code."""
    _mirror(make_record(status="failed"), folder)
    shown = json.loads(_inspect(_runs(folder)[0], "--summary"))
    assert shown["exit_code"] == 1
    assert "failed" in shown["tags"]


def test_a_run_that_counts_as_written_is_whole(
    folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's service writes the log on when a run has finished: the stamp waits for the service's end."""
    seen = []
    teardown = wandb.teardown

    def ends() -> None:
        seen.extend(run / STAMP for run in _runs(folder) if (run / STAMP).exists())
        teardown()
        seen.extend(log.stat().st_size for log in folder.glob("offline-run-*/*.wandb"))

    monkeypatch.setattr(wandb, "teardown", ends)
    _mirror(make_record(), folder)
    (run,) = _runs(folder)
    assert seen == [next(run.glob("*.wandb")).stat().st_size]
    assert (run / STAMP).exists()


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
        "import pickle, sys; from pathlib import Path;"
        "from harness.tracking.wandb.client import logged_in;"
        "from harness.tracking.wandb.mirror import Destination, mirror;"
        "print(logged_in());"
        "mirror(pickle.loads(sys.stdin.buffer.read()), 'auto', Destination(Path(sys.argv[1]), 'p'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], input=pickle.dumps(make_record()), capture_output=True, check=True
    )
    assert done.stdout == b"False\n"
    assert len(_runs(folder)) == 1


def test_key_in_the_environment_is_being_logged_in() -> None:
    """W&B's own rules decide; the key is not sent anywhere to find out."""
    code = "from harness.tracking.wandb.client import logged_in; print(logged_in())"
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


def test_two_runs_of_a_thousand_records_are_a_thousand_runs(
    folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written twice; a record that changed replaces its run, and one that broke is written again."""
    written: list[str] = []

    def fake(record: RunRecord, destination: Destination) -> Path:
        written.append(record.job_id)
        run = destination.folder / f"offline-run-20260101_{len(written):06}-{record.job_id}"
        run.mkdir(parents=True)
        return run

    monkeypatch.setattr(wandb_mirror, "_write_offline", fake)
    records = [make_record(seed=seed) for seed in range(1000)]
    destination = Destination(folder, "bench")
    assert {outcome.state for outcome in rebuild(records, destination)} == {"written"}
    assert {outcome.state for outcome in rebuild(records, destination)} == {"unchanged"}
    assert len(written) == len(_runs(folder)) == 1000
    records[7] = make_record(seed=7, notes=("another note",))
    (_runs(folder)[8] / STAMP).unlink()  # killed while it was written
    list(rebuild(records, destination))
    assert written[1000:] == [records[7].job_id, records[8].job_id]
    assert len(_runs(folder)) == 1000
    assert {outcome.state for outcome in rebuild(records, Destination(folder, "elsewhere"))} == {"written"}


def test_mirror_that_was_deleted_comes_back_the_same(folder: Path, make_record: RecordMaker) -> None:
    """The ids, and all that W&B's viewer shows but times and random names, are those of the first mirror."""
    records = [make_record(), make_record(seed=1, status="failed")]
    shown = []
    for _ in range(2):
        assert [outcome.state for outcome in rebuild(records, Destination(folder, "bench"))] == ["written"] * 2
        found = [json.loads(_inspect(run, "--summary")) for run in _runs(folder)]
        shown.append(sorted((run["run_id"], json.dumps(run["config"]), run["tags"], run["notes"]) for run in found))
        shutil.rmtree(folder)
    assert shown[0] == shown[1]
    assert [entry[0] for entry in shown[0]] == sorted(record.job_id for record in records)


def test_one_record_that_cannot_be_mirrored_does_not_stop_the_others(
    folder: Path, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome names the job and the reason, and the next record is written."""
    records = [make_record(seed=seed) for seed in range(3)]

    def fake(record: RunRecord, destination: Destination) -> Path:
        if record == records[1]:
            raise OSError("the disk is full")
        run = destination.folder / f"offline-run-20260101_000000-{record.job_id}"
        run.mkdir(parents=True)
        return run

    monkeypatch.setattr(wandb_mirror, "_write_offline", fake)
    outcomes = {outcome.run: outcome for outcome in rebuild(records, Destination(folder, "bench"))}
    assert [outcomes[record.job_id].state for record in records] == ["written", "failed", "written"]
    assert outcomes[records[1].job_id].message == "OSError: the disk is full"


def test_saved_model_goes_along_when_asked(folder: Path, make_record: RecordMaker, tmp_path: Path) -> None:
    """Every file of the model's folder is in an artifact of the run, and no copy of it is made."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights" * 1000)
    mirror(make_record(), "offline", Destination(folder, "bench", model=model))
    log = [json.loads(line) for line in _inspect(_runs(folder)[0]).splitlines()]
    (artifact,) = [
        entry["artifact"] for entry in log if entry["type"] == "artifact" and "model" in entry["artifact"]["type"]
    ]
    assert [(file["path"], file["local_path"]) for file in artifact["manifest"]["contents"]] == [
        ("model.safetensors", str(model / "model.safetensors"))
    ]
    assert not [path for path in folder.rglob("*") if path.is_file() and b"weights" in path.read_bytes()]

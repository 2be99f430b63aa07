"""Records back from W&B: what goes in comes out, from real `.wandb` files and from a server."""

import json
import math
import struct
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
from harness.tracking.wandb.log import BLOCK_SIZE, HEADER, PIECE, _messages, read_run
from harness.tracking.wandb.mirror import Destination, rebuild
from harness.tracking.wandb.read import read_back
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
    """Every done record, equal to the byte; and our reader sees what W&B's own viewer sees."""
    records = _records(make_record)
    assert {outcome.state for outcome in rebuild(records, Destination(folder, "bench", "someone"))} == {"written"}
    found = read_back(str(folder))
    expected = sorted(records[:3], key=lambda record: record.job_id)
    assert [to_json(record) for record in found] == [to_json(record) for record in expected]
    run = next(folder.glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(next(run.glob("*.wandb")))]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    mine = read_run(run)
    assert (mine.run_id, mine.project, mine.entity) == (shown["run_id"], "bench", "someone")
    assert {name: mine.config[name] for name in ("job_id", "method", "seed", content.RECORD)} == {
        name: shown["config"][name] for name in ("job_id", "method", "seed", content.RECORD)
    }


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


def test_run_of_somebody_else_is_said(make_record: RecordMaker, server: WandbServer) -> None:
    """A run without a record names itself; so does one whose record was changed."""
    server.runs.append({"name": "r1", "displayName": "r1", "config": json.dumps({"lr": {"value": 1}})})
    with pytest.raises(UserError, match="run r1 of someone/bench carries no record"):
        read_back("wandb:someone/bench")
    config = content.config_of(make_record())
    with pytest.raises(UserError, match="damaged record: it is not the one that record_sha256"):
        content.unpacked(config | {content.RECORD: content.packed(make_record(seed=1))}, "a run")
    with pytest.raises(UserError, match="damaged record"):
        content.unpacked(config | {content.RECORD: "%%%"}, "a run")


def _log(messages: list[bytes]) -> bytes:
    """A log as LevelDB's document describes it, written independently of the reader."""
    import zlib

    data = bytearray(HEADER)
    for message in messages:
        rest, begun = message, False
        while True:
            room = BLOCK_SIZE - len(data) % BLOCK_SIZE
            if room < PIECE.size:
                data += bytes(room)
                continue
            piece, rest = rest[: room - PIECE.size], rest[room - PIECE.size :]
            kind = (4 if begun else 1) if not rest else (3 if begun else 2)
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            begun = True
            if not rest:
                break
    return bytes(data)


LENGTHS = st.lists(st.one_of(st.integers(0, 50), st.integers(BLOCK_SIZE - 40, 2 * BLOCK_SIZE + 40)), max_size=5)


@given(LENGTHS)
def test_records_of_any_length_come_back(lengths: list[int]) -> None:
    """Also those that end a few bytes before a block does, and those over several blocks."""
    messages = [bytes([index + 1]) * length for index, length in enumerate(lengths)]
    assert list(_messages(_log(messages))) == messages


@given(st.data())
def test_no_damage_passes_unseen(data: st.DataObject) -> None:
    """A flipped bit and a log that is cut within a record are errors, never another content."""
    messages = [b"a" * 100, b"b" * (BLOCK_SIZE + 5), b"c" * 10]
    log = _log(messages)
    place = data.draw(st.integers(0, len(log) - 1))
    flipped = bytearray(log)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(flipped), log[:place]):
        try:
            found = list(_messages(damaged))
        except ValueError:
            continue
        assert found == messages[: len(found)]
        assert damaged != bytes(flipped) or found == messages  # only the filling between blocks may change


def test_run_that_was_killed_is_named(folder: Path, make_record: RecordMaker) -> None:
    """A log that ends within a record is the user's to know about, with its path."""
    list(rebuild([make_record()], Destination(folder, "bench")))
    file = next(folder.glob("offline-run-*/*.wandb"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"\.wandb is damaged: "):
        read_back(str(folder))

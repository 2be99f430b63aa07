"""Reading W&B's offline runs: the `.wandb` file is a log in LevelDB's format whose records are W&B's own messages.

Format: LevelDB's ``doc/log_format.md`` (blocks of 32 KiB, records cut into first, middle and last pieces), with
W&B's header before the first record and CRC-32 for the checksums.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError

HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
BLOCK_SIZE = 32 * 1024
PIECE = struct.Struct("<IHB")
"""Checksum, length and kind of a piece."""

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass(slots=True)
class StoredRun:
    """What an offline run says of itself; a field that it does not set is empty."""

    run_id: str = ""
    project: str = ""
    entity: str = ""
    config: dict[str, object] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=dict)


def read_run(folder: Path) -> StoredRun:
    """The run in an ``offline-run-*`` folder.

    Raises:
        UserError: there is no `.wandb` file in it, or it is damaged or cut short.
    """
    files = sorted(folder.glob("*.wandb"))
    if not files:
        raise UserError(f"{folder} holds no .wandb file")
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    message_class: Any = vars(wandb_internal_pb2)["Record"]  # generated when it is imported, so no type is known

    run = StoredRun()
    try:
        data = files[0].read_bytes()
        for message in _messages(data):
            _apply(run, message_class.FromString(message))
    except OSError as error:
        raise UserError(f"cannot read {files[0]}: {error.strerror or error}") from error
    except (ValueError, DecodeError) as error:
        raise UserError(f"{files[0]} is damaged: {error}") from error
    if not run.run_id:
        raise UserError(f"{files[0]} is cut short: it names no run")
    return run


def _apply(run: StoredRun, message: Any) -> None:
    """Take from one message what it says of the run."""
    kind = message.WhichOneof("record_type")
    if kind == "run":
        started = message.run
        run.run_id, run.project, run.entity = started.run_id, started.project, started.entity
        run.config |= {item.key: json.loads(item.value_json) for item in started.config.update}
    elif kind == "config":
        run.config |= {item.key: json.loads(item.value_json) for item in message.config.update}
    elif kind == "summary":
        run.summary |= {item.key: json.loads(item.value_json) for item in message.summary.update}


def _messages(data: bytes) -> Iterator[bytes]:
    """The whole records of a log.

    Raises:
        ValueError: no such log, a checksum that does not hold, or pieces that do not fit together.
    """
    if not data.startswith(HEADER):
        raise ValueError("it does not begin with W&B's header")
    position = len(HEADER)
    pieces: list[bytes] = []
    while position < len(data):
        room = BLOCK_SIZE - position % BLOCK_SIZE
        if room < PIECE.size:  # too little for a piece: the writer filled it with zeros
            position += room
            continue
        kind, piece, position = _piece(data, position)
        if (kind in (FULL, FIRST)) != (not pieces):
            raise ValueError(f"a record is cut at byte {position}")
        pieces.append(piece)
        if kind in (FULL, LAST):
            yield b"".join(pieces)
            pieces = []
    if pieces:
        raise ValueError("its last record is cut short")


def _piece(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Kind and content of the piece at `position`, and where the next one begins."""
    if position + PIECE.size > len(data):
        raise ValueError("its last record is cut short")
    checksum, length, kind = PIECE.unpack_from(data, position)
    start = position + PIECE.size
    piece = data[start : start + length]
    if kind not in (FULL, FIRST, MIDDLE, LAST) or len(piece) != length:
        raise ValueError(f"a record is cut at byte {position}")
    if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
        raise ValueError(f"the checksum at byte {position} does not hold")
    return kind, piece, start + length

"""File formats, and nothing about their meaning: text, JSON lines, Parquet and Arrow, plain or gzipped, to rows."""

import gzip
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from harness.errors import UserError

TEXT_FIELDS = ("text", "page", "sentence")
Row = dict[str, Any]


def read_text(data: bytes, origin: str) -> str:
    """UTF-8 text with Unix line ends; gzip is unpacked when `origin` ends in ``.gz``."""
    if origin.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise UserError(f"{origin} is not a gzip file ({error})") from error
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{origin} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_rows(data: bytes, origin: str, limit: int | None = None) -> list[Row]:
    """The first `limit` rows (None = all) of a ``.jsonl``/``.json`` (one object a line), ``.parquet`` or ``.arrow``.

    Raises:
        UserError: the name or the content is of none of these formats.
    """
    if origin.removesuffix(".gz").endswith((".jsonl", ".json")):
        return list(islice(_json_lines(data, origin), limit))
    if origin.endswith((".parquet", ".arrow")):
        return _table(data, origin)[:limit]
    raise UserError(f"{origin} is not a table of rows; allowed: .jsonl, .jsonl.gz, .json.gz, .parquet, .arrow")


def has_rows(origin: str) -> bool:
    """Whether `read_rows` reads this file name; other names are plain text."""
    return origin.removesuffix(".gz").endswith((".jsonl", ".json")) or origin.endswith((".parquet", ".arrow"))


def texts_of(rows: list[Row], origin: str) -> list[str]:
    """The text field of every row: the first of `TEXT_FIELDS` that the first row has."""
    field = next((name for name in TEXT_FIELDS if rows and isinstance(rows[0].get(name), str)), None)
    if field is None:
        found = ", ".join(rows[0]) if rows else "no rows"
        raise UserError(f"{origin} has no text field ({found}); allowed: {', '.join(TEXT_FIELDS)}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get(field), str):
            raise UserError(f"{origin} row {number} has no text in field {field!r}")
    return [row[field] for row in rows]


def read_file(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error


def _json_lines(data: bytes, origin: str) -> Iterator[Row]:
    """Objects of a file with one JSON object a line, unpacked as they are read: a C4 shard is 0.8 GB."""
    file = gzip.GzipFile(fileobj=io.BytesIO(data)) if origin.endswith(".gz") else io.BytesIO(data)
    try:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise UserError(f"{origin} line {number} is not a JSON object")
            yield row
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{origin} line {number} is not JSON ({error})") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{origin} is not a gzip file ({error})") from error


def _table(data: bytes, origin: str) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if origin.endswith(".parquet"):
            rows: list[Row] = pa.parquet.read_table(io.BytesIO(data)).to_pylist()
        else:
            rows = pa.ipc.open_stream(data).read_all().to_pylist()
    except pa.ArrowException as error:
        kind = Path(origin).suffix[1:].title()
        raise UserError(f"{origin} is no {kind} file ({str(error).splitlines()[0]})") from error
    return rows

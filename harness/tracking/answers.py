"""Answers per question as compressed Parquet: one file a job, beside its record, extended when tasks are added.

The record lists the file with its digest, so answers and numbers cannot come apart unseen.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from harness.answers import Answer, TaskAnswers
from harness.data.files import read_file
from harness.errors import UserError, first_line
from harness.record import QuestionFile, RunRecord

if TYPE_CHECKING:
    import pyarrow

ZSTD_LEVEL = 9


def with_questions(
    record: RunRecord, answers: Sequence[TaskAnswers], earlier: tuple[RunRecord, Path] | None
) -> tuple[RunRecord, bytes | None]:
    """The record listing the answers to its questions, and the content of their file; None when there are none.

    Args:
        record: as it came from the job, which measured `answers`.
        answers: what was measured now.
        earlier: the record that the job went on from, and its path: its answers are kept for results that are still
            the record's own. Where they cannot be read, a note says so.
    """
    kept: list[TaskAnswers] = []
    if earlier is not None and earlier[0].questions is not None:
        measured = {answer.protocol for answer in answers}
        still = {result.protocol for result in record.results} - measured
        try:
            kept = [answer for answer in read(*earlier) if answer.protocol in still]
        except UserError as error:
            if still:
                record = replace(record, notes=(*record.notes, f"answers of earlier tasks are lost: {error}"))
    together = [*kept, *answers]
    if not together:
        return replace(record, questions=None), None
    data = encode(together)
    rows = sum(len(answer.questions) for answer in together)
    digest = sha256(data).hexdigest()
    # Each content has a name of its own: the file that a record lists is there before the record, and after the next.
    name = f"{record.job_id}.questions.{digest[:8]}.parquet"
    return replace(record, questions=QuestionFile(name, digest, rows)), data


def read(record: RunRecord, path: Path) -> list[TaskAnswers]:
    """The answers that the record at `path` lists.

    Raises:
        UserError: it lists none, or the file is not there, or is not the one that it lists.
    """
    listed = record.questions
    if listed is None:
        raise UserError(f"{record.job_id} kept no answers to single questions; force=true runs it again and keeps them")
    file = path.with_name(listed.name)
    try:
        data = read_file(file)
    except OSError as error:
        raise UserError(f"cannot read the answers {file}: {error.strerror or error}") from error
    if sha256(data).hexdigest() != listed.sha256:
        raise UserError(f"{file} is not the file that its record lists (force=true runs the job again)")
    try:
        return decode(data)
    except (ValueError, TypeError) as error:  # a foreign record may list whatever it likes
        raise UserError(f"{file} holds no answers: {first_line(error)}") from error


def encode(answers: Sequence[TaskAnswers]) -> bytes:
    """Parquet, a row per question, in the given order; equal answers give equal bytes.

    Raises:
        AssertionError: a protocol comes twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    protocols = [answer.protocol for answer in answers]
    assert len(set(protocols)) == len(protocols), f"answers under one protocol twice: {protocols}"
    values = attrgetter(*(field.name for field in fields(Answer)))
    rows = [(each.protocol, each.task, *values(question)) for each in answers for question in each.questions]
    schema = _schema()
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        sink,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=["protocol", "task"],
        # A log-probability of one token is a float32 in a double: taken apart by bytes, half of it is zeros.
        use_byte_stream_split=["margin", "margin_norm", "log_likelihoods.list.element"],
    )
    return bytes(sink.getvalue())


def decode(data: bytes) -> list[TaskAnswers]:
    """What `encode` was given.

    Raises:
        ValueError: it gave no such data.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise ValueError(first_line(error)) from error
    if not table.schema.equals(_schema()):
        raise ValueError(f"answers with the columns {table.schema.names}")
    values = [column.to_pylist() for column in table.columns]
    rows = [
        (protocol, task, Answer(*[*rest, tuple(scores)])) for protocol, task, *rest, scores in zip(*values, strict=True)
    ]
    return [
        TaskAnswers(protocol, task, tuple(question for *_, question in group))
        for (protocol, task), group in groupby(rows, key=lambda row: row[:2])
    ]


def _schema() -> "pyarrow.Schema":
    import pyarrow as pa

    types = {
        "index": pa.int32(),
        "content": pa.string(),
        "gold": pa.int16(),
        "predicted": pa.int16(),
        "predicted_norm": pa.int16(),
        "correct": pa.bool_(),
        "correct_norm": pa.bool_(),
        "margin": pa.float64(),
        "margin_norm": pa.float64(),
        "log_likelihoods": pa.list_(pa.float64()),
    }
    assert list(types) == [field.name for field in fields(Answer)], "a column a field"
    return pa.schema([("protocol", pa.string()), ("task", pa.string()), *types.items()])

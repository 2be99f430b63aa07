"""Answers to questions survive the disk to the last bit, and never part from the record that lists them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.answers import Answer, TaskAnswers
from harness.errors import UserError
from harness.record import EvalResult, RunRecord, from_json, to_json
from harness.tracking.answers import decode, encode, read, with_questions
from harness.tracking.store import RecordStore

scores = st.floats(allow_nan=False, width=64)
maybe = st.none() | scores
place = st.none() | st.integers(0, 2**15 - 1)
TEXT = st.text(st.characters(codec="utf-8"))
outcome = st.builds(
    Answer,
    index=st.integers(0, 2**31 - 1),
    content=TEXT,
    gold=st.integers(0, 2**15 - 1),
    predicted=place,
    predicted_norm=place,
    correct=st.none() | st.booleans(),
    correct_norm=st.none() | st.booleans(),
    margin=maybe,
    margin_norm=maybe,
    log_likelihoods=st.lists(scores, max_size=5).map(tuple),
)


@given(st.lists(st.tuples(TEXT, TEXT, st.lists(outcome, min_size=1)), unique_by=lambda entry: entry[0], max_size=4))
def test_what_is_written_is_read_back(entries: list[tuple[str, str, list[Answer]]]) -> None:
    """Any ids, any strings, any finite or infinite numbers, any number of protocols; equal answers, equal bytes."""
    outcomes = [TaskAnswers(protocol, task, tuple(questions)) for protocol, task, questions in entries]
    data = encode(outcomes)
    assert decode(data) == outcomes
    assert encode(outcomes) == data


def answers(protocol: str, *right: bool) -> TaskAnswers:
    """As many questions as flags."""
    made = [Answer(n, f"q{n}", 0, int(not ok), None, ok, None, 1.5, None, (-1.0, -2.5)) for n, ok in enumerate(right)]
    return TaskAnswers(protocol, protocol.split(":")[1], tuple(made))


PIQA = answers("zero_shot:piqa:v1.0", True, False)
BOOLQ = answers("zero_shot:boolq:v2.0", True, True, False)


@pytest.fixture
def done(make_record: Callable[..., RunRecord]) -> RunRecord:
    """A job that measured two tasks."""
    results = [
        EvalResult(each.protocol, "zero_shot", each.task, "acc", 0.5, None, len(each.questions), True, None, "x", "f")
        for each in (PIQA, BOOLQ)
    ]
    return make_record(results=tuple(results))


def test_a_record_lists_its_answers(done: RunRecord, tmp_path: Path) -> None:
    """Name, digest and count are in the record, and the file lies beside it."""
    store = RecordStore(tmp_path)
    listed, data = with_questions(done, [PIQA, BOOLQ], None)
    path = store.save(listed, data)
    assert listed.questions is not None
    assert listed.questions.rows == 5
    assert path.with_name(listed.questions.name).read_bytes() == data
    found = store.find(done.job_id)
    assert found is not None
    assert read(*found) == [PIQA, BOOLQ]
    assert [record.job_id for record in store.all()] == [done.job_id]  # the file is no record


def test_more_tasks_extend_the_file(done: RunRecord, tmp_path: Path) -> None:
    """Answers of earlier tasks stay, those of a task that was measured again are replaced."""
    store = RecordStore(tmp_path)
    store.save(*with_questions(done, [PIQA], None))
    again = answers(PIQA.protocol, False, False)
    extended, data = with_questions(done, [BOOLQ, again], store.find(done.job_id))
    path = store.save(extended, data)
    found = store.find(done.job_id)
    assert found is not None
    assert read(*found) == [BOOLQ, again]
    assert len(list(path.parent.iterdir())) == 2, "the answers of before are gone"
    third, data = with_questions(done, [], found)
    assert data == encode([BOOLQ, again])
    assert third.questions == extended.questions


def test_answers_of_results_that_are_gone_go_too(done: RunRecord, tmp_path: Path) -> None:
    """When everything was measured again and one task was not asked for, its old answers are dropped."""
    store = RecordStore(tmp_path)
    store.save(*with_questions(done, [PIQA, BOOLQ], None))
    fewer = replace(done, results=done.results[:1])
    listed, data = with_questions(fewer, [PIQA], store.find(done.job_id))
    assert data == encode([PIQA])
    bare, nothing = with_questions(replace(done, results=()), [], None)
    path = store.save(bare, nothing)
    assert list(path.parent.iterdir()) == [path]
    assert listed.questions is not None


def test_a_file_that_is_not_the_listed_one_is_refused(done: RunRecord, tmp_path: Path) -> None:
    """Changed, missing or never kept: a line that says it, and a note when a job goes on from such a record."""
    store = RecordStore(tmp_path)
    path = store.save(*with_questions(done, [PIQA], None))
    found = store.find(done.job_id)
    assert found is not None
    assert found[0].questions is not None
    file = path.with_name(found[0].questions.name)
    file.write_bytes(encode([BOOLQ]))
    with pytest.raises(UserError, match="not the file that its record lists"):
        read(*found)
    extended, data = with_questions(done, [BOOLQ], found)
    assert data == encode([BOOLQ])
    assert "answers of earlier tasks are lost" in extended.notes[-1]
    file.unlink()
    with pytest.raises(UserError, match="cannot read the answers"):
        read(*found)
    with pytest.raises(UserError, match="kept no answers"):
        read(done, path)


def test_old_records_have_no_answers(done: RunRecord) -> None:
    """A record written before answers were kept is read as one without."""
    old = to_json(done).replace(b',\n  "questions": null', b"")
    assert b'"questions"' not in old
    assert from_json(old, "old") == done

"""Canonical rows keep the answer and drop what no task definition reads."""

import gzip
import json

from hypothesis import given
from hypothesis import strategies as st

from harness.data.tasks.base import TASKS, rows_identity


@given(
    options=st.lists(st.text(), min_size=2, max_size=5),
    native=st.sampled_from(["12345", "ABCDE"]),
    data=st.data(),
)
def test_relabelling_keeps_the_position_of_the_answer(options: list[str], native: str, data: st.DataObject) -> None:
    """Whatever the native labels, the options and the position of the right one stay."""
    labels = list(native[: len(options)])
    gold = data.draw(st.integers(0, len(options) - 1))
    row = {"id": "x", "question": "q", "choices": {"text": options, "label": labels}, "answerKey": labels[gold]}
    (canonical,) = TASKS.get("arc_easy").canonical_rows([row], "test")
    assert canonical["choices"]["text"] == options
    assert canonical["choices"]["label"].index(canonical["answerKey"]) == gold
    assert set(canonical) == {"question", "choices", "answerKey"}


def test_request_files_become_rows() -> None:
    """One line an option becomes one row a question; repeated, unconditioned questions are left out."""

    def line(doc_id: int, idx: int) -> str:
        doc = {"query": "P -- p\nQuestion: not this\nQuestion: q\nAnswer: no?\nAnswer:", "choices": ["yes", "no"]}
        return json.dumps({"doc_id": doc_id, "idx": idx, "doc": doc | {"gold": 0}, "request": {}})

    lines = "\n".join(line(doc_id, idx) for doc_id in (1, 0, 1_000_000) for idx in (0, 1))
    rows = TASKS.get("boolq").rows_of(gzip.compress(lines.encode()), "somewhere/requests.jsonl.gz")
    assert rows == [{"question": "q\nAnswer: no", "passage": "P -- p\nQuestion: not this", "label": 1}] * 2


def test_identity_does_not_tell_the_order_of_fields() -> None:
    """Rows that differ in the order of their fields, or in fields that no task reads, are the same rows."""
    one = TASKS.get("piqa").canonical_rows([{"goal": "g", "sol1": "a", "sol2": "b", "label": 0, "idx": 7}], "test")
    two = TASKS.get("piqa").canonical_rows([{"label": 0, "sol2": "b", "sol1": "a", "goal": "g"}], "test")
    assert rows_identity(one) == rows_identity(two)


def test_what_is_asked_is_neither_option_nor_answer() -> None:
    """The text of a question, and its options in the order of the scores."""
    row = {"goal": "Open a `jar`", "sol1": "turn it", "sol2": "eat it", "label": 0}
    assert TASKS.get("piqa").shown(row) == ("Open a `jar`", ("turn it", "eat it"))

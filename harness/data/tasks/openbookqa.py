"""OpenBookQA (Mihaylov et al. 2018): elementary science facts, without the book."""

from harness.data.formats import Row
from harness.data.tasks.base import TASKS, Task, labelled_choices, question_document, relabelled, requests


def from_document(document: Row) -> Row:
    """The question under the name that this data set gives it."""
    row = question_document(document)
    return {"question_stem": row.pop("question"), **row}


OPENBOOKQA = Task(
    about="elementary science facts, 4 options",
    definition="openbookqa",
    version="1.0",
    metrics=("acc", "acc_norm"),
    asked=("question_stem",),
    answers=("choices", "answerKey"),
    options=labelled_choices,
    folder="openbookqa/test.jsonl",
    embedded=requests("openbookqa/test_rc_5shot"),
    hub=("allenai/openbookqa", "main"),
    split="test",
    published="sha256:37666cb4181d75efa2b7730149db404b1e10d63fa3ecc847a009e52e95b10e5f",
    canonical=relabelled,
    from_document=from_document,
)
TASKS.add("openbookqa", OPENBOOKQA)

"""BoolQ (Clark et al. 2019) as SuperGLUE has it: yes/no questions on a passage."""

from harness.data.formats import Row
from harness.data.tasks.base import TASKS, Task, requests


def from_document(document: Row) -> Row:
    """The wheel's options are yes, no; the task's labels are 0 = no, 1 = yes."""
    passage, question = document["query"].removesuffix("?\nAnswer:").rsplit("\nQuestion: ", 1)
    return {"passage": passage, "question": question, "label": 1 - document["gold"]}


BOOLQ = Task(
    about="yes/no questions on a passage",
    definition="super_glue/boolq",
    version="2.0",
    asked=("question", "passage"),
    answers=("label",),
    options=lambda row: ["no", "yes"],
    folder="boolq/validation.jsonl",
    embedded=requests("boolq/rc_0shot"),
    hub=("aps/super_glue", "boolq"),
    split="validation",
    published="sha256:e0995af3f2d8d230055ee31bb3e88b7a505cc229d9b2e115117e2261818edb69",
    from_document=from_document,
)
TASKS.add("boolq", BOOLQ)

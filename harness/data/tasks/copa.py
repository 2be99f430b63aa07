"""COPA (Roemmele et al. 2011) as SuperGLUE has it: cause or effect."""

from harness.data.tasks.base import TASKS, Task, arrow

COPA = Task(
    about="cause or effect, 2 options, 100 questions",
    definition="super_glue/copa",
    version="1.0",
    asked=("premise", "question"),
    answers=("choice1", "choice2", "label"),
    options=lambda row: [row["choice1"], row["choice2"]],
    folder="copa/validation.jsonl",
    embedded=arrow("super_glue/copa"),
    hub=("aps/super_glue", "copa"),
    split="validation",
    published="sha256:a17b23a44f2e2265d0b313758145bca8798346e1f05ef96f27074440142632a8",
)
TASKS.add("copa", COPA)

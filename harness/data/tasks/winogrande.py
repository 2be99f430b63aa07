"""WinoGrande XL (Sakaguchi et al. 2020): whom a pronoun means."""

from harness.data.tasks.base import TASKS, Task, arrow

WINOGRANDE = Task(
    about="whom a pronoun means, 2 options",
    definition="winogrande",
    version="1.0",
    asked=("sentence",),
    answers=("option1", "option2", "answer"),
    options=lambda row: [row["option1"], row["option2"]],
    folder="winogrande/validation.jsonl",
    embedded=arrow("winogrande/winogrande_xl"),
    hub=("allenai/winogrande", "winogrande_xl"),
    split="validation",
    published="sha256:a3baf19bfecbd6a5c0f55f539642fb4b12cee8a5f89420dc3403d315e96a52b6",
)
TASKS.add("winogrande", WINOGRANDE)

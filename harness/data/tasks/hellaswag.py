"""HellaSwag (Zellers et al. 2019): which ending follows."""

from harness.data.tasks.base import TASKS, Task, arrow

HELLASWAG = Task(
    about="which ending follows, 4 options",
    definition="hellaswag",
    version="1.0",
    metrics=("acc", "acc_norm"),
    asked=("activity_label", "ctx_a", "ctx_b"),
    answers=("endings", "label"),
    options=lambda row: list(row["endings"]),
    folder="hellaswag/validation.jsonl.gz",
    embedded=arrow("hellaswag/none"),
    hub=("Rowan/hellaswag", None),
    split="validation",
    published="sha256:970e4e23ea05952f0d4d1e8787afb918e3babd6d9ad3e661094c61c11d7fb6b8",
)
TASKS.add("hellaswag", HELLASWAG)

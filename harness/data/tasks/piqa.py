"""PIQA (Bisk et al. 2020): physical common sense."""

from harness.data.tasks.base import TASKS, Task, arrow

PIQA = Task(
    about="physical common sense, 2 options",
    definition="piqa",
    version="1.0",
    metrics=("acc", "acc_norm"),
    asked=("goal",),
    answers=("sol1", "sol2", "label"),
    options=lambda row: [row["sol1"], row["sol2"]],
    folder="piqa/validation.jsonl",
    embedded=arrow("piqa/plain_text"),
    hub=("baber/piqa", None),
    split="validation",
    published="sha256:1fa4c915841902d3edeef521b12dd22ed10e2040ebbc446f6fce319a79d0a273",
)
TASKS.add("piqa", PIQA)

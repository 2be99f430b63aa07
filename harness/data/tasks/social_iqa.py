"""Social IQa (Sap et al. 2019): social situations."""

from harness.data.tasks.base import TASKS, Task, arrow

SOCIAL_IQA = Task(
    about="social situations, 3 options",
    definition="siqa",
    version="0.0",
    asked=("context", "question"),
    answers=("answerA", "answerB", "answerC", "label"),
    options=lambda row: [row["answerA"], row["answerB"], row["answerC"]],
    folder="social_i_qa/validation.jsonl",
    embedded=arrow("social_i_qa/none"),
    hub=("lighteval/siqa", None),
    split="validation",
    published="sha256:6af8000be254dcd82b7065c29724aa34dc09a66fe0fd6834b86e205a6fa77920",
)
TASKS.add("social_iqa", SOCIAL_IQA)

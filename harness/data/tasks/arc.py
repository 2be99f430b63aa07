"""ARC (Clark et al. 2018): questions of grade-school science exams, in an easy and a hard part."""

from harness.data.questions import relabelled
from harness.data.tasks.base import TASKS, Task, labelled_choices, question_document, requests

PUBLISHED = {
    "arc_easy": "sha256:be27c8cd45bbbe2f6f0b9bdcae21131ffbc3ebb5b67c7d8068df3d758701b7da",
    "arc_challenge": "sha256:d7a2a5c5ca0481c1087b50373688f3c403c467833bbbbcd0364f62ee39148a04",
}

for name, part, configuration in (("arc_easy", "easy", "ARC-Easy"), ("arc_challenge", "hard", "ARC-Challenge")):
    TASKS.add(
        name,
        Task(
            about=f"grade-school science, {part} part",
            definition="arc",
            version="1.0",
            metrics=("acc", "acc_norm"),
            asked=("question",),
            answers=("choices", "answerKey"),
            options=labelled_choices,
            folder=f"{name}/test.jsonl",
            embedded=requests(f"{name}/test_rc_5shot", PUBLISHED[name]),
            hub=("allenai/ai2_arc", configuration),
            split="test",
            published=PUBLISHED[name],
            canonical=relabelled,
            from_document=question_document,
        ),
    )

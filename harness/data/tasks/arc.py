"""ARC (Clark et al. 2018): questions of grade-school science exams, in an easy and a hard part."""

from harness.data.tasks.base import TASKS, Task, labelled_choices, question_document, relabelled, requests

for part, about, published in (
    ("Easy", "easy part", "sha256:be27c8cd45bbbe2f6f0b9bdcae21131ffbc3ebb5b67c7d8068df3d758701b7da"),
    ("Challenge", "hard part", "sha256:d7a2a5c5ca0481c1087b50373688f3c403c467833bbbbcd0364f62ee39148a04"),
):
    name = f"arc_{part.lower()}"
    TASKS.add(
        name,
        Task(
            about=f"grade-school science, {about}",
            definition="arc",
            version="1.0",
            metrics=("acc", "acc_norm"),
            asked=("question",),
            answers=("choices", "answerKey"),
            options=labelled_choices,
            folder=f"{name}/test.jsonl",
            embedded=requests(f"{name}/test_rc_5shot"),
            hub=("allenai/ai2_arc", f"ARC-{part}"),
            split="test",
            published=published,
            canonical=relabelled,
            from_document=question_document,
        ),
    )

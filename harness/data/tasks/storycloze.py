"""StoryCloze (Mostafazadeh et al. 2016): which sentence ends a story.

Its authors give it to those who ask, so it is a file of the user's.
"""

from harness.data.tasks.base import TASKS, Task

SENTENCES = tuple(f"input_sentence_{number}" for number in (1, 2, 3, 4))
STORYCLOZE = Task(
    about="which sentence ends a story, 2 options; a file of your own",
    definition="storycloze",
    version="1.0",
    asked=SENTENCES,
    answers=("sentence_quiz1", "sentence_quiz2", "answer_right_ending"),
    options=lambda row: [row["sentence_quiz1"], row["sentence_quiz2"]],
    folder="storycloze_2016/test.jsonl",
    split="test",
)
TASKS.add("storycloze_2016", STORYCLOZE)

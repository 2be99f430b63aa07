"""CommonsenseQA (Talmor et al. 2019): common sense; lm-eval scores the letters of the options."""

from harness.data.tasks.base import TASKS, Task, arrow, labelled_choices, relabelled

COMMONSENSE_QA = Task(
    about="common sense, 5 options",
    definition="commonsense_qa",
    version="Yaml",
    asked=("question",),
    answers=("choices", "answerKey"),
    options=labelled_choices,
    folder="commonsense_qa/validation.jsonl",
    embedded=arrow("tau/commonsense_qa/none"),
    hub=("tau/commonsense_qa", None),
    split="validation",
    published="sha256:683b82871027a4d44e4756f80c90da334314c6189b9a7075308d958e170d1e43",
    canonical=relabelled,
)
TASKS.add("commonsense_qa", COMMONSENSE_QA)
